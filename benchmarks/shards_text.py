"""Text to token shards: a jsonl file to finished, hashed shards, against `datasets.map` and the bare fastest engine.

    python benchmarks/shards_text.py [--mb 17] [--vocab-size 32000] [--rounds 3]

One vocabulary for all, trained on other pages of the same text (LibreOffice's help in eight languages). The contenders take
turns; the best of the rounds counts. Each starts from the jsonl file and ends with ids on the disk:

    tokenize-kit     `encode`: read, parse, encode, check, write, hash, sync, rename, ledger, manifest
    datasets.map     load_dataset("json"), map with the `tokenizers` package in batches and 2 processes, save_to_disk
    gigatoken        bare: encode_files on the jsonl file, one plain write of all ids; nothing is checked, kept apart or hashed

Loading the tokenizer and starting Python are part of no figure, except in the worker processes that a contender starts
itself. One process of tokenize-kit uses all cores for BPE; workers are for slower tokenizers and for large inputs.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from fetch import fetch

from tokenize_kit.progress import Progress
from tokenize_kit.protocol import Tokenizer, load_tokenizer
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.verify import verify
from trainers.bpe.train import TrainBPEOptions, train_bpe

_MARKUP = re.compile(r"<(script|style|head)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r]*\n\s*")


def pages() -> Iterator[str]:
    """Yield the pages of the help, languages mixed, without their markup."""
    folder = fetch("help-text")
    files = sorted(folder.rglob("*.html"), key=lambda path: (path.name, str(path)))
    for path in files:
        text = html.unescape(_MARKUP.sub("", path.read_text(encoding="utf-8", errors="replace")))
        if text := _SPACE.sub("\n", text).strip():
            yield text


def write_jsonl(path: Path, megabytes: float) -> int:
    """Write every second page until there is enough, from the beginning again if need be; returns the bytes of text."""
    size = 0
    chosen = [text for number, text in enumerate(pages()) if number % 2]
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(cycle(chosen)):
            if size >= megabytes * 1e6:
                return size
            size += len(text.encode())
            file.write(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")
    return size


def with_datasets(tokenizer: Any, data: Path, out: Path) -> int:
    import datasets

    datasets.disable_progress_bars()

    def encode_batch(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"text": [found.ids for found in tokenizer.encode_batch(batch["text"])]}

    loaded = datasets.load_dataset("json", data_files=str(data), split="train", cache_dir=str(out / "cache"))
    features = datasets.Features({"text": datasets.List(datasets.Value("uint16"))})
    mapped = loaded.map(encode_batch, batched=True, num_proc=2, remove_columns=loaded.column_names, features=features)
    mapped.save_to_disk(str(out / "set"))
    return sum(map(len, mapped["text"]))


def with_gigatoken(tokenizer: Any, data: Path, out: Path) -> int:
    import awkward
    import gigatoken

    encoded = tokenizer.encode_files(gigatoken.JsonlFileSource([str(data)], "text"))
    flat = awkward.to_numpy(awkward.flatten(encoded)).astype(np.uint16)
    flat.tofile(out / "ids.bin")
    return len(flat)


def with_ours(loaded: dict[str, Tokenizer], data: Path, out: Path, **more: Any) -> int:
    options = EncodeOptions(tokenizer=tuple(loaded), data=(str(data),), out=str(out / "set"), **more)
    return encode(options, loaded=loaded).tokens["text"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=17.0, help="megabytes of text to encode")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        training = folder / "training.txt"
        training.write_text("\n".join(text for number, text in enumerate(pages()) if not number % 2), encoding="utf-8")
        tokenizer = folder / "tokenizer"
        train_bpe(
            TrainBPEOptions((str(training),), str(tokenizer), vocab_size=options.vocab_size, special_tokens=()),
            Progress(enabled=False),
        )
        data = folder / "data.jsonl"
        size = write_jsonl(data, options.mb)
        print(
            f"{size / 1e6:.1f} MB of text, {data.stat().st_size / 1e6:.1f} MB of jsonl, vocabulary {options.vocab_size}\n"
        )
        import gigatoken
        import tokenizers

        # The first use compares the fast engine with the reference, which belongs to loading.
        loaded = {str(tokenizer): load_tokenizer(tokenizer)}
        loaded[str(tokenizer)].encode("warm up")
        definition = tokenizer / "tokenizer.json"
        reference = tokenizers.Tokenizer.from_file(str(definition))
        bare = gigatoken.Tokenizer(definition)
        contenders: dict[str, Callable[[Path], int]] = {
            "tokenize-kit": lambda out: with_ours(loaded, data, out),
            "tokenize-kit, 2 workers": lambda out: with_ours(loaded, data, out, workers=2, shard_mb=options.mb / 6),
            "datasets.map, 2 processes": lambda out: with_datasets(reference, data, out),
            "gigatoken, bare": lambda out: with_gigatoken(bare, data, out),
        }
        best: dict[str, float] = {}
        tokens: dict[str, int] = {}
        for round_ in range(options.rounds):
            for name, run in contenders.items():
                out = folder / f"{round_}-{name.replace(' ', '-')}"
                out.mkdir()
                began = time.perf_counter()
                tokens[name] = run(out)
                best[name] = min(best.get(name, float("inf")), time.perf_counter() - began)
        verify(folder / "0-tokenize-kit" / "set", [str(tokenizer)])
        _check_ids(folder / "0-tokenize-kit" / "set", folder / "0-gigatoken,-bare" / "ids.bin")
        slow, fast = best["datasets.map, 2 processes"], best["gigatoken, bare"]
        print("| | seconds | MB/s | against datasets.map | against bare gigatoken | tokens |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, seconds in best.items():
            print(
                f"| {name} | {seconds:.2f} | {size / 1e6 / seconds:.1f} | {slow / seconds:.1f}x | {fast / seconds:.2f}x "
                f"| {tokens[name]:,} |"
            )


def _check_ids(shards: Path, bare: Path) -> None:
    ours = np.concatenate([array.values for array in ShardSet.open(shards).stream_arrays("text")])
    theirs = np.fromfile(bare, np.uint16)
    print(f"ids equal to gigatoken's: {'yes' if np.array_equal(ours, theirs) else 'NO'}\n")


if __name__ == "__main__":
    main()
