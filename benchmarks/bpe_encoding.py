"""Encoding text with byte-level BPE: ours beside `tokenizers`, tiktoken and bare gigatoken; ids must be identical.

    python benchmarks/bpe_encoding.py [--megabytes 100] [--document-kilobytes 8]

The documents are multilingual text and code. Every engine gets the same batches of about 8 MB, one engine after another, and
all CPUs. ``tokenizers`` is measured on the trained vocabulary and on GPT-2's, tiktoken on those that it has.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import gigatoken
import numpy as np
import pyarrow as pa
import tiktoken
from bpe_corpus import corpus, protocol
from fetch import fetch
from tokenizers import Tokenizer

from tokenize_kit.sources.documents import iter_text_blocks
from tokenize_kit.tokenizers.text import formats
from tokenize_kit.tokenizers.text.bpe import BPETokenizer
from trainers.bpe.train import TrainBPEOptions, train_bpe

Encode = Callable[[list[str], pa.Array], Any]
ENDOFTEXT = "<|endoftext|>"

# tiktoken's own spelling: https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py
R50K = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"""
    r"""\s*[\r\n]|\s+(?!\S)|\s"""
)
ENCODINGS = {
    "r50k_base": ("gpt2", R50K, 50256),
    "p50k_base": ("gpt2", R50K, 50256),
    "cl100k_base": ("cl100k", CL100K, 100257),
    "o200k_base": ("o200k", formats.PATTERNS["o200k"], 199999),
}


def batches(path: Path, document_bytes: int) -> Iterator[tuple[list[str], pa.Array, int]]:
    documents: list[str] = []
    size = 0
    for block in iter_text_blocks([path], max_document_bytes=document_bytes):
        for text in block:
            documents.append(text if isinstance(text, str) else text.as_py())
            size += len(documents[-1].encode())
        if size >= 8 << 20:
            yield documents, pa.array(documents, pa.large_string()), size
            documents, size = [], 0
    if documents:
        yield documents, pa.array(documents, pa.large_string()), size


def ours(tokenizer: BPETokenizer) -> Encode:
    return lambda _, array: tokenizer.encode_ragged(array)[0]


def bare_gigatoken(tokenizer: BPETokenizer) -> Encode:
    """Without special tokens, which gigatoken would look for in the text."""
    definition = formats.without_special(tokenizer._definition, tokenizer._added)
    engine = gigatoken.Tokenizer.from_json(formats.dump_definition(definition))
    return lambda _, array: engine.encode_batch(ak.from_arrow(array)).layout.content.data


def library(tokenizer: BPETokenizer) -> Encode:
    engine = Tokenizer.from_buffer(formats.dump_definition(tokenizer._definition))
    engine.encode_special_tokens = True
    return lambda documents, _: [e.ids for e in engine.encode_batch_fast(documents, add_special_tokens=False)]


def openai(encoding: tiktoken.Encoding) -> Encode:
    threads = os.cpu_count() or 1
    return lambda documents, _: encoding.encode_ordinary_batch(documents, num_threads=threads)


def measure(
    path: Path, document_bytes: int, engines: dict[str, Encode]
) -> tuple[dict[str, float], dict[str, bool], int]:
    """Return seconds and whether the ids equal ours, for every engine, and the number of tokens."""
    seconds = dict.fromkeys(engines, 0.0)
    equal = dict.fromkeys(engines, True)
    tokens = 0
    for encode in engines.values():
        encode(["warm up"], pa.array(["warm up"], pa.large_string()))
    for documents, array, _ in batches(path, document_bytes):
        expected = None
        for name, encode in engines.items():
            began = time.perf_counter()
            result = encode(documents, array)
            seconds[name] += time.perf_counter() - began
            if isinstance(result, list):
                result = np.concatenate([np.array(row, dtype=np.uint32) for row in result])
            if expected is None:
                expected = np.asarray(result)
                tokens += len(expected)
            equal[name] &= bool(np.array_equal(result, expected))
    return seconds, equal, tokens


def main() -> int:
    parser = argparse.ArgumentParser(description="Encoding text with byte-level BPE, beside three packages.")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--document-kilobytes", type=int, default=8)
    options = parser.parse_args()
    path = corpus(options.megabytes)
    ranks = fetch("vocabularies") / "gpt-tokenizer" / "data"
    size = path.stat().st_size / 1e6
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        print("training a vocabulary of 32,000 on the same text", file=sys.stderr)
        train_bpe(TrainBPEOptions(data=(str(path),), out=f"{folder}/trained"))
        for name in ("trained 32k", *ENCODINGS):
            print(f"encoding with {name}", file=sys.stderr)
            engines: dict[str, Encode] = {}
            if name in ENCODINGS:
                pattern, regex, end = ENCODINGS[name]
                file = ranks / f"{name}.tiktoken"
                tokenizer = BPETokenizer.from_tiktoken(file, pattern, {ENDOFTEXT: end})
                lines = [line.split() for line in file.read_bytes().splitlines() if line]
                encoding = tiktoken.Encoding(
                    name,
                    pat_str=regex,
                    mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
                    special_tokens={ENDOFTEXT: end},
                )
                engines["tiktoken"] = openai(encoding)
            else:
                tokenizer = BPETokenizer.load(f"{folder}/trained")
            engines = {"tokenize-kit": ours(tokenizer), "gigatoken, bare": bare_gigatoken(tokenizer), **engines}
            if name in ("trained 32k", "r50k_base"):
                engines["tokenizers"] = library(tokenizer)
            rows.append((name, tokenizer.engine, *measure(path, options.document_kilobytes << 10, engines)))
    print(
        f"BPE encoding, {size:.0f} MB of text and code in documents of {options.document_kilobytes} KiB at most; one run"
    )
    print(protocol("tokenizers", "tiktoken", "gigatoken"))
    print()
    print("| vocabulary | encoder | MB/s | ours is times as fast | tokens | ids equal ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    fine = True
    for name, engine, seconds, equal, tokens in rows:
        for encoder, took in seconds.items():
            shown = f"{encoder} ({engine} inside)" if encoder == "tokenize-kit" else encoder
            ratio = took / seconds["tokenize-kit"]
            # Bare gigatoken has other tables of characters, so it is only there for its speed.
            fine &= equal[encoder] or encoder == "gigatoken, bare"
            same = "yes" if equal[encoder] else "NO"
            print(f"| {name} | {shown} | {size / took:.1f} | {ratio:.2f} | {tokens:,} | {same} |")
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
