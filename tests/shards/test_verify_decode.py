"""Verify finds every kind of difference; decode gives back what was encoded and writes nowhere else."""

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from toys.simple import RaggedToyText, ToyImage, ToyText

from tokenize_kit.errors import VerificationError
from tokenize_kit.files import sha256_of_file, signed, write_json
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.decode import DecodeOptions, decode
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.verify import verify


@pytest.fixture
def made(tmp_path):
    """A folder with data, two tokenizers and a shard set of 40 texts in 4 shards, with one failure."""
    rows = [{"text": f"text {number}\r\n\u00e9"} for number in range(40)]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:20], "bad", *lines[20:]]))
    RaggedToyText().save(tmp_path / "tok")
    RaggedToyText(shift=40).save(tmp_path / "other")
    encode(
        EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "a.jsonl"),), str(tmp_path / "out"), shard_mb=0.0003)
    )
    return tmp_path


def test_a_sound_set_is_reported(made):
    report = verify(made / "out", [str(made / "tok")])
    shards = ShardSet.open(made / "out")
    assert (report.rows, report.files, report.failures) == (40, len(shards.files), 1)
    assert report.tokens == shards.num_tokens
    assert report.bytes == sum(path.stat().st_size for path in (made / "out").glob("*.arrow"))
    assert report.tokenizers == {"text": RaggedToyText().fingerprint}
    assert report.files > 3


def change_manifest(folder, change):
    """Change the manifest and what it says of itself: sums protect from accidents, not from those who make them right."""
    values = json.loads((folder / "dataset.json").read_text())
    del values["own_digest"]
    change(values)
    files = values["files"]
    tokens = {name: sum(file["tokens"][name] for file in files) for name in values["streams"]}
    values |= {"rows": sum(file["rows"] for file in files), "tokens": tokens}
    write_json(folder / "dataset.json", signed(values))


def rewrite_shard(folder, change):
    """Change the rows of the first shard and make its hash and size right again, as a clumsy tool would."""
    path = folder / "00000.arrow"
    table = change(pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all())
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    entry = {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
    change_manifest(folder, lambda values: values["files"][0].update(entry))


def set_column(name, values):
    def change(table):
        field = table.schema.field(name)
        return table.set_column(table.schema.get_field_index(name), field, pa.array(values(table), field.type))

    return change


def texts(table):
    return table.column("text").to_pylist()


DIFFERENCES = {
    "a flipped bit": (lambda out: flip(out / "00001.arrow"), r"00001\.arrow: its sha256 is"),
    "a cut shard": (lambda out: cut(out / "00001.arrow"), r"00001\.arrow: it has \d+ bytes, expected"),
    "a missing shard": (lambda out: (out / "00002.arrow").unlink(), r"00002\.arrow: it is missing"),
    "a stray shard": (lambda out: shutil.copy(out / "00000.arrow", out / "99999.arrow"), r"99999\.arrow is not listed"),
    "a wrong row count": (
        lambda out: change_manifest(out, lambda values: values["files"][0].update(rows=1)),
        r"00000\.arrow: it has \d+ rows, expected 1",
    ),
    "a wrong token count": (
        lambda out: change_manifest(out, lambda values: values["files"][0].update(tokens={"text": 5})),
        r"stream text has \d+ ids, expected 5",
    ),
    "an id out of range": (
        lambda out: rewrite_shard(out, set_column("text", lambda table: [[300, *ids[1:]] for ids in texts(table)])),
        "stream text has the id 300, outside its vocabulary of 300",
    ),
    "a shape that does not fit": (
        lambda out: rewrite_shard(out, set_column("text.shape", lambda table: [[1]] * len(table))),
        "a grid whose shape does not fit its ids",
    ),
    "a doubled key": (
        lambda out: rewrite_shard(out, set_column("key", lambda table: ["same"] * len(table))),
        "keys occur more than once",
    ),
    "a lost column": (
        lambda out: rewrite_shard(out, lambda table: table.drop_columns(["text.shape"])),
        "other columns",
    ),
    "a lost failure": (
        lambda out: (out / "failures.jsonl").write_text(""),
        r"failures\.jsonl tells of 0 samples, expected 1",
    ),
    "no list of failures": (
        lambda out: (out / "failures.jsonl").unlink(),
        r"failures\.jsonl is missing, which .* 1 sample",
    ),
    "no ledger of one shard": (
        lambda out: (out / "00001.json").unlink(),
        r"00001\.json, the ledger of its shard, is missing$",
    ),
    "a ledger alone": (
        lambda out: [path.unlink() for path in [*out.glob("0000[1-9].json"), out / "plan.json"]],
        r"plan\.json is missing; 00001\.json, the ledger of its shard, is missing, and \d more ledgers",
    ),
    "no plan": (lambda out: (out / "plan.json").unlink(), r"plan\.json is missing$"),
    "no ledgers": (
        lambda out: [path.unlink() for path in out.glob("0*.json")],
        r"00000\.json, the ledger of its shard, is",
    ),
    "a changed copy of the tokenizer": (
        lambda out: (
            shutil.rmtree(out / "tokenizers" / "text"),
            RaggedToyText(shift=7).save(out / "tokenizers" / "text"),
        ),
        r"tokenizers/text is not what dataset\.json says of it \(fingerprint \w+, not \w+\)",
    ),
    "a changed file of that copy": (
        lambda out: flip(out / "tokenizers" / "text" / "tokenizer_config.json"),
        r"tokenizer_config\.json (is damaged|was changed after it was written)",
    ),
    "another vocabulary": (
        lambda out: change_manifest(out, lambda values: values["streams"]["text"]["spec"].update(vocab_size=301)),
        r"tokenizers/text is not what dataset\.json says of it \(vocab_size 300, not 301\)",
    ),
    "another tokenizer's name": (
        lambda out: change_manifest(out, lambda values: values["streams"]["text"].update(tokenizer="bpe")),
        r"\(a '[\w-]+' tokenizer, not a 'bpe' one\)",
    ),
}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_is_found(made, name):
    damage, words = DIFFERENCES[name]
    damage(made / "out")
    with pytest.raises(VerificationError, match=words) as caught:
        verify(made / "out")
    assert caught.value.exit_code == 3


def test_a_copy_of_the_shards_alone_is_sound_and_verify_says_what_it_lacks(made, monkeypatch):
    assert verify(made / "out").notes == ()
    shutil.copytree(made / "out", made / "all")
    assert verify(made / "all").notes == ()
    (made / "copy").mkdir()
    for path in (made / "out").glob("*.arrow"):
        shutil.copy(path, made / "copy")
    shutil.copy(made / "out" / "dataset.json", made / "copy")
    report = verify(made / "copy")
    assert report.rows == 40
    assert [note.partition(",")[0] for note in report.notes] == ["no ledgers and no plan.json are in it"]
    assert "a run cannot be continued there" in report.to_text()
    assert verify(f"file://{made / 'copy'}").notes == report.notes
    with pytest.raises(ValueError, match="holds other files"):
        encode(EncodeOptions((str(made / "tok"),), (str(made / "a.jsonl"),), str(made / "copy"), shard_mb=0.0003))
    monkeypatch.setenv("TOKENIZE_KIT_CACHE", str(made / "cache"))
    remote = fsspec.filesystem("memory")
    remote.put(str(made / "out"), "/verified", recursive=True)
    (note,) = verify("memory://verified").notes
    assert note.startswith("of a set at a URL")
    (made / "copy" / "00001.arrow").unlink()
    with pytest.raises(VerificationError, match=r"00001\.arrow: it is missing"):
        verify(made / "copy")


def test_another_tokenizer_is_found(made):
    with pytest.raises(VerificationError, match="is not the one that made text"):
        verify(made / "out", [str(made / "other")])
    with pytest.raises(VerificationError, match="did not make these shards"):
        decode(DecodeOptions(str(made / "out"), str(made / "other"), str(made / "files")))
    assert not (made / "files").exists()
    with pytest.raises(ValueError, match="there is no stream 'nope'"):
        verify(made / "out", [f"nope={made / 'tok'}"])


def test_decode_gives_the_texts_back(made):
    result = decode(DecodeOptions(str(made / "out"), str(made / "tok"), str(made / "files")))
    assert result.files == 40
    records = list(ShardSet.open(made / "out").records())
    for number, record in enumerate(records):
        assert (made / "files" / f"{record.key}.txt").read_bytes() == f"text {number}\r\n\u00e9".encode()
    assert result.tokens == sum(record.grids["text"].size for record in records)
    decode(DecodeOptions(str(made / "out"), f"text={made / 'tok'}", str(made / "few"), limit=3))
    assert len(list((made / "few").glob("*.txt"))) == 3
    with pytest.raises(ValueError, match="is not an empty folder"):
        decode(DecodeOptions(str(made / "out"), str(made / "tok"), str(made / "few")))


def test_decode_keeps_the_folders_of_pictures(tmp_path):
    for name, value in {"a/x.png": 10, "a/x.jpg": 200, "b/x.png": 90}.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 6), (value, value, value)).save(tmp_path / "data" / name)
    ToyImage().save(tmp_path / "tok")
    encode(EncodeOptions((str(tmp_path / "tok"),), (str(tmp_path / "data"),), str(tmp_path / "out")))
    decode(DecodeOptions(str(tmp_path / "out"), str(tmp_path / "tok"), str(tmp_path / "files")))
    files = {path.relative_to(tmp_path / "files").as_posix(): path for path in (tmp_path / "files").rglob("*.png")}
    pixels = {name: np.asarray(Image.open(path)) for name, path in files.items()}
    assert {name: (array.shape, int(array[0, 0, 0])) for name, array in pixels.items()} == {
        "a/x.png": ((6, 4, 3), 200),
        "a/x~2.png": ((6, 4, 3), 10),
        "b/x.png": ((6, 4, 3), 90),
    }


def test_streams_of_one_tokenizer_are_told_apart(tmp_path):
    ToyText().save(tmp_path / "tok")
    (tmp_path / "a.txt").write_text("x")
    out = str(tmp_path / "out")
    encode(EncodeOptions((f"a={tmp_path / 'tok'}", f"b={tmp_path / 'tok'}"), (str(tmp_path / "a.txt"),), out))
    with pytest.raises(ValueError, match="the streams a, b were all made by this tokenizer"):
        decode(DecodeOptions(out, str(tmp_path / "tok"), str(tmp_path / "files")))
    assert decode(DecodeOptions(out, f"b={tmp_path / 'tok'}", str(tmp_path / "files"))).files == 1
    assert Path(tmp_path / "files" / "a.txt").read_text() == "x"
