"""Every row of the tables of docs/files.md, and of the files of docs/video.md, names the tests that hold it, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _files_of_video():
    """The part of docs/video.md that is about files."""
    return (ROOT / "docs" / "video.md").read_text().split("\n## Files\n")[1].split("\n## ")[0]


ROWS = [
    line
    for text in ((ROOT / "docs" / "files.md").read_text(), _files_of_video())
    for line in text.splitlines()
    if line.startswith("|") and not line.startswith(("| what ", "| ---"))
]


@pytest.fixture(scope="module")
def known():
    """The names of all tests."""
    texts = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^ *(?:async )?def (test_\w+)", text, re.MULTILINE)}


def test_there_are_rows():
    assert ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_row_names_its_tests(row, known):
    cells = re.split(r"(?<!\\)\|", row.strip().strip("|"))
    assert len(cells) == 3, row
    named = re.findall(r"`(test_\w+)`", cells[2])
    assert named, row
    assert set(named) <= known


def test_what_the_document_of_runs_names_is_there(known):
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "runs.md").read_text())
    assert len(named) > 20
    assert set(named) <= known
