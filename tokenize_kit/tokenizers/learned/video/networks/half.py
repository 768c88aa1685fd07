"""What the encoder and the decoder of every body are: layers that take videos whole or in pieces along the time."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.streaming import Chain, Layer, State


class Half(nn.Module):
    """Base of the encoders, which turn pixels (B, C, T, H, W) into latents (B, D, t, h, w), and of the decoders, which turn back.

    A piece is some whole steps: the first frame of the first piece is a step, and then each ``temporal_factor`` frames are one.
    All that belongs to the steps of a piece comes out at once, since nothing looks at later ones.

    Args:
        layers: what is between, on (B, T, H, W, C).
        radius: how far in space, in ids, they look; None where no distance is enough.
    """

    def __init__(self, layers: Iterable[Layer], radius: int | None) -> None:
        super().__init__()
        self.layers, self.radius = Chain(layers), radius

    def forward(self, x: Tensor) -> Tensor:
        """Return what a whole video becomes."""
        return self.leave(self.layers(self.enter(x.movedim(1, -1)))).movedim(-1, 1)

    def start(self) -> State:
        """Return the state before the first piece."""
        return self.layers.start()

    def push(self, x: Tensor, state: State, last: bool, /) -> tuple[Tensor, State]:
        """Return what one more piece becomes, and the new state."""
        y, state = self.layers.push(self.enter(x.movedim(1, -1)), state, last)
        return self.leave(y).movedim(-1, 1), state

    def enter(self, x: Tensor) -> Tensor:
        """Return what the layers are given of frames (B, T, H, W, C): each by itself."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """Return what becomes of what the layers give, (B, T, H, W, C): each frame by itself."""
        return x
