"""``tokenize-kit compress`` and ``decompress``: one file to packed ids and back, around `tokenize_kit.container`.

Only the standard library is imported before a command is run, so that ``--help`` is instant.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Stream, Tokenizer, TokenSpec


@dataclass(frozen=True)
class CompressOptions:
    """Encode one file into a .tkc file: packed ids, with all that decompress needs besides the tokenizer, and a checksum."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """The file to compress: a picture, a sound, a film or a text, as the tokenizer reads it."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The .tkc file to write."""
    tokenizer: str
    """The tokenizer's folder."""
    codebooks: int | None = None
    """Keep only the first N codebooks of each step, for a lower rate; None keeps all."""
    allow_special: tuple[str, ...] = ()
    """Special tokens that become their ids where they stand in a text: all, or each by its name; by default they are text."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where a learned tokenizer computes; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in the matrix products of a learned tokenizer; bfloat16 is faster on a GPU, and some ids differ."""
    overwrite: bool = False
    """Replace a file that is there already and holds something else."""


@dataclass(frozen=True)
class DecompressOptions:
    """Decode a .tkc file with the tokenizer that made it; damaged and foreign files are refused (exit code 3 or 1)."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """The .tkc file."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The file to write: .wav for a sound, .png for a picture, .mp4 or .mkv for a film, .txt for a text."""
    tokenizer: str
    """The tokenizer's folder."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where a learned tokenizer computes; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in the matrix products of a learned tokenizer; bfloat16 is faster on a GPU, and rounds what comes out."""
    overwrite: bool = False
    """Replace a file that is there already and holds something else."""


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
    """Sounds and films: bits of the whole file over the seconds, in thousands."""
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
    """Compress one file; a sound or film of any length in bounded memory if the tokenizer takes it in pieces.

    Raises:
        FileNotFoundError: the file or the tokenizer is not there.
        ValueError: the file is not what the tokenizer reads, or ``target`` does not end in ``.tkc``.
    """
    from tokenize_kit.container import takes_pieces
    from tokenize_kit.files import new_file
    from tokenize_kit.protocol import allowing, load_tokenizer, placed

    if not options.target.lower().endswith(".tkc"):
        raise ValueError(f"{options.target} does not end in .tkc; give the .tkc file to write as the second name")
    tokenizer = placed(load_tokenizer(options.tokenizer), options.device, options.precision)
    tokenizer = allowing(tokenizer, options.allow_special)
    work = _compress_pieces if takes_pieces(tokenizer) else _compress_whole
    with new_file(options.target, overwrite=options.overwrite) as target:
        written, size, conversion = work(options, target, tokenizer, progress)
    rate = tokenizer.spec.sample_rate or tokenizer.spec.frame_rate
    return CompressResult(
        options.target,
        written,
        Path(options.source).stat().st_size,
        size,
        None if rate is None else 8 * written * rate / size[0] / 1000,
        conversion or None,
    )


def _compress_whole(
    options: CompressOptions, target: Path, tokenizer: Tokenizer, progress: Progress
) -> tuple[int, tuple[int, ...], str]:
    from tokenize_kit.container import compress
    from tokenize_kit.protocol import modality_of

    kind = modality_of(tokenizer.spec)
    ready = kind.self_describing(options.source, Path(options.source).read_bytes())
    try:
        sample, notes = kind.read_noting(ready, tokenizer.spec)
    except ValueError as error:
        raise ValueError(f"{options.source}: {error}") from None
    _tell(options.source, notes, progress)
    conversion = "; ".join(notes)
    return compress(tokenizer, sample, target, options.codebooks), kind.size(sample), conversion


def _compress_pieces(
    options: CompressOptions, target: Path, tokenizer: Tokenizer, progress: Progress
) -> tuple[int, tuple[int, ...], str]:
    from tokenize_kit.container import compress_pieces
    from tokenize_kit.protocol import modality_of

    spec = tokenizer.spec

    def pieces(stream: Stream) -> Iterator[Tensor]:
        try:
            yield from stream.pieces()
        except ValueError as error:
            raise ValueError(f"{options.source}: {error}") from None

    with ExitStack() as stack:
        try:
            stream = stack.enter_context(modality_of(spec).open_stream(Path(options.source), spec))
        except ValueError as error:
            raise ValueError(f"{options.source}: {error}") from None
        _tell(options.source, filter(None, [stream.conversion]), progress)
        shown = _shown(pieces(stream), "compress", spec, progress)
        written, size = compress_pieces(tokenizer, shown, target, options.codebooks)
        # What is known only when all was read, such as how much was clipped.
        _tell(options.source, (note for note in stream.notes if note != stream.conversion), progress)
    return written, size, "; ".join(stream.notes)


def _tell(source: str, notes: Iterable[str], progress: Progress) -> None:
    for note in notes:
        progress.note(f"{source} is converted from {note}" if " to " in note else f"{source}: {note}")


def _shown(pieces: Iterable[Tensor], label: str, spec: TokenSpec, progress: Progress) -> Iterator[Tensor]:
    """Pass the pieces of a sample on, and show how much has gone by: seconds where the spec knows how many make one."""
    from tokenize_kit.protocol import modality_of

    progress.task(label)
    kind, rate, length = modality_of(spec), spec.sample_rate or spec.frame_rate, 0
    for piece in pieces:
        yield piece
        length += kind.size(piece)[0]
        progress.update(**({"steps": length} if rate is None else {"seconds": round(length / rate, 1)}))


def decompress_command(options: DecompressOptions, progress: Progress) -> DecompressResult:
    """Decompress one file; a sound or film in bounded memory if the tokenizer takes it in pieces.

    Raises:
        FileNotFoundError: the file or the tokenizer is not there.
        ValueError: it is no .tkc file, or ``target`` has another ending than such a sample is written with.
        VerificationError: it is damaged, or another tokenizer made it.
    """
    from tokenize_kit.container import takes_pieces
    from tokenize_kit.files import new_file
    from tokenize_kit.protocol import load_tokenizer, modality_of, placed

    tokenizer = placed(load_tokenizer(options.tokenizer), options.device, options.precision)
    spec = tokenizer.spec
    kind = modality_of(spec)
    if Path(options.target).suffix.lower() not in kind.suffixes:
        known = " or ".join(kind.suffixes)
        raise ValueError(f"{options.target} does not end in {known}, which is what {kind.name} is written as")
    work = _decompress_pieces if takes_pieces(tokenizer) else _decompress_whole
    with new_file(options.target, overwrite=options.overwrite) as target:
        size = work(options, target, tokenizer, progress)
    return DecompressResult(options.target, size)


def _decompress_whole(
    options: DecompressOptions, target: Path, tokenizer: Tokenizer, progress: Progress
) -> tuple[int, ...]:
    from tokenize_kit.container import decompress
    from tokenize_kit.protocol import modality_of

    progress.task("decompress")
    kind, sample = modality_of(tokenizer.spec), decompress(tokenizer, options.source)
    kind.write(sample, target, tokenizer.spec)
    return kind.size(sample)


def _decompress_pieces(
    options: DecompressOptions, target: Path, tokenizer: Tokenizer, progress: Progress
) -> tuple[int, ...]:
    from tokenize_kit.container import decompress_pieces
    from tokenize_kit.protocol import modality_of

    spec, sizes = tokenizer.spec, []
    kind = modality_of(spec)

    def counted() -> Iterator[Tensor]:
        for piece in decompress_pieces(tokenizer, options.source):
            sizes.append(kind.size(piece))
            yield piece

    kind.write_pieces(_shown(counted(), "decompress", spec, progress), target, spec)
    return kind.joined_size(sizes)
