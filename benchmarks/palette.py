"""Palettes on photographs: encoding against MiniBatchKMeans.predict, and fitting against MiniBatchKMeans.fit.

    python benchmarks/palette.py [--colors 512] [--pictures 12] [--rounds 3] [--no-fit]

Everything runs in one process on the same pixels, the contenders taking turns, best of the rounds. "ids" compares with
predict for the very same centres. The reading of files is not part of any figure; packing the channels, the look-up and
the widening to int64 are part of ours.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fetch import fetch
from sklearn.cluster import MiniBatchKMeans

from tokenize_kit.media.image import read_image
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.tokenizers.image.colors import NearestColor
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer
from trainers.palette.train import TrainPaletteOptions, train_palette


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--colors", type=int, default=512)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-fit", action="store_true", help="leave out the comparison of fitting")
    options = parser.parse_args()

    files = sorted((fetch("photos") / "usr/share/backgrounds/mate/nature").glob("*.jpg"))[: options.pictures]
    pictures = [read_image(path.read_bytes(), 3) for path in files]
    # The layouts that each contender wants, made before the clock starts.
    rows = [np.ascontiguousarray(picture.reshape(3, -1).T.numpy().astype(np.float32)) for picture in pictures]
    megapixels = sum(len(part) for part in rows) / 1e6
    print(f"{len(pictures)} photographs, {megapixels:.1f} megapixels, {options.colors} colours, ", end="")
    print(f"{torch.get_num_threads()} threads\n")

    with tempfile.TemporaryDirectory() as folder:
        choice = TrainPaletteOptions(
            data=tuple(map(str, files)), out=str(Path(folder) / "palette"), colors=options.colors
        )
        ours_result = train_palette(choice, Progress(enabled=False))
        tokenizer = load_tokenizer(choice.out)
    assert isinstance(tokenizer, PaletteTokenizer)
    centres = tokenizer.colors.numpy().astype(np.float32)
    theirs = MiniBatchKMeans(len(centres), init=centres, n_init=1, max_iter=1).fit(rows[0][: 10 * len(centres)])
    theirs.cluster_centers_ = centres

    planes = np.ascontiguousarray(tokenizer.colors.T.numpy())
    for space in ("rgb", "oklab"):
        build = min(
            seconds(lambda: NearestColor(planes, space).complete(torch.get_num_threads()))  # noqa: B023
            for _ in range(options.rounds)
        )
        print(f"exact table of all 2^24 colours, {space}: {build:.2f} s")

    equal = all(
        np.array_equal(tokenizer.encode(picture).reshape(-1).numpy(), theirs.predict(part))
        for picture, part in zip(pictures, rows, strict=True)
    )
    times: dict[str, list[float]] = {"predict": [], "encode": [], "encode, 1 thread": [], "decode": []}
    threads = torch.get_num_threads()
    grids = tokenizer.encode_batch(pictures)
    for _ in range(options.rounds):
        times["predict"].append(seconds(lambda: [theirs.predict(part) for part in rows]))
        times["encode"].append(seconds(lambda: tokenizer.encode_batch(pictures)))
        times["decode"].append(seconds(lambda: tokenizer.decode_batch(grids)))
        torch.set_num_threads(1)
        times["encode, 1 thread"].append(seconds(lambda: tokenizer.encode_batch(pictures)))
        torch.set_num_threads(threads)
    base = min(times["predict"])
    print(f"\n{'':34} {'Mpx/s':>8} {'times predict':>14}  ids")
    rows_of_table = [
        ("MiniBatchKMeans.predict, float32", "predict", "reference"),
        ("PaletteTokenizer.encode", "encode", "identical" if equal else "DIFFERENT"),
        ("PaletteTokenizer.encode, 1 thread", "encode, 1 thread", "identical" if equal else "DIFFERENT"),
        ("PaletteTokenizer.decode", "decode", ""),
    ]
    for label, name, ids in rows_of_table:
        best = min(times[name])
        print(f"{label:34} {megapixels / best:8.1f} {base / best:14.1f}  {ids}")
    if not equal:
        raise SystemExit("the ids differ from MiniBatchKMeans.predict")
    if not options.no_fit:
        compare_fitting(rows, options.colors, ours_result.psnr, ours_result.seconds)


def compare_fitting(rows: list[Any], colors: int, psnr: float | None, wall: float) -> None:
    everything = np.concatenate(rows)
    sample = everything[np.random.default_rng(0).choice(len(everything), 400_000, replace=False)]
    fitted = MiniBatchKMeans(colors, random_state=0, n_init=1, batch_size=8192)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = seconds(lambda: fitted.fit(sample))
    planes = np.rint(fitted.cluster_centers_.T).clip(0, 255).astype(np.uint8)
    nearest = NearestColor(planes, "rgb")
    error = 0.0
    for part in rows:
        pixels = np.ascontiguousarray(part.T.astype(np.uint8))
        ids = nearest(pixels, torch.get_num_threads())
        error += float(((pixels.astype(np.int64) - planes[:, ids].astype(np.int64)) ** 2).sum())
    theirs = 10 * math.log10(255**2 / (error / everything.size))
    print(f"\n{'fitting':48} {'seconds':>8} {'PSNR of all pixels':>20}")
    print(f"{'MiniBatchKMeans.fit on 400,000 sampled pixels':48} {taken:8.1f} {theirs:17.2f} dB")
    print(f"{'train palette, every pixel, reading included':48} {wall:8.1f} {psnr or math.inf:17.2f} dB")


if __name__ == "__main__":
    main()
