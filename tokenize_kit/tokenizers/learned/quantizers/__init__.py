"""Every quantizer behind one door, `build_quantizer`.

A kind is a file with a class and a `Kind` in the entry point group ``tokenize_kit.quantizers`` (or registered with
`register_quantizer`). Importing this package loads no torch; building a quantizer does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from tokenize_kit.protocol.registry import QUANTIZERS
from tokenize_kit.tokenizers.learned.quantizers.config import Kind, QuantizerConfig, kind_named

if TYPE_CHECKING:
    from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer

__all__ = ["Kind", "QuantizerConfig", "build_quantizer", "register_quantizer"]


def register_quantizer(name: str, kind: Kind) -> None:
    """Make a kind known in this process; packages use the entry point group ``tokenize_kit.quantizers``.

    Raises:
        ValueError: the name belongs to another one.
    """
    QUANTIZERS.register(name, kind)


def build_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """Return a fresh quantizer for latents of ``dim`` channels; its weights are drawn from torch's global generator."""
    module, name = kind_named(config.kind).place.split(":")
    return cast("Quantizer", getattr(import_module(module), name)(dim, **config.options()))
