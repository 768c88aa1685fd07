"""Run a tokenizer over real data and say what is lost, how short the tokens are, how the vocabulary is used, how fast.

What is measured depends on the `Modality` of the tokenizer's spec and on nothing else, so a tokenizer or a kind of data from
another package is measured as ours are. The memory that is used does not grow with the data: besides the numbers only the
samples that the report shows are kept, and the few that are compared with codecs.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.metrics.examples import Examples
from tokenize_kit.metrics.measures import Judgement, Totals, measure_of
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.rate import Codecs, Picks, compare
from tokenize_kit.metrics.result import EvaluateResult
from tokenize_kit.metrics.usage import UsageCounter
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import (
    Modality,
    Tokenizer,
    allowing,
    decode_like,
    file_of,
    first_codebooks,
    load_tokenizer,
    modality_of,
    placed,
    resolved,
    tokenizer_name,
)
from tokenize_kit.protocol.notes import announced, counted
from tokenize_kit.sources.blocks import Failure, one_line
from tokenize_kit.sources.decoding import clips_of
from tokenize_kit.sources.heldout import KeyList, in_part, read_keys
from tokenize_kit.sources.samples import KeyedSample, iter_samples

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

_BATCH_SAMPLES = 32
_BATCH_VALUES = 1 << 22


def evaluate(
    options: EvaluateOptions, progress: Progress, codecs: bool = False, loaded: Tokenizer | None = None
) -> EvaluateResult:
    """Evaluate ``options.tokenizer`` on the samples of ``options.data``.

    Args:
        options: what to measure.
        progress: is told of every batch.
        codecs: compare with the classical codecs of this kind of data.
        loaded: the tokenizer, where it is in memory already.

    Raises:
        FileNotFoundError: the tokenizer, the data or a weights file is not there.
        ValueError: not a single sample can be read and encoded, or an option does not suit the tokenizer.
        MissingWeightsError: weights that were asked for cannot be had.
        TooManyFailuresError: more than ``options.max_failures`` samples cannot be read or encoded.
    """
    tokenizer = placed(loaded or load_tokenizer(options.tokenizer), options.device, options.precision)
    tokenizer = allowing(tokenizer, options.allow_special)
    if options.codebooks is not None:
        tokenizer.spec.first_codebooks(options.codebooks)
    kind = modality_of(tokenizer.spec)
    if options.image_size is not None and kind.resizable:
        tokenizer.spec.check_image_size(options.image_size)
    listed = None if options.validation_keys is None else _Listed(read_keys(options.validation_keys), options.part)
    run = _Run(tokenizer, options, progress, codecs)
    samples = iter_samples(
        options.data,
        tokenizer.spec,
        run.failures.add,
        split=options.split,
        field=options.field,
        media_field=options.media_field,
        image_size=options.image_size,
        pad=options.pad,
        fps=options.fps,
        clips=clips_of(options.clip_frames, options.clip_stride, options.clip_tail),
        keep=_keep(options) if listed is None else listed.keep,
        on_conversion=run.converted,
        on_remark=progress.note,
        leave_out=() if options.out is None else (options.out,),
    )
    progress.task("evaluate", options.limit)
    for batch in _batches(samples, kind, options.limit):
        run.add(batch)
    progress.finish()
    if listed is not None and options.limit is None and (said := listed.unmatched()):
        progress.note(said)
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
        self._kind = modality_of(tokenizer.spec)
        self._measure = measure_of(tokenizer.spec, options)
        count = options.codebooks
        self._usage = UsageCounter(tokenizer.spec if count is None else tokenizer.spec.first_codebooks(count))
        self._codecs: Codecs[Any] | None = None
        if codecs and self._kind.codecs:
            self._codecs = resolved(self._kind.codecs)(tokenizer.spec)
        self._picks = None if self._codecs is None else Picks(options.codec_pictures, self._codecs)
        self._conversions: Counter[str] = Counter()
        self._count = self._tokens = 0
        self._encoding = self._decoding = self._loss = 0.0
        self._warm = False
        self._examples = Examples(tokenizer, options.examples)

    def converted(self, what: str) -> None:
        """Count a sample that was not as the tokenizer wants it, see `Modality.conversion`."""
        if what not in self._conversions:
            self._progress.note(announced(self._kind.plural, what))
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
        self._measure.timed(samples, encoded - began, decoded - encoded)
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
        """Offer a sample to the report and to the comparison with codecs."""
        self._loss += item.judgement.loss
        if self._picks is not None:
            self._picks.offer(cast("Tensor", item.source.sample), item.ids)
        self._examples.offer(item.source, item.ids, item.reconstruction, item.judgement)

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
        if self._codecs is not None and self._picks is not None:
            rate = compare(self._codecs, tokenizer, self._picks.items, codebooks, self._progress)
        ordered = [self._usage.counts(number).sort(descending=True).values for number in range(len(codebooks))]
        return EvaluateResult(
            tokenizer=options.tokenizer,
            name=tokenizer_name(tokenizer),
            fingerprint=tokenizer.fingerprint,
            modality=tokenizer.spec.modality,
            part=_part(options),
            samples=self._count,
            failures=self.failures.count,
            metrics=metrics,
            codebooks=codebooks,
            speed_by_size=self._measure.speed_by_size(),
            rate=rate,
            protocol=self._protocol(),
            examples=self._examples.first,
            worst=self._examples.worst,
            usage_counts=[counts[counts > 0].tolist() for counts in ordered],
            spec=tokenizer.spec,
            sample_rate=tokenizer.spec.sample_rate,
            conversions=dict(sorted(self._conversions.items())),
            loss=self._loss / self._count,
            loss_name=self._measure.loss_name,
        )

    def _protocol(self) -> str:
        """Return how the numbers were taken, one line a subject."""
        lines = []
        if self._options.part != "all":
            verb = "trains on" if self._options.part == "train" else "holds out"
            keys, how = self._options.validation_keys, "by their keys"
            given = f"--validation-keys {keys}"
            if keys is None:
                given, how = f"--validation-fraction {self._options.validation_fraction:g}", "by the hash of their keys"
            lines.append(f"Only samples that a trainer with {given} {verb} were measured, {how}.")
        if self._options.image_size is not None:
            how = "padded" if self._options.pad else "cropped"
            lines.append(
                f"{self._kind.plural.capitalize()} were scaled and {how} to {self._options.image_size} pixels a side first."
            )
        if self._options.allow_special:
            lines.append(f"Special tokens in texts became their ids: {', '.join(self._options.allow_special)}.")
        if self._options.codebooks is not None:
            lines.append(f"Only the first {self._options.codebooks} codebooks of each place were decoded and counted.")
        for what, count in sorted(self._conversions.items()):
            lines.append(f"{counted(count, self._kind.plural, what)} when they were read.")
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


class _Listed:
    """Keeps the samples of one part by a list of keys, and remembers which of these have come."""

    def __init__(self, listed: KeyList, part: str) -> None:
        self._listed, self._held_out = listed, part == "held-out"
        self._left = set(listed.keys)
        self._example = ""

    def keep(self, key: str) -> bool:
        """Return whether a sample is of the part that is measured."""
        self._example = self._example or key
        self._left.discard(file_of(key))
        return (key in self._listed) == self._held_out

    def unmatched(self) -> str:
        """See `KeyList.unmatched`."""
        return self._listed.told(self._left, self._example)


def _part(options: EvaluateOptions) -> str:
    """Return the part of the samples that is measured, in words."""
    if options.part == "all":
        return "all"
    keys = options.validation_keys
    return f"{options.part}, {f'validation fraction {options.validation_fraction:g}' if keys is None else f'keys of {keys}'}"


def _keep(options: EvaluateOptions) -> Callable[[str], bool] | None:
    if options.part == "all":
        return None
    part, fraction = options.part, options.validation_fraction
    return lambda key: in_part(key, part, fraction)


def _of_one_size(batch: Sequence[KeyedSample]) -> list[list[tuple[int, KeyedSample]]]:
    """Divide a batch by the shape of the samples, each with its place in the batch; texts have none and stay together."""
    groups: dict[tuple[int, ...], list[tuple[int, KeyedSample]]] = {}
    for place, item in enumerate(batch):
        groups.setdefault(tuple(getattr(item.sample, "shape", ())), []).append((place, item))
    return list(groups.values())


class _Failures:
    def __init__(self, limit: int, progress: Progress) -> None:
        self.count = 0
        self._limit = limit
        self._progress = progress

    def add(self, failure: Failure) -> None:
        self.count += failure.samples
        self._progress.note(f"left out {failure.key}: {failure.reason}")
        if self.count > self._limit:
            raise TooManyFailuresError(
                f"more than {self._limit} samples failed, the last is {failure.key}: {failure.reason}; mend them or raise "
                "--max-failures"
            )


def _batches(samples: Iterator[KeyedSample], kind: Modality, limit: int | None) -> Iterator[list[KeyedSample]]:
    batch: list[KeyedSample] = []
    size = 0
    for count, item in enumerate(samples, 1):
        batch.append(item)
        size += kind.values(item.sample)
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
                failures.add(Failure(item.key, one_line(error)))
        return kept, grids
