"""Sequence models: what the trainer and the generator ask of any of them, and how one is found by its name.

A new family is one file with a class that keeps the `SequenceModel` protocol, and one entry point in the group
``tokenize_kit.models`` (or a call of `register_model`). The trainer, generation and the contract test then serve it.
This module imports no torch, so that a command line can list the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable

from tokenize_kit.protocol.registry import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn

    from trainers.autoregressive.models.losses import SequenceLoss


class ModelConfig(Protocol):
    """What any model's configuration says: sizes that data and generation must respect, and its plain form."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        ...


class Cache(Protocol):
    """What a model remembers of the tokens it has seen while it generates; made by `SequenceModel.new_cache`."""

    @property
    def position(self) -> int:
        """How many tokens of every row were seen, left padding included."""
        ...

    @property
    def length(self) -> int:
        """How many tokens fit."""
        ...

    def select(self, rows: Tensor) -> Cache:
        """Return a cache of the rows ``rows`` (int64), in that order; this one must not be used after it."""
        ...


@runtime_checkable
class SequenceModel(Protocol):
    """A causal model over sequences of ids: an ``nn.Module`` with these methods.

    Shapes: B rows, T places, D the width, V the vocabulary.
    """

    @property
    def config(self) -> ModelConfig:
        """The configuration it was built from."""
        ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a freshly initialised model from the plain form of its configuration.

        Raises:
            ValueError: a field is unknown or out of range.
        """
        ...

    def forward(self, ids: Tensor, *, positions: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, V) of the token after each place; see `hidden` for the arguments."""
        ...

    def hidden(self, ids: Tensor, *, positions: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        """Return the last hidden states (B, T, D); ``head`` turns any part of them into logits.

        Args:
            ids: int64 (B, T).
            positions: int64 (B, T), the place of each token in its document; None counts from 0 in each row.
            documents: int64 (B, T), which packed document each token is of (-1 for padding); a token sees only earlier
                tokens with its own number. None means one document a row.
        """
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., D)."""
        ...

    def loss(
        self,
        ids: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        z_loss: float = 0.0,
    ) -> SequenceLoss:
        """Return `next_token_loss` of the logits, as sums over the batch; a model may compute it without holding them all.

        Args:
            ids: int64 (B, T).
            labels: int64 (B, T), the token after each place.
            weights: float (B, T), how much each place counts; None means 1 everywhere.
            positions: see `hidden`.
            documents: see `hidden`.
            z_loss: factor of the squared log-partition.
        """
        ...

    def new_cache(
        self,
        batch: int,
        length: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        left_padding: Tensor | None = None,
        compiled: bool = False,
    ) -> Cache:
        """Return an empty cache for ``batch`` rows of up to ``length`` tokens.

        Args:
            batch: number of rows.
            length: number of tokens, left padding included; without it at most ``config.context``.
            device: default: where the model is.
            dtype: default: the dtype of the model's weights.
            left_padding: int64 (B,), how many leading places of each row are padding; None means none.
            compiled: compile the step of a single row, which pays for long generation; a model may not know how to.
        """
        ...

    def step(self, ids: Tensor, cache: Any, *, last_only: bool = False) -> Tensor:
        """Return the logits (B, n, V) after each of the next ``n`` tokens, and remember them in ``cache``.

        Args:
            ids: int64 (B, n).
            cache: made by `new_cache`.
            last_only: return only the logits after the last of them, (B, 1, V).
        """
        ...

    def tables(self) -> list[nn.Parameter]:
        """Return the parameters with a row for each token or place (embeddings, head), which Muon leaves to AdamW."""
        ...

    # What of nn.Module the trainer and generation use.
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...  # noqa: D102
    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]: ...  # noqa: D102
    def train(self, mode: bool = True) -> Self: ...  # noqa: D102
    def eval(self) -> Self: ...  # noqa: D102
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...  # noqa: D102


def register_model(name: str, cls: type[SequenceModel]) -> None:
    """Make ``cls`` known as ``name`` in this process, as the entry point group ``tokenize_kit.models`` does for packages.

    Raises:
        ValueError: the name belongs to another model.
    """
    MODELS.register(name, cls)


def model_class(name: str) -> type[SequenceModel]:
    """Return the model class that is registered as ``name``.

    Raises:
        ValueError: nothing is registered under that name; the message suggests the closest one.
    """
    return cast("type[SequenceModel]", MODELS.get(name))


def build_model(name: str, config: Mapping[str, Any]) -> SequenceModel:
    """Build the model ``name`` from the plain form of its configuration, freshly initialised.

    Raises:
        ValueError: the name or a field of the configuration is unknown, or a value is out of range.
    """
    return model_class(name).from_config(config)
