"""``score``: from a model folder and samples to ``scores.jsonl``. The numbers are those of `scoring`.

scores.jsonl   against.jsonl   a line a sample, in the order of the data
summary.json                   means and totals, named as the validation of the training names them, and what tells two sets apart
maps/          report.html     where the bits of the first samples are
shards/        against/        what the files of ``--data`` and ``--against`` became
score.json                     what the command was

Each file appears whole. Nothing is drawn, so a command that was stopped makes the same files when it is run again; what is
encoded already is not encoded again. The module loads no torch until it is called.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.progress import Progress, readable, several
from trainers.autoregressive.scoring.options import SCORE_FILE, SUMMARY_FILE, ScoreOptions

if TYPE_CHECKING:
    from tokenize_kit.sequences.packing import Ints
    from trainers.autoregressive.data import TokenData
    from trainers.autoregressive.scoring.anomalies import Rates
    from trainers.autoregressive.scoring.scores import Score
    from trainers.autoregressive.scoring.summary import Summary

SCORES_FILE = "scores.jsonl"
AGAINST_FILE = "against.jsonl"
REPORT_FILE = "report.html"
MAPS = "maps"
SHARDS = "shards"
AGAINST = "against"


@dataclass(frozen=True)
class ScoreResult:
    """How probable a model finds a set of samples."""

    out: str
    """The folder; its scores.jsonl has a line for each sample."""
    samples: int
    """How many were scored."""
    cut: int
    """How many of them are longer than the model's context and were scored in pieces."""
    tokens: int
    """Predicted tokens."""
    nats: float
    """Log-likelihood of all samples together."""
    nats_per_sample: float
    """Its mean."""
    metrics: dict[str, float]
    """Bits a token, a byte, a dimension, named as the validation of a training names them."""
    streams: dict[str, dict[str, float]]
    """The totals of each predicted part."""
    against: dict[str, Any] | None = None
    """The same of the second set."""
    anomalies: dict[str, Any] | None = None
    """What tells it from the first one."""

    def to_text(self) -> str:
        """Return some lines for a person."""
        lines = [
            f"{several(self.samples, 'samples')} of {several(self.tokens, 'tokens')}, {readable(self.nats_per_sample)} nats a "
            f"sample, in {self.out}"
        ]
        lines += [f"{name.replace('_', ' ')}  {value:.4f}" for name, value in self.metrics.items()]
        if self.anomalies is not None:
            for name in ("plain", "corrected"):
                one = self.anomalies[name]
                lines.append(
                    f"{name}: {one['mean']:.3f} and {one['mean_against']:.3f} bits a {self.anomalies['unit']}, AUROC "
                    f"{one['more_bits_are_anomalous']:.3f} if more bits are anomalous, "
                    f"{one['fewer_bits_are_anomalous']:.3f} if fewer are"
                )
        return "\n".join(lines)


def score(options: ScoreOptions, progress: Progress | None = None) -> ScoreResult:
    """Score samples under a model folder and write a line for each.

    Raises:
        FileNotFoundError: the model, a shard set or the data are not there.
        ValueError: the model gives no probability of a sample, the samples do not fit it, the folder holds something else, or the
            options do not fit each other.
        VerificationError: a shard set is not what was written.
    """
    from tokenize_kit.claims import begun

    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the scores")
    own = (SCORES_FILE, AGAINST_FILE, SUMMARY_FILE, REPORT_FILE, f"{MAPS}/*.png")
    foreign = "give an empty or new one, or --overwrite to replace scores there"
    with begun(
        out, SCORE_FILE, identity_of(options), own=own, overwrite=options.overwrite, foreign=foreign
    ) as going_on:
        if not going_on:
            for name in (SHARDS, AGAINST):
                shutil.rmtree(out / name, ignore_errors=True)
        return _Run(options, progress or Progress(enabled=False), out).run()


def identity_of(options: ScoreOptions) -> dict[str, Any]:
    """Return what the scores depend on; shard sets and the model by what they hold, files as `encode` knows them again."""
    from tokenize_kit.files import sha256_of_file
    from tokenize_kit.shards.format import MANIFEST_FILE
    from tokenize_kit.sources.names import printable

    values = {
        name: value for name, value in asdict(options).items() if name not in ("out", "overwrite", "trust_shards")
    }
    model = Path(options.model)
    files = [path for pattern in ("model*", "state.json", "checkpoints/*/state.json") for path in model.glob(pattern)]
    files += [Path(name) / MANIFEST_FILE for name in (*options.shards, *options.against)]
    if options.validation_keys is not None:
        files.append(Path(options.validation_keys))
    sums = {printable(str(path)): sha256_of_file(path) for path in sorted(files) if path.is_file()}
    return {"command": "score", **cast("dict[str, Any]", _printable(values)), "sha256": sums}


def _printable(value: Any) -> Any:
    from tokenize_kit.sources.names import printable

    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


class _Run:
    """One command: the model, what it is given, and what is written."""

    def __init__(self, options: ScoreOptions, progress: Progress, out: Path) -> None:
        import torch
        from torch import nn

        from trainers.autoregressive.model_folder import load_model
        from trainers.autoregressive.models import as_joint
        from trainers.autoregressive.samples_folder import BFLOAT16
        from trainers.autoregressive.scoring.scores import Reader
        from trainers.runtime import resolve_device

        self.options, self.progress, self.out = options, progress, out
        self.loaded = load_model(options.model, resolve_device(options.device)).using(options.template)
        reader = Reader(self.loaded, options.readings)
        if options.maps and as_joint(self.loaded.model) is not None:
            raise ValueError(
                f"--maps {options.maps}: the model gives one probability of a whole sample, so there are no bits a place; leave "
                "--maps out"
            )
        cast("nn.Module", self.loaded.model).to(torch.bfloat16 if options.precision in BFLOAT16 else torch.float32)
        if self.loaded.note:
            progress.note(self.loaded.note)
        if reader.bound:
            progress.note(
                "the model predicts hidden tokens: its bits are an upper bound, estimated from "
                f"{several(options.readings, 'readings')} of each sample"
            )

    def run(self) -> ScoreResult:
        """Score the set, and the one that it is compared with."""
        from tokenize_kit.files import write_json
        from trainers.autoregressive.scoring.anomalies import codes_of, compare

        options = self.options
        data, chosen = self._opened(options.shards, options.data, SHARDS, options)
        second = self._second()
        summary, rates = self._scored(data, chosen, SCORES_FILE)
        values = summary.to_dict()
        compared = None
        if second is not None:
            against, other = self._scored(*second, AGAINST_FILE)
            compared = (rates, other)
            values |= {"against": against.to_dict(), "anomalies": asdict(compare(*compared, codes_of(self.loaded)))}
        if options.maps or compared is not None:
            from trainers.autoregressive.scoring.report import add_maps, score_page

            page = score_page(self.loaded, values, compared)
            if options.maps:
                add_maps(page, self.loaded, data, chosen[: options.maps], self.out / MAPS, options.readings)
            page.write(self.out / REPORT_FILE)
        write_json(self.out / SUMMARY_FILE, values)
        return ScoreResult(str(self.out), **values)

    def _second(self) -> tuple[TokenData, Ints] | None:
        """Open the second set, if there is one; all of it is compared, whatever the part of the first."""
        from trainers.autoregressive.scoring.data import are_shards

        against = self.options.against
        if not against:
            return None
        shards, data = (against, ()) if are_shards(against) else ((), against)
        return self._opened(shards, data, AGAINST, replace(self.options, part="all", validation_keys=None))

    def _opened(
        self, shards: tuple[str, ...], data: tuple[str, ...], name: str, options: ScoreOptions
    ) -> tuple[TokenData, Ints]:
        """Open shard sets, or encode files into the folder ``name``; returns the documents and which are scored."""
        from trainers.autoregressive.scoring.data import chosen_of, encode_as_trained, open_shards
        from trainers.autoregressive.scoring.scores import check_lengths

        if data:
            shards = (encode_as_trained(self.loaded, data, self.out / name, options, self.progress),)
        opened = open_shards(self.loaded, shards, options.trust_shards, self.progress.note)
        chosen = chosen_of(opened, options, self.progress)
        check_lengths(opened.documents, chosen, self.loaded.model.config.context, opened.keys)
        return opened, chosen

    def _scored(self, data: TokenData, chosen: Ints, name: str) -> tuple[Summary, Rates]:
        """Write the lines of a set; returns what they add up to, and where two sets are compared the rates of its samples."""
        from tokenize_kit.files import atomic_write
        from trainers.autoregressive.scoring.anomalies import Rates, code_bytes, unit_of
        from trainers.autoregressive.scoring.scores import score_documents
        from trainers.autoregressive.scoring.summary import Summary

        summary = Summary(self.loaded)
        rates = Rates(unit_of(self.loaded))
        self.progress.task("score", len(chosen))
        scores = score_documents(
            self.loaded, data.documents, chosen, batch_size=self.options.batch_size, readings=self.options.readings
        )
        with atomic_write(self.out / name) as file:
            for number, (document, one) in enumerate(zip(chosen.tolist(), scores, strict=True), 1):
                summary.add(one)
                line = line_of(data.keys[document], one)
                if self.options.against:
                    code = code_bytes(self.loaded, data.documents.grids(document))
                    plain, corrected = rates.add(one, code)
                    line |= {"code_bytes": code, f"bits_per_{rates.unit}": plain, "corrected": corrected}
                file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass"))
                self.progress.update(number, samples=number, nats=summary.nats / number)
        self.progress.finish()
        if summary.cut:
            context = self.loaded.model.config.context
            self.progress.note(
                f"{several(summary.cut, 'samples')} longer than the model's context of {context:,} tokens: scored in pieces, "
                "each from itself alone, as in training"
            )
        return summary, rates


def line_of(key: str, one: Score) -> dict[str, Any]:
    """Return what ``scores.jsonl`` says of a sample."""
    streams = {
        name: {"nats": nats, "tokens": one.tokens[name], **dict(_rates_of(name, one))}
        for name, nats in one.streams.items()
    }
    tokens = sum(one.tokens.values())
    line: dict[str, Any] = {"key": key, "nats": one.nats, "tokens": tokens, "bits_per_token": one.bits_per_token}
    return line | {"streams": streams} | ({"pieces": one.pieces} if one.pieces > 1 else {})


def _rates_of(name: str, one: Score) -> Iterator[tuple[str, float]]:
    for rate, value in one.rates.items():
        part, _, unit = rate.rpartition("/")
        if part == name:
            yield unit, value
