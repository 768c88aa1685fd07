"""Learned quantizers against vector-quantize-pytorch: nearest-code search, and what a training step of each costs.

    python benchmarks/nearest_code.py [--rounds 7] [--threads 2] [--no-training]

Search: both in evaluation on the same codebook and vectors, in one process and in turns; the ratio is the median over the
rounds. "ids equal" counts vectors with the same id; where they differ, "excess" is how much further away our code is in
float64, as a part of the distance. Training: forward and backward of 256 samples of 7 x 7 vectors of 64 channels against
256 codes (fsq: 240), with moving averages, k-means start and dead codes where the kind has them, and for both the memory
setting that our trainers make (it spares the page faults that the peer's large tensors cost). Run it alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import vector_quantize_pytorch as peers
from torch import Tensor

from tokenize_kit.tokenizers.learned.quantizers import QuantizerConfig, build_quantizer
from trainers.memory import keep_freed_memory

SEARCHES = ((256, 64, False), (1024, 256, False), (16384, 8, False), (8192, 32, False), (16384, 8, True))
"""Codes, dimensions, whether vectors are normalised."""
TRAINED = {
    "vq": (
        QuantizerConfig("vq", codebook_size=256),
        lambda: peers.VectorQuantize(
            64, 256, decay=0.99, kmeans_init=True, threshold_ema_dead_code=2, rotation_trick=False
        ),
    ),
    "vq, rotation trick": (
        QuantizerConfig("vq", codebook_size=256, rotation_trick=True),
        lambda: peers.VectorQuantize(
            64, 256, decay=0.99, kmeans_init=True, threshold_ema_dead_code=2, rotation_trick=True
        ),
    ),
    "vq, 8 dimensions, normalised, gradient": (
        QuantizerConfig("vq", codebook_size=256, codebook_dim=8, l2_normalised=True, codebook_update="gradient"),
        None,
    ),
    "simvq": (QuantizerConfig("simvq", codebook_size=256), lambda: peers.SimVQ(64, 256, rotation_trick=False)),
    "gumbel": (QuantizerConfig("gumbel", codebook_size=256), None),
    "fsq": (QuantizerConfig("fsq", levels=(8, 6, 5)), lambda: peers.FSQ([8, 6, 5], dim=64)),
    "lfq": (
        QuantizerConfig("lfq", codebook_size=256),
        lambda: peers.LFQ(dim=64, codebook_size=256, commitment_loss_weight=0.25),
    ),
    "bsq": (
        QuantizerConfig("bsq", codebook_size=256),
        lambda: peers.LFQ(dim=64, codebook_size=256, commitment_loss_weight=0.25, spherical=True),
    ),
    "rvq, 4 codebooks": (
        QuantizerConfig("rvq", codebook_size=256, codebooks=4),
        lambda: peers.ResidualVQ(
            dim=64,
            codebook_size=256,
            num_quantizers=4,
            decay=0.99,
            kmeans_init=True,
            threshold_ema_dead_code=2,
            rotation_trick=False,
        ),
    ),
}


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Return the median seconds of both, and the median ratio theirs / ours."""
    for work in (ours, theirs, ours, theirs):
        work()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    return mine, other, statistics.median(b / a for a, b in pairs)


def compare_search(size: int, dim: int, normalised: bool, rounds: int) -> None:
    torch.manual_seed(0)
    ours = build_quantizer(QuantizerConfig("vq", codebook_size=size, l2_normalised=normalised), dim).eval()
    theirs = peers.VectorQuantize(dim, size, use_cosine_sim=normalised).eval()
    theirs._codebook.embed.copy_(ours.codebook.codes[None])
    count = max(256, min(8192, (1 << 25) // size))
    vectors = torch.randn(count, dim)
    z = vectors.t()[None]

    def their_ids() -> Tensor:
        return theirs(vectors[None])[1][0]

    with torch.no_grad():
        mine, other, ratio = in_turns(lambda: ours.encode(z), their_ids, rounds)
        ids, peer_ids = ours.encode(z)[0], their_ids()
    points = torch.nn.functional.normalize(vectors.double()) if normalised else vectors.double()
    codes = ours.codebook.codes.double()
    distance, peer_distance = ((points - codes[found]).norm(dim=1) for found in (ids, peer_ids))
    excess = float((distance / peer_distance - 1).max())
    name = f"{size} x {dim}" + (", normalised" if normalised else "")
    print(
        f"| {name} | {count / mine / 1e3:,.0f} | {count / other / 1e3:,.0f} | {ratio:.1f} | "
        f"{int((ids == peer_ids).sum())} of {count} | {max(0.0, excess):.0e} |"
    )


def compare_training(name: str, rounds: int) -> None:
    torch.manual_seed(0)
    config, peer = TRAINED[name]
    ours = build_quantizer(config, 64)
    z = torch.randn(256, 64, 7, 7).to(memory_format=torch.channels_last)
    gradient = torch.randn_like(z)
    rows, rows_gradient = (each.flatten(2).mT for each in (z, gradient))

    def our_step() -> None:
        quantized = ours(z.detach().requires_grad_())
        losses = list(quantized.losses.values())
        torch.autograd.backward([quantized.codes, *losses], [gradient, *[None] * len(losses)])

    if peer is None:
        our_step()
        mine = statistics.median(seconds(our_step) for _ in range(rounds))
        print(f"| {name} | {mine * 1e3:.1f} | | |")
        return
    theirs = peer()

    def their_step() -> None:
        codes, _, *loss = theirs(rows.detach().requires_grad_())
        torch.autograd.backward([codes, *(each.sum() for each in loss)], [rows_gradient, *[None] * len(loss)])

    mine, other, ratio = in_turns(our_step, their_step, rounds)
    print(f"| {name} | {mine * 1e3:.1f} | {other * 1e3:.1f} | {ratio:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-training", action="store_true", help="leave out the training steps")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"Nearest code in evaluation, {options.threads} threads, {options.rounds} rounds\n")
    print("| codes x dimensions | ours, thousand vectors/s | vector-quantize-pytorch | ratio | ids equal | excess |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size, dim, normalised in SEARCHES:
        compare_search(size, dim, normalised, options.rounds)
    if options.no_training:
        return
    keep_freed_memory()
    print("\nForward and backward in training, 256 x 7 x 7 vectors of 64 channels, 256 codes\n")
    print("| quantizer | ours, ms | vector-quantize-pytorch, ms | ratio |")
    print("| --- | --- | --- | --- |")
    for name in TRAINED:
        compare_training(name, options.rounds)


if __name__ == "__main__":
    main()
