"""What a run reads, divided into independent units: one unit becomes one shard.

The plan depends on the input list alone (names, sizes, the directories inside parquet and tar files, the headers of idx
files), so every machine that makes it gets the same one. A `Unit` is plain data: any process that can open the files can
read it, see `tokenize_kit.sources.reading`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from tokenize_kit.files import canonical_json
from tokenize_kit.media.subtitles import ENDINGS as SUBTITLES
from tokenize_kit.modalities import modality_named
from tokenize_kit.opening import open_source
from tokenize_kit.sources.endings import PLAIN, ending_of
from tokenize_kit.sources.idx import read_header
from tokenize_kit.sources.json_values import holds_lines
from tokenize_kit.sources.listing import Listing, SourceFile, list_files
from tokenize_kit.sources.tar import stem_of, tar_index

MAX_FILES_PER_UNIT = 10_000
"""A unit of many tiny files ends here, so that a killed run does not repeat too many of them."""

SPLITS = ("none", "lines", "paragraphs")
INCOMPLETE = ("skip", "fail")

TEXT_FIELD = "text"
"""The field of texts where no other is named; in files of one stem a text file comes first then."""

TABLES = ("jsonl", "json", "csv", "tsv", "parquet")
"""The kinds of files that hold rows."""

MEMBERS = ("json",)
"""Those of them that belong to the other files of their stem, where there are such."""


@dataclass(frozen=True)
class Member:
    """One file of a sample that is made of several, such as a picture and its caption."""

    extension: str
    """Lower case, with the dot."""
    url: str
    """Local path or fsspec URL."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Piece:
    """A part of one input file, or one sample made of whole files."""

    kind: str
    """``text``, ``jsonl``, ``json``, ``csv``, ``tsv``, ``parquet``, ``tar``, ``idx``, or ``files`` (one sample made of
    ``members``)."""
    key: str
    """Where the keys of its samples begin."""
    size: int
    """Input bytes, for progress and estimates."""
    url: str = ""
    """Local path or fsspec URL."""
    compression: str = ""
    """``gz``, ``zst`` or nothing."""
    start: int = 0
    """First byte (text, jsonl, json of lines), row group (parquet), sample (tar) or picture (idx)."""
    stop: int | None = None
    """The one after the last; None reads to the end. The text and jsonl readers move both to the next boundary."""
    members: tuple[Member, ...] = ()
    """The files of a ``files`` sample."""


@dataclass(frozen=True)
class Unit:
    """The input of one shard."""

    index: int
    """Number of the shard."""
    pieces: tuple[Piece, ...]
    """What it reads, in order."""

    @property
    def size(self) -> int:
        """Input bytes."""
        return sum(piece.size for piece in self.pieces)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Unit:
        """Build a unit from `to_dict`'s form."""
        pieces = []
        for piece in values["pieces"]:
            members = tuple(Member(**member) for member in piece["members"])
            pieces.append(Piece(**{**piece, "members": members}))
        return cls(int(values["index"]), tuple(pieces))


@dataclass(frozen=True)
class Source:
    """One content of a sample, from which one or several streams are made."""

    name: str
    """Its name in `SampleBlock.contents`: the modality, or the stream that has a field of its own."""
    modality: str
    """What kind of data it is."""
    field: str | None = None
    """Where it is found; None leaves it to the options for all (``text_field``, ``media_field``)."""


@dataclass(frozen=True)
class ReadOptions:
    """How samples are read out of files."""

    modalities: tuple[str, ...] = ("text",)
    """What a sample must have, each once, beside what is `named`."""
    split: str = "none"
    """What a sample of a txt file is: ``none`` (the whole file), ``lines`` or ``paragraphs``."""
    text_field: str = TEXT_FIELD
    """jsonl field or parquet column of the text."""
    media_field: str | None = None
    """Parquet column of the picture or sound; None is the name of the modality."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Extra columns to carry: name to ``string``, ``int64``, ``float64`` or ``bool``."""
    max_document_bytes: int = 16 << 20
    """A longer text is cut."""
    named: tuple[Source, ...] = ()
    """What else a sample must have, each found in a field of its own and named after its stream."""
    incomplete: str = "skip"
    """What a sample is of which a part is not there: left out and counted apart (``skip``), or a failure (``fail``)."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r} is not one of {', '.join(SPLITS)}")
        if self.incomplete not in INCOMPLETE:
            raise ValueError(f"incomplete {self.incomplete!r} is not one of {', '.join(INCOMPLETE)}")
        if self.max_document_bytes < 8:
            raise ValueError(f"max_document_bytes {self.max_document_bytes} is below 8")

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Everything that a sample must have."""
        return (*(Source(name, name) for name in self.modalities), *self.named)

    @cached_property
    def texts(self) -> tuple[Source, ...]:
        """Those of the sources that are texts, which lines, JSON and tables hold as they are."""
        return tuple(source for source in self.sources if modality_named(source.modality).textual)

    @property
    def all_text(self) -> bool:
        """Whether samples are nothing but texts, one or several."""
        return self.texts == self.sources

    @property
    def text_only(self) -> bool:
        """Whether a sample is one text and nothing else."""
        return self.all_text and len(self.sources) == 1

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of files that can hold such samples."""
        if self.all_text:
            # What takes values takes the labels of idx files.
            values = any(modality_named(source.modality).takes_values for source in self.sources)
            return (PLAIN, *TABLES, "tar", *(["idx"] if values else []))
        files = dict.fromkeys(PLAIN if source in self.texts else source.modality for source in self.sources)
        pixels = any(modality_named(source.modality).takes_pixels for source in self.sources)
        return (*files, *(MEMBERS if self.texts else ()), "parquet", "tar", *(["idx"] if pixels else []))

    @cached_property
    def timed(self) -> bool:
        """Whether a sample has a film, so that what goes with it may have times."""
        return any(modality_named(source.modality).timed for source in self.sources)

    def endings_of(self, source: Source) -> tuple[str, ...]:
        """The endings of files that hold a source; subtitles are texts of films."""
        kind = modality_named(source.modality)
        return (*kind.extensions, *SUBTITLES) if kind.textual and self.timed else kind.extensions

    @property
    def by_stem(self) -> bool:
        """Whether a sample is made of all files of one stem."""
        return len(self.sources) > 1 or (not self.text_only and self.place_of(self.sources[0]) is not None)

    def place_of(self, source: Source) -> str | None:
        """Where the user said that a source is, see `tokenize_kit.sources.parts`; None if it was left to the defaults."""
        if source.field is not None:
            return source.field
        if source in self.texts:
            usual = self.text_field == TEXT_FIELD or modality_named(source.modality).usual_field
            return None if usual else self.text_field
        return self.media_field

    def field_of(self, source: Source) -> str:
        """The jsonl field or parquet column of a source."""
        if source.field is not None:
            return source.field
        if source in self.texts:
            return modality_named(source.modality).usual_field or self.text_field
        return self.media_field or source.modality

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        values = {**asdict(self), "modalities": list(self.modalities), "named": [asdict(one) for one in self.named]}
        # Left out where they say nothing, so that runs from before there were the options can be continued.
        if not self.named:
            del values["named"]
        if self.incomplete == "skip":
            del values["incomplete"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReadOptions:
        """Build options from `to_dict`'s form."""
        named = tuple(Source(**one) for one in values.get("named", ()))
        return cls(**{**values, "modalities": tuple(values["modalities"]), "named": named})


def find_sources(
    inputs: Sequence[str],
    options: ReadOptions,
    leave_out: Sequence[str] = (),
    on_remark: Callable[[str], None] | None = None,
) -> Listing:
    """List the input files that hold samples as ``options`` want them, and what lies there besides, see `listing.list_files`.

    Args:
        inputs: files, folders, globs, pipes, ``-`` and fsspec URLs.
        options: what a sample is.
        leave_out: folders that are not looked into, such as the one that a run writes to.
        on_remark: called with what people should know: one line for all that is not read, and one for each link and pipe.

    Raises:
        FileNotFoundError: nothing is there, or nothing of the right kind.
        ValueError: a named file is of the wrong kind.
        OSError: there is no room for standard input.
    """
    if not inputs:
        raise ValueError("no input is given; name files, folders, globs or URLs with --data")
    captions = None if options.text_only else _endings(options)
    files = list_files(inputs, options.kinds, captions=captions, leave_out=leave_out)
    stems = {
        stem_of(file.key)[0] for file in files if (file.kind == PLAIN) == options.all_text and file.kind not in MEMBERS
    }
    kept = []
    for file in files:
        beside = stem_of(file.key)[0] in stems
        if file.kind in MEMBERS and (beside if options.text_only else not (beside or options.all_text)):
            why = "belongs to the text of that name" if beside else "belongs to no sample"
            files.pass_over(file.key, why, ending_of(file.key))
        else:
            kept.append(file)
    files[:] = kept
    if on_remark:
        for line in files.lines():
            on_remark(line)
    return files


def input_digest(files: Sequence[SourceFile], versions: bool = False) -> str:
    """Return the sha256 over the names and sizes of the input, and over when they were written if ``versions``."""
    rows = [[file.key, file.size, file.kind, *([file.version] if versions else [])] for file in files]
    return hashlib.sha256(canonical_json(rows)).hexdigest()


def plan_units(files: Sequence[SourceFile], options: ReadOptions, unit_bytes: int) -> list[Unit]:
    """Divide the input into units of about ``unit_bytes``: small files are put together, large ones divided.

    A compressed file cannot be divided, so it is one unit whatever its size.
    """
    if unit_bytes < 1:
        raise ValueError(f"a shard of {unit_bytes} bytes of input is too small")
    groups: list[list[Piece]] = []
    room = 0
    for piece in _pieces(files, options, unit_bytes):
        if not groups or piece.size > room or len(groups[-1]) >= MAX_FILES_PER_UNIT:
            groups.append([])
            room = unit_bytes
        groups[-1].append(piece)
        room -= piece.size
    return [Unit(index, tuple(pieces)) for index, pieces in enumerate(groups)]


def _pieces(files: Sequence[SourceFile], options: ReadOptions, unit_bytes: int) -> list[Piece]:
    pieces: list[Piece] = []
    samples: dict[str, list[SourceFile]] = {}
    members = set(members_among(files, options))
    for file in files:
        if file in members:
            # Files of one stem are one sample, but only where a sample has several of them.
            key = stem_of(file.key)[0] if options.by_stem else file.key
            samples.setdefault(key, []).append(file)
        elif file.kind != PLAIN or options.text_only:
            pieces += _divide(file, options, unit_bytes)
    for key, group in samples.items():
        parts = tuple(Member(stem_of(file.key)[1], file.url, file.size) for file in group)
        pieces.append(Piece("files", key, sum(file.size for file in group), members=parts))
    return pieces


def members_among(files: Sequence[SourceFile], options: ReadOptions) -> list[SourceFile]:
    """Return the files that are parts of a sample each, and not one or many samples themselves."""
    texts = {stem_of(file.key)[0] for file in files if file.kind == PLAIN}
    return [file for file in files if _is_member(file, options, texts)]


def _is_member(file: SourceFile, options: ReadOptions, texts: Collection[str]) -> bool:
    """Whether a file is a part of a sample; ``texts`` are the stems of all plain texts."""
    if file.kind == PLAIN:
        return not options.text_only and PurePosixPath(file.key).suffix.lower() in _endings(options)
    if file.kind in MEMBERS:
        return not options.all_text or (options.by_stem and stem_of(file.key)[0] in texts)
    return file.kind not in (*TABLES, "tar", "idx")


def _endings(options: ReadOptions) -> tuple[str, ...]:
    """Return the endings of files that hold the text of one sample: the usual ones, and those that the user named."""
    usual = [ending for source in options.texts for ending in options.endings_of(source)]
    places = [place.partition(":")[0] for source in options.texts if (place := options.place_of(source)) is not None]
    return (*usual, *(PurePosixPath(f"x.{place}").suffix.lower() for place in places))


def _divide(file: SourceFile, options: ReadOptions, unit_bytes: int) -> list[Piece]:
    whole = Piece(file.kind, file.key, file.size, file.url, file.compression)
    if file.kind == "parquet":
        return _divide_parquet(whole, unit_bytes)
    if file.compression or file.size <= unit_bytes or file.kind in ("csv", "tsv"):
        return [whole]  # a newline between quotes ends no row, so only who has read a table from its beginning can tell
    if file.kind == "json" and not _holds_lines(file):
        return [whole]
    if file.kind == "tar":
        return _divide_tar(whole, unit_bytes)
    if file.kind == "idx":
        return _divide_idx(whole, unit_bytes)
    step = unit_bytes
    if file.kind == PLAIN and options.split == "none":
        # Documents begin near multiples of their maximal size, so units must too.
        step = max(1, unit_bytes // options.max_document_bytes) * options.max_document_bytes
    starts = range(0, file.size, step)
    return [_part(whole, start, min(start + step, file.size), min(step, file.size - start)) for start in starts]


def _part(whole: Piece, start: int, stop: int, size: int) -> Piece:
    return Piece(whole.kind, whole.key, size, whole.url, whole.compression, start, stop)


def _holds_lines(file: SourceFile) -> bool:
    with open_source(file.url) as opened:
        return holds_lines(opened)


def _divide_parquet(whole: Piece, unit_bytes: int) -> list[Piece]:
    from tokenize_kit.sources.parquet_process import UnreadableError, describe

    try:
        facts = describe(whole.url)
    except (UnreadableError, PermissionError):
        return [whole]  # reading it says what is wrong
    return _divide_list(whole, facts.sizes, unit_bytes)


def _divide_tar(whole: Piece, unit_bytes: int) -> list[Piece]:
    return _divide_list(whole, [sample.size for sample in tar_index(whole.url).samples], unit_bytes)


def _divide_idx(whole: Piece, unit_bytes: int) -> list[Piece]:
    try:
        with open_source(whole.url) as file:
            header = read_header(file)
    except ValueError:
        return [whole]  # reading it says what is wrong
    # What a header promises beyond the end of the file is no work; the last piece reports it.
    there = min(header.count, (whole.size - header.length) // header.picture_bytes)
    step = max(1, unit_bytes // header.picture_bytes)
    pieces = [_part(whole, at, at + step, step * header.picture_bytes) for at in range(0, there - step, step)]
    start = len(pieces) * step
    size = (there - start) * header.picture_bytes
    return [*pieces, Piece(whole.kind, whole.key, size, whole.url, whole.compression, start, None)]


def _divide_list(whole: Piece, sizes: Sequence[int], unit_bytes: int) -> list[Piece]:
    """Divide a file of parts that have these sizes; there is always at least one piece, if only to report its damage."""
    pieces: list[Piece] = []
    start = size = 0
    for number, part in enumerate(sizes):
        if size and size + part > unit_bytes:
            pieces.append(_part(whole, start, number, size))
            start, size = number, 0
        size += part
    return [*pieces, Piece(whole.kind, whole.key, size, whole.url, whole.compression, start, None)]
