"""The options of `evaluate`. Only the standard library is imported, so that ``--help`` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure a tokenizer on real data: what is lost, how short the tokens are, how the vocabulary is used, how fast."""

    tokenizer: str
    """The tokenizer's folder."""
    data: tuple[str, ...]
    """What to read: files, folders, globs or fsspec URLs of txt, jsonl, parquet, pictures and tar (gz and zst too)."""
    out: str | None = None
    """Folder for report.html and evaluation.json; without it the numbers are only printed."""
    limit: int | None = None
    """Use only the first N samples."""
    image_size: int | None = None
    """Scale and crop pictures to a square of this many pixels first."""
    split: Literal["none", "lines", "paragraphs"] = "none"
    """What one sample of a txt file is: the whole file, a line, or a paragraph (ended by blank lines)."""
    field: str = "text"
    """Field of a jsonl object, or column of a parquet file, that holds the text."""
    media_field: str | None = None
    """Column of a parquet file that holds the picture; by default image."""
    max_failures: int = 100
    """Stop when more samples than this cannot be read or encoded."""
    examples: int = 8
    """How many samples the report shows."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit {self.limit} must be 1 or more")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} must be 1 or more")
