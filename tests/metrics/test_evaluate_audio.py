"""Evaluation of tokenizers of sound: the numbers over a set, codecs beside, conversions, and the report."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from tokenize_kit.cli.evaluate import evaluate_command
from tokenize_kit.media.audio import read_audio
from tokenize_kit.metrics.audio import mel_distance, si_sdr, snr, stft_distance
from tokenize_kit.metrics.audio_codecs import AudioCodecs, neighbouring
from tokenize_kit.metrics.audio_measure import AudioMeasure
from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.measures import Totals
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.rate import Picks, compare
from tokenize_kit.metrics.usage import UsageCounter
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.report.spectrogram import spectrogram
from tokenize_kit.tokenizers.audio.mulaw import MuLawTokenizer

SPEECH = Path(__file__).parents[2] / "assets" / "speech"
RATE = 16_000
NAMES = sorted(path.stem for path in SPEECH.glob("*.flac"))


@pytest.fixture(autouse=True)
def without_pesq(monkeypatch):
    """It is compiled on installation, so a machine may have it or not."""
    monkeypatch.setitem(sys.modules, "pesq", None)
    monkeypatch.setattr("tokenize_kit.metrics.audio_measure.find_spec", lambda name: None if name == "pesq" else name)


def options(tmp_path, data, **changes):
    MuLawTokenizer().save(tmp_path / "mulaw")
    return EvaluateOptions(str(tmp_path / "mulaw"), tuple(map(str, data)), **changes)


def test_numbers_are_means_over_the_sounds(tmp_path):
    result = evaluate(options(tmp_path, [SPEECH]), Progress(False))
    tokenizer = MuLawTokenizer()
    sounds = [read_audio((SPEECH / f"{name}.flac").read_bytes()).samples for name in NAMES]
    pairs = [(sound, tokenizer.decode(tokenizer.encode(sound))) for sound in sounds]
    metrics = result.metrics
    assert result.samples == 5
    assert metrics["mel_distance"] == pytest.approx(np.mean([mel_distance(*pair, RATE) for pair in pairs]))
    assert metrics["stft_distance"] == pytest.approx(np.mean([stft_distance(*pair) for pair in pairs]))
    assert metrics["si_sdr"] == pytest.approx(np.mean([si_sdr(*pair) for pair in pairs]))
    assert metrics["snr"] == pytest.approx(np.mean([snr(*pair) for pair in pairs]))
    assert 30 < metrics["si_sdr"] < 45
    assert 0.99 < metrics["stoi"] <= 1
    assert metrics["kilobits_per_second"] == pytest.approx(128)
    assert metrics["tokens_per_second"] == pytest.approx(RATE)
    assert metrics["entropy_kilobits_per_second"] == pytest.approx(metrics["entropy_bits_per_token"] * 16)
    assert metrics["seconds"] == pytest.approx(sum(sound.shape[1] for sound in sounds) / RATE)
    assert metrics["encode_times_real_time"] > 20
    assert "pesq" not in metrics
    assert "PESQ was not measured: its package is not installed (pip install pesq)" in result.protocol
    assert result.worst[0].note.startswith(f"mel {max(mel_distance(*pair, RATE) for pair in pairs):.2f}")


def test_silence_and_lost_sounds_are_counted_and_not_averaged():
    measure = AudioMeasure(MuLawTokenizer().spec)
    tone = torch.sin(torch.arange(8000) / 9)[None] / 2
    other = 1e-4 * torch.sin(torch.arange(8000) / 5)[None]
    judged = measure.add(
        [torch.zeros(1, 8000), tone, tone], [torch.zeros(1, 8000), torch.zeros(1, 8000), tone * 0.5 + other]
    )
    assert "silence" in judged[0].note
    assert judged[0].loss == 0 < judged[2].loss < judged[1].loss
    found = measure.summary(Totals(10, 80.0, 40.0, 0.5, 0.25))
    assert (found["exact_samples"], found["silent_samples"], found["lost_samples"]) == (1, 1, 1)
    assert found["si_sdr"] == pytest.approx(68, abs=0.1)
    assert found["snr"] == pytest.approx((0 + 20 * np.log10(2)) / 2, abs=1e-3)
    assert found["kilobits_per_second"] == pytest.approx(0.08 / 1.5)
    assert (found["encode_times_real_time"], found["decode_times_real_time"]) == (3, 6)
    with pytest.raises(ValueError, match="names no sample rate"):
        AudioMeasure(TokenSpec("audio", 4, ("time",), (1,), lossless=False))


def test_conversions_are_said(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for number in range(3):
        soundfile.write(
            tmp_path / "data" / f"{number}.wav", np.sin(np.arange(4410) / 20) / 2, 44_100 if number else RATE
        )
    result = evaluate(options(tmp_path, [tmp_path / "data"]), Progress(True))
    assert result.conversions == {"44100 Hz mono to 16000 Hz mono": 2}
    assert "2 sounds were converted from 44100 Hz mono to 16000 Hz mono when they were read" in result.protocol
    assert capsys.readouterr().err.count("sounds of 44100 Hz mono are converted to 16000 Hz mono") == 1


def test_the_report_has_players_spectrograms_and_codecs(tmp_path):
    out = tmp_path / "out"
    result = evaluate_command(options(tmp_path, [SPEECH], out=str(out), examples=2, codec_pictures=1), Progress(False))
    html = (out / "report.html").read_text()
    assert html.count("<audio controls") == 8  # two first and two worst, each original and reconstruction
    assert html.count("spectrogram of the original") == 4
    assert html.count("data:audio/wav;base64,UklGR") == 8
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    found = json.loads((out / "evaluation.json").read_text())
    assert found["metrics"]["mel_distance"] == pytest.approx(result.metrics["mel_distance"])
    assert set(found["rate"]["codecs"]) == {"opus", "mp3"}
    assert [point["name"] for point in found["rate"]["fixed_rate"]] == ["tokens, fixed length"]
    near = {pair["codec"]["name"]: pair["codec"] for pair in found["rate"]["nearest"][:2]}
    assert near["mp3"]["kilobits_per_second"] == pytest.approx(128, rel=0.1)
    assert near["opus"]["kilobits_per_second"] == pytest.approx(128, rel=0.2)


class TwoBooks(MuLawTokenizer):
    """The upper and the lower half of a mu-law id as two codebooks, so that a prefix decodes to something coarser."""

    @property
    def spec(self):
        return TokenSpec(
            "audio", (16, 16), ("time", "codebook"), (1, None), lossless=False, channels=1, sample_rate=RATE
        )

    def encode(self, sample):
        ids = super().encode(sample)
        return torch.stack([ids // 16, ids % 16], 1)

    def decode(self, ids):
        low = ids[:, 1] if ids.shape[1] > 1 else torch.full((len(ids),), 8)
        return self._levels[ids[:, 0] * 16 + low][None]


def test_every_number_of_codebooks_is_a_point():
    tokenizer = TwoBooks()
    codecs = AudioCodecs(tokenizer.spec)
    sound = read_audio((SPEECH / "ten-of-clubs.flac").read_bytes()).samples
    picks, usage = Picks(3, codecs), UsageCounter(tokenizer.spec)
    picks.offer(sound, tokenizer.encode(sound))
    usage.update(tokenizer.encode(sound))
    result = compare(codecs, tokenizer, picks.items, usage.summaries(), Progress(False))
    one, two = result.fixed_rate
    assert (one.name, two.name) == ("tokens, 1 codebook, fixed length", "tokens, 2 codebooks, fixed length")
    assert (one.kilobits_per_second, two.kilobits_per_second) == pytest.approx((64, 128))
    assert one.mel_distance > two.mel_distance
    assert one.si_sdr < two.si_sdr
    entropies = [book.entropy_bits for book in usage.summaries()]
    rates = [point.kilobits_per_second for point in result.entropy_coded]
    assert rates == pytest.approx([16 * entropies[0], 16 * sum(entropies)])
    assert len(result.nearest) == 8


def test_picks_stop_at_the_first_that_does_not_fit():
    codecs = AudioCodecs(TokenSpec("audio", 4, ("time",), (1,), lossless=False, sample_rate=100))
    picks = Picks(10, codecs)
    for samples in (4000, 1000, 3000, 10):
        picks.offer(torch.zeros(1, samples), torch.zeros(samples))
    assert [item.sample.shape[1] for item in picks.items] == [4000, 1000]
    long = Picks(10, codecs)
    long.offer(torch.zeros(1, 100_000), torch.zeros(3))
    assert len(long.items) == 1


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([1500, 6000], [6000, 8000, 12_000]), ([500], [6000, 8000, 12_000]), ([30_000], [16_000, 24_000, 32_000, 48_000])],
)
def test_neighbouring_settings(rates, expected):
    assert neighbouring((6000, 8000, 12_000, 16_000, 24_000, 32_000, 48_000, 64_000), rates) == expected


@pytest.mark.parametrize("samples", [1, 100, 16_000, 96_000])
def test_a_spectrogram_shows_a_tone_where_it_is(samples):
    tone = 0.9 * torch.sin(2 * np.pi * 4000 * torch.arange(samples) / RATE)[None]
    picture = spectrogram(tone, RATE)
    assert picture.dtype == torch.uint8
    assert picture.shape[:2] == (3, 128)
    assert 1 <= picture.shape[2] <= 420
    if samples >= 16_000:
        # 4 kHz is half way up; the rest is dark.
        rows = picture.float().mean((0, 2))
        assert abs(int(rows.argmax()) - 63.5) <= 1.5
        assert float(rows[:40].mean()) < 0.2 * float(rows.max())
    assert int(spectrogram(torch.zeros(2, samples), RATE).float().std((1, 2)).max()) == 0
