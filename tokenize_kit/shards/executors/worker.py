"""What runs in a process of its own, whoever started it: tokenizers loaded once and checked, units in, ledgers out.

An error travels as JSON and is raised again, with the same text, by `raise_again` in the process that the user looks at.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pyarrow

from tokenize_kit import errors
from tokenize_kit.protocol import Tokenizer, load_tokenizer
from tokenize_kit.shards.executors.base import Setup
from tokenize_kit.shards.ledger import FailureLimitError, UnitResult
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.shards.unit import Report, encode_unit
from tokenize_kit.sources.blocks import Failure
from tokenize_kit.sources.planning import Unit


class Worker:
    """Encodes units in this process, with one thread.

    Args:
        setup: how.

    Raises:
        ValueError: a folder holds another tokenizer by now.
    """

    def __init__(self, setup: Setup) -> None:
        _use_one_thread()
        for module in setup.modules:
            import_module(module)
        self._setup = setup
        loaded = load_tokenizers(setup.folders, setup.recipe)
        self._tokenizers = {name: setup.placement.place(tokenizer) for name, tokenizer in loaded.items()}

    def encode(self, unit: Mapping[str, Any], report: Report) -> UnitResult:
        """Encode a unit, given as `Unit.to_dict`; raises as `encode_unit`."""
        setup = self._setup
        return encode_unit(
            Unit.from_dict(unit),
            self._tokenizers,
            setup.recipe,
            setup.out,
            max_failures=setup.max_failures,
            report=report,
            placement=setup.placement,
        )


def load_tokenizers(folders: Mapping[str, str], recipe: Recipe) -> dict[str, Tokenizer]:
    """Load the tokenizer of each stream and check that it is still the one of the recipe.

    Raises:
        ValueError: a folder holds another tokenizer by now.
    """
    tokenizers = {name: load_tokenizer(folder) for name, folder in folders.items()}
    for stream in recipe.streams:
        if tokenizers[stream.name].fingerprint != stream.fingerprint:
            raise ValueError(f"the tokenizer in {folders[stream.name]} was changed during the run; start again")
    return tokenizers


def described(error: Exception) -> dict[str, Any]:
    """Return an error as plain data."""
    failures = [failure.to_dict() for failure in getattr(error, "failures", [])]
    place = [error.errno, error.strerror, error.filename] if isinstance(error, OSError) else []
    return {"kind": type(error).__name__, "message": str(error), "failures": failures, "os": place}


def raise_again(error: Mapping[str, Any]) -> None:
    """Raise here what `described` says was raised in a worker."""
    if error["failures"]:
        raise FailureLimitError([Failure.from_dict(failure) for failure in error["failures"]])
    if error["os"]:
        raise OSError(*error["os"]) if error["os"][0] is not None else OSError(error["message"])
    kinds: dict[str, type[Exception]] = {"ValueError": ValueError, "TypeError": TypeError, "MemoryError": MemoryError}
    kinds["MissingPackageError"] = errors.MissingPackageError
    if error["kind"] in kinds:
        raise kinds[error["kind"]](error["message"])
    raise RuntimeError(f"{error['kind']} in a worker: {error['message']}")


def _use_one_thread() -> None:
    """Keep libraries from starting a thread a core in every worker."""
    pyarrow.set_cpu_count(1)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
