"""Peak memory and speed of `compress` and `decompress` on music of 1 to 10 minutes, 44.1 kHz stereo, through a neural codec.

    python benchmarks/codec_memory.py [--minutes 1 2 5 10] [--tokenizer FOLDER] [--quick]

Pieces of the set ``music`` (48 kHz stereo, resampled) follow one another until a sound is long enough. It goes block by block
from the Ogg files into a .tkc file and from there into a wav file (`compress_pieces`, `decompress_pieces`, `write_blocks`).
Each length is a process of its own with one thread; its peak is ``VmHWM``, all that was resident, Python, torch and the network
included, and ``start`` is what it was before the first block. The codec is the ``dac`` preset of size tiny in stereo with random
weights: memory does not depend on what they have learnt. It is an error if the longest sound needs 5 % more than the shortest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from fetch import fetch

RATE = 44_100
TOLERANCE = 1.05


def music(seconds: float, rate: int, channels: int) -> Iterator[Any]:
    """Yield pieces of music one after the other, in blocks (C, n), until they last ``seconds``."""
    from tokenize_kit.media.audio import stream_audio

    files = sorted((fetch("music") / "usr/share/games/singularity/music").rglob("*.ogg"))
    missing = round(seconds * rate)
    for path in cycle(files):
        for block in stream_audio(path, sample_rate=rate, channels=channels):
            yield block[:, :missing]
            missing -= block.shape[1]
            if missing <= 0:
                return


def peak() -> float:
    """Return the most memory that this process ever had, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this needs Linux")


def worker(folder: str | None, seconds: float) -> None:
    """Compress and decompress one sound, and print what it took as JSON."""
    import torch

    from tokenize_kit.container import compress_pieces, decompress_pieces
    from tokenize_kit.media.audio import write_blocks
    from tokenize_kit.protocol import load_tokenizer
    from tokenize_kit.tokenizers.learned.audio.model import Codec
    from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer
    from trainers.autoencoder.audio.config import audio_recipe

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if folder is None:
        tokenizer: Any = CodecTokenizer(Codec(audio_recipe("dac", sample_rate=RATE, channels=2).model))
    else:
        tokenizer = load_tokenizer(folder)
    rate, channels = tokenizer.spec.sample_rate, tokenizer.spec.channels
    found: dict[str, Any] = {"start": peak(), "samples_mb": seconds * rate * channels * 4 / 2**20}
    with tempfile.TemporaryDirectory() as temporary:
        packed, wav = Path(temporary) / "a.tkc", Path(temporary) / "a.wav"
        begin = time.perf_counter()
        found["bytes"], samples = compress_pieces(tokenizer, music(seconds, rate, channels), packed)
        found["compress"], found["compress_peak"] = time.perf_counter() - begin, peak()
        assert samples == round(seconds * rate)
        begin = time.perf_counter()
        write_blocks(decompress_pieces(tokenizer, packed), wav, rate)
        found["decompress"], found["peak"] = time.perf_counter() - begin, peak()
        assert wav.stat().st_size == 44 + 2 * channels * samples
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 2, 5, 10])
    parser.add_argument("--tokenizer", help="the folder of a trained codec to use instead")
    parser.add_argument("--quick", action="store_true", help="6 and 12 seconds: shows that it runs, not a result")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.tokenizer, options.worker)
        return
    fetch("music")
    heads = ["minutes", "samples, MiB", "start, MiB", "compress, MiB", "both, MiB", "compress, s", "times real time"]
    heads += ["decompress, s", "times real time", ".tkc, bytes"]
    print(f"| {' | '.join(heads)} |")
    print(f"|{' ---: |' * len(heads)}")
    peaks = []
    for minutes in [0.1, 0.2] if options.quick else options.minutes:
        command = [sys.executable, __file__, "--worker", str(60 * minutes)]
        command += [] if options.tokenizer is None else ["--tokenizer", options.tokenizer]
        run = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
        )
        found = json.loads(run.stdout)
        peaks.append(found["peak"])
        print(
            f"| {minutes:g} | {found['samples_mb']:,.0f} | {found['start']:,.0f} | {found['compress_peak']:,.0f} "
            f"| {found['peak']:,.0f} | {found['compress']:.1f} | {60 * minutes / found['compress']:.1f} "
            f"| {found['decompress']:.1f} | {60 * minutes / found['decompress']:.1f} | {found['bytes']:,} |",
            flush=True,
        )
    if peaks[-1] > TOLERANCE * peaks[0]:
        raise SystemExit(f"the peak grew from {peaks[0]:,.0f} to {peaks[-1]:,.0f} MiB: memory is not bounded")


if __name__ == "__main__":
    main()
