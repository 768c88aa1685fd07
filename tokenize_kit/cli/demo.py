"""``tokenize-kit demo``: the whole way on the bundled assets, through the same functions as the commands.

A BPE tokenizer on multilingual text and a colour palette on emoji; the text, and the pictures with their captions, as
token shards; a Transformer on the text and one on ``text -> image``; samples of both; and everything in one ``report.html``.
Run again after a kill, it continues where it stopped.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress

PROMPTS = ("red apple", "green book", "yellow heart", "blue circle", "cat face", "snowman", "pizza", "sun")
TEXT_PROMPTS = ("All human beings are", "Alle Menschen", "Toda persona tiene derecho")


@dataclass(frozen=True)
class DemoOptions:
    """The whole way on the bundled assets, in a few minutes: tokenizers, shards, two models, samples, report.html."""

    out: str = "demo_out"
    """Folder for everything that is made; open its report.html."""
    assets: str | None = None
    """Folder with udhr.txt and emoji.tar; that of the repository if not given."""
    text_steps: int = 300
    """Training steps of the text model."""
    image_steps: int = 600
    """Training steps of the caption-to-picture model."""
    image_size: int = 16
    """Side of the pictures in pixels; a picture is this many tokens squared."""
    seed: int = 0
    """Seed of training and sampling."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    report: str
    seconds: float
    text_bits_per_byte: float
    image_bits_per_token: float
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""


def demo(options: DemoOptions, progress: Progress) -> DemoResult:
    """Run every stage and write the report.

    Raises:
        FileNotFoundError: the assets are not where they should be.
        ValueError: as the functions of the stages.
    """
    return _Demo(options, progress).run()
