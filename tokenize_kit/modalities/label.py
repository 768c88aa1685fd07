"""Labels: the name of the class of a sample, a ``str`` of a fixed set. Numbers are labels too, as the words that write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenize_kit.modalities.text import TextModality

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample, TokenSpec


class LabelModality(TextModality):
    """Labels. No file is one by itself: they lie in a field ``label``, in the labels of idx files, or where ``--field`` says."""

    name = "label"
    plural = "labels"
    extensions = ()
    usual_field = "label"
    takes_values = True
    dimension = "label"
    may_be_empty = False
    least = "a label has at least one character"
    measure = ""
    exhibit_folder = "labels"

    def check(self, sample: object, spec: TokenSpec) -> str:
        """Return a label without the white space around it, as files of one line have it.

        Raises:
            TypeError: it is no ``str``.
            ValueError: nothing is left.
        """
        label = super().check(sample, spec).strip()
        if not label:
            raise ValueError("the label is empty")
        return label

    def dimensions(self, sample: Sample) -> int:  # noqa: ARG002
        """Return 1: a label is one value."""
        return 1


LABEL = LabelModality()
