"""docs/video.md, Networks: its tables are those of the code."""

import re
from pathlib import Path

import pytest

from tokenize_kit.tokenizers.learned.video.config import BODIES
from tokenize_kit.tokenizers.learned.video.time import latent_steps

TEXT = (Path(__file__).parents[3] / "docs" / "video.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("\n## Networks\n")[2].partition("\n## ")[0]


def rows(head):
    """The cells of the table whose head begins so, the head included."""
    lines = SECTION[SECTION.index(f"| {head}") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def test_grids():
    head, *clips = rows("clip (T, H, W)")
    assert len(clips) > 5
    for clip in clips:
        frames, *sides = map(int, clip[0].split(", "))
        for factors, grid in zip(head[1:], clip[1:], strict=True):
            time, side, _ = map(int, factors.split("x"))
            expected = [latent_steps(frames, time), *(-(-size // side) for size in sides)]
            assert list(map(int, grid.split(", "))) == expected, (clip[0], factors)


def test_options_and_defaults():
    _, *options = rows("`--network.*`")
    told = {name.strip("`"): default for name, default, _ in options}
    defaults = BODIES["convolutional"]
    assert told == {
        name: " ".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in defaults.items()
    }


@pytest.mark.parametrize("body", BODIES)
def test_every_option_is_named(body):
    assert all(re.search(rf"`{name}`", SECTION) for name in BODIES[body])
