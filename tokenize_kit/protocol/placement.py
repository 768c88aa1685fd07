"""Where a tokenizer computes, and in which precision.

Results in floating point differ from device to device in their last bits, and a last bit can turn an id. So the default is one
place for everybody, the CPU in float32, and another one is something that the user asks for and the plan of a run remembers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from tokenize_kit.protocol.tokenizer import DeviceTokenizer, Tokenizer

Device: TypeAlias = Literal["cpu", "cuda"]
Precision: TypeAlias = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class Placement:
    """A device and a precision, for tokenizers that leave the choice."""

    device: Device = "cpu"
    """Where networks are computed."""
    precision: Precision = "32-true"
    """Numbers in their matrix products and convolutions: float32, or bfloat16 where torch holds that to be safe."""

    def to_dict(self) -> dict[str, str]:
        """Return what differs from the default, JSON-ready: nothing for most runs, whose plans stay as they were."""
        values = {"device": self.device, "precision": self.precision}
        return {name: value for name, value in values.items() if value != getattr(Placement, name)}

    def place(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return the tokenizer, computing here if it can compute anywhere else than in its usual place."""
        if self == Placement() or not isinstance(tokenizer, DeviceTokenizer):
            return tokenizer
        return cast("Tokenizer", tokenizer.to(self.device, self.precision))


def placement_for(tokenizers: Collection[Tokenizer], device: str, precision: str) -> Placement:
    """Return the place for tokenizers of which the user says ``--device`` (auto, cpu or cuda) and ``--precision``.

    ``auto`` is a GPU if there is one, and leaves tokenizers where they are that have no choice.

    Raises:
        ValueError: a GPU is asked for and there is none, or a tokenizer has no choice and would have to make one.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device} must be auto, cpu or cuda")
    if precision not in ("32-true", "bf16-mixed"):
        raise ValueError(f"--precision {precision} must be 32-true or bf16-mixed")
    fixed = [tokenizer for tokenizer in tokenizers if not isinstance(tokenizer, DeviceTokenizer)]
    asked = f"--device {device}" if device == "cuda" else f"--precision {precision}"
    refused = device == "cuda" or precision != "32-true"
    if refused and fixed and (device != "auto" or len(fixed) == len(tokenizers)):
        name = type(fixed[0]).__qualname__
        hint = "leave it out" if len(fixed) == len(tokenizers) else "with --device auto it stays there"
        raise ValueError(f"{asked}: a {name} computes on the CPU in its own way alone; {hint}")
    if device == "cpu" or len(fixed) == len(tokenizers):
        return Placement("cpu", cast("Precision", precision))
    # Only now, because a text tokenizer needs no torch.
    import torch

    if torch.cuda.is_available():
        return Placement("cuda", cast("Precision", precision))
    if device == "cuda":
        raise ValueError("--device cuda: torch finds no usable GPU here; use --device cpu")
    return Placement("cpu", cast("Precision", precision))


def placed(tokenizer: Tokenizer, device: str, precision: str) -> Tokenizer:
    """Return one tokenizer where the user wants it; see `placement_for`.

    Raises:
        ValueError: as `placement_for`.
    """
    return placement_for([tokenizer], device, precision).place(tokenizer)
