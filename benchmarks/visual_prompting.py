"""Does a model see from examples what is to be done? The operation of visual prompts told by likelihood, for 0 to 5 examples.

    python benchmarks/visual_prompting.py [--seconds 600] [--side 8] [--colors 64] [--sequences 4000] [--threads N]

The emoji of `assets` are scaled and encoded by a palette, one id a pixel, with a view for each operation; `pairs` makes sequences
of five examples and a query, and a tiny Transformer learns all pictures of them for so many seconds. Then, for sequences of
held-out emoji, what each operation makes of the query is scored after the last k examples: how often the right answer is the most
probable one, where all differ. Without an example that is chance.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tokenize_kit.progress import Progress
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.shards.pairs.options import PairsOptions
from tokenize_kit.shards.pairs.run import HELD_OUT_FILE, make_pairs
from trainers.autoregressive.likelihood import score
from trainers.autoregressive.model_folder import LoadedModel, load_model
from trainers.autoregressive.options import TrainTransformerOptions
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig
from trainers.palette.train import TrainPaletteOptions, train_palette

ASSETS = Path(__file__).resolve().parent.parent / "assets"
OPERATIONS = ("grey", "flip", "edges", "colormap", "blur")
PAIRS = 5
TRIAL = 20
"""Steps of a trial, of which the second half is timed."""


def options(folder: Path, steps: int, out: str, batch_size: int) -> TrainTransformerOptions:
    return TrainTransformerOptions(
        shards=(str(folder / "pairs"),),
        template=" ".join(["image"] * (2 * PAIRS + 2)),
        out=str(folder / out),
        preset="tiny",
        steps=steps,
        batch_size=batch_size,
        validation_keys=str(folder / "pairs" / HELD_OUT_FILE),
        validation_tokens=20_000,
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=min(100, max(1, steps // 4)), decay_fraction=0.5),
        log_every=TRIAL // 2,
        validate_every=max(1, steps // 4),
    )


def right(loaded: LoadedModel, folder: Path, examples: int, most: int) -> tuple[int, int]:
    """Return for how many held-out sequences the right answer is the most probable one, and of how many."""
    stored = {record.key: record.grids for record in ShardSet.open(folder / "shards").records()}
    template = SequenceTemplate.parse(" ".join(["image"] * (2 * examples + 2)))
    records = list(ShardSet.open(folder / "pairs").records())
    each = 2 * PAIRS + 2
    found = tried = 0
    for start in range(0, len(records), each):
        rows = records[start : start + each][-2 * examples - 2 :]
        if rows[0].columns["part"] != "held-out" or tried == most:
            continue
        query = stored[rows[-1].columns["sample"]]
        answers = [query[f"image@{name}"].astype(np.int64) for name in OPERATIONS]
        if len({answer.tobytes() for answer in answers}) < len(answers):
            continue
        sequences = []
        for answer in answers:
            grids = [*(row.grids["image"].astype(np.int64) for row in rows[:-1]), answer]
            ids = template.document(dict(zip(template.names, grids, strict=True)), loaded.vocabulary).ids
            sequences.append(ids[:-1].tolist())
        places = answers[0].size
        likely = [float(one[-places:].sum()) for one in score(loaded.model, sequences)]
        found += OPERATIONS[int(np.argmax(likely))] == rows[-1].columns["operation"]
        tried += 1
    return found, tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--colors", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=4000)
    parser.add_argument("--tried", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = (str(ASSETS / "emoji.tar"),)
        train_palette(
            TrainPaletteOptions(data, str(folder / "palette"), colors=given.colors, image_size=given.side, limit=500),
            Progress(enabled=False),
        )
        views = tuple(f"{name}={name}" for name in OPERATIONS)
        out = str(folder / "shards")
        encode(EncodeOptions((str(folder / "palette"),), data, out, image_size=given.side, view=views))
        result = make_pairs(
            PairsOptions(
                shards=out,
                out=str(folder / "pairs"),
                operations=OPERATIONS,
                pairs=PAIRS,
                count=given.sequences,
                validation_fraction=0.1,
            )
        )
        began = time.monotonic()
        train_transformer(options(folder, TRIAL // 2, "first", given.batch_size))
        middle = time.monotonic()
        train_transformer(options(folder, TRIAL, "second", given.batch_size))
        a_step = max(1e-3, time.monotonic() - middle - (middle - began)) / (TRIAL // 2)
        steps = max(TRIAL, round(given.seconds / a_step))
        trained = train_transformer(options(folder, steps, "model", given.batch_size))
        loaded = load_model(folder / "model")
        print(f"{result.sequences:,} sequences, {result.held_out:,} held out; {steps:,} steps, {trained.metrics}")
        print("| examples | right | of |\n| ---: | ---: | ---: |")
        for examples in (0, 1, 3, 5):
            found, tried = right(loaded, folder, examples, given.tried)
            print(f"| {examples} | {100 * found / max(1, tried):.0f} % | {tried} |", flush=True)


if __name__ == "__main__":
    main()
