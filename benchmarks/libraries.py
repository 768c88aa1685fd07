"""Parts that are written by hand beside what a well-kept library offers: how much faster, and whether the result is equal.

    python benchmarks/libraries.py [--rounds 7] [--threads 2] [--only averages]

Both do the same work in one process and in turns; the ratio is the median over the rounds, so it stands also on a machine that
has other work. Larger parts have benchmarks of their own: nearest_code.py (search, training steps of quantizers), palette.py
(nearest colours), bpe_training.py, bpe_encoding.py. The row of bitarray is printed where that package is installed; nothing
else needs it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn.functional import gumbel_softmax
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tokenize_kit.container import pack_ids, unpack_ids
from tokenize_kit.tokenizers.image.colors import NearestColor
from tokenize_kit.tokenizers.learned.image.model import Autoencoder
from tokenize_kit.tokenizers.learned.quantizers import QuantizerConfig, build_quantizer
from tokenize_kit.tokenizers.learned.quantizers.gumbel import _gumbel_like
from tokenize_kit.tokenizers.learned.quantizers.nearest import highest, nearest_code
from trainers.autoencoder.image.config import recipe
from trainers.averages import WeightAverages
from trainers.muon import Muon


class Contest(NamedTuple):
    """The same work twice."""

    part: str
    library: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    equal: str


def averages() -> Iterator[Contest]:
    network = Autoencoder(recipe("vqvae").model)
    ours = WeightAverages({"autoencoder": network}, 0.9)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(network)
    for step in range(100, 104):
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn_like(weight))
        ours.update(step)
        theirs.update_parameters(network)
    mine = ours.tensors()["average_autoencoder"]
    same = all(torch.equal(mine[name], value) for name, value in theirs.module.named_parameters())
    yield Contest(
        "moving average of weights (trainers/averages.py)",
        "torch AveragedModel",
        lambda: ours.update(1000),
        lambda: theirs.update_parameters(network),
        "to the bit, at one decay" if same else "no",
    )


def muon() -> Iterator[Contest]:
    # Small, because a processor without bfloat16 takes seconds for a matrix of 512 x 512, in both alike.
    blocks = [(128, 128)] * 16 + [(384, 128)] * 4 + [(128, 384)] * 4
    network = Autoencoder(recipe("fsq").model)
    convolutions = [tuple(p.flatten(1).shape) for p in network.parameters() if p.ndim >= 2]
    for name, shapes in (
        ("24 matrices of a Transformer", blocks),
        ("convolutions of the tiny image preset", convolutions),
    ):
        mine = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        other = copy.deepcopy(mine)
        for one, two in zip(mine, other, strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        ours = Muon(mine, lr=0.01, weight_decay=0.1)
        theirs = torch.optim.Muon(other, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        before = [weight.detach().clone() for weight in mine]
        ours.step()
        theirs.step()
        pairs = list(zip(mine, other, before, strict=True))
        error = max(float((one - two).detach().norm() / (two - old).detach().norm()) for one, two, old in pairs)
        yield Contest(
            f"Muon, {name} (trainers/muon.py)",
            "torch.optim.Muon",
            ours.step,
            theirs.step,
            f"within {error:.0e} of a step",
        )


def gumbel() -> Iterator[Contest]:
    logits = torch.randn(12544, 256)
    yield Contest(
        "Gumbel-softmax of 256 codes (quantizers/gumbel.py)",
        "torch gumbel_softmax",
        lambda: ((logits + _gumbel_like(logits)) / 0.5).softmax(1),
        lambda: gumbel_softmax(logits, tau=0.5),
        "the distribution; other draws",
    )


def packing() -> Iterator[Contest]:
    if find_spec("bitarray") is None:
        return
    from bitarray import bitarray
    from bitarray.util import int2ba

    widths = (10,) * 12
    ids = np.random.default_rng(0).integers(0, 1 << 10, (600, 12))

    def theirs() -> bytes:
        bits = bitarray(endian="big")
        for value in ids.ravel().tolist():
            bits += int2ba(value, 10)
        return bits.tobytes()

    packed = pack_ids(ids, widths)
    assert np.array_equal(unpack_ids(packed, 600, widths), ids)
    equal = "to the bit" if theirs() == packed else "no"
    yield Contest("packed ids (tokenize_kit/container.py)", "bitarray", lambda: pack_ids(ids, widths), theirs, equal)


def kmeans() -> Iterator[Contest]:
    vectors = torch.randn(12544, 64)
    z = vectors.t()[None]

    def error(codes: torch.Tensor) -> float:
        return float((vectors - codes[nearest_code(vectors, codes)]).square().sum(1).mean())

    def ours() -> torch.Tensor:
        quantizer = build_quantizer(QuantizerConfig("vq", codebook_size=256, dead_code_threshold=0.0), 64)
        quantizer.codebook.before_search(z[0].t())
        return quantizer.codebook.codes

    def theirs() -> torch.Tensor:
        fitted = KMeans(256, init="random", n_init=1, max_iter=10, random_state=0).fit(vectors.numpy())
        return torch.from_numpy(fitted.cluster_centers_)

    ratio = error(ours()) / error(theirs())
    yield Contest(
        "k-means start of a codebook (quantizers/codebook.py)",
        "sklearn KMeans",
        ours,
        theirs,
        f"error {ratio:.3f} times theirs",
    )


def search() -> Iterator[Contest]:
    vectors, codes = torch.randn(8192, 8), torch.randn(16384, 8)

    def theirs() -> torch.Tensor:
        return torch.cdist(vectors, codes).argmin(1)

    same = int((nearest_code(vectors, codes) == theirs()).sum())
    yield Contest(
        "nearest code, 16384 x 8 (quantizers/nearest.py)",
        "torch.cdist, argmin",
        lambda: nearest_code(vectors, codes),
        theirs,
        f"{same} of {len(vectors)} ids",
    )
    table = torch.randn(4096, 1024)
    yield Contest(
        "highest of a row (quantizers/nearest.py)",
        "torch.argmax",
        lambda: highest(table),
        lambda: table.argmax(1),
        "to the bit" if torch.equal(highest(table), table.argmax(1)) else "no",
    )


def colors() -> Iterator[Contest]:
    generator = np.random.default_rng(0)
    palette = np.unique(generator.integers(0, 256, (3, 512), np.uint8), axis=1)
    smooth = np.indices((512, 512)).reshape(2, -1)
    planes = np.ascontiguousarray((np.stack([smooth[0], smooth[1], smooth[0] ^ smooth[1]]) // 4 % 256).astype(np.uint8))
    nearest = NearestColor(palette, "rgb")
    points, centres = planes.T.astype(np.float64), palette.T.astype(np.float64)

    def theirs() -> Any:
        return pairwise_distances_argmin(points, centres)

    same = int((nearest(planes) == theirs()).sum())
    yield Contest(
        "nearest of 512 colours (tokenizers/image/colors.py)",
        "sklearn argmin",
        lambda: nearest(planes),
        theirs,
        f"{same} of {planes.shape[1]} ids",
    )


PARTS = {
    "averages": averages,
    "muon": muon,
    "gumbel": gumbel,
    "packing": packing,
    "kmeans": kmeans,
    "search": search,
    "colors": colors,
}


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, {options.rounds} rounds in turns\n")
    print("| part | ours, ms | library | library, ms | ratio | equal |")
    print("| --- | ---: | --- | ---: | ---: | --- |")
    with threadpool_limits(limits=options.threads):
        for name in options.only:
            torch.manual_seed(0)
            for contest in PARTS[name]():
                contest.ours(), contest.theirs()
                pairs = [(seconds(contest.ours), seconds(contest.theirs)) for _ in range(options.rounds)]
                mine, other = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
                ratio = statistics.median(two / one for one, two in pairs)
                print(
                    f"| {contest.part} | {mine:.2f} | {contest.library} | {other:.2f} | {ratio:.2f} | {contest.equal} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
