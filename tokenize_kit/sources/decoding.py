"""What a sample's files hold to what tokenizers get: decoded, resized, cut into clips, with what belongs to each clip beside it.

One rule for the encode pipeline, for trainers and measures, and for prompts. A row of files is mostly one sample; where it has a
film and clips are asked for it is as many as the film has, one after another, and no more than one of them is held.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from tokenize_kit.errors import NoTrackError
from tokenize_kit.media.subtitles import Subtitles
from tokenize_kit.protocol import MAX_FRAME_RATE, Clips, Modality, Span, TokenSpec, clip_key, modality_of
from tokenize_kit.sources.blocks import Content, Failure, one_line
from tokenize_kit.sources.stored import StoredFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.protocol import Sample

DROPPED = "what was left after the last whole clip left out"
"""What is said of a film whose tail is dropped."""


@dataclass(frozen=True)
class Shaping:
    """What samples are brought to when they are decoded; the defaults take them as they are."""

    image_size: int | None = None
    """The side that pictures and the frames of films are scaled to, see `Modality.resize`."""
    crop: bool = True
    """With it: whether they are cropped to a square."""
    pad: bool = False
    """With it: whether they are padded to a square instead."""
    fps: float | None = None
    """Frames a second that are taken of films; None is what their tokenizer wants."""
    clips: Clips | None = None
    """How films are cut."""

    def taken(self, spec: TokenSpec) -> TokenSpec:
        """Return a spec as samples are read for it: at the frame rate that is taken."""
        return spec if self.fps is None or not modality_of(spec).timed else replace(spec, frame_rate=self.fps)

    def notes(self, spec: TokenSpec) -> tuple[str, ...]:
        """Return what is to be said of every sample that is read so."""
        taken = self.taken(spec)
        if taken.frame_rate == spec.frame_rate or None in (taken.frame_rate, spec.frame_rate):
            return ()
        return (f"frames taken at {taken.frame_rate:g} a second for a tokenizer of {spec.frame_rate:g}",)

    def resizer(self, kind: Modality) -> Callable[[Tensor], Tensor] | None:
        """Return what resizes samples of a kind, None if nothing does."""
        size = self.image_size if kind.resizable else None
        if size is None:
            return None
        return lambda sample: cast("Tensor", kind.resize(sample, size, crop=self.crop, pad=self.pad))

    def at_least(self, kind: Modality) -> int | None:
        """Return the size that a decoder must not go below."""
        size = self.image_size if kind.resizable else None
        # With padding it is the long side that has the size, and that of a picture which is too large is long enough.
        return 1 if size and self.pad else size


@dataclass
class Decoded:
    """One sample, or in its place what is wrong with it."""

    key: str
    samples: dict[str, Sample] = field(default_factory=dict)
    """By source; empty where there is none."""
    notes: tuple[str, ...] = ()
    """What had to be done to it."""
    failure: Failure | None = None
    share: float = 1.0
    """About how much of its files was read by now, 0 to 1."""


class Decoder(Protocol):
    """Decodes the contents of one row."""

    def __call__(self, key: str, contents: Mapping[str, Content]) -> Iterator[Decoded]:
        """Yield its samples."""


class RowDecoder:
    """Decodes rows of contents.

    Args:
        specs: by source what is wanted.
        shaping: what samples are brought to.
        apart: whether a sample of which a track is not there is counted apart.
        augment: by source what is made of a sample and its key: of films when they are cut and scaled, of all others before.
    """

    def __init__(
        self,
        specs: Mapping[str, TokenSpec],
        shaping: Shaping,
        *,
        apart: bool = False,
        augment: Mapping[str, Callable[[Sample, str], Sample]] = MappingProxyType({}),
    ) -> None:
        self._shaping, self._apart, self._augment = shaping, apart, augment
        self._kinds = {name: modality_of(spec) for name, spec in specs.items()}
        self._specs = {name: shaping.taken(spec) for name, spec in specs.items()}
        self._said = {name: shaping.notes(spec) for name, spec in specs.items()}
        cut = [name for name, kind in self._kinds.items() if kind.timed] if shaping.clips else []
        self._leader = cut[0] if cut else None

    def __call__(self, key: str, contents: Mapping[str, Content]) -> Iterator[Decoded]:
        """Yield the samples of a row: one, or where it is cut, one for each clip and one for what cannot be read."""
        if self._leader is None:
            yield self._whole(key, contents)
        else:
            yield from self._clips(key, contents, self._leader)

    def _failed(self, key: str, error: Exception, lost: str = "") -> Decoded:
        incomplete = isinstance(error, NoTrackError) and len(self._specs) > 1 and self._apart
        return Decoded(key, failure=Failure(key, one_line(error) + lost, incomplete=incomplete))

    def _whole(self, key: str, contents: Mapping[str, Content]) -> Decoded:
        samples: dict[str, Sample] = {}
        notes: list[str] = []
        try:
            for name, content in contents.items():
                samples[name], said = self._sample(name, content, key)
                notes += said
        except (ValueError, TypeError) as error:
            return self._failed(key, error)
        return Decoded(key, samples, tuple(notes))

    def _changed(self, name: str, sample: Sample, key: str) -> Sample:
        """Return what is drawn for a sample."""
        return self._augment[name](sample, key) if name in self._augment else sample

    def _sample(self, name: str, content: Content, key: str) -> tuple[Sample, tuple[str, ...]]:
        """Return all of one content as a sample."""
        kind, spec = self._kinds[name], self._specs[name]
        if kind.textual:
            text = str(content) if isinstance(content, Subtitles) else cast("str", content)
            return self._changed(name, text, key), ()
        resize, at_least = self._shaping.resizer(kind), self._shaping.at_least(kind)
        if kind.timed:
            with _opened(content) as file:
                (part,) = kind.parts(file, spec, None, resize=resize, at_least=at_least)
            return self._changed(name, part.sample, key), (*part.notes, *self._said[name])
        data = content
        if isinstance(content, StoredFile):
            data = kind.self_describing(content.name, content.read())
        sample, notes = kind.read_noting(cast("bytes | NDArray[np.uint8]", data), spec, at_least=at_least)
        sample = self._changed(name, sample, key)
        return sample if resize is None else resize(cast("Tensor", sample)), notes

    def _clips(self, key: str, contents: Mapping[str, Content], leader: str) -> Iterator[Decoded]:
        """Cut the film, and whatever else follows it."""
        kind, spec, clips = self._kinds[leader], self._specs[leader], self._shaping.clips
        assert clips is not None, "there is a leader only where clips are wanted"
        rate = spec.frame_rate or 1.0
        at = 0.0
        others = {name: content for name, content in contents.items() if name != leader}
        try:
            with ExitStack() as stack:
                takers = {name: self._taker(name, content, key, rate, stack) for name, content in others.items()}
                file = stack.enter_context(_opened(contents[leader]))
                resize, at_least = self._shaping.resizer(kind), self._shaping.at_least(kind)
                for part in kind.parts(file, spec, clips, resize=resize, at_least=at_least):
                    at = part.span.start
                    frames = len(part.sample)
                    if not frames:
                        yield Decoded(clip_key(key, at, rate), notes=(DROPPED,), share=part.share)
                        continue
                    taken = {name: takers[name](part.span) for name in others}
                    called = clip_key(key, at, rate)
                    taken[leader] = (
                        self._changed(leader, part.sample, called),
                        (*part.notes, *self._said[leader]),
                    )
                    samples = {name: taken[name][0] for name in contents}
                    notes = tuple(note for _, said in taken.values() for note in said)
                    yield Decoded(called, samples, notes, share=part.share)
                    at += clips.step * (part.span.stop - at) / frames
        except (ValueError, TypeError) as error:
            if at:
                yield self._failed(clip_key(key, at, rate), error, f"; the rest of {key} is not read")
            else:
                yield self._failed(key, error, "" if isinstance(error, NoTrackError) else "; a whole file")

    def _taker(
        self, name: str, content: Content, key: str, rate: float, stack: ExitStack
    ) -> Callable[[Span], tuple[Sample, tuple[str, ...]]]:
        """Return what gives the part of a content that belongs to a span of time."""
        kind = self._kinds[name]
        if isinstance(content, Subtitles):
            return lambda span: (self._changed(name, content.words(*span), clip_key(key, span.start, rate)), ())
        if kind.follows:
            file = stack.enter_context(_opened(content))
            called = content.name if isinstance(content, StoredFile) else ""
            return stack.enter_context(kind.follow(called, file, self._specs[name])).take
        whole = self._sample(name, content, key)
        return lambda _: whole


def check_timed(fps: float | None, clips: Clips | None, specs: Iterable[TokenSpec]) -> None:
    """Check that ``--fps`` and ``--clip-frames`` are for one of the specs.

    Raises:
        ValueError: they are not, or the rate is no number of frames a second.
    """
    if fps is not None and not 0 < fps <= MAX_FRAME_RATE:
        raise ValueError(f"--fps {fps:g} is outside 0 to {MAX_FRAME_RATE} frames a second")
    given = f"--fps {fps:g}" if fps is not None else "" if clips is None else f"--clip-frames {clips.frames}"
    specs = list(specs)
    if given and not any(modality_of(spec).timed for spec in specs):
        names = ", ".join(dict.fromkeys(spec.modality for spec in specs))
        raise ValueError(f"{given} is for films, but the tokenizer reads {names}; leave it out")


def clips_of(frames: int | None, stride: int | None, tail: str) -> Clips | None:
    """Return how films are cut by the options ``--clip-frames``, ``--clip-stride`` and ``--clip-tail``; None if they are not.

    Raises:
        ValueError: one of them is wrong, or says how clips are that nobody asks for.
    """
    if frames is not None:
        return Clips(frames, stride, cast("Any", tail))
    if stride is not None:
        raise ValueError(f"--clip-stride {stride} needs --clip-frames: how long a clip is")
    if tail != "keep":
        raise ValueError(f"--clip-tail {tail} needs --clip-frames: how long a clip is")
    return None


def _opened(content: Content) -> IO[bytes]:
    if isinstance(content, StoredFile):
        try:
            return content.open()
        except PermissionError as error:
            raise ValueError(f"it cannot be opened: {error.strerror}") from None
    return io.BytesIO(cast("Any", content))
