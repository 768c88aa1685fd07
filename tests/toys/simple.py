"""Two tokenizers that only the tests know: they prove that a newcomer is served without an edit."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

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


class ToyText(Tokenizer):
    """UTF-8 bytes, each plus ``shift``; refuses a text with the word REFUSED in it."""

    def __init__(self, shift=44, vocab_size=300):
        self.shift, self.vocab_size = shift, vocab_size

    @property
    def spec(self):
        return TokenSpec("text", self.vocab_size, ("time",), (None,), lossless=True)

    @property
    def fingerprint(self):
        return fingerprint_of("toy-text", {"shift": self.shift, "vocab_size": self.vocab_size})

    def ids(self, sample):
        if not isinstance(sample, str):
            raise TypeError(f"a text sample is a str, got {type(sample).__name__}")
        if "REFUSED" in sample:
            raise ValueError("the toy does not like this text")
        return np.frombuffer(sample.encode(), np.uint8).astype(np.int64) + self.shift

    def encode(self, sample):
        import torch

        return torch.from_numpy(self.ids(sample))

    def decode(self, ids):
        return bytes((check_ids(ids, self.spec) - self.shift).tolist()).decode()

    def save(self, folder):
        write_config(check_target(folder, self), self, {"shift": self.shift, "vocab_size": self.vocab_size})

    @classmethod
    def load(cls, folder):
        return cls(**read_config(folder)["options"])


class RaggedToyText(ToyText):
    """The same with the fast way, which needs no torch, so that a process starts quickly."""

    @property
    def fingerprint(self):
        return fingerprint_of("toy-ragged", {"shift": self.shift, "vocab_size": self.vocab_size})

    def encode_ragged(self, texts):
        # So that a test has the time to kill a run.
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        texts = texts.to_pylist() if hasattr(texts, "to_pylist") else texts
        grids = [self.ids(text).astype(np.uint32) for text in texts]
        return np.concatenate([np.zeros(0, np.uint32), *grids]), np.array([len(grid) for grid in grids], np.int64)


class ToyImage(Tokenizer):
    """The mean brightness of each 2x2 patch; sides must be even."""

    @property
    def spec(self):
        return TokenSpec("image", 256, ("height", "width"), (2, 2), lossless=False, channels=3, size_multiple=2)

    @property
    def fingerprint(self):
        return fingerprint_of("toy-image", {})

    def encode(self, sample):
        if sample.shape[1] % 2 or sample.shape[2] % 2:
            raise ValueError(f"sides {tuple(sample.shape[1:])} are not even")
        patches = sample.double().mean(0).unfold(0, 2, 2).unfold(1, 2, 2)
        return patches.mean((-1, -2)).round().long()

    def decode(self, ids):
        import torch

        grey = check_ids(ids, self.spec).to(torch.uint8)
        return grey.repeat_interleave(2, 0).repeat_interleave(2, 1)[None].expand(3, -1, -1).contiguous()

    def save(self, folder):
        write_config(check_target(folder, self), self, {})

    @classmethod
    def load(cls, folder):
        assert Path(folder).is_dir()
        return cls()


for _name, _cls in (("toy-text", ToyText), ("toy-ragged", RaggedToyText), ("toy-image", ToyImage)):
    register_tokenizer(_name, _cls)
