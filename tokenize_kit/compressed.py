"""What compressed files hold, as a stream of bytes: gzip, zstandard, bzip2 and xz.

Such a file is one stream after another (gzip calls them members, zstandard frames); parallel compressors write many, and zeros
may fill up the end. It is read to its last byte, and either all of it comes out or, behind what is whole, a
`DamagedFileError`: the libraries by themselves take a frame without an end, or what follows the first stream, for the end
of the data. Memory is what the window of the format needs, and only as far as it is used, whatever the data expands to.
"""

from __future__ import annotations

import bz2
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol, cast

from tokenize_kit.errors import DamagedFileError

XZ_MEMORY = 768 << 20
"""An xz file whose dictionary asks for more memory is refused; the largest preset needs 65 MiB."""

ZST_WINDOW = 1 << 31
"""The largest window that the zstandard library writes."""

ARCHIVED = "zip"
"""The compression of a file inside an archive that is not compressed besides."""

_PART = 1 << 17
"""The most bytes that come out of a decompressor at a time, which are lost with the damage that follows them."""
_TAKEN = 1 << 18
"""Compressed bytes that are read at a time."""
_STEP = 1 << 20
_WIDE = 1 << 29
_BOMB = 1000
_CUT_ZST = "it ends inside its zst data"


class Unpacked(io.RawIOBase):
    """A compressed file that can be read and sought forwards.

    `read` and `readinto` give fewer bytes than were asked for only at the end and before damage, which the next call then raises.
    """

    def __init__(self, source: Counted, given: _Given) -> None:
        self._source, self._given = source, given
        self._position = 0
        self._damage = ""

    @property
    def taken(self) -> int:
        """Compressed bytes that were read so far."""
        return self._source.taken

    def compressed_size(self, size: int) -> int:
        """Return about how many compressed bytes make so many of those that come out, by what was read so far."""
        return size * self.taken // max(1, self._position)

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Read ``size`` bytes, or all that is left.

        Raises:
            DamagedFileError: the data is damaged here; what stands before was given by the calls before.
        """
        left = size if size is not None and size >= 0 else sys.maxsize
        # Less first: more is asked for than most files have.
        part = self._part(min(left, _STEP))
        if (left := left - len(part)) == 0 or len(part) < _STEP:
            return part
        # Then in place, because fresh memory costs more than what is written into it.
        held = io.BytesIO()
        held.write(part)
        read = len(part)
        while left and read:
            done = held.tell()
            held.seek(done + min(left, 7 * done) - 1)
            held.write(b"\0")
            with held.getbuffer() as view, view[done:] as rest:
                try:
                    read = self.readinto(rest)
                except DamagedFileError:
                    read = 0  # the next call says so
            held.seek(done + read)
            held.truncate()
            left -= read
        return held.getvalue()

    def _part(self, size: int) -> bytes:
        parts: list[bytes] = []
        try:
            while size and not self._damage and (part := self._given.take(size)):
                parts.append(part)
                size -= len(part)
        except DamagedFileError as error:
            self._damage = str(error)
        if self._damage and size and not parts:
            raise DamagedFileError(self._damage)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``; returns how many bytes.

        Raises:
            DamagedFileError: as `read`.
        """
        done = 0
        with memoryview(buffer) as view:
            try:
                # What stands in a part before damage is lost with it.
                while done < len(view) and not self._damage and (size := self._given.into(view[done : done + _PART])):
                    done += size
            except DamagedFileError as error:
                self._damage = str(error)
            if self._damage and len(view) and not done:
                raise DamagedFileError(self._damage)
        self._position += done
        return done

    def tell(self) -> int:
        """Return how many bytes stand before the next one."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go forwards to ``offset``, or to the end if that comes first.

        Raises:
            io.UnsupportedOperation: it lies behind.
            DamagedFileError: the data before it is damaged.
        """
        if whence != io.SEEK_SET or offset < self._position:
            raise io.UnsupportedOperation("a compressed file can only be read forwards")
        if offset > self._position:
            scratch = memoryview(bytearray(min(_STEP, offset - self._position)))
            while self.readinto(scratch[: offset - self._position]):
                pass
        return self._position


class Counted:
    """A file that is read from its beginning, and how much of it was."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.taken = 0
        """Bytes so far."""

    def read(self) -> bytes:
        """Return the next bytes; none at the end."""
        data = self._raw.read(_TAKEN)
        self.taken += len(data)
        return data


class _Given(Protocol):
    """What comes out of a decompressor. At damage both raise `DamagedFileError`."""

    def take(self, size: int) -> bytes:
        """Return at least one byte and at most ``size``; none at the end."""

    def into(self, view: memoryview) -> int:
        """Fill the beginning of ``view``; returns with how many bytes, none at the end."""


class _Coder(Protocol):
    """Decompresses one stream; the interface of `bz2` and `lzma`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """The same for a member of a gzip file."""

    def __init__(self) -> None:
        self._coder = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._coder.eof

    @property
    def unused_data(self) -> bytes:
        return self._coder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        given = self._coder.decompress(data or self._coder.unconsumed_tail, max_length)
        # What it has taken in already may still have something to give.
        self.needs_input = not self._coder.unconsumed_tail and len(given) < max_length
        return given


class _Chunks:
    """The bytes that a generator yields."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        if self._at == len(self._chunk):
            self._chunk, self._at = next(self._chunks, b""), 0
        part = self._chunk[self._at : self._at + size] if self._at or size < len(self._chunk) else self._chunk
        self._at += len(part)
        return part

    def into(self, view: memoryview) -> int:
        part = self.take(len(view))
        view[: len(part)] = part
        return len(part)


def _streams(source: Counted, kind: str, new: Callable[[], _Coder]) -> Iterator[bytes]:
    """Yield what the streams of a file hold."""
    data = source.read()
    if not data:
        raise DamagedFileError(f"it is empty, which no {kind} file is")
    streams = 0
    while data:
        coder = new()
        given = b""
        while True:
            try:
                given = coder.decompress(data, _PART) or given
            except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError, MemoryError) as error:
                raise _damage(kind, error, behind=streams > 0 and not given) from None
            data = b""
            if given:
                yield given
            if coder.eof:
                break
            if coder.needs_input and not (data := source.read()):
                raise DamagedFileError(f"it ends inside its {kind} data")
        streams += 1
        data = coder.unused_data.lstrip(b"\0")
        while not data and (data := source.read()):
            data = data.lstrip(b"\0")


class _Archived:
    """The bytes of a file inside an archive such as zip, which are checked when the last one is read."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def take(self, size: int) -> bytes:
        try:
            return self._raw.read(size)
        except (zlib.error, lzma.LZMAError, zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
            raise DamagedFileError(f"what the archive has of it is damaged: {error}") from None

    def into(self, view: memoryview) -> int:
        part = self.take(len(view))
        view[: len(part)] = part
        return len(part)


def _damage(kind: str, error: Exception, behind: bool) -> DamagedFileError:
    if isinstance(error, MemoryError) or "emory usage limit" in str(error):
        return DamagedFileError(
            f"its {kind} data asks for more than {XZ_MEMORY >> 20} MiB of memory; compress it again with a smaller dictionary"
        )
    return DamagedFileError(
        f"its {kind} data {'is damaged or followed by something else' if behind else 'is damaged'}: {error}"
    )


class _Zst:
    """The bytes that the frames of a zstandard file hold."""

    def __init__(self, source: Counted) -> None:
        import zstandard

        self._source = source
        self._frames = _Frames(source)
        decoder = zstandard.ZstdDecompressor(max_window_size=ZST_WINDOW)
        self._reader = decoder.stream_reader(cast("IO[bytes]", self._frames), read_across_frames=True)
        self._error = zstandard.ZstdError
        self._done = 0

    def take(self, size: int) -> bytes:
        try:
            part = self._reader.read(size)
        except self._error as error:
            raise DamagedFileError(f"its zst data is damaged: {error}") from None
        self._check(len(part))
        return part

    def into(self, view: memoryview) -> int:
        try:
            size = self._reader.readinto(view)
        except self._error as error:
            raise DamagedFileError(f"its zst data is damaged: {error}") from None
        self._check(size)
        return size

    def _check(self, size: int) -> None:
        self._done += size
        if not size and self._frames.damage:
            raise DamagedFileError(self._frames.damage)
        # A window is memory as far as it is filled, which such data does with next to nothing.
        if self._frames.window > _WIDE < self._done and self._done > _BOMB * (self._source.taken + _TAKEN):
            raise DamagedFileError(
                f"its zst data asks for {self._frames.window >> 20} MiB of memory and expands more than {_BOMB} times"
            )


class _Frames:
    """The frames of a zstandard file, found by their headers and those of their blocks (RFC 8878).

    The library takes a file that ends inside a frame, and one that goes on with something else, for whole.
    """

    def __init__(self, source: Counted) -> None:
        self._source = source
        self._data = b""
        self._at = 0
        self._parts = self._all()
        self.window = 0
        """Bytes of the largest window so far."""
        self.damage = ""
        """Why nothing more comes, if it is not the end."""

    def read(self, size: int) -> bytes:  # noqa: ARG002
        """Return some bytes of a frame; none at the end, and at damage."""
        try:
            return next(self._parts, b"")
        except DamagedFileError as error:
            self.damage = str(error)
            return b""

    def _all(self) -> Iterator[bytes]:
        import zstandard

        while self._begin():
            try:
                header = zstandard.get_frame_parameters(self._data[self._at : self._at + 18])
                size = zstandard.frame_header_size(self._data[self._at : self._at + 18])
            except zstandard.ZstdError as error:
                raise DamagedFileError(f"the header of a zst frame is cut or damaged: {error}") from None
            self.window = max(self.window, header.window_size)
            yield from self._frame(size, 4 if header.has_checksum else 0)

    def _begin(self) -> bool:
        """Go to the next frame; False at the end of the file.

        Raises:
            DamagedFileError: what comes is no frame, and not only zeros.
        """
        import zstandard

        first = not self._source.taken
        while True:
            if not first and not self._pass_zeros():
                return False
            self._have(18)
            start = self._data[self._at : self._at + 18]
            if not start:
                raise DamagedFileError("it is empty, which no zst file is")
            if start[:4] == zstandard.FRAME_HEADER:
                break
            if start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] < 0x60:
                if len(start) < 8 or not self._pass(8 + int.from_bytes(start[4:8], "little")):
                    raise DamagedFileError(_CUT_ZST)
            elif zstandard.FRAME_HEADER.startswith(start):
                raise DamagedFileError(_CUT_ZST)
            else:
                raise DamagedFileError("it is no zst file" if first else "its zst data is followed by something else")
            first = False
        return True

    def _frame(self, size: int, checksum: int) -> Iterator[bytes]:
        """Yield the bytes of a frame, whose header has ``size`` of them."""
        last = False
        while not last:
            if not self._have(size + 3):
                break
            place = self._at + size
            block = int.from_bytes(self._data[place : place + 3], "little")
            last = bool(block & 1)
            # A block of one byte that is repeated says how often, not how long it is.
            size += 3 + (1 if block >> 1 & 3 == 1 else block >> 3) + (checksum if last else 0)
            if (there := len(self._data) - self._at) < size:
                if there:
                    yield self._take(there)
                size -= there
        if last and self._have(size):
            yield self._take(size)
            return
        if rest := self._data[self._at :]:
            yield rest
        raise DamagedFileError(_CUT_ZST)

    def _have(self, size: int) -> bool:
        """Read until ``size`` bytes are there; False if the file ends before."""
        while len(self._data) - self._at < size:
            if not (more := self._source.read()):
                return False
            self._data = self._data[self._at :] + more
            self._at = 0
        return True

    def _take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        self._at += size
        return part

    def _pass(self, size: int) -> bool:
        """Leave ``size`` bytes out; False if the file ends before."""
        while size > (there := len(self._data) - self._at):
            size -= there
            self._data, self._at = self._source.read(), 0
            if not self._data:
                return False
        self._at += size
        return True

    def _pass_zeros(self) -> bool:
        """Leave out the zeros that come; False if the file ends here, or with them."""
        if self._have(1) and self._data[self._at]:
            return True
        while not (rest := self._data[self._at :].lstrip(b"\0")):
            self._data, self._at = self._source.read(), 0
            if not self._data:
                return False
        self._data, self._at = rest, 0
        return True


_CODERS: dict[str, Callable[[], _Coder]] = {
    "gz": _Gzip,
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY),
}


def unpacked(raw: IO[bytes], compression: str) -> Unpacked:
    """Return what a compressed file holds.

    Args:
        raw: the compressed file, at its beginning.
        compression: ``gz``, ``zst``, ``bz2`` or ``xz``; ``zip`` if ``raw`` is a file inside an archive, which can be read
            forwards alone.
    """
    source = Counted(raw)
    if compression == ARCHIVED:
        return Unpacked(source, _Archived(raw))
    if compression in _CODERS:
        return Unpacked(source, _Chunks(_streams(source, compression, _CODERS[compression])))
    return Unpacked(source, _Zst(source))
