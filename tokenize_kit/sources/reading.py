"""Samples out of the units that `sources` planned, a block at a time, whatever kind of file they are in."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator

import pyarrow as pa

from tokenize_kit.errors import DamagedFileError
from tokenize_kit.sources.archives import read_tar
from tokenize_kit.sources.blocks import Collector, Failure, Reader, SampleBlock, one_line
from tokenize_kit.sources.containers import read_files
from tokenize_kit.sources.endings import PLAIN
from tokenize_kit.sources.idx_samples import read_idx
from tokenize_kit.sources.lines import read_documents, read_jsonl, read_split
from tokenize_kit.sources.parquet import read_parquet
from tokenize_kit.sources.planning import Piece, ReadOptions, Unit
from tokenize_kit.sources.tables import read_delimited, read_json

__all__ = ["Failure", "SampleBlock", "read_unit"]

_READERS: dict[str, Reader] = {
    "csv": read_delimited,
    "files": read_files,
    "idx": read_idx,
    "json": read_json,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "tar": read_tar,
    "tsv": read_delimited,
}
_DAMAGE = (DamagedFileError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, pa.ArrowException)


def read_unit(unit: Unit, options: ReadOptions) -> Iterator[SampleBlock]:
    """Yield the samples of a unit in order.

    Raises:
        FileNotFoundError: an input file is gone.
        OSError: an input file cannot be read because of the machine or the network, which trying again may mend.
    """
    shared = Collector(options)
    for piece in unit.pieces:
        # Small files share blocks; everything else comes in blocks of its own.
        small = piece.kind == "files" or (piece.kind == PLAIN and options.split == "none")
        if not small and shared.pending:
            yield shared.take()
        yield from _read_piece(piece, options, shared)
        if not small and shared.pending:
            yield shared.take()
    if shared.pending:
        yield shared.take()


def _read_piece(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read a piece; damage becomes a failure that names the file, behind the samples that stand before it."""
    whole_text = read_documents if options.split == "none" else read_split
    samples = -out.samples
    try:
        for block in _READERS.get(piece.kind, whole_text)(piece, options, out):
            samples += len(block)
            yield block
    except _DAMAGE as error:
        lost = "the rest of the file" if piece.start or samples + out.samples > 0 else "a whole file"
        out.fail(piece.key, f"the file is damaged: {one_line(error)}; {lost}")
    except PermissionError as error:
        out.fail(piece.key, f"it cannot be opened: {error.strerror}; a whole file")
