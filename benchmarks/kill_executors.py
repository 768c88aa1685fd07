"""Proof that it does not matter where `encode` makes its shards, nor how often workers and driver are killed over it.

    python benchmarks/kill_executors.py [--kills 20] [--workers 2] [--seed 0]

The text of `assets` as jsonl, with some broken lines, is encoded by each executor, Ray being started on this machine; the sha256
over all files of the folder must be the same. Then one run with Ray is killed again and again at random moments with SIGKILL:
now one of its workers, which the run must survive, now the driver, after which the same command is given again. In the end every
byte must be that of the run that nobody disturbed, and no key may be there twice.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kill_encode import ASSETS, contents, write_jsonl

from tokenize_kit.progress import Progress
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.verify import verify
from trainers.bpe.train import TrainBPEOptions, train_bpe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train_bpe(
            TrainBPEOptions((str(ASSETS / "udhr.txt"),), str(folder / "text"), vocab_size=2000), Progress(enabled=False)
        )
        write_jsonl(folder / "text.jsonl", rng)
        run = EncodeOptions((str(folder / "text"),), (str(folder / "text.jsonl"),), "", shard_mb=0.01)
        print("| executor | workers | shards | samples | seconds | files | sha256 over all files |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
        digests = set()
        for name, workers in (("serial", 1), ("processes", options.workers), ("ray", options.workers)):
            whole = replace(run, out=str(folder / name), executor=name, workers=workers)
            result = encode(whole)
            files, digest = digest_of(folder / name)
            digests.add(digest)
            counts = f"{workers} | {result.shards} | {result.rows:,}"
            print(f"| {name} | {counts} | {result.seconds:.1f} | {files} | {digest} |", flush=True)
        killed = replace(run, out=str(folder / "killed"), executor="ray", workers=options.workers)
        said = kill_often(killed, result.shards, options.kills, rng)
        files, digest = digest_of(folder / "killed")
        digests.add(digest)
        verify(killed.out, list(run.tokenizer))
        print(f"| ray, killed {options.kills} times | {counts} | | {files} | {digest} |")
        print()
        print("killed, with the shards that were there: " + ", ".join(said))
    if len(digests) > 1:
        raise SystemExit("the shard sets differ")


def kill_often(run: EncodeOptions, total: int, kills: int, rng: random.Random) -> list[str]:
    """Start the run, kill its driver or a worker at random moments, start it again where that is needed; return what was done."""
    said = []
    process = command(run)
    victims = ["worker", "driver"] * (kills // 2) + ["worker"] * (kills % 2)
    rng.shuffle(victims)
    for number, victim in enumerate(victims):
        wanted = total * number // (kills + 1) + rng.randrange(max(1, total // (kills + 1)))
        wait_for(lambda wanted=wanted: shards(run) >= wanted, process)
        if victim == "worker":
            wait_for(lambda pid=process.pid: bool(workers_of(pid)), process)
        time.sleep(rng.random() * 0.02)
        pid = process.pid if victim == "driver" else rng.choice(workers_of(process.pid) or [0])
        if process.poll() is not None or not pid:
            raise RuntimeError(f"kill {number} came too late: the run had ended with code {process.returncode}")
        os.kill(pid, signal.SIGKILL)
        said.append(f"{victim} at {shards(run)}")
        if victim == "driver":
            process.wait()
            process = command(run)
    if process.wait() != 0:
        raise RuntimeError(f"the run ended with code {process.returncode}")
    return said


def command(run: EncodeOptions) -> subprocess.Popen[bytes]:
    arguments = [
        "encode",
        "--out",
        run.out,
        "--shard-mb",
        str(run.shard_mb),
        "--executor",
        str(run.executor),
        "--quiet",
    ]
    arguments += ["--workers", str(run.workers), "--tokenizer", *run.tokenizer, "--data", *run.data]
    script = "import sys; from tokenize_kit.cli import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def shards(run: EncodeOptions) -> int:
    return len(list(Path(run.out).glob("*.arrow")))


def workers_of(pid: int) -> list[int]:
    """The processes under a driver in which Ray runs our actors."""
    found, open_ = [], [pid]
    while open_:
        try:
            place = Path(f"/proc/{open_.pop()}")
            below = [int(child) for child in (place / "task" / place.name / "children").read_text().split()]
            found += [child for child in below if b"_Actor" in Path(f"/proc/{child}/cmdline").read_bytes()]
        except OSError:
            continue  # it has ended in the meantime
        open_ += below
    return found


def digest_of(folder: Path) -> tuple[int, str]:
    """Return the number of files of a folder, and the sha256 over their names and contents."""
    files = contents(folder)
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    return len(files), digest.hexdigest()


if __name__ == "__main__":
    main()
