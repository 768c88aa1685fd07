"""One id space for several token streams.

Each stream keeps its own ids in the shards; a sequence model needs all of them in one space, together with the special
tokens that mark where a segment begins, which shape it has and where it ends. `Vocabulary` lays that space out, special
tokens first, and is plain JSON, so that it lives in the model folder. What a sequence looks like is `template`'s affair.

A stream that a sequence may lack has a null, ``<none:text>``, behind all other special tokens: it stands where the stream's
segment would. A vocabulary in which no stream has one is what it would be if there were none.

    0        1        2        3 ..                                              size
    <pad>    <bos>    <eos>    <begin:text> <end:text> <begin:image> <shape:..>  | text ids | image ids |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from typing import Any

from tokenize_kit.protocol import TokenSpec, modality_of
from tokenize_kit.protocol.views import AT, VIEW_NAME

FORMAT_VERSION = 1
MAX_SHAPES = 1024
"""More distinct shapes than this in one stream are refused: a shape token that is seen once teaches nothing."""

Shape = tuple[int, ...]

INNER_AXES = ("codebook", "channel")
"""A last axis of one of these names is inside a place of the grid: its ids are of the same pixel, patch or time step."""

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]*({AT}{VIEW_NAME})?")


@dataclass(frozen=True)
class StreamIds:
    """Where one stream lives in the id space.

    A stream is *open* if the length of its grid is not known beforehand (`TokenSpec.is_open`): a row of steps, which `end`
    closes. Every other grid is closed by its shape alone.
    """

    name: str
    """Name of the stream."""
    spec: TokenSpec
    """What its tokenizer says of itself."""
    shapes: tuple[Shape, ...]
    """The shapes that occur, sorted, without the time axis of an open stream: ``((),)`` for text."""
    begin: int
    """The id of ``<begin:NAME>``."""
    end: int | None
    """The id of ``<end:NAME>``; None for a closed stream."""
    first_shape: int | None
    """The id of the first shape's token, the others follow it; None where there is only one shape."""
    offsets: tuple[int, ...]
    """What is added to an id of each codebook."""
    null: int | None = None
    """The id of ``<none:NAME>``; None for a stream that no sequence lacks."""

    @property
    def is_open(self) -> bool:
        """Whether the length is ended by a token instead of by the shape."""
        return self.end is not None

    @property
    def header(self) -> int:
        """How many tokens come before the ids: ``<begin>`` and, where shapes vary, the shape token."""
        return 1 if self.first_shape is None else 2

    @property
    def min_steps(self) -> int:
        """The least number of time steps of an open stream: a text may be empty, a sound may not."""
        return 0 if modality_of(self.spec).may_be_empty else 1

    @property
    def has_codebooks(self) -> bool:
        """Whether each place of a grid has an id from every codebook."""
        return self.spec.axes[-1] == "codebook"

    def codebooks(self, shape: Shape) -> int:
        """Return how many codebooks take turns in the flat ids of a grid of ``shape``."""
        return shape[-1] if self.has_codebooks else 1

    def depth(self, shape: Shape) -> int:
        """Return how many ids a place of a grid of ``shape`` has: one a codebook or channel."""
        return shape[-1] if self.spec.axes[-1] in INNER_AXES else 1

    def place_shape(self, shape: Shape) -> Shape:
        """Return ``shape`` without codebooks and channels: of an open stream the places of one time step, else all."""
        return shape[:-1] if self.spec.axes[-1] in INNER_AXES else shape

    def places(self, shape: Shape) -> int:
        """Return how many places a closed grid of ``shape`` has, or each time step of an open one."""
        return prod(self.place_shape(shape))

    @property
    def place_axes(self) -> tuple[str, ...]:
        """Names of the axes of the places, time included: all but codebooks and channels."""
        axes = self.spec.axes
        return axes[:-1] if axes[-1] in INNER_AXES else axes

    def range_of(self, codebook: int) -> tuple[int, int]:
        """Return the ids of a codebook, from the first to before the last; of a stream without codebooks all are of the first."""
        sizes = self.spec.codebook_sizes
        first = self.offsets[codebook if self.has_codebooks else 0]
        return first, first + sizes[min(codebook, len(sizes) - 1)]

    def shape_index(self, shape: Sequence[int]) -> int:
        """Return the position of ``shape`` (without time) in `shapes`.

        Raises:
            ValueError: no grid of that shape was in the data that the vocabulary was made from.
        """
        try:
            return self.shapes.index(tuple(shape))
        except ValueError:
            known = ", ".join(shape_name(known) for known in self.shapes[:5]) + (
                ", ..." if len(self.shapes) > 5 else ""
            )
            raise ValueError(
                f"stream {self.name!r} has a grid of shape {shape_name(tuple(shape))}, but the vocabulary knows only {known}; "
                "bring the samples to one of these sizes when they are encoded"
            ) from None


class Vocabulary:
    """Several streams' ids in one disjoint space: special tokens first, then each stream's ids, codebook by codebook.

    Args:
        streams: the spec of each stream, in the order in which their ids are laid out.
        shapes: for each stream the distinct shapes of its grids; the time axis of an open stream is left out
            (so ``[()]`` for text, which is the default). See `distinct_shapes`.
        nulls: the streams that a sequence may lack.

    Raises:
        ValueError: a name is not a plain word, a stream has no shape, an impossible one, or more than `MAX_SHAPES`.
    """

    def __init__(
        self,
        streams: Mapping[str, TokenSpec],
        shapes: Mapping[str, Iterable[Sequence[int]]] | None = None,
        nulls: Collection[str] = (),
    ) -> None:
        if not streams:
            raise ValueError("a vocabulary needs at least one stream")
        shapes = shapes or {}
        if unknown := sorted({*shapes, *nulls} - set(streams)):
            raise ValueError(unknown_stream(unknown[0], streams))
        names = ["<pad>", "<bos>", "<eos>"]
        plans: list[tuple[str, TokenSpec, tuple[Shape, ...], int, int | None, int | None]] = []
        for name, spec in streams.items():
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"stream name {name!r} must be letters, digits, '_', '-' or '.', and start with a letter"
                )
            known = _checked_shapes(name, spec, shapes.get(name))
            begin, end, first_shape = len(names), None, None
            names.append(f"<begin:{name}>")
            if spec.is_open:
                end = len(names)
                names.append(f"<end:{name}>")
            if len(known) > 1:
                first_shape = len(names)
                names.extend(f"<shape:{name}:{shape_name(shape)}>" for shape in known)
            plans.append((name, spec, known, begin, end, first_shape))
        null_of = {name: len(names) + index for index, name in enumerate(name for name in streams if name in nulls)}
        names.extend(f"<none:{name}>" for name in null_of)
        self._special = {name: index for index, name in enumerate(names)}
        self._names = tuple(names)
        self._streams: dict[str, StreamIds] = {}
        size = len(names)
        for name, spec, known, begin, end, first_shape in plans:
            offsets = []
            for codebook in spec.codebook_sizes:
                offsets.append(size)
                size += codebook
            if spec.axes[-1] == "codebook" and isinstance(spec.vocab_size, int):
                # One size for all codebooks: each still gets a range of its own, as their ids mean different things.
                count = max(shape[-1] for shape in known)
                offsets.extend(offsets[0] + spec.vocab_size * index for index in range(1, count))
                size = offsets[-1] + spec.vocab_size
            self._streams[name] = StreamIds(
                name, spec, known, begin, end, first_shape, tuple(offsets), null_of.get(name)
            )
        self.size = size
        """Number of ids in the shared space."""
        self.pad, self.bos, self.eos = 0, 1, 2

    @property
    def streams(self) -> dict[str, StreamIds]:
        """The streams in the order of their ids."""
        return dict(self._streams)

    @property
    def nulls(self) -> tuple[str, ...]:
        """The streams that a sequence may lack, in the order of their ids."""
        return tuple(name for name, ids in self._streams.items() if ids.null is not None)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Names of the special tokens; a name's position is its id."""
        return self._names

    def stream(self, name: str) -> StreamIds:
        """Return where stream ``name`` lives.

        Raises:
            ValueError: there is no such stream; the message suggests the closest one.
        """
        if name not in self._streams:
            raise ValueError(unknown_stream(name, self._streams))
        return self._streams[name]

    def offset(self, stream: str, codebook: int = 0) -> int:
        """Return what is added to an id of ``stream``'s ``codebook``."""
        return self.stream(stream).offsets[codebook]

    def special(self, name: str) -> int:
        """Return the id of a special token such as ``<bos>`` or ``<begin:text>``.

        Raises:
            ValueError: there is no such special token.
        """
        if name not in self._special:
            close = get_close_matches(name, self._special, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"no special token is named {name!r}{hint}")
        return self._special[name]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return {
            "format_version": FORMAT_VERSION,
            "size": self.size,
            "special_tokens": list(self._names),
            "streams": [
                {"name": ids.name, "spec": ids.spec.to_dict(), "shapes": [list(shape) for shape in ids.shapes]}
                for ids in self._streams.values()
            ],
            # As vocabularies were before a stream could be missing.
            **({"nulls": list(self.nulls)} if self.nulls else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Vocabulary:
        """Build a vocabulary from `to_dict`'s form.

        Raises:
            ValueError: the form is of another version, incomplete, or its parts do not fit together.
        """
        if values.get("format_version") != FORMAT_VERSION:
            version = values.get("format_version")
            raise ValueError(f"the vocabulary has format version {version!r}, this tokenize-kit reads {FORMAT_VERSION}")
        try:
            streams = {entry["name"]: TokenSpec.from_dict(entry["spec"]) for entry in values["streams"]}
            shapes = {entry["name"]: [tuple(shape) for shape in entry["shapes"]] for entry in values["streams"]}
            nulls = tuple(map(str, values.get("nulls", ())))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the vocabulary is damaged: {error!r}") from None
        vocabulary = cls(streams, shapes, nulls)
        if vocabulary.size != values.get("size") or list(vocabulary.special_tokens) != values.get("special_tokens"):
            raise ValueError("the vocabulary is damaged: its size or special tokens are not those of its streams")
        return vocabulary

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.size, self._names))

    def __repr__(self) -> str:
        return f"Vocabulary({', '.join(self._streams)}; {len(self._names)} special, {self.size} ids)"


def distinct_shapes(name: str, spec: TokenSpec, shapes: Iterable[Sequence[int]]) -> tuple[Shape, ...]:
    """Return the distinct shapes of a stream's grids as `Vocabulary` wants them: sorted, the time of open streams dropped.

    Args:
        name: the stream's name, for the error message.
        spec: the stream's spec.
        shapes: whole grid shapes, with repetitions; a row of a numpy array ``(rows, axes)`` is one.

    Raises:
        ValueError: there are more than `MAX_SHAPES`.
    """
    start = 1 if spec.is_open else 0
    found = {tuple(int(size) for size in shape[start:]) for shape in shapes}
    if len(found) > MAX_SHAPES:
        raise ValueError(
            f"stream {name!r} has {len(found)} different grid shapes, more than the {MAX_SHAPES} that shape tokens are made for; "
            "encode it again with --image-size so that its samples share a few sizes"
        )
    return tuple(sorted(found))


def shape_name(shape: Shape) -> str:
    """Return ``(16, 32)`` as ``16x32``."""
    return "x".join(map(str, shape)) if shape else "()"


def unknown_stream(name: str, known: Iterable[str]) -> str:
    """Return the error message for a stream that does not exist, with the closest name."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"no stream is named {name!r} (known: {', '.join(known)}){hint}"


def _checked_shapes(name: str, spec: TokenSpec, shapes: Iterable[Sequence[int]] | None) -> tuple[Shape, ...]:
    axes = spec.axes[1:] if spec.is_open else spec.axes
    if shapes is None:
        if axes:
            raise ValueError(f"stream {name!r} needs the shapes that its grids have (axes {axes})")
        return ((),)
    known = tuple(sorted({tuple(int(size) for size in shape) for shape in shapes}))
    if not known or len(known) > MAX_SHAPES:
        raise ValueError(f"stream {name!r} has {len(known)} grid shapes, expected 1 to {MAX_SHAPES}")
    for shape in known:
        if len(shape) != len(axes) or any(size < 1 for size in shape):
            raise ValueError(f"stream {name!r}: shape {shape_name(shape)} does not fit the axes {axes}")
        if isinstance(spec.vocab_size, tuple) and shape[-1] > len(spec.vocab_size):
            raise ValueError(f"stream {name!r}: {shape[-1]} codebooks, but its spec has {len(spec.vocab_size)}")
    return known
