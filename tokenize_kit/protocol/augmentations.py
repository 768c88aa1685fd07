"""Augmentations: changes of samples that are drawn anew for each of them when they are encoded.

    image=zoom:0.1+shift:0.05     each picture a little smaller or larger, and moved
    text=parts                    some of the parts of each caption between commas, in any order

What is drawn follows from a seed and the key of the sample, on every machine and for any number of workers. A set that is encoded
again with another seed holds other forms of the same samples under the same keys, so models that are trained on several such
sets hold the same samples out of all of them.

Which there are is declared by the kind of data (`Modality.augmentations`); its operations (`tokenize_kit.protocol.views`) can be
joined with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tokenize_kit.protocol.modality import Modality, resolved
from tokenize_kit.protocol.views import operations_of, parse_operations

if TYPE_CHECKING:
    from tokenize_kit.protocol.spec import Sample

    Draw: TypeAlias = Callable[[Any, np.random.Generator], Any]


@dataclass(frozen=True)
class Augmentation:
    """Something that is done to samples at random. A sample is not changed in place."""

    usage: str
    """How it is written, such as ``shift:PART``."""
    make: Callable[[str], Draw]
    """Given the argument (empty if there is none), returns what is done to a sample, by draws of a generator; raises ValueError
    if it is none."""


def augmentation_of(kind: Modality, text: str, seed: int) -> Callable[[Sample, str], Sample]:
    """Return what augmentations such as ``zoom:0.1+shift:0.05`` make of a sample of a kind and its key.

    Raises:
        ValueError: one is not among those of the kind (the message lists them), or its argument is wrong.
    """
    own: Mapping[str, Augmentation] = resolved(kind.augmentations)
    plain = {name: Augmentation(one.usage, _without_draws(one.make)) for name, one in operations_of(kind).items()}
    steps = parse_operations(kind, text, {**plain, **own}, "augmentation")

    def change(sample: Sample, key: str) -> Sample:
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        generator = np.random.Generator(np.random.PCG64([seed, int.from_bytes(digest[:8], "big")]))
        for step in steps:
            sample = step(sample, generator)
        return sample

    return change


def augmentations_of(given: Sequence[str], streams: Mapping[str, Modality]) -> dict[str, str]:
    """Read what ``--augment`` says, STREAM=AUGMENTATIONS each; return them by stream.

    Args:
        given: one for each stream.
        streams: those that are read, and their kinds of data.

    Raises:
        ValueError: it is of another form, is of no stream, comes twice, or has an unknown augmentation.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, what = text.partition("=")
        if not equals or not what:
            raise ValueError(f"--augment {text} says not what is done; write STREAM=AUGMENTATIONS, such as image=flip")
        if name not in streams:
            raise ValueError(f"--augment {text}: there is no stream {name!r}; there is {', '.join(streams)}")
        if name in found:
            raise ValueError(f"--augment gives {name} twice; join them with +")
        try:
            augmentation_of(streams[name], what, 0)
        except ValueError as error:
            raise ValueError(f"--augment {text}: {error}") from None
        found[name] = what
    return found


def _without_draws(make: Callable[[str], Callable[[Any], Any]]) -> Callable[[str], Draw]:
    def made(argument: str) -> Draw:
        change = make(argument)
        return lambda sample, _: change(sample)

    return made
