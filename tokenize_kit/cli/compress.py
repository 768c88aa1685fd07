"""``tokenize-kit compress`` and ``decompress``: one file to packed or coded ids and back, around `tokenize_kit.container`.

With a tokenizer alone ids are packed. With a model, which has its tokenizers in its folder, they are coded by what the model
finds probable (`trainers.autoregressive.coding`, `tokenize_kit.cli.coded`).

Only the standard library is imported before a command is run, so that ``--help`` is instant.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from tokenize_kit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from tokenize_kit.container import PackedSample
    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Stream, Tokenizer, TokenSpec


@dataclass(frozen=True)
class CompressOptions:
    """Encode one file into a .tkc file: packed ids, with all that decompress needs besides the tokenizer, and a checksum.

    With --model the ids are coded by what a trained sequence model finds probable, without loss: a text, raw pixels or samples
    come back as they were, learned tokenizers as their ids say. Reading such a file takes the same model and as long as
    writing it, and a machine that computes the same bits; one that does not refuses at the first checksum.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """The file to compress: a picture, a sound, a film or a text, as the tokenizer reads it."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The .tkc file to write."""
    tokenizer: str | None = None
    """The tokenizer's folder; its ids are packed."""
    model: str | None = None
    """Instead: the folder of a trained sequence model, which codes the ids of its own tokenizer."""
    template: str | None = None
    """With --model: which of its templates codes; None takes the one of the file's stream alone."""
    streams: int | None = None
    """With --model: into how many parts a text or sound is cut, which are coded side by side: more are faster and take some more
    bytes. None takes as many as cost little, 64 at most."""
    verify: bool = False
    """With --model: decode what was coded, and compare, before the file appears."""
    codebooks: int | None = None
    """Keep only the first N codebooks of each step, for a lower rate; None keeps all."""
    allow_special: tuple[str, ...] = ()
    """Special tokens that become their ids where they stand in a text: all, or each by its name; by default they are text."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where a learned tokenizer and a model compute; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in the matrix products of a learned tokenizer; bfloat16 is faster on a GPU, and some ids differ. Models always
    code in float32."""
    overwrite: bool = False
    """Replace a file that is there already and holds something else."""


@dataclass(frozen=True)
class DecompressOptions:
    """Decode a .tkc file with the tokenizer or model that made it; damaged and foreign files are refused (exit code 3 or 1)."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """The .tkc file."""
    target: Annotated[Positional[str], arg(metavar="TARGET")]
    """The file to write: .wav for a sound, .png for a picture, .mp4 or .mkv for a film, .txt for a text."""
    tokenizer: str | None = None
    """The tokenizer's folder, for a file of packed ids."""
    model: str | None = None
    """The model's folder, for a file that it coded; it computes where it did then, with as many threads."""
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
        FileNotFoundError: the file, the tokenizer or the model is not there.
        ValueError: the file is not what the tokenizer reads, or ``target`` does not end in ``.tkc``; the model cannot code it.
        VerificationError: what was coded is not what is decoded again.
    """
    from tokenize_kit.cli.coded import ModelEnd
    from tokenize_kit.container import takes_pieces, write
    from tokenize_kit.files import new_file
    from tokenize_kit.protocol import allowing, load_tokenizer, placed

    if not options.target.lower().endswith(".tkc"):
        raise ValueError(f"{options.target} does not end in .tkc; give the .tkc file to write as the second name")
    _check_maker(options.tokenizer, options.model)
    model = None
    if options.model is not None:
        model = ModelEnd.for_file(options.model, options.template, options.source, options.device)
        tokenizer = model.tokenizer
    else:
        assert options.tokenizer is not None
        if options.template is not None or options.streams is not None or options.verify:
            raise UsageError("--template, --streams and --verify are for --model; leave them out")
        tokenizer = load_tokenizer(options.tokenizer)
    tokenizer = allowing(placed(tokenizer, options.device, options.precision), options.allow_special)
    codebooks = model.codebooks if model is not None and options.codebooks is None else options.codebooks
    work = _packed_pieces if takes_pieces(tokenizer) else _packed_whole
    with new_file(options.target, overwrite=options.overwrite) as target:
        packed, conversion = work(options.source, tokenizer, codebooks, progress)
        found = packed if model is None else model.code(packed, options.streams, options.verify, progress)
        written, size = write(found, target), packed.size
    rate = tokenizer.spec.sample_rate or tokenizer.spec.frame_rate
    return CompressResult(
        options.target,
        written,
        Path(options.source).stat().st_size,
        size,
        None if rate is None else 8 * written * rate / size[0] / 1000,
        conversion or None,
    )


def _check_maker(tokenizer: str | None, model: str | None) -> None:
    if (tokenizer is None) == (model is None):
        raise UsageError("give either --tokenizer, for packed ids, or --model, for ids that it codes")


def _packed_whole(
    source: str, tokenizer: Tokenizer, codebooks: int | None, progress: Progress
) -> tuple[PackedSample, str]:
    from tokenize_kit.container import packed_sample
    from tokenize_kit.protocol import modality_of

    kind = modality_of(tokenizer.spec)
    ready = kind.self_describing(source, Path(source).read_bytes())
    try:
        sample, notes = kind.read_noting(ready, tokenizer.spec)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    _tell(source, notes, progress)
    return packed_sample(tokenizer, sample, codebooks), "; ".join(notes)


def _packed_pieces(
    source: str, tokenizer: Tokenizer, codebooks: int | None, progress: Progress
) -> tuple[PackedSample, str]:
    from tokenize_kit.container import packed_pieces
    from tokenize_kit.protocol import modality_of

    spec = tokenizer.spec

    def pieces(stream: Stream) -> Iterator[Tensor]:
        try:
            yield from stream.pieces()
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    with ExitStack() as stack:
        try:
            stream = stack.enter_context(modality_of(spec).open_stream(Path(source), spec))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        _tell(source, filter(None, [stream.conversion]), progress)
        shown = _shown(pieces(stream), "compress", spec, progress)
        packed = packed_pieces(tokenizer, shown, codebooks)
        # What is known only when all was read, such as how much was clipped.
        _tell(source, (note for note in stream.notes if note != stream.conversion), progress)
    return packed, "; ".join(stream.notes)


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
        FileNotFoundError: the file, the tokenizer or the model is not there.
        ValueError: it is no .tkc file, or ``target`` has another ending than such a sample is written with.
        VerificationError: it is damaged, another tokenizer or model made it, or this machine computes other logits than the one
            that coded it.
    """
    from tokenize_kit.cli.coded import ModelEnd
    from tokenize_kit.container import CodedSample, from_file, takes_pieces
    from tokenize_kit.files import new_file
    from tokenize_kit.protocol import load_tokenizer, modality_of, placed

    _check_maker(options.tokenizer, options.model)
    found = from_file(options.source)
    model = None
    if isinstance(found, CodedSample):
        model = ModelEnd.of_file(options.model, found, options.source)
        tokenizer = model.tokenizer
    elif options.tokenizer is None:
        raise UsageError(
            f"{options.source} holds packed ids, which no model coded; give the --tokenizer that made them"
        )
    else:
        tokenizer = load_tokenizer(options.tokenizer)
    tokenizer = placed(tokenizer, options.device, options.precision)
    spec = tokenizer.spec
    kind = modality_of(spec)
    if Path(options.target).suffix.lower() not in kind.suffixes:
        known = " or ".join(kind.suffixes)
        raise ValueError(f"{options.target} does not end in {known}, which is what {kind.name} is written as")
    work = _decompress_pieces if takes_pieces(tokenizer) else _decompress_whole
    with new_file(options.target, overwrite=options.overwrite) as target:
        if isinstance(found, CodedSample):
            assert model is not None
            found = model.decode(found, options.source, progress)
        size = work(options, target, tokenizer, found, progress)
    return DecompressResult(options.target, size)


def _decompress_whole(
    options: DecompressOptions, target: Path, tokenizer: Tokenizer, packed: PackedSample, progress: Progress
) -> tuple[int, ...]:
    from tokenize_kit.container import unpacked_sample
    from tokenize_kit.protocol import modality_of

    progress.task("decompress")
    kind, sample = modality_of(tokenizer.spec), unpacked_sample(tokenizer, packed, options.source)
    kind.write(sample, target, tokenizer.spec)
    return kind.size(sample)


def _decompress_pieces(
    options: DecompressOptions, target: Path, tokenizer: Tokenizer, packed: PackedSample, progress: Progress
) -> tuple[int, ...]:
    from tokenize_kit.container import unpacked_pieces
    from tokenize_kit.protocol import modality_of

    spec, sizes = tokenizer.spec, []
    kind = modality_of(spec)

    def counted() -> Iterator[Tensor]:
        for piece in unpacked_pieces(tokenizer, packed, options.source):
            sizes.append(kind.size(piece))
            yield piece

    kind.write_pieces(_shown(counted(), "decompress", spec, progress), target, spec)
    return kind.joined_size(sizes)
