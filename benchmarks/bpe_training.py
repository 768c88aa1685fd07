"""Training byte-level BPE: `trainers.bpe.train.train_bpe` beside the `tokenizers` package, on the same documents.

    python benchmarks/bpe_training.py [--megabytes 100] [--vocab-size 32000] [--pattern gpt2] [--runs 3]

Every run is a process of its own, and the two take turns. Time is from the first byte read to the saved tokenizer, without
imports; memory is the largest resident set of the whole process. The merges, their order, and all ids must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bpe_corpus import corpus, protocol

SPECIAL = "<|endoftext|>"


def train_ours(path: Path, vocab_size: int, pattern: str, out: Path) -> None:
    from trainers.bpe.train import TrainBPEOptions, train_bpe

    train_bpe(TrainBPEOptions(data=(str(path),), out=str(out), vocab_size=vocab_size, pattern=pattern))


def train_tokenizers(path: Path, vocab_size: int, pattern: str, out: Path) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from tokenize_kit.sources.documents import iter_documents
    from tokenize_kit.tokenizers.text.formats import PATTERNS
    from trainers.bpe.train import PIECE_BYTES

    tokenizer = Tokenizer(models.BPE())
    if pattern == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(Regex(PATTERNS.get(pattern, pattern)), "isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter_documents([path], max_document_bytes=PIECE_BYTES), trainer)
    out.mkdir()
    tokenizer.save(str(out / "tokenizer.json"))


TRAINERS = {"tokenize-kit": train_ours, "tokenizers": train_tokenizers}


def run_one(name: str, options: argparse.Namespace) -> None:
    """Train in this process and print what it took."""
    import pyarrow  # noqa: F401
    import tokenizers  # noqa: F401

    import tokenize_kit.sources.reading  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        began = time.perf_counter()
        TRAINERS[name](Path(options.corpus), options.vocab_size, options.pattern, out)
        seconds = time.perf_counter() - began
        model = json.loads((out / "tokenizer.json").read_text())["model"]
    merges = [list(pair) for pair in model["merges"]]
    digest = hashlib.sha256(json.dumps([sorted(model["vocab"].items()), merges]).encode()).hexdigest()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "digest": digest, "merges": len(merges)}))


def main() -> int:
    parser = argparse.ArgumentParser(description="Training byte-level BPE, beside the tokenizers package.")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--pattern", default="gpt2")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", choices=list(TRAINERS), help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options.one, options)
        return 0
    path = corpus(options.megabytes)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in TRAINERS}
    for number in range(options.runs):
        for name in TRAINERS:
            print(f"run {number + 1} of {options.runs}: {name}", file=sys.stderr)
            command = [sys.executable, __file__, "--one", name, "--corpus", str(path)]
            command += ["--vocab-size", str(options.vocab_size), "--pattern", options.pattern]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[name].append(json.loads(done.stdout))
    digests = {run["digest"] for runs in results.values() for run in runs}
    seconds = {name: statistics.median(run["seconds"] for run in runs) for name, runs in results.items()}
    peaks = {name: statistics.median(run["peak"] for run in runs) for name, runs in results.items()}
    size = path.stat().st_size / 1e6
    print(
        f"BPE training, {size:.0f} MB, vocabulary {options.vocab_size}, pattern {options.pattern}; median of {options.runs}"
    )
    print(protocol("tokenizers", "gigatoken"))
    print()
    print("| trainer | seconds | MB/s | peak MB | times as fast |")
    print("| --- | --- | --- | --- | --- |")
    for name in TRAINERS:
        ratio = seconds["tokenizers"] / seconds[name]
        print(f"| {name} | {seconds[name]:.1f} | {size / seconds[name]:.1f} | {peaks[name]:.0f} | {ratio:.2f} |")
    print()
    merges = int(next(iter(results.values()))[0]["merges"])
    print(f"vocabulary and {merges} merges identical: {'yes' if len(digests) == 1 else 'NO'}")
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
