"""The sound that belongs to a clip of a film: from the time of its first frame to the end of its last, to the sample.

Times count from the first frame that is shown. A sound track that begins later is silent before, one that begins earlier loses
what is before; where it ends before its film, silence follows, which is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, cast

import torch
from torch import Tensor

from tokenize_kit.media.audio.reader import AudioReader

ENDED = "silence added where the sound ends before its film"
"""What is said of a clip that has less sound than frames."""


class SoundSpans:
    """Takes stretches out of a sound, each beginning no earlier than the one before, and holds no more than one and a block.

    Args:
        reader: the sound, not read yet.
        delay: seconds from the first frame of its film to the first sample.
    """

    def __init__(self, reader: AudioReader, delay: float = 0.0) -> None:
        self._reader, self._rate = reader, reader.sample_rate
        self._blocks: Iterator[Tensor] | None = reader.blocks()
        self._held = torch.zeros(reader.channels, 0)
        self._first = round(delay * self._rate)
        """The sample of the film's time at which what is held begins."""

    def take(self, start: float, stop: float) -> tuple[Tensor, tuple[str, ...]]:
        """Return the sound from ``start`` to ``stop`` seconds, float32 ``(C, samples)``, and notes on it.

        Each end is rounded to the nearest sample, so stretches that follow one another share none and miss none.

        Raises:
            ValueError: the sound is damaged before ``stop``.
        """
        begin, end = round(start * self._rate), round(stop * self._rate)
        pieces = [self._held]
        there = self._first + self._held.shape[1]
        while there < end and self._blocks is not None:
            block = next(self._blocks, None)
            if block is None:
                self._blocks = None
                break
            there += block.shape[1]
            if there <= begin:
                # Nobody asks for it any more.
                pieces, self._first = [block[:, :0]], there
            else:
                pieces.append(block)
        held = torch.cat(pieces, 1)
        gone = min(max(0, begin - self._first), held.shape[1])
        self._held, self._first = held[:, gone:].clone(), self._first + gone
        sound = self._held[:, : max(0, end - self._first)]
        before = min(max(0, self._first - begin), end - begin)
        after = end - begin - before - sound.shape[1]
        if before or after:
            sound = torch.nn.functional.pad(sound, (before, after))
        notes = self._reader.notes
        return sound.clone(), (*notes, ENDED) if after else notes


def sound_delay(file: IO[bytes]) -> float:
    """Return the seconds from the first frame of a film to the first sample of the sound track that `AudioReader` takes.

    A file that is no film, or has no sound, has none.
    """
    import av

    def first(kind: str) -> float | None:
        file.seek(0)
        try:
            with av.open(file, "r", metadata_errors="ignore") as container:
                tracks = [
                    one
                    for one in container.streams
                    if one.type == kind and not one.disposition & av.stream.Disposition.attached_pic
                ]
                if not tracks:
                    return None
                chosen = next((one for one in tracks if one.disposition & av.stream.Disposition.default), tracks[0])
                # Asked of a frame: what a header says of the beginning counts samples that decoders leave out.
                frame: Any = next(container.decode(chosen), None)
                return None if frame is None else cast("float | None", frame.time)
        except (av.FFmpegError, UnicodeError):
            return None

    shown, heard = first("video"), first("audio")
    return 0.0 if shown is None or heard is None else heard - shown
