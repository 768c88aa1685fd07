"""``encode``: a whole run, from options to a finished shard set.

A run is a plan and its units. ``plan.json`` is written first, so that a later run can prove that it continues the same one;
each unit leaves a shard and a ledger; ``failures.jsonl`` and ``dataset.json`` are put together when all units are done. Only
the standard library is imported before `encode` is called, so that ``--help`` is instant.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.files import signed, write_json, write_text
from tokenize_kit.partial import remove_abandoned_below
from tokenize_kit.progress import Progress, several
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.shards.request import (
    MB,
    check_codebooks,
    check_image_size,
    check_numbers,
    check_shared,
    load_tokenizers,
    named_executor,
    stream_of,
)
from tokenize_kit.shards.result import EncodeResult

if TYPE_CHECKING:
    from tokenize_kit.protocol import Tokenizer
    from tokenize_kit.shards.executors.base import Executor, Job
    from tokenize_kit.shards.ledger import UnitResult
    from tokenize_kit.sources.planning import Unit
    from tokenize_kit.sources.reading import Failure


def encode(
    options: EncodeOptions,
    progress: Progress | None = None,
    loaded: Mapping[str, Tokenizer] | None = None,
    leave_out: Sequence[str] = (),
) -> EncodeResult:
    """Turn files into a shard set; continues a run that was stopped, and returns at once if it is complete.

    Args:
        options: what to read, how, and where to.
        progress: where to show how far it is.
        loaded: tokenizers that are in memory already, by the folder that ``options.tokenizer`` names.
        leave_out: folders besides ``options.out`` that are no input, though they may lie inside it.

    Raises:
        FileNotFoundError: a tokenizer or an input is not there.
        ValueError: an option is wrong, a field is missing, the input holds no samples, or the folder belongs to another run.
        TooManyFailuresError: more samples than ``max_failures``, or all of them, could not be read.
        MissingPackageError: the executor needs a package that is not installed.
        RuntimeError: a worker died.
        OSError: the disk is full, or an input cannot be read. In all cases finished shards are kept.
    """
    return _Run(options, progress or Progress(enabled=False), loaded or {}, leave_out).run()


class _Run:
    def __init__(
        self,
        options: EncodeOptions,
        progress: Progress,
        loaded: Mapping[str, Tokenizer],
        leave_out: Sequence[str],
    ) -> None:
        from tokenize_kit.protocol import allowed_tokens, modality_named, placement_for
        from tokenize_kit.protocol.augmentations import augmentations_of
        from tokenize_kit.shards.feeds import feeds_of
        from tokenize_kit.shards.format import shard_schema
        from tokenize_kit.shards.recipe import Recipe
        from tokenize_kit.sources.decoding import check_timed, clips_of
        from tokenize_kit.sources.fields import check_places, resolve_columns
        from tokenize_kit.sources.planning import ReadOptions, find_sources, plan_units

        self.options = options
        self.progress = progress
        self.began = time.monotonic()
        self.part, self.parts = check_numbers(options)
        self.executor = named_executor(options)
        self.tokenizers, views = load_tokenizers(options.tokenizer, loaded, options.view)
        self.placement = placement_for(self.tokenizers.values(), options.device, options.precision)
        streams = tuple(stream_of(name, tokenizer) for name, tokenizer in self.tokenizers.items())
        # What is a view is read from nowhere, but made of its stream.
        viewed = {view.stream for view in views}
        read_streams = [stream for stream in streams if stream.name not in viewed]
        modalities = {stream.name: stream.spec.modality for stream in read_streams}
        self.feeds = feeds_of(modalities, options.field, options.media_field)
        read = ReadOptions(
            modalities=self.feeds.modalities,
            split=options.split,
            text_field=self.feeds.text_field,
            media_field=self.feeds.media_field,
            max_document_bytes=round(options.max_document_mb * MB),
            named=self.feeds.named,
            incomplete=options.incomplete,
        )
        kinds = [modality_named(name) for name in dict.fromkeys(stream.spec.modality for stream in streams)]
        if options.image_size is not None:
            check_image_size(options.image_size, [stream.spec for stream in read_streams])
        if options.augment_seed and not options.augment:
            raise ValueError(f"--augment-seed {options.augment_seed} is for --augment, which is not given")
        if options.augment_seed < 0:
            raise ValueError(f"--augment-seed {options.augment_seed} must not be negative")
        augment = augmentations_of(
            options.augment, {name: modality_named(modality) for name, modality in modalities.items()}
        )
        clips = clips_of(options.clip_frames, options.clip_stride, options.clip_tail)
        check_timed(options.fps, clips, [stream.spec for stream in streams])
        self.converted = " and ".join(kind.plural for kind in kinds if kind.converts)
        # What a run writes is no input of it: it could not be continued otherwise.
        self.files = find_sources(options.data, read, (options.out, *leave_out), progress.note)
        if note := check_places(self.files, read, self.feeds.unclear):
            progress.note(note)
        read = resolve_columns(self.files, read, options.columns)
        shard_schema(streams, read.columns)
        check_codebooks(self.tokenizers, options.codebooks)
        allowed, size = allowed_tokens(options.allow_special), options.image_size
        self.recipe = Recipe(
            read,
            streams,
            size,
            options.crop,
            options.codebooks,
            allowed,
            options.pad,
            options.fps,
            clips,
            views,
            tuple(sorted(augment.items())),
            options.augment_seed,
        )
        sources = Counter(self.recipe.sources[name] for name in augment)
        if twice := [name for name in augment if sources[self.recipe.sources[name]] > 1]:
            raise ValueError(
                f"--augment: {' and '.join(twice)} are the same samples; say for one of them what is drawn"
            )
        self.recipe.prepared(self.tokenizers)  # here already: a token that there is not shall stop the run at once
        check_shared(self.recipe)
        self.units = plan_units(self.files, read, round(options.shard_mb * MB))
        self.out = Path(options.out)
        self.rows = self.tokens = self.bytes = self.failed = 0
        self.conversions: Counter[str] = Counter()
        self.results: dict[int, UnitResult] = {}
        self.before: dict[str, Any] = {}

    def run(self) -> EncodeResult:
        if self.options.dry_run:
            return self._estimate()
        from tokenize_kit.claims import shared
        from tokenize_kit.shards.plan import begin_plan

        plan = self._plan()

        def begin(alone: bool) -> None:
            self.before = begin_plan(self.out, plan, alone=alone)

        with shared(self.out, begin):
            remove_abandoned_below(self.out)
            return self._run(plan)

    def _run(self, plan: dict[str, Any]) -> EncodeResult:
        # In a thread, because a large vocabulary takes as long to write as some megabytes to encode.
        with ThreadPoolExecutor(1) as background:
            saved = background.submit(self._save_tokenizers)
            complete = self._encode(saved.result, plan)
            saved.result()
        results = [self.results[index] for index in sorted(self.results)]
        if complete:
            self._finish(results, plan)
        return self._result(results, complete)

    def _save_tokenizers(self) -> None:
        """Let the tokenizers travel with their tokens: a model that is trained on these needs nothing else to decode.

        Workers load them from there too, so that all have those of this run, wherever it got them from.
        """
        for name, tokenizer in self.tokenizers.items():
            tokenizer.save(self._folder(name))

    def _folder(self, name: str) -> Path:
        from tokenize_kit.shards.format import TOKENIZERS_FOLDER

        return self.out / TOKENIZERS_FOLDER / name

    def _plan(self) -> dict[str, Any]:
        """Return what must be equal for two runs to be the same one."""
        from tokenize_kit.shards.touched import written_of
        from tokenize_kit.sources.planning import input_digest

        values = asdict(self.options)
        names = ["split", "field", "media_field", "image_size", "crop", "shard_mb", "max_document_mb", "limit"]
        # Where they say nothing they are left out, so that runs from before there were these options can be continued.
        later = ("codebooks", "pad", "fps", "clip_frames", "clip_stride", "clip_tail")
        names += [name for name in later if values[name] not in (None, False, "keep")]
        values["field"] = self.feeds.text_field
        if self.feeds.places:
            # Left out where it says nothing, so that runs from before there was the option can be continued.
            values["fields"] = self.feeds.places
            names.append("fields")
        if self.recipe.views:
            values["views"] = {view.stream: view.operations for view in self.recipe.views}
            names.append("views")
        if self.recipe.augment:
            values["augment"] = dict(self.recipe.augment)
            names += ["augment", "augment_seed"]
        if self.recipe.allow_special:
            values["allow_special"] = list(self.recipe.allow_special)
            names.append("allow_special")
        return {
            "format_version": 1,
            "streams": {stream.name: stream.to_dict() for stream in self.recipe.streams},
            "columns": self.recipe.read.columns,
            "options": {name: values[name] for name in names} | self.placement.to_dict(),
            "inputs": {
                "files": len(self.files),
                "bytes": sum(file.size for file in self.files),
                "digest": input_digest(self.files),
            },
            "inputs_written": input_digest(self.files, versions=True),
            "written": written_of(self.units, self.files),
            "shards": len(self.units),
        }

    def _encode(self, saved: Callable[[], None], plan: dict[str, Any]) -> bool:
        """Encode what is not done yet; False if other parts of the run are still to come."""
        from tokenize_kit.shards.executors.base import Job, Setup
        from tokenize_kit.shards.ledger import FailureLimitError, finished_unit

        limited = self.options.limit is not None
        setup = Setup(
            self.recipe,
            {name: str(self._folder(name)) for name in self.tokenizers},
            tuple(dict.fromkeys(type(tokenizer).__module__ for tokenizer in self.tokenizers.values())),
            str(self.out),
            self.options.max_failures,
            self.placement,
        )
        job = Job(setup, self.tokenizers, saved, self._report, self._count, self._left)
        try:
            self._prove_touched(plan, job)
            self.progress.task("encode", None if limited else sum(unit.size for unit in self.units))
            # With a limit the units follow one another: what is left for one depends on those before.
            units = self._first_units() if limited else self._open_units()
            if units:
                self._executor_for(units).run(units, job)
        except FailureLimitError as error:
            self._stop(error.failures)
        if limited:
            return True
        # Other parts may have finished since the start.
        for unit in self.units:
            if unit.index not in self.results and (result := finished_unit(self.out, unit, self.recipe)):
                self.results[unit.index] = result
        complete = len(self.results) == len(self.units)
        if complete:
            self.progress.finish()
        return complete

    def _prove_touched(self, plan: dict[str, Any], job: Job) -> None:
        """Look again at the finished units of this part whose input files were written since; see `touched.prove`."""
        from tokenize_kit.shards.format import PLAN_FILE
        from tokenize_kit.shards.ledger import finished_unit
        from tokenize_kit.shards.touched import known_now, prove, prove_in_order, touched

        changed = touched(self.before, plan)
        if not changed:
            return
        mine = [unit for unit in self.units if unit.index % self.parts == self.part]
        if self.options.limit is not None:
            prove_in_order(changed, self.units, self.options.limit, self.out, job, self._executor_for)
        else:
            finished = {
                unit.index: result
                for unit in mine
                if unit.index in changed and (result := finished_unit(self.out, unit, self.recipe))
            }
            if finished:
                made = several(len(finished), "shards")
                self.progress.note(
                    f"input files were written again since the run began: {made} {'is' if len(finished) == 1 else 'are'} "
                    "made again and compared"
                )
                prove(finished, [unit for unit in mine if unit.index in finished], self.out, job, self._executor_for)
        # The units of other parts are theirs to prove.
        known = known_now(self.before, plan, {unit.index for unit in mine})
        write_json(self.out / PLAN_FILE, signed({**plan, "written": known}))

    def _executor_for(self, units: Iterable[Unit]) -> Executor:
        """Return the executor that the user named, or else one that fits; a limit is kept by one process."""
        from tokenize_kit.shards.executors.base import executor_named

        if self.executor is not None and self.options.limit is None:
            return self.executor
        one = self.options.limit is not None or self.options.workers == 1 or len(list(units)) <= 1
        return executor_named("serial" if one else "processes")(self.options)

    def _open_units(self) -> list[Unit]:
        """Take over what is finished, and return what is left for this part of the run."""
        from tokenize_kit.shards.ledger import finished_unit

        found = []
        for unit in self.units:
            if result := finished_unit(self.out, unit, self.recipe):
                self.bytes += unit.size
                self._count(result)
            elif unit.index % self.parts == self.part:
                found.append(unit)
        return found

    def _first_units(self) -> Iterator[Unit]:
        """Yield units, each when the one before is done, until they have ``limit`` samples."""
        from tokenize_kit.shards.ledger import finished_unit

        for unit in self.units:
            samples, _ = self._left()
            if samples == 0:
                return
            if result := finished_unit(self.out, unit, self.recipe, samples):
                self._count(result)
            else:
                yield unit

    def _left(self) -> tuple[int | None, int]:
        """Return how many samples and failures the next unit may have."""
        limit = self.options.limit
        if limit is not None:
            limit -= sum(result.samples for result in self.results.values())
        return limit, self.options.max_failures - self.failed

    def _report(self, samples: int, tokens: int, size: int) -> None:
        self.rows += samples
        self.tokens += tokens
        self.bytes += size
        seconds = max(1e-9, time.monotonic() - self.began)
        fields: dict[str, int | float | str] = {"samples": self.rows, "tokens": self.tokens}
        if self.failed:
            fields["failed"] = self.failed
        self.progress.update(self.bytes, **fields, **{"MB/s": round(self.bytes / MB / seconds, 2)})

    def _count(self, result: UnitResult) -> None:
        """Keep a finished unit and stop the run if there are too many failures by now."""
        from tokenize_kit.protocol.notes import announced
        from tokenize_kit.sources.blocks import count_lost

        self.results[result.unit] = result
        for what in result.conversions.keys() - self.conversions:
            self.progress.note(announced(self.converted, what))
        self.conversions.update(result.conversions)
        self.failed += count_lost(result.failures)
        if self.failed > self.options.max_failures:
            self._stop([])

    def _stop(self, more: Sequence[Failure]) -> NoReturn:
        from tokenize_kit.sources.blocks import count_lost

        failures = [failure for index in sorted(self.results) for failure in self.results[index].failures]
        failures = [failure for failure in [*failures, *more] if not failure.incomplete]
        _write_failures(self.out, failures)
        raise TooManyFailuresError(
            f"{count_lost(failures):,} samples could not be read, more than --max-failures {self.options.max_failures}; "
            f"{self.out}/failures.jsonl lists them, {_most_frequent(failures)}. Finished shards are kept: mend the input in a "
            "new run, or continue this one with a higher --max-failures"
        )

    def _finish(self, results: Sequence[UnitResult], plan: dict[str, Any]) -> None:
        from tokenize_kit.shards.card import write_card
        from tokenize_kit.shards.format import FAILURES_FILE, INCOMPLETE_FILE, Manifest
        from tokenize_kit.shards.ledger import listed
        from tokenize_kit.sources.blocks import count_lost

        lists = listed(failure for result in results for failure in result.failures)
        failures, incomplete = lists[FAILURES_FILE], lists[INCOMPLETE_FILE]
        # dataset.json follows in the same folder.
        _write_failures(self.out, failures, durable_name=False)
        _write_incomplete(self.out, incomplete)
        if not any(result.file.rows for result in results):
            if failures or incomplete:
                names = [name for name, some in (("failures", failures), ("incomplete", incomplete)) if some]
                raise TooManyFailuresError(
                    f"none of {count_lost(failures) + count_lost(incomplete):,} samples could be read; "
                    f"{' and '.join(f'{self.out}/{name}.jsonl' for name in names)} {'list' if names[1:] else 'lists'} them, "
                    f"{_most_frequent([*failures, *incomplete])}"
                )
            raise ValueError(f"the input holds no samples: {', '.join(self.options.data)}")
        manifest = Manifest(
            {stream.name: stream for stream in self.recipe.streams},
            self.recipe.read.columns,
            tuple(result.file for result in results),
            plan["options"],
            plan["inputs"],
            count_lost(failures),
            count_lost(incomplete),
        )
        write_card(self.out, manifest)
        write_json(self.out / "dataset.json", manifest.to_dict())
        # Left behind by killed processes; what another run writes here at this moment is its own.
        remove_abandoned_below(self.out)

    def _result(self, results: Sequence[UnitResult], complete: bool) -> EncodeResult:
        from tokenize_kit.sources.blocks import count_incomplete, count_lost

        return EncodeResult(
            out=self.options.out,
            rows=sum(result.file.rows for result in results),
            tokens={name: sum(result.file.tokens[name] for result in results) for name in self.tokenizers},
            shards=len(results),
            failures=sum(count_lost(result.failures) for result in results),
            incomplete=sum(count_incomplete(result.failures) for result in results),
            input_bytes=sum(self.units[result.unit].size for result in results),
            output_bytes=sum(result.file.bytes for result in results),
            seconds=round(time.monotonic() - self.began, 3),
            complete=complete,
            conversions=_added(result.conversions for result in results),
            converted=self.converted,
            passed_over=self.files.to_dict(),
            told=self.progress.enabled,
        )

    def _estimate(self) -> EncodeResult:
        from tokenize_kit.shards.estimate import estimate

        placed = {name: self.placement.place(tokenizer) for name, tokenizer in self.tokenizers.items()}
        seen = estimate(self.units, placed, self.recipe)
        total = sum(unit.size for unit in self.units)
        if not seen.bytes or not (seen.rows or seen.failures):
            raise ValueError(f"the input holds no samples: {', '.join(self.options.data)}")
        scale = total / seen.bytes
        if self.options.limit is not None and seen.rows:
            scale = min(scale, self.options.limit / seen.rows)
        return EncodeResult(
            out=self.options.out,
            rows=round(seen.rows * scale),
            tokens={name: round(count * scale) for name, count in seen.tokens.items()},
            shards=len(self.units),
            failures=round(seen.failures * scale),
            incomplete=round(seen.incomplete * scale),
            input_bytes=round(seen.bytes * scale),
            output_bytes=round(seen.output_bytes * scale),
            seconds=round(seen.first_seconds + seen.seconds * scale / min(self.options.workers, len(self.units)), 1),
            estimated=True,
            passed_over=self.files.to_dict(),
            told=self.progress.enabled,
        )


def _write_failures(out: Path, failures: Sequence[Failure], *, durable_name: bool = True) -> None:
    from tokenize_kit.shards.ledger import failure_lines

    write_text(out / "failures.jsonl", failure_lines(failures), durable_name=durable_name)


def _write_incomplete(out: Path, incomplete: Sequence[Failure]) -> None:
    """List the incomplete samples, if there are any."""
    from tokenize_kit.shards.format import INCOMPLETE_FILE
    from tokenize_kit.shards.ledger import failure_lines

    path = out / INCOMPLETE_FILE
    if incomplete:
        write_text(path, failure_lines(incomplete), durable_name=False)
    else:
        path.unlink(missing_ok=True)


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _most_frequent(failures: Sequence[Failure]) -> str:
    reasons: Counter[str] = Counter()
    for failure in failures:
        reasons[failure.reason] += failure.samples
    reason, count = reasons.most_common(1)[0]
    first = next(failure for failure in failures if failure.reason == reason)
    return f"most frequent ({count} times) is: {first.key}: {reason}"
