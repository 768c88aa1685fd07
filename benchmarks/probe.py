"""Which layer of a picture model tells most of what a picture shows, and how much more than the pixels themselves.

    python benchmarks/probe.py [--minutes 10] [--side 14] [--colors 16] [--pictures 60000] [--out FOLDER] [--threads N]

A Transformer is trained without labels on the train part of Fashion-MNIST, scaled to ``--side`` pixels, one id a pixel: of a
palette of ``--colors``, or with ``--colors 0`` of 256 grey levels. Then `tokenize-kit probe` takes the states after each of its
layers, averaged over the pixels (iGPT, Chen et al. 2020): a logistic regression on the labels of at most ``--limit`` pictures, of
100 a class and of 10 a class, measured on as many pictures that no model has seen; beside it the same on raw pixels, and the
Transformer fine-tuned on the same labels. For reference the same regression sees the pixels of the pictures as they are, 28x28.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fetch import fetch
from numpy.typing import NDArray

from tokenize_kit.cli.create import CreatePixelsOptions, create_pixels
from tokenize_kit.progress import Progress
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.heldout import key_fractions
from trainers.autoregressive.comparing.timing import steps_that_fit
from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.probing.linear import fit_probe
from trainers.autoregressive.probing.options import ProbeOptions, ProbeResult
from trainers.autoregressive.probing.run import probe
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig
from trainers.palette.train import TrainPaletteOptions, train_palette

FRACTION = 0.05
A_CLASS = (10, 100)
"""Labelled pictures of each of the ten classes: 100 and 1,000."""


def make_shards(folder: Path, source: Path, given: argparse.Namespace) -> Path:
    """Encode the pictures, and carry their labels."""
    tokenizer, shards = folder / "tokenizer", folder / "shards"
    progress = Progress(enabled=False)
    if not tokenizer.exists():
        if given.colors:
            train_palette(
                TrainPaletteOptions(
                    data=(str(source),), out=str(tokenizer), colors=given.colors, image_size=given.side, limit=5000
                ),
                progress,
            )
        else:
            create_pixels(CreatePixelsOptions(out=str(tokenizer), channels=1))
    options = EncodeOptions(
        (str(tokenizer),),
        (str(source),),
        str(shards),
        columns=("label",),
        image_size=given.side,
        limit=given.pictures,
    )
    encode(options, progress)
    return shards


def train(folder: Path, shards: Path, given: argparse.Namespace) -> Path:
    """Train the Transformer for the minutes given."""
    tokens = given.side**2
    options = TrainTransformerOptions(
        shards=(str(shards),),
        template=("image",),
        out=str(folder / "model"),
        preset="tiny",
        model=TransformerOverrides(layers=given.layers, width=given.width, heads=given.width // 32),
        optimizer=OptimizerConfig(optimizer="muon", learning_rate=3e-3, warmup_steps=40, decay_fraction=0.5),
        steps=1,
        batch_size=max(1, 4096 // tokens),
        validation_fraction=FRACTION,
        validation_tokens=100 * tokens,
    )
    plan = folder / "steps.txt"
    if not plan.exists():
        plan.write_text(str(steps_that_fit(options, 60 * given.minutes)[0]))
    steps = int(plan.read_text())
    values = {**vars(options), "steps": steps, "validate_every": steps, "checkpoint_every": max(1, steps // 5)}
    result = train_transformer(TrainTransformerOptions(**values))
    print(
        f"{result.parameters:,} parameters, {steps:,} steps, {result.epochs:.2f} epochs, "
        f"{result.metrics['bits_per_token']:.3f} bits a held-out token\n"
    )
    return folder / "model"


def full_pixels(source: Path, shards: Path, limit: int, held_out: int) -> float:
    """Return the accuracy of the regression on pixels 28x28, on as many pictures of the same parts."""
    data = np.frombuffer(gzip.decompress(source.read_bytes()), np.uint8, offset=16).reshape(-1, 784)
    opened = ShardSet.open(shards)
    fractions = key_fractions(opened.column("key").to_pylist())
    labels: NDArray[np.int64] = np.array(opened.column("label").to_pylist())
    order = np.random.default_rng(0).permutation(len(labels))
    training, apart = order[fractions[order] >= FRACTION][:limit], order[fractions[order] < FRACTION][:held_out]
    return fit_probe(data[: len(labels)].astype(np.float32), labels, training, apart).accuracy


def print_table(result: ProbeResult) -> None:
    counts: Sequence[int | None] = (None, *sorted(A_CLASS, reverse=True))
    heads = [next(row.samples for row in result.rows if row.a_class == count) for count in counts]
    print(f"| features | numbers | {' | '.join(f'{count:,} labels' for count in heads)} |")
    print(f"| --- | ---: | {' | '.join('---:' for _ in heads)} |")
    for name in dict.fromkeys((row.kind, row.features) for row in result.rows):
        rows = {row.a_class: row for row in result.rows if (row.kind, row.features) == name}
        cells = [f"{100 * rows[count].accuracy:.1f}" if count in rows else "" for count in counts]
        print(f"| {name[1]} | {next(iter(rows.values())).columns:,} | {' | '.join(cells)} |")
    error = 100 * result.standard_error(0.8)
    print(f"\nin per cent of {result.held_out:,} held-out pictures, +- {error:.1f}; chance {100 * result.chance:.1f}")
    for count in counts:
        best, raw, tuned = (result.best(kind, count) for kind in ("layer", "raw", "fine-tuned"))
        if best is not None and raw is not None:
            more = "" if tuned is None else f"; fine-tuned {100 * (tuned.accuracy - raw.accuracy):+.1f}"
            print(
                f"{best.samples:,} labels: {best.features} is the best layer, {100 * (best.accuracy - raw.accuracy):+.1f} points "
                f"over {raw.features!r}{more}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--side", type=int, default=14)
    parser.add_argument("--colors", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--finetune-steps", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    (source,) = fetch("fashion-mnist").rglob("train-images-idx3-ubyte.gz")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        shards = make_shards(folder, source, given)
        model = train(folder, shards, given)
        options = ProbeOptions(
            model=str(model),
            shards=(str(shards),),
            label="label",
            out=str(folder / "probe"),
            labels=A_CLASS,
            limit=given.limit,
            validation_fraction=FRACTION,
            finetune_steps=given.finetune_steps,
        )
        result = probe(options, Progress())
        print_table(result)
        full = full_pixels(source, shards, given.limit, result.held_out)
        print(f"for reference, all labels and 28x28 pixels as they are: {100 * full:.1f}")


if __name__ == "__main__":
    main()
