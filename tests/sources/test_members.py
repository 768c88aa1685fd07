"""Places: the one meaning of a field in rows, in tars and in folders."""

import json

import pytest
from toys.files import put, tar

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sources.fields import resolve_columns
from tokenize_kit.sources.parts import MISSING, column_of, line_of, listed, text_of, value_at
from tokenize_kit.sources.planning import ReadOptions, Source, find_sources, plan_units
from tokenize_kit.sources.reading import read_unit
from tokenize_kit.sources.samples import iter_samples

ROW = {
    "a": {"b": "inner", "c.d": {"e": 1}, "f": None},
    "a.b": "a literal key wins",
    "list": [{"t": "one\ntwo\r\nthree"}, "second"],
    "t:2": "literal",
    "t": "first\nsecond\n",
    "bytes": b"caf\xc3\xa9",
    "": "empty",
}


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("a.b", "a literal key wins"),
        ("a.c.d.e", 1),
        ("a.f", None),
        ("a.x", MISSING),
        ("list.0.t", "one\ntwo\r\nthree"),
        ("list.0.t:2", "two"),
        ("list.0.t:3", "three"),
        ("list.0.t:4", MISSING),
        ("list.1", "second"),
        ("list.2", MISSING),
        ("list.-1", MISSING),
        ("list.x", MISSING),
        ("t:1", "first"),
        ("t:2", "literal"),
        ("t:3", MISSING),
        ("t:0", MISSING),
        ("bytes:1", "café"),
        ("", "empty"),
        (".", MISSING),
        ("t.x", MISSING),
    ],
)
def test_where_a_place_is(place, found):
    assert value_at(ROW, place) == found or value_at(ROW, place) is found


def test_lines_are_counted_from_one_and_lose_their_end():
    text = "one\r\ntwo\rstill two\u2028\n\nfour"
    assert [line_of(text, number) for number in range(1, 6)] == ["one", "two\rstill two\u2028", "", "four", MISSING]
    assert [line_of("one\n", number) for number in (1, 2)] == ["one", MISSING]
    assert line_of("", 1) is MISSING


def test_columns_and_names():
    names = ["a", "a.b", "list", "t"]
    assert [column_of(names, place) for place in ("a.b", "a.c", "list.0.t:2", "t:1", "x.a", "x")] == [
        "a.b",
        "a",
        "list",
        "t",
        None,
        None,
    ]
    assert text_of(ROW, "bytes") == "café"
    assert listed(["b ", "a", "\ud800", "c"]) == 'a, "b ", c, "\\ud800"'
    assert listed("abcdefghijklmnopq") == "a, b, c, d, e, f, g, h, i, j, k, l and 5 more"
    with pytest.raises(ValueError, match=r"field 'a\.f' is null"):
        text_of(ROW, "a.f")
    with pytest.raises(ValueError, match="no field 'zz'; it has"):
        text_of(ROW, "zz")


def read_all(folder, options, names=()):
    files = find_sources([str(folder)], options)
    options = resolve_columns(files, options, names)
    samples, failures = [], []
    for unit in plan_units(files, options, 1 << 20):
        for block in read_unit(unit, options):
            values = [block.keys, *block.contents.values(), *block.columns.values()]
            samples += zip(*(one.to_pylist() if hasattr(one, "to_pylist") else one for one in values), strict=True)
            failures += block.failures
    return samples, failures


MEMBERS = [
    ("s0.txt", b"caption 0\nsecond\n"),
    ("s0.desc_fr.txt", b"legende 0"),
    ("s0.desc_fr.ogg", b"sound"),
    ("s0.cls", b"7"),
    ("s0.json", json.dumps({"category": "class 0", "meta": {"text": "inner"}, "cls": 8, "txt": "a key"}).encode()),
    ("s0.info.json", json.dumps({"caption": "other"}).encode()),
]
PLACES = {
    "desc_fr.txt": "legende 0",
    ".txt": "caption 0\nsecond\n",
    "txt": "a key",
    ".txt:1": "caption 0",
    ".txt:2": "second",
    "desc_fr.txt:1": "legende 0",
    ".cls": "7",
    "category": "class 0",
    "json:category": "class 0",
    "meta.text": "inner",
    "info.json:caption": "other",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["a.tar", "a folder"])
def test_a_place_among_files_of_one_stem(tmp_path, place, name):
    if name == "a.tar":
        put(tmp_path, name, tar(MEMBERS))
    else:
        for member, data in MEMBERS:
            put(tmp_path, member, data)
    both = ReadOptions(modalities=(), named=(Source("en", "text", place), Source("fr", "text", "desc_fr.txt")))
    samples, failures = read_all(tmp_path, both)
    assert failures == []
    assert samples == [("a.tar/s0" if name == "a.tar" else "s0", PLACES[place], "legende 0")]
    if name == "a.tar":
        for alone in (
            ReadOptions(modalities=(), named=(Source("text", "text", place),)),
            ReadOptions(text_field=place),
        ):
            assert read_all(tmp_path, alone)[0] == [("a.tar/s0", PLACES[place])]


def test_a_field_that_is_given_wins_over_the_usual_file(tmp_path):
    members = [(f"{n}.txt", b"caption") for n in range(3)] + [
        ("0.json", b'{"text": "zero"}'),
        ("1.json", b'{"text": 1}'),
    ]
    put(tmp_path, "a.tar", tar(members))
    assert [text for _, text in read_all(tmp_path, ReadOptions())[0]] == ["caption"] * 3
    asked = ReadOptions(modalities=(), named=(Source("text", "text", "text"),))
    samples, failures = read_all(tmp_path, asked)
    assert samples == [("a.tar/0", "zero")]
    assert [(failure.key, failure.incomplete) for failure in failures] == [("a.tar/1", False), ("a.tar/2", True)]
    with pytest.raises(
        ValueError, match=r"a\.tar has no 'nope': no sample has such a file or that key in its .json; choose"
    ):
        read_all(tmp_path, ReadOptions(text_field="nope"))


def test_only_one_file_of_a_kind_is_taken_without_a_word(tmp_path):
    put(tmp_path, "a.tar", tar([("0.en.txt", b"one"), ("0.fr.txt", b"un"), ("1.en.txt", b"two")]))
    samples, failures = read_all(tmp_path, ReadOptions())
    assert samples == [("a.tar/1", "two")]
    assert failures[0].reason == "it has more than one text: .en.txt, .fr.txt; choose with --field text=fr.txt"
    samples, failures = read_all(tmp_path, ReadOptions(text_field="txt"))
    assert samples == [("a.tar/1", "two")]
    assert failures[0].reason == ".en.txt, .fr.txt all end in txt; name one of them"


def test_a_damaged_json_matters_only_where_it_is_asked(tmp_path):
    put(
        tmp_path,
        "a.tar",
        tar([("0.txt", b"one"), ("0.json", b"{damaged"), ("1.txt", b"two"), ("1.json", b'{"cls": 3}')]),
    )
    assert [text for _, text in read_all(tmp_path, ReadOptions())[0]] == ["one", "two"]
    samples, failures = read_all(tmp_path, ReadOptions(), ["cls"])
    assert samples == [("a.tar/1", "two", 3)]
    assert "not JSON" in failures[0].reason


def test_media_by_their_ending_and_captions_beside_them(tmp_path):
    for name in ("0.png", "0.seg.png", "0.cls", "1.png", "1.cls", "1.json", "2.seg.png", "metadata.json"):
        put(tmp_path, name, b'{"text": "of 1"}' if name.endswith(".json") else name.encode())
    segments = ReadOptions(modalities=("image",), media_field="seg.png")
    samples, failures = read_all(tmp_path, segments)
    assert samples == [("0", b"0.seg.png"), ("2", b"2.seg.png")]
    assert [(failure.key, failure.incomplete) for failure in failures] == [("1", True)]
    labelled = ReadOptions(modalities=(), named=(Source("label", "text", "cls"), Source("image", "image", ".png")))
    samples, failures = read_all(tmp_path, labelled)
    assert samples == [("0", "0.cls", b"0.png"), ("1", "1.cls", b"1.png")]
    assert [(failure.key, failure.reason) for failure in failures] == [("2", "it has no cls; its files are .seg.png")]
    samples, failures = read_all(tmp_path, ReadOptions(modalities=("text", "image")))
    assert samples == [("1", "of 1", b"1.png")]


def test_json_beside_a_text_is_no_sample(tmp_path):
    put(tmp_path, "a.txt", "a text")
    put(tmp_path, "a.json", '{"license": "CC0"}')
    put(tmp_path, "b.json", '{"text": "a sample"}')
    assert [text for _, text in read_all(tmp_path, ReadOptions())[0]] == ["a text", "a sample"]
    assert [group.why for group in find_sources([str(tmp_path)], ReadOptions()).passed_over] == [
        "belongs to the text of that name"
    ]


def test_evaluation_and_trainers_take_a_place_too(tmp_path):
    put(
        tmp_path,
        "a.tar",
        tar([("0.txt", b"one"), ("0.json", b'{"c": {"t": "inner"}}'), ("1.json", b'{"c": {"t": "two"}}')]),
    )
    put(tmp_path, "b.csv", "c.t,text\nthree,x\n")
    spec = TokenSpec("text", 256, ("time",), (None,), lossless=True)
    failures = []
    found = list(iter_samples([str(tmp_path)], spec, failures.append, field="c.t"))
    assert [sample.sample for sample in found] == ["inner", "two", "three"]
    found = list(iter_samples([str(tmp_path)], spec, failures.append))
    assert [sample.sample for sample in found] == ["one", "x"]
    # One who wants nothing else is told of each.
    assert [(failure.key, failure.incomplete) for failure in failures] == [("a.tar/1", False)]
    with pytest.raises(ValueError, match="media field photo is given, but the tokenizer reads texts"):
        list(iter_samples([str(tmp_path)], spec, failures.append, media_field="photo"))
    put(tmp_path, "c.txt", "plain")
    with pytest.raises(ValueError, match=r"--field body is given, but .*c\.txt is read as plain text"):
        list(iter_samples([str(tmp_path / "c.txt")], spec, failures.append, field="body"))
