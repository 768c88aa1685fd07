"""Sounds to wav files, and what a sound is."""

from __future__ import annotations

import fcntl
import io
import itertools
import os
import struct
import wave
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.files import atomic_write

_MOST = (1 << 32) - (1 << 10)
"""Bytes of samples that a wav file holds."""
_UNKNOWN = 0xFFFFFFFF
"""The size that FFmpeg writes where it is not known yet; players and readers take it as: to the end."""


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


def pour_blocks(blocks: Iterable[Tensor], file: IO[bytes], sample_rate: int) -> None:
    """Write the blocks of one sound, each float32 ``(C, n)``, as a wav of 16 bits, each before the next is asked for.

    How long it is stands in the header at the end, if ``file`` is a file in which one can go back; in a pipe it is left unknown.

    Raises:
        TypeError, ValueError: as `write_blocks`.
        OSError: the file takes no more.
    """
    parts = iter(blocks)
    first = next(parts, None)
    if first is None:
        raise ValueError("there are no samples to write")
    channels, written = first.shape[0], 0
    start = file.tell() if _goes_back(file) else None
    file.write(_wav_header(channels, sample_rate, None))

    def tell_length() -> None:
        if start is not None and written <= _MOST:
            file.seek(start)
            file.write(_wav_header(channels, sample_rate, written))
            file.seek(written, os.SEEK_CUR)
            file.flush()

    try:
        for block in itertools.chain([first], parts):
            data = _pcm(block, channels)
            file.write(data)
            file.flush()
            written += len(data)
    except BaseException:
        with suppress(OSError):  # what is there of a sound that was cut short can be listened to
            tell_length()
        raise
    tell_length()


def wav_bytes(sample: Tensor, sample_rate: int) -> bytes:
    """Return float32 ``(C, samples)`` as the bytes of a wav file, as `write_audio` would write it."""
    buffer = io.BytesIO()
    _write_wav(buffer, [sample], sample.shape[0], sample_rate)
    return buffer.getvalue()


def _write_wav(file: IO[bytes], blocks: Iterable[Tensor], channels: int, sample_rate: int) -> None:
    room = _MOST
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, 2, sample_rate, 0, "NONE", ""))
        for block in blocks:
            data = _pcm(block, channels)
            room -= len(data)
            if room < 0:
                raise ValueError("a wav file holds at most 4 GiB; write the sound in parts")
            writer.writeframesraw(data)


def _pcm(block: Tensor, channels: int) -> bytes:
    return np.ascontiguousarray(to_pcm16(check_audio(block, channels)).T).astype("<i2").tobytes()


def _wav_header(channels: int, sample_rate: int, size: int | None) -> bytes:
    """Return what stands before ``size`` bytes of samples of 16 bits; None where that is not known."""
    frame = 2 * channels
    about = struct.pack("<IHHIIHH", 16, 1, channels, sample_rate, sample_rate * frame, frame, 16)
    whole, size = (_UNKNOWN, _UNKNOWN) if size is None else (size + 36, size)
    return b"RIFF" + struct.pack("<I", whole) + b"WAVEfmt " + about + b"data" + struct.pack("<I", size)


def _goes_back(file: IO[bytes]) -> bool:
    """Whether what was written can be written again: not in a pipe, nor where all goes behind the end (``>>``)."""
    if not file.seekable():
        return False
    try:
        return not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND
    except OSError:  # in memory
        return True
