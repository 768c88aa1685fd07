"""Animated emoji as films of 64x64 pixels on white at 12 frames a second, in two tars: to train on, and held out by base emoji.

    python benchmarks/emoji_films.py FOLDER

Of the set ``animated-emoji`` those without skin tones. A film is a lossless animated webp; ``train-frames.tar`` and
``held-out-frames.tar`` have the same frames as pictures, for tokenizers that know no time. `build_large` writes the films to
train on larger, so that squares of several sizes can be cut out of them.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from emoji_pictures import HELD_OUT, SKIN, base_of
from fetch import fetch
from PIL import Image
from torch import Tensor

from tokenize_kit.files import atomic_write
from tokenize_kit.media.video import read_video, resize_video, write_video
from tokenize_kit.sources.heldout import key_fraction

SIDE = 64
FPS = 12.0
FRAMES = 17
"""Of a clip; shorter films are left out."""
NAMES = ("train", "held-out")


def films(side: int = SIDE) -> Iterator[tuple[str, str, Tensor]]:
    """Yield base emoji, name and frames, uint8 (T, 3, side, side), of each film that has a clip."""
    paths = sorted(fetch("animated-emoji").glob("*/assets/*.webp"))
    for number, path in enumerate(paths):
        points = tuple(int(point, 16) for point in path.stem.split("-"))
        if any(point in SKIN for point in points):
            continue
        frames = resize_video(read_video(path.read_bytes(), FPS).frames, side)
        if len(frames) >= FRAMES:
            yield base_of(points), path.stem, frames
        if number % 100 == 0:
            print(f"{number} of {len(paths)} files", file=sys.stderr)


def build(folder: Path) -> dict[str, Path]:
    """Write the tars if they are not there, and return their paths by name: train, held-out, and each with ``-frames``."""
    paths = {name + kind: folder / f"{name}{kind}.tar" for name in NAMES for kind in ("", "-frames")}
    if all(path.is_file() for path in paths.values()):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    members: dict[str, list[tuple[str, bytes]]] = {name: [] for name in paths}
    bases: dict[str, set[str]] = {name: set() for name in NAMES}
    with tempfile.TemporaryDirectory() as temporary:
        for base, stem, frames in films():
            side = "held-out" if key_fraction(base) < HELD_OUT else "train"
            bases[side].add(base)
            file = Path(temporary) / "film.webp"
            write_video(frames, file, FPS)
            members[side].append((f"{base}/{stem}.webp", file.read_bytes()))
            for number, frame in enumerate(frames):
                buffer = io.BytesIO()
                Image.fromarray(frame.permute(1, 2, 0).numpy()).save(buffer, "PNG", compress_level=1)
                members[f"{side}-frames"].append((f"{base}/{stem}-{number:03}.png", buffer.getvalue()))
    for name, path in paths.items():
        with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w") as archive:
            for member, content in members[name]:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    for name in NAMES:
        print(f"{paths[name]}: {len(members[name])} films of {len(bases[name])} base emoji")
    return paths


def build_large(folder: Path, side: int) -> Path:
    """Write the films to train on with ``side`` pixels, if they are not there; return the tar."""
    path = folder / f"train-{side}.tar"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as temporary,
        atomic_write(path) as file,
        tarfile.open(fileobj=file, mode="w") as archive,
    ):
        for base, stem, frames in films(side):
            if key_fraction(base) < HELD_OUT:
                continue
            written = Path(temporary) / "film.webp"
            write_video(frames, written, FPS)
            info = tarfile.TarInfo(f"{base}/{stem}.webp")
            info.size = written.stat().st_size
            archive.addfile(info, io.BytesIO(written.read_bytes()))
    return path


def clips(path: Path) -> list[Tensor]:
    """Return the clips of a tar of films, uint8 (17, 3, 64, 64), one after the other; what is left of a film is left out."""
    found = []
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            frames = read_video(file.read(), FPS).frames
            found += [frames[start : start + FRAMES] for start in range(0, len(frames) - FRAMES + 1, FRAMES)]
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]))
