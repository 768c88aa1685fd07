"""How a unit becomes a shard: all that determines its bytes besides the unit itself and the tokenizers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenize_kit.files import canonical_json
from tokenize_kit.protocol import Clips, Tokenizer, TokenSpec, View, change_of, modality_of, with_special
from tokenize_kit.protocol.augmentations import augmentation_of
from tokenize_kit.shards.format import StreamInfo
from tokenize_kit.sources.decoding import RowDecoder, Shaping
from tokenize_kit.sources.planning import ReadOptions, Unit

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample


@dataclass(frozen=True)
class Recipe:
    """Everything besides the units and the tokenizers' folders that determines the bytes of the shards."""

    read: ReadOptions
    streams: tuple[StreamInfo, ...]
    image_size: int | None = None
    crop: bool = True
    codebooks: int | None = None
    """Keep only so many of the ids of each place of a grid with codebooks."""
    allow_special: tuple[str, ...] = ()
    """Special tokens that are found in texts, see `tokenize_kit.protocol.special`."""
    pad: bool = False
    """With image_size: pad to a square; it goes before crop."""
    fps: float | None = None
    """Frames a second that are taken of films; None is what their tokenizer wants."""
    clips: Clips | None = None
    """How films are cut into samples."""
    views: tuple[View, ...] = ()
    """Which streams are views of others."""
    augment: tuple[tuple[str, str], ...] = ()
    """Streams, and what is drawn for their samples, see `tokenize_kit.protocol.augmentations`."""
    augment_seed: int = 0

    @property
    def shaping(self) -> Shaping:
        """What samples are brought to when they are decoded."""
        return Shaping(self.image_size, self.crop, self.pad, self.fps, self.clips)

    def decoder(self) -> RowDecoder:
        """Return what makes samples of contents."""
        # Streams of one source share the sample, so their specs agree in what it must look like; the run checked that.
        specs: dict[str, TokenSpec] = {}
        for source in self.read.sources:
            specs[source.name] = next(
                stream.spec for stream in self.streams if self.sources[stream.name] == source.name
            )
        augment = {
            self.sources[name]: augmentation_of(modality_of(specs[self.sources[name]]), what, self.augment_seed)
            for name, what in self.augment
        }
        return RowDecoder(specs, self.shaping, apart=self.read.incomplete == "skip", augment=augment)

    def prepared(self, tokenizers: Mapping[str, Tokenizer]) -> dict[str, Tokenizer]:
        """Return the tokenizers as they encode for this recipe.

        Raises:
            ValueError: a special token is none of theirs.
        """
        return with_special(tokenizers, self.allow_special)

    @cached_property
    def sources(self) -> dict[str, str]:
        """The name of the source from which each stream is made, see `tokenize_kit.sources.planning.Source`."""
        named = {source.name for source in self.read.named}
        read = {view.stream: view.of for view in self.views}
        names = {stream.name: read.get(stream.name, stream.name) for stream in self.streams}
        return {
            stream.name: names[stream.name] if names[stream.name] in named else stream.spec.modality
            for stream in self.streams
        }

    @cached_property
    def samples(self) -> dict[str, str]:
        """Under which name the samples of each stream are among those of a chunk: that of their source, or of their view."""
        return self.sources | {view.stream: view.stream for view in self.views}

    @cached_property
    def changes(self) -> dict[str, tuple[str, Callable[[Sample], Sample]]]:
        """For each view its source, and what is made of a sample of that."""
        kinds = {stream.name: modality_of(stream.spec) for stream in self.streams}
        return {view.stream: (self.sources[view.of], change_of(kinds[view.of], view.operations)) for view in self.views}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        streams = {stream.name: stream.to_dict() for stream in self.streams}
        values: dict[str, Any] = {"read": self.read.to_dict(), "streams": streams}
        values |= {"image_size": self.image_size, "crop": self.crop}
        # Left out where it says nothing, so that runs from before there was the option can be continued.
        values |= {} if self.codebooks is None else {"codebooks": self.codebooks}
        values |= {"allow_special": list(self.allow_special)} if self.allow_special else {}
        values |= {} if self.fps is None else {"fps": self.fps}
        values |= {} if self.clips is None else {"clips": self.clips.to_dict()}
        values |= {"views": {view.stream: view.operations for view in self.views}} if self.views else {}
        values |= {"augment": dict(self.augment), "augment_seed": self.augment_seed} if self.augment else {}
        return values | ({"pad": True} if self.pad else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_dict`'s form."""
        streams = tuple(StreamInfo.from_dict(name, stream) for name, stream in values["streams"].items())
        read = ReadOptions.from_dict(values["read"])
        allowed, pad = tuple(values.get("allow_special", ())), values.get("pad", False)
        clips = Clips.from_dict(values["clips"]) if "clips" in values else None
        return cls(
            read,
            streams,
            values["image_size"],
            values["crop"],
            values.get("codebooks"),
            allowed,
            pad,
            values.get("fps"),
            clips,
            tuple(View.named(stream, what) for stream, what in values.get("views", {}).items()),
            tuple(values.get("augment", {}).items()),
            values.get("augment_seed", 0),
        )


def unit_digest(unit: Unit, recipe: Recipe, limit: int | None = None) -> str:
    """Return the digest by which a ledger is known to be of this unit and recipe."""
    keys = [[piece.key, piece.size, piece.start, piece.stop] for piece in unit.pieces]
    return hashlib.sha256(canonical_json([unit.index, keys, recipe.to_dict(), limit])).hexdigest()
