"""Measures of sound against torchmetrics, torchaudio and slow references, and what they refuse."""

import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, signal_noise_ratio

from tokenize_kit.errors import MissingPackageError
from tokenize_kit.media.audio import read_audio
from tokenize_kit.metrics import audio as module
from tokenize_kit.metrics.audio import mel_distance, pesq, si_sdr, snr, stft_distance, stoi

SPEECH = Path(__file__).parents[2] / "assets" / "speech"
RATE = 16_000


@pytest.fixture(scope="module")
def pair():
    """Speech, and the same with noise, another loudness and an offset."""
    sound = read_audio((SPEECH / "young-man.flac").read_bytes()).samples
    noise = torch.randn(sound.shape, generator=torch.Generator().manual_seed(0)) * 0.01
    return sound, (0.5 * sound + noise + 0.02).clamp(-1, 1)


def test_si_sdr_is_that_of_torchmetrics(pair):
    reference, estimate = pair
    expected = scale_invariant_signal_distortion_ratio(estimate.double(), reference.double(), zero_mean=True)
    assert si_sdr(reference, estimate) == pytest.approx(float(expected), abs=1e-6)


def test_si_sdr_does_not_change_with_scale_sign_or_offset(pair):
    reference, estimate = pair
    value = si_sdr(reference, estimate)
    for other in (0.1 * estimate, -estimate, estimate + 0.3):
        assert si_sdr(reference, other) == pytest.approx(value, abs=1e-3)
    assert si_sdr(0.01 * reference, estimate) == pytest.approx(value, abs=1e-3)


def test_si_sdr_of_known_parts():
    """A sine with an orthogonal one of a tenth of its amplitude: 20 dB. More noise is worse."""
    time = torch.arange(1000) / 1000 * 2 * math.pi
    reference, other = torch.sin(5 * time), torch.sin(9 * time)
    assert si_sdr(reference, reference + 0.1 * other) == pytest.approx(20, abs=1e-3)
    assert si_sdr(reference, reference + other) == pytest.approx(0, abs=1e-3)
    assert si_sdr(reference, reference) > 100
    assert si_sdr(reference, other * 0 + 0.1) == -math.inf
    both = torch.stack([reference, reference])
    assert si_sdr(both, both + torch.stack([0.1 * other, other])) == pytest.approx(10, abs=1e-3)


def test_snr_is_that_of_torchmetrics(pair):
    reference, estimate = pair
    assert snr(reference, estimate) == pytest.approx(float(signal_noise_ratio(estimate, reference)), abs=1e-4)
    assert snr(reference, reference) == math.inf


@pytest.mark.parametrize("measure", [si_sdr, snr])
def test_silence_has_no_ratio(measure):
    with pytest.raises(ValueError, match="not defined for silence"):
        measure(torch.zeros(1, 100), torch.rand(1, 100))


def test_a_constant_has_no_si_sdr():
    with pytest.raises(ValueError, match="not defined"):
        si_sdr(torch.full((1, 12345), 0.3), torch.rand(1, 12345))


@pytest.mark.parametrize("measure", [si_sdr, snr, stft_distance, lambda x, y: mel_distance(x, y, RATE)])
def test_shapes_must_agree(measure):
    for other in (torch.rand(1, 99), torch.rand(2, 100), torch.rand(100)):
        with pytest.raises(ValueError, match="one shape"):
            measure(torch.rand(1, 100), other)


def test_mel_distance_is_that_of_torchaudio(pair):
    reference, estimate = pair
    expected = 0.0
    for window, bins in ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320)):
        transform = torchaudio.transforms.MelSpectrogram(RATE, window, hop_length=window // 4, n_mels=bins, power=1)
        a, b = (transform(sound).clamp(1e-5).log10() for sound in pair)
        expected += float((a - b).abs().mean())
    assert mel_distance(reference, estimate, RATE) == pytest.approx(expected, rel=1e-5)
    assert mel_distance(reference, reference, RATE) == 0


def test_stft_distance_is_that_of_a_plain_loop(pair):
    reference, estimate = (sound[:, :6000] for sound in pair)
    expected = 0.0
    for window in (2048, 512):
        hann = np.hanning(window + 1)[:-1]
        spectra = []
        for sound in (reference, estimate):
            padded = np.pad(sound[0].double().numpy(), window // 2, mode="reflect")
            starts = range(0, len(padded) - window + 1, window // 4)
            spectra.append(np.stack([np.abs(np.fft.rfft(hann * padded[at : at + window])) for at in starts]))
        a, b = spectra
        expected += np.abs(a - b).mean() + np.abs(np.log10(a.clip(1e-5) ** 2) - np.log10(b.clip(1e-5) ** 2)).mean()
    assert stft_distance(reference, estimate) == pytest.approx(expected, rel=1e-4)


def test_distances_in_pieces_are_those_of_the_whole(pair, monkeypatch):
    whole = mel_distance(*pair, RATE), stft_distance(*pair)
    monkeypatch.setattr(module, "_CHUNK_VALUES", 5000)
    assert (mel_distance(*pair, RATE), stft_distance(*pair)) == pytest.approx(whole, rel=1e-6)


def test_channels_are_averaged(pair):
    reference, estimate = pair
    stereo = torch.cat([reference, reference]), torch.cat([reference, estimate])
    assert mel_distance(*stereo, RATE) == pytest.approx(mel_distance(*pair, RATE) / 2, rel=1e-5)
    assert stft_distance(*stereo) == pytest.approx(stft_distance(*pair) / 2, rel=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 16, 17, 1024, 1025])
def test_the_shortest_sounds_have_distances(samples):
    sound = torch.rand(1, samples, generator=torch.Generator().manual_seed(1))
    assert mel_distance(sound, sound, RATE) == 0
    assert 0 < mel_distance(sound, sound * 0.1, RATE) < 7.01  # every log10 magnitude is 1 lower, on seven scales
    assert stft_distance(sound, sound * 0.1) > 0


def test_a_tenth_of_the_loudness_is_one_on_every_scale(pair):
    loud = pair[0] + 0.3 * torch.rand(pair[0].shape, generator=torch.Generator().manual_seed(2))
    empty = sum(
        float((module.mel_bank(window, bins, RATE).sum(1) == 0).float().mean())
        for window, bins in zip(module.MEL_WINDOWS, module.MEL_BINS, strict=True)
    )
    # Bins without a frequency are equal in both.
    assert mel_distance(loud, loud / 10, RATE) == pytest.approx(7 - empty, abs=1e-4)


def test_stoi_orders_noise(pair):
    reference, _ = pair
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(3))
    values = [stoi(reference, reference + level * noise, RATE) for level in (0.0, 0.01, 0.1)]
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert values[0] > values[1] > values[2] > 0
    with pytest.raises(ValueError, match="STOI is not defined here"):
        stoi(reference[:, :2000], reference[:, :2000], RATE)


def test_pesq_is_given_the_mode_of_its_sample_rate(pair, monkeypatch):
    """The package is compiled on installation, so what is asked of it is tested with one in its place."""
    asked = []

    class PesqError(Exception):
        pass

    def measure(rate, reference, estimate, mode):
        asked.append((rate, mode, len(reference), len(estimate)))
        if not reference.any():
            raise PesqError(b"No utterances detected")
        return 3.5

    monkeypatch.setitem(sys.modules, "pesq", types.SimpleNamespace(pesq=measure, PesqError=PesqError))
    samples = pair[0].shape[1]
    assert pesq(*pair, RATE) == 3.5
    pesq(*pair, 8000)
    pesq(*pair, 48_000)
    assert asked == [
        (16_000, "wb", samples, samples),
        (8000, "nb", samples, samples),
        (16_000, "wb", round(samples / 3), round(samples / 3)),
    ]
    with pytest.raises(ValueError, match="No utterances"):
        pesq(torch.zeros(1, 9000), torch.zeros(1, 9000), RATE)


@pytest.mark.parametrize(("measure", "package"), [(pesq, "pesq"), (stoi, "pystoi")])
def test_a_package_that_is_not_there_is_named(pair, monkeypatch, measure, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=f"pip install {package}"):
        measure(*pair, RATE)
