"""What a video autoencoder is made of, as plain data: its network, of one of the bodies, and its quantizer.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

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
}
"""The options of each body with their defaults."""
MAX_FRAME_RATE = 1000.0


@dataclass(frozen=True)
class VideoNetworkConfig:
    """The encoder and the decoder. An option that is None has the default of the body.

    Raises:
        ValueError: an option is given that the body does not have, or its value is out of range.
    """

    body: Literal["latent"] = "latent"
    """latent: linear patches, then all work at the resolution of the ids, in matrix products (LeanVAE)."""
    channels: int = 3
    """Channels of a frame: 1 (grey), 3 (RGB) or 4 (RGBA)."""
    frame_rate: float = 12.0
    """Frames a second that a video must have."""
    temporal_factor: int = 4
    """Frames that one step of the ids covers, after the first frame, which has a step of its own: 2, 4 or 8."""
    spatial_factor: int = 8
    """Pixels that one id covers along each side: 4, 8 or 16."""
    width: int | None = None
    """The one dial for the size. latent: channels of the blocks; 192."""
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

    def __post_init__(self) -> None:
        if self.body not in BODIES:
            raise ValueError(f"body {self.body!r} is not one of {', '.join(BODIES)}")
        if self.channels not in (1, 3, 4):
            raise ValueError(f"channels {self.channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
        if isinstance(self.frame_rate, bool) or not 0 < self.frame_rate <= MAX_FRAME_RATE:
            raise ValueError(f"frame_rate {self.frame_rate} is outside 0 to {MAX_FRAME_RATE:g} frames a second")
        for name, allowed in (("temporal_factor", (2, 4, 8)), ("spatial_factor", (4, 8, 16))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)} is not one of {', '.join(map(str, allowed))}")
        every = {name for options in BODIES.values() for name in options}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in every and value is not None:
                self._check_applies(item.name, value)
                if not isinstance(value, bool) and value < _LEAST.get(item.name, 1):
                    raise ValueError(f"{item.name} {value} must be at least {_LEAST.get(item.name, 1)}")
        if self.body == "latent":
            self._check_bands()

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

    def options(self) -> dict[str, Any]:
        """Return every option of the body by name, with the defaults filled in."""
        defaults = BODIES[self.body]
        given = {name: getattr(self, name) for name in defaults}
        return {name: default if given[name] is None else given[name] for name, default in defaults.items()}

    @property
    def dim(self) -> int:
        """Channels of the latent."""
        return int(self.options()["latent_channels"])


_LEAST = {"encoder_blocks": 0, "decoder_blocks": 0, "band_blocks": 0}


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
