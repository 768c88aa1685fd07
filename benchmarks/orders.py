"""Orders of places and forms of attention at equal training time, on emoji of 8x8 ids with their captions.

    python benchmarks/orders.py [--seconds 90] [--colors 64] [--threads N]

The emoji of `assets` are scaled to 8x8 pixels of a palette, one id each, and a tiny Transformer learns ``text -> image``: in
several orders of the places with causal attention, and row by row with the other forms. Each is trained for so many seconds,
which a short trial turns into steps; the figures are of the best validation on the emoji that are held out, in bits a token.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tokenize_kit.progress import Progress
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from trainers.autoregressive.options import TrainTransformerOptions
from trainers.autoregressive.train import train_transformer
from trainers.bpe.train import TrainBPEOptions, train_bpe
from trainers.config import OptimizerConfig
from trainers.palette.train import TrainPaletteOptions, train_palette

ASSETS = Path(__file__).resolve().parent.parent / "assets"
RUNS = (
    ("raster", "causal"),
    ("column", "causal"),
    ("serpentine", "causal"),
    ("spiral", "causal"),
    ("spiral-out", "causal"),
    ("hilbert", "causal"),
    ("coarse", "causal"),
    ("random", "causal"),
    ("raster", "prefix"),
    ("raster", "encoder-decoder"),
)
TRIAL = (10, 60)
"""Steps of two trials, whose difference is timed."""


def options(folder: Path, order: str, form: str, steps: int, out: str) -> TrainTransformerOptions:
    values: dict[str, Any] = {"form": None if form == "causal" else form}
    return TrainTransformerOptions(
        shards=(str(folder / "shards"),),
        template=(f"text -> image:{order}",),
        out=str(folder / out),
        preset="tiny",
        steps=steps,
        batch_size=16,
        validation_fraction=0.1,
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=min(50, max(1, steps // 4)), decay_fraction=0.5),
        log_every=TRIAL[0],
        validate_every=max(1, steps // 4),
        **values,
    )


def seconds_a_step(folder: Path, order: str, form: str) -> float:
    """Return the time of a step, by two trainings of which one is longer."""
    took = []
    # The first one is there for what is loaded once.
    for number, steps in enumerate((TRIAL[0], *TRIAL)):
        began = time.monotonic()
        train_transformer(options(folder, order, form, steps, f"trial-{order}-{form}-{number}"))
        took.append(time.monotonic() - began)
    return (took[2] - took[1]) / (TRIAL[1] - TRIAL[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="of training each")
    parser.add_argument("--colors", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    emoji = str(ASSETS / "emoji.tar")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train_bpe(TrainBPEOptions(data=(emoji,), vocab_size=512, out=str(folder / "text")))
        train_palette(
            TrainPaletteOptions(data=(emoji,), colors=given.colors, image_size=8, out=str(folder / "palette")),
            Progress(enabled=False),
        )
        tokenizers = (f"text={folder / 'text'}", f"image={folder / 'palette'}")
        encode(EncodeOptions(tokenizer=tokenizers, data=(emoji,), image_size=8, out=str(folder / "shards")))
        print(f"{given.seconds:g} seconds each, {torch.get_num_threads()} threads\n")
        print("| order | form | bits a token | parameters | steps | seconds |", flush=True)
        print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
        for order, form in RUNS:
            steps = max(TRIAL[1], int(given.seconds / seconds_a_step(folder, order, form)))
            began = time.monotonic()
            result = train_transformer(options(folder, order, form, steps, f"{order}-{form}"))
            seconds = time.monotonic() - began
            bits = result.metrics["bits_per_token"]
            print(
                f"| {order} | {form} | {bits:.4f} | {result.parameters:,} | {result.steps} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
