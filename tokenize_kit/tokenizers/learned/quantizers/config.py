"""Which quantizer, with which options: plain data that a command line can read without loading torch.

A kind is registered in the entry point group ``tokenize_kit.quantizers`` as a `Kind`: where its class is, and which options it
has with which defaults. A package of its own can bring one; its options are among the fields of `QuantizerConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from tokenize_kit.protocol.registry import QUANTIZERS
from tokenize_kit.tokenizers.learned.parts import LEFT_OUT_UNSET


class Kind(NamedTuple):
    """A kind of quantizer."""

    place: str
    """``module:class``; the class is called with the channels and, by name, with all the options below."""
    options: Mapping[str, Any]
    """The options of `QuantizerConfig` that the kind has, with their defaults."""


_PACKAGE = "tokenize_kit.tokenizers.learned.quantizers"
_LEARNED = {
    "codebook_size": 1024,
    "codebook_dim": None,
    "l2_normalised": False,
    "codebook_update": "ema",
    "ema_decay": 0.99,
    "kmeans_init": True,
    "dead_code_threshold": 0.1,
    "rotation_trick": False,
}
_SIGNS = {"codebook_size": 1024, "entropy_temperature": 0.01, "entropy_group_bits": 12}


class Kinds:
    """The kinds of the house, in the order in which they are listed; the entry points name them as ``Kinds.NAME``."""

    vq = Kind(f"{_PACKAGE}.vq:VectorQuantizer", _LEARNED)
    simvq = Kind(
        f"{_PACKAGE}.simvq:SimVectorQuantizer", {"codebook_size": 1024, "codebook_dim": None, "rotation_trick": False}
    )
    gumbel = Kind(
        f"{_PACKAGE}.gumbel:GumbelQuantizer",
        {
            "codebook_size": 1024,
            "gumbel_temperature_start": 1.0,
            "gumbel_temperature_end": 1 / 16,
            "straight_through": False,
        },
    )
    fsq = Kind(f"{_PACKAGE}.fsq:FiniteScalarQuantizer", {"levels": (8, 5, 5, 5)})
    lfq = Kind(f"{_PACKAGE}.lfq:LookupFreeQuantizer", _SIGNS)
    bsq = Kind(f"{_PACKAGE}.lfq:BinarySphericalQuantizer", _SIGNS)
    rvq = Kind(f"{_PACKAGE}.rvq:ResidualVectorQuantizer", {"codebooks": 8, **_LEARNED, "quantizer_dropout": 0.0})
    library = Kind(
        f"{_PACKAGE}.library:LibraryQuantizer",
        {"library_class": "VectorQuantize", "library_options": (), "library_defaults": ()},
    )


def quantizer_kinds() -> list[str]:
    """Names of all kinds that can be built here: those of the house, then others, sorted."""
    house = [name for name, value in vars(Kinds).items() if isinstance(value, Kind)]
    return [*house, *(name for name in QUANTIZERS.names() if name not in house)]


def kind_named(name: str) -> Kind:
    """Return the kind that is registered as ``name``.

    Raises:
        ValueError: there is none.
    """
    if name not in QUANTIZERS:
        raise ValueError(f"quantizer kind {name!r} is not one of {', '.join(quantizer_kinds())}")
    return cast("Kind", QUANTIZERS.get(name))


if TYPE_CHECKING:
    QuantizerKind: TypeAlias = str
else:
    # A command line offers what the installed packages bring.
    QuantizerKind: TypeAlias = Literal[tuple(quantizer_kinds())]


@dataclass(frozen=True)
class QuantizerConfig:
    """What turns the vectors of the encoder into ids. An option that is None has the default of the kind.

    Raises:
        ValueError: an option is given that the kind does not have, or its value is out of range.
    """

    kind: QuantizerKind = "vq"
    """vq: learned codebook; simvq: fixed codebook behind a learned linear layer; gumbel: categorical, as in DALL-E;
    fsq: rounding of a few channels; lfq, bsq: the signs of a few channels (bsq: on a sphere); rvq: several vq in turn;
    library: a class of vector-quantize-pytorch with its own options."""
    codebook_size: int | None = None
    """How many codes: vq, simvq, gumbel, rvq (each codebook), lfq, bsq (a power of two); 1024. fsq has ``levels`` instead."""
    codebook_dim: int | None = None
    """vq, rvq: look up in this many dimensions, with a linear layer before and after (ViT-VQGAN, LlamaGen, DAC: 8).
    simvq: dimensions of the fixed codebook. None means the channels of the latent; vq and rvq then have no linear layers."""
    levels: tuple[int, ...] | None = None
    """fsq: levels of each channel, 2 or more; their product is the number of codes. (8, 5, 5, 5); the paper's sets are
    8 6 5 for 2^8 codes, 8 5 5 5 for 2^10, 7 5 5 5 5 for 2^12, 8 8 8 6 5 for 2^14, 8 8 8 5 5 5 for 2^16."""
    codebooks: int | None = None
    """rvq: how many codebooks, each quantizing what the ones before left over; 8."""
    l2_normalised: bool | None = None
    """vq, rvq: scale vectors and codes to length 1, so that the angle decides; False."""
    codebook_update: Literal["ema", "gradient"] | None = None
    """vq, rvq: how codes move: to the moving average of their vectors, or along the gradient of the codebook loss; ema."""
    ema_decay: float | None = None
    """vq, rvq with codebook_update ema: memory of the moving average, in [0, 1); 0.99."""
    kmeans_init: bool | None = None
    """vq, rvq: start with the k-means of the first batch; True."""
    dead_code_threshold: float | None = None
    """vq, rvq: replace a code by a vector of the batch when its share of the tokens (moving average) is below this part of
    an equal share; 0 replaces none. In [0, 1); 0.1."""
    rotation_trick: bool | None = None
    """vq, simvq, rvq: give the encoder the gradient turned and scaled as the vector was, instead of as it is; False."""
    entropy_temperature: float | None = None
    """lfq, bsq: how soft the assignment is that the entropy loss sees; lfq 0.01 (MAGVIT-v2, Open-MAGVIT2),
    bsq 1 (its authors' code)."""
    entropy_group_bits: int | None = None
    """lfq, bsq: the entropy of the batch is exact over up to this many bits, and summed over groups above that; 12."""
    gumbel_temperature_start: float | None = None
    """gumbel: temperature at the start of the run; 1 (DALL-E)."""
    gumbel_temperature_end: float | None = None
    """gumbel: temperature at its end, reached along a cosine; 1/16 (DALL-E)."""
    straight_through: bool | None = None
    """gumbel: the decoder sees one code, with the gradient of the mixture, instead of the mixture; False (DALL-E)."""
    quantizer_dropout: float | None = None
    """rvq: the part of the training samples that use a random number of the first codebooks only, in [0, 1]; it makes every
    prefix decode well (DAC: 0.5); 0."""
    library_class: str | None = field(default=None, metadata=LEFT_OUT_UNSET)
    """library: which class of vector-quantize-pytorch; VectorQuantize. The others that fit: ResidualVQ, GroupedResidualVQ, SimVQ,
    ResidualSimVQ, FSQ, ResidualFSQ, GroupedResidualFSQ, LFQ, ResidualLFQ, GroupedResidualLFQ."""
    library_options: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT_UNSET)
    """library: options of the class as words, such as ``num_quantizers=4 codebook_size=256 kmeans_init=true levels=8,5,5``. Not
    given, codebook_size is 1024, num_quantizers 8 and levels 8,5,5,5; the others have the library's defaults."""
    library_defaults: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT_UNSET)
    """library: filled in: the defaults that the library had for all other options when the configuration was made."""

    def __post_init__(self) -> None:
        kind_named(self.kind)
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "kind" and value is not None:
                self._check_applies(item.name, value)
                _check_value(item.name, value)
        if self.kind in ("lfq", "bsq"):
            size = self.options()["codebook_size"]
            if size & (size - 1):
                raise ValueError(
                    f"codebook_size {size} is not a power of two, which {self.kind} needs (one sign a bit)"
                )
        if self.kind == "rvq" and self.l2_normalised and self.codebook_dim is None:
            raise ValueError(
                "l2_normalised of rvq needs a codebook_dim (8, say): codes of length 1 cannot sum to a latent of any length"
            )
        if self.ema_decay is not None and self.codebook_update == "gradient":
            raise ValueError(f"ema_decay {self.ema_decay} is for codebook_update 'ema'; it is 'gradient' here")
        if self.kind == "library":
            self._complete_library()

    def _complete_library(self) -> None:
        from tokenize_kit.tokenizers.learned.quantizers.library_options import completed

        name = self.options()["library_class"]
        options, defaults = completed(name, self.library_options or (), self.library_defaults)
        for field_name, value in (("class", name), ("options", options), ("defaults", defaults)):
            object.__setattr__(self, f"library_{field_name}", value)

    def _check_applies(self, name: str, value: object) -> None:
        if name not in kind_named(self.kind).options:
            if self.kind == "library":
                raise ValueError(
                    f"{name} {value} is not an option of the quantizer library; give the options of its class as words: "
                    "--quantizer.library-options NAME=VALUE"
                )
            kinds = ", ".join(kind for kind in quantizer_kinds() if name in kind_named(kind).options)
            raise ValueError(f"{name} {value} is not an option of the quantizer {self.kind}; it is for {kinds}")

    def options(self) -> dict[str, Any]:
        """Return every option of the kind by name, with the defaults filled in."""
        defaults = kind_named(self.kind).options
        given = {name: getattr(self, name) for name in defaults}
        return {name: default if given[name] is None else given[name] for name, default in defaults.items()}


_MINIMUM = {"codebook_size": 2, "codebook_dim": 1, "codebooks": 1, "entropy_group_bits": 1}
_POSITIVE = ("entropy_temperature", "gumbel_temperature_start", "gumbel_temperature_end")
_BELOW_ONE = ("ema_decay", "dead_code_threshold")


def _check_value(name: str, value: Any) -> None:
    if name in _MINIMUM and value < _MINIMUM[name]:
        raise ValueError(f"{name} {value} must be at least {_MINIMUM[name]}")
    if name in _POSITIVE and not value > 0:
        raise ValueError(f"{name} {value} must be positive")
    if name in _BELOW_ONE and not 0 <= value < 1:
        raise ValueError(f"{name} {value} must be in [0, 1)")
    if name == "quantizer_dropout" and not 0 <= value <= 1:
        raise ValueError(f"quantizer_dropout {value} must be in [0, 1]")
    if name == "codebook_update" and value not in ("ema", "gradient"):
        raise ValueError(f"codebook_update {value!r} is not one of ema, gradient")
    if name == "levels" and (not value or min(value) < 2):
        raise ValueError(f"levels {value} must be one or more whole numbers of at least 2")
