"""Damaged files of every format against the readers: whole, or listed, never fewer samples without a word.

    python benchmarks/fuzz.py [--inputs 10000] [--reader WORD] [--seed 0]

Small healthy files are cut, joined with others, their blocks put in another order, ranges filled with zeros, bits flipped and
garbage appended (`tests/toys/damaged_inputs.py`, which the suite uses too). Each result is read beside a healthy file as `encode`
does up to the tokenizer, in a forked worker: what kills the worker, or raises anything, is a crash of the command; no answer for
30 seconds is a hang; memory is the peak of the worker or of the process that decodes parquet for it. ``whole`` is right by
checksum where the format has any, by what it states where it states its length, and by the number of samples otherwise.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from toys.damaged_inputs import FORMATS, RARE, Format, damages, judge, prepare

SECONDS = 30
MANY_BYTES = 1 << 30
SHOWN = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="damaged files a reader")
    parser.add_argument("--reader", default="", help="only files whose name has this word")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    columns = ("whole", "listed", "crash", "hang", "over 1 GiB", "silent")
    print(f"| file | inputs | {' | '.join(columns)} | seconds |")
    print(f"| --- | ---: | {' | '.join(['---:'] * len(columns))} | ---: |")
    wrong: list[str] = []
    sums: Counter[str] = Counter()
    for form in [*FORMATS, *RARE]:
        if options.reader in form.name:
            began = time.monotonic()
            tally = fuzz(form, options.inputs, options.seed, wrong)
            counts = " | ".join(f"{tally[name]:,}" for name in columns)
            print(f"| {form.name} | {options.inputs:,} | {counts} | {time.monotonic() - began:.0f} |", flush=True)
            sums += tally
            sums["inputs"] += options.inputs
    print(f"| all | {sums['inputs']:,} | {' | '.join(f'{sums[name]:,}' for name in columns)} | |")
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(bool(wrong))


def fuzz(form: Format, inputs: int, seed: int, wrong: list[str]) -> Counter[str]:
    """Count what became of the inputs of one format; what is wrong is added to ``wrong``."""
    tally: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    place = 0
    while place < inputs:
        receiving, sending = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.close(receiving)
            try:
                work(form, place, inputs, seed, sending)
            finally:
                os._exit(0)
        os.close(sending)
        with os.fdopen(receiving, "rb", buffering=0) as answers:
            verdict, words = "", ""
            for number, verdict, words in results(answers, place):
                tally[verdict] += 1
                place = number + 1
                if verdict not in ("whole", "listed"):
                    shown[verdict] += 1
                    if shown[verdict] <= SHOWN:
                        wrong.append(f"{form.name}, input {number} of seed {seed}, {verdict}: {words}")
        os.kill(worker, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        if place < inputs and verdict != "hang":
            tally["crash"] += 1
            wrong.append(f"{form.name}, input {place} of seed {seed}, crash: the process ends with {code}")
            place += 1
    return tally


def results(answers, place):
    """Yield number, verdict and words of each input, the last one a hang if no more comes for too long."""
    data = b""
    while True:
        if not select.select([answers], [], [], SECONDS)[0]:
            yield place, "hang", f"no answer for {SECONDS} s"
            return
        part = answers.read(1 << 16)
        if not part:
            return
        data += part
        *lines, data = data.split(b"\n")
        for line in lines:
            number, verdict, words = line.decode().split("\t", 2)
            place = int(number) + 1
            yield int(number), verdict, words


def work(form: Format, first: int, inputs: int, seed: int, sending: int) -> None:
    """Judge the inputs from ``first`` on and send a line for each."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders talk
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as temporary:
        folder = Path(temporary) / "data"
        prepare(folder, form)
        for number, damage in enumerate(damages(form, inputs, seed)):
            if number < first:
                continue
            reset_peaks()
            try:
                verdict, words = judge(folder, form, damage)
            except Exception as error:
                verdict, words = "crash", repr(error)
            if verdict != "crash" and (peak := peaks()) > MANY_BYTES:
                verdict, words = "over 1 GiB", f"{peak:,} bytes"
            line = f"{number}\t{verdict}\t{damage[0]}: {' '.join(words.split())[:300]}\n"
            os.write(sending, line.encode(errors="replace"))


def processes() -> list[Path]:
    """The worker itself and what it started."""
    me = Path("/proc/self")
    children: list[str] = []
    for task in (me / "task").iterdir():
        with suppress(OSError):  # a thread that ends just now
            children += (task / "children").read_text().split()
    return [me, *(Path("/proc") / pid for pid in children)]


def reset_peaks() -> None:
    for process in processes():
        with suppress(OSError):  # one that ends just now
            (process / "clear_refs").write_text("5")


def peaks() -> int:
    """The largest of the memory peaks since they were reset, in bytes."""
    most = 0
    for process in processes():
        try:
            lines = (process / "status").read_text().splitlines()
        except OSError:
            continue
        most = max(most, *(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")))
    return most


if __name__ == "__main__":
    main()
