"""The data of `shared_model.py`: English help pages, emoji and animated emoji with their names, spoken prompts with their texts.

    python benchmarks/shared_data.py FOLDER

Samples are held out by the hash of their key. An emoji has the same key as a picture and as a film, so what is held out as one of
them is held out as the other.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

from emoji_films import FPS, films
from fetch import fetch

from tokenize_kit.files import atomic_write, write_text
from tokenize_kit.media.video import write_video

EMOJI = Path(__file__).resolve().parent.parent / "assets" / "emoji.tar"
SIDE = 32
LONGEST_SECONDS = 4
"""Of a prompt; longer ones would make the rows of all kinds of data longer."""
BYTES_A_SECOND = 8000
"""Of G.722 at 64 kbit/s."""
_SHORTEST_PARAGRAPH = 40
_BLOCKS = ("p", "h1", "h2", "h3", "h4", "li", "td", "pre", "div")


class _Paragraphs(HTMLParser):
    """Collects the text of paragraphs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = [""]

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        if tag in _BLOCKS:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.found.append("")

    def handle_data(self, data: str) -> None:
        self.found[-1] += data


def pages(language: str = "en-US") -> Iterator[str]:
    """Yield the sentences of each help page, a paragraph a line; a paragraph that several pages have comes once."""
    seen: set[str] = set()
    for path in sorted(fetch("help-text").glob(f"usr/share/libreoffice/help/{language}/text/**/*.html")):
        parser = _Paragraphs()
        parser.feed(path.read_text(encoding="utf-8", errors="ignore"))
        paragraphs = [" ".join(text.split()) for text in parser.found]
        kept = [text for text in paragraphs if len(text) >= _SHORTEST_PARAGRAPH and text.endswith(".")]
        if new := [text for text in dict.fromkeys(kept) if text not in seen]:
            seen.update(new)
            yield "\n".join(new)


def moving_emoji() -> Iterator[tuple[str, bytes]]:
    """Yield NAME.webp, a lossless film of 32x32 pixels on white, and NAME.txt for each animated emoji of `EMOJI`'s names."""
    with tarfile.open(EMOJI) as archive:
        captions = [member for member in archive if member.name.endswith(".txt")]
        names = {_content(archive, member).decode(): member.name for member in captions}
    points = {
        str(entry["hexcode"]).replace("-FE0F", ""): str(entry["label"])
        for entry in json.loads(
            (fetch("animated-emoji").parent / "emoji-names/en/data.json").read_text(encoding="utf-8")
        )
    }
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "film.webp"
        for _, stem, frames in films(SIDE):
            label = points.get(stem.upper().replace("-FE0F", ""), "")
            if label not in names:
                continue
            write_video(frames, file, FPS)
            yield names[label].replace(".txt", ".webp"), file.read_bytes()
            yield names[label], label.encode()


def prompts() -> Iterator[tuple[str, bytes]]:
    """Yield NAME.g722 and NAME.txt for each prompt that is speech and not too long."""
    folder = fetch("speech") / "usr/share"
    lines = gzip.decompress((folder / "doc/asterisk-core-sounds-en/core-sounds-en.txt.gz").read_bytes()).decode()
    for line in lines.splitlines():
        name, _, said = line.partition(":")
        path = folder / f"asterisk/sounds/en_US_f_Allison/{name.strip()}.g722"
        # In brackets stands what is no speech.
        if line.startswith(";") or not said.strip() or any(sign in said for sign in "[(<") or not path.is_file():
            continue
        if path.stat().st_size <= LONGEST_SECONDS * BYTES_A_SECOND:
            yield f"{name.strip()}.g722", path.read_bytes()
            yield f"{name.strip()}.txt", said.strip().encode()


def build(folder: Path) -> None:
    """Write ``text.txt``, ``speech.tar``, and ``emoji.tar`` in ``pictures`` and ``films``; what is there is not written again.

    The two tars have one name, so that an emoji has the same key as a picture and as a film.
    """
    text, still = folder / "text.txt", folder / "pictures" / EMOJI.name
    still.parent.mkdir(parents=True, exist_ok=True)
    if not text.is_file():
        write_text(text, "\n\n".join(pages()) + "\n")
    if not still.is_file():
        with atomic_write(still) as file:
            file.write(EMOJI.read_bytes())
    for path, members in ((folder / "films" / EMOJI.name, moving_emoji), (folder / "speech.tar", prompts)):
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            _write_tar(path, dict(members()))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "a file of the assets"
    return file.read()


def _write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    with atomic_write(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            archive.addfile(info, io.BytesIO(members[name]))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
