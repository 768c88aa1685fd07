"""Proof that a killed `encode` loses and doubles nothing: ten SIGKILLs at random moments, continued, compared byte by byte.

    python benchmarks/kill_encode.py [--kills 10] [--seed 0]

The data is the text of `assets` as jsonl, with some broken lines, and the emoji with their captions. Each is encoded once
without interruption, and once more through the command line, killed again and again (all processes of the run at once, now
with one worker, now with two) and then left to finish. Every file of the two folders must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokenize_kit.progress import Progress
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.verify import verify
from trainers.bpe.train import TrainBPEOptions, train_bpe
from trainers.palette.train import TrainPaletteOptions, train_palette

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    quiet = Progress(enabled=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text, palette = str(folder / "text"), str(folder / "palette")
        train_bpe(TrainBPEOptions((str(ASSETS / "udhr.txt"),), text, vocab_size=2000), quiet)
        train_palette(TrainPaletteOptions((str(ASSETS / "emoji.tar"),), palette, colors=64), quiet)
        write_jsonl(folder / "text.jsonl", rng)
        runs = {
            "jsonl": EncodeOptions((text,), (str(folder / "text.jsonl"),), "", shard_mb=0.1),
            "pictures": EncodeOptions((text, palette), (str(ASSETS / "emoji.tar"),), "", shard_mb=0.03),
        }
        print("| input | shards | kills | shards there at each kill | files compared | equal |")
        print("| --- | ---: | ---: | --- | ---: | --- |")
        failed = False
        for name, run in runs.items():
            whole, killed = folder / f"{name}-whole", folder / f"{name}-killed"
            total = encode(EncodeOptions(**{**vars(run), "out": str(whole)})).shards
            at = [kill_once(run, killed, total, options.kills, number, rng) for number in range(options.kills)]
            command(run, killed, 1).wait()
            before, after = contents(whole), contents(killed)
            equal = before == after
            failed |= not equal
            verify(killed, list(run.tokenizer))
            print(
                f"| {name} | {total} | {len(at)} | {', '.join(map(str, at))} | {len(before)} | {'yes' if equal else 'NO'} |"
            )
    if failed:
        raise SystemExit(1)


def write_jsonl(path: Path, rng: random.Random) -> None:
    paragraphs = [line for line in (ASSETS / "udhr.txt").read_text(encoding="utf-8").split("\n") if line]
    with path.open("w", encoding="utf-8") as file:
        for number in range(40_000):
            line = json.dumps({"id": number, "text": rng.choice(paragraphs)}, ensure_ascii=False)
            file.write(line[:-3] + "\n" if number % 1000 == 7 else line + "\n")


def command(run: EncodeOptions, out: Path, workers: int) -> subprocess.Popen[bytes]:
    arguments = ["encode", "--out", str(out), "--workers", str(workers), "--shard-mb", str(run.shard_mb), "--quiet"]
    arguments += ["--tokenizer", *run.tokenizer, "--data", *run.data]
    script = "import sys; from tokenize_kit.cli import main; sys.exit(main())"
    # A session of its own, so that the kill takes the workers too.
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], start_new_session=True, stdout=subprocess.DEVNULL
    )


def kill_once(run: EncodeOptions, out: Path, total: int, kills: int, number: int, rng: random.Random) -> int:
    """Start or continue the run, kill it at a random moment, and return how many shards are there."""
    # Spread over the run: this kill falls somewhere in its share of the shards, at any point of writing one.
    wanted = total * number // (kills + 1) + rng.randrange(max(1, total // (kills + 1)))
    process = command(run, out, 1 + number % 2)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.arrow"))) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(rng.random() * 0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"kill {number} came too late: the run had ended with code {process.returncode}")
    return len(list(out.glob("*.arrow")))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
