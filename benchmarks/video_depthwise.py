"""Which form of a causal depthwise 3 x 3 x 3 convolution over (B, T, H, W, C) is fastest on a CPU, forward and backward.

    python benchmarks/video_depthwise.py [--batch 16] [--threads 1] [--rounds 10] [--quick]

T = 5, 8 x 8 places, 192 channels, float32: the inside of the tiny presets of ``train video``. All forms but the last are the same
function, which is checked first; they run in turns, and the least of the rounds is shown. ``--batch 1`` is what a tokenizer does.
The last one, 1 x 3 x 3 and then 3 x 1 x 1 places, can say less. Run it alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_kit.tokenizers.learned.video.networks.latent import Depthwise

CHANNELS, STEPS, SIDE = 192, 5, 8


def before(x: Tensor) -> Tensor:
    """Return the steps with the first one twice before them."""
    return torch.cat([x[:, :1], x[:, :1], x], 1)


def conv3d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Torch's own, channels last."""
    y = F.conv3d(before(x).permute(0, 4, 1, 2, 3), weight[:, None], bias, padding=(0, 1, 1), groups=CHANNELS)
    return y.permute(0, 2, 3, 4, 1)


def conv3d_contiguous(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Torch's own, channels first."""
    places = before(x).permute(0, 4, 1, 2, 3).contiguous()
    y = F.conv3d(places, weight[:, None], bias, padding=(0, 1, 1), groups=CHANNELS)
    return y.permute(0, 2, 3, 4, 1).contiguous()


def slices(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Three conv2d, each over another slice of the padded steps."""
    steps, height, width, channels = x.shape[1:]
    padded, made = before(x), torch.zeros(())
    for tap in range(3):
        places = padded[:, tap : tap + steps].reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        y = F.conv2d(places, weight[:, tap, None], bias if tap == 0 else None, padding=1, groups=channels)
        made = made + y
    return made.permute(0, 2, 3, 1).reshape(x.shape)


def shifts(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """27 shifted multiply-adds."""
    _, steps, height, width, _ = x.shape
    padded = F.pad(before(x), (0, 0, 1, 1, 1, 1))
    made = bias.expand(x.shape)
    for t in range(3):
        for row in range(3):
            for column in range(3):
                seen = padded[:, t : t + steps, row : row + height, column : column + width]
                made = torch.addcmul(made, seen, weight[:, t, row, column])
    return made


def factorised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """1 x 3 x 3 places, then 3 x 1 x 1: another function."""
    batch, steps, height, width, channels = x.shape
    places = x.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    y = F.conv2d(places, weight[:, 0, None], bias, padding=1, groups=channels).permute(0, 2, 3, 1)
    lines = before(y.reshape(batch, steps, height * width, channels)).permute(0, 3, 1, 2)
    return F.conv2d(lines, weight[:, None, :, 1, 1, None], groups=channels).permute(0, 2, 3, 1).reshape(x.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--quick", action="store_true", help="1 round of a batch of 1: shows that it runs, not a result"
    )
    options = parser.parse_args()
    batch, rounds = (1, 1) if options.quick else (options.batch, options.rounds)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layer = Depthwise(CHANNELS)
    layer.bias.data.normal_()
    weight, bias = layer.weight, layer.bias
    x = torch.randn(batch, STEPS, SIDE, SIDE, CHANNELS, requires_grad=True)
    gradient = torch.randn(x.shape)
    forms: dict[str, Callable[..., Any]] = {"the layer": lambda x, _weight, _bias: layer(x)}
    forms |= {form.__name__: form for form in (conv3d, conv3d_contiguous, slices, shifts, factorised)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    expected = layer(x)
    for turn in range(rounds + 1):
        for name, form in forms.items():
            begin = time.perf_counter()
            y = form(x, weight, bias)
            middle = time.perf_counter()
            torch.autograd.grad(y, (x, weight, bias), gradient)
            if turn:
                times[name].append((middle - begin, time.perf_counter() - middle))
            elif name != "factorised":
                torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
    print(f"batch {batch}, {options.threads} threads, {rounds} rounds; milliseconds, the least\n")
    print("| form | forward | backward | both, against the layer |\n| --- | ---: | ---: | ---: |")
    least = {name: [1000 * min(column) for column in zip(*pairs, strict=True)] for name, pairs in times.items()}
    for name, (forward, backward) in least.items():
        ratio = (forward + backward) / sum(least["the layer"])
        print(f"| {name} | {forward:.1f} | {backward:.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
