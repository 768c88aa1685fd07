"""Whole runs: the same bytes whatever the workers, a ledger for what fails, and a refusal of what is another run."""

import bz2
import errno
import gzip
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys.simple import RaggedToyText, ToyImage, ToyText

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.verify import verify
from tokenize_kit.sources.planning import Unit

SOURCES = str(Path(__file__).parents[1])


def contents(folder):
    """The bytes of every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


def write_jsonl(path, count, bad=()):
    rng = random.Random(count)
    with path.open("w") as file:
        for number in range(count):
            text = " ".join(rng.choice(["one", "zwei", "trois", "四", "пять"]) for _ in range(rng.randrange(30)))
            file.write("{bad json\n" if number in bad else json.dumps({"id": number, "text": text}) + "\n")
    return path


@pytest.fixture
def corpus(tmp_path):
    """Options of a run over jsonl and txt, in about twelve units."""
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "a.jsonl", 400, bad={7, 300})
    (data / "b.txt").write_text("a document\n" * 300)
    (data / "c.txt").write_text("small")
    ToyText().save(tmp_path / "tokenizer")
    RaggedToyText().save(tmp_path / "ragged")
    return EncodeOptions(
        tokenizer=(str(tmp_path / "ragged"),),
        data=(str(data),),
        out=str(tmp_path / "out"),
        shard_mb=0.004,
        max_document_mb=0.001,
    )


def test_rows_are_what_the_tokenizer_says(corpus):
    result = encode(corpus)
    shards = ShardSet.open(corpus.out)
    rows = [
        json.loads(line)["text"]
        for line in (Path(corpus.data[0]) / "a.jsonl").read_text().split("\n")
        if line[1:2] == '"'
    ]
    toy = ToyText()
    decoded = [toy.decode(torch.from_numpy(record.grids["text"].astype(np.int64))) for record in shards.records()]
    assert decoded[:398] == rows
    assert "".join(decoded[398:-1]) == "a document\n" * 300
    assert decoded[-1] == "small"
    assert (result.rows, result.failures, result.complete) == (len(decoded), 2, True)
    assert result.tokens == shards.num_tokens == {"text": sum(len(text.encode()) for text in decoded)}
    assert len(shards.files) >= 10
    assert verify(corpus.out, corpus.tokenizer).rows == result.rows
    keys = shards.column("key").to_pylist()
    assert len(set(keys)) == len(keys)
    failures = [json.loads(line) for line in (Path(corpus.out) / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == 2
    assert all(item["key"].startswith("a.jsonl@") and item["reason"].startswith("not JSON") for item in failures)


def test_the_bytes_do_not_depend_on_workers_parts_or_place(corpus, tmp_path):
    encode(corpus)
    expected = contents(corpus.out)
    encode(replace(corpus, out=str(tmp_path / "two"), workers=2))
    assert contents(tmp_path / "two") == expected
    parts = [encode(replace(corpus, out=str(tmp_path / "parts"), part=f"{part}/3")) for part in (2, 0, 1)]
    assert [part.complete for part in parts] == [False, False, True]
    assert contents(tmp_path / "parts") == expected
    moved = tmp_path / "moved"
    Path(corpus.data[0]).rename(moved)
    os.chdir(tmp_path)
    encode(replace(corpus, data=("moved",), out="relative"))
    assert contents(tmp_path / "relative") == expected
    assert not any(str(tmp_path).encode() in data for data in expected.values())


def test_the_fast_way_gives_the_bytes_of_the_slow_one(corpus, tmp_path):
    slow = replace(corpus, out=str(tmp_path / "slow"), tokenizer=(str(tmp_path / "tokenizer"),))
    fast = replace(corpus, out=str(tmp_path / "fast"))
    encode(slow)
    encode(fast)
    first, second = contents(slow.out), contents(fast.out)
    shards = [name for name in first if name.endswith(".arrow")]
    assert len(shards) > 10
    assert [first[name] for name in shards] == [second[name] for name in shards]


def test_a_text_that_the_tokenizer_refuses_is_a_failure(tmp_path):
    rows = [{"text": text} for text in ("one", "REFUSED here", "two", "", "REFUSED")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for cls in (ToyText, RaggedToyText):
        folder = tmp_path / cls.__name__
        cls().save(folder / "tok")
        options = EncodeOptions((str(folder / "tok"),), (str(tmp_path / "a.jsonl"),), str(folder / "out"))
        assert encode(options).failures == 2
        assert [len(record.grids["text"]) for record in ShardSet.open(options.out).records()] == [3, 3, 0]
        reasons = (folder / "out" / "failures.jsonl").read_text()
        assert reasons.count("the toy does not like this text") == 2


def picture_folder(folder, count=6):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 255, (4 + 2 * (number % 3), 6, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}")
    return folder


def test_pictures_with_captions_become_two_streams(tmp_path):
    data = picture_folder(tmp_path / "data")
    (data / "1.png").write_bytes((data / "1.png").read_bytes()[:60])
    (data / "2.txt").unlink()
    Image.new("RGB", (3, 3)).save(data / "3.png")
    ToyText().save(tmp_path / "text")
    ToyImage().save(tmp_path / "image")
    options = EncodeOptions(
        (f"caption={tmp_path / 'text'}", str(tmp_path / "image")), (str(data),), str(tmp_path / "out"), shard_mb=0.0003
    )
    assert encode(options).tokens.keys() == {"caption", "image"}
    shards = ShardSet.open(options.out)
    assert [record.key for record in shards.records()] == ["0", "4", "5"]
    assert [record.grids["image"].shape for record in shards.records()] == [(2, 3), (3, 3), (4, 3)]
    failures, incomplete = (
        {item["key"]: item["reason"] for item in map(json.loads, (tmp_path / "out" / f"{name}.jsonl").open())}
        for name in ("failures", "incomplete")
    )
    assert failures.keys() == {"1", "3"}
    assert "not even" in failures["3"]
    assert incomplete == {"2": "it has no text; its files are .png"}
    sized = replace(options, out=str(tmp_path / "sized"), image_size=2)
    encode(sized)
    assert {record.grids["image"].shape for record in ShardSet.open(sized.out).records()} == {(1, 1)}


def test_columns_come_along(tmp_path):
    rows = [{"text": f"t{n}", "label": n if n % 3 else None, "source": "web", "score": n / 2} for n in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ToyText().save(tmp_path / "tok")
    options = EncodeOptions(
        (str(tmp_path / "tok"),),
        (str(tmp_path / "a.jsonl"),),
        str(tmp_path / "out"),
        columns=("label", "source", "score"),
    )
    encode(options)
    got = [record.columns for record in ShardSet.open(options.out).records()]
    assert got == [{"label": row["label"], "source": "web", "score": row["score"]} for row in rows]


def test_a_finished_run_is_left_alone(corpus):
    first = encode(corpus)
    before = {path: path.stat().st_mtime_ns for path in Path(corpus.out).iterdir() if path.suffix == ".arrow"}
    again = encode(replace(corpus, workers=2, max_failures=5))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (again.rows, again.tokens, again.output_bytes) == (first.rows, first.tokens, first.output_bytes)


def test_what_is_lost_is_made_again(corpus):
    encode(corpus)
    expected = contents(corpus.out)
    out = Path(corpus.out)
    (out / "00001.arrow").unlink()
    (out / "00002.json").unlink()
    (out / "00003.arrow").write_bytes(expected["00003.arrow"][:-10])
    (out / "00004.json").write_text("{half")
    (out / "dataset.json").unlink()
    (out / "00005.arrow.partial-1").write_bytes(b"left by a kill")
    encode(corpus)
    assert contents(out) == expected


def test_another_run_is_refused_and_says_why(corpus, tmp_path):
    encode(corpus)
    expected = contents(corpus.out)
    RaggedToyText(shift=43).save(tmp_path / "other")

    def refused(options, words):
        with pytest.raises(ValueError, match=words):
            encode(options)
        assert contents(corpus.out) == expected

    refused(replace(corpus, tokenizer=(str(tmp_path / "other"),)), r"streams\.text\.fingerprint was")
    refused(replace(corpus, shard_mb=0.005), r"options\.shard_mb was 0\.004, is now 0\.005")
    refused(replace(corpus, split="lines"), r'options\.split was "none", is now "lines"')
    refused(replace(corpus, data=(f"{corpus.data[0]}/*.txt",)), r"inputs\.files was 3, is now 2")
    added = Path(corpus.data[0]) / "d.txt"
    added.write_text("x")
    refused(corpus, r"inputs\.files was 3, is now 4")
    added.unlink()
    changed = Path(corpus.data[0]) / "c.txt"
    changed.write_text("smaLl")
    refused(corpus, "an input file was written again")
    refused(replace(corpus, out=str(tmp_path)), "holds other files")
    refused(replace(corpus, out=str(changed)), "is a file")


def test_too_many_failures_stop_the_run_and_keep_what_is_finished(corpus, tmp_path):
    write_jsonl(Path(corpus.data[0]) / "a.jsonl", 400, bad=range(200, 400, 10))
    for workers in (1, 2):
        options = replace(corpus, out=str(tmp_path / f"stop{workers}"), max_failures=5, workers=workers)
        with pytest.raises(
            TooManyFailuresError, match=r"samples could not be read, more than --max-failures 5"
        ) as caught:
            encode(options)
        assert caught.value.exit_code == 5
        assert len((Path(options.out) / "failures.jsonl").read_text().splitlines()) > 5
        # Which ones are finished depends on the workers' speed, but some are.
        assert list(Path(options.out).glob("*.arrow"))
        assert not (Path(options.out) / "dataset.json").exists()
        assert encode(replace(options, max_failures=20)).failures == 20
    assert contents(tmp_path / "stop1") == contents(tmp_path / "stop2")


def test_if_nothing_can_be_read_it_is_an_error(tmp_path):
    ToyText().save(tmp_path / "tok")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    options = EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "bad.txt"),), str(tmp_path / "out"))
    with pytest.raises(TooManyFailuresError, match=r"none of 1 samples could be read.*bad\.txt: not UTF-8"):
        encode(options)
    with pytest.raises(ValueError, match="the input holds no samples"):
        encode(replace(options, data=(str(tmp_path / "empty.jsonl"),), out=str(tmp_path / "out2")))


@pytest.mark.parametrize("limit", [1, 60, 398, 10_000])
def test_limit_takes_the_first_samples(corpus, tmp_path, limit):
    encode(corpus)
    every = ShardSet.open(corpus.out).column("key").to_pylist()
    options = replace(corpus, out=str(tmp_path / "limited"), limit=limit, workers=2)
    encode(options)
    assert ShardSet.open(options.out).column("key").to_pylist() == every[:limit]
    before = contents(options.out)
    (tmp_path / "limited" / "dataset.json").unlink()
    (tmp_path / "limited" / "00000.json").unlink()
    encode(options)
    assert contents(options.out) == before


PACKED = [("a.jsonl.gz", gzip.compress), ("a.json.xz", lzma.compress), ("a.tsv.bz2", bz2.compress)]


@pytest.mark.parametrize(("name", "pack"), PACKED)
def test_a_dry_run_knows_how_well_a_file_is_compressed(tmp_path, name, pack, monkeypatch):
    monkeypatch.setattr("tokenize_kit.shards.estimate.SECONDS_EACH", 60)  # a busy machine sees less in the usual time
    rows = "".join(f"{i % 7} abcabc\n" for i in range(30_000))
    if "json" in name:
        rows = "".join(json.dumps({"text": row}) + "\n" for row in rows.splitlines())
    (tmp_path / name).write_bytes(pack(("text\n" + rows if "tsv" in name else rows).encode()))
    ToyText().save(tmp_path / "toy")
    options = EncodeOptions((str(tmp_path / "toy"),), (str(tmp_path / name),), str(tmp_path / "out"), dry_run=True)
    guess = encode(options)
    assert 20_000 < guess.rows < 40_000


def test_a_dry_run_writes_nothing_and_comes_close(corpus):
    guess = encode(replace(corpus, dry_run=True))
    assert not Path(corpus.out).exists()
    real = encode(corpus)
    assert guess.estimated
    assert guess.shards == real.shards
    for name in ("rows", "output_bytes", "input_bytes"):
        assert getattr(guess, name) == pytest.approx(getattr(real, name), rel=0.6)
    assert guess.tokens["text"] == pytest.approx(real.tokens["text"], rel=0.3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workers": 0}, "--workers 0"),
        ({"limit": 0}, "--limit 0"),
        ({"max_failures": -1}, "--max-failures -1"),
        ({"shard_mb": 0}, "--shard-mb 0"),
        ({"part": "3/3"}, "--part 3/3"),
        ({"part": "0/2", "limit": 3}, "--limit"),
        ({"field": "body"}, "has no field 'body'; it has id, text"),
        ({"columns": ("nope",)}, "has no field 'nope'"),
        ({"columns": ("text",)}, "two columns of a shard would be named 'text'"),
        ({"tokenizer": ()}, "no tokenizer is given"),
        ({"out": "memory://shards"}, "is a URL; write to a local folder"),
        ({"data": ()}, "no input is given"),
    ],
)
def test_wrong_options_are_said_at_once(corpus, change, words):
    with pytest.raises(ValueError, match=words):
        encode(replace(corpus, **change))
    assert not Path(corpus.out).exists()


def test_two_tokenizers_of_one_modality_need_names(corpus, tmp_path):
    both = (str(tmp_path / "tokenizer"), corpus.tokenizer[0])
    with pytest.raises(ValueError, match="two streams would be named 'text'"):
        encode(replace(corpus, tokenizer=both))
    result = encode(replace(corpus, tokenizer=(both[0], f"fast={both[1]}")))
    assert result.tokens["text"] == result.tokens["fast"]


def test_a_full_disk_is_said_and_nothing_finished_is_lost(corpus, monkeypatch):
    from tokenize_kit.shards import writer

    real, written = writer._HashingFile.write, 0

    def write(self, data):
        nonlocal written
        written += memoryview(data).nbytes
        if written > 30_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(writer._HashingFile, "write", write)
    with pytest.raises(OSError, match="the disk is full; finished shards are kept") as caught:
        encode(corpus)
    assert caught.value.errno == errno.ENOSPC
    out = Path(corpus.out)
    assert not list(out.glob("*.partial-*"))
    finished = {path.name: path.read_bytes() for path in out.glob("*.arrow")}
    assert 0 < len(finished) == len(list(out.glob("0*.json")))
    monkeypatch.undo()
    encode(corpus)
    assert {name: contents(out)[name] for name in finished} == finished
    verify(out)


def test_ctrl_c_leaves_no_partial_file(corpus, monkeypatch):
    from tokenize_kit.shards import unit as pipeline

    real, calls = pipeline.Rows.add, 0

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pipeline.Rows, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(corpus)
    assert not list(Path(corpus.out).glob("*.partial-*"))
    monkeypatch.undo()
    encode(corpus)
    verify(corpus.out)


RUN = """
import sys
sys.path.insert(0, {sources!r})
import toys.simple
from tokenize_kit.shards.encode import encode, EncodeOptions
if __name__ == "__main__":
    encode(EncodeOptions(**{options!r}))
"""


def start(options, workers):
    values = {**options.__dict__, "workers": workers}
    script = RUN.format(sources=SOURCES, options=values)
    environment = {**os.environ, "TOY_SECONDS": "0.02"}
    return subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_continues_to_the_same_bytes(corpus, tmp_path, workers):
    write_jsonl(Path(corpus.data[0]) / "a.jsonl", 2000, bad={7, 300})
    encode(corpus)
    expected = contents(corpus.out)
    options = replace(corpus, out=str(tmp_path / "killed"))
    out = Path(options.out)
    for wanted in (2, 12):
        process = start(options, workers)
        deadline = time.monotonic() + 60
        while len(list(out.glob("*.arrow"))) < wanted and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (out / "dataset.json").exists()
        assert 0 < len(list(out.glob("*.arrow"))) < len(expected)
    encode(options)
    assert contents(out) == expected


def test_a_worker_that_dies_is_said(corpus, tmp_path):
    write_jsonl(Path(corpus.data[0]) / "a.jsonl", 2000)
    process = start(corpus, workers=2)
    deadline = time.monotonic() + 60
    while len(list(Path(corpus.out).glob("*.arrow"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a worker was killed by signal 9" in stderr
    assert "run the same command again" in stderr
    assert not list(Path(corpus.out).glob("*.partial-*"))


def test_units_travel_as_json(corpus):
    from tokenize_kit.shards.format import StreamInfo
    from tokenize_kit.shards.recipe import Recipe
    from tokenize_kit.shards.unit import encode_unit
    from tokenize_kit.sources.planning import ReadOptions, find_sources, plan_units

    encode(corpus)
    read = ReadOptions(max_document_bytes=1000)
    toy = RaggedToyText()
    recipe = Recipe(read, (StreamInfo("text", toy.spec, toy.fingerprint, "uint16", "toy-ragged"),))
    unit = plan_units(find_sources(corpus.data, read), read, 4000)[3]
    unit, recipe = (
        Unit.from_dict(json.loads(json.dumps(unit.to_dict()))),
        Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))),
    )
    elsewhere = Path(corpus.out).parent / "elsewhere"
    encode_unit(unit, {"text": toy}, recipe, elsewhere)
    for name in ("00003.arrow", "00003.json"):
        assert (elsewhere / name).read_bytes() == (Path(corpus.out) / name).read_bytes()


def test_remote_inputs(corpus, tmp_path):
    import fsspec

    encode(corpus)
    memory = fsspec.filesystem("memory")
    memory.put(corpus.data[0] + "/", "/encode-corpus", recursive=True)
    remote = replace(corpus, data=("memory://encode-corpus",), out=str(tmp_path / "remote"))
    encode(remote)
    local, copied = contents(corpus.out), contents(remote.out)
    for name in local:
        assert name == "plan.json" or local[name] == copied[name]
