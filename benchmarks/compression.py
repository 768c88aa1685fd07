"""What a trained sequence model saves as a compressor: of text beside xz, zstd and brotli, of learned ids beside packed bits.

    python benchmarks/compression.py [--parts text carry image audio video] [--minutes 10] [--megabytes 1] [--out FOLDER]

Text: English help pages; a part of them, chosen by hashes, is held out, and no paragraph of it is in the rest. A vocabulary and a
Transformer are trained on the rest for ``--minutes``, all by the public command line, and the held-out part goes through
``compress --model`` and back, byte for byte. The peers compress the same file: xz -9, zstd -19 --long, brotli -11 (those that are
here), and zstd with the text that the model was trained on as its dictionary, as the model has seen that and they have not. A
model must be where the file is read, so a column has the size with its weights and vocabulary added, and another the size of text
from which on they pay. ``carry`` compares how much of a window is known from the one before, in bytes and in speed.

Learned ids: an image, an audio and a video tokenizer are trained for a short time, and a Transformer on their ids for
``--minutes`` each; the held-out grids are coded, decoded and compared with their bits packed (`tokenize_kit.container`). With
``--out`` the same command goes on where it was stopped. Run it alone: it tells speeds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import lzma
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from shared_data import build, pages
from shared_model import lines_of, run

from tokenize_kit.container import pack_ids, widths_of
from tokenize_kit.files import write_text
from tokenize_kit.shards import ShardSet
from trainers.autoregressive.coding.coder import Reader, Writer
from trainers.autoregressive.coding.grids import GridCoder
from trainers.autoregressive.coding.machine import computing
from trainers.autoregressive.coding.rows import Windows, code_rows
from trainers.autoregressive.model_folder import load_model

MODEL = """train transformer --shards {shards} --template {template} {size} --model.dropout {dropout} --optimizer.optimizer muon
    --optimizer.learning-rate 3e-3 --batch-size {batch} --context {context} --validation-keys {keys} --validation-tokens 20000
    --validate-every {every} --steps {steps} --out {out}"""
TEXT = """
train bpe --data train.txt --vocab-size {vocab} --out tokenizers/text
encode --tokenizer tokenizers/text --data train.txt --split paragraphs --out shards/text
"""
IDS = {
    "image": """
train image --data data/pictures/emoji.tar --image-size 32 --preset fsq --quantizer.levels 8 6 5 --flip --steps {steps}
    --validate-every {steps} --validation-fraction 0.1 --out tokenizers/image
encode --tokenizer tokenizers/image --data data/pictures/emoji.tar --image-size 32 --out shards/image
""",
    "audio": """
train audio --data data/speech.tar --preset dac --quantizer.codebooks 4 --batch-size 8 --validation-fraction 0.1 --steps {steps}
    --validate-every {steps} --out tokenizers/audio
encode --tokenizer tokenizers/audio --data data/speech.tar --out shards/audio
""",
    "video": """
train video --data data/films/emoji.tar --image-size 32 --clip-frames 17 --network.spatial-factor 4 --quantizer.levels 8 5 5 5
    --flip --batch-size 4 --validation-fraction 0.1 --steps {steps} --validate-every {steps} --out tokenizers/video
encode --tokenizer tokenizers/video --data data/films/emoji.tar --image-size 32 --clip-frames 17 --clip-tail drop
    --out shards/video
""",
}
TEMPLATES = {"image": "image", "audio": "audio:delay", "video": "video"}
CONTEXTS = {"text": 512, "image": 96, "audio": 512, "video": 896}
TRIAL = 20
"""Steps of the training that tells how fast it is."""
CARRIES = (0.0, 0.25, 0.5, 0.75)


class Packed(NamedTuple):
    """A file that one of the contenders made."""

    name: str
    bytes: int
    seconds: float
    seconds_back: float
    own: int = 0
    """What must be there to read it, in bytes."""


def trained(name: str, shards: str, template: str, given: argparse.Namespace, keys: str) -> Path:
    """Train a model for about ``--minutes``, or find it trained; return its folder."""
    out = Path(f"models/{name}")
    size = f"--preset tiny --model.layers {given.layers} --model.width {given.width} --model.heads {given.width // 64 or 1}"
    (line,) = lines_of(MODEL)
    values = {
        "shards": shards,
        "template": template,
        "size": size,
        "dropout": 0.0 if name == "text" else 0.1,
        "context": CONTEXTS[name],
        "batch": given.batch,
        "keys": keys,
    }
    if not (out / "model_config.json").is_file():
        trial = Path(f"trials/{name}")
        run(line.format(**values, every=TRIAL, steps=TRIAL, out=trial))
        logged = [json.loads(entry) for entry in (trial / "train_log.jsonl").read_text().splitlines()]
        # The first entry has what is done once.
        speed = [entry["tokens_per_second"] for entry in logged if "tokens_per_second" in entry][-1]
        steps = max(2, round(60 * given.minutes * speed / (given.batch * CONTEXTS[name])))
        write_text(Path(f"{name}-steps.txt"), str(steps))
    steps = int(Path(f"{name}-steps.txt").read_text())
    made = run(line.format(**values, every=max(1, steps // 4), steps=steps, out=out))
    print(
        f"{name}: {made['parameters']:,} parameters, {made['steps']:,} steps, {made['epochs']:.2f} epochs", flush=True
    )
    return out


def own_bytes(model: Path) -> int:
    """Return the bytes of what must be there to read what a model coded: its weights, configuration and tokenizer."""
    files = [model / "model.safetensors", model / "model_config.json", *model.glob("tokenizers/**/*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def divide(megabytes: float) -> None:
    """Write ``train.txt`` and ``held-out.txt``, whole pages each, and none of a paragraph in both."""
    if Path("held-out.txt").is_file():
        return
    ordered = sorted(pages(), key=lambda page: hashlib.sha256(page.encode()).hexdigest())
    count = size = 0
    while size < megabytes * 1e6:
        size += len(ordered[count].encode()) + 2
        count += 1
    write_text(Path("train.txt"), "\n\n".join(ordered[count:]) + "\n")
    write_text(Path("held-out.txt"), "\n\n".join(ordered[:count]) + "\n")


def timed(
    name: str, data: bytes, there: Callable[[bytes], bytes], back: Callable[[bytes], bytes], own: int = 0
) -> Packed:
    """Compress and decompress with a peer."""
    begin = time.perf_counter()
    packed = there(data)
    middle = time.perf_counter()
    assert back(packed) == data, name
    return Packed(name, len(packed), middle - begin, time.perf_counter() - middle, own)


def peers(data: bytes, known: bytes) -> list[Packed]:
    """Return what the peers make of a text; ``known`` is what the model was trained on."""
    found = [timed("xz -9", data, lambda part: lzma.compress(part, preset=9), lzma.decompress)]
    window = {"window_log": 27, "enable_ldm": True}
    plain = zstandard.ZstdCompressionParameters.from_level(19, **window)
    there, back = (
        zstandard.ZstdCompressor(compression_params=plain),
        zstandard.ZstdDecompressor(max_window_size=1 << 27),
    )
    found.append(timed("zstd -19 --long", data, there.compress, back.decompress))
    raw = zstandard.ZstdCompressionDict(known, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    there = zstandard.ZstdCompressor(compression_params=plain, dict_data=raw)
    back = zstandard.ZstdDecompressor(dict_data=raw, max_window_size=1 << 27)
    found.append(timed("zstd -19 --long, training text known", data, there.compress, back.decompress, len(known)))
    if shutil.which("brotli"):

        def brotli(*options: str) -> Callable[[bytes], bytes]:
            return lambda part: (
                subprocess.run(["brotli", *options, "-c"], input=part, capture_output=True, check=True).stdout
            )

        found.append(timed("brotli -11", data, brotli("-q", "11", "-w", "24"), brotli("-d")))
    else:
        print("brotli is not here: it is left out")
    return found


def text(given: argparse.Namespace) -> None:
    """Print the table of text."""
    model = text_model(given)
    data = Path("held-out.txt").read_bytes()
    begin = time.perf_counter()
    run(f"compress held-out.txt held-out.tkc --model {model} --overwrite")
    middle = time.perf_counter()
    run(f"decompress held-out.tkc back.txt --model {model} --overwrite")
    end = time.perf_counter()
    assert Path("back.txt").read_bytes() == data, "the round trip"
    size = Path("held-out.tkc").stat().st_size
    ours = Packed("ours", size, middle - begin, end - middle, own_bytes(model))
    others = peers(data, Path("train.txt").read_bytes())
    best = min(other.bytes for other in others if not other.own)
    print(f"\nText, {len(data):,} bytes held out of the help pages; round trip verified\n")
    print(
        "| | bytes | bits a byte | with what reads it | pays from | kB/s | kB/s back |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    for one in (ours, *others):
        saved = (best - one.bytes) / len(data)
        pays = "" if not one.own else f"{one.own / saved / 1e6:,.1f} MB" if saved > 0 else "never"
        print(
            f"| {one.name} | {one.bytes:,} | {8 * one.bytes / len(data):.3f} | {one.bytes + one.own:,} | {pays} | "
            f"{len(data) / one.seconds / 1e3:,.1f} | {len(data) / one.seconds_back / 1e3:,.1f} |"
        )
    print(
        "\n'pays from' is the size of text from which on it is smaller than the best that needs nothing, with what reads it"
    )


def text_model(given: argparse.Namespace) -> Path:
    """Return a model of help pages."""
    divide(given.megabytes)
    for line in lines_of(TEXT.format(vocab=given.vocab)):
        run(line)
    keys = held_out("shards/text", 20)
    return trained("text", "shards/text", "text", given, keys)


def carry(given: argparse.Namespace) -> None:
    """Print what known steps at the beginning of a window save and cost, on the first part of the held-out text."""
    model = load_model(text_model(given))
    said = Path("held-out.txt").read_bytes()[: round(given.carry_kilobytes * 1e3)].decode(errors="ignore")
    ids = model.tokenizers["text"].encode(said).numpy()
    coder = GridCoder(model)
    print(f"\nCarry, {len(said.encode()):,} bytes of text, {len(ids):,} tokens\n")
    print("| carry | streams | bytes | bits a byte | kB/s |\n| --- | --- | --- | --- | --- |")
    for part, streams in [*((part, 16) for part in CARRIES), *((0.5, streams) for streams in (1, 4, 64))]:
        begin = time.perf_counter()
        size = len(coder.encode(ids, streams, part).to_bytes())
        rate = len(said.encode()) / (time.perf_counter() - begin) / 1e3
        print(f"| {part} | {streams} | {size:,} | {8 * size / len(said.encode()):.3f} | {rate:,.1f} |", flush=True)


def held_out(shards: str, every: int) -> str:
    """Write the keys of about one sample in so many, by their hashes; return the file."""
    keys = [record.key for record in ShardSet.open(shards).records()]
    chosen = [key for key in keys if int(hashlib.sha256(key.encode()).hexdigest(), 16) % every == 0]
    path = Path(f"{shards.replace('/', '-')}-held-out.txt")
    write_text(path, "\n".join(chosen or keys[:1]) + "\n")
    return str(path)


def learned(name: str, given: argparse.Namespace) -> None:
    """Print the saving over packed bits for the ids of a learned tokenizer."""
    for line in lines_of(IDS[name].format(steps=given.tokenizer_steps)):
        run(line)
    keys = held_out(f"shards/{name}", 10)
    coder = GridCoder(load_model(trained(name, f"shards/{name}", TEMPLATES[name], given, keys)))
    chosen = set(Path(keys).read_text().splitlines())
    grids = [
        record.grids[name].astype(np.int64)
        for record in ShardSet.open(f"shards/{name}").records()
        if record.key in chosen
    ]
    grids = sorted(grids, key=len)[: given.grids]
    spec = coder.loaded.tokenizers[name].spec
    packed = sum(
        len(pack_ids(grid.reshape(-1, len(widths)), widths))
        for grid in grids
        for widths in [widths_of(spec, grid.shape)]
    )
    begin = time.perf_counter()
    writer = Writer()
    pass_through(coder, grids, writer)
    words = writer.finish()
    middle = time.perf_counter()
    back = [np.zeros_like(grid) for grid in grids]
    reader = Reader(words, writer.pieces)
    pass_through(coder, back, reader)
    reader.finish()
    end = time.perf_counter()
    assert all(np.array_equal(one, other) for one, other in zip(grids, back, strict=True)), "the round trip"
    size, count = len(words) + 7 * len(writer.pieces), sum(grid.size for grid in grids)
    print(
        f"| {name} | {len(grids)} | {count:,} | {8 * packed / count:.2f} | {8 * size / count:.2f} | {1 - size / packed:.1%} | "
        f"{count / (middle - begin):,.0f} | {count / (end - middle):,.0f} |",
        flush=True,
    )


def pass_through(coder: GridCoder, grids: list[NDArray[np.int64]], end: Writer | Reader, rows: int = 64) -> None:
    """Code many grids in one coder, those of one shape side by side."""
    with computing(coder.device):
        for inner in dict.fromkeys(grid.shape[1:] if coder.stream.is_open else grid.shape for grid in grids):
            alike = [grid for grid in grids if (grid.shape[1:] if coder.stream.is_open else grid.shape) == inner]
            length = coder.stream.capacity(inner) if coder.stream.is_open else 0
            for start in range(0, len(alike), rows):
                code_rows(
                    coder.stream,
                    alike[start : start + rows],
                    end,
                    Windows(length, length // 2) if length else None,
                    None,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("text", "carry", *IDS)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--minutes", type=float, default=10.0, help="of the training of each model")
    parser.add_argument("--megabytes", type=float, default=1.0, help="of text that is held out and compressed")
    parser.add_argument(
        "--carry-kilobytes", type=float, default=200.0, help="of it that 'carry' compresses seven times"
    )
    parser.add_argument("--vocab", type=int, default=2048, help="ids of the text tokenizer")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8, help="rows of a batch")
    parser.add_argument("--tokenizer-steps", type=int, default=600, help="of each learned tokenizer")
    parser.add_argument("--grids", type=int, default=200, help="the most held-out grids of each that are coded")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", help="folder for everything; a temporary one by default")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.out or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(folder):
            if "text" in given.parts:
                text(given)
            if "carry" in given.parts:
                carry(given)
            if chosen := [name for name in IDS if name in given.parts]:
                build(Path("data"))
                print("\nLearned ids, held out; round trips verified\n")
                print("| ids of | grids | ids | bits an id, packed | coded | saved | ids/s | ids/s back |")
                print("| --- | --- | --- | --- | --- | --- | --- | --- |")
                for name in chosen:
                    learned(name, given)


if __name__ == "__main__":
    main()
