"""Decode: every key has a file of its own under a name that all systems take, and a run that was stopped goes on."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.simple import RaggedToyText

from tokenize_kit import disk
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.decode import DECODE_FILE, FILES_FILE, DecodeOptions, decode
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.file_names import FileNames

PARTS = st.text(st.sampled_from("aAb./\\\0~ :é\u0065\u0301\n\ud800"), max_size=8)
KEYS = st.lists(
    PARTS | st.sampled_from(["x" * 300, "a.png/x.png", "a.jpg", "/".join("ab" * 90), "nul.txt", "con", "é" * 200])
)


@settings(max_examples=60)
@given(keys=KEYS)
def test_no_key_leads_out_of_the_folder_or_onto_another_file(keys, tmp_path_factory):
    naming = FileNames(".png", (".png", ".jpg"), ("files.jsonl",))
    names = [naming.name(key) for key in keys]
    assert len({name.casefold() for name in names}) == len(keys)
    folder = tmp_path_factory.mktemp("names")
    for number, name in enumerate(names):
        assert not name.startswith("/")
        assert name.endswith(".png")
        assert len(name.encode()) <= 1300
        for part in name.split("/"):
            assert part not in ("", ".", "..")
            assert part[-1] not in " ."
            assert len(part.encode()) <= 200
            assert not set(part) & set('\\\0:\n"')
            assert part.split(".")[0].lower() not in ("con", "nul")
        # They can all be there at once.
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(number))
    assert [(folder / name).read_text() for name in names] == [str(number) for number in range(len(names))]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["d/a.jpg", "d/a.png/x.png"], ["d/a.png", "d/a.png~2/x.png"]),
        (["d/a.png/x.png", "d/a.png/y.png", "d/a.jpg"], ["d/a.png/x.png", "d/a.png/y.png", "d/a~2.png"]),
        (["b.bmp", "b.jpg", "B.png"], ["b.png", "b~2.png", "B~3.png"]),
        (
            ["../../etc/passwd", "/etc/passwd", "..", "."],
            ["__/__/etc/passwd.png", "_/etc/passwd.png", "__.png", "_.png"],
        ),
        (["a\nb", 'a:b*c?"<>|', "tail. ", "dot./x"], ["a_b.png", "a_b_c_____.png", "tail_.png", "dot_/x.png"]),
        (
            ["CON", "nul.jpg", "com1/x", "aux.a/b", "console"],
            ["_CON.png", "_nul.png", "_com1/x.png", "_aux.a/b.png", "console.png"],
        ),
        (["files.jsonl"], ["files.jsonl.png"]),
        (["\u00e9.png", "e\u0301.png"], ["\u00e9.png", "e\u0301~2.png"]),
        (["straße", "STRASSE"], ["straße.png", "STRASSE~2.png"]),
        (["name%FFx.png"], ["name%FFx.png"]),
    ],
)
def test_names_that_collide_or_that_no_system_takes(keys, names):
    naming = FileNames(".png", (".png", ".jpg", ".bmp"), ("files.jsonl",))
    assert [naming.name(key) for key in keys] == names


def test_reserved_names_are_no_samples():
    assert FileNames(".jsonl", (), ("files.jsonl",)).name("files") == "files~2.jsonl"


def test_long_parts_and_deep_folders_are_shortened_and_stay_apart():
    naming = FileNames(".txt")
    long = [naming.name("x" * 255), naming.name("x" * 254 + "y"), naming.name("é" * 127)]
    assert len({*long}) == 3
    assert all(len(name.encode()) <= 200 for name in long)
    deep = "/".join(["d" * 200] * 20)
    names = [naming.name(f"{deep}/a"), naming.name(f"{deep}/b"), naming.name(f"{deep}x/a")]
    assert [name.split("/")[1] for name in names] == ["a.txt", "b.txt", "a.txt"]
    assert names[0].split("/")[0] == names[1].split("/")[0] != names[2].split("/")[0]
    assert naming.name("/".join("a" * 2000)).count("/") == 1


@pytest.fixture
def made(tmp_path):
    """A tokenizer and a shard set of 12 texts in three shards."""
    rows = [{"text": f"text {number}"} for number in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    RaggedToyText().save(tmp_path / "tok")
    encode(
        EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "a.jsonl"),), str(tmp_path / "out"), shard_mb=0.0001)
    )
    return DecodeOptions(str(tmp_path / "out"), str(tmp_path / "tok"), str(tmp_path / "files"))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_jsonl_says_which_file_each_key_has(made, tmp_path):
    decode(made)
    lines = [json.loads(line) for line in (tmp_path / "files" / FILES_FILE).read_text().splitlines()]
    assert [line["key"] for line in lines] == [record.key for record in ShardSet.open(made.shards).records()]
    assert [(tmp_path / "files" / line["file"]).read_text() for line in lines] == [f"text {n}" for n in range(12)]


@pytest.mark.parametrize("last", [1, 5, 40, 60])
def test_a_decode_that_was_stopped_goes_on(made, tmp_path, monkeypatch, last):
    decode(replace(made, out=str(tmp_path / "whole")))
    steps = []

    def stop(what, path):
        steps.append((what, path))
        if len(steps) == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(disk, "watch", stop)
    with pytest.raises(KeyboardInterrupt):
        decode(made)
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "files").glob("*.txt")}
    # What has made no file leaves none behind, and may be replaced by another command.
    assert bool(there) == (tmp_path / "files").exists()
    monkeypatch.setattr(disk, "watch", None)
    result = decode(made)
    assert contents(tmp_path / "files") == contents(tmp_path / "whole")
    assert result.files == 12
    assert result.tokens == sum(record.grids["text"].size for record in ShardSet.open(made.shards).records())
    assert {path: path.stat().st_mtime_ns for path in there} == there


def test_another_decode_is_refused_and_the_same_is_not(made, tmp_path):
    decode(made)
    before = contents(tmp_path / "files")
    decode(made)
    for other in (replace(made, limit=3), replace(made, shards=str(again(tmp_path)))):
        with pytest.raises(ValueError, match="is not an empty folder; give an empty or new one"):
            decode(other)
    assert contents(tmp_path / "files") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / FILES_FILE).write_text("mine")
    with pytest.raises(ValueError, match="is not an empty folder"):
        decode(replace(made, out=str(tmp_path / "mine")))
    assert contents(tmp_path / "mine") == {FILES_FILE: b"mine"}


def again(folder):
    (folder / "b.txt").write_text("b")
    encode(EncodeOptions((str(folder / "tok"),), (str(folder / "b.txt"),), str(folder / "out2")))
    return folder / "out2"


def test_a_decode_that_made_no_file_keeps_no_other_out(made, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / DECODE_FILE).write_text('{"command": "decode", "limit": 1}')
    (tmp_path / "files" / FILES_FILE).write_text('{"key": "gone", "file": "gone.txt"}')
    assert decode(replace(made, limit=2)).files == 2
    assert len((tmp_path / "files" / FILES_FILE).read_text().splitlines()) == 2


def test_decode_names_the_folder_that_cannot_be_written(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"this is a file|a part of this path is a file"):
        decode(replace(made, out=str(tmp_path / "file" / "x")))
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="choose a folder that you may write to"):
            decode(replace(made, out=str(tmp_path / "locked" / "x")))
