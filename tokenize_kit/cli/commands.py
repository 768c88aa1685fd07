"""The table of commands: the words a user types, the function they call, and the examples in its help.

Functions are named by a string and imported when they are called for, so that ``tokenize-kit --help`` loads none of them.
The ``train`` verbs come from the entry point group ``tokenize_kit.trainers``: a package that registers a trainer there
gets its command, options, help, summary and examples without an edit here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.cli.summaries import summary_in_source
from tokenize_kit.protocol.registry import TRAINERS

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Command:
    """One command: the function that it runs takes one options dataclass and, if it reports progress, a `Progress`."""

    words: str
    """What the user types after ``tokenize-kit``, such as ``train bpe``."""
    target: str
    """``module:function``; the function's first parameter is annotated with the options dataclass."""
    summary: str
    """One line for the list of commands."""
    examples: tuple[str, ...] = ()
    """Command lines shown at the end of its help, without the leading ``tokenize-kit``."""


class TrainerCommand(Command):
    """``train NAME``: its summary and examples are asked of the trainer's options when they are shown.

    They are the class attributes ``summary`` and ``examples`` of the options dataclass, which are no options. The summary is
    the first line of the docstring where there is none.
    """

    def __init__(self, name: str) -> None:
        # Not the other two, which are found out when they are asked for.
        object.__setattr__(self, "words", f"train {name}")
        object.__setattr__(self, "target", TRAINERS.place_of(name))

    @cached_property
    def summary(self) -> str:
        """One line for the list of commands."""
        try:
            if said := summary_in_source(self.target):
                return said
            _, options = resolve(self)
        except Exception as error:  # one plug-in that is broken must not take the list of all commands away
            return f"cannot be loaded: {' '.join(str(error).split()) or type(error).__name__}"
        told: str | None = getattr(options, "summary", None)
        return told or (options.__doc__ or self.words).strip().splitlines()[0]

    @cached_property
    def examples(self) -> tuple[str, ...]:
        """Command lines shown at the end of its help."""
        _, options = resolve(self)
        return tuple(getattr(options, "examples", ()))


COMMANDS: tuple[Command, ...] = (
    Command(
        "encode",
        "tokenize_kit.shards.encode:encode",
        "turn files into token shards, with any number of tokenizers",
        (
            "encode --tokenizer tokenizers/text --data corpus.jsonl --out shards/text --workers 4",
            "encode --tokenizer tokenizers/text --tokenizer tokenizers/palette --data assets/emoji.tar --out shards/emoji",
            "encode --tokenizer tokenizers/codec --data recordings --codebooks 4 --out shards/sounds",
            "encode --tokenizer tokenizers/palette --data photos --image-size 32 --pad --out shards/photos",
            "encode --tokenizer tokenizers/films --data films --image-size 64 --clip-frames 17 --out shards/films",
            "encode --tokenizer question=tokenizers/text --tokenizer answer=tokenizers/text --field question=q --field answer=a "
            "--data pairs.jsonl --out shards/pairs",
            "encode --tokenizer tokenizers/palette --data photos --image-size 32 --view small=resize:8 --view grey=grey --out "
            "shards/views",
            "encode --tokenizer tokenizers/text --data corpus --out shards/text --dry-run",
        ),
    ),
    Command(
        "pairs",
        "tokenize_kit.shards.pairs.run:make_pairs",
        "make sequences of example pairs and a query out of a shard set, for visual prompting",
        (
            "pairs --shards shards/emoji --operations grey flip edges colormap blur --pairs 3 --out shards/prompting",
            "pairs --shards shards/emoji --operations grey flip edges --held-out-operations blur --validation-fraction 0.1 --out "
            "shards/prompting",
            "pairs --shards shards/views --streams image@grey image --pairs 2 --out shards/colouring",
        ),
    ),
    Command(
        "decode",
        "tokenize_kit.shards.decode:decode",
        "turn token shards back into files",
        (
            "decode --shards shards/emoji --tokenizer tokenizers/palette --out pictures --limit 20",
            "decode --shards shards/pairs --tokenizer answer=tokenizers/text --out answers",
            "decode --shards shards/films --tokenizer tokenizers/films --suffix .webp --out films",
        ),
    ),
    Command(
        "evaluate",
        "tokenize_kit.cli.evaluate:evaluate_command",
        "measure a tokenizer on real data: loss, rate, codebook usage, speed",
        (
            "evaluate --tokenizer tokenizers/codec --data recordings --part held-out --out evaluation/codec",
            "evaluate --tokenizer tokenizers/palette --data photos --out evaluation/palette",
            "evaluate --tokenizer tokenizers/image --data photos --part held-out --lpips --fid --out evaluation/image",
            "evaluate --tokenizer tokenizers/films --data films --image-size 64 --clip-frames 17 --out evaluation/films",
            "evaluate --tokenizer tokenizers/text --data corpus.txt --out report --json",
        ),
    ),
    Command(
        "generate",
        "trainers.autoregressive.sample:generate_samples",
        "sample from a trained model; what comes out always decodes",
        (
            "generate --model models/emoji --prompt 'red apple' --count 8 --seed 1 --out samples/apples",
            "generate --model models/text --prompt 'All human beings' --temperature 0.8 --top-p 0.95 --out samples/text",
            "generate --model models/text --prompt 'All human beings' --stream",
            "generate --model models/sounds --stream | aplay",
            "generate --model models/sounds --prompt-file begin.wav --count 4 --out samples/sounds",
            "generate --model models/films --prompt-file film.mp4 --prompt-frames 5 --out samples/films",
            "generate --model models/pairs --prompts questions.txt --out samples/many",
            "generate --model models/text/checkpoints/step_00000200 --prompt 'All human beings' --out samples/early",
        ),
    ),
    Command(
        "score",
        "trainers.autoregressive.scoring.run:score",
        "say how probable a trained model finds samples, and what is surprising in them",
        (
            "score --model models/emoji --shards shards/emoji --part held-out --maps 8 --out scores/emoji",
            "score --model models/text --data corpus.txt --split paragraphs --out scores/text",
            "score --model models/fashion --shards shards/fashion --part held-out --against photos --out scores/strange",
        ),
    ),
    Command(
        "probe",
        "trainers.autoregressive.probing.run:probe",
        "say how much of a label each layer of a trained model tells, beside raw ids and fine-tuning",
        (
            "probe --model models/clothes --shards shards/clothes --label label --out probes/clothes",
            "probe --model models/clothes --shards shards/clothes --label label --labels 10 100 --finetune-steps 200 --out "
            "probes/few",
        ),
    ),
    Command(
        "compare",
        "trainers.autoregressive.comparing.run:compare",
        "say which of several tokenizers suits some data and a model of them: distortion, bits under the model, samples",
        (
            "compare --tokenizer tokenizers/palette16 tokenizers/palette64 --data photos --image-size 32 --minutes 5 --out "
            "comparisons/palettes",
            "compare --tokenizer tokenizers/bpe512 tokenizers/bpe4096 --data corpus.txt --split paragraphs --minutes 5 --out "
            "comparisons/text",
            "compare --tokenizer tokenizers/image --captions tokenizers/text --data assets/emoji.tar --minutes 5 --out "
            "comparisons/emoji",
        ),
    ),
    Command(
        "inspect",
        "tokenize_kit.cli.inspect:inspect",
        "say what a tokenizer, shard set, model, run, folder or file is, and what is damaged",
        (
            "inspect tokenizers/text",
            "inspect shards/emoji --rows 5",
            "inspect models/emoji/checkpoints/step_00000200 --json",
            "inspect corpus.jsonl.gz",
        ),
    ),
    Command(
        "verify",
        "tokenize_kit.cli.verify:verify_command",
        "check that a shard set, tokenizer, model, run or .tkc file is what was written",
        (
            "verify shards/emoji",
            "verify shards/emoji --tokenizer tokenizers/palette",
            "verify models/emoji",
            "verify book.tkc --model models/text",
        ),
    ),
    Command(
        "import bpe",
        "tokenize_kit.cli.importer:import_bpe",
        "bring in a tokenizer.json, a GPT-2 vocabulary or a .tiktoken rank file, with identical ids",
        (
            "import bpe --source downloads/tokenizer.json --out tokenizers/text",
            "import bpe --source encoder.json --merges vocab.bpe --out tokenizers/gpt2",
            "import bpe --source cl100k_base.tiktoken --pattern cl100k --out tokenizers/cl100k",
        ),
    ),
    Command(
        "create mulaw",
        "tokenize_kit.cli.create:create_mulaw",
        "save a tokenizer of mu-law samples, which needs no training",
        ("create mulaw --sample-rate 16000 --out tokenizers/mulaw",),
    ),
    Command(
        "create pcm",
        "tokenize_kit.cli.create:create_pcm",
        "save a tokenizer of 16-bit samples, which needs no training",
        ("create pcm --sample-rate 44100 --channels 2 --out tokenizers/pcm",),
    ),
    Command(
        "create pixels",
        "tokenize_kit.cli.create:create_pixels",
        "save a tokenizer of raw pixels, which needs no training",
        ("create pixels --channels 3 --out tokenizers/pixels",),
    ),
    Command(
        "create frames",
        "tokenize_kit.cli.create:create_frames",
        "save a tokenizer of the raw pixels of video, which needs no training",
        ("create frames --fps 12 --channels 3 --out tokenizers/frames",),
    ),
    Command(
        "compress",
        "tokenize_kit.cli.compress:compress_command",
        "encode one file into packed or coded ids with a checksum (.tkc)",
        (
            "compress speech.wav speech.tkc --tokenizer tokenizers/codec",
            "compress speech.wav coarse.tkc --tokenizer tokenizers/codec --codebooks 4",
            "compress photo.png photo.tkc --tokenizer tokenizers/image",
            "compress book.txt book.tkc --model models/text --verify",
        ),
    ),
    Command(
        "decompress",
        "tokenize_kit.cli.compress:decompress_command",
        "decode a .tkc file with the tokenizer or model that made it",
        (
            "decompress speech.tkc speech.wav --tokenizer tokenizers/codec",
            "decompress book.tkc book.txt --model models/text",
        ),
    ),
    Command(
        "demo",
        "tokenize_kit.cli.demo:demo",
        "text, pictures and sound the whole way on the bundled assets, with a report; some minutes",
        ("demo --out demo_out",),
    ),
)


def all_commands() -> dict[str, Command]:
    """Return every command by its words: one ``train NAME`` for each registered trainer and the table above."""
    trainers: list[Command] = [TrainerCommand(name) for name in TRAINERS.names()]
    return {command.words: command for command in (*trainers, *COMMANDS)}


def resolve(command: Command) -> tuple[Callable[..., Any], type[Any]]:
    """Import the function of a command, and the options dataclass that is its first parameter."""
    module_name, _, name = command.target.partition(":")
    module = import_module(module_name)
    function = getattr(module, name)
    first = next(iter(function.__annotations__))
    annotation = function.__annotations__[first]
    # Only the first parameter is looked up: the other annotations may name types that are imported for checking alone.
    options_type = getattr(module, annotation) if isinstance(annotation, str) else annotation
    assert dataclasses.is_dataclass(options_type), f"{command.target} takes {options_type}, not an options dataclass"
    return function, cast("type[Any]", options_type)
