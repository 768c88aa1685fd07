"""Encoding a folder of pictures into shards against the bare network on tensors that are in memory already.

    python benchmarks/autoencoder_encoding.py [--rounds 3] [--pictures 3000] [--photos 250] [--base-pictures 40]

Untrained networks (their speed is the same): the tiny preset, and VQGAN's of the base size, on PNG files of emoji (64x64) and on
JPEG files cut from photographs (256x256). ``encode`` does everything: list, read, decode, encode, write, hash, sync, manifest.
``bare`` is the encoder and the quantizer alone, on batches of 64 or 4 pictures. They take turns; the median of the rounds
counts, and the ratio is the median of that of each round. ``bound`` is the ratio of a pipeline that does nothing but run that
network and decode the files, on processors that are never idle: of one thread's time for decoding, taken in the same round.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from emoji_pictures import build
from fetch import fetch
from PIL import Image

from tokenize_kit.media.image import read_image
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.image.tokenizer import AutoencoderTokenizer
from tokenize_kit.tokenizers.learned.pixels import to_pixels
from trainers.autoencoder.image.config import recipe

BATCH_PIXELS = 1 << 18
"""Pixels of a batch of the bare network."""


def emoji_folder(folder: Path, count: int) -> Path:
    """Write PNG files of 64x64 pixels."""
    target = folder / "emoji-files"
    target.mkdir()
    with tarfile.open(build(folder)[0]) as archive:
        for number, member in enumerate(archive.getmembers()[:count]):
            file = archive.extractfile(member)
            assert file is not None, "a member of the tar is a file"
            (target / f"{number:05}.png").write_bytes(file.read())
    return target


def photo_folder(folder: Path, count: int) -> Path:
    """Write JPEG files of 256x256 pixels, cut out of photographs."""
    target = folder / "photo-files"
    target.mkdir()
    paths = sorted(path for path in fetch("photos").rglob("*.jpg") if not path.is_symlink())
    number = 0
    for path in paths:
        picture = Image.open(path).convert("RGB")
        for top in range(0, picture.height - 255, 256):
            for left in range(0, picture.width - 255, 256):
                if number == count:
                    return target
                buffer = io.BytesIO()
                picture.crop((left, top, left + 256, top + 256)).save(buffer, "JPEG", quality=90)
                (target / f"{number:05}.jpg").write_bytes(buffer.getvalue())
                number += 1
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--photos", type=int, default=250)
    parser.add_argument("--base-pictures", type=int, default=40)
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{threads} threads\n")
    print(
        "| pictures | network | bare: pictures/s | decoding: ms | encode: pictures/s | encode / bare | bound |",
        flush=True,
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folders = {64: emoji_folder(root, options.pictures), 256: photo_folder(root, options.photos)}
        for size, name, count in (
            (64, "tiny", options.pictures),
            (256, "tiny", options.photos),
            (256, "base", options.base_pictures),
        ):
            torch.manual_seed(0)
            tokenizer = AutoencoderTokenizer(Autoencoder(recipe("fsq", name).model))
            paths = sorted(folders[size].iterdir())[:count]
            for path in sorted(folders[size].iterdir())[count:]:
                if name == "base":
                    path.unlink()
            pictures = torch.stack([read_image(path.read_bytes(), 3) for path in paths])
            batch = max(1, BATCH_PIXELS // size**2)
            tensors = [to_pixels(part) for part in pictures.split(batch)]
            tokenizer.model.encode(tensors[0])
            speeds: dict[str, list[float]] = {"bare": [], "decode": [], "encode": []}
            for round_ in range(options.rounds):
                began = time.perf_counter()
                for part in tensors:
                    tokenizer.model.encode(part)
                speeds["bare"].append(len(pictures) / (time.perf_counter() - began))
                contents = [path.read_bytes() for path in paths]
                began = time.perf_counter()
                for content in contents:
                    read_image(content, 3)
                speeds["decode"].append(len(pictures) / (time.perf_counter() - began))
                began = time.perf_counter()
                result = encode(
                    EncodeOptions(
                        tokenizer=("image=network",),
                        data=(str(folders[size]),),
                        out=str(root / f"shards-{size}-{name}-{round_}"),
                        limit=None if count == len(list(folders[size].iterdir())) else count,
                    ),
                    loaded={"network": tokenizer},
                )
                speeds["encode"].append(result.rows / (time.perf_counter() - began))
            ratio = statistics.median(a / b for a, b in zip(speeds["encode"], speeds["bare"], strict=True))
            # Seconds of all processors a picture: those of the network, and those with decoding.
            network, decoding = (statistics.median(1 / speed for speed in speeds[key]) for key in ("bare", "decode"))
            bound = threads * network / (threads * network + decoding)
            medians = {key: statistics.median(values) for key, values in speeds.items()}
            print(
                f"| {size}x{size} | {name} | {medians['bare']:.1f} | {decoding * 1e3:.2f} | {medians['encode']:.1f} "
                f"| {ratio:.2f} | {bound:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
