"""The frame of every family that reads tokens one after the other and carries a state of fixed size from one to the next.

A member says what its state is before the first token (`StatefulModel.start`) and what it makes of further tokens
(`StatefulModel.body`); embedding, head, loss, packed documents, left padding and generation are here. One function is both forms:
a whole document is a `body` from the start, a step of generation one of a single token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from trainers.autoregressive.models.heads import head_of, tables_of
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.losses import SequenceLoss
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


class StatefulModel(nn.Module):
    """Base of the families with a state; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods.

    Args:
        config: the family's configuration.
        width: of what `body` takes and gives.
    """

    configuration: ClassVar[type[HeadConfig]]
    """The class of the configuration."""

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.config: Any = config
        self.width = width
        self.embedding = nn.Embedding(config.vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.unembedding = head_of(config, width)

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

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a freshly initialised model from the plain form of its configuration.

        Raises:
            ValueError: a field is unknown or out of range.
        """
        return cls(cls.configuration.from_dict(config))  # type: ignore[call-arg]

    @property
    def needs(self) -> frozenset[str]:
        """See `SequenceModel.needs`: only ids, unless a member says otherwise."""
        return frozenset()

    @property
    def causal(self) -> bool:
        """See `SequenceModel.causal`."""
        return True

    def forward(self, ids: Tensor, **places: Tensor | None) -> Tensor:
        """Return the logits (B, T, V) of each place of ``ids`` (B, T); see `Inputs` for the further ``places``."""
        return self.logits(Inputs(ids, **places))

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (B, T, V) of each place."""
        return self.head(self.hidden(inputs))

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., width)."""
        result: Tensor = self.unembedding(hidden)
        return result

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

    def check_length(self, inputs: Inputs) -> None:
        """Refuse rows that are longer than the context.

        Raises:
            ValueError: they are.
        """
        if (length := inputs.ids.shape[1]) > self.config.context:
            raise ValueError(f"a sequence of {length} tokens does not fit the model's context of {self.config.context}")

    def loss(
        self, inputs: Inputs, labels: Tensor, weights: Tensor | None = None, *, z_loss: float = 0.0
    ) -> SequenceLoss:
        """Return the summed loss of predicting ``labels`` (B, T); see `SequenceModel.loss`."""
        return self.unembedding.loss(self.hidden(inputs), labels, weights, z_loss=z_loss)

    def tables(self) -> list[nn.Parameter]:
        """See `SequenceModel.tables`."""
        return [*self.embedding.parameters(), *self.unembedding.parameters()]

    def token_tables(self) -> list[nn.Parameter]:
        """See `SequenceModel.token_tables`."""
        return [*self.embedding.parameters(), *tables_of(self.unembedding)]

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
        if compiled:
            raise ValueError("only the Transformer has a step that can be compiled; leave it plain")
        longest = length if left_padding is None else length - int(left_padding.max())
        if longest > self.config.context:
            raise ValueError(f"a cache of {longest} tokens does not fit the model's context of {self.config.context}")
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
        shortest = 0 if cache.left_padding is None else int(cache.left_padding.min())
        if stop > cache.length or stop - shortest > self.config.context:
            raise ValueError(f"{stop} tokens do not fit the cache of {min(cache.length, self.config.context)}")
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
