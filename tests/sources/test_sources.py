"""Inputs to samples: cutting loses nothing, every unit plan gives the same samples, and damage stays where it is."""

import gzip
import io
import json
import random
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenize_kit.sources import blocks, lines
from tokenize_kit.sources.cutting import cut_record
from tokenize_kit.sources.fields import resolve_columns
from tokenize_kit.sources.listing import list_files
from tokenize_kit.sources.planning import ReadOptions, Unit, find_sources, plan_units
from tokenize_kit.sources.reading import read_unit

TEXTS = st.text(st.sampled_from("ab \0\n\r\t\f\x0b\x85\u2028é漢😀\ufeff"), max_size=200)


def read_all(inputs, options, unit_bytes=1 << 20):
    """Every sample and failure of the input, through units that went over JSON as they would to another machine."""
    samples, failures = [], []
    for unit in plan_units(find_sources([str(item) for item in inputs], options), options, unit_bytes):
        unit = Unit.from_dict(json.loads(json.dumps(unit.to_dict())))
        for block in read_unit(unit, options):
            plain = {name: as_list(values) for name, values in block.contents.items()}
            columns = {name: as_list(values) for name, values in block.columns.items()}
            for row, key in enumerate(as_list(block.keys)):
                contents = [values[row] for values in plain.values()]
                samples.append((key, *contents, *(values[row] for values in columns.values())))
            failures += [(failure.key, failure.reason) for failure in block.failures]
    return samples, failures


def as_list(values):
    return values.to_pylist() if isinstance(values, pa.Array) else list(values)


@pytest.mark.parametrize("split", ["none", "lines", "paragraphs"])
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, limit=st.integers(8, 60), unit=st.integers(1, 80))
def test_no_character_is_lost(tmp_path_factory, split, text, limit, unit):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    options = ReadOptions(split=split, max_document_bytes=limit)
    samples, failures = read_all([path], options, unit)
    assert failures == []
    assert "".join(sample for _, sample in samples) == text
    assert len({key for key, _ in samples}) == len(samples)


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, limit=st.integers(8, 60), unit=st.integers(1, 80))
def test_lines_are_those_of_a_plain_split_whatever_the_units(tmp_path_factory, text, limit, unit):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    samples, _ = read_all([path], ReadOptions(split="lines", max_document_bytes=limit), unit)
    expected = []
    for line in text.split("\n"):
        expected += cut_record((line + "\n").encode(), limit)
    # The split gives a line after the last newline, which is there only if it has characters.
    tail = text.rpartition("\n")[2].encode()
    expected = expected[: len(expected) - len(cut_record(tail + b"\n", limit))] + (
        cut_record(tail, limit) if tail else []
    )
    assert [sample.encode() for _, sample in samples] == expected
    assert [key for key, _ in samples] == [f"a.txt@{len(b''.join(expected[:n]))}" for n in range(len(expected))]


def test_lines_end_only_at_newlines(tmp_path):
    text = "\ufeffone\r\ntwo\x0bmore\x0cpage\x1cfile\x85next\u2028line\n\nlast"
    (tmp_path / "a.txt").write_bytes(text.encode())
    samples, _ = read_all([tmp_path / "a.txt"], ReadOptions(split="lines"))
    assert [sample for _, sample in samples] == [
        "\ufeffone\r\n",
        "two\x0bmore\x0cpage\x1cfile\x85next\u2028line\n",
        "\n",
        "last",
    ]


def test_paragraphs_keep_their_blank_lines(tmp_path):
    text = "one\nmore\n\n\n   two\r\n\r\nthree\n \t\nfour"
    (tmp_path / "a.txt").write_bytes(text.encode())
    for unit in (3, 10, 1000):
        samples, _ = read_all([tmp_path / "a.txt"], ReadOptions(split="paragraphs"), unit)
        assert [sample for _, sample in samples] == ["one\nmore\n\n\n", "   two\r\n\r\n", "three\n \t\n", "four"]


@pytest.mark.parametrize("split", ["none", "lines"])
def test_compressed_text_gives_the_samples_of_plain_text(tmp_path, split):
    rng = random.Random(1)
    text = "".join(rng.choice(["word ", "ünï", "漢字", "\n", "\r\n", "x" * 90]) for _ in range(400)).encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text))
    half = len(text) // 2
    frames = zstandard.compress(text[:half]) + zstandard.compress(text[half:])
    (tmp_path / "a.txt.zst").write_bytes(frames)
    options = ReadOptions(split=split, max_document_bytes=64)
    plain = [sample for _, sample in read_all([tmp_path / "a.txt"], options, 200)[0]]
    assert len(plain) > 20
    for name in ("a.txt.gz", "a.txt.zst"):
        assert [sample for _, sample in read_all([tmp_path / name], options)[0]] == plain


def test_a_large_document_is_cut_in_order_near_newlines(tmp_path):
    text = "".join(f"line {number}\n" for number in range(100))
    (tmp_path / "a.txt").write_text(text)
    samples, _ = read_all([tmp_path / "a.txt"], ReadOptions(max_document_bytes=200), 400)
    assert [key for key, _ in samples] == [f"a.txt#{number:05}" for number in range(len(samples))]
    assert len(samples) == -(-len(text) // 200)
    assert all(sample.endswith("\n") and len(sample) <= 300 for _, sample in samples)


def test_a_wrong_document_does_not_stop_the_others(tmp_path):
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"bad \xff byte")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-20])
    (tmp_path / "d.txt").write_text("")
    samples, failures = read_all([tmp_path], ReadOptions())
    assert samples == [("a.txt", "good"), ("d.txt", "")]
    assert [key for key, _ in failures] == ["b.txt", "c.txt.gz"]
    assert "byte 0xff at offset 4" in failures[0][1]
    assert "damaged" in failures[1][1]


ODD_LINES = [
    b'{"text": "plain", "label": 1}',
    b'{"text": "esc \\u00e9 \\ud83d\\ude00 \\n", "other": [1, {"a": null}]}',
    b'  {"text": "indented"}  ',
    b"",
    b'{"text": "duplicate", "text": "last wins"}',
    b'{"text": "nul \\u0000 inside"}',
    b'{"text": 12}',
    b'{"text": null}',
    b'{"other": "x"}',
    b'{"text": "2020-01-01"}',
    b'{"text": "2020-01-01T00:00:00Z", "label": 7}',
    b'{"text": "lone \\ud800"}',
    b'{"text": "low \\udc00"}',
    b'{"text": "swapped \\udc00\\ud800"}',
    b'{"text": "bad \xff utf-8"}',
    b'{"text": "raw\ttab"}',
    b"[1, 2]",
    b'{"text": "two"}{"text": "objects"}',
    b'{"text": "cut',
    b'{"text": "", "label": -3}',
    b'{"text": "NaN", "label": NaN}',
    b'{"text": "label", "label": "seven"}',
    b'{"text": "crlf"}\r',
    b"{}",
]


@settings(max_examples=80, deadline=None)
@given(
    picks=st.lists(st.sampled_from(ODD_LINES), max_size=12),
    end=st.sampled_from([b"", b"\n"]),
    bom=st.booleans(),
    unit=st.integers(5, 300),
)
def test_jsonl_gives_the_same_with_and_without_the_fast_parser(tmp_path_factory, picks, end, bom, unit):
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" * bom + b"\n".join(picks) + end)
    options = ReadOptions(columns={"label": "int64"}, max_document_bytes=8)
    fast = read_all([path], options, unit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_jsonl_fast", lambda *_: None)
        slow = read_all([path], options, unit)
    assert fast == slow
    assert fast == slow_jsonl(path, options)


def slow_jsonl(path, options):
    """The obvious reference: line by line over the whole file."""
    samples, failures, offset = [], [], 0
    for line in path.read_bytes().split(b"\n"):
        key, bare = f"a.jsonl@{offset}", line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
        offset += len(line) + 1
        if not bare.strip():
            continue
        try:
            value = json.loads(bare.decode())
            text, label = value["text"], value.get("label")
            data = text.encode()
            assert label is None or type(label) is int
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
            failures.append(key)
            continue
        parts = cut_record(data, 8) if len(data) > 8 else [data]
        for number, part in enumerate(parts):
            samples.append((f"{key}#{number:05}" if len(parts) > 1 else key, part.decode(), label))
    got = read_all([path], options)[1]
    assert [key for key, _ in got] == failures
    return samples, got


def test_the_fast_parser_is_used_for_ordinary_jsonl(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": n, "text": f"é {n}"}) + "\n" for n in range(50)))
    monkeypatch.setattr(lines, "_add_json_line", None)
    samples, _ = read_all([tmp_path / "a.jsonl"], ReadOptions(), 100)
    assert [text for _, text in samples] == [f"é {n}" for n in range(50)]


def test_a_jsonl_line_that_is_too_long_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1000)
    rows = [{"text": "a"}, {"text": "x" * 5000}, {"text": "b"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("tokenize_kit.sources.cutting.BLOCK_BYTES", 300)
    monkeypatch.setattr(lines.record_blocks, "__defaults__", (300,))
    samples, failures = read_all([tmp_path / "a.jsonl"], ReadOptions())
    assert [text for _, text in samples] == ["a", "b"]
    assert [key for key, _ in failures] == ["a.jsonl@14"]


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def test_parquet_rows_in_row_groups(tmp_path):
    texts = [f"row {n}" for n in range(40)]
    texts[11] = None
    path = parquet(tmp_path / "a.parquet", id=list(range(40)), body=pa.array(texts).dictionary_encode(), n=[0.5] * 40)
    options = resolve_columns(find_sources([str(path)], ReadOptions()), ReadOptions(text_field="body"), ["id", "n"])
    assert options.columns == {"id": "int64", "n": "float64"}
    for unit in (1, 1 << 20):
        samples, failures = read_all([path], options, unit)
        assert samples == [(f"a.parquet@{n}", f"row {n}", n, 0.5) for n in range(40) if n != 11]
        assert failures == [("a.parquet@11", "field 'body' is null, expected a string")]
    assert len(plan_units(find_sources([str(path)], options), options, 1)) == 6


def test_parquet_pictures_as_bytes_or_structs(tmp_path):
    pictures = [{"bytes": b"one", "path": "1.png"}, {"bytes": None, "path": "2.png"}]
    path = parquet(tmp_path / "a.parquet", image=pictures, text=["first", "second"])
    samples, failures = read_all([path], ReadOptions(modalities=("text", "image")))
    assert samples == [("a.parquet@0", "first", b"one")]
    assert failures[0][0] == "a.parquet@1"
    raw = parquet(tmp_path / "b.parquet", picture=[b"x", b"y"])
    assert len(read_all([raw], ReadOptions(modalities=("image",), media_field="picture"))[0]) == 2


def tar_of(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    return path


TAR_MEMBERS = [
    ("./a/1.png", b"picture 1"),
    ("./a/1.txt", b"caption 1"),
    ("./a/1.cls", b"7"),
    ("._hidden.png", b"macos"),
    ("../escape.png", b"evil"),
    ("../escape.txt", b"evil"),
    ("/abs.png", b"evil"),
    ("link.png", None),
    ("b.c.png", b"picture 2"),
    ("b.json", b'{"text": "caption 2", "cls": 9}'),
    ("lonely.png", b"picture 3"),
    ("x" * 150 + ".png", b"long name"),
    ("x" * 150 + ".txt", b"long caption"),
]


@pytest.mark.parametrize(("name", "mode"), [("t.tar", "w"), ("t.tar.gz", "w:gz"), ("t.tgz", "w:gz")])
def test_tar_members_with_one_stem_are_one_sample(tmp_path, name, mode):
    path = tar_of(tmp_path / name, TAR_MEMBERS, mode)
    options = ReadOptions(modalities=("text", "image"), columns={"cls": "int64"})
    expected = [
        (f"{name}/a/1", "caption 1", b"picture 1", 7),
        (f"{name}/b", "caption 2", b"picture 2", 9),
        (f"{name}/{'x' * 150}", "long caption", b"long name", None),
    ]
    for unit in (600, 1 << 20):
        samples, failures = read_all([path], options, unit)
        assert samples == expected
        reasons = dict(failures)
        assert set(reasons) == {
            f"{name}/{member}" for member in ("../escape.png", "../escape.txt", "/abs.png", "link.png", "lonely")
        }
        assert "it has no text" in reasons[f"{name}/lonely"]
        assert "link" in reasons[f"{name}/link.png"]
        assert "outside" in reasons[f"{name}/../escape.png"]
    assert not (tmp_path.parent / "escape.png").exists()


def test_tar_members_of_a_sample_may_be_apart(tmp_path):
    members = [(f"{n}.png", b"p%d" % n) for n in range(5)] + [(f"{n}.txt", b"t%d" % n) for n in range(5)]
    path = tar_of(tmp_path / "t.tar", members)
    for unit in (1000, 1 << 20):
        samples, failures = read_all([path], ReadOptions(modalities=("text", "image")), unit)
        assert samples == [(f"t.tar/{n}", f"t{n}", b"p%d" % n) for n in range(5)]
        assert failures == []


def test_a_cut_tar_gives_what_is_whole(tmp_path):
    path = tar_of(tmp_path / "t.tar", [(f"{n}.txt", b"x" * 1500) for n in range(6)])
    data = path.read_bytes()
    for size in (3 * 2048 + 512 + 700, 3 * 2048 + 100):
        path.write_bytes(data[:size])
        samples, failures = read_all([path], ReadOptions())
        assert [key for key, _ in samples] == ["t.tar/0", "t.tar/1", "t.tar/2"]
        assert "damaged" in dict(failures)["t.tar"]
    path.write_bytes(data[: 2 * 2048] + b"not a header" + data[2 * 2048 + 12 :])
    for name, whole in (("t.tar", path.read_bytes()), ("t.tar.gz", gzip.compress(path.read_bytes()))):
        (tmp_path / name).write_bytes(whole)
        samples, failures = read_all([tmp_path / name], ReadOptions())
        assert [key for key, _ in samples] == [f"{name}/0", f"{name}/1"]
        assert "damaged" in dict(failures)[name]
    path.write_bytes(b"this is no tar" * 100)
    assert read_all([path], ReadOptions())[1][0][0] == "t.tar"


def test_a_folder_pairs_pictures_and_captions(tmp_path):
    for name, data in {
        "a/1.png": b"p1",
        "a/1.txt": b"t1",
        "b/1.jpg": b"p2",
        "b/1.txt": b"t2",
        "README.md": b"no",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    samples, failures = read_all([tmp_path], ReadOptions(modalities=("text", "image")))
    assert samples == [("a/1", "t1", b"p1"), ("b/1", "t2", b"p2")]
    assert failures == []
    assert [key for key, _ in read_all([tmp_path], ReadOptions(modalities=("image",)))[0]] == ["a/1.png", "b/1.jpg"]


def test_files_are_listed_once_and_in_one_order(tmp_path):
    for name in ("b.txt", "a/z.txt", "a.txt", "c.jsonl", ".hidden.txt", "a/.git/x.txt", "notes.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    kinds = ("text", "jsonl")
    assert [file.key for file in list_files([tmp_path], kinds)] == ["a.txt", "a/z.txt", "b.txt", "c.jsonl"]
    twice = list_files([tmp_path / "b.txt", tmp_path, f"{tmp_path}/**/*.txt"], kinds)
    assert [file.key for file in twice] == ["b.txt", "a.txt", "a/z.txt", "c.jsonl"]
    assert [file.key for file in list_files([f"{tmp_path}/*.log"], kinds)] == ["notes.log"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.txt").write_text("y")
    both = list_files([tmp_path / "b.txt", tmp_path / "other"], kinds)
    assert [file.key for file in both] == ["0/b.txt", "1/b.txt"]


@pytest.mark.parametrize(
    ("make", "data", "error", "words"),
    [
        ([], "missing", FileNotFoundError, "missing"),
        ([], "*.txt", FileNotFoundError, "*.txt"),
        (["empty/"], "empty", FileNotFoundError, "empty holds no file"),
        (["a/x.mp4"], "a", FileNotFoundError, "there is: .mp4"),
        (["x.png"], "x.png", ValueError, "x.png is of the kind image"),
    ],
)
def test_nothing_to_read_is_said_at_once(tmp_path, monkeypatch, make, data, error, words):
    monkeypatch.chdir(tmp_path)
    for name in make:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(b"x")
    with pytest.raises(error) as caught:
        find_sources([data], ReadOptions())
    assert words in str(caught.value)


def test_a_wrong_field_is_said_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x", "id": 1}\n')
    options = ReadOptions()
    with pytest.raises(ValueError, match=r"a\.jsonl has no field 'text'; it has body, id; choose one with --field"):
        resolve_columns(find_sources([str(tmp_path / "a.jsonl")], options), options, [])
    path = parquet(tmp_path / "b.parquet", text=[1, 2])
    with pytest.raises(ValueError, match="expected strings"):
        resolve_columns(find_sources([str(path)], options), options, [])


def test_mixed_columns_become_strings(tmp_path):
    rows = [{"text": "a", "v": 1, "f": 1}, {"text": "b", "v": "x", "f": 0.5}, {"text": "c", "v": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = find_sources([str(tmp_path / "a.jsonl")], ReadOptions())
    options = resolve_columns(files, ReadOptions(), ["v", "f"])
    assert options.columns == {"v": "string", "f": "float64"}
    samples, _ = read_all([tmp_path / "a.jsonl"], options)
    assert [sample[2:] for sample in samples] == [("1", 1.0), ("x", 0.5), (None, None)]


def test_remote_files_are_read_like_local_ones(tmp_path):
    memory = fsspec.filesystem("memory")
    text = "".join(json.dumps({"text": f"line {n}"}) + "\n" for n in range(100)).encode()
    memory.pipe("/corpus/a.jsonl", text)
    memory.pipe("/corpus/sub/b.txt.gz", gzip.compress(b"compressed"))
    tar = tar_of(tmp_path / "t.tar", [("1.txt", b"in a tar")]).read_bytes()
    memory.pipe("/corpus/t.tar", tar)
    for unit in (300, 1 << 20):
        samples, failures = read_all(["memory://corpus"], ReadOptions(), unit)
        assert failures == []
        assert [text for _, text in samples] == [*(f"line {n}" for n in range(100)), "compressed", "in a tar"]
        assert samples[-2][0] == "sub/b.txt.gz"
    assert read_all(["memory://corpus/*.jsonl"], ReadOptions())[0][0][0] == "a.jsonl@0"
    with pytest.raises(FileNotFoundError):
        find_sources(["memory://nothing"], ReadOptions())


def test_an_enormous_member_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenize_kit.sources.blocks.MAX_MEMBER_BYTES", 1000)
    monkeypatch.setattr("tokenize_kit.sources.archives.MAX_MEMBER_BYTES", 1000)
    members = [("a.txt", b"x" * 2000), ("b.txt", b"fine")]
    for name, mode in (("t.tar", "w"), ("t.tar.gz", "w:gz")):
        samples, failures = read_all([tar_of(tmp_path / name, members, mode)], ReadOptions())
        assert [text for _, text in samples] == ["fine"]
        assert f"{name}/a" in failures[0][0]


def test_units_do_not_depend_on_anything_but_the_list(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text("x" * (number * 10))
    options = ReadOptions()
    plan = plan_units(find_sources([str(tmp_path)], options), options, 500)
    assert plan == plan_units(find_sources([str(tmp_path)], options), options, 500)
    keys = [piece.key for unit in plan for piece in unit.pieces]
    assert keys == [f"{number:02}.txt" for number in range(30)]
    assert all(unit.size <= 500 for unit in plan)
    assert blocks.MAX_BLOCK_SAMPLES > 1
