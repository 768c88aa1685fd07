"""Plain documents out of files: nothing is lost, and what cannot be read is named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenize_kit.sources.documents import iter_documents


@pytest.mark.parametrize("size", [8, 13, 100, 1 << 20])
def test_long_documents_are_cut_without_loss(tmp_path, size):
    text = "héllo wörld\n\n" + "字" * 50 + "\n\U0001f600" * 20 + " no newline at the end"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    parts = list(iter_documents([tmp_path / "a.txt"], max_document_bytes=size))
    assert "".join(parts) == text
    assert len(parts) == 1 or size < 1000


def test_order_and_kinds(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "and\\na half"}\n')
    pq.write_table(pa.table({"text": ["three", "four"]}), tmp_path / "c.parquet")
    (tmp_path / "d.png").write_bytes(b"no text")
    assert list(iter_documents([tmp_path])) == ["one", "and\na half", "two", "three", "four"]
    assert list(iter_documents([str(tmp_path / "c.parquet"), tmp_path / "b.txt"])) == ["three", "four", "two"]


def test_fields(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": "x", "text": "y"}))
    assert list(iter_documents([tmp_path], field="body")) == ["x"]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: .*'title'.*body, text"):
        list(iter_documents([tmp_path], field="title"))
    pq.write_table(pa.table({"text": ["x", None]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet, row 1: .*null"):
        list(iter_documents([tmp_path / "c.parquet"]))


def test_nothing_there(tmp_path):
    for missing in (tmp_path / "x.txt", tmp_path / "*.txt", tmp_path):
        with pytest.raises(FileNotFoundError):
            list(iter_documents([missing]))
