"""In which order the ids of a grid with several codebooks come in a sequence.

A codec with residual quantisation gives Q ids for each time step: a grid (T, Q). A sequence model sees one id at a time, so
the grid needs an order. For T = 4 steps of Q = 3 codebooks (``tq``: the id of codebook q at step t; ``E`` is ``<end>``):

    flatten        00 01 02 10 11 12 20 21 22 30 31 32 E
    delay          00 10 01 20 11 02 30 21 12 E 31 22 32
    coarse-first   00 10 20 30 E 01 11 21 31 02 12 22 32

- ``flatten``: step by step, and in each step all codebooks.
- ``delay``: codebook q runs q steps late, as in MusicGen (Copet et al. 2023, arXiv 2306.05284). There all codebooks of one
  diagonal are predicted at once and the corners are padded; here the ids of a diagonal follow each other and nothing is padded.
- ``coarse-first``: all steps of codebook 0, then all of codebook 1, and so on, as AudioLM, VALL-E and Bark order their stages.

``<end>`` stands where codebook 0 would have its next id. Its place tells T, and with that which ids still follow is known:
none for flatten, the tails of the diagonals for delay, all other codebooks for coarse-first. A grid whose number of steps its
shape tells has no ``<end>``; its steps are the places of the grid, row by row.

Ids that follow each other and belong together are a *joint step*, which a model may predict at once (`Layout.opens`): all
codebooks of a time step for flatten, a diagonal for delay, each id by itself for coarse-first. ``<end>`` is one by itself:

    flatten        00 01 02 | 10 11 12 | 20 21 22 | 30 31 32 | E
    delay          00 | 10 01 | 20 11 02 | 30 21 12 | E | 31 22 | 32

Here is only arithmetic; what a whole document looks like is `tokenize_kit.sequences.template`'.
"""

from __future__ import annotations

from math import isqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ENDLESS = 1 << 62
"""The number of time steps while nobody knows it."""

DEFAULT = "flatten"


class Layout(Protocol):
    """An order of the ids of a grid. ``steps`` is T, ``codebooks`` is Q, and ``index`` counts the ids without ``<end>``."""

    def place(self, index: int, steps: int, codebooks: int) -> tuple[int, int]:
        """Return time step and codebook of the id at ``index``; with `ENDLESS` steps, as it is before ``<end>``."""
        ...

    def places(self, index: Ints, steps: Ints, codebooks: int) -> Ints:
        """Return ``step * codebooks + codebook`` of the ids at ``index``; ``steps`` has the shape of ``index``."""
        ...

    def before_end(self, steps: Ints, codebooks: int) -> Ints:
        """Return how many ids come before ``<end>``."""
        ...

    def opens(self, step: Ints, codebook: Ints, steps: Ints) -> NDArray[np.bool_]:
        """Return which ids begin a joint step, (N,).

        Args:
            step: (N,), their time steps.
            codebook: (N,), their codebooks.
            steps: (N,), T; `ENDLESS` before ``<end>``.
        """
        ...


class Flatten:
    """Step by step."""

    def place(self, index: int, steps: int, codebooks: int) -> tuple[int, int]:  # noqa: ARG002
        """See `Layout.place`."""
        return divmod(index, codebooks)

    def places(self, index: Ints, steps: Ints, codebooks: int) -> Ints:  # noqa: ARG002
        """See `Layout.places`."""
        return index

    def before_end(self, steps: Ints, codebooks: int) -> Ints:
        """See `Layout.before_end`."""
        return steps * codebooks

    def opens(self, step: Ints, codebook: Ints, steps: Ints) -> NDArray[np.bool_]:  # noqa: ARG002
        """See `Layout.opens`."""
        return np.asarray(codebook == 0)


class CoarseFirst:
    """Codebook by codebook."""

    def place(self, index: int, steps: int, codebooks: int) -> tuple[int, int]:  # noqa: ARG002
        """See `Layout.place`."""
        codebook, step = divmod(index, steps)
        return step, codebook

    def places(self, index: Ints, steps: Ints, codebooks: int) -> Ints:
        """See `Layout.places`."""
        places: Ints = index % steps * codebooks + index // steps
        return places

    def before_end(self, steps: Ints, codebooks: int) -> Ints:  # noqa: ARG002
        """See `Layout.before_end`."""
        return steps

    def opens(self, step: Ints, codebook: Ints, steps: Ints) -> NDArray[np.bool_]:  # noqa: ARG002
        """See `Layout.opens`."""
        return np.ones(np.shape(codebook), bool)


class Delay:
    """Diagonal by diagonal: s = step + codebook from 0 to T + Q - 2, in each the codebooks from the coarsest on.

    The first diagonals grow from 1 id to min(T, Q), then they keep this width, and the last ones shrink again: the order read
    backwards is that of the grid turned by half, so the end is computed as the beginning is.
    """

    def place(self, index: int, steps: int, codebooks: int) -> tuple[int, int]:
        """See `Layout.place`."""
        width = min(steps, codebooks)
        corner = width * (width - 1) // 2
        behind = steps * codebooks - 1 - index
        if index < corner:
            diagonal = (isqrt(8 * index + 1) - 1) // 2
            codebook = index - diagonal * (diagonal + 1) // 2
        elif behind < corner:
            back = (isqrt(8 * behind + 1) - 1) // 2
            diagonal = steps + codebooks - 2 - back
            codebook = codebooks - 1 - (behind - back * (back + 1) // 2)
        else:
            diagonal, codebook = divmod(index - corner, width)
            diagonal += width - 1
            codebook += max(0, diagonal - steps + 1)
        return diagonal - codebook, codebook

    def places(self, index: Ints, steps: Ints, codebooks: int) -> Ints:
        """See `Layout.places`."""
        width = np.minimum(steps, codebooks)
        corner = width * (width - 1) // 2
        behind = steps * codebooks - 1 - index
        first, last = index < corner, behind < corner
        # In a corner: which diagonal counted from it, and which id of that. Outside of it the values are not used.
        near = np.where(first, index, np.where(last, behind, 0))
        row = (np.sqrt(8 * near + 1).astype(np.int64) - 1) // 2
        column = near - row * (row + 1) // 2
        diagonal = width - 1 + (index - corner) // width
        codebook = (index - corner) % width + np.maximum(0, diagonal - steps + 1)
        diagonal = np.where(first, row, np.where(last, steps + codebooks - 2 - row, diagonal))
        codebook = np.where(first, column, np.where(last, codebooks - 1 - column, codebook))
        places: Ints = (diagonal - codebook) * codebooks + codebook
        return places

    def before_end(self, steps: Ints, codebooks: int) -> Ints:
        """See `Layout.before_end`."""
        short = np.minimum(steps, codebooks)
        ids: Ints = short * (short + 1) // 2 + (steps - short) * codebooks
        return ids

    def opens(self, step: Ints, codebook: Ints, steps: Ints) -> NDArray[np.bool_]:
        """See `Layout.opens`: a diagonal begins with codebook 0, or where that has no more steps with the last step."""
        return np.asarray((codebook == 0) | (step == steps - 1))


LAYOUTS: dict[str, Layout] = {DEFAULT: Flatten(), "delay": Delay(), "coarse-first": CoarseFirst()}
"""The layouts by the names that a template uses."""


def order(layout: Layout, steps: int, codebooks: int) -> Ints:
    """Return for each place in the sequence the place in the grid, int64 ``(steps * codebooks,)``, row by row."""
    index = np.arange(steps * codebooks)
    return layout.places(index, np.full(len(index), steps), codebooks)
