"""Every preset of ``train image`` on Fashion-MNIST and on 64x64 emoji: no NaN, no collapse, and what each reaches.

    python benchmarks/autoencoder_presets.py [--presets vqvae ...] [--sets fashion emoji] [--steps 300] [--threads N]

All at the tiny size with about 2^10 codes and 4x4 pixels an id, the same batches and number of steps. PSNR and SSIM are means
over held-out pictures, usage is over all their ids. A run that breaks down or whose codebook use falls under a tenth ends the
benchmark with an error.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from emoji_pictures import build
from fetch import fetch

from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import load_tokenizer
from trainers.autoencoder.image.config import PRESETS
from trainers.autoencoder.image.options import TrainImageOptions
from trainers.autoencoder.image.train import train_image

MEASURED = 1000
"""Held-out pictures."""


def data_of(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options with which a set is trained on, and those with which it is measured."""
    if name == "fashion":
        (path,) = fetch("fashion-mnist").rglob("train-images-idx3-ubyte.gz")
        return (
            {"data": (str(path),), "channels": 1, "batch_size": 64, "validation_fraction": 0.05},
            {"data": (str(path),), "part": "held-out", "validation_fraction": 0.05},
        )
    train, held_out = build(folder / "emoji")
    return (
        {
            "data": (str(train),),
            "validation_data": (str(held_out),),
            "image_size": 64,
            "batch_size": 32,
            "flip": True,
        },
        {"data": (str(held_out),)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--sets", nargs="+", choices=["fashion", "emoji"], default=["fashion", "emoji"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.steps} steps, {options.threads} threads\n")
    print("| set | preset | ids | bits an id | PSNR dB | SSIM | used | perplexity | seconds |", flush=True)
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in options.sets:
            training, measuring = data_of(name, folder)
            for preset in options.presets:
                out = folder / name / preset
                began = time.perf_counter()
                train_image(
                    TrainImageOptions(
                        **training,
                        out=str(out),
                        preset=preset,
                        steps=options.steps,
                        validate_every=options.steps,
                        on_collapse="stop",
                        pictures=str(folder / name / "pictures"),
                    )
                )
                seconds = time.perf_counter() - began
                found = evaluate(
                    EvaluateOptions(str(out), **measuring, limit=MEASURED, codecs=False), Progress(enabled=False)
                ).metrics
                spec = load_tokenizer(out).spec
                side = {"fashion": 28, "emoji": 64}[name] // int(spec.step[0] or 1)
                print(
                    f"| {name} | {preset} | {side}x{side} | {math.log2(spec.max_vocab_size):.2f} | {found['psnr']:.2f} "
                    f"| {found['ssim']:.4f} | {found['vocabulary_usage']:.1%} | {found['perplexity']:.0f} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
