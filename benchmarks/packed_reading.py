"""Reading training batches: ours, packed with document masks, against the memmap loader of small GPT trainers.

    python benchmarks/packed_reading.py [--tokens 20000000] [--rounds 7]

The memmap loader is nanoGPT's `get_batch`, with the map opened once: random offsets into one flat file of uint16, a slice
and a conversion to int64 for each row, `torch.stack` for x and for y. It knows no documents: rows begin anywhere and run
across borders. Ours reads shards (Arrow files of uint16) and gives ids, labels, positions and document numbers; each token
comes exactly once an epoch. Both use one thread and no prefetching. The ids are random, since only lengths matter here:
log-normal with the mean of lines, paragraphs and articles. The contenders take turns; the figures are medians over the
rounds. Further tables give what reading the four shard sets together costs, as one pool and weighted; the cost of the plan of
an epoch, which is paid once; and what the layouts of sounds with codebooks cost: reading, and the grammar for each token that is
generated.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tokenize_kit.files import write_json
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.documents import Documents, vocabulary_of
from tokenize_kit.sequences.layouts import LAYOUTS
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.shards import Manifest, StreamArray, StreamInfo, open_shard
from trainers.autoregressive.batches import PackedDataset
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.mixture import MixedData, mixed_dataset

SHAPES = ((8, 256), (12, 1024), (64, 256))
LENGTHS = {"lines": 25, "paragraphs": 120, "articles": 800}
VOCABULARY = 32_000
CODEBOOKS, CODES = 8, 1024
STEPS = {"words": 10, "sentences": 200}
"""Mean time steps of the sounds."""


def write_shards(folder: Path, tokens: int, mean: int, files: int) -> None:
    rng = np.random.default_rng(0)
    spec = TokenSpec("text", VOCABULARY, ("time",), (None,), lossless=True)
    stream = StreamInfo("text", spec, "0" * 64, "uint16", "bpe")
    folder.mkdir()
    entries = []
    for number in range(files):
        count = tokens // files // mean
        lengths = np.maximum(1, rng.lognormal(np.log(mean) - 0.32, 0.8, count)).astype(np.int64)
        ids = rng.integers(0, VOCABULARY, int(lengths.sum())).astype(np.uint16)
        with open_shard(folder / f"shard-{number:05}.arrow", [stream], {}) as shard:
            shard.write([f"{number}-{i}" for i in range(count)], {"text": (ids, lengths[:, None].astype(np.int32))}, {})
        entries.append(shard.entry)
    write_json(folder / "dataset.json", Manifest({"text": stream}, {}, tuple(entries), {}, {}, 0).to_dict())


def memmap_loader(path: Path, batch: int, context: int) -> Callable[[], object]:
    data = np.memmap(path, dtype=np.uint16, mode="r")

    def read() -> object:
        starts = torch.randint(len(data) - context, (batch,))
        x = torch.stack([torch.from_numpy(data[i : i + context].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + context].astype(np.int64)) for i in starts])
        return x, y

    return read


def packed_loader(data: TokenData, batch: int, context: int) -> tuple[Callable[[], object], float]:
    dataset = PackedDataset(data.documents, np.arange(len(data.documents)), context, batch)
    began = time.perf_counter()
    dataset.batch(0)
    plan_seconds = time.perf_counter() - began
    position = iter(range(10**9))
    return (lambda: dataset.batch(next(position))), plan_seconds


def mixtures(folders: list[str], rounds: int) -> None:
    """Print the table of several shard sets that are read together."""
    data = MixedData.open(folders, ["text"])
    chosen = [np.arange(len(data.parts[0].documents))]
    print("\n| shard sets | --mix | batch | million tokens/s |")
    print("| --- | --- | --- | --- |")
    for mix in ((), (1, 2, 3, 4)):
        for batch, context in SHAPES:
            dataset = mixed_dataset(data, data.sources(chosen, mix), context, batch, mix=mix)
            dataset.batch(0)
            position = iter(range(10**9))
            reads = max(1, 1_000_000 // (batch * context))
            times = []
            for _ in range(rounds):
                began = time.perf_counter()
                for _ in range(reads):
                    dataset.batch(next(position))
                times.append(time.perf_counter() - began)
            speed = reads * batch * context / statistics.median(times) / 1e6
            print(
                f"| {len(folders)} | {' '.join(map(str, mix)) or 'none'} | {batch}x{context} | {speed:.0f} |",
                flush=True,
            )


def layouts(tokens: int, rounds: int) -> None:
    """Print the table of the layouts: sounds of codebooks, packed into rows of 2048."""
    spec = TokenSpec("audio", (CODES,) * CODEBOOKS, ("time", "codebook"), (320, None), lossless=False, channels=1)
    generator = np.random.default_rng(0)
    print("\n| sounds | layout | million tokens/s | grammar, microseconds a token |")
    print("| --- | --- | --- | --- |")
    for name, mean in STEPS.items():
        count = tokens // (mean * CODEBOOKS)
        steps = np.maximum(1, generator.lognormal(np.log(mean) - 0.32, 0.8, count)).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(steps * CODEBOOKS)])
        ids = generator.integers(0, CODES, int(offsets[-1])).astype(np.uint16)
        arrays = {"audio": [StreamArray(ids, offsets, np.stack([steps, np.full(count, CODEBOOKS)], 1))]}
        for layout in LAYOUTS:
            template = SequenceTemplate.parse(f"audio:{layout}")
            documents = Documents(template, vocabulary_of(template, {"audio": spec}, arrays), arrays)
            dataset = PackedDataset(documents, np.arange(count), 2048, 8)
            dataset.batch(0)
            position = iter(range(10**9))
            times = []
            for _ in range(rounds):
                began = time.perf_counter()
                for _ in range(64):
                    dataset.batch(next(position))
                times.append(time.perf_counter() - began)
            speed = 64 * 8 * 2048 / statistics.median(times) / 1e6
            grammar = template.grammar(documents.vocabulary, 4096)
            grid = ids[: mean * CODEBOOKS].reshape(mean, CODEBOOKS)
            document = template.flatten({"audio": grid}, documents.vocabulary)[0].tolist()
            times = []
            for _ in range(rounds):
                began = time.perf_counter()
                state = grammar.start()
                for token in document:
                    grammar.allowed(state)
                    state = grammar.advance(state, token)
                times.append(time.perf_counter() - began)
            cost = statistics.median(times) / len(document) * 1e6
            print(f"| {name} | {layout} | {speed:.0f} | {cost:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    plans = []
    print("| documents | files | batch | memmap, million tokens/s | ours | ours / memmap |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as root:
        flat = Path(root) / "flat.bin"
        np.random.default_rng(1).integers(0, VOCABULARY, options.tokens).astype(np.uint16).tofile(flat)
        folders = []
        for name, files in (("lines", 1), ("paragraphs", 1), ("paragraphs", 16), ("articles", 16)):
            folder = Path(root) / f"{name}-{files}"
            folders.append(str(folder))
            write_shards(folder, options.tokens, LENGTHS[name], files)
            data = TokenData.open([str(folder)], "text")
            for batch, context in SHAPES:
                ours, plan_seconds = packed_loader(data, batch, context)
                plans.append((name, files, f"{batch}x{context}", len(data.documents), plan_seconds))
                contenders = [memmap_loader(flat, batch, context), ours]
                times: list[list[float]] = [[], []]
                reads = max(1, 1_000_000 // (batch * context))  # several of our chunks in every round
                for _ in range(options.rounds):
                    for contender, seconds in zip(contenders, times, strict=True):
                        began = time.perf_counter()
                        for _ in range(reads):
                            contender()
                        seconds.append(time.perf_counter() - began)
                speed = [reads * batch * context / statistics.median(seconds) / 1e6 for seconds in times]
                ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
                print(
                    f"| {name} | {files} | {batch}x{context} | {speed[0]:.0f} | {speed[1]:.0f} | {ratio:.1f} |",
                    flush=True,
                )
        mixtures(folders, options.rounds)
    print("\n| documents | files | batch | documents | plan of an epoch and first chunk, s |")
    print("| --- | --- | --- | --- | --- |")
    for name, files, shape, documents, plan_seconds in plans:
        print(f"| {name} | {files} | {shape} | {documents:,} | {plan_seconds:.3f} |")
    layouts(options.tokens, options.rounds)


if __name__ == "__main__":
    main()
