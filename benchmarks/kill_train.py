"""``train transformer`` killed (SIGKILL) at random moments and continued: are the weights the same to the bit?

    python benchmarks/kill_train.py [--kills 10] [--steps 120] [--seed 0] [--template "text -> image"] [--compile]

The real command line trains on the captions and pictures of ``assets/emoji.tar``, once undisturbed and once killed again and
again: every fifth time while it starts up, else a random time after its first step began, so that kills fall into
start-up, steps, validations and checkpoints. Compared are the best
weights, every file of the last checkpoint (weights, optimiser, state) and the log without its timing.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trainers.logs import TIMING, read_log

ASSETS = Path(__file__).resolve().parent.parent / "assets"
COMMAND = [str(Path(sys.executable).with_name("tokenize-kit"))]


def call(*words: str) -> None:
    subprocess.run([*COMMAND, *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def contents(folder: Path) -> dict[str, str]:
    files = [folder / "model.safetensors", *sorted((folder / "checkpoints").rglob("*"))]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()
    }


def log_of(folder: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in line.items() if not key.endswith(TIMING)}
        for line in read_log(folder / "train_log.jsonl")
    ]


def wait_for_log(process: subprocess.Popen[bytes], folder: Path, before: int) -> float:
    """Wait until the training opens its log, which it does right before its first step; return the seconds."""
    began = time.monotonic()
    log = folder / "train_log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_mtime_ns != before):
        time.sleep(0.005)
    return time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--template", default="text -> image")
    parser.add_argument("--compile", action="store_true", help="train with compiled blocks")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        emoji = str(ASSETS / "emoji.tar")
        call("train", "bpe", "--data", str(ASSETS / "udhr.txt"), "--out", str(root / "bpe"), "--vocab-size", "1000")
        call("train", "palette", "--data", emoji, "--out", str(root / "palette"), "--colors", "64")
        folders = [str(root / "bpe"), str(root / "palette")]
        call("encode", "--tokenizer", *folders, "--data", emoji, "--image-size", "8", "--out", str(root / "shards"))
        train = ["train", "transformer", "--shards", str(root / "shards"), "--template", options.template, "--quiet"]
        train += [
            "--steps",
            str(options.steps),
            "--preset",
            "tiny",
            "--checkpoint-every",
            "5",
            "--validate-every",
            "20",
        ]
        # Small, so that reading, validating and saving take as large a part of the time as the steps do.
        train += ["--model.layers", "2", "--model.width", "64", "--model.heads", "2"]
        train += ["--validation-tokens", "4000", "--model.dropout", "0.1"]
        train += [*(["--compile"] if options.compile else []), "--out"]

        process = subprocess.Popen([*COMMAND, *train, str(root / "whole")], stdout=subprocess.DEVNULL)
        start_up = wait_for_log(process, root / "whole", 0)
        began = time.monotonic()
        if process.wait():
            return 1
        training = time.monotonic() - began
        print(f"undisturbed: {start_up:.1f} s to start, {options.steps} steps in {training:.1f} s")
        print("| kill | when | last checkpoint |\n| --- | --- | --- |")
        killed = 0
        while killed < options.kills:
            log = root / "killed" / "train_log.jsonl"
            before = log.stat().st_mtime_ns if log.exists() else 0
            process = subprocess.Popen([*COMMAND, *train, str(root / "killed")], stdout=subprocess.DEVNULL)
            if killed % 5 == 4:
                wait, phase = moments.uniform(0, 0.4 * start_up), "start"
            else:
                wait_for_log(process, root / "killed", before)
                wait, phase = moments.uniform(0, 0.1 * training), "first step"
            try:
                process.wait(wait)
                break  # finished before its time
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            killed += 1
            found = sorted(path.name for path in (root / "killed" / "checkpoints").glob("step_*"))
            print(f"| {killed} | {wait:.1f} s after the {phase} | {', '.join(found) or 'none'} |", flush=True)
        subprocess.run([*COMMAND, *train, str(root / "killed")], check=True, stdout=subprocess.DEVNULL)
        same = contents(root / "whole") == contents(root / "killed")
        same_log = log_of(root / "whole") == log_of(root / "killed")
        print(f"\n{killed} kills; weights, optimiser and state {'equal to the bit' if same else 'DIFFER'}; ", end="")
        print(f"log {'equal' if same_log else 'DIFFERS'}")
        return 0 if same and same_log and killed == options.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
