"""The table of commands: the words a user types, the function they call, and the examples in its help.

Functions are named by a string and imported when they are called for, so that ``tokenize-kit --help`` loads none of them.
The ``train`` verbs come from the entry point group ``tokenize_kit.trainers``: a package that registers a trainer there
gets its command, options and help without an edit here.
"""

from __future__ import annotations

from dataclasses import dataclass

TRAINER_GROUP = "tokenize_kit.trainers"


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


TRAIN_EXAMPLES: dict[str, tuple[str, ...]] = {
    "bpe": (
        "train bpe --data corpus.txt --out tokenizers/text --vocab-size 32000",
        "train bpe --data 'logs/**/*.jsonl.zst' --field body --pattern cl100k --out tokenizers/text",
    ),
    "palette": (
        "train palette --data photos --out tokenizers/palette",
        "train palette --data assets/emoji.tar --colors 128 --color-space oklab --out tokenizers/palette",
    ),
    "image": (
        "train image --data photos --image-size 128 --preset fsq --out tokenizers/photos",
        "train image --data assets/emoji.tar --preset vqgan --steps 1000 --out tokenizers/emoji",
        "train image --data photos --image-size 64 --quantizer.kind rvq --quantizer.codebooks 4 --out tokenizers/rvq",
    ),
    "audio": (
        "train audio --data recordings --out tokenizers/speech",
        "train audio --data recordings --preset encodec --crop-seconds 2 --steps 5000 --out tokenizers/streaming",
        "train audio --data music --preset dac --size base --channels 2 --device cuda --out tokenizers/music",
    ),
    "transformer": (
        "train transformer --shards shards/text --template text --out models/text --steps 2000",
        "train transformer --shards shards/emoji --template 'text -> image' --preset small --out models/emoji",
        "train transformer --shards shards/sounds --template audio:delay --context 2048 --out models/sounds",
        "train transformer --config run.yaml --steps 500",
    ),
}

COMMANDS: tuple[Command, ...] = (
    Command(
        "encode",
        "tokenize_kit.shards.encode:encode",
        "turn files into token shards, with any number of tokenizers",
        (
            "encode --tokenizer tokenizers/text --data corpus.jsonl --out shards/text --workers 4",
            "encode --tokenizer tokenizers/text --tokenizer tokenizers/palette --data assets/emoji.tar --out shards/emoji",
            "encode --tokenizer tokenizers/codec --data recordings --codebooks 4 --out shards/sounds",
            "encode --tokenizer tokenizers/text --data corpus --out shards/text --dry-run",
        ),
    ),
    Command(
        "decode",
        "tokenize_kit.shards.decode:decode",
        "turn token shards back into files",
        ("decode --shards shards/emoji --tokenizer tokenizers/palette --out pictures --limit 20",),
    ),
    Command(
        "evaluate",
        "tokenize_kit.cli.evaluate:evaluate_command",
        "measure a tokenizer on real data: loss, rate, codebook usage, speed",
        (
            "evaluate --tokenizer tokenizers/codec --data recordings --part held-out --out evaluation",
            "evaluate --tokenizer tokenizers/palette --data photos --out evaluation",
            "evaluate --tokenizer tokenizers/image --data photos --part held-out --lpips --fid --out evaluation",
            "evaluate --tokenizer tokenizers/text --data corpus.txt --out report --json",
        ),
    ),
    Command(
        "generate",
        "trainers.autoregressive.sample:generate_samples",
        "sample from a trained model; what comes out always decodes",
        (
            "generate --model models/emoji --prompt 'red apple' --count 8 --seed 1 --out samples",
            "generate --model models/text --prompt 'All human beings' --temperature 0.8 --top-p 0.95 --out samples",
            "generate --model models/sounds --prompt-file begin.wav --count 4 --out samples",
        ),
    ),
    Command(
        "inspect",
        "tokenize_kit.cli.inspect:inspect",
        "say what a tokenizer, shard set, model or file is",
        ("inspect tokenizers/text", "inspect shards/emoji --rows 5", "inspect models/emoji --json"),
    ),
    Command(
        "verify",
        "tokenize_kit.cli.verify:verify_command",
        "check hashes, counts, id ranges and fingerprints of a shard set",
        ("verify shards/emoji", "verify shards/emoji --tokenizer tokenizers/palette"),
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
        "compress",
        "tokenize_kit.cli.compress:compress_command",
        "encode one file into packed ids with a checksum (.tkc)",
        (
            "compress speech.wav speech.tkc --tokenizer tokenizers/codec",
            "compress speech.wav coarse.tkc --tokenizer tokenizers/codec --codebooks 4",
            "compress photo.png photo.tkc --tokenizer tokenizers/image",
        ),
    ),
    Command(
        "decompress",
        "tokenize_kit.cli.compress:decompress_command",
        "decode a .tkc file with the tokenizer that made it",
        ("decompress speech.tkc speech.wav --tokenizer tokenizers/codec",),
    ),
    Command(
        "demo",
        "tokenize_kit.cli.demo:demo",
        "text, pictures and sound the whole way on the bundled assets, with a report; some minutes",
        ("demo --out demo_out",),
    ),
)


def all_commands() -> dict[str, Command]:
    """Return every command by its words: the table above and one ``train NAME`` for each registered trainer."""
    from importlib.metadata import entry_points

    trainers = {
        f"train {point.name}": Command(
            f"train {point.name}",
            point.value,
            TRAIN_SUMMARIES.get(point.name, f"train {point.name}"),
            TRAIN_EXAMPLES.get(point.name, ()),
        )
        for point in sorted(entry_points(group=TRAINER_GROUP), key=lambda point: point.name)
    }
    return trainers | {command.words: command for command in COMMANDS}


TRAIN_SUMMARIES: dict[str, str] = {
    "audio": "train a neural audio codec (SoundStream, EnCodec, DAC) on sounds",
    "bpe": "train a byte-level BPE tokenizer on text",
    "image": "train a learned tokenizer (VQ-VAE, VQGAN, dVAE, FSQ, LFQ) on pictures",
    "palette": "fit a k-means colour palette on pictures",
    "transformer": "train a causal Transformer on token shards",
}
