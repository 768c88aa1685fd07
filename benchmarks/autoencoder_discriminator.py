"""The ``vqgan`` preset with and without its discriminator, on 64x64 emoji: what it costs in PSNR and gains in sharpness.

    python benchmarks/autoencoder_discriminator.py [--steps 800] [--threads N] [--out FOLDER]

The same options and batches but for ``--loss.discriminator none``. Sharpness needs no pretrained weights: the mean gradient and
the power of the finest octave of the reconstructions, over those of the originals (1 is as sharp as they are), and the distance
between the distributions of gradients in grey levels. ``--out`` keeps the tokenizers and a sheet of pictures: originals, without,
with.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from autoencoder_emoji import held_out
from emoji_pictures import build
from torch import Tensor

from tokenize_kit.media.image import write_image
from tokenize_kit.metrics.image_codecs import point_of
from tokenize_kit.metrics.sharpness import Sharpness
from tokenize_kit.protocol import load_tokenizer
from trainers.autoencoder.image.options import LossOverrides, TrainImageOptions
from trainers.autoencoder.image.train import train_image
from trainers.exhibits import grid_of

RUNS: dict[str, Any] = {
    "without": LossOverrides(discriminator="none", feature_matching_weight=0.0, lecam_weight=0.0),
    "with": LossOverrides(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", help="folder for the tokenizers and the sheet; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        train, held = build(folder / "emoji")
        pictures = held_out(held)
        rows = [pictures[:12]]
        print(f"{options.steps} steps, {len(pictures)} held-out pictures, {options.threads} threads\n")
        print(
            "| discriminator | PSNR dB | gradient ratio | finest octave ratio | gradient distance | seconds |",
            flush=True,
        )
        print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for name, loss in RUNS.items():
            began = time.perf_counter()
            train_image(
                TrainImageOptions(
                    data=(str(train),),
                    validation_data=(str(held),),
                    out=str(folder / name),
                    preset="vqgan",
                    loss=loss,
                    image_size=64,
                    flip=True,
                    batch_size=32,
                    steps=options.steps,
                    validate_every=options.steps,
                    pictures=str(folder / "pictures"),
                )
            )
            seconds = time.perf_counter() - began
            tokenizer = load_tokenizer(folder / name)
            grids = tokenizer.encode_batch(pictures)
            made = [picture for picture in tokenizer.decode_batch(grids) if isinstance(picture, Tensor)]
            sharpness = Sharpness()
            pairs = list(zip(pictures, made, strict=True))
            for original, reconstruction in pairs:
                sharpness.add(original, reconstruction)
            found = sharpness.summary()
            print(
                f"| {name} | {point_of(name, pairs, 0).psnr:.2f} | {found['gradient_ratio']:.3f} "
                f"| {found['upper_octave_ratio']:.3f} | {found['gradient_distance']:.2f} | {seconds:.0f} |",
                flush=True,
            )
            rows.append(made[:12])
        if options.out:
            write_image(grid_of(rows), folder / "discriminator.png")


if __name__ == "__main__":
    main()
