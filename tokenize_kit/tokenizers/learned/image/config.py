"""What a learned tokenizer is made of, as plain data: the network, the quantizer, and the presets of the field.

Only the standard library is imported, so that a command line can show every option at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal

from tokenize_kit.tokenizers.learned.quantizers.config import LEFT_OUT_UNSET, QuantizerConfig


@dataclass(frozen=True)
class NetworkConfig:
    """A convolutional encoder and its mirror, in the line of VQGAN (Esser et al. 2021, arXiv 2012.09841).

    Pictures are cut into squares of ``patch`` pixels, whose values become channels. Then come one or more levels, each with
    half the resolution of the one before and its own number of residual blocks, and attention at the last one if wanted.
    """

    channels: int = 3
    """Channels of a picture: 1 (grey), 3 (RGB) or 4 (RGBA)."""
    width: int = 32
    """Channels of the first level: the one dial for the size of the network."""
    multipliers: tuple[int, ...] = (1, 3)
    """Channels of each level as a multiple of ``width``; each level after the first halves the resolution."""
    encoder_blocks: tuple[int, ...] = (0, 1)
    """Residual blocks of each level in the encoder."""
    decoder_blocks: tuple[int, ...] = (1, 2)
    """Residual blocks of each level in the decoder."""
    patch: int = 2
    """Side of the squares of pixels that enter as channels; 1 is VQGAN's stem. 2 or 4 leave out the levels at which a CPU
    spends most of its time."""
    attention: bool = False
    """Self-attention between two blocks at the lowest resolution. What one id says then depends on the whole picture."""
    norm: Literal["rms", "group"] = "rms"
    """rms: each place by itself, over its channels, so that large pictures can be cut into tiles without a seam.
    group: GroupNorm over the whole picture, as VQGAN has it."""
    latent_channels: int = 64
    """Channels between the encoder and the quantizer, and between it and the decoder."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3, 4):
            raise ValueError(f"channels {self.channels} is not 1 (grey), 3 (RGB) or 4 (RGBA)")
        for name in ("width", "patch", "latent_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        levels = len(self.multipliers)
        if not levels or min(self.multipliers) < 1:
            raise ValueError(f"multipliers {self.multipliers} must be one or more positive numbers, one for each level")
        for name in ("encoder_blocks", "decoder_blocks"):
            blocks = getattr(self, name)
            if len(blocks) != levels or min(blocks) < 0:
                raise ValueError(
                    f"{name} {blocks} must have a number for each of the {levels} levels (multipliers {self.multipliers})"
                )
        if self.norm not in ("rms", "group"):
            raise ValueError(f"norm {self.norm!r} is not one of rms, group")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @property
    def downsample_factor(self) -> int:
        """Pixels that one id covers along each side."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))

    @property
    def local(self) -> bool:
        """Whether what an id says depends on a bounded neighbourhood alone."""
        return not self.attention and self.norm == "rms"


@dataclass(frozen=True)
class AutoencoderConfig:
    """Encoder, quantizer and decoder of one learned tokenizer."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    """The encoder and the decoder."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """What turns vectors into ids."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse."""
        return parts_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderConfig:
        """Build a configuration from `to_dict`'s form.

        Raises:
            ValueError: a part or field is unknown (the message suggests the closest one), missing or out of range.
        """
        return cls(**build_parts("an autoencoder", {"network": NetworkConfig, "quantizer": QuantizerConfig}, values))


def parts_to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass whose fields are dataclasses of options as a JSON-ready dictionary of dictionaries."""
    return {part.name: _options_to_dict(getattr(config, part.name)) for part in fields(config)}


def _options_to_dict(options: Any) -> dict[str, Any]:
    """Return options as they are saved: lists for tuples, without those that are `LEFT_OUT_UNSET`."""
    values = asdict(options)
    return {
        item.name: list(value) if isinstance(value := values[item.name], tuple) else value
        for item in fields(options)
        if values[item.name] is not None or not item.metadata.keys() >= LEFT_OUT_UNSET.keys()
    }


def build_parts(what: str, parts: Mapping[str, type[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Build each part of a configuration from the form of `parts_to_dict`.

    Args:
        what: what the configuration is of, for the error message.
        parts: the dataclass of each part.
        values: the options of each part.

    Raises:
        ValueError: a part is missing or unknown, or as `build_options`.
    """
    if set(values) != set(parts):
        raise ValueError(f"{what}'s configuration has the parts {sorted(parts)}, got {sorted(values)}")
    return {name: build_options(kind, values[name]) for name, kind in parts.items()}


def build_options(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Build a dataclass of options from a dictionary, in which lists stand for tuples.

    Raises:
        ValueError: an option is unknown (the message suggests the closest one) or out of range.
    """
    known = [item.name for item in fields(kind)]
    for name in values:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown option {name!r} of {kind.__name__}{hint}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
