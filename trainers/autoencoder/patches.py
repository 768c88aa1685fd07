"""PatchGAN: a convolutional network that says of each patch of a picture, or of a clip, whether it is real.

The geometry is that of pix2pix (Isola et al. 2017) as VQGAN uses it. Its BatchNorm is replaced by GroupNorm (as in MaskBit):
with BatchNorm the verdict on a picture depends on its batch mates and so on the number of processes, small batches are noisy,
and real and made pictures, which pass in batches of their own, have statistics that give them away.

For clips every convolution has three steps in time besides, and halves the time where it halves the picture (the discriminator
of TATS, Ge et al. 2022, with an odd kernel in time): so it judges motion, and a single frame too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DiscriminatorConfig:
    """What a `PatchDiscriminator` is made of; see `discriminator_config` for one that fits a size of picture."""

    channels: int = 3
    """Of the pictures."""
    width: int = 64
    """Channels after the first convolution; they double with each layer, up to eight times as many."""
    layers: int = 3
    """Convolutions that halve the picture. A patch is 16 pixels wide with 1 of them, 34 with 2, 70 with 3, 142 with 4."""
    norm: Literal["group", "none"] = "group"
    """GroupNorm with at most 32 groups after all convolutions but the first and the last, or nothing."""
    clips: bool = False
    """Whether it judges clips (B, C, T, H, W) instead of pictures (B, C, H, W)."""

    def __post_init__(self) -> None:
        for name in ("channels", "width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"discriminator {name} {getattr(self, name)} must be at least 1")
        if self.norm not in ("group", "none"):
            raise ValueError(f"discriminator norm {self.norm!r} is not one of group, none")

    @property
    def smallest(self) -> int:
        """The smallest height and width of a picture, in pixels."""
        return 3 * int(2**self.layers)

    @property
    def patch(self) -> int:
        """Height and width of what one logit sees, in pixels."""
        size = 1 + 2 * 3
        for _ in range(self.layers):
            size = 2 * size + 2
        return size


def discriminator_config(size: int, channels: int = 3, *, clips: bool = False) -> DiscriminatorConfig:
    """Return a configuration for square pictures of ``size`` pixels, or clips of such: its patches are smaller than, or about,
    the picture.

    Raises:
        ValueError: the pictures are too small to be judged.
    """
    width = 32 if size < 48 else 48 if size < 96 else 64
    config = DiscriminatorConfig(channels, width, layers=1 if size < 16 else 2 if size < 96 else 3, clips=clips)
    if size < config.smallest:
        raise ValueError(f"pictures of {size} pixels are too small for a discriminator; use at least {config.smallest}")
    return config


class Verdict(NamedTuple):
    """What a discriminator says of a batch of pictures or clips."""

    logits: Tensor
    """(B, 1, h, w), of clips (B, 1, t, h, w): above zero for patches held to be real."""
    features: tuple[Tensor, ...]
    """What each layer but the last makes of them, (B, C, h, w) or (B, C, t, h, w) after the activation."""


class PatchDiscriminator(nn.Module):
    """Says of each patch of a picture, or of a clip, whether it is real.

    Weights start as in pix2pix: normal with a deviation of 0.02, gains around 1, biases 0.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * min(2**layer, 8) for layer in range(config.layers + 1)]
        blocks: list[nn.Module] = []
        before = config.channels
        for layer, width in enumerate(widths):
            norm = layer > 0 and config.norm == "group"
            # A bias before a norm would only be taken away again.
            convolution = _convolution(
                config.clips, before, width, stride=2 if layer < config.layers else 1, bias=not norm
            )
            parts = [convolution, *([nn.GroupNorm(math.gcd(32, width), width)] if norm else []), nn.LeakyReLU(0.2)]
            blocks.append(nn.Sequential(*parts))
            before = width
        self.blocks = nn.ModuleList(blocks)
        self.head = _convolution(config.clips, before, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.GroupNorm):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, samples: Tensor) -> Verdict:
        """Judge pictures or clips.

        Args:
            samples: float (B, C, H, W), or (B, C, T, H, W) of any T, about in [-1, 1].

        Raises:
            ValueError: they have another number of axes or channels or are too small.
        """
        config = self.config
        if (
            samples.ndim != 4 + config.clips
            or samples.shape[1] != config.channels
            or min(samples.shape[-2:]) < config.smallest
        ):
            axes = "T, H, W" if config.clips else "H, W"
            raise ValueError(
                f"the discriminator takes (B, {config.channels}, {axes}) with H and W of at least {config.smallest}, "
                f"not {tuple(samples.shape)}"
            )
        # GPUs convolve channels last faster, CPUs do not. Weights, and so gradients and averages, keep their layout.
        layout = torch.channels_last_3d if config.clips else torch.channels_last
        hidden = samples.contiguous(memory_format=layout) if samples.is_cuda else samples
        features = []
        for block in self.blocks:
            hidden = block(hidden)
            features.append(hidden)
        return Verdict(self.head(hidden), tuple(features))


def _convolution(clips: bool, before: int, width: int, stride: int = 1, bias: bool = True) -> nn.Module:
    """Return a convolution over 4x4 pixels, in clips over three frames of them."""
    if clips:
        return nn.Conv3d(before, width, (3, 4, 4), stride=stride, padding=1, bias=bias)
    return nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=bias)
