"""The folder of a learned tokenizer: ``model.safetensors`` and ``tokenizer_config.json``, whatever its modality."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import nn

from tokenize_kit.files import atomic_write
from tokenize_kit.protocol import Tokenizer, check_target, read_config_of, write_config
from tokenize_kit.weights import load_tensors, read_tensors

WEIGHTS_FILE = "model.safetensors"

_Model = TypeVar("_Model", bound=nn.Module)


def save_network(
    folder: str | os.PathLike[str], tokenizer: Tokenizer, model: nn.Module, options: Mapping[str, Any]
) -> None:
    """Write the weights, and then the options that `load_network` needs.

    Raises:
        ValueError: the folder already holds another tokenizer.
    """
    folder = check_target(folder, tokenizer)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(folder / WEIGHTS_FILE) as file:
        file.write(save(tensors))
    write_config(folder, tokenizer, options, [WEIGHTS_FILE])


def load_network(
    folder: str | os.PathLike[str], name: str, settings: Collection[str], build: Callable[[Mapping[str, Any]], _Model]
) -> tuple[_Model, dict[str, int]]:
    """Read what `save_network` wrote; every tensor must be there, and no other.

    Args:
        folder: where it is.
        name: under which the tokenizer is registered.
        settings: the options besides ``config``, whole numbers.
        build: makes a fresh network of ``config``.

    Returns:
        The network with its weights, and the settings by name.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: the folder holds another tokenizer, or is damaged.
    """
    options = dict(read_config_of(folder, name)["options"])
    if set(options) != {"config", *settings} or any(type(options[setting]) is not int for setting in settings):
        raise ValueError(f"{folder} is damaged: its options {sorted(options)} are not those of a tokenizer {name!r}")
    path = Path(folder) / WEIGHTS_FILE
    tensors = read_tensors(path)
    with torch.random.fork_rng([]):  # the fresh weights are overwritten; nobody's random numbers shall change
        model = build(options["config"])
    load_tensors(model.state_dict(), tensors, path)
    return model, {setting: options[setting] for setting in settings}


def is_mixed(precision: str) -> bool:
    """Return whether a precision of `tokenize_kit.protocol.DeviceTokenizer` computes with bfloat16.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in ("32-true", "bf16-mixed"):
        raise ValueError(f"precision {precision!r} must be 32-true or bf16-mixed")
    return precision == "bf16-mixed"
