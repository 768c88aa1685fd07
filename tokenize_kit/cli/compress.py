"""``tokenize-kit compress`` and ``decompress``: one file to packed ids and back, around `tokenize_kit.container`.

Only the standard library is imported before a command is run, so that ``--help`` is instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress


@dataclass(frozen=True)
class CompressOptions:
    """Encode one file into a .tkc file: packed ids, with all that decompress needs besides the tokenizer, and a checksum."""

    source: Positional[str]
    """The file to compress: a picture, a sound or a text, as the tokenizer reads it."""
    target: Positional[str]
    """The .tkc file to write."""
    tokenizer: str
    """The tokenizer's folder."""
    codebooks: int | None = None
    """Keep only the first N codebooks of each step, for a lower rate; None keeps all."""


@dataclass(frozen=True)
class DecompressOptions:
    """Decode a .tkc file with the tokenizer that made it; damaged and foreign files are refused (exit code 3 or 1)."""

    source: Positional[str]
    """The .tkc file."""
    target: Positional[str]
    """The file to write: .wav for a sound, .png for a picture, .txt for a text."""
    tokenizer: str
    """The tokenizer's folder."""


@dataclass(frozen=True)
class CompressResult:
    """What was written."""

    target: str
    """The .tkc file."""
    bytes: int
    """Its size."""
    source_bytes: int
    """Size of the file that was compressed."""
    size: tuple[int, ...]
    """Size of the sample without channels."""
    kilobits_per_second: float | None
    """Sounds: bits of the whole file over the seconds, in thousands."""
    conversion: str | None
    """What was changed so that the tokenizer could read the file."""


@dataclass(frozen=True)
class DecompressResult:
    """What was written."""

    target: str
    """The file."""
    size: tuple[int, ...]
    """Size of the sample without channels."""


def compress_command(options: CompressOptions, progress: Progress) -> CompressResult:
    """Compress one file.

    Raises:
        FileNotFoundError: the file or the tokenizer is not there.
        ValueError: the file is not what the tokenizer reads, or ``target`` does not end in ``.tkc``.
    """
    from tokenize_kit.container import compress
    from tokenize_kit.media import medium
    from tokenize_kit.tokenizer import load_tokenizer, size_of

    if not options.target.lower().endswith(".tkc"):
        raise ValueError(f"{options.target} does not end in .tkc; give the .tkc file to write as the second name")
    tokenizer = load_tokenizer(options.tokenizer)
    spec = tokenizer.spec
    kind = medium(spec.modality)
    data = Path(options.source).read_bytes()
    ready = kind.self_describing(options.source, data)
    try:
        sample = kind.read(ready, spec)
        conversion = kind.conversion(ready, spec) or None
    except ValueError as error:
        raise ValueError(f"{options.source}: {error}") from None
    if conversion:
        progress.note(f"{options.source} is converted from {conversion}")
    written = compress(tokenizer, sample, options.target, options.codebooks)
    size = size_of(sample)
    rate = None if spec.sample_rate is None else 8 * written * spec.sample_rate / size[0] / 1000
    return CompressResult(options.target, written, len(data), size, rate, conversion)


def decompress_command(options: DecompressOptions) -> DecompressResult:
    """Decompress one file.

    Raises:
        FileNotFoundError: the file or the tokenizer is not there.
        ValueError: it is no .tkc file, or ``target`` has another ending than such a sample is written with.
        VerificationError: it is damaged, or another tokenizer made it.
    """
    from tokenize_kit.container import decompress
    from tokenize_kit.media import medium
    from tokenize_kit.tokenizer import load_tokenizer, size_of

    tokenizer = load_tokenizer(options.tokenizer)
    kind = medium(tokenizer.spec.modality)
    if Path(options.target).suffix.lower() != kind.suffix:
        raise ValueError(f"{options.target} does not end in {kind.suffix}, which is what {kind.modality} is written as")
    sample = decompress(tokenizer, options.source)
    kind.write(sample, Path(options.target), tokenizer.spec)
    return DecompressResult(options.target, size_of(sample))
