"""Sequence models: what the trainer and the generator ask of any of them, and how one is found by its name.

A new family is one file with a class that keeps the `SequenceModel` protocol, and one entry point in the group
``tokenize_kit.models`` (or a call of `register_model`). The trainer, generation and the contract test then serve it.
This module imports no torch, so that a command line can list the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable

from tokenize_kit.protocol.registry import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn

    from trainers.autoregressive.models.inputs import Inputs
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
    """A model over sequences of ids: an ``nn.Module`` with these methods.

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

    @property
    def needs(self) -> frozenset[str]:
        """Which parts of `Inputs` it cannot do without, of those that are made on demand (`inputs.NEEDS`)."""
        ...

    @property
    def causal(self) -> bool:
        """Whether the logits of a place depend on no token after it, so that sequences can be drawn token by token."""
        ...

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (B, T, V) of each place: of the token after it, or of itself for a model of masked tokens."""
        ...

    def forward(self, ids: Tensor, **places: Tensor | None) -> Tensor:
        """Return `logits` of ids (B, T) and further parts of `Inputs` by name."""
        ...

    def loss(
        self, inputs: Inputs, labels: Tensor, weights: Tensor | None = None, *, z_loss: float = 0.0
    ) -> SequenceLoss:
        """Return `token_loss` of the logits, as sums over the batch; a model may compute it without holding them all.

        A model that learns by counting has no parameters: in training mode it adds the labels to its counts, which are buffers,
        and returns what they cost before. Several processes add up what each has, once a batch.

        Args:
            inputs: B rows of T places.
            labels: int64 (B, T), what each place is to predict.
            weights: float (B, T), how much each place counts; None means 1 everywhere.
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
            compiled: compile the step of a single row, which pays for long generation.

        Raises:
            ValueError: ``length`` is beyond the context, ``compiled`` is asked for and the model does not know how to, or the
                model is not causal.
        """
        ...

    def step(self, inputs: Inputs, cache: Any, *, last_only: bool = False) -> Tensor:
        """Return the logits (B, n, V) after each of the next ``n`` tokens, and remember them in ``cache``.

        Args:
            inputs: the tokens (B, n) and what the model needs of them; positions and documents follow from the cache. A model
                that sees a condition as a whole must be given all of it in one step.
            cache: made by `new_cache`.
            last_only: return only the logits after the last of them, (B, 1, V).
        """
        ...

    def tables(self) -> list[nn.Parameter]:
        """Return the parameters with a row for each token or place (embeddings, head), which Muon leaves to AdamW."""
        ...

    def token_tables(self) -> list[nn.Parameter]:
        """Return those with a row for each id, (V, ...): in a model of another vocabulary its rows stand elsewhere."""
        ...

    # What of nn.Module the trainer and generation use.
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...  # noqa: D102
    def buffers(self, recurse: bool = True) -> Iterator[Tensor]: ...  # noqa: D102
    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]: ...  # noqa: D102
    def train(self, mode: bool = True) -> Self: ...  # noqa: D102
    def eval(self) -> Self: ...  # noqa: D102
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...  # noqa: D102


@runtime_checkable
class JointModel(Protocol):
    """What a sequence model has besides whose probability of a document is not the product of its steps.

    Such a model is a mixture of several (orders of the places, say): its `SequenceModel.logits` are those of one of them, and
    what scores a document asks this.
    """

    @property
    def joint(self) -> bool:
        """Whether it is a mixture of more than one; else its `SequenceModel.logits` say all."""
        ...

    def document_log_probabilities(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Return the log-probability of documents in nats, float32 (B,).

        Args:
            inputs: B rows of one document each.
            labels: int64 (B, T), the tokens that count; below 0 where none does.
        """
        ...


def as_joint(model: SequenceModel) -> JointModel | None:
    """Return the model if the probability of a document is not the product of its steps, else None."""
    return model if isinstance(model, JointModel) and model.joint else None


def device_of(model: SequenceModel) -> torch.device:
    """Return where a model is; one that learns by counting has buffers alone."""
    return next(chain(model.parameters(), model.buffers())).device


@runtime_checkable
class LayeredModel(Protocol):
    """What a family may have besides: it tells what it has made of tokens after each of its layers (``tokenize-kit probe``)."""

    def layer_states(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the states (B, T, D) after each layer by its name, from the embedding on; the last are those that `head` takes.

        Each row is one document, with padding behind it where it is shorter; packed rows are not told apart. What is at the
        padding is of no meaning.
        """
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of the last states (..., D)."""
        ...


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


def configuration_of(name: str) -> type[Any] | None:
    """Return the dataclass of a family's configuration, the attribute ``configuration`` of its class; None if it names none.

    Raises:
        ValueError: as `model_class`.
    """
    kind: type[Any] | None = getattr(model_class(name), "configuration", None)
    return kind


def build_model(name: str, config: Mapping[str, Any]) -> SequenceModel:
    """Build the model ``name`` from the plain form of its configuration, freshly initialised.

    Raises:
        ValueError: the name or a field of the configuration is unknown, or a value is out of range.
    """
    return model_class(name).from_config(config)
