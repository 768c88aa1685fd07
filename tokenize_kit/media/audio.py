"""Sound files to float32 tensors ``(C, samples)`` in [-1, 1] and back.

soundfile decodes wav, flac, ogg and mp3 (and aiff), PyAV everything else: m4a and aac, G.722, the sound tracks of mp4, webm,
mkv, mov and avi. All sounds pass through `AudioReader`, which decodes block by block, so a file of any length needs a bounded
memory (`stream_audio`), and reading a whole one (`read_audio`) gives the very same samples.

What comes in from outside is hostile until shown otherwise: only named formats are opened (none that can point at other
files), sizes are bounded, and whatever breaks inside a decoder becomes a ValueError.

Rules: many channels become one by their mean, one becomes two by a copy; a wanted sample rate is reached with soxr's high
quality (`RESAMPLER`), channels first; samples beyond full scale, which decoders of lossy formats and resampling make, are
clipped. `AudioReader.conversion` says in words what was changed. A file that is shorter than it says of itself is refused;
raw streams (G.722, aac) say nothing of their length, so a part of one is a shorter sound.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
import wave
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenize_kit.files import atomic_write
from tokenize_kit.opening import open_source

MAX_VALUES = 1 << 29
"""The longest sound that is read into memory at once, samples times channels (2 GiB); longer ones only block by block."""

MAX_CHANNELS = 64
MAX_SAMPLE_RATE = 1_000_000

MAX_PEAK = 4.0
"""A float sound may be this much above full scale before it is clipped; beyond it is not scaled to [-1, 1] at all."""

RESAMPLER = "HQ"
"""soxr's quality for 20 bits: linear phase, output aligned with the input, flat to 0.91 of the lower Nyquist frequency."""

BLOCK_SAMPLES = 1 << 16
"""How much is decoded at a time unless told otherwise."""

# ffmpeg's demuxers for single files; playlists and scripts, which open what they name, are not among them.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,wav,avi,ogg,mp3,flac"
_LENGTH_TOLERANCE = 0.1
"""Seconds."""

Block = NDArray[np.float32]
"""Samples ``(n, C)``, as decoders give them."""


class Audio(NamedTuple):
    """A sound."""

    samples: Tensor
    """float32 ``(C, samples)`` in [-1, 1]."""
    sample_rate: int
    """Samples a second."""


class _Opened(NamedTuple):
    """A decoder that is ready to go."""

    sample_rate: int
    channels: int
    format: str
    blocks: Callable[[], Iterator[Block]]


class AudioReader:
    """Decodes one sound block by block, converted to the sample rate and channels that are wanted.

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
        _check_whole(file)
        self._opened = _open(file)
        self.source_rate = self._opened.sample_rate
        """Samples a second of the file."""
        self.source_channels = self._opened.channels
        """Channels of the file."""
        self.format = self._opened.format
        """Name of the file's format and coding, such as ``WAV PCM_16``."""
        if not 1 <= self.source_rate <= MAX_SAMPLE_RATE or not 1 <= self.source_channels <= MAX_CHANNELS:
            raise ValueError(
                f"a sound of {self.source_rate} Hz and {self.source_channels} channels is outside the limits of 1 to "
                f"{MAX_SAMPLE_RATE:,} Hz and 1 to {MAX_CHANNELS} channels"
            )
        if channels == 2 and self.source_channels > 2:
            raise ValueError(f"a sound of {self.source_channels} channels cannot be made stereo; mix it down first")
        self.sample_rate = sample_rate or self.source_rate
        """Samples a second of the blocks."""
        self.channels = channels or self.source_channels
        """Channels of the blocks."""
        self.clipped = 0
        """How many values beyond full scale were clipped so far."""

    @property
    def conversion(self) -> str:
        """What is changed, such as ``48000 Hz stereo to 16000 Hz mono``; empty if nothing is."""
        if (self.source_rate, self.source_channels) == (self.sample_rate, self.channels):
            return ""
        return f"{_described(self.source_rate, self.source_channels)} to {_described(self.sample_rate, self.channels)}"

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
        import soxr

        resampler = None
        if self.sample_rate != self.source_rate:
            resampler = soxr.ResampleStream(
                self.source_rate, self.sample_rate, self.channels, dtype="float32", quality=RESAMPLER
            )
        read = made = 0
        for block in self._opened.blocks():
            self._check(block, read)
            read += len(block)
            part = self._mixed(block)
            if resampler is not None:
                part = resampler.resample_chunk(part)
            made += len(part)
            yield self._clip(part)
        if not read:
            raise ValueError("it holds no sound (0 samples), or is cut short")
        if resampler is not None:
            part = resampler.resample_chunk(np.zeros((0, self.channels), np.float32), last=True)
            made += len(part)
            yield self._clip(part)
        if not made:
            raise ValueError(f"a sound of {read} samples at {self.source_rate} Hz has none at {self.sample_rate} Hz")

    def _check(self, block: Block, before: int) -> None:
        peak = float(np.abs(block).max(initial=0.0))
        if peak <= MAX_PEAK:
            return
        finite = np.isfinite(block).all(1)
        if not finite.all():
            at = before + int(np.argmin(finite))
            raise ValueError(f"sample {at:,} ({at / self.source_rate:.2f} s) is not a number; the sound is damaged")
        raise ValueError(f"values up to {peak:g} are far beyond full scale; scale the sound to [-1, 1] first")

    def _mixed(self, block: Block) -> Block:
        if self.channels == self.source_channels:
            return block
        if self.channels == 1:
            mean: Block = block.mean(1, keepdims=True, dtype=np.float32)
            return mean
        return np.repeat(block, 2, axis=1)

    def _clip(self, block: Block) -> Block:
        beyond = int(np.count_nonzero(np.abs(block) > 1))
        if not beyond:
            return block
        self.clipped += beyond
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
    reader = AudioReader(io.BytesIO(data), sample_rate, channels)
    blocks: list[Tensor] = []
    values = 0
    for block in reader.blocks():
        blocks.append(block)
        values += block.numel()
        if values > MAX_VALUES:
            raise ValueError(
                f"a sound of more than {MAX_VALUES:,} values ({MAX_VALUES / reader.channels / reader.sample_rate / 3600:.1f} "
                "hours) is too long to be read at once; cut it first"
            )
    return Audio(torch.cat(blocks, 1), reader.sample_rate)


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


def self_describing(extension: str, data: bytes) -> bytes:
    """Return a file's bytes so that they say what they are: raw G.722 (``.g722``), which has no header, gets that of a wav."""
    return _g722_header(len(data)) + data if extension.lower().endswith(".g722") else data


def self_describing_file(name: str, file: IO[bytes]) -> IO[bytes]:
    """Do the same for a file that is open: a G.722 file (an hour has 29 MB) is read into memory, others stay as they are."""
    return io.BytesIO(self_describing(name, file.read())) if name.lower().endswith(".g722") else file


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


def _planes(block: Block) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(block.T))


def _described(sample_rate: int, channels: int) -> str:
    return f"{sample_rate} Hz {({1: 'mono', 2: 'stereo'}).get(channels, f'{channels} channels')}"


def _g722_header(size: int) -> bytes:
    # Format tag 0x028F is G.722; 16 kHz, 64 kbit/s. A length that 32 bits cannot say is left open.
    form = struct.pack("<HHIIHHH", 0x028F, 1, 16_000, 8_000, 1, 4, 0)
    sizes = (min(size + 38, 0xFFFFFFFF), min(size, 0xFFFFFFFF))
    return (
        struct.pack("<4sI4s4sI", b"RIFF", sizes[0], b"WAVE", b"fmt ", 18)
        + form
        + struct.pack("<4sI", b"data", sizes[1])
    )


def _open(file: IO[bytes]) -> _Opened:
    try:
        return _open_soundfile(file)
    except soundfile.SoundFileError as error:
        reason = _reason(error)
    file.seek(0)
    try:
        return _open_av(file)
    except ValueError as error:
        raise ValueError(f"not a sound that can be read ({reason}; {_reason(error)})") from None


def _open_soundfile(file: IO[bytes]) -> _Opened:
    sound = soundfile.SoundFile(file)
    rate, channels, declared = sound.samplerate, sound.channels, sound.frames
    # What an mp3 decoder trims at the end is known to a frame only.
    tolerance = 576 if sound.format == "MP3" else 0

    def blocks() -> Iterator[Block]:
        done = 0
        with sound:
            while True:
                try:
                    part = sound.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    raise ValueError(
                        f"cannot decode the sound ({_reason(error)}); it is damaged or cut short"
                    ) from None
                if not len(part):
                    break
                done += len(part)
                yield part
        if declared < 1 << 62 and done < declared - tolerance:
            raise ValueError(f"the sound ends after {done:,} of {declared:,} samples; it is damaged or cut short")

    return _Opened(rate, channels, f"{sound.format} {sound.subtype}", blocks)


def _open_av(file: IO[bytes]) -> _Opened:
    import av

    try:
        container = av.open(file, options={"format_whitelist": _DEMUXERS}, metadata_errors="ignore")
    except (av.FFmpegError, UnicodeError) as error:
        raise ValueError(_reason(error)) from None
    if not container.streams.audio:
        raise ValueError(f"a {container.format.name} file without a sound track")
    stream = container.streams.audio[0]
    # What the header says of rate and channels can be wrong (HE-AAC), so the first frame is asked.
    frames = _frames(container, stream)
    first = next(frames, None)
    if first is None:
        raise ValueError("its sound track holds no sound, or is cut short")
    rate, channels = first.sample_rate, len(first.layout.channels)
    layout, name = first.layout.name, f"{container.format.name} {stream.codec_context.name}"
    # Only mp4 and its kin say to the sample how long the track is; what its last frame has beyond that is padding.
    expected = None
    if "mp4" in container.format.name and stream.duration is not None and stream.time_base is not None:
        expected = round(stream.duration * stream.time_base * rate)

    def blocks() -> Iterator[Block]:
        # Also evens out what changes within a stream.
        even = av.AudioResampler(format="flt", layout=layout, rate=rate)
        done = 0
        with container:
            for frame in itertools.chain([first], frames, [None]):
                for ready in even.resample(frame):
                    part = ready.to_ndarray().reshape(-1, channels).astype(np.float32, copy=False)
                    part = part if expected is None else part[: max(0, expected - done)]
                    done += len(part)
                    yield part
        if expected is not None and done < expected - _LENGTH_TOLERANCE * rate:
            raise ValueError(f"the sound ends after {done:,} of {expected:,} samples; it is damaged or cut short")

    return _Opened(rate, channels, name, blocks)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    import av

    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise ValueError(f"cannot decode the sound ({_reason(error)}); it is damaged or cut short") from None


def _check_whole(file: IO[bytes]) -> None:
    """Refuse wav, aiff and ogg files that end before they should, which decoders take without a word.

    Raises:
        ValueError: the file ends inside its samples, or in the middle of a page.
    """
    file.seek(0)
    head = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if head[:4] in (b"RIFF", b"FORM"):
        _check_chunks(file, size, *((b"data", "<4sI") if head[:4] == b"RIFF" else (b"SSND", ">4sI")))
    elif head[:4] == b"OggS":
        _check_pages(file, size)
    file.seek(0)


def _check_chunks(file: IO[bytes], size: int, wanted: bytes, layout: str) -> None:
    place = 12
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack(layout, file.read(8))
        if name == wanted:
            # A writer that did not know the length leaves these.
            if length not in (0, 0xFFFFFFFF) and length > size - place - 8:
                raise ValueError(
                    f"the sound ends after {size - place - 8:,} of {length:,} bytes of samples; it is damaged or cut short"
                )
            return
        place += 8 + length + length % 2


def _check_pages(file: IO[bytes], size: int) -> None:
    # A page has at most 65,307 bytes, so the last one begins in what is read here.
    start = max(0, size - 65_307)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(b"OggS")
    head = tail[place : place + 27]
    segments = tail[place + 27 : place + 27 + head[26]] if place >= 0 and len(head) == 27 else b""
    if len(head) < 27 or len(segments) < head[26] or place + 27 + len(segments) + sum(segments) > len(tail):
        raise ValueError("the sound ends in the middle of an Ogg page; it is damaged or cut short")


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", "") or getattr(error, "error_string", "") or error).split())
    # Addresses of byte streams differ from run to run.
    return type(error).__name__ if not text or "BytesIO" in text else text.removeprefix("Error : ")
