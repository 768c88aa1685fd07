"""The ``vqgan`` preset of ``train video`` with and without its discriminator, on animated emoji: what it costs and what it gains.

    python benchmarks/video_discriminator.py [--steps 600] [--judges clips] [--size tiny] [--threads N] [--out FOLDER]

The same options and batches but for ``--loss.discriminator none``, on clips of 17 frames of 64x64 pixels (`emoji_films.py`).
Sharpness is that of the frames, as in `autoencoder_discriminator.py` (1 is as sharp as the originals); the last column is the
mean absolute difference of following frames over that of the originals: below 1 motion is smeared, above it flickers. ``--out``
keeps the tokenizers and a film: originals, without, with.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from emoji_films import FPS, FRAMES, build, clips
from torch import Tensor

from tokenize_kit.media.video import write_video
from tokenize_kit.metrics.image import psnr
from tokenize_kit.metrics.sharpness import Sharpness
from tokenize_kit.protocol import load_tokenizer
from trainers.autoencoder.video.options import TrainVideoOptions, VideoLossOverrides
from trainers.autoencoder.video.train import train_video
from trainers.exhibits import grid_of


def losses(judges: str) -> dict[str, Any]:
    none = {"discriminator": "none", "feature_matching_weight": 0.0, "lecam_weight": 0.0}
    return {"without": VideoLossOverrides(**none), "with": VideoLossOverrides(judges=judges)}


def motion(videos: list[Tensor]) -> float:
    """Return the mean absolute difference of following frames, in levels."""
    return sum(float((video[1:].float() - video[:-1].float()).abs().mean()) for video in videos) / len(videos)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--judges", choices=["clips", "frames", "both"], default="clips")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--clips", type=int, help="measure on the first so many held-out clips alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", help="folder for the tokenizers and the film; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        data = build(folder / "emoji")
        held = clips(data["held-out"])[: options.clips]
        shown = [held[:6]]
        print(f"{options.steps} steps, {len(held)} held-out clips, {torch.get_num_threads()} threads\n")
        print(
            "| discriminator | PSNR dB | gradient ratio | finest octave ratio | gradient distance | motion ratio | seconds |",
            flush=True,
        )
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for name, loss in losses(options.judges).items():
            began = time.perf_counter()
            train_video(
                TrainVideoOptions(
                    data=(str(data["train"]),),
                    validation_data=(str(data["held-out"]),),
                    out=str(folder / name),
                    preset="vqgan",
                    size=options.size,
                    loss=loss,
                    image_size=64,
                    fps=FPS,
                    clip_frames=FRAMES,
                    flip=True,
                    batch_size=options.batch_size,
                    steps=options.steps,
                    validate_every=options.steps,
                    films=str(folder / "films"),
                )
            )
            seconds = time.perf_counter() - began
            tokenizer = load_tokenizer(folder / name)
            grids = tokenizer.encode_batch(held)
            made = [video[:FRAMES] for video in tokenizer.decode_batch(grids) if isinstance(video, Tensor)]
            sharpness = Sharpness()
            for original, reconstruction in zip(held, made, strict=True):
                for frame, other in zip(original, reconstruction, strict=True):
                    sharpness.add(frame, other)
            found = sharpness.summary()
            quality = sum(psnr(one, other) for one, other in zip(held, made, strict=True)) / len(held)
            print(
                f"| {name} | {quality:.2f} | {found['gradient_ratio']:.3f} | {found['upper_octave_ratio']:.3f} "
                f"| {found['gradient_distance']:.2f} | {motion(made) / motion(held):.3f} | {seconds:.0f} |",
                flush=True,
            )
            shown.append(made[:6])
        if options.out:
            sheets = [grid_of([[video[time] for video in row] for row in shown]) for time in range(FRAMES)]
            write_video(torch.stack(sheets), folder / "discriminator.webp", FPS)


if __name__ == "__main__":
    main()
