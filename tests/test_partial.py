"""Who owns a partial file: its writer while it lives, nobody afterwards; what another host left is not touched too early."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tokenize_kit import partial
from tokenize_kit.files import atomic_write
from tokenize_kit.partial import partial_folder, partial_path, remove_abandoned


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def old(path, hours=25):
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


def test_names_carry_host_process_and_a_random_part(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "a-b.c/d é", "", "", "")))
    first, second = partial_path(tmp_path / "x.arrow"), partial_path(tmp_path / "x.arrow")
    assert first.parent == tmp_path
    start, random = first.name.rsplit("-", 1)
    assert start == f"x.arrow.partial-a_b.c_d__-{os.getpid()}"
    assert len(random) == 8
    assert first != second
    names = []
    for name in ("h" * 70 + "1", "h" * 70 + "2"):
        monkeypatch.setattr(os, "uname", lambda name=name: os.uname_result(("Linux", name, "", "", "")))
        names.append(partial_path(tmp_path / "x").name.split("-")[1])
    assert [len(name) for name in names] == [32, 32]
    assert names[0] != names[1]


def test_a_long_name_is_written_too(tmp_path):
    path = tmp_path / ("é" * 127)
    with atomic_write(path) as file:
        file.write(b"x")
        assert all(len(name.encode()) <= 255 for name in left(tmp_path))
    assert left(tmp_path) == [path.name]


def test_what_is_being_written_is_left_alone(tmp_path):
    with atomic_write(tmp_path / "a") as file, partial_folder(tmp_path / "b") as folder:
        file.write(b"new")
        (folder / "inside").write_text("x")
        for path in tmp_path.iterdir():
            old(path)
        remove_abandoned(tmp_path.glob("*.partial-*"))
        assert len(left(tmp_path)) == 2
        folder.rename(tmp_path / "b")
    assert left(tmp_path) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"new"


WRITER = """
import sys, time
from pathlib import Path
from tokenize_kit.partial import partial_file, partial_folder
with partial_file(Path(sys.argv[1]) / "a"), partial_folder(Path(sys.argv[1]) / "b") as folder:
    (folder / "inside").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_another_process_writes_stays_until_it_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        before = left(tmp_path)
        assert [name.partition("-")[0] for name in before] == ["a.partial", "b.partial"]
        remove_abandoned(tmp_path.iterdir())
        assert left(tmp_path) == before
        process.kill()
        process.wait()
        remove_abandoned(tmp_path.iterdir())
        assert left(tmp_path) == []


def test_an_error_removes_what_was_begun(tmp_path):
    def fail():
        with partial_folder(tmp_path / "b") as folder:
            (folder / "inside").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert left(tmp_path) == []


def test_what_another_host_left_is_removed_after_a_day(tmp_path):
    for name in ("a.partial-elsewhere-1-0123abcd", "b.partial-elsewhere-1-0123abcd"):
        (tmp_path / name).write_bytes(b"x")
    old(tmp_path / "b.partial-elsewhere-1-0123abcd")
    remove_abandoned(tmp_path.iterdir())
    assert left(tmp_path) == ["a.partial-elsewhere-1-0123abcd"]


def test_the_number_of_a_living_process_does_not_protect_what_it_does_not_write(tmp_path):
    # Of a process of another container, or of one before this one that had its number.
    host = partial_path(tmp_path / "a").name.split("-")[1]
    (tmp_path / f"a.partial-{host}-{os.getpid()}-0123abcd").write_bytes(b"x")
    (tmp_path / f"a.partial-{os.getpid()}").write_bytes(b"of an earlier version")
    remove_abandoned(tmp_path.iterdir())
    assert left(tmp_path) == []


def test_where_there_are_no_locks_only_age_tells(tmp_path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with atomic_write(tmp_path / "a"):
        remove_abandoned(tmp_path.glob("*.partial-*"))
        assert len(left(tmp_path)) == 1
    assert left(tmp_path) == ["a"]
    stray = partial_path(tmp_path / "b")
    stray.write_bytes(b"x")
    remove_abandoned([stray])
    assert stray.exists()
    old(stray)
    remove_abandoned([stray])
    assert not stray.exists()


def test_a_clean_up_that_comes_between_making_and_locking_costs_only_another_name(tmp_path, monkeypatch):
    real, cleaned = fcntl.flock, []

    def flock(descriptor, operation):
        if not cleaned:
            cleaned.extend(tmp_path.iterdir())
            remove_abandoned(list(cleaned))
        return real(descriptor, operation)

    monkeypatch.setattr(partial.fcntl, "flock", flock)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
    assert len(cleaned) == 1
    assert left(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"x"


def test_partial_names_are_ignored_by_git():
    ignored = (Path(__file__).parents[1] / ".gitignore").read_text().split()
    assert "*.partial-*" in ignored
