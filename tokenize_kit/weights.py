"""Weights from safetensors files: read, and put where they belong, or refused with the first name that does not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def load_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Copy tensors into others of the same names; every name, shape and type must agree.

    Args:
        own: by name; what to fill.
        tensors: by name.
        source: where they come from, for the error message.

    Raises:
        ValueError: a name is missing or unknown, or a shape or type differs.
    """
    if missing := sorted(set(own) - set(tensors)):
        raise ValueError(f"{source} lacks the tensor {missing[0]!r} ({len(missing)} missing); it is of another model")
    if unknown := sorted(set(tensors) - set(own)):
        raise ValueError(
            f"{source} has an unknown tensor {unknown[0]!r} ({len(unknown)} unknown); it is of another model"
        )
    for name, value in own.items():
        if value.shape != tensors[name].shape or value.dtype != tensors[name].dtype:
            raise ValueError(
                f"{source}: tensor {name!r} is {tensors[name].dtype} {tuple(tensors[name].shape)}, the model has "
                f"{value.dtype} {tuple(value.shape)}"
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy") from None
