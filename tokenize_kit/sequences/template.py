"""What a training sequence is made of, from one declaration such as ``text -> image``.

A template names streams in their order. Those left of the arrow are the condition: they are given and carry no loss. A mark
after a colon says how the places of a stream's grids follow each other (an order, ``image:spiral``, see `sequences.orders`) or
the codebooks of a place (a layout, ``audio:delay``, see `sequences.layouts`), or both, ``patches:hilbert:delay``. A stream may
come several times, ``image image -> image``: the first part is called ``image``, the next ``image#2``, and its grid is that of
the next sample. A question mark at the end of a part (``text? -> image``, ``audio:delay?``) says that samples may lack it. One
document is

    <bos> <begin:text> ids.. <end:text> <begin:image> [<shape:HxW>] ids.. <eos>

and one without the text, because the sample has none or because it was dropped (the vocabulary has ``<none:text>`` then)

    <bos> <none:text> <begin:image> [<shape:HxW>] ids.. <eos>

`SequenceTemplate.segments` compiles the template for a vocabulary; documents, their inverse, the grammar of generation, the
loss and packed rows are readings of the segments (`sequences.segment`), so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.protocol.registry import ORDERS
from tokenize_kit.sequences import layouts, orders
from tokenize_kit.sequences.arrangement import Arrangement
from tokenize_kit.sequences.document import Document, compile_document, take_apart
from tokenize_kit.sequences.grammar import Grammar, begun_ids
from tokenize_kit.sequences.segment import Segment, coordinate_columns
from tokenize_kit.sequences.vocabulary import StreamIds, Vocabulary, unknown_stream

ARROW = "->"
MARK = ":"
NUMBER = "#"
"""Before the number of a part whose stream came before: ``image#2``."""
OPTIONAL = "?"
"""Behind a part that samples may lack."""


@dataclass(frozen=True)
class Part:
    """One stream of a template, and how its grids are put in a row."""

    stream: str
    order: str = orders.DEFAULT
    layout: str = layouts.DEFAULT
    optional: bool = False
    """Whether samples may lack it."""

    @classmethod
    def parse(cls, word: str) -> Part:
        """Read ``image``, ``image:spiral``, ``audio:delay``, ``patches:hilbert:delay`` or one of them with ``?`` behind it.

        Raises:
            ValueError: a mark is no order and no layout, or there are two of a kind; says what comes after the template's text.
        """
        whole = word.removesuffix(OPTIONAL)
        if OPTIONAL in whole:
            raise ValueError(
                f"{word!r}: a '?' stands once, at the end; write {whole.replace(OPTIONAL, '') + OPTIONAL!r}"
            )
        stream, *marks = whole.split(MARK)
        given: dict[str, str] = {}
        for mark in marks:
            kind = "layout" if mark in layouts.LAYOUTS else "order" if mark in ORDERS else None
            if kind is None:
                raise ValueError(_unknown_mark(mark))
            if kind in given:
                raise ValueError(f"{word!r} has two {kind}s, {given[kind]!r} and {mark!r}; write one")
            given[kind] = mark
        return cls(stream, optional=whole != word, **given)

    def __str__(self) -> str:
        marks = [
            mark for mark, default in ((self.order, orders.DEFAULT), (self.layout, layouts.DEFAULT)) if mark != default
        ]
        return MARK.join([self.stream, *marks]) + (OPTIONAL if self.optional else "")


@dataclass(frozen=True)
class SequenceTemplate:
    """The streams of a sequence in their order, and which of them are only the condition.

    Args:
        left: the condition, given and never predicted.
        right: what is learned and generated.
    """

    left: tuple[Part, ...]
    right: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.right:
            raise ValueError(f"template {str(self)!r}{_NOTHING}")
        if len(self.parts) == 1 and self.right[0].optional:
            part = str(self.right[0]).removesuffix(OPTIONAL)
            raise ValueError(
                f"template {str(self)!r} is nothing where its only part is missing; write {part!r} without '?'"
            )

    @classmethod
    def parse(cls, text: str, known: Collection[str] | None = None) -> SequenceTemplate:
        """Read a template such as ``text``, ``text image``, ``text -> image:spiral`` or ``text -> audio:delay``.

        Args:
            text: parts (see `Part.parse`) and at most one ``->``; what is left of it carries no loss.
            known: the streams that exist, to check the names against.

        Raises:
            ValueError: a stream, order or layout is unknown (the message suggests the closest), there is more than one arrow, or
                nothing to predict, or the only part is optional.
        """
        left, arrow, right = text.partition(ARROW)
        if ARROW in right:
            raise ValueError(
                f"template {text!r} has more than one '->'; everything right of the first is predicted already"
            )
        condition, target = (left.split(), right.split()) if arrow else ([], left.split())
        if arrow and not condition:
            raise ValueError(
                f"template {text!r} has nothing left of '->'; without a condition write {' '.join(target)!r}"
            )
        if not target:
            raise ValueError(f"template {text!r}{_NOTHING}")
        try:
            parts = [[Part.parse(word) for word in words] for words in (condition, target)]
        except ValueError as error:
            raise ValueError(f"template {text!r}: {error}") from None
        if known is not None:
            for part in (*parts[0], *parts[1]):
                if part.stream not in known:
                    raise ValueError(f"template {text!r}: {unknown_stream(part.stream, known)}")
        return cls(tuple(parts[0]), tuple(parts[1]))

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts in their order."""
        return self.left + self.right

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parts: a stream's, and from the second of a stream on with a number (``image#2``)."""
        seen: Counter[str] = Counter()
        found = []
        for part in self.parts:
            seen[part.stream] += 1
            found.append(part.stream if seen[part.stream] == 1 else f"{part.stream}{NUMBER}{seen[part.stream]}")
        return tuple(found)

    @property
    def condition(self) -> tuple[str, ...]:
        """The names of the parts left of the arrow."""
        return self.names[: len(self.left)]

    @property
    def target(self) -> tuple[str, ...]:
        """The names of the parts that are learned and generated."""
        return self.names[len(self.left) :]

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of a sample, each once, in the order in which they come first."""
        return tuple(dict.fromkeys(part.stream for part in self.parts))

    @property
    def optional_streams(self) -> tuple[str, ...]:
        """Those of the streams that a sample may lack: all their parts are optional."""
        needed = {part.stream for part in self.parts if not part.optional}
        return tuple(name for name in self.streams if name not in needed)

    def nulls(self, dropped: bool = False) -> tuple[str, ...]:
        """Return the streams that need a null in the vocabulary.

        Args:
            dropped: whether conditions may be dropped.
        """
        parts = [part for part in self.parts if part.optional or (dropped and part in self.left)]
        return tuple(name for name in self.streams if name in {part.stream for part in parts})

    def given(self, grids: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
        """Return the names of the parts that grids give; an empty grid of an optional part gives nothing."""
        optional = {name for name, part in zip(self.names, self.parts, strict=True) if part.optional}
        return tuple(
            name for name in self.names if name in grids and not (name in optional and np.size(grids[name]) == 0)
        )

    def stream_of(self, name: str) -> str:
        """Return the stream of a part."""
        return self.parts[self.names.index(name)].stream

    @property
    def samples(self) -> int:
        """How many samples a document is made of: as many as the stream that comes most often has parts."""
        return max(Counter(part.stream for part in self.parts).values())

    def __str__(self) -> str:
        left, right = (" ".join(map(str, parts)) for parts in (self.left, self.right))
        return f"{left} {ARROW} {right}" if left else right

    def segments(self, vocabulary: Vocabulary) -> list[Segment]:
        """Compile the template for a vocabulary.

        Raises:
            ValueError: it names an order or layout for a stream whose grids have nothing to order, or an optional part of a
                stream without a null.
        """
        found = []
        for number, (name, part) in enumerate(zip(self.names, self.parts, strict=True)):
            stream = vocabulary.stream(part.stream)
            self._check(part, stream)
            arrangement = Arrangement(stream, orders.order_named(part.order), layouts.LAYOUTS[part.layout])
            occurrence = int(name.partition(NUMBER)[2] or 1)
            if part.optional and stream.null is None:
                raise ValueError(
                    f"the template {str(self)!r} has {str(part)!r}, but the vocabulary has no <none:{stream.name}>"
                )
            condition = number < len(self.left)
            found.append(Segment(name, stream, occurrence, arrangement, condition, part.optional))
        return found

    def document(self, grids: Mapping[str, NDArray[Any]], vocabulary: Vocabulary, seed: int = 0) -> Document:
        """Lay the grids of one sample out as a document.

        Args:
            grids: an integer grid for each part by its name; others are ignored. An optional part may be missing, and so may a
                condition whose stream has a null: it is dropped.
            vocabulary: the id space.
            seed: for orders that are drawn.

        Raises:
            ValueError: a grid is missing or has another shape than the vocabulary knows, or an id is out of range.
        """
        segments = self.segments(vocabulary)
        for segment in segments:
            if segment.name not in grids and segment.null is None:
                raise ValueError(f"the sample has no stream {segment.name!r}, which the template {str(self)!r} needs")
        return compile_document(segments, grids, vocabulary, seed)

    def flatten(
        self, grids: Mapping[str, NDArray[Any]], vocabulary: Vocabulary, seed: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the ids and the loss mask of `document`, both (length,)."""
        document = self.document(grids, vocabulary, seed)
        return document.ids, document.loss_mask

    def parse_ids(
        self, ids: Iterable[int] | NDArray[Any], vocabulary: Vocabulary, seed: int = 0
    ) -> dict[str, NDArray[np.int64]]:
        """Take a whole document apart into the grids of its parts; the inverse of `flatten`. Parts that are missing are left out.

        Raises:
            ValueError: the ids are not a document that the grammar accepts; the message names the place.
        """
        flat = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64)
        return take_apart(self.segments(vocabulary), flat, vocabulary, seed)

    def grammar(
        self,
        vocabulary: Vocabulary,
        max_length: int | None = None,
        begun: Mapping[str, NDArray[Any]] | None = None,
        seed: int = 0,
    ) -> Grammar:
        """Return the grammar of this template's documents; see `Grammar`."""
        return Grammar(self.segments(vocabulary), vocabulary, max_length, begun, seed, str(self))

    def prompt_ids(
        self, grids: Mapping[str, NDArray[Any]], vocabulary: Vocabulary, unfinished: bool = False, seed: int = 0
    ) -> NDArray[np.int64]:
        """Return the start of a document that holds the template's first parts, as far as ``grids`` gives them.

        Args:
            grids: grids of the first parts; may be empty. What may be missing (an optional part, a condition whose stream has
                a null) is so if it is not given and is a condition or stands before one that is given.
            vocabulary: the id space.
            unfinished: leave the last of them open, so that generation continues it: its grid may have fewer steps along the
                first axis than its shape. Where ids of its steps come later than others that are not known (in a layout or an
                order) they are not in the prompt, and where several shapes could be meant neither is the grid; the grammar that
                got the grid as ``begun`` forces them at their places.
            seed: for orders that are drawn.

        Raises:
            ValueError: a grid is given for a part after a missing one, or does not fit the vocabulary.
        """
        given = [name for name in self.names if name in grids]
        if extra := sorted(set(grids) - set(self.names)):
            raise ValueError(unknown_stream(extra[0], self.names))
        every = self.segments(vocabulary)
        count = self.names.index(given[-1]) + 1 if given else 0
        if any(segment.null is None and segment.name not in grids for segment in every[:count]):
            raise ValueError(
                f"the prompt gives {', '.join(given)}, but the template is {str(self)!r}; give the first streams"
            )
        while count < len(self.left) and every[count].null is not None:
            count += 1
        segments = every[:count]
        if not unfinished or not segments:
            document = compile_document(segments, grids, vocabulary, seed)
            return document.ids[:-1]
        last = segments[-1]
        before = compile_document(segments[:-1], grids, vocabulary, seed).ids[:-1]
        return np.concatenate([before, _begun_ids(last, np.asarray(grids[last.name]), seed)])

    def _check(self, part: Part, stream: StreamIds) -> None:
        axes = ", ".join(stream.spec.axes)
        if part.layout != layouts.DEFAULT and not stream.has_codebooks:
            raise ValueError(
                f"the template {str(self)!r} gives the stream {stream.name!r} the layout {part.layout!r}, but its grids (axes "
                f"{axes}) have no codebooks to order; write {stream.name!r} without a layout"
            )
        order = orders.order_named(part.order)
        inside = stream.place_axes[1:] if stream.is_open else stream.place_axes
        coordinate_columns(stream.place_axes)
        if len(inside) < order.least_axes:
            least = "one axis" if order.least_axes == 1 else f"{order.least_axes} axes"
            raise ValueError(
                f"the template {str(self)!r} gives the stream {stream.name!r} the order {part.order!r}, but its grids (axes "
                f"{axes}) have not the {least} of places in a known shape that it needs; write {stream.name!r} without it"
            )
        if order.drawn and stream.is_open:
            raise ValueError(
                f"the template {str(self)!r} gives the stream {stream.name!r} the order {part.order!r}, but how many places its "
                f"grids have (axes {axes}) is not known beforehand; write {stream.name!r} without it"
            )


_NOTHING = " predicts nothing; name at least one stream (right of '->')"


def _begun_ids(segment: Segment, grid: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Return the tokens of a segment as far as the first steps of its grid determine them, one after another."""
    stream = segment.stream
    begun = begun_ids(stream, grid)
    assert begun is not None, "there is a grid"
    if len(begun.shapes) > 1:
        return np.array([stream.begin])
    shape = begun.shapes[0]
    known = np.array(begun.ids, np.int64).reshape(-1)
    count = len(known) if stream.is_open else int(np.prod(stream.shapes[shape]))
    length = int(
        segment.end(np.asarray(count), np.asarray(shape)) if stream.is_open else segment.size(np.asarray(count))
    )
    shapes, seeds = np.full(length, shape), np.full(length, seed)
    special, flat = segment.read(np.arange(length), np.full(length, count), shapes, seeds)
    there = (special >= 0) | (flat < len(known))
    if not there.all():
        length = int(np.argmin(there))
    ids = known[np.minimum(flat[:length], max(len(known) - 1, 0))] if len(known) else np.zeros(length, np.int64)
    return np.where(special[:length] >= 0, special[:length], ids)


def _unknown_mark(name: str) -> str:
    known = [*layouts.LAYOUTS, *ORDERS.names()]
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"no layout is named {name!r} (known: {', '.join(layouts.LAYOUTS)}) and no order "
        f"({', '.join(ORDERS.names())}){hint}"
    )
