"""The tiny neural codecs on real speech: quality on held-out prompts for every number of codebooks, beside Opus and MP3.

    python benchmarks/codec_speech.py [--presets dac encodec] [--steps 3000] [--threads N] [--out DIR]

``train audio`` learns from the prompts of the set ``speech`` (16 kHz, one speaker) except those whose key falls into the
held-out part. Each preset is then measured on all of these, whole, through its tokenizer: mel distance and SI-SDR (means
over prompts), and which part of each codebook they use. Run it alone; with ``--out`` a run that is finished is only measured
again. The minutes are those of the training's own log: all steps, without the decoding of the data at the start.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import cast

import torch
from fetch import fetch
from torch import Tensor

from tokenize_kit.media.audio import read_audio, self_describing
from tokenize_kit.metrics.audio_codecs import AudioRatePoint, audio_codec_point, audio_point, available_audio_codecs
from tokenize_kit.protocol import Tokenizer, decode_like, load_tokenizer
from tokenize_kit.sources.heldout import held_out
from trainers.autoencoder.audio.options import TrainAudioOptions
from trainers.autoencoder.audio.train import train_audio

FRACTION = 0.08
RATE = 16_000
BIT_RATES = {"opus": (6_000, 8_000, 12_000, 16_000), "mp3": (16_000, 32_000)}


def prompts() -> tuple[Path, list[Tensor]]:
    """Return the folder of the prompts, and those that ``train audio`` holds out, float32 (1, samples)."""
    folder = fetch("speech") / "usr/share/asterisk/sounds/en_US_f_Allison"
    files = [path for path in sorted(folder.rglob("*.g722")) if held_out(str(path.relative_to(folder)), FRACTION)]
    return folder, [read_audio(self_describing(path.name, path.read_bytes()), RATE, 1).samples for path in files]


def train(preset: str, folder: Path, out: Path, steps: int) -> float:
    """Train a preset, or find it trained, and return the minutes of its steps and validations."""
    options = TrainAudioOptions(
        data=(str(folder),),
        out=str(out),
        preset=preset,
        steps=steps,
        validation_fraction=FRACTION,
        validation_sounds=64,
        validate_every=max(1, steps // 3),
        log_every=50,
    )
    train_audio(options)
    lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "samples_per_second" in line]  # a validation between two has a line of its own
    ends = [0, *(line["step"] for line in lines)]
    return sum(
        (line["step"] - before) * options.batch_size / line["samples_per_second"] / 60
        for before, line in zip(ends, lines, strict=False)
    )


def used(grids: list[Tensor], tokenizer: Tokenizer) -> list[float]:
    """Return the part of each codebook that the grids use."""
    ids = torch.cat(grids)
    sizes = tokenizer.spec.codebook_sizes
    return [len(column.unique()) / size for column, size in zip(ids.unbind(1), sizes, strict=True)]


def row(name: str, point: AudioRatePoint, more: str) -> None:
    """Print one row of the table."""
    ratio = "" if point.si_sdr is None else f"{point.si_sdr:.2f}"
    print(f"| {name} | {point.kilobits_per_second:.2f} | {point.mel_distance:.3f} | {ratio} | {more} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=["soundstream", "encodec", "dac"], default=["dac", "encodec"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", help="folder for the tokenizers; a temporary one by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder, sounds = prompts()
        seconds = sum(sound.shape[1] for sound in sounds) / RATE
        print(f"{len(sounds)} held-out prompts, {seconds:.0f} s, {options.threads} threads\n")
        print("| what | kbit/s | mel distance | SI-SDR dB | minutes of training, use of the codebooks |")
        print("| --- | ---: | ---: | ---: | --- |", flush=True)
        for preset in options.presets:
            out = Path(options.out or temporary) / preset
            minutes = train(preset, folder, out, options.steps)
            tokenizer = load_tokenizer(out)
            grids = tokenizer.encode_batch(sounds)
            least = min(used(grids, tokenizer))
            sizes = tokenizer.spec.codebook_sizes
            for count in sorted({1, 2, 3, 4, 6, 8, 11, len(sizes)}):
                made = cast("list[Tensor]", decode_like(tokenizer, [grid[:, :count] for grid in grids], sounds))
                bits = sum(len(grid) for grid in grids) * count * (sizes[0] - 1).bit_length()
                point = audio_point(preset, list(zip(sounds, made, strict=True)), RATE, bits)
                row(
                    f"{preset} tiny, {count} codebooks",
                    point,
                    f"{minutes:.1f}; at least {least:.1%}" if count == len(sizes) else "",
                )
        for name in available_audio_codecs():
            for bit_rate in BIT_RATES[name]:
                row(name, audio_codec_point(sounds, RATE, name, bit_rate), "")


if __name__ == "__main__":
    main()
