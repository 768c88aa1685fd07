"""IDX files as a source: the pictures as they lie in the file, labels beside them, and damage with a reason."""

import bz2
import gzip
import json
import lzma
import struct
import tracemalloc

import numpy as np
import pytest
import torch
import zstandard

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.fields import resolve_columns
from tokenize_kit.sources.idx import MAX_PICTURE_BYTES, labels_url
from tokenize_kit.sources.planning import ReadOptions, Unit, find_sources, plan_units
from tokenize_kit.sources.reading import read_unit
from tokenize_kit.sources.samples import iter_samples
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer

IMAGES = ReadOptions(modalities=("image",))
NAME = "train-images-idx3-ubyte"
PICTURES = np.random.default_rng(0).integers(0, 256, (11, 5, 4), np.uint8)
LABELS = np.arange(11, dtype=np.uint8) % 10


def idx(values, kind=8):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape) + values.tobytes()


def read_all(folder, options=IMAGES, unit_bytes=1 << 20):
    """Samples (key, pixels, columns...) and failures, through units that went over JSON."""
    samples, failures = [], []
    for unit in plan_units(find_sources([str(folder)], options), options, unit_bytes):
        for block in read_unit(Unit.from_dict(json.loads(json.dumps(unit.to_dict()))), options):
            contents = list(zip(*block.contents.values(), *block.columns.values(), strict=True))
            samples += [(key, *values) for key, values in zip(block.keys, contents, strict=True)]
            failures += [(failure.key, failure.reason) for failure in block.failures]
    return samples, failures


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_every_picture_once_in_order(tmp_path, ending, pack):
    (tmp_path / (NAME + ending)).write_bytes(pack(idx(PICTURES)))
    for unit in (1, 45, 60, 1 << 20):
        samples, failures = read_all(tmp_path, unit_bytes=unit)
        assert failures == []
        assert [key for key, _ in samples] == [f"{NAME}{ending}@{row}" for row in range(11)]
        assert all(pixels.shape == (1, 5, 4) for _, pixels in samples)
        np.testing.assert_array_equal(np.concatenate([pixels for _, pixels in samples]), PICTURES)


def test_only_what_is_not_compressed_is_divided(tmp_path):
    (tmp_path / NAME).write_bytes(idx(PICTURES))
    units = plan_units(find_sources([str(tmp_path)], IMAGES), IMAGES, 60)  # three pictures of 20 bytes
    assert [(unit.pieces[0].start, unit.pieces[0].stop) for unit in units] == [(0, 3), (3, 6), (6, 9), (9, None)]
    assert [unit.size for unit in units] == [60, 60, 60, 40]
    (tmp_path / NAME).rename(tmp_path / "plain")
    (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress(idx(PICTURES)))
    assert len(plan_units(find_sources([str(tmp_path)], IMAGES), IMAGES, 60)) == 1


def test_the_size_of_the_blocks_is_that_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenize_kit.sources.blocks.MAX_BLOCK_SAMPLES", 4)
    for name, data in ((NAME, idx(PICTURES)), (f"{NAME}.gz", gzip.compress(idx(PICTURES)))):
        (tmp_path / name).write_bytes(data)
        (unit,) = plan_units(find_sources([str(tmp_path / name)], IMAGES), IMAGES, 1 << 20)
        sizes = [block.size for block in read_unit(unit, IMAGES)]
        assert len(sizes) == 3
        assert sum(sizes) == len(data)


def test_the_labels_beside_the_pictures(tmp_path):
    (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress(idx(PICTURES)))
    files = find_sources([str(tmp_path)], IMAGES)
    with pytest.raises(ValueError, match="no labels file beside it"):
        resolve_columns(files, IMAGES, ["label"])
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))  # not compressed as the pictures are
    with pytest.raises(ValueError, match="no column 'colour'; it has label"):
        resolve_columns(files, IMAGES, ["colour"])
    labelled = resolve_columns(files, IMAGES, ["label"])
    assert labelled.columns == {"label": "int64"}
    samples, failures = read_all(tmp_path, labelled)
    assert failures == []
    assert [sample[2] for sample in samples] == LABELS.tolist()
    text = ReadOptions(modalities=("text", "image"), text_field="label")
    assert [sample[1] for sample in read_all(tmp_path, text)[0]] == [str(label) for label in LABELS]
    with pytest.raises(ValueError, match="'text'; it has label; choose one with --field"):
        resolve_columns(files, ReadOptions(modalities=("text", "image")), [])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (idx(LABELS[:-1]), "10 labels for 11 pictures"),
        (idx(LABELS)[:-1], "ends after 10 of 11 labels"),
        (idx(PICTURES), "3 dimensions, labels have 1"),
        (b"\0\0\x08\x01\xff\xff\xff\xff", "4,294,967,295 labels"),
        (idx(LABELS) + b"x", "goes on after the 11 labels"),
        (b"", "no IDX file"),
    ],
)
def test_labels_that_do_not_fit_are_a_failure(tmp_path, labels, words):
    (tmp_path / NAME).write_bytes(idx(PICTURES))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    samples, failures = read_all(tmp_path, ReadOptions(modalities=("image",), columns={"label": "int64"}))
    assert samples == []
    assert failures[0][0] == NAME
    assert words in failures[0][1]


@pytest.mark.parametrize(
    ("url", "labels"),
    [
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"),
        ("emnist-letters-test-images-idx3-ubyte", "emnist-letters-test-labels-idx1-ubyte.gz"),
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
        ("photos-idx3-ubyte", None),
    ],
)
def test_where_labels_are_looked_for(tmp_path, url, labels):
    if labels:
        (tmp_path / labels).write_bytes(b"")
    assert labels_url(str(tmp_path / url)) == (str(tmp_path / labels) if labels else None)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_last_or_second(tmp_path, channels):
    values = np.random.default_rng(1).integers(0, 256, (3, 6, 7, channels), np.uint8)
    planes = values.transpose(0, 3, 1, 2)
    for data in (values, np.ascontiguousarray(planes)):
        (tmp_path / "colour-images-idx4-ubyte").write_bytes(idx(data))
        samples, failures = read_all(tmp_path)
        assert failures == []
        np.testing.assert_array_equal(np.stack([pixels for _, pixels in samples]), planes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no IDX file: it begins with nothing"),
        (b"\x89PNG1234", "no IDX file: it begins with 89 50 4e 47"),
        (idx(PICTURES.astype(np.float32), 0x0D), "IDX type 0x0d, expected unsigned bytes"),
        (idx(LABELS), "1 dimensions, pictures have 3 or 4"),
        (idx(PICTURES)[:10], "ends inside its header"),
        (idx(PICTURES[:, :0]), "has no pixels"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 1, 1 << 14, MAX_PICTURE_BYTES >> 13), "bytes, the limit is"),
        (struct.pack(">4B4I", 0, 0, 8, 4, 1, 5, 5, 5), "no axis of 1, 3 or 4 channels"),
    ],
)
def test_what_is_no_file_of_pictures_is_a_failure(tmp_path, data, words):
    for name, content in ((NAME, data), (f"b-{NAME}.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
    for unit in (10, 1 << 20):
        samples, failures = read_all(tmp_path, unit_bytes=unit)
        assert samples == []
        assert [key for key, _ in failures] == [f"b-{NAME}.gz", NAME]
        assert words in failures[0][1]
        assert words in failures[1][1]


def test_a_cut_or_longer_file_gives_what_is_whole(tmp_path):
    for content, count, words in (
        (idx(PICTURES)[:-25], 9, "ends in picture 9 of the 11"),
        (idx(PICTURES) + b"x", 11, "goes on after the 11 pictures"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 4_000_000_000, 5, 4) + PICTURES.tobytes(), 11, "ends in picture 11 of the"),
    ):
        (tmp_path / NAME).write_bytes(content)
        (tmp_path / f"b-{NAME}.gz").write_bytes(gzip.compress(content))
        for unit in (45, 1 << 20):
            samples, failures = read_all(tmp_path, unit_bytes=unit)
            assert [key.rpartition("@")[0] for key, _ in samples] == [f"b-{NAME}.gz"] * count + [NAME] * count
            assert [key for key, _ in failures] == [f"b-{NAME}.gz", NAME]
            assert all(words in reason for _, reason in failures)
    (tmp_path / NAME).unlink()
    (tmp_path / f"b-{NAME}.gz").write_bytes(gzip.compress(idx(PICTURES))[:-50])
    samples, failures = read_all(tmp_path)
    assert 0 < len(samples) < 11
    assert "damaged" in failures[0][1]


def lost_of(folder, options=IMAGES, unit_bytes=1 << 20):
    """How many samples are read, how many are lost, and what is said of them."""
    read, lost, words = 0, 0, ""
    for unit in plan_units(find_sources([str(folder)], options), options, unit_bytes):
        for block in read_unit(unit, options):
            read += len(block)
            lost += sum(failure.samples for failure in block.failures)
            words += "".join(failure.reason for failure in block.failures)
    return read, lost, words


@pytest.mark.parametrize(
    ("content", "read", "lost", "words"),
    [
        (idx(PICTURES)[:-25], 9, 2, "; 2 pictures are not read"),
        (idx(PICTURES)[:16], 0, 11, "; 11 pictures are not read"),
        (idx(PICTURES) + b"x", 11, 1, "; the rest of the file"),
        (idx(PICTURES)[:9], 0, 1, "ends inside its header; a whole file"),
        # A header that promises what no file holds is not believed.
        (struct.pack(">4B3I", 0, 0, 8, 3, 4_000_000_000, 5, 4) + PICTURES.tobytes(), 11, 1, "; the rest of the file"),
    ],
)
def test_how_many_pictures_are_lost(tmp_path, content, read, lost, words):
    (tmp_path / NAME).write_bytes(content)
    for unit_bytes in (45, 1 << 20):
        found = lost_of(tmp_path, unit_bytes=unit_bytes)
        assert found[:2] == (read, lost)
        assert words in found[2]
    (tmp_path / NAME).unlink()
    (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress(content))
    found = lost_of(tmp_path)
    assert found[0] == read
    assert found[1] == lost or not read


def test_pictures_without_their_labels_are_all_lost(tmp_path):
    (tmp_path / NAME).write_bytes(idx(PICTURES))
    options = ReadOptions(modalities=("image",), columns={"label": "int64"})
    for unit_bytes in (45, 1 << 20):
        assert lost_of(tmp_path, options, unit_bytes)[:2] == (0, 11)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:-1]))
    for unit_bytes in (45, 1 << 20):
        read, lost, words = lost_of(tmp_path, options, unit_bytes)
        assert (read, lost) == (0, 11)
        assert "it has 10 labels for 11 pictures" in words


def test_a_header_cannot_ask_for_memory(tmp_path):
    """Pictures and labels of billions, in files of a few bytes."""
    (tmp_path / NAME).write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 4_294_967_295, 1, 1))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 4_294_967_295) + b"123")
    options = ReadOptions(modalities=("image",), columns={"label": "int64"})
    tracemalloc.start()
    try:
        read, lost, words = lost_of(tmp_path, options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (read, lost) == (0, 1)
    assert "ends after 3 of 4,294,967,295 labels" in words
    assert peak < 16 << 20


def test_samples_for_trainers_and_metrics(tmp_path):
    (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress(idx(PICTURES)))
    spec = TokenSpec("image", 256, ("height", "width", "channel"), (1, 1, None), lossless=True, channels=3)
    failures = []
    found = list(iter_samples([str(tmp_path)], spec, failures.append))
    assert failures == []
    assert torch.equal(found[7].sample, torch.from_numpy(PICTURES[7]).expand(3, 5, 4))
    kept = iter_samples([str(tmp_path)], spec, lambda *failure: None, keep=lambda key: key.endswith(("@2", "@9")))
    assert [key for key, _ in kept] == [f"{NAME}.gz@2", f"{NAME}.gz@9"]


def test_encode_carries_the_labels(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / NAME).write_bytes(idx(PICTURES))
    (data / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    PixelTokenizer(1).save(tmp_path / "pixels")
    options = EncodeOptions(
        tokenizer=(str(tmp_path / "pixels"),), data=(str(data),), out=str(tmp_path / "shards"), columns=("label",)
    )
    assert encode(options).failures == 0
    records = list(ShardSet.open(str(tmp_path / "shards")).records(0, 11))
    assert [record.columns["label"] for record in records] == LABELS.tolist()
    np.testing.assert_array_equal(np.stack([record.grids["image"] for record in records]), PICTURES)
