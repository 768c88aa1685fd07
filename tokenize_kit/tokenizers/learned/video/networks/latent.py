"""The body at the resolution of the ids: linear patches, and blocks between that are nearly all matrix products.

    frames -> (Haar bands) -> patches, the first frame's and the others' -> blocks -> latent
    latent -> blocks -> patches, the first frame's and the others' -> (Haar bands) -> frames

A block is a causal depthwise convolution over time, height and width, and a gated feed-forward layer behind a norm over the
channels of a place, each added to what came in. No layer works at the resolution of the pixels, which is where a convolutional
video tokenizer spends its time. The line is that of LeanVAE (Cheng et al. 2025, arXiv 2503.14325), whose blocks and bands these
are; its bottleneck is continuous.

Inside, videos are (B, T, H, W, C), see `streaming.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.layers import Linear, Norm
from tokenize_kit.tokenizers.learned.streaming import Chain, Layer, Residual, State
from tokenize_kit.tokenizers.learned.video.config import VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.networks.half import Half
from tokenize_kit.tokenizers.learned.video.networks.patches import Frames, Patches

TAPS = 3
"""Places that a depthwise convolution sees along each axis."""


class LatentEncoder(Half):
    """Pixels (B, C, T, H, W) to latents (B, D, t, h, w)."""

    def __init__(self, config: VideoNetworkConfig) -> None:
        options = config.options()
        width, total, apart = options["width"], options["encoder_blocks"], options["band_blocks"]
        super().__init__(
            [
                Patches(config, width, options["haar"], bool(apart)),
                *([Apart(width, apart, options["expansion"])] if apart else []),
                *([Linear(width, width)] if apart else []),
                *blocks(width, options["expansion"], total - apart),
                Norm(width),
                Linear(width, config.dim),
            ],
            radius=total,
        )


class LatentDecoder(Half):
    """Latents (B, D, t, h, w) to pixels (B, C, T, H, W)."""

    def __init__(self, config: VideoNetworkConfig) -> None:
        options = config.options()
        width, total, apart = options["width"], options["decoder_blocks"], options["band_blocks"]
        super().__init__(
            [
                Linear(config.dim, width),
                *blocks(width, options["expansion"], total - apart),
                *([Linear(width, width)] if apart else []),
                *([Apart(width, apart, options["expansion"])] if apart else []),
                Norm(width),
                Frames(config, width, options["haar"], bool(apart)),
            ],
            radius=total,
        )

    @property
    def last_weight(self) -> Tensor:
        """The factors of the last norm: behind it the first frame and the others go different ways."""
        norm = self.layers.layers[-2]
        assert isinstance(norm, Norm)
        return norm.weight


def blocks(width: int, expansion: int, count: int) -> list[Layer]:
    """Return ``count`` blocks, two layers each."""
    return [
        layer
        for _ in range(count)
        for layer in (Residual(Depthwise(width)), Residual(Chain([Norm(width), Gated(width, expansion * width)])))
    ]


class Depthwise(Layer):
    """A convolution of each channel by itself over 3 x 3 x 3 places of (B, T, H, W, C), causal in time.

    Zeros stand around a frame; before the first step stands the first step again.

    It is the sum over three taps in time, each of which is one conv2d over all frames, shifted by a step or two. So the repeated
    step need not be computed again, and a state is what the taps have made. On a CPU, at 16 samples of 5 x 8 x 8 places and 192
    channels, forward and backward, F.conv3d takes 2 times as long with the channels last and 5 times with them first, conv2d over
    slices of padded samples 1.4 times, and 27 shifted multiply-adds 15 times; 1 x 3 x 3 and then 3 x 1 x 1 places, which
    can say less, would take 0.8 times as long (``benchmarks/video_depthwise.py``).
    """

    axis = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(TAPS**3)
        self.weight = nn.Parameter(torch.empty(channels, TAPS, TAPS, TAPS).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a video of the same shape."""
        return self.push(x, None, True)[0]

    def push(self, x: Tensor, state: State, _last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`. The state is what each tap in time has made of the steps that later ones still want."""
        batch, steps, height, width, channels = x.shape
        places = x.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        made, kept = None, []
        for tap, weight in enumerate(self.weight.unbind(1)):
            y = F.conv2d(places, weight[:, None], self.bias if tap == TAPS - 1 else None, padding=1, groups=channels)
            y = y.permute(0, 2, 3, 1).reshape(batch, steps, height, width, channels)
            if late := TAPS - 1 - tap:
                before = y[:, :1].expand(-1, late, -1, -1, -1) if state is None else state[tap]
                y = torch.cat([before, y], 1)
                kept.append(y[:, steps:].clone())  # else the state holds the memory of the whole piece
                y = y[:, :steps]
            made = y if made is None else made + y
        assert made is not None
        return made, tuple(kept)


class Gated(Layer):
    """A feed-forward layer with a gate, GEGLU (Shazeer 2020, arXiv 2002.05202), at each place."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.enter, self.leave = Linear(width, 2 * inside), Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        gate, value = self.enter(x).chunk(2, -1)
        y: Tensor = self.leave(F.gelu(gate, approximate="tanh") * value)
        return y


class Apart(Layer):
    """Blocks for the low band, in the first quarter of the channels, beside blocks for the high bands in the others."""

    axis = 1

    def __init__(self, width: int, count: int, expansion: int) -> None:
        super().__init__()
        self.sizes = [width // 4, width - width // 4]
        self.low, self.high = (Chain(blocks(size, expansion, count)) for size in self.sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Return a video of the same shape."""
        low, high = torch.split(x, self.sizes, -1)
        return torch.cat([self.low(low), self.high(high)], -1)

    def start(self) -> State:
        """See `Layer.start`."""
        return self.low.start(), self.high.start()

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """See `Layer.push`."""
        parts = zip((self.low, self.high), torch.split(x, self.sizes, -1), state, strict=True)
        (low, low_state), (high, high_state) = (layer.push(part, before, last) for layer, part, before in parts)
        return torch.cat([low, high], -1), (low_state, high_state)
