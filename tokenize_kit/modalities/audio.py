"""Sound: a float32 tensor ``(C, samples)`` in [-1, 1] at the sample rate of the spec."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.protocol.clips import Follower, Span
from tokenize_kit.protocol.modality import Modality, Stream

if TYPE_CHECKING:
    from typing import IO

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.media.audio import AudioReader
    from tokenize_kit.media.audio.spans import SoundSpans
    from tokenize_kit.protocol import Sample, TokenSpec

_EXCERPT_SECONDS = 6


class AudioModality(Modality):
    """Sounds of any number of channels; see `tokenize_kit.media.audio` for the rules of reading and conversion."""

    name = "audio"
    plural = "sounds"
    least = "a sound has at least one sample"
    # Of the last line the sound track is read.
    extensions = (
        *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".caf", ".au", ".snd", ".sph"),
        *(".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3", ".mp2", ".mpga"),
        *(".g722", ".m4a", ".m4b", ".aac", ".amr", ".mka", ".weba"),
        *(".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".avi", ".ogv"),
    )
    suffix = ".wav"
    size_axes = 1
    streams = True
    follows = True
    pours = "wav"
    measure = "tokenize_kit.metrics.audio_measure:AudioMeasure"
    codecs = "tokenize_kit.metrics.audio_codecs:AudioCodecs"
    show = "tokenize_kit.report.examples:show_sounds"
    show_bits = "tokenize_kit.report.bits:show_sound_bits"
    lossless = "tokenize_kit.metrics.lossless:FLAC"
    exhibit_folder = "sounds"

    def read(self, data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:
        """See `tokenize_kit.media.audio.read_audio`."""
        from tokenize_kit.media.audio import read_audio

        assert isinstance(data, bytes), "only pictures come as pixels"
        return read_audio(data, spec.sample_rate, spec.channels).samples

    def read_noting(
        self,
        data: bytes | NDArray[np.uint8],
        spec: TokenSpec,
        at_least: int | None = None,  # noqa: ARG002
    ) -> tuple[Sample, tuple[str, ...]]:
        """See `tokenize_kit.media.audio.read_audio_noting`."""
        from tokenize_kit.media.audio import read_audio_noting

        assert isinstance(data, bytes), "only pictures come as pixels"
        audio, notes = read_audio_noting(data, spec.sample_rate, spec.channels)
        return audio.samples, notes

    def write(self, sample: Sample, path: Path, spec: TokenSpec) -> None:
        """See `tokenize_kit.media.audio.write_audio`."""
        from tokenize_kit.media.audio import write_audio

        write_audio(sample, path, _rate(spec))

    def to_python(self, sample: Sample, spec: TokenSpec) -> Any:
        """Return a `tokenize_kit.protocol.values.Sound`."""
        from tokenize_kit.protocol.values import Sound

        return Sound(cast("Tensor", sample).numpy(), _rate(spec))

    def save(self, value: object, stem: Path) -> Path | None:
        """See `Modality.save`: a `Sound`, or another pair of samples and rate."""
        import numpy as np
        import soundfile

        if not (isinstance(value, tuple) and len(value) == 2):
            return None
        samples, rate = np.asarray(value[0]), value[1]
        if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or not samples.size:
            raise ValueError(
                f"a sound is floating-point samples (samples,) or (channels, samples), got {samples.dtype} {samples.shape}"
            )
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or rate < 1:
            raise ValueError(f"the sample rate {rate!r} of a sound is no number of samples a second")
        path = stem.with_name(f"{stem.name}.wav")
        soundfile.write(path, samples.T.astype(np.float32), int(rate), subtype="FLOAT")
        return path

    def check(self, sample: object, spec: TokenSpec) -> Sample:
        """See `tokenize_kit.media.audio.check_audio`."""
        from tokenize_kit.media.audio import check_audio

        return check_audio(sample, spec.channels)

    def conversion(self, data: bytes, spec: TokenSpec) -> str:
        """Return what is changed, such as ``48000 Hz stereo to 16000 Hz mono``; empty if nothing is."""
        from tokenize_kit.media.audio import conversion_of

        return conversion_of(data, spec.sample_rate, spec.channels)

    def self_describing(self, name: str, data: bytes) -> bytes:
        """Give raw G.722, which has no header, that of a wav."""
        from tokenize_kit.media.audio import self_describing

        return self_describing(name, data)

    def excerpt(self, sample: Sample, spec: TokenSpec) -> Sample:
        """Return the first seconds."""
        return cast("Tensor", sample)[:, : _EXCERPT_SECONDS * _rate(spec)].clone()

    def board(self, writer: Any, name: str, sample: Sample, step: int, spec: TokenSpec) -> None:
        """See `Modality.board`; the board plays one channel, so it is the mean of all."""
        writer.add_audio(name, cast("Tensor", sample).mean(0), step, _rate(spec))

    def describe(self, path: Path) -> dict[str, Any]:
        """Return format, sample rate, channels and length of a file, which is decoded whole, piece by piece."""
        from tokenize_kit.media.audio import AudioReader, self_describing_file

        with path.open("rb") as file:
            reader = AudioReader(self_describing_file(path.name, file))
            samples = sum(block.shape[1] for block in reader.blocks())
        return {
            "format": reader.format,
            "sample_rate": reader.sample_rate,
            "channels": reader.channels,
            "samples": samples,
            "seconds": round(samples / reader.sample_rate, 3),
            "values_beyond_full_scale": reader.clipped,
            "bytes": path.stat().st_size,
        }

    @contextmanager
    def follow(self, name: str, file: IO[bytes], spec: TokenSpec) -> Iterator[Follower]:
        """See `Modality.follow` and `tokenize_kit.media.audio.spans`: the sound of a film, to the sample."""
        from tokenize_kit.media.audio import AudioReader, self_describing_file
        from tokenize_kit.media.audio.spans import SoundSpans, sound_delay

        delay = sound_delay(file)
        file.seek(0)
        reader = AudioReader(self_describing_file(name, file), spec.sample_rate, spec.channels)
        yield _Sound(SoundSpans(reader, delay))

    @contextmanager
    def open_stream(self, path: Path, spec: TokenSpec) -> Iterator[Stream]:
        """See `Modality.open_stream` and `tokenize_kit.media.audio.AudioReader`."""
        from tokenize_kit.media.audio import AudioReader, self_describing_file

        with path.open("rb") as file:
            yield _AudioStream(AudioReader(self_describing_file(path.name, file), spec.sample_rate, spec.channels))

    def write_pieces(self, pieces: Iterable[Tensor], path: Path, spec: TokenSpec) -> None:
        """Write a sound that comes in pieces (C, n), in bounded memory; see `tokenize_kit.media.audio.write_blocks`."""
        from tokenize_kit.media.audio import write_blocks

        write_blocks(pieces, path, _rate(spec))

    def pour(self, pieces: Iterable[Tensor], file: IO[bytes], spec: TokenSpec) -> None:
        """Write a sound that comes in pieces (C, n) as it comes; see `tokenize_kit.media.audio.pour_blocks`."""
        from tokenize_kit.media.audio import pour_blocks

        pour_blocks(pieces, file, _rate(spec))


class _Sound(Follower):
    def __init__(self, spans: SoundSpans) -> None:
        self._spans = spans

    def take(self, span: Span) -> tuple[Sample, tuple[str, ...]]:
        return self._spans.take(*span)


class _AudioStream(Stream):
    def __init__(self, reader: AudioReader) -> None:
        self._reader = reader
        self.conversion = reader.conversion

    @property
    def notes(self) -> tuple[str, ...]:
        return self._reader.notes

    def pieces(self) -> Iterator[Tensor]:
        return self._reader.blocks()


def _rate(spec: TokenSpec) -> int:
    if spec.sample_rate is None:
        raise ValueError("the spec of this sound names no sample rate, so no file can be written")
    return spec.sample_rate


AUDIO = AudioModality()
