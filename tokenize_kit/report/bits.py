"""Where the bits of a sample are: one function a kind of data, which its `Modality` names as ``show_bits``.

Each takes the page, a `Bits` and the spec of the sample, adds to the page what shows it, and returns the picture that is worth a
file of its own, or None. Colours go from black (no bits: the model was sure, and right) over red to pale yellow (`shade`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.files import make_folder
from tokenize_kit.protocol import TokenSpec, modality_of, resolved
from tokenize_kit.report.html import Page

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

_GAP = 2
"""White pixels between a sample and its map."""
_STRIP = 64
"""Pixels of the height of the curve below a spectrogram."""
_FRAMES = 8
"""Frames of a film that are shown, evenly spread."""
_SIDE = 224
"""Small maps are enlarged to about this many pixels on the page."""
_STRIP_WIDTH = 128
"""Places of a row of a map of a kind of data that declares none."""


class Bits(NamedTuple):
    """A sample and what its tokens take."""

    key: str
    """Which sample it is."""
    sample: Sample
    """What the tokens stand for."""
    bits: NDArray[np.float64]
    """Bits of each id, in the shape of the id grid."""
    tokens: list[bytes] | None
    """The bytes of each id, where the tokenizer knows them."""
    note: str
    """What was measured."""


def show_bits(page: Page, shown: Bits, spec: TokenSpec, path: Path) -> Path | None:
    """Show a sample as its kind of data declares it, and write the picture that is worth a file.

    Args:
        page: to add to.
        shown: the sample and its bits.
        spec: what the sample is.
        path: of the picture, a PNG.

    Returns:
        The path; None if its kind of data has no such picture.
    """
    from tokenize_kit.media.image.tensors import write_image

    picture: Tensor | None = resolved(modality_of(spec).show_bits or show_place_bits)(page, shown, spec)
    if picture is None:
        return None
    make_folder(path.parent)
    write_image(picture, path)
    return path


def bits_of_places(bits: NDArray[np.float64], spec: TokenSpec) -> NDArray[np.float64]:
    """Return the bits of the places of a grid: those of the codebooks or channels of a place together."""
    return bits.sum(-1) if spec.axes[-1] in ("codebook", "channel") else bits


def shade(bits: NDArray[np.float64], most: float | None = None) -> Tensor:
    """Return bits (H, W) as colours, uint8 (3, H, W): black for none, the lightest for ``most``.

    Args:
        bits: at least 0.
        most: by default what 99 in 100 places stay below, so that a single surprise does not darken all else.
    """
    from matplotlib import colormaps

    top = _top(bits) if most is None else most
    coloured = colormaps["inferno"](np.clip(bits / max(top, 1e-9), 0, 1))[..., :3]
    return torch.from_numpy((coloured * 255).round().astype("uint8")).permute(2, 0, 1).contiguous()


def show_picture_bits(page: Page, shown: Bits, spec: TokenSpec) -> Tensor:
    """Show a picture, and right of it the bits of each place."""
    places = bits_of_places(shown.bits, spec)
    picture = _opaque(cast("Tensor", shown.sample))
    both = _beside([picture, _fitting(shade(places), picture)])
    page.pictures([(both, _caption(shown, places))], _scale(picture))
    return both


def show_film_bits(page: Page, shown: Bits, spec: TokenSpec) -> Tensor:
    """Show some frames of a film, and below each the bits of its places."""
    film, places = cast("Tensor", shown.sample), bits_of_places(shown.bits, spec)
    every = np.unique(np.linspace(0, len(film) - 1, _FRAMES).round().astype(int))
    top, columns = _top(places), []
    for frame in every.tolist():
        picture = _opaque(film[frame])
        # A step of the grid may cover several frames, the first one alone.
        step = 0 if len(film) == 1 else round(frame * (len(places) - 1) / (len(film) - 1))
        columns.append(_above([picture, _fitting(shade(places[step], top), picture)]))
    whole = _beside(columns)
    page.pictures([(whole, _caption(shown, places))], max(1, _scale(columns[0]) // 2))
    return whole


def show_sound_bits(page: Page, shown: Bits, spec: TokenSpec) -> Tensor:
    """Show the spectrogram of a sound, and below it the bits of each stretch of time, from none to the most of any stretch."""
    from tokenize_kit.report.spectrogram import spectrogram

    assert spec.sample_rate is not None, "sounds have one"
    picture = spectrogram(cast("Tensor", shown.sample), spec.sample_rate)
    times = bits_of_places(shown.bits, spec).reshape(len(shown.bits), -1).sum(1)
    width = picture.shape[2]
    # Each column has the mean of the time steps that it covers, one at least.
    starts = np.arange(width) * len(times) // width
    stops = np.maximum(np.arange(1, width + 1) * len(times) // width, starts + 1)
    running = np.concatenate([[0.0], np.cumsum(times)])
    columns = (running[stops] - running[starts]) / (stops - starts)
    heights = np.ceil(_STRIP * columns / max(float(columns.max()), 1e-9)).astype(int)
    filled = np.arange(_STRIP, 0, -1)[:, None] <= heights[None]
    curve = torch.where(torch.from_numpy(filled), shade(np.broadcast_to(columns, (_STRIP, width))), 255).to(torch.uint8)
    whole = _above([picture, curve])
    page.pictures([(whole, f"{_caption(shown, times)}; the highest stretch {columns.max():.3g} a time step")])
    return whole


def show_text_bits(page: Page, shown: Bits, spec: TokenSpec) -> None:
    """Show a text with each token on a ground as dark as its bits; no picture."""
    places = bits_of_places(shown.bits, spec).reshape(-1)
    tokens = shown.tokens
    if tokens is None or len(tokens) != len(places):
        # A tokenizer that does not say what its ids stand for has at least its text.
        tokens = [letter.encode("utf-8", "replace") for letter in str(shown.sample)]
    page.paragraph(_caption(shown, places))
    if len(tokens) == len(places):
        page.surprises(tokens, places.tolist())
    else:
        page.quote(str(shown.sample))


def show_place_bits(page: Page, shown: Bits, spec: TokenSpec) -> Tensor:
    """Show the bits of a sample of any kind in the order of its grid, row by row."""
    places = bits_of_places(shown.bits, spec).reshape(-1)
    width = min(_STRIP_WIDTH, max(1, len(places)))
    rows = np.zeros((max(1, -(-len(places) // width)), width))
    rows.reshape(-1)[: len(places)] = places
    picture = shade(rows, _top(places))
    page.pictures([(picture, _caption(shown, places))], max(1, _SIDE // width))
    return picture


def _top(bits: NDArray[Any]) -> float:
    return float(np.quantile(bits, 0.99)) if bits.size else 1.0


def _caption(shown: Bits, places: NDArray[np.float64]) -> str:
    if not places.size:
        return f"{shown.key}: {shown.note}"
    return f"{shown.key}: {shown.note}; {places.mean():.3g} bits a place, at most {places.max():.3g}"


def _opaque(picture: Tensor) -> Tensor:
    from tokenize_kit.metrics.video import opaque

    return opaque(picture[None]).expand(-1, 3, -1, -1)[0]


def _fitting(small: Tensor, picture: Tensor) -> Tensor:
    """Return a map at the size of its picture: a place covers several pixels of it."""
    height, width = picture.shape[-2:]
    rows = torch.arange(height) * small.shape[-2] // height
    columns = torch.arange(width) * small.shape[-1] // width
    return small[:, rows][:, :, columns]


def _scale(picture: Tensor) -> int:
    return max(1, _SIDE // max(picture.shape[-2:]))


def _beside(pictures: list[Tensor]) -> Tensor:
    return _joined(pictures, 2)


def _above(pictures: list[Tensor]) -> Tensor:
    return _joined(pictures, 1)


def _joined(pictures: list[Tensor], axis: int) -> Tensor:
    gap = list(pictures[0].shape)
    gap[axis] = _GAP
    between = torch.full(gap, 255, dtype=torch.uint8)
    parts = [part for picture in pictures for part in (between, picture)]
    return torch.cat(parts[1:], axis)
