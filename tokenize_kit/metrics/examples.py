"""Which samples of an evaluation a report shows: the first ones, and those that lost most of the whole set."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from torch import Tensor

from tokenize_kit.metrics.measures import Judgement
from tokenize_kit.metrics.result import Example
from tokenize_kit.protocol import ShowsTokens, Tokenizer, modality_of
from tokenize_kit.sources.samples import KeyedSample

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample


class Examples:
    """Keeps a few samples, cut to what one can look at, so that the memory does not grow with the set.

    Args:
        tokenizer: which is evaluated.
        count: how many of the first and of the worst are kept.
    """

    def __init__(self, tokenizer: Tokenizer, count: int) -> None:
        self.first: list[Example] = []
        """The first samples."""
        self._tokenizer, self._most = tokenizer, count
        self._kind = modality_of(tokenizer.spec)
        # A heap with the least bad of the worst samples on top; the count breaks ties, so that the first one stays.
        self._heap: list[tuple[float, int, Example]] = []
        self._count = 0

    @property
    def worst(self) -> list[Example]:
        """The samples that lost something and most of all, from the worst on."""
        return [example for _, _, example in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]

    def offer(self, source: KeyedSample, ids: Tensor, reconstruction: Sample, judgement: Judgement) -> None:
        """Keep a sample if it is one of the first or of the worst so far; called for all, in their order."""
        order = -self._count
        self._count += 1
        if len(self.first) < self._most:
            self.first.append(self._example(source, ids, reconstruction, judgement))
        loss = judgement.loss
        if not loss or not self._most:
            return
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, (loss, order, self._example(source, ids, reconstruction, judgement)))
        elif loss > self._heap[0][0]:
            heapq.heapreplace(self._heap, (loss, order, self._example(source, ids, reconstruction, judgement)))

    def _example(self, source: KeyedSample, ids: Tensor, reconstruction: Sample, judgement: Judgement) -> Example:
        spec = self._tokenizer.spec
        sample = self._kind.excerpt(source.sample, spec)
        if self._kind.textual and sample != source.sample:
            # The tokens that are shown are those of the part that is shown.
            ids = self._tokenizer.encode(sample)
            reconstruction = self._tokenizer.decode(ids)
        else:
            reconstruction = self._kind.excerpt(reconstruction, spec)
        tokens = self._tokenizer.tokens(ids) if isinstance(self._tokenizer, ShowsTokens) else None
        shown = [] if tokens is None else ids.reshape(-1).tolist()
        return Example(source.key, sample, reconstruction, shown, tokens, judgement.note)
