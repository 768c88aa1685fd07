"""Two kinds of data that only the tests know: they prove that a new one is served without an edit.

``series``: whole numbers in a line of text, an open stream. ``toy-video``: a few small frames in a file format of its own, a
closed grid whose steps cover more than the sample. ``toy-tune`` is a tokenizer of sound that pads and knows no true sizes.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch

from tokenize_kit.files import atomic_write
from tokenize_kit.metrics.measures import Judgement, Measure
from tokenize_kit.metrics.rate import Codecs, Column, Curve, Plot
from tokenize_kit.protocol import (
    MODALITIES,
    Modality,
    Tokenizer,
    TokenSpec,
    check_ids,
    check_target,
    fingerprint_of,
    read_config,
    register_modality,
    register_tokenizer,
    write_config,
)

OFFSET = 50
VOCABULARY = 128
LEVELS = 8
HOP = 7


class Series(Modality):
    """A line of whole numbers; a sample is an int64 tensor (N,). It declares nothing that it could leave out."""

    name = "series"
    plural = "series"
    extensions = (".series",)
    suffix = ".series"
    size_axes = 1

    def read(self, data, spec):
        try:
            values = [int(word) for word in data.decode("ascii").split()]
        except ValueError:
            raise ValueError("it is not a line of whole numbers") from None
        return self.check(torch.tensor(values, dtype=torch.int64), spec)

    def write(self, sample, path, spec):
        line = " ".join(map(str, self.check(sample, spec).tolist())) + "\n"
        with atomic_write(path) as file:
            file.write(line.encode())

    def check(self, sample, spec):
        if not isinstance(sample, torch.Tensor) or sample.dtype != torch.int64:
            raise TypeError(f"a series is an int64 tensor, got {type(sample).__name__}")
        if sample.ndim != 1 or not len(sample):
            raise ValueError(f"a series has one axis and a value at least, got shape {tuple(sample.shape)}")
        return sample


class SeriesTokenizer(Tokenizer):
    """One id a value: the value plus an offset."""

    def __init__(self, offset=OFFSET):
        self.offset = offset

    @property
    def spec(self):
        return TokenSpec("series", VOCABULARY, ("time",), (1,), lossless=True)

    @property
    def fingerprint(self):
        return fingerprint_of("toy-series", {"offset": self.offset})

    def encode(self, sample):
        ids = SERIES.check(sample, self.spec) + self.offset
        if int(ids.min()) < 0 or int(ids.max()) >= VOCABULARY:
            raise ValueError(f"values must be from {-self.offset} to {VOCABULARY - 1 - self.offset}")
        return ids

    def decode(self, ids):
        return check_ids(ids, self.spec) - self.offset

    def save(self, folder):
        write_config(check_target(folder, self), self, {"offset": self.offset})

    @classmethod
    def load(cls, folder):
        return cls(read_config(folder)["options"]["offset"])


class VideoMeasure(Measure):
    """How many frames come back exactly, and the mean difference of all values."""

    def __init__(self, spec, options):
        self._frames = self._exact = self._values = self._difference = 0

    def add(self, samples, reconstructions):
        return [self._judge(*pair) for pair in zip(samples, reconstructions, strict=True)]

    def _judge(self, sample, reconstruction):
        difference = int((sample.long() - reconstruction.long()).abs().sum())
        self._frames += len(sample)
        self._exact += sum(torch.equal(*pair) for pair in zip(sample, reconstruction, strict=True))
        self._values += sample.numel()
        self._difference += difference
        return Judgement(f"{difference / sample.numel():.2f} grey levels", difference / sample.numel())

    def summary(self, totals):
        return {
            "frames": self._frames,
            "exact_frames": self._exact,
            "mean_difference": self._difference / self._values,
            "tokens_per_frame": totals.tokens / self._frames,
        }

    def protocol(self):
        return "mean_difference in grey levels over all values."


@dataclass(frozen=True)
class VideoPoint:
    """Size and loss of some films."""

    name: str
    kilobytes: float
    difference: float


class VideoCodecs(Codecs[VideoPoint]):
    """zlib, which loses nothing."""

    columns = (Column("kB", "kilobytes"), Column("difference", "difference", of_codecs=False))
    plots = (Plot("kilobytes", "kB", "difference", "grey levels"),)
    budget = 20_000

    def __init__(self, spec):
        assert spec.modality == "toy-video"

    def weight(self, sample):
        return sample.numel()

    def available(self, samples):
        return ("zlib",)

    def point(self, name, pairs, bits):
        differences = [float((one.double() - other.double()).abs().mean()) for one, other in pairs]
        return VideoPoint(name, bits / 8000, sum(differences) / len(pairs))

    def recoded(self, point, name, samples, bits, before):
        return replace(point, name=name, kilobytes=bits / 8000)

    def curve(self, samples, codec, ours):
        sizes = [sum(len(zlib.compress(film.numpy().tobytes(), level)) for film in samples) for level in (1, 9)]
        points = [VideoPoint(codec, size / 1000, 0.0) for size in sizes]
        return Curve(points, [min(points, key=lambda known: abs(known.kilobytes - point.kilobytes)) for point in ours])

    def said_of(self, samples):
        return f"The first {len(samples)} films."

    def protocol(self):
        return "zlib at the levels 1 and 9."


class ToyVideo(Modality):
    """Frames of one size, uint8 (T, C, H, W): the four numbers as little-endian uint16, then the values."""

    name = "toy-video"
    plural = "films"
    extensions = (".toyvid",)
    suffix = ".toyvid"
    size_axes = 3
    measure = VideoMeasure
    codecs = VideoCodecs

    def read(self, data, spec):
        if len(data) < 12 or data[:4] != b"TOYV":
            raise ValueError("it does not begin as a toy video does")
        shape = struct.unpack("<4H", data[4:12])
        if len(data) != 12 + shape[0] * shape[1] * shape[2] * shape[3]:
            raise ValueError("it is cut short")
        return self.check(torch.frombuffer(bytearray(data[12:]), dtype=torch.uint8).reshape(shape), spec)

    def write(self, sample, path, spec):
        with atomic_write(path) as file:
            file.write(b"TOYV" + struct.pack("<4H", *sample.shape) + self.check(sample, spec).numpy().tobytes())

    def check(self, sample, spec):
        if not isinstance(sample, torch.Tensor) or sample.dtype != torch.uint8:
            raise TypeError(f"a video is a uint8 tensor (T, C, H, W), got {type(sample).__name__}")
        if sample.ndim != 4 or 0 in sample.shape:
            raise ValueError(f"a video has four axes, none of them empty, got shape {tuple(sample.shape)}")
        return sample

    def size(self, sample):
        return (sample.shape[0], *sample.shape[2:])

    def crop(self, sample, size):
        self.check_covers(sample, size)
        frames, height, width = size
        return sample[:frames, :, :height, :width]

    def show(self, page, examples, spec):
        page.pictures([(example.sample[0], f"first frame of {example.key}") for example in examples], scale=4)

    def describe(self, path):
        frames, _, height, width = self.read(path.read_bytes(), None).shape
        return {"frames": frames, "height": height, "width": width, "bytes": path.stat().st_size}


class VideoTokenizer(Tokenizer):
    """Grey films: the first value of each 2x2 pixels of a frame in 8 levels; what is missing at the edges is black."""

    @property
    def spec(self):
        axes = ("time", "height", "width")
        return TokenSpec("toy-video", LEVELS, axes, (1, 2, 2), lossless=False, channels=1, open_axes=())

    @property
    def fingerprint(self):
        return fingerprint_of("toy-film", {})

    def encode(self, sample):
        if sample.shape[1] != 1:
            raise ValueError(f"{sample.shape[1]} channels are not grey")
        return sample[:, 0, ::2, ::2].long() // (256 // LEVELS)

    def decode(self, ids):
        values = (check_ids(ids, self.spec) * (256 // LEVELS)).to(torch.uint8)
        return values.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]

    def save(self, folder):
        write_config(check_target(folder, self), self, {})

    @classmethod
    def load(cls, folder):
        return cls()


class TuneTokenizer(Tokenizer):
    """A codec of sound from another package: one id for 7 samples, silence at the end, and no word of true sizes."""

    @property
    def spec(self):
        return TokenSpec("audio", 256, ("time",), (HOP,), lossless=False, channels=1, sample_rate=16_000)

    @property
    def fingerprint(self):
        return fingerprint_of("toy-tune", {})

    def encode(self, sample):
        padded = torch.nn.functional.pad(sample[0], (0, -sample.shape[1] % HOP))
        return ((padded.view(-1, HOP).mean(1) + 1) * 127.5).round().long().clamp(0, 255)

    def decode(self, ids):
        return (check_ids(ids, self.spec) / 127.5 - 1).float().repeat_interleave(HOP)[None]

    def save(self, folder):
        write_config(check_target(folder, self), self, {})

    @classmethod
    def load(cls, folder):
        return cls()


SERIES = Series()
TOY_VIDEO = ToyVideo()


@contextmanager
def known():
    """Let the two kinds of data be known for a while; messages of other tests list those that are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODALITIES, "_registered", dict(MODALITIES._registered))
        for kind in (SERIES, TOY_VIDEO):
            register_modality(kind)
        yield


for _name, _cls in (("toy-series", SeriesTokenizer), ("toy-film", VideoTokenizer), ("toy-tune", TuneTokenizer)):
    register_tokenizer(_name, _cls)
