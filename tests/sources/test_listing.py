"""Which files there are: everything that a folder, a glob or an archive holds is read or said to be not; pipes are read once."""

import gzip
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from toys.files import bz, gz, jsonl, put, xz, zst

from tokenize_kit.modalities import modality_named
from tokenize_kit.sources import spool
from tokenize_kit.sources.documents import iter_documents
from tokenize_kit.sources.endings import ending_of, kind_of
from tokenize_kit.sources.fields import check_places, resolve_columns
from tokenize_kit.sources.listing import list_files
from tokenize_kit.sources.planning import ReadOptions, find_sources, input_digest, plan_units
from tokenize_kit.sources.reading import read_unit

TEXT = ReadOptions()
PICTURES = ReadOptions(modalities=("image",))


def found(*inputs, options=TEXT, leave_out=()):
    """Keys of the files, and what is passed over: ending (or nothing), reason and names."""
    files = find_sources([str(given) for given in inputs], options, [str(folder) for folder in leave_out])
    return [file.key for file in files], {
        (group.ending, group.why): (group.count, group.names) for group in files.passed_over
    }


def texts(*inputs, options=TEXT):
    """What is read, and what failed."""
    samples, failures = [], []
    for unit in plan_units(find_sources([str(given) for given in inputs], options), options, 1 << 20):
        for block in read_unit(unit, options):
            samples += [str(text) for text in block.contents["text"]]
            failures += [failure.key for failure in block.failures]
    return samples, failures


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("a.txt", "text", ""),
        ("A.TXT.GZ", "text", "gz"),
        ("a.md.zst", "text", "zst"),
        ("a.jsonl.bz2", "jsonl", "bz2"),
        ("a.ndjson.xz", "jsonl", "xz"),
        ("a.jsonlines.zstd", "jsonl", "zst"),
        ("a.jl.bgz", "jsonl", "gz"),
        ("a.JSON", "json", ""),
        ("c4-train.00000-of-01024.json.gz", "json", "gz"),
        ("a.csv.xz", "csv", "xz"),
        ("a.tab.gz", "tsv", "gz"),
        ("a.tar.bz2", "tar", "bz2"),
        ("a.TBZ2", "tar", "bz2"),
        ("a.txz", "tar", "xz"),
        ("a.tar.zst", "tar", "zst"),
        ("a.tgz", "tar", "gz"),
        ("t10k-images-idx3-ubyte.gz", "idx", "gz"),
        ("a.parquet", "parquet", ""),
        ("a.parquet.gz", None, "gz"),
        ("a.png", "image", ""),
        ("a.png.gz", None, "gz"),
        ("a.wav", "audio", ""),
        ("README", None, ""),
        ("a.7z", None, ""),
    ],
)
def test_kinds_by_name(name, kind, compression):
    assert kind_of(name) == (kind, compression)


def test_every_compression_of_every_kind_of_lines_is_read(tmp_path):
    packs = {"": bytes, ".gz": gz, ".bz2": bz, ".xz": xz, ".zst": zst}
    for number, (ending, pack) in enumerate(packs.items()):
        put(tmp_path, f"{number}.jsonl{ending}", pack(jsonl([f"line {number}"])))
        put(tmp_path, f"{number}.TXT{ending}", pack(f"text {number}".encode()))
    samples, failures = texts(tmp_path)
    assert sorted(samples) == sorted([f"line {n}" for n in range(5)] + [f"text {n}" for n in range(5)])
    assert failures == []


def test_what_a_folder_holds_and_is_not_read_is_said(tmp_path, monkeypatch):
    for name in (
        "a.txt",
        "b.xyz",
        "c.xyz",
        "d.xyz",
        "e.xyz",
        "sub/README",
        "f.png",
        ".hidden",
        ".git/x.txt",
        "g.docx.gz",
        "h.zip",
        "i.srt",
    ):
        put(tmp_path, name, b"x")
    put(tmp_path, "text.partial-host-12-0123abcd", b"x")
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the path of a socket may not be long
        listening.bind("socket.txt")
        keys, passed = found(tmp_path)
    assert keys == ["a.txt"]
    assert passed == {
        ("", "the name begins with a dot"): (2, [".git", ".hidden"]),
        ("", "a link that leads nowhere"): (1, ["nowhere"]),
        ("", "a named pipe, no file"): (1, ["pipe.txt"]),
        ("", "a socket, no file"): (1, ["socket.txt"]),
        ("", "half written by this package"): (1, ["text.partial-host-12-0123abcd"]),
        (".xyz", "unknown ending"): (4, ["b.xyz", "c.xyz", "d.xyz"]),
        ("", "no ending"): (1, ["sub/README"]),
        (".png", "of the kind image"): (1, ["f.png"]),
        (".docx.gz", "unknown ending"): (1, ["g.docx.gz"]),
        (".zip", "read it as zip://*::h.zip"): (1, ["h.zip"]),
        (".srt", "subtitles, read as the text of films"): (1, ["i.srt"]),
    }
    said = []
    files = find_sources([str(tmp_path)], TEXT, on_remark=said.append)
    assert len(said) == 1
    assert "4 .xyz (b.xyz, c.xyz, d.xyz, 1 more): unknown ending" in said[0]
    assert {group["why"] for group in files.to_dict()} == {why for _, why in passed}


def test_a_text_that_is_no_caption_and_a_json_that_belongs_to_nothing_are_said(tmp_path):
    for name in ("a.png", "a.txt", "a.json", "README.md", "metadata.json", "b.txt.gz"):
        put(tmp_path, name, b"x")
    keys, passed = found(tmp_path, options=ReadOptions(modalities=("image", "text")))
    assert keys == ["a.json", "a.png", "a.txt"]
    assert passed == {
        (".md", "a text, but no caption"): (1, ["README.md"]),
        (".txt.gz", "a text, but no caption"): (1, ["b.txt.gz"]),
        (".json", "belongs to no sample"): (1, ["metadata.json"]),
    }
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    keys, passed = found(tmp_path)
    assert passed[(".json", "belongs to the text of that name")] == (1, ["b.json"])


def test_endings_that_need_a_package_say_which(tmp_path, monkeypatch):
    kind = modality_named("image")
    monkeypatch.setattr(type(kind), "extras", {".hic": "pip install 'tokenize-kit[heic]'"})
    put(tmp_path, "a.hic", b"x")
    with pytest.raises(FileNotFoundError, match=r"there is: \.hic; needs pip install 'tokenize-kit\[heic\]'"):
        found(tmp_path, options=PICTURES)
    put(tmp_path, "b.png", b"x")
    assert found(tmp_path, options=PICTURES)[1] == {(".hic", "needs pip install 'tokenize-kit[heic]'"): (1, ["a.hic"])}
    with pytest.raises(ValueError, match=r"a\.hic is of unknown kind \(needs pip install"):
        found(tmp_path / "a.hic", options=PICTURES)


def test_linked_folders_are_followed_once_and_said(tmp_path):
    put(tmp_path, "data/a.txt", "a")
    put(tmp_path, "elsewhere/b.txt", "b")
    put(tmp_path, "elsewhere/deep/c.txt", "c")
    data = tmp_path / "data"
    (data / "sub").symlink_to("../elsewhere")
    (data / "again").symlink_to("../elsewhere/deep")
    (data / "file.txt").symlink_to("../elsewhere/b.txt")
    (tmp_path / "elsewhere" / "loop").symlink_to(".")
    (tmp_path / "elsewhere" / "back").symlink_to("../data")
    (data / "up").symlink_to("..")
    (data / "root").symlink_to("/")
    keys, passed = found(data)
    # The content of a folder comes once: the first of its names is that of the link that comes first.
    assert keys == ["a.txt", "again/c.txt", "file.txt", "sub/b.txt"]
    anyway = passed[("", "leads to a folder that is read anyway")]
    assert anyway == (3, ["sub/deep", "sub/back", "sub/loop"])
    assert passed[("", "a link to a folder around this one")] == (2, ["root", "up"])
    assert find_sources([str(data)], TEXT).remarks == [
        "the link again to the folder ../elsewhere/deep was followed",
        "the link sub to the folder ../elsewhere was followed",
    ]
    assert texts(f"{data}/**/*.txt")[0] == ["a", "c", "b", "b"]


def test_a_linked_folder_alone_is_read(tmp_path):
    put(tmp_path, "elsewhere/b.txt", "b")
    (tmp_path / "link").symlink_to("elsewhere")
    assert found(tmp_path / "link") == (["b.txt"], {})


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "x/b.txt", "x/y/c.txt"]),
        ("**", ["a.txt", "n.log", "x/b.txt", "x/y/c.txt"]),
        ("*/*", ["x/b.txt"]),
        ("x/**/c.*", ["y/c.txt"]),
        ("?/[bc].txt", ["x/b.txt"]),
        ("*.log", ["n.log"]),
    ],
)
def test_globs(tmp_path, pattern, keys):
    for name in ("a.txt", "n.log", "x/b.txt", "x/y/c.txt", "x/.z/d.txt"):
        put(tmp_path, name, b"x")
    assert found(f"{tmp_path}/{pattern}")[0] == keys


def test_what_fits_a_glob_and_is_not_read_is_said(tmp_path):
    for name in ("a.txt", "b.png", "sub/c.txt", ".d", "e.zip"):
        put(tmp_path, name, b"x")
    keys, passed = found(f"{tmp_path}/*")
    assert keys == ["a.txt"]
    assert passed == {
        (".png", "of the kind image"): (1, ["b.png"]),
        (".zip", "read it as zip://*::e.zip"): (1, ["e.zip"]),
        ("", "the name begins with a dot"): (1, [".d"]),
        ("", "a folder; a pattern that ends in /** reads what is in it"): (1, ["sub"]),
    }


def test_the_out_folder_is_no_input(tmp_path):
    put(tmp_path, "a.txt", "a")
    before = input_digest(find_sources([str(tmp_path)], TEXT, [str(tmp_path / "out")]))
    put(tmp_path, "out/preview.txt", "made by the run")
    (tmp_path / "link").symlink_to("out")
    for given in (tmp_path, f"{tmp_path}/**"):
        keys, passed = found(given, leave_out=[tmp_path / "out"])
        assert keys == ["a.txt"]
        assert passed[("", "the --out of this run")] == (2, ["out", "link"])
    assert input_digest(find_sources([str(tmp_path)], TEXT, [str(tmp_path / "out")])) == before


def test_names_that_are_not_utf8_or_have_line_ends(tmp_path):
    put(tmp_path, b"caf\xe9.txt", "one")
    put(tmp_path, "two\nlines.txt", "two")
    put(tmp_path, b"\xff.\xe9", "three")
    said = []
    files = find_sources([str(tmp_path)], TEXT, on_remark=said.append)
    assert [file.key for file in files] == ["caf\\udce9.txt", "two\nlines.txt"]
    assert texts(tmp_path) == (["one", "two"], [])
    assert said == ["not read: 1 .\\udce9 (\\udcff.\\udce9): unknown ending"]
    put(tmp_path, "new\nline.doc", "x")
    assert r'"new\nline.doc"' in find_sources([str(tmp_path)], TEXT).lines()[0]
    input_digest(files)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero"])
def test_a_device_is_no_input(name):
    with pytest.raises(ValueError, match=f"{name} is a device; give a file, a folder or a pipe"):
        found(name)


def test_a_folder_that_cannot_be_opened_is_said(tmp_path, monkeypatch):
    put(tmp_path, "a.txt", "a")
    put(tmp_path, "closed/b.txt", "b")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    keys, passed = found(tmp_path)
    assert keys == ["a.txt"]
    assert passed == {("", "a folder that cannot be opened (Permission denied)"): (1, ["closed/"])}


def piped(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    spool.spooled.cache_clear()


@pytest.mark.parametrize("pack", [bytes, gz, zst, bz, xz])
def test_standard_input_is_text_or_json_lines(monkeypatch, pack):
    piped(monkeypatch, pack(b"some text\nand more"))
    assert texts("-") == (["some text\nand more"], [])
    assert texts("-", options=ReadOptions(split="lines"))[0] == [
        "some text\n",
        "and more",
    ]  # read again, from what was kept
    piped(monkeypatch, pack(b'\n{"text": "one"}\n{"text": "two"}\n'))
    files = find_sources(["-"], TEXT)
    assert files[0].key == "stdin"
    assert "continues if the same is piped in again" in files.remarks[0]
    assert texts("-") == (["one", "two"], [])
    digest = input_digest(files, versions=True)
    piped(monkeypatch, pack(b'\n{"text": "one"}\n{"text": "two"}\n'))
    assert input_digest(find_sources(["/dev/stdin"], TEXT), versions=True) == digest
    piped(monkeypatch, pack(b"{not JSON, but a text}\n"))
    assert texts("-")[0] == ["{not JSON, but a text}\n"]
    piped(monkeypatch, b'{"text": "' + b"x" * (2 << 20) + b'"}')
    assert len(texts("-")[0][0]) == 2 << 20
    with pytest.raises(ValueError, match="- is of the kind jsonl; these tokenizers read audio"):
        find_sources(["-"], ReadOptions(modalities=("audio",)))


@pytest.mark.parametrize("pack", [bytes, gz])
def test_standard_input_is_json_in_any_layout(monkeypatch, pack):
    objects = [{"text": "one", "n": {"a": [1]}}, {"text": "two"}]
    array, pretty = json.dumps(objects), json.dumps(objects, indent=1)
    several = "\n".join(json.dumps(value, indent=2) for value in objects)
    for layout in (array, pretty, "\ufeff" + pretty.replace("\n", "\r\n"), several):
        piped(monkeypatch, pack(layout.encode()))
        assert texts("-") == (["one", "two"], [])
    piped(monkeypatch, pack(array[:-1].encode()))
    assert texts("-") == (["one", "two"], ["stdin@50"])
    piped(monkeypatch, pack(json.dumps(objects[0], indent=4).encode()))
    assert texts("-") == (["one"], [])
    piped(monkeypatch, pack(b'{"text": "one", "n": [\n{"a": 1}\n]}'))
    assert texts("-") == (["one"], [])
    # A damaged line is a failure, the first one too.
    piped(monkeypatch, pack(b'{"text": "lost\n{"text": "one"}\n{"text": "two"}\n'))
    assert texts("-") == (["one", "two"], ["stdin@0"])
    for text in (
        '[{"a": 1} is JSON] in a text',
        "[1, 2]",
        "[[{}]]",
        '{"a": 1} is an object',
        "{\n}} {{\n",
        "[link](there)",
    ):
        piped(monkeypatch, pack(text.encode()))
        assert texts("-") == ([text], [])


def test_long_values_of_standard_input_are_known_by_their_beginning(monkeypatch):
    long = [{"text": "x" * (2 << 20)}]
    for layout in (json.dumps(long), json.dumps(long, indent=1), json.dumps(long[0], indent=1)):
        piped(monkeypatch, layout.encode())
        assert [len(text) for text in texts("-")[0]] == [2 << 20]


def test_damage_in_standard_input_is_a_failure(monkeypatch):
    piped(monkeypatch, gz(b"x" * 1000)[:-20])
    assert texts("-") == ([], ["stdin"])


def test_messages_say_standard_input_and_not_where_it_is_kept(monkeypatch):
    def refused(data, **options):
        piped(monkeypatch, data)
        read = ReadOptions(**options)
        files = find_sources(["-"], read)
        with pytest.raises(ValueError, match="standard input") as told:
            print(check_places(files, read), resolve_columns(files, read, []))
        assert "tokenize-kit-input" not in str(told.value)
        return str(told.value)

    assert refused(b"a text", text_field="body") == (
        "--field body is given, but standard input is read as plain text, which has no fields; leave --field out, or pipe JSON "
        "objects into it"
    )
    assert "standard input has no field 'body'; it has text" in refused(b'{"text": "x"}', text_field="body")
    assert "standard input has no field" in refused(b'[{"text": "x"}]', text_field="body")
    piped(monkeypatch, b'{"text": "x"}\nbad\n')
    with pytest.raises(ValueError, match=r"^standard input, line 2: not JSON"):
        list(iter_documents(["-"]))


def test_named_pipes_are_read_once(tmp_path):
    spool.spooled.cache_clear()
    for name, data in (("p.jsonl.gz", gzip.compress(b'{"text": "through a pipe"}\n')), ("q", b"as text")):
        os.mkfifo(tmp_path / name)
        writer = threading.Thread(target=(tmp_path / name).write_bytes, args=(data,))
        writer.start()
        expected = "through a pipe" if name == "p.jsonl.gz" else "as text"
        assert texts(tmp_path / name) == ([expected], [])
        writer.join()
        assert texts(tmp_path / name) == ([expected], [])
        assert find_sources([str(tmp_path / name)], TEXT)[0].key == name


def test_what_was_piped_in_is_gone_when_the_process_ends(tmp_path):
    code = "from tokenize_kit.sources.listing import list_files; print(list_files(['-'], ['text'])[0].url)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    put(tmp_path, "tokenize-kit-input.partial-0-1-0123abcd", b"of another process")
    left = (
        subprocess.run([sys.executable, "-c", code], input=b"text", env=environment, capture_output=True, check=True)
        .stdout.decode()
        .strip()
    )
    assert left.startswith(str(tmp_path / "tokenize-kit-input.partial-"))
    assert not Path(left).exists()


def test_files_in_a_zip_are_read(tmp_path):
    path = tmp_path / "a.zip"
    lines = jsonl([f"line {number} " + os.urandom(20).hex() for number in range(300)])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/a.jsonl", lines)
        archive.writestr("b.txt", "text")
        archive.writestr("c.jsonl.gz", gz(jsonl(["packed"])))
        archive.writestr("e.png", b"no picture")
    keys, passed = found(f"zip://**::{path}")
    assert keys == ["b.txt", "c.jsonl.gz", "x/a.jsonl"]
    assert passed == {(".png", "of the kind image"): (1, ["e.png"])}
    samples, failures = texts(f"zip://**::{path}")
    assert (len(samples), failures) == (302, [])
    # What is checked in a zip is found: the sum over the bytes of a file.
    data = path.read_bytes()
    at = data.index(b"x/a.jsonl") + 3000
    path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    samples, failures = texts(f"zip://**::{path}")
    assert failures
    assert {"text", "packed"} <= set(samples)
    path.write_bytes(data[:-30])
    with pytest.raises(ValueError, match=r"a\.zip cannot be opened: File is not a zip file"):
        found(f"zip://**::{path}")
    for given, words in (
        (path, r"a\.zip is of unknown kind \(read it as zip://"),
        ("tar://*::a.tar", "give the tar archive itself"),
    ):
        with pytest.raises(ValueError, match=words):
            found(given)


def test_file_urls_are_paths(tmp_path):
    put(tmp_path, "sub/a.txt", "a")
    (tmp_path / "link").symlink_to("sub")
    assert found(f"file://{tmp_path}") == found(tmp_path)
    assert texts(f"file://{tmp_path}/sub/a.txt") == (["a"], [])


def test_the_ending_of_what_is_not_read():
    assert [ending_of(name) for name in ("a.B", "a.b.gz", "b", "x/y.Z.ZST", "a.gz")] == [
        ".b",
        ".b.gz",
        "",
        ".z.zst",
        ".gz",
    ]


def test_a_large_folder_is_listed_quickly(tmp_path):
    for number in range(300):
        put(tmp_path, f"{number % 7}/{number}.txt", b"")
    keys = [file.key for file in list_files([tmp_path], ["text"])]
    assert keys == sorted(keys)
    assert len(keys) == 300
