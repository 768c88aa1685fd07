"""The convolutional body: residual blocks over time, height and width, level by level, in the line of MAGVIT-v2 and Cosmos.

    frames -> squares of pixels -> [blocks -> (time slower) -> sides halved] ... -> (attention) -> latent
    latent -> (attention) -> [blocks -> sides doubled -> (time faster)] ... -> squares of pixels -> frames

Layer for layer this is the network of a picture tokenizer (VQGAN), which also sees frames before its own. At the start it sees
none: convolutions in time pass on what they are given, and time is pooled and repeated. So a fresh network takes a video for a
row of pictures, and one that takes over the weights of a picture network gives what that gives (`inflation.py`).

Time is halved where the last levels begin, once at each; where there are more halvings than levels, more than once at the last
ones. Convolutions are of three axes, or factorised into one over a frame and one over time, which have less than half of the
weights and of the work. MAGVIT-v2: Yu et al. 2023, arXiv 2310.05737. Cosmos: Agarwal et al. 2025, arXiv 2501.03575. The blend of
pooling and convolution, `resampling.py`: VidTok, Tang et al. 2024, arXiv 2412.13061.

Inside, videos are (B, T, H, W, C), see `streaming.py`.
"""

from __future__ import annotations

import math
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from tokenize_kit.tokenizers.learned.layers import Silu
from tokenize_kit.tokenizers.learned.streaming import Chain, Layer
from tokenize_kit.tokenizers.learned.video.config import VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.networks.attention import FrameAttention, TimeAttention
from tokenize_kit.tokenizers.learned.video.networks.blocks import (
    Block,
    ChannelsToSpace,
    Factorised,
    Full,
    SpaceToChannels,
    convolution,
    frame_convolution,
    make_norm,
)
from tokenize_kit.tokenizers.learned.video.networks.half import Half
from tokenize_kit.tokenizers.learned.video.networks.resampling import TimeDown, TimeUp


class ConvolutionalEncoder(Half):
    """Pixels (B, C, T, H, W) to latents (B, D, t, h, w)."""

    def __init__(self, config: VideoNetworkConfig) -> None:
        options = config.options()
        widths, norm, make = level_widths(config), options["norm"], partial(_layer, config)
        patch, times = patch_side(config), time_factors(config)
        layers: list[Layer] = [make(config.channels * patch**2, widths[0])]
        for level, (width, blocks) in enumerate(zip(widths, options["encoder_levels"], strict=True)):
            if times[level] > 1:
                layers.append(TimeDown(widths[max(0, level - 1)], times[level]))
            if level:
                layers += [SpaceToChannels(2), frame_convolution(4 * widths[level - 1], width, 1)]
            layers += [Block(width, norm, make) for _ in range(blocks)]
        if options["attention"]:
            layers += [FrameAttention(widths[-1], norm)]
            if options["attention_window"] > 1:
                layers.append(TimeAttention(widths[-1], norm, options["attention_window"]))
            layers += [Block(widths[-1], norm, make)]
        layers += [make_norm(widths[-1], norm), Silu(), frame_convolution(widths[-1], config.dim, 1)]
        super().__init__(layers, _radii(config)[0])
        self.squares = SpaceToChannels(patch)

    def enter(self, x: Tensor) -> Tensor:
        """Return squares of pixels as the channels of one place."""
        y: Tensor = self.squares(x)
        return y


class ConvolutionalDecoder(Half):
    """Latents (B, D, t, h, w) to pixels (B, C, T, H, W)."""

    def __init__(self, config: VideoNetworkConfig) -> None:
        options = config.options()
        widths, norm, make = level_widths(config), options["norm"], partial(_layer, config)
        patch, times = patch_side(config), time_factors(config)
        layers: list[Layer] = [make(config.dim, widths[-1])]
        if options["attention"]:
            layers += [Block(widths[-1], norm, make), FrameAttention(widths[-1], norm)]
            if options["attention_window"] > 1:
                layers.append(TimeAttention(widths[-1], norm, options["attention_window"]))
        for level in reversed(range(len(widths))):
            layers += [Block(widths[level], norm, make) for _ in range(options["decoder_levels"][level])]
            if level:
                layers += [frame_convolution(widths[level], 4 * widths[level - 1], 1), ChannelsToSpace(2)]
            if times[level] > 1:
                layers.append(TimeUp(widths[max(0, level - 1)], times[level]))
        super().__init__(layers, _radii(config)[1])
        self.norm = make_norm(widths[0], norm)
        # Each frame by itself: all pixels go through these weights alone.
        self.out = frame_convolution(widths[0], config.channels * patch**2, 3)
        self.squares = ChannelsToSpace(patch)

    def leave(self, x: Tensor) -> Tensor:
        """Return the pixels of the places of the first level."""
        y: Tensor = self.squares(self.out.push(F.silu(self.norm(x)), None, True)[0])
        return y

    @property
    def last_weight(self) -> Tensor:
        """The weight of the last layer, by whose gradients VQGAN balances its losses."""
        return self.out.weight


def level_widths(config: VideoNetworkConfig) -> tuple[int, ...]:
    """Return the channels of each level."""
    options = config.options()
    return tuple(options["width"] * multiplier for multiplier in options["multipliers"])


def patch_side(config: VideoNetworkConfig) -> int:
    """Return the side of the squares of pixels that become the channels of a place."""
    return int(config.spatial_factor // 2 ** (len(config.options()["multipliers"]) - 1))


def time_factors(config: VideoNetworkConfig) -> tuple[int, ...]:
    """Return how many times slower the time goes from the beginning of each level on: their product is the temporal factor."""
    levels = len(config.options()["multipliers"])
    every, more = divmod(config.temporal_factor.bit_length() - 1, levels)
    return tuple(2 ** (every + (level >= levels - more)) for level in range(levels))


def pictured(layers: Chain) -> list[int]:
    """Return which layers of an encoder or decoder a picture network has too, in their order there."""
    beyond = (TimeDown, TimeUp, TimeAttention)
    return [place for place, layer in enumerate(layers.layers) if not isinstance(layer, beyond)]


def _layer(config: VideoNetworkConfig, inputs: int, outputs: int) -> Factorised | Full:
    options = config.options()
    return convolution(
        inputs, outputs, options["convolution"], options["temporal_kernel"], options["padding"] == "repeat"
    )


def _radii(config: VideoNetworkConfig) -> tuple[int | None, int | None]:
    """Return how far in space, in ids, the encoder and the decoder look, or None where they look at whole frames.

    Every 3x3 convolution looks one place further at its own resolution; the sums are rounded up to whole ids.
    """
    options = config.options()
    if options["attention"] or options["norm"] == "group":
        return None, None
    encoder = decoder = 0.0
    levels = len(options["multipliers"])
    for level in range(levels):
        place = 2.0 ** (level - levels + 1)  # the side of a place of this level, in ids
        encoder += place * (2 * options["encoder_levels"][level] + (level == 0))
        decoder += place * (2 * options["decoder_levels"][level] + (level == 0) + (level == levels - 1))
    return math.ceil(encoder), math.ceil(decoder)
