"""Learning byte-pair merges from counted words, with the result of the ``tokenizers`` package and in less time.

`learn_merges` follows ``BpeTrainer`` to the letter, ties and doubled tokens included, so that ids and merges are identical:
https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/models/bpe/trainer.rs. It is given words that were
counted already, in whatever way, and so knows nothing of files or patterns. ``tokenizers`` itself takes 3.0 times as long
for 32,000 tokens of 100 MB (``benchmarks/bpe_training.py``).
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BOUNDARY = -1
_INSIDE = -2
_SHIFT = 32
_LOW = (1 << _SHIFT) - 1

# Below so many places plain Python is faster than a few dozen numpy calls (measured: they meet between 60 and 150).
_FEW = 100


@dataclass(frozen=True)
class Merges:
    """What was learnt: tokens are bytes, ids are places in ``tokens``."""

    tokens: list[bytes]
    """Every token in the order of its id: special tokens, the 256 bytes, then what merges made."""
    pairs: list[tuple[int, int]]
    """The ids that are merged, the first merge first."""


def learn_merges(
    counts: Mapping[bytes, int],
    vocab_size: int,
    special_tokens: Sequence[bytes],
    alphabet: Sequence[int],
    min_frequency: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Merges:
    """Merge the most frequent pair of neighbours, over and over.

    Equal counts are decided by the smaller pair of ids. Pairs are counted in overlapping windows (``aaa`` has two ``aa``).

    Args:
        counts: how often each word occurs; merges never cross words.
        vocab_size: stop at so many tokens; fewer come out if the words have no more pairs.
        special_tokens: tokens that get the first ids.
        alphabet: the 256 bytes in the order of their ids.
        min_frequency: stop when the most frequent pair is rarer than this.
        progress: called now and then with the number of tokens so far.
    """
    learner = _Learner(counts, special_tokens, alphabet)
    learner.run(vocab_size, max(1, min_frequency), progress)
    ranked = sorted(learner.ranks.items(), key=lambda item: item[1])
    return Merges(learner.tokens, [(pair >> _SHIFT, pair & _LOW) for pair, _ in ranked])


class _Learner:
    """The words as one array of symbols, and a queue of pairs with the places where each begins.

    A symbol stands at the first and at the last place that its bytes take; what is between is `_INSIDE`. Words are set
    apart by `_BOUNDARY`. So the next symbol begins after the length of this one, and the last place of the one before
    is next to the first of this one::

        place     0  1  2  3  4  5  6
        bytes     |  t  h  e  |  a  |
        symbols  -1  T -2  T -1  a -1        with T = "the"
    """

    def __init__(self, counts: Mapping[bytes, int], special_tokens: Sequence[bytes], alphabet: Sequence[int]) -> None:
        self.tokens: list[bytes] = list(special_tokens)
        ids = {token: i for i, token in enumerate(self.tokens)}
        self.ids = ids
        for byte in alphabet:
            token = bytes([byte])
            if token not in ids:
                ids[token] = len(self.tokens)
                self.tokens.append(token)
        self.ranks: dict[int, int] = {}
        self._steps = 0

        words = [word for word in counts if len(word) > 1]
        data = np.frombuffer(b"".join(words), dtype=np.uint8)
        lengths = np.fromiter((len(word) for word in words), dtype=np.int64, count=len(words))
        self._weights = np.fromiter((counts[word] for word in words), dtype=np.int64, count=len(words))
        place_type = np.int32 if len(data) + len(words) + 1 < 2**31 else np.int64
        table = np.array([ids[bytes([byte])] for byte in range(256)], dtype=np.int32)
        self._symbols = np.full(len(data) + len(words) + 1, _BOUNDARY, dtype=np.int32)
        inside = np.ones(len(self._symbols), dtype=bool)
        inside[0] = False
        inside[np.cumsum(lengths + 1)] = False
        self._symbols[inside] = table[data]
        self._words = np.cumsum(~inside, dtype=np.int32) - 1
        # The windows below need several times the memory of the words, so nothing else is kept meanwhile.
        del inside, data, words
        self._lengths = np.zeros(max(2 * len(self.tokens), 1024), dtype=place_type)
        self._lengths[: len(self.tokens)] = [len(token) for token in self.tokens]
        self._code = "i" if place_type is np.int32 else "q"
        self._starts = np.cumsum(lengths + 1) - lengths
        # Single items of a memoryview are several times as fast to read and write as those of an array.
        self._symbol_view = memoryview(self._symbols)  # type: ignore[arg-type]
        self._word_view = memoryview(self._words)  # type: ignore[arg-type]
        self._counts: dict[int, int] = {}
        self._queue: list[tuple[int, int, int]] = []
        self._places: dict[int, NDArray[Any] | array[int]] = {}
        self._entries = 0
        self._doubled: set[int] = set()

        starts = np.flatnonzero((self._symbols[:-1] >= 0) & (self._symbols[1:] >= 0)).astype(place_type)
        first, second = self._symbols[starts], self._symbols[starts + 1]
        self._add_many(_pair(first, second), starts)

    def run(self, vocab_size: int, min_frequency: int, progress: Callable[[int], None] | None) -> None:
        queue, counts = self._queue, self._counts
        while len(self.tokens) < vocab_size and queue:
            negative, pair, entry = heapq.heappop(queue)
            count = counts[pair]
            if count != -negative:
                # Other merges took some of its places since it was queued.
                if count > 0:
                    heapq.heappush(queue, (-count, pair, entry))
                else:
                    del self._places[entry]
                continue
            if count < min_frequency:
                break
            self._merge(pair, self._places.pop(entry))
            if progress is not None and self._steps % 256 == 0:
                progress(len(self.tokens))

    def _merge(self, pair: int, places: NDArray[Any] | array[int]) -> None:
        first, second = pair >> _SHIFT, pair & _LOW
        token = self.tokens[first] + self.tokens[second]
        new = self.ids.get(token)
        if new is None:
            new = self.ids[token] = len(self.tokens)
            self.tokens.append(token)
            if new >= len(self._lengths):
                self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
            self._lengths[new] = len(token)
        # A pair that comes a second time is one merge, at its last place.
        self.ranks[pair] = self._steps
        self._steps += 1
        if pair in self._doubled:
            places = self._in_words(first, second, places)
        if len(places) <= _FEW:
            self._merge_few(first, second, new, places.tolist())
        else:
            self._merge_many(first, second, new, np.asarray(places))

    def _merge_few(self, first: int, second: int, new: int, places: list[int]) -> None:
        """Merge place by place, as the reference does."""
        symbols, words, tokens, weights = self._symbol_view, self._word_view, self.tokens, self._weights
        size_first = len(tokens[first])
        size = len(tokens[new])
        changes: dict[int, int] = {}
        added: dict[int, list[int]] = {}
        for place in places:
            at_second = place + size_first
            if symbols[place] != first or symbols[at_second] != second:
                continue
            weight = int(weights[words[place]])
            after = place + size
            before_symbol = symbols[place - 1]
            after_symbol = symbols[after]
            if before_symbol >= 0:
                pair = before_symbol << _SHIFT | first
                changes[pair] = changes.get(pair, 0) - weight
                pair = before_symbol << _SHIFT | new
                changes[pair] = changes.get(pair, 0) + weight
                added.setdefault(pair, []).append(place - len(tokens[before_symbol]))
            symbols[at_second - 1] = _INSIDE
            symbols[at_second] = _INSIDE
            symbols[place] = new
            symbols[after - 1] = new
            if after_symbol >= 0:
                pair = second << _SHIFT | after_symbol
                changes[pair] = changes.get(pair, 0) - weight
                pair = new << _SHIFT | after_symbol
                changes[pair] = changes.get(pair, 0) + weight
                added.setdefault(pair, []).append(place)
        counts = self._counts
        seen = {pair for pair in added if pair in counts}
        for pair, change in changes.items():
            counts[pair] = counts.get(pair, 0) + change
        for pair, where in added.items():
            if pair in seen:
                self._doubled.add(pair)
            self._put(pair, array(self._code, where))

    def _merge_many(self, first: int, second: int, new: int, places: NDArray[Any]) -> None:
        """Merge all places at once; the same result as `_merge_few`."""
        symbols = self._symbols
        size_first, size = len(self.tokens[first]), len(self.tokens[new])
        places = places[(symbols[places] == first) & (symbols[places + size_first] == second)]
        if first == second:
            places = _every_other(np.sort(places), size_first)
        if not len(places):
            return
        at_second = places + size_first
        after = places + size
        before_symbol = symbols[places - 1]
        after_symbol = symbols[after]
        has_after = after_symbol >= 0
        # Where two merged pairs touch, the window between them is the right one of the first and not also the left one
        # of the second.
        touches = np.zeros(len(places), dtype=bool)
        np.equal(places[1:], after[:-1], out=touches[1:])
        has_before = (before_symbol >= 0) & ~touches
        before_symbol = before_symbol[has_before]
        weights = self._weights[self._words[places]]
        self._subtract(
            np.concatenate([_pair(before_symbol, first), _pair(second, after_symbol[has_after])]),
            np.concatenate([weights[has_before], weights[has_after]]),
        )
        symbols[at_second - 1] = _INSIDE
        symbols[at_second] = _INSIDE
        symbols[places] = new
        symbols[after - 1] = new
        self._add_many(
            np.concatenate([_pair(before_symbol, new), _pair(new, symbols[after[has_after]])]),
            np.concatenate([places[has_before] - self._lengths[before_symbol], places[has_after]]),
        )

    def _subtract(self, pairs: NDArray[np.int64], weights: NDArray[np.int64]) -> None:
        if not len(pairs):
            return
        order = np.argsort(pairs, kind="stable")
        pairs = pairs[order]
        heads = _heads(pairs)
        counts = self._counts
        for pair, amount in zip(pairs[heads].tolist(), np.add.reduceat(weights[order], heads).tolist(), strict=True):
            counts[pair] -= amount

    def _add_many(self, pairs: NDArray[np.int64], places: NDArray[Any]) -> None:
        """Count new windows, and queue their pairs with their places."""
        if not len(pairs):
            return
        order = np.argsort(pairs, kind="stable")
        places = places[order]
        pairs = pairs[order]
        del order
        heads = _heads(pairs)
        sums = np.add.reduceat(self._weights[self._words[places]], heads).tolist()
        starts = heads.tolist()
        counts = self._counts
        for pair, amount, start, end in zip(
            pairs[heads].tolist(), sums, starts, [*starts[1:], len(pairs)], strict=True
        ):
            if pair in counts:
                self._doubled.add(pair)
            counts[pair] = counts.get(pair, 0) + amount
            self._put(pair, places[start:end])

    def _put(self, pair: int, places: NDArray[Any] | array[int]) -> None:
        count = self._counts[pair]
        if count > 0:
            self._places[self._entries] = places
            heapq.heappush(self._queue, (-count, pair, self._entries))
            self._entries += 1

    def _in_words(self, first: int, second: int, places: NDArray[Any] | array[int]) -> NDArray[Any]:
        """Return where the pair is in the words of ``places``.

        Two ways may lead to one token (``a`` + ``bc``, ``ab`` + ``c``). Its pairs are then queued more than once, and the
        reference, which remembers words and not places, finds them all in the words of each entry.
        """
        symbols, tokens = self._symbol_view, self.tokens
        found: list[int] = []
        for start in self._starts[np.unique(self._words[np.asarray(places)])].tolist():
            place = start
            while (symbol := symbols[place]) >= 0:
                following = place + len(tokens[symbol])
                if symbol == first and symbols[following] == second:
                    found.append(place)
                place = following
        return np.array(found, dtype=self._lengths.dtype)


def _pair(first: NDArray[np.int32] | int, second: NDArray[np.int32] | int) -> NDArray[np.int64]:
    return (np.asarray(first, dtype=np.int64) << _SHIFT) | np.asarray(second, dtype=np.int64)


def _heads(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each run of equal values begins."""
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(pairs[1:] != pairs[:-1]) + 1])


def _every_other(places: NDArray[Any], size: int) -> NDArray[Any]:
    """Of overlapping pairs in a run (``aaaa`` has three ``aa``), keep the first, the third and so on."""
    number = np.arange(len(places))
    fresh = np.ones(len(places), dtype=bool)
    fresh[1:] = places[1:] != places[:-1] + size
    start = np.maximum.accumulate(np.where(fresh, number, 0))
    kept: NDArray[Any] = places[(number - start) % 2 == 0]
    return kept
