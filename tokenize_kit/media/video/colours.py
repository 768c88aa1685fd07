"""From the frame of a decoder to pixels: colours, range, transparency, the right way up, with square pixels.

swscale converts to planes (``gbrp``, ``gbrap``) with accurate rounding, the one of its ways that is right to half a level; what
packs pixels (``rgb24``) is darker by one to three levels for 4:2:0. Planes are also what a tensor ``(C, H, W)`` is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from tokenize_kit.media.video.shown import Pixels

MAX_FRAME_PIXELS = 1 << 25
"""The largest frame that is decoded (8K has 33,177,600 pixels); larger ones are refused before memory is taken for them."""

_BAND = 1 << 20
"""Pixels that are put together at once."""
_HD_HEIGHT = 576
"""Up to so many lines BT.601 is taken where a file does not say, BT.709 above, as players do."""
_BT709, _RGB_MATRIX, _UNSPECIFIED = 1, 0, 2
_BT601 = frozenset((5, 6))
_PQ, _HLG = 16, 18
_WIDEST = 16
"""Pixels wider or higher than so many times are none."""
# R, G, B as ITU-R 601 weighs them, in the fixed point of Pillow.
_GREY = (19595, 38470, 7471)


def check_size(width: int, height: int, most: int = MAX_FRAME_PIXELS) -> None:
    """Refuse what has no pixels or more than ``most``.

    Raises:
        ValueError: it has.
    """
    if width < 1 or height < 1 or width * height > most:
        raise ValueError(
            f"a video of {width}x{height} pixels is outside the limit of 1 to {most:,} pixels; scale it down first"
        )


@dataclass(frozen=True)
class Look:
    """How frames of a stream become pixels."""

    height: int
    """Of the pixels, the right way up."""
    width: int
    channels: int
    turn: int
    """Quarter turns, counterclockwise."""
    mirrored: bool
    """Whether the frame is mirrored left to right before it is turned."""
    notes: tuple[str, ...]

    def painter(self, frame: Any) -> Callable[[Pixels], None]:
        """Return a function that writes the pixels of a frame into an array (C, H, W)."""
        return lambda out: self._paint(frame, out)

    def _paint(self, frame: Any, out: Pixels) -> None:
        planes = self._planes(frame)
        if self.mirrored:
            planes = [plane[:, ::-1] for plane in planes]
        if self.turn:
            planes = [np.rot90(plane, self.turn) for plane in planes]
        into(out, planes)

    def _planes(self, frame: Any) -> list[Pixels]:
        import av
        from av.video.reformatter import Interpolation

        width, height = (self.height, self.width) if self.turn % 2 else (self.width, self.height)
        alpha = "a" in _components(frame)
        scaled = (frame.width, frame.height) != (width, height)
        try:
            ready = frame.reformat(
                width=width,
                height=height,
                format="gbrap" if alpha else "gbrp",
                src_colorspace=_matrix(frame),
                src_color_range=_range(frame),
                dst_color_range=2,
                interpolation=(Interpolation.BICUBIC if scaled else Interpolation.BILINEAR)
                | Interpolation.ACCURATE_RND,
                threads=1,
            )
        except av.FFmpegError as error:
            look = f"a frame in {frame.format.name} with the colour space {int(frame.colorspace)}"
            raise ValueError(f"{look} cannot be converted to RGB ({error.strerror})") from None
        found = []
        for index in (2, 0, 1, 3)[: 4 if alpha else 3]:
            plane = ready.planes[index]
            rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            found.append(rows[:height, :width])
        return found


def into(out: Pixels, planes: list[Pixels]) -> None:
    """Write planes R, G, B and perhaps alpha into an array of 1, 3 or 4 channels, by the rules of `tokenize_kit.media.video`.

    Band by band, so that what is made in between stays small.
    """
    rows = max(1, _BAND // out.shape[2])
    for top in range(0, out.shape[1], rows):
        _band_into(out[:, top : top + rows], [plane[top : top + rows] for plane in planes])


def _band_into(out: Pixels, planes: list[Pixels]) -> None:
    channels = len(out)
    if len(planes) == 4 and channels < 4:
        planes = _on_white(planes)
    if channels == 1:
        weighed = sum(plane.astype(np.uint32) * weight for plane, weight in zip(planes, _GREY, strict=False))
        out[0] = (np.asarray(weighed) + 0x8000 >> 16).astype(np.uint8)
        return
    for place, plane in enumerate(planes[:channels]):
        out[place] = plane
    if channels == 4 and len(planes) == 3:
        out[3] = 255


def _on_white(planes: list[Pixels]) -> list[Pixels]:
    alpha = planes[3].astype(np.uint32)
    rest = 255 * (255 - alpha)
    return [((plane * alpha + rest) * 2 + 255).__floordiv__(510).astype(np.uint8) for plane in planes[:3]]


def look_of(frame: Any, stream: Any, channels: int) -> Look:
    """Return how the frames of a stream become pixels, by the first of them.

    Raises:
        ValueError: they have too many pixels.
    """
    width, height = frame.width, frame.height
    notes = []
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if ratio > 0 and ratio != 1 and 1 / _WIDEST <= ratio <= _WIDEST:
        # The side that is to be longer grows, so that nothing is lost.
        if ratio > 1:
            width = max(1, round(width * ratio))
        else:
            height = max(1, round(height / ratio))
        notes.append(f"pixels of {ratio.numerator}:{ratio.denominator} made square")
    turn, mirrored, words = _orientation(frame)
    notes.extend(words)
    if turn % 2:
        width, height = height, width
    check_size(width, height)
    if frame.interlaced_frame:
        notes.append("interlaced frames taken as they are")
    if frame.color_trc in (_PQ, _HLG):
        notes.append("high dynamic range (PQ or HLG) taken as it is")
    return Look(height, width, channels, turn, mirrored, tuple(notes))


def _orientation(frame: Any) -> tuple[int, bool, list[str]]:
    """Return the quarter turns, whether it is mirrored before, and what is to be said of a matrix that is neither."""
    from av.sidedata.sidedata import Type

    matrix = next((one for one in _side_data(frame) if one.type == Type.DISPLAYMATRIX), None)
    if matrix is None:
        return 0, False, []
    values = np.frombuffer(bytes(matrix), np.int32)[:9].reshape(3, 3)[:2, :2].astype(np.float64) / (1 << 16)
    # x' = a x + c y, y' = b x + d y, both downwards and to the right.
    (a, b), (c, d) = values
    for mirrored in (False, True):
        for turn, (cosine, sine) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
            # Counterclockwise on the screen, of a frame that is mirrored left to right before.
            wanted = np.array([[-cosine, sine], [sine, cosine]] if mirrored else [[cosine, -sine], [sine, cosine]])
            if np.abs(np.array([[a, b], [c, d]]) - wanted).max() < 0.01:
                return turn, mirrored, []
    return 0, False, ["turned by an angle that is no quarter turn, taken as it is"]


def _side_data(frame: Any) -> list[Any]:
    return [frame.side_data[index] for index in range(len(frame.side_data))]


def _components(frame: Any) -> str:
    name = str(frame.format.name)
    if name == "pal8":
        return "rgba"
    return "rgba" if any(component.is_alpha for component in frame.format.components) else "rgb"


def _matrix(frame: Any) -> int:
    """Return swscale's number of the matrix."""
    said = frame.colorspace
    if said in (_UNSPECIFIED, _RGB_MATRIX):
        return _BT709 if frame.height > _HD_HEIGHT else 5
    return 5 if said in _BT601 else int(said)


def _range(frame: Any) -> int:
    if frame.color_range in (1, 2):
        return int(frame.color_range)
    return 2 if str(frame.format.name).startswith("yuvj") or frame.format.is_rgb else 1
