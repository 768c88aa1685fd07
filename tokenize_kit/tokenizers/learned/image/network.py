"""The encoder and the decoder: pictures to feature maps and back. They know nothing of ids, files or training.

Shapes: B pictures, C channels, H x W pixels, f the downsample factor, D latent channels. Tensors are kept in
channels-last memory, which is what convolutions on CPUs and tensor cores like, and in which a norm over channels reads
memory in order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.image.config import NetworkConfig

NORM_EPS = 1e-6
GROUPS = 32
HEAD_WIDTH = 64


class ChannelNorm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) over the channels of each place of a map (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map (B, C, h, w)."""
        places = x.permute(0, 2, 3, 1)
        return F.rms_norm(places, self.weight.shape, self.weight.to(x.dtype), NORM_EPS).permute(0, 3, 1, 2)


def make_norm(channels: int, kind: str) -> nn.Module:
    """Return the norm of ``channels`` channels: ``rms`` or ``group`` (32 groups as in VQGAN, or the most that divide)."""
    if kind == "rms":
        return ChannelNorm(channels)
    groups = next(groups for groups in range(min(GROUPS, channels), 0, -1) if channels % groups == 0)
    return nn.GroupNorm(groups, channels, NORM_EPS)


class ResidualBlock(nn.Module):
    """Norm, SiLU and a 3x3 convolution, twice, added to what came in (B, C, h, w); starts as the identity."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = make_norm(channels, norm), make_norm(channels, norm)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        result: Tensor = x + self.conv2(F.silu(self.norm2(h)))
        return result


class Attention(nn.Module):
    """Self-attention over all places of a map (B, C, h, w), added to it; starts as the identity."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_WIDTH)
        if channels % self.heads:
            raise ValueError(f"attention over {channels} channels needs a multiple of {HEAD_WIDTH}; change the width")
        self.norm = make_norm(channels, norm)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        batch, channels, height, width = x.shape
        places = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        joint = self.qkv(places).view(batch, height * width, 3, self.heads, channels // self.heads)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        added: Tensor = self.out(mixed.reshape(batch, height, width, channels)).permute(0, 3, 1, 2)
        return x + added


class Encoder(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1], sides multiples of f, to maps (B, D, H / f, W / f)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.patch = config.patch
        widths, norm = config.widths, config.norm
        layers: list[nn.Module] = [nn.Conv2d(config.channels * config.patch**2, widths[0], 3, padding=1)]
        for level, (width, blocks) in enumerate(zip(widths, config.encoder_blocks, strict=True)):
            if level:
                # Halves the sides without losing a value; a strided convolution would see each place unevenly.
                layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * widths[level - 1], width, 1)]
            layers += [ResidualBlock(width, norm) for _ in range(blocks)]
        if config.attention:
            layers += [Attention(widths[-1], norm), ResidualBlock(widths[-1], norm)]
        layers += [make_norm(widths[-1], norm), nn.SiLU(), nn.Conv2d(widths[-1], config.latent_channels, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the maps of pictures."""
        x = F.pixel_unshuffle(pixels, self.patch) if self.patch > 1 else pixels
        maps: Tensor = self.layers(x.contiguous(memory_format=torch.channels_last))
        return maps


class Decoder(nn.Module):
    """Maps (B, D, h, w) to pictures (B, C, f h, f w), about in [-1, 1]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.patch = config.patch
        widths, norm = config.widths, config.norm
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)]
        if config.attention:
            layers += [ResidualBlock(widths[-1], norm), Attention(widths[-1], norm)]
        for level in reversed(range(len(widths))):
            layers += [ResidualBlock(widths[level], norm) for _ in range(config.decoder_blocks[level])]
            if level:
                layers += [nn.Conv2d(widths[level], 4 * widths[level - 1], 1), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)
        self.norm = make_norm(widths[0], norm)
        self.out = nn.Conv2d(widths[0], config.channels * config.patch**2, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pictures of maps."""
        x = self.layers(maps.contiguous(memory_format=torch.channels_last))
        x = self.out(F.silu(self.norm(x)))
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x

    @property
    def last_weight(self) -> Tensor:
        """The weight of the last layer, by whose gradients VQGAN balances its losses."""
        return self.out.weight


def receptive_radius(config: NetworkConfig) -> tuple[int, int]:
    """Return how far, in ids, a local network looks: the encoder from a pixel to its ids, the decoder from an id to pixels.

    Every 3x3 convolution looks one place further at its own resolution; the sums are rounded up to whole ids.
    """
    encoder = decoder = 0.0
    levels = len(config.multipliers)
    for level in range(levels):
        place = 2.0 ** (level - levels + 1)  # the side of a place of this level, in ids
        encoder += place * (2 * config.encoder_blocks[level] + (level == 0))
        decoder += place * (2 * config.decoder_blocks[level] + (level == 0) + (level == levels - 1))
    return -int(-encoder // 1), -int(-decoder // 1)
