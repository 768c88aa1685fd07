"""A run that trains a tokenizer, whatever the samples are: decode, split, build, begin with other weights, train, save.

What differs between kinds of data is a subclass of `TokenizerRun`; the work is that of `data`, `task` and `trainers.loop`.
Only the standard library is imported at the top, so that a command line can show the options of `train` at once.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from tokenize_kit.errors import MissingWeightsError
from trainers.autoencoder.config import ModelConfig
from trainers.autoencoder.options import RunOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Tokenizer
    from tokenize_kit.sources.heldout import KeyList
    from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer
    from trainers.autoencoder.config import Recipe
    from trainers.autoencoder.data import Ints, NumberedBatches, Samples
    from trainers.autoencoder.task import Plan, QuantizedTask
    from trainers.loop import LoopResult
    from trainers.runtime import Runtime

DATA = "data"
"""Where the decoded samples are inside the folder of a run."""
HELD_OUT = "validation_data"
"""The same of ``validation_data``."""
LOOP_NAMES = (
    *("steps", "accumulate", "clip", "seed", "validate_every", "devices", "precision", "ema", "deterministic"),
)
"""The options of the loop that determine the result."""

O = TypeVar("O", bound=RunOptions)  # noqa: E741
C = TypeVar("C", bound=ModelConfig)
S = TypeVar("S", bound="Samples")
B = TypeVar("B", bound="NumberedBatches")
T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """How a run ended."""

    out: str
    """The tokenizer's folder."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    parameters: int
    """Trainable parameters of encoder, quantizer and decoder."""
    vocab_size: list[int]
    """Codes of each codebook."""
    samples: int
    """Samples that were trained on."""
    held_out: int
    """Samples that were held out and measured."""
    epochs: float
    """How often all of the data was seen."""
    loop: LoopResult
    """How the loop ended."""

    def told(self) -> dict[str, Any]:
        """Return what every command tells of its run, by name; how many samples there were each calls by its own name."""
        return {
            "out": self.out,
            "fingerprint": self.fingerprint,
            "parameters": self.parameters,
            "vocab_size": self.vocab_size,
            "steps": self.loop.step,
            "epochs": self.epochs,
            "resumed_from": self.loop.resumed_from,
            "best_step": self.loop.best_step,
            "metrics": self.loop.best_metrics,
        }


class TokenizerRun(ABC, Generic[O, C, S, B]):
    """One run of ``train NAME`` on one kind of data.

    Args:
        options: of the command.
        progress: shows the position; None shows nothing.

    Raises:
        FileNotFoundError: there is no such list of keys.
        ValueError: the options do not fit together.
    """

    command: ClassVar[str]
    """Such as ``train image``; a folder belongs to a run of one command."""
    parts: ClassVar[tuple[str, str, str]]
    """Configuration, network and tokenizer as ``module:attribute``, by which a run that is not finished is opened."""
    samples: ClassVar[str]
    """What the samples are called in messages, such as ``pictures``."""
    names: ClassVar[tuple[str, ...]]
    """The options that determine the result, besides those of the loop and the recipe, in the order in which they are kept."""
    later: ClassVar[tuple[str, ...]] = ()
    """The same of options that came later: kept only where they are given, so that runs from before can be continued."""
    rooms: ClassVar[tuple[str, ...]] = (DATA, HELD_OUT)
    """The folders of decoded samples inside that of the run."""

    def __init__(self, options: O, progress: Progress | None) -> None:
        self.options, self.progress = options, progress
        self.recipe = self.chosen()
        self.listed: KeyList | None = None
        if options.validation_keys is not None:
            from tokenize_kit.sources.heldout import read_keys

            self.listed = read_keys(options.validation_keys)
        self.out = Path(options.out)
        self.fresh = False
        """Whether the run begins with this command, as the first process knows."""

    @property
    @abstractmethod
    def most(self) -> int:
        """The most held-out samples that a validation takes."""

    @property
    @abstractmethod
    def shared(self) -> str | None:
        """Folder for the decoded samples, if it is not that of the run."""

    @property
    @abstractmethod
    def burden(self) -> str:
        """What memory is needed for, in the user's words, and what to lower."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of a batch that is trained on, (B, C, ...); None as long as only the data know it, which `opened` looks at."""
        return None

    @abstractmethod
    def chosen(self) -> Recipe[C, Any]:
        """Return the preset with what the options change.

        Raises:
            ValueError: the options do not fit together.
        """

    @abstractmethod
    def decode(self, data: tuple[str, ...], folder: Path) -> None:
        """Decode samples into a shard set in ``folder``; on the first process only."""

    @abstractmethod
    def opened(self, folder: Path, data: tuple[str, ...]) -> S:
        """Return what `decode` made.

        Raises:
            ValueError: the samples do not fit the network.
        """

    @abstractmethod
    def held_out(self, source: S, numbers: Sequence[int]) -> Sequence[Tensor]:
        """Return samples to measure on, as they are stored."""

    @abstractmethod
    def batches(self, source: S, chosen: Ints, runtime: Runtime) -> B:
        """Return the training batches of this process."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Return a fresh model, drawn from torch's generator."""

    @abstractmethod
    def begin_with(self, model: Any, folder: str) -> None:
        """Give a model the weights of a tokenizer folder.

        Raises:
            ValueError: that tokenizer has another configuration.
        """

    @abstractmethod
    def task(self, model: Any, data: B, held_out: Sequence[Tensor], plan: Plan) -> QuantizedTask[Any]:
        """Return what the loop trains, drawn from torch's generator."""

    @abstractmethod
    def tokenizer(self, model: Any) -> Tokenizer:
        """Return the tokenizer of a trained model."""

    @abstractmethod
    def note(self, sizes: Sequence[int], data: B) -> str:
        """Return what is said of the tokenizer and the data at the start.

        Args:
            sizes: codes of each codebook.
            data: what is trained on.
        """

    def run(self) -> Trained:
        """Train, or continue the run that is in the folder, and save the tokenizer there.

        Raises:
            FileNotFoundError: there are no samples.
            ValueError: the samples do not fit, or not the run in the folder; or training broke down.
            MemoryError: there is too little memory.
            TooManyFailuresError: more than ``max_failures`` samples cannot be read.
        """
        from tokenize_kit.claims import owned
        from trainers.memory import says_when_full
        from trainers.runtime import start

        runtime = start(self.options)
        with owned(self.out) if runtime.rank == 0 else nullcontext(False) as alone, says_when_full(self.burden):
            return self._run(runtime, alone)

    def _run(self, runtime: Runtime, alone: bool) -> Trained:
        task = self._claimed(runtime, alone, lambda: self.build(runtime))
        model: Any = task.networks["autoencoder"]
        data: Any = task.data
        quantizer: Quantizer = model.quantizer
        sizes = list(quantizer.codebook_sizes)
        parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if self.progress is not None and runtime.rank == 0:
            self.progress.note(
                f"{parameters:,} parameters, {self.note(sizes, data)}, {len(task.held_out):,} held out, "
                f"{runtime.device.type} {runtime.precision}"
            )
        result, tokenizer = self._trained(task, model, runtime)
        return Trained(
            str(self.out),
            tokenizer.fingerprint,
            parameters,
            sizes,
            len(data.chosen),
            len(task.held_out),
            data.epoch(result.step * self.options.accumulate),
            result,
        )

    def build(self, runtime: Runtime) -> QuantizedTask[Any]:
        """Decode the samples, build the networks, and put them together."""
        import torch

        from trainers.autoencoder.data import split, spread
        from trainers.autoencoder.task import Plan

        options = self.options
        told = self._check_memory(runtime)
        samples = source = self._decoded(options.data, DATA, runtime)
        if not told:
            self._check_memory(runtime)
        elsewhere = bool(options.validation_data)
        listed = None
        if self.listed is not None:
            listed = self.listed.listed(samples.keys)
            if (said := self.listed.unmatched(samples.keys)) and self.progress is not None and runtime.rank == 0:
                self.progress.note(said)
        trained_on, measured = split(
            samples.fractions, options.validation_fraction, elsewhere, self.most, self.samples, listed
        )
        if elsewhere:
            source = self._decoded(options.validation_data, HELD_OUT, runtime)
            measured = spread(range(len(source)), self.most)
        held_out = self.held_out(source, measured)
        data = self.batches(samples, trained_on, runtime)
        with torch.random.fork_rng([]):
            torch.manual_seed(options.seed)
            model = self.model()
            if options.init_from is not None:
                self.begin_with(model, options.init_from)
            plan = Plan(options.steps, self.out, options.usage_floor, options.on_collapse == "stop")
            return self.task(model, data, held_out, plan)

    def _check_memory(self, runtime: Runtime) -> bool:
        """Refuse a run that certainly has too little memory; return whether it could be told.

        Raises:
            MemoryError: it needs more than there is; the message has the numbers.
        """
        from trainers.autoencoder.memory import least_memory
        from trainers.memory import refuse_what_cannot_fit

        if self.shape is None:
            return False
        # AdamW keeps two averages a weight, Muon one of most.
        averages = (1 if self.recipe.optimizer.optimizer == "muon" else 2) + (self.options.ema is not None)
        mixed = runtime.precision == "bf16-mixed"
        least = least_memory(self.model, self.shape, averages, mixed)
        if least is not None:
            refuse_what_cannot_fit(least, runtime.device.type, self.burden)
        return True

    def _decoded(self, data: tuple[str, ...], name: str, runtime: Runtime) -> S:
        return self.opened(self.room(name, runtime, lambda folder: self.decode(data, folder)), data)

    def room(self, name: str, runtime: Runtime, decode: Callable[[Path], None]) -> Path:
        """Return a folder of decoded samples, one of `rooms`, which ``decode`` fills on the first process.

        Raises:
            OtherRunError: it holds the samples of something else.
        """
        import shutil

        from tokenize_kit.shards.plan import OtherRunError

        folder = Path(self.shared or self.options.out) / name
        if runtime.rank == 0:
            try:
                decode(folder)
            except OtherRunError:
                # Of a run that made no step, and whose folder is this one's now.
                if not self.fresh or self.shared:
                    raise
                shutil.rmtree(folder)
                decode(folder)
        runtime.fabric.barrier()
        return folder

    def identity(self) -> dict[str, Any]:
        """Return what determines the result, by names that the user knows; the data prove themselves by their plan."""
        values, recipe = asdict(self.options), self.recipe
        chosen = {name: values[name] for name in (*self.names, *LOOP_NAMES)}
        # Only where they say something, so that runs from before there were these options are what they were.
        chosen |= {name: values[name] for name in self.later if values[name]}
        if self.listed is not None:
            chosen["validation_keys"] = self.listed.digest
        if self.options.keep is not None:
            chosen["keep"] = self.options.keep
        parts: Mapping[str, Any] = {
            **recipe.model.to_dict(),
            "loss": asdict(recipe.loss),
            "optimizer": asdict(recipe.optimizer),
        }
        # As JSON gives it back: lists instead of tuples.
        return dict(json.loads(json.dumps({"command": self.command, **chosen, **parts})))

    def _claimed(self, runtime: Runtime, alone: bool, build: Callable[[], T]) -> T:
        """Claim the folder for this run and return what ``build`` makes there.

        If a fresh run cannot be built, its folder is given up again: nothing has been trained, and the corrected command shall
        not be refused for the options of this one.

        Raises:
            ValueError: the folder holds another run, or whatever ``build`` raises.
        """
        import shutil

        from trainers.checkpoints import RUN_FILE, claim_folder

        if runtime.rank == 0:
            # Before anything is read: a folder of another run must not be filled with data.
            self.fresh = claim_folder(self.out, self.identity(), alone=alone)
        runtime.fabric.barrier()
        try:
            return build()
        except (ValueError, FileNotFoundError, MissingWeightsError):
            if self.fresh and runtime.rank == 0:
                for name in self.rooms:
                    shutil.rmtree(self.out / name, ignore_errors=True)
                (self.out / RUN_FILE).unlink(missing_ok=True)
            raise

    def _trained(self, task: QuantizedTask[Any], model: nn.Module, runtime: Runtime) -> tuple[LoopResult, Tokenizer]:
        """Train, put the best weights into ``model``, and save its tokenizer."""
        from tokenize_kit.weights import load_tensors, read_tensors
        from trainers.autoencoder.task import BEST_FILE
        from trainers.loop import run

        result = run(task, self.options, runtime, self.out, self.progress)
        load_tensors(model.state_dict(), read_tensors(self.out / BEST_FILE), self.out / BEST_FILE)
        model.to("cpu")
        tokenizer = self.tokenizer(model)
        if runtime.rank == 0:
            tokenizer.save(self.out)
        runtime.fabric.barrier()
        return result, tokenizer
