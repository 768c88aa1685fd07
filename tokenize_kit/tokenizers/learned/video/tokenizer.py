"""A trained video autoencoder as a tokenizer: videos and pictures of any size and length, batches, pieces, tiles, a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from tokenize_kit.media.video import check_video
from tokenize_kit.protocol import Tokenizer, TokenSpec, check_grid, fingerprint_of
from tokenize_kit.tokenizers.learned.folder import is_mixed, load_network, save_network
from tokenize_kit.tokenizers.learned.threads import each, side_by_side
from tokenize_kit.tokenizers.learned.video.config import VideoConfig
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.stream import Coder, Decoding, Encoding, VideoStream

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample

NAME = "video"
BLOCK_STEPS = 4
"""Steps of the ids that go through the network at once."""
TILE_PIXELS = 512
"""Frames with a longer side are cut into tiles of this side."""


class VideoTokenizer(Tokenizer):
    """Turns videos of any size and length, and pictures as videos of one frame, into the ids of a video autoencoder.

    The grid is ``(time, height, width)``, with a last axis ``codebook`` if the quantizer has several. The first frame has a step
    of its own, then each ``temporal_factor`` frames are one; a last step that is not whole is filled up with the last frame, and
    sides that are no multiples of ``spatial_factor`` with the last row and column. `decode_sized` cuts both off again.
    Arithmetic is float32 whatever the model was trained in, unless `to` says otherwise.

    The ids of a video are those of its pieces, the first frame and then each ``block`` steps, pushed through the network one
    after the other (see `stream.py`). So the memory does not grow with the length, and ids and frames are the same to the bit in
    any batch and in any pieces. For the same reason one video is computed in one thread on a CPU; several run side by side.

    Args:
        model: trained; it is put into evaluation mode and its weights are no longer changed.
        block: steps of the ids in a piece.
        tile: side of the tiles, in pixels, of frames with a longer side.

    Raises:
        ValueError: the block is not positive, or the tile is smaller than the spatial factor.
    """

    def __init__(self, model: VideoAutoencoder, block: int = BLOCK_STEPS, tile: int = TILE_PIXELS) -> None:
        network = model.config.network
        time, side = network.temporal_factor, network.spatial_factor
        if block < 1:
            raise ValueError(f"block {block} must be at least 1 step of the ids")
        if tile < side:
            raise ValueError(f"tile {tile} is smaller than the spatial factor {side}")
        self.model = model.float().eval().requires_grad_(False)
        self.block, self.tile = block, tile
        self._coder = Coder(self.model, block, tile // side)
        sizes, axes = model.quantizer.codebook_sizes, ("time", "height", "width")
        known: dict[str, Any] = {
            "lossless": False,
            "channels": network.channels,
            "frame_rate": float(network.frame_rate),
        }
        if model.quantizer.codebook_axis:
            self._spec = TokenSpec("video", sizes, (*axes, "codebook"), (time, side, side, None), **known)
        else:
            self._spec = TokenSpec("video", sizes[0], axes, (time, side, side), **known)

    @property
    def spec(self) -> TokenSpec:
        """What this tokenizer is and expects."""
        return self._spec

    @property
    def config(self) -> VideoConfig:
        """What the network is made of."""
        return self.model.config

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over the configuration, the block, the tile and all weights."""
        return fingerprint_of(NAME, self._options(), self.model.state_dict())

    @property
    def lookahead(self) -> int:
        """Frames after its own that a step of the ids looks at, and steps after its own that a frame does: none."""
        return 0

    @property
    def delay(self) -> int:
        """Frames that must have come in after a frame before it can be seen again, at most: the latency of an eager stream."""
        return self.config.network.temporal_factor - 1

    def to(self, device: torch.device | str, precision: str = "32-true") -> Self:
        """Compute on another device, or with bfloat16; ids and frames still come back on the CPU."""
        self._coder.mixed = is_mixed(precision)
        self.model.to(device)
        return self

    def encode(self, sample: Sample) -> Tensor:
        """Turn a uint8 video (T, C, H, W) into ids, int64 (t, h, w), or with a last axis of codebooks.

        h and w are H and W over the spatial factor, rounded up; for t see `time.py`.
        """
        return self._encoded(check_video(sample, self._spec.channels))

    def decode(self, ids: Tensor) -> Sample:
        """Turn ids, of all or of the first n codebooks, back into all the frames that they cover, uint8 (T, C, H, W)."""
        return self._decoded((check_grid(ids, self._spec), None))

    def encode_batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Encode videos of mixed sizes and lengths, several side by side."""
        return each(self._encoded, [check_video(sample, self._spec.channels) for sample in samples], self._coder.device)

    @contextmanager
    def encode_ahead(self) -> Iterator[Callable[[Sequence[Sample]], Callable[[], list[Tensor]]]]:
        """See `tokenize_kit.protocol.PipelinedEncoder`: no thread waits for the end of a batch."""
        with side_by_side(torch.get_num_threads(), self._coder.device) as begin:

            def begin_batch(samples: Sequence[Sample]) -> Callable[[], list[Tensor]]:
                videos = [check_video(sample, self._spec.channels) for sample in samples]
                running = [begin(self._encoded, video) for video in videos]
                return lambda: [wait() for wait in running]

            yield begin_batch

    def decode_batch(self, grids: Sequence[Tensor]) -> list[Sample]:
        """Decode grids of mixed sizes and lengths, several side by side."""
        return list(each(self._decoded, [(check_grid(ids, self._spec), None) for ids in grids], self._coder.device))

    def decode_sized(self, grids: Sequence[Tensor], sizes: Sequence[tuple[int, ...]]) -> list[Sample]:
        """Decode grids, each cut to its true (T, H, W)."""
        side = self.config.network.spatial_factor
        pairs = []
        for ids, size in zip(grids, sizes, strict=True):
            ids, (_, *sides) = check_grid(ids, self._spec), size
            rows, columns = (count * side for count in ids.shape[1:3])
            if not all(0 <= covered - true < side for covered, true in zip((rows, columns), sides, strict=True)):
                raise ValueError(
                    f"a grid that covers {rows}x{columns} pixels is not that of frames of {sides[0]}x{sides[1]}"
                )
            pairs.append((ids, size))
        return list(each(self._decoded, pairs, self._coder.device))

    def encode_pieces(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Encode a video that comes in pieces (n, C, H, W), in bounded memory: yield its ids in pieces.

        Raises:
            TypeError, ValueError: as `encode`, for any piece, or it has other sides than those before.
        """
        encoding = Encoding(self._coder)
        for piece in pieces:
            for part in torch.split(check_video(piece, self._spec.channels), self._block_frames):
                if len(ids := encoding.push(part)):
                    yield ids
        if len(ids := encoding.finish()):
            yield ids

    def decode_pieces(self, grids: Iterable[Tensor], length: int | None = None) -> Iterator[Tensor]:
        """Decode ids that come in pieces (k, h, w), in bounded memory: yield the frames in pieces (n, C, H, W).

        Args:
            grids: the pieces.
            length: the true number of frames, to which the video is cut. The sides are those that the grid covers.

        Raises:
            TypeError, ValueError: as `decode`, for any piece, or they do not cover ``length`` frames.
        """
        decoding = Decoding(self._coder)
        for grid in grids:
            for ids in torch.split(check_grid(grid, self._spec), self.block):
                if len(frames := decoding.push(ids)):
                    yield frames
        if len(frames := decoding.finish(length)):
            yield frames

    def stream(self, eager: bool = False) -> VideoStream:
        """Return a stream that encodes and decodes pieces as they come in; see `VideoStream`."""
        return VideoStream(self._coder, self._spec, eager)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``tokenizer_config.json`` into ``folder``."""
        save_network(folder, self, self.model, self._options())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; every tensor must be there, and no other."""
        model, settings = load_network(
            folder, NAME, ["block", "tile"], lambda config: VideoAutoencoder(VideoConfig.from_dict(config))
        )
        return cls(model, **settings)

    def _options(self) -> dict[str, Any]:
        return {"config": self.config.to_dict(), "block": self.block, "tile": self.tile}

    @property
    def _block_frames(self) -> int:
        return self.block * self.config.network.temporal_factor

    def _encoded(self, frames: Tensor) -> Tensor:
        return torch.cat(list(self.encode_pieces([frames])))

    def _decoded(self, given: tuple[Tensor, tuple[int, ...] | None]) -> Tensor:
        ids, size = given
        if size is None:
            return torch.cat(list(self.decode_pieces([ids])))
        length, height, width = size
        frames = [part[..., :height, :width] for part in self.decode_pieces([ids], length)]
        return torch.cat(frames)
