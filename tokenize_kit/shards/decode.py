"""``decode``: token shards back into files, one a sample.

Only the standard library is imported before `decode` is called, so that ``--help`` is instant.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.errors import VerificationError
from tokenize_kit.progress import Progress
from tokenize_kit.shards.options import DecodeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.protocol import Tokenizer
    from tokenize_kit.shards.format import StreamInfo
    from tokenize_kit.shards.reader import Record, ShardSet

_BATCH = 32
_LONGEST_NAME = 200
_UNSAFE = re.compile(r"[\x00-\x1f\x7f<>:\"|?*\\]")


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
        return f"{self.files:,} files in {self.out}, from {self.tokens:,} tokens"


def decode(options: DecodeOptions, progress: Progress | None = None) -> DecodeResult:
    """Write one file for each sample of a stream, named after its key.

    Raises:
        FileNotFoundError: the shards or the tokenizer are not there.
        ValueError: the folder for the files is not empty, or the shards do not have so many codebooks.
        VerificationError: the shards are not what was written, or the tokenizer is not the one that made them.
    """
    from tokenize_kit.modalities import modality_named
    from tokenize_kit.protocol import placed
    from tokenize_kit.shards.reader import ShardSet

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit} must be at least 1")
    progress = progress or Progress(enabled=False)
    shards = ShardSet.open(options.shards, options.trust_shards)
    stream, tokenizer = _tokenizer_of(options, shards)
    tokenizer = placed(tokenizer, options.device, options.precision)
    if options.codebooks is not None:
        stream.spec.first_codebooks(options.codebooks)
    kind = modality_named(stream.spec.modality)
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        # It may hold the very pictures that were encoded, and a decoded one may be worse.
        raise ValueError(
            f"{out} is not an empty folder; give an empty or new one, so that no file of yours is overwritten"
        )
    out.mkdir(parents=True, exist_ok=True)
    total = shards.num_rows if options.limit is None else min(options.limit, shards.num_rows)
    progress.task("decode", total)
    taken: set[str] = set()
    files = tokens = 0
    for start in range(0, total, _BATCH):
        records = list(shards.records(start, min(start + _BATCH, total)))
        grids = _grids(stream, records, options.codebooks)
        tokens += sum(grid.numel() for grid in grids)
        for record, sample in zip(records, _decode_batch(tokenizer, stream, records, grids), strict=True):
            path = out / file_name(record.key, kind.suffix, kind.extensions, taken)
            kind.write(sample, path, stream.spec)
            files += 1
        progress.update(files, files=files)
    return DecodeResult(options.out, files, tokens)


def file_name(key: str, suffix: str, extensions: tuple[str, ...], taken: set[str]) -> str:
    """Return a relative path for a key that stays inside its folder, differs from those ``taken``, and joins them.

    The key's own ending is replaced where it is one of ``extensions``.
    """
    parts = []
    for part in key.split("/"):
        part = _UNSAFE.sub("_", part).strip(" ")
        if part in ("", ".", ".."):
            part = "_" * max(1, len(part))
        if len(part.encode()) > _LONGEST_NAME - 20:
            digest = hashlib.sha256(part.encode()).hexdigest()[:16]
            part = part.encode()[: _LONGEST_NAME - 40].decode(errors="ignore") + "~" + digest
        parts.append(part)
    base = parts[-1]
    for extension in extensions:
        if base.lower().endswith(extension) and len(base) > len(extension):
            parts[-1] = base[: -len(extension)]
            break
    name = "/".join(parts)
    number = 2
    chosen = name + suffix
    # Lower case, because some file systems hold a.png and A.png as one file.
    while chosen.lower() in taken:
        chosen, number = f"{name}~{number}{suffix}", number + 1
    taken.add(chosen.lower())
    return chosen


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
