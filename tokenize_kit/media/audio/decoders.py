"""The two decoders: libsndfile (soundfile) and FFmpeg (PyAV), each read block by block to the end of what it is given.

What comes in from outside is hostile until shown otherwise: FFmpeg opens only named formats, none of which can point at other
files, and whatever breaks inside a decoder becomes a ValueError.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import soundfile

from tokenize_kit.errors import NoTrackError
from tokenize_kit.media.audio.part import Block, Part
from tokenize_kit.media.containers.peek import CUT

BLOCK_SAMPLES = 1 << 16
"""How much is decoded at a time unless told otherwise."""

# Playlists and scripts, which open what they name, are not among them.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,wav,w64,aiff,au,caf,avi,ogg,mp3,flac,amr"
_SKIP_MANUAL = 1 << 29
"""Of the flags of FFmpeg's decoders: whoever reads leaves out the padding."""
_LENGTH_TOLERANCE = 0.1
"""Seconds."""
_MP3_TOLERANCE = 576
"""What an mp3 decoder trims at the end is known to a frame only."""


class Opened(NamedTuple):
    """A decoder that is ready to go."""

    sample_rate: int
    channels: int
    format: str
    blocks: Callable[[], Iterator[Block]]
    speakers: tuple[str, ...] = ()
    note: str = ""


class _InOrder(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is read from its beginning to its end, without the seek that soundfile adds to each read."""

    def seekable(self) -> bool:
        """Return that nothing is to be sought."""
        return False


def open_part(part: Part) -> Opened:
    """Open a part with the decoder that can: libsndfile first, then FFmpeg.

    Raises:
        ValueError: neither can.
    """
    reason = ""
    if not part.container:
        try:
            return _open_soundfile(part)
        except soundfile.SoundFileError as error:
            reason = reason_of(error) + "; "
    try:
        return _open_av(part)
    except ValueError as error:
        kind = NoTrackError if isinstance(error, NoTrackError) else ValueError
        raise kind(f"not a sound that can be read ({reason}{reason_of(error)})") from None


def _open_soundfile(part: Part) -> Opened:
    sound = _InOrder(part.open())
    channels = sound.channels
    declared = sound.frames if part.samples is None and part.counted else part.samples or 0
    slack = max(part.slack, _MP3_TOLERANCE) if sound.format == "MP3" else part.slack

    def decoded() -> Iterator[Block]:
        done = 0
        with sound:
            while True:
                # The library fills with zeros what it cannot read, so it is asked for no more than is expected.
                left = min(sound.frames, part.stated or 1 << 62) - done
                wanted = min(BLOCK_SAMPLES, left) if left > 0 else BLOCK_SAMPLES if left else 1
                try:
                    block = sound.read(wanted, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    raise ValueError(f"cannot decode the sound ({reason_of(error)}); {CUT}") from None
                if not len(block):
                    break
                done += len(block)
                yield block
        if declared < 1 << 62 and done < declared - slack:
            raise ValueError(f"the sound ends after {done:,} of {declared:,} samples; {CUT}")

    def blocks() -> Iterator[Block]:
        return part.verified(decoded()) if part.verified else decoded()

    speakers = part.speakers if len(part.speakers) == channels else ()
    return Opened(sound.samplerate, channels, f"{sound.format} {sound.subtype}", blocks, speakers, part.note)


def _open_av(part: Part) -> Opened:
    import av

    try:
        container = av.open(part.open(), options={"format_whitelist": _DEMUXERS}, metadata_errors="ignore")
    except (av.FFmpegError, UnicodeError) as error:
        raise ValueError(reason_of(error)) from None
    tracks = container.streams.audio
    if not tracks:
        raise NoTrackError(f"a {container.format.name} file without a sound track")
    stream = next((one for one in tracks if one.disposition & av.stream.Disposition.default), tracks[0])
    note = f"sound track {tracks.index(stream) + 1} of {len(tracks)} taken" if len(tracks) > 1 else part.note
    if stream.codec_context is None:
        raise ValueError(f"a {container.format.name} file whose sound is coded in no way that is known")
    if part.padded and part.samples:
        # FFmpeg takes what the last packet of a CAF file lacks off its end once more.
        stream.codec_context.flags2 |= _SKIP_MANUAL
    # What the header says of rate and channels can be wrong (HE-AAC), so the first frame is asked.
    known = len(part.packets) == len(tracks)
    frames = _frames(container, stream, part.packets[tracks.index(stream)] if known else 0)
    first = next(frames, None)
    if first is None:
        raise ValueError("its sound track holds no sound, or is cut short")
    rate, channels = first.sample_rate, len(first.layout.channels)
    layout, name = first.layout.name, f"{container.format.name} {stream.codec_context.name}"
    speakers = tuple(channel.name for channel in first.layout.channels)
    # Only mp4 and its kin say to the sample how long the track is; what its last frame has beyond that is padding.
    expected = None
    if "mp4" in container.format.name and not part.fragmented and stream.duration and stream.time_base:
        expected = round(stream.duration * stream.time_base * rate)
    if part.padded and part.samples:
        expected = part.samples
    least = expected or (round(part.seconds * rate) if len(container.streams) == 1 else 0)

    def decoded() -> Iterator[Block]:
        # Also evens out what changes within a stream.
        even = av.AudioResampler(format="flt", layout=layout, rate=rate)
        done = 0
        with container:
            for frame in itertools.chain([first], frames, [None]):
                for ready in even.resample(frame):
                    block = ready.to_ndarray().reshape(-1, channels).astype(np.float32, copy=False)
                    done += len(block)
                    yield block
        if done < least - _LENGTH_TOLERANCE * rate:
            raise ValueError(f"the sound ends after {done:,} of {least:,} samples; {CUT}")
        if part.samples is not None and done < part.samples - part.slack:
            raise ValueError(f"the sound ends after {done:,} of {part.samples:,} samples; {CUT}")

    def blocks() -> Iterator[Block]:
        made = decoded() if expected is None else _without_padding(decoded(), expected, round(_LENGTH_TOLERANCE * rate))
        return part.verified(made) if part.verified else made

    return Opened(rate, channels, name, blocks, speakers, note)


def _without_padding(blocks: Iterator[Block], samples: int, most: int) -> Iterator[Block]:
    """Leave out what comes after so many samples, unless there is more of it than padding can be: then all is sound."""
    done, held = 0, []
    for block in blocks:
        keep = block[: max(0, samples - done)]
        done += len(block)
        if len(keep):
            yield keep
        if len(keep) < len(block):
            held.append(block[len(keep) :])
            if done > samples + most:
                yield from held
                held, samples = [], 1 << 62


def _frames(container: Any, stream: Any, packets: int) -> Iterator[Any]:
    import av

    found = 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ValueError(f"a packet of the sound is not whole; {CUT}")
            found += packet.size > 0
            yield from packet.decode()
    except av.FFmpegError as error:
        raise ValueError(f"cannot decode the sound ({reason_of(error)}); {CUT}") from None
    if found < packets:
        raise ValueError(f"the sound has {packets:,} packets, and {found:,} can be read; it is damaged")


def decode_exactly(file: IO[bytes], samples: int) -> Iterator[Block]:
    """Decode so many samples of a file with libsndfile, whatever follows them.

    Raises:
        ValueError: there are fewer, or more.
    """
    try:
        with _InOrder(file) as sound:
            while samples and len(block := sound.read(min(samples, BLOCK_SAMPLES), dtype="float32", always_2d=True)):
                samples -= len(block)
                yield block
            if samples:
                raise ValueError(f"the sound ends {samples:,} samples before its end; {CUT}")
            more = _one_more(sound)
    except soundfile.SoundFileError as error:
        raise ValueError(f"cannot decode the sound ({reason_of(error)}); {CUT}") from None
    if more:
        raise ValueError(f"the file holds more samples than its header says; {CUT}")


def _one_more(sound: Any) -> bool:
    try:
        return len(sound.read(1, dtype="float32", always_2d=True)) > 0
    except soundfile.SoundFileError:
        return False


def reason_of(error: Exception) -> str:
    """Say in one line what a library has to say."""
    text = " ".join(str(getattr(error, "strerror", "") or getattr(error, "error_string", "") or error).split())
    # Addresses of byte streams differ from run to run.
    hidden = any(word in text for word in ("BytesIO", "BufferedReader", "object at 0x"))
    return type(error).__name__ if not text or hidden else text.removeprefix("Error : ")
