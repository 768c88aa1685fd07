"""Bits turned in every kind of file that the kit writes: are they found by ``verify``, and where the file is first used?

    python benchmarks/flips.py [--flips 400] [--seed 0] [--only WORD]

The real command line makes a tokenizer of each sort, a shard set of captions and pictures, a trained Transformer, a trained
image tokenizer and a compressed file from ``assets/emoji.tar``. Then single bits of one file are turned, one at a time, and two
command lines are run on each: ``verify``, and what uses the file. They run in a forked process, so that a death is counted, not
suffered.

A flip is found if the command ends with exit code 3, or 1, and one line that names the file; silent if it ends with 0; a death if
a signal ended the process; unclear if it is anything else: a traceback, "a bug", a line without the name, more than 60 seconds.
What no command reads back, such as ``failures.jsonl``, and what is made again where it is damaged, has no second command.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tokenize_kit.cli import main as command_line

ASSETS = Path(__file__).resolve().parent.parent / "assets"
LIMIT_SECONDS = 60
SMALL = "--device cpu --precision 32-true"
WORLD = (
    f"train bpe --data {ASSETS}/udhr.txt --vocab-size 400 --out bpe",
    f"train palette --data {ASSETS}/emoji.tar --colors 32 --limit 100 --out palette",
    f"encode --tokenizer bpe --tokenizer palette --data broken {ASSETS}/emoji.tar --image-size 6 --out shards",
    f"train transformer --shards shards --template 'text -> image' --out model --steps 2 --batch-size 4 --model.layers 1 "
    f"--model.width 16 --model.heads 2 {SMALL}",
    f"train image --data {ASSETS}/emoji.tar --image-size 16 --preset fsq --steps 2 --batch-size 4 --network.width 4 "
    f"--network.multipliers 1 2 --network.encoder-blocks 0 1 --network.decoder-blocks 1 1 --network.latent-channels 4 "
    f"--quantizer.levels 4 3 3 {SMALL} --out image",
    "compress caption.txt a.tkc --tokenizer bpe",
)
DECODE = "decode --shards shards --tokenizer bpe --limit 3 --out out"
GENERATE = "generate --model model --prompt red --out out --device cpu"
TRAIN = WORLD[3]
CASES = {
    "shard": ("shards/00000.arrow", "shards", DECODE),
    "manifest": ("shards/dataset.json", "shards", DECODE),
    "ledger": ("shards/00000.json", "shards", ""),
    "plan": ("shards/plan.json", "shards", ""),
    "list of failures": ("shards/failures.jsonl", "shards", ""),
    "tokenizer in a set": ("shards/tokenizers/text/tokenizer.json", "shards", "inspect shards/tokenizers/text"),
    "BPE vocabulary": ("bpe/tokenizer.json", "bpe", "decompress a.tkc out.txt --tokenizer bpe"),
    "BPE configuration": ("bpe/tokenizer_config.json", "bpe", "decompress a.tkc out.txt --tokenizer bpe"),
    "palette": ("palette/palette.safetensors", "palette", "inspect palette"),
    "weights of an image tokenizer": ("image/model.safetensors", "image", "inspect image"),
    "best weights of a training": ("image/best.safetensors", "image", ""),
    "weights of a model": ("model/model.safetensors", "model", GENERATE),
    "configuration of a model": ("model/model_config.json", "model", GENERATE),
    "what determines a run": ("model/run.json", "model", TRAIN),
    "checkpoint, weights": ("model/checkpoints/step_00000002/model.safetensors", "model", TRAIN),
    "checkpoint, optimiser": ("model/checkpoints/step_00000002/optimizer_model_0.safetensors", "model", TRAIN),
    "checkpoint, state": ("model/checkpoints/step_00000002/state.json", "model", TRAIN),
    "compressed file": ("a.tkc", "a.tkc", "decompress a.tkc out.txt --tokenizer bpe"),
}


def run(line: str) -> tuple[int, str]:
    """Run a command line in this process; return its exit code and what it said on stderr."""
    parts = line.split("'")
    words = [word for place, part in enumerate(parts) for word in ([part] if place % 2 else part.split())]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line([*words, "--quiet"])
    return code, err.getvalue()


def judged(path: Path, bits: list[int], line: str) -> list[str]:
    """Return what becomes of a command line for each bit of a file that is turned; forks go on where the one before died."""
    told: list[str] = []
    data = path.read_bytes()
    while len(told) < len(bits):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            for bit in bits[len(told) :]:
                signal.alarm(LIMIT_SECONDS)
                path.write_bytes(turned(data, bit))
                os.write(writer, (json.dumps(outcome(line, path.name)) + "\n").encode())
                clear()
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            told += [json.loads(text) for text in file if text.endswith("\n")]
        _, status = os.waitpid(child, 0)
        path.write_bytes(data)
        clear()
        if os.WIFSIGNALED(status):
            told.append("unclear: too long" if os.WTERMSIG(status) == signal.SIGALRM else "death")
    return told


def turned(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def outcome(line: str, name: str) -> str:
    try:
        code, said = run(line)
    except BaseException as error:
        return f"unclear: {error!r}"
    plain = code in (1, 3) and said.count("\n") == 1 and name in said and "a bug" not in said
    return "silent" if code == 0 else "found" if plain else f"unclear: {code} {said[-300:]}"


def clear() -> None:
    """Remove what the command wrote."""
    shutil.rmtree("out", ignore_errors=True)
    Path("out.txt").unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only the files whose name has this word")
    options = parser.parse_args()
    bad = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        os.environ["TOKENIZE_KIT_CACHE"] = str(Path(temporary) / "cache")
        Path("caption.txt").write_text("a red apple, and a green one " * 20)
        Path("broken").mkdir()
        Path("broken/a.png").write_text("no picture")
        Path("broken/a.txt").write_text("a caption")
        for line in WORLD:
            code, said = run(line)
            if code:
                print(said, file=sys.stderr)
                return 1
        cases = {name: case for name, case in CASES.items() if options.only in name}
        print("| file | bytes | flips | by verify | by first use | silent | deaths | unclear |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name, (file, whole, use) in cases.items():
            path = Path(file)
            size = path.stat().st_size
            bits = random.Random(options.seed).sample(range(8 * size), min(options.flips, 8 * size))
            results = []
            for line in (f"verify {whole}", *([use] if use else [])):
                told = judged(path, bits, line)
                results.append(Counter(one.split(":")[0] for one in told))
                for bit, one in zip(bits, told, strict=True):
                    if one != "found":
                        print(f"{name}, bit {bit}, {line}: {one}", file=sys.stderr)
            used = str(results[1]["found"]) if use else "-"
            rest = [sum(result[kind] for result in results) for kind in ("silent", "death", "unclear")]
            bad += sum(rest)
            print(
                f"| {name} | {size:,} | {len(bits)} | {results[0]['found']} | {used} | {rest[0]} | {rest[1]} | {rest[2]} |",
                flush=True,
            )
    print(f"\n{time.monotonic() - began:,.0f} s, seed {options.seed}")
    return min(1, bad)


if __name__ == "__main__":
    raise SystemExit(main())
