"""Which samples are held out from training: one rule for every trainer and for the evaluation.

A sample is held out if the hash of its key says so, or if a list of keys that the user brings has it. The rule looks at nothing
else, so a sample stays on its side when data is added or taken away, when it is read in another order, and in every process. The
clips of a film (`tokenize_kit.protocol.clips`) have the side of the film, for they look alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.protocol.clips import file_of

Part = Literal["all", "train", "held-out"]
"""All samples, those that are trained on, or those that are held out."""


def key_fraction(key: str) -> float:
    """Return a number in [0, 1) from the sha256 of ``key`` alone; of the key of a clip, from that of its film."""
    digest = hashlib.sha256(file_of(key).encode("utf-8", "surrogatepass")).digest()
    # 53 bits are what a float64 holds; with 64 the largest would round up to 1.
    return float((int.from_bytes(digest[:8], "big") >> 11) / (1 << 53))


def key_fractions(keys: Sequence[str]) -> NDArray[np.float64]:
    """Return `key_fraction` of each key, float64 of shape (N,)."""
    return np.fromiter(map(key_fraction, keys), np.float64, len(keys))


def check_fraction(fraction: float) -> None:
    """Refuse a held-out part that is negative or everything.

    Raises:
        ValueError: ``fraction`` is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"--validation-fraction {fraction} must be at least 0 and below 1")


def held_out(key: str, fraction: float) -> bool:
    """Return whether the sample of this key belongs to the held-out ``fraction`` (0 to 1) of the samples.

    The samples of a smaller fraction are among those of a larger one.
    """
    return key_fraction(key) < fraction


def in_part(key: str, part: Part, fraction: float) -> bool:
    """Return whether the sample of this key belongs to ``part`` where ``fraction`` of the samples are held out."""
    return part == "all" or held_out(key, fraction) == (part == "held-out")


@dataclass(frozen=True)
class KeyList:
    """The keys of ``--validation-keys``: the samples that are held out instead of those that the hash would choose."""

    source: str
    """The file."""
    keys: frozenset[str]
    """What it lists, the films instead of their clips."""

    @property
    def digest(self) -> str:
        """Hexadecimal sha256 of the keys, whatever their order: two runs with equal ones hold the same samples out."""
        return hashlib.sha256("\n".join(sorted(self.keys)).encode("utf-8", "surrogatepass")).hexdigest()

    def listed(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Return which keys are listed, bool of shape (N,)."""
        return np.fromiter((key in self for key in keys), np.bool_, len(keys))

    def __contains__(self, key: str) -> bool:
        """Whether the sample of this key is listed."""
        return file_of(key) in self.keys

    def unmatched(self, there: Iterable[str]) -> str:
        """Return in words how many listed keys no sample has, and one of them; empty if each has one.

        Args:
            there: the keys of all samples.

        Raises:
            ValueError: no listed key is that of a sample.
        """
        left, example = set(self.keys), ""
        for key in there:
            example = example or key
            left.discard(file_of(key))
        return self.told(left, example)

    def told(self, left: Collection[str], example: str) -> str:
        """Do the same for the listed keys that no sample has and the key of one sample, empty if there is no sample."""
        if not left:
            return ""
        first = min(left)
        like = f"; keys of these samples are such as {example!r}" if example else ""
        if len(left) == len(self.keys):
            raise ValueError(
                f"--validation-keys {self.source}: none of its {len(left):,} keys is that of a sample ({first!r}, ..){like}"
            )
        return f"{len(left):,} of the {len(self.keys):,} keys in {self.source} are those of no sample, such as {first!r}{like}"


def read_keys(path: str) -> KeyList:
    """Read a list of keys: one a line, or objects with a ``key`` in a ``.jsonl`` (a ``failures.jsonl`` is such a list, too).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lists nothing, is not UTF-8, or a line of a jsonl is no object with a key; names the line.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"--validation-keys {path}: there is no such file")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--validation-keys {path} is not UTF-8 (byte {error.start})") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        keys = [_key_of(line, number, path) for number, line in enumerate(lines, start=1) if line.strip()]
    else:
        keys = [line for line in lines if line]
    if not keys:
        raise ValueError(f"--validation-keys {path} lists no key; write one a line")
    return KeyList(path, frozenset(map(file_of, keys)))


def _key_of(line: str, number: int, path: str) -> str:
    try:
        value: Any = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        value = None
    key = value.get("key") if isinstance(value, dict) else value
    if not isinstance(key, str):
        raise ValueError(
            f"--validation-keys {path}, line {number}: expected an object with a string 'key', or a string"
        )
    return key
