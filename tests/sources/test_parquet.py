"""Parquet files: every type of column that holds a text, damage that stays where it is, and a reader that may die."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.files import parquet, put, sentences

from tokenize_kit.sources import parquet_process
from tokenize_kit.sources.fields import resolve_columns
from tokenize_kit.sources.parquet_process import Lost, UnreadableError, Wanted, describe, open_parquet
from tokenize_kit.sources.planning import ReadOptions, Source, Unit, find_sources, plan_units
from tokenize_kit.sources.reading import read_unit

DAMAGED = Path(__file__).parent.parent / "data" / "damaged"
TEXT = [Wanted("text", "strings")]


def read_all(folder, options=ReadOptions(), names=(), unit_bytes=1 << 20):  # noqa: B008
    """Samples by key, failures, and how many samples are lost, as a run finds them."""
    files = find_sources([str(folder)], options)
    options = resolve_columns(files, options, names)
    samples, failures = {}, []
    for unit in plan_units(files, options, unit_bytes):
        for block in read_unit(Unit.from_dict(json.loads(json.dumps(unit.to_dict()))), options):
            parts = [list(map(plain, values)) for values in (*block.contents.values(), *block.columns.values())]
            for key, *values in zip(map(plain, block.keys), *parts, strict=True):
                assert key not in samples
                samples[key] = values[0] if len(values) == 1 else tuple(values)
            failures += block.failures
    return samples, failures


def plain(value):
    return value.as_py() if isinstance(value, pa.Scalar) else value


def lost(failures):
    return sum(failure.samples for failure in failures)


def table(path, rows_a_group, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group, compression="zstd", use_dictionary=False)
    return path


TEXTS = ["one", None, "zwei 漢字", "", "x" * 50]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS).dictionary_encode(),
        pa.array([text if text is None else text.encode() for text in TEXTS]),
        pa.array([text if text is None else text.encode() for text in TEXTS], pa.large_binary()),
        pa.chunked_array([pa.array(TEXTS[:2]).dictionary_encode(), pa.array(TEXTS[2:]).dictionary_encode()]),
    ],
    ids=lambda column: str(column.type)[:12],
)
def test_every_type_of_text_column(tmp_path, column):
    put(tmp_path, "a.parquet", parquet({"text": column, "n": [1, 2, 3, 4, 5]}))
    samples, failures = read_all(tmp_path, names=["n"])
    assert samples == {f"a.parquet@{row}": (TEXTS[row], row + 1) for row in (0, 2, 3, 4)}
    assert [(failure.key, failure.reason) for failure in failures] == [
        ("a.parquet@1", "field 'text' is null, expected a string")
    ]


def test_every_name_of_a_parquet_file(tmp_path):
    for number, name in enumerate(("a.parquet", "b.snappy.parquet", "c.parq", "d.PQ")):
        put(tmp_path, name, parquet({"text": [str(number)]}, compression="snappy"))
    assert list(read_all(tmp_path)[0].values()) == ["0", "1", "2", "3"]


def test_bytes_that_are_no_utf8_fail_their_row_alone(tmp_path):
    put(tmp_path, "a.parquet", parquet({"text": [b"good", b"caf\xe9", b"good too"]}))
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff"))
    put(tmp_path, "b.parquet", parquet({"text": bad}))
    samples, failures = read_all(tmp_path)
    assert samples == {"a.parquet@0": "good", "a.parquet@2": "good too", "b.parquet@0": "a"}
    assert [failure.key for failure in failures] == ["a.parquet@1", "b.parquet@1"]
    assert all("not UTF-8" in failure.reason for failure in failures)


def test_places_inside_structs_lists_and_texts(tmp_path):
    rows = [{"text": f"inner {n}", "tags": [f"first {n}", "second"], "long": f"a {n}\nb {n}"} for n in range(5)]
    put(tmp_path, "a.parquet", parquet({"meta": [*rows, None], "a.b": ["dot"] * 6, "n": [{"m": 7}] * 6}))
    for place, found in (
        ("meta.text", "inner 3"),
        ("meta.tags.0", "first 3"),
        ("meta.long:2", "b 3"),
        ("a.b", "dot"),
    ):
        samples, failures = read_all(tmp_path, ReadOptions(text_field=place), names=["n.m"])
        assert samples["a.parquet@3"] == (found, 7)
        assert len(samples) + len(failures) == 6
        assert len(failures) == (place != "a.b")
    for place, words in (("meta.x", "it has long, tags, text in 'meta'"), ("meta.tags", "list<"), ("q", "meta")):
        with pytest.raises(ValueError, match=rf"a\.parquet: .*{words}.*choose one with --field"):
            read_all(tmp_path, ReadOptions(text_field=place))


def test_two_media_columns_under_any_names(tmp_path):
    pictures, sounds = [b"picture 1", b"picture 2", None], [{"bytes": b"s1", "path": "a.wav"}, None, None]
    put(tmp_path, "a.parquet", parquet({"photo": pictures, "voice": pa.array(sounds)}))
    named = (Source("photo", "image", "photo"), Source("voice", "audio", "voice"))
    samples, failures = read_all(tmp_path, ReadOptions(modalities=(), named=named))
    assert samples == {"a.parquet@0": (b"picture 1", b"s1")}
    assert [(failure.key, failure.incomplete) for failure in failures] == [
        ("a.parquet@1", True),
        ("a.parquet@2", False),
    ]
    with pytest.raises(ValueError, match=r"no column 'image'; it has photo, voice; choose one with --media-field"):
        read_all(tmp_path, ReadOptions(modalities=("image",)))


def test_a_later_file_is_judged_by_itself(tmp_path):
    put(tmp_path, "a.parquet", parquet({"text": ["one", "two"], "n": [1, 2]}))
    put(tmp_path, "b.parquet", parquet({"body": sentences(500), "n": list(range(500))}, row_group_size=200))
    put(tmp_path, "c.parquet", parquet({"text": [1, 2, 3], "n": [1, 2, 3]}))
    put(tmp_path, "d.parquet", parquet({"text": [["a"], ["b"]], "n": [1, 2]}))
    put(tmp_path, "e.parquet", parquet({"text": pa.nulls(4), "n": [1, 2, 3, 4]}))
    put(tmp_path, "f.parquet", parquet({"text": ["three"], "n": ["many"]}))
    put(tmp_path, "g.parquet", parquet({"text": ["four"]}))
    put(tmp_path, "h.parquet", parquet({"text": ["five"], "n": [5]}))
    for unit_bytes in (1, 1 << 20):
        samples, failures = read_all(tmp_path, names=["n"], unit_bytes=unit_bytes)
        assert list(samples.values()) == [("one", 1), ("two", 2), ("five", 5)]
        by_file = {}
        for failure in failures:
            name = failure.key.partition("@")[0]
            by_file[name] = by_file.get(name, 0) + failure.samples
        assert by_file == {f"{name}.parquet": count for name, count in zip("bcdefg", (500, 3, 2, 4, 1, 1), strict=True)}
        words = {failure.key.partition("@")[0]: failure.reason for failure in failures}
        assert "no column 'text'; it has body, n" in words["b.parquet"]
        assert "column 'text' is int64, expected strings; none of its 3 rows is read" in words["c.parquet"]
        assert "list<" in words["d.parquet"]
        assert "is 'many', expected int64" in words["f.parquet"] or "many" in words["f.parquet"]
        assert "no column 'n'" in words["g.parquet"]


def test_a_first_file_of_another_kind_is_a_failure_if_others_are_right(tmp_path):
    put(tmp_path, "a.parquet", parquet({"body": sentences(30)}))
    put(tmp_path, "b.parquet", parquet({"text": ["one"]}))
    samples, failures = read_all(tmp_path)
    assert samples == {"b.parquet@0": "one"}
    assert [(failure.key, failure.samples) for failure in failures] == [("a.parquet", 30)]
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(ValueError, match=r"a\.parquet: no column 'text'; it has body; choose one with --field"):
        read_all(tmp_path)


def test_nothing_in_a_file_is_nothing(tmp_path):
    empty = pa.table({"text": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "a.parquet")
    with pq.ParquetWriter(tmp_path / "b.parquet", empty.schema):
        pass  # no row group at all
    put(tmp_path, "c.parquet", parquet({"text": ["one"]}))
    assert describe(str(tmp_path / "b.parquet")).rows == ()
    assert read_all(tmp_path) == ({"c.parquet@0": "one"}, [])


def test_a_damaged_page_loses_its_row_group_alone(tmp_path):
    texts = sentences(200)
    for compression in ("zstd", "gzip", "snappy"):
        pq.write_table(
            pa.table({"text": texts}),
            tmp_path / "a.parquet",
            row_group_size=40,
            compression=compression,
            use_dictionary=False,
        )
        data = bytearray((tmp_path / "a.parquet").read_bytes())
        group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(2).column(0)
        middle = group.data_page_offset + group.total_compressed_size // 2
        data[middle : middle + 60] = bytes(60)
        (tmp_path / "a.parquet").write_bytes(data)
        for unit_bytes in (1, 1 << 20):
            samples, failures = read_all(tmp_path, unit_bytes=unit_bytes)
            assert [failure.key for failure in failures] == ["a.parquet@80"]
            assert lost(failures) == 40
            assert "40 rows from here on" in failures[0].reason
            assert samples == {f"a.parquet@{row}": texts[row] for row in range(200) if not 80 <= row < 120}


def test_checksums_of_pages_are_compared(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 99, "b" * 99]}), path, compression="none", write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[data.index(b"aaaa")] = ord("c")
    path.write_bytes(data)
    samples, failures = read_all(tmp_path)
    assert (samples, lost(failures)) == ({}, 2)
    assert "CRC" in failures[0].reason


GOOD = parquet({"text": sentences(20)})
SIZE = int.from_bytes(GOOD[-8:-4], "little")
DAMAGE = {
    "empty": b"",
    "cut": GOOD[:-10],
    "half": GOOD[: len(GOOD) // 2],
    "no begin": b"text" + GOOD[4:],
    "encrypted": GOOD[:-4] + b"PARE",
    "footer": GOOD[: -8 - SIZE] + bytes(32) + GOOD[32 - 8 - SIZE :],
    "length": GOOD[:-8] + b"\xff\xff\xff\x7f" + GOOD[-4:],
    "appended": GOOD + b"garbage",
    "text": b"this is no table\n" * 20,
    "joined": GOOD + parquet({"text": ["another"]}),
    "joined small": parquet({"text": ["another"]}) + GOOD,
    "abort": (DAMAGED / "abort.parquet").read_bytes(),
    "zero division": (DAMAGED / "zero_division.parquet").read_bytes(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_first_file_is_a_failure_like_any_other(tmp_path, damage):
    put(tmp_path, "a.parquet", DAMAGE[damage])
    put(tmp_path, "b.parquet", parquet({"text": ["one", "two"], "n": [1, 2]}))
    samples, failures = read_all(tmp_path, names=["n"])
    assert list(samples.values()) == [("one", 1), ("two", 2)]
    assert [failure.key for failure in failures] == ["a.parquet"]
    assert failures[0].reason.endswith("; a whole file")
    if damage == "abort":
        assert "the Arrow library dies on it (signal 6)" in failures[0].reason
    if damage.startswith("joined"):
        assert "several files joined" in failures[0].reason


def test_nothing_but_damage_is_no_error_of_the_look(tmp_path):
    put(tmp_path, "a.parquet", GOOD[:-10])
    samples, failures = read_all(tmp_path, names=["n"])
    assert samples == {}
    assert [failure.key for failure in failures] == ["a.parquet"]


def test_memory_is_bounded_whatever_the_values_take(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_process, "MEMORY_BYTES", 160 << 20)
    # A value that stands once in the file and in every row: 4 GB in less than 1 kB.
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), ["x" * 20_000])
    for stored in (False, True):
        path = tmp_path / f"{stored}.parquet"
        pq.write_table(pa.table({"text": value}), path, compression="zstd", store_schema=stored)
        assert path.stat().st_size < 1000
        with open_parquet(str(path)) as opened:
            batches = opened.read(TEXT, 0, None, 1 << 16, 1 << 20)
            assert max(next(batches).nbytes for _ in range(20)) <= 2 << 20
            status = Path(f"/proc/{opened._decoder._process.pid}/status").read_text().splitlines()
        assert int(next(line for line in status if "VmHWM" in line).split()[1]) < 320 << 10  # kB
    # One value that is too large by itself.
    bomb = pa.table({"text": ["x" * 90_000_000, "y"]})
    plain = {"use_dictionary": False, "write_statistics": False}
    pq.write_table(bomb, tmp_path / "b.parquet", compression="zstd", **plain)
    with open_parquet(str(tmp_path / "b.parquet")) as opened:
        assert list(opened.read(TEXT, 0, None, 10, 1 << 20)) == [
            Lost(2, "it takes more memory to read than its size allows")
        ]


def test_a_death_in_the_middle_loses_the_rest_of_the_row_group(tmp_path):
    path = table(tmp_path / "a.parquet", 100, text=sentences(400))
    with open_parquet(str(path)) as opened:
        found = []
        for part in opened.read(TEXT, 0, None, 25, 1 << 20):
            found.append(part if isinstance(part, Lost) else part.num_rows)
            if len(found) == 5:
                os.kill(opened._decoder._process.pid, signal.SIGSEGV)
    deaths = [part for part in found if isinstance(part, Lost)]
    assert sum(part.rows if isinstance(part, Lost) else part for part in found) == 400
    assert [part.reason for part in deaths] in ([], ["the Arrow library dies on it (signal 11)"])
    assert sum(part.rows for part in deaths) <= 100


def test_too_many_deaths_give_up_the_rest(tmp_path, monkeypatch):
    path = table(tmp_path / "a.parquet", 10, text=sentences(100))
    begin = parquet_process.OpenParquet._begin

    def dying(self):
        facts = begin(self)
        os.kill(self._decoder._process.pid, signal.SIGFPE)
        return facts

    monkeypatch.setattr(parquet_process.OpenParquet, "_begin", dying)
    with open_parquet(str(path)) as opened:
        found = list(opened.read(TEXT, 0, None, 25, 1 << 20))
    assert [part.rows for part in found] == [10, 10, 80]
    assert found[-1].reason == "the Arrow library dies on it (signal 8); what follows was not tried"


def test_who_killed_it_is_told_apart(tmp_path):
    path = str(table(tmp_path / "a.parquet", 10, text=sentences(10)))
    with open_parquet(path) as opened:
        os.kill(opened._decoder._process.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="no memory left"):
            list(opened.read(TEXT, 0, None, 5, 1 << 20))
    with open_parquet(path) as opened:
        os.kill(opened._decoder._process.pid, signal.SIGXCPU)
        assert list(opened.read(TEXT, 0, None, 5, 1 << 20)) == [
            Lost(10, "the Arrow library does not come to an end on it")
        ]


def test_one_process_serves_one_file_after_another_and_several_at_once(tmp_path):
    path = str(table(tmp_path / "a.parquet", 10, text=sentences(30)))
    pids = set()
    for _ in range(3):
        with open_parquet(path) as opened:
            pids.add(opened._decoder._process.pid)
            assert sum(batch.num_rows for batch in opened.read(TEXT, 0, None, 5, 1 << 20)) == 30
    assert len(pids) == 1
    with open_parquet(path) as first, open_parquet(path) as second:
        rows = zip(first.read(TEXT, 0, None, 5, 1 << 20), second.read(TEXT, 1, 2, 5, 1 << 20), strict=False)
        assert [(one.num_rows, other.num_rows) for one, other in rows] == [(5, 5), (5, 5)]
    with open_parquet(path) as opened:  # the one that was left in the middle is not used again
        assert opened.facts.rows == (10, 10, 10)


def test_a_process_that_has_grown_is_replaced(tmp_path, monkeypatch):
    path = str(table(tmp_path / "a.parquet", 10, text=sentences(30)))
    monkeypatch.setattr(parquet_process, "MEMORY_BYTES", 80 << 20)  # it begins with more than half of that
    pids = set()
    for _ in range(2):
        with open_parquet(path) as opened:
            pids.add(opened._decoder._process.pid)
    assert len(pids) == 2


def test_the_process_ends_with_the_one_that_started_it(tmp_path):
    path = str(table(tmp_path / "a.parquet", 10, text=sentences(30)))
    program = (
        "import os, signal, sys\nfrom tokenize_kit.sources.parquet_process import open_parquet\n"
        f"with open_parquet({path!r}) as opened:\n"
        "    print(opened._decoder._process.pid, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} outlives its parent")


def test_a_fork_starts_its_own(tmp_path):
    path = str(table(tmp_path / "a.parquet", 10, text=sentences(30)))
    describe(path)
    child = os.fork()
    if child == 0:
        os._exit(0 if not parquet_process._IDLE and describe(path).rows == (10, 10, 10) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert describe(path).rows == (10, 10, 10)


def test_files_that_only_this_process_can_open(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/tables/a.parquet", table(tmp_path / "a.parquet", 7, text=sentences(30)).read_bytes())
    memory.pipe("/tables/b.parquet", DAMAGE["abort"])
    samples, failures = read_all("memory://tables", unit_bytes=600)
    assert list(samples.values()) == sentences(30)
    assert [failure.key for failure in failures] == ["b.parquet"]
    with pytest.raises(FileNotFoundError):
        describe("memory://tables/c.parquet")
    memory.pipe("/tables/e.parquet", b"")
    with pytest.raises(UnreadableError):
        describe("memory://tables/e.parquet")


def test_a_file_that_shrank_since_the_run_began(tmp_path):
    path = table(tmp_path / "a.parquet", 10, text=sentences(100))
    options = ReadOptions()
    units = plan_units(find_sources([str(tmp_path)], options), options, 1)
    assert len(units) == 10
    table(path, 10, text=sentences(25))
    blocks = [block for unit in units for block in read_unit(unit, options)]
    assert sum(map(len, blocks)) == 25
    failures = [failure for block in blocks for failure in block.failures]
    assert len(failures) == 7
    assert all("fewer row groups than when the run began; the rest of the file" in one.reason for one in failures)


def test_a_file_that_may_not_be_opened_is_a_failure(tmp_path, monkeypatch):
    put(tmp_path, "a.parquet", GOOD)
    put(tmp_path, "b.parquet", parquet({"text": ["one"]}))
    opened = parquet_process.open_source

    def refusing(url, compression=""):
        if url.endswith("a.parquet"):
            raise PermissionError(13, "Permission denied", url)
        return opened(url, compression)

    monkeypatch.setattr(parquet_process, "open_source", refusing)
    samples, failures = read_all(tmp_path)
    assert samples == {"b.parquet@0": "one"}
    assert [(failure.key, failure.reason) for failure in failures] == [
        ("a.parquet", "it cannot be opened: Permission denied; a whole file")
    ]


def test_a_disk_that_fails_is_no_fault_of_the_file(tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe("/disk/a.parquet", GOOD)
    taken = []
    take = parquet_process._take
    monkeypatch.setattr(parquet_process, "_take", lambda: taken.append(take()) or taken[-1])
    monkeypatch.setattr(parquet_process, "read_exactly", lambda file, size: os.read(-1, size))
    with pytest.raises(OSError, match="Bad file descriptor"):
        describe("memory://disk/a.parquet")
    assert not taken[0].alive  # it would wait for the bytes


def test_a_name_that_is_not_utf8(tmp_path):
    put(tmp_path, b"caf\xe9.parquet", parquet({"text": ["one"]}))
    samples, failures = read_all(tmp_path)
    assert list(samples.values()) == ["one"]
    assert failures == []
