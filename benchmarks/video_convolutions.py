"""The convolutional body of video tokenizers: what each form of its causal convolutions costs on one thread.

    python benchmarks/video_convolutions.py

For each size and kernel a line with milliseconds of the processor, the least of a few: without gradients, each frame by a call of
its own, so that its bits are the same in every piece; and forward and backward, all frames of two videos together.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SIZES = ((17, 32, 32), (9, 16, 64), (5, 8, 128))
"""Frames, places along each side, channels."""


def planes(x: Tensor) -> Tensor:
    return x.flatten(0, 1).movedim(-1, 1)


def volume(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def forms(channels: int) -> dict[str, tuple[int, Callable[[Tensor, int], Tensor]]]:
    """Each form with the frames that it sees: from (B, count + those - 1, H, W, C) to ``count`` outputs."""
    frame = torch.randn(channels, 3, 3, channels).mul_(0.05).requires_grad_()
    moment = torch.randn(channels, 3, channels).mul_(0.05).requires_grad_()
    both = torch.randn(channels, 3, 3, 3, channels).mul_(0.05).requires_grad_()

    def joined(x: Tensor, count: int) -> Tensor:
        return torch.cat([x[:, place : place + count] for place in range(3)], -1)

    def added(x: Tensor, count: int) -> Tensor:
        kernels = both.movedim(-1, 2).unbind(1)
        parts = (F.conv2d(planes(x[:, i : i + count]), kernels[i], padding=1) for i in range(3))
        return sum(parts, torch.zeros(()))

    def over_places(x: Tensor, count: int) -> Tensor:
        del count
        return F.conv2d(volume(x.flatten(2, 3)), moment.movedim(-1, 1)[..., None])

    def by_channels(x: Tensor, count: int) -> Tensor:
        return F.conv2d(planes(joined(x, count)), both.movedim(1, -2).flatten(-2).movedim(-1, 1), padding=1)

    return {
        "(1, 3, 3) conv2d": (1, lambda x, _: F.conv2d(planes(x), frame.movedim(-1, 1), padding=1)),
        "(3, 1, 1) one matrix product": (3, lambda x, count: F.linear(joined(x, count), moment.flatten(1))),
        "(3, 1, 1) conv2d over time and places": (3, over_places),
        "(3, 3, 3) conv2d of all frames' channels": (3, by_channels),
        "(3, 3, 3) conv2d of each, added": (3, added),
        "(3, 3, 3) conv3d": (3, lambda x, _: F.conv3d(volume(x), both.movedim(-1, 1), padding=(0, 1, 1))),
    }


def least(work: Callable[[], object], times: int) -> float:
    work()
    taken = []
    for _ in range(times):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken) * 1e3


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| frames, sides, channels | kernel and form | frame by frame | forward and backward |")
    print("| --- | --- | --- | --- |")
    for frames, side, channels in SIZES:
        for name, (seen, form) in forms(channels).items():
            one = torch.randn(1, frames + seen - 1, side, side, channels)
            two = torch.randn(2, frames + seen - 1, side, side, channels, requires_grad=True)

            def each(form=form, seen=seen, one=one, frames=frames) -> None:
                with torch.no_grad():
                    for first in range(frames):
                        form(one[:, first : first + seen], 1)

            def trained(form=form, two=two, frames=frames) -> None:
                form(two, frames).sum().backward()

            print(
                f"| {frames}, {side}, {channels} | {name} | {least(each, 5):.1f} | {least(trained, 3):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
