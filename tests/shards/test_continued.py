"""A run that goes on: inputs that were touched, an --out inside --data, runs that made nothing, two commands at once."""

import fcntl
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys.simple import RaggedToyText, ToyImage

from tokenize_kit import disk
from tokenize_kit.claims import owned
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.verify import verify


def contents(folder, *without):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name not in without
    }


@pytest.fixture
def pictures(tmp_path):
    """Options to encode six pictures into three shards."""
    for number in range(6):
        (tmp_path / "data").mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{number}.bmp")
    ToyImage().save(tmp_path / "tok")
    return EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "data"),), str(tmp_path / "out"), shard_mb=0.0005)


def later(path):
    seconds = path.stat().st_mtime + 60
    os.utime(path, (seconds, seconds))


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("lost", ["nothing", "a shard", "all"])
def test_a_touched_input_does_not_stop_a_run(pictures, tmp_path, limit, lost):
    options = replace(pictures, limit=limit)
    assert encode(options).shards == 3
    before = contents(options.out, "plan.json")
    for path in (tmp_path / "data").iterdir():
        later(path)
    for name in {"nothing": [], "a shard": ["00001.json"], "all": ["00000.json", "00001.json", "00002.json"]}[lost]:
        (tmp_path / "out" / name).unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("0000[02].arrow")}
    encode(options)
    assert contents(options.out, "plan.json") == before
    if lost != "all":
        # They were compared, not replaced.
        assert {path: path.stat().st_mtime_ns for path in times} == times
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    steps = []
    disk.watch = lambda what, path: steps.append(path)
    try:
        encode(options)
    finally:
        disk.watch = None
    # Once proven is enough.
    assert not [path for path in steps if "proof" in str(path)]
    assert json.loads((tmp_path / "out" / "plan.json").read_text()) == plan


def test_an_input_with_other_content_of_the_same_size_is_refused_by_name(pictures, tmp_path):
    encode(pictures)
    before = contents(pictures.out)
    changed = tmp_path / "data" / "3.bmp"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x07")
    later(changed)
    with pytest.raises(ValueError, match=r"an input file was written again .* holds something else .*data/3\.bmp"):
        encode(pictures)
    assert contents(pictures.out) == before


def test_a_part_proves_its_own_shards(pictures, tmp_path):
    parts = [replace(pictures, part=f"{number}/2") for number in range(2)]
    assert not encode(parts[0]).complete
    later(tmp_path / "data" / "0.bmp")
    assert encode(parts[1]).complete
    assert encode(parts[0]).complete
    assert verify(pictures.out).rows == 6


def test_the_plan_of_an_earlier_version_is_gone_on_with(pictures, tmp_path):
    encode(pictures)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    del plan["written"], plan["own_digest"]
    (tmp_path / "out" / "plan.json").write_text(json.dumps(plan))
    before = contents(pictures.out, "plan.json")
    later(tmp_path / "data" / "0.bmp")
    encode(pictures)
    assert contents(pictures.out, "plan.json") == before
    assert len(json.loads((tmp_path / "out" / "plan.json").read_text())["written"]) == 3


def test_the_out_folder_is_no_input(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("text")
    RaggedToyText().save(tmp_path / "tok")
    for out in ("data/out", "data/x/../out"):
        options = EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "data"),), str(tmp_path / out))
        (tmp_path / "data" / "x").mkdir(exist_ok=True)
        encode(options)
        before = contents(tmp_path / "data" / "out")
        assert encode(options).rows == 1
        assert contents(tmp_path / "data" / "out") == before


@pytest.mark.parametrize("what", ["no samples", "bad samples"])
def test_a_run_that_made_nothing_keeps_no_other_out(tmp_path, what):
    (tmp_path / "a.jsonl").write_text("\n" if what == "no samples" else '{"text": 1}\n{"text": 2}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "good"}\n')
    RaggedToyText().save(tmp_path / "tok")
    options = EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "a.jsonl"),), str(tmp_path / "out"))
    with pytest.raises((ValueError, RuntimeError)):
        encode(options)
    assert (tmp_path / "out" / "plan.json").exists()
    again = replace(options, data=(str(tmp_path / "b.jsonl"),))
    assert encode(again).rows == 1
    clean = replace(again, out=str(tmp_path / "clean"))
    encode(clean)
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    with pytest.raises(ValueError, match="belongs to another run"):
        encode(options)


def test_a_run_that_is_going_on_is_not_replaced_though_it_has_made_nothing_yet(pictures, tmp_path, monkeypatch):
    refused = []

    def meanwhile(what, path):
        if what == "make" and path.name.startswith("00000.arrow") and not refused:
            refused.append(True)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    def other():
        with pytest.raises(ValueError, match=r"belongs to another run: options\.image_size"):
            encode(replace(pictures, image_size=4))
        # The same one may run beside it.
        refused.append(encode(pictures).rows)

    monkeypatch.setattr(disk, "watch", meanwhile)
    assert encode(pictures).rows == 6
    assert refused == [True, 6]
    assert ShardSet.open(tmp_path / "out").num_rows == 6


def test_a_folder_has_one_owner_and_goes_if_it_stays_empty(tmp_path):
    with owned(tmp_path / "a" / "b"):
        with pytest.raises(ValueError, match="another command is writing into"), owned(tmp_path / "a" / "b"):
            pass
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with owned(tmp_path / "a"):
        (tmp_path / "a" / "file").write_text("")
    with owned(tmp_path / "a"):
        pass
    assert (tmp_path / "a" / "file").exists()


def test_where_there_are_no_locks_a_folder_is_used_and_nothing_is_replaced(pictures, tmp_path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with owned(tmp_path / "a") as certain:
        assert not certain
    (tmp_path / "out").mkdir()
    encode(pictures)
    for path in (tmp_path / "out").glob("0*"):
        path.unlink()
    (tmp_path / "out" / "dataset.json").unlink()
    with pytest.raises(ValueError, match="belongs to another run"):
        encode(replace(pictures, image_size=4))
