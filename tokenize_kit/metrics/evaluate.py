"""Run a tokenizer over real data and say what is lost, how short the tokens are, how the vocabulary is used, how fast.

What is measured depends on the modality of the tokenizer's spec and on nothing else, so a tokenizer from another
package is measured as ours are. The memory that is used does not grow with the data: besides the numbers only the samples
that the report shows are kept, and the few that are compared with codecs.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.metrics.measures import Judgement, Metrics, Totals, measure_of
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.speed import SizeSpeed, SpeedMeter
from tokenize_kit.metrics.usage import Usage, UsageCounter
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import (
    ShowsTokens,
    Tokenizer,
    TokenSpec,
    decode_like,
    first_codebooks,
    load_tokenizer,
    placed,
    tokenizer_name,
)
from tokenize_kit.sources.heldout import in_part
from tokenize_kit.sources.samples import KeyedSample, iter_samples

if TYPE_CHECKING:
    from tokenize_kit.metrics.audio_rate import AudioRateComparison, SoundPicks
    from tokenize_kit.metrics.rate import Picks, RateComparison
    from tokenize_kit.protocol import Sample

_BATCH_SAMPLES = 32
_BATCH_VALUES = 1 << 22
_EXAMPLE_CHARACTERS = 1000
_EXAMPLE_SIDE = 512
_EXAMPLE_SECONDS = 6
_CODED = ("image", "audio")


@dataclass(frozen=True)
class Example:
    """One sample for the report."""

    key: str
    """Where it came from."""
    sample: Sample
    """What went in; a long text is cut, a picture whose sides are above 512 is scaled down, of a sound 6 seconds are kept."""
    reconstruction: Sample
    """What came out."""
    ids: list[int]
    """Its ids in grid order, where ``tokens`` says what they are; else empty."""
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
    part: str
    """Which part of the samples was measured: ``all``, or ``train`` or ``held-out`` with the fraction."""
    samples: int
    """How many were measured."""
    failures: int
    """How many could not be read or encoded."""
    metrics: Metrics
    """The numbers; None where one is not defined for these samples."""
    codebooks: list[Usage]
    """How each codebook is used."""
    speed_by_size: list[SizeSpeed]
    """Pictures: encoding and decoding for each size, from the most to the least frequent one."""
    rate: RateComparison | AudioRateComparison | None
    """Pictures and sounds: the tokenizer beside the classical codecs, if that was asked for."""
    protocol: str
    """How the numbers were taken, one line a subject."""
    examples: list[Example] = field(repr=False)
    """The first samples with their reconstructions."""
    worst: list[Example] = field(repr=False)
    """The samples that lost most of the whole set, from the worst on."""
    usage_counts: list[list[int]] = field(repr=False)
    """For each codebook how often each id was used, from the most to the least; ids that were not used are left out."""
    sample_rate: int | None = None
    """Sounds: samples a second."""
    conversions: dict[str, int] = field(default_factory=dict)
    """Sounds: how many were of another sample rate or other channels, by what was done."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a JSON-ready dictionary, without pictures, texts and the counts of single ids."""
        left_out = ("examples", "worst", "usage_counts", "codebooks", "speed_by_size", "rate")
        return {name: value for name, value in vars(self).items() if name not in left_out} | {
            "codebooks": [asdict(codebook) for codebook in self.codebooks],
            "speed_by_size": [asdict(row) for row in self.speed_by_size],
            "rate": None if self.rate is None else self.rate.to_dict(),
            "worst": [{"key": example.key, "note": example.note} for example in self.worst],
        }

    def to_text(self) -> str:
        """Return the numbers for reading, one a line, and how they were taken."""
        rows: list[tuple[str, Any]] = [("tokenizer", f"{self.name} at {self.tokenizer}")]
        if self.part != "all":
            rows.append(("part", self.part))
        rows.append(("samples", self.samples))
        if self.failures:
            rows.append(("failures", self.failures))
        rows += self.metrics.items()
        width = max(len(name) for name, _ in rows)
        lines = [f"{name.replace('_', ' '):<{width}}  {_readable(value)}" for name, value in rows]
        return "\n".join([*lines, "", self.protocol])


def evaluate(options: EvaluateOptions, progress: Progress, codecs: bool = False) -> EvaluateResult:
    """Evaluate ``options.tokenizer`` on the samples of ``options.data``.

    Args:
        options: what to measure.
        progress: is told of every batch.
        codecs: compare pictures and sounds with the classical codecs.

    Raises:
        FileNotFoundError: the tokenizer, the data or a weights file is not there.
        ValueError: not a single sample can be read and encoded, or the modality cannot be evaluated.
        MissingWeightsError: weights that were asked for cannot be had.
        TooManyFailuresError: more than ``options.max_failures`` samples cannot be read or encoded.
    """
    tokenizer = placed(load_tokenizer(options.tokenizer), options.device, options.precision)
    if options.codebooks is not None:
        tokenizer.spec.first_codebooks(options.codebooks)
    run = _Run(tokenizer, options, progress, codecs and tokenizer.spec.modality in _CODED)
    samples = iter_samples(
        options.data,
        tokenizer.spec,
        run.failures.add,
        split=options.split,
        field=options.field,
        media_field=options.media_field,
        image_size=options.image_size,
        keep=_keep(options),
        on_conversion=run.converted,
    )
    progress.task("evaluate", options.limit)
    for batch in _batches(samples, options.limit):
        run.add(batch)
    progress.close()
    return run.result()


class _Item(NamedTuple):
    """One sample of a batch and all that was made of it."""

    place: int
    source: KeyedSample
    ids: Tensor
    reconstruction: Sample
    judgement: Judgement


class _Run:
    """Gathers one evaluation, batch by batch."""

    def __init__(self, tokenizer: Tokenizer, options: EvaluateOptions, progress: Progress, codecs: bool) -> None:
        self.failures = _Failures(options.max_failures, progress)
        self._tokenizer, self._options, self._progress = tokenizer, options, progress
        self._measure = measure_of(tokenizer.spec, options)
        count = options.codebooks
        self._usage = UsageCounter(tokenizer.spec if count is None else tokenizer.spec.first_codebooks(count))
        self._speed = SpeedMeter()
        self._picks = _picks(tokenizer.spec, options) if codecs else None
        self._conversions: Counter[str] = Counter()
        self._count = self._tokens = 0
        self._encoding = self._decoding = 0.0
        self._warm = False
        self._examples: list[Example] = []
        # A heap with the least bad of the worst samples on top; the count breaks ties, so that the first one stays.
        self._worst: list[tuple[float, int, Example]] = []

    def converted(self, what: str) -> None:
        """Count a sound that had another sample rate or other channels than the tokenizer wants."""
        if what not in self._conversions:
            self._progress.note(f"sounds of {what.replace(' to ', ' are converted to ', 1)}")
        self._conversions[what] += 1

    def add(self, batch: Sequence[KeyedSample]) -> None:
        """Measure a batch."""
        items: list[_Item] = []
        for group in _of_one_size(batch):
            items += self._encode_and_decode(group)
        for item in sorted(items, key=lambda item: item.place):
            self._keep(item)
            self._count += 1
        self._progress.update(self._count, samples=self._count, tokens=self._tokens)

    def _encode_and_decode(self, group: list[tuple[int, KeyedSample]]) -> list[_Item]:
        batch = [item for _, item in group]
        if not self._warm:
            self._warm = True
            # What is built at the first use (tables, compiled kernels) is no property of the speed.
            silent = _Failures(len(batch), Progress(enabled=False))
            ready, grids = _encode(self._tokenizer, batch, silent, self._options.codebooks)
            decode_like(self._tokenizer, grids, [item.sample for item in ready])
        began = time.perf_counter()
        kept, grids = _encode(self._tokenizer, batch, self.failures, self._options.codebooks)
        samples = [item.sample for item in kept]
        encoded = time.perf_counter()
        reconstructions = decode_like(self._tokenizer, grids, samples)
        decoded = time.perf_counter()
        if not kept:
            return []
        self._encoding += encoded - began
        self._decoding += decoded - encoded
        if isinstance(samples[0], Tensor) and self._tokenizer.spec.modality == "image":
            self._speed.add(samples[0].shape[-2:], len(kept), encoded - began, decoded - encoded)
        for ids in grids:
            self._usage.update(ids)
            self._tokens += ids.numel()
        judgements = self._measure.add(samples, reconstructions)
        places = {id(item): place for place, item in group}
        return [
            _Item(places[id(item)], item, ids, reconstruction, judgement)
            for item, ids, reconstruction, judgement in zip(kept, grids, reconstructions, judgements, strict=True)
        ]

    def _keep(self, item: _Item) -> None:
        """Keep a sample for the report if it is one of the first or of the worst, and for the comparison with codecs."""
        if self._picks is not None:
            self._picks.offer(cast("Tensor", item.source.sample), item.ids)
        if len(self._examples) < self._options.examples:
            self._examples.append(self._example(item))
        loss = item.judgement.loss
        if not loss or not self._options.examples:
            return
        if len(self._worst) < self._options.examples:
            heapq.heappush(self._worst, (loss, -self._count, self._example(item)))
        elif loss > self._worst[0][0]:
            heapq.heapreplace(self._worst, (loss, -self._count, self._example(item)))

    def _example(self, item: _Item) -> Example:
        sample, ids, reconstruction = item.source.sample, item.ids, item.reconstruction
        if isinstance(sample, str) and len(sample) > _EXAMPLE_CHARACTERS:
            sample = sample[:_EXAMPLE_CHARACTERS]
            ids = self._tokenizer.encode(sample)
            reconstruction = self._tokenizer.decode(ids)
        tokens = self._tokenizer.tokens(ids) if isinstance(self._tokenizer, ShowsTokens) else None
        shown = [] if tokens is None else ids.reshape(-1).tolist()
        return Example(
            item.source.key, self._kept(sample), self._kept(reconstruction), shown, tokens, item.judgement.note
        )

    def result(self) -> EvaluateResult:
        """Return what was measured."""
        options, tokenizer = self._options, self._tokenizer
        if not self._count:
            part = "" if options.part == "all" else f" of the {options.part} part"
            raise ValueError(
                f"no sample{part} in {', '.join(options.data)} can be read and encoded ({self.failures.count} failed)"
            )
        codebooks = self._usage.summaries()
        bits = math.fsum(codebook.entropy_bits * codebook.tokens for codebook in codebooks)
        fixed_bits = math.fsum(math.log2(codebook.vocab_size) * codebook.tokens for codebook in codebooks)
        size = sum(codebook.vocab_size for codebook in codebooks)
        used = sum(codebook.used for codebook in codebooks)
        metrics = self._measure.summary(Totals(self._tokens, fixed_bits, bits, self._encoding, self._decoding))
        metrics |= {
            "tokens": self._tokens,
            "vocabulary_used": used,
            "vocabulary_usage": used / size,
            "dead_codes": size - used,
            "entropy_bits_per_token": bits / self._tokens,
            "perplexity": math.fsum(codebook.perplexity for codebook in codebooks) / len(codebooks),
        }
        rate = None
        if self._picks is not None:
            rate = _compared(tokenizer, self._picks, codebooks, self._progress)
        ordered = [self._usage.counts(number).sort(descending=True).values for number in range(len(codebooks))]
        return EvaluateResult(
            tokenizer=options.tokenizer,
            name=tokenizer_name(tokenizer),
            fingerprint=tokenizer.fingerprint,
            modality=tokenizer.spec.modality,
            part="all"
            if options.part == "all"
            else f"{options.part}, validation fraction {options.validation_fraction:g}",
            samples=self._count,
            failures=self.failures.count,
            metrics=metrics,
            codebooks=codebooks,
            speed_by_size=self._speed.rows(),
            rate=rate,
            protocol=self._protocol(),
            examples=self._examples,
            worst=[example for _, _, example in sorted(self._worst, key=lambda entry: entry[:2], reverse=True)],
            usage_counts=[counts[counts > 0].tolist() for counts in ordered],
            sample_rate=tokenizer.spec.sample_rate,
            conversions=dict(sorted(self._conversions.items())),
        )

    def _protocol(self) -> str:
        """Return how the numbers were taken, one line a subject."""
        lines = []
        if self._options.part != "all":
            verb = "trains on" if self._options.part == "train" else "holds out"
            lines.append(
                f"Only samples that a trainer with --validation-fraction {self._options.validation_fraction:g} {verb} were "
                "measured, by the hash of their keys."
            )
        if self._options.image_size is not None:
            lines.append(f"Pictures were scaled and cropped to {self._options.image_size} pixels a side first.")
        if self._options.codebooks is not None:
            lines.append(f"Only the first {self._options.codebooks} codebooks of each place were decoded and counted.")
        for what, count in sorted(self._conversions.items()):
            lines.append(f"{count:,} sounds were converted from {what} when they were read.")
        threads = torch.get_num_threads()
        lines += [
            self._measure.protocol(),
            f"Usage, dead codes (ids that never occurred), entropy and perplexity are counted over all {self._tokens:,} tokens "
            "together; perplexity is the mean over codebooks.",
            "Speeds are totals over the time of the encode and decode calls, with batches of up to "
            f"{_BATCH_SAMPLES} samples of one size and {threads} thread{'s' * (threads > 1)}; the first batch is run once "
            "before the clock starts, and reading files is not part of it.",
        ]
        return "\n".join(lines)

    def _kept(self, sample: Sample) -> Sample:
        """Return what is kept of an example: the beginning of a sound, a large picture smaller, no view of something larger."""
        rate = self._tokenizer.spec.sample_rate
        if isinstance(sample, str):
            return sample
        if rate is not None:
            return sample[:, : _EXAMPLE_SECONDS * rate].clone()
        return _smaller(sample)


def _picks(spec: TokenSpec, options: EvaluateOptions) -> Picks | SoundPicks:
    from tokenize_kit.metrics.audio_rate import SoundPicks
    from tokenize_kit.metrics.rate import Picks

    if spec.modality == "image":
        return Picks(options.codec_pictures)
    assert spec.sample_rate is not None, "a measure of sounds was made, which needs it"
    return SoundPicks(options.codec_pictures, spec.sample_rate)


def _compared(
    tokenizer: Tokenizer, picks: Picks | SoundPicks, usage: Sequence[Usage], progress: Progress
) -> RateComparison | AudioRateComparison:
    from tokenize_kit.metrics.audio_rate import SoundPicks, compare_sounds
    from tokenize_kit.metrics.rate import compare

    if isinstance(picks, SoundPicks):
        return compare_sounds(tokenizer, picks.items, usage, progress)
    return compare(tokenizer, picks.items, usage, progress)


def _smaller(sample: Tensor) -> Tensor:
    if min(sample.shape[-2:]) > _EXAMPLE_SIDE:
        from tokenize_kit.media.image import resize_image

        return resize_image(sample, _EXAMPLE_SIDE, crop=False)
    return sample.clone()


def _keep(options: EvaluateOptions) -> Callable[[str], bool] | None:
    if options.part == "all":
        return None
    part, fraction = options.part, options.validation_fraction
    return lambda key: in_part(key, part, fraction)


def _of_one_size(batch: Sequence[KeyedSample]) -> list[list[tuple[int, KeyedSample]]]:
    """Divide a batch by the size of the pictures, each sample with its place in the batch; texts stay together."""
    groups: dict[tuple[int, ...], list[tuple[int, KeyedSample]]] = {}
    for place, item in enumerate(batch):
        size = () if isinstance(item.sample, str) else tuple(item.sample.shape)
        groups.setdefault(size, []).append((place, item))
    return list(groups.values())


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
    tokenizer: Tokenizer, batch: list[KeyedSample], failures: _Failures, codebooks: int | None
) -> tuple[list[KeyedSample], list[Tensor]]:
    """Encode a batch; where it has a sample that the tokenizer refuses, leave that one out and keep the others."""

    def cut(grid: Tensor) -> Tensor:
        return grid if codebooks is None else first_codebooks(grid, codebooks)

    try:
        return batch, [cut(grid) for grid in tokenizer.encode_batch([item.sample for item in batch])]
    except ValueError:
        kept: list[KeyedSample] = []
        grids: list[Tensor] = []
        for item in batch:
            try:
                grids.append(cut(tokenizer.encode(item.sample)))
                kept.append(item)
            except ValueError as error:
                failures.add(item.key, str(error))
        return kept, grids


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if value is None:
        return "not defined"
    return f"{value:,}" if isinstance(value, int) else str(value)
