"""Run a tokenizer over real data and say what is lost, how short the tokens are, how the vocabulary is used, how fast.

What is measured depends on the modality of the tokenizer's spec and on nothing else, so a tokenizer from another
package is measured as ours are. Every ratio is a sum over a sum: no mean of means over unequal parts.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.media.samples import KeyedSample, iter_samples
from tokenize_kit.metrics.image import SSIM_MIN_SIDE, SSIM_WINDOW, psnr_of, squared_error, ssim
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.usage import UsageCounter
from tokenize_kit.progress import Progress
from tokenize_kit.tokenizer import Tokenizer, TokenSpec, load_tokenizer, tokenizer_name

if TYPE_CHECKING:
    from tokenize_kit.tokenizer import Sample

Metrics: TypeAlias = dict[str, float | int | None]

_BATCH_SAMPLES = 32
_BATCH_VALUES = 1 << 22
_EXAMPLE_CHARACTERS = 1000


@runtime_checkable
class ShowsTokens(Protocol):
    """A tokenizer that can say which bytes each id stands for."""

    def tokens(self, ids: Tensor) -> list[bytes]:
        """Return the bytes of each id."""
        ...


@dataclass(frozen=True)
class Example:
    """One sample for the report."""

    key: str
    """Where it came from."""
    sample: Sample
    """What went in; a long text is cut."""
    reconstruction: Sample
    """What came out."""
    ids: list[int]
    """Its ids in grid order."""
    tokens: list[bytes] | None
    """The bytes of each id, where the tokenizer can say."""
    note: str
    """What was measured on this sample."""


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured."""

    tokenizer: str
    """The folder that was evaluated."""
    name: str
    """The registered name of its class."""
    fingerprint: str
    """The tokenizer's fingerprint."""
    modality: str
    """What kind of samples were read."""
    samples: int
    """How many were measured."""
    failures: int
    """How many could not be read or encoded."""
    metrics: Metrics
    """The numbers; None where one is not defined for these samples."""
    protocol: str
    """How the numbers were taken."""
    examples: list[Example] = field(repr=False)
    """A few samples with their reconstructions."""
    usage_counts: list[int] = field(repr=False)
    """How often each id was used, from the most to the least; ids that were not used are left out."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a JSON-ready dictionary, without examples and counts."""
        left_out = ("examples", "usage_counts")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def to_text(self) -> str:
        """Return the numbers for reading, one a line, and how they were taken."""
        rows: list[tuple[str, Any]] = [("tokenizer", f"{self.name} at {self.tokenizer}"), ("samples", self.samples)]
        if self.failures:
            rows.append(("failures", self.failures))
        rows += self.metrics.items()
        width = max(len(name) for name, _ in rows)
        lines = [f"{name.replace('_', ' '):<{width}}  {_readable(value)}" for name, value in rows]
        return "\n".join([*lines, "", self.protocol])


def evaluate(options: EvaluateOptions, progress: Progress) -> EvaluateResult:
    """Evaluate ``options.tokenizer`` on the samples of ``options.data``.

    Raises:
        FileNotFoundError: the tokenizer or the data is not there.
        ValueError: not a single sample can be read and encoded, or the modality cannot be evaluated.
        TooManyFailuresError: more than ``options.max_failures`` samples cannot be read or encoded.
    """
    tokenizer = load_tokenizer(options.tokenizer)
    measure = _measure_of(tokenizer.spec)
    usage = UsageCounter(tokenizer.spec)
    failures = _Failures(options.max_failures, progress)
    samples = iter_samples(
        options.data,
        tokenizer.spec,
        failures.add,
        split=options.split,
        field=options.field,
        media_field=options.media_field,
        image_size=options.image_size,
    )
    progress.task("evaluate", options.limit)
    count = tokens = 0
    encoding = decoding = 0.0
    first = True
    examples: list[Example] = []
    for batch in _batches(samples, options.limit):
        if first:
            first = False
            # What is built at the first use (tables, compiled kernels) is no property of the speed.
            tokenizer.decode_batch(_encode(tokenizer, batch, _Failures(len(batch), Progress(enabled=False)))[1])
        began = time.perf_counter()
        batch, grids = _encode(tokenizer, batch, failures)
        encoded = time.perf_counter()
        reconstructions = tokenizer.decode_batch(grids)
        decoding += time.perf_counter() - encoded
        encoding += encoded - began
        for item, ids, reconstruction in zip(batch, grids, reconstructions, strict=True):
            usage.update(ids)
            tokens += ids.numel()
            note = measure.add(item.sample, reconstruction)
            if len(examples) < options.examples:
                examples.append(_example(tokenizer, item, ids, reconstruction, note))
        count += len(batch)
        progress.update(count, samples=count, tokens=tokens)
    progress.close()
    if not count:
        raise ValueError(f"none of the {failures.count} samples in {', '.join(options.data)} can be read and encoded")
    codebooks = usage.summaries()
    bits = math.fsum(codebook.entropy_bits * codebook.tokens for codebook in codebooks)
    fixed_bits = math.fsum(math.log2(codebook.vocab_size) * codebook.tokens for codebook in codebooks)
    metrics = measure.summary(tokens, fixed_bits, bits, encoding, decoding)
    metrics |= {
        "tokens": tokens,
        "vocabulary_used": sum(codebook.used for codebook in codebooks),
        "vocabulary_usage": sum(codebook.used for codebook in codebooks)
        / sum(codebook.vocab_size for codebook in codebooks),
        "entropy_bits_per_token": bits / tokens,
        "perplexity": math.fsum(codebook.perplexity for codebook in codebooks) / len(codebooks),
    }
    ordered = usage.counts().sort(descending=True).values
    return EvaluateResult(
        tokenizer=options.tokenizer,
        name=tokenizer_name(tokenizer),
        fingerprint=tokenizer.fingerprint,
        modality=tokenizer.spec.modality,
        samples=count,
        failures=failures.count,
        metrics=metrics,
        protocol=(
            f"{measure.protocol} Usage, entropy and perplexity are counted over all {tokens:,} tokens together. "
            f"Speeds are totals over the time of the encode and decode calls, with batches of up to {_BATCH_SAMPLES} "
            f"samples and {torch.get_num_threads()} threads; the first batch is run once before the clock starts, and "
            "reading files is not part of it."
        ),
        examples=examples,
        usage_counts=ordered[ordered > 0].tolist(),
    )


class _Measure(ABC):
    """What is measured on samples of one modality."""

    protocol: str

    @abstractmethod
    def add(self, sample: Any, reconstruction: Any) -> str:
        """Measure one sample; returns a note for the report."""

    @abstractmethod
    def summary(self, tokens: int, fixed_bits: float, bits: float, encoding: float, decoding: float) -> Metrics:
        """Return the numbers over all samples.

        Args:
            tokens: how many ids there are.
            fixed_bits: bits of all ids at a fixed length each.
            bits: bits of all ids at the entropy of the ids on their own.
            encoding: seconds.
            decoding: seconds.
        """


class _ImageMeasure(_Measure):
    protocol = (
        "PSNR and SSIM on uint8 pictures, data range 255. psnr and ssim are means over pictures; pictures that come back "
        "exactly are counted in exact_samples and left out of psnr, where they would be infinite. psnr_of_all_pixels is the "
        f"PSNR of the mean squared error over all values. SSIM: Gaussian window of {SSIM_WINDOW}, sigma 1.5, mirrored "
        f"edges; pictures with a side below {SSIM_MIN_SIDE} are left out of it."
    )

    def __init__(self) -> None:
        self._samples = self._exact = self._pixels = self._values = self._error = 0
        self._psnr: list[float] = []
        self._ssim: list[float] = []

    def add(self, sample: Tensor, reconstruction: Tensor) -> str:
        error = squared_error(sample, reconstruction)
        self._samples += 1
        self._values += sample.numel()
        self._pixels += sample.shape[-2] * sample.shape[-1]
        self._error += error
        if min(sample.shape[-2:]) >= SSIM_MIN_SIDE:
            self._ssim.append(ssim(sample, reconstruction))
        if not error:
            self._exact += 1
            return "exact"
        self._psnr.append(psnr_of(error / sample.numel()))
        return f"{self._psnr[-1]:.2f} dB"

    def summary(self, tokens: int, fixed_bits: float, bits: float, encoding: float, decoding: float) -> Metrics:
        return {
            "psnr": _mean(self._psnr),
            "psnr_of_all_pixels": psnr_of(self._error / self._values) if self._error else None,
            "ssim": _mean(self._ssim),
            "exact_samples": self._exact,
            "pixels": self._pixels,
            "pixels_per_token": self._pixels / tokens,
            "bits_per_pixel": fixed_bits / self._pixels,
            "entropy_bits_per_pixel": bits / self._pixels,
            "encode_megapixels_per_second": self._pixels / 1e6 / encoding,
            "decode_megapixels_per_second": self._pixels / 1e6 / decoding,
        }


class _TextMeasure(_Measure):
    protocol = (
        "exact_samples counts texts that come back equal, character for character. Bytes are those of UTF-8, words are what "
        "whitespace parts; every ratio is over the whole set."
    )

    def __init__(self) -> None:
        self._exact = self._bytes = self._characters = self._words = 0

    def add(self, sample: str, reconstruction: str) -> str:
        exact = sample == reconstruction
        self._exact += exact
        self._bytes += len(sample.encode())
        self._characters += len(sample)
        self._words += len(sample.split())
        return "exact" if exact else "not equal"

    def summary(self, tokens: int, fixed_bits: float, bits: float, encoding: float, decoding: float) -> Metrics:
        return {
            "exact_samples": self._exact,
            "bytes": self._bytes,
            "bytes_per_token": self._bytes / tokens,
            "characters_per_token": self._characters / tokens,
            "tokens_per_word": tokens / self._words if self._words else None,
            "bits_per_byte": fixed_bits / self._bytes,
            "entropy_bits_per_byte": bits / self._bytes,
            "encode_megabytes_per_second": self._bytes / 1e6 / encoding,
            "decode_megabytes_per_second": self._bytes / 1e6 / decoding,
        }


_MEASURES: dict[str, Callable[[], _Measure]] = {"image": _ImageMeasure, "text": _TextMeasure}


def _measure_of(spec: TokenSpec) -> _Measure:
    if spec.modality not in _MEASURES:
        raise ValueError(f"{spec.modality} cannot be evaluated (known: {', '.join(sorted(_MEASURES))})")
    return _MEASURES[spec.modality]()


class _Failures:
    def __init__(self, limit: int, progress: Progress) -> None:
        self.count = 0
        self._limit = limit
        self._progress = progress

    def add(self, key: str, reason: str) -> None:
        self.count += 1
        self._progress.note(f"left out {key}: {reason}")
        if self.count > self._limit:
            raise TooManyFailuresError(
                f"more than {self._limit} samples failed, the last is {key}: {reason}; mend them or raise --max-failures"
            )


def _batches(samples: Iterator[KeyedSample], limit: int | None) -> Iterator[list[KeyedSample]]:
    batch: list[KeyedSample] = []
    size = 0
    for count, item in enumerate(samples, 1):
        batch.append(item)
        size += len(item.sample) if isinstance(item.sample, str) else item.sample.numel()
        if len(batch) == _BATCH_SAMPLES or size >= _BATCH_VALUES or count == limit:
            yield batch
            batch, size = [], 0
        if count == limit:
            return
    if batch:
        yield batch


def _encode(
    tokenizer: Tokenizer, batch: list[KeyedSample], failures: _Failures
) -> tuple[list[KeyedSample], list[Tensor]]:
    """Encode a batch; where it has a sample that the tokenizer refuses, leave that one out and keep the others."""
    try:
        return batch, tokenizer.encode_batch([item.sample for item in batch])
    except ValueError:
        kept: list[KeyedSample] = []
        grids: list[Tensor] = []
        for item in batch:
            try:
                grids.append(tokenizer.encode(item.sample))
                kept.append(item)
            except ValueError as error:
                failures.add(item.key, str(error))
        return kept, grids


def _example(tokenizer: Tokenizer, item: KeyedSample, ids: Tensor, reconstruction: Sample, note: str) -> Example:
    sample = item.sample
    if isinstance(sample, str) and len(sample) > _EXAMPLE_CHARACTERS:
        sample = sample[:_EXAMPLE_CHARACTERS]
        ids = tokenizer.encode(sample)
        reconstruction = tokenizer.decode(ids)
    tokens = tokenizer.tokens(ids) if isinstance(tokenizer, ShowsTokens) else None
    return Example(item.key, sample, reconstruction, ids.reshape(-1).tolist(), tokens, note)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if value is None:
        return "not defined"
    return f"{value:,}" if isinstance(value, int) else str(value)
