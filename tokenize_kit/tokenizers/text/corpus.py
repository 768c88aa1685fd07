"""What the trainers of text tokenizers share: reading the texts, with limit and progress, and what they report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tokenize_kit.errors import TooManyFailuresError

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.sources.blocks import Failure
    from tokenize_kit.tokenizers.text.engines import Texts


@dataclass(frozen=True)
class VocabularyResult:
    """The tokenizer that was made of counted characters or words."""

    out: str
    """Folder of the tokenizer."""
    fingerprint: str
    """Its fingerprint."""
    vocab_size: int
    """Ids it has."""
    distinct: int
    """Different characters or words that the texts have."""
    coverage: float
    """Part of the characters or words of the texts, each time that they occur, that have an id of their own."""
    documents: int
    """Documents read."""
    bytes_read: int
    """Bytes of text read."""
    failures: int
    """Documents that could not be read."""
    seconds: float
    """How long it took."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; without ``failures`` if there are none."""
        return {name: value for name, value in asdict(self).items() if name != "failures" or value}


class Corpus:
    """The texts that a vocabulary is made of, which may be read several times.

    Args:
        data: files, folders, globs or fsspec URLs.
        field: of a jsonl object, or column of a parquet file, that holds the text.
        piece_bytes: a longer document comes in parts.
        limit: read only so many documents, parts counting as such; None reads all.
        progress: where to show how far it is.
        max_failures: stop when more documents than this cannot be read.
        out: the folder that is written to, which is no input.
    """

    def __init__(
        self,
        data: Sequence[str],
        field: str,
        piece_bytes: int,
        limit: int | None,
        progress: Progress | None,
        max_failures: int = 1000,
        out: str = "",
    ) -> None:
        self._data, self._field, self._piece_bytes, self._limit = data, field, piece_bytes, limit
        self._progress, self._max_failures, self._out = progress, max_failures, out
        self._told = False
        self._last = ""
        self.failures = 0
        """Documents that the last reading could not read."""
        self.documents = 0
        """Documents of the last reading."""
        self.bytes_read = 0
        """Bytes of their texts."""

    def blocks(self) -> Iterator[Texts]:
        """Yield the documents in order, from the first.

        Raises:
            FileNotFoundError: there is no data.
            ValueError: the field is missing in the first file of a kind.
            TooManyFailuresError: more documents than ``max_failures``, or all of them, cannot be read.
        """
        from tokenize_kit.sources.documents import iter_text_blocks
        from tokenize_kit.tokenizers.text.engines import Texts

        self.documents = self.bytes_read = self.failures = 0
        if self._progress is not None:
            self._progress.task("read")
        began = time.monotonic()
        blocks = iter_text_blocks(
            self._data,
            self._field,
            self._piece_bytes,
            on_failure=self._failed,
            on_remark=self._note,
            leave_out=(self._out,),
        )
        for block in blocks:
            texts = Texts.of(block)
            if self._limit is not None:
                texts = texts.part(0, min(len(texts), self._limit - self.documents))
            self.documents += len(texts)
            self.bytes_read += len(texts.data)
            if self._progress is not None:
                speed = self.bytes_read / 1e6 / max(1e-3, time.monotonic() - began)
                self._progress.update(
                    documents=self.documents, MB=round(self.bytes_read / 1e6, 1), MB_s=round(speed, 1)
                )
            yield texts
            if self.documents == self._limit:
                break
        self._told = True
        if self.failures and not self.documents:
            raise TooManyFailuresError(f"none of {self.failures:,} documents can be read, the last is {self._last}")

    def _note(self, text: str) -> None:
        """Say something, though the texts may be read again."""
        if self._progress is not None and not self._told:
            self._progress.note(text)

    def _failed(self, failure: Failure) -> None:
        self.failures += failure.samples
        self._last = f"{failure.key}: {failure.reason}"
        self._note(f"left out {self._last}")
        if self.failures > self._max_failures:
            raise TooManyFailuresError(
                f"more than {self._max_failures} documents cannot be read, the last is {self._last}; "
                "mend them or raise --max-failures"
            )
