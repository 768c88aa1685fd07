"""``inspect`` opens what the kit makes or reads, says how much it holds and which fields, and names what is damaged."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import struct
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import zstandard
from PIL import Image
from toys.world import picture_samples, text_samples, write_shards

from tokenize_kit.cli import main
from tokenize_kit.sources import spool

ROWS = [{"text": f"text {i}", "label": i, "meta": {"lang": "en"}} for i in range(7)] + [{"text": "x", "label": None}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FIELDS = {"text": "string", "label": "int64, in 7 of 8", "meta": "object, in 7 of 8"}


def run(capsys, path, *words):
    code = main(["inspect", str(path), "--json", *words])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else captured.err


def told(capsys, path, *words, code=0):
    got, facts = run(capsys, path, *words)
    assert got == code, facts
    return facts


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.ndjson.gz", gzip.compress),
        ("a.jsonl.zst", lambda data: zstandard.compress(data[:90]) + zstandard.compress(data[90:])),
        ("a.jsonl.bz2", bz2.compress),
        ("a.jsonl.xz", lzma.compress),
        ("lines.json", bytes),
        ("array.json", lambda data: b"[" + b",\n".join(data.splitlines()) + b"]"),
    ],
)
def test_rows_of_json_in_any_layout(capsys, tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(LINES))
    facts = told(capsys, tmp_path / name, "--rows", "2")
    assert facts["kind"] == ("json file" if name.endswith(".json") else "jsonl file")
    assert (facts["rows"], facts["fields"]) == (8, FIELDS)
    assert facts["first_rows"] == ROWS[:2]
    assert facts["bytes"] == (tmp_path / name).stat().st_size
    assert "damaged" not in facts
    assert main(["inspect", str(tmp_path / name)]) == 0
    assert "rows: 8" in capsys.readouterr().out


def test_names_of_the_data_are_shown_as_they_are(capsys, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"my_text": "x", "files": {"a_b": 1}}\n')
    assert main(["inspect", str(tmp_path / "a.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "    my_text: string\n    files: object\n" in said
    assert "  first rows:\n    my_text=x  files={a_b: 1}\n" in said


def test_lines_that_are_none_are_counted_and_the_first_is_named(capsys, tmp_path):
    bad = b'\n{broken\n[1]\n"\xff"\n' + b"[" * 100_000 + b"\n" + LINES[:40]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES + bad)
    facts = told(capsys, tmp_path / "a.jsonl")
    assert (facts["rows"], facts["cannot_be_read"]) == (8, 5)
    assert facts["first_of_them"].startswith("line 10: not JSON")


@pytest.mark.parametrize(("name", "pack"), [("a.jsonl.gz", gzip.compress), ("a.json.zst", zstandard.compress)])
def test_a_cut_file_says_so_and_what_is_there(capsys, tmp_path, name, pack):
    rng = np.random.default_rng(0)
    content = "".join(f'{{"text": "{word}"}}\n' for word in rng.integers(0, 2**62, 30_000)).encode()
    data = pack(content)
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    facts = told(capsys, tmp_path / name, code=3)
    assert facts["damaged"]
    assert 0 < facts["rows"] < content.count(b"\n")
    assert main(["inspect", str(tmp_path / name)]) == 3
    assert "damaged: " in capsys.readouterr().out


def test_tables(capsys, tmp_path):
    (tmp_path / "a.csv").write_text('text,label,flag,nothing\n"one, two",1,true,\n"three\n lines",2,false,\nbroken,"\n')
    facts = told(capsys, tmp_path / "a.csv")
    assert facts["fields"] == {"text": "string", "label": "int64", "flag": "bool", "nothing": "empty"}
    assert (facts["rows"], facts["cannot_be_read"]) == (2, 1)
    assert facts["first_rows"][0] == {"text": "one, two", "label": "1", "flag": "true", "nothing": ""}
    (tmp_path / "a.tsv").write_text("a\tb\n1\t2\n")
    assert told(capsys, tmp_path / "a.tsv")["fields"] == {"a": "int64", "b": "int64"}


def test_parquet(capsys, tmp_path):
    table = pa.table(
        {"text": ["one", "two"] * 50, "image": [{"bytes": b"x" * 9, "path": "a"}] * 100, "n": list(range(100))}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=40)
    facts = told(capsys, tmp_path / "a.parquet")
    assert (facts["rows"], facts["row_groups"]) == (100, 3)
    assert facts["fields"] == {"text": "string", "image": "struct<bytes: binary, path: string>", "n": "int64"}
    assert facts["first_rows"][1] == {"text": "two", "image": {"bytes": "9 bytes", "path": "a"}, "n": 1}
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "cut.parquet").write_bytes(data[:-20])
    assert told(capsys, tmp_path / "cut.parquet", code=3)["damaged"]
    data[4:400] = bytes(396)
    (tmp_path / "page.parquet").write_bytes(data)
    facts = told(capsys, tmp_path / "page.parquet", code=3)
    assert facts["rows"] == 100
    assert "rows cannot be read" in facts["damaged"]


def packed_tar(names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3000
            archive.addfile(member, io.BytesIO(np.random.default_rng(len(name)).bytes(3000)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"), [("a.tar", bytes), ("a.tgz", gzip.compress), ("a.tar.zst", zstandard.compress)]
)
def test_archives(capsys, tmp_path, name, pack):
    data = packed_tar(["a.png", "a.txt", "b/c.png", "b/c.txt", "d.seg.png", ".hidden.png"])
    (tmp_path / name).write_bytes(pack(data))
    facts = told(capsys, tmp_path / name, "--rows", "1")
    assert (facts["samples"], facts["members"], facts["endings"]) == (3, 5, {".png": 2, ".txt": 2, ".seg.png": 1})
    assert (facts["refused"], facts["first_of_them"]) == (1, "link.png: it is a link, not a file")
    assert facts["first_samples"] == [{"key": "a", "files": [".png", ".txt"]}]
    (tmp_path / f"cut{name}").write_bytes(pack(data)[:9000])
    facts = told(capsys, tmp_path / f"cut{name}", code=3)
    assert facts["damaged"]
    assert facts["samples"] <= 3
    if name == "a.tar":  # two members are whole and the third is cut
        assert (facts["samples"], facts["damaged"]) == (2, "it is cut inside a member")


def test_idx(capsys, tmp_path):
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, 5, 4, 4)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + bytes(80))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 5) + bytes(5))
    facts = told(capsys, tmp_path / "train-images-idx3-ubyte")
    assert (facts["samples"], facts["shape"], facts["labels"]) == (5, [4, 4], "train-labels-idx1-ubyte")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(60)))
    facts = told(capsys, tmp_path / "t10k-images-idx3-ubyte.gz", code=3)
    assert facts["damaged"] == "its header says 5 pictures, but 3 are there (60 bytes)"


def test_texts_pictures_and_sounds(capsys, tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("ä\nb\n".encode()))
    facts = told(capsys, tmp_path / "a.txt.gz")
    assert [facts[name] for name in ("kind", "compression", "characters", "bytes", "lines")] == [
        "text file",
        "gz",
        4,
        5,
        2,
    ]
    (tmp_path / "bad.txt").write_bytes(b"abc\xff\n")
    assert "not UTF-8" in told(capsys, tmp_path / "bad.txt", code=3)["damaged"]
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    assert told(capsys, tmp_path / "a.png")["shape"] == [3, 4, 5]
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 8000)
    assert told(capsys, tmp_path / "a.wav")["seconds"] == 0.1
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, said = run(capsys, tmp_path / "bad.png")
    assert (code, "error: " in said) == (1, True)


def test_a_folder_of_films_and_pictures_holds_no_sounds(capsys, tmp_path):
    for name in ("a.mp4", "b.webm", "c.gif", "d.wav"):
        (tmp_path / name).write_bytes(b"x")
    assert told(capsys, tmp_path)["files"] == {"video": 2, "image": 1, "audio": 1}


def test_a_folder_of_data(capsys, tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/b.jsonl", "c.zzz", ".hidden.txt"):
        (tmp_path / name).write_text("x\n")
    facts = told(capsys, tmp_path)
    assert (facts["kind"], facts["files"], facts["bytes"]) == ("folder of data", {"text": 1, "jsonl": 1}, 4)
    assert (facts["first_files"], facts["other_files"]) == (["a.txt", "sub/b.jsonl"], {".zzz": 1})


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    (folder / "a.jsonl").write_bytes(LINES * 40)
    assert main(["create", "pixels", "--out", str(folder / "pixels"), "--quiet"]) == 0
    bpe = ["train", "bpe", "--data", str(folder / "a.jsonl"), "--vocab-size", "260", "--out", str(folder / "bpe")]
    assert main([*bpe, "--quiet"]) == 0
    words = ["encode", "--tokenizer", str(folder / "bpe"), "--data", str(folder / "a.jsonl"), "--shard-mb", "0.005"]
    assert main([*words, "--out", str(folder / "shards"), "--quiet"]) == 0
    return folder


def test_an_unfinished_shard_set_and_one_shard(capsys, encoded, tmp_path):
    import shutil

    whole = told(capsys, encoded / "shards")
    assert (whole["kind"], whole["rows"]) == ("shard set", 320)
    shard = told(capsys, encoded / "shards" / "00000.arrow", "--rows", "1")
    assert (shard["kind"], len(shard["first_rows"])) == ("shard", 1)
    half = tmp_path / "half"
    shutil.copytree(encoded / "shards", half)
    for name in ("dataset.json", "00001.json"):
        (half / name).unlink()
    facts = told(capsys, half)
    count = whole["files"]
    assert (facts["kind"], facts["shards_done"]) == ("unfinished shard set", f"{count - 1} of {count}")
    assert 0 < facts["rows"] < 320
    assert facts["streams"] == {"text": "bpe"}
    with (half / "00000.arrow").open("r+b") as file:
        file.truncate(100)
    assert "00000.arrow has 100 bytes" in told(capsys, half, code=3)["damaged"]
    assert "its sha256 is" in told(capsys, half / "00000.arrow", code=3)["damaged"]


def test_a_training_its_checkpoint_and_its_weights(capsys, tmp_path, monkeypatch):
    from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
    from trainers.autoregressive.task import SequenceTask
    from trainers.autoregressive.train import train_transformer
    from trainers.checkpoints import last_checkpoint

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = SequenceTask.batch

    def batch(self, index):
        if index == 3:
            raise KeyboardInterrupt
        return whole(self, index)

    options = TrainTransformerOptions(
        shards=(write_shards(tmp_path / "shards", text_samples(20)),),
        template="text",
        out=str(tmp_path / "model"),
        model=TransformerOverrides(layers=1, width=16, heads=2),
        steps=4,
        context=32,
        checkpoint_every=2,
        validate_every=2,
        device="cpu",
    )
    with monkeypatch.context() as patch:
        patch.setattr(SequenceTask, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            train_transformer(options)
    torch.set_num_threads(threads)
    facts = told(capsys, tmp_path / "model")
    assert (facts["kind"], facts["training"], facts["template"]) == (
        "autoregressive",
        "not finished, step 2 of 4",
        "text",
    )
    checkpoint = last_checkpoint(tmp_path / "model" / "checkpoints")
    facts = told(capsys, checkpoint)
    assert (facts["kind"], facts["step"], facts["best_step"]) == ("checkpoint", 2, 2)
    assert set(facts["files"]) == {"model.safetensors", "optimizer_model_0.safetensors"}
    weights = told(capsys, tmp_path / "model" / "model.safetensors")
    assert (weights["kind"], weights["training"]["step"]) == ("weights", 2)
    assert weights["parameters"] == told(capsys, tmp_path / "model")["parameters"]
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert told(capsys, checkpoint, code=3)["damaged"] == "model.safetensors is not what was written"
    path.write_bytes(data[:50])
    code, said = run(capsys, path)
    assert (code in (1, 3), "damaged" in said) == (True, True)
    # Without its model the folder is what a training of a tokenizer is before its end.
    (tmp_path / "model" / "model_config.json").unlink()
    facts = told(capsys, tmp_path / "model")
    assert (facts["kind"], facts["step"]) == ("unfinished training", "2 of 4")
    assert facts["checkpoint"] == f"checkpoints/{checkpoint.name}"
    assert facts["log"]["step"] == 2


def test_a_model_says_how_its_samples_were_prepared(capsys, tmp_path):
    samples = picture_samples(3)
    write_shards(tmp_path / "shards", samples)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_config.json").write_text('{"kind": "autoregressive"}')
    (tmp_path / "model" / "recipe.json").write_text('{"format_version": 1, "image_size": 6}')
    assert told(capsys, tmp_path / "model")["samples_were_prepared_with"] == {"image_size": 6}


def test_data_at_a_url(capsys):
    import fsspec

    with fsspec.open("memory://bucket/a.jsonl.gz", "wb") as file:
        file.write(gzip.compress(LINES))
    facts = told(capsys, "memory://bucket/a.jsonl.gz")
    assert (facts["kind"], facts["rows"]) == ("jsonl file", 8)


def test_what_generate_and_evaluate_wrote(capsys, encoded, tmp_path):
    (tmp_path / "samples").mkdir()
    line = {"index": 0, "seed": 1, "prompt": "a", "files": {"text": "sample_00000.txt"}, "text": "a b", "ids": [1, 2]}
    (tmp_path / "samples" / "samples.jsonl").write_text(json.dumps(line) + "\n")
    facts = told(capsys, tmp_path / "samples")
    assert (facts["kind"], facts["samples"], facts["first_samples"][0]["text"]) == ("generated samples", 1, "a b")
    (tmp_path / "samples" / "samples.jsonl").write_text(json.dumps({"text": "of a user"}) + "\n")
    assert told(capsys, tmp_path / "samples")["kind"] == "folder of data"
    (tmp_path / "samples" / "samples.jsonl").unlink()
    (tmp_path / "samples" / "generate.json").write_text(json.dumps({"command": "generate", "prompt": "a", "seed": 0}))
    facts = told(capsys, tmp_path / "samples")
    assert facts["options"] == {"prompt": "a"}
    assert "has not ended" in facts["next"]
    words = ["evaluate", "--tokenizer", str(encoded / "bpe"), "--data", str(encoded / "a.jsonl"), "--limit", "5"]
    assert main([*words, "--out", str(tmp_path / "evaluation"), "--quiet"]) == 0
    capsys.readouterr()
    facts = told(capsys, tmp_path / "evaluation")
    assert (facts["kind"], facts["samples"], facts["name"]) == ("evaluation", 5, "bpe")


def test_what_decode_wrote(capsys, encoded, tmp_path):
    out = tmp_path / "files"
    words = ["decode", "--shards", str(encoded / "shards"), "--tokenizer", str(encoded / "bpe"), "--limit", "3"]
    assert main([*words, "--out", str(out), "--quiet"]) == 0
    capsys.readouterr()
    facts = told(capsys, out, "--rows", "1")
    assert (facts["kind"], facts["stream"], facts["samples"], facts["files"]) == ("decoded samples", "text", 3, 3)
    [first] = facts["first_files"]
    assert "next" not in facts
    (out / first["file"]).unlink()
    facts = told(capsys, out)
    assert facts["files"] == 2
    assert "has not ended" in facts["next"]
    (out / "files.jsonl").write_text("[]\n")
    code, said = run(capsys, out)
    assert code == 1
    assert "files.jsonl is damaged" in said
    (out / "files.jsonl").unlink()
    assert "has not ended" in told(capsys, out)["next"]


def test_vocabularies_of_others(capsys, encoded, tmp_path):
    facts = told(capsys, encoded / "bpe" / "tokenizer.json")
    assert (facts["kind"], facts["tokens"], facts["special_tokens"]) == ("vocabulary", 260, {"<|endoftext|>": 0})
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}))
    assert "only byte-level BPE" in told(capsys, tmp_path / "tokenizer.json")["cannot_be_imported"]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"text": "a row"}))
    assert told(capsys, tmp_path / "tokenizer.json")["kind"] == "json file"
    lines = (base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))
    (tmp_path / "a.tiktoken").write_bytes(b"".join(lines))
    facts = told(capsys, tmp_path / "a.tiktoken")
    assert (facts["kind"], facts["tokens"], facts["highest_id"]) == ("vocabulary", 256, 255)


def test_zip_archives_and_files_in_them(capsys, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("sub/a.jsonl", LINES)
        archive.writestr("b.txt", "x")
    facts = told(capsys, tmp_path / "a.zip")
    assert (facts["files"], facts["endings"]) == (2, {".jsonl": 1, ".txt": 1})
    assert facts["first_files"] == ["sub/a.jsonl", "b.txt"]
    assert told(capsys, f"zip://sub/a.jsonl::{tmp_path / 'a.zip'}")["rows"] == 8
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    assert told(capsys, tmp_path / "a.zip", code=3)["damaged"]


def test_names_that_are_no_utf8(capsys, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.jsonl"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(LINES)
    facts = told(capsys, os.fsdecode(path))
    assert facts["path"] == f"{tmp_path}/\\udcff.jsonl"
    assert main(["inspect", os.fsdecode(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/\\udcff.jsonl: jsonl file\n")
    assert told(capsys, tmp_path)["first_files"] == ["\\udcff.jsonl"]


def piped(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    spool.spooled.cache_clear()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_standard_input_is_known_by_how_it_begins(capsys, monkeypatch, tmp_path, pack):
    def facts(data, code=0):
        piped(monkeypatch, pack(data))
        return told(capsys, "-", code=code)

    rows = facts(LINES)
    assert (rows["path"], rows["kind"], rows["rows"], rows["fields"]) == ("-", "jsonl from standard input", 8, FIELDS)
    assert facts(json.dumps(ROWS, indent=1).encode())["kind"] == "json from standard input"
    text = facts("one\n\u00e9\n".encode())
    assert (text["kind"], text["lines"], text["characters"], text["bytes"]) == ("text from standard input", 2, 6, 7)
    assert "not UTF-8" in facts(b"one \xff", code=3)["damaged"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(__file__, "a.txt")
    tar = facts((tmp_path / "a.tar").read_bytes())
    assert (tar["kind"], tar["samples"]) == ("tar from standard input", 1)
    assert "as a file with its name" in tar["next"]
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    piped(monkeypatch, (tmp_path / "a.parquet").read_bytes())
    assert (parquet := told(capsys, "-"))["kind"] == "parquet from standard input"
    assert parquet["rows"] == 2
    piped(monkeypatch, pack(b"RIFF\0\0\0\0WAVE"))
    code, said = run(capsys, "-")
    assert (code, "standard input is neither text nor JSON" in said) == (1, True), said


def test_a_named_pipe_is_looked_into(capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    spool.spooled.cache_clear()
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(LINES))
    writer.start()
    facts = told(capsys, tmp_path / "pipe")
    writer.join()
    assert (facts["kind"], facts["rows"]) == ("jsonl from a pipe", 8)


@pytest.mark.parametrize(
    ("command", "kind", "last"),
    [("score", "scores", "summary"), ("probe", "probe", "results"), ("compare", "comparison", "results")],
)
def test_what_the_uses_of_a_model_found(capsys, tmp_path, command, kind, last):
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / f"{command}.json").write_text('{"format_version": 1, "model": "models/a", "limit": null}')
    facts = told(capsys, folder)
    assert (facts["kind"], facts["options"]) == (kind, {"model": "models/a"})
    assert f"run the same 'tokenize-kit {command}' again" in facts["next"]
    (folder / f"{last}.json").write_text('{"samples": 3}')
    facts = told(capsys, folder)
    assert (facts["kind"], facts["results"]) == (kind, {"samples": 3})
    assert "next" not in facts
