"""Colours to sRGB: ICC profiles with Little CMS, and profiles made from the few numbers that some files give instead.

Every picture that is read is sRGB afterwards. What a profile says is kept in a cache, because the pictures of one camera all have
the same: whether it is sRGB anyway, then nothing is done, or the transform. The rendering intent is perceptual, which is what
profiles of printers are made for; profiles of three primaries know only one.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

SRGB_TOLERANCE = 2
"""Profiles that change no colour by more than this, of 255, are sRGB: writers round its curve and primaries differently."""
_CACHED = 16
_NAME_LENGTH = 40

_INTENT = ImageCms.Intent.PERCEPTUAL
# The colour spaces of profiles, and the modes of Pillow that they are for.
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_MODE_NAMES = {"RGB": "RGB", "L": "grey", "CMYK": "CMYK"}

Point = tuple[float, float]
_D65: Point = (0.3127, 0.3290)
_D50 = np.array([0.9642, 1.0, 0.8249])
# x and y of red, green and blue.
_BT709: tuple[Point, ...] = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_ADOBE: tuple[Point, ...] = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
_P3: tuple[Point, ...] = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_BT2020: tuple[Point, ...] = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
# ITU-T H.273: colour primaries, and the transfer characteristics that are shown as sRGB's or nearly so.
_PRIMARIES = {1: ("BT.709", _BT709), 9: ("BT.2020", _BT2020), 12: ("Display P3", _P3)}
_SRGB_LIKE = (1, 6, 13, 14, 15)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class _Conversion:
    """What a profile does to pictures of a mode: nothing, a transform of colours, or a table for grey."""

    words: str = ""
    transform: ImageCms.ImageCmsTransform | None = None
    table: tuple[int, ...] = ()


_cache: OrderedDict[tuple[bytes, str], _Conversion] = OrderedDict()


def to_srgb(picture: Image.Image, profile: bytes) -> tuple[Image.Image, str]:
    """Return a picture with its colours as sRGB.

    Args:
        picture: of mode L, LA, RGB, RGBA or CMYK; transparency stays as it is.
        profile: an ICC profile. One that is damaged or for other pictures is left out.

    Returns:
        The picture, of mode RGB if it was CMYK and there was something to convert, and in words what was done; nothing if the
        profile is sRGB.
    """
    bands = "CMYK" if picture.mode == "CMYK" else "L" if picture.mode in ("L", "LA") else "RGB"
    conversion = _conversion(profile, bands)
    if conversion.table:
        return _with_table(picture, conversion.table), conversion.words
    if conversion.transform is None:
        return picture, conversion.words
    if picture.mode != "RGBA":
        return conversion.transform.apply(picture), conversion.words
    alpha = picture.getchannel("A")
    converted = conversion.transform.apply(picture.convert("RGB"))
    converted.putalpha(alpha)
    return converted, conversion.words


def lab_to_srgb(picture: Image.Image) -> Image.Image:
    """Return a picture of mode LAB, which needs no profile, as RGB."""
    return _lab().apply(picture)


@lru_cache(maxsize=1)
def adobe_rgb() -> bytes:
    """Return the profile of Adobe RGB (1998), for cameras that say so without one."""
    return matrix_profile("Adobe RGB (1998)", _ADOBE, _D65, (563 / 256,))


@lru_cache(maxsize=64)
def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """Return the profile of coding-independent code points (ITU-T H.273); None for sRGB and what says nothing.

    Empty for what has no profile that would show it as it is meant: the high dynamic range of PQ and HLG, and rare primaries.
    """
    if primaries == 2 or transfer == 2:
        return None
    if primaries not in _PRIMARIES or transfer not in (*_SRGB_LIKE, 8):
        return b""
    name, points = _PRIMARIES[primaries]
    if transfer == 8:
        return matrix_profile(f"linear {name}", points, _D65, (1.0,))
    return None if primaries == 1 else matrix_profile(name, points, _D65, _SRGB_CURVE)


@lru_cache(maxsize=64)
def gamma_profile(gamma: float, chroma: tuple[float, ...] | None) -> bytes | None:
    """Return the profile of PNG's gAMA and cHRM; None if that is sRGB, empty if it cannot be.

    Args:
        gamma: the exponent that was applied, such as 1 / 2.2.
        chroma: x and y of white, red, green and blue; None for those of sRGB.
    """
    white, *points = [_D65, *_BT709] if chroma is None else list(zip(chroma[::2], chroma[1::2], strict=True))
    close = bool(np.abs(np.array([white, *points]) - np.array([_D65, *_BT709])).max() < 0.005)
    if close and abs(gamma * 2.2 - 1) < 0.05:
        return None
    if not 0.1 <= gamma <= 10 or any(y <= 0 for _, y in (white, *points)):
        return b""
    # What gAMA calls 1 / 2.2 is meant to be sRGB's curve, also beside other primaries.
    curve = _SRGB_CURVE if abs(gamma * 2.2 - 1) < 0.05 else (1 / gamma,)
    try:
        return matrix_profile(f"gamma {1 / gamma:.2g}", points, white, curve)
    except np.linalg.LinAlgError:
        return b""


_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def matrix_profile(name: str, points: Sequence[Point], white: Point, curve: Sequence[float]) -> bytes:
    """Return an ICC profile of version 4 with three primaries.

    Args:
        name: its description, in ASCII.
        points: x and y of red, green and blue.
        white: x and y of white; it is adapted to that of the connection space as Bradford does.
        curve: the parameters of the curve to linear light: an exponent, or five numbers of an ICC curve of type 3.

    Raises:
        numpy.linalg.LinAlgError: the points are on one line.
    """
    rows = np.array([_xyz(point) for point in points]).T
    light = _xyz(white)
    matrix = rows * np.linalg.solve(rows, light)
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ light)
    matrix = np.linalg.inv(_BRADFORD) @ (scale[:, None] * (_BRADFORD @ matrix))
    text = name.encode("utf-16-be")
    label = b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(text), 28) + text
    shape = b"para\0\0\0\0" + struct.pack(">HH", 0 if len(curve) == 1 else 3, 0) + b"".join(map(_fixed, curve))
    tags = [(b"desc", label), (b"cprt", label), (b"wtpt", _xyz_tag(_D50))]
    tags += [(tag, _xyz_tag(column)) for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)]
    tags += [(tag, shape) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for tag, value in tags:
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value + b"\0" * (-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x04200000, b"mntr", b"RGB ", b"XYZ ")
    white_point = b"".join(_fixed(float(value)) for value in _D50)
    return head + bytes(12) + b"acsp" + bytes(28) + white_point + bytes(48) + table + body


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(point: Point) -> NDArray[np.float64]:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _xyz_tag(values: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(float(value)) for value in values)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=1)
def _lab() -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.ImageCmsTransform(source, _srgb(), "LAB", "RGB", _INTENT)


def _conversion(profile: bytes, bands: str) -> _Conversion:
    """Return what a profile does to the colour bands of a picture, from the cache if it was there lately."""
    key = hashlib.sha256(profile).digest(), bands
    found = _cache.get(key)
    if found is None:
        found = _cache[key] = _made(profile, bands)
        if len(_cache) > _CACHED:
            _cache.popitem(last=False)
    return found


def _made(profile: bytes, bands: str) -> _Conversion:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space.strip())
        if mode is None:
            return _Conversion("a colour profile that is not for pictures, which was left out")
        # Of grey only a table of 256 values is made, which may take its time: the default rounds dark ones coarsely.
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.ImageCmsTransform(source, _srgb(), mode, "RGB", _INTENT, flags=flags)
        changed = transform.apply(_probe(mode))
    except Exception:  # Pillow raises several kinds, and a damaged profile is no reason to lose the picture
        return _Conversion("a colour profile that cannot be read, which was left out")
    if mode == "RGB" and _is_srgb(changed, _probe("RGB")):
        return _Conversion()
    if mode == "L" and bands == "L":
        table = tuple(int(value) for value in np.asarray(changed)[0, :, 1])
        plain = max(abs(value - place) for place, value in enumerate(table)) <= SRGB_TOLERANCE
        return _Conversion() if plain else _Conversion(_named(source, mode), None, table)
    if mode != bands:
        words = f"a colour profile for {_MODE_NAMES[mode]} on {_MODE_NAMES[bands]} pictures, which was left out"
        return _Conversion(words)
    return _Conversion(_named(source, mode), transform)


def _probe(mode: str) -> Image.Image:
    """Return a picture with colours from everywhere; of grey every value."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.arange(0, 256, 51 if mode == "RGB" else 85, dtype=np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * len(mode), indexing="ij"), -1).reshape(1, -1, len(mode))
    if mode == "RGB":
        grid = np.concatenate([grid, np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)], 1)
    return Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())


def _is_srgb(changed: Image.Image, given: Image.Image) -> bool:
    return bool(np.abs(np.asarray(changed).astype(int) - np.asarray(given)).max() <= SRGB_TOLERANCE)


def _named(source: ImageCms.ImageCmsProfile, mode: str) -> str:
    """Say what is converted, with the name that the profile gives itself."""
    name = " ".join((source.profile.profile_description or "").split())
    name = "".join(letter for letter in name if letter.isprintable())[:_NAME_LENGTH]
    return f"{name or f'an unnamed {_MODE_NAMES[mode]} profile'} to sRGB"


def _with_table(picture: Image.Image, table: tuple[int, ...]) -> Image.Image:
    grey = picture.getchannel("L").point(table)
    return Image.merge("LA", (grey, picture.getchannel("A"))) if picture.mode == "LA" else grey
