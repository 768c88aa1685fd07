"""Rate and distortion of learned tokenizers on held-out 64x64 emoji, beside WebP, AVIF and JPEG.

    python benchmarks/autoencoder_emoji.py [--points 64 128 256] [--minutes 10] [--out FOLDER]

Each point is a tokenizer of its own, trained by ``train image`` for at most so many minutes on emoji whose base emoji are not
among the held-out ones (`emoji_pictures.py`). Bytes a picture are its ids at a fixed length (log2 of the number of codes each);
those of the codecs are whole files, as no smaller ones can be had from Pillow. PSNR is the mean over pictures after rounding to
8 bits. A run that was stopped continues with the same command if ``--out`` names a folder.
"""

from __future__ import annotations

import argparse
import json
import math
import tarfile
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from emoji_pictures import build
from torch import Tensor

from tokenize_kit.files import read_json_object, write_json
from tokenize_kit.media.image import read_image, write_image
from tokenize_kit.metrics.image import ssim
from tokenize_kit.metrics.image_codecs import codec_curve, point_of
from tokenize_kit.protocol import load_tokenizer
from trainers.autoencoder.image.options import NetworkOverrides, TrainImageOptions
from trainers.autoencoder.image.train import train_image
from trainers.autoencoder.options import QuantizerOverrides
from trainers.exhibits import grid_of

PICTURES = 300
"""Held-out pictures that are compared."""
POINTS: dict[int, dict[str, Any]] = {
    64: {
        "network": NetworkOverrides(
            patch=2, width=32, multipliers=(1, 2, 4), encoder_blocks=(0, 1, 1), decoder_blocks=(0, 1, 2)
        ),
        "quantizer": QuantizerOverrides(levels=(8, 6, 5)),
    },
    128: {
        "network": NetworkOverrides(
            patch=2, width=32, multipliers=(1, 2, 4), encoder_blocks=(0, 1, 1), decoder_blocks=(0, 1, 2)
        ),
        "quantizer": QuantizerOverrides(levels=(8, 8, 8, 5, 5, 5)),
    },
    256: {"network": NetworkOverrides(), "quantizer": QuantizerOverrides(levels=(8, 6, 5))},
}
"""The grid of ids is 8x8 or 16x16; the rest is the tiny fsq preset."""
QUALITIES = {"webp": (1, 3, 5, 8, 12, 20), "avif": (1, 10, 20, 30), "jpeg": (1, 5, 10, 20)}


def train(point: int, folder: Path, data: tuple[Path, Path], minutes: float, batch: int) -> tuple[Path, float]:
    """Train one point, or continue; returns its folder and the minutes that its steps took."""

    def run(out: Path, steps: int) -> float:
        options = TrainImageOptions(
            data=(str(data[0]),),
            validation_data=(str(data[1]),),
            out=str(out),
            image_size=64,
            flip=True,
            steps=steps,
            batch_size=batch,
            validate_every=steps,
            checkpoint_every=200,
            log_every=10,
            pictures=str(folder / "pictures"),
            **POINTS[point],
        )
        train_image(options)
        lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
        return sum(10 * batch / line["samples_per_second"] for line in lines if line["step"] % 10 == 0) / 60

    plan = folder / f"{point}.json"
    if not plan.is_file():
        with tempfile.TemporaryDirectory(dir=folder, prefix="trial-") as trial_folder:
            trial = run(Path(trial_folder) / "run", 20) / 20
        write_json(plan, {"steps": int(0.92 * minutes / trial) // 10 * 10})
    steps = int(read_json_object(plan)["steps"])
    return folder / f"point-{point}", run(folder / f"point-{point}", steps)


def held_out(path: Path) -> list[Tensor]:
    """Return the pictures to compare, uint8 (3, 64, 64), evenly spread over the tar."""
    with tarfile.open(path) as archive:
        names = archive.getnames()
        chosen = [names[place * len(names) // PICTURES] for place in range(PICTURES)]
        files = [archive.extractfile(name) for name in chosen]
        return [read_image(file.read(), 3) for file in files if file is not None]


def at(curve: list[tuple[float, float]], size: float) -> float | None:
    """Return the PSNR of a curve at a size, by straight lines between its points; None outside it."""
    for (low, below), (high, above) in pairwise(curve):
        if low <= size <= high:
            return below + (above - below) * (size - low) / (high - low)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", type=int, choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--minutes", type=float, default=10.0, help="of training a point")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", help="folder for the models and a sheet of pictures; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        data = build(folder)
        pictures = held_out(data[1])
        print(f"{len(pictures)} held-out pictures, {torch.get_num_threads()} threads\n")
        print("| tokenizer | grid | codes | bytes a picture | PSNR dB | SSIM | codes used | minutes |", flush=True)
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        ours: list[tuple[float, float]] = []
        rows = [pictures[:12]]
        for point in options.points:
            out, minutes = train(point, folder, data, options.minutes, options.batch_size)
            tokenizer = load_tokenizer(out)
            grids = tokenizer.encode_batch(pictures)
            made = [picture for picture in tokenizer.decode_batch(grids) if isinstance(picture, Tensor)]
            codes = tokenizer.spec.max_vocab_size
            size = sum(grid.numel() for grid in grids) * math.log2(codes) / 8
            found = point_of("ours", list(zip(pictures, made, strict=True)), size)
            assert found.psnr is not None, "a lossy tokenizer gave every picture back exactly"
            likeness = sum(ssim(a, b) for a, b in zip(pictures, made, strict=True)) / len(made)
            used = len(torch.cat([grid.reshape(-1) for grid in grids]).unique()) / codes
            side = "x".join(map(str, grids[0].shape))
            print(
                f"| fsq {point} | {side} | {codes} | {found.bytes:.0f} | {found.psnr:.2f} | {likeness:.4f} | {used:.0%} "
                f"| {minutes:.1f} |",
                flush=True,
            )
            ours.append((found.bytes, found.psnr))
            rows.append(made[:12])
        print("\n| codec | quality | bytes a picture | PSNR dB | ours at that size |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for codec, qualities in QUALITIES.items():
            for found in codec_curve(pictures, codec, qualities):
                mine = at(sorted(ours), found.bytes)
                beside = "beyond our points" if mine is None else f"{mine:.2f}"
                print(f"| {codec} | {found.quality} | {found.bytes:.0f} | {found.psnr:.2f} | {beside} |", flush=True)
        if options.out:
            write_image(grid_of(rows), folder / "emoji.png")


if __name__ == "__main__":
    main()
