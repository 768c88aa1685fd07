"""Plain text documents out of files, for those who want nothing but text, such as the training of a vocabulary.

A thin layer over the readers of the encode pipeline, so that both find the same files and cut them in the same places. What
cannot be read is handed to the caller or, if it takes no failures, an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tokenize_kit.opening import open_source, read_exactly
from tokenize_kit.sources.blocks import Failure, text_name
from tokenize_kit.sources.listing import SourceFile
from tokenize_kit.sources.planning import ReadOptions, find_sources, plan_units

_UNIT_BYTES = 64 << 20


def iter_documents(
    paths: Sequence[str | os.PathLike[str]], field: str = "text", max_document_bytes: int = 16 << 20
) -> Iterator[str]:
    """Yield the documents of files with text, compressed ones too, in a fixed order and in bounded memory.

    Args:
        paths: files, folders, globs and fsspec URLs.
        field: the field of a jsonl object, or the column of a parquet file, that holds the text.
        max_document_bytes: a longer document comes in parts, cut after a newline where there is one; no character is lost.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a line is not JSON, the field is missing, or bytes are not UTF-8; names the file and the place.
    """
    for block in iter_text_blocks(paths, field, max_document_bytes):
        for text in block:
            yield text if isinstance(text, str) else text.as_py()


def iter_text_blocks(
    paths: Sequence[str | os.PathLike[str]],
    field: str = "text",
    max_document_bytes: int = 16 << 20,
    *,
    on_failure: Callable[[Failure], None] | None = None,
    on_remark: Callable[[str], None] | None = None,
    leave_out: Sequence[str] = (),
) -> Iterator[Any]:
    """Yield the documents of `iter_documents` some hundreds at a time: lists of str, or Arrow arrays of large strings.

    Args:
        paths: files, folders, globs, pipes and fsspec URLs.
        field: the field of a jsonl object, or the column of a table, that holds the text.
        max_document_bytes: a longer document comes in parts.
        on_failure: called with each document that cannot be read, and reading goes on; None raises at the first.
        on_remark: called with what should be known of the input, such as what is not read.
        leave_out: folders that are no input although they lie in it.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: the field is missing in the first file of a kind; without ``on_failure`` as `iter_documents`.
    """
    from tokenize_kit.sources.fields import check_places, resolve_columns
    from tokenize_kit.sources.reading import read_unit

    options = ReadOptions(text_field=field, max_document_bytes=max_document_bytes)
    files = find_sources([os.fspath(path) for path in paths], options, leave_out, on_remark)
    if on_failure:
        if (remark := check_places(files, options)) and on_remark:
            on_remark(remark)
        resolve_columns(files, options, [])
    for unit in plan_units(files, options, _UNIT_BYTES):
        for block in read_unit(unit, options):
            for failure in block.failures:
                if on_failure is None:
                    raise ValueError(f"{_place(failure.key, files)}: {failure.reason}")
                on_failure(failure)
            yield block.contents[text_name(options)]


def _place(key: str, files: Sequence[SourceFile]) -> str:
    """Return where a sample is in words that an editor understands: a jsonl key has the byte at which its line begins."""
    name, _, offset = key.rpartition("@")
    for file in files:
        if file.key == name and file.kind == "jsonl" and offset.isdigit():
            with open_source(file.url, file.compression) as opened:
                before = read_exactly(opened, int(offset)).count(b"\n")
                return f"{file.called}, line {before + 1}"
        if file.key in (key, name):
            return f"{file.called}, row {offset}" if offset.isdigit() and file.key == name else file.called
    return key
