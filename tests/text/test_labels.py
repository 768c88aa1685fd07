"""Labels of classes: the table, how it is collected from every source, and shards of labels."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.files import parquet, tar
from toys.world import Letters

from tokenize_kit.cli.main import main
from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from tokenize_kit.tokenizers.text.labels import LabelsTokenizer, TrainLabelsOptions, in_order, train_labels

NUMBERS = [7, 0, 3, 10, 0, 7, 7]
CLASSES = ["0", "3", "7", "10"]


def idx_files(folder, labels=NUMBERS, side=2):
    """Pictures whose value is ten times their label, and the labels beside them."""
    folder.mkdir(exist_ok=True)
    pictures = np.full((len(labels), side, side), 0, np.uint8) + 10 * np.array(labels, np.uint8)[:, None, None]
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", *pictures.shape)
    (folder / "train-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
    head = bytes([0, 0, 8, 1]) + struct.pack(">I", len(labels))
    (folder / "train-labels-idx1-ubyte").write_bytes(head + bytes(labels))
    return folder


def trained(folder, data, **changes):
    out = str(folder / "labels")
    result = train_labels(TrainLabelsOptions((str(data),), out, **changes))
    tokenizer = load_tokenizer(out)
    assert result.fingerprint == tokenizer.fingerprint
    return tokenizer, result


SOURCES = {
    "a.jsonl": ("".join(json.dumps({"label": number}) + "\n" for number in NUMBERS).encode(), {}),
    "texts.jsonl": (
        "".join(json.dumps({"x": {"y": str(number)}}) + "\n" for number in NUMBERS).encode(),
        {"field": "x.y"},
    ),
    "a.json": (json.dumps([{"label": number} for number in NUMBERS]).encode(), {}),
    "a.csv": (("id,label\n" + "".join(f"a,{number}\n" for number in NUMBERS)).encode(), {}),
    "a.parquet": (parquet({"label": NUMBERS}), {}),
    "texts.parquet": (parquet({"name": [str(number) for number in NUMBERS]}), {"field": "name"}),
    "a.tar": (
        tar([(f"{place}.cls", f"{number}\n".encode()) for place, number in enumerate(NUMBERS)]),
        {"field": "cls"},
    ),
    "b.tar": (
        tar([(f"{place}.json", json.dumps({"label": number}).encode()) for place, number in enumerate(NUMBERS)]),
        {},
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_table(tmp_path, name):
    data, options = SOURCES[name]
    (tmp_path / name).write_bytes(data)
    tokenizer, result = trained(tmp_path, tmp_path / name, **options)
    assert list(tokenizer.labels) == CLASSES
    assert result.labels == {"0": 2, "3": 1, "7": 3, "10": 1}
    assert (result.samples, result.failures) == (7, 0)
    # The same field feeds the stream.
    field = (options["field"],) if options else ()
    encode(EncodeOptions((str(tmp_path / "labels"),), (str(tmp_path / name),), str(tmp_path / "shards"), field=field))
    found = [record.grids["label"].tolist() for record in ShardSet.open(tmp_path / "shards").records()]
    assert found == [[CLASSES.index(str(number))] for number in NUMBERS]


def test_labels_of_idx_files_have_the_names_that_are_given(tmp_path):
    names = ("shirt", "dress", "sneaker", "boot")
    tokenizer, result = trained(tmp_path, idx_files(tmp_path / "data"), names=names)
    assert result.labels == {"shirt": 2, "dress": 1, "sneaker": 3, "boot": 1}
    assert [int(tokenizer.encode(text)) for text in ("7", "sneaker", " 7\n")] == [2, 2, 2]
    assert tokenizer.decode(tokenizer.encode("7")) == "sneaker"
    with pytest.raises(ValueError, match=r"there are 2 names for 4 labels \(0, 3, 7, 10\)"):
        trained(tmp_path / "other", tmp_path / "data", names=("a", "b"))


def test_truth_values_are_labels(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet({"good": [True, False, True]}))
    assert trained(tmp_path, tmp_path / "a.parquet", field="good")[0].labels == ("false", "true")


def test_numbers_are_no_texts_for_other_tokenizers(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(SOURCES["a.jsonl"][0])
    Letters().save(tmp_path / "letters")
    with pytest.raises(TooManyFailuresError, match="is a JSON int, expected a string"):
        encode(
            EncodeOptions(
                (str(tmp_path / "letters"),), (str(tmp_path / "a.jsonl"),), str(tmp_path / "s"), field=("label",)
            )
        )


def test_pictures_and_their_labels_are_two_streams(tmp_path):
    data = idx_files(tmp_path / "data")
    trained(tmp_path, data)
    PixelTokenizer(1).save(tmp_path / "pixels")
    tokenizers = (str(tmp_path / "labels"), str(tmp_path / "pixels"))
    result = encode(EncodeOptions(tokenizers, (str(data),), str(tmp_path / "shards")))
    assert result.tokens == {"label": 7, "image": 28}
    shards = ShardSet.open(tmp_path / "shards")
    assert shards.streams["label"].spec.is_open is False
    for record in shards.records():
        assert int(record.grids["image"].reshape(-1)[0]) == 10 * int(CLASSES[record.grids["label"][0]])


def test_an_unknown_label_is_a_failure_that_is_counted(tmp_path):
    data = idx_files(tmp_path / "data")
    trained(tmp_path, data)
    PixelTokenizer(1).save(tmp_path / "pixels")
    idx_files(tmp_path / "more", [7, 8, 0])
    tokenizers = (str(tmp_path / "labels"), str(tmp_path / "pixels"))
    result = encode(EncodeOptions(tokenizers, (str(tmp_path / "more"),), str(tmp_path / "shards")))
    assert (result.rows, result.failures) == (2, 1)
    (line,) = (tmp_path / "shards/failures.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "key": "train-images-idx3-ubyte@1",
        "reason": "there is no label '8'; there is 0, 3, 7, 10",
    }


def test_another_table_is_another_run(tmp_path):
    data = idx_files(tmp_path / "data")
    trained(tmp_path, data)
    encode(EncodeOptions((str(tmp_path / "labels"),), (str(data),), str(tmp_path / "shards")))
    LabelsTokenizer([*CLASSES, "11"]).save(tmp_path / "wider")
    with pytest.raises(ValueError, match=r"belongs to another run: streams\.label\.fingerprint"):
        encode(EncodeOptions((str(tmp_path / "wider"),), (str(data),), str(tmp_path / "shards")))


def test_a_text_beside_a_label_keeps_the_field_without_a_stream(tmp_path):
    lines = [{"caption": "abc", "label": 1}, {"caption": "b", "label": 0}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    trained(tmp_path, tmp_path / "a.jsonl")
    Letters().save(tmp_path / "letters")
    tokenizers = (str(tmp_path / "letters"), str(tmp_path / "labels"))
    options = EncodeOptions(tokenizers, (str(tmp_path / "a.jsonl"),), str(tmp_path / "shards"), field=("caption",))
    assert encode(options).tokens == {"text": 4, "label": 2}


def test_what_is_unknown_gets_the_closest():
    tokenizer = LabelsTokenizer(["7", "9"], ["sneaker", "boot"])
    with pytest.raises(ValueError, match="there is no label 'sneekar'; there is sneaker, boot; did you mean 'sneaker'"):
        tokenizer.encode("sneekar")
    with pytest.raises(ValueError, match="did you mean 'boot'"):
        tokenizer.encode("BOOT")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([], [], "there are 0 labels"),
        (["a", "a"], [], "'a' stands for two classes"),
        (["0", "1"], ["1", "b"], "'1' stands for two classes"),
        (["a "], [], "white space around it"),
        ([""], [], "is empty"),
        (["a"], ["b", "c"], "2 names for 1 labels"),
    ],
)
def test_what_is_no_table_is_refused(labels, names, message):
    with pytest.raises(ValueError, match=message):
        LabelsTokenizer(labels, names)


def test_ids_that_are_no_label_are_refused():
    import torch

    tokenizer = LabelsTokenizer(["a", "b"])
    for ids, message in (([0, 1], "a label is one id, got 2"), ([], "is empty"), ([2], "2")):
        with pytest.raises(ValueError, match=message):
            tokenizer.decode(torch.tensor(ids, dtype=torch.int64))


@given(st.lists(st.integers(0, 300), min_size=1), st.randoms())
@settings(max_examples=50, deadline=None)
def test_numbers_are_in_their_order_whatever_the_order_of_the_data(numbers, random):
    texts = [str(number) for number in numbers]
    random.shuffle(texts)
    assert in_order(texts) == [str(number) for number in sorted(set(numbers))]
    assert in_order([*texts, "a"]) == sorted({*texts, "a"})


def test_data_without_labels_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(Exception, match="no field 'label'"):
        trained(tmp_path, tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"label": null}\n{"label": ["a"]}\n')
    with pytest.raises(TooManyFailuresError, match=r"none of 2 samples can be read, the last is .*a JSON list"):
        trained(tmp_path, tmp_path / "b.jsonl")
    assert not (tmp_path / "labels").exists()


def test_the_command_says_the_labels(tmp_path, capsys):
    data = idx_files(tmp_path / "data")
    out = tmp_path / "labels"
    assert (
        main(
            ["train", "labels", "--data", str(data), "--out", str(out), "--names", "shirt", "dress", "sneaker", "boot"]
        )
        == 0
    )
    assert "4 labels of 7 samples" in capsys.readouterr().out
    assert main(["verify", str(out)]) == 0
    assert main(["train", "labels", "--data", str(data), "--out", str(out)]) == 1
    assert "already holds another tokenizer" in capsys.readouterr().err
    assert sorted(path.name for path in Path(out).iterdir()) == ["tokenizer_config.json"]
