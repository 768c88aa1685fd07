"""A trained neural audio codec as a tokenizer: sounds of any length, batches, pieces, and a folder of safetensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from tokenize_kit.media.audio import check_audio
from tokenize_kit.protocol import (
    Tokenizer,
    TokenSpec,
    check_grid,
    fingerprint_of,
)
from tokenize_kit.tokenizers.learned.audio.config import CodecConfig
from tokenize_kit.tokenizers.learned.audio.model import Codec, fold_weight_norm
from tokenize_kit.tokenizers.learned.audio.stream import CodecStream, Coder, Decoding, Encoding
from tokenize_kit.tokenizers.learned.folder import is_mixed, load_network, save_network
from tokenize_kit.tokenizers.learned.threads import each

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

NAME = "codec"
BLOCK_SECONDS = 1.0
"""About how much sound goes through the network at once."""


class CodecTokenizer(Tokenizer):
    """Turns sounds of any length into the ids of a neural audio codec; see `CodecConfig`.

    The grid is ``(time, codebook)``, or ``(time,)`` if the quantizer has one codebook. The first n codebooks are the same however
    many are used, and decode alone. A sound whose length is no multiple of the hop is continued with silence; `decode_sized` cuts
    that off again. Arithmetic is float32 whatever the model was trained in, unless `to` says otherwise.

    The ids of a sound are those of its pieces of ``block`` steps, pushed through the network one after the other (see
    `pieces.py`). So the memory does not grow with the length, and ids and samples are the same to the bit in any batch and in
    any pieces. For the same reason one sound is computed in one thread on a CPU; several sounds run side by side.

    Args:
        model: trained; it is put into evaluation mode and its weights are no longer changed. One with weight norm is copied.
        block: steps of the ids in a piece; None: as many as cover about a second.

    Raises:
        ValueError: the block is not positive.
    """

    def __init__(self, model: Codec, block: int | None = None) -> None:
        network = model.config.network
        if block is not None and block < 1:
            raise ValueError(f"block {block} must be at least 1 step of the ids")
        plain = fold_weight_norm(model) if network.weight_norm else model
        self.model = plain.float().eval().requires_grad_(False)
        self.block = block or max(1, round(BLOCK_SECONDS * network.rate))
        self._coder = Coder(self.model, self.block)
        sizes, hop = model.quantizer.codebook_sizes, network.hop
        known: dict[str, Any] = {"lossless": False, "channels": network.channels, "sample_rate": network.sample_rate}
        if model.quantizer.codebook_axis:
            self._spec = TokenSpec("audio", sizes, ("time", "codebook"), (hop, None), **known)
        else:
            self._spec = TokenSpec("audio", sizes[0], ("time",), (hop,), **known)

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects."""
        return self._spec

    @property
    def config(self) -> CodecConfig:
        """What the network is made of."""
        return self.model.config

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over the configuration, the block and all weights."""
        return fingerprint_of(NAME, self._options(), self.model.state_dict())

    @cached_property
    def lookahead(self) -> int:
        """Samples after its own hop that a step of the ids looks at."""
        return self._coder.lookahead

    @cached_property
    def delay(self) -> int:
        """Samples that must have come in after a sample before it can be heard again, at most: the latency of an eager stream."""
        encoder, decoder, hop = self.model.encoder, self.model.decoder, self.config.network.hop
        return max(encoder.needs(decoder.needs(count)) - count for count in range(1, hop + 1))

    def to(self, device: torch.device | str, precision: str = "32-true") -> Self:
        """Compute on another device, or with bfloat16; ids and sounds still come back on the CPU."""
        self._coder.mixed = is_mixed(precision)
        self.model.to(device)
        return self

    def encode(self, sample: Sample) -> Tensor:
        """Turn float32 ``(C, samples)`` in [-1, 1] into ids, int64 ``(samples / hop, Q)`` rounded up, or ``(samples / hop,)``."""
        return self._encoded(check_audio(sample, self._spec.channels))

    def decode(self, ids: Tensor) -> Sample:
        """Turn ids ``(T, n)``, of all or of the first n codebooks, back into float32 ``(C, T * hop)`` in [-1, 1]."""
        return self._decoded((check_grid(ids, self._spec), None))

    def encode_batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Encode sounds of mixed lengths, several side by side."""
        return each(self._encoded, [check_audio(sample, self._spec.channels) for sample in samples], self._coder.device)

    def decode_batch(self, grids: Sequence[Tensor]) -> list[Sample]:
        """Decode grids of mixed lengths, several side by side."""
        return list(each(self._decoded, [(check_grid(ids, self._spec), None) for ids in grids], self._coder.device))

    def decode_sized(self, grids: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> list[Sample]:
        """Decode grids, each cut to its true number of samples."""
        pairs = [(check_grid(ids, self._spec), size[0]) for ids, size in zip(grids, sizes, strict=True)]
        return list(each(self._decoded, pairs, self._coder.device))

    def encode_pieces(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode a sound that comes in pieces (C, n), in bounded memory: yield its ids in pieces.

        Raises:
            TypeError, ValueError: as `encode`, for any piece.
        """
        encoding = Encoding(self._coder)
        for piece in pieces:
            if len(ids := encoding.push(check_audio(piece, self._spec.channels))):
                yield ids
        yield encoding.finish()

    def decode_pieces(self, grids: Iterable[Tensor], length: int | None = None) -> Iterator[Tensor]:
        """Decode ids that come in pieces (k, ...), in bounded memory: yield the samples in pieces (C, n).

        Args:
            grids: the pieces.
            length: the true number of samples, to which the sound is cut.

        Raises:
            TypeError, ValueError: as `decode`, for any piece, or they do not cover ``length`` samples.
        """
        decoding = Decoding(self._coder)
        for ids in grids:
            if (samples := decoding.push(check_grid(ids, self._spec))).shape[1]:
                yield samples
        if (samples := decoding.finish(length)).shape[1]:
            yield samples

    def stream(self, eager: bool = False) -> CodecStream:
        """Return a stream that encodes and decodes pieces as they come in; see `CodecStream`.

        Raises:
            ValueError: an eager stream of a network that is not causal.
        """
        return CodecStream(self._coder, self._spec, eager)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``tokenizer_config.json`` into ``folder``."""
        save_network(folder, self, self.model, self._options())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; every tensor must be there, and no other."""
        model, settings = load_network(folder, NAME, ["block"], lambda config: Codec(CodecConfig.from_dict(config)))
        return cls(model, **settings)

    def _options(self) -> dict[str, Any]:
        return {"config": self.config.to_dict(), "block": self.block}

    def _encoded(self, samples: Tensor) -> Tensor:
        encoding = Encoding(self._coder)
        return torch.cat([encoding.push(samples), encoding.finish()])

    def _decoded(self, given: tuple[Tensor, int | None]) -> Tensor:
        decoding = Decoding(self._coder)
        return torch.cat([decoding.push(given[0]), decoding.finish(given[1])], 1)
