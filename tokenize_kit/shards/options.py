"""The options of `encode` and `decode`. Only the standard library is imported, so that ``--help`` is instant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenize_kit.progress import several


@dataclass(frozen=True)
class EncodeOptions:
    """Turn files into token shards. A run that was stopped continues where it was when the same command is run again."""

    tokenizer: tuple[str, ...]
    """Tokenizer folders, each as DIR or NAME=DIR; NAME is the stream (column) of its ids, by default its modality."""
    data: tuple[str, ...]
    """What to read: files, folders, globs, fsspec URLs, pipes or - (standard input) of txt, jsonl, json, csv, tsv, parquet,
    pictures, sounds, films, tar and idx; also gz, zst, bz2 and xz."""
    out: str
    """Folder for the shards."""
    workers: int = 1
    """Processes that encode at the same time; the shards are the same whatever the number."""
    split: Literal["none", "lines", "paragraphs"] = "none"
    """What one sample of a txt file is: the whole file, a line, or a paragraph (ended by blank lines)."""
    field: tuple[str, ...] = ()
    """Where the text is: a field of JSON, a column of a table, an ending in a tar, by default text; or STREAM=FIELD for one of
    several streams: question=q, photo=img, fr=desc_fr.txt. Also meta.text for a field in a field, txt:2 for a line of a text."""
    media_field: str | None = None
    """Column of a parquet file, or ending in a tar, of the picture, sound or film; by default the modality, such as image."""
    columns: tuple[str, ...] = ()
    """Further fields to carry into the shards (numbers, strings, booleans), such as label; from a tar: cls, or a key of json."""
    image_size: int | None = None
    """Scale pictures, and the frames of films, so that their short side has this many pixels first, and crop them to a square."""
    crop: bool = True
    """With --image-size: crop to a square; otherwise the long side stays as long as it is in proportion."""
    pad: bool = False
    """With --image-size: scale pictures so that their long side has this many pixels, and pad them with white (of four
    channels: transparent) to a square, so that nothing is cut off."""
    view: tuple[str, ...] = ()
    """Streams of changed forms of the samples: small=resize:16 makes image@small, STREAM@NAME=grey+flip one of several streams.
    Of pictures and films: resize:N, resize:HxW, grey, flip, edges, colormap:NAME, blur:SIGMA. By the tokenizer of the stream, or
    by --tokenizer image@small=DIR."""
    augment: tuple[str, ...] = ()
    """What is drawn for the samples of a stream, such as image=zoom:0.1+shift:0.05 or text=parts. Of pictures and films: flip
    (one in two), shift:PART, zoom:PART; of texts: parts (some of those between commas, in any order); and what --view has."""
    augment_seed: int = 0
    """With --augment: decides what is drawn. The same samples encoded with several seeds are several sets for one training."""
    fps: float | None = None
    """Films: take this many frames a second instead of as many as the tokenizer was made for."""
    clip_frames: int | None = None
    """Films: cut them into clips of this many frames, each a sample, film.mp4@12.48 by the seconds of its first frame; sound and
    subtitles are cut with them. By default a film is one sample."""
    clip_stride: int | None = None
    """With --clip-frames: frames from the beginning of one clip to the next; by default clips follow one another."""
    clip_tail: Literal["keep", "drop"] = "keep"
    """With --clip-frames: frames at the end that are too few for a clip are a shorter one (keep) or left out (drop)."""
    codebooks: int | None = None
    """Keep only the first N ids of each place where a tokenizer gives one a codebook: fewer tokens, coarser samples."""
    allow_special: tuple[str, ...] = ()
    """Special tokens of the vocabulary that become their ids where they stand in a text: all, or each by its name, such as
    '<|im_start|>'. By default they are text like any other."""
    shard_mb: float = 64
    """About how many MB of input make one shard; large files are divided, small ones put together."""
    max_document_mb: float = 16
    """A text longer than this many MB is cut into several samples, after a newline or a space where there is one."""
    max_failures: int = 1000
    """Stop when more samples than this cannot be read; each is listed with its reason in failures.jsonl."""
    incomplete: Literal["skip", "fail"] = "skip"
    """A sample without its caption, sound or picture: left out and listed in incomplete.jsonl, or a failure as any other."""
    limit: int | None = None
    """Encode only the first N samples (one process does it)."""
    part: str = "0/1"
    """K/N: encode only every N-th shard, beginning with shard K (0 to N-1), into a folder that N machines share."""
    dry_run: bool = False
    """Write nothing; say how many samples, tokens, bytes and seconds it would be, from a small part of the data."""
    executor: str | None = None
    """Where shards are made: serial (in this process), processes (in --workers of them) or ray (in as many Ray actors; needs
    tokenize-kit[ray]). By default serial for one worker and processes for more. The shards are the same."""
    ray_address: str | None = None
    """With --executor ray: a running cluster, such as auto or HOST:PORT, which sees --out and --data under the same paths. By
    default Ray is started on this machine, and stopped at the end."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where learned tokenizers compute; auto takes a GPU if there is one. Ids can differ between devices in a few places."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in the matrix products of learned tokenizers; bfloat16 is faster on a GPU, and some ids differ."""

    def interrupted(self) -> str:
        """Return what is true when the command was interrupted."""
        out = Path(self.out)
        if self.dry_run or not (out / "plan.json").exists():
            return "nothing was written, and the same command begins anew"
        shards = len(list(out.glob("[0-9]*.json")))
        if not shards:
            return f"{out} has no finished shard yet, and the same command makes them all"
        made = f"{several(shards, 'finished shards')} {'is' if shards == 1 else 'are'}"
        return f"{made} in {out}, and the same command makes the others"


@dataclass(frozen=True, kw_only=True)
class ShardReading:
    """How shards are read, for every command that reads some."""

    trust_shards: bool = False
    """Do not compare the sha256 of each shard when this machine first reads it; for sets of terabytes that were just verified."""


@dataclass(frozen=True)
class DecodeOptions(ShardReading):
    """Turn token shards back into files, one a sample, named after its key; files.jsonl says which file each key has.

    A run that was stopped continues where it was when the same command is run again.
    """

    shards: str
    """The shard set: a folder or an fsspec URL."""
    tokenizer: str
    """The tokenizer that made the stream, as DIR, or NAME=DIR where several streams came from it."""
    out: str
    """Folder for the files, empty or new; the same command can go on in it."""
    suffix: str | None = None
    """The ending of the files, where a kind of data has several: .mkv (nothing is lost), .webp or .gif for films, else .mp4."""
    limit: int | None = None
    """Decode only the first N samples."""
    codebooks: int | None = None
    """Decode from the first N codebooks of those that are stored."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where a learned tokenizer computes; auto takes a GPU if there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Numbers in the matrix products of a learned tokenizer; bfloat16 is faster on a GPU, and rounds what comes out."""

    def interrupted(self) -> str:
        """Return what is true when the command was interrupted."""
        if not (Path(self.out) / "decode.json").exists():
            return "nothing was written, and the same command begins anew"
        return f"the files that are finished are in {self.out}, and the same command writes the others"
