"""Damaged files of every format that is read: whole, or listed, never fewer samples without a word, and the run goes on."""

from __future__ import annotations

import warnings

import pytest
from toys.damaged_inputs import FORMATS, damages, healthy, judge, look, prepare

DAMAGES = 42
"""Six of each kind; `benchmarks/fuzz.py` tries thousands."""


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_whole_or_listed_and_never_fewer_in_silence(tmp_path, form):
    folder = tmp_path / "data"
    prepare(folder, form)
    wrong = []
    verdicts = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what becomes a failure
        for number, (what, data) in enumerate(damages(form, DAMAGES)):
            verdict, words = judge(folder, form, (what, data))
            verdicts.add(verdict)
            if verdict == "silent":
                wrong.append(f"input {number}, {what}: {words}")
    assert wrong == []
    assert "listed" in verdicts


@pytest.mark.parametrize("form", [form for form in FORMATS if form.checked], ids=lambda form: form.name)
def test_a_changed_byte_never_passes_where_there_are_checksums(tmp_path, form):
    folder = tmp_path / "data"
    prepare(folder, form)
    data = healthy(form, 0)
    step = len(data) // 12
    for place in range(step // 2, len(data), step):
        changed = bytearray(data)
        changed[place] ^= 0x55
        verdict, words = judge(folder, form, ("flip", bytes(changed)))
        assert verdict in ("listed", "whole"), f"byte {place}: {words}"


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_an_empty_file_holds_nothing_only_where_nothing_is_a_file(tmp_path, form):
    folder = tmp_path / "data"
    prepare(folder, form)
    (folder / form.name).write_bytes(b"")
    seen = look(folder, form)
    if form.name in ("a.txt", "a.jsonl", "a.csv", "a.tsv"):
        assert seen.listed == 0
    else:
        assert seen.listed == 1
        assert not seen.samples
