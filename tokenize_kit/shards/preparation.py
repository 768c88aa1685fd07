"""What was done to samples before their tokenizers got them, so that the same can be done to what a user prompts a model with.

It is a part of the options in ``dataset.json``, and travels from there into the folder of a model that is trained on the shards.
Sample rate and channels are not in it: the spec of the tokenizer says them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from tokenize_kit.protocol import Tokenizer, modality_of, with_special

if TYPE_CHECKING:
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

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Preparation:
        """Take it from the options of a ``dataset.json``, or from what `to_dict` gave; what is not there has its default.

        Raises:
            ValueError: a value is of another kind.
        """
        values = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        if isinstance(values.get("allow_special"), list):
            values["allow_special"] = tuple(values["allow_special"])
        made = cls(**values)
        numbers = (made.image_size, made.codebooks)
        whole = all(number is None or (type(number) is int and number > 0) for number in numbers)
        flags = isinstance(made.crop, bool) and isinstance(made.pad, bool)
        if not (whole and flags and all(isinstance(token, str) for token in made.allow_special)):
            raise ValueError(f"it is damaged: {values} is not how samples are prepared")
        return made

    @classmethod
    def common(cls, several: Sequence[Preparation]) -> Preparation:
        """Return what several shard sets have in common; where they differ, samples are taken as they are."""
        first = several[0]
        same = {name for name in vars(first) if all(getattr(one, name) == getattr(first, name) for one in several)}
        # A size says nothing without the way to it.
        if not same >= (sizing := {"image_size", "crop", "pad"}):
            same -= sizing
        return cls(**{name: value for name, value in vars(first).items() if name in same})

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

    def read(self, name: str, data: bytes, spec: TokenSpec) -> tuple[Sample, tuple[str, ...]]:
        """Return the sample of a file, and in words what had to be done to it.

        Args:
            name: the file's, for kinds of files that do not say themselves what they are.
            data: its bytes.
            spec: what the tokenizer wants.

        Raises:
            ValueError: it is no such sample.
        """
        kind = modality_of(spec)
        size = self.image_size if kind.resizable else None
        # With padding it is the long side that has the size.
        at_least = 1 if size and self.pad else size
        sample, notes = kind.read_noting(kind.self_describing(name, data), spec, at_least=at_least)
        if size is None:
            return sample, notes
        before = kind.size(sample)
        sample = kind.resize(sample, size, crop=self.crop, pad=self.pad)
        after = kind.size(sample)
        changed = f"{_times(before)} pixels to {_times(after)}, as the data of the model had"
        return sample, notes if before == after else (*notes, changed)


def _times(size: tuple[int, ...]) -> str:
    """Return height and width as people say a size: 640x480."""
    return "x".join(map(str, reversed(size)))
