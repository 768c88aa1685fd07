"""Is a revision as fast as another? Ten jobs, old beside new in turns, and for each the ratio of speed with its interval.

    python benchmarks/speed_of_revisions.py BASE [HEAD] [--rounds 25] [--only WORD...] [--quick]

The jobs: reading packed batches, training a Transformer, generating, encoding folders of pictures (png, and jpeg) and of sounds
(wav, flac, ogg, mp3), jsonl and parquet to shards, and a codec that encodes and decodes a sound. Each revision (HEAD is the
checked-out one by default) has one process of one thread. For each job they take turns, A B, B A, A B ..., a second or some at a
time, so that what slows the machine for a while slows both; every job is done once before its clock starts. The ratio is the mean
of the logarithms over the rounds, with the 95 % interval of Student's t: of two equal revisions it holds 1 nineteen times of
twenty. Inputs, tokenizers and models are made once, by the base. Run it alone.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image

PLACES: dict[str, tuple[str, ...]] = {
    "TokenData": ("trainers.autoregressive.data:TokenData",),
    "PackedDataset": ("trainers.autoregressive.batches:PackedDataset", "trainers.autoregressive.data:PackedDataset"),
}
"""Where the few things stand that no command line shows; the first place that a revision has counts. Add new ones in front."""

SMALL_MODEL = (
    "--model.layers 4 --model.width 128 --model.heads 4 --device cpu --precision 32-true --validation-fraction 0.02"
)
TRAINING = "train transformer --shards shards --template text --context 256 --batch-size 8 --validation-tokens 256"
MAKING = (
    "train bpe --data corpus.txt --vocab-size 4096 --out bpe",
    "train palette --data pictures --colors 64 --limit 100 --out palette",
    "train audio --data speech --preset encodec --steps 2 --batch-size 2 --validation-fraction 0.43 --device cpu --out codec",
    "create mulaw --sample-rate 16000 --out mulaw",
    "encode --tokenizer bpe --data rows.jsonl --out shards",
    f"{TRAINING} {SMALL_MODEL} --steps 1 --out model",
)


def find(name: str) -> Any:
    """Return something of `PLACES` from the first place that there is."""
    for place in PLACES[name]:
        module, _, attribute = place.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    raise ImportError(f"{name} is at none of {', '.join(PLACES[name])}; add its place to PLACES")


# --- the jobs: each takes a number of its own for folders, and returns a speed


def command(line: str) -> dict[str, Any]:
    """Run a command line in this process and return its result."""
    from tokenize_kit.cli import main

    out = io.StringIO()
    with redirect_stdout(out):
        code = main([*line.split(), "--json", "--quiet"])
    if code:
        raise RuntimeError(f"exit code {code}: {line}")
    result: dict[str, Any] = json.loads(out.getvalue())
    return result


def packed_reading(_: int, __: Path) -> float:
    """Return tokens read a second, batches of 8 x 256, after the plan of the epoch."""
    import numpy as np

    data = find("TokenData").open(["shards"], "text")
    dataset = find("PackedDataset")(data.documents, np.arange(len(data.documents)), 256, 8)
    dataset.batch(0)
    began = time.perf_counter()
    for index in range(1, 4001):
        dataset.batch(index)
    return 4000 * 8 * 256 / (time.perf_counter() - began)


def training(number: int, folder: Path) -> float:
    """Return tokens trained a second, as the run's log says; the first line, with what is done once, does not count."""
    steps = 15 if number else 1
    out = folder / f"model-{number}"
    command(f"{TRAINING} {SMALL_MODEL} --steps {steps} --log-every 5 --validate-every 1000 --out {out}")
    rows = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    speeds = [value for row in rows for name, value in row.items() if name.endswith("_per_second")]
    return statistics.harmonic_mean(speeds[1:] or speeds)


def generating(number: int, folder: Path) -> float:
    """Return tokens drawn a second, as the command says; loading is not in it."""
    count = 24 if number else 1
    result = command(
        f"generate --model model --count {count} --batch-size 8 --device cpu --out {folder}/samples-{number}"
    )
    return float(result["tokens_per_second"])


def files(number: int, folder: Path, tokenizer: str, data: str) -> float:
    """Return files encoded a second."""
    more = "" if number else "--limit 4"
    result = command(f"encode --tokenizer {tokenizer} --data {data} {more} --out {folder}/{data}-{number}")
    return float(result["rows"] / result["seconds"])


def texts(number: int, folder: Path, data: str) -> float:
    """Return bytes of a file of texts a second that become shards."""
    more = "" if number else "--limit 4"
    result = command(f"encode --tokenizer bpe --data {data} --shard-mb 4 {more} --out {folder}/{data}-{number}")
    return float(result["input_bytes"] / result["seconds"])


def codec(number: int, _: Path, decode: bool = False) -> float:
    """Return seconds of sound that are coded a second."""
    import torch

    from tokenize_kit import load_tokenizer

    tokenizer = load_tokenizer("codec")
    rate = tokenizer.spec.sample_rate
    seconds = 12 if number else 1
    sound = (torch.randn(1, rate * seconds, generator=torch.Generator().manual_seed(1)) * 0.2).clamp(-1, 1)
    given = tokenizer.encode(sound) if decode else sound
    began = time.perf_counter()
    (tokenizer.decode if decode else tokenizer.encode)(given)
    return seconds / (time.perf_counter() - began)


JOBS: dict[str, Callable[[int, Path], float]] = {
    "packed reading, tokens/s": packed_reading,
    "training, tokens/s": training,
    "generation, tokens/s": generating,
    "pictures to shards, pictures/s": partial(files, tokenizer="palette", data="pictures"),
    "photographs to shards, pictures/s": partial(files, tokenizer="palette", data="photographs"),
    "sounds to shards, sounds/s": partial(files, tokenizer="mulaw", data="sounds"),
    "jsonl to shards, bytes/s": partial(texts, data="rows.jsonl"),
    "parquet to shards, bytes/s": partial(texts, data="rows.parquet"),
    "codec encodes, times real time": codec,
    "codec decodes, times real time": lambda number, folder: codec(number, folder, decode=True),
}


def worker() -> None:
    """Do each job that is named on stdin, and print its speed; the first time it is only warmed up."""
    import torch

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    done: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        for line in sys.stdin:
            name = line.strip()
            number = done[name] = done.get(name, -1) + 1
            print(JOBS[name](number, Path(temporary)), file=answers, flush=True)


# --- the comparison


def build_inputs(folder: Path, assets: Path, quick: bool) -> None:
    """Write the inputs of all jobs."""
    text = (assets / "udhr.txt").read_text(encoding="utf-8")
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    rows = [json.dumps({"text": line}, ensure_ascii=False) for line in text.splitlines() if line.strip()]
    (folder / "rows.jsonl").write_text("\n".join(rows * (1 if quick else 8)) + "\n", encoding="utf-8")
    (folder / "pictures").mkdir()
    with tarfile.open(assets / "emoji.tar") as archive:
        members = [member for member in archive.getmembers() if member.name.endswith(".png")]
        for member in members[: 100 if quick else 1400]:
            file = archive.extractfile(member)
            assert file is not None, "every member is a file"
            (folder / "pictures" / member.name).write_bytes(file.read())
    build_photographs(folder, 10 if quick else 300)
    (folder / "speech").mkdir()
    for path in (assets / "speech").iterdir():
        (folder / "speech" / path.name).write_bytes(path.read_bytes())
    build_sounds(folder, 1 if quick else 6)
    table = pa.table({"text": [json.loads(row)["text"] for row in rows * (1 if quick else 8)]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=4096)


def build_photographs(folder: Path, count: int) -> None:
    """Write jpeg files of two emoji each, side by side on white."""
    (folder / "photographs").mkdir()
    paths = sorted((folder / "pictures").iterdir())
    for number in range(count):
        sheet = Image.new("RGB", (256, 128), "white")
        for place in (0, 1):
            with Image.open(paths[(2 * number + place) % len(paths)]) as picture:
                sheet.paste(picture.convert("RGBA").convert("RGB"), (128 * place, 0))
        sheet.save(folder / "photographs" / f"{number:04}.jpg", quality=90)


def build_sounds(folder: Path, copies: int) -> None:
    """Write the speech in four formats, some times."""
    (folder / "sounds").mkdir()
    for path in sorted((folder / "speech").glob("*.flac")):
        samples, rate = soundfile.read(path)
        for copy in range(copies):
            for ending in ("wav", "flac", "ogg", "mp3"):
                soundfile.write(folder / "sounds" / f"{path.stem}-{copy}.{ending}", samples, rate)


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the mean ratio and its 95 % interval, from the logarithms."""
    from scipy.stats import t as student

    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    freedom = len(logs) - 1
    half = float(student.ppf(0.975, freedom)) * statistics.stdev(logs) / math.sqrt(len(logs)) if freedom else math.inf
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def asked(process: subprocess.Popen[str], name: str) -> float:
    """Have a worker do a job, and return its speed."""
    assert process.stdin is not None, "it is fed"
    assert process.stdout is not None, "it is read"
    process.stdin.write(f"{name}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE", nargs="?")
    parser.add_argument("head", metavar="HEAD", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", nargs="+", default=[""], help="only the jobs whose names contain one of these words")
    parser.add_argument("--quick", action="store_true", help="small inputs: shows that it runs, not a result")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker()
        return
    if options.base is None:
        parser.error("name the revision to compare with, such as a commit or a tag")
    # Here and not above: a worker runs with the packages of its revision and needs none of it.
    from revisions import ROOT, checked_out

    names = [name for name in JOBS if any(word in name for word in options.only)]
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with checked_out([options.base, options.head]) as revisions, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build_inputs(folder, ROOT / "assets", options.quick)
        runner = "import sys; from tokenize_kit.cli import main; sys.exit(main(sys.argv[1:]))"
        for line in MAKING:
            revisions[0].run(["-c", runner, *line.split(), "--quiet"], folder)
        words = [Path(__file__).resolve(), "--worker"]
        workers = [revision.start(words, folder, fed=True) for revision in revisions]
        for name in names:
            began = time.monotonic()
            for number in range(options.rounds + 1):
                found = [0.0, 0.0]
                for which in (0, 1) if number % 2 == 0 else (1, 0):
                    found[which] = asked(workers[which], name)
                if number:
                    speeds[name].append((found[0], found[1]))
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        for process in workers:
            process.communicate()
    print(f"\nMedian speed and ratio of speed over {options.rounds} rounds, one thread\n")
    print(f"| job | base {revisions[0].commit} | head {revisions[1].commit} | head / base | 95 % interval |")
    print("| --- | ---: | ---: | ---: | --- |")
    for name in names:
        base, head = (statistics.median(pair[which] for pair in speeds[name]) for which in (0, 1))
        ratio, low, high = interval([pair[1] / pair[0] for pair in speeds[name]])
        print(f"| {name} | {base:,.0f} | {head:,.0f} | {ratio:.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    main()
