"""Text: a ``str``, kept as UTF-8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.protocol.modality import Modality

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO

    import numpy as np
    from numpy.typing import NDArray

    from tokenize_kit.protocol import Sample, TokenSpec

_EXCERPT_CHARACTERS = 1000


class TextModality(Modality):
    """Texts; reading is strict, so what is not UTF-8 is refused and what is read is written back byte for byte."""

    name = "text"
    plural = "texts"
    extensions: tuple[str, ...] = (".txt",)
    suffix = ".txt"
    size_axes = 0
    textual = True
    dimension = "byte"
    may_be_empty = True
    pours = "UTF-8"
    measure = "tokenize_kit.metrics.text_measure:TextMeasure"
    augmentations = "tokenize_kit.modalities.text_augmentations:TEXTS"
    show = "tokenize_kit.report.examples:show_texts"
    show_bits = "tokenize_kit.report.bits:show_text_bits"
    lossless = "tokenize_kit.metrics.lossless:XZ_OR_DEFLATE"
    exhibit_folder = "texts"

    def read(self, data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:  # noqa: ARG002
        """See `tokenize_kit.media.text.read_text`."""
        from tokenize_kit.media.text import read_text

        assert isinstance(data, bytes), "only pictures come as pixels"
        return read_text(data)

    def write(self, sample: Sample, path: Path, spec: TokenSpec) -> None:  # noqa: ARG002
        """See `tokenize_kit.media.text.write_text`."""
        from tokenize_kit.media.text import write_text

        write_text(_text(sample), path)

    def pour(self, pieces: Iterable[str], file: IO[bytes], spec: TokenSpec) -> None:  # noqa: ARG002
        """See `tokenize_kit.media.text.pour_text`."""
        from tokenize_kit.media.text import pour_text

        pour_text(pieces, file)

    def check(self, sample: object, spec: TokenSpec) -> str:  # noqa: ARG002
        """See `Modality.check`."""
        return _text(sample)

    def to_python(self, sample: Sample, spec: TokenSpec) -> Any:  # noqa: ARG002
        """Return the text."""
        return sample

    def values(self, sample: Sample) -> int:
        """Return the number of characters."""
        return len(sample)

    def dimensions(self, sample: Sample) -> int:
        """Return the number of bytes in UTF-8."""
        return len(_text(sample).encode("utf-8", "surrogatepass"))

    def crop(self, sample: Sample, size: tuple[int, ...]) -> Sample:
        """Return the text: its ids cover it and no more."""
        self.check_covers(sample, size)
        return sample

    def excerpt(self, sample: Sample, spec: TokenSpec) -> Sample:  # noqa: ARG002
        """Return the beginning of a long text."""
        return _text(sample)[:_EXCERPT_CHARACTERS]

    def board(self, writer: Any, name: str, sample: Sample, step: int, spec: TokenSpec) -> None:  # noqa: ARG002
        """See `Modality.board`."""
        writer.add_text(name, _text(sample), step)

    def describe(self, path: Path) -> dict[str, Any]:
        """Return the length of a text file in characters, bytes and lines."""
        from tokenize_kit.media.text import read_text

        text = read_text(path.read_bytes())
        return {"characters": len(text), "bytes": path.stat().st_size, "lines": text.count("\n")}


def _text(sample: object) -> str:
    if not isinstance(sample, str):
        raise TypeError(f"a text sample is a str, got {type(sample).__name__}")
    return sample


TEXT = TextModality()
