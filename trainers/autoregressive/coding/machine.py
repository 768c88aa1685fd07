"""What decides the bits of a logit: the model, and the machine that computes it. Both are told in a file.

Sums of floating-point numbers depend on their order, and that on the processor, the number of threads and the version of a
library. What can be set alike is (`computing`): threads, deterministic kernels, full float32. What cannot is compared when the
first checksum fails, so that the refusal names it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Self, cast

import torch
from torch import nn

from trainers.autoregressive.model_folder import LoadedModel

FINGERPRINT_BYTES = 16
"""Of a model's sha256, in a file."""
MOST_THREADS = 1024


@dataclass(frozen=True)
class Machine:
    """Where logits were computed."""

    device: str
    """``cpu``, or ``cuda`` and the name of the GPU behind a colon."""
    processor: str
    """Its architecture."""
    instructions: str
    """The vector instructions that torch uses on it."""
    torch_version: str
    coder_version: str
    """Of constriction."""
    threads: int
    """Threads of one operation."""

    @classmethod
    def here(cls, device: torch.device) -> Self:
        """Return what computes on ``device`` of this machine."""
        name = device.type
        if device.type == "cuda":
            name += f":{torch.cuda.get_device_name(device)}"
        instructions = torch.backends.cpu.get_cpu_capability()
        versions = str(torch.__version__), version("constriction")
        return cls(name, platform.machine(), instructions, *versions, torch.get_num_threads())

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.device.partition(":")[0]

    def differences(self, other: Machine) -> str:
        """Return in words what is another here than there; empty if nothing is."""
        pairs = ((field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return ", ".join(
            f"{name.replace('_', ' ')} {there} there and {here} here" for name, here, there in pairs if there != here
        )


@contextmanager
def computing(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """Compute so that the same comes out again, and put all settings back afterwards.

    Args:
        device: where.
        threads: threads of one operation; None keeps their number.
    """
    before, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    mode = torch.get_deterministic_debug_mode()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if device.type == "cuda":
        # Without it cuBLAS refuses to be deterministic.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        # What `use_deterministic_algorithms` does, without loading torch's compiler.
        torch.set_deterministic_debug_mode("error")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.set_float32_matmul_precision("highest")
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
        torch.set_float32_matmul_precision(precision)


def model_fingerprint(loaded: LoadedModel) -> str:
    """Return the hexadecimal sha256 over a model's configuration, templates, vocabulary, tokenizers and weights."""
    network = cast("nn.Module", loaded.model)
    said = {
        "model": type(loaded.model).__qualname__,
        "config": loaded.model.config.to_dict(),
        "templates": [str(template) for template in loaded.templates or (loaded.template,)],
        "vocabulary": loaded.vocabulary.to_dict(),
        "tokenizers": {name: tokenizer.fingerprint for name, tokenizer in sorted(loaded.tokenizers.items())},
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
