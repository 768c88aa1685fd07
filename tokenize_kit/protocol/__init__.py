"""The one protocol: samples in, grids of integer ids out, and back.

This is the ground floor. It holds what a tokenizer must be (`Tokenizer`), what it says of itself (`TokenSpec`), how it
is found (`tokenizer_class`, `load_tokenizer`), and the helpers with which a new tokenizer keeps the promises of the
protocol. It leaves files and media to `tokenize_kit.media`, and token storage to `tokenize_kit.shards`.

A sample is a ``str`` (text), a uint8 tensor ``(C, H, W)`` (image), a uint8 tensor ``(T, C, H, W)`` (video) or a float32
tensor ``(C, samples)`` in [-1, 1] (audio): the layouts of torchvision and torchaudio. An id grid is an int64 tensor
whose axes the spec names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, runtime_checkable

from tokenize_kit.files import canonical_json, read_json_object, write_json

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from torch import Tensor

    Sample: TypeAlias = str | Tensor

FORMAT_VERSION = 1
CONFIG_FILE = "tokenizer_config.json"
ENTRY_POINT_GROUP = "tokenize_kit.tokenizers"
MODALITIES = ("text", "image", "video", "audio")

_registered: dict[str, type[Tokenizer]] = {}


@dataclass(frozen=True)
class TokenSpec:
    """What a tokenizer says of itself: enough for shards, vocabularies, trainers and reports to serve it."""

    modality: str
    """One of ``text``, ``image``, ``video``, ``audio``: which kind of sample goes in and comes out."""
    vocab_size: int | tuple[int, ...]
    """Ids run from 0 to vocab_size - 1; one size for each codebook if the last axis is ``codebook``."""
    axes: tuple[str, ...]
    """Names of the grid axes, slowest first: ``("time",)``, ``("height", "width")``, ``("height", "width", "channel")``.
    """
    step: tuple[int | None, ...]
    """How many characters, pixels, frames or samples one step of each axis covers; None where it varies (BPE)."""
    lossless: bool
    """Whether ``decode(encode(x)) == x`` for every sample that is accepted."""
    channels: int | None = None
    """Channels that a picture or sound must have (1 grey or mono, 3 RGB, 4 RGBA); None where it does not apply."""
    sample_rate: int | None = None
    """Samples a second that a sound must have; None where it does not apply."""
    size_multiple: int = 1
    """Height and width (or the number of samples) must be a multiple of this."""

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"modality {self.modality!r} is not one of {', '.join(MODALITIES)}")
        if len(self.axes) != len(self.step) or not self.axes:
            raise ValueError(f"axes {self.axes} and step {self.step} must have one entry for each grid axis")
        sizes = self.codebook_sizes
        if not sizes or any(size < 1 for size in sizes):
            raise ValueError(f"vocab_size {self.vocab_size} must be positive")
        if isinstance(self.vocab_size, tuple) and self.axes[-1] != "codebook":
            raise ValueError(
                f"vocab_size {self.vocab_size} has one size a codebook, so the last axis must be 'codebook'"
            )

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """The vocabulary size of each codebook; one entry where there is a single vocabulary."""
        return self.vocab_size if isinstance(self.vocab_size, tuple) else (self.vocab_size,)

    @property
    def size_axes(self) -> int:
        """Numbers in the true size of a sample (see `size_of`) where a grid may cover more than the sample; else 0."""
        if self.modality == "text" or all(step is None or step == 1 for step in self.step):
            return 0
        return {"image": 2, "video": 3, "audio": 1}[self.modality]

    @property
    def max_vocab_size(self) -> int:
        """The largest vocabulary of any codebook: every id is below it."""
        return max(self.codebook_sizes)

    def first_codebooks(self, count: int) -> TokenSpec:
        """Return the spec of grids that have only the first ``count`` codebooks.

        Raises:
            ValueError: the grids have no codebooks, or fewer.
        """
        if self.axes[-1] != "codebook":
            raise ValueError(
                f"--codebooks {count}: the grids of this tokenizer (axes {', '.join(self.axes)}) have no codebooks; leave it out"
            )
        # With one size for all codebooks only the grids tell how many there are.
        most = len(self.vocab_size) if isinstance(self.vocab_size, tuple) else count
        if not 1 <= count <= most:
            raise ValueError(f"--codebooks {count} must be from 1 to {most}, the codebooks of this tokenizer")
        return replace(self, vocab_size=self.vocab_size[:count]) if isinstance(self.vocab_size, tuple) else self

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenSpec:
        """Build a spec from `to_dict`'s form.

        Raises:
            ValueError: a field is unknown, missing or out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown field {unknown[0]!r} in a token spec; this file needs a newer tokenize-kit")
        ready: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        try:
            return cls(**ready)
        except TypeError as error:
            raise ValueError(f"incomplete token spec: {error}") from None


@runtime_checkable
class Tokenizer(Protocol):
    """Turns samples of one modality into grids of integer ids and back.

    Inherit from it to get `encode_batch` and `decode_batch` as loops; a batch gives exactly what one by one gives.
    A tokenizer is immutable once it is built, so `spec` and `fingerprint` never change.
    """

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over everything that determines the ids; see `fingerprint_of`."""
        ...

    def encode(self, sample: Sample) -> Tensor:
        """Turn one sample into its id grid, int64, on the CPU.

        Raises:
            TypeError: the sample is of another kind than ``spec.modality``.
            ValueError: its shape, dtype or range is not what ``spec`` says.
        """
        ...

    def decode(self, ids: Tensor) -> Sample:
        """Turn one id grid back into a sample.

        Raises:
            ValueError: the grid has the wrong number of axes, or an id outside the vocabulary.
        """
        ...

    def encode_batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Encode samples of mixed sizes; equal to encoding one by one."""
        return [self.encode(sample) for sample in samples]

    def decode_batch(self, grids: Sequence[Tensor]) -> list[Sample]:
        """Decode grids of mixed sizes; equal to decoding one by one."""
        return [self.decode(ids) for ids in grids]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer into ``folder``; ``tokenizer_config.json`` comes last and makes it one.

        Raises:
            ValueError: the folder already holds another tokenizer.
        """
        ...

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; nothing is ever unpickled.

        Raises:
            FileNotFoundError: the folder or a file of it is missing.
            ValueError: a file is damaged, or of another format version or tokenizer.
        """
        ...


@runtime_checkable
class SizedTokenizer(Protocol):
    """A tokenizer whose grid may cover a little more than the sample, so that decoding wants the sample's true size.

    Shards keep the size beside the grid. Without it `Tokenizer.decode` returns all that the grid covers.
    """

    def decode_sized(self, grids: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> list[Sample]:
        """Decode grids of mixed sizes, each cut to the size that `size_of` gave for its sample.

        Raises:
            ValueError: as `Tokenizer.decode`, or a size that the grid does not cover.
        """
        ...


@runtime_checkable
class BlockTokenizer(Protocol):
    """A tokenizer of sounds that takes them in pieces, in memory that does not grow with the length.

    However a sound is cut, the pieces that come out, joined, are what the whole gives.
    """

    def encode_blocks(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode the pieces (C, n) of one sound; yield its ids in pieces along the first axis.

        Raises:
            TypeError, ValueError: as `Tokenizer.encode`, for any piece.
        """
        ...

    def decode_blocks(self, grids: Iterable[Tensor], length: int | None = None) -> Iterator[Tensor]:
        """Decode the pieces of one grid; yield the samples in pieces (C, n), cut to the true ``length`` if it is given.

        Raises:
            TypeError, ValueError: as `Tokenizer.decode`, for any piece, or they do not cover ``length`` samples.
        """
        ...


def first_codebooks(grid: Tensor, count: int) -> Tensor:
    """Return a grid ``(..., codebooks)`` with its first ``count`` codebooks.

    Raises:
        ValueError: it has fewer.
    """
    if grid.shape[-1] < count:
        raise ValueError(f"a grid has {grid.shape[-1]} codebooks, fewer than --codebooks {count}; use {grid.shape[-1]}")
    return grid[..., :count]


def size_of(sample: Sample) -> tuple[int, ...]:
    """Return the size of a sample without its channels: (H, W), (T, H, W) or (samples,); () for a text."""
    if isinstance(sample, str):
        return ()
    shape = tuple(sample.shape)
    return {2: shape[1:], 3: shape[1:], 4: (shape[0], *shape[2:])}[sample.ndim]


def decode_like(tokenizer: Tokenizer, grids: Sequence[Tensor], samples: Sequence[Sample]) -> list[Sample]:
    """Decode the grids of ``samples`` back to samples of the same sizes."""
    if isinstance(tokenizer, SizedTokenizer):
        return tokenizer.decode_sized(grids, [size_of(sample) for sample in samples])
    return tokenizer.decode_batch(grids)


def register_tokenizer(name: str, cls: type[Tokenizer]) -> None:
    """Make ``cls`` known as ``name`` in this process; packages use the entry point group ``tokenize_kit.tokenizers``.

    Raises:
        ValueError: the name belongs to another tokenizer.
    """
    if _registered.get(name, cls) is not cls or name in _entry_points():
        raise ValueError(f"a tokenizer named {name!r} is already registered; choose another name")
    _registered[name] = cls


def registered_tokenizers() -> list[str]:
    """Names of all tokenizers that can be loaded here, sorted."""
    return sorted({*_registered, *_entry_points()})


def tokenizer_class(name: str) -> type[Tokenizer]:
    """Return the tokenizer class that is registered as ``name``.

    Raises:
        ValueError: nothing is registered under that name; the message suggests the closest one.
    """
    if name in _registered:
        return _registered[name]
    points = _entry_points()
    if name not in points:
        close = get_close_matches(name, registered_tokenizers(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no tokenizer is named {name!r} (known: {', '.join(registered_tokenizers())}){hint}")
    loaded = points[name].load()
    assert isinstance(loaded, type), f"entry point {name} of {ENTRY_POINT_GROUP} is not a class"
    return loaded


def tokenizer_name(tokenizer: Tokenizer | type[Tokenizer]) -> str:
    """Return the name under which a tokenizer's class is registered.

    Raises:
        ValueError: its class is not registered.
    """
    cls = tokenizer if isinstance(tokenizer, type) else type(tokenizer)
    for name, known in _registered.items():
        if known is cls:
            return name
    for name, point in _entry_points().items():
        if point.value == f"{cls.__module__}:{cls.__qualname__}":
            return name
    raise ValueError(f"{cls.__qualname__} is not registered; call register_tokenizer or add an entry point")


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Load any registered tokenizer from the folder that its ``save`` wrote, and check its fingerprint.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no tokenizer, a damaged one, or one of a newer format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no tokenizer folder at {folder}; train one with 'tokenize-kit train'")
    config = read_config(folder)
    tokenizer = tokenizer_class(config["tokenizer"]).load(folder)
    if tokenizer.fingerprint != config["fingerprint"]:
        raise ValueError(
            f"{folder} was changed after it was saved: its files give the fingerprint {tokenizer.fingerprint[:12]}, "
            f"{CONFIG_FILE} says {str(config['fingerprint'])[:12]}; restore the folder from a copy"
        )
    if tokenizer.spec.to_dict() != config["spec"]:
        raise ValueError(
            f"{folder} was changed after it was saved: its files give another spec than {CONFIG_FILE} says; "
            "restore the folder from a copy"
        )
    return tokenizer


def write_config(folder: str | os.PathLike[str], tokenizer: Tokenizer, options: Mapping[str, Any]) -> None:
    """Write ``tokenizer_config.json``; a tokenizer's ``save`` calls it last, after its other files.

    Args:
        folder: where the tokenizer is saved.
        tokenizer: the tokenizer, of a registered class.
        options: what its ``load`` needs besides its weights, JSON-ready.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "tokenizer": tokenizer_name(tokenizer),
        "fingerprint": tokenizer.fingerprint,
        "spec": tokenizer.spec.to_dict(),
        "options": dict(options),
    }
    write_json(Path(folder) / CONFIG_FILE, config)


def check_target(folder: str | os.PathLike[str], tokenizer: Tokenizer) -> Path:
    """Return ``folder`` as a path, created; a tokenizer's ``save`` calls it first.

    Raises:
        ValueError: the folder holds a tokenizer with another fingerprint, which would be lost.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to save the tokenizer in")
    if (folder / CONFIG_FILE).exists() and read_config(folder)["fingerprint"] != tokenizer.fingerprint:
        raise ValueError(f"{folder} already holds another tokenizer; choose another folder or delete that one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check ``tokenizer_config.json``: keys ``tokenizer``, ``fingerprint``, ``spec`` and ``options`` (dicts).

    Raises:
        ValueError: the folder holds no tokenizer, or the file is damaged or of a newer format version.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        hint = ""
        if (Path(folder) / "tokenizer.json").is_file():
            hint = f"; to use its tokenizer.json: tokenize-kit import bpe --source {folder} --out DIR"
        raise ValueError(f"{folder} is not a tokenizer folder: it has no {CONFIG_FILE}{hint}")
    config = read_json_object(path)
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version!r}, this tokenize-kit reads {FORMAT_VERSION}; upgrade it")
    for key, kind in (("tokenizer", str), ("fingerprint", str), ("spec", dict), ("options", dict)):
        if not isinstance(config.get(key), kind):
            raise ValueError(f"{path} is damaged: {key!r} is missing or not a {kind.__name__}")
    return config


def check_ids(ids: Tensor, spec: TokenSpec) -> Tensor:
    """Return an id grid as int64 on the CPU after checking it against ``spec``; every ``decode`` calls it first.

    Raises:
        TypeError: the grid is not an integer tensor.
        ValueError: it has the wrong number of axes, or an id outside the vocabulary; the message names the first.
    """
    import torch

    if not isinstance(ids, torch.Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        kind = ids.dtype if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise TypeError(f"an id grid is an integer tensor, got {kind}")
    if ids.ndim != len(spec.axes):
        raise ValueError(f"an id grid of shape {tuple(ids.shape)} has {ids.ndim} axes, expected {spec.axes}")
    ids = ids.to("cpu", torch.int64)
    if isinstance(spec.vocab_size, tuple):
        # A codebook tokenizer decodes from its first n codebooks, so fewer than all are fine.
        if ids.shape[-1] > len(spec.vocab_size):
            raise ValueError(f"the id grid has {ids.shape[-1]} codebooks, the tokenizer has {len(spec.vocab_size)}")
        limit = torch.tensor(spec.vocab_size[: ids.shape[-1]])
    else:
        limit = torch.tensor(spec.vocab_size)
    wrong = (ids < 0) | (ids >= limit)
    if wrong.any():
        first = int(ids[wrong][0])
        raise ValueError(f"id {first} is outside the vocabulary of {spec.vocab_size}; the ids are of another tokenizer")
    return ids


def fingerprint_of(name: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> str:
    """Return the sha256 over a tokenizer's registered name, its options and its weights (name, dtype, shape, bytes).

    Args:
        name: the registered name.
        options: JSON-ready values that determine the ids.
        tensors: the weights that determine the ids, on any device.
    """
    digest = hashlib.sha256(canonical_json({"tokenizer": name, "options": dict(options)}))
    if tensors:
        # Only now, so that a tokenizer without weights does not wait for it.
        import torch
    for key in sorted(tensors or {}):
        value = (tensors or {})[key].detach().cpu().contiguous()
        digest.update(canonical_json([key, str(value.dtype), list(value.shape)]))
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
