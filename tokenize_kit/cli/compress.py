"""``tokenize-kit compress`` and ``decompress``: one file to packed ids and back, around `tokenize_kit.container`.

Only the standard library is imported before a command is run, so that ``--help`` is instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Tokenizer


@dataclass(frozen=True)
class CompressOptions:
    """Encode one file into a .tkc file: packed ids, with all that decompress needs besides the tokenizer, and a checksum."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """The file to compress: a picture, a sound or a text, as the tokenizer reads it."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The .tkc file to write."""
    tokenizer: str
    """The tokenizer's folder."""
    codebooks: int | None = None
    """Keep only the first N codebooks of each step, for a lower rate; None keeps all."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where a learned tokenizer computes; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in the matrix products of a learned tokenizer; bfloat16 is faster on a GPU, and some ids differ."""


@dataclass(frozen=True)
class DecompressOptions:
    """Decode a .tkc file with the tokenizer that made it; damaged and foreign files are refused (exit code 3 or 1)."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """The .tkc file."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The file to write: .wav for a sound, .png for a picture, .txt for a text."""
    tokenizer: str
    """The tokenizer's folder."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where a learned tokenizer computes; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in the matrix products of a learned tokenizer; bfloat16 is faster on a GPU, and rounds what comes out."""


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
    """Compress one file; a sound of any length in bounded memory if the tokenizer takes it in pieces.

    Raises:
        FileNotFoundError: the file or the tokenizer is not there.
        ValueError: the file is not what the tokenizer reads, or ``target`` does not end in ``.tkc``.
    """
    from tokenize_kit.container import takes_blocks
    from tokenize_kit.protocol import load_tokenizer, placed

    if not options.target.lower().endswith(".tkc"):
        raise ValueError(f"{options.target} does not end in .tkc; give the .tkc file to write as the second name")
    tokenizer = placed(load_tokenizer(options.tokenizer), options.device, options.precision)
    work = _compress_blocks if takes_blocks(tokenizer) else _compress_whole
    written, size, conversion = work(options, tokenizer, progress)
    rate = tokenizer.spec.sample_rate
    return CompressResult(
        options.target,
        written,
        Path(options.source).stat().st_size,
        size,
        None if rate is None else 8 * written * rate / size[0] / 1000,
        conversion or None,
    )


def _compress_whole(
    options: CompressOptions, tokenizer: Tokenizer, progress: Progress
) -> tuple[int, tuple[int, ...], str]:
    from tokenize_kit.container import compress
    from tokenize_kit.modalities import medium
    from tokenize_kit.protocol import size_of

    kind = medium(tokenizer.spec.modality)
    ready = kind.self_describing(options.source, Path(options.source).read_bytes())
    try:
        sample = kind.read(ready, tokenizer.spec)
        conversion = kind.conversion(ready, tokenizer.spec)
    except ValueError as error:
        raise ValueError(f"{options.source}: {error}") from None
    _note(options.source, conversion, progress)
    return compress(tokenizer, sample, options.target, options.codebooks), size_of(sample), conversion


def _compress_blocks(
    options: CompressOptions, tokenizer: Tokenizer, progress: Progress
) -> tuple[int, tuple[int, ...], str]:
    from tokenize_kit.container import compress_blocks
    from tokenize_kit.media.audio import AudioReader, self_describing_file

    spec = tokenizer.spec
    with Path(options.source).open("rb") as file:
        try:
            reader = AudioReader(self_describing_file(options.source, file), spec.sample_rate, spec.channels)
        except ValueError as error:
            raise ValueError(f"{options.source}: {error}") from None

        def blocks() -> Iterator[Tensor]:
            try:
                yield from reader.blocks()
            except ValueError as error:
                raise ValueError(f"{options.source}: {error}") from None

        _note(options.source, reader.conversion, progress)
        shown = _shown(blocks(), "compress", reader.sample_rate, progress)
        written, samples = compress_blocks(tokenizer, shown, options.target, options.codebooks)
    return written, (samples,), reader.conversion


def _note(source: str, conversion: str, progress: Progress) -> None:
    if conversion:
        progress.note(f"{source} is converted from {conversion}")


def _shown(blocks: Iterable[Tensor], label: str, sample_rate: int, progress: Progress) -> Iterator[Tensor]:
    """Pass the blocks of a sound on, and show how many seconds have gone by."""
    progress.task(label)
    samples = 0
    for block in blocks:
        yield block
        samples += block.shape[-1]
        progress.update(seconds=round(samples / sample_rate, 1))


def decompress_command(options: DecompressOptions, progress: Progress) -> DecompressResult:
    """Decompress one file; a sound in bounded memory if the tokenizer takes it in pieces.

    Raises:
        FileNotFoundError: the file or the tokenizer is not there.
        ValueError: it is no .tkc file, or ``target`` has another ending than such a sample is written with.
        VerificationError: it is damaged, or another tokenizer made it.
    """
    from tokenize_kit.container import decompress, decompress_blocks, takes_blocks
    from tokenize_kit.modalities import medium
    from tokenize_kit.protocol import load_tokenizer, placed, size_of

    tokenizer = placed(load_tokenizer(options.tokenizer), options.device, options.precision)
    spec, target = tokenizer.spec, Path(options.target)
    kind = medium(spec.modality)
    if target.suffix.lower() != kind.suffix:
        raise ValueError(f"{options.target} does not end in {kind.suffix}, which is what {kind.modality} is written as")
    if takes_blocks(tokenizer) and spec.sample_rate is not None:
        from tokenize_kit.media.audio import write_blocks

        samples = 0

        def counted() -> Iterator[Tensor]:
            nonlocal samples
            for block in decompress_blocks(tokenizer, options.source):
                samples += block.shape[-1]
                yield block

        write_blocks(_shown(counted(), "decompress", spec.sample_rate, progress), target, spec.sample_rate)
        return DecompressResult(options.target, (samples,))
    sample = decompress(tokenizer, options.source)
    kind.write(sample, target, spec)
    return DecompressResult(options.target, size_of(sample))
