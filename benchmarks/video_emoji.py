"""A video tokenizer beside a frame-by-frame one of equal bits and equal training time, and H.264, on held-out animated emoji.

    python benchmarks/video_emoji.py [--minutes 20] [--only video image frames] [--zoom 1.25] [--threads N] [--out FOLDER]

Clips of 17 frames of 64x64 pixels on white at 12 a second; base emoji are on one side of the split (`emoji_films.py`). With
``--zoom`` squares of that and less are cut out of larger films for each clip that ``video`` and ``frames`` learn from.

- ``video``: the tiny fsq preset of ``train video``, 4x8x8 pixels an id of 13.9 bits: 5 x 64 ids a clip;
- ``image``: ``train image`` on the frames, 16x16 pixels an id of 16.4 bits;
- ``frames``: the same body as ``video`` with the same bits as ``image``, trained on single frames.

Each is trained for so many minutes of its steps; a run that was stopped continues with the same command if ``--out`` names a
folder. PSNR is the mean over the held-out clips after rounding to 8 bits; usage counts the codes in all clips of both sides. The
points of H.264 are those of `tokenize_kit.metrics.video_codecs`, without container and SEI.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from emoji_films import FPS, FRAMES, SIDE, build, build_large, clips
from torch import Tensor

from tokenize_kit.files import read_json_object, write_json
from tokenize_kit.media.video import write_video
from tokenize_kit.metrics.image import psnr
from tokenize_kit.metrics.video_codecs import video_codec_curve, video_point
from tokenize_kit.metrics.video_coding import available_video_codecs
from tokenize_kit.protocol import Tokenizer, load_tokenizer
from trainers.autoencoder.image.options import NetworkOverrides, TrainImageOptions
from trainers.autoencoder.image.train import train_image
from trainers.autoencoder.options import OptimizerOverrides, QuantizerOverrides
from trainers.autoencoder.video.options import TrainVideoOptions, VideoNetworkOverrides
from trainers.autoencoder.video.train import train_video
from trainers.exhibits import grid_of

OPTIMIZER = OptimizerOverrides(optimizer="muon", muon_learning_rate=5e-3)
"""Of ``video`` and ``frames``, with batches of 4 clips: what came furthest in trials of 150 seconds a core."""
RATES = (0.05, 0.064, 0.09, 0.12)
LEVELS = QuantizerOverrides(levels=(7, 7, 7, 7, 6, 6))
"""86,436 codes, 16.4 bits: 16 ids of a frame are 0.064 bits a pixel."""
WARM = 10
"""Steps of a trial that are not timed."""


def video_options(folder: Path, data: dict[str, Path], **changes: Any) -> TrainVideoOptions:
    values: dict[str, Any] = {
        "films": str(folder / "films"),
        "flip": True,
        "fps": FPS,
        "clip_frames": FRAMES,
        "image_size": 64,
        "batch_size": 4,
        "optimizer": OPTIMIZER,
    }
    return TrainVideoOptions(data=(str(data["films"]),), validation_data=(str(data["held-out"]),), **values | changes)


def image_options(folder: Path, data: dict[str, Path], **changes: Any) -> TrainImageOptions:
    network = NetworkOverrides(
        patch=4, width=48, multipliers=(1, 2, 4), encoder_blocks=(0, 1, 1), decoder_blocks=(0, 1, 2)
    )
    return TrainImageOptions(
        data=(str(data["train-frames"]),),
        validation_data=(str(data["held-out-frames"]),),
        pictures=str(folder / "pictures"),
        image_size=64,
        flip=True,
        network=network,
        quantizer=LEVELS,
        batch_size=64,
        **changes,
    )


def frame_options(folder: Path, data: dict[str, Path], **changes: Any) -> TrainVideoOptions:
    network = VideoNetworkOverrides(spatial_factor=16)
    changes |= {"clip_frames": 1, "film_frames": 8 * FRAMES, "batch_size": 4 * FRAMES}
    return video_options(folder, data, network=network, quantizer=LEVELS, **changes)


KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "video": (video_options, train_video),
    "image": (image_options, train_image),
    "frames": (frame_options, train_video),
}


def train(kind: str, folder: Path, data: dict[str, Path], minutes: float, zoom: float) -> tuple[Path, int, float]:
    """Train a tokenizer, or continue; returns its folder, its steps, and the minutes that they took."""
    options, run = KINDS[kind]

    def trained(out: Path, steps: int) -> float:
        common: dict[str, Any] = {
            "out": str(out),
            "steps": steps,
            "validate_every": max(1, steps // 4),
            "log_every": WARM,
        }
        if kind != "image":
            common["max_scale"] = zoom
        began = time.monotonic()
        run(options(folder, data, **common))
        seconds = time.monotonic() - began
        lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
        batch = options(folder, data, **common).batch_size
        timed = [WARM * batch / line["samples_per_second"] for line in lines if "samples_per_second" in line]
        # Of a trial all but the first steps; of a run all of them.
        return sum(timed[1:]) if out.name == "trial" else min(seconds, sum(timed)) or sum(timed)

    plan = folder / f"{kind}.json"
    if not plan.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            second = trained(Path(temporary) / "trial", 4 * WARM) / (3 * WARM)
        write_json(plan, {"steps": max(WARM, int(60 * minutes / second) // WARM * WARM)})
    steps = int(read_json_object(plan)["steps"])
    return folder / kind, steps, trained(folder / kind, steps) / 60


def coded(kind: str, tokenizer: Tokenizer, videos: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the ids of videos of one length, and what comes back: whole, as pictures, or as videos of one frame."""
    parts = {"video": lambda video: [video], "image": list, "frames": lambda video: list(video.split(1))}[kind]
    grids = tokenizer.encode_batch([part for video in videos for part in parts(video)])
    made = [part for part in tokenizer.decode_batch(grids) if isinstance(part, Tensor)]
    joined = torch.stack(made) if kind == "image" else torch.cat(made)
    return grids, list(joined.split(len(videos[0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training each")
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=["video", "image"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--zoom", type=float, default=1.0, help="how large films to train on are beside the clips")
    parser.add_argument("--clips", type=int, help="measure on the first so many held-out clips alone")
    parser.add_argument("--out", help="folder for the tokenizers and a film of examples; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary)
        data = build(folder / "emoji")
        data["films"] = (
            data["train"] if options.zoom == 1 else build_large(folder / "emoji", round(options.zoom * SIDE))
        )
        held, learned = clips(data["held-out"])[: options.clips], clips(data["train"])[: options.clips]
        pixels = sum(video.numel() for video in held) // 3
        print(f"{len(held)} held-out clips, {len(learned)} others, {torch.get_num_threads()} threads\n")
        print(
            "| tokenizer | codes | bits a pixel | PSNR dB | first frame dB | usage | parameters | steps | minutes |",
            flush=True,
        )
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        shown = [held[:6]]
        for kind in options.only:
            out, steps, minutes = train(kind, folder, data, options.minutes, options.zoom)
            tokenizer: Any = load_tokenizer(out)
            grids, made = coded(kind, tokenizer, held)
            codes = tokenizer.spec.max_vocab_size
            bits = sum(grid.numel() for grid in grids) * math.log2(codes)
            point = video_point(kind, list(zip(held, made, strict=True)), bits, FPS)
            first = sum(psnr(one[0], other[0]) for one, other in zip(held, made, strict=True)) / len(held)
            every = [*grids, *coded(kind, tokenizer, learned)[0]]
            used = len(torch.cat([grid.reshape(-1) for grid in every]).unique()) / codes
            size = sum(parameter.numel() for parameter in tokenizer.model.parameters())
            assert math.isclose(point.bits_per_pixel, bits / pixels)
            print(
                f"| {kind} | {codes} | {point.bits_per_pixel:.4f} | {point.psnr:.2f} | {first:.2f} | {used:.1%} | {size:,} "
                f"| {steps} | {minutes:.1f} |",
                flush=True,
            )
            shown.append(made[:6])
        print("\n| codec | setting | pixels | bits a pixel | PSNR dB |")
        print("| --- | ---: | --- | ---: | ---: |")
        if "h264" in available_video_codecs():
            for found in video_codec_curve(held, "h264", RATES, FPS).points:
                print(
                    f"| h264 | {found.setting} | {found.pixel_format} | {found.bits_per_pixel:.4f} | {found.psnr:.2f} |",
                    flush=True,
                )
        if options.out:
            sheets = [grid_of([[video[time] for video in row] for row in shown]) for time in range(FRAMES)]
            write_video(torch.stack(sheets), folder / "emoji.webp", FPS)


if __name__ == "__main__":
    main()
