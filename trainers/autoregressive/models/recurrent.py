"""Recurrent networks: LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000) and GRU (Cho et al. 2014, arXiv 1406.1078).

Layers stand on each other with a residual connection and a norm between them. What is seen is everything before, through a
state whose size does not depend on how much that is: a step of generation costs the same at any length. With ``coordinates``
the place of each token in its grid comes in beside its id.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from trainers.autoregressive.models.coordinates import Coordinates
from trainers.autoregressive.models.fast.pointwise import autocast_dtype
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.ordinal import HeadConfig
from trainers.autoregressive.models.stateful import State, StatefulModel


@dataclass(frozen=True)
class RecurrentConfig(HeadConfig):
    """A stack of recurrent layers."""

    cell: Literal["lstm", "gru"] = "lstm"
    """What a layer is made of."""
    layers: int = 2
    """How many stand on each other."""
    width: int = 512
    """Channels of each."""
    dropout: float = 0.0
    """Probability of dropping an activation after each layer while training."""
    coordinates: bool = False
    """Whether the place of each token in its grid comes in beside its id."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "layers", "width")
        self.probability("dropout")


class Recurrent(StatefulModel):
    """A stack of recurrent layers over ids."""

    configuration = RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config, config.width)
        kind = nn.LSTM if config.cell == "lstm" else nn.GRU
        self.coordinates = Coordinates(config.width) if config.coordinates else None
        self.layers = nn.ModuleList(kind(config.width, config.width, batch_first=True) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.RMSNorm(config.width) for _ in range(config.layers + 1))
        self.dropout = nn.Dropout(config.dropout)

    @property
    def needs(self) -> frozenset[str]:
        """See `SequenceModel.needs`."""
        return frozenset() if self.coordinates is None else frozenset({"axial"})

    def start(self, rows: int, like: Tensor) -> State:
        """Return zeros: for each layer what it gave last, (R, width), and for an LSTM its memory (R, width)."""
        parts = 2 if self.config.cell == "lstm" else 1
        return tuple(like.new_zeros(rows, self.width) for _ in range(self.config.layers * parts))

    def body(self, x: Tensor, inputs: Inputs, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """See `StatefulModel.body`."""
        return self._through(x, inputs, state, lengths, {})

    def layer_states(self, inputs: Inputs) -> dict[str, Tensor]:
        """See `trainers.autoregressive.models.LayeredModel`."""
        seen: dict[str, Tensor] = {}
        x: Tensor = self.embedding(inputs.ids)
        self._through(x, inputs, self.start(len(x), x), None, seen)
        return seen

    def _through(
        self, x: Tensor, inputs: Inputs, state: State, lengths: Tensor | None, seen: dict[str, Tensor]
    ) -> tuple[Tensor, State]:
        """Do what `body` does, and put into ``seen`` what comes out of each layer."""
        if self.coordinates is not None:
            x = x + self.coordinates(inputs.of("axial"))
        seen["embedding"] = x
        parts = 2 if self.config.cell == "lstm" else 1
        after: list[Tensor] = []
        for index, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=False)):
            before = state[index * parts : (index + 1) * parts]
            with _library(x):
                found, carried = _run(layer, norm(x), before, lengths)
            x = seen[f"layer {index + 1}"] = x + self.dropout(found)
            after += carried
        result = seen["norm"] = self.norms[-1](x)
        return result, tuple(after)


def _library(x: Tensor) -> AbstractContextManager[Any]:
    """Return what keeps oneDNN's LSTM away from bfloat16 on processors on which it refuses it; elsewhere it is the faster one."""
    kind = autocast_dtype(x.device.type) or x.dtype
    refused = kind == torch.bfloat16 and x.device.type == "cpu" and not _takes_bfloat16()
    return torch.backends.mkldnn.flags(enabled=False) if refused else nullcontext()


@cache
def _takes_bfloat16() -> bool:
    """Return whether oneDNN's LSTM computes in bfloat16 here: it says so by doing it."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.autocast("cpu", enabled=False),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        x = torch.zeros(1, 2, 8, dtype=torch.bfloat16, requires_grad=True)
        try:
            nn.LSTM(8, 8, batch_first=True).to(torch.bfloat16)(x)[0].sum().backward()
        except RuntimeError:
            return False
    return True


def _run(layer: nn.Module, x: Tensor, before: State, lengths: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Run one layer over (R, L, D) from the states ``before`` (R, D); return what it gives and the states at the end."""
    if lengths is None:
        found, after = layer(x, _given(before))
        return found, _carried(after)
    # The library takes no row without a token: such a row keeps its state.
    real = lengths > 0
    result, carried = x.new_zeros(x.shape), [part.clone() for part in before]
    if bool(real.any()):
        packed = pack_padded_sequence(x[real], lengths[real].cpu(), batch_first=True, enforce_sorted=False)
        found, after = layer(packed, _given(tuple(part[real] for part in before)))
        found, _ = pad_packed_sequence(found, batch_first=True, total_length=x.shape[1])
        result = result.to(found.dtype).index_put((real.nonzero()[:, 0],), found)
        for part, new in zip(carried, _carried(after), strict=True):
            part[real] = new.to(part.dtype)
    return result, carried


def _given(state: State) -> Tensor | tuple[Tensor, ...]:
    """Return a state as the library takes it."""
    parts = tuple(part[None] for part in state)
    return parts if len(parts) > 1 else parts[0]


def _carried(after: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [part[0] for part in (after if isinstance(after, tuple) else (after,))]
