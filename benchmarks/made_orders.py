"""MADE on binarised pictures against the number of its orders, and whether what it draws are the pictures that it was trained on.

    python benchmarks/made_orders.py [--orders 1 2 4 8] [--steps 1000] [--pictures 10000] [--out DIR]

Fashion-MNIST brought to 14x14 by the mean of 2x2 pixels and binarised at half (statically: the same picture every time), 196
bits each; at most 10,000 pictures to train on, 2,000 others of the train part held out. For each number of orders the same
network in the same number of steps; the held-out loss is that of the average over its orders, in nats a picture and bits a
dimension, and beside it the mean of what each order says alone. Overfitting shows as the distance between training and held-out
loss.

The sheet (``OUT/made_orders.png``) has a row for each number of orders: pairs of a drawn picture and the nearest training picture
below it. The table has how many of 196 pixels differ from the nearest training picture, for drawn pictures and for held-out ones:
a model that remembers draws pictures nearer to the training ones than real new pictures are.
"""

from __future__ import annotations

import argparse
import gzip
import math
import time
from pathlib import Path

import numpy as np
import torch
from fetch import fetch
from torch import Tensor

from tokenize_kit.media.image.tensors import write_image
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.made import MADE, MADEConfig

SIDE = 14
PIXELS = SIDE * SIDE
TRAINING = 10_000
BOS = 2
BATCH = 100
DRAWN = 16


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Return documents, int64 (N, 197): ``count`` to train on and those held out; <bos>, then the pixels."""
    (path,) = fetch("fashion-mnist").rglob("train-images-idx3-ubyte.gz")
    raw = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)[: TRAINING + 2000]
    small = raw.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4))
    bits = torch.from_numpy((small >= 128).astype(np.int64)).flatten(1)
    documents = torch.cat((torch.full((len(bits), 1), BOS), bits), 1)
    return documents[: min(count, TRAINING)], documents[TRAINING:]


def train(documents: Tensor, orders: int, steps: int, width: int) -> MADE:
    """Return a trained model: AdamW, a learning rate that falls along half a cosine."""
    torch.manual_seed(0)
    model = MADE(MADEConfig(vocab_size=3, context=PIXELS, layers=1, width=width, channels=1, features=3, orders=orders))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    draw = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        batch = documents[torch.randint(len(documents), (BATCH,), generator=draw)]
        loss = model.loss(Inputs(batch[:, :-1]), batch[:, 1:])
        optimizer.zero_grad()
        torch.autograd.backward(loss.total / BATCH)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def nats(model: MADE, documents: Tensor) -> float:
    """Return the mean loss of documents in nats, of the average over all orders."""
    parts = [
        model.document_log_probabilities(Inputs(part[:, :-1]), part[:, 1:]) for part in torch.split(documents, 500)
    ]
    return -float(torch.cat(parts).mean())


@torch.no_grad()
def nats_of_single_orders(model: MADE, documents: Tensor) -> float:
    """Return the mean over the orders of the loss of each by itself."""
    alone = MADE(MADEConfig(**{**model.config.to_dict(), "orders": 1}))
    alone.load_state_dict(model.state_dict())
    losses = []
    for ranks in model.ranks:
        alone.ranks.copy_(ranks[None])
        losses.append(nats(alone, documents))
    return sum(losses) / len(losses)


@torch.no_grad()
def drawn(model: MADE, count: int) -> Tensor:
    """Return pictures (N, 196), pixel by pixel in the order of the document."""
    generator = torch.Generator().manual_seed(2)
    cache = model.new_cache(count, PIXELS)
    token, found = torch.full((count, 1), BOS), []
    for _ in range(PIXELS):
        chances = model.step(Inputs(token), cache, last_only=True)[:, -1, :2].softmax(-1)
        token = torch.multinomial(chances, 1, generator=generator)
        found.append(token)
    return torch.cat(found, 1)


def nearest(some: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Return for pictures (N, 196) the number of the nearest training picture, and in how many pixels it differs."""
    distances = torch.cdist(some.float(), training.float(), 1)
    least = distances.min(1)
    return least.indices, least.values


def sheet(rows: list[tuple[Tensor, Tensor]], path: Path) -> None:
    """Write rows of pairs: pictures above, what is nearest to them below in a lighter grey."""
    zoom, gap = 3, 4
    tall = [torch.cat((_strip(above, 255), _strip(below, 150)), 0) for above, below in rows]
    space = torch.zeros(2, tall[0].shape[1])
    whole = torch.cat([part for row in tall for part in (row, space)])[:-2]
    large = whole.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    write_image(torch.nn.functional.pad(large, (gap,) * 4, value=0).to(torch.uint8)[None], path)


def _strip(some: Tensor, white: int) -> Tensor:
    cells = [torch.nn.functional.pad(one.view(SIDE, SIDE).float() * white, (1, 1, 1, 1), value=60) for one in some]
    return torch.cat(cells, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=TRAINING, help="to train on; few are soon learned by heart")
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    training, held = pictures(options.pictures)
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"{len(training):,} pictures to train on, {len(held):,} held out, {torch.get_num_threads()} threads")
    real = nearest(held[:500, 1:], training[:, 1:])[1].mean()
    print(f"held-out pictures differ from the nearest training one in {real:.1f} of {PIXELS} pixels\n")
    print(
        "| orders | s | trained, nats | held out, nats | bits a dimension | by one order, nats | drawn: pixels to the nearest |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    rows = []
    for orders in options.orders:
        began = time.perf_counter()
        model = train(training, orders, options.steps, options.width)
        seconds = time.perf_counter() - began
        loss, single = nats(model, held), nats_of_single_orders(model, held)
        made = drawn(model, 200)
        which, far = nearest(made, training[:, 1:])
        rows.append((made[:DRAWN], training[which[:DRAWN], 1:]))
        print(
            f"| {orders} | {seconds:.0f} | {nats(model, training[:2000]):.2f} | {loss:.2f} | {loss / math.log(2) / PIXELS:.4f} "
            f"| {single:.2f} | {float(far.mean()):.1f} |",
            flush=True,
        )
    sheet(rows, options.out / "made_orders.png")
    print(f"\n{options.out / 'made_orders.png'}")


if __name__ == "__main__":
    main()
