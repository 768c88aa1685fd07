"""A video in pieces: ids as soon as they are certain, and frames as soon as they are final.

Whatever pieces come in, the network is given pieces of one number of steps at fixed places (see `pieces.py`): the first frame
by itself, which has a step of its own, and then each ``block`` steps. So a picture is the first frame of any video, and ids and
frames are the same to the bit in any pieces. Large frames are cut into tiles besides, each of which has a memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tokenize_kit.media.video import check_video
from tokenize_kit.protocol import TokenSpec, check_ids
from tokenize_kit.tokenizers.learned.pieces import Aligned, Cut, Piece, computed, window
from tokenize_kit.tokenizers.learned.pixels import from_pixels, to_pixels
from tokenize_kit.tokenizers.learned.streaming import State
from tokenize_kit.tokenizers.learned.threads import alone
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.time import covers, frames_of, latent_steps

GLOBAL_MARGIN = 8
"""Ids that a tile sees beyond its own where the network looks at whole frames, so that no distance is enough."""


class Coder:
    """The network of a video autoencoder as videos go through it: a piece at a time, without gradients, on a CPU in one thread.

    Args:
        model: the network.
        steps: of the ids in a piece, but for the first one.
        tile: ids along a side of a tile.
    """

    def __init__(self, model: VideoAutoencoder, steps: int, tile: int) -> None:
        self.model, self.network, self.steps = model, model.config.network, steps
        margins = (GLOBAL_MARGIN if half.radius is None else half.radius for half in (model.encoder, model.decoder))
        self._encoder_cut, self._decoder_cut = (Cut(tile, margin, margin) for margin in margins)
        self.mixed = False
        """Whether matrix products and convolutions are computed with bfloat16; else all is float32."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def encode(self, frames: Tensor, state: State, last: bool, steps: int | None) -> tuple[Tensor, State]:
        """Push one piece, uint8 (n, C, H, W), through the encoder.

        Returns:
            Its ids (k, h, w) or (k, h, w, Q), the first ``steps``, and the new state: that of the network for each tile.
        """
        side, encoder = self.network.spatial_factor, self.model.encoder
        states = _Turns(state, encoder.start)

        def tile(piece: Piece) -> Tensor:
            part = to_pixels(window(frames, piece, side).to(self.device)).transpose(0, 1)[None]
            latents = states.push(encoder.push, part, last)
            return self.model.quantizer.encode(latents)[0].cpu()

        shape = [-(-size // side) for size in frames.shape[2:]]
        with alone(self.device, self.mixed):
            ids = computed(shape, (self._encoder_cut,) * 2, tile, first=1)
        return ids[:steps], states.after()

    def decode(self, ids: Tensor, state: State, last: bool, steps: int | None) -> tuple[Tensor, State]:
        """Push one piece of ids through the decoder.

        Returns:
            The frames, uint8 (n, C, H, W), of the first ``steps``, and the new state.
        """
        side, time, decoder = self.network.spatial_factor, self.network.temporal_factor, self.model.decoder
        states = _Turns(state, decoder.start)

        def tile(piece: Piece) -> Tensor:
            rows, columns = (slice(span.read_start, span.read_stop) for span in piece)
            codes = self.model.quantizer.decode(ids[None, :, rows, columns].to(self.device))
            made = states.push(decoder.push, codes, last)
            return from_pixels(made[0].transpose(0, 1)).cpu()

        with alone(self.device, self.mixed):
            frames = computed(ids.shape[1:3], (self._decoder_cut,) * 2, tile, first=2, factors=(side, side))
        if steps is not None:
            frames = frames[: frames_of(steps, time) if state is None else steps * time]
        return frames, states.after()

    def no_ids(self, sides: Sequence[int]) -> Tensor:
        """Return a grid of no steps of frames of ``sides``."""
        quantizer = self.model.quantizer
        codebooks = (len(quantizer.codebook_sizes),) if quantizer.codebook_axis else ()
        rows, columns = (-(-side // self.network.spatial_factor) for side in sides)
        return torch.empty((0, rows, columns, *codebooks), dtype=torch.int64)

    def no_frames(self, rows: int, columns: int) -> Tensor:
        """Return a video of no frames, of grids of so many rows and columns."""
        side = self.network.spatial_factor
        return torch.empty((0, self.network.channels, rows * side, columns * side), dtype=torch.uint8)


class _Turns:
    """The states of the tiles of a frame, which come in turn."""

    def __init__(self, before: State, start: Callable[[], State]) -> None:
        self._before, self._start, self._after = before, start, list[State]()

    def push(self, push: Callable[[Tensor, State, bool], tuple[Tensor, State]], part: Tensor, last: bool) -> Tensor:
        """Push what comes next through the tile whose turn it is."""
        state = self._start() if self._before is None else self._before[len(self._after)]
        made, state = push(part, state, last)
        self._after.append(state)
        return made

    def after(self) -> State:
        """Return the states after this turn."""
        return tuple(self._after)


class Encoding:
    """One video on its way to ids.

    Args:
        coder: the network.
        eager: hand out ids before their piece is full.
    """

    def __init__(self, coder: Coder, eager: bool = False) -> None:
        self._coder, self._time = coder, coder.network.temporal_factor
        size = coder.steps * self._time
        # The end of a video changes nothing before it, so that no frame need be kept back.
        self._pieces = Aligned(coder.encode, None, size, ahead=1 - size, step=self._time, eager=eager, hold=False)
        self._sides: torch.Size | None = None
        self._last: Tensor | None = None

    def push(self, frames: Tensor) -> Tensor:
        """Take uint8 frames (n, C, H, W), and return the ids (k, ...) that are certain now.

        Raises:
            ValueError: they have other sides than the frames before.
        """
        sides = frames.shape[2:]
        if self._sides is not None and sides != self._sides:
            before, now = ("x".join(map(str, each)) for each in (self._sides, sides))
            raise ValueError(f"frames of {now} after frames of {before}: one video has frames of one size")
        self._sides, self._last = sides, frames[-1:].clone()
        return self._joined(self._pieces.push(frames))

    def finish(self) -> Tensor:
        """Return the remaining ids. The last frame is repeated until its step is whole.

        Raises:
            ValueError: there were no frames.
        """
        if self._last is None:
            raise ValueError("a video without a frame has no ids; push some first")
        pieces = self._pieces
        if not pieces.waiting:
            return self._joined([])
        rest = pieces.rest()
        steps = -(-len(rest) // self._time)
        rest = torch.cat([rest, self._last.expand(steps * self._time - len(rest), -1, -1, -1)])
        empty = rest.new_zeros(self._coder.steps * self._time - len(rest), *rest.shape[1:])
        made = pieces.advance(torch.cat([rest, empty]), True, steps)
        assert pieces.handed == latent_steps(pieces.seen, self._time)
        return self._joined([made])

    def _joined(self, made: list[Tensor]) -> Tensor:
        assert self._sides is not None
        return torch.cat(made) if made else self._coder.no_ids(self._sides)


class Decoding:
    """Ids of one video on their way to frames.

    Args:
        coder: the network.
        eager: hand out frames before their piece is full.
    """

    def __init__(self, coder: Coder, eager: bool = False) -> None:
        self._coder = coder
        self._pieces = Aligned(coder.decode, None, coder.steps, ahead=1 - coder.steps, eager=eager)
        self._shape: torch.Size | None = None

    def push(self, ids: Tensor) -> Tensor:
        """Take ids (k, h, w) or (k, h, w, n), and return the frames, uint8 (n, C, H, W), that are final.

        Raises:
            ValueError: they have other sides, or another number of codebooks, than the ids before.
        """
        shape = ids.shape[1:]
        if self._shape is not None and shape != self._shape:
            before, now = ("x".join(map(str, each)) for each in (self._shape, shape))
            raise ValueError(
                f"ids of {now} a step after ids of {before}: one video has one size and number of codebooks"
            )
        self._shape = shape
        return self._joined(self._pieces.push(ids))

    def finish(self, length: int | None = None) -> Tensor:
        """Return the remaining frames, up to the true ``length`` of the video if it is given.

        Raises:
            ValueError: there were no ids, they do not cover ``length`` frames, or more have been handed out.
        """
        pieces, time = self._pieces, self._coder.network.temporal_factor
        if not pieces.seen:
            raise ValueError("no ids, no video; push some first")
        before = pieces.handed
        if length is not None and not covers(pieces.seen, length, time):
            covered = frames_of(pieces.seen, time)
            raise ValueError(f"ids that cover {covered:,} frames are not those of a video of {length:,}")
        if length is not None and length < before:
            raise ValueError(
                f"{before:,} frames of a video of {length:,} have been handed out; cut them off, or do without eager"
            )
        steps = pieces.waiting
        made = self._joined([pieces.advance(pieces.filled(), True, steps)] if steps else [])
        return made if length is None else made[: length - before]

    def _joined(self, made: list[Tensor]) -> Tensor:
        assert self._shape is not None
        return torch.cat(made) if made else self._coder.no_frames(*self._shape[:2])


class VideoStream:
    """Encodes a video while it comes in, and decodes ids while they come in; the two know nothing of each other.

    `finish` and `finish_decode` end a video; what comes after them is a new one, which may have another size.

    Args:
        coder: the network.
        spec: what goes in and comes out.
        eager: hand out everything as soon as it is certain, a step's ids with its last frame and a step's frames with its ids,
            instead of in whole pieces. Each call then computes a piece.
    """

    def __init__(self, coder: Coder, spec: TokenSpec, eager: bool = False) -> None:
        self._coder, self._spec, self._eager = coder, spec, eager
        self._encoding, self._decoding = Encoding(coder, eager), Decoding(coder, eager)

    def encode(self, frames: Tensor) -> Tensor:
        """Take uint8 frames (n, C, H, W) at the tokenizer's rate, and return the ids that are certain now, int64 (k, ...).

        Raises:
            TypeError, ValueError: as `VideoTokenizer.encode`, or the sides are not those of the frames before.
        """
        return self._encoding.push(check_video(frames, self._spec.channels))

    def finish(self) -> Tensor:
        """End the video that was encoded, and return its remaining ids.

        Raises:
            ValueError: there were no frames.
        """
        ids = self._encoding.finish()
        self._encoding = Encoding(self._coder, self._eager)
        return ids

    def decode(self, ids: Tensor) -> Tensor:
        """Take ids (k, ...), and return the frames that are final, uint8 (n, C, H, W).

        Raises:
            TypeError, ValueError: as `VideoTokenizer.decode`, or the grid of a step is not that of the ids before.
        """
        return self._decoding.push(check_ids(ids, self._spec))

    def finish_decode(self, length: int | None = None) -> Tensor:
        """End the video that was decoded, and return its remaining frames, up to its true ``length`` if that is given.

        Raises:
            ValueError: there were no ids, they do not cover ``length`` frames, or more were handed out already.
        """
        frames = self._decoding.finish(length)
        self._decoding = Decoding(self._coder, self._eager)
        return frames
