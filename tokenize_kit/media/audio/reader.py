"""Sound files to float32 tensors ``(C, samples)``, block by block or whole."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.media.audio.decoders import BLOCK_SAMPLES, Opened, open_part
from tokenize_kit.media.audio.examine import parts_of
from tokenize_kit.media.audio.part import Block, Part
from tokenize_kit.media.audio.raw import self_describing_file
from tokenize_kit.media.audio.speakers import stereo_weights
from tokenize_kit.opening import open_source

MAX_VALUES = 1 << 29
"""The longest sound that is read into memory at once, samples times channels (2 GiB); longer ones only block by block."""

FREE_VALUES = 1 << 25
"""So many values any file may hold, also one of a few bytes (128 MiB)."""

VALUES_PER_BYTE = 128
"""A file of more values than `FREE_VALUES` is refused if it holds more of them a byte: hours of silence in a few bytes. Speech
in Opus at 6 kbit/s and 48 kHz has half as many."""

MAX_CHANNELS = 64
MAX_SAMPLE_RATE = 1_000_000

MAX_PEAK = 4.0
"""A float sound may be this much above full scale before it is clipped; beyond it is not scaled to [-1, 1] at all."""

RESAMPLER = "HQ"
"""soxr's quality for 20 bits: linear phase, output aligned with the input, flat to 0.91 of the lower Nyquist frequency."""

_SHORT = 1 << 22
"""Values of a sound that is short enough to be held twice."""

_RESAMPLED = 1 << 22
"""The most samples that a resampler makes at a time."""


class Audio(NamedTuple):
    """A sound."""

    samples: Tensor
    """float32 ``(C, samples)`` in [-1, 1]."""
    sample_rate: int
    """Samples a second."""


class AudioReader:
    """Decodes one sound block by block, converted to the sample rate and channels that are wanted.

    A file of several parts (links of an Ogg file, MP3 files that were joined) is one sound: each is brought to the sample rate
    and channels that are wanted, or to those of the first.

    Args:
        file: a seekable file that holds the sound; it must stay open.
        sample_rate: samples a second that are wanted; None keeps those of the file.
        channels: 1 or 2 are wanted; None keeps what the file has.

    Raises:
        ValueError: it is no sound that can be read, it is damaged or cut short, or its channels cannot be converted.
    """

    def __init__(self, file: IO[bytes], sample_rate: int | None = None, channels: int | None = None) -> None:
        if channels not in (None, 1, 2):
            raise ValueError(f"channels {channels} is not 1 (mono) or 2 (stereo)")
        if sample_rate is not None and not 1 <= sample_rate <= MAX_SAMPLE_RATE:
            raise ValueError(f"sample rate {sample_rate} is outside 1 to {MAX_SAMPLE_RATE:,} Hz")
        self._parts = parts_of(file)
        self._first = _opened(self._parts[0])
        self.source_rate = self._first.sample_rate
        """Samples a second of the file, or of its first part."""
        self.source_channels = self._first.channels
        """Channels of the file, or of its first part."""
        self.format = self._first.format
        """Name of the file's format and coding, such as ``WAV PCM_16``."""
        self.sample_rate = sample_rate or self.source_rate
        """Samples a second of the blocks."""
        self.channels = channels or self.source_channels
        """Channels of the blocks."""
        self.clipped = 0
        """How many values beyond full scale were clipped so far."""
        _mixer(self._first, self.channels)

    @property
    def conversion(self) -> str:
        """What is changed, such as ``48000 Hz stereo to 16000 Hz mono``; empty if nothing is."""
        found = [(self.source_rate, self.source_channels)]
        found += [(part.rate, part.channels) for part in self._parts[1:] if part.rate]
        changed = [one for one in dict.fromkeys(found) if one != (self.sample_rate, self.channels)]
        if not changed:
            return ""
        return f"{', '.join(_described(*one) for one in changed)} to {_described(self.sample_rate, self.channels)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the sound in words, complete when all blocks were read; see `Modality.read_noting`."""
        joined = "parts of a chained or joined file put together" if len(self._parts) > 1 else ""
        clipped = ""
        if self.clipped:
            # In tens, hundreds and so on, so that the notes of many sounds can be counted together.
            least = 10 ** (len(str(self.clipped)) - 1)
            clipped = f"{least:,}-{10 * least - 1:,} values beyond full scale clipped"
        return tuple(note for note in (self.conversion, joined, self._first.note, clipped) if note)

    def blocks(self, size: int = BLOCK_SAMPLES) -> Iterator[Tensor]:
        """Yield the sound once as float32 ``(C, size)``, the last block shorter; the samples do not depend on ``size``.

        Raises:
            ValueError: the file is damaged or cut short, holds no sound, or values that are no sound (NaN).
        """
        if size < 1:
            raise ValueError(f"a block of {size} samples is too small; give 1 or more")
        waiting: list[Block] = []
        held = 0
        for part in self._converted():
            waiting.append(part)
            held += len(part)
            if held < size:
                continue
            joined = np.concatenate(waiting)
            for start in range(0, held - held % size, size):
                yield _planes(joined[start : start + size])
            waiting, held = [joined[held - held % size :]], held % size
        if held:
            yield _planes(np.concatenate(waiting))

    def _converted(self) -> Iterator[Block]:
        read = made = 0
        rate = self.source_rate
        for number, part in enumerate(self._parts):
            opened = _opened(part) if number else self._first
            rate = opened.sample_rate
            for block, was in self._of_one(opened, read):
                read += was
                made += len(block)
                yield block
        if not read:
            raise ValueError("it holds no sound (0 samples), or is cut short")
        if not made:
            raise ValueError(f"a sound of {read} samples at {rate} Hz has none at {self.sample_rate} Hz")

    def _of_one(self, opened: Opened, before: int) -> Iterator[tuple[Block, int]]:
        """Yield the blocks of one part as they are wanted, each with how many samples of the file are in it."""
        import soxr

        rate, mixed = opened.sample_rate, _mixer(opened, self.channels)
        resampler, most = None, BLOCK_SAMPLES
        if self.sample_rate != rate:
            resampler = soxr.ResampleStream(rate, self.sample_rate, self.channels, dtype="float32", quality=RESAMPLER)
            most = max(1, min(most, _RESAMPLED * rate // self.sample_rate))
        for block in opened.blocks():
            _check(block, before, rate)
            before += len(block)
            if resampler is None:
                yield self._clip(mixed(block)), len(block)
                continue
            # A file that says 1 Hz makes 16,000 samples of one.
            for start in range(0, len(block), most):
                piece = block[start : start + most]
                yield self._clip(resampler.resample_chunk(mixed(piece))), len(piece)
        if resampler is not None:
            yield self._clip(resampler.resample_chunk(np.zeros((0, self.channels), np.float32), last=True)), 0

    def _clip(self, block: Block) -> Block:
        if not len(block) or _peak(block) <= 1:
            return block
        self.clipped += int(np.count_nonzero(np.abs(block) > 1))
        return np.clip(block, -1, 1)


def read_audio(data: bytes, sample_rate: int | None = None, channels: int | None = None) -> Audio:
    """Decode a sound file.

    Args:
        data: the bytes of the file.
        sample_rate: samples a second that are wanted; None keeps those of the file.
        channels: 1 or 2 are wanted; None keeps what the file has.

    Raises:
        ValueError: the bytes are not a sound, a damaged or cut one, an empty one, or one of more than `MAX_VALUES` values.
    """
    return read_audio_noting(data, sample_rate, channels)[0]


def read_audio_noting(
    data: bytes, sample_rate: int | None = None, channels: int | None = None
) -> tuple[Audio, tuple[str, ...]]:
    """Do the same, and say in words what was done to the sound, see `AudioReader.notes`.

    Raises:
        ValueError: as `read_audio`.
    """
    reader = AudioReader(io.BytesIO(data), sample_rate, channels)
    most = min(MAX_VALUES, max(FREE_VALUES, VALUES_PER_BYTE * len(data)))
    blocks: deque[Tensor] = deque()
    values = 0
    for block in reader.blocks():
        blocks.append(block)
        values += block.numel()
        if values > most:
            hours = most / reader.channels / reader.sample_rate / 3600
            raise ValueError(
                f"a sound of more than {most:,} values ({hours:.1f} hours) in {len(data):,} bytes is too long to be read at "
                "once; cut it first"
            )
    return Audio(_joined(blocks, reader.channels, values), reader.sample_rate), reader.notes


def _joined(blocks: deque[Tensor], channels: int, values: int) -> Tensor:
    if len(blocks) == 1:
        return blocks.pop()
    if values <= _SHORT:
        return torch.cat(list(blocks), 1)
    # Each block is let go when it is copied, so that a long sound is not held twice.
    samples = torch.empty(channels, values // channels)
    place = 0
    while blocks:
        block = blocks.popleft()
        samples[:, place : place + block.shape[1]] = block
        place += block.shape[1]
    return samples


def stream_audio(
    path: str | os.PathLike[str],
    block: int = BLOCK_SAMPLES,
    sample_rate: int | None = None,
    channels: int | None = None,
) -> Iterator[Tensor]:
    """Yield a sound file, local or at an fsspec URL, as float32 ``(C, block)``, the last block shorter.

    The memory does not grow with the length, and the blocks joined are what `read_audio` gives.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `AudioReader` and its `blocks`.
    """
    with open_source(os.fspath(path)) as file:
        file = self_describing_file(os.fspath(path), file)
        yield from AudioReader(file, sample_rate, channels).blocks(block)


def conversion_of(data: bytes, sample_rate: int | None, channels: int | None) -> str:
    """Return `AudioReader.conversion` of a file, without decoding it.

    Raises:
        ValueError: as `AudioReader`.
    """
    return AudioReader(io.BytesIO(data), sample_rate, channels).conversion


def _opened(part: Part) -> Opened:
    opened = open_part(part)
    rate, channels = opened.sample_rate, opened.channels
    if not 1 <= rate <= MAX_SAMPLE_RATE or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(
            f"a sound of {rate} Hz and {channels} channels is outside the limits of 1 to "
            f"{MAX_SAMPLE_RATE:,} Hz and 1 to {MAX_CHANNELS} channels"
        )
    return opened


def _mixer(opened: Opened, wanted: int) -> Any:
    """Return a function of blocks that makes the channels of one part those that are wanted.

    Raises:
        ValueError: it is not known where the channels belong.
    """
    if wanted == opened.channels:
        return lambda block: block
    if wanted == 1:
        # The mean of two is the same to the bit, and much quicker than a reduction along a short axis.
        if opened.channels == 2:
            return lambda block: (block[:, :1] + block[:, 1:]) / np.float32(2)
        return lambda block: block.mean(1, keepdims=True, dtype=np.float32)
    if opened.channels == 1:
        return lambda block: np.repeat(block, wanted, axis=1)
    if wanted == 2:
        weights: NDArray[np.float32] = stereo_weights(opened.speakers, opened.channels)
        # One channel after the other, so that the bits do not depend on how a library divides a product of matrices.
        return lambda block: sum(block[:, [index]] * weights[index] for index in range(opened.channels))
    raise ValueError(f"a part of {opened.channels} channels cannot join one of {wanted}; ask for one or two channels")


def _check(block: Block, before: int, rate: int) -> None:
    peak = _peak(block) if len(block) else 0.0
    if peak <= MAX_PEAK:
        return
    finite = np.isfinite(block).all(1)
    if not finite.all():
        at = before + int(np.argmin(finite))
        raise ValueError(f"sample {at:,} ({at / rate:.2f} s) is not a number; the sound is damaged")
    raise ValueError(f"values up to {peak:g} are far beyond full scale; scale the sound to [-1, 1] first")


def _peak(block: Block) -> float:
    """Return the largest magnitude, NaN if there is one, without a copy."""
    return max(float(block.max()), -float(block.min()))


def _planes(block: Block) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(block.T))


def _described(sample_rate: int, channels: int) -> str:
    return f"{sample_rate} Hz {({1: 'mono', 2: 'stereo'}).get(channels, f'{channels} channels')}"
