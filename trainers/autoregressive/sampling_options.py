"""How sequences are sampled, as plain data that a command line can read without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MOST_GUIDANCE = 1000
"""The highest scale: logits times it are far from the end of float32."""


@dataclass(frozen=True)
class SamplingOptions:
    """How each next token is drawn from the model's distribution. The defaults draw from it as it is."""

    temperature: float = 1.0
    """Logits are divided by it: below 1 sharpens, 0 takes the most probable token."""
    top_k: int | None = None
    """Keep the k most probable tokens; None keeps all."""
    top_p: float | None = None
    """Keep the most probable tokens that together reach this probability (nucleus sampling); None keeps all."""
    min_p: float | None = None
    """Keep the tokens with at least this part of the probability of the most probable one; None keeps all."""
    guidance: tuple[float, ...] | None = None
    """How strongly the condition is followed (classifier-free guidance): 1 as the model has learnt it, above 1 more, 0 not at
    all; 3 is usual for pictures. Several numbers are for several conditions, in their order. The model must have been trained
    with --condition-dropout. Each takes the time of a further sequence."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Whether guidance is the same for all tokens, or rises from 1 at the first of a picture, sound or text to its full scale."""
    decoding_steps: int | None = None
    """Models of hidden tokens: in how many steps a grid is drawn, instead of token by token (MaskGIT); None means 12."""
    decoding_noise: float | None = None
    """Models of hidden tokens: how much chance there is in which ids a step keeps; it fades. 0 keeps the most certain, a large
    number any; None means 4.5."""
    seed: int = 0
    """Sequence number i is drawn from a generator of its own that follows from the seed and i."""
    batch_size: int = 16
    """How many sequences are generated at once."""
    compiled: bool = False
    """Compile the model's step for sequences that are generated one at a time (batch_size 1): ten seconds or more once
    and a C++ compiler, so it pays from some thousand tokens on. It is refused at larger batches."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} must be 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1, or left out to keep all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1, or left out to keep all tokens")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p {self.min_p} must be in [0, 1], or left out to keep all tokens")
        if self.guidance is not None and not (
            self.guidance and all(0 <= scale <= MOST_GUIDANCE for scale in self.guidance)
        ):
            given = " ".join(f"{scale:g}" for scale in self.guidance) or "without a number"
            raise ValueError(f"guidance {given} must be one or several numbers from 0 to {MOST_GUIDANCE}")
        if self.guidance is None and self.guidance_schedule != "constant":
            raise ValueError(
                f"guidance_schedule {self.guidance_schedule!r} is of guidance, which is not given; give it, or leave both out"
            )
        if self.decoding_steps is not None and self.decoding_steps < 1:
            raise ValueError(f"decoding_steps {self.decoding_steps} must be at least 1")
        if self.decoding_noise is not None and not 0 <= self.decoding_noise < float("inf"):
            raise ValueError(f"decoding_noise {self.decoding_noise} must be 0 or more")
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} must be in [0, 2^63)")
