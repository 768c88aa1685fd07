"""Labels of classes: each one of a table is an id; the tokenizer, and ``train labels``, which collects them.

A label may have a name beside it, such as ``sneaker`` for the 7 of Fashion-MNIST. Either is encoded, the name is decoded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.modalities.label import LABEL
from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_grid,
    check_kind,
    check_target,
    fingerprint_of,
    read_options,
    save_as,
    write_config,
)

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Sample
    from tokenize_kit.sources.blocks import Failure

NAME = "labels"
MAX_LABELS = 65_536
"""More classes than this are refused: they are most likely no classes, but texts."""

_SHOWN = 12


class LabelsTokenizer(Tokenizer):
    """Labels to grids ``(1,)`` of one id, and back.

    Args:
        labels: each once, in the order of the ids.
        names: what each is called; by default as it is.

    Raises:
        ValueError: there is none, one comes twice, is empty or has white space around it, there are more or fewer names than
            labels, or what is the name of one is the label of another.
    """

    def __init__(self, labels: Sequence[str], names: Sequence[str] = ()) -> None:
        self.labels, self.names = tuple(labels), tuple(names or labels)
        if not 1 <= len(self.labels) <= MAX_LABELS:
            raise ValueError(f"there are {len(self.labels):,} labels, expected 1 to {MAX_LABELS:,}")
        if len(self.names) != len(self.labels):
            raise ValueError(
                f"there are {len(self.names)} names for {len(self.labels)} labels ({_listed(self.labels)}); give each one"
            )
        self._ids: dict[str, int] = {}
        for number, pair in enumerate(zip(self.labels, self.names, strict=True)):
            for text in dict.fromkeys(pair):
                if not text or text != text.strip():
                    raise ValueError(f"{text!r} cannot be a label; it is empty or has white space around it")
                if text in self._ids:
                    raise ValueError(f"{text!r} stands for two classes")
                self._ids[text] = number
        self._spec = _spec(len(self.labels), lossless=self.names == self.labels)

    @property
    def spec(self) -> TokenSpec:
        """One axis ``time`` of length 1."""
        return self._spec

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over labels and names."""
        return fingerprint_of(NAME, self._options)

    @property
    def _options(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "names": list(self.names)}

    def encode(self, sample: Sample) -> Tensor:
        """Encode a label, or the name of one, to its id ``(1,)``.

        Raises:
            TypeError: the sample is not a str.
            ValueError: there is no such label; names the closest one.
        """
        import torch

        label = LABEL.check(sample, self._spec)
        if label not in self._ids:
            close = get_close_matches(label, self._ids, n=1) or [
                text for text in self._ids if text.casefold() == label.casefold()
            ]
            hint = f"; did you mean {close[0]!r}?" if close else ""
            shown = label if len(label) <= 80 else f"{label[:80]}..."
            raise ValueError(f"there is no label {shown!r}; there is {_listed(self.names)}{hint}")
        return torch.tensor([self._ids[label]])

    def decode(self, ids: Tensor) -> str:
        """Return the name of an id ``(1,)``.

        Raises:
            TypeError: the ids are not an integer tensor.
            ValueError: they are not one, or outside the table.
        """
        grid = check_grid(ids, self._spec)
        if len(grid) != 1:
            raise ValueError(f"a label is one id, got {len(grid)}")
        return self.names[int(grid[0])]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``tokenizer_config.json``, which holds the table."""
        write_config(check_target(folder, self), self, self._options)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        return cls(**read_options(folder, NAME, {"labels": list, "names": list}))


def in_order(labels: Iterable[str]) -> list[str]:
    """Return labels as a table has them: numbers by their value if all are, else by their code points."""
    found = sorted(set(labels))
    if all(label.isascii() and label.isdecimal() for label in found):
        return sorted(found, key=lambda label: (int(label), label))
    return found


@dataclass(frozen=True)
class TrainLabelsOptions:
    """Make a tokenizer of class labels: all that the data have are the table, in their order."""

    summary: ClassVar[str] = "make a tokenizer of the class labels that data have"
    examples: ClassVar[tuple[str, ...]] = (
        "train labels --data fashion --out tokenizers/labels --names t-shirt trouser pullover dress coat sandal shirt sneaker "
        "bag boot",
        "train labels --data photos.tar --field cls --out tokenizers/labels",
        "train labels --data table.parquet --field category --out tokenizers/labels",
    )

    data: tuple[str, ...]
    """What has the labels: idx, jsonl, json, csv, tsv, parquet, tar, txt (also compressed), folders, globs, fsspec URLs."""
    out: str
    """Folder for the tokenizer."""
    field: str = "label"
    """Where the label is: a field of JSON, a column of a table, an ending in a tar; of idx files the labels file."""
    names: tuple[str, ...] = ()
    """What the labels are called, in their order (numbers by their value); by default as they are. A prompt takes either."""
    limit: int | None = None
    """Look only at so many samples."""
    max_failures: int = 1000
    """Stop when more samples than this cannot be read; each is told with its reason, and the number is in the result."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit} is below 1")


@dataclass(frozen=True)
class LabelsResult:
    """The table that was made."""

    out: str
    """Folder of the tokenizer."""
    fingerprint: str
    """Its fingerprint."""
    labels: dict[str, int]
    """How many samples have each label, by its name."""
    samples: int
    """Samples that were looked at."""
    failures: int
    """Samples that could not be read."""
    seconds: float
    """How long it took."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def to_text(self) -> str:
        """Return a line or two for a person."""
        shown = [f"{name} ({count:,})" for name, count in list(self.labels.items())[:_SHOWN]]
        more = f" and {len(self.labels) - _SHOWN} more" if len(self.labels) > _SHOWN else ""
        failed = f"\n{self.failures:,} samples could not be read" if self.failures else ""
        return (
            f"{len(self.labels):,} labels of {self.samples:,} samples in {self.out}: {', '.join(shown)}{more}{failed}"
        )


def train_labels(options: TrainLabelsOptions, progress: Progress | None = None) -> LabelsResult:
    """Collect the labels of data and save the tokenizer of all of them.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: the data have no such field, no label, too many, another number of them than names, or ``options.out`` holds
            another tokenizer.
        TooManyFailuresError: more samples than ``options.max_failures``, or all of them, cannot be read.
    """
    from tokenize_kit.sources.samples import iter_samples

    began = time.monotonic()
    check_kind(options.out, NAME)
    counts: dict[str, int] = {}
    failures = samples = 0
    last = ""

    def failed(failure: Failure) -> None:
        nonlocal failures, last
        failures, last = failures + failure.samples, f"{failure.key}: {failure.reason}"
        if progress is not None:
            progress.note(f"left out {last}")
        if failures > options.max_failures:
            raise TooManyFailuresError(
                f"more than {options.max_failures} samples cannot be read, the last is {last}; mend them or raise --max-failures"
            )

    spec = _spec(1, lossless=True)
    remark = progress.note if progress is not None else None
    if progress is not None:
        progress.task("read")
    found = iter_samples(options.data, spec, failed, field=options.field, on_remark=remark, leave_out=(options.out,))
    for keyed in found:
        try:
            label = LABEL.check(keyed.sample, spec)
        except ValueError as error:
            failed(_failure(keyed.key, error))
            continue
        counts[label] = counts.get(label, 0) + 1
        samples += 1
        if len(counts) > MAX_LABELS:
            raise ValueError(
                f"--field {options.field} has more than {MAX_LABELS:,} different values; they are no classes"
            )
        if progress is not None and samples % 1000 == 0:
            progress.update(samples=samples, labels=len(counts))
        if samples == options.limit:
            break
    if not samples:
        if failures:
            raise TooManyFailuresError(f"none of {failures:,} samples can be read, the last is {last}")
        raise ValueError(f"{', '.join(options.data)} has no labels")
    labels = in_order(counts)
    tokenizer = LabelsTokenizer(labels, options.names)
    save_as(tokenizer, options.out)
    named = {name: counts[label] for label, name in zip(labels, tokenizer.names, strict=True)}
    return LabelsResult(
        options.out, tokenizer.fingerprint, named, samples, failures, round(time.monotonic() - began, 3)
    )


def _spec(labels: int, *, lossless: bool) -> TokenSpec:
    """Return the spec of so many labels: of one axis whose length is always 1, so that no token ends it."""
    return TokenSpec(LABEL.name, labels, ("time",), (None,), lossless=lossless, open_axes=())


def _failure(key: str, error: Exception) -> Failure:
    from tokenize_kit.sources.blocks import Failure, one_line

    return Failure(key, one_line(error))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
