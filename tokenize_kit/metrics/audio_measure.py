"""What `evaluate` measures on sounds: ratios and distances, bits a second, speed in real time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from tokenize_kit.metrics.audio import (
    SPEECH_SECONDS,
    mel_distance,
    pesq,
    si_sdr,
    snr,
    stft_distance,
    stoi,
)
from tokenize_kit.metrics.measures import Judgement, Measure, Metrics, Totals, mean
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.protocol import TokenSpec

_SPEECH_MEASURES: dict[str, tuple[str, Callable[[Tensor, Tensor, int], float]]] = {
    "pesq": ("pesq", pesq),
    "stoi": ("pystoi", stoi),
}


class AudioMeasure(Measure):
    """Sounds: what was lost in samples and in spectra, and how many bits a second carry them.

    Args:
        spec: of the tokenizer; it must name a sample rate.
        _options: of the evaluation, none of which is for sounds.

    Raises:
        ValueError: it does not.
    """

    loss_name = "mel distance"

    def __init__(self, spec: TokenSpec, _options: EvaluateOptions | None = None) -> None:
        if spec.sample_rate is None:
            raise ValueError("the tokenizer names no sample rate, so its sounds cannot be measured")
        self._rate = spec.sample_rate
        self._speech = {name: measure for name, (package, measure) in _SPEECH_MEASURES.items() if find_spec(package)}
        self._values: dict[str, list[float]] = {name: [] for name in ("si_sdr", "snr", "mel", "stft", *self._speech)}
        self._sounds = self._exact = self._lost = self._silent = self._samples = 0

    def add(self, samples: Sequence[Tensor], reconstructions: Sequence[Tensor]) -> list[Judgement]:
        """Measure sounds, float32 ``(C, samples)``."""
        return [self._judge(*pair) for pair in zip(samples, reconstructions, strict=True)]

    def _judge(self, sample: Tensor, reconstruction: Tensor) -> Judgement:
        self._sounds += 1
        self._samples += sample.shape[1]
        self._exact += torch.equal(sample, reconstruction)
        mel = mel_distance(sample, reconstruction, self._rate)
        self._values["mel"].append(mel)
        self._values["stft"].append(stft_distance(sample, reconstruction))
        note = f"mel {mel:.2f}"
        try:
            ratio, plain = si_sdr(sample, reconstruction), snr(sample, reconstruction)
        except ValueError:
            self._silent += 1
            return Judgement(f"{note}, silence", mel)
        self._lost += ratio == -math.inf
        self._values["si_sdr"] += [ratio] if math.isfinite(ratio) else []
        self._values["snr"] += [plain] if math.isfinite(plain) else []
        for name, measure in self._speech.items():
            try:
                self._values[name].append(measure(sample, reconstruction, self._rate))
            except ValueError:
                continue  # there is no speech in it; the protocol says how many have some
        return Judgement(f"{note}, SI-SDR {ratio:.1f} dB", mel)

    def summary(self, totals: Totals) -> Metrics:
        """See `Measure`."""
        seconds = self._samples / self._rate
        return {
            "mel_distance": mean(self._values["mel"]),
            "stft_distance": mean(self._values["stft"]),
            "si_sdr": mean(self._values["si_sdr"]),
            "snr": mean(self._values["snr"]),
            **{name: mean(self._values[name]) for name in self._speech},
            "exact_samples": self._exact,
            "silent_samples": self._silent,
            "lost_samples": self._lost,
            "seconds": seconds,
            "tokens_per_second": totals.tokens / seconds,
            "kilobits_per_second": totals.fixed_bits / seconds / 1000,
            "entropy_kilobits_per_second": totals.entropy_bits / seconds / 1000,
            "encode_times_real_time": seconds / totals.encoding,
            "decode_times_real_time": seconds / totals.decoding,
        }

    def protocol(self) -> str:
        """See `Measure`."""
        lines = [
            f"Sounds at {self._rate} Hz; all means are over sounds. mel_distance: sum over seven scales (windows of 32 to 2048 "
            "samples, 5 to 320 mel bins, hop a quarter, Hann) of the mean absolute difference of log10 magnitudes, clamped at "
            "1e-5. stft_distance: windows of 2048 and 512, magnitudes plus log10 of their squares.",
            f"SI-SDR with the means removed, and SNR, in dB, over {len(self._values['si_sdr']):,} and "
            f"{len(self._values['snr']):,} of {self._sounds:,} sounds. silent_samples have neither; lost_samples have nothing of "
            "the original in them, so that SI-SDR is minus infinity, and like exact ones they are left out of the mean.",
            "kilobits_per_second at a fixed length of the ids, entropy_kilobits_per_second at the entropy of each codebook's ids "
            "on their own. Times real time: seconds of sound over seconds of computing.",
        ]
        for name, (package, _) in _SPEECH_MEASURES.items():
            if name in self._speech:
                lines.append(
                    f"{name.upper()}: mono, the first {SPEECH_SECONDS} s of a sound; {len(self._values[name]):,} of "
                    f"{self._sounds:,} sounds have the speech that it needs."
                )
            else:
                lines.append(f"{name.upper()} was not measured: its package is not installed (pip install {package}).")
        return "\n".join(lines)
