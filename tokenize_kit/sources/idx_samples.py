"""Samples out of idx files: the pictures, and the labels that lie beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.errors import DamagedFileError
from tokenize_kit.modalities import modality_named
from tokenize_kit.opening import open_source
from tokenize_kit.sources.blocks import Collector, Content, SampleBlock, one_line
from tokenize_kit.sources.idx import IdxHeader, labels_url, read_header, read_labels, read_pictures
from tokenize_kit.sources.planning import Piece, ReadOptions

# A header is believed if the file holds a hundredth of what it promises; deflate makes 1,032 bytes of one at most.
_BELIEVED = 100
_BELIEVED_COMPRESSED = 1100


def read_idx(piece: Piece, options: ReadOptions, out: Collector) -> Iterator[SampleBlock]:
    """Read the pictures of an idx file; the key of a sample is the number of its picture.

    The labels are read if a column or the text is to be ``label``.
    """
    names = [*options.columns, *map(options.field_of, options.texts)]
    pictures = [source.name for source in options.sources if modality_named(source.modality).takes_pixels]
    header: IdxHeader | None = None
    row = piece.start
    try:
        with open_source(piece.url, piece.compression) as file:
            header = read_header(file)
            if wrong := [name for name in names if name != "label"]:
                raise ValueError(f"it has no {wrong[0]!r}, only pictures and 'label'")
            labels = _labels_of(piece, header.count) if names else None
            progress = piece.size / max(1, header.count if piece.compression else piece.size // header.picture_bytes)
            read = 0.0
            for pixels in read_pictures(file, header, piece.start, piece.stop):
                columns: dict[str, Any] = {}
                contents: dict[str, Content] = dict.fromkeys(pictures, pixels)
                if labels is not None:
                    columns = {"label": int(labels[row])}
                    contents |= {source.name: str(labels[row]) for source in options.texts}
                out.add(f"{piece.key}@{row}", contents, columns)
                row += 1
                read += progress
                if out.full:
                    out.size, read = out.size + int(read), read - int(read)
                    yield out.take()
            out.size += round(read)
    except ValueError as error:
        lost, words = _lost(piece, header, row)
        damaged = "the file is damaged: " if isinstance(error, DamagedFileError) else ""
        out.fail(piece.key, f"{damaged}{one_line(error)}; {words}", lost)


def _lost(piece: Piece, header: IdxHeader | None, row: int) -> tuple[int, str]:
    """Return how many pictures of a piece are lost from ``row`` on, 1 if that is not known, and the same in words."""
    if header is None:
        return 1, "a whole file"
    lost = (header.count if piece.stop is None else min(piece.stop, header.count)) - row
    held = max(
        row * header.picture_bytes * _BELIEVED,
        piece.size * (_BELIEVED_COMPRESSED if piece.compression else _BELIEVED),
    )
    if lost > 0 and header.count * header.picture_bytes <= held:
        return lost, f"{lost:,} pictures are not read"
    return 1, "the rest of the file" if row else "a whole file"


def _labels_of(piece: Piece, count: int) -> NDArray[np.uint8]:
    """Return the labels beside an idx file of ``count`` pictures."""
    url = labels_url(piece.url)
    if url is None:
        raise ValueError("there is no labels file beside it (the same name with labels-idx1 for images-idx3)")
    try:
        return read_labels(url, count)
    except ValueError as error:
        raise ValueError(f"its labels in {url} cannot be read: {error}") from None
