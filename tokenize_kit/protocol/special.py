"""Which special tokens of a vocabulary are looked for in texts: none, unless the user asks for all or names them.

Special tokens in a text are text by default, because a text may come from anybody, and one that can write ``<|im_start|>`` could
speak for somebody else. Data that are written with them (dialogues in ChatML, code to be filled in, calls of tools) say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.errors import did_you_mean
from tokenize_kit.protocol.tokenizer import SpecialTokens, Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALL = "all"
"""The word that stands for every special token."""
NONE = "none"
"""The word that stands for no special token, where something else is the default."""

_SHOWN = 12


def allowed_tokens(given: Iterable[str]) -> tuple[str, ...]:
    """Return what ``--allow-special`` says in its one form: nothing, `ALL`, or some tokens, each once and in order.

    Raises:
        ValueError: `NONE` stands beside other words.
    """
    words = set(given)
    if NONE in words:
        if len(words) > 1:
            raise ValueError(f"--allow-special {NONE} stands beside other words; leave one of them out")
        return ()
    return (ALL,) if ALL in words else tuple(sorted(words))


def with_special(tokenizers: Mapping[str, Tokenizer], allowed: Sequence[str]) -> dict[str, Tokenizer]:
    """Return the tokenizers, those with special tokens so that they find the allowed ones in texts.

    Args:
        tokenizers: by name; those without special tokens stay what they are.
        allowed: from `allowed_tokens`. Each token must be one of one tokenizer at least.

    Raises:
        ValueError: a token is none, or no tokenizer has any; the message names those that there are.
    """
    if not allowed:
        return dict(tokenizers)
    special = {name: cast("SpecialTokens", one) for name, one in tokenizers.items() if isinstance(one, SpecialTokens)}
    known = {token for one in special.values() for token in one.special_tokens}
    if not known:
        raise ValueError(f"--allow-special {allowed[0]}: the vocabulary has no special tokens; leave it out")
    wanted = known if tuple(allowed) == (ALL,) else set(allowed)
    if unknown := [token for token in wanted - known if not any(_finds(one, token) for one in special.values())]:
        raise ValueError(f"--allow-special: {unknown_special(min(unknown), known)}")
    ready = {name: one.allowing(wanted.intersection(one.special_tokens)) for name, one in special.items()}
    return {**tokenizers, **ready}


def allowing(tokenizer: Tokenizer, given: Iterable[str]) -> Tokenizer:
    """Return one tokenizer as ``--allow-special`` wants it; see `with_special`.

    Raises:
        ValueError: as `allowed_tokens` and `with_special`.
    """
    return with_special({"": tokenizer}, allowed_tokens(given))[""]


def without_special(tokenizer: Tokenizer, grid: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return ids without those of special tokens, if the tokenizer has some."""
    import numpy as np

    if not isinstance(tokenizer, SpecialTokens):
        return grid
    return grid[~np.isin(grid, list(tokenizer.special_tokens.values()))]


def _finds(tokenizer: SpecialTokens, token: str) -> bool:
    """Return whether a tokenizer takes a token that is none of its special ones, because it finds it in every text anyway."""
    try:
        tokenizer.allowing((token,))
    except ValueError:
        return False
    return True


def unknown_special(token: str, known: Iterable[str]) -> str:
    """Return what is said of a token that is not one of the special ones, with the closest one and some of them."""
    names = list(known)
    listed = ", ".join(sorted(names)[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{token!r} is no special token of this vocabulary, which has {listed or 'none'}{more}{did_you_mean(token, names)}"
