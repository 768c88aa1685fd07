"""A sound as a picture: time to the right, frequency upwards, loudness as colour."""

from __future__ import annotations

import torch
from torch import Tensor

_WINDOW_SECONDS = 0.032
_RANGE_DECIBELS = 80.0


def spectrogram(sound: Tensor, sample_rate: int, width: int = 420, height: int = 128) -> Tensor:
    """Return the spectrogram of a sound as a picture, uint8 ``(3, height, columns)`` with at most ``width`` columns.

    Windows of 32 ms (Hann), the channels averaged, frequency linear from 0 (bottom) to half the sample rate; colours cover the
    80 dB below the level of a sine at full scale.

    Args:
        sound: float32 ``(C, samples)``.
        sample_rate: samples a second.
        width: the most columns.
        height: rows.
    """
    from matplotlib import colormaps

    window = 1 << max(4, round(_WINDOW_SECONDS * sample_rate) - 1).bit_length()
    mono = torch.nn.functional.pad(sound.mean(0), (window // 2, window // 2))
    hop = max(1, -(-(len(mono) - window + 1) // width))
    # Some frames a column, so that short events are not missed between two columns.
    frames = max(1, hop * 4 // window)
    spectrum = torch.stft(
        mono, window, max(1, hop // frames), window=torch.hann_window(window), center=False, return_complex=True
    )
    power = (spectrum.abs() / (window / 4)).square()
    columns = min(width, power.shape[1])
    level = torch.nn.functional.adaptive_max_pool2d(power[None], (height, columns))[0]
    shade = (1 + 10 * level.clamp(min=1e-12).log10() / _RANGE_DECIBELS).clamp(0, 1).flip(0)
    coloured = colormaps["magma"](shade.numpy())[..., :3]
    return torch.from_numpy((coloured * 255).round().astype("uint8")).permute(2, 0, 1).contiguous()
