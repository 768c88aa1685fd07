"""Sounds to wav files, and what a sound is."""

from __future__ import annotations

import io
import itertools
import wave
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.files import atomic_write


def check_audio(sample: object, channels: int | None = None) -> Tensor:
    """Return ``sample`` if it is a sound: a float32 tensor ``(C, samples)`` in [-1, 1] with at least one sample.

    Args:
        sample: what a caller handed in.
        channels: how many channels it must have; None accepts any number.

    Raises:
        TypeError: it is not a float32 tensor.
        ValueError: it has another number of axes or channels, no samples, or values outside [-1, 1].
    """
    if not isinstance(sample, Tensor):
        raise TypeError(f"a sound is a float32 tensor (C, samples), got {type(sample).__name__}")
    if sample.dtype != torch.float32:
        raise TypeError(
            f"a sound is a float32 tensor with values in [-1, 1], got {sample.dtype}; scale and convert it first"
        )
    if sample.ndim != 2:
        raise ValueError(f"a sound has the axes (C, samples), got the shape {tuple(sample.shape)}")
    if channels is not None and sample.shape[0] != channels:
        raise ValueError(
            f"a sound of shape {tuple(sample.shape)} has {sample.shape[0]} channels, expected {channels}; "
            "the layout is (C, samples)"
        )
    if sample.numel() == 0:
        raise ValueError(f"a sound of shape {tuple(sample.shape)} has no samples")
    sample = sample.detach().cpu()
    low, high = (float(value) for value in sample.aminmax())
    # Written so that NaN fails too.
    if not (low >= -1 and high <= 1):
        raise ValueError(f"a sound has values in [-1, 1], got {low:g} to {high:g}; scale or clip it first")
    return sample


def to_pcm16(sample: Tensor) -> NDArray[np.int16]:
    """Return samples as 16-bit integers, of the same shape: times 32768, rounded half to even, clipped to -32768..32767.

    It is the inverse of what reading a 16-bit file does, so those come back exactly. No dither is added.
    """
    scaled = (sample.double() * 32768).round().clamp(-32768, 32767)
    return scaled.to(torch.int16).numpy()


def write_audio(sample: object, path: Path, sample_rate: int) -> None:
    """Write float32 ``(C, samples)`` as a wav file of 16 bits (see `to_pcm16`), whole or not at all.

    Raises:
        TypeError: the sample is not a float32 tensor.
        ValueError: its shape or values are not those of a sound, or it has more than the 4 GiB that a wav file can hold.
    """
    write_blocks([check_audio(sample)], path, sample_rate)


def write_blocks(blocks: Iterable[Tensor], path: Path, sample_rate: int) -> None:
    """Write the blocks of one sound, each float32 ``(C, n)``, as `write_audio` does, in bounded memory.

    Raises:
        TypeError, ValueError: as `write_audio`, or there are no blocks.
    """
    parts = iter(blocks)
    first = next(parts, None)
    if first is None:
        raise ValueError("there are no samples to write")
    with atomic_write(path) as file:
        _write_wav(file, itertools.chain([first], parts), first.shape[0], sample_rate)


def wav_bytes(sample: Tensor, sample_rate: int) -> bytes:
    """Return float32 ``(C, samples)`` as the bytes of a wav file, as `write_audio` would write it."""
    buffer = io.BytesIO()
    _write_wav(buffer, [sample], sample.shape[0], sample_rate)
    return buffer.getvalue()


def _write_wav(file: IO[bytes], blocks: Iterable[Tensor], channels: int, sample_rate: int) -> None:
    room = (1 << 32) - (1 << 10)
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, 2, sample_rate, 0, "NONE", ""))
        for block in blocks:
            data = np.ascontiguousarray(to_pcm16(check_audio(block, channels)).T).astype("<i2").tobytes()
            room -= len(data)
            if room < 0:
                raise ValueError("a wav file holds at most 4 GiB; write the sound in parts")
            writer.writeframesraw(data)
