"""What the classical codecs reach on the same pictures: size of the whole file and PSNR, at chosen qualities.

`ImageCodecs` is what the comparison with a tokenizer asks; below it are pure functions over uint8 pictures ``(C, H, W)``. A
picture is encoded by itself into a file with its container, as it would be sent; the PSNR is that of the decoded file. RGBA is
composited on white for a codec without transparency, and all codecs (and the tokenizer beside them) are compared on white.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from tokenize_kit.metrics.image import on_white, psnr
from tokenize_kit.metrics.rate import Codecs, Column, Curve, Plot
from tokenize_kit.protocol import TokenSpec

DEFAULT_QUALITIES = (1, 10, 25, 40, 55, 70, 85, 95)
"""Where a curve is taken unless told otherwise."""

MAX_PIXELS = 1 << 22
"""No more pixels than this are given to the codecs, whatever the number of pictures."""


@dataclass(frozen=True)
class RatePoint:
    """Size and quality of some pictures at one setting."""

    name: str
    """The codec, or what else made the pictures."""
    quality: int | None
    """Setting of the codec."""
    bytes: float
    """Mean size of a picture; for codecs that of the file, with its headers."""
    bits_per_pixel: float
    """Bits of all pictures over their pixels."""
    psnr: float | None
    """Mean over the pictures in dB, on white; None if all come back exactly."""
    exact: int
    """Pictures that come back exactly, which are not in ``psnr``."""
    pictures: int
    """How many pictures were measured."""


@dataclass(frozen=True)
class _Codec:
    format: str
    options: dict[str, Any]
    alpha: bool
    grey: bool


_CODECS = {
    "jpeg": _Codec("JPEG", {"optimize": True}, alpha=False, grey=True),
    "webp": _Codec("WEBP", {"method": 6}, alpha=True, grey=False),
    "avif": _Codec("AVIF", {"speed": 6, "max_threads": 1}, alpha=True, grey=False),
    "jpeg-xl": _Codec("JXL", {}, alpha=True, grey=True),
}

CODEC_PROTOCOL = (
    "JPEG: Huffman tables optimised, 4:2:0 above grey. WebP: method 6. AVIF: speed 6, 4:2:0. Each picture is its own file, "
    "counted with its container; RGBA keeps its alpha in WebP and AVIF and is composited on white for JPEG; all PSNR of "
    "this comparison are taken on white."
)


class ImageCodecs(Codecs[RatePoint]):
    """JPEG and what else this machine has, each picture a file of its own, at the qualities 1 to 95."""

    columns = (
        Column("bytes", "bytes"),
        Column("bits a pixel", "bits_per_pixel", of_codecs=False),
        Column("PSNR", "psnr", missing="exact"),
    )
    plots = (Plot("bytes", "bytes a picture", "psnr", "mean PSNR, dB"),)
    codec_by_codec = True

    def __init__(self, _spec: TokenSpec) -> None:
        pass

    @property
    def budget(self) -> int:
        """Pixels."""
        return MAX_PIXELS

    def weight(self, sample: Tensor) -> int:
        """Return the pixels of a picture."""
        return sample.shape[-2] * sample.shape[-1]

    def available(self, samples: Sequence[Tensor]) -> tuple[str, ...]:  # noqa: ARG002
        """See `available_codecs`; all take pictures of 1, 3 and 4 channels."""
        return available_codecs()

    def point(self, name: str, pairs: Sequence[tuple[Tensor, Tensor]], bits: float) -> RatePoint:
        """See `point_of`."""
        return point_of(name, pairs, bits / 8)

    def recoded(self, point: RatePoint, name: str, samples: Sequence[Tensor], bits: float, before: float) -> RatePoint:  # noqa: ARG002
        """See `Codecs`."""
        size, pixels = bits / 8, sum(self.weight(picture) for picture in samples)
        return replace(point, name=name, bytes=size / len(samples), bits_per_pixel=8 * size / pixels)

    def curve(self, samples: Sequence[Tensor], codec: str, ours: Sequence[RatePoint]) -> Curve[RatePoint]:
        """Return a curve at `DEFAULT_QUALITIES`, and on it the points of the nearest sizes too."""
        points, nearest = codec_curve(samples, codec), []
        for point in ours:
            nearest.append(nearest_point(samples, codec, point.bytes, points))
            if nearest[-1] not in points:
                points = sorted([*points, nearest[-1]], key=lambda known: known.quality or 0)
        return Curve(points, nearest)

    def said_of(self, samples: Sequence[Tensor]) -> str:
        """See `Codecs`."""
        pixels = sum(self.weight(picture) for picture in samples)
        return (
            f"The first {len(samples):,} pictures ({pixels / 1e6:.2f} megapixels). Sizes are means over the pictures."
        )

    def protocol(self) -> str:
        """See `Codecs`."""
        return (
            f"{CODEC_PROTOCOL}\nPictures that come back exactly are left out of a mean PSNR. The nearest point of a codec is the "
            "one of the nearest mean size among its qualities 1 to 95."
        )


def available_codecs() -> tuple[str, ...]:
    """Return the codecs that this machine has: jpeg, and webp, avif and jpeg-xl where Pillow or a plugin brings them."""
    found = ["jpeg", *(name for name in ("webp", "avif") if features.check(name))]
    try:
        import pillow_jxl  # noqa: F401  (registers itself)
    except ImportError:
        return tuple(found)
    return (*found, "jpeg-xl")


def codec_curve(
    pictures: Sequence[Tensor], codec: str, qualities: Sequence[int] = DEFAULT_QUALITIES
) -> list[RatePoint]:
    """Return size and PSNR of pictures at each quality.

    Args:
        pictures: uint8 ``(C, H, W)`` of 1, 3 or 4 channels.
        codec: one of `available_codecs`.
        qualities: 1 to 100, as the codec understands them.

    Raises:
        ValueError: there is no such codec here, a quality is out of range, or there are no pictures.
    """
    if codec not in available_codecs():
        raise ValueError(f"codec {codec!r} is not one of {', '.join(available_codecs())}")
    if wrong := [quality for quality in qualities if not 1 <= quality <= 100]:
        raise ValueError(f"quality {wrong[0]} is outside 1 to 100")
    return [_point(pictures, codec, quality) for quality in qualities]


def nearest_point(pictures: Sequence[Tensor], codec: str, size: float, known: Sequence[RatePoint] = ()) -> RatePoint:
    """Return the point of a codec whose mean size is nearest to ``size`` bytes, by bisection over its qualities.

    Args:
        pictures: as for `codec_curve`.
        codec: as for `codec_curve`.
        size: wanted mean bytes a picture.
        known: points of the same pictures and codec, which are not computed again.

    Raises:
        ValueError: as `codec_curve`.
    """
    points = {point.quality: point for point in known if point.quality is not None}

    def at(quality: int) -> RatePoint:
        if quality not in points:
            (points[quality],) = codec_curve(pictures, codec, [quality])
        return points[quality]

    low, high = 1, 95
    # What is known narrows the search before anything is encoded.
    for quality, point in sorted(points.items()):
        if low < quality <= 95 and point.bytes <= size:
            low = quality
    higher = [quality for quality, point in points.items() if low < quality <= 95 and point.bytes > size]
    high = min(higher, default=high)
    while high - low > 1 and at(low).bytes <= size:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle).bytes <= size else (low, middle)
    return min((at(low), at(high)), key=lambda point: abs(point.bytes - size))


def point_of(
    name: str, pairs: Sequence[tuple[Tensor, Tensor]], total_bytes: float, quality: int | None = None
) -> RatePoint:
    """Return the point of originals and what came back for them, uint8 ``(C, H, W)``, which took ``total_bytes`` in all.

    Raises:
        ValueError: there are no pictures, or a pair differs in shape.
    """
    if not pairs:
        raise ValueError("there are no pictures to measure")
    values = [psnr(on_white(picture), on_white(other)) for picture, other in pairs]
    finite = [value for value in values if value != math.inf]
    pixels = sum(picture.shape[-2] * picture.shape[-1] for picture, _ in pairs)
    return RatePoint(
        name=name,
        quality=quality,
        bytes=total_bytes / len(pairs),
        bits_per_pixel=8 * total_bytes / pixels,
        psnr=math.fsum(finite) / len(finite) if finite else None,
        exact=len(values) - len(finite),
        pictures=len(pairs),
    )


def _point(pictures: Sequence[Tensor], codec: str, quality: int) -> RatePoint:
    def there_and_back(picture: Tensor) -> tuple[int, Tensor]:
        data = encode_picture(picture, codec, quality)
        return len(data), decode_picture(data, codec, picture.shape[0])

    # The codecs leave Python while they work, so threads help.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        made = list(threads.map(there_and_back, pictures))
    pairs = [(picture, decoded) for picture, (_, decoded) in zip(pictures, made, strict=True)]
    return point_of(codec, pairs, sum(size for size, _ in made), quality)


def encode_picture(picture: Tensor, codec: str, quality: int) -> bytes:
    """Return a uint8 picture ``(C, H, W)`` as a file of ``codec``."""
    known = _CODECS[codec]
    plain = picture if known.alpha else on_white(picture)
    array = plain.permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    if image.mode == "L" and not known.grey:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, known.format, quality=quality, **known.options)
    return buffer.getvalue()


def decode_picture(data: bytes, codec: str, channels: int) -> Tensor:
    """Return a file of ``codec`` as a uint8 picture ``(C, H, W)`` of as many channels as the original had."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    array = np.array(Image.open(io.BytesIO(data), formats=[_CODECS[codec].format]).convert(mode))
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1).contiguous()
