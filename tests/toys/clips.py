"""Clips that the tests draw, and a toy video tokenizer with a causal grid that loses much."""

import torch

from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_grid,
    check_target,
    fingerprint_of,
    read_config,
    register_tokenizer,
    write_config,
)


def moving_square(frames=9, height=32, width=40, channels=3, seed=0):
    """A square that moves to the right over a still ramp: uint8 (T, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(20, 180, height * width).reshape(1, height, width).repeat(channels, 1, 1)
    texture = torch.randint(0, 30, (1, height, width), generator=generator)
    video = (ramp + texture).to(torch.uint8).repeat(frames, 1, 1, 1)
    colour = torch.randint(180, 256, (channels, 1, 1), generator=generator, dtype=torch.uint8)
    side = min(height, width) // 3
    for time in range(frames):
        left = 2 * time % (width - side)
        video[time, :, 3 : 3 + side, left : left + side] = colour
    return video


class ToyVideo(Tokenizer):
    """The mean colour of 4x4 pixels, of the first frame and then of every `factor` frames, in 4 levels a channel."""

    factor = 4

    @property
    def spec(self):
        return TokenSpec(
            "video",
            64,
            ("time", "height", "width"),
            (self.factor, 4, 4),
            lossless=False,
            channels=3,
            size_multiple=4,
            frame_rate=12.0,
        )

    @property
    def fingerprint(self):
        return fingerprint_of("toy-video", {})

    def encode(self, sample):
        frames = sample.float() / 255
        rest = frames[1:]
        if missing := -len(rest) % self.factor:
            rest = torch.cat([rest, rest[-1:].expand(missing, -1, -1, -1)])
        steps = torch.cat([frames[:1], rest.unflatten(0, (-1, self.factor)).mean(1)]) if len(rest) else frames
        levels = (torch.nn.functional.avg_pool2d(steps, 4) * 4).long().clamp(0, 3)
        return levels[:, 0] * 16 + levels[:, 1] * 4 + levels[:, 2]

    def decode(self, ids):
        ids = check_grid(ids, self.spec)
        levels = torch.stack([ids // 16, ids // 4 % 4, ids % 4], 1)
        steps = ((levels.float() + 0.5) / 4 * 255).round().to(torch.uint8)
        steps = steps.repeat_interleave(4, 2).repeat_interleave(4, 3)
        return torch.cat([steps[:1], steps[1:].repeat_interleave(self.factor, 0)])

    def decode_sized(self, grids, sizes):
        return [
            self.decode(grid)[:frames, :, :height, :width]
            for grid, (frames, height, width) in zip(grids, sizes, strict=True)
        ]

    def save(self, folder):
        write_config(check_target(folder, self), self, {})

    @classmethod
    def load(cls, folder):
        read_config(folder)
        return cls()


register_tokenizer("toy-video", ToyVideo)
