"""What a neural audio codec is made of, as plain data: its network, of one of two bodies, and its quantizer.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tokenize_kit.tokenizers.learned.parts import build_parts, parts_to_dict
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig

BODIES: dict[str, Mapping[str, Any]] = {
    # EnCodec at 24 kHz (Defossez et al. 2022, arXiv 2210.13438).
    "strided": {
        "width": 32,
        "latent_channels": 128,
        "decoder_width": None,
        "strides": (2, 4, 5, 8),
        "kernel": 7,
        "latent_kernel": 7,
        "residual_kernel": 3,
        "dilations": (1,),
        "compression": 2,
        "activation": "elu",
        "lstm_layers": 2,
    },
    "frames": {
        "width": 256,
        "latent_channels": 128,
        "window": 640,
        "frame_hop": 160,
        "factor": 2,
        "encoder_blocks": (2, 3),
        "decoder_blocks": (4, 5),
        "block": "convolution",
        "block_kernel": 3,
        "expansion": 1,
    },
}
"""The options of each body with their defaults."""


@dataclass(frozen=True)
class CodecNetworkConfig:
    """The encoder and the decoder. An option that is None has the default of the body.

    Raises:
        ValueError: an option is given that the body does not have, or its value is out of range.
    """

    body: Literal["strided", "frames"] = "frames"
    """strided: convolutions on the waveform, each level slower and wider than the one before (SoundStream, EnCodec, DAC).
    frames: windows of the Fourier transform in and out, and blocks at their rate between (Vocos, WavTokenizer): much less
    work for each second of sound."""
    sample_rate: int = 16_000
    """Samples a second that a sound must have."""
    channels: Literal[1, 2] = 1
    """1 (mono) or 2 (stereo, coded together)."""
    causal: bool = False
    """No convolution sees what comes later, so that ids and sound can be handed out while the sound goes on."""
    weight_norm: bool = False
    """Train the length and the direction of the weights of convolutions apart (Salimans and Kingma 2016, arXiv 1602.07868), as
    EnCodec and DAC do. Nothing of it is left in a tokenizer."""
    width: int | None = None
    """The one dial for the size. strided: channels at the rate of the samples, doubled by each stride; 32.
    frames: channels of the blocks; 256."""
    latent_channels: int | None = None
    """Channels between the encoder and the quantizer, and between it and the decoder; 128."""
    decoder_width: int | None = None
    """strided: the same as ``width`` in the decoder (DAC: 96 with 64 in the encoder); that of the encoder."""
    strides: tuple[int, ...] | None = None
    """strided: how much slower each level is than the one before, from the samples on; (2, 4, 5, 8)."""
    kernel: int | None = None
    """strided: places that the first and the last convolution see; 7."""
    latent_kernel: int | None = None
    """strided: places that the convolution into the latent sees; 7 (DAC: 3)."""
    residual_kernel: int | None = None
    """strided: places that a residual unit sees; 3 (SoundStream, DAC: 7)."""
    dilations: tuple[int, ...] | None = None
    """strided: the residual units of each level, each with the distance between the places that it sees; (1,)
    (SoundStream, DAC: 1 3 9)."""
    compression: int | None = None
    """strided: how many times fewer channels there are inside a residual unit; 2 (SoundStream, DAC: 1)."""
    activation: Literal["elu", "snake"] | None = None
    """strided: elu, or DAC's snake, which is x + sin(ax)^2 / a with a learned a for each channel; a tanh at the end belongs to
    it. elu."""
    lstm_layers: int | None = None
    """strided: layers of an LSTM at the rate of the ids, in the encoder and in the decoder; 2 (SoundStream, DAC: 0)."""
    window: int | None = None
    """frames: samples of a window, even, at least two ``frame_hop``; 640."""
    frame_hop: int | None = None
    """frames: samples from one window to the next, even; 160."""
    factor: int | None = None
    """frames: windows for each id; 2."""
    encoder_blocks: tuple[int, int] | None = None
    """frames: blocks of the encoder at the rate of the windows, and at that of the ids; (2, 3)."""
    decoder_blocks: tuple[int, int] | None = None
    """frames: blocks of the decoder at the rate of the ids, and at that of the windows; (4, 5)."""
    block: Literal["convolution", "convnext"] | None = None
    """frames: what a block begins with, a convolution of all channels, or one of each channel by itself (ConvNeXt; it wants a
    ``block_kernel`` of 7 and an ``expansion`` of 3 or 4); convolution."""
    block_kernel: int | None = None
    """frames: places that a block sees; 3."""
    expansion: int | None = None
    """frames: how many times more channels there are inside a block; 1."""

    def __post_init__(self) -> None:
        if self.body not in BODIES:
            raise ValueError(f"body {self.body!r} is not one of {', '.join(BODIES)}")
        if self.channels not in (1, 2):
            raise ValueError(f"channels {self.channels} is not 1 (mono) or 2 (stereo)")
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate {self.sample_rate} must be at least 1")
        every = {name for options in BODIES.values() for name in options}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in every and value is not None:
                self._check_applies(item.name, value)
                _check_value(item.name, value)
        options = self.options()
        if self.body == "strided":
            compression = options["compression"]
            for name in ("width", "decoder_width"):
                if options[name] is not None and options[name] % compression:
                    raise ValueError(f"{name} {options[name]} is not a multiple of the compression {compression}")
        elif options["window"] < 2 * options["frame_hop"]:
            raise ValueError(
                f"window {options['window']} is less than two frame_hop {options['frame_hop']}: windows must overlap"
            )

    def _check_applies(self, name: str, value: object) -> None:
        if name not in BODIES[self.body]:
            bodies = ", ".join(body for body, options in BODIES.items() if name in options)
            raise ValueError(f"{name} {value} is not an option of the body {self.body}; it is for {bodies}")

    def options(self) -> dict[str, Any]:
        """Return every option of the body by name, with the defaults filled in."""
        defaults = BODIES[self.body]
        given = {name: getattr(self, name) for name in defaults}
        return {name: default if given[name] is None else given[name] for name, default in defaults.items()}

    @property
    def hop(self) -> int:
        """Samples that one step of the ids covers."""
        options = self.options()
        if self.body == "strided":
            return math.prod(options["strides"])
        return int(options["frame_hop"] * options["factor"])

    @property
    def rate(self) -> float:
        """Steps of the ids a second."""
        return self.sample_rate / self.hop

    @property
    def dim(self) -> int:
        """Channels of the latent."""
        return int(self.options()["latent_channels"])


_CHOICES = {"activation": ("elu", "snake"), "block": ("convolution", "convnext")}
_EVEN = ("window", "frame_hop")
_LEAST = {"lstm_layers": 0, "encoder_blocks": 0, "decoder_blocks": 0}


def _check_value(name: str, value: Any) -> None:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} {value!r} is not one of {', '.join(_CHOICES[name])}")
        return
    least, values = _LEAST.get(name, 1), value if isinstance(value, tuple) else (value,)
    if not values or min(values) < least:
        raise ValueError(f"{name} {value} must be at least {least}")
    if name in ("encoder_blocks", "decoder_blocks") and len(values) != 2:
        raise ValueError(f"{name} {value} must be two numbers, one for each rate")
    if name in _EVEN and value % 2:
        raise ValueError(f"{name} {value} must be even, so that a window has a middle")


@dataclass(frozen=True)
class CodecConfig:
    """Encoder, quantizer and decoder of one neural audio codec."""

    network: CodecNetworkConfig = field(default_factory=CodecNetworkConfig)
    """The encoder and the decoder."""
    quantizer: QuantizerConfig = field(default_factory=lambda: QuantizerConfig(kind="rvq"))
    """What turns vectors into ids."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return parts_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CodecConfig:
        """Build a configuration from `to_dict`'s form.

        Raises:
            ValueError: a part or option is unknown (the message suggests the closest one), missing or out of range.
        """
        return cls(**build_parts("a codec", {"network": CodecNetworkConfig, "quantizer": QuantizerConfig}, values))
