"""An encoder sees the condition as a whole, and what is predicted attends to it (Vaswani et al. 2017, T5).

Here is what the decoder's own attention sees: what is before, without the condition, which it has from the encoder alone. A
place of the condition, where nothing is predicted, sees itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from trainers.autoregressive.models.masks import Span


@dataclass(frozen=True)
class EncoderDecoder:
    """See the module. While it generates, all of a condition must come in the first step."""

    needs: frozenset[str] = frozenset({"given"})
    causal: bool = True
    ahead: bool = False
    encodes: bool = True

    def sees(self, span: Span) -> Tensor | None:
        """See `Form.sees`."""
        return (span.before & ~span.known_given[:, None]) | span.itself


ENCODER_DECODER = EncoderDecoder()
