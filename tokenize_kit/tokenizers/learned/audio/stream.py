"""A sound in pieces: ids as soon as they are certain, and samples as soon as they are final.

Whatever pieces come in, the network is given blocks of one length at fixed places, so that the ids and the samples are the same
to the bit:

    samples |<-- look-ahead + block -->|<-- block -->|<-- block -->|<- rest ->|
    ids     |<------- block ------->|<-- block -->|<-- block -->|<--- rest --->|

In an eager stream of a causal network, a block that is not full yet is computed too, with zeros (ids of 0) where nothing has
come in. What is certain of it is handed out; its state is forgotten, and the block is computed again when there is more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_kit.media.audio import check_audio
from tokenize_kit.protocol import check_ids

if TYPE_CHECKING:
    from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer


class Encoding:
    """One sound on its way to ids.

    Args:
        codec: the tokenizer.
        eager: hand out ids before their block is full.
    """

    def __init__(self, codec: CodecTokenizer, eager: bool = False) -> None:
        network = codec.config.network
        self._codec, self._eager, self._causal = codec, eager, network.causal
        self._hop, self._steps = network.hop, codec.block
        self._room = codec.block * network.hop + codec.lookahead
        self._state = codec.model.encoder.start()
        self._waiting = _Queue(1)
        self._seen = self._made = self._given = 0

    def push(self, samples: Tensor) -> Tensor:
        """Take samples (C, n), and return the ids (k, ...) that are certain now."""
        self._waiting.add(samples)
        self._seen += samples.shape[1]
        made = []
        # Without eagerness one sample is kept back: the network is told which piece is the last.
        while len(self._waiting) >= self._room + (not self._eager):
            made.append(self._block(self._waiting.take(self._room)))
        if self._eager:
            sure = (len(self._waiting) - (self._room - self._steps * self._hop)) // self._hop
            if sure > self._given:
                ids, _ = self._codec.encode_block(_filled(self._waiting.look(), self._room, 1), self._state, False)
                made.append(ids[self._given : sure])
                self._given = sure
        return self._joined(made)

    def finish(self) -> Tensor:
        """Return the remaining ids.

        Raises:
            ValueError: there were no samples.
        """
        if not self._seen:
            raise ValueError("a sound without a sample has no ids; push some first")
        steps, made = -(-self._seen // self._hop), []
        while self._made < steps:
            rest = steps - self._made
            if self._causal:
                rest -= self._given
                block = self._waiting.take(min(self._room, len(self._waiting)))
                made.append(self._block(_filled(block, self._room, 1))[:rest])
            else:
                missing = steps * self._hop - self._seen
                last = F.pad(self._waiting.take(len(self._waiting)), (0, missing))
                ids, self._state = self._codec.encode_block(last, self._state, True)
                assert len(ids) == rest
                self._made += rest
                made.append(ids)
        return self._joined(made)

    def _block(self, samples: Tensor) -> Tensor:
        ids, self._state = self._codec.encode_block(samples, self._state, False)
        assert len(ids) == self._steps
        ids, self._given = ids[self._given :], 0
        self._made += self._steps
        self._room = self._steps * self._hop
        return ids

    def _joined(self, made: list[Tensor]) -> Tensor:
        return torch.cat(made) if made else self._codec.no_ids()


class Decoding:
    """Ids of one sound on their way to samples.

    Args:
        codec: the tokenizer.
        eager: hand out samples before their block is full.
    """

    def __init__(self, codec: CodecTokenizer, eager: bool = False) -> None:
        self._codec, self._eager, self._causal = codec, eager, codec.config.network.causal
        self._hop, self._steps = codec.config.network.hop, codec.block
        self._state = codec.model.decoder.start()
        self._waiting = _Queue(0)
        self._codebooks: torch.Size | None = None
        self._seen = self._given = self._done = self._shown = 0

    def push(self, ids: Tensor) -> Tensor:
        """Take ids (k, ...), and return the samples (C, n) that are final.

        Raises:
            ValueError: they have another number of codebooks than the ids before.
        """
        if self._codebooks is not None and ids.shape[1:] != self._codebooks:
            raise ValueError(
                f"ids of {ids.shape[1]} codebooks after ids of {self._codebooks[0]}: use one number in a stream"
            )
        self._codebooks = ids.shape[1:]
        self._waiting.add(ids)
        self._seen += len(ids)
        made = []
        while len(self._waiting) >= self._steps + (not self._eager):
            samples, self._state = self._codec.decode_block(self._waiting.take(self._steps), self._state, False)
            made.append(samples[:, self._given :])
            self._given = self._shown = 0
        if self._eager and len(self._waiting) > self._shown:
            self._shown = len(self._waiting)
            block = _filled(self._waiting.look(), self._steps, 0)
            samples, _ = self._codec.decode_block(block, self._state, False, self._shown)
            made.append(samples[:, self._given :])
            self._given = samples.shape[1]
        return self._joined(made)

    def finish(self, length: int | None = None) -> Tensor:
        """Return the remaining samples, up to the true ``length`` of the sound if it is given.

        Raises:
            ValueError: there were no ids, they do not cover ``length`` samples, or more have been handed out.
        """
        covered, before = self._seen * self._hop, self._done
        if not self._seen:
            raise ValueError("no ids, no sound; push some first")
        if length is not None and not 0 <= covered - length < self._hop:
            raise ValueError(f"ids that cover {covered:,} samples are not those of a sound of {length:,}")
        if length is not None and length < before:
            raise ValueError(
                f"{before:,} samples of a sound of {length:,} have been handed out; cut them off, or do without eager"
            )
        rest = self._waiting.take(len(self._waiting))
        steps = None
        if self._causal and len(rest):
            rest, steps = _filled(rest, self._steps, 0), len(rest)
        samples, self._state = self._codec.decode_block(rest, self._state, True, steps)
        made = self._joined([samples[:, self._given :]])
        return made if length is None else made[:, : length - before]

    def _joined(self, made: list[Tensor]) -> Tensor:
        samples = torch.cat(made, 1) if made else torch.empty(self._codec.config.network.channels, 0)
        self._done += samples.shape[1]
        return samples


class CodecStream:
    """Encodes a sound while it comes in, and decodes ids while they come in; the two know nothing of each other.

    `finish` and `finish_decode` end a sound; what comes after them is a new one.

    Args:
        codec: the tokenizer.
        eager: hand out everything as soon as it is certain, `CodecTokenizer.delay` samples after it came in, instead of in
            whole blocks. Each call then computes a block.

    Raises:
        ValueError: an eager stream of a network that is not causal.
    """

    def __init__(self, codec: CodecTokenizer, eager: bool = False) -> None:
        if eager and not codec.config.network.causal:
            raise ValueError(
                "an eager stream needs a causal codec: in this one, the end of a sound changes what is before it"
            )
        self._codec, self._eager = codec, eager
        self._encoding, self._decoding = Encoding(codec, eager), Decoding(codec, eager)

    def encode(self, samples: Tensor) -> Tensor:
        """Take float32 samples (C, n) at the codec's rate, and return the ids that are certain now, int64 (k, ...).

        Raises:
            TypeError, ValueError: as `CodecTokenizer.encode`.
        """
        return self._encoding.push(check_audio(samples, self._codec.spec.channels))

    def finish(self) -> Tensor:
        """End the sound that was encoded, and return its remaining ids.

        Raises:
            ValueError: there were no samples.
        """
        ids = self._encoding.finish()
        self._encoding = Encoding(self._codec, self._eager)
        return ids

    def decode(self, ids: Tensor) -> Tensor:
        """Take ids (k, ...), and return the samples that are final, float32 (C, n).

        Raises:
            TypeError, ValueError: as `CodecTokenizer.decode`, or the number of codebooks is not that of the ids before.
        """
        return self._decoding.push(check_ids(ids, self._codec.spec))

    def finish_decode(self, length: int | None = None) -> Tensor:
        """End the sound that was decoded, and return its remaining samples, up to its true ``length`` if that is given.

        Raises:
            ValueError: there were no ids, they do not cover ``length`` samples, or more were handed out already.
        """
        samples = self._decoding.finish(length)
        self._decoding = Decoding(self._codec, self._eager)
        return samples


class _Queue:
    """Pieces of a tensor along one axis, first in, first out."""

    def __init__(self, axis: int) -> None:
        self._axis, self._parts, self._length = axis, list[Tensor](), 0

    def __len__(self) -> int:
        return self._length

    def add(self, part: Tensor) -> None:
        # A copy, because the caller may fill the same memory again.
        self._parts.append(part.clone())
        self._length += part.shape[self._axis]

    def look(self) -> Tensor:
        """Return all that is there, and keep it."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts, self._axis)]
        return self._parts[0]

    def take(self, count: int) -> Tensor:
        """Return the first ``count`` places, and keep the rest."""
        whole = self.look()
        self._parts = [whole.narrow(self._axis, count, self._length - count)]
        self._length -= count
        return whole.narrow(self._axis, 0, count)


def _filled(part: Tensor, length: int, axis: int) -> Tensor:
    """Return ``part`` with zeros after it, ``length`` places along the axis."""
    missing = list(part.shape)
    missing[axis] = length - part.shape[axis]
    return torch.cat([part, part.new_zeros(missing)], axis)
