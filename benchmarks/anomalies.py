"""Does a likelihood know what is strange? A model of Fashion-MNIST and emoji at 28x28, plain and without the size of the PNG.

    python benchmarks/anomalies.py [--minutes 4] [--pictures 400] [--out FOLDER] [--threads N]

A recurrent network that is told where in the picture it is learns the raw 8-bit pixels of the train part for so many minutes,
which a short trial turns into steps. Then pictures that it has held out are scored, and beside them as many of other sets:
those that it was trained on (nothing is strange about them: chance), the emoji of `assets` in grey on white and on black, and
the held-out ones themselves averaged over 4x4 pixels, which are strange and simple. A row tells the bits a dimension of a set,
those of the model and those without the bits of the PNG, and the AUROC of both where more bits are taken for strange; below 0.5
it is the strange ones that the model finds more probable (Nalisnick et al. 2019, arXiv 1810.09136; the correction is that of
Serrà et al. 2020, arXiv 1909.11480). FOLDER keeps the shards and the model, for ``tokenize-kit score --model .. --shards ..
--against .. --maps 8``.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from fetch import fetch
from numpy.typing import NDArray
from PIL import Image

from tokenize_kit.cli.create import CreatePixelsOptions, create_pixels
from tokenize_kit.files import write_json
from tokenize_kit.progress import Progress
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.heldout import Part, held_out, in_part
from trainers.autoregressive.model_folder import WEIGHTS_FILE, LoadedModel, load_model
from trainers.autoregressive.options import TrainTransformerOptions
from trainers.autoregressive.scoring.anomalies import Rates, code_bytes, codes_of, compare, unit_of
from trainers.autoregressive.scoring.data import open_shards
from trainers.autoregressive.scoring.scores import score_documents
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

EMOJI = Path(__file__).resolve().parent.parent / "assets" / "emoji.tar"
FRACTION = 0.05
SIDE, BLOCK = 28, 4
BATCH = 32
MODEL = {"layers": 2, "width": 128, "coordinates": True}
TRIAL = 8
"""Steps of the trial, whose last quarter is timed."""
VALIDATED = 8
"""Pictures of the only validation, at the end."""

Pictures = NDArray[np.uint8]


def clothes() -> tuple[Path, Pictures]:
    """Return the file, and those of its pictures (N, 28, 28) that a training on it holds out."""
    (path,) = fetch("fashion-mnist").rglob("train-images-idx3-ubyte.gz")
    raw = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, SIDE, SIDE)
    return path, raw[[held_out(f"{path.name}@{row}", FRACTION) for row in range(len(raw))]]


def emoji(ground: int, count: int) -> Pictures:
    """Return emoji on a grey ground, evenly chosen from all."""
    with tarfile.open(EMOJI) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".png"))
        found = []
        for name in names[:: max(1, len(names) // count)][:count]:
            file = archive.extractfile(name)
            assert file is not None
            picture = Image.open(io.BytesIO(file.read())).convert("RGBA")
            whole = Image.new("RGBA", picture.size, (ground, ground, ground, 255))
            whole.alpha_composite(picture)
            found.append(np.asarray(whole.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack(found)


def averaged(pictures: Pictures) -> Pictures:
    """Return pictures whose blocks of 4x4 pixels are their means."""
    means = pictures.reshape(-1, SIDE // BLOCK, BLOCK, SIDE // BLOCK, BLOCK).mean((2, 4))
    blocks: Pictures = means.round().astype(np.uint8)
    return blocks.repeat(BLOCK, 1).repeat(BLOCK, 2)


def shards_of(folder: Path, name: str, pictures: Pictures) -> str:
    """Write pictures as files and encode them; returns the shard set."""
    name = f"{name}-{len(pictures)}"
    files = folder / "pictures" / name
    files.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(files / f"{number:05}.png")
    return encoded(folder, name, files)


def encoded(folder: Path, name: str, data: Path) -> str:
    out = str(folder / "shards" / name)
    encode(EncodeOptions(tokenizer=(str(folder / "pixels"),), data=(str(data),), out=out))
    return out


def options(shards: str, steps: int, out: Path) -> TrainTransformerOptions:
    config = out.parent / "family.json"
    write_json(config, MODEL)
    return TrainTransformerOptions(
        shards=(shards,),
        template=("image",),
        out=str(out),
        family="recurrent",
        family_config=str(config),
        steps=steps,
        batch_size=BATCH,
        validation_fraction=FRACTION,
        validation_tokens=VALIDATED * SIDE * SIDE,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=max(1, min(50, steps // 5)), decay_fraction=0.5),
        log_every=max(1, steps // 4),
        validate_every=steps,
    )


def train(folder: Path, shards: str, minutes: float, progress: Progress) -> str:
    """Train for so many minutes, unless it is done; returns the model."""
    model = folder / f"model-{minutes:g}-minutes"
    if not (model / WEIGHTS_FILE).exists():
        with tempfile.TemporaryDirectory() as trial:
            train_transformer(options(shards, TRIAL, Path(trial) / "model"))
            log = (Path(trial) / "model" / "train_log.jsonl").read_text().splitlines()
        rates = [line["tokens_per_second"] for line in map(json.loads, log) if "tokens_per_second" in line]
        steps = max(2, int(60 * minutes * rates[-1] / (BATCH * SIDE * SIDE)))
        made = train_transformer(options(shards, steps, model), progress)
        print(f"{made.parameters:,} parameters, {steps:,} steps of {BATCH} pictures in about {minutes:g} minutes\n")
    return str(model)


def rates_of(loaded: LoadedModel, shards: str, part: Part, count: int) -> Rates:
    """Score the first pictures of a part of a shard set."""
    data = open_shards(loaded, [shards])
    chosen = np.flatnonzero([in_part(key, part, FRACTION) for key in data.keys])[:count]
    rates = Rates(unit_of(loaded))
    for document, one in zip(chosen.tolist(), score_documents(loaded, data.documents, chosen), strict=True):
        rates.add(one, code_bytes(loaded, data.documents.grids(document)))
    return rates


def measure(folder: Path, minutes: float, count: int, progress: Progress) -> None:
    """Make the sets, train the model and print the table."""
    create_pixels(CreatePixelsOptions(channels=1, out=str(folder / "pixels")))
    path, held = clothes()
    own = encoded(folder, "fashion", path)
    others = {
        "emoji on white": shards_of(folder, "emoji-white", emoji(255, count)),
        "emoji on black": shards_of(folder, "emoji-black", emoji(0, count)),
        "held-out ones of 4x4 blocks": shards_of(folder, "blocks", averaged(held[:count])),
    }
    loaded = load_model(train(folder, own, minutes, progress))
    first = rates_of(loaded, own, "held-out", count)
    print("| set | pictures | bits a dimension | without PNG | AUROC, plain | AUROC, without PNG |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    plain, corrected = np.mean(first.plain), np.mean(first.corrected)
    print(f"| Fashion-MNIST, held out | {len(first.plain)} | {plain:.3f} | {corrected:.3f} | | |", flush=True)
    sets: list[tuple[str, str, Part]] = [("Fashion-MNIST, trained on", own, "train")]
    for title, shards, part in [*sets, *((title, shards, "all") for title, shards in others.items())]:
        found = compare(first, rates_of(loaded, shards, part, count), codes_of(loaded))
        print(
            f"| {title} | {found.samples_against} | {found.plain.mean_against:.3f} | {found.corrected.mean_against:.3f} "
            f"| {found.plain.more_bits_are_anomalous:.3f} | {found.corrected.more_bits_are_anomalous:.3f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="of training")
    parser.add_argument("--pictures", type=int, default=400, help="of each set that is scored")
    parser.add_argument("--out", help="folder for everything; a temporary one by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary, Progress() as progress:
        measure(Path(given.out or temporary), given.minutes, given.pictures, progress)


if __name__ == "__main__":
    main()
