"""How much memory encoding and decoding a video in pieces takes, by its length, up to thousands of frames.

    python benchmarks/video_memory.py [--frames 16 100 500 2000] [--side 64] [--tokenizer FOLDER] [--quick]

Frames are a window that moves over a picture of noise, made one after the other; they go through ``encode_pieces`` and their ids
through ``decode_pieces`` at once, and through an eager ``stream`` besides, so that nothing is kept. Each length is a process of
its own with one thread; its peak is ``VmHWM``, all that was resident, Python, torch and the network included, and ``start`` is
what it was before the first frame. The network is the default one with random weights: memory does not depend on what they have
learnt. It is an error if the longest video needs 5 % more than the shortest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOLERANCE = 1.05
PIECE = 7


def film(frames: int, side: int, channels: int) -> Iterator[Any]:
    """Yield pieces, uint8 (n, C, side, side), of a window over a picture that repeats itself."""
    import torch

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, 8, 8, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(2 * side, 2 * side), mode="bicubic")[0]
    picture = (picture * 255).clamp(0, 255).to(torch.uint8)
    for start in range(0, frames, PIECE):
        steps = range(start, min(frames, start + PIECE))
        yield torch.stack([picture.roll((step, 2 * step), (1, 2))[:, :side, :side] for step in steps])


def peak() -> float:
    """Return the most memory that this process ever had, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this needs Linux")


def worker(folder: str | None, frames: int, side: int) -> None:
    """Encode and decode one video, and print what it took as JSON."""
    import torch

    from tokenize_kit.protocol import load_tokenizer
    from tokenize_kit.tokenizers.learned.video.config import VideoConfig
    from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
    from tokenize_kit.tokenizers.learned.video.tokenizer import VideoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer: Any = VideoTokenizer(VideoAutoencoder(VideoConfig())) if folder is None else load_tokenizer(folder)
    channels = tokenizer.spec.channels
    found: dict[str, Any] = {"start": peak(), "video_mb": frames * side * side * channels / 2**20}
    begin, made = time.perf_counter(), 0
    for part in tokenizer.decode_pieces(tokenizer.encode_pieces(film(frames, side, channels)), frames):
        made += len(part)
    assert made == frames
    found["pieces"], found["pieces_peak"] = time.perf_counter() - begin, peak()
    begin, stream, made = time.perf_counter(), tokenizer.stream(eager=True), 0
    for piece in film(frames, side, channels):
        if len(ids := stream.encode(piece)):
            made += len(stream.decode(ids))
    if len(ids := stream.finish()):
        made += len(stream.decode(ids))
    made += len(stream.finish_decode())
    assert made >= frames
    found["stream"], found["peak"] = time.perf_counter() - begin, peak()
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[16, 100, 500, 2000])
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--tokenizer", help="the folder of a trained tokenizer to use instead")
    parser.add_argument("--quick", action="store_true", help="16 and 40 frames: shows that it runs, not a result")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.tokenizer, options.worker, options.side)
        return
    heads = ["frames", "pixels, MiB", "start, MiB", "pieces, MiB", "and stream, MiB", "pieces, s", "frames a second"]
    print(f"| {' | '.join([*heads, 'stream, s'])} |")
    print(f"|{' ---: |' * (len(heads) + 1)}")
    peaks = []
    for frames in [16, 40] if options.quick else options.frames:
        command = [sys.executable, __file__, "--worker", str(frames), "--side", str(options.side)]
        command += [] if options.tokenizer is None else ["--tokenizer", options.tokenizer]
        run = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
        )
        found = json.loads(run.stdout)
        peaks.append(found["peak"])
        print(
            f"| {frames:,} | {found['video_mb']:,.1f} | {found['start']:,.0f} | {found['pieces_peak']:,.0f} "
            f"| {found['peak']:,.0f} | {found['pieces']:.1f} | {frames / found['pieces']:,.0f} | {found['stream']:.1f} |",
            flush=True,
        )
    if peaks[-1] > TOLERANCE * peaks[0]:
        raise SystemExit(f"the peak grew from {peaks[0]:,.0f} to {peaks[-1]:,.0f} MiB: memory is not bounded")


if __name__ == "__main__":
    main()
