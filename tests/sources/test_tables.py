"""Rows of JSON in every layout, and of csv and tsv: every row once and in order, every character kept, damage where it is."""

import csv
import io
import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toys.files import bz, gz, put, xz, zst

from tokenize_kit.sources import json_values, lines
from tokenize_kit.sources.blocks import count_lost
from tokenize_kit.sources.delimited import DelimitedReader, kind_of_fields
from tokenize_kit.sources.fields import resolve_columns
from tokenize_kit.sources.json_values import depth_of, holds_lines, parse_json_object, read_values
from tokenize_kit.sources.planning import ReadOptions, Source, Unit, find_sources, plan_units
from tokenize_kit.sources.reading import read_unit

PAIR = ReadOptions(modalities=(), named=(Source("question", "text", "q"), Source("answer", "text", "a")))


def read_all(folder, options=ReadOptions(), unit_bytes=1 << 20):  # noqa: B008
    """Samples as (key, contents ..., columns ...), and the failures, through units as another machine gets them."""
    samples, failures = [], []
    for unit in plan_units(find_sources([str(folder)], options), options, unit_bytes):
        for block in read_unit(Unit.from_dict(json.loads(json.dumps(unit.to_dict()))), options):
            values = [block.keys, *block.contents.values(), *block.columns.values()]
            samples += zip(*(list(map(plain, one)) for one in values), strict=True)
            failures += block.failures
    return samples, failures


def plain(value):
    return value.as_py() if hasattr(value, "as_py") else value


def texts(folder, options=ReadOptions(), unit_bytes=1 << 20):  # noqa: B008
    samples, failures = read_all(folder, options, unit_bytes)
    assert failures == []
    return [text for _, text, *_ in samples]


ROWS = [
    {"text": text, "n": n}
    for n, text in enumerate(["one", "zwei\n", "漢\U0001f600", "", '"{[,]}"', "\x00\x0b\u2028\r"])
]
LAYOUTS = {
    "lines": "".join(json.dumps(row) + "\n" for row in ROWS),
    "lines without the last end": "\n".join(map(json.dumps, ROWS)),
    "lines with carriage returns": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "array": json.dumps(ROWS),
    "array, indented": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "array, a row a line": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "objects, indented": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "objects, joined": "".join(map(json.dumps, ROWS)),
    "objects with commas": ",\n".join(map(json.dumps, ROWS)),
    "two arrays": json.dumps(ROWS[:2]) + json.dumps(ROWS[2:], indent=1),
    "sequence of RFC 7464": "".join(f"\x1e{json.dumps(row)}\n" for row in ROWS),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_in_every_layout(tmp_path, layout, mark, monkeypatch):
    put(tmp_path, "a.json", data := (mark + LAYOUTS[layout]).encode())
    for block in (1, 7, 1 << 20):
        monkeypatch.setattr(json_values, "_BLOCK", block)
        samples, failures = read_all(tmp_path, ReadOptions(columns={"n": "int64"}), 100)
        assert failures == []
        assert [sample[1:] for sample in samples] == [(row["text"], row["n"]) for row in ROWS]
        # A key tells the byte at which its object begins.
        places = [int(key.removeprefix("a.json@")) for key, *_ in samples]
        assert all(data[place:].removeprefix(b"\xef\xbb\xbf").lstrip(b"\x1e")[:1] == b"{" for place in places)
        assert places == sorted(set(places))


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gz), (".zst", zst), (".bz2", bz), (".xz", xz)])
def test_tables_in_every_compression(tmp_path, ending, pack):
    for number, layout in enumerate(("lines", "array", "objects, indented")):
        put(tmp_path, f"{number}.json{ending}", pack(LAYOUTS[layout].encode()))
    put(tmp_path, f"3.csv{ending}", pack(b"n,text\n1,one\n"))
    put(tmp_path, f"4.tsv{ending}", pack(b"n\ttext\n1\ttwo\n"))
    for number, name in enumerate((".jsonl", ".ndjson", ".jsonlines", ".jl"), 5):
        put(tmp_path, f"{number}{name}{ending}", pack(b'{"text": "line"}\n'))
    assert texts(tmp_path) == [*[row["text"] for row in ROWS] * 3, "one", "two", *["line"] * 4]


def test_one_object_is_one_sample(tmp_path):
    put(tmp_path, "a.json", '{"text": "one"}')
    put(tmp_path, "b.json", '{\n "text": "two"\n}\n')
    put(tmp_path, "c.json", '[{"text": "three"}]')
    put(tmp_path, "e.json", " [ ] ")
    assert texts(tmp_path) == ["one", "two", "three"]


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_an_empty_file_is_no_json(tmp_path, nothing):
    put(tmp_path, "a.json", '{"text": "one"}')
    put(tmp_path, "b.json", nothing)
    samples, failures = read_all(tmp_path)
    assert [text for _, text in samples] == ["one"]
    assert [failure.key for failure in failures] == ["b.json"]


DAMAGED = {
    '[{"text":"a"},{"text":"b"}': (["a", "b"], ["ends inside its array; the rest of the file"]),
    '[{"text":"a"},{"text":"b': (["a"], ["Unterminated string", "the rest of the file"]),
    '[{"text":"a" "b"},{"text":"c"}]': (["c"], ["not JSON"]),
    '[\n  {\n    "text": "a\n  },\n  {\n    "text": "b"\n  }\n]': (["b"], ["not JSON"]),
    '[\n{"text":"a"},\n{"text":"b},\n{"text":"c"}\n]': (["a", "c"], ["not JSON"]),
    '{"text":"a"}\n{"text"\n{"text":"c"}\n': (["a", "c"], ["not JSON"]),
    'oops\n{"text":"b"}\n': (["b"], ["not JSON"]),
    '[1, "text", null, [{"text":"x"}], {"text":"b"}]': (
        ["b"],
        ["a JSON int", "a JSON str", "a JSON null", "a JSON list"],
    ),
    '{"text":"a"}}\n{"text":"b"}': (["a", "b"], ["not JSON"]),
    '[{"text":"a"}] and more': (["a"], ["not JSON"]),
    b'[{"text":"caf\xe9"},{"text":"b"}]': (["b"], ["not UTF-8 text: byte 0xe9"]),
    '[{"text":"\\ud800"},{"text":"b"}]': (["b"], ["lone surrogate"]),
    '{"data": [{"text":"inner"}]}': ([], ["no field 'text'; it has data"]),
    f'[{{"text":"deep","x":{"[" * 501}{"]" * 501}}},{{"text":"b"}}]': (["b"], ["deeper than 500"]),
    f'[{{"text":"deep","x":{"[" * 9999}{"]" * 9999}}},{{"text":"b"}}]': (["b"], ["deeper than 500"]),
    f'[{{"text":"long","x":{"1" * 5000}}},{{"text":"b"}}]': (["long", "b"], []),
}


@pytest.mark.parametrize("data", DAMAGED, ids=lambda data: str(data)[:40])
def test_damage_in_json_stays_where_it_is(tmp_path, data, monkeypatch):
    put(tmp_path, "a.json", data)
    whole, reasons = DAMAGED[data]
    for block in (3, 1 << 20):
        monkeypatch.setattr(json_values, "_BLOCK", block)
        samples, failures = read_all(tmp_path)
        assert [text for _, text in samples] == whole
        # Of one failure all words are looked for, of several one word each.
        if len(failures) == 1:
            assert all(words in failures[0].reason for words in reasons)
        else:
            assert len(failures) == len(reasons)
            assert all(words in failure.reason for words, failure in zip(reasons, failures, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=3), st.text(max_size=4) | st.lists(st.integers(), max_size=2)), max_size=4
    ),
    indent=st.sampled_from([None, 0, 1, 3]),
    joined=st.sampled_from(["[,]", "\n", "", ","]),
    block=st.integers(1, 30),
)
def test_values_are_those_of_the_usual_parser(rows, indent, joined, block):
    parts = [json.dumps(row, indent=indent, ensure_ascii=len(row) % 2 == 0) for row in rows]
    data = f"[{','.join(parts)}]" if joined == "[,]" else joined.join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_BLOCK", block)
        found = list(read_values(io.BytesIO(data.encode())))
    assert [place.value for place in found] == rows
    assert all(data.encode()[place.offset :].startswith(b"{") for place in found)


@settings(max_examples=100, deadline=None)
@given(
    cut=st.integers(0, 200),
    inserted=st.sampled_from([b"", b'"', b"{", b"}", b"]", b"\n", b"\\", b"\xff", b"x"]),
    block=st.integers(1, 90),
)
def test_damage_is_never_silent(cut, inserted, block):
    whole = json.dumps([{"text": f"row {n}", "x": {"y": [n]}} for n in range(5)], indent=1).encode()
    data = whole[:cut] + inserted + whole[cut + (inserted != b"") :] if inserted else whole[:cut]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_BLOCK", block)
        found = list(read_values(io.BytesIO(data)))
    rows = [place.value for place in found if place.value is not None]
    if len(rows) < 5 and data.strip():
        assert any(place.reason for place in found)
    assert len(rows) <= 5


def test_an_array_is_read_in_bounded_memory(monkeypatch):
    class Endless(io.RawIOBase):
        """An array of 40 MB, of which nothing is kept."""

        sent = 0

        def read(self, size=-1):
            if self.sent == 0:
                self.sent = 1
                return b"["
            if self.sent > 40_000_000:
                return b""
            part = (b'{"text": "' + b"x" * 990 + b'"},\n') * (size // 1003 + 1)
            self.sent += len(part)
            return part

    longest = 0
    real = json_values._Window._more

    def more(window):
        nonlocal longest
        found = real(window)
        longest = max(longest, len(window.text))
        return found

    monkeypatch.setattr(json_values._Window, "_more", more)
    rows = sum(place.value is not None for place in read_values(Endless()))
    assert rows > 38_000
    assert longest < 3 * json_values._BLOCK


def test_a_value_that_is_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(json_values, "MAX_VALUE_CHARACTERS", 10_000)
    monkeypatch.setattr(json_values, "_BLOCK", 100)
    found = list(read_values(io.BytesIO(b'[{"text": "a"}, {"text": "' + b"x" * 50_000 + b'"}, {"text": "b"}]')))
    assert found[0].value == {"text": "a"}
    assert [place.reason for place in found[1:]] == ["it is longer than 10000 characters; the rest of the file"]


def test_brackets_without_end_are_given_up():
    found = list(read_values(io.BytesIO(b'[{"text": "a"}, ' + b"[" * 3_000_000)))
    assert found[0].value == {"text": "a"}
    assert [place.reason for place in found[1:]] == ["it is nested deeper than 500 levels; the rest of the file"]


def test_json_of_lines_is_divided_like_jsonl(tmp_path):
    data = "".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(200))
    put(tmp_path, "a.json", data)
    assert len(plan_units(find_sources([str(tmp_path)], ReadOptions()), ReadOptions(), 500)) > 3
    assert texts(tmp_path, unit_bytes=500) == [f"row {n}" for n in range(200)]
    put(tmp_path, "a.json", json.dumps([{"text": f"row {n}"} for n in range(200)]))
    assert len(plan_units(find_sources([str(tmp_path)], ReadOptions()), ReadOptions(), 500)) == 1
    assert not holds_lines(io.BytesIO(b'{"text":\n "a"}'))
    assert not holds_lines(io.BytesIO(b'[{"text": "a"}]\n'))
    assert holds_lines(io.BytesIO(b'\xef\xbb\xbf\n {"text": "a"}'))


# --- fast and slow ----------------------------------------------------------------------------------------------------

NUMBERS = ["0", "-0", "1", "-7", "1.5", "-0.0", "1e5", "1E400", "-1e400", "5e-324", "1e-400", "9223372036854775807"]
NUMBERS += [
    "9223372036854775808",
    "-9223372036854775809",
    "1" + "0" * 400,
    "9" * 5000,
    "0.1",
    "1.0",
    "01",
    "1.",
    "+1",
    "-",
]
WORDS = ["true", "false", "null", "NaN", "Infinity", "-Infinity", "Inf", "-Inf", "-NaN", "nan", "undefined", "tru"]
STRINGS = [
    '"plain"',
    '""',
    '"\\u00e9\\ud83d\\ude00"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u0000"',
    '"raw\ttab"',
    '"\\x"',
    '"Inf,NaN]"',
]
STRINGS += [
    '"2020-01-01"',
    '"12"',
    '"é\u2028\x0b漢"',
    '"\ufeff"',
    '"a\\/b"',
    '"1e400"',
    '"}\\n{"',
    '"' + "{[" * 300 + '"',
    '"\\u12"',
]
NESTED = [
    "[]",
    "{}",
    "[1, [2, {}]]",
    '{"text": "inner"}',
    '{"a": {"\\ud800": 1}}',
    "[" * 400 + "]" * 400,
    "[" * 700 + "]" * 700,
]
NESTED += ['{"a":' * 1500 + "1" + "}" * 1500, "[NaN, Inf]", '[{"text": "x"}, "y"]', "[1,]", "[1 2]"]
VALUES = st.sampled_from([*NUMBERS, *WORDS, *STRINGS, *NESTED])
KEYS = st.sampled_from(
    ['"text"', '"label"', '"other"', '"\\ud800"', '"te\\u0078t"', '""', '"label"', '"text "', "text", '"a.b"']
)
PAIRS = st.tuples(KEYS, VALUES).map(": ".join)
OBJECTS = st.lists(PAIRS, max_size=4).map(lambda pairs: "{" + ", ".join(pairs) + "}")
GOOD = st.sampled_from(
    ['{"text": "good"}', '{"text": "also", "label": 3}', '{"label": 4.5, "text": "x"}', '{"text": "y", "label": "s"}']
)
ODD = st.sampled_from(
    ["", "  ", "\ufeff", "// comment", "# comment", '{"text": "c"} // c', '{"text": /* c */ "c"}', "[1]", "7", '"s"']
)
ODD |= st.sampled_from(
    [
        '{"text": "a"}{"text": "b"}',
        '{"text": "cut',
        '\ufeff{"text": "marked"}',
        '{"text": "r"}\r',
        "{}",
        '{"text": "a",}',
    ]
)
ODD |= st.sampled_from(
    ["\x0b", '{"text": "a"}\x0b', '{"text":"v"}\x00', '{"text": "' + "long " * 9 + '"}', '{"x":Inf}', "null"]
)
INVALID = [b'{"text": "bad \xff"}', b'{"text": "fine", "other": "bad \xff"}', b'{"text": "cut \xe6\xbc"}']
LINES = st.one_of(GOOD, GOOD, OBJECTS, OBJECTS, ODD).map(str.encode) | st.sampled_from(INVALID)


def outcome(path, options, unit=1 << 20):
    """What becomes of each line, by where it begins; NaN equals itself and -0.0 differs from 0.0."""
    samples, failures = read_all(path, options, unit)
    assert all(failure.samples == 1 for failure in failures)
    return [(key, *map(repr, rest)) for key, *rest in samples], [(failure.key, failure.reason) for failure in failures]


@settings(max_examples=70, deadline=None)
@given(
    picks=st.lists(LINES, max_size=8),
    kind=st.sampled_from(["", "int64", "float64", "string", "bool"]),
    unit=st.sampled_from([40, 1 << 20]),
)
@example([b'{"text": "a", "label": -0}', b'{"text": "b", "other": Inf}'], "float64", 1 << 20)
@example([b'{"text": "a", "other": ' + b"9" * 5000 + b"}"], "int64", 1 << 20)
def test_the_fate_of_a_row_does_not_depend_on_its_neighbours(tmp_path_factory, picks, kind, unit):
    folder = tmp_path_factory.mktemp("jsonl")
    options = ReadOptions(columns={"label": kind} if kind else {}, max_document_bytes=30)
    put(folder, "all/a.jsonl", b"\n".join(picks))
    fast = outcome(folder / "all", options, unit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_jsonl_fast", lambda *_: None)
        assert outcome(folder / "all", options, unit) == fast
    alone, failed, offset = [], [], 0
    for pick in picks:
        put(folder, "one/a.jsonl", pick)
        samples, failures = outcome(folder / "one", options)
        alone += [(key.replace("@0", f"@{offset}", 1), *rest) for key, *rest in samples]
        failed += [(key.replace("@0", f"@{offset}", 1), reason) for key, reason in failures]
        offset += len(pick) + 1
    assert (alone, failed) == fast


def test_several_texts_of_a_row_take_the_fast_way_too(tmp_path, monkeypatch):
    rows = [{"q": f"question {n}", "a": f"answer {n}", "id": n} for n in range(50)]
    put(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(lines, "_add_json_line", None)
    samples, failures = read_all(tmp_path, PAIR)
    assert failures == []
    assert [sample[1:] for sample in samples] == [(row["q"], row["a"]) for row in rows]


def test_numbers_that_are_too_large(tmp_path):
    rows = [
        '{"text": "a", "v": 1e400}',
        '{"text": "b", "v": 1' + "0" * 400 + "}",
        '{"text": "c", "v": -' + "9" * 6000 + "}",
    ]
    put(tmp_path, "a.jsonl", "\n".join(rows))
    samples, _ = read_all(tmp_path, ReadOptions(columns={"v": "float64"}))
    assert [value for *_, value in samples] == [math.inf, math.inf, -math.inf]
    samples, failures = read_all(tmp_path, ReadOptions(columns={"v": "int64"}))
    assert len(failures) == 3
    assert all(len(failure.reason) < 200 for failure in failures)
    samples, _ = read_all(tmp_path, ReadOptions(columns={"v": "string"}))
    assert samples[2][2] == "-" + "9" * 6000


def test_how_deep_json_is_nested():
    assert [depth_of(data) for data in (b"", b"7", b"{}", b'{"a": [1, {}]}', b'{"[[[[": "{\\"["}', b"]]]")] == [
        0,
        0,
        1,
        3,
        1,
        0,
    ]
    assert parse_json_object(b'{"a": %s}' % (b"[" * 499 + b"]" * 499))
    with pytest.raises(ValueError, match="deeper than 500"):
        parse_json_object(b'{"a": %s}' % (b"[" * 500 + b"]" * 500))


# --- csv and tsv ------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.text(st.sampled_from("ab ,;\t\"'\n\r\x0b\x00\u2028é\ufeff"), max_size=6), min_size=2, max_size=2),
        max_size=6,
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    dialect=st.sampled_from([(",", "csv"), (";", "csv"), ("\t", "csv"), ("\t", "tsv")]),
    mark=st.booleans(),
)
def test_every_character_of_a_table_is_kept(tmp_path_factory, rows, end, dialect, mark):
    folder, target = tmp_path_factory.mktemp("csv"), io.StringIO()
    writer = csv.writer(target, delimiter=dialect[0], lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "text"], *rows])
    put(folder, f"a.{dialect[1]}", "\ufeff" * mark + target.getvalue())
    samples, failures = read_all(folder, ReadOptions(columns={"id": "string"}))
    assert failures == []
    assert [[number, text] for _, text, number in samples] == rows


def rows_of(data, tabs=False):
    table = DelimitedReader(io.BytesIO(data if isinstance(data, bytes) else data.encode()), tabs)
    return [row.fields or row.reason for row in table]


def test_a_row_that_is_no_row_fails_alone(tmp_path):
    assert rows_of("a,b\n1\n2,3\n4,5,6\n7,8") == [
        "it has 1 fields, the first row has 2",
        ("2", "3"),
        "it has 3 fields, the first row has 2",
        ("7", "8"),
    ]
    assert rows_of('a,b\n1,"open\n2,3\n4,5\n') == ["unexpected end of data", ("2", "3"), ("4", "5")]
    assert rows_of('a,b\n1,"open\n2,3\n4,"x"\n5,6\n') == [
        """',' expected after '"'""",
        ("2", "3"),
        ("4", "x"),
        ("5", "6"),
    ]
    assert rows_of('a,b\n"x"y,1\n2,3') == ["""',' expected after '"'""", ("2", "3")]
    # What the quote of a row that is none has taken in is looked at line by line.
    assert rows_of('a,b\n1,"two\n2,3\nx",4\n5,6') == [
        "it has 3 fields, the first row has 2",
        ("2", "3"),
        ('x"', "4"),
        ("5", "6"),
    ]
    put(tmp_path, "a.csv", b"n,text\n1,caf\xe9\n2,good\n\n3,\n")
    samples, failures = read_all(tmp_path)
    assert samples == [("a.csv@14", "good"), ("a.csv@22", "")]
    assert [(failure.key, "byte 0xe9" in failure.reason) for failure in failures] == [("a.csv@7", True)]


def test_tsv_may_know_no_quotes():
    assert rows_of('a\tb\n"Yes\tx\nNo"\ty\n', True) == [('"Yes', "x"), ('No"', "y")]
    assert rows_of('a\tb\n"Hello" she said\t1\nok\t2\n', True) == [('"Hello" she said', "1"), ("ok", "2")]
    assert rows_of('a\tb\n"never closed\t1\nok\t2', True) == [('"never closed', "1"), ("ok", "2")]
    assert rows_of('a\tb\n"tab\there"\t"two\nlines"\n', True) == [("tab\there", "two\nlines")]


def test_what_separates_the_fields(tmp_path):
    for name, header, row in (
        ("a.csv", "id,text", "1,x;y\tz"),
        ("b.csv", "id;text", "1;x,y"),
        ("c.csv", "id\ttext", "1\tx,y;z"),
        ("d.csv", "sep=|\nid|text", "1|x,y;z"),
        ("e.csv", "text", "x"),
        ("f.csv", '"id";"text"', '1;"x;y"'),
        ("g.tab", "id\ttext", "1\tx,y"),
    ):
        put(tmp_path, name, f"{header}\n{row}\n")
    assert texts(tmp_path) == ["x;y\tz", "x,y", "x,y;z", "x,y;z", "x", "x;y", "x,y"]


def test_a_table_without_the_column_loses_all_its_rows(tmp_path):
    put(tmp_path, "a.csv", "id,body\n" + "1,x\n" * 500)
    put(tmp_path, "b.csv", "id,text\n1,good\n")
    put(tmp_path, "c.csv", "text,text\n1,2\n")
    put(tmp_path, "d.csv", "")
    put(tmp_path, "e.csv", "other\n")
    put(tmp_path, "f.csv", "a,text\n1,2\n".encode("utf-16"))
    put(tmp_path, "g.csv", '"never closed,text\n1,2\n')
    samples, failures = read_all(tmp_path)
    assert samples == [("b.csv@8", "good")]
    assert [(failure.key, failure.samples) for failure in failures] == [
        ("a.csv", 500),
        ("c.csv", 1),
        ("f.csv", 1),
        ("g.csv", 1),
    ]
    assert failures[0].reason == "no field 'text'; it has body, id"
    assert failures[1].reason == "2 of its columns are named 'text'; rename all but one"
    assert "UTF-16" in failures[2].reason
    assert failures[3].reason.endswith("a whole file")


def test_a_row_that_is_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr("tokenize_kit.sources.delimited.MAX_ROW_CHARACTERS", 100)
    long = "x" * 1000
    assert rows_of(f"a,b\n1,{long}\n2,3\n") == ["it has more than 100 characters", ("2", "3")]
    assert rows_of(f'a,b\n1,"{long}"\n2,3\n') == ["it has more than 100 characters", ("2", "3")]
    found = rows_of('a,b\n1,"open\n' + "2,3\n" * 50)
    assert "field larger than field limit" in found[0]
    assert found[1:] == [("2", "3")] * 50
    monkeypatch.setattr("tokenize_kit.sources.delimited._MAX_READ_AGAIN", 50)
    assert rows_of('a,b\n1,"open\n' + "2,3\n" * 50)[-1] == "its quotes do not work; the rest of the file"


def test_types_of_columns_keep_what_is_written(tmp_path):
    kinds = [
        ["1", "-2", ""],
        ["1", "2.5"],
        ["007", "1"],
        ["True", "false"],
        ["x"],
        ["", ""],
        ["1_000"],
        [" 1"],
        ["9" * 30],
        ["nan"],
    ]
    expected = ["int64", "float64", "string", "bool", "string", None, "string", "string", "float64", "string"]
    assert [kind_of_fields(values) for values in kinds] == expected
    put(tmp_path, "a.csv", "text,i,f,b,s\nx,1,1.5,true,007\ny,,2,False,\nz,many,3,no,8\n")
    options = ReadOptions(columns={"i": "int64", "f": "float64", "b": "bool", "s": "string"})
    samples, failures = read_all(tmp_path, options)
    assert [sample[1:] for sample in samples] == [("x", 1, 1.5, True, "007"), ("y", None, 2.0, False, "")]
    assert failures[0].reason == "column 'i' is 'many', expected int64"
    put(tmp_path, "a.csv", "text,i,f,b,s\nx,1,1.5,true,007\n")
    files = find_sources([str(tmp_path)], ReadOptions())
    assert resolve_columns(files, ReadOptions(), ["i", "f", "b", "s"]).columns == options.columns


# --- which file has which field ---------------------------------------------------------------------------------------


def test_a_first_file_that_is_damaged_or_lacks_a_field_ends_no_run(tmp_path):
    good = b'{"text": "good", "id": 1}\n'
    put(tmp_path, "a.jsonl.gz", gz(good * 50)[:20])
    put(tmp_path, "b.json.zst", zst(b"[" + good.strip() + b"]")[:9])
    put(tmp_path, "c.csv.gz", gz(b"text,id\nx,1\n")[:-12])
    put(tmp_path, "d.jsonl", b'{"body": "x"}\n' * 3)
    put(tmp_path, "e.json", b'[{"body": "x"}]')
    put(tmp_path, "f.csv", "body\nx\ny\n")
    put(tmp_path, "g.jsonl", b"not JSON at all\n")
    put(tmp_path, "h.jsonl", good)
    put(tmp_path, "i.csv", "text,id\ngood,2\n")
    put(tmp_path, "j.json", b'[{"text": "good", "id": 3}]')
    files = find_sources([str(tmp_path)], ReadOptions())
    for names in ([], ["id"]):
        options = resolve_columns(files, ReadOptions(), names)
        assert options.columns == dict.fromkeys(names, "int64")
        samples, failures = read_all(tmp_path, options)
        assert [text for _, text, *_ in samples] == ["good"] * 3
        assert count_lost(failures) == 3 + 3 + 1 + 2 + 1
        named = {failure.key.partition("@")[0] for failure in failures}
        assert named == {"a.jsonl.gz", "b.json.zst", "c.csv.gz", "d.jsonl", "e.json", "f.csv", "g.jsonl"}


def test_a_field_that_no_file_has_is_said_at_once(tmp_path):
    put(tmp_path, "a.jsonl", '{"body": "x", "\\ud800": 1}\n')
    put(tmp_path, "b.csv", "body,id\nx,1\n")
    put(tmp_path, "c.json", '[{"body": {"inner": "x"}}]')
    files = find_sources([str(tmp_path)], ReadOptions())
    with pytest.raises(ValueError, match=r"a\.jsonl has no field 'text'; it has body, .*; choose one with --field$"):
        resolve_columns(files, ReadOptions(), [])
    with pytest.raises(ValueError, match=r"c\.json has no field 'body.x'; it has body; choose"):
        resolve_columns(files[2:], ReadOptions(text_field="body.x"), [])
    with pytest.raises(
        ValueError, match=r"b\.csv has no field 'q'; it has body, id; choose one with --field question=FIELD"
    ):
        resolve_columns(files[1:], PAIR, [])
    with pytest.raises(ValueError, match=r"has no field 'nope'; it has body"):
        resolve_columns(files, ReadOptions(text_field="body"), ["nope"])
    assert resolve_columns(files, ReadOptions(text_field="body.inner"), ["id"]).columns == {"id": "int64"}


def test_rows_with_a_part_missing_are_incomplete(tmp_path):
    rows = [{"q": "1", "a": "2"}, {"q": "1"}, {"q": None, "a": "2"}, {"x": 1}, {"q": 1, "a": "2"}]
    put(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    samples, failures = read_all(tmp_path, PAIR)
    assert [sample[1:] for sample in samples] == [("1", "2")]
    assert [(failure.reason, failure.incomplete) for failure in failures] == [
        ("field 'a' is not there; it has q", True),
        ("field 'q' is null", True),
        ("no field 'q'; it has x", False),
        ("field 'q' is a JSON int, expected a string", False),
    ]
    failing = ReadOptions(modalities=(), named=PAIR.named, incomplete="fail")
    assert not any(failure.incomplete for failure in read_all(tmp_path, failing)[1])
