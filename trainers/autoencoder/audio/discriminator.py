"""Discriminators of sounds: one a period, which look at every p-th sample, and one a window, which look at bands of spectra.

That of periods is HiFi-GAN's (Kong et al. 2020), that of spectra EnCodec's (Défossez et al. 2022) with the bands of DAC (Kumar
et al. 2023), where each band of frequencies has layers of its own. All weights are normalised (Salimans & Kingma 2016), and
nothing depends on batch mates.

The channels of a sound are the first layers' input channels, as in EnCodec, not sounds of their own: what is between them,
such as the place of a source, can be judged too, and the work is the same for any number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

_SLOPE = 0.1
_PERIOD_WIDTHS = (1, 4, 16, 32, 32)
"""Channels of the layers of a discriminator of a period, in widths: 32 to 1024 in HiFi-GAN."""


@dataclass(frozen=True)
class SoundDiscriminatorConfig:
    """What a `SoundDiscriminator` is made of. The defaults are DAC's; see `sound_discriminator_config` for others."""

    channels: int = 1
    """Of the sounds."""
    width: int = 32
    """Channels of the first layers, the one dial for the size: weights and work go with its square. 32 in the papers."""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """In samples, one discriminator for each."""
    windows: tuple[int, ...] = (2048, 1024, 512)
    """Of the spectra, in samples, one discriminator for each; the hop is a quarter."""
    bands: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    """Where the bands of frequencies begin and end, in parts of half the sample rate; (0, 1) is one band."""
    dilations: tuple[int, int, int] = (1, 1, 1)
    """Of the three layers that halve the frequencies, over time (EnCodec: 1, 2, 4)."""

    def __post_init__(self) -> None:
        for name in ("channels", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"discriminator {name} {getattr(self, name)} must be at least 1")
        if not self.periods and not self.windows:
            raise ValueError("a discriminator needs periods or windows")
        if any(period < 1 for period in self.periods):
            raise ValueError(f"discriminator periods {self.periods} must be at least 1")
        if any(window < 4 or window % 4 for window in self.windows):
            raise ValueError(f"discriminator windows {self.windows} must be positive multiples of 4")
        if len(self.dilations) != 3 or min(self.dilations) < 1:
            raise ValueError(f"discriminator dilations {self.dilations} must be three numbers of at least 1")
        if len(self.bands) < 2 or self.bands[0] != 0 or self.bands[-1] != 1:
            raise ValueError(f"discriminator bands {self.bands} must go from 0 to 1")
        for window in self.windows:
            if any(band.stop <= band.start for band in self.frequencies(window)):
                raise ValueError(
                    f"discriminator bands {self.bands} leave one without a frequency at a window of {window}"
                )

    @property
    def smallest(self) -> int:
        """The shortest sound that can be judged, in samples: edges are mirrored, by half a window or up to a period."""
        return max([*self.periods, *(window // 2 + 1 for window in self.windows)])

    def frequencies(self, window: int) -> list[slice]:
        """Return the bands of a window as frequencies of its spectrum."""
        edges = [int(edge * (window // 2 + 1)) for edge in self.bands]
        return [slice(*pair) for pair in pairwise(edges)]


def sound_discriminator_config(
    name: Literal["dac", "encodec", "tiny"], channels: int = 1, width: int | None = None
) -> SoundDiscriminatorConfig:
    """Return the discriminators of a codec, or smaller ones.

    ``dac`` has five periods and three windows in five bands, 42 million weights; its training also takes the mean away and
    scales each sound to one peak first, which this does not. ``encodec`` has five windows in one band and no periods, 0.5
    million. ``tiny`` is dac with a width of 4, in 0.7 million, for CPUs.

    Raises:
        ValueError: the name is unknown or a value out of range.
    """
    if name in ("dac", "tiny"):
        return SoundDiscriminatorConfig(channels, width or (32 if name == "dac" else 4))
    if name != "encodec":
        raise ValueError(f"no discriminators {name!r}; there are dac, encodec, tiny")
    windows = (2048, 1024, 512, 256, 128)
    return SoundDiscriminatorConfig(channels, width or 32, (), windows, bands=(0.0, 1.0), dilations=(1, 2, 4))


class SoundVerdict(NamedTuple):
    """What discriminators say of a batch of sounds; everything has the batch first."""

    logits: list[Tensor]
    """For each discriminator (B, 1, P, T) or (B, 1, T, F), above zero for what it holds to be real."""
    features: list[list[Tensor]]
    """For each discriminator what its layers but the last make of the sounds, after the activation."""

    def split(self, size: int) -> tuple[SoundVerdict, SoundVerdict]:
        """Return the verdicts on the first ``size`` sounds and on the rest."""
        halves = (slice(None, size), slice(size, None))
        first, second = (
            SoundVerdict([x[half] for x in self.logits], [[x[half] for x in layers] for layers in self.features])
            for half in halves
        )
        return first, second


class SoundDiscriminator(nn.Module):
    """All discriminators of a configuration, those of periods first."""

    def __init__(self, config: SoundDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.judges = nn.ModuleList(
            [
                *(_PeriodJudge(config.channels, config.width, period) for period in config.periods),
                *(_SpectrumJudge(config, window) for window in config.windows),
            ]
        )

    def forward(self, samples: Tensor) -> SoundVerdict:
        """Judge sounds.

        Args:
            samples: float (B, C, N), about in [-1, 1].

        Raises:
            ValueError: they have another number of channels or are too short.
        """
        config = self.config
        if samples.ndim != 3 or samples.shape[1] != config.channels or samples.shape[2] < config.smallest:
            raise ValueError(
                f"the discriminator takes (B, {config.channels}, N) with at least {config.smallest} samples, not "
                f"{tuple(samples.shape)}; use longer crops, or smaller windows"
            )
        verdicts = [judge(samples) for judge in self.judges]
        return SoundVerdict([logits for logits, _ in verdicts], [features for _, features in verdicts])


class _PeriodJudge(nn.Module):
    """Looks at every p-th sample, for each of the p beginnings with the same weights."""

    def __init__(self, channels: int, width: int, period: int) -> None:
        super().__init__()
        self.period = period
        layers, before = [], channels
        for index, factor in enumerate(_PERIOD_WIDTHS):
            last = index + 1 == len(_PERIOD_WIDTHS)
            layers.append(_convolution(before, factor * width, (1, 5), stride=(1, 1 if last else 3)))
            before = factor * width
        self.layers = nn.ModuleList(layers)
        self.head = _convolution(before, 1, (1, 3))

    def forward(self, samples: Tensor) -> tuple[Tensor, list[Tensor]]:
        missing = -samples.shape[-1] % self.period
        padded = nn.functional.pad(samples, (0, missing), mode="reflect") if missing else samples
        # (B, C, P, T): convolutions along rows of memory are faster than along columns.
        rows = padded.view(*padded.shape[:2], -1, self.period).transpose(2, 3).contiguous()
        features = _through(self.layers, rows)
        return self.head(features[-1]), features


class _SpectrumJudge(nn.Module):
    """Looks at the real and imaginary parts of spectra, band by band; the head sees the bands side by side."""

    window: Tensor

    def __init__(self, config: SoundDiscriminatorConfig, window: int) -> None:
        super().__init__()
        hann = torch.hann_window(window)
        # With this norm white noise has the same size at any window, as in EnCodec.
        self.register_buffer("window", hann / hann.norm(), persistent=False)
        self.bands = config.frequencies(window)
        width = config.width
        self.stacks = nn.ModuleList(
            nn.ModuleList(
                [
                    _convolution(2 * config.channels, width, (3, 9)),
                    *(_convolution(width, width, (3, 9), stride=(1, 2), dilation=(d, 1)) for d in config.dilations),
                    _convolution(width, width, (3, 3)),
                ]
            )
            for _ in self.bands
        )
        self.head = _convolution(width, 1, (3, 3))

    def forward(self, samples: Tensor) -> tuple[Tensor, list[Tensor]]:
        batch, channels, _ = samples.shape
        size = len(self.window)
        rows = samples.to(self.window.dtype).flatten(0, 1)
        spectrum = torch.view_as_real(torch.stft(rows, size, size // 4, window=self.window, return_complex=True))
        parts = spectrum.view(batch, channels, *spectrum.shape[1:])  # (B, C, F, T, 2)
        parts = parts.permute(0, 4, 1, 3, 2).flatten(1, 2)  # (B, 2 C, T, F)
        features, ends = [], []
        for band, stack in zip(self.bands, self.stacks, strict=True):
            features += _through(
                cast("nn.ModuleList", stack), parts[..., band].contiguous(memory_format=torch.channels_last)
            )
            ends.append(features[-1])
        return self.head(torch.cat(ends, -1)), features


def _through(layers: Iterable[nn.Module], hidden: Tensor) -> list[Tensor]:
    features = []
    for layer in layers:
        hidden = nn.functional.leaky_relu(layer(hidden), _SLOPE)
        features.append(hidden)
    return features


def _convolution(
    before: int,
    after: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Module:
    padding = ((kernel[0] - 1) // 2 * dilation[0], (kernel[1] - 1) // 2 * dilation[1])
    convolution: nn.Module = weight_norm(_Conv2d(before, after, kernel, stride, padding, dilation))
    return convolution


class _Conv2d(nn.Conv2d):
    """A convolution whose only place in a row is computed without a stride.

    That is the same, and on processors with AMX oneDNN reads memory that nobody wrote if it is asked for one place of a row with
    a stride in bfloat16: NaN now and then.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of (B, C, H, W)."""
        (down, right), padding = self.stride, self.padding
        assert not isinstance(padding, str)
        above, left = padding
        taken = self.dilation[1] * (self.kernel_size[1] - 1) + 1
        if right == 1 or input.shape[-1] + 2 * left - taken >= right:
            return super().forward(input)
        row = nn.functional.pad(input, (left, left))[..., :taken]
        return nn.functional.conv2d(row, self.weight, self.bias, (down, 1), (above, 0), self.dilation, self.groups)
