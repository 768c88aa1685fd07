"""Files appear whole or not at all: killed in the middle, a full disk, an error of the writer."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tokenize_kit import files
from tokenize_kit.files import atomic_write, canonical_json, read_json_object, sha256_of_file, write_json, write_text


def test_a_file_is_written_with_its_folder_and_nothing_else(tmp_path):
    write_text(tmp_path / "a" / "b" / "text.txt", "ü\r\n")
    assert (tmp_path / "a" / "b" / "text.txt").read_bytes() == "ü\r\n".encode()
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


def test_a_name_that_another_file_makes_durable_waits_for_no_sync_of_the_folder(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    write_text(tmp_path / "first", "1", durable_name=False)
    assert synced == []
    write_text(tmp_path / "second", "2")
    assert synced == [tmp_path]
    assert (tmp_path / "first").read_text() == "1"


def test_an_error_inside_the_block_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail():
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_partial_one(tmp_path, monkeypatch, step):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk_raises_at_the_flush():
    # What atomic_write relies on: buffered bytes that do not fit raise before the rename, not after it.
    file = Path("/dev/full").open("wb")  # noqa: SIM115
    file.write(b"new")
    with pytest.raises(OSError, match="No space left"):
        file.flush()
    with pytest.raises(OSError, match="No space left"):
        file.close()


@pytest.mark.parametrize("moment", ["before fsync", "before rename", "after rename"])
def test_killed_at_any_moment_the_file_is_old_or_new(tmp_path, moment):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    patch = {
        "before fsync": "os.fsync = lambda number: os.kill(os.getpid(), 9)",
        "before rename": "pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), 9)",
        "after rename": "files.sync_folder = lambda folder: os.kill(os.getpid(), 9)",
    }[moment]
    code = (
        "import os, pathlib, sys\nfrom tokenize_kit import files\n"
        f"{patch}\nwith files.atomic_write(sys.argv[1]) as file:\n    file.write(b'new' * 1000)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == (b"new" * 1000 if moment == "after rename" else b"old")
    # What is left over is named so that nothing takes it for a file, and writing again works.
    left = [item.name for item in tmp_path.iterdir() if item != path]
    assert all(name.startswith("a.bin.partial-") for name in left)
    write_text(path, "newer")
    assert path.read_text() == "newer"


def test_two_writers_do_not_share_a_partial_file(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as outer:
        outer.write(b"outer")
        outer.flush()
        pid = os.fork()
        if pid == 0:
            with atomic_write(path) as inner:
                inner.write(b"inner")
            os._exit(0)
        os.waitpid(pid, 0)
        assert path.read_bytes() == b"inner"
    assert path.read_bytes() == b"outer"


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(files.os, "fsync", lambda number: order.append("file"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("rename"), replace(self, target))[1])
    monkeypatch.setattr(files, "sync_folder", lambda folder: order.append(f"folder {folder.name}"))
    write_text(tmp_path / "a", "x")
    assert order == ["file", "rename", f"folder {tmp_path.name}"]


def test_json_round_trip_and_refusals(tmp_path):
    write_json(tmp_path / "a.json", {"ü": [1, None, 0.5]})
    assert read_json_object(tmp_path / "a.json") == {"ü": [1, None, 0.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()
    for content, message in (
        (b"[1]", "a JSON list, expected an object"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid"),
    ):
        (tmp_path / "c.json").write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_json_object(tmp_path / "c.json")
        assert "c.json" in str(caught.value)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not valid JSON"):
        read_json_object(tmp_path / "deep.json")
    with pytest.raises(FileNotFoundError):
        read_json_object(tmp_path / "missing.json")


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # The example of FIPS 180-2.
    assert sha256_of_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert canonical_json({"b": [1, "ü"], "a": None}) == b'{"a":null,"b":[1,"\\u00fc"]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("inf"))
