"""Films through FFmpeg (PyAV): the stream that is taken, its frames in the order in which they are shown, and seeking.

What comes in from outside is hostile until shown otherwise: only named formats are opened, none of which can point at other
files; a frame has a limit of pixels before memory is taken for it; and a decoder that would hide damage (repeat a frame, leave
one out, fill a hole) is told not to, so that each frame that a file has is there or an error says at which time one is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, Any, NamedTuple

import torch

from tokenize_kit.errors import NoTrackError
from tokenize_kit.media.containers.peek import CUT
from tokenize_kit.media.video.colours import MAX_FRAME_PIXELS, Look, check_size, look_of
from tokenize_kit.media.video.ffv1 import SliceChecks
from tokenize_kit.media.video.shown import Shown

# Playlists and scripts, which open what they name, are not among them.
_DEMUXERS = ",".join(
    [
        *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "ogg", "mpegts", "mpeg", "flv", "asf"),
        *("yuv4mpegpipe", "h264", "hevc", "mpegvideo", "m4v", "ivf", "obu"),
    ]
)
_SEEKABLE = frozenset(("mp4", "matroska", "avi"))
"""Formats whose index or clusters say where key frames are; of others a clip is decoded from the beginning."""
_NEVER_EQUAL = frozenset(("mp4",))
"""Formats that say how long each frame is shown, so that no two can appear at once."""
_ONE_EACH = frozenset(
    ("h264", "hevc", "vp8", "vp9", "av1", "ffv1", "mjpeg", "png", "qtrle", "huffyuv", "utvideo", "prores")
)
"""Codings of which each packet is one frame that is shown, so that one that is left out is known."""
_EMPTY_MPEG4 = 8
"""Bytes of a packet of MPEG-4 that stands for a frame that is none, or that was in the one before."""
_DAMAGE = {"err_detect": "crccheck+bitstream+buffer+explode", "ec": "0"}
_OUTPUT_CORRUPT = 1 << 3
_COPY_OPTIONS = {"max_pixels": str(MAX_FRAME_PIXELS)}
_PICTURES = frozenset(("mjpeg", "png", "bmp", "gif", "tiff", "webp"))
_BACK = (Fraction(0), Fraction(2), Fraction(10), Fraction(60))
"""Seconds before the place that is sought, if what is decoded from the key frame before it does not reach back to it."""
_MOST_THREADS = 8
_SLOWEST = Fraction(1, 50_000)
"""Frames a second; half a day a frame is the slowest film."""
_LATE = Fraction(1, 1000)


class Opened(NamedTuple):
    """A container that is open, with the stream that is taken of it."""

    container: Any
    stream: Any
    decoder: Any
    note: str


class Film:
    """One video stream of a file.

    Args:
        file: a seekable file; it must stay open.
        channels: of the frames: 1 (grey), 3 (RGB) or 4 (RGBA).
        packets: how many frames each video stream has that is no picture, as `examine.frames_of` returns it.

    Raises:
        ValueError: it holds no video that can be read.
    """

    def __init__(self, file: IO[bytes], channels: int, packets: tuple[int, ...] = ()) -> None:
        self._file, self._channels, self._packets = file, channels, packets
        self._opened: Opened | None = self._open()
        container, stream, _, note = self._opened
        self.format = _format(container)
        """Name of the container."""
        self.codec = str(stream.codec_context.codec.canonical_name)
        self._tick = Fraction(stream.time_base)
        self.slack = min(self._tick, _LATE)
        """How much later than it means a time stamp may be, in seconds."""
        self._frames: Iterator[Any] | None = self._decoded(self._opened, 0)
        first = next(self._frames, None)
        if first is None:
            raise ValueError("its video stream holds no frames, or is cut short")
        self._first: Any | None = first
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or 25)
        """Frames a second, on average."""
        if self.rate < _SLOWEST:
            raise ValueError(f"its frame rate is said to be {float(self.rate):.3g} a second; {CUT}")
        self.origin = self._time(first, None)
        """When the first frame is shown, on the clock of the file."""
        self._look: Look = look_of(first, stream, channels)
        self.height, self.width = self._look.height, self._look.width
        self.duration = self._duration(container, stream)
        """Seconds; None if the file does not say."""
        self.notes: list[str] = [one for one in (note, *self._look.notes) if one]
        """What was chosen and done, in words."""

    def shown(self, at: Fraction) -> Iterator[Shown]:
        """Yield the frames in the order in which they are shown, from that on which is shown ``at`` seconds after the first, or
        from an earlier one.

        Raises:
            ValueError: the film is damaged or cut short.
        """
        if at > 0 and self.format in _SEEKABLE:
            yield from self._sought(at)
            return
        yield from self._from_the_beginning()

    def _from_the_beginning(self) -> Iterator[Shown]:
        frames, first = self._frames, self._first
        self._frames = self._first = None
        if frames is None or first is None:
            self._close()
            self._opened = self._open()
            frames = self._decoded(self._opened, 0)
        else:
            frames = itertools.chain([first], frames)
        yield from self._timed(frames)
        self._close()

    def _sought(self, at: Fraction) -> Iterator[Shown]:
        """Decode from a key frame that is early enough; whatever is wrong with that is right from an earlier one, or damage."""
        self._frames = self._first = None
        for back in _BACK:
            if at - back <= 0:
                break
            opened = self._opened or self._open()
            self._opened = opened
            target = self.origin + at
            try:
                _seek(opened, int((target - back) / self._tick))
                shown = self._timed(self._decoded(opened, None))
                first = next(shown, None)
                if first is None or first.time > target:
                    continue
                # Up to the frame in question nothing is told, so that damage which is none from further back does no harm.
                held = first
                for one in shown:
                    if one.time > target:
                        yield held
                        held = one
                        break
                    held = one
            except ValueError:
                continue
            yield held
            yield from shown
            return
        yield from self._from_the_beginning()

    def _open(self) -> Opened:
        import av

        self._file.seek(0)
        try:
            container = av.open(
                self._file, options={"format_whitelist": _DEMUXERS, **_COPY_OPTIONS}, metadata_errors="ignore"
            )
        except (av.FFmpegError, UnicodeError, OverflowError) as error:
            raise ValueError(f"not a video that can be read ({reason_of(error)})") from None
        stream, note = _chosen(container)
        decoder = _decoder(stream)
        return Opened(container, stream, decoder, note)

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.container.close()
            self._opened = None

    def _decoded(self, opened: Opened, first: int | None) -> Iterator[Any]:
        """Yield the frames of the stream from where the container stands.

        Args:
            opened: the container.
            first: None if it was sought in, so that frames before the first key frame may lack what they are made from.
        """
        import av

        container, stream, decoder, _ = opened
        expects, waiting, key = self.codec in _ONE_EACH, set[int](), first
        time, found, coded, decoded = Fraction(0), 0, 0, 0
        checks = SliceChecks() if stream.codec_context.name == "ffv1" else None
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise ValueError(f"a packet at {float(time):.2f} s is not whole; {CUT}")
                found += packet.size > 0 and not packet.is_discard
                coded += packet.size > _EMPTY_MPEG4
                if checks is not None and packet.size and checks.is_damaged(bytes(memoryview(packet))):
                    at = float((packet.pts or 0) * self._tick)
                    raise ValueError(f"a slice of the frame at {at:.2f} s has a wrong checksum; {CUT}")
                if key is None and packet.pts is not None:
                    key = packet.pts
                # What is shown before the key frame that was sought may be made from frames before it.
                leads = first is None and packet.pts is not None and packet.pts < (key or 0)
                if expects and not leads and packet.size and packet.pts is not None and _is_shown(packet, stream):
                    waiting.add(packet.pts)
                for frame in decoder.decode(packet if packet.size else None):
                    decoded += 1
                    frame_time = frame.pts if frame.pts is not None else frame.dts
                    if frame_time is not None:
                        time = frame_time * self._tick
                        if first is None and key is not None and frame_time < key:
                            continue
                    if frame.is_corrupt:
                        raise ValueError(f"the frame at {float(time):.2f} s is damaged; {CUT}")
                    expects = expects and not frame.interlaced_frame
                    if expects and frame.pts is not None:
                        waiting.discard(frame.pts)
                        left_out = [one for one in waiting if one < frame.pts]
                        if left_out:
                            missing = float(min(left_out) * self._tick)
                            raise ValueError(f"the frame at {missing:.2f} s cannot be decoded; {CUT}")
                    yield frame
        except av.FFmpegError as error:
            raise ValueError(f"cannot decode the video after {float(time):.2f} s ({reason_of(error)}); {CUT}") from None
        stated = self._stated(container, stream)
        if first is not None and found < stated:
            raise ValueError(f"the video has {stated:,} frames, and {found:,} can be read; it is damaged")
        if first is not None and self.codec == "mpeg4" and decoded < coded:
            raise ValueError(f"{coded - decoded:,} of {coded:,} frames cannot be decoded; {CUT}")
        if expects and waiting:
            raise ValueError(f"the frame at {float(min(waiting) * self._tick):.2f} s cannot be decoded; {CUT}")

    def _stated(self, container: Any, stream: Any) -> int:
        films = _films(container)
        if len(films) == len(self._packets):
            return self._packets[films.index(stream)]
        if self._packets and self.format == "matroska":
            raise ValueError(f"{len(films)} video streams are found in {len(self._packets)} video tracks; {CUT}")
        return -1

    def _timed(self, frames: Iterator[Any]) -> Iterator[Shown]:
        before: Fraction | None = None
        last: Fraction | None = None
        for frame in frames:
            time = self._time(frame, before)
            last = time if last is None else last
            if time < last:
                raise ValueError(
                    f"the frame at {float(time):.2f} s comes after that at {float(last):.2f} s; {CUT}, or was joined from "
                    "films whose times begin anew: write it again with any tool that sets new times"
                )
            if time == last and before is not None and self.format in _NEVER_EQUAL:
                raise ValueError(f"two frames are shown at {float(time):.2f} s; {CUT}")
            last = time
            # Equal stamps are those of broken writers; the frame is shown as soon as it can be.
            if before is not None and time <= before:
                time = before + self._tick
            before = time
            yield Shown(time, frame.duration * self._tick, self._look.painter(frame))

    def _time(self, frame: Any, before: Fraction | None) -> Fraction:
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is not None:
            return Fraction(stamp * self._tick)
        return Fraction(0) if before is None else before + 1 / self.rate

    def _duration(self, container: Any, stream: Any) -> Fraction | None:
        if stream.duration:
            return Fraction(stream.duration) * self._tick
        return Fraction(container.duration, 1_000_000) if container.duration else None


def _films(container: Any) -> list[Any]:
    from av.stream import Disposition

    # Covers of music and thumbnails pose as streams of one frame.
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    return [one for one in container.streams.video if not one.disposition & pictures]


def _chosen(container: Any) -> tuple[Any, str]:
    """Return the video stream that is taken, and what is to be said of that."""
    from av.stream import Disposition

    films = _films(container)
    if not films:
        what = "but with a cover picture alone" if container.streams.video else "without a video stream"
        raise NoTrackError(f"a {_format(container)} file {what}; it is no video")
    # A cover that is not marked as one is a picture beside a film.
    stream = min(films, key=lambda one: (not one.disposition & Disposition.default, _is_pictures(one), one.index))
    if stream.codec_context is None:
        raise ValueError(f"a {_format(container)} file whose video is coded in no way that is known")
    note = f"video stream {films.index(stream) + 1} of {len(films)} taken" if len(films) > 1 else ""
    return stream, note


def _format(container: Any) -> str:
    name = str(container.format.name).split(",")[0]
    return "mp4" if name == "mov" else name


def _is_pictures(stream: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.name in _PICTURES


def _seek(opened: Opened, stamp: int) -> None:
    """Go to the key frame at or before a time stamp.

    Raises:
        ValueError: it cannot be found.
    """
    import av

    try:
        opened.container.seek(stamp, stream=opened.stream)
    except av.FFmpegError as error:
        raise ValueError(f"cannot seek ({reason_of(error)})") from None
    opened.decoder.flush_buffers()


def _decoder(stream: Any) -> Any:
    """Return a decoder that tells damage, and keeps transparency where there is some."""
    import av

    context = stream.codec_context
    check_size(context.width, context.height)
    if context.name in ("vp8", "vp9") and stream.metadata.get("alpha_mode") == "1":
        # FFmpeg's own decoders leave the transparency out.
        own = av.CodecContext.create("libvpx" if context.name == "vp8" else "libvpx-vp9", "r")
        own.extradata = context.extradata
        context = own
    context.options = {**_DAMAGE, **_COPY_OPTIONS}
    context.flags |= _OUTPUT_CORRUPT
    # Workers compute with one thread each, as torch does in them; the frames do not depend on it.
    context.thread_count = max(1, min(torch.get_num_threads(), _MOST_THREADS))
    # By slices the decoders of MPEG-1 and MPEG-2 take sound frames for damaged.
    context.thread_type = "FRAME"
    return context


def _is_shown(packet: Any, stream: Any) -> bool:
    """Return whether a packet makes a frame that is shown: some of VP8 only serve as reference, and edits leave some out."""
    if packet.is_discard:
        return False
    if stream.codec_context.name == "vp8":
        return bool(bytes(memoryview(packet)[:1])[0] & 0x10)
    return True


def reason_of(error: BaseException) -> str:
    """Say in one line what a library has to say."""
    text = " ".join(str(getattr(error, "strerror", "") or error).split())
    # Addresses of byte streams differ from run to run.
    return type(error).__name__ if not text or "object at 0x" in text or "BytesIO" in text else text
