"""A sound tokenizer with a codebook axis that needs no training: the mean of each 4 samples, refined codebook by codebook."""

import torch

from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_ids,
    check_target,
    fingerprint_of,
    read_config,
    register_tokenizer,
    write_config,
)

HOP = 4


class ToyCodec(Tokenizer):
    """Each codebook divides the interval that those before it left into ``levels`` equal parts."""

    def __init__(self, codebooks=4, levels=3):
        self.codebooks, self.levels = codebooks, levels

    @property
    def spec(self):
        return TokenSpec(
            "audio",
            (self.levels,) * self.codebooks,
            ("time", "codebook"),
            (HOP, None),
            lossless=False,
            channels=1,
            sample_rate=8000,
        )

    @property
    def fingerprint(self):
        return fingerprint_of("toy-codec", {"codebooks": self.codebooks, "levels": self.levels})

    def encode(self, sample):
        if sample.shape[-1] == 0:
            raise ValueError("the sound is empty")
        padded = torch.nn.functional.pad(sample[0].double(), (0, -sample.shape[-1] % HOP))
        rest = (padded.view(-1, HOP).mean(1) + 1) / 2
        ids = []
        for _ in range(self.codebooks):
            scaled = rest * self.levels
            ids.append(scaled.floor().clamp(0, self.levels - 1))
            rest = scaled - ids[-1]
        return torch.stack(ids, -1).long()

    def decode(self, ids):
        ids = check_ids(ids, self.spec)
        scales = self.levels ** -torch.arange(1, ids.shape[1] + 1).double()
        middle = (ids * scales).sum(1) + scales[-1] / 2
        return (middle * 2 - 1).float().repeat_interleave(HOP)[None]

    def decode_sized(self, grids, sizes):
        return [self.decode(grid)[:, : size[0]] for grid, size in zip(grids, sizes, strict=True)]

    def save(self, folder):
        write_config(check_target(folder, self), self, {"codebooks": self.codebooks, "levels": self.levels})

    @classmethod
    def load(cls, folder):
        return cls(**read_config(folder)["options"])


register_tokenizer("toy-codec", ToyCodec)
