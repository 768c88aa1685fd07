"""What the classical codecs reach on the same sounds: bit rate and distances, at chosen settings.

`AudioCodecs` is what the comparison with a tokenizer asks. Opus and MP3 through PyAV, one file a sound. The rate counts the
coded packets without the container around them, which favours the codecs: tokens are counted without a header too. What comes
back is brought to the sample rate of the original and shifted to where it fits it best, because codecs delay.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokenize_kit.media.audio import RESAMPLER, read_audio, to_pcm16
from tokenize_kit.metrics.audio import mel_distance, si_sdr, stft_distance
from tokenize_kit.metrics.rate import Codecs, Column, Curve, Plot
from tokenize_kit.protocol import TokenSpec

MAX_DELAY_SECONDS = 0.2
"""Delays up to this, in either direction, are found."""

MAX_SECONDS = 60
"""No more sound than this is given to the codecs, whatever the number of sounds."""

_FEWEST_SETTINGS = 3


@dataclass(frozen=True)
class AudioRatePoint:
    """Bit rate and distances of some sounds at one setting."""

    name: str
    """The codec, or what else made the sounds."""
    setting: int | None
    """The bit rate that the codec was asked for, in bits a second."""
    kilobits_per_second: float
    """Bits of all sounds over their seconds, in thousands."""
    mel_distance: float
    """Mean over the sounds."""
    stft_distance: float
    """Mean over the sounds."""
    si_sdr: float | None
    """Mean in dB over the sounds where it is defined and finite; None if it is nowhere."""
    sounds: int
    """How many sounds were measured."""


class _Codec(NamedTuple):
    encoder: str
    container: str
    sample_rates: tuple[int, ...]
    settings: Callable[[int], tuple[int, ...]]
    """The bit rates that exist for a sample rate."""


def _opus_settings(_sample_rate: int) -> tuple[int, ...]:
    return (6000, 8000, 12_000, 16_000, 24_000, 32_000, 48_000, 64_000, 96_000, 128_000)


def _mp3_settings(sample_rate: int) -> tuple[int, ...]:
    # MPEG-1, and MPEG-2 and 2.5 for the lower sample rates.
    if sample_rate >= 32_000:
        return tuple(1000 * rate for rate in (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320))
    return tuple(1000 * rate for rate in (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160))


_CODECS = {
    "opus": _Codec("libopus", "ogg", (8000, 12_000, 16_000, 24_000, 48_000), _opus_settings),
    "mp3": _Codec(
        "libmp3lame", "mp3", (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000), _mp3_settings
    ),
}

AUDIO_CODEC_PROTOCOL = (
    "Opus: libopus, variable bit rate, complexity 10, frames of 20 ms. MP3: libmp3lame, constant bit rate. Rates count the "
    "packets without their container. What comes back is resampled to the rate of the original and aligned with it."
)


class AudioCodecs(Codecs[AudioRatePoint]):
    """Opus and MP3 at bit rates beside those of the tokenizer.

    Raises:
        ValueError: the spec names no sample rate.
    """

    columns = (
        Column("kbit/s", "kilobits_per_second"),
        Column("mel", "mel_distance"),
        Column("SI-SDR", "si_sdr"),
    )
    plots = (
        Plot("kilobits_per_second", "kbit/s", "mel_distance", "mel distance"),
        Plot("kilobits_per_second", "kbit/s", "si_sdr", "SI-SDR, dB"),
    )

    def __init__(self, spec: TokenSpec) -> None:
        if spec.sample_rate is None:
            raise ValueError("the tokenizer names no sample rate, so its sounds cannot be compared with codecs")
        self._rate = spec.sample_rate

    @property
    def budget(self) -> int:
        """Samples."""
        return MAX_SECONDS * self._rate

    def weight(self, sample: Tensor) -> int:
        """Return the length of a sound."""
        return sample.shape[1]

    def available(self, samples: Sequence[Tensor]) -> tuple[str, ...]:
        """See `available_audio_codecs`; there is none for more than two channels."""
        return available_audio_codecs() if samples[0].shape[0] <= 2 else ()

    def point(self, name: str, pairs: Sequence[tuple[Tensor, Tensor]], bits: float) -> AudioRatePoint:
        """See `audio_point`."""
        return audio_point(name, pairs, self._rate, bits)

    def recoded(
        self,
        point: AudioRatePoint,
        name: str,
        samples: Sequence[Tensor],  # noqa: ARG002
        bits: float,
        before: float,
    ) -> AudioRatePoint:
        """See `Codecs`."""
        return replace(point, name=name, kilobits_per_second=point.kilobits_per_second * bits / max(1e-9, before))

    def curve(self, samples: Sequence[Tensor], codec: str, ours: Sequence[AudioRatePoint]) -> Curve[AudioRatePoint]:
        """Return a curve at the settings of `neighbouring` bit rates."""
        settings = neighbouring(codec_settings(codec, self._rate), [point.kilobits_per_second * 1000 for point in ours])
        points = [audio_codec_point(samples, self._rate, codec, setting) for setting in settings]
        nearest = [
            min(points, key=lambda known: abs(known.kilobits_per_second - point.kilobits_per_second)) for point in ours
        ]
        return Curve(points, nearest)

    def said_of(self, samples: Sequence[Tensor]) -> str:
        """See `Codecs`."""
        seconds = sum(self.weight(sound) for sound in samples) / self._rate
        return f"The first {len(samples):,} sounds ({seconds:.1f} s)."

    def protocol(self) -> str:
        """See `Codecs`."""
        return AUDIO_CODEC_PROTOCOL


def neighbouring(settings: Sequence[int], rates: Sequence[float]) -> list[int]:
    """Return the settings from half the lowest to twice the highest of ``rates``, or else the few that are nearest."""
    low, high = min(rates) / 2, max(rates) * 2
    inside = [setting for setting in settings if low <= setting <= high]
    if len(inside) >= _FEWEST_SETTINGS:
        return inside
    middle = math.sqrt(max(1.0, low) * max(1.0, high))
    return sorted(sorted(settings, key=lambda setting: abs(math.log(setting / middle)))[:_FEWEST_SETTINGS])


def available_audio_codecs() -> tuple[str, ...]:
    """Return the codecs that PyAV brings on this machine, out of opus and mp3."""
    import av

    return tuple(name for name, codec in _CODECS.items() if codec.encoder in av.codecs_available)


def codec_settings(codec: str, sample_rate: int) -> tuple[int, ...]:
    """Return the bit rates (bits a second, for all channels) at which a codec is measured at a sample rate.

    Raises:
        ValueError: there is no such codec here.
    """
    return _codec(codec).settings(_coded_rate(codec, sample_rate))


def audio_codec_point(sounds: Sequence[Tensor], sample_rate: int, codec: str, bit_rate: int) -> AudioRatePoint:
    """Return rate and distances of sounds at one bit rate.

    Args:
        sounds: float32 ``(C, samples)`` of one or two channels.
        sample_rate: samples a second.
        codec: one of `available_audio_codecs`.
        bit_rate: bits a second for all channels of a sound.

    Raises:
        ValueError: there is no such codec here, or there are no sounds.
    """
    decoded, bits = [], 0
    for sound in sounds:
        data, packets = encode_sound(sound, sample_rate, codec, bit_rate)
        decoded.append(decode_sound(data, sound, sample_rate))
        bits += 8 * packets
    return audio_point(codec, list(zip(sounds, decoded, strict=True)), sample_rate, bits, bit_rate)


def audio_point(
    name: str, pairs: Sequence[tuple[Tensor, Tensor]], sample_rate: int, bits: float, setting: int | None = None
) -> AudioRatePoint:
    """Return the point of originals and what came back for them, which took ``bits`` in all.

    Raises:
        ValueError: there are no sounds, or a pair differs in shape.
    """
    if not pairs:
        raise ValueError("there are no sounds to measure")
    seconds = sum(sound.shape[1] for sound, _ in pairs) / sample_rate
    ratios = [value for value in (_ratio(*pair) for pair in pairs) if value is not None]
    return AudioRatePoint(
        name=name,
        setting=setting,
        kilobits_per_second=bits / seconds / 1000,
        mel_distance=math.fsum(mel_distance(*pair, sample_rate) for pair in pairs) / len(pairs),
        stft_distance=math.fsum(stft_distance(*pair) for pair in pairs) / len(pairs),
        si_sdr=math.fsum(ratios) / len(ratios) if ratios else None,
        sounds=len(pairs),
    )


def _ratio(reference: Tensor, estimate: Tensor) -> float | None:
    try:
        value = si_sdr(reference, estimate)
    except ValueError:  # silence
        return None
    return value if math.isfinite(value) else None


def encode_sound(sound: Tensor, sample_rate: int, codec: str, bit_rate: int) -> tuple[bytes, int]:
    """Return a sound ``(C, samples)`` as a file of ``codec``, and how many of its bytes are packets.

    Raises:
        ValueError: there is no such codec here, or the sound has more than two channels.
    """
    import av
    import soxr

    known = _codec(codec)
    if sound.shape[0] > 2:
        raise ValueError(f"{codec} is measured on mono and stereo, not on {sound.shape[0]} channels")
    rate = _coded_rate(codec, sample_rate)
    samples = sound.T.contiguous()
    if rate != sample_rate:
        samples = torch.from_numpy(soxr.resample(samples.numpy(), sample_rate, rate, RESAMPLER))
    layout = "mono" if sound.shape[0] == 1 else "stereo"
    frame = av.AudioFrame.from_ndarray(to_pcm16(samples).reshape(1, -1), "s16", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    buffer, size = io.BytesIO(), 0
    with av.open(buffer, "w", format=known.container) as output:
        stream: Any = output.add_stream(known.encoder, rate=rate, layout=layout)
        stream.bit_rate = bit_rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            size += packet.size
            output.mux(packet)
    return buffer.getvalue(), size


def decode_sound(data: bytes, original: Tensor, sample_rate: int) -> Tensor:
    """Return a coded file as a sound of the shape of ``original``, aligned with it in time."""
    decoded = read_audio(data, sample_rate, original.shape[0]).samples
    return aligned(decoded, original, round(MAX_DELAY_SECONDS * sample_rate))


def aligned(sound: Tensor, reference: Tensor, most: int) -> Tensor:
    """Shift ``sound`` by the whole number of samples, at most ``most``, at which it correlates best with ``reference``.

    The result has the shape of ``reference``: what is missing at an end is silence.
    """
    length = reference.shape[1]
    size = 1 << (length + sound.shape[1] - 1).bit_length()
    spectra = [torch.fft.rfft(part.double().sum(0), size) for part in (sound, reference)]
    correlation = torch.fft.irfft(spectra[0] * spectra[1].conj(), size).numpy()
    most = min(most, size // 2 - 1)
    shift = int(np.concatenate([correlation[-most:], correlation[: most + 1]]).argmax()) - most if most else 0
    moved = sound[:, shift:] if shift >= 0 else torch.nn.functional.pad(sound, (-shift, 0))
    return torch.nn.functional.pad(moved, (0, max(0, length - moved.shape[1])))[:, :length]


def _codec(name: str) -> _Codec:
    if name not in available_audio_codecs():
        raise ValueError(f"codec {name!r} is not one of {', '.join(available_audio_codecs())}")
    return _CODECS[name]


def _coded_rate(codec: str, sample_rate: int) -> int:
    """Return the sample rate at which a codec is fed: the lowest that keeps all, or its highest."""
    rates = _codec(codec).sample_rates
    return min((rate for rate in rates if rate >= sample_rate), default=rates[-1])
