"""Learned tokenizers on Fashion-MNIST, 7x7 ids of at most 8 bits, against vector-quantize-pytorch's example in its own time.

    python benchmarks/autoencoder_fashion.py [--quantizers fsq lfq simvq vq] [--example-steps 1000] [--batch-size 64]

For each quantizer first the example (its autoencoder rebuilt from its description: 3x3 convolutions of 16 and 32 channels,
each with 2x max pooling, the quantizer, the mirror with nearest upsampling; L1, AdamW 3e-4, batches of 256, 1,000 steps), timed;
then ``train image`` with a number of steps whose training takes at most that time, as a short run before it tells. Both
learn from the train part of the data alone and are measured on the same held-out pictures of it: mean PSNR a picture after
rounding to 8 bits, and how many of the codes are used. Run it alone: a busy neighbour slows both.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fetch import fetch
from torch import Tensor, nn

from tokenize_kit.metrics.image import psnr_of
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.sources.heldout import held_out
from trainers.autoencoder.image.options import TrainImageOptions
from trainers.autoencoder.image.train import train_image
from trainers.autoencoder.options import QuantizerOverrides

FRACTION = 0.05
OURS: dict[str, tuple[str, QuantizerOverrides]] = {
    "fsq": ("fsq", QuantizerOverrides(levels=(8, 6, 5))),
    "lfq": ("lfq", QuantizerOverrides(codebook_size=256)),
    "simvq": ("vqvae", QuantizerOverrides(kind="simvq", codebook_size=256)),
    "vq": ("vqvae", QuantizerOverrides(codebook_size=256)),
}

WEIGHTS = {"lfq": 1.0, "simvq": 1.0, "vq": 10.0}
"""Of the quantizer's loss in the example."""


def pictures() -> tuple[Path, Tensor, Tensor]:
    """Return the file, and its pictures uint8 (N, 1, 28, 28): those to train on, and those that ``train image`` holds out."""
    (path,) = fetch("fashion-mnist").rglob("train-images-idx3-ubyte.gz")
    raw = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    held = np.array([held_out(f"{path.name}@{row}", FRACTION) for row in range(len(raw))])
    return path, torch.from_numpy(raw[~held]), torch.from_numpy(raw[held])


class Example(nn.Module):
    """The autoencoder of the example."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        import vector_quantize_pytorch as vqp

        self.kind = kind
        channels = {"fsq": 3, "lfq": 8}.get(kind, 32)
        self.quantizer: Any = {
            "fsq": lambda: vqp.FSQ([8, 6, 5]),
            "lfq": lambda: vqp.LFQ(dim=8, codebook_size=256, entropy_loss_weight=0.02, diversity_gamma=1.0),
            "simvq": lambda: vqp.SimVQ(dim=32, codebook_size=256, channel_first=True),
            "vq": lambda: vqp.VectorQuantize(dim=32, codebook_size=256, accept_image_fmap=True),
        }[kind]()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.MaxPool2d(2),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.Conv2d(32, channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(32, 16, 3, padding=1),
            nn.GELU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(16, 1, 3, padding=1),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pictures (B, 1, 28, 28) in [-1, 1], the ids and the quantizer's loss."""
        found = self.quantizer(self.encoder(pixels))
        loss = pixels.new_zeros(()) if self.kind == "fsq" else found[2].sum() * WEIGHTS[self.kind]
        return self.decoder(found[0]).clamp(-1, 1), found[1], loss


def train_example(kind: str, train: Tensor, held: Tensor, steps: int) -> tuple[float, float, float]:
    """Return the seconds of training, and PSNR and usage on the held-out pictures."""
    torch.manual_seed(0)
    model = Example(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    began = time.perf_counter()
    for _ in range(steps):
        pixels = train[torch.randint(len(train), (256,))].float() / 127.5 - 1
        made, _, extra = model(pixels)
        loss = F.l1_loss(made, pixels) + extra
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - began
    model.eval()
    with torch.no_grad():
        parts = [model(part.float() / 127.5 - 1) for part in held.split(512)]
    made = torch.cat([((part[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) for part in parts])
    ids = torch.cat([part[1].reshape(-1) for part in parts])
    return seconds, mean_psnr(made, held), len(ids.unique()) / (240 if kind == "fsq" else 256)


def mean_psnr(made: Tensor, real: Tensor) -> float:
    """Return the mean over pictures, uint8 (N, 1, H, W)."""
    errors = (made.float() - real.float()).square().flatten(1).mean(1)
    return sum(map(psnr_of, errors.tolist())) / len(errors)


def train_ours(kind: str, source: Path, folder: Path, steps: int, batch: int) -> tuple[float, Path]:
    """Train a tokenizer; returns the seconds of its training steps and its folder."""
    preset, quantizer = OURS[kind]
    out = folder / f"{kind}-{steps}"
    options = TrainImageOptions(
        data=(str(source),),
        out=str(out),
        preset=preset,
        channels=1,
        quantizer=quantizer,
        batch_size=batch,
        validation_fraction=FRACTION,
        pictures=str(folder / "pictures"),
        steps=steps,
        validate_every=steps,
        log_every=10,
    )
    train_image(options)
    lines = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    spans = [10 * batch / line["samples_per_second"] for line in lines if line["step"] % 10 == 0]
    return sum(spans), out


def measure(folder: Path, held: Tensor) -> tuple[float, float]:
    """Return PSNR and usage of a tokenizer on the held-out pictures."""
    tokenizer = load_tokenizer(folder)
    grids = tokenizer.encode_batch(list(held))
    made = torch.stack([picture for picture in tokenizer.decode_batch(grids) if isinstance(picture, Tensor)])
    return mean_psnr(made, held), len(torch.stack(grids).unique()) / tokenizer.spec.max_vocab_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantizers", nargs="+", choices=list(OURS), default=list(OURS))
    parser.add_argument("--example-steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    source, train, held = pictures()
    print(f"{len(train):,} pictures to train on, {len(held):,} held out, {torch.get_num_threads()} threads\n")
    print("| quantizer | example: s | PSNR dB | used | ours: s | steps | PSNR dB | used | gain dB |", flush=True)
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in options.quantizers:
            budget, psnr, used = train_example(kind, train, held, options.example_steps)
            trial, _ = train_ours(kind, source, folder, 40, options.batch_size)
            # A little less than the time allows, because speed drifts.
            steps = max(50, int(0.75 * budget / (trial / 40)) // 10 * 10)
            seconds, out = train_ours(kind, source, folder, steps, options.batch_size)
            ours, our_use = measure(out, held)
            print(
                f"| {kind} | {budget:.0f} | {psnr:.2f} | {used:.0%} | {seconds:.0f} | {steps} | {ours:.2f} | {our_use:.0%} "
                f"| {ours - psnr:+.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
