"""Tar archives: plain and compressed ones agree, nothing in them is silently left out, and hostile headers take no memory."""

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.files import bz, gz, put, tar, xz, zst

from tokenize_kit.sources.planning import ReadOptions, find_sources, plan_units
from tokenize_kit.sources.reading import read_unit
from tokenize_kit.sources.tar import tar_members

PACKED = {
    ".tar": bytes,
    ".tar.gz": gz,
    ".tgz": gz,
    ".tar.bz2": bz,
    ".tbz2": bz,
    ".tar.xz": xz,
    ".txz": xz,
    ".tar.zst": zst,
}


def read_all(path, options=None, unit_bytes=1 << 20):
    """Every sample and failure."""
    options = options or ReadOptions()
    samples, failures = [], []
    for unit in plan_units(find_sources([str(path)], options), options, unit_bytes):
        for block in read_unit(unit, options):
            columns = [*block.contents.values(), *block.columns.values()]
            samples += [(key, *(values[row] for values in columns)) for row, key in enumerate(block.keys)]
            failures += [(failure.key, failure.reason) for failure in block.failures]
    return samples, failures


def both(tmp_path, data, options=None):
    """What a plain and a gz archive of these bytes give, their name taken out of the keys; they must be the same."""
    found = []
    for name, pack in (("t.tar", bytes), ("t.tar.gz", gz)):
        put(tmp_path / "both", name, pack(data))
        samples, failures = read_all(tmp_path / "both" / name, options)
        short = [(key.removeprefix(name).removeprefix("/"), *rest) for key, *rest in samples]
        found.append((short, sorted((key.removeprefix(name).removeprefix("/"), reason) for key, reason in failures)))
    assert found[0] == found[1]
    return found[0]


def entry(name, data=b"", kind=tarfile.REGTYPE, **more):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for attribute, value in more.items():
        setattr(info, attribute, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


END = bytes(1024)


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("upper", [False, True])
def test_a_tar_in_any_compression_is_read(tmp_path, ending, upper):
    name = f"A{ending}".upper() if upper else f"a{ending}"
    put(tmp_path, name, PACKED[ending](tar([("1.txt", b"one"), ("2.txt", b"two")])))
    assert read_all(tmp_path) == ([(f"{name}/1", "one"), (f"{name}/2", "two")], [])


def test_a_tar_cut_between_members_is_said(tmp_path):
    whole = tar([(f"{number}.txt", b"x" * 100 * number) for number in range(4)], end=False)
    samples, failures = both(tmp_path, whole)
    assert [key for key, _ in samples] == ["0", "1", "2", "3"]
    assert failures == [("", "the file is damaged: it has no end mark, so it was cut; the rest of the file")]
    assert both(tmp_path, whole + bytes(512))[1] == []  # one empty block is a mark
    assert len(both(tmp_path, whole + bytes(100))[1]) == 1
    # Cut at every block: what stands before is there, and something is said.
    for blocks in range(len(whole) // 512):
        samples, failures = both(tmp_path, whole[: blocks * 512])
        assert [key for key, _ in samples] == [str(number) for number in range(len(samples))]
        assert failures


def test_an_empty_tar_has_no_samples_and_an_empty_file_is_no_tar(tmp_path):
    assert both(tmp_path, END) == ([], [])
    assert both(tmp_path, tar([])) == ([], [])
    put(tmp_path, "none.tar", b"")
    assert read_all(tmp_path / "none.tar") == ([], [("none.tar", "the file is damaged: it is empty; a whole file")])


def test_joined_tars_and_empty_blocks_in_the_middle_are_read_through(tmp_path):
    joined = tar([("a.txt", b"one")]) + tar([("b.txt", b"two")]) + entry("c.txt", b"three") + END
    samples, failures = both(tmp_path, joined)
    assert [text for _, text in samples] == ["one", "two", "three"]
    assert failures == []
    samples, failures = both(tmp_path, tar([("a.txt", b"one")]) + b"and something else")
    assert (len(samples), len(failures)) == (1, 1)
    samples, failures = both(tmp_path, tar([("a.txt", b"one")]) + b"what follows is a block".ljust(512, b".") + END)
    assert failures == [("", "the file is damaged: its end mark is followed by something else; the rest of the file")]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (b"M", "type 'M'"),
        (b"D", "type 'D'"),
        (b"\xff", r"type '\\xff'"),
    ],
)
def test_members_that_are_no_files_are_failures(tmp_path, kind, words):
    data = entry("x.txt", b"", kind) + entry("y.txt", b"fine") + entry("folder/", b"", tarfile.DIRTYPE) + END
    samples, failures = both(tmp_path, data)
    assert samples == [("y", "fine")]
    assert [key for key, _ in failures] == ["x.txt"]
    assert words in failures[0][1]


def test_a_folder_with_data_is_a_failure_and_a_label_is_none(tmp_path):
    size = entry("d", b"", tarfile.DIRTYPE)
    assert both(tmp_path, entry("my volume", b"", b"V") + size + END) == ([], [])
    info = tarfile.TarInfo("d")
    info.type, info.size = tarfile.DIRTYPE, 700
    samples, failures = both(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + entry("a.txt", b"one") + END)
    assert samples == [("a", "one")]
    assert failures == [("d", "it is a folder, but has data")]


def test_the_second_member_of_a_name_is_a_failure(tmp_path):
    data = tar([("a.txt", b"first"), ("a.txt", b"second"), ("a.TXT", b"third"), ("b.txt", b"other")])
    samples, failures = both(tmp_path, data)
    assert samples == [("a", "first"), ("b", "other")]
    assert [key for key, _ in failures] == ["a.TXT", "a.txt"]
    assert all("stands before it" in reason for _, reason in failures)
    # Apart, it is one all the same; a compressed archive says it in other words.
    put(tmp_path, "t.tgz", gz(tar([("a.txt", b"first"), ("b.txt", b"other"), ("a.txt", b"second")])))
    samples, failures = read_all(tmp_path / "t.tgz")
    assert samples == [("t.tgz/a", "first"), ("t.tgz/b", "other")]
    assert failures[0][0] == "t.tgz/a.txt"
    assert "must follow one another" in failures[0][1]


def test_names_that_are_not_utf8_are_escaped_and_read(tmp_path):
    for kind in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        data = tar([("caf\xe9.txt", b"one"), ("ok.txt", b"two")], encoding="latin-1", kind=kind)
        assert both(tmp_path, data) == ([("caf\\udce9", "one"), ("ok", "two")], [])
    long = "n" * 120 + "\xe9.txt"
    data = tar([(long, b"one")], encoding="latin-1", kind=tarfile.GNU_FORMAT)
    assert both(tmp_path, data)[0] == [("n" * 120 + "\\udce9", "one")]
    samples, _ = both(tmp_path, entry("two\nlines.txt", b"one") + END)
    assert samples == [("two\nlines", "one")]


def test_damaged_long_names_are_failures(tmp_path):
    name = "n" * 150 + ".txt"
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        data = tar([("a.txt", b"one"), (name, b"two"), ("c.txt", b"three")], kind=kind)
        assert len(both(tmp_path, data)[0]) == 3
        at = data.index(b"././@PaxHeader" if kind == tarfile.PAX_FORMAT else b"././@LongLink")
        if kind == tarfile.PAX_FORMAT:
            broken = data[: at + 512] + b"xx" + data[at + 514 :]
            samples, failures = both(tmp_path, broken)
            assert samples == [("a", "one")]
            assert "the pax header of a member is damaged" in failures[0][1]
        samples, failures = both(tmp_path, data[: at + 512])
        assert samples == [("a", "one")]
        assert len(failures) == 1
        samples, failures = both(tmp_path, data[: at + 1024])
        assert samples == [("a", "one")]
        assert len(failures) == 1


def header(name, size, kind):
    """A header whose size is of no matter to its checksum."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, 0
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "data",
    [
        header("x.txt", -512, tarfile.REGTYPE),
        header("x.txt", 1 << 80, tarfile.REGTYPE),
        header("pax", -1, tarfile.XHDTYPE) + entry("a.txt", b"one"),
        header("pax", 14, tarfile.XHDTYPE) + b"14 size=-9999\n".ljust(512, b"\0") + entry("a.txt", b"one"),
        header("pax", 9, tarfile.XHDTYPE) + b"9 size=x\n".ljust(512, b"\0"),
        header("pax", 5, tarfile.XHDTYPE) + b"0 a=\n".ljust(512, b"\0") + entry("a.txt", b"one"),
        header("pax", 60000, tarfile.XHDTYPE) + b"9" * 60000 + bytes(416) + entry("a.txt", b"one"),
        b"".join(header("long", 0, tarfile.GNUTYPE_LONGNAME) for _ in range(3000)),
        entry("s", b"", tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + entry("s", b"")[483:],
    ],
)
def test_hostile_headers_are_failures(tmp_path, data):
    samples, failures = both(tmp_path, entry("0.txt", b"zero") + data + END)
    assert ("0", "zero") in samples
    assert failures


def test_headers_take_no_memory_that_the_archive_does_not_have(tmp_path):
    """Names and notes of gigabytes, as zeros in a small file: those are refused before they are read."""

    class Endless(io.RawIOBase):
        """A header, and zeros for ever after."""

        def __init__(self, data):
            self.data, self.at = data, 0

        def read(self, size=-1):
            part = self.data[self.at : self.at + size]
            self.at += size
            return part + bytes(size - len(part))

        def tell(self):
            return self.at

        def seek(self, offset, whence=0):
            self.at = offset
            return offset

    globals_ = [
        header("g", 1 << 19, tarfile.XGLTYPE) + b"%d k%03d=" % (1 << 19, n) + b"v" * ((1 << 19) - 13) + b"\n"
        for n in range(40)
    ]
    tracemalloc.start()
    for data in (
        header("x", 1 << 33, tarfile.XHDTYPE),
        header("x", 1 << 33, tarfile.GNUTYPE_LONGNAME),
        b"".join(part + entry(f"{number}.txt", b"x") for number, part in enumerate(globals_)),
    ):
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        with pytest.raises(tarfile.ReadError, match="the name or the notes of a member take"):
            for _ in tar_members(Endless(data)):
                pass
        assert tracemalloc.get_traced_memory()[1] - size < 16 << 20
    tracemalloc.stop()


def test_a_long_text_in_a_tar_is_cut_as_elsewhere_and_not_held(tmp_path):
    text = "".join(f"line {number} é\n" for number in range(4000))
    data = tar([("a.txt", text.encode()), ("b.txt", b"short"), ("c.txt", b"\xff" * 5000)])
    options = ReadOptions(max_document_bytes=1000)
    samples, failures = both(tmp_path, data, options)
    assert "".join(part for key, part in samples if key.startswith("a#")) == text
    assert [key for key, _ in samples[:3]] == ["a#00000", "a#00001", "a#00002"]
    assert samples[-1] == ("b", "short")
    assert len(failures) == 5  # the parts of c
    # With a column the parts need what follows, so the text is held; the parts are the same.
    held = both(tmp_path, data, ReadOptions(max_document_bytes=1000, columns={"n": "int64"}))[0]
    assert [(key, part) for key, part, _ in held] == samples


BOMB = """
import re, sys
from pathlib import Path
from tokenize_kit.media import audio, text
from tokenize_kit.sources.planning import ReadOptions, find_sources, plan_units
from tokenize_kit.sources.reading import read_unit

peak = lambda: int(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10
for path, modality in zip(sys.argv[1:], ("text", "audio")):
    options = ReadOptions(modalities=(modality,))
    samples, before = 0, peak()
    for unit in plan_units(find_sources([path], options), options, 1 << 26):
        for block in read_unit(unit, options):
            samples += len(block)
            [print(failure.key, failure.reason) for failure in block.failures]
    print(samples, peak() - before)
"""


def letters(ending, size):
    """A tar.zst of some kilobytes: a member of ``size`` times the same letter, and a small one."""

    def block(kind, size, data):
        return (size << 3 | kind << 1).to_bytes(3, "little") + data

    many = block(1, 1 << 17, b"a") * (size >> 17)
    first, rest = header(f"a.{ending}", size, tarfile.REGTYPE), entry(f"b.{ending}", b"small") + END
    return b"\x28\xb5\x2f\xfd\0\x38" + block(0, 512, first) + many + block(0, len(rest), rest) + b"\1\0\0"


def test_a_tar_that_expands_thousands_of_times_takes_little_memory(tmp_path):
    for ending in ("txt", "wav"):
        put(tmp_path, f"{ending}.tar.zst", letters(ending, 80 << 20))
    words = [sys.executable, "-c", BOMB, *(str(tmp_path / f"{ending}.tar.zst") for ending in ("txt", "wav"))]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    texts, grown = map(int, lines[0].split())
    assert texts == 6  # in parts of 16 MiB, and the small one
    assert grown < 150
    assert lines[1] == "wav.tar.zst/a.wav it has 83,886,080 bytes, hundreds of times what the archive holds of it"
    sounds, grown = map(int, lines[2].split())
    assert sounds == 1
    assert grown < 150


def test_a_large_member_that_is_no_bomb_is_read(tmp_path):
    put(tmp_path, "t.tar.gz", gzip.compress(tar([("a.wav", bytes(70 << 20))]), 0))
    ((key, data),), failures = read_all(tmp_path / "t.tar.gz", ReadOptions(modalities=("audio",)))
    assert (key, len(data), failures) == ("t.tar.gz/a", 70 << 20, [])


MEMBERS = [(f"{number:02}.txt", bytes([97 + number]) * (number * 211 % 1500)) for number in range(12)]
WHOLE = tar([*MEMBERS[:6], ("n" * 130 + ".txt", b"z"), *MEMBERS[6:]])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), packed=st.sampled_from(["", "gz", "zst"]))
def test_damage_of_a_tar_is_never_silent(tmp_path_factory, data, packed):
    """Cut, cleared, cut out, doubled or exchanged blocks: every sample is there, or one of them or the archive is listed."""
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(WHOLE) // 512)] * 2)))
    first, second = first * 512, second * 512
    part = WHOLE[first:second]
    how = data.draw(st.sampled_from(["cut", "cut out", "doubled", "cut short", "headers"]))
    damaged = {
        "cut": WHOLE[:second],
        "cut out": WHOLE[:first] + WHOLE[second:],
        "doubled": WHOLE[:second] + part + WHOLE[second:],
        "cut short": WHOLE[: max(0, second - 100)],
        "headers": WHOLE[:first] + bytes(b ^ 1 for b in part) + WHOLE[second:],
    }[how]
    path = tmp_path_factory.mktemp("t") / f"t.tar{'.' if packed else ''}{packed}"
    path.write_bytes({"": bytes, "gz": gz, "zst": zst}[packed](damaged))
    samples, failures = read_all(path)
    names = [json.dumps(key) for key, _ in samples]
    assert len(set(names)) == len(names)
    # What is cut out can be whole members, or blocks of their data: a tar does not say how many there are.
    true = {f"{path.name}/{name[:-4]}": text.decode() for name, text in [*MEMBERS, ("n" * 130 + ".txt", b"z")]}
    if how == "cut out":
        assert failures or true.keys() >= dict(samples).keys()
    elif how != "headers":
        assert failures or dict(samples) == true
    else:
        assert failures or len(samples) == len(true)


def test_keys_of_a_damaged_tar_say_what_is_lost(tmp_path):
    put(tmp_path, "t.tar", WHOLE[:5000])
    (_, reason), *_ = reversed(read_all(tmp_path / "t.tar")[1])
    assert re.search("the rest of the file|it ends after", reason)
