"""Which field feeds which stream, and what becomes of samples of which a part is not there."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys.files import jsonl, parquet, put, saved, scene, tar
from toys.simple import ToyImage, ToyText

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.feeds import feeds_of
from tokenize_kit.shards.verify import verify

TEXTS = {"question": "text", "answer": "text"}
MIXED = {"caption": "text", "image": "image", "audio": "audio"}


@pytest.mark.parametrize(
    ("streams", "fields", "media", "modalities", "places", "text_field"),
    [
        ({"text": "text"}, (), None, ("text",), {}, "text"),
        ({"text": "text"}, ("body",), None, ("text",), {}, "body"),
        ({"text": "text"}, "body", None, ("text",), {}, "body"),
        ({"text": "text"}, ("text",), None, (), {"text": "text"}, "text"),
        ({"text": "text"}, ("text=body",), None, (), {"text": "body"}, "text"),
        ({"text": "text", "fast": "text"}, (), None, ("text",), {}, "text"),
        (TEXTS, ("question=q", "answer=a"), None, (), {"question": "q", "answer": "a"}, "text"),
        (TEXTS, ("question:q", "answer:a=b"), None, (), {"question": "q", "answer": "a=b"}, "text"),
        (TEXTS, ("question=q",), None, ("text",), {"question": "q"}, "text"),
        (TEXTS, ("question=q", "a"), None, ("text",), {"question": "q"}, "a"),
        ({"text": "text"}, ("txt:2",), None, ("text",), {}, "txt:2"),
        (MIXED, ("words",), None, ("text", "image", "audio"), {}, "words"),
        (MIXED, ("image=photo",), "voice", ("text", "audio"), {"image": "photo"}, "text"),
        (
            MIXED,
            ("image=photo", "audio=voice", "caption=c"),
            None,
            (),
            {"caption": "c", "image": "photo", "audio": "voice"},
            "text",
        ),
        ({"image": "image"}, ("photo",), None, (), {"image": "photo"}, "text"),
        ({"image": "image"}, (), "photo", ("image",), {}, "text"),
    ],
)
def test_what_the_options_mean(streams, fields, media, modalities, places, text_field):
    feeds = feeds_of(streams, fields, media)
    assert (feeds.modalities, feeds.places, feeds.text_field, feeds.media_field) == (
        modalities,
        places,
        text_field,
        media,
    )
    assert not feeds.unclear


def test_a_stream_that_has_the_name_of_a_modality_and_a_place_of_its_own():
    feeds = feeds_of({"image": "image", "other": "image", "text": "text"}, ("image=seg.png",), None)
    assert feeds.modalities == ("text",)
    assert [(source.name, source.field) for source in feeds.named] == [("image", "seg.png"), ("other", None)]


@pytest.mark.parametrize(
    ("streams", "fields", "media", "words"),
    [
        (
            TEXTS,
            ("question",),
            None,
            "which of the streams question, answer it is for; give each its own: --field question=FIELD",
        ),
        (TEXTS, ("nobody=q",), None, "there is no stream 'nobody'; there is question, answer"),
        (TEXTS, ("question=q", "question=r"), None, "two places, q and r"),
        (TEXTS, ("question=",), None, "names no field"),
        (TEXTS, ("question=q", "answer=a", "b"), None, "every stream has a field already"),
        (TEXTS, (), "photo", "--media-field photo is given, but no stream is left for it"),
        ({"text": "text"}, ("a", "b"), None, "without a stream twice: a and b"),
        (MIXED, ("caption=c", "photo"), None, "which of the streams image, audio it is for"),
    ],
)
def test_a_field_is_never_ignored(streams, fields, media, words):
    with pytest.raises(ValueError, match=words):
        feeds_of(streams, fields, media)


@pytest.fixture
def options(tmp_path):
    """Of a run with two text streams."""
    ToyText().save(tmp_path / "toy")
    ToyImage().save(tmp_path / "pictures")
    (tmp_path / "data").mkdir()
    both = (f"question={tmp_path / 'toy'}", f"answer={tmp_path / 'toy'}")
    return EncodeOptions(both, (str(tmp_path / "data"),), str(tmp_path / "out"), field=("question=q", "answer=a"))


def decoded(out):
    toy, shards = ToyText(), ShardSet.open(out)
    return {
        name: [toy.decode(torch.from_numpy(record.grids[name].astype(np.int64))) for record in shards.records()]
        for name in shards.streams
    }


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "tar", "folder"])
def test_two_texts_of_a_sample_come_into_their_streams(options, tmp_path, kind):
    data, count = tmp_path / "data", 5
    rows = [{"q": f"what is {n}", "a": f"it is {n}"} for n in range(count)]
    if kind == "jsonl":
        put(data, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "json":
        put(data, "a.json", json.dumps(rows))
    elif kind == "csv":
        put(data, "a.csv", "a,q\n" + "".join(f"{row['a']},{row['q']}\n" for row in rows))
    elif kind == "parquet":
        put(data, "a.parquet", parquet({name: [row[name] for row in rows] for name in "qa"}))
    else:
        options = replace(options, field=("question=q.txt", "answer=txt"))
        members = [
            (f"{n}{end}", row[name].encode())
            for n, row in enumerate(rows)
            for name, end in (("q", ".q.txt"), ("a", ".txt"))
        ]
        for name, text in members if kind == "folder" else ():
            put(data, name, text)
        if kind == "tar":
            put(data, "a.tar", tar(members))
    result = encode(options)
    assert (result.rows, result.failures, result.incomplete) == (count, 0, 0)
    assert decoded(options.out) == {"question": [row["q"] for row in rows], "answer": [row["a"] for row in rows]}
    assert encode(replace(options, workers=2)).rows == count
    with pytest.raises(ValueError, match=r"options\.fields\.answer was"):
        encode(replace(options, field=(options.field[0], options.field[0].replace("question", "answer"))))
    assert verify(options.out, options.tokenizer).rows == count


def test_without_fields_of_their_own_both_streams_have_the_same_text(options, tmp_path):
    put(tmp_path / "data", "a.jsonl", jsonl(["one", "two"]))
    encode(replace(options, field=()))
    assert decoded(options.out) == {"question": ["one", "two"], "answer": ["one", "two"]}
    with pytest.raises(ValueError, match="question, answer it is for"):
        encode(replace(options, field=("text",), out=str(tmp_path / "other")))


def test_pictures_and_texts_under_any_names(options, tmp_path):
    pictures = [saved(scene(8, 6), "PNG"), saved(scene(4, 6), "PNG"), None]
    columns = {"img": pictures, "alt": pictures[::-1], "words": ["a", "b", "c"]}
    put(tmp_path / "data", "a.parquet", parquet(columns))
    pick = ("caption=words", "first=img", "second=alt")
    streams = (f"caption={tmp_path / 'toy'}", f"first={tmp_path / 'pictures'}", f"second={tmp_path / 'pictures'}")
    result = encode(replace(options, tokenizer=streams, field=pick))
    assert (result.rows, result.failures, result.incomplete) == (1, 0, 2)
    (record,) = ShardSet.open(options.out).records()
    assert {name: record.grids[name].shape for name in ("first", "second")} == {"first": (3, 2), "second": (3, 2)}
    with pytest.raises(ValueError, match=r"first=FIELD --field second=FIELD"):
        encode(replace(options, tokenizer=streams[1:], field=("img",), out=str(tmp_path / "b")))


def incomplete_folder(data):
    for number in range(6):
        put(data, f"{number}.png", saved(scene(4, 4), "PNG"))
        put(data, f"{number}.txt", f"picture {number}")
    (data / "1.txt").unlink()
    (data / "2.png").unlink()
    (data / "3.txt").write_bytes(b"\xff")


def test_incomplete_samples_are_counted_apart(options, tmp_path):
    incomplete_folder(tmp_path / "data")
    options = replace(options, tokenizer=(str(tmp_path / "toy"), str(tmp_path / "pictures")), field=())
    result = encode(replace(options, max_failures=1))
    assert (result.rows, result.failures, result.incomplete) == (3, 1, 2)
    assert "2 incomplete samples left out" in result.to_text()
    assert result.to_dict()["incomplete"] == 2
    listed = [json.loads(line) for line in (tmp_path / "out" / "incomplete.jsonl").open()]
    assert listed == [
        {"key": "1", "reason": "it has no text; its files are .png"},
        {"key": "2", "reason": "it has no image; its files are .txt"},
    ]
    assert [json.loads(line)["key"] for line in (tmp_path / "out" / "failures.jsonl").open()] == ["3"]
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (manifest["failures"], manifest["incomplete"]) == (1, 2)
    verify(options.out)
    (tmp_path / "out" / "incomplete.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"incomplete\.jsonl tells of 0 samples, expected 2"):
        verify(options.out)


def test_incomplete_samples_may_be_failures(options, tmp_path):
    incomplete_folder(tmp_path / "data")
    options = replace(
        options, tokenizer=(str(tmp_path / "toy"), str(tmp_path / "pictures")), field=(), incomplete="fail"
    )
    with pytest.raises(TooManyFailuresError, match="3 samples could not be read, more than --max-failures 2"):
        encode(replace(options, max_failures=2))
    result = encode(options)
    assert (result.rows, result.failures, result.incomplete) == (3, 3, 0)
    assert len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) == 3
    assert not (tmp_path / "out" / "incomplete.jsonl").exists()
    # A run that is continued with the other rule counts anew.
    (tmp_path / "out" / "dataset.json").unlink()
    assert encode(replace(options, incomplete="skip")).incomplete == 2


def test_a_run_of_incomplete_samples_alone_is_an_error(options, tmp_path):
    put(tmp_path / "data", "a.jsonl", '{"q": "1"}\n{"a": "2"}\n')
    with pytest.raises(
        TooManyFailuresError, match=r"none of 2 samples .*incomplete\.jsonl lists them.*'a' is not there"
    ):
        encode(options)


def test_max_failures_means_samples(options, tmp_path):
    put(tmp_path / "data", "a.jsonl", '{"q": "1", "a": "2"}\n')
    put(tmp_path / "data", "b.csv", "q,body\n" + "1,2\n" * 500)
    with pytest.raises(TooManyFailuresError, match="500 samples could not be read, more than --max-failures 499"):
        encode(replace(options, max_failures=499))
    result = encode(replace(options, max_failures=500))
    assert (result.rows, result.failures) == (1, 500)


def test_a_field_is_not_ignored_by_plain_text(options, tmp_path):
    alone = replace(options, tokenizer=(str(tmp_path / "toy"),), field=("body",))
    put(tmp_path / "data", "a.txt", "a text")
    with pytest.raises(ValueError, match=r"--field body is given, but .*a\.txt is read as plain text"):
        encode(alone)
    put(tmp_path / "data", "b.jsonl", '{"body": "x"}\n')
    assert encode(alone).rows == 2
    put(tmp_path, "c.dump", '{"body": "x"}\n')
    with pytest.raises(ValueError, match=r"c\.dump is read as plain text"):
        encode(replace(alone, data=(*alone.data, str(tmp_path / "c.dump")), out=str(tmp_path / "b")))


def test_two_media_columns_are_listed(options, tmp_path):
    from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer

    PCMTokenizer(sample_rate=16_000).save(tmp_path / "pcm")
    put(tmp_path / "data", "a.parquet", parquet({"photo": [b"x"], "voice": [b"y"]}))
    media = replace(options, tokenizer=(str(tmp_path / "pictures"), str(tmp_path / "pcm")), field=())
    words = r"--field image=COLUMN --field audio=COLUMN \(a\.parquet has photo, voice\)"
    with pytest.raises(ValueError, match=words):
        encode(replace(media, media_field="photo"))
    with pytest.raises(
        ValueError, match=r"no column 'image'; it has photo, voice; choose one with --field image=FIELD"
    ):
        encode(media)
