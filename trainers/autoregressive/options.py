"""Options of ``train sequence`` and ``generate``, as plain data that a command line can read without loading torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from typing_extensions import Doc

from tokenize_kit.errors import UsageError
from tokenize_kit.protocol.registry import MODELS
from tokenize_kit.shards.options import ShardReading
from trainers.autoregressive.models import configuration_of
from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.config import LoopConfig, OptimizerConfig
from trainers.overrides import Overrides
from trainers.settings import OPTION, listing, read_settings

# A dataclass takes the fields of its last base first: what a user must say comes before how long and on what it runs.


TRANSFORMER = "transformer"
"""The family that has presets, styles and forms."""
DEFAULT_PRESET, DEFAULT_STYLE = "small", "llama"
"""Of the transformer; other families have the context of this preset."""

_OF_EVERY_MODEL = {"vocab_size": "follows from the data", "context": "is --context"}
"""Fields of a configuration that other options or the data decide."""

_OF_THE_TRANSFORMER = {
    **_OF_EVERY_MODEL,
    "form": "is --form",
    "codebook_slots": "follows from the data",
    "told_next": "follows from the template",
    "ordinal": "follows from the data",
}


class TransformerOverrides(Overrides, of=TransformerConfig, without=tuple(_OF_THE_TRANSFORMER)):
    """Parts of the Transformer; see `trainers.autoregressive.models.config.TransformerConfig`. None keeps the preset's value."""


def _said_of_families() -> str:
    return f"The registered model family to train: {', '.join(MODELS.names())}."


@dataclass(frozen=True, kw_only=True)
class SequenceOptions:
    """Which data a sequence model sees, and which model it is."""

    shards: tuple[str, ...]
    """Folders or URLs of shard sets. With several templates they need not have the same streams: a template is served by those
    that have all of its own."""
    template: tuple[str, ...]
    """Streams of a sequence, such as "text" or "text -> image"; what is left of the arrow is the condition. A stream of
    pictures may have an order of its places, "image:spiral" (column, serpentine, spiral, spiral-out, hilbert, coarse, random),
    and one with codebooks a layout, "audio:delay" or "audio:coarse-first". A stream that comes several times is of samples that
    follow each other. What samples may lack has a question mark, "text? -> image". Several templates make one model for all of
    them: "text -> image" "image -> text" "text"."""
    condition_dropout: float = 0.0
    """How probable it is that a document is trained on without its condition, so that generate can strengthen it (--guidance) and
    draw without one; 0.1 is usual. Of several conditions each is also dropped by itself, as often."""
    out: str
    """The model folder."""
    template_weights: tuple[float, ...] = ()
    """Of several templates the share of the rows of each, in their order, such as 2 1 1. By default that of its rows an epoch,
    so that all rows come equally often."""
    mix: tuple[float, ...] = ()
    """Of several shard sets the share of the rows of each, in the order of --shards, within the templates that it serves. By
    default those of a template are one pool."""
    loss_weights: tuple[str, ...] = ()
    """STREAM=W, such as image=0.5: how much the tokens of a stream count in the training loss; 1 for the others. Validation
    counts all alike."""
    family: Annotated[str, Doc(_said_of_families())] = field()
    set: tuple[str, ...] = ()
    """NAME=VALUE: fields of the family's configuration that shall differ from its defaults, such as layers=4 width=256. The help
    lists them: --family NAME --help."""
    family_config: str | None = None
    """A JSON file with the family's configuration, which --set may change; vocab_size and context are filled in. Not for the
    transformer."""
    preset: Literal["tiny", "small", "base"] | None = None
    """Size of the Transformer: 4, 8 or 12 layers, 64 channels wide for each. None means small."""
    style: Literal["llama", "gpt2", "sinusoidal"] | None = None
    """Kind of the Transformer: modern, GPT-2, or that of the original paper. None means llama."""
    model: TransformerOverrides = field(default_factory=TransformerOverrides)
    """Parts of the Transformer that shall differ from the preset."""
    form: str | None = None
    """What a token of the Transformer sees: those before it (causal), and of a condition all of it from everywhere in it
    (prefix), or the condition through an encoder of its own (encoder-decoder). None means causal, or everything where the
    objective wants it."""
    objective: str = "next-token"
    """What is predicted: the next token, or hidden tokens among all others: a few for representations (masked, as BERT), any part
    of a document with a loss that bounds its likelihood (any-order), or mostly much of it for parallel decoding (maskgit)."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser, learning rate and its schedule."""
    z_loss: float = 0.0
    """Factor of the squared log-partition in the loss; 1e-5 keeps logits from drifting in long runs."""
    batch_size: int = 8
    """Rows of a batch on each device."""
    context: int | None = None
    """Tokens of a row. None means 256, 512 or 1024 by preset for text alone, 512 for other families than the transformer, and
    the longest document for everything else; of sound alone that has codebooks at most as many time steps, and longer ones are
    cut into pieces."""
    validation_fraction: float = 0.05
    """Part of the samples, chosen by the hash of their keys, that is never trained on."""
    validation_keys: str | None = None
    """Instead: a file with the keys of the samples to hold out, one a line, or a jsonl of objects with a "key"."""
    validation_tokens: int = 65536
    """About how many of the held-out tokens a validation reads, of each template."""
    tokenizer: tuple[str, ...] = ()
    """Tokenizer folders that made the shards, where the shard sets do not carry them."""
    compile: bool = False
    """Compile the blocks and the loss: a tenth to a seventh faster on a CPU in bfloat16, for ten seconds or more at the start
    and a C++ compiler."""
    init_from: str | None = None
    """A model folder whose weights to begin with. Its streams and template may be others: matrices of one name and shape, special
    tokens of one name and the ids of the same tokenizers are taken over, which is told."""


@dataclass(frozen=True, kw_only=True)
class TrainSequenceOptions(LoopConfig, ShardReading, SequenceOptions):
    """Train a model of any registered family on token shards. The same command continues a run that was stopped."""

    summary: ClassVar[str] = "train a sequence model of any family on token shards"
    examples: ClassVar[tuple[str, ...]] = (
        "train sequence --family wavenet --shards shards/sounds --template audio --context 2048 --out models/wavenet",
        "train sequence --family recurrent --set cell=gru layers=3 --shards shards/text --template text --out models/gru",
        "train sequence --family wavenet --set coordinates=true --shards shards/emoji --template image --out models/emoji",
        "train sequence --family transformer --preset tiny --shards shards/text --template text --out models/text",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.template
        if isinstance(given, str):
            object.__setattr__(self, "template", (given,))
        for option, weights, of, count in (
            ("--template-weights", self.template_weights, "templates", len(self.template)),
            ("--mix", self.mix, "shard sets", len(self.shards)),
        ):
            shown = " ".join(f"{weight:g}" for weight in weights)
            if weights and len(weights) != count:
                raise ValueError(
                    f"{option} {shown} has {len(weights)} weights for {count} {of}; give one for each, in order"
                )
            if not all(0 < weight < float("inf") for weight in weights):
                raise ValueError(
                    f"{option} {shown}: a weight must be a number above 0; leave out what shall not be read"
                )
        for name in ("batch_size", "validation_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if self.context is not None and self.context < 4:
            raise ValueError(f"--context {self.context} must be at least 4")
        if self.z_loss < 0:
            raise ValueError(f"--z-loss {self.z_loss} must not be negative")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"--condition-dropout {self.condition_dropout} must be at least 0 and below 1")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"--validation-fraction {self.validation_fraction} must be at least 0 and below 1")
        self._check_family()

    def _check_family(self) -> None:
        if self.family not in MODELS:
            MODELS.get(self.family)
        if self.family == TRANSFORMER:
            if self.family_config is not None:
                raise ValueError(
                    f"--family-config is for other families; change the transformer with {OPTION} or --model"
                )
            return
        model = next(iter(self.model.given()), None)
        given = {"--preset": self.preset, "--style": self.style, "--form": self.form}
        given[f"--model.{model}".replace("_", "-")] = None if model is None else getattr(self.model, model)
        for option, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{option} {value} is of the transformer; change {self.family!r} with {OPTION} NAME=VALUE ('tokenize-kit "
                    f"train sequence --family {self.family} --help' lists the names)"
                )

    def settings(self) -> dict[str, Any]:
        """Return what ``--set`` and ``--model`` say of the family's configuration, by field; this loads the family's module.

        Raises:
            ValueError: there is no such field, a value is not of its type, or both options give it.
        """
        changes = self.model.given()
        if not self.set:
            return changes
        kind = configuration_of(self.family)
        if kind is None:
            raise ValueError(
                f"{OPTION} {self.set[0]}: the family {self.family!r} does not say which fields its configuration has; use "
                "--family-config FILE"
            )
        found = read_settings(kind, self.set, f"the family {self.family!r}", _elsewhere(self.family))
        if both := next((name for name in found if name in changes), None):
            raise ValueError(
                f"{OPTION} {both} and --model.{both.replace('_', '-')} are both given; leave one of them out"
            )
        return {**changes, **found}

    @staticmethod
    def more_help(typed: Sequence[str]) -> str:
        """Return what the help says after the options: which fields the family has that is named on the command line.

        Raises:
            ValueError: there is no such family.
        """
        family = _family_typed(typed)
        if family is None:
            return "'tokenize-kit train sequence --family NAME --help' lists what --set can change of a family"
        kind = configuration_of(family)
        if kind is None:
            return f"the family {family!r} does not say which fields its configuration has; see where it comes from"
        document = " ".join((kind.__doc__ or "").split())
        width = shutil.get_terminal_size().columns
        return f"{OPTION} NAME=VALUE, of the family {family}: {document}\n\n{listing(kind, _elsewhere(family), width)}"


@dataclass(frozen=True, kw_only=True)
class TrainTransformerOptions(TrainSequenceOptions):
    """Train a causal model on token shards. The same command continues a run that was stopped.

    It is the short way to ``train sequence --family transformer``.
    """

    summary: ClassVar[str] = "train a causal Transformer on token shards"
    examples: ClassVar[tuple[str, ...]] = (
        "train transformer --shards shards/text --template text --out models/text --steps 2000",
        "train transformer --shards shards/emoji --template 'text -> image' --preset small --out models/emoji",
        "train transformer --shards shards/sounds --template audio:delay --context 2048 --out models/sounds",
        "train transformer --shards shards/emoji shards/text --template 'text -> image' 'image -> text' text --out models/all",
        "train transformer --config run.yaml --steps 500",
    )

    family: str = TRANSFORMER
    """The registered model family to train; 'train sequence' is for all of them."""

    @staticmethod
    def more_help(typed: Sequence[str]) -> str:
        """Return nothing for the Transformer, whose fields are options."""
        return TrainSequenceOptions.more_help(typed) if _family_typed(typed) not in (None, TRANSFORMER) else ""


def _elsewhere(family: str) -> dict[str, str]:
    if family == TRANSFORMER:
        return _OF_THE_TRANSFORMER
    return _OF_EVERY_MODEL | dict(getattr(configuration_of(family), "of_the_data", {}))


def _family_typed(typed: Sequence[str]) -> str | None:
    """Return the family that a command line names."""
    for place, word in enumerate(typed):
        if word.startswith("--family="):
            return word.partition("=")[2]
        if word == "--family" and place + 1 < len(typed) and not typed[place + 1].startswith("-"):
            return typed[place + 1]
    return None


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """From which model how many samples are drawn, and how they begin."""

    model: str
    """The model folder, which carries its tokenizers, that of a training that goes on, or a checkpoint in it."""
    out: str | None = None
    """Folder for the samples and samples.jsonl, empty or new; the same command can go on in it. --stream does
    without."""
    overwrite: bool = False
    """Replace samples of another command that are in the folder."""
    template: str | None = None
    """Of a model with several templates the one to follow, such as "image -> text"; by default the first."""
    count: int = 1
    """Number of samples, of each prompt."""
    prompt: str | None = None
    """Text of the first stream: the whole condition of a template with an arrow, or the start of a text to continue."""
    prompt_file: tuple[str, ...] = ()
    """Files for the first streams of the template, in their order, instead of a prompt."""
    prompt_frames: int | None = None
    """Films: continue from the first N frames of a prompt file. By default from all of it, or if nothing is left then, from 1."""
    complete: str | None = None
    """A file of the first part that is predicted, of which only the beginning is kept and the rest is drawn: the upper half of a
    picture, the first half of a sound or film."""
    complete_part: float = 0.5
    """How much of it is kept, above 0 and below 1."""
    prompts: str | None = None
    """A file of many prompts instead: a line each, or a jsonl of texts or of objects with "prompt", "prompt_file" or the names of
    streams."""
    allow_special: tuple[str, ...] | None = None
    """Special tokens that become their ids where they stand in a prompt: all, none, or each by its name. By default those of
    the data that the model was trained on."""
    show_special: bool = True
    """Whether special tokens in a generated text are written as they are spelt; otherwise they are left out."""
    max_length: int | None = None
    """The most tokens of a sequence, prompt included; None means the model's context."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to sample; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed", "float32", "bfloat16"] = "32-true"
    """bf16-mixed computes in bfloat16 and holds the weights in it too while sampling: faster where the device computes in it
    natively, but it rounds the logits, so the samples are others than with 32-true. bfloat16 and float32 mean the same."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingOptions, PromptOptions):
    """Sample from a trained model folder; whatever is sampled decodes to whole samples."""

    stream: bool = False
    """Write one sample to stdout while it is drawn: a text as UTF-8, a sound as wav (| aplay), a film as Matroska (| mpv -). What
    is given of it comes first; all else goes to stderr."""

    @property
    def stdout_taken_by(self) -> str | None:
        """The option by which the sample itself goes to stdout, so that nothing else may."""
        return "--stream" if self.stream else None

    def interrupted(self) -> str:
        """Return what is true when the command was interrupted."""
        if self.out is None:
            return "the sample ends where it was; the same command draws it again, the same one"
        return (
            f"samples.jsonl in {self.out} is not written yet; the same command draws all samples again, the same ones"
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise ValueError(f"--count {self.count} must be at least 1")
        if self.out is None and not self.stream:
            raise UsageError("--out FOLDER says where the samples go; give it, or --stream to have one on stdout")
        if self.stream and self.count > 1:
            raise UsageError(
                f"--stream writes one sample, and --count {self.count} asks for more; leave one of them out"
            )
        if self.prompt is not None and (wrong := next((c for c in self.prompt if "\ud800" <= c <= "\udfff"), None)):
            raise ValueError(f"--prompt is not UTF-8: it has {wrong!r} at character {self.prompt.index(wrong)}")
        if not 0 < self.complete_part < 1:
            raise ValueError(f"--complete-part {self.complete_part} must be above 0 and below 1")
        if self.complete_part != 0.5 and self.complete is None:
            raise ValueError(f"--complete-part {self.complete_part} is of --complete FILE, which is not given")
        given = {
            "--prompt": self.prompt is not None,
            "--prompt-file": self.prompt_file,
            "--prompts": self.prompts is not None,
        }
        if len(both := [name for name, is_given in given.items() if is_given]) > 1:
            raise ValueError(f"{both[0]} and {both[1]} both say how a sequence begins; give one of them")
