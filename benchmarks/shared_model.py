"""One model of text, pictures, speech and films in six directions, beside a model of its own for each of them.

    python benchmarks/shared_model.py [--out FOLDER] [--scale 1] [--alone NAME ..] [--own-batch 2] [--threads N]

All is done by the public command line: a vocabulary and three learned tokenizers (pictures and films of 32x32 pixels, speech of
one speaker in four codebooks), four shard sets, and one Transformer of six templates. Beside it stand Transformers of the same
blocks with one template each, which read as many rows of it as the shared one did. What is held out follows from the hashes of
keys and is the same for all. Printed are the bits of a held-out token under both, and of a byte, a pixel or a second;
``report.html`` has samples of all directions from the shared model.

A model of one template has smaller batches, so that it makes about as many steps as the shared one, of whose batches a template
has few rows, too. With ``--own-batch 8``, the batch of the shared model, it makes as small a part of its steps as it reads rows.
``--scale 0.02`` makes so small a part of all steps, to try the way; ``--alone`` trains some of the models of one template, by
their names (``text-to-image``), or with no name none. With ``--out`` the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shared_data import build
from shared_report import write_report

from tokenize_kit.cli import main as command

TOKENIZERS = """
train bpe --data data/text.txt data/pictures/emoji.tar data/speech.tar --vocab-size 2048 --out tokenizers/text
train audio --data data/speech.tar --preset dac --quantizer.codebooks 4 --batch-size 16 --validation-fraction 0.1 --steps {audio}
    --validate-every {audio_validation} --out tokenizers/audio
train image --data data/pictures/emoji.tar --image-size 32 --preset fsq --quantizer.levels 8 6 5 --flip --validation-fraction 0.1
    --steps {image} --validate-every {image_validation} --out tokenizers/image
train video --data data/films/emoji.tar --image-size 32 --clip-frames 17 --network.spatial-factor 4 --quantizer.levels 8 5 5 5
    --flip --batch-size 4 --optimizer.optimizer muon --optimizer.muon-learning-rate 5e-3 --validation-fraction 0.1 --steps {video}
    --validate-every {video_validation} --out tokenizers/video
"""
TOKENIZER_STEPS = {"audio": (800, 200), "image": (900, 300), "video": (800, 400)}
"""Steps of each, and those between two validations."""
SHARDS = """
encode --tokenizer tokenizers/text --data data/text.txt --split paragraphs --out shards/text
encode --tokenizer tokenizers/text --tokenizer tokenizers/image --data data/pictures/emoji.tar --image-size 32 --out shards/emoji
encode --tokenizer tokenizers/text --tokenizer tokenizers/audio --data data/speech.tar --out shards/speech
encode --tokenizer tokenizers/text --tokenizer tokenizers/video --data data/films/emoji.tar --image-size 32 --clip-frames 17
    --clip-tail drop --out shards/films
"""
MODEL = """train transformer --shards {shards} --template {templates} --preset tiny --model.width 192 --model.heads 3
    --model.dropout 0.1 --optimizer.optimizer muon --optimizer.learning-rate 3e-3 --batch-size {batch} --context 896
    --validation-fraction 0.1 --validation-tokens 1000000 --validate-every {validation} --steps {steps} --out models/{name}"""
STEPS = 640
BATCH = 8
OWN_BATCH = 2
"""Rows of a batch of a model of one template: about what it has of a batch of the shared model."""
VALIDATIONS = 4
HEADER = ("template", "rows read", "bits a token: shared", "alone", "shared / alone", "unit", "shared", "alone")
EVERY = ("text", "emoji", "speech", "films")


@dataclass(frozen=True)
class Direction:
    """One template, and what its figures mean."""

    template: str
    target: str
    """The stream that is predicted."""
    weight: int
    """Its rows, of the sum of all weights."""
    shards: tuple[str, ...]
    """The sets that serve it."""
    rate: str
    """The rate of the target in the result of a training."""
    unit: str
    """What ``rate`` times ``factor`` is."""
    factor: float = 1.0

    @property
    def name(self) -> str:
        """Of the folder of its model, and of its samples."""
        return self.template.replace(":delay", "").replace(" -> ", "-to-")


DIRECTIONS = (
    Direction("text", "text", 4, EVERY, "bits_per_byte", "bits a byte"),
    Direction("text -> image", "image", 2, ("emoji",), "bits_per_dimension_quantised", "bits a pixel", 3),
    Direction("image -> text", "text", 1, ("emoji",), "bits_per_byte", "bits a byte"),
    Direction("text -> audio:delay", "audio", 3, ("speech",), "kilobits_per_second", "kbit/s"),
    Direction("audio:delay -> text", "text", 1, ("speech",), "bits_per_byte", "bits a byte"),
    Direction("text -> video", "video", 2, ("films",), "bits_per_dimension_quantised", "bits a pixel", 3),
)
SHARES = sum(direction.weight for direction in DIRECTIONS)


def run(line: str) -> dict[str, Any]:
    """Run one command and return the JSON that it prints."""
    said = io.StringIO()
    print(f"tokenize-kit {line}", file=sys.stderr)
    with contextlib.redirect_stdout(said):
        code = command([*shlex.split(line), "--json"])
    if code:
        sys.exit(f"tokenize-kit {line} failed")
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


def lines_of(commands: str) -> list[str]:
    """Return commands, which may go over several lines, one a line."""
    return commands.strip().replace("\n    ", " ").splitlines()


def train(name: str, directions: Sequence[Direction], steps: int, batch: int) -> dict[str, Any]:
    """Train a Transformer on one or several templates, or find it trained; return the result of the command."""
    (line,) = lines_of(MODEL)
    shards = dict.fromkeys(f"shards/{shard_set}" for direction in directions for shard_set in direction.shards)
    templates = " ".join(shlex.quote(direction.template) for direction in directions)
    weights = " ".join(str(direction.weight) for direction in directions)
    every = -(-steps // VALIDATIONS)
    line = line.format(
        shards=" ".join(shards), templates=templates, batch=batch, validation=every, steps=steps, name=name
    )
    return run(line if len(directions) == 1 else f"{line} --template-weights {weights}")


def figures(direction: Direction, metrics: dict[str, float], shared: bool) -> tuple[float, float]:
    """Return the bits a token of a direction, and its rate in its unit."""
    of = f"{direction.template}/" if shared else ""
    return metrics[f"{of}bits_per_token"], direction.factor * metrics[f"{of}{direction.target}/{direction.rate}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="folder for everything, report.html too; a temporary one by default")
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps of all trainings")
    names = [direction.name for direction in DIRECTIONS]
    parser.add_argument(
        "--alone", nargs="*", choices=names, default=names, help="which models of one template to train"
    )
    parser.add_argument(
        "--own-batch", type=int, default=OWN_BATCH, help="rows of a batch of the models of one template"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.out or temporary)
        build(folder / "data")
        with contextlib.chdir(folder):
            compare(given.scale, given.alone, given.own_batch)


def compare(scale: float, alone: Sequence[str], own_batch: int) -> None:
    """Do all of it in the present folder, and print the tables."""
    numbers = {name: max(2, round(scale * steps)) for name, (steps, _) in TOKENIZER_STEPS.items()}
    numbers |= {f"{name}_validation": max(1, round(scale * every)) for name, (_, every) in TOKENIZER_STEPS.items()}
    notes = []
    for line in lines_of(TOKENIZERS.format(**numbers)):
        made = run(line)
        if measured := made.get("metrics"):
            notes.append(f"{made['out']}: {', '.join(f'{name} {value:.4g}' for name, value in measured.items())}")
            print(notes[-1], flush=True)
    for line in lines_of(SHARDS):
        run(line)
    steps = max(4, round(scale * STEPS))
    shared = train("shared", DIRECTIONS, steps, BATCH)
    notes.append(noted("shared", shared))
    print(f"\n| {' | '.join(HEADER)} |\n| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |", flush=True)
    table = []
    for direction in DIRECTIONS:
        rows = round(steps * BATCH * direction.weight / SHARES)
        bits, rate = figures(direction, shared["metrics"], shared=True)
        cells = [direction.template, rows, bits, "", "", direction.unit, rate, ""]
        if direction.name in alone:
            name = direction.name if own_batch == OWN_BATCH else f"{direction.name}-in-{own_batch}s"
            own = train(name, [direction], max(2, round(rows / own_batch)), own_batch)
            own_bits, own_rate = figures(direction, own["metrics"], shared=False)
            cells[3:5], cells[7] = [own_bits, bits / own_bits], own_rate
            notes.append(noted(name, own))
        table.append(cells)
        shown = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells)
        print(f"| {' | '.join(shown)} |", flush=True)
    print("", *notes[-len(alone) - 1 :], sep="\n")
    write_report(HEADER, table, notes, run)


def noted(name: str, trained: dict[str, Any]) -> str:
    """Return what is to be said of a model."""
    return f"{name}: {trained['parameters']:,} parameters, the weights of step {trained['best_step']} of {trained['steps']}"


if __name__ == "__main__":
    main()
