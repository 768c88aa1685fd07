"""Every Python line of docs/shards.md runs, and other libraries see the same ids as we do."""

import json
import re
from pathlib import Path

import pytest

from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.card import write_card
from tokenize_kit.shards.encode import EncodeOptions, encode
from trainers.bpe.train import TrainBPEOptions, train_bpe

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "shards.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory, udhr_txt):
    """A folder as in the document, with shards/text, and the expected ids."""
    folder = tmp_path_factory.mktemp("readers")
    lines = [line for line in udhr_txt.read_text(encoding="utf-8").split("\n")[:3000] if line]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    train_bpe(TrainBPEOptions((str(folder / "corpus.jsonl"),), str(folder / "tokenizers" / "text"), vocab_size=600))
    options = EncodeOptions(
        (str(folder / "tokenizers" / "text"),),
        (str(folder / "corpus.jsonl"),),
        str(folder / "shards" / "text"),
        shard_mb=0.1,
    )
    encode(options)
    ids = [record.grids["text"].tolist() for record in ShardSet.open(options.out).records()]
    assert len(ids) == len(lines)
    return folder, ids


def run(name, place, monkeypatch, tmp_path):
    (code,) = [block for block in BLOCKS if name in block]
    monkeypatch.chdir(place[0])
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    values = {}
    exec(code, values)
    return values.get("table")


def test_datasets(place, monkeypatch, tmp_path):
    pytest.importorskip("datasets").config.HF_DATASETS_CACHE = str(tmp_path)
    table = run("datasets.load_dataset", place, monkeypatch, tmp_path)
    assert list(table["text"]) == place[1]
    assert table.features["text"].feature.dtype == "uint16"


def test_polars(place, monkeypatch, tmp_path):
    table = run("polars", place, monkeypatch, tmp_path)
    assert table["text"].to_list() == place[1]
    assert [shape[0] for shape in table["text.shape"].to_list()] == [len(ids) for ids in place[1]]


def test_pandas(place, monkeypatch, tmp_path):
    table = run("pandas", place, monkeypatch, tmp_path)
    assert [list(ids) for ids in table["text"]] == place[1][: len(table)]
    assert 0 < len(table) < len(place[1])


def test_duckdb(place, monkeypatch, tmp_path):
    table = run("duckdb", place, monkeypatch, tmp_path)
    assert [count for _, count in table.fetchall()] == [len(ids) for ids in place[1]]


def test_shard_set(place, monkeypatch, tmp_path, capsys):
    run("stream_arrays", place, monkeypatch, tmp_path)
    assert capsys.readouterr().out.startswith(f"{len(place[1])} {{'text': {sum(map(len, place[1]))}}}")


def test_data_sets_of_torch(place, monkeypatch, tmp_path, capsys):
    run("ShardStream", place, monkeypatch, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "corpus.jsonl@0 10"
    assert said[1].endswith("torch.int64")


def test_the_card_says_what_the_streams_are_and_is_not_written_over(place, tmp_path):
    shards = place[0] / "shards" / "text"
    card = (shards / "README.md").read_text(encoding="utf-8")
    manifest = ShardSet.open(shards).manifest
    assert 'data_files: "*.arrow"' in card.split("---")[1]
    ids = sum(map(len, place[1]))
    stream = manifest.streams["text"]
    (axis,) = stream.spec.axes
    assert f"| `text` | bpe | `{stream.fingerprint[:12]}` | {axis} | 600 | {ids:,} | uint16 |" in card
    assert f"{len(place[1]):,} samples in {len(manifest.files)} Arrow files" in card
    (tmp_path / "README.md").write_text("my own words")
    write_card(tmp_path, manifest)
    assert (tmp_path / "README.md").read_text() == "my own words"


def test_units_of_a_scheduler(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place[0])
    run("unit.to_dict", place, monkeypatch, tmp_path)
    assert (place[0] / "elsewhere" / "00000.arrow").stat().st_size > 0


def test_every_block_is_run():
    assert len(BLOCKS) == 7
