"""Fitting byte-level BPE to text: read, count words, learn merges, save a tokenizer folder.

Words are counted with gigatoken where that package knows the pattern and agrees with ``tokenizers``, and merges are learnt by
`trainers.bpe.merges` then; otherwise ``tokenizers`` does it all. The result is the same, byte for byte.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tokenize_kit.tokenizers.text.corpus import Corpus

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.tokenizers.text.engines import Texts
    from trainers.bpe.merges import Merges

PIECE_BYTES = 256 << 10
"""Longer documents are cut for training: ``tokenizers`` holds 256 of them in memory at a time."""

CHUNK_BYTES = 16 << 20
"""How much text gigatoken is given to count at a time."""

# Bytes of text, and tokens beyond the alphabet, on which the fast way is compared with the reference before it is used.
_SAMPLE_BYTES = 512 << 10
_SAMPLE_MERGES = 500


@dataclass(frozen=True)
class TrainBPEOptions:
    """Train a byte-level BPE tokenizer on text."""

    summary: ClassVar[str] = "train a byte-level BPE tokenizer on text"
    examples: ClassVar[tuple[str, ...]] = (
        "train bpe --data corpus.txt --out tokenizers/text --vocab-size 32000",
        "train bpe --data 'logs/**/*.jsonl.zst' --field body --pattern cl100k --out tokenizers/text",
    )

    data: tuple[str, ...]
    """Text to train on: txt, jsonl, json, csv, tsv, parquet, tar (also compressed), folders, globs, fsspec URLs, pipes or -."""
    out: str
    """Folder for the tokenizer."""
    vocab_size: int = 32_000
    """How many tokens, with the special tokens and the 256 bytes."""
    pattern: str = "gpt2"
    """How text is divided before merging: gpt2, cl100k, o200k or a regular expression."""
    special_tokens: tuple[str, ...] = ("<|endoftext|>",)
    """Tokens that get the first ids; in a text they stay text unless asked for."""
    allow_special: tuple[str, ...] = ()
    """Those of them at which texts are divided before they are counted, so that none is learnt in pieces: all, or each by its
    name. For data that will be encoded with the same --allow-special."""
    min_frequency: int = 1
    """Pairs that are rarer than this are not merged."""
    field: str = "text"
    """Where the text is: a field of JSON, a column of a table or of a parquet file, an ending in a tar."""
    limit: int | None = None
    """Read only so many documents; one longer than 256 KiB counts as several."""
    max_failures: int = 1000
    """Stop when more documents than this cannot be read; each is told with its reason, and the number is in the result."""
    engine: Literal["auto", "reference"] = "auto"
    """reference trains with the tokenizers package; auto takes the fast way where it gives the same."""


@dataclass(frozen=True)
class TrainBPEResult:
    """The tokenizer that was trained."""

    out: str
    """Folder of the tokenizer."""
    fingerprint: str
    """Its fingerprint."""
    vocab_size: int
    """Tokens it has, which may be fewer than were asked for."""
    merges: int
    """Merges it has."""
    documents: int
    """Documents read; one longer than 256 KiB counts as several."""
    bytes_read: int
    """Bytes of text read."""
    failures: int
    """Documents that could not be read."""
    engine: str
    """What trained it: ``fast`` (gigatoken and `trainers.bpe.merges`) or ``tokenizers``."""
    seconds: float
    """How long it took."""
    warnings: tuple[str, ...] = ()
    """What the user should know."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; without ``failures`` if there are none."""
        return {name: value for name, value in asdict(self).items() if name != "failures" or value}


def train_bpe(options: TrainBPEOptions, progress: Progress | None = None) -> TrainBPEResult:
    """Train byte-level BPE and save it as a tokenizer folder, which appears whole or not at all.

    The vocabulary and the merges are those of ``tokenizers``' ``BpeTrainer`` with the byte alphabet, given the same documents.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: an option is out of range, the data has no text, or its first file has no such field.
        TooManyFailuresError: more than ``options.max_failures`` documents, or all of them, cannot be read.
    """
    from tokenize_kit.protocol import save_as
    from tokenize_kit.tokenizers.text.bpe import BPETokenizer
    from tokenize_kit.tokenizers.text.formats import make_definition, to_characters

    began = time.monotonic()
    _check(options)
    corpus = Corpus(
        options.data, options.field, PIECE_BYTES, options.limit, progress, options.max_failures, options.out
    )
    engine, merges = "fast", _train_fast(corpus, options, progress) if options.engine == "auto" else None
    if merges is None:
        engine, merges = "tokenizers", _train_reference(corpus, options, progress)
    if not corpus.bytes_read:
        raise ValueError(f"{', '.join(options.data)} has no text to train on")

    tokens = [to_characters(token) for token in merges.tokens]
    special = {token: i for i, token in enumerate(dict.fromkeys(options.special_tokens))}
    vocab = {token: i for i, token in enumerate(tokens) if i >= len(special)}
    pairs = [(tokens[first], tokens[second]) for first, second in merges.pairs]
    tokenizer = BPETokenizer(make_definition(vocab, pairs, options.pattern, special))
    save_as(tokenizer, options.out)
    warnings = []
    if len(tokens) < options.vocab_size:
        warnings.append(
            f"the text gives only {len(tokens)} tokens of the {options.vocab_size} that were asked for; "
            f"use more text or a smaller --min-frequency"
        )
    if progress is not None:
        for warning in warnings:
            progress.note(f"warning: {warning}")
    return TrainBPEResult(
        out=options.out,
        fingerprint=tokenizer.fingerprint,
        vocab_size=len(tokens),
        merges=len(pairs),
        documents=corpus.documents,
        bytes_read=corpus.bytes_read,
        failures=corpus.failures,
        engine=engine,
        seconds=round(time.monotonic() - began, 3),
        warnings=tuple(warnings),
    )


def _check(options: TrainBPEOptions) -> None:
    from tokenize_kit.protocol import check_kind
    from tokenize_kit.tokenizers.text.formats import byte_alphabet, check_pattern

    check_pattern(options.pattern)
    if "" in options.special_tokens:
        raise ValueError("a special token is empty")
    for token in options.special_tokens:
        # A vocabulary is spelt in the byte alphabet; a token of its characters could be mistaken for other bytes.
        if len(token) == 1 or (not token.isascii() and set(token) <= set(byte_alphabet())):
            raise ValueError(f"special token {token!r} looks like bytes of a text; use one such as '<|{token}|>'")
    _allowed(options)
    least = 256 + len(set(options.special_tokens))
    if options.vocab_size < least:
        raise ValueError(f"vocab_size {options.vocab_size} is below the 256 bytes and the special tokens; use {least}")
    if options.min_frequency < 0:
        raise ValueError(f"min_frequency {options.min_frequency} is negative")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"limit {options.limit} is below 1")
    check_kind(options.out, "bpe")


def _blocks(corpus: Corpus, options: TrainBPEOptions) -> Iterator[Texts]:
    """Yield the texts to count: the documents, or what stands in them between the special tokens that are allowed."""
    from tokenize_kit.tokenizers.text.special import divided, special_pattern

    allowed = _allowed(options)
    pattern = special_pattern(allowed) if allowed else None
    for texts in corpus.blocks():
        parts = None if pattern is None else divided(texts, pattern)
        yield texts if parts is None else parts.stretches


def _allowed(options: TrainBPEOptions) -> set[str]:
    """Return the special tokens at which texts are divided.

    Raises:
        ValueError: one of them is none.
    """
    from tokenize_kit.protocol.special import ALL, allowed_tokens, unknown_special

    allowed = allowed_tokens(options.allow_special)
    if allowed == (ALL,):
        return set(options.special_tokens)
    for token in allowed:
        if token not in options.special_tokens:
            raise ValueError(f"--allow-special: {unknown_special(token, options.special_tokens)} (--special-tokens)")
    return set(allowed)


def _learnt(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    progress.task("merge", total=total)
    return lambda done: progress.update(done, tokens=done)


def _train_fast(corpus: Corpus, options: TrainBPEOptions, progress: Progress | None) -> Merges | None:
    """Count with gigatoken and learn merges from the counts; None where it does not apply or does not agree."""
    from tokenize_kit.tokenizers.text.formats import PATTERNS
    from trainers.bpe.merges import learn_merges

    if options.pattern not in ("gpt2", PATTERNS["gpt2"]):
        return None
    counts: Counter[bytes] = Counter()
    first = True
    for texts in _chunks(_blocks(corpus, options)):
        if first and not _agrees(texts, options):
            return None
        first = False
        found = _count_fast(texts)
        # Before a chunk is believed, one document of it is counted by the reference too.
        middle = texts.part(len(texts) // 2, len(texts) // 2 + 1)
        if found is None or _count_fast(middle) != _count_reference(middle):
            return None
        for word, number in found.items():
            counts[word] += number
    return learn_merges(
        counts,
        options.vocab_size,
        _special_bytes(options),
        alphabet_order(),
        options.min_frequency,
        _learnt(progress, options.vocab_size),
    )


def _special_bytes(options: TrainBPEOptions) -> list[bytes]:
    """Return the special tokens as `learn_merges` is to see them: a merge may give one that is spelt like plain bytes.

    One with a space, say, is written as it is in the vocabulary, while a learnt space is not; the byte 0xff, which no text
    has, keeps the two apart.
    """
    from tokenize_kit.tokenizers.text.formats import byte_alphabet

    alphabet = set(byte_alphabet())
    tokens = dict.fromkeys(options.special_tokens)
    return [token.encode() if set(token) <= alphabet else b"\xff" + token.encode() for token in tokens]


def alphabet_order() -> list[int]:
    """Return the 256 bytes in the order in which ``BpeTrainer`` numbers them: by their characters in the byte alphabet."""
    from tokenize_kit.tokenizers.text.formats import byte_alphabet

    alphabet = byte_alphabet()
    return sorted(range(256), key=lambda byte: ord(alphabet[byte]))


def _agrees(texts: Texts, options: TrainBPEOptions) -> bool:
    """Return whether the fast way gives what the reference gives, on the beginning of the data and on hard texts."""
    from tokenize_kit.tokenizers.text.engines import Texts as TextsClass
    from tokenize_kit.tokenizers.text.formats import byte_alphabet, make_definition
    from tokenize_kit.tokenizers.text.probe import probe_texts
    from trainers.bpe.merges import learn_merges

    alphabet = {character: i for i, character in enumerate(byte_alphabet())}
    probe = TextsClass.of(probe_texts(make_definition(alphabet, [], "gpt2", {})))
    if _count_fast(probe) != _count_reference(probe):
        return False
    size = 0
    sample: list[str] = []
    for text in texts.strings():
        # Only the beginning: the reference takes minutes over a long word, such as a text without spaces may be.
        sample.append(text[:4096])
        size += len(sample[-1].encode())
        if size >= _SAMPLE_BYTES:
            break
    special = _special_bytes(options)
    vocab_size = min(options.vocab_size, 256 + len(special) + _SAMPLE_MERGES)
    counts = _count_fast(TextsClass.of(sample))
    if counts is None:
        return False
    merges = learn_merges(counts, vocab_size, special, alphabet_order(), options.min_frequency)
    expected = _reference_merges(iter(sample), vocab_size, options)
    return (merges.tokens, merges.pairs) == (expected.tokens, expected.pairs)


def _chunks(blocks: Iterator[Texts]) -> Iterator[Texts]:
    """Join blocks until there is enough for gigatoken to count at a time."""
    from tokenize_kit.tokenizers.text.engines import Texts as TextsClass

    pending: list[Texts] = []
    for block in blocks:
        if len(block):
            pending.append(block)
        if sum(len(texts.data) for texts in pending) >= CHUNK_BYTES:
            yield TextsClass.joined(pending)
            pending = []
    if pending:
        yield TextsClass.joined(pending)


def _count_fast(texts: Texts) -> dict[bytes, int] | None:
    """Count the words of gpt2's pattern with gigatoken; None if it fails."""
    try:
        from gigatoken.gigatoken_rs import pretokenized_counts

        unassigned = texts.unassigned()
        known = texts.only(~unassigned) if unassigned.any() else texts
        # No UTF-8 text has this byte, so it can stand between two documents.
        separator = b"\xff"
        with _quiet_stderr():
            counts: dict[bytes, int] = dict(pretokenized_counts(known.separated_by(separator[0]), separator))
        if unassigned.any():
            for word, number in _count_reference(texts.only(unassigned)).items():
                counts[word] = counts.get(word, 0) + number
        return counts
    except Exception:
        # An optional speed-up: whatever is wrong with it, the reference is there.
        return None


def _count_reference(texts: Texts) -> dict[bytes, int]:
    """Count the words of gpt2's pattern with ``tokenizers``."""
    from tokenizers.pre_tokenizers import ByteLevel

    from tokenize_kit.tokenizers.text.formats import to_bytes

    splitter = ByteLevel(add_prefix_space=False)
    words: Counter[str] = Counter()
    for text in texts.strings():
        words.update(word for word, _ in splitter.pre_tokenize_str(text))
    return {to_bytes(word): number for word, number in words.items()}


def _train_reference(corpus: Corpus, options: TrainBPEOptions, progress: Progress | None) -> Merges:
    def documents() -> Iterator[str]:
        for texts in _blocks(corpus, options):
            yield from texts.strings()
        if progress is not None:
            progress.task("merge")

    return _reference_merges(documents(), options.vocab_size, options)


def _reference_merges(documents: Iterator[str], vocab_size: int, options: TrainBPEOptions) -> Merges:
    """Train with ``tokenizers``."""
    import json

    from tokenizers import AddedToken
    from tokenizers.trainers import BpeTrainer

    from tokenize_kit.tokenizers.text.formats import (
        byte_alphabet,
        dump_definition,
        make_definition,
        reference_tokenizer,
        to_bytes,
    )
    from trainers.bpe.merges import Merges

    tokenizer = reference_tokenizer(dump_definition(make_definition({}, [], options.pattern, {})))
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in options.special_tokens],
        initial_alphabet=byte_alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    special = _special_bytes(options)
    tokens = special + [to_bytes(token) for token in sorted(vocab, key=vocab.__getitem__)[len(special) :]]
    return Merges(tokens, [(vocab[first], vocab[second]) for first, second in model["merges"]])


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep what native code writes to the standard error stream away from it: gigatoken reports every count there."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
