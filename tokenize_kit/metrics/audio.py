"""Numbers about pairs of sounds, on float32 tensors ``(C, samples)`` or ``(samples,)`` in [-1, 1].

Pure functions: reference first, then what came back. What is not defined for a pair (silence) raises; nothing returns a
constant instead. Distances are means over channels, and 0 for equal sounds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tokenize_kit.errors import MissingPackageError

MEL_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
MEL_BINS = (5, 10, 20, 40, 80, 160, 320)
STFT_WINDOWS = (2048, 512)
FLOOR = 1e-5
"""Magnitudes are clamped here before a logarithm is taken."""

PESQ_RATES = {8000: "nb", 16_000: "wb"}
"""The sample rates that PESQ is defined for, with its mode."""

SPEECH_SECONDS = 20
"""PESQ and STOI are taken over this much from the beginning of a sound."""

_CHUNK_VALUES = 1 << 22
"""How many values of frames are transformed at a time."""


def si_sdr(reference: Tensor, estimate: Tensor) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB, with the means removed (Le Roux et al. 2019).

    The estimate's part along the reference against the rest; a mean over channels. Infinite where nothing is lost but the
    loudness, minus infinite where nothing of the reference is there (also for a silent estimate).

    Raises:
        ValueError: the shapes differ, or a channel of the reference is constant (silence), where it is not defined.
    """
    return _mean([_si_sdr(*pair) for pair in zip(*_channels(reference, estimate), strict=True)])


def snr(reference: Tensor, estimate: Tensor) -> float:
    """Return the signal-to-noise ratio in dB, energy of the reference over that of the difference; a mean over channels.

    Raises:
        ValueError: the shapes differ, or a channel of the reference is silent, where it is not defined.
    """
    values = []
    for original, other in zip(*_channels(reference, estimate), strict=True):
        power, noise = float(original.square().sum()), float((original - other).square().sum())
        if power == 0:
            raise ValueError("SNR is not defined for silence")
        values.append(10 * math.log10(power / noise) if noise else math.inf)
    return _mean(values)


def mel_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    """Return the mel distance over seven scales, the sum over scales of the mean absolute difference of log10 magnitudes.

    Windows of 32, 64, .. 2048 samples with 5, 10, .. 320 mel bins (triangles on the HTK scale from 0 to half the sample rate),
    hop a quarter of the window, Hann, mirrored edges, magnitudes clamped at 1e-5: the reconstruction loss of DAC (Kumar et al.
    2023) as a measure. A sound that is too short to be mirrored for a window is continued with zeros for it.

    Raises:
        ValueError: the shapes differ.
    """
    sounds = torch.stack(_channels(reference, estimate))
    total = 0.0
    for window, bins in zip(MEL_WINDOWS, MEL_BINS, strict=True):
        bank = mel_bank(window, bins, sample_rate)
        difference = count = 0.0
        for magnitudes in _magnitudes(sounds, window):
            logarithms = (bank @ magnitudes).clamp_(min=FLOOR).log10_()
            difference += float((logarithms[0] - logarithms[1]).abs().sum(dtype=torch.float64))
            count += logarithms[0].numel()
        total += difference / count
    return total


def stft_distance(reference: Tensor, estimate: Tensor) -> float:
    """Return the multi-resolution STFT distance of DAC's evaluation (Kumar et al. 2023).

    For windows of 2048 and 512 samples (hop a quarter, Hann, edges as in `mel_distance`) the mean absolute difference of the
    magnitudes plus that of the log10 of their squares, magnitudes clamped at 1e-5 first; the sum over both windows.

    Raises:
        ValueError: the shapes differ.
    """
    sounds = torch.stack(_channels(reference, estimate))
    total = 0.0
    for window in STFT_WINDOWS:
        difference = count = 0.0
        for magnitudes in _magnitudes(sounds, window):
            linear = (magnitudes[0] - magnitudes[1]).abs().sum(dtype=torch.float64)
            logarithms = magnitudes.clamp(min=FLOOR).log10_()
            difference += float(linear + 2 * (logarithms[0] - logarithms[1]).abs().sum(dtype=torch.float64))
            count += magnitudes[0].numel()
        total += difference / count
    return total


@lru_cache(maxsize=64)
def mel_bank(window: int, bins: int, sample_rate: int) -> Tensor:
    """Return triangular filters of peak 1 on the HTK mel scale from 0 to ``sample_rate / 2``, float32 (bins, window // 2 + 1)."""
    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings():
        # At the finest scales the lowest filters lie between two frequencies and are empty, which is part of the definition.
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        bank: Tensor = melscale_fbanks(
            window // 2 + 1, 0.0, sample_rate / 2, bins, sample_rate, norm=None, mel_scale="htk"
        )
    return bank.T.contiguous()


def pesq(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    """Return PESQ (ITU-T P.862.2 wide band at 16 kHz, P.862 narrow band at 8 kHz) of the first `SPEECH_SECONDS`, mono.

    Sounds of another rate are brought to 16 kHz first.

    Raises:
        MissingPackageError: the package ``pesq`` is not installed.
        ValueError: it finds no speech in the sound, or the shapes differ.
    """
    try:
        import pesq as package
    except ImportError:
        raise MissingPackageError("PESQ needs a package that is not installed: pip install pesq") from None
    original, other, rate = _speech(
        reference, estimate, sample_rate, sample_rate if sample_rate in PESQ_RATES else 16_000
    )
    try:
        return float(package.pesq(rate, original, other, PESQ_RATES[rate]))
    except package.PesqError as error:
        said = error.args[0] if error.args else ""
        text = said.decode() if isinstance(said, bytes) else str(said)
        raise ValueError(f"PESQ is not defined here: {text or type(error).__name__}") from None


def stoi(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    """Return the short-time objective intelligibility, 0 to 1 (Taal et al. 2011), of the first `SPEECH_SECONDS`, mono.

    Raises:
        MissingPackageError: the package ``pystoi`` is not installed.
        ValueError: the sound has less speech than the 0.4 seconds that it compares, or the shapes differ.
    """
    try:
        import pystoi
    except ImportError:
        raise MissingPackageError("STOI needs a package that is not installed: pip install pystoi") from None
    original, other, rate = _speech(reference, estimate, sample_rate, sample_rate)
    with warnings.catch_warnings():
        # Of too little speech it warns and returns a constant.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(original, other, rate))
        except (RuntimeWarning, ValueError) as error:
            raise ValueError(f"STOI is not defined here: {' '.join(str(error).split())}") from None


def _channels(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    if reference.shape != estimate.shape or reference.ndim not in (1, 2) or not reference.numel():
        raise ValueError(
            f"two sounds of one shape are compared, (C, samples) or (samples,); got {tuple(reference.shape)} and "
            f"{tuple(estimate.shape)}"
        )
    channels = reference.shape[0] if reference.ndim == 2 else 1
    return reference.reshape(channels, -1).double(), estimate.reshape(channels, -1).double()


def _si_sdr(reference: Tensor, estimate: Tensor) -> float:
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    power = float(reference.square().sum())
    # What is left of a constant when its mean is removed is rounding.
    if power <= 1e-20 * len(reference):
        raise ValueError("SI-SDR is not defined for silence or a constant")
    target = float((estimate * reference).sum()) / power * reference
    signal, rest = float(target.square().sum()), float((estimate - target).square().sum())
    if signal <= 1e-20 * len(reference):
        return -math.inf
    return 10 * math.log10(signal / rest) if rest > 0 else math.inf


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(values) == 1 else sum(values) / len(values)


def _magnitudes(sounds: Tensor, window: int) -> Iterator[Tensor]:
    """Yield the magnitudes (2, C, window // 2 + 1, frames) of two sounds (2, C, samples), some frames at a time."""
    edge, hop = window // 2, window // 4
    # Mirroring needs more samples than it adds.
    sounds = torch.nn.functional.pad(sounds, (0, max(0, edge + 1 - sounds.shape[-1])))
    padded = torch.nn.functional.pad(sounds.float(), (edge, edge), mode="reflect")
    hann = torch.hann_window(window)
    frames = 1 + (padded.shape[-1] - window) // hop
    step = max(1, _CHUNK_VALUES // (window * sounds.shape[1]))
    for first in range(0, frames, step):
        last = min(first + step, frames) - 1
        part = padded[..., first * hop : last * hop + window].flatten(0, 1)
        spectrum = torch.stft(part, window, hop, window=hann, center=False, return_complex=True)
        yield spectrum.abs().reshape(*sounds.shape[:2], *spectrum.shape[1:])


def _speech(reference: Tensor, estimate: Tensor, sample_rate: int, wanted: int) -> tuple[Any, Any, int]:
    """Return the beginning of both sounds, mono, as numpy arrays at the ``wanted`` rate."""
    import soxr

    from tokenize_kit.media.audio import RESAMPLER

    sounds = [sound.mean(0)[: SPEECH_SECONDS * sample_rate].numpy() for sound in _channels(reference, estimate)]
    if wanted != sample_rate:
        sounds = [soxr.resample(sound, sample_rate, wanted, RESAMPLER) for sound in sounds]
    return sounds[0], sounds[1], wanted
