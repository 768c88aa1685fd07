"""What byte-level BPE looks like on disk: the standard ``tokenizer.json``, GPT-2's pair of files, and tiktoken's ranks.

Every reader here returns a *definition*: the dictionary of a ``tokenizer.json`` as the ``tokenizers`` package writes it.
The class that encodes with one is in `tokenize_kit.tokenizers.text.bpe`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tokenize_kit.files import read_json_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer as ReferenceTokenizer

Definition: TypeAlias = dict[str, Any]

PATTERNS: dict[str, str] = {
    # GPT-2, r50k, p50k: https://github.com/openai/gpt-2/blob/master/src/encoder.py
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    # GPT-4 and o200k in the spelling that the tokenizer.json files of the field share, which fast engines know.
    "cl100k": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"""
    r"""\s*[\r\n]+|\s+(?!\S)|\s+""",
    "o200k": r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"""
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"""
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"""
    r"""\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
}


def byte_alphabet() -> list[str]:
    """Return the 256 characters that stand for the bytes 0..255 in a byte-level vocabulary, as GPT-2 defined them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    shown = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [shown[byte] for byte in range(256)]


_TO_CHARACTERS = dict(enumerate(byte_alphabet()))
_TO_BYTES = {ord(character): byte for byte, character in _TO_CHARACTERS.items()}


def to_characters(token: bytes) -> str:
    """Spell the bytes of a token with the characters of `byte_alphabet`."""
    return token.decode("latin-1").translate(_TO_CHARACTERS)


def to_bytes(token: str) -> bytes:
    """Return the bytes of a byte-level token; a token that is not spelt in the alphabet is literal text."""
    try:
        return bytes(_TO_BYTES[ord(character)] for character in token)
    except KeyError:
        return token.encode("utf-8", errors="surrogatepass")


def added_token(token_id: int, content: str) -> dict[str, Any]:
    """Return the ``added_tokens`` entry of one special token."""
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def pre_tokenizer(pattern: str) -> dict[str, Any]:
    """Return the ``pre_tokenizer`` entry for ``gpt2``, ``cl100k``, ``o200k`` or a regex (Oniguruma syntax).

    Raises:
        ValueError: the regex is empty or does not compile.
    """
    if pattern == "gpt2":
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    regex = PATTERNS.get(pattern, pattern)
    check_pattern(regex)
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    }


def check_pattern(pattern: str) -> None:
    """Raise ValueError if ``pattern`` is neither a name of `PATTERNS` nor a regex that compiles."""
    from tokenizers import Regex

    if not pattern:
        raise ValueError(f"the pattern is empty; use one of {', '.join(PATTERNS)} or a regex")
    if pattern in PATTERNS:
        return
    if pattern.isalnum():
        # A bare word compiles as a regex, but is surely a misspelt name.
        raise ValueError(f"pattern {pattern!r} is not one of {', '.join(PATTERNS)}, and no regex to split text with")
    try:
        Regex(pattern)
    except Exception as error:
        raise ValueError(f"pattern {pattern!r} is no valid regex: {error}") from None


def make_definition(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    pattern: str,
    special_tokens: Mapping[str, int],
    ignore_merges: bool = False,
) -> Definition:
    """Return the definition of a byte-level BPE tokenizer.

    The special tokens are written into the vocabulary too: ``tokenizers`` numbers them itself otherwise, whatever the file
    says.

    Args:
        vocab: every token, in the characters of `byte_alphabet`, with its id.
        merges: pairs of tokens, the first merge first.
        pattern: see `pre_tokenizer`.
        special_tokens: tokens that only `encode(..., allow_special=True)` gives, with their ids.
        ignore_merges: whether a whole pre-token that is in the vocabulary is taken as it is.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, text) for text, i in sorted(special_tokens.items(), key=lambda item: item[1])],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer(pattern),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": dict(sorted({**vocab, **special_tokens}.items(), key=lambda item: item[1])),
            "merges": [list(pair) for pair in merges],
        },
    }


def read_tokenizer_json(path: str | os.PathLike[str]) -> Definition:
    """Read a ``tokenizer.json``, or the one in a folder, and check that it is byte-level BPE.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is not JSON, or another kind of tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer.json at {path}")
    definition = read_json_object(path)
    try:
        return check_definition(definition)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_definition(definition: Definition) -> Definition:
    """Return ``definition`` if it is byte-level BPE that gives the same ids each time.

    Raises:
        ValueError: it is another kind of tokenizer; the message says which.
    """
    model = definition.get("model")
    if not isinstance(model, dict):
        raise ValueError("not a tokenizer.json: it has no 'model'")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise ValueError(f"a {kind or 'unknown'} model; only byte-level BPE can be imported")
    if model.get("byte_fallback"):
        raise ValueError("BPE with byte fallback (SentencePiece style); only byte-level BPE can be imported")
    if not _uses(definition.get("pre_tokenizer"), "ByteLevel") and not _uses(definition.get("normalizer"), "ByteLevel"):
        raise ValueError("BPE over characters, without a ByteLevel step; only byte-level BPE can be imported")
    if model.get("dropout"):
        raise ValueError(f"BPE dropout {model['dropout']} gives other ids each time; set it to null in the file")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(f"{name} {model[name]!r} does not go with byte-level BPE")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not vocab or not isinstance(merges, list):
        raise ValueError("damaged: 'vocab' or 'merges' is missing")
    # Files of before 2024 write a merge as one string.
    model["merges"] = [pair.split(" ", 1) if isinstance(pair, str) else list(pair) for pair in merges]
    if not all(len(pair) == 2 and pair[0] in vocab and pair[1] in vocab for pair in model["merges"]):
        raise ValueError("damaged: a merge has a token that is not in the vocabulary")
    return definition


def reference_tokenizer(content: bytes) -> ReferenceTokenizer:
    """Build the ``tokenizers`` object out of the text of a ``tokenizer.json``.

    Raises:
        ValueError: that package refuses it.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:
        raise ValueError(f"the tokenizer is damaged: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for in the text before everything else."""

    content: str
    special: bool
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True


def added_tokens(definition: Definition) -> dict[int, AddedToken]:
    """Return the added tokens under the ids that ``tokenizers`` gives them, which need not be those of the file.

    https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/tokenizer/added_vocabulary.rs
    """
    vocab: dict[str, int] = definition["model"]["vocab"]
    added: dict[int, AddedToken] = {}
    for entry in definition.get("added_tokens") or []:
        content = entry["content"]
        known = vocab.get(content, next((i for i, token in added.items() if token.content == content), None))
        token_id = max(len(vocab), max(added, default=-1) + 1) if known is None else known
        flags = {name: bool(entry.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        added[token_id] = AddedToken(content, bool(entry.get("special", False)), **flags)
    return dict(sorted(added.items()))


def identity(definition: Definition, added: Mapping[int, AddedToken]) -> dict[str, Any]:
    """Return what determines the ids, for the fingerprint; neither the order of keys nor other entries matter."""
    model = definition["model"]
    return {
        "vocab": model["vocab"],
        "merges": model["merges"],
        "ignore_merges": bool(model.get("ignore_merges")),
        "pre_tokenizer": definition.get("pre_tokenizer"),
        "normalizer": definition.get("normalizer"),
        "added_tokens": [
            [i, t.content, t.special, t.single_word, t.lstrip, t.rstrip, t.normalized] for i, t in sorted(added.items())
        ],
    }


def without_special(definition: Definition, added: Mapping[int, AddedToken], keep: Collection[str] = ()) -> Definition:
    """Return ``definition`` without its special tokens but for those of ``keep``, so that they are text like any other.

    Added tokens that are not special (runs of spaces in some vocabularies) are part of the ordinary text and stay.
    """
    if not added:
        return definition
    model = definition["model"]
    special = {token.content for token in added.values() if token.special and token.content not in keep}
    ordinary = {i: token for i, token in added.items() if token.content not in special}
    parts = {token for pair in model["merges"] for token in (*pair, pair[0] + pair[1])} if special else set()
    alphabet = set(_TO_CHARACTERS.values())
    # A special token of one word would be found as a whole pre-token, so it leaves the vocabulary too.
    vocab = {t: i for t, i in model["vocab"].items() if t not in special or t in parts or t in alphabet}
    # `tokenizers` numbers added tokens itself unless the vocabulary has them.
    vocab |= {token.content: i for i, token in ordinary.items()}
    entries = [entry for entry in definition.get("added_tokens") or [] if entry["content"] not in special]
    return {**definition, "added_tokens": entries, "model": {**model, "vocab": vocab}}


def changes_text(definition: Definition) -> bool:
    """Return whether decoding may give another text than was encoded: a normalizer, or a space put before it."""
    return bool(definition.get("normalizer")) or _prefixes(definition.get("pre_tokenizer"))


def read_gpt2(vocab: str | os.PathLike[str], merges: str | os.PathLike[str]) -> Definition:
    """Read GPT-2's ``vocab.json`` (or ``encoder.json``) and ``merges.txt`` (or ``vocab.bpe``).

    Tokens that are in the vocabulary but neither a byte nor the result of a merge, such as ``<|endoftext|>``, are special.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is damaged, or a merge is not in the vocabulary.
    """
    ids = read_json_object(vocab)
    if not all(isinstance(value, int) for value in ids.values()):
        raise ValueError(f"{vocab} is not a vocabulary: every value must be an id")
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(Path(merges).read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise ValueError(f"{merges}, line {number}: a merge is two tokens with one space between, got {line!r}")
        for token in (pair[0], pair[1], pair[0] + pair[1]):
            if token not in ids:
                raise ValueError(f"{merges}, line {number}: token {token!r} is not in {vocab}; are they of one model?")
        pairs.append((pair[0], pair[1]))
    reachable = {left + right for left, right in pairs} | set(_TO_CHARACTERS.values())
    special = {token: i for token, i in ids.items() if token not in reachable}
    return make_definition({t: i for t, i in ids.items() if t in reachable}, pairs, "gpt2", special)


def read_tiktoken(
    path: str | os.PathLike[str], pattern: str, special_tokens: Mapping[str, int] | None = None
) -> Definition:
    """Read a ``.tiktoken`` rank file: a line for each token, its base64 and its rank, which is its id.

    The file has no merges. tiktoken merges any two neighbours whose joined bytes are a token, the lowest rank first, and
    takes a pre-token that is itself a token as it is; so every split of a token into two tokens is a merge.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line is damaged, two tokens have one rank, a special token's id is taken, or bytes are missing.
    """
    ranks: dict[bytes, int] = {}
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except (ValueError, binascii.Error):
                raise ValueError(f"{path}, line {number}: expected a base64 token and its rank, got {line!r}") from None
    special = dict(special_tokens or {})
    _check_ids(path, ranks, special)
    vocab = {to_characters(token): rank for token, rank in ranks.items()}
    return make_definition(vocab, merges_of_ranks(ranks), pattern, special, ignore_merges=True)


def merges_of_ranks(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """Return every merge that tiktoken could do with these ranks, first merge first, in the byte alphabet."""
    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = [
            (ranks[token[:cut]], ranks[token[cut:]], cut)
            for cut in range(1, len(token))
            if token[:cut] in ranks and token[cut:] in ranks
        ]
        merges.extend((to_characters(token[:cut]), to_characters(token[cut:])) for _, _, cut in sorted(splits))
    return merges


def _check_ids(path: str | os.PathLike[str], ranks: Mapping[bytes, int], special: Mapping[str, int]) -> None:
    by_id: dict[int, bytes] = {}
    for token, rank in ranks.items():
        if rank < 0 or rank in by_id:
            raise ValueError(f"{path}: the tokens {by_id.get(rank)!r} and {token!r} have the same rank {rank}")
        by_id[rank] = token
    for content, token_id in special.items():
        if token_id < 0 or token_id in by_id:
            raise ValueError(f"special token {content!r}: the id {token_id} belongs to {by_id.get(token_id)!r}")
        by_id[token_id] = content.encode()
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(
            f"{path} has no token for byte 0x{missing[0]:02x} ({len(missing)} are missing); is it complete?"
        )


def _uses(step: Any, kind: str) -> bool:
    """Return whether a normalizer or pre-tokenizer is of ``kind``, or a sequence that has one."""
    if not isinstance(step, dict):
        return False
    if step.get("type") == kind:
        return True
    inner = [*(step.get("pretokenizers") or []), *(step.get("normalizers") or [])]
    return any(_uses(child, kind) for child in inner)


def _prefixes(step: Any) -> bool:
    """Return whether a pre-tokenizer puts a space before the text, or removes something from it."""
    if not isinstance(step, dict):
        return False
    if step.get("type") == "ByteLevel" and step.get("add_prefix_space", True):
        return True
    if step.get("type") not in ("ByteLevel", "Split", "Sequence", "Digits") or step.get("behavior") == "Removed":
        return True
    return any(_prefixes(child) for child in step.get("pretokenizers") or [])


def dump_definition(definition: Definition) -> bytes:
    """Return the text of a ``tokenizer.json``, the same bytes each time."""
    # On one line: with indentation Python needs seconds for a large vocabulary.
    return (json.dumps(definition, separators=(",", ":"), ensure_ascii=False) + "\n").encode("utf-8")
