"""``tokenize-kit import bpe``: bring in a vocabulary that others trained, with identical ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImportBPEOptions:
    """Bring in a tokenizer.json, a GPT-2 vocabulary with merges, or a .tiktoken rank file; the ids stay as they are."""

    source: str
    """``tokenizer.json`` (or its folder), ``vocab.json``/``encoder.json``, or ``NAME.tiktoken``."""
    out: str
    """Folder for the tokenizer."""
    merges: str | None = None
    """The merges file that belongs to a GPT-2 vocabulary (``merges.txt`` or ``vocab.bpe``)."""
    pattern: str | None = None
    """Pre-tokenisation of a .tiktoken file, which does not carry one: gpt2, cl100k, o200k or a regular expression."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens of a .tiktoken file as ``TEXT=ID``."""
    overwrite: bool = False
    """Replace another tokenizer, or a tokenizer.json, that is in the folder."""


@dataclass(frozen=True)
class ImportResult:
    """The tokenizer that was written."""

    out: str
    vocab_size: int
    fingerprint: str


def import_bpe(options: ImportBPEOptions) -> ImportResult:
    """Import a byte-level BPE vocabulary and save it as a tokenizer folder.

    Raises:
        FileNotFoundError: the source or the merges are missing.
        ValueError: the source is of an unknown kind or not byte-level BPE, or an option does not belong to it.
    """
    from tokenize_kit.protocol import save_as
    from tokenize_kit.tokenizers.text.bpe import BPETokenizer

    source = Path(options.source)
    source = source / "tokenizer.json" if source.is_dir() else source
    if not source.is_file():
        raise FileNotFoundError(f"--source {options.source}: there is no such file")
    if source.suffix == ".tiktoken":
        if options.pattern is None:
            raise ValueError(
                "--pattern is needed: a .tiktoken file does not carry its pre-tokenisation (gpt2, cl100k, o200k)"
            )
        tokenizer = BPETokenizer.from_tiktoken(source, options.pattern, _special_tokens(options.special_tokens))
    else:
        if options.pattern is not None or options.special_tokens:
            raise ValueError("--pattern and --special-tokens belong to .tiktoken files; a .json source carries its own")
        if options.merges is not None:
            tokenizer = BPETokenizer.from_gpt2(source, options.merges)
        elif source.name in ("encoder.json", "vocab.json"):
            raise ValueError(f"--merges is needed beside {source.name}: give its merges.txt or vocab.bpe")
        else:
            tokenizer = BPETokenizer.from_tokenizer_json(source)
    save_as(tokenizer, options.out, overwrite=options.overwrite)
    assert isinstance(tokenizer.spec.vocab_size, int)
    return ImportResult(options.out, tokenizer.spec.vocab_size, tokenizer.fingerprint)


def _special_tokens(pairs: tuple[str, ...]) -> dict[str, int]:
    special = {}
    for pair in pairs:
        text, equals, number = pair.rpartition("=")
        if not equals or not text or not number.isdigit():
            raise ValueError(f"--special-tokens {pair!r} must be TEXT=ID, such as '<|endoftext|>=100257'")
        special[text] = int(number)
    return special
