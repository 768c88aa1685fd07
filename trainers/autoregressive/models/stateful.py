"""The frame of every family that reads tokens one after the other and carries a state of fixed size from one to the next.

A member says what its state is before the first token (`StatefulModel.start`) and what it makes of further tokens
(`StatefulModel.body`); packed documents, left padding and generation are here. One function is both forms:
a whole document is a `body` from the start, a step of generation one of a single token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainers.autoregressive.models.base import HeadedModel
from trainers.autoregressive.models.embeddings import reset_embedding
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.ordinal import HeadConfig
from trainers.autoregressive.models.runs import Runs, Shift, runs_of

State = tuple[Tensor, ...]
"""What is carried on; the first axis of each is the row."""
EMBEDDING_STD = 0.2


class StateCache:
    """The state of rows between two steps of generation; see `SequenceModel.new_cache`."""

    def __init__(self, state: State, length: int, left_padding: Tensor | None) -> None:
        self.state, self.length, self.left_padding = state, length, left_padding
        self.position = 0

    def select(self, rows: Tensor) -> StateCache:
        """Return a cache of the rows ``rows`` (int64), in that order."""
        padding = None if self.left_padding is None else self.left_padding[rows]
        chosen = StateCache(tuple(part[rows] for part in self.state), self.length, padding)
        chosen.position = self.position
        return chosen


class StatefulModel(HeadedModel):
    """Base of the families with a state; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods.

    Args:
        config: the family's configuration.
        width: of what `body` takes and gives.
    """

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__(config, width, width)
        self.width = width
        reset_embedding(self.embedding, EMBEDDING_STD)

    def start(self, rows: int, like: Tensor) -> State:
        """Return the state before the first token.

        Args:
            rows: how many.
            like: a tensor of the device and dtype that it shall have.
        """
        raise NotImplementedError

    def body(self, x: Tensor, inputs: Inputs, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Return the states (R, L, width) after each of the next L tokens, and what is to be carried on after them.

        The last layer is a norm, or has a mean square of about 1 otherwise: the head expects that.

        Args:
            x: (R, L, width), the tokens embedded.
            inputs: of them, with the parts that the model `needs`.
            state: before them; must not be written into.
            lengths: int64 (R,), how many of the tokens are real, those first; what is carried on is that after the real ones. 0
                leaves a state as it is. None means all.
        """
        raise NotImplementedError

    def advance(self, x: Tensor, inputs: Inputs, state: State) -> tuple[Tensor, State]:
        """Do what `body` does while sequences are drawn: without gradients, and ``state`` may be written into."""
        return self.body(x, inputs, state, None)

    def hidden(self, inputs: Inputs) -> Tensor:
        """Return the last hidden states (B, T, width).

        Raises:
            ValueError: the rows are longer than the context, or a part of the inputs is missing that the model needs.
        """
        self.check_length(inputs)
        x: Tensor = self.embedding(inputs.ids)
        if inputs.documents is None:
            return self.body(x, inputs, self.start(len(x), x), None)[0]
        result = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
        for runs in runs_of(inputs.documents):
            # Nothing is carried on, so what lies behind a document need not be told from it: such rows are not packed.
            found, _ = self.body(runs.gather(x), _at(inputs, runs), self.start(len(runs.lengths), x), None)
            result = runs.scatter(result, found)
        return result

    def new_cache(
        self,
        batch: int,
        length: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        left_padding: Tensor | None = None,
        compiled: bool = False,
    ) -> StateCache:
        """Return an empty cache for ``batch`` rows of up to ``length`` tokens; see `SequenceModel.new_cache`.

        Raises:
            ValueError: ``length`` is beyond the context, or a compiled step is asked for.
        """
        self.check_cache(length, left_padding, compiled)
        weight = self.embedding.weight
        like = torch.empty(0, device=device or weight.device, dtype=dtype or weight.dtype)
        padding = None if left_padding is None else left_padding.to(like.device)
        return StateCache(self.start(batch, like), length, padding)

    @torch.no_grad()
    def step(self, inputs: Inputs, cache: StateCache, *, last_only: bool = False) -> Tensor:
        """Return the logits (B, n, V) after each of the next ``n`` tokens, and remember them in ``cache``.

        Raises:
            ValueError: the tokens do not fit the cache, or a part of the inputs is missing that the model needs.
        """
        count = inputs.ids.shape[1]
        stop = cache.position + count
        self.check_step(stop, cache.length, cache.left_padding)
        shift = Shift.of(cache.left_padding, cache.position, count)
        x: Tensor = self.embedding(inputs.ids)
        if shift is None:
            hidden, cache.state = self.advance(x, inputs, cache.state)
        else:
            moved = {name: shift.left(part) for name, part in inputs.parts().items()}
            hidden, cache.state = self.body(shift.left(x), replace(inputs, **moved), cache.state, shift.lengths)
            hidden = shift.back(hidden)
        cache.position = stop
        return self.head(hidden[:, -1:] if last_only else hidden)


def _at(inputs: Inputs, runs: Runs) -> Inputs:
    """Return the inputs of documents, each a row of its own."""
    moved: dict[str, Any] = {name: runs.gather(part) for name, part in inputs.parts().items()}
    return replace(inputs, **(moved | {"documents": None}))
