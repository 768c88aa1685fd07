"""One tokenizer of a comparison and its folder; each part of the work leaves a file there, and is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.files import read_signed, signed, write_json
from tokenize_kit.protocol import load_tokenizer

if TYPE_CHECKING:
    from tokenize_kit.protocol import Tokenizer
    from trainers.autoregressive.comparing.options import CompareOptions


@dataclass(frozen=True)
class Contestant:
    """A tokenizer that is compared."""

    name: str
    """What it is called: the last part of its folder, made unique."""
    source: str
    """Its folder."""
    tokenizer: Tokenizer
    """The same, loaded."""
    folder: Path
    """Where all that is made for it lies."""
    steps: int | None
    """How many steps its Transformer is trained; None where that is measured."""

    @property
    def stream(self) -> str:
        """Its stream in the shards."""
        return self.tokenizer.spec.modality

    @property
    def shards(self) -> Path:
        """The shards."""
        return self.folder / "shards"

    @property
    def model(self) -> Path:
        """The model."""
        return self.folder / "model"

    @property
    def samples(self) -> Path:
        """What the model drew."""
        return self.folder / "samples"

    def kept(self, part: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what a part of the work found: what its file says, or what ``make`` finds, which is written there."""
        path = self.folder / f"{part}.json"
        if path.is_file():
            return read_signed(path)
        found = make()
        write_json(path, signed(found))
        return read_signed(path)


def contestants_of(options: CompareOptions) -> list[Contestant]:
    """Load the tokenizers of a comparison.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: they are of several kinds of data, two are the same, or the captions are of that kind too.
    """
    loaded = [(source, load_tokenizer(source)) for source in options.tokenizer]
    found: list[Contestant] = []
    for number, (source, tokenizer) in enumerate(loaded):
        first = loaded[0][1].spec.modality
        if tokenizer.spec.modality != first:
            raise ValueError(
                f"{loaded[0][0]} is a tokenizer of {first} and {source} one of {tokenizer.spec.modality}; compare tokenizers of "
                "one kind"
            )
        if same := [one.source for one in found if one.tokenizer.fingerprint == tokenizer.fingerprint]:
            raise ValueError(f"{same[0]} and {source} are the same tokenizer; give each once")
        name = _name(Path(source).absolute().name, [one.name for one in found])
        steps = options.steps[number] if options.steps else None
        found.append(Contestant(name, source, tokenizer, Path(options.out) / name, steps))
    return found


def _name(wanted: str, taken: Sequence[str]) -> str:
    names = (wanted, *(f"{wanted}-{number}" for number in range(2, len(taken) + 2)))
    return next(name for name in names if name not in taken)
