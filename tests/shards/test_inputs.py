"""Whole runs over inputs as they lie on disks: damage beside what is whole, what is not read, pipes, and --out inside --data."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import pytest
from toys.files import gz, jsonl, put, sentences, tar, zst, zst_long
from toys.simple import ToyImage, ToyText

from tokenize_kit.cli import main
from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.progress import Progress
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.sources import spool


@pytest.fixture
def world(tmp_path):
    """A folder with tokenizers, and a function that encodes: options -> result, keys, lines of failures.jsonl, what was said."""
    ToyText().save(tmp_path / "text")
    ToyImage().save(tmp_path / "image")

    def run(*data, kind="text", out="out", **options):
        said = io.StringIO()
        given = EncodeOptions((str(tmp_path / kind),), tuple(map(str, data)), str(tmp_path / out), **options)
        result = encode(given, Progress(stream=said))
        keys = ShardSet.open(given.out).column("key").to_pylist()
        lines = (tmp_path / out / "failures.jsonl").read_text().splitlines()
        return result, keys, [(line["key"], line["reason"]) for line in map(json.loads, lines)], said.getvalue()

    return tmp_path, run


LINES = b"".join(json.dumps({"text": text, "id": n}).encode() + b"\n" for n, text in enumerate(sentences(20)))
"""Twenty objects."""


@pytest.mark.parametrize("columns", [(), ("id",)])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl.gz", gz(LINES)[:20]),
        ("a.jsonl.gz", b""),
        ("a.jsonl.zst", zst(LINES)[:30]),
        ("a.jsonl.xz", b"\xfd7zXZ\0 and nothing more"),
        ("a.jsonl.bz2", b"BZh9"),
        ("a.json.gz", gz(b'[{"text": "one"}]')[:-9]),
        ("a.csv.gz", gz(b"text\none\ntwo\n")[:12]),
        ("a.tar", b"no tar at all" * 100),
        ("a.tar.gz", gz(tar([("1.txt", b"one")]))[:30]),
        ("a.txt.zst", zst(LINES)[:-3]),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_a_damaged_first_file_is_a_failure_and_the_run_goes_on(world, name, data, columns):
    root, run = world
    put(root / "in", name, data)
    put(root / "in", f"b{name[1:]}" if name[2:] == "jsonl.gz" else "b.jsonl.gz", gz(LINES))
    result, keys, failures, _ = run(root / "in", columns=columns)
    assert len(keys) >= 20
    assert result.failures == 1
    assert [key for key, _ in failures] == [name]
    assert "damaged" in failures[0][1]


def test_a_cut_file_gives_what_stands_before_and_is_listed(world):
    root, run = world
    lines = jsonl(sentences(9000))
    for name, data in (("a.jsonl.gz", gz(lines)), ("b.jsonl.zst", zst(lines))):
        put(root / "in", name, data[: len(data) // 2])
    put(root / "in", "c.jsonl.zst", zst_long(lines, 30))
    _, keys, failures, _ = run(root / "in")
    count = {name: sum(key.startswith(name) for key in keys) for name in ("a.jsonl.gz", "b.jsonl.zst", "c.jsonl.zst")}
    assert count["c.jsonl.zst"] == 9000
    assert 4000 < count["a.jsonl.gz"] < 5000
    assert 2000 < count["b.jsonl.zst"] < 5000
    assert failures == [
        ("a.jsonl.gz", "the file is damaged: it ends inside its gz data; the rest of the file"),
        ("b.jsonl.zst", "the file is damaged: it ends inside its zst data; the rest of the file"),
    ]


def test_what_a_run_writes_into_its_own_input_does_not_stop_it_from_going_on(world):
    root, run = world
    put(root / "in", "a.txt", "one" * 5)
    put(root / "in", "b.txt", "two" * 5)
    first, keys, _, _ = run(root / "in", out="in/out", shard_mb=0.00001)
    assert keys == ["a.txt", "b.txt"]
    assert first.passed_over == []
    put(root / "in" / "out", "previews/1.txt", "made by the run")
    (root / "in" / "out" / "dataset.json").unlink()
    (root / "in" / "out" / "00001.json").unlink()
    again, keys, _, said = run(root / "in", out="in/out", shard_mb=0.00001)
    assert keys == ["a.txt", "b.txt"]
    assert again.tokens == first.tokens
    assert "not read: 1 other (out): the --out of this run" in said


def test_what_is_not_read_is_in_the_result_and_said_by_every_command(world, capsys):
    root, run = world
    for name in ("a.txt", "b.xyz", "c.png", ".d"):
        put(root / "in", name, "text")
    result, _, _, said = run(root / "in")
    assert result.to_dict()["passed_over"] == [
        {"ending": "", "why": "the name begins with a dot", "count": 1, "names": [".d"]},
        {"ending": ".xyz", "why": "unknown ending", "count": 1, "names": ["b.xyz"]},
        {"ending": ".png", "why": "of the kind image", "count": 1, "names": ["c.png"]},
    ]
    # Once: at the start, or where nothing was said then, in the result.
    assert "not read" not in result.to_text()
    assert "3 other names of the input not read" in dataclasses.replace(result, told=False).to_text()
    assert "told" not in result.to_dict()
    line = (
        "not read: 1 other (.d): the name begins with a dot; 1 .png (c.png): of the kind image; "
        "1 .xyz (b.xyz): unknown ending\n"
    )
    assert said.count(line) == 1
    told = io.StringIO()
    evaluate(EvaluateOptions(str(root / "text"), (str(root / "in"),)), Progress(stream=told))
    assert told.getvalue().count(line) == 1
    assert main(["train", "chars", "--data", str(root / "in"), "--out", str(root / "chars")]) == 0
    assert capsys.readouterr().err.count(line) == 1


def test_pictures_behind_links_are_encoded(world):
    root, run = world
    put(root, "elsewhere/a.pgm", b"P5 4 4 255\n" + bytes(16))
    (root / "in").mkdir()
    (root / "in" / "sub").symlink_to("../elsewhere")
    _, keys, failures, said = run(root / "in", kind="image")
    assert (keys, failures) == (["sub/a.pgm"], [])
    assert "the link sub to the folder ../elsewhere was followed" in said


def test_a_run_over_standard_input_goes_on_if_the_same_is_piped_in_again(world, monkeypatch):
    root, run = world

    def pipe(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        spool.spooled.cache_clear()

    pipe(LINES)
    first, keys, _, said = run("-", shard_mb=0.0005)
    assert keys[0] == "stdin@0"
    assert "stdin was kept in" in said
    assert first.shards == 4
    folder = root / "out"
    before = {path.name: path.read_bytes() for path in folder.glob("*.arrow")}
    for name in ("dataset.json", "00001.json"):
        (folder / name).unlink()
    kept = (folder / "00000.json").stat().st_mtime_ns
    pipe(LINES)
    run("-", shard_mb=0.0005)
    assert {path.name: path.read_bytes() for path in folder.glob("*.arrow")} == before
    assert (folder / "00000.json").stat().st_mtime_ns == kept
    pipe(LINES[:-100])
    with pytest.raises(ValueError, match="belongs to another run"):
        run("-", shard_mb=0.0005)
    spool.spooled.cache_clear()


@pytest.mark.parametrize("url", ["file:///tmp/x", "memory://x", "s3://bucket/x"])
@pytest.mark.parametrize(
    "words",
    [
        "encode --tokenizer t --data d",
        "train chars --data d",
        "create pixels",
        "evaluate --tokenizer t --data d",
        "decode --shards s --tokenizer t",
    ],
)
def test_no_command_writes_to_a_url(words, url, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--out", url]) == 1
    assert f"error: --out {url} is a URL; " in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_compress_writes_to_no_url(capsys):
    assert main("compress a.txt memory://b.tkc --tokenizer t".split()) == 1
    assert "TARGET memory://b.tkc is a URL" in capsys.readouterr().err
