"""WaveNet: dilated causal convolutions, gated, with residual and skip connections (van den Oord et al. 2016, arXiv 1609.03499).

    layer 2, dilation 4   o---------------o            what a place of each layer is made of: itself
    layer 1, dilation 2           o-------o            and, with a kernel of 2, the one `dilation` before it
    layer 0, dilation 1               o---o
    tokens                o o o o o o o o o            the last 1 + (kernel - 1) * (1 + 2 + 4) = 8 are seen

The dilation doubles from layer to layer and begins again after a cycle, so that few layers see far. Each token costs the same
wherever it is: a layer remembers its last ``(kernel - 1) * dilation`` inputs, in a ring. Packed documents are not taken apart;
what lies before the first token of a document counts as zero. Sounds as tokens and pixels are the same to it; with
``coordinates`` the place of each token in its grid comes in beside its id.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.coordinates import Coordinates
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.layers import RMSNorm
from trainers.autoregressive.models.ordinal import HeadConfig
from trainers.autoregressive.models.stateful import State, StatefulModel

MOST_DOUBLINGS = 20
"""Of a dilation: a step of generation keeps as many places as it is long."""


@dataclass(frozen=True)
class WaveNetConfig(HeadConfig):
    """A stack of gated causal convolutions.

    The next token is predicted from the last 1 + (kernel - 1) * (the sum of all dilations): with the defaults from 2,047.
    """

    layers: int = 20
    """How many stand on each other."""
    cycle: int = 10
    """Layers after which the dilation, which doubles from one to the next, begins again with 1. With 10 it ends at 512."""
    kernel: int = 2
    """Places that a convolution takes in, its own and those before it."""
    width: int = 128
    """Channels of the residual stream and of the gates."""
    skip_width: int = 256
    """Channels in which all layers are added up for the head."""
    dropout: float = 0.0
    """Probability of dropping what leaves a gate while training."""
    coordinates: bool = False
    """Whether the place of each token in its grid comes in beside its id."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "layers", "cycle", "width", "skip_width")
        self.at_least(2, "kernel")
        self.probability("dropout")
        if (doublings := min(self.cycle, self.layers) - 1) > MOST_DOUBLINGS:
            raise ValueError(
                f"cycle {self.cycle} of {self.layers} layers gives a dilation of 2 to the {doublings}, which no context needs; "
                f"take a cycle of at most {MOST_DOUBLINGS + 1}"
            )

    @property
    def dilations(self) -> tuple[int, ...]:
        """Distance between the places that a layer takes in, of each layer."""
        return tuple(2 ** (layer % self.cycle) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """How many tokens the next one is predicted from: ``1 + (kernel - 1) * sum(dilations)``."""
        return 1 + (self.kernel - 1) * sum(self.dilations)


class GatedLayer(nn.Module):
    """One convolution with its gate, and what it adds to the residual stream and to the sum of all layers.

    Args:
        config: of the network.
        last: whether nothing reads the residual stream after it.
    """

    def __init__(self, config: WaveNetConfig, last: bool) -> None:
        super().__init__()
        width = config.width
        # A convolution as a matrix over the places that it takes in side by side, the oldest first.
        self.gate = nn.Linear(config.kernel * width, 2 * width)
        self.out = nn.Linear(width, config.skip_width + (0 if last else width))
        self.dropout = nn.Dropout(config.dropout)
        self.skip_width = config.skip_width
        nn.init.normal_(self.gate.weight, std=(config.kernel * width) ** -0.5)
        nn.init.normal_(self.out.weight, std=(width * config.layers) ** -0.5)
        nn.init.zeros_(self.gate.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, taken_in: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual stream after the layer (..., W), and its part of the sum (..., S).

        Args:
            x: (..., W).
            taken_in: (..., kernel * W), the inputs at the places that the convolution reaches, the oldest first and ``x`` last.
        """
        filtered, gate = self.gate(taken_in).chunk(2, -1)
        both = self.out(self.dropout(filtered.tanh() * gate.sigmoid()))
        skip, added = both[..., : self.skip_width], both[..., self.skip_width :]
        return (x + added if added.shape[-1] else x), skip


class WaveNet(StatefulModel):
    """WaveNet over ids.

    Its state is the inputs of all layers that are still to be read (R, (kernel - 1) * sum of dilations, W), a ring for each
    layer, and how many tokens each row has had (R,): the input at token n is in slot ``n % length`` of the ring.
    """

    configuration = WaveNetConfig

    def __init__(self, config: WaveNetConfig) -> None:
        super().__init__(config, config.width)
        self.coordinates = Coordinates(config.width) if config.coordinates else None
        self.layers = nn.ModuleList(GatedLayer(config, i == config.layers - 1) for i in range(config.layers))
        self.joining = nn.Linear(config.skip_width, config.width)
        self.norm = RMSNorm(config.width, 1e-5)
        nn.init.normal_(self.joining.weight, std=config.skip_width**-0.5)
        nn.init.zeros_(self.joining.bias)
        self.spans = [(config.kernel - 1) * dilation for dilation in config.dilations]

    @property
    def needs(self) -> frozenset[str]:
        """See `SequenceModel.needs`."""
        return frozenset() if self.coordinates is None else frozenset({"axial"})

    def hidden(self, inputs: Inputs) -> Tensor:
        """Return the last hidden states (B, T, width), of packed documents as they lie.

        Raises:
            ValueError: the rows are longer than the context, or a part of the inputs is missing that the model needs.
        """
        return self._whole(inputs, {})

    def layer_states(self, inputs: Inputs) -> dict[str, Tensor]:
        """See `trainers.autoregressive.models.LayeredModel`; the last layer leaves nothing but its part of the sum of all."""
        seen: dict[str, Tensor] = {}
        self._whole(inputs, seen)
        return seen

    def _whole(self, inputs: Inputs, seen: dict[str, Tensor]) -> Tensor:
        """Return what `hidden` does, and put into ``seen`` what comes out of each layer."""
        self.check_length(inputs)
        x = seen["embedding"] = self._entered(self.embedding(inputs.ids), inputs)
        total = x.new_zeros(1)
        for index, (layer, dilation) in enumerate(zip(self.layers, self.config.dilations, strict=True)):
            x, skip = layer(x, self._taken_in(x, dilation, inputs.documents))
            total = total + skip
            if index + 1 < len(self.layers):
                seen[f"layer {index + 1}"] = x
        result = seen["all layers"] = self._left(total)
        return result

    def _taken_in(self, x: Tensor, dilation: int, documents: Tensor | None) -> Tensor:
        """Return for each place of rows (B, T, W) what a convolution takes in (B, T, kernel * W), zeros from other documents."""
        length, parts = x.shape[1], []
        for back in range((self.config.kernel - 1) * dilation, 0, -dilation):
            before = F.pad(x[:, : max(0, length - back)], (0, 0, min(back, length), 0))
            if documents is not None and back < length:
                same = documents[:, back:] == documents[:, :-back]
                before = before * F.pad(same, (back, 0))[..., None].to(x.dtype)
            parts.append(before)
        return torch.cat((*parts, x), -1)

    def start(self, rows: int, like: Tensor) -> State:
        """Return rings of zeros, and that no row had a token; see the class."""
        rings = like.new_zeros(rows, sum(self.spans), self.width)
        return rings, torch.zeros(rows, dtype=torch.int64, device=like.device)

    def body(self, x: Tensor, inputs: Inputs, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """See `StatefulModel.body`."""
        rings, had = state
        count = x.shape[1]
        real = torch.full_like(had, count) if lengths is None else lengths
        rows = torch.arange(len(x), device=x.device)[:, None]
        x, total, after = self._entered(x, inputs), x.new_zeros(1), []
        parts = torch.split(rings, self.spans, 1)
        for layer, dilation, ring in zip(self.layers, self.config.dilations, parts, strict=True):
            span = ring.shape[1]
            slots = torch.arange(span, device=x.device)
            # The ring from its oldest input on, and the new ones behind it.
            line = torch.cat((ring[rows, (had[:, None] + slots) % span], x.to(ring.dtype)), 1)
            reached = [line[:, start : start + count] for start in range(0, span, dilation)]
            # In a slot is the last of the real inputs whose number is the slot's.
            after.append(line[rows, real[:, None] + (slots - (had + real)[:, None]) % span])
            x, skip = layer(x, torch.cat((*reached, x.to(ring.dtype)), -1))
            total = total + skip
        return self._left(total), (torch.cat(after, 1), had + real)

    def advance(self, x: Tensor, inputs: Inputs, state: State) -> tuple[Tensor, State]:
        """See `StatefulModel.advance`: of a single token the rings are read and written at once, and nothing else is moved."""
        if x.shape[1] != 1:
            return self.body(x, inputs, state, None)
        rings, had = state
        x, total, new = self._entered(x, inputs)[:, 0], x.new_zeros(1), []
        rows = torch.arange(len(x), device=x.device)[:, None]
        read, written = self._slots(had)
        seen = rings[rows, read].view(len(x), len(self.layers), -1)
        for index, layer in enumerate(self.layers):
            new.append(x.to(rings.dtype))
            x, skip = layer(x, torch.cat((seen[:, index], new[-1]), -1))
            total = total + skip
        rings[rows, written] = torch.stack(new, 1)
        return self._left(total)[:, None], (rings, had + 1)

    def _slots(self, had: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the rings are read for the next token, (R, layers * (kernel - 1)), and where it goes, (R, layers)."""
        spans = torch.tensor(self.spans, device=had.device)
        dilations = torch.tensor(self.config.dilations, device=had.device)
        firsts = spans.cumsum(0) - spans
        # The oldest first: it is in the slot that the new input takes.
        taps = torch.arange(self.config.kernel - 1, device=had.device)
        places = (had[:, None, None] + dilations[:, None] * taps) % spans[:, None] + firsts[:, None]
        return places.flatten(1), places[..., 0]

    def _entered(self, x: Tensor, inputs: Inputs) -> Tensor:
        return x if self.coordinates is None else x + self.coordinates(inputs.of("axial"))

    def _left(self, total: Tensor) -> Tensor:
        """Return the states for the head (..., width) of the sum of all layers (..., S)."""
        result: Tensor = self.norm(self.joining(total.relu()).relu())
        return result
