"""Pictures drawn in two stages: 7x7 pixels by one PixelCNN, 28x28 given these by another, beside one that draws 28x28 at once.

    python benchmarks/small_to_large.py [--minutes 3] [--measured 250] [--out FOLDER] [--threads N]

Fashion-MNIST in 8-bit grey, its last 5,000 pictures held out. Both stages are trained apart, for ``--minutes`` each, and the one
that draws at once for both together; a short trial tells how many steps fit. A small picture is the mean over blocks of 4x4
pixels of the large one, so a pair has no more in it than the large picture: bits of both stages over the 784 pixels are an upper
bound on what the chain spends on a picture. Drawn pictures are in FOLDER/drawn.png: small ones, and below each three large ones
of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from fetch import fetch
from shared_model import run

from tokenize_kit.files import write_text
from tokenize_kit.media.image import read_image, write_image
from trainers.autoregressive.comparing.timing import steps_that_fit
from trainers.autoregressive.options import TrainSequenceOptions
from trainers.autoregressive.train import train_sequence
from trainers.config import OptimizerConfig

SIDE, SMALL = 28, 7
HELD_OUT = 5000
DRAWN, OF_EACH = 8, 3
ZOOM = 3


class Stage(NamedTuple):
    """A model, and for how many times ``--minutes`` it is trained."""

    template: str
    layers: int
    batch_size: int
    share: int


STAGES = {
    "small": Stage("image@small", 5, 64, 1),
    "large given small": Stage("image@small -> image", 7, 8, 1),
    "at once": Stage("image", 7, 8, 2),
}


def prepare(root: Path) -> None:
    """Make the shards of both sizes and the list of what is held out."""
    (path,) = fetch("fashion-mnist").rglob("train-images-idx3-ubyte.gz")
    if not (root / "pixels").is_dir():
        run(f"create pixels --channels 1 --out {root / 'pixels'}")
    run(f"encode --tokenizer image={root / 'pixels'} --data {path} --view small=resize:{SMALL} --out {root / 'shards'}")
    keys = [f"{path.name}@{row}" for row in range(60_000 - HELD_OUT, 60_000)]
    write_text(root / "keys.txt", "\n".join(keys) + "\n")


def train(name: str, root: Path, minutes: float, measured: int) -> tuple[Path, float, int]:
    """Train a stage, or find it trained; return its folder, its bits a predicted pixel and its parameters."""
    stage, out = STAGES[name], root / "models" / name.replace(" ", "-")
    plan = out.with_suffix(".steps.txt")
    pixels = SMALL**2 if stage.template == "image@small" else SIDE**2

    def options(steps: int) -> TrainSequenceOptions:
        return TrainSequenceOptions(
            family="pixelcnn",
            set=(f"layers={stage.layers}", "width=64", "head=logistics"),
            shards=(str(root / "shards"),),
            template=(stage.template,),
            out=str(out),
            batch_size=stage.batch_size,
            steps=steps,
            optimizer=OptimizerConfig(optimizer="muon", learning_rate=2e-3, warmup_steps=50, decay_fraction=0.5),
            validation_keys=str(root / "keys.txt"),
            validation_tokens=measured * pixels,
            validate_every=steps,
            checkpoint_every=max(1, steps // 4),
        )

    if not plan.is_file():
        plan.parent.mkdir(parents=True, exist_ok=True)
        write_text(plan, str(steps_that_fit(options(20), 60 * minutes * stage.share)[0]))
    made = train_sequence(options(int(plan.read_text())))
    return out, made.metrics["image/bits_per_dimension"], made.parameters


def draw(root: Path) -> Path:
    """Draw small pictures and large ones of them; return a sheet."""
    small, columns = root / "drawn" / "small", []
    run(f"generate --model {root / 'models/small'} --count {DRAWN} --seed 1 --out {small}")
    for file in files_of(small):
        large = root / "drawn" / file.stem
        run(
            f"generate --model {root / 'models/large-given-small'} --prompt-file {file} --count {OF_EACH} --seed 1 --out {large}"
        )
        given = (
            read_image(file.read_bytes())[:1].repeat_interleave(SIDE // SMALL, 1).repeat_interleave(SIDE // SMALL, 2)
        )
        columns.append(torch.cat([given, *(read_image(one.read_bytes())[:1] for one in files_of(large))], 1))
    sheet = torch.cat(columns, 2).repeat_interleave(ZOOM, 1).repeat_interleave(ZOOM, 2)
    write_image(sheet, root / "drawn.png")
    return root / "drawn.png"


def files_of(folder: Path) -> list[Path]:
    """Return the pictures that ``generate`` wrote."""
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [folder / json.loads(line)["files"]["image"] for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of the training of each stage")
    parser.add_argument("--measured", type=int, default=250, help="held-out pictures that are measured")
    parser.add_argument("--out", type=Path, help="folder for everything; a temporary one by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        root = given.out or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        prepare(root)
        print(
            "| model | minutes | parameters | bits a predicted pixel | bits over 784 pixels |\n"
            "| --- | ---: | ---: | ---: | ---: |"
        )
        chain = 0.0
        for name, stage in STAGES.items():
            _, bits, parameters = train(name, root, given.minutes, given.measured)
            whole = bits * (SMALL**2 if name == "small" else SIDE**2) / SIDE**2
            chain += whole if name != "at once" else 0.0
            print(
                f"| {name} | {given.minutes * stage.share:g} | {parameters:,} | {bits:.3f} | {whole:.3f} |", flush=True
            )
            if name == "large given small":
                print(f"| the chain | {2 * given.minutes:g} | | | {chain:.3f} |", flush=True)
        print(f"\n{draw(root)}")


if __name__ == "__main__":
    main()
