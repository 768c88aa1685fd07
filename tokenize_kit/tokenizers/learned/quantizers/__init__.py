"""Every quantizer behind one door, `build_quantizer`.

A kind is a file with a class and an entry in `tokenize_kit.tokenizers.learned.quantizers.config.KINDS`. Importing this package
loads no torch; building a quantizer does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from tokenize_kit.tokenizers.learned.quantizers.config import KINDS, QuantizerConfig

if TYPE_CHECKING:
    from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer

__all__ = ["QuantizerConfig", "build_quantizer"]


def build_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """Return a fresh quantizer for latents of ``dim`` channels; its weights are drawn from torch's global generator."""
    module, name = KINDS[config.kind].place.split(":")
    return cast("Quantizer", getattr(import_module(module), name)(dim, **config.options()))
