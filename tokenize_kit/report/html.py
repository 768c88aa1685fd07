"""A report as one self-contained HTML file: headings, tables, pictures, videos, curves and a token view of a text.

It knows nothing of tokenizers or models: callers hand it samples, numbers and the bytes of tokens. Pictures are embedded
as PNG, videos as animated WebP, curves as SVG, so that the file can be mailed or archived as it is. No script runs in it.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tokenize_kit.files import write_text

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from torch import Tensor

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); }
th { text-align: left; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: .4rem; text-align: center; vertical-align: top; }
figure img { image-rendering: pixelated; background: #fff; border: 1px solid var(--line); }
figcaption { font-size: .8rem; max-width: 9rem; overflow-wrap: anywhere; }
figure.pair { border: 1px solid var(--line); border-radius: .3rem; padding: .5rem; }
figure.pair img + img { margin-left: .4rem; } figure.pair figcaption { max-width: none; contain: inline-size; text-align: left; }
figure.sound img + img { margin: 0; } figure.sound { text-align: left; } figure.sound audio { height: 2rem; width: 16rem; }
figure.video .stills { margin-top: .4rem; } figure.video .stills img { margin: 0 .2rem 0 0; }
figcaption b { float: right; margin-left: 1rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } .notes { font-size: .85rem; padding-left: 1.2rem; opacity: .8; }
.tokens { font: 14px/2 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.tokens { padding: 1rem; background: var(--soft); }
.tokens span { border-radius: .2rem; padding: .1rem 0; } .plot svg { max-width: 100%; height: auto; background: #fff; }
blockquote { white-space: pre-wrap; border-left: .2rem solid var(--line); margin: 1rem 0; padding: .2rem 1rem; }
"""
_HISTOGRAM_POINTS = 400
_TOKEN_COLOURS = ("#f9c74f88", "#90be6d88", "#4d908e88", "#577590aa", "#f8961e88", "#f9414477")


_SURE = 1.0
"""Bits that are never the darkest ground: a text of which all is foreseen stays light."""

_LARGEST_SHOWN = 320
"""Pixels of the longer side; a larger picture is shown smaller."""

_ENLARGED_TO = 144
"""Small pictures are enlarged, by a whole factor, to about this many pixels."""


_STILL = 96
"""Pixels of the longer side of a still of a video."""


class Pair(NamedTuple):
    """An original beside its reconstruction."""

    original: Tensor
    """uint8 ``(C, H, W)``."""
    reconstruction: Tensor
    """Of the same shape."""
    caption: str
    """Which picture it is."""
    note: str
    """What was measured."""


class SoundPair(NamedTuple):
    """A sound beside its reconstruction."""

    original: Tensor
    """float32 ``(C, samples)`` in [-1, 1]."""
    reconstruction: Tensor
    """Of the same shape."""
    caption: str
    """Which sound it is."""
    note: str
    """What was measured."""


class VideoPair(NamedTuple):
    """A video beside its reconstruction."""

    original: Tensor
    """uint8 ``(T, C, H, W)``."""
    reconstruction: Tensor
    """Of the same shape."""
    caption: str
    """Which video it is."""
    note: str
    """What was measured."""


class Page:
    """Collects parts from top to bottom and writes them as one file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Add a section heading."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def paragraph(self, text: str) -> None:
        """Add a paragraph of plain text."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def notes(self, lines: Sequence[str]) -> None:
        """Add remarks in small print, one a line."""
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        self._parts.append(f'<ul class="notes">{items}</ul>')

    def quote(self, text: str) -> None:
        """Add a text sample with its line breaks kept."""
        self._parts.append(f"<blockquote>{escape(text)}</blockquote>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; numbers are aligned to the right.

        Raises:
            ValueError: a row has another length than the header.
        """
        head = "".join(f"<th>{escape(name)}</th>" for name in header)
        body = ""
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"table row {row} has {len(row)} cells, the header has {len(header)}")
            body += "<tr>" + "".join(_cell(value) for value in row) + "</tr>"
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        self._parts.append(f'<div class="scroll">{table}</div>')

    def pictures(self, pictures: Sequence[tuple[Tensor, str]], scale: int = 1) -> None:
        """Add pictures side by side.

        Args:
            pictures: pairs of a uint8 tensor ``(C, H, W)`` and its caption.
            scale: how many screen pixels a picture's pixel takes.
        """
        figures = ""
        for image, caption in pictures:
            height, width = image.shape[-2] * scale, image.shape[-1] * scale
            figures += (
                f'<figure><img src="data:image/png;base64,{_png(image)}" width="{width}" height="{height}" '
                f'alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
            )
        self._parts.append(f"<div>{figures}</div>")

    def pairs(self, pairs: Sequence[Pair]) -> None:
        """Add originals, each with its reconstruction to its right; small ones enlarged, large ones shown smaller."""
        figures = ""
        for pair in pairs:
            images = ""
            for what, image in (("original", pair.original), ("reconstruction", pair.reconstruction)):
                shown = _shown(image)
                images += (
                    f'<img src="data:image/png;base64,{_png(shown.image)}" width="{shown.width}" height="{shown.height}" '
                    f'alt="{what}">'
                )
            caption = f"<b>{escape(pair.note)}</b>{escape(pair.caption)}"
            figures += f'<figure class="pair">{images}<figcaption>{caption}</figcaption></figure>'
        self._parts.append(f"<div>{figures}</div>")

    def sounds(self, pairs: Sequence[SoundPair], sample_rate: int) -> None:
        """Add originals, each with its reconstruction below: a spectrogram and a player with the sound in the page."""
        figures = ""
        for pair in pairs:
            parts = "".join(
                _player(sound, sample_rate, what)
                for what, sound in (("original", pair.original), ("reconstruction", pair.reconstruction))
            )
            caption = f"<b>{escape(pair.note)}</b>{escape(pair.caption)}"
            figures += f'<figure class="pair sound">{parts}<figcaption>{caption}</figcaption></figure>'
        self._parts.append(f"<div>{figures}</div>")

    def recordings(self, recordings: Sequence[tuple[Tensor, str]], sample_rate: int) -> None:
        """Add sounds side by side: a spectrogram and a player with the sound in the page.

        Args:
            recordings: pairs of a float32 tensor ``(C, samples)`` in [-1, 1] and its caption.
            sample_rate: samples a second.
        """
        figures = ""
        for sound, caption in recordings:
            part = _player(sound, sample_rate, "sound")
            figures += f'<figure class="pair sound">{part}<figcaption>{escape(caption)}</figcaption></figure>'
        self._parts.append(f"<div>{figures}</div>")

    def videos(self, pairs: Sequence[VideoPair], frame_rate: float) -> None:
        """Add originals, each with its reconstruction to its right in one animation, so that both play in step.

        Below them are the first, the middle and the last frame of what is shown, originals above reconstructions.

        Args:
            pairs: what is shown; of long videos the first frames, of large ones fewer pixels.
            frame_rate: frames a second.
        """
        figures = ""
        for pair in pairs:
            caption = f"<b>{escape(pair.note)}</b>{escape(pair.caption)}"
            parts = _animated(pair, frame_rate) + _stills(pair)
            figures += f'<figure class="pair video">{parts}<figcaption>{caption}</figcaption></figure>'
        self._parts.append(f"<div>{figures}</div>")

    def films(self, films: Sequence[tuple[Tensor, str]], frame_rate: float) -> None:
        """Add videos side by side, playing.

        Args:
            films: pairs of a uint8 tensor ``(T, C, H, W)`` and its caption.
            frame_rate: frames a second.
        """
        figures = ""
        for film, caption in films:
            part = _playing(film, frame_rate, max(1, _ENLARGED_TO // max(film.shape[-2:])), caption)
            figures += f"<figure>{part}<figcaption>{escape(caption)}</figcaption></figure>"
        self._parts.append(f"<div>{figures}</div>")

    def curves(
        self,
        curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        x_label: str,
        y_label: str,
        *,
        points: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
        log_x: bool = False,
        log_y: bool = False,
    ) -> None:
        """Add one plot of several curves, each a pair of x and y values of equal length.

        Args:
            curves: by the name that the legend gives.
            x_label: below the plot.
            y_label: beside it.
            points: drawn as large marks, joined by a dashed line.
            log_x: logarithmic, all x above 0.
            log_y: logarithmic, all y above 0.
        """
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context({"svg.hashsalt": self.title, "svg.fonttype": "none"}):
            figure = Figure(figsize=(8, 3.2), layout="constrained")
            axes = figure.subplots()
            for name, (x, y) in curves.items():
                axes.plot(x, y, label=name, marker="o" if len(x) < 30 else None, markersize=3)
            for number, (name, (x, y)) in enumerate((points or {}).items()):
                axes.plot(x, y, label=name, marker="*o^sD"[number % 5], markersize=9, linestyle="--", zorder=3)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
            if log_x:
                axes.set_xscale("log")
                _legible(axes.xaxis)
            if log_y:
                axes.set_yscale("log")
                _legible(axes.yaxis)
            axes.grid(alpha=0.3)
            if len(curves) + len(points or {}) > 1:
                axes.legend()
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        svg = buffer.getvalue()
        self._parts.append(f'<div class="plot">{svg[svg.index("<svg") :]}</div>')

    def histogram(self, counts: Mapping[str, Sequence[int]], x_label: str, y_label: str) -> None:
        """Add one curve of counts a name, sorted from the most to the least frequent, on a logarithmic scale.

        Args:
            counts: positive numbers by the name that the legend gives; of many, some hundred are drawn.
            x_label: below the plot.
            y_label: beside it.
        """
        curves = {}
        for name, values in counts.items():
            ordered = sorted(values, reverse=True)
            step = max(1, len(ordered) // _HISTOGRAM_POINTS)
            places = sorted({*range(0, len(ordered), step), *range(min(20, len(ordered))), len(ordered) - 1})
            curves[name] = ([place + 1 for place in places], [ordered[place] for place in places])
        self.curves(curves, x_label, y_label, log_y=True)

    def tokens(self, tokens: Sequence[bytes], ids: Sequence[int]) -> None:
        """Add a text with each token on its own ground and its id as a tooltip; bytes that are no text show as hex."""
        if len(tokens) != len(ids):
            raise ValueError(f"{len(tokens)} tokens for {len(ids)} ids")
        spans = "".join(
            f'<span title="{number}" style="background:{_TOKEN_COLOURS[place % len(_TOKEN_COLOURS)]}">'
            f"{escape(_visible(token))}</span>"
            for place, (token, number) in enumerate(zip(tokens, ids, strict=True))
        )
        self._parts.append(f'<div class="tokens">{spans}</div>')

    def surprises(self, tokens: Sequence[bytes], bits: Sequence[float]) -> None:
        """Add a text with each token on a ground as dark as its bits, which are its tooltip.

        Raises:
            ValueError: there are not as many bits as tokens.
        """
        if len(tokens) != len(bits):
            raise ValueError(f"{len(tokens)} tokens for {len(bits)} bits")
        most = max([*bits, _SURE])
        spans = "".join(
            f'<span title="{value:.2f} bits" style="background:rgba(220,50,30,{value / most:.2f})">'
            f"{escape(_visible(token))}</span>"
            for token, value in zip(tokens, bits, strict=True)
        )
        self._parts.append(f'<div class="tokens">{spans}</div>')

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page, whole or not at all, and return its path."""
        title = escape(self.title)
        html = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width">'
            f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n" + "\n".join(self._parts) + "\n</body></html>\n"
        )
        # A lone surrogate in a sample's text cannot be written as UTF-8.
        write_text(path, html.encode("utf-8", "replace").decode("utf-8"))
        return Path(path)


def _player(sound: Tensor, sample_rate: int, what: str) -> str:
    from tokenize_kit.media.audio import wav_bytes
    from tokenize_kit.report.spectrogram import spectrogram

    picture = spectrogram(sound, sample_rate)
    height, width = picture.shape[1:]
    wav = base64.b64encode(wav_bytes(sound, sample_rate)).decode("ascii")
    return (
        f'<div><img src="data:image/png;base64,{_png(picture)}" width="{width}" height="{height}" '
        f'alt="spectrogram of the {what}"><br><audio controls preload="none" '
        f'src="data:audio/wav;base64,{wav}"></audio> {what}</div>'
    )


def _animated(pair: VideoPair, frame_rate: float) -> str:
    from tokenize_kit.report.animation import GAP, side_by_side

    scale = max(1, _ENLARGED_TO // max(pair.original.shape[-2:]))
    # The gap is enlarged with the rest.
    both = side_by_side([pair.original, pair.reconstruction], max(1, GAP // scale))
    return f"<div>{_playing(both, frame_rate, scale, 'original and reconstruction, playing')}</div>"


def _playing(film: Tensor, frame_rate: float, scale: int, what: str) -> str:
    from tokenize_kit.report.animation import animation

    made = animation(film, frame_rate, 2 * _LARGEST_SHOWN)
    data = base64.b64encode(made.data).decode("ascii")
    return (
        f'<img src="data:image/webp;base64,{data}" width="{made.width * scale}" height="{made.height * scale}" '
        f'alt="{escape(what)}">'
    )


def _stills(pair: VideoPair) -> str:
    """Return the first, the middle and the last frame that the animation shows; of a picture there is nothing more to see."""
    from tokenize_kit.report.animation import FRAMES_SHOWN

    last = min(len(pair.original), FRAMES_SHOWN) - 1
    if not last:
        return ""
    rows = ""
    for what, video in (("original", pair.original), ("reconstruction", pair.reconstruction)):
        images = ""
        for place in dict.fromkeys((0, last // 2, last)):
            shown = _shown(video[place], _STILL)
            images += (
                f'<img src="data:image/png;base64,{_png(shown.image)}" width="{shown.width}" height="{shown.height}" '
                f'alt="{what}, frame {place}">'
            )
        rows += f"<div>{images}</div>"
    return f'<div class="stills">{rows}</div>'


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{escape(str(value))}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f'<td class="number">{text}</td>'


def _visible(token: bytes) -> str:
    try:
        return token.decode("utf-8").replace("\n", "\u21b5\n")
    except UnicodeDecodeError:
        return "".join(f"\u27e8{byte:02x}\u27e9" for byte in token)


class _Shown(NamedTuple):
    """What is embedded of a picture."""

    image: Tensor
    width: int
    height: int


def _shown(image: Tensor, largest: int = _LARGEST_SHOWN) -> _Shown:
    """Return what is embedded of a picture, and its width and height on the screen."""
    height, width = image.shape[-2:]
    longer = max(height, width)
    if longer > largest:
        import numpy as np
        import torch
        from PIL import Image

        size = (max(1, width * largest // longer), max(1, height * largest // longer))
        planes = [Image.fromarray(plane.numpy()).resize(size, Image.Resampling.BOX) for plane in image]
        return _Shown(torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])), *size)
    scale = max(1, min(_ENLARGED_TO, largest) // longer)
    return _Shown(image, width * scale, height * scale)


def _legible(axis: Axis) -> None:
    """Give a logarithmic axis plain numbers, and some over a short range too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _png(image: Tensor) -> str:
    from PIL import Image

    array = image.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
