"""What a token sees, which is the form of a model: one file each.

A form says which keys a query sees, from what is known of the tokens; documents, left padding and the window hold for every
form and are not its affair (`masks.attention_mask`). A new one is an object that keeps the `Form` protocol and one entry point
in the group ``tokenize_kit.forms``: ``train transformer --form NAME``.
"""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor

from tokenize_kit.protocol.registry import FORMS
from trainers.autoregressive.models.masks import Span


class Form(Protocol):
    """What a query sees."""

    @property
    def needs(self) -> frozenset[str]:
        """Which parts of `Inputs` it cannot do without."""
        ...

    @property
    def causal(self) -> bool:
        """Whether no token sees one that it shall predict, so that sequences can be drawn token by token."""
        ...

    @property
    def ahead(self) -> bool:
        """Whether some query sees a later key."""
        ...

    @property
    def encodes(self) -> bool:
        """Whether the condition goes through an encoder, to which the rest attends."""
        ...

    def sees(self, span: Span) -> Tensor | None:
        """Return which keys the queries see, bool (B or 1, queries, keys), each query at least one.

        None means the keys up to itself or, if the form is not `causal`, all; within the window.
        """
        ...


def form_named(name: str) -> Form:
    """Return the form that is registered as ``name``.

    Raises:
        ValueError: there is none of that name; the message suggests the closest one.
    """
    return cast("Form", FORMS.get(name))
