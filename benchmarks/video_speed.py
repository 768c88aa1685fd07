"""How many frames a second a video autoencoder encodes and decodes, whole, in pieces, and beside plain 3D convolutions.

    python benchmarks/video_speed.py [--frames 65] [--side 64] [--block 4] [--rounds 5] [--tokenizer FOLDER] [--quick]

float32, one video at a time in one thread, random weights (``--tokenizer`` takes a trained folder instead). The contenders take
turns in one process, and ratios are medians over the rounds:

- the network over the whole video at once (``VideoAutoencoder.encode`` and ``decode``), bytes in and bytes out;
- the tokenizer, which works in aligned pieces;
- its eager stream, a latent step at a time;
- a reference network of as many parameters from ``nn.Conv3d`` alone, in the line of MAGVIT-v2: causal 3 x 3 x 3 convolutions
  with strides down to the same factors, a residual block at each level, and the mirror of it, without a quantizer.

CPU seconds of the process are counted, which is what one thread takes of a machine that is busy with other things too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.tokenizer import BLOCK_STEPS, VideoTokenizer

WHOLE, PIECES, STREAM, PLAIN = "whole, at once", "tokenizer, in pieces", "eager stream", "plain 3D convolutions"


class Conv(nn.Module):
    """A 3 x 3 x 3 convolution over (B, C, T, H, W), causal in time."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, stride, padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return as many steps."""
        return self.conv(F.pad(x, (0, 0, 0, 0, 2, 0)))


class Residual(nn.Module):
    """Two convolutions added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.SiLU(), Conv(width, width), nn.SiLU(), Conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample of the same shape."""
        return x + self.layers(x)


class Up(nn.Module):
    """A convolution to more channels, which become places; the first step stays one step."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.stride, self.outputs = stride, outputs
        self.conv = Conv(inputs, outputs * stride[0] * stride[1] * stride[2])

    def forward(self, x: Tensor) -> Tensor:
        """Return a sample so many times larger, without what is before the first step."""
        time, rows, columns = self.stride
        x = self.conv(x)
        batch, _, steps, height, width = x.shape
        x = x.view(batch, time, rows, columns, self.outputs, steps, height, width).permute(0, 4, 5, 1, 6, 2, 7, 3)
        return x.reshape(batch, self.outputs, steps * time, height * rows, width * columns)[:, :, time - 1 :]


def plain(network: VideoNetworkConfig, width: int) -> tuple[nn.Module, nn.Module]:
    """Return an encoder and a decoder from plain 3D convolutions."""
    levels = network.spatial_factor.bit_length() - 1
    in_time = network.temporal_factor.bit_length() - 1
    strides = [(2 if level >= levels - in_time else 1, 2, 2) for level in range(levels)]
    widths = [width * min(4, 2**level) for level in range(levels + 1)]
    down: list[nn.Module] = [Conv(network.channels, width)]
    up: list[nn.Module] = []
    for level, stride in enumerate(strides):
        down += [Residual(widths[level]), Conv(widths[level], widths[level + 1], stride)]
        up = [Up(widths[level + 1], widths[level], stride), Residual(widths[level]), *up]
    down += [Residual(widths[-1]), Conv(widths[-1], network.dim)]
    up = [Conv(network.dim, widths[-1]), Residual(widths[-1]), *up, Conv(width, network.channels)]
    return nn.Sequential(*down), nn.Sequential(*up)


def size(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def nearest(network: VideoNetworkConfig, parameters: int) -> tuple[nn.Module, nn.Module]:
    """Return the plain network whose number of parameters is nearest."""
    with torch.device("meta"):
        width = min(range(4, 129), key=lambda width: abs(size(*plain(network, width)) - parameters))
    return plain(network, width)


def streamed(tokenizer: Any, video: Tensor) -> Tensor:
    stream = tokenizer.stream(eager=True)
    time_factor = tokenizer.config.network.temporal_factor
    pieces = [video[:1], *torch.split(video[1:], time_factor)]
    return torch.cat([*map(stream.encode, pieces), stream.finish()])


def stream_decoded(tokenizer: Any, ids: Tensor) -> Tensor:
    stream = tokenizer.stream(eager=True)
    return torch.cat([*map(stream.decode, torch.split(ids, 1)), stream.finish_decode()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=65)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--block", type=int, default=BLOCK_STEPS, help="steps of the ids in a piece")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokenizer", help="the folder of a trained tokenizer to use instead")
    parser.add_argument("--quick", action="store_true", help="1 round of 9 frames: shows that it runs, not a result")
    options = parser.parse_args()
    frames, rounds = (9, 1) if options.quick else (options.frames, options.rounds)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer: Any = (
        load_tokenizer(options.tokenizer)
        if options.tokenizer
        else VideoTokenizer(VideoAutoencoder(VideoConfig()), options.block)
    )
    network = tokenizer.config.network
    if (frames - 1) % network.temporal_factor or options.side % network.spatial_factor:
        raise SystemExit(f"--frames must be 1 + n * {network.temporal_factor}, --side n * {network.spatial_factor}")
    generator = torch.Generator().manual_seed(1)
    shape = (frames, network.channels, options.side, options.side)
    video = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    pixels = to_pixels(video).transpose(0, 1)[None]
    ids = tokenizer.encode(video)
    encoder, decoder = nearest(network, size(tokenizer.model.encoder, tokenizer.model.decoder))
    latents = encoder.eval()(pixels)
    assert decoder.eval()(latents).shape == pixels.shape
    assert latents.shape[2:] == ids.shape[:3]
    contenders: dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]] = {
        WHOLE: (
            size(tokenizer.model.encoder, tokenizer.model.decoder),
            lambda: tokenizer.model.encode(to_pixels(video).transpose(0, 1)[None]),
            lambda: from_pixels(tokenizer.model.decode(ids[None])[0].transpose(0, 1)),
        ),
        PIECES: (size(tokenizer.model), lambda: tokenizer.encode(video), lambda: tokenizer.decode(ids)),
        STREAM: (
            size(tokenizer.model),
            lambda: streamed(tokenizer, video),
            lambda: stream_decoded(tokenizer, ids),
        ),
        PLAIN: (size(encoder, decoder), lambda: encoder(pixels), lambda: decoder(latents)),
    }
    times: dict[tuple[str, int], list[float]] = {(name, way): [] for name in contenders for way in (0, 1)}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, (_, *ways) in contenders.items():
                for way, work in enumerate(ways):
                    begin = time.process_time()
                    work()
                    if turn or options.quick:
                        times[name, way].append(time.process_time() - begin)
    print(
        f"{frames} frames of {options.side}x{options.side}, {rounds} rounds, 1 thread, float32; frames a CPU second\n"
    )
    print("| network | parameters | encode | decode | of whole, encode | decode | of plain, encode | decode |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (parameters, *_) in contenders.items():
        cells = [f"{frames / statistics.median(times[name, way]):,.0f}" for way in (0, 1)]
        for other in (WHOLE, PLAIN):
            for way in (0, 1):
                pairs = zip(times[other, way], times[name, way], strict=True)
                cells.append(f"{statistics.median(theirs / ours for theirs, ours in pairs):.2f}")
        print(f"| {name} | {parameters / 1e6:.2f} M | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
