"""What was done to samples before their tokenizers got them, so that the same can be done to what a user prompts a model with.

It is a part of the options in ``dataset.json``, and travels from there into the folder of a model that is trained on the shards.
Sample rate and channels are not in it: the spec of the tokenizer says them. So it does with the frame rate, unless films were
taken at another one: then that is the one at which what comes back is played (`Preparation.taken`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.protocol import Clips, Tokenizer, change_of, modality_of, with_special
from tokenize_kit.sources.decoding import Shaping

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol import Sample, TokenSpec


@dataclass(frozen=True)
class Preparation:
    """How the samples of a shard set were brought to what their tokenizers got; the defaults take them as they are."""

    image_size: int | None = None
    """The side that pictures were scaled to."""
    crop: bool = True
    """Whether they were cropped to a square."""
    pad: bool = False
    """Whether they were padded to a square instead."""
    codebooks: int | None = None
    """How many codebooks of each place were kept."""
    allow_special: tuple[str, ...] = ()
    """Special tokens that were found in texts, see `tokenize_kit.protocol.special`."""
    fps: float | None = None
    """Frames a second that were taken of films; None is what their tokenizer wants."""
    clip_frames: int | None = None
    """Frames of the clips that films were cut into."""
    views: dict[str, str] = field(default_factory=dict)
    """What was done to the samples of those streams that are views of others, see `tokenize_kit.protocol.views`."""

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Preparation:
        """Take it from the options of a ``dataset.json``, or from what `to_dict` gave; what is not there has its default.

        Raises:
            ValueError: a value is of another kind.
        """
        values = {one.name: options[one.name] for one in fields(cls) if one.name in options}
        if isinstance(values.get("allow_special"), list):
            values["allow_special"] = tuple(values["allow_special"])
        made = cls(**values)
        numbers = (made.image_size, made.codebooks, made.clip_frames)
        whole = all(number is None or (type(number) is int and number > 0) for number in numbers)
        whole = whole and (made.fps is None or (type(made.fps) in (int, float) and made.fps > 0))
        flags = isinstance(made.crop, bool) and isinstance(made.pad, bool)
        texts = isinstance(made.views, dict) and all(isinstance(text, str) for text in made.views.values())
        if not (whole and flags and texts and all(isinstance(token, str) for token in made.allow_special)):
            raise ValueError(f"it is damaged: {values} is not how samples are prepared")
        return made

    @classmethod
    def common(cls, several: Sequence[Preparation]) -> Preparation:
        """Return what several shard sets have in common; where they differ, samples are taken as they are.

        Views are those of all of them, as a set need not have each.

        Raises:
            ValueError: a view of one name is another one in another set.
        """
        first = several[0]
        same = {name for name in vars(first) if all(getattr(one, name) == getattr(first, name) for one in several)}
        # A size says nothing without the way to it.
        if not same >= (sizing := {"image_size", "crop", "pad"}):
            same -= sizing
        views: dict[str, str] = {}
        for name, what in (item for one in several for item in one.views.items()):
            if views.setdefault(name, what) != what:
                raise ValueError(
                    f"{name} is a view by {views[name]} in one shard set and by {what} in another; encode one of them again"
                )
        return cls(**{name: value for name, value in vars(first).items() if name in same} | {"views": views})

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the defaults, JSON-ready."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        usual = Preparation()
        return {name: value for name, value in values.items() if getattr(self, name) != getattr(usual, name)}

    def tokenizers(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, Tokenizer]:
        """Return tokenizers as they encoded the texts.

        Raises:
            ValueError: a special token is none of theirs.
        """
        return with_special(tokenizers, self.allow_special)

    @property
    def shaping(self) -> Shaping:
        """What samples are brought to when they are decoded."""
        clips = None if self.clip_frames is None else Clips(self.clip_frames)
        return Shaping(self.image_size, self.crop, self.pad, self.fps, clips)

    def taken(self, spec: TokenSpec) -> TokenSpec:
        """Return the spec of a tokenizer as its samples were taken: what its files are written by."""
        return self.shaping.taken(spec)

    def read(self, name: str, data: bytes | Path, spec: TokenSpec, stream: str = "") -> tuple[Sample, tuple[str, ...]]:
        """Return the sample of a file, and in words what had to be done to it; of a film that was cut it is the first clip.

        Args:
            name: the file's, for kinds of files that do not say themselves what they are.
            data: its bytes, or where it lies.
            spec: what the tokenizer wants.
            stream: what it is for; if that is a view, the sample is brought to it.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is no such sample.
        """
        kind, shaping = modality_of(spec), self.shaping
        resize, at_least = shaping.resizer(kind), shaping.at_least(kind)
        sizes: list[tuple[int, ...]] = []

        def resized(sample: Tensor) -> Tensor:
            assert resize is not None, "called only where it is"
            made = resize(sample)
            # Height and width; of a film a piece comes at a time.
            sizes[:] = kind.size(sample)[-2:], kind.size(made)[-2:]
            return made

        if kind.timed:
            wanted = resized if resize else None
            with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as file:
                parts = kind.parts(file, shaping.taken(spec), shaping.clips, resize=wanted, at_least=at_least)
                first = next(parts)
                more = shaping.clips is not None and next(parts, None) is not None
            sample: Sample = first.sample
            notes = (*first.notes, *shaping.notes(spec))
            notes += (f"the first {len(first.sample)} frames taken, as the data of the model had",) if more else ()
        else:
            found = data.read_bytes() if isinstance(data, Path) else data
            sample, notes = kind.read_noting(kind.self_describing(name, found), spec, at_least=at_least)
            sample = resized(cast("Tensor", sample)) if resize else sample
        if sizes and sizes[0] != sizes[1]:
            notes = (*notes, f"{_times(sizes[0])} pixels to {_times(sizes[1])}, as the data of the model had")
        if operations := self.views.get(stream):
            sample = change_of(kind, operations)(sample)
            notes = (*notes, f"changed by {operations}, as the data of the model were")
        return sample, notes


def _times(size: tuple[int, ...]) -> str:
    """Return height and width as people say a size: 640x480."""
    return "x".join(map(str, reversed(size)))
