"""The file format: dtypes at both sides of each limit, what is refused, and reading that copies nothing."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from tokenize_kit.errors import VerificationError
from tokenize_kit.files import sha256_of_file, signed, write_json
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.shards import Manifest, ShardSet, StreamInfo, dtype_for, open_shard


def stream(name="text", vocab=300, axes=("time",)):
    spec = TokenSpec("text", vocab, axes, (None,) * len(axes), lossless=True)
    return StreamInfo(name, spec, "f" * 64, dtype_for(spec.max_vocab_size), "toy")


def write_set(folder, streams, shards, columns=None, column_values=None):
    """Write shards, each a list of record batches, each a list of {stream: grid}."""
    entries, row = [], 0
    for number, batches in enumerate(shards):
        with open_shard(folder / f"{number:05}.arrow", streams, columns or {}) as writer:
            for rows in batches:
                ids = {}
                for item in streams:
                    grids = [np.asarray(one[item.name]) for one in rows]
                    flat = np.concatenate([grid.reshape(-1) for grid in grids]) if grids else np.zeros(0, np.int64)
                    ids[item.name] = flat, np.array([grid.shape for grid in grids])
                values = {name: (column_values or {})[name][row : row + len(rows)] for name in columns or {}}
                writer.write([f"k{row + place}" for place in range(len(rows))], ids, values)
                row += len(rows)
        entries.append(writer.entry)
    manifest = Manifest({item.name: item for item in streams}, columns or {}, tuple(entries), {}, {}, 0)
    write_json(folder / "dataset.json", manifest.to_dict())
    return folder


@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32"), (2**32, "uint32")],
)
def test_the_largest_id_of_each_vocabulary_survives(tmp_path, vocab, dtype):
    assert dtype_for(vocab) == dtype
    write_set(tmp_path, [stream(vocab=vocab)], [[[{"text": np.array([0, vocab - 1])}]]])
    grid = ShardSet.open(tmp_path).record(0).grids["text"]
    assert grid.dtype == dtype
    assert grid.tolist() == [0, vocab - 1]


@pytest.mark.parametrize("vocab", [0, -1, 2**32 + 1])
def test_vocabularies_that_no_dtype_holds(vocab):
    with pytest.raises(ValueError, match=f"vocabulary of {vocab} "):
        dtype_for(vocab)


@pytest.mark.parametrize("vocab", [256, 300, 65536])
@pytest.mark.parametrize("wrong", ["vocab", "negative"])
def test_an_id_outside_the_vocabulary_is_refused_before_it_wraps(tmp_path, vocab, wrong):
    bad = vocab if wrong == "vocab" else -1
    with pytest.raises(ValueError, match=f"gave the id {bad}, outside its vocabulary of {vocab}"):
        write_set(tmp_path, [stream(vocab=vocab)], [[[{"text": np.array([1, bad])}]]])
    assert list(tmp_path.iterdir()) == []


def test_shapes_must_cover_the_ids(tmp_path):
    with (
        pytest.raises(ValueError, match="cover 3 ids, but there are 2"),
        open_shard(tmp_path / "x", [stream()], {}) as out,
    ):
        out.write(["a"], {"text": (np.array([1, 2]), np.array([[3]]))}, {})


GRIDS = [
    [
        [{"text": [1, 2, 3], "image": [[0, 1], [2, 3]]}, {"text": [], "image": [[5]]}],
        [{"text": [299], "image": [[7, 8, 9]]}],
    ],
    [[{"text": [4], "image": [[1], [2]]}]],
    [],
]


def grid_set(folder):
    streams = [stream(), stream("image", 256, ("height", "width"))]
    return write_set(folder, streams, GRIDS, {"label": "int64"}, {"label": [10, None, 12, 13]})


def test_records_come_back_in_order_with_their_shapes(tmp_path):
    shards = ShardSet.open(grid_set(tmp_path))
    expected = [row for batches in GRIDS for rows in batches for row in rows]
    assert (shards.num_rows, shards.num_tokens, shards.columns) == (4, {"text": 5, "image": 10}, ("label",))
    for records in (list(shards.records()), [shards.record(number) for number in range(4)]):
        assert [{name: grid.tolist() for name, grid in record.grids.items()} for record in records] == expected
        assert [(record.key, record.columns["label"]) for record in records] == [
            ("k0", 10),
            ("k1", None),
            ("k2", 12),
            ("k3", 13),
        ]
    for start in range(5):
        for stop in range(6):
            assert [record.key for record in shards.records(start, stop)] == [
                f"k{n}" for n in range(start, min(stop, 4))
            ]
    assert shards.record(-1).key == "k3"
    assert shards.column("label").to_pylist() == [10, None, 12, 13]
    assert shards.column("key").to_pylist() == ["k0", "k1", "k2", "k3"]
    for bad in (4, -5):
        with pytest.raises(IndexError, match=f"no sample {bad}"):
            shards.record(bad)


def test_arrays_are_views_of_the_mapped_file(tmp_path):
    streams = [stream()]
    before = pa.total_allocated_bytes()
    write_set(tmp_path, streams, [[[{"text": np.arange(300_000) % 300}, {"text": np.arange(7)}]]])
    (array,) = ShardSet.open(tmp_path).stream_arrays("text")
    assert pa.total_allocated_bytes() - before < 100_000
    assert not array.values.flags.owndata
    assert not array.values.flags.writeable
    assert array.offsets.tolist() == [0, 300_000, 300_007]
    assert array.shapes.tolist() == [[300_000], [7]]
    assert array.grid(1).tolist() == list(range(7))
    assert len(array) == 2


def test_many_shards_keep_no_file_open(tmp_path):
    write_set(tmp_path, [stream()], [[[{"text": [number]}]] for number in range(50)])
    shards = ShardSet.open(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert sum(len(array.values) for array in shards.stream_arrays("text")) == 50
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_digest_taken_while_writing_is_that_of_the_file(tmp_path):
    shards = ShardSet.open(grid_set(tmp_path))
    for file in shards.files:
        assert sha256_of_file(tmp_path / file.name) == file.sha256


def test_what_is_no_shard_set_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shard folder"):
        ShardSet.open(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"it has no dataset\.json"):
        ShardSet.open(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="not finished"):
        ShardSet.open(tmp_path)


def test_damage_is_refused(tmp_path):
    grid_set(tmp_path)
    manifest = (tmp_path / "dataset.json").read_text()
    for wrong in ("{", "[]", json.dumps({**json.loads(manifest), "format_version": 99}), '{"format_version": 1}'):
        (tmp_path / "dataset.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"dataset\.json"):
            ShardSet.open(tmp_path)
    (tmp_path / "dataset.json").write_text(manifest.replace('"00000.arrow"', '"00009.arrow"'))
    with pytest.raises(VerificationError, match="own_digest differs"):
        ShardSet.open(tmp_path)
    # What is wrong in itself is refused also without a digest, or with a right one.
    for edit, message in {
        ('"name": "00000.arrow"', '"name": "../00000.arrow"'): "names another folder",
        ('"rows": 4', '"rows": 5'): "rows is 5, its files have 4",
        ('"text": 5', '"text": 6'): "tokens is",
        ('"dtype": "uint16"', '"dtype": "uint8"'): "stored as uint8",
    }.items():
        values = json.loads(manifest.replace(*edit, 1))
        del values["own_digest"]
        for written in (values, signed(values)):
            write_json(tmp_path / "dataset.json", written)
            with pytest.raises(VerificationError, match=f"damaged.*{message}"):
                ShardSet.open(tmp_path)
    (tmp_path / "dataset.json").write_text(manifest)
    data = (tmp_path / "00000.arrow").read_bytes()
    (tmp_path / "00000.arrow").write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"00000\.arrow has \d+ bytes"):
        ShardSet.open(tmp_path)
    (tmp_path / "00000.arrow").write_bytes(b"\0" * len(data))
    with pytest.raises(VerificationError, match=r"00000\.arrow is damaged: its sha256 is"):
        ShardSet.open(tmp_path).record(0)
    with pytest.raises(ValueError, match="not a readable shard"):
        ShardSet.open(tmp_path, trust=True).record(0)
    (tmp_path / "00000.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=r"00000\.arrow is missing"):
        ShardSet.open(tmp_path)


@pytest.mark.parametrize("name", ["key", "a.shape", "", "1a", "a b"])
def test_names_that_cannot_be_streams(name):
    with pytest.raises(ValueError, match="cannot name a stream"):
        stream(name)


def test_columns_may_not_collide(tmp_path):
    with pytest.raises(ValueError, match="two columns of a shard would be named 'text'"):
        write_set(tmp_path, [stream()], [[[{"text": [1]}]]], {"text": "int64"}, {"text": [1]})


def test_a_remote_set_is_copied_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZE_KIT_CACHE", str(tmp_path / "cache"))
    local = grid_set(tmp_path / "local")
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "/remote-set", recursive=True)
    assert ShardSet.open("memory://remote-set").record(2).grids["image"].tolist() == [[7, 8, 9]]
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}
    assert len(copies) == 3
    assert ShardSet.open("memory://remote-set/").num_rows == 4
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")} == copies
    with pytest.raises(FileNotFoundError, match="no shard set at memory://nowhere"):
        ShardSet.open("memory://nowhere")
    # What was damaged in the cache is fetched again, also where its size is right.
    (copy,) = (tmp_path / "cache").rglob("00001.arrow")
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    assert ShardSet.open("memory://remote-set").record(3).grids["text"].tolist() == [4]
    assert copy.read_bytes() == memory.cat_file("/remote-set/00001.arrow")
    data = bytearray(memory.cat_file("/remote-set/00000.arrow"))
    data[300] ^= 1
    memory.pipe("/damaged-set/00000.arrow", bytes(data))
    memory.pipe("/damaged-set/dataset.json", memory.cat_file("/remote-set/dataset.json"))
    with pytest.raises(ValueError, match="sha256"):
        ShardSet.open("memory://damaged-set")
