"""Weights in safetensors files: written with a sum of themselves, read, and put where they belong, or refused.

A file of weights that changes while a run goes on, such as that of the best so far, carries its sha256 in its own metadata, under
``sha256``: that of the whole file with 64 zeros where the sum stands. So the file and its sum appear together, whenever the
process is killed. Weights that are written once have their sums in the JSON file beside them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from safetensors.torch import load_file, save
from torch import Tensor

from tokenize_kit.disk import explained, step
from tokenize_kit.errors import VerificationError
from tokenize_kit.files import atomic_write

TRAINING = "training"
"""The entry of the metadata in which a trainer says of which step the weights are."""
_SUM = "sha256"
_BLANK = "0" * 64
_BLOCK = 1 << 22
_LONGEST_HEADER = 100_000_000
"""As in safetensors itself."""


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


def write_sealed(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], training: Mapping[str, Any]) -> None:
    """Write a safetensors file that carries a sum of itself, whole or not at all; the same bytes on every run.

    Args:
        path: the file.
        tensors: by name, on the CPU.
        training: JSON-ready; what else to remember, such as the step.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    data = memoryview(save(dict(tensors)))
    length = int.from_bytes(data[:8], "little")
    # Spelled here, because safetensors writes several entries of metadata in an order that changes from process to process.
    header = {"__metadata__": {_SUM: _BLANK, TRAINING: json.dumps(training)}, **json.loads(bytes(data[8 : 8 + length]))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    content = data[8 + length :]
    digest = hashlib.sha256(head)
    digest.update(content)
    with atomic_write(path) as file:
        file.write(head.replace(_BLANK.encode(), digest.hexdigest().encode(), 1))
        file.write(content)


def check_seal(path: Path) -> bool:
    """Check the sum that a safetensors file carries of itself; return whether it has one: files from before have none.

    Raises:
        FileNotFoundError: there is no such file.
        VerificationError: the file is not what was written, or no safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    with path.open("rb") as file:
        length, text, header = _head(file, path)
        try:
            metadata = dict(header.get("__metadata__", {}))
        except (TypeError, ValueError):
            raise _damaged(path, "its metadata is no JSON object") from None
        own = metadata.get(_SUM)
        if own is None:
            # What looks like a sum may be one whose name was damaged. Others write other things, such as the framework.
            if unknown := [name for name, value in metadata.items() if len(str(value)) == len(_BLANK)]:
                raise _damaged(path, f"its metadata has a sum under the unknown name {unknown[0]!r}")
            return False
        digest = hashlib.sha256(length + text.replace(str(own).encode(), _BLANK.encode(), 1))
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != own:
        raise _damaged(path, "its sha256 is not the one that it carries")
    return True


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, after its seal is checked where it has one.

    Raises:
        FileNotFoundError: there is none.
        VerificationError: it is damaged.
    """
    check_seal(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def read_training(path: Path) -> dict[str, Any]:
    """Return what a safetensors file says of its training.

    Raises:
        FileNotFoundError: there is no such file.
        VerificationError: it is damaged, or says nothing.
    """
    try:
        return dict(json.loads(_header(path)["__metadata__"][TRAINING]))
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, f"its metadata lacks the step and metrics ({error})") from None


def count_weights(path: Path) -> int:
    """Return how many numbers a safetensors file holds, by its header alone.

    Raises:
        FileNotFoundError: there is no such file.
        VerificationError: its header is damaged.
    """
    try:
        return sum(math.prod(entry["shape"]) for name, entry in _header(path).items() if name != "__metadata__")
    except (KeyError, TypeError) as error:
        raise _damaged(path, f"its header lacks a shape ({error})") from None


def _header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    with path.open("rb") as file:
        return _head(file, path)[2]


def _head(file: IO[bytes], path: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    """Return what a safetensors file begins with: the length of its header, that header, and what it says."""
    length = file.read(8)
    size = int.from_bytes(length, "little")
    if size > _LONGEST_HEADER:
        raise _damaged(path, f"its header would have {size:,} bytes")
    text = file.read(size)
    try:
        return length, text, dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON object: {error}") from None


def _damaged(path: Path, reason: str) -> VerificationError:
    return VerificationError(f"{path} is damaged ({reason}); restore it from a copy")


def save_file(tensors: Mapping[str, Tensor], path: Path, shown: Path | None = None) -> None:
    """Write a safetensors file straight to ``path``, in a folder that appears as a whole; it is not synced.

    Args:
        tensors: by name, contiguous, on the CPU.
        path: the file.
        shown: what an error names instead.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    step("write", path)
    try:
        safetensors_torch.save_file(dict(tensors), path)
    except SafetensorError as error:
        # The library tells the number only in words.
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        with explained(shown or path):
            raise OSError(number, os.strerror(number), str(shown or path)) from None
