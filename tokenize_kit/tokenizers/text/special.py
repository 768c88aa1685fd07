"""Special tokens in texts, where the user asks for them: found first, and what stands between them goes to the plain engine.

That is what ``tokenizers`` does, which is the reference here as well; but a plain engine may be many times as fast. As with the
plain ones, the fast way is used for a vocabulary only after it gave the ids of the reference on `probe_texts` and on texts that
are full of the special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tokenize_kit.tokenizers.text.engines import Engine, Reference, Texts, agrees
from tokenize_kit.tokenizers.text.formats import AddedToken, Definition, dump_definition, without_special
from tokenize_kit.tokenizers.text.probe import probe_texts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tokenize_kit.tokenizers.text.engines import Ragged

_PROBED = 64
"""How many of the tokens the probe tries in every position; a vocabulary may have a thousand that nothing uses."""


class Divided(NamedTuple):
    """Texts that were divided at special tokens."""

    stretches: Texts
    """What stands between the tokens; a text without any is one stretch."""
    owners: NDArray[np.int64]
    """(stretches,), the text of each."""
    tokens: list[bytes]
    """The special tokens, in order."""
    places: NDArray[np.int64]
    """(tokens, 2), the text of each, and how many stretches stand before it."""


def special_pattern(tokens: Collection[str]) -> re.Pattern[bytes]:
    """Return what finds special tokens in UTF-8, the longest where two begin at one place."""
    ordered = sorted((token.encode() for token in tokens), key=len, reverse=True)
    return re.compile(b"|".join(map(re.escape, ordered)))


def divided(texts: Texts, pattern: re.Pattern[bytes]) -> Divided | None:
    """Divide texts at special tokens; None if there is none in any of them."""
    import numpy as np

    whole = np.ascontiguousarray(texts.data).data
    if pattern.search(whole) is None:
        return None
    lengths: list[int] = []  # of the stretches
    owners: list[int] = []
    tokens: list[bytes] = []
    places: list[tuple[int, int]] = []
    kept = np.ones(len(texts.data), dtype=bool)
    for number, (begin, end) in enumerate(pairwise(texts.offsets.tolist())):
        place = begin
        # Text by text: what would be a special token across the border of two texts is none.
        for match in pattern.finditer(whole, begin, end):
            if match.start() > place:
                lengths.append(match.start() - place)
                owners.append(number)
            tokens.append(match[0])
            places.append((number, len(lengths)))
            place = match.end()
            kept[match.start() : place] = False
        if place < end or place == begin:
            lengths.append(end - place)
            owners.append(number)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    found = np.array(places, np.int64).reshape(-1, 2)
    return Divided(Texts(texts.data[kept], offsets), np.array(owners, np.int64), tokens, found)


class SpecialEngine:
    """Finds special tokens and gives what is between them to another engine.

    Args:
        plain: takes what is no special token.
        ids: the tokens with their ids.
    """

    def __init__(self, plain: Engine, ids: Mapping[str, int]) -> None:
        self.name = plain.name
        self._plain = plain
        self._ids = {token.encode(): i for token, i in ids.items()}
        self._pattern = special_pattern(ids)

    def encode(self, text: bytes) -> NDArray[np.uint32]:
        """See `Engine.encode`."""
        if self._pattern.search(text) is None:
            return self._plain.encode(text)
        return self.encode_ragged(Texts.one_text(text))[0]

    def encode_ragged(self, texts: Texts) -> Ragged:
        """See `Engine.encode_ragged`."""
        import numpy as np

        parts = divided(texts, self._pattern)
        if parts is None:
            return self._plain.encode_ragged(texts)
        values, counts = self._plain.encode_ragged(parts.stretches)
        ids = np.array([self._ids[bytes(token)] for token in parts.tokens], np.uint32)
        ends = np.concatenate([[0], np.cumsum(counts)])
        joined = np.insert(values, ends[parts.places[:, 1]], ids)
        total = np.bincount(parts.owners, weights=counts, minlength=len(texts)).astype(np.int64)
        return joined, total + np.bincount(parts.places[:, 0], minlength=len(texts))


def special_engine(
    definition: Definition, added: Mapping[int, AddedToken], allowed: Collection[str], plain: Engine
) -> Engine:
    """Return the engine that finds the allowed special tokens: the fast way if it agrees with ``tokenizers``, else that.

    Args:
        definition: the whole tokenizer.
        added: its added tokens, see `tokenize_kit.tokenizers.text.formats.added_tokens`.
        allowed: the special tokens that are looked for; the others are text.
        plain: the engine for which all special tokens are text.

    Raises:
        ValueError: ``tokenizers`` refuses the definition.
    """
    chosen = {token.content: (i, token) for i, token in added.items() if token.content in allowed}
    definition = without_special(definition, added, keep=chosen)
    reference = Reference(dump_definition(definition))
    if plain.name == reference.name or not all(_plainly_found(token, definition) for _, token in chosen.values()):
        return reference
    engine = SpecialEngine(plain, {content: i for content, (i, _) in chosen.items()})
    texts = Texts.of([*probe_texts(definition), *_texts_with(list(chosen)[:_PROBED])])
    return engine if agrees(engine, reference, texts) else reference


def _plainly_found(token: AddedToken, definition: Definition) -> bool:
    """Return whether a token is found wherever its characters stand, and takes nothing of what stands around it."""
    beside = token.single_word or token.lstrip or token.rstrip
    return bool(token.content) and not beside and not (token.normalized and definition.get("normalizer"))


def _texts_with(tokens: list[str]) -> list[str]:
    """Return texts in which special tokens stand in every position, whole and not."""
    texts = []
    for token in tokens:
        texts += [f"a{token}b", f" {token} ", f"{token}{token}", f"x \n{token}\n y", f"1{token}{token[:-1]}", token[1:]]
        texts += [f"{token[:1]}{token}", f"  {token}  \t{token}é", f"{token[:-1]}{token[:-1]}{token[-1:]}"]
    return [*texts, "".join(tokens), " \n".join(tokens), "the".join(reversed(tokens))]
