"""What may be drawn for texts when they are encoded; see `tokenize_kit.protocol.augmentations`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tokenize_kit.protocol.augmentations import Augmentation
from tokenize_kit.protocol.views import no_argument


def _parts(argument: str) -> Callable[[str, np.random.Generator], str]:
    no_argument(argument)
    return parts


def parts(text: str, generator: np.random.Generator) -> str:
    """Return some of the parts of a text that commas divide, from one of them to all, in any order.

    A caption such as "nerd face, clever, glasses" gives "glasses", "clever, nerd face" and so on.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    if len(found) < 2:
        return text
    count = int(generator.integers(1, len(found), endpoint=True))
    return ", ".join(found[place] for place in generator.permutation(len(found))[:count])


TEXTS: dict[str, Augmentation] = {"parts": Augmentation("parts", _parts)}
"""The augmentations of texts."""
