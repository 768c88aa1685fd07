"""Which ids of a vocabulary are ordered, as a head for such ids must be told; the tokenizers say so of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tokenize_kit.protocol import OrdinalTokenizer, Tokenizer
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.models import model_class


def ordinal_ranges(vocabulary: Vocabulary, tokenizers: Mapping[str, Tokenizer]) -> list[tuple[int, int]]:
    """Return the ids of each stream whose tokenizer orders them, from the first to before the last, ascending."""
    ordered = [
        stream.range_of(0)
        for name, stream in vocabulary.streams.items()
        if isinstance(one := tokenizers[name], OrdinalTokenizer) and one.ordinal and not stream.has_codebooks
    ]
    return sorted((low, high) for low, high in ordered if high - low > 1)


def told_ordinal(
    family: str, values: Mapping[str, Any], vocabulary: Vocabulary, tokenizers: Mapping[str, Tokenizer]
) -> dict[str, Any]:
    """Return what a configuration is to be told of ordered ids: ``ordinal``, or nothing if it does not ask.

    Args:
        family: registered name of the model.
        values: of its configuration. It asks with a field ``ordinal``, and where there is a field ``head``, if that is
            ``logistics``.
        vocabulary: the id space.
        tokenizers: of each stream.

    Raises:
        ValueError: it asks, and no stream has such ids.
    """
    kind = getattr(model_class(family), "configuration", None)
    known = set() if kind is None else {field.name for field in fields(kind)}
    if "ordinal" not in known or ("head" in known and values.get("head") != "logistics"):
        return {}
    if ranges := ordinal_ranges(vocabulary, tokenizers):
        return {"ordinal": ranges}
    raise ValueError(
        f"a mixture of logistics is for ids that are ordered, such as raw pixels and samples of sounds, and none of the streams "
        f"{', '.join(vocabulary.streams)} has such ids; take the head softmax, or of the family logistics the histogram"
    )
