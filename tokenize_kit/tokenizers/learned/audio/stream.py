"""A sound in pieces: ids as soon as they are certain, and samples as soon as they are final.

Whatever pieces come in, the network is given pieces of one length at fixed places (see `pieces.py`), so that the ids and the
samples are the same to the bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenize_kit.media.audio import check_audio
from tokenize_kit.protocol import TokenSpec, check_ids
from tokenize_kit.tokenizers.learned.audio.model import Codec
from tokenize_kit.tokenizers.learned.pieces import Aligned
from tokenize_kit.tokenizers.learned.streaming import State
from tokenize_kit.tokenizers.learned.threads import alone


class Coder:
    """The network of a codec as sounds go through it: a piece at a time, without gradients, on a CPU in one thread.

    Args:
        model: the network.
        steps: of the ids in a piece.
    """

    def __init__(self, model: Codec, steps: int) -> None:
        self.model, self.network, self.steps = model, model.config.network, steps
        self.mixed = False
        """Whether matrix products and convolutions are computed with bfloat16; else all is float32."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    @property
    def lookahead(self) -> int:
        """Samples after its own hop that a step of the ids looks at."""
        return self.model.encoder.needs(1) - self.network.hop

    def encode(self, samples: Tensor, state: State, last: bool, steps: int | None) -> tuple[Tensor, State]:
        """Push one piece (C, n) through the encoder; return its ids (k, ...), the first ``steps``, and the new state."""
        with alone(self.device, self.mixed):
            latents, state = self.model.encoder.push(samples[None].to(self.device), state, last)
            return self.model.quantizer.encode(latents)[0].cpu()[:steps], state

    def decode(self, ids: Tensor, state: State, last: bool, steps: int | None) -> tuple[Tensor, State]:
        """Push one piece of ids through the decoder, of which the first ``steps`` count; return samples (C, n) and the state."""
        with alone(self.device, self.mixed):
            codes = self.model.quantizer.decode(ids[None].to(self.device))
            samples, state = self.model.decoder.push(codes, state, last, steps)
            return samples[0].clamp(-1, 1).cpu(), state

    def no_ids(self) -> Tensor:
        """Return a grid of no steps."""
        quantizer = self.model.quantizer
        codebooks = (len(quantizer.codebook_sizes),) if quantizer.codebook_axis else ()
        return torch.empty((0, *codebooks), dtype=torch.int64)


class Encoding:
    """One sound on its way to ids.

    Args:
        coder: the network.
        eager: hand out ids before their piece is full.
    """

    def __init__(self, coder: Coder, eager: bool = False) -> None:
        self._coder, self._hop = coder, coder.network.hop
        self._pieces = Aligned(
            coder.encode,
            coder.model.encoder.start(),
            coder.steps * self._hop,
            ahead=coder.lookahead,
            step=self._hop,
            axis=1,
            eager=eager,
        )

    def push(self, samples: Tensor) -> Tensor:
        """Take samples (C, n), and return the ids (k, ...) that are certain now."""
        return self._joined(self._pieces.push(samples))

    def finish(self) -> Tensor:
        """Return the remaining ids.

        Raises:
            ValueError: there were no samples.
        """
        pieces = self._pieces
        if not pieces.seen:
            raise ValueError("a sound without a sample has no ids; push some first")
        steps, made = -(-pieces.seen // self._hop), []
        while (missing := steps - pieces.handed) > 0:
            if self._coder.network.causal:
                made.append(pieces.advance(pieces.filled())[:missing])
            else:
                last = F.pad(pieces.rest(), (0, steps * self._hop - pieces.seen))
                made.append(pieces.advance(last, True))
                assert len(made[-1]) == missing
        return self._joined(made)

    def _joined(self, made: list[Tensor]) -> Tensor:
        return torch.cat(made) if made else self._coder.no_ids()


class Decoding:
    """Ids of one sound on their way to samples.

    Args:
        coder: the network.
        eager: hand out samples before their piece is full.
    """

    def __init__(self, coder: Coder, eager: bool = False) -> None:
        self._network = coder.network
        start = coder.model.decoder.start()
        self._pieces = Aligned(coder.decode, start, coder.steps, made_axis=1, eager=eager)
        self._codebooks: torch.Size | None = None

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
        return self._joined(self._pieces.push(ids))

    def finish(self, length: int | None = None) -> Tensor:
        """Return the remaining samples, up to the true ``length`` of the sound if it is given.

        Raises:
            ValueError: there were no ids, they do not cover ``length`` samples, or more have been handed out.
        """
        pieces, hop = self._pieces, self._network.hop
        covered, before = pieces.seen * hop, pieces.handed
        if not pieces.seen:
            raise ValueError("no ids, no sound; push some first")
        if length is not None and not 0 <= covered - length < hop:
            raise ValueError(f"ids that cover {covered:,} samples are not those of a sound of {length:,}")
        if length is not None and length < before:
            raise ValueError(
                f"{before:,} samples of a sound of {length:,} have been handed out; cut them off, or do without eager"
            )
        if self._network.causal and (steps := pieces.waiting):
            made = pieces.advance(pieces.filled(), True, steps)
        else:
            made = pieces.advance(pieces.rest(), True)
        made = self._joined([made])
        return made if length is None else made[:, : length - before]

    def _joined(self, made: list[Tensor]) -> Tensor:
        return torch.cat(made, 1) if made else torch.empty(self._network.channels, 0)


class CodecStream:
    """Encodes a sound while it comes in, and decodes ids while they come in; the two know nothing of each other.

    `finish` and `finish_decode` end a sound; what comes after them is a new one.

    Args:
        coder: the network.
        spec: what goes in and comes out.
        eager: hand out everything as soon as it is certain, `CodecTokenizer.delay` samples after it came in, instead of in
            whole pieces. Each call then computes a piece.

    Raises:
        ValueError: an eager stream of a network that is not causal.
    """

    def __init__(self, coder: Coder, spec: TokenSpec, eager: bool = False) -> None:
        if eager and not coder.network.causal:
            raise ValueError(
                "an eager stream needs a causal codec: in this one, the end of a sound changes what is before it"
            )
        self._coder, self._spec, self._eager = coder, spec, eager
        self._encoding, self._decoding = Encoding(coder, eager), Decoding(coder, eager)

    def encode(self, samples: Tensor) -> Tensor:
        """Take float32 samples (C, n) at the codec's rate, and return the ids that are certain now, int64 (k, ...).

        Raises:
            TypeError, ValueError: as `CodecTokenizer.encode`.
        """
        return self._encoding.push(check_audio(samples, self._spec.channels))

    def finish(self) -> Tensor:
        """End the sound that was encoded, and return its remaining ids.

        Raises:
            ValueError: there were no samples.
        """
        ids = self._encoding.finish()
        self._encoding = Encoding(self._coder, self._eager)
        return ids

    def decode(self, ids: Tensor) -> Tensor:
        """Take ids (k, ...), and return the samples that are final, float32 (C, n).

        Raises:
            TypeError, ValueError: as `CodecTokenizer.decode`, or the number of codebooks is not that of the ids before.
        """
        return self._decoding.push(check_ids(ids, self._spec))

    def finish_decode(self, length: int | None = None) -> Tensor:
        """End the sound that was decoded, and return its remaining samples, up to its true ``length`` if that is given.

        Raises:
            ValueError: there were no ids, they do not cover ``length`` samples, or more were handed out already.
        """
        samples = self._decoding.finish(length)
        self._decoding = Decoding(self._coder, self._eager)
        return samples
