"""The frame of families that carry no state from token to token: tables, and networks over a whole document.

A member says what comes after each place of documents that begin at their first token (`RereadingModel.after`), and what it
makes of whole documents while it trains (`RereadingModel.document_loss`). Packed rows are taken apart into their documents
here, and generation keeps the tokens and reads them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from trainers.autoregressive.models.base import FamilyModel
from trainers.autoregressive.models.family import FamilyConfig
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.losses import SequenceLoss, token_loss
from trainers.autoregressive.models.runs import runs_of


class Whole(NamedTuple):
    """Documents as rows of their own: R of them, of L places at most."""

    ids: Tensor
    """int64 (R, L + 1): the tokens, and the label of the last place. Beyond a document's own places it is of no meaning."""
    labels: Tensor
    """int64 (R, L)."""
    weights: Tensor
    """float (R, L), 0 beyond a document's own places."""

    @classmethod
    def of(cls, ids: Tensor, labels: Tensor, weights: Tensor | None) -> Self:
        """Return rows (R, L) that are a document each."""
        weights = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights.float()
        after = torch.where(weights > 0, labels, torch.cat((ids[:, 1:], labels[:, -1:].clamp(min=0)), 1))
        return cls(torch.cat((ids[:, :1], after), 1), labels, weights)


class TokenCache:
    """The tokens of rows, kept to be read again; see `SequenceModel.new_cache`."""

    def __init__(self, ids: Tensor, length: int, left_padding: Tensor) -> None:
        self.ids, self.length, self.left_padding = ids, length, left_padding

    @property
    def position(self) -> int:
        """How many tokens of every row were seen."""
        return self.ids.shape[1]

    def select(self, rows: Tensor) -> TokenCache:
        """Return a cache of the rows ``rows`` (int64), in that order."""
        return TokenCache(self.ids[rows], self.length, self.left_padding[rows])


class RereadingModel(FamilyModel):
    """Base of the families without a state; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods."""

    def after(self, ids: Tensor, places: Tensor) -> Tensor:
        """Return the logits (R, P, V) of the tokens after some places of documents.

        Args:
            ids: int64 (R, L), documents from their first token on, of at most ``config.context`` tokens.
            places: int64 (R, P), from 0 on.
        """
        raise NotImplementedError

    def document_loss(self, whole: Whole, z_loss: float) -> SequenceLoss:
        """Return the summed loss of documents."""
        logits = self.after(whole.ids[:, :-1], every_place(whole.labels))
        return token_loss(logits, whole.labels, whole.weights, z_loss=z_loss)

    def count(self, documents: Sequence[Whole]) -> None:
        """Learn from the documents of a batch, if that is by counting; all processes call it once a batch, in training mode."""

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (B, T, V) of each place.

        Raises:
            ValueError: the rows are longer than the context.
        """
        self.check_length(inputs)
        if inputs.documents is None:
            return self.after(inputs.ids, every_place(inputs.ids))
        result: Tensor | None = None
        for runs in runs_of(inputs.documents):
            found = self.after(runs.gather(inputs.ids), every_place(runs.places))
            if result is None:
                result = found.new_zeros(*inputs.ids.shape, found.shape[-1])
            result = runs.scatter(result, found)
        if result is None:
            return torch.zeros(*inputs.ids.shape, self.config.vocab_size, device=inputs.ids.device)
        return result

    def loss(
        self, inputs: Inputs, labels: Tensor, weights: Tensor | None = None, *, z_loss: float = 0.0
    ) -> SequenceLoss:
        """Return the summed loss of predicting ``labels`` (B, T); see `SequenceModel.loss`.

        Raises:
            ValueError: the rows are longer than the context, or the documents are none that the model can learn.
        """
        self.check_length(inputs)
        documents = list(documents_of(inputs, labels, weights))
        parts = [self.document_loss(whole, z_loss) for whole in documents]
        if self.training:
            self.count(documents)
        return SequenceLoss(*(torch.stack(part).sum() for part in zip(*parts, strict=True)))

    def tables(self) -> list[nn.Parameter]:
        """See `SequenceModel.tables`."""
        return []

    def token_tables(self) -> list[nn.Parameter]:
        """See `SequenceModel.token_tables`."""
        return []

    def new_cache(
        self,
        batch: int,
        length: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,  # noqa: ARG002 (tokens have one)
        left_padding: Tensor | None = None,
        compiled: bool = False,
    ) -> TokenCache:
        """Return an empty cache for ``batch`` rows of up to ``length`` tokens; see `SequenceModel.new_cache`.

        Raises:
            ValueError: ``length`` is beyond the context, or a compiled step is asked for.
        """
        self.check_cache(length, left_padding, compiled)
        ids = torch.zeros(batch, 0, dtype=torch.int64, device=device)
        padding = torch.zeros(batch, dtype=torch.int64) if left_padding is None else left_padding
        return TokenCache(ids, length, padding.to(ids.device))

    @torch.no_grad()
    def step(self, inputs: Inputs, cache: TokenCache, *, last_only: bool = False) -> Tensor:
        """Return the logits (B, n, V) after each of the next ``n`` tokens, and remember them in ``cache``.

        Raises:
            ValueError: the tokens do not fit the cache.
        """
        start, stop = cache.position, cache.position + inputs.ids.shape[1]
        self.check_step(stop, cache.length, cache.left_padding)
        cache.ids = torch.cat((cache.ids.to(inputs.ids.device), inputs.ids), 1)
        padding = cache.left_padding.to(inputs.ids.device)[:, None]
        places = torch.arange(stop, device=inputs.ids.device)
        # Each document moved to the left, so that its first token is at place 0; what comes after it is not looked at.
        ids = cache.ids.gather(1, (places + padding).clamp(max=stop - 1))[:, : self.config.context]
        asked = (places[stop - 1 :] if last_only else places[start:]) - padding
        return self.after(ids, asked.clamp(min=0))


def every_place(like: Tensor) -> Tensor:
    """Return the numbers of all places of rows ``like`` (R, L), int64 (R, L)."""
    return torch.arange(like.shape[1], device=like.device).expand(like.shape[0], -1)


def documents_of(inputs: Inputs, labels: Tensor, weights: Tensor | None) -> Iterator[Whole]:
    """Yield the documents of packed rows, those of similar length at once."""
    if inputs.documents is None:
        yield Whole.of(inputs.ids, labels, weights)
        return
    weights = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights
    for runs in runs_of(inputs.documents):
        own = every_place(runs.places) < runs.lengths[:, None]
        yield Whole.of(runs.gather(inputs.ids), runs.gather(labels), runs.gather(weights) * own)


class FixedLengthModel(RereadingModel):
    """Base of those whose variables are the places of a document, so that all documents must have the same number of them.

    What is compared is the place of the last token that counts, which the first document that is trained on settles.
    """

    length: Tensor

    def __init__(self, config: FamilyConfig) -> None:
        super().__init__(config)
        self.register_buffer("length", torch.zeros((), dtype=torch.int64))

    def settled_length(self, weights: Tensor) -> int:
        """Return the place of the last token that counts, and settle it in training mode; 0 if none counts.

        Args:
            weights: float (R, L), of the labels of documents, those of places 1 to L.

        Raises:
            ValueError: the documents differ in it among each other or from those of before.
        """
        ends = ((weights > 0) * (every_place(weights) + 1)).amax(1)
        found = sorted({int(end) for end in ends[ends > 0]} | ({int(self.length)} if int(self.length) else set()))
        if len(found) > 1:
            raise ValueError(
                f"a document ends at place {found[0]} and another one at {found[-1]}: this family has a variable for each place, "
                "so all documents must have the same number of tokens; give it pictures of one size, or columns of labels"
            )
        if found and self.training:
            self.length.fill_(found[0])
        return found[0] if found else 0
