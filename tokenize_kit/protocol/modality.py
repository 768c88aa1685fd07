"""What a kind of data is: the declaration `Modality`, told once and asked by everything else.

A kind of data is one file: a class that inherits from `Modality`, and one object of it, registered in the entry point group
``tokenize_kit.modalities`` (or with `register_modality`). Those of the house are in `tokenize_kit.modalities`. What belongs to a
higher floor, such as its measure, is named as ``module:attribute`` and resolved when it is asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from importlib import import_module
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from tokenize_kit.protocol.clips import Part, Span
from tokenize_kit.protocol.registry import MODALITIES
from tokenize_kit.protocol.spec import TokenSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import IO

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.protocol.clips import Clips, Follower
    from tokenize_kit.protocol.spec import Sample

    Reference: TypeAlias = str | Callable[..., Any]


class Stream(ABC):
    """A file that is read in pieces, in memory that does not grow with its length."""

    conversion: str = ""
    """What is changed so that the pieces are as the spec wants them, see `Modality.conversion`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the sample, as `Modality.read_noting` says it; complete when all pieces were read."""
        return (self.conversion,) if self.conversion else ()

    @abstractmethod
    def pieces(self) -> Iterator[Tensor]:
        """Yield the sample once, in pieces; joined they are what `Modality.read` gives.

        Raises:
            ValueError: the file is damaged or cut short.
        """


class _Whole(Stream):
    """A stream of one piece."""

    def __init__(self, sample: Tensor, conversion: str) -> None:
        self._sample, self.conversion = sample, conversion

    def pieces(self) -> Iterator[Tensor]:
        yield self._sample


class Modality(ABC):
    """One kind of data: how its files become samples and back, and what is true of its samples.

    A sample is a ``str`` or a tensor. The defaults are those of a tensor whose last `size_axes` axes are its size.

    `measure`, `codecs`, `lossless`, `show` and `show_bits` belong to higher floors, and `operations` and `augmentations` need
    packages that the table does not: they are named as ``module:attribute`` and resolved by `resolved` when they are asked for. A
    class in their place, or a method of that name, does as well.
    """

    name: str
    """What `TokenSpec.modality` says."""
    plural: str = "samples"
    """What several of its samples are called in messages and reports."""
    extensions: tuple[str, ...] = ()
    """File endings that can be read, in lower case with the dot."""
    extras: Mapping[str, str] = MappingProxyType({})
    """Further endings, each with what has to be installed before they can be read; where there are such files, that is said."""
    suffix: str = ""
    """The file ending that `write` makes where nobody asks for another."""
    further_suffixes: tuple[str, ...] = ()
    """The others that it makes: what a file is written as is decided by its ending."""
    size_axes: int
    """How many numbers the size of a sample has; 0 for a text, which has none."""
    textual: bool = False
    """Whether samples are ``str``, which lines, tables and JSON hold as they are; all others come as the bytes of files."""
    usual_field: str = ""
    """Of texts: the field of JSON and tables that they are in where nobody names another; empty: ``text``."""
    takes_values: bool = False
    """Of texts: whether numbers and truth values of JSON and tables are some too, as JSON writes them."""
    takes_pixels: bool = False
    """Whether `read` also takes bare pixels, uint8 ``(C, H, W)``, as idx files hold them."""
    dimension: str = "dimension"
    """What a likelihood is counted a: ``bits_per_dimension``; a byte of a text, a value of everything else."""
    may_be_empty: bool = False
    """Whether a sample of no length is one."""
    least: str = "a sample has at least one value"
    """What is said of one that is empty and may not be."""
    streams: bool = False
    """Whether files are read and written in pieces along the first number of the size; see `open_stream`, `write_pieces`."""
    pours: str = ""
    """What a sample is where it is written as it comes, such as ``wav``; empty: it has no such form. See `pour`."""
    piece_axis: int = -1
    """The axis of a sample along which its pieces are joined."""
    resizable: bool = False
    """Whether `resize` brings samples to a size, so that ``--image-size`` is for them."""
    timed: bool = False
    """Whether samples are frames at `TokenSpec.frame_rate` a second, so that ``--fps`` and ``--clip-frames`` are for them; see
    `parts`."""
    follows: bool = False
    """Whether a file has a part for each clip of a film that it is in one sample with; see `follow`. Otherwise all of it goes to
    every clip."""
    operations: str | Mapping[str, Any] = MappingProxyType({})
    """What views may do to samples, each a `tokenize_kit.protocol.views.Operation` by its name."""
    augmentations: str | Mapping[str, Any] = MappingProxyType({})
    """What may be drawn for samples, each a `tokenize_kit.protocol.augmentations.Augmentation` by its name."""
    measure: Reference = ""
    """What evaluation measures: called with a spec and the options, gives a `tokenize_kit.metrics.measures.Measure`.
    Empty: how many samples come back exactly, bits and speed."""
    codecs: Reference = ""
    """The classical codecs of its rate and distortion: called with a spec, gives `tokenize_kit.metrics.rate.Codecs`.
    Empty: there are none to compare with."""
    show: Reference = ""
    """How a report shows originals beside what comes back: called with a `tokenize_kit.report.Page`, the examples (see
    `tokenize_kit.metrics.result.Example`) and a spec. Empty: a table of keys, sizes and notes."""
    show_bits: Reference = ""
    """How a report shows where the bits of a sample are: called with a `tokenize_kit.report.Page`, a
    `tokenize_kit.report.bits.Bits` and a spec; gives the picture that is worth a file, or None. Empty: bits in the order of the
    grid, as a heat map."""
    lossless: Reference = ""
    """The classical lossless code of its samples, a `tokenize_kit.metrics.lossless.LosslessCode`. Empty: xz of their values."""
    exhibit_folder: str = "samples"
    """The folder of a training run for what its trainer shows of such samples after a validation."""
    exhibit_suffix: str = ""
    """The file ending of those; empty: `suffix`."""

    @abstractmethod
    def read(self, data: bytes | NDArray[np.uint8], spec: TokenSpec) -> Sample:
        """Turn the bytes of one file into the sample that the spec asks for.

        Raises:
            ValueError: they are not one.
        """

    def read_noting(
        self,
        data: bytes | NDArray[np.uint8],
        spec: TokenSpec,
        at_least: int | None = None,  # noqa: ARG002
    ) -> tuple[Sample, tuple[str, ...]]:
        """Read a sample as `read` does, and say what had to be done to it, each in words that are counted over samples.

        Args:
            data: the bytes of one file, or pixels.
            spec: what is wanted.
            at_least: the size that `resize` will be asked for; a decoder may give a sample that is smaller than the file says,
                but no smaller than this along any axis.

        Returns:
            The sample, and notes such as ``48000 Hz stereo to 16000 Hz mono``.

        Raises:
            ValueError: it is none.
        """
        conversion = self.conversion(data, spec) if isinstance(data, bytes) else ""
        return self.read(data, spec), ((conversion,) if conversion else ())

    @abstractmethod
    def write(self, sample: Sample, path: Path, spec: TokenSpec) -> None:
        """Write one sample of that spec as a file that ends in one of `suffixes`, whole or not at all.

        Raises:
            TypeError, ValueError: it is not a sample.
        """

    def to_python(self, sample: Sample, spec: TokenSpec) -> Any:  # noqa: ARG002
        """Return a sample as Python users have it; here the array of a tensor."""
        return cast("Tensor", sample).numpy()

    def save(self, value: object, stem: Path) -> Path | None:  # noqa: ARG002
        """Write what a Python user has as a file that is read like any other.

        Args:
            value: such as what `to_python` gives.
            stem: the file's path without its ending.

        Returns:
            The file; None if the value is none of this kind.

        Raises:
            ValueError: the value is of this kind, but not one that a file could hold.
        """
        return None

    @abstractmethod
    def check(self, sample: object, spec: TokenSpec) -> Sample:
        """Return what a caller handed in, if it is a sample of that spec.

        Raises:
            TypeError: it is of another kind.
            ValueError: its shape, channels or range is another.
        """

    def conversion(self, data: bytes, spec: TokenSpec) -> str:  # noqa: ARG002
        """Say in words what `read` has to change so that a file is what the spec asks for, beyond what its kind implies.

        A sound of another sample rate gives ``48000 Hz stereo to 16000 Hz mono``, one that fits gives nothing.
        """
        return ""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """All endings that `write` makes."""
        return (self.suffix, *self.further_suffixes)

    @property
    def converts(self) -> bool:
        """Whether `conversion` or `read_noting` may have something to say."""
        kind = type(self)
        return kind.conversion is not Modality.conversion or kind.read_noting is not Modality.read_noting

    def parts(
        self,
        file: IO[bytes],
        spec: TokenSpec,
        clips: Clips | None,
        *,
        resize: Callable[[Tensor], Tensor] | None = None,
        at_least: int | None = None,
    ) -> Iterator[Part]:
        """Read a file as one sample or, in clips, as several; only called where `timed`.

        It is read as the samples are asked for, so a kind whose files are long holds no more than a clip of them.

        Args:
            file: seekable; it stays open until the last sample.
            spec: what is wanted; its frame rate is that at which frames are taken.
            clips: how it is cut; None takes it whole.
            resize: what is done to the frames, a piece at a time.
            at_least: see `read_noting`.

        Yields:
            The samples in the order of time.

        Raises:
            ValueError: it is damaged; what stands before the damage has been given.
            NoTrackError: it has nothing of this kind.
        """
        sample, notes = self.read_noting(file.read(), spec, at_least)
        frames = cast("Tensor", sample)
        if resize is not None:
            frames = resize(frames)
        rate = spec.frame_rate or 1.0
        for first, clip in [(0, frames)] if clips is None else clips.cut([frames]):
            yield Part(Span(first / rate, (first + len(clip)) / rate), clip, notes, 1.0)

    def follow(self, name: str, file: IO[bytes], spec: TokenSpec) -> AbstractContextManager[Follower]:
        """Open a file of a sample whose film is cut into clips, to have what belongs to each; only called where `follows`.

        Args:
            name: the file's name or ending.
            file: seekable; it stays open until the block ends.
            spec: what is wanted.

        Raises:
            ValueError: it is none of this kind.
            NoTrackError: it has nothing of this kind.
        """
        raise NotImplementedError(f"{self.plural} do not follow the clips of a film")

    def recognises(self, path: Path) -> bool:  # noqa: ARG002
        """Whether a file whose ending several kinds of data share is this one first of all: asked where nobody says what to read
        in it, as ``inspect`` does; by default none is.
        """
        return False

    def self_describing(self, name: str, data: bytes) -> bytes:  # noqa: ARG002
        """Given the file's name or ending and its bytes, return bytes that `read` knows without the ending."""
        return data

    def size(self, sample: Sample) -> tuple[int, ...]:
        """Return the size of a sample without its channels, `size_axes` numbers."""
        return tuple(cast("Tensor", sample).shape[-self.size_axes :]) if self.size_axes else ()

    def values(self, sample: Sample) -> int:
        """Return how many characters or numbers a sample holds: what it weighs in memory."""
        return cast("Tensor", sample).numel()

    def dimensions(self, sample: Sample) -> int:
        """Return how many values bits are counted over, each a `dimension`."""
        return self.values(sample)

    def crop(self, sample: Sample, size: tuple[int, ...]) -> Sample:
        """Return a sample cut to its true size at the end of each axis.

        Raises:
            ValueError: it is smaller than that.
        """
        self.check_covers(sample, size)
        cut: Any = (..., *(slice(length) for length in size))
        return cast("Tensor", sample)[cut]

    def check_covers(self, sample: Sample, size: tuple[int, ...]) -> None:
        """Refuse a true size that a sample does not cover.

        Raises:
            ValueError: it has another number of axes, or is larger along one.
        """
        there = self.size(sample)
        if len(size) != len(there) or any(wanted > length for wanted, length in zip(size, there, strict=True)):
            raise ValueError(
                f"a sample of size {there} does not cover the true size {size}; the ids are not of this sample"
            )

    def resize(self, sample: Sample, size: int, *, crop: bool = True, pad: bool = False) -> Sample:  # noqa: ARG002
        """Bring a sample to the size that ``--image-size`` asks for; only called where `resizable`.

        With ``crop`` it becomes a square by what is cut off, with ``pad``, which goes before it, by what is put around it.
        """
        raise ValueError(f"{self.plural} have no size to be brought to; leave --image-size {size} out")

    def excerpt(self, sample: Sample, spec: TokenSpec) -> Sample:  # noqa: ARG002
        """Return what a report keeps of a sample: no more than one can look at, and no view of something larger."""
        return cast("Tensor", sample).clone()

    def board(self, writer: Any, name: str, sample: Sample, step: int, spec: TokenSpec) -> None:  # noqa: B027
        """Show a sample where a training is tracked, if that can show such; by default it cannot.

        Args:
            writer: with the methods of a ``torch.utils.tensorboard.SummaryWriter``, see `trainers.trackers.Tracker`.
            name: the tag.
            sample: of that spec.
            step: of the training.
            spec: what the sample is.
        """

    def describe(self, path: Path) -> dict[str, Any]:
        """Return the facts of a file, JSON-ready.

        Raises:
            ValueError: it is damaged.
        """
        spec = TokenSpec(self.name, 1, ("time",), (1,), lossless=True)
        sample = cast("Tensor", self.read(self.self_describing(path.name, path.read_bytes()), spec))
        return {"shape": list(sample.shape), "dtype": str(sample.dtype), "bytes": path.stat().st_size}

    def joined_size(self, sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the size of a sample from the sizes of its pieces, of which there is one at least."""
        return (sum(size[0] for size in sizes), *sizes[0][1:])

    def open_stream(self, path: Path, spec: TokenSpec) -> AbstractContextManager[Stream]:
        """Open a file to be read in pieces; by default there is a single one.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is none of this kind.
        """
        sample, notes = self.read_noting(self.self_describing(path.name, path.read_bytes()), spec)
        return nullcontext(_Whole(cast("Tensor", sample), "; ".join(notes)))

    def write_pieces(self, pieces: Iterable[Tensor], path: Path, spec: TokenSpec) -> None:
        """Write a sample that comes in pieces, whole or not at all; by default they are joined first.

        Raises:
            TypeError, ValueError: as `write`.
        """
        import torch

        self.write(torch.cat(list(pieces), self.piece_axis), path, spec)

    def pour(self, pieces: Iterable[Any], file: IO[bytes], spec: TokenSpec) -> None:
        """Write a sample that comes in pieces while it comes: what can be used of one is there before the next is asked for.

        Only called where `pours` says as what.

        Args:
            pieces: of a text ``str``, of all else tensors, to be joined along `piece_axis`.
            file: open for writing; it may be a pipe.
            spec: of the sample.

        Raises:
            TypeError, ValueError: as `write`.
            OSError: the file takes no more; `BrokenPipeError` where its reader has left.
        """
        raise NotImplementedError(f"{self.plural} have no form in which they could be written as they come")


def resolved(reference: Reference | Mapping[str, Any]) -> Any:
    """Return what a declaration names as ``module:attribute``; anything else is what it is.

    Raises:
        ValueError: it is not of that form, or there is nothing there.
    """
    if not isinstance(reference, str):
        return reference
    module, _, attribute = reference.partition(":")
    try:
        return attrgetter(attribute)(import_module(module))
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise ValueError(f"{reference!r} cannot be had as module:attribute: {error}") from error


def register_modality(modality: Modality) -> None:
    """Make a kind of data known in this process; packages use the entry point group ``tokenize_kit.modalities``.

    Raises:
        ValueError: the name belongs to another one.
    """
    MODALITIES.register(modality.name, modality)


def modality_named(name: str) -> Modality:
    """Return the declaration of a kind of data.

    Raises:
        ValueError: there is none of that name; the message suggests the closest one.
    """
    return cast("Modality", MODALITIES.get(name))


def modality_of(spec: TokenSpec) -> Modality:
    """Return the declaration of a spec's kind of data."""
    return modality_named(spec.modality)
