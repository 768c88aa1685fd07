"""A small world for the trainer's tests: two tokenizers, shard sets of them, and a model family that is no Transformer."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from tokenize_kit.files import write_json
from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_ids,
    check_target,
    fingerprint_of,
    read_config,
    register_tokenizer,
    tokenizer_name,
    write_config,
)
from tokenize_kit.shards import Manifest, StreamInfo, dtype_for, open_shard
from trainers.autoregressive.models import register_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.losses import token_loss

LETTERS = "abcdefghijklmnopqrstuvwxyz "


class Letters(Tokenizer):
    """One id a letter."""

    def __init__(self, salt=0):
        self.salt = salt

    @property
    def spec(self):
        return TokenSpec("text", len(LETTERS), ("time",), (1,), lossless=True)

    @property
    def fingerprint(self):
        return fingerprint_of("letters", {"salt": self.salt})

    def encode(self, sample):
        return torch.tensor([LETTERS.index(letter) for letter in sample], dtype=torch.int64)

    def decode(self, ids):
        return "".join(LETTERS[index] for index in check_ids(ids, self.spec).tolist())

    def save(self, folder):
        write_config(check_target(folder, self), self, {"salt": self.salt})

    @classmethod
    def load(cls, folder):
        return cls(read_config(folder)["options"]["salt"])


class Shades(Tokenizer):
    """Grey pictures in four shades, one id a pixel."""

    @property
    def spec(self):
        return TokenSpec("image", 4, ("height", "width"), (1, 1), lossless=False, channels=1)

    @property
    def fingerprint(self):
        return fingerprint_of("shades", {})

    def encode(self, sample):
        return sample[0].long() // 64

    def decode(self, ids):
        return (check_ids(ids, self.spec) * 64 + 32).to(torch.uint8)[None]

    def save(self, folder):
        write_config(check_target(folder, self), self, {})

    @classmethod
    def load(cls, folder):
        return cls()


@dataclass(frozen=True)
class MeanConfig:
    vocab_size: int
    context: int
    width: int = 16
    dropout: float = 0.0

    def to_dict(self):
        return asdict(self)


class MeanCache:
    def __init__(self, ids, length, padding):
        self.ids, self.length, self.padding = ids, length, padding

    @property
    def position(self):
        return self.ids.shape[1]

    def select(self, rows):
        return MeanCache(self.ids[rows], self.length, self.padding[rows])


class MeanModel(nn.Module):
    """Mixes each token with the mean of those before it in its document: the least that deserves the name."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.mix = nn.Linear(2 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.width, config.vocab_size)

    @classmethod
    def from_config(cls, config):
        return cls(MeanConfig(**config))

    def tables(self):
        return [self.embedding.weight, self.out.weight]

    def token_tables(self):
        return self.tables()

    needs = frozenset()
    causal = True

    def forward(self, ids, **places):
        return self.logits(Inputs(ids, **places))

    def logits(self, inputs):
        ids, documents = inputs.ids, inputs.documents
        seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()[None]
        if documents is not None:
            seen = seen & (documents[:, :, None] == documents[:, None, :])
        weights = seen / seen.sum(-1, keepdim=True)
        x = self.embedding(ids)
        return self.out(torch.tanh(self.mix(self.dropout(torch.cat([x, weights @ x], -1)))))

    def loss(self, inputs, labels, weights=None, *, z_loss=0.0):
        return token_loss(self.logits(inputs), labels, weights, z_loss=z_loss)

    def new_cache(self, batch, length, *, device=None, dtype=None, left_padding=None, compiled=False):
        padding = torch.zeros(batch, dtype=torch.int64) if left_padding is None else left_padding
        return MeanCache(torch.zeros(batch, 0, dtype=torch.int64), length, padding)

    @torch.no_grad()
    def step(self, inputs, cache, *, last_only=False):
        cache.ids = torch.cat([cache.ids, inputs.ids], 1)
        documents = -(torch.arange(cache.position) < cache.padding[:, None]).long()
        return self(cache.ids, documents=documents)[:, -1 if last_only else -inputs.ids.shape[1] :]


register_tokenizer("letters", Letters)
register_tokenizer("shades", Shades)
register_model("mean", MeanModel)


def write_shards(folder, samples, shards=2, carry=True, tokenizers=None):
    """Write a shard set of (text, picture or None) samples as `encode` would; a picture is a uint8 array (H, W) below 4."""
    tokenizers = tokenizers or {"text": Letters(), "image": Shades()}
    tokenizers = {name: tokenizers[name] for name in (("text",) if samples[0][1] is None else ("text", "image"))}
    streams = {
        name: StreamInfo(name, t.spec, t.fingerprint, dtype_for(t.spec.max_vocab_size), tokenizer_name(t))
        for name, t in tokenizers.items()
    }
    folder.mkdir(parents=True)
    entries = []
    for number, part in enumerate(np.array_split(np.arange(len(samples)), shards)):
        grids = {
            "text": [np.array([LETTERS.index(letter) for letter in samples[i][0]], np.uint8) for i in part],
            "image": [samples[i][1] for i in part],
        }
        with open_shard(folder / f"shard-{number:05}.arrow", list(streams.values()), {}) as writer:
            ids = {}
            for name, stream in streams.items():
                shapes = np.array([grid.shape for grid in grids[name]], np.int32).reshape(len(part), stream.num_axes)
                ids[name] = (
                    np.concatenate([np.zeros(0, np.uint8), *(grid.reshape(-1) for grid in grids[name])]),
                    shapes,
                )
            writer.write([f"sample-{i}" for i in part], ids, {})
        entries.append(writer.entry)
    manifest = Manifest(streams, {}, tuple(entries), {}, {}, 0)
    write_json(folder / "dataset.json", manifest.to_dict())
    if carry:
        for name, tokenizer in tokenizers.items():
            tokenizer.save(folder / "tokenizers" / name)
    return str(folder)


def write_streams(folder, tokenizers, grids, options=None, sizes=None):
    """Write a shard set of any streams: for each its tokenizer, and one grid a sample.

    ``options`` are those of dataset.json, ``sizes`` the true sizes of the samples of streams that keep them.
    """
    streams = {
        name: StreamInfo(name, t.spec, t.fingerprint, dtype_for(t.spec.max_vocab_size), tokenizer_name(t))
        for name, t in tokenizers.items()
    }
    folder.mkdir(parents=True)
    ids = {}
    for name, stream in streams.items():
        shapes = np.array([grid.shape for grid in grids[name]], np.int32).reshape(-1, stream.num_axes)
        if sizes and name in sizes:
            shapes = np.concatenate([shapes, np.array(sizes[name], np.int32)], 1)
        ids[name] = (
            np.concatenate([np.asarray(grid).reshape(-1) for grid in grids[name]]).astype(stream.dtype),
            shapes,
        )
    keys = [f"sample-{i}" for i in range(len(next(iter(grids.values()))))]
    with open_shard(folder / "00000.arrow", list(streams.values()), {}) as writer:
        writer.write(keys, ids, {})
    write_json(folder / "dataset.json", Manifest(streams, {}, (writer.entry,), options or {}, {}, 0).to_dict())
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folder / "tokenizers" / name)
    return str(folder)


def text_samples(count, seed=0, longest=60):
    """Words of a tiny language, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    words = ["red", "apple", "green", "book", "sun", "blue", "cat"]
    return [(" ".join(rng.choice(words, rng.integers(1, longest // 4))), None) for _ in range(count)]


def picture_samples(count, seed=0, shapes=((3, 4),)):
    """Pictures whose shade is in the caption."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        shade = int(rng.integers(0, 4))
        shape = shapes[rng.integers(0, len(shapes))]
        picture = np.where(rng.random(shape) < 0.9, shade, rng.integers(0, 4, shape)).astype(np.uint8)
        samples.append((("black", "dark", "light", "white")[shade], picture))
    return samples
