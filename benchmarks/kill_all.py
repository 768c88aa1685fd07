"""Every command killed (SIGKILL) at each of its writes, syncs and renames, and run again: is everything there, once, and whole?

    python benchmarks/kill_all.py [--only encode,decode] [--every 1] [--random 100] [--seed 0]

Each command runs once undisturbed; that is the reference, and it tells through `tokenize_kit.disk.watch` at which steps files are
made, written, synced, renamed and removed. Then it is killed right before each of these steps (``--every K``: before every K-th),
and ``--random N`` times at a random moment, always in a fresh folder; the same command runs again, and the folder is compared
with the reference. After each kill no file may stand half written under its final name, and in the end none may be missing,
be another one, or be left over, and the command may not have been refused. At last two of the command run at the same time in
one folder: each works, or says that another one does, and the folder is that of the reference.

A command runs in a process of its own, forked from one that has loaded the libraries, so that a kill costs no second to start
again. Worker processes of ``encode`` begin afresh; they count their steps together with those of the command. Inputs are
tiny. Left out of the comparison are the event files of TensorBoard, to which its own writer appends, and times and speeds.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parent.parent / "assets"
AT, COUNT = "KILL_ALL_AT", "KILL_ALL_COUNT"
"""Environment of the worker processes of this benchmark: at which step to kill, and the file in which the steps are counted."""
SITE = """
import os
if os.environ.get("KILL_ALL_COUNT"):
    import sys
    sys.path.insert(0, {here!r})
    import kill_steps
    kill_steps.install()
"""
LIBRARIES = (
    "pyarrow",
    "torch",
    "tokenizers",
    "gigatoken",
    "sklearn.cluster",
    "PIL.Image",
    "soundfile",
    "av",
    "safetensors.torch",
)
ROOMS = (
    "tokenize_kit.cli.demo.run",
    "tokenize_kit.shards.encode",
    "tokenize_kit.shards.pairs.run",
    "tokenize_kit.shards.unit",
    "tokenize_kit.shards.reader",
    "tokenize_kit.metrics.evaluate",
    "tokenize_kit.tokenizers.text.bpe",
    "tokenize_kit.tokenizers.image.pixels",
    "tokenize_kit.tokenizers.learned.image.tokenizer",
    "tokenize_kit.tokenizers.learned.audio.tokenizer",
    "trainers.autoencoder.image.train",
    "trainers.autoencoder.image.task",
    "trainers.autoencoder.audio.train",
    "trainers.autoencoder.audio.task",
    "trainers.autoencoder.video.train",
    "trainers.autoencoder.video.task",
    "trainers.autoregressive.train",
    "trainers.autoregressive.sample",
    "trainers.autoregressive.task",
    "trainers.loop",
    "trainers.bpe.train",
    "trainers.palette.train",
    "torch.utils.tensorboard",
    "lightning_fabric",
)

TRAIN = "--device cpu --precision 32-true --steps 4 --validate-every 2 --checkpoint-every 2 --log-every 1 --quiet"
IMAGE = (
    "--image-size 8 --preset fsq --batch-size 4 --network.width 4 --network.multipliers 1 2 --network.encoder-blocks 0 1 "
    "--network.decoder-blocks 1 1 --network.latent-channels 4 --quantizer.levels 4 3 3 --validation-fraction 0.2"
)
AUDIO = (
    "--preset encodec --batch-size 4 --crop-seconds 0.1 --network.width 6 --network.window 160 --network.frame-hop 40 "
    "--network.encoder-blocks 1 1 --network.decoder-blocks 1 1 --network.latent-channels 6 --quantizer.codebooks 3 "
    "--quantizer.codebook-size 16 --quantizer.codebook-dim 4 --validation-fraction 0.4 --validation-seconds 0.2"
)
VIDEO = (
    "--image-size 8 --preset fsq --batch-size 2 --clip-frames 3 --pictures world/pictures --picture-weight 0.4 "
    "--network.width 8 --network.latent-channels 4 --network.encoder-blocks 1 --network.decoder-blocks 1 "
    "--network.spatial-factor 4 --network.temporal-factor 2 --quantizer.levels 4 3 3 --validation-fraction 0.4"
)
MODEL = "--preset tiny --model.layers 1 --model.width 32 --model.heads 1 --batch-size 2 --context 32 --validation-tokens 200"


@dataclass(frozen=True)
class Case:
    """A command that writes ``out`` in a folder where ``world`` is beside it."""

    words: str
    workers: bool = False
    """Whether it starts processes that write too."""
    loose: tuple[str, ...] = ()
    """Files of which only what they say without times is compared."""


CASES: dict[str, Case] = {
    "train bpe": Case("train bpe --data world/corpus.txt --vocab-size 280 --out out"),
    "train chars": Case("train chars --data world/corpus.txt --out out"),
    "train words": Case("train words --data world/corpus.txt --vocab-size 30 --out out"),
    "train labels": Case("train labels --data world/rows.jsonl --field text --out out"),
    "train palette": Case("train palette --data world/pictures --colors 4 --out out"),
    "train image": Case(f"train image --data world/pictures {IMAGE} {TRAIN} --out out"),
    "train audio": Case(f"train audio --data world/sounds {AUDIO} {TRAIN} --out out"),
    "train video": Case(f"train video --data world/films {VIDEO} {TRAIN} --out out"),
    "train transformer": Case(f"train transformer --shards world/shards --template text {MODEL} {TRAIN} --out out"),
    "train transformer templates": Case(
        f"train transformer --shards world/shards world/shown --template text image --template-weights 2 1 --mix 1 1 "
        f"{MODEL.replace('--context 32', '--context 195')} {TRAIN} --out out"
    ),
    "create mulaw": Case("create mulaw --out out"),
    "create pcm": Case("create pcm --out out"),
    "create pixels": Case("create pixels --out out"),
    "create frames": Case("create frames --out out"),
    "import bpe": Case("import bpe --source world/text/tokenizer.json --out out"),
    "encode": Case("encode --tokenizer world/text --data world/rows.jsonl --shard-mb 0.001 --out out"),
    "encode pictures": Case("encode --tokenizer world/pixels --data world/pictures --shard-mb 0.001 --out out"),
    "encode processes": Case(
        "encode --tokenizer world/text --data world/rows.jsonl --shard-mb 0.001 --workers 2 --out out", workers=True
    ),
    "encode ray": Case(
        "encode --tokenizer world/text --data world/rows.jsonl --shard-mb 0.001 --workers 2 --executor ray --out out",
        workers=True,
    ),
    "encode clips": Case(
        "encode --tokenizer world/frames --data world/films --clip-frames 2 --shard-mb 0.001 --out out"
    ),
    "encode views": Case(
        "encode --tokenizer world/pixels --data world/pictures --view small=resize:2 --view g=grey --shard-mb 0.001 --out out"
    ),
    "pairs": Case(
        "pairs --shards world/shown --operations flip grey --pairs 0 --count 4200 --validation-fraction 0.4 --out out"
    ),
    "decode": Case("decode --shards world/shards --tokenizer world/text --limit 6 --out out"),
    "decode pictures": Case("decode --shards world/shown --tokenizer world/pixels --out out"),
    "decode clips": Case("decode --shards world/clips --tokenizer world/frames --limit 8 --out out"),
    "evaluate": Case(
        "evaluate --tokenizer world/pixels --data world/pictures --limit 2 --no-codecs --out out",
        loose=("evaluation.json", "report.html"),
    ),
    "compress": Case("compress world/pictures/0.bmp out/a.tkc --tokenizer world/pixels"),
    "compress pieces": Case("compress world/sounds/0.wav out/a.tkc --tokenizer world/pcm"),
    "decompress": Case("decompress world/a.tkc out/a.png --tokenizer world/pixels"),
    "decompress pieces": Case("decompress world/s.tkc out/a.wav --tokenizer world/pcm"),
    "decompress film": Case("decompress world/f.tkc out/a.mkv --tokenizer world/frames"),
    "generate": Case("generate --model world/model --count 3 --prompt All --device cpu --out out"),
}


@dataclass
class Found:
    """What went wrong with a command, by kind."""

    problems: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("refused", "lost", "other", "torn", "left over"), 0)
    )
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, note: str) -> None:
        """Count a problem and say where it was."""
        self.problems[kind] += 1
        self.notes.append(f"{kind}: {note}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", help="commands, with commas; by default all but those that are not installed"
    )
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = [name for name in CASES if not options.only or name in options.only.split(",")]
    for module in (*LIBRARIES, *ROOMS):
        try:
            __import__(module)
        except ImportError as error:
            print(f"(without {module}: {error})", file=sys.stderr)
    import torch

    torch.set_num_threads(1)
    moments = random.Random(options.seed)
    print(
        "| command | steps | killed at a step | at random | refused | lost | other | torn | left over | two at once | seconds |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |")
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        bench.build_world()
        total = [0, 0]
        for name in chosen:
            if name == "encode ray" and not _installed("ray"):
                print(f"| {name} | (Ray is not installed) |")
                continue
            began = time.monotonic()
            steps, at_steps, at_random, found, both = bench.try_out(CASES[name], options.every, options.random, moments)
            counts = " | ".join(str(count) for count in found.problems.values())
            seconds = time.monotonic() - began
            print(f"| {name} | {steps} | {at_steps} | {at_random} | {counts} | {both} | {seconds:.0f} |", flush=True)
            for note in dict.fromkeys(found.notes):
                print(f"  {name}: {note}", file=sys.stderr)
            bad += sum(found.problems.values()) + both.startswith("NO")
            total[0] += at_steps
            total[1] += at_random
    print(f"\n{total[0]} kills at steps and {total[1]} at random moments, {bad} problems")
    return 1 if bad else 0


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


class Bench:
    """Folders in which commands run and are compared."""

    def __init__(self, root: Path) -> None:
        self.root, self.number = root, 0
        (root / "site").mkdir()
        (root / "site" / "sitecustomize.py").write_text(SITE.format(here=str(Path(__file__).parent)))

    def build_world(self) -> None:
        """Make the inputs of all commands."""
        world = self.root / "world"
        world.mkdir()
        self._fork(lambda: _inputs(world), world, None)
        for line in (
            "train bpe --data corpus.txt --vocab-size 280 --out text",
            "create pixels --out pixels",
            "create pcm --out pcm",
            "create frames --out frames",
            "encode --tokenizer text --data rows.jsonl --out shards",
            "encode --tokenizer pixels --data pictures --out shown",
            "encode --tokenizer frames --data films --clip-frames 2 --out clips",
            f"train transformer --shards shards --template text {MODEL} {TRAIN} --out model",
            "compress pictures/0.bmp a.tkc --tokenizer pixels",
            "compress sounds/0.wav s.tkc --tokenizer pcm",
            "compress films/0.webp f.tkc --tokenizer frames",
        ):
            code, said = self.run(line, world)
            assert code == 0, f"{line}: {said}"

    def fresh(self) -> Path:
        """Return a new folder with the inputs."""
        self.number += 1
        folder = self.root / f"run{self.number}"
        folder.mkdir()
        (folder / "world").symlink_to(self.root / "world")
        return folder

    def try_out(
        self, case: Case, every: int, at_random: int, moments: random.Random
    ) -> tuple[int, int, int, Found, str]:
        """Run a command undisturbed, then killed at every step and at random, then twice at once."""
        whole = self.fresh()
        began = time.monotonic()
        count = self.root / "count"
        count.write_bytes(b"")
        code, said = self.run(case.words, whole, at=-1)
        seconds = time.monotonic() - began
        assert code == 0, f"{case.words}: {said}"
        steps = count.stat().st_size
        expected = told(whole / "out", case.loose)
        found = Found()
        places = range(0, steps, every)
        for place in places:
            self._killed(
                case, found, expected, f"step {place}", lambda folder, at=place: self.run(case.words, folder, at=at)
            )
        for _ in range(at_random):
            moment = moments.random() * seconds
            self._killed(
                case,
                found,
                expected,
                f"{moment:.3f} s",
                lambda folder, moment=moment: self.run(case.words, folder, kill_after=moment),
            )
        return steps, len(places), at_random, found, self._both(case, expected)

    def _killed(
        self, case: Case, found: Found, expected: dict[str, str], where: str, kill: Callable[[Path], tuple[int, str]]
    ) -> None:
        folder = self.fresh()
        code, said = kill(folder)
        if code > 0:
            found.add("refused", f"{where}: the command that was to be killed ended with {code}: {said}")
        for torn in half_written(folder / "out"):
            found.add("torn", f"{where}: {torn}")
        code, said = self.run(case.words, folder)
        if code:
            found.add("refused", f"{where}: exit code {code}: {said}")
        now = told(folder / "out", case.loose)
        for name in sorted({*expected, *now}):
            if name not in now:
                found.add("lost", f"{where}: {name}")
            elif name not in expected:
                found.add("left over", f"{where}: {name}")
            elif now[name] != expected[name]:
                found.add("other", f"{where}: {name}")
        left = [path.name for path in folder.iterdir() if path.name not in ("world", "out", "said")]
        for name in left:
            found.add("left over", f"{where}: {name} beside the folder")
        shutil.rmtree(folder)

    def _both(self, case: Case, expected: dict[str, str]) -> str:
        folder = self.fresh()
        first, second = self.start(case.words, folder, said="said"), self.start(case.words, folder, said="said2")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (first, second)]
        texts = [(folder / name).read_text(errors="replace") for name in ("said", "said2")]
        now = told(folder / "out", case.loose)
        if now != expected or 0 not in codes:
            differing = [name for name in sorted({*now, *expected}) if now.get(name) != expected.get(name)]
            return f"NO: codes {codes}, {differing}, {texts}"
        if codes == [0, 0]:
            return "both work"
        refused = texts[0] if codes[0] else texts[1]
        return "one works, one says so" if "another command is writing" in refused else f"NO: {refused}"

    def run(self, words: str, folder: Path, at: int | None = None, kill_after: float | None = None) -> tuple[int, str]:
        """Run a command line; return its exit code (negative if it was killed) and what it said."""
        pid = self.start(words, folder, at)
        if kill_after is not None:
            deadline = time.monotonic() + kill_after
            while time.monotonic() < deadline:
                time.sleep(min(0.005, max(0.0, deadline - time.monotonic())))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _wait_for_group(pid)
        said = folder / "said"  # not there yet if it was killed at once
        return code, said.read_text(errors="replace").strip()[-300:] if said.exists() else ""

    def start(self, words: str, folder: Path, at: int | None = None, said: str = "said") -> int:
        """Start a command line in a process and a group of its own; ``at`` is the step to kill it at, -1 only counts."""

        def work() -> int:
            from tokenize_kit.cli import main as tokenize_kit

            if at is not None:
                import kill_steps

                os.environ[AT], os.environ[COUNT] = str(at), str(self.root / "count")
                os.environ["PYTHONPATH"] = os.pathsep.join([str(self.root / "site"), os.environ.get("PYTHONPATH", "")])
                kill_steps.install()
            return tokenize_kit([*words.split(), *([] if "--quiet" in words else ["--quiet"])])

        if at is not None and at >= 0:
            (self.root / "count").write_bytes(b"")
        return self._start(work, folder, folder / said)

    def _fork(self, work: Callable[[], Any], folder: Path, _: None) -> None:
        pid = self._start(lambda: work() or 0, folder, self.root / "said")
        assert os.waitpid(pid, 0)[1] == 0, (self.root / "said").read_text()

    def _start(self, work: Callable[[], int], folder: Path, said: Path) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 99
        try:
            os.setsid()
            os.chdir(folder)
            descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _wait_for_group(pid: int) -> None:
    """Wait until the workers of a command that is gone are gone too."""
    for _ in range(2000):
        try:
            os.killpg(pid, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.005)


def _inputs(world: Path) -> None:
    import numpy as np
    from PIL import Image

    text = (ASSETS / "udhr.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in text if line.isascii() and len(line) > 30][:60]
    (world / "corpus.txt").write_text("\n".join(lines) + "\n")
    with (world / "rows.jsonl").open("w") as file:
        for number, line in enumerate(lines[:40]):
            file.write("oops\n" if number == 7 else json.dumps({"text": line[:60]}) + "\n")
    random_ = np.random.default_rng(0)
    (world / "pictures").mkdir()
    for number in range(12):
        pixels = random_.integers(0, 4, (8, 8, 3), np.uint8) * 80
        Image.fromarray(pixels).save(world / "pictures" / f"{number}.bmp")
    (world / "sounds").mkdir()
    for number in range(6):
        with wave.open(str(world / "sounds" / f"{number}.wav"), "wb") as sound:
            sound.setparams((1, 2, 16_000, 0, "NONE", ""))
            sound.writeframes(random_.integers(-9000, 9000, 6000, np.int16).tobytes())
    (world / "films").mkdir()
    for number in range(6):
        frames = [Image.fromarray(random_.integers(0, 4, (8, 8, 3), np.uint8) * 80) for _ in range(5)]
        path = world / "films" / f"{number}.webp"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=83, lossless=True)


def told(folder: Path, loose: tuple[str, ...]) -> dict[str, str]:
    """Return a digest of what each file of a folder says, by name; times are no part of it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith("tensorboard/"):
            continue
        data = path.read_bytes()
        if path.name == "train_log.jsonl":
            data = json.dumps([_timeless(json.loads(line)) for line in data.splitlines()]).encode()
        elif any(fnmatch.fnmatch(name, pattern) for pattern in loose):
            data = json.dumps(_timeless(json.loads(data))).encode() if path.suffix == ".json" else data[-20:]
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _timeless(item)
            for name, item in value.items()
            if not any(word in name for word in ("second", "speed", "time", "_mb_s"))
        }
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def half_written(folder: Path) -> list[str]:
    """Return the files that stand under their final name and cannot be read."""
    import pyarrow as pa
    from PIL import Image
    from safetensors import safe_open

    from tokenize_kit.partial import is_partial

    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: json.loads(path.read_bytes()),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]],
        ".safetensors": lambda path: safe_open(str(path), "numpy").keys(),
        ".arrow": lambda path: pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all(),
        ".png": lambda path: Image.open(path).load(),
        ".webp": lambda path: Image.open(path).load(),
        ".wav": lambda path: wave.open(str(path)).close(),
    }
    found = []
    for path in folder.rglob("*"):
        inside = path.relative_to(folder.parent)
        if path.is_file() and path.suffix in readers and not any(is_partial(part) for part in inside.parts):
            try:
                readers[path.suffix](path)
            except Exception as error:
                found.append(f"{inside}: {error}")
    return found


if __name__ == "__main__":
    sys.exit(main())
