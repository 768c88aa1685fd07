"""Does a model know what it draws? The rank of the true condition among those of all held-out samples, by likelihood.

    python benchmarks/caption_rank.py [--demo FOLDER] [--threads N]
    python benchmarks/caption_rank.py --model DIR --shards DIR... [--template "text -> audio:delay"] [--most 40]

Without a model the pictures of the demo are made as `tokenize-kit demo` makes them (in FOLDER if it is given, where finished
stages stay), and its model is measured on the held-out emoji: by their names, and by their names with all of CLDR's keywords. For
sample i and the condition of sample j the log-probability of i given j is taken; the rank of j = i among all j is 1 where the
true condition is the most probable one, and equal ones share the mean of their ranks. Chance is half of the samples, and one in
as many.

With --subgroups FOLDER (made by `python benchmarks/fetch.py emoji`) pictures are drawn for the held-out names at several scales
of guidance, and a classifier of emojibase's subgroups that has learnt from the real emoji says how often a picture is of the
subgroup of its caption; and how often it is right about the real held-out emoji themselves.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.svm import SVC

from tokenize_kit.cli.demo.options import DemoOptions
from tokenize_kit.cli.demo.pictures import PicturePart
from tokenize_kit.cli.demo.workshop import Workshop
from tokenize_kit.media.image import read_image
from tokenize_kit.media.image.tensors import resize_image
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.heldout import held_out
from trainers.autoregressive.api import Model
from trainers.autoregressive.comparing.rank import likelihoods, ranks
from trainers.autoregressive.model_folder import LoadedModel, load_model

ASSETS = Path(__file__).resolve().parent.parent / "assets"
HELD_OUT = 0.05
"""Part of the samples that `train transformer` holds out if nothing else is said."""
EQUAL = 0.02
"""Nats that two readings of the same tokens may differ by in bfloat16."""
SIDE = 16
"""Pixels of the pictures that the classifier sees."""

Grids = Mapping[str, NDArray[np.integer]]


def held_out_grids(shards: Sequence[str], most: int | None) -> list[Grids]:
    """Return the grids of the held-out samples."""
    found = [
        record.grids for one in shards for record in ShardSet.open(one).records() if held_out(record.key, HELD_OUT)
    ]
    return found[:most]


def read(loaded: LoadedModel, samples: Sequence[Grids]) -> NDArray[np.float64]:
    """Return the log-probability of sample i given the condition of sample j, (i, j), computed in bfloat16."""
    loaded.model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        return likelihoods(loaded, samples)


def row(said: str, found: NDArray[np.float64]) -> None:
    rank = ranks(found, EQUAL)
    print(
        f"| {said} | {len(rank)} | {np.median(rank):.1f} | {100 * (rank == 1).mean():.0f} % | {rank.mean():.1f} "
        f"| {(len(rank) + 1) / 2:.0f}, {100 / len(rank):.1f} % |",
        flush=True,
    )


def head() -> None:
    print("| the condition of | samples | median rank | first | mean rank | chance |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")


def demo_model(folder: Path) -> tuple[Path, float]:
    """Make the demo's pictures; return the folder of the model and the seconds that it took."""
    began = time.monotonic()
    shop = Workshop(DemoOptions(out=str(folder)), Progress())
    shop.claim()
    PicturePart(shop).make_learned()
    return folder / "models" / "learned", time.monotonic() - began


def agreement(model: Path, names: Path, scales: Sequence[float], tokenizer: Path) -> None:
    """Print how often a classifier of subgroups takes drawn pictures for what their captions are."""
    subgroup = {}
    for entry in json.loads((names / "emoji-names/en/data.json").read_text(encoding="utf-8")):
        subgroup[str(entry["label"])] = entry.get("subgroup")
    pictures: dict[str, tuple[str, torch.Tensor]] = {}
    with tarfile.open(ASSETS / "emoji.tar") as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    for name, data in contents.items():
        if name.endswith(".png"):
            label = contents[f"{name[:-4]}.txt"].decode()
            pictures[f"emoji.tar/{name[:-4]}"] = label, read_image(data, 3)
    kept = load_tokenizer(tokenizer)

    def small(picture: torch.Tensor) -> NDArray[np.float64]:
        image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.BOX)
        return np.asarray(image, np.float64).reshape(-1) / 255

    rows, kinds, apart = [], [], []
    for key, (label, picture) in pictures.items():
        if subgroup.get(label) is None:
            continue
        if held_out(key, HELD_OUT):
            apart.append((label, picture))
            continue
        for moved in (picture, picture.roll((1, 1), (1, 2)), picture.roll((-1, -1), (1, 2))):
            rows.append(small(moved))
            kinds.append(subgroup[label])
    classifier = SVC(C=10, gamma="scale").fit(np.stack(rows), kinds)

    def right(samples: Sequence[tuple[str, torch.Tensor]]) -> float:
        found = classifier.predict(np.stack([small(picture) for _, picture in samples]))
        return 100 * float(np.mean([kind == subgroup[label] for kind, (label, _) in zip(found, samples, strict=True)]))

    print(f"\n{len(apart)} held-out names, {len(set(kinds))} subgroups; the classifier is right about")
    print("| pictures | in per cent |\n| --- | ---: |")
    print(f"| the real held-out ones | {right(apart):.0f} |")
    side = DemoOptions().learned_size
    again = [(label, kept.decode(kept.encode(resize_image(picture, side)))) for label, picture in apart]
    print(f"| the same through the tokenizer | {right(again):.0f} |", flush=True)
    drawing = Model.load(model)
    for scale in scales:
        drawn = []
        for label, _ in apart:
            for image in drawing.generate(text=label, count=2, guidance=scale, temperature=0.8, top_p=0.95):
                drawn.append((label, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)))
        print(f"| drawn for their names, guidance {scale:g} | {right(drawn):.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shards", nargs="+", default=[])
    parser.add_argument("--template")
    parser.add_argument("--most", type=int)
    parser.add_argument("--subgroups", type=Path)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.model is not None:
        loaded = load_model(given.model).using(given.template)
        head()
        row(f"{loaded.template}", read(loaded, held_out_grids(given.shards, given.most)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.demo or Path(temporary) / "demo"
        model, seconds = demo_model(folder)
        print(f"the demo's pictures: {seconds:.0f} seconds\n")
        sets = {}
        for said, field in (("name", "txt"), ("name and keywords", "caption")):
            sets[said] = str(Path(temporary) / field)
            tokenizers = tuple(str(folder / "tokenizers" / name) for name in ("captions", "learned"))
            data = (str(ASSETS / "emoji.tar"),)
            side = DemoOptions().learned_size
            encode(
                EncodeOptions(tokenizers, data, sets[said], field=(field,), image_size=side), Progress(enabled=False)
            )
        loaded = load_model(model)
        head()
        for said, shards in sets.items():
            samples = held_out_grids([shards], given.most)
            row(f"a picture: its {said}", read(loaded, samples))
        if given.subgroups is not None:
            agreement(model, given.subgroups, given.guidance, folder / "tokenizers" / "learned")


if __name__ == "__main__":
    main()
