"""Vocabularies of others, before they are imported: ``tokenizer.json`` and ``.tiktoken``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenize_kit.cli.looking.fields import printed
from tokenize_kit.files import read_json_object

_SPECIAL = 50


def look_tokenizer_json(path: Path) -> dict[str, Any] | None:
    """Return what a ``tokenizer.json`` holds, and whether it can be imported; None for JSON of another kind.

    Raises:
        ValueError: it is no JSON object.
    """
    from tokenize_kit.tokenizers.text import formats

    definition = read_json_object(path)
    model = definition.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        return None
    vocab, merges = model["vocab"], model.get("merges")
    facts: dict[str, Any] = {"model": model.get("type", "unknown")}
    facts["tokens"] = len(vocab) if isinstance(vocab, (dict, list)) else 0
    facts["merges"] = len(merges) if isinstance(merges, list) else 0
    try:
        added = formats.added_tokens(formats.check_definition(definition))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {**facts, "cannot_be_imported": str(error)}
    special = {printed(token.content): i for i, token in added.items() if token.special}
    facts["added_tokens"] = len(added)
    facts["special_tokens"] = dict(list(special.items())[:_SPECIAL])
    if len(special) > _SPECIAL:
        facts["more_special_tokens"] = len(special) - _SPECIAL
    return facts


def look_tiktoken(path: Path) -> dict[str, Any]:
    """Return how many tokens a ``.tiktoken`` file has, whose special tokens and pattern are not in it.

    Raises:
        ValueError: it is damaged.
    """
    from tokenize_kit.tokenizers.text import formats

    vocab = formats.read_tiktoken(path, "gpt2")["model"]["vocab"]
    return {"tokens": len(vocab), "highest_id": max(vocab.values()), "bytes": path.stat().st_size}
