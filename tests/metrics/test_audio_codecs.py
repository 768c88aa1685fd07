"""Opus and MP3 on speech: their rates, their order, and that what they delay is put back."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tokenize_kit.media.audio import read_audio
from tokenize_kit.metrics.audio_codecs import (
    aligned,
    audio_codec_point,
    audio_point,
    available_audio_codecs,
    codec_settings,
    decode_sound,
    encode_sound,
)

SPEECH = Path(__file__).parents[2] / "assets" / "speech"
RATE = 16_000


@pytest.fixture(scope="module")
def sounds():
    return [read_audio((SPEECH / f"{name}.flac").read_bytes()).samples for name in ("young-man", "ten-of-clubs")]


def test_both_codecs_come_with_pyav():
    assert available_audio_codecs() == ("opus", "mp3")
    assert codec_settings("opus", RATE)[0] == 6000
    assert codec_settings("mp3", RATE)[:2] == (8000, 16_000)
    assert codec_settings("mp3", 44_100)[0] == 32_000
    with pytest.raises(ValueError, match="'ogg' is not one of opus, mp3"):
        codec_settings("ogg", RATE)


@pytest.mark.parametrize(("codec", "rates"), [("opus", (8000, 16_000, 48_000)), ("mp3", (16_000, 32_000, 64_000))])
def test_more_bits_lose_less(sounds, codec, rates):
    points = [audio_codec_point(sounds, RATE, codec, rate) for rate in rates]
    for point, rate in zip(points, rates, strict=True):
        assert (point.name, point.setting, point.sounds) == (codec, rate, 2)
        assert point.kilobits_per_second == pytest.approx(rate / 1000, rel=0.2)
    for low, high in pairwise(points):
        assert high.mel_distance < low.mel_distance
        assert high.stft_distance < low.stft_distance
        assert high.si_sdr > low.si_sdr + 2
    assert points[-1].si_sdr > 15


@pytest.mark.parametrize("codec", ["opus", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (11_025, 1), (96_000, 1)])
def test_any_sample_rate_comes_back_in_place(sounds, codec, rate, channels):
    import soxr

    mono = torch.from_numpy(soxr.resample(sounds[1][0].numpy(), RATE, rate))[None]
    original = mono.repeat(channels, 1)
    data, size = encode_sound(original, rate, codec, 64_000)
    assert 0 < size < len(data)
    decoded = decode_sound(data, original, rate)
    assert decoded.shape == original.shape
    assert audio_point(codec, [(original, decoded)], rate, 8 * size).si_sdr > 12


@pytest.mark.parametrize("shift", [0, 1, 37, -1, -250])
def test_a_delay_is_found(sounds, shift):
    reference = sounds[0]
    silence = torch.zeros(1, abs(shift))
    moved = torch.cat([silence, reference], 1) if shift > 0 else reference[:, -shift:]
    back = aligned(0.5 * moved, reference, 300)
    assert back.shape == reference.shape
    inside = slice(max(0, -shift), None)
    assert torch.equal(back[:, inside], 0.5 * reference[:, inside])
    assert float(back[:, : max(0, -shift)].abs().sum()) == 0


def test_a_point_adds_bits_over_seconds(sounds):
    point = audio_point("tokens", [(sound, sound) for sound in sounds], RATE, 1000 * 8)
    seconds = sum(sound.shape[1] for sound in sounds) / RATE
    assert point.kilobits_per_second == pytest.approx(8 / seconds)
    assert (point.mel_distance, point.stft_distance, point.setting) == (0, 0, None)
    with pytest.raises(ValueError, match="no sounds"):
        audio_point("tokens", [], RATE, 0)
