"""``decode``: token shards back into files, one a sample.

``decode.json`` says what a folder is made of and ``files.jsonl`` which file each key has; both are there before the first file,
so that the same command can go on after it was stopped. Only the standard library is imported before `decode` is called, so that
``--help`` is instant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.errors import VerificationError
from tokenize_kit.progress import Progress, several
from tokenize_kit.shards.options import DecodeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol import Modality, Tokenizer
    from tokenize_kit.shards.format import StreamInfo
    from tokenize_kit.shards.reader import Record, ShardSet

_BATCH = 32
DECODE_FILE = "decode.json"
"""What the files of a folder are made of."""
FILES_FILE = "files.jsonl"
"""The file of each key, a line of JSON each, in the order of the samples."""


@dataclass(frozen=True)
class DecodeResult:
    """What was written."""

    out: str
    files: int
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)

    def to_text(self) -> str:
        """Return one line for a person."""
        return f"{several(self.files, 'files')} in {self.out}, from {several(self.tokens, 'tokens')}"


def decode(options: DecodeOptions, progress: Progress | None = None) -> DecodeResult:
    """Write one file for each sample of a stream, named after its key; goes on with what the same command began.

    Raises:
        FileNotFoundError: the shards or the tokenizer are not there.
        ValueError: the folder holds something else, or the shards do not have so many codebooks.
        VerificationError: the shards are not what was written, or the tokenizer is not the one that made them.
        OSError: the disk is full or the folder cannot be written. In all cases finished files are kept.
    """
    from tokenize_kit.claims import begun
    from tokenize_kit.protocol import modality_of, placed
    from tokenize_kit.shards.preparation import Preparation
    from tokenize_kit.shards.reader import ShardSet

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit} must be at least 1")
    progress = progress or Progress(enabled=False)
    shards = ShardSet.open(options.shards, options.trust_shards, progress.note)
    stream, tokenizer = _tokenizer_of(options, shards)
    tokenizer = placed(tokenizer, options.device, options.precision)
    if options.codebooks is not None:
        stream.spec.first_codebooks(options.codebooks)
    kind = modality_of(stream.spec)
    spec = Preparation.of_options(shards.manifest.options).taken(stream.spec)
    suffix = options.suffix or kind.suffix
    if suffix not in kind.suffixes:
        raise ValueError(
            f"--suffix {suffix} is not one of {', '.join(kind.suffixes)}, which {kind.plural} are written as"
        )
    out = Path(options.out)
    total = shards.num_rows if options.limit is None else min(options.limit, shards.num_rows)
    # It may hold the very pictures that were encoded, and a decoded one may be worse.
    foreign = "give an empty or new one, so that no file of yours is overwritten"
    identity = _identity(options, shards, stream)
    with begun(out, DECODE_FILE, identity, lists=(FILES_FILE,), foreign=foreign) as going_on:
        paths = _listed(out, shards.column("key")[:total].to_pylist(), kind, suffix)
        # What is there is whole, for a file appears as a whole.
        missing = [number for number, path in enumerate(paths) if not (going_on and path.is_file())]
        if going_on and len(missing) < total:
            progress.note(f"{total - len(missing):,} of {total:,} files are in {out} already")
        progress.task("decode", len(missing))
        files = 0
        for numbers in _runs(missing):
            records = list(shards.records(numbers.start, numbers.stop))
            grids = _grids(stream, records, options.codebooks)
            samples = _decode_batch(tokenizer, stream, records, grids)
            for number, sample in zip(numbers, samples, strict=True):
                kind.write(sample, paths[number], spec)
                files += 1
            progress.update(files, files=files)
    return DecodeResult(options.out, total, _tokens(shards, stream, total, options.codebooks))


def _identity(options: DecodeOptions, shards: ShardSet, stream: StreamInfo) -> dict[str, Any]:
    """Return what the files depend on."""
    from tokenize_kit.files import canonical_json, sha256_of_bytes

    return {
        "command": "decode",
        "shards": sha256_of_bytes(canonical_json(shards.manifest.to_dict())),
        "stream": stream.name,
        "fingerprint": stream.fingerprint,
        **{name: getattr(options, name) for name in ("limit", "codebooks", "device", "precision")},
        # Left out where it says nothing, so that what was begun before there was the option can be gone on with.
        **({} if options.suffix is None else {"suffix": options.suffix}),
    }


def _listed(out: Path, keys: Sequence[str], kind: Modality, suffix: str) -> list[Path]:
    """Write which file each key has, and return the files."""
    from tokenize_kit.files import write_text
    from tokenize_kit.shards.file_names import FileNames

    naming = FileNames(suffix, kind.extensions, (DECODE_FILE, FILES_FILE))
    names = [naming.name(key) for key in keys]
    lines = [
        json.dumps({"key": key, "file": name}, ensure_ascii=False) + "\n" for key, name in zip(keys, names, strict=True)
    ]
    write_text(out / FILES_FILE, "".join(lines))
    return [out / name for name in names]


def _tokens(shards: ShardSet, stream: StreamInfo, total: int, codebooks: int | None) -> int:
    """Return how many ids the first ``total`` samples are decoded from."""
    tokens = 0
    for array in shards.stream_arrays(stream.name):
        shapes = array.shapes[:total].copy()
        if codebooks is not None:
            shapes[:, -1] = shapes[:, -1].clip(max=codebooks)
        tokens += int(shapes.prod(axis=1).sum())
        total -= len(shapes)
    return tokens


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Yield numbers that follow one another together, so many at most as are decoded at once."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1 or place - start == _BATCH:
            yield range(numbers[start], numbers[place - 1] + 1)
            start = place


def _tokenizer_of(options: DecodeOptions, shards: ShardSet) -> tuple[StreamInfo, Tokenizer]:
    from tokenize_kit.protocol import load_tokenizer, tokenizer_name
    from tokenize_kit.shards.verify import named_stream

    name, folder = named_stream(options.tokenizer, shards.manifest)
    tokenizer = load_tokenizer(folder)
    candidates = [shards.streams[name]] if name else list(shards.streams.values())
    found = [stream for stream in candidates if stream.fingerprint == tokenizer.fingerprint]
    if not found:
        made = ", ".join(f"{stream.name} by {stream.tokenizer} {stream.fingerprint[:12]}" for stream in candidates)
        raise VerificationError(
            f"the tokenizer in {folder} ({tokenizer.fingerprint[:12]}) did not make these shards ({made}); give the one that did"
        )
    if len(found) > 1:
        names = ", ".join(stream.name for stream in found)
        raise ValueError(
            f"the streams {names} were all made by this tokenizer; choose one with --tokenizer NAME={folder}"
        )
    if differs := found[0].unlike(tokenizer_name(tokenizer), tokenizer.fingerprint, tokenizer.spec.to_dict()):
        raise VerificationError(
            f"the tokenizer in {folder} is not what the manifest of {options.shards} says of it ({differs}); verify both"
        )
    return found[0], tokenizer


def _grids(stream: StreamInfo, records: list[Record], codebooks: int | None) -> list[Tensor]:
    import numpy as np
    import torch

    from tokenize_kit.protocol import first_codebooks

    grids = [torch.from_numpy(record.grids[stream.name].astype(np.int64)) for record in records]
    return grids if codebooks is None else [first_codebooks(grid, codebooks) for grid in grids]


def _decode_batch(tokenizer: Tokenizer, stream: StreamInfo, records: list[Record], grids: list[Tensor]) -> list[Any]:
    from tokenize_kit.protocol import decode_sized

    sizes = [record.sizes[stream.name] for record in records] if stream.spec.size_axes else [()] * len(records)
    try:
        return decode_sized(tokenizer, grids, sizes)
    except ValueError as error:
        raise ValueError(f"samples {records[0].key} to {records[-1].key} cannot be decoded: {error}") from None
