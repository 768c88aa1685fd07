"""Families of sequence models on raw pixels of Fashion-MNIST, each trained for equal time: one table, samples side by side.

    python benchmarks/family.py [--minutes 4] [--long 10] [--best 3] [--only NAME...] [--threads N] [--out FOLDER]

28x28 grey pictures of 8 bits, of the train part of the data: the last 5,000 held out, of which ``--measured`` are scored. All
members get ``--minutes`` of training steps (a short run tells how many fit), in float32 or bfloat16 as the processor has it; then
the ``--best`` of them begin anew with ``--long`` minutes. What counts, counts one epoch. Bits a dimension are those of the
held-out pictures, all of their tokens counted; milliseconds a token are of one picture drawn alone, with cache and, after 392
pixels, by reading all of it again. File is what 64 of the pictures take when they are really coded, with headers and checksums,
and came back from it. Beside them the classical codecs, all pictures on one sheet or each a file of its own. The
folder keeps models and report.html; the same command goes on with what is missing. Run it alone.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from fetch import fetch
from PIL import Image

from tokenize_kit.cli.create import CreatePixelsOptions, create_pixels
from tokenize_kit.files import read_signed, signed, write_json
from tokenize_kit.media.image import read_image
from tokenize_kit.media.picture_plugins import JPEG_XL
from tokenize_kit.progress import Progress
from tokenize_kit.report import Page
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from trainers.autoregressive.coding.coder import Reader, Writer
from trainers.autoregressive.coding.grids import GridCoder
from trainers.autoregressive.coding.machine import Machine, computing
from trainers.autoregressive.coding.rows import code_rows
from trainers.autoregressive.coding.section import Section
from trainers.autoregressive.comparing.timing import steps_that_fit
from trainers.autoregressive.generation import inputs_of
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import as_joint
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.options import GenerateOptions, TrainSequenceOptions
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_sequence
from trainers.config import OptimizerConfig

HELD_OUT = 5000
SIDE = 28
SAMPLES = 8
CODED = 64
"""Pictures that are really coded, all of them in one file."""
ORDINAL = ("head=logistics",)


@dataclass(frozen=True)
class Member:
    """A model of the table."""

    family: str
    settings: tuple[str, ...] = ()
    batch_size: int = 8
    learning_rate: float = 2e-3
    optimizer: Literal["adamw", "muon"] = "muon"
    objective: str = "next-token"

    @property
    def counts(self) -> bool:
        """Whether it learns by counting, in one epoch."""
        return self.family in ("histogram", "bayes")


_SMALL = ("layers=4", "width=128", "heads=4")
MEMBERS = {
    "histogram": Member("histogram", ("by_place=true",), 64),
    "logistics": Member("logistics", ("by_place=true",), 64, 1e-2, "adamw"),
    "bayes, the pixel to the left": Member("bayes", ("smoothing=0.02", "samples=55000"), 64),
    "made": Member("made", ("width=384",), 32, 1e-3, "adamw"),
    "recurrent": Member("recurrent", ("cell=lstm", "layers=2", "width=192", *ORDINAL), 16),
    "recurrent, coordinates": Member("recurrent", ("layers=2", "width=192", "coordinates=true", *ORDINAL), 16),
    "wavenet": Member("wavenet", ("layers=10", "width=64", "skip_width=128", *ORDINAL), 8),
    "wavenet, coordinates": Member(
        "wavenet", ("layers=10", "width=64", "skip_width=128", "coordinates=true", *ORDINAL), 8
    ),
    "pixelcnn": Member("pixelcnn", ("layers=7", "width=64", *ORDINAL), 8),
    "pixelcnn, original": Member("pixelcnn", ("kind=original", "layers=7", "width=64", *ORDINAL), 8),
    "transformer": Member("transformer", (*_SMALL, *ORDINAL), 8),
    "transformer, axial": Member("transformer", (*_SMALL, "positions=axial", *ORDINAL), 8),
    "transformer, strided": Member("transformer", (*_SMALL, "attention=strided", f"stride={SIDE}", *ORDINAL), 8),
    "transformer, window": Member("transformer", (*_SMALL, "window=112", *ORDINAL), 8),
    "linear-attention": Member("linear-attention", (*_SMALL, *ORDINAL), 8),
    "state-space": Member("state-space", ("layers=4", "width=128", *ORDINAL), 8),
    "masked, any order": Member("transformer", _SMALL, 8, objective="any-order"),
}


def prepare(root: Path) -> Path:
    """Make the tokenizer, the shards and the list of what is held out; return the folder of the shards."""
    (path,) = fetch("fashion-mnist").rglob("train-images-idx3-ubyte.gz")
    if not (root / "tokenizer").is_dir():
        create_pixels(CreatePixelsOptions(out=str(root / "tokenizer"), channels=1))
    encode(
        EncodeOptions(tokenizer=(f"image={root / 'tokenizer'}",), data=(str(path),), out=str(root / "shards")),
        Progress(enabled=False),
    )
    pictures = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, SIDE, SIDE)
    np.save(root / "held_out.npy", pictures[-HELD_OUT:])
    write_json(root / "left.json", {"edges": [[place, place + 1] for place in range(SIDE * SIDE + 1)]})
    keys = [f"{path.name}@{row}" for row in range(len(pictures) - HELD_OUT, len(pictures))]
    (root / "keys.txt").write_text("\n".join(keys) + "\n")
    return root / "shards"


def options_of(
    member: Member, root: Path, out: Path, measured: int, steps: int, context: int | None
) -> TrainSequenceOptions:
    """Return how a member is trained."""
    trained = OptimizerConfig(
        optimizer=member.optimizer,
        learning_rate=member.learning_rate,
        warmup_steps=min(50, steps),
        decay_fraction=0.5,
    )
    return TrainSequenceOptions(
        family=member.family,
        set=member.settings,
        family_config=str(root / "left.json") if member.family == "bayes" else None,
        objective=member.objective,
        shards=(str(root / "shards"),),
        template=("image",),
        out=str(out),
        optimizer=OptimizerConfig() if member.counts else trained,
        batch_size=member.batch_size,
        context=context,
        steps=steps,
        validation_keys=str(root / "keys.txt"),
        validation_tokens=measured * (SIDE * SIDE + 2),
        validate_every=steps,
        checkpoint_every=max(1, steps // 4),
        trust_shards=True,
    )


def made(name: str, root: Path, minutes: float, measured: int) -> dict[str, Any]:
    """Train, measure and sample a member; return its row."""
    member = MEMBERS[name]
    folder = root / "models" / f"{name.replace(', ', '-').replace(' ', '-')}-{minutes:g}"
    file = folder.with_suffix(".json")
    if file.is_file():
        return dict(read_signed(file))
    plan = folder.with_suffix(".plan.json")
    if plan.is_file():
        steps = int(read_signed(plan)["steps"])
    else:
        trial = options_of(member, root, folder, 1, 20, None)
        steps = -(-55_000 // member.batch_size) if member.counts else steps_that_fit(trial, 60 * minutes)[0]
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_json(plan, signed({"steps": steps}))
    began = time.perf_counter()
    result = train_sequence(options_of(member, root, folder, measured, steps, None), Progress())
    seconds = time.perf_counter() - began
    row = {
        "bits": result.metrics.get("image/bits_per_dimension", result.metrics["bits_per_token"]),
        "parameters": result.parameters,
        "steps": result.steps,
        # What counts is done before its time is over; its seconds have the validation in them.
        "rate": result.steps * member.batch_size * SIDE * SIDE / (seconds if member.counts else 60 * minutes),
        "seconds": seconds,
    }
    row["step"], row["whole"] = cost(folder)
    row["coded"] = coded(folder, np.load(root / "held_out.npy")[: min(CODED, measured)])
    # What is certain first is the black ground, so a model of any order is drawn in one.
    hidden = {} if member.objective == "next-token" else {"decoding_steps": SIDE * SIDE // 8, "decoding_noise": 50.0}
    drawn = GenerateOptions(
        model=str(folder), out=str(folder / "samples"), count=SAMPLES, batch_size=SAMPLES, seed=1, **hidden
    )
    generate_samples(drawn, Progress(enabled=False))
    write_json(file, signed(row))
    return row


def cost(folder: Path) -> tuple[float | None, float | None]:
    """Return the milliseconds of one more token after half a picture, with cache and without; None for what is not drawn so."""
    loaded = load_model(folder)
    model: Any = loaded.model.eval()
    if not model.causal:
        return None, None
    half = SIDE * SIDE // 2
    ids = [*np.random.default_rng(0).integers(*loaded.vocabulary.streams["image"].range_of(0), half)]
    grammar = loaded.template.grammar(loaded.vocabulary)
    state, document = grammar.start(), []
    while len(document) < half:
        low, high = grammar.allowed(state)[0]
        token = low if high - low == 1 else int(ids[len(document)])
        document.append(token)
        state = grammar.advance(state, token)
    every = inputs_of(loaded.template.grammar(loaded.vocabulary), document, bool(model.needs), torch.device("cpu"))
    begun, singles = half - 16, []
    with torch.inference_mode():
        cache = model.new_cache(1, half)
        model.step(part(every, 0, begun), cache, last_only=True)
        for place in range(begun, half):
            began = time.perf_counter()
            model.step(part(every, place, place + 1), cache)
            singles.append(time.perf_counter() - began)
        wholes = []
        for _ in range(5):
            began = time.perf_counter()
            model.logits(every)
            wholes.append(time.perf_counter() - began)
    return 1e3 * statistics.median(singles), 1e3 * statistics.median(wholes)


def coded(folder: Path, pictures: np.ndarray) -> float | None:
    """Return the bits a pixel of pictures that were coded into one stream of words and came back; None if it cannot be drawn."""
    loaded = load_model(folder)
    if not loaded.model.causal or as_joint(loaded.model) is not None:
        return None
    coder, writer = GridCoder(loaded), Writer()
    grids = [picture.astype(np.int64) for picture in pictures]
    with computing(coder.device):
        code_rows(coder.stream, [grid.copy() for grid in grids], writer, None, None)
        words = writer.finish()
        back = [np.zeros_like(grid) for grid in grids]
        reader = Reader(words, writer.pieces)
        code_rows(coder.stream, back, reader, None, None)
        reader.finish()
    assert all(np.array_equal(one, other) for one, other in zip(grids, back, strict=True))
    section = Section(coder.fingerprint, Machine.here(coder.device), 0, 1, 0, 0, tuple(writer.pieces), words)
    return 8 * len(section.to_bytes()) / pictures.size


def part(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Return some places of the inputs of one row."""
    return replace(inputs, **{name: values[:, start:stop] for name, values in inputs.parts().items()})


def classical(pictures: np.ndarray) -> dict[str, float]:
    """Return the bits a pixel of lossless codecs, of one sheet of all pictures and of each alone."""
    rows = len(pictures) // 100
    sheet = pictures[: rows * 100].reshape(rows, 100, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(rows * SIDE, 100 * SIDE)
    found = {}
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("PNG", "PNG", {"optimize": True}),
        ("WebP", "WEBP", {"lossless": True, "quality": 100, "method": 6}),
    ]
    if JPEG_XL.installed:
        JPEG_XL.load()
        kinds.append(("JPEG XL", "JXL", {"lossless": True, "effort": 9}))
    for name, kind, how in kinds:
        for label, items in ((f"{name}, one sheet", [sheet]), (f"{name}, a file each", list(pictures[:500]))):
            size = 0
            for item in items:
                target = io.BytesIO()
                Image.fromarray(item).save(target, kind, **how)
                size += len(target.getvalue())
            found[label] = 8 * size / sum(item.size for item in items)
    return found


def report(root: Path, rows: dict[str, dict[str, Any]], codecs: dict[str, float]) -> Path:
    """Write report.html; return its path."""
    page = Page("Families of sequence models on Fashion-MNIST")
    page.table(
        ("model", "bits a dimension", "parameters", "steps"),
        [(name, round(row["bits"], 3), row["parameters"], row["steps"]) for name, row in rows.items()],
    )
    page.table(("codec", "bits a pixel"), [(name, round(bits, 3)) for name, bits in codecs.items()])
    for name in rows:
        member, minutes = name.rsplit(" for ", 1)
        folder = root / "models" / f"{member.replace(', ', '-').replace(' ', '-')}-{minutes.split()[0]}" / "samples"
        lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        page.heading(name)
        files = [folder / json.loads(line)["files"]["image"] for line in lines]
        page.pictures([(read_image(file.read_bytes()), "") for file in files], scale=3)
    return page.write(root / "report.html")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--long", type=float, default=10)
    parser.add_argument("--best", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(MEMBERS), default=list(MEMBERS))
    parser.add_argument("--measured", type=int, default=250)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("family_out"))
    options = parser.parse_args(words)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(options.out)
    codecs = classical(np.load(options.out / "held_out.npy"))
    print(f"{torch.get_num_threads()} threads, {options.measured} held-out pictures\n")
    print(
        "| model | minutes | bits a dimension | file | parameters | training tokens/s | ms a token, cached | without |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    rows: dict[str, dict[str, Any]] = {}

    def show(name: str, minutes: float) -> None:
        row = rows[f"{name} for {minutes:g} minutes"] = made(name, options.out, minutes, options.measured)
        step, whole = ("" if row[one] is None else f"{row[one]:.1f}" for one in ("step", "whole"))
        file = "" if row["coded"] is None else f"{row['coded']:.3f}"
        sizes = f"{row['bits']:.3f} | {file} | {row['parameters']:,}"
        print(f"| {name} | {minutes:g} | {sizes} | {row['rate']:,.0f} | {step} | {whole} |", flush=True)

    for name in options.only:
        show(name, options.minutes)
    best = sorted(options.only, key=lambda name: float(rows[f"{name} for {options.minutes:g} minutes"]["bits"]))
    for name in best[: options.best]:
        show(name, options.long)
    print("\n| codec | bits a pixel |\n| --- | ---: |")
    for codec, bits in codecs.items():
        print(f"| {codec} | {bits:.3f} |")
    print(f"\n{report(options.out, rows, codecs)}")


if __name__ == "__main__":
    main()
