"""What a video autoencoder is made of, as plain data: its network, of one of the bodies, and its quantizer.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tokenize_kit.protocol import MAX_FRAME_RATE
from tokenize_kit.tokenizers.learned.parts import build_parts, parts_to_dict
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig

BODIES: dict[str, Mapping[str, Any]] = {
    "latent": {
        "width": 192,
        "latent_channels": 64,
        "encoder_blocks": 4,
        "decoder_blocks": 6,
        "expansion": 2,
        "haar": False,
        "band_blocks": 0,
    },
    "convolutional": {
        "width": 32,
        "multipliers": (1, 2, 4),
        "encoder_levels": (1, 1, 2),
        "decoder_levels": (1, 2, 2),
        "latent_channels": 64,
        "convolution": "factorised",
        "temporal_kernel": 3,
        "padding": "repeat",
        "norm": "rms",
        "attention": False,
        "attention_window": 8,
    },
}
"""The options of each body with their defaults."""
HEAD_WIDTH = 64
"""Channels of a head of attention."""


@dataclass(frozen=True)
class VideoNetworkConfig:
    """The encoder and the decoder. An option that is None has the default of the body.

    Raises:
        ValueError: an option is given that the body does not have, or its value is out of range.
    """

    body: Literal["latent", "convolutional"] = "latent"
    """latent: linear patches, then all work at the resolution of the ids, in matrix products (LeanVAE).
    convolutional: levels of residual blocks, each with half the sides and some with half the frames of the one before (MAGVIT-v2,
    Cosmos). It can begin with the weights of a picture tokenizer."""
    channels: int = 3
    """Channels of a frame: 1 (grey), 3 (RGB) or 4 (RGBA)."""
    frame_rate: float = 12.0
    """Frames a second that a video must have."""
    temporal_factor: int = 4
    """Frames that one step of the ids covers, after the first frame, which has a step of its own: 2, 4 or 8."""
    spatial_factor: int = 8
    """Pixels that one id covers along each side: 4, 8 or 16."""
    width: int | None = None
    """The one dial for the size. latent: channels of the blocks; 192.
    convolutional: channels of the first level; 32."""
    latent_channels: int | None = None
    """Channels between the encoder and the quantizer, and between it and the decoder; 64."""
    encoder_blocks: int | None = None
    """latent: blocks of the encoder; 4."""
    decoder_blocks: int | None = None
    """latent: blocks of the decoder; 6."""
    expansion: int | None = None
    """latent: how many times more channels there are inside a feed-forward layer; 2."""
    haar: bool | None = None
    """latent: split frames into low and high bands by a step of the Haar transform, the first frame in space alone; False."""
    band_blocks: int | None = None
    """latent: of the blocks of the encoder and of the decoder so many are beside the pixels, where the low band has a quarter of
    the channels and the high bands have the rest, apart from each other. It wants ``haar``; 0."""
    multipliers: tuple[int, ...] | None = None
    """convolutional: channels of each level as a multiple of ``width``; each level after the first halves the sides.
    Squares of pixels that enter as channels are the rest of the spatial factor; 1 2 4."""
    encoder_levels: tuple[int, ...] | None = None
    """convolutional: residual blocks of each level in the encoder; 1 1 2."""
    decoder_levels: tuple[int, ...] | None = None
    """convolutional: residual blocks of each level in the decoder; 1 2 2."""
    convolution: Literal["factorised", "full"] | None = None
    """convolutional: over a frame and then over the time (factorised), or over both at once; factorised."""
    temporal_kernel: int | None = None
    """convolutional: frames that a convolution sees, its own and those before; 3."""
    padding: Literal["repeat", "zeros"] | None = None
    """convolutional: what convolutions see before the first frame, this again (Cosmos) or zeros; repeat."""
    norm: Literal["rms", "group"] | None = None
    """convolutional: rms, over the channels of each place, or GroupNorm over each frame, as VQGAN has it. No norm sees two
    frames; rms."""
    attention: bool | None = None
    """convolutional: attention at the lowest resolution, over the places of each frame, and over the steps at each place;
    False."""
    attention_window: int | None = None
    """convolutional: steps that attention sees at a place, its own and those before; 1: none over the time; 8."""

    def __post_init__(self) -> None:
        if self.body not in BODIES:
            raise ValueError(f"body {self.body!r} is not one of {', '.join(BODIES)}")
        if self.channels not in (1, 3, 4):
            raise ValueError(f"channels {self.channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
        if isinstance(self.frame_rate, bool) or not 0 < self.frame_rate <= MAX_FRAME_RATE:
            raise ValueError(f"frame_rate {self.frame_rate} is outside 0 to {MAX_FRAME_RATE} frames a second")
        for name, allowed in (("temporal_factor", (2, 4, 8)), ("spatial_factor", (4, 8, 16))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)} is not one of {', '.join(map(str, allowed))}")
        every = {name for options in BODIES.values() for name in options}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in every and value is not None:
                self._check_applies(item.name, value)
                _check_value(item.name, value)
        if self.body == "latent":
            self._check_bands()
        else:
            self._check_levels()

    def _check_applies(self, name: str, value: object) -> None:
        if name not in BODIES[self.body]:
            bodies = ", ".join(body for body, options in BODIES.items() if name in options)
            raise ValueError(f"{name} {value} is not an option of the body {self.body}; it is for {bodies}")

    def _check_bands(self) -> None:
        options = self.options()
        bands, width = options["band_blocks"], options["width"]
        if not bands:
            return
        if not options["haar"]:
            raise ValueError(f"band_blocks {bands} needs haar: there are no bands without it")
        if width % 4:
            raise ValueError(f"width {width} must be a multiple of 4 with band_blocks: a quarter is for the low band")
        for name in ("encoder_blocks", "decoder_blocks"):
            if bands > options[name]:
                raise ValueError(f"band_blocks {bands} is more than {name} {options[name]}, of which they are a part")

    def _check_levels(self) -> None:
        options = self.options()
        multipliers = options["multipliers"]
        for name in ("encoder_levels", "decoder_levels"):
            if len(options[name]) != len(multipliers):
                raise ValueError(
                    f"{name} {options[name]} must have a number for each of the {len(multipliers)} levels "
                    f"(multipliers {multipliers})"
                )
        if self.spatial_factor % 2 ** (len(multipliers) - 1):
            raise ValueError(
                f"multipliers {multipliers}: {len(multipliers)} levels make a spatial factor of "
                f"{2 ** (len(multipliers) - 1)} at least, more than {self.spatial_factor}; use fewer"
            )
        if options["attention"]:
            attention_heads(options["width"] * multipliers[-1])

    def options(self) -> dict[str, Any]:
        """Return every option of the body by name, with the defaults filled in."""
        defaults = BODIES[self.body]
        given = {name: getattr(self, name) for name in defaults}
        return {name: default if given[name] is None else given[name] for name, default in defaults.items()}

    @property
    def dim(self) -> int:
        """Channels of the latent."""
        return int(self.options()["latent_channels"])


def attention_heads(channels: int) -> int:
    """Return how many heads attention over so many channels has.

    Raises:
        ValueError: they cannot be parted among heads of 64.
    """
    heads = max(1, channels // HEAD_WIDTH)
    if channels % heads:
        raise ValueError(f"attention over {channels} channels needs a multiple of {HEAD_WIDTH}; change the width")
    return heads


_CHOICES = {"convolution": ("factorised", "full"), "padding": ("repeat", "zeros"), "norm": ("rms", "group")}
_LEAST = {"encoder_blocks": 0, "decoder_blocks": 0, "band_blocks": 0, "encoder_levels": 0, "decoder_levels": 0}


def _check_value(name: str, value: Any) -> None:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} {value!r} is not one of {', '.join(_CHOICES[name])}")
        return
    least, values = _LEAST.get(name, 1), value if isinstance(value, tuple) else (value,)
    if not values or (not isinstance(value, bool) and min(values) < least):
        raise ValueError(f"{name} {value} must be at least {least}")


@dataclass(frozen=True)
class VideoConfig:
    """Encoder, quantizer and decoder of one video autoencoder."""

    network: VideoNetworkConfig = field(default_factory=VideoNetworkConfig)
    """The encoder and the decoder."""
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(kind="fsq", levels=(8, 8, 8, 6, 5)))
    """What turns vectors into ids."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return parts_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VideoConfig:
        """Build a configuration from `to_dict`'s form.

        Raises:
            ValueError: a part or option is unknown (the message suggests the closest one), missing or out of range.
        """
        parts = {"network": VideoNetworkConfig, "quantizer": QuantizerConfig}
        return cls(**build_parts("a video autoencoder", parts, values))
