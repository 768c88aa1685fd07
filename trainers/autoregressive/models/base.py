"""What the families beside the Transformer have in common: a configuration, rows of which length, and often a head.

Two frames stand on it: of families that carry a state (`stateful`), and of those that read a document again (`rereading`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from trainers.autoregressive.models.embeddings import embedding_of, rows_of_ids
from trainers.autoregressive.models.family import FamilyConfig
from trainers.autoregressive.models.heads import head_of, tables_of
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.losses import SequenceLoss
from trainers.autoregressive.models.ordinal import HeadConfig


class FamilyModel(nn.Module):
    """A causal model with a configuration; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods.

    Args:
        config: the family's configuration.
    """

    configuration: ClassVar[type[FamilyConfig]]
    """The class of the configuration."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config: Any = config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a freshly initialised model from the plain form of its configuration.

        Raises:
            ValueError: a field is unknown or out of range.
        """
        return cls(cls.configuration.from_dict(config))

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
        raise NotImplementedError

    def check_length(self, inputs: Inputs) -> None:
        """Refuse rows that are longer than the context.

        Raises:
            ValueError: they are.
        """
        if (length := inputs.ids.shape[1]) > self.config.context:
            raise ValueError(f"a sequence of {length} tokens does not fit the model's context of {self.config.context}")

    def check_cache(self, length: int, left_padding: Tensor | None, compiled: bool) -> None:
        """Refuse what `SequenceModel.new_cache` is asked for in vain.

        Raises:
            ValueError: ``length`` is beyond the context, or a compiled step is asked for.
        """
        if compiled:
            raise ValueError("only the Transformer has a step that can be compiled; leave it plain")
        longest = length if left_padding is None else length - int(left_padding.max())
        if longest > self.config.context:
            raise ValueError(f"a cache of {longest} tokens does not fit the model's context of {self.config.context}")

    def check_step(self, stop: int, length: int, left_padding: Tensor | None) -> None:
        """Refuse tokens that do not fit a cache.

        Args:
            stop: the place after the last of them.
            length: of the cache.
            left_padding: of its rows.

        Raises:
            ValueError: they do not.
        """
        shortest = 0 if left_padding is None else int(left_padding.min())
        if stop > length or stop - shortest > self.config.context:
            raise ValueError(f"{stop} tokens do not fit the cache of {min(length, self.config.context)}")


class HeadedModel(FamilyModel):
    """One whose tokens are embedded and whose hidden states a head makes distributions of.

    Args:
        config: the family's configuration.
        channels: of an embedded token.
        width: of a hidden state.
    """

    def __init__(self, config: HeadConfig, channels: int, width: int) -> None:
        super().__init__(config)
        self.embedding = embedding_of(config.vocab_size, channels, config.ordinal)
        self.unembedding = head_of(config, width)

    def hidden(self, inputs: Inputs) -> Tensor:
        """Return the last hidden states (B, T, width)."""
        raise NotImplementedError

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (B, T, V) of each place."""
        return self.head(self.hidden(inputs))

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., width)."""
        result: Tensor = self.unembedding(hidden)
        return result

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
        return [*rows_of_ids(self.embedding), *tables_of(self.unembedding)]
