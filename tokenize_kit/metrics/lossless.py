"""The size of a sample in a classical lossless code: how complex it is, whatever a model thinks of it.

A likelihood says both how well a model knows what it sees and how simple that is: a grey wall is probable under any model of
pictures. The size of a lossless code estimates the second part, so that it can be taken away (Serrà et al. 2020, arXiv
1909.11480). Which code belongs to which kind of data its `Modality` says (`lossless`).
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from tokenize_kit.protocol import TokenSpec, modality_of, resolved

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol import Sample

_RAW_DEFLATE = -15


@dataclass(frozen=True)
class LosslessCode:
    """A code, and what it makes of a sample."""

    name: str
    """As reports call it."""
    size: Callable[[Sample, TokenSpec], int]
    """The bytes of one sample of a spec as a file of its own."""


def lossless_code_of(spec: TokenSpec) -> LosslessCode:
    """Return the code that the kind of data of a spec declares."""
    found: LosslessCode = resolved(modality_of(spec).lossless or "tokenize_kit.metrics.lossless:XZ")
    return found


def png_size(sample: Sample, spec: TokenSpec) -> int:  # noqa: ARG001
    """Return the bytes of a picture, uint8 (C, H, W) of 1, 3 or 4 channels, as an optimised PNG."""
    from tokenize_kit.media.image.tensors import to_pillow

    file = io.BytesIO()
    to_pillow(sample).save(file, "PNG", optimize=True)
    return len(file.getvalue())


def flac_size(sample: Sample, spec: TokenSpec) -> int:
    """Return the bytes of a sound, float32 (C, samples) in [-1, 1], as FLAC of 16 bits.

    Raises:
        ValueError: the spec names no sample rate.
    """
    import soundfile

    if spec.sample_rate is None:
        raise ValueError("the spec of this sound names no sample rate, so it cannot be coded as FLAC")
    file = io.BytesIO()
    sound = cast("Tensor", sample).numpy().T
    soundfile.write(file, sound, spec.sample_rate, format="FLAC", subtype="PCM_16")
    return len(file.getvalue())


def text_size(sample: Sample, spec: TokenSpec) -> int:  # noqa: ARG001
    """Return the bytes of a text in UTF-8 as xz or bare deflate, whichever is shorter: xz has a header of some 60 bytes."""
    data = str(sample).encode("utf-8", "surrogatepass")
    return min(_xz(data), _deflate(data))


def xz_size(sample: Sample, spec: TokenSpec) -> int:
    """Return the bytes of the values of a tensor as xz, or of a text as `text_size` does."""
    if modality_of(spec).textual:
        return text_size(sample, spec)
    return _xz(cast("Tensor", sample).contiguous().numpy().tobytes())


def _xz(data: bytes) -> int:
    return len(lzma.compress(data, preset=9))


def _deflate(data: bytes) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE)
    return len(packer.compress(data)) + len(packer.flush())


PNG = LosslessCode("PNG", png_size)
FLAC = LosslessCode("FLAC", flac_size)
XZ_OR_DEFLATE = LosslessCode("xz or deflate", text_size)
XZ = LosslessCode("xz", xz_size)
