"""Commands stopped at any of their steps, by a full disk or Ctrl-C: one true line, nothing half written, and on again.

``benchmarks/kill_all.py`` does so with real kills, all commands, and the processes that they start.
"""

import errno
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenize_kit import disk
from tokenize_kit.cli import main
from tokenize_kit.partial import is_partial
from tokenize_kit.shards.options import EncodeOptions

COMMANDS = {
    "create": "create pixels --out out",
    "import": "import bpe --source text/tokenizer.json --out out",
    "train chars": "train chars --data corpus.txt --out out",
    "encode": "encode --tokenizer text --data rows.jsonl --shard-mb 0.00006 --out out",
    "decode": "decode --shards shown --tokenizer pixels --out out",
    "compress": "compress pictures/0.png out/a.tkc --tokenizer pixels",
    "decompress": "decompress a.tkc out/a.png --tokenizer pixels",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(root)
    Path("corpus.txt").write_text("All human beings are born free and equal.\n" * 20)
    Path("rows.jsonl").write_text("".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(12)))
    Path("pictures").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(pixels).save(f"pictures/{number}.png")
    for line in (
        "train bpe --data corpus.txt --vocab-size 270 --out text",
        "create pixels --out pixels",
        "encode --tokenizer pixels --data pictures --out shown",
        "compress pictures/0.png a.tkc --tokenizer pixels",
    ):
        assert call(line) == 0
    yield root
    os.chdir(before)


@pytest.fixture
def watched(monkeypatch):
    """Returns a function that lets a command run and does something at its step number ``at``; returns code and steps."""

    def run(line, at=None, do=None):
        steps = []

        def watch(what, path):
            steps.append((what, str(path)))
            if len(steps) - 1 == at:
                do(path)

        monkeypatch.setattr(disk, "watch", watch)
        code = call(line)
        monkeypatch.setattr(disk, "watch", None)
        return code, steps

    return run


def call(line):
    return main([*line.split(), "--quiet"])


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(path):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", COMMANDS)
def test_stopped_at_any_step_a_command_says_what_is_true_and_works_again(world, watched, capsys, name):
    line = COMMANDS[name]
    shutil.rmtree("out", ignore_errors=True)
    code, steps = watched(line)
    assert code == 0
    expected = contents("out")
    assert len(steps) > 5
    assert {"rename", "sync", "write"} <= {what for what, _ in steps}
    capsys.readouterr()
    for number, at in enumerate(range(0, len(steps), 1 + len(steps) // 30)):
        shutil.rmtree("out")
        do = (full, interrupt)[number % 2]
        code, _ = watched(line, at, do)
        said = capsys.readouterr().err
        left = contents("out") if Path("out").exists() else {}
        # Nothing half written, under whatever name; what is there is there as it will be.
        assert not [path for path in Path().rglob("*") if is_partial(path.name)], (at, steps[at])
        assert all(expected.get(file) == data for file, data in left.items() if file != "plan.json"), (at, steps[at])
        if do is interrupt:
            assert code == 130
            assert said.startswith("interrupted; ")
            assert ("nothing was written" in said) <= (not left or name not in ("encode", "decode")), (at, said)
        else:
            assert code == 1
            assert said.count("\n") == 1
            assert "No space left on device" in said or "the disk is full" in said, (at, steps[at], said)
        assert call(line) == 0, (at, steps[at], capsys.readouterr().err)
        assert contents("out") == expected, (at, steps[at])
        capsys.readouterr()


def test_a_full_disk_is_told_with_the_path_and_the_way_out(world, capsys, monkeypatch):
    shutil.rmtree("out", ignore_errors=True)
    for name, file in (
        ("create", "tokenizer_config.json"),
        ("decode", "out"),
        ("decompress", "out/a.png"),
        ("import", "tokenizer.json"),
    ):
        monkeypatch.setattr(os, "fsync", lambda descriptor: full(descriptor))
        assert call(COMMANDS[name]) == 1
        monkeypatch.undo()
        said = capsys.readouterr().err
        assert file in said
        assert "make room and run the same command again" in said
        assert call(COMMANDS[name]) == 0
        shutil.rmtree("out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_may_not_be_written_is_told(world, capsys, name):
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir(mode=0o500)
    assert call(COMMANDS[name]) == 1
    said = capsys.readouterr().err
    assert "Permission denied; choose a folder that you may write to" in said
    assert said.count("\n") == 1
    Path("out").rmdir()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EDQUOT, "make room, or ask for more"),
        (errno.EFBIG, "'ulimit -f'"),
        (errno.EROFS, "a disk that can be written"),
        (errno.EACCES, "may write to, or change its permissions"),
        (errno.EIO, "the disk does not work"),
    ],
)
def test_other_refusals_of_the_system_say_what_to_do(world, watched, capsys, number, words):
    def refuse(path):
        raise OSError(number, os.strerror(number))

    shutil.rmtree("out", ignore_errors=True)
    _, steps = watched("create pixels --out out")
    shutil.rmtree("out")
    place = next(at for at, (what, path) in enumerate(steps) if what == "make" and path.startswith("out.partial"))
    code, _ = watched("create pixels --out out", place, refuse)
    said = capsys.readouterr().err
    assert code == 1
    assert words in said
    assert said.count("\n") == 1
    assert "out: " in said


def test_what_a_killed_command_left_goes_with_its_next_run(world):
    for name, line in COMMANDS.items():
        shutil.rmtree("out", ignore_errors=True)
        Path("out").mkdir()
        targets = {"compress": ["out/a.tkc"], "decompress": ["out/a.png"], "create": ["out"], "import": ["out"]}.get(
            name, ["out/x"]
        )
        for target in targets:
            Path(f"{target}.partial-{os.uname().nodename}-99999-0123abcd").mkdir()
            Path(f"{target}.partial-99999").write_text("of an earlier version")
        # What only looks like one is somebody's own.
        Path("out.partial-notes").write_text("mine")
        assert call(line) == 0, name
        assert not [path for path in Path().rglob("*") if is_partial(path.name)], name
        assert Path("out.partial-notes").read_text() == "mine"


def test_sigterm_ends_a_command_as_ctrl_c_does(world, watched, capsys):
    def terminate(path):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    shutil.rmtree("out", ignore_errors=True)
    _, steps = watched(COMMANDS["encode"])
    shutil.rmtree("out")
    place = next(at for at, (what, path) in enumerate(steps) if what == "rename" and path.endswith("00002.arrow"))
    code, _ = watched(COMMANDS["encode"], place, terminate)
    assert code == 130
    assert "interrupted; 2 finished shards are in out, and the same command makes the others" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ctrl_c_while_libraries_are_loaded_says_what_is_true_too(world, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["tokenize_kit.cli.main"], "resolve", interrupt)
    assert call(COMMANDS["encode"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written, and the same command begins anew\n"


def test_an_interrupted_encode_counts_its_shards_in_words(tmp_path):
    options = EncodeOptions(("text",), ("rows.jsonl",), str(tmp_path))
    assert options.interrupted() == "nothing was written, and the same command begins anew"
    (tmp_path / "plan.json").touch()
    assert options.interrupted() == f"{tmp_path} has no finished shard yet, and the same command makes them all"
    (tmp_path / "00000.json").touch()
    assert options.interrupted() == f"1 finished shard is in {tmp_path}, and the same command makes the others"
    (tmp_path / "00001.json").touch()
    assert options.interrupted() == f"2 finished shards are in {tmp_path}, and the same command makes the others"


def test_nothing_is_overwritten_unasked(world, capsys):
    Path("mine").mkdir()
    Path("mine/a.png").write_bytes(b"mine")
    Path("mine/a.tkc").write_bytes(b"mine")
    for line, target in (
        ("decompress a.tkc mine/a.png --tokenizer pixels", "mine/a.png"),
        ("compress pictures/0.png mine/a.tkc --tokenizer pixels", "mine/a.tkc"),
    ):
        assert call(line) == 1
        assert (
            f"{target}: it is there already and holds something else; give another name, or --overwrite"
            in capsys.readouterr().err
        )
        assert Path(target).read_bytes() == b"mine"
        assert call(f"{line} --overwrite") == 0
        made = Path(target).read_bytes()
        # The same again is no harm.
        assert call(line) == 0
        assert Path(target).read_bytes() == made
    assert sorted(path.name for path in Path("mine").iterdir()) == ["a.png", "a.tkc"]
    assert call("compress pictures/0.png mine --tokenizer pixels") == 1
    assert "mine does not end in .tkc" in capsys.readouterr().err
    Path("mine.tkc").mkdir()
    assert call("compress pictures/0.png mine.tkc --tokenizer pixels") == 1
    assert "this is a folder" in capsys.readouterr().err
    Path("mine.tkc").rmdir()
    shutil.rmtree("mine")


def test_a_tokenizer_replaces_no_other_and_no_file_of_its_name_unasked(world, capsys):
    shutil.copytree("text", "downloaded")
    Path("downloaded/tokenizer_config.json").unlink()
    Path("downloaded/tokenizer.json").write_text(Path("text/tokenizer.json").read_text() + "\n")
    Path("downloaded/notes").write_text("mine")
    before = contents("downloaded")
    assert call("import bpe --source downloaded --out downloaded") == 1
    assert (
        "downloaded already holds another tokenizer.json; choose another folder, or --overwrite"
        in capsys.readouterr().err
    )
    assert contents("downloaded") == before
    assert call("import bpe --source downloaded --out downloaded --overwrite") == 0
    assert contents("downloaded") == {**contents("text"), "notes": b"mine"}
    assert call("create pixels --out downloaded") == 1
    assert "already holds another tokenizer" in capsys.readouterr().err
    assert call("create pixels --channels 1 --out pixels") == 1
    # The same one in other words, as an earlier version spelled it, is no other.
    values = json.loads(Path("downloaded/tokenizer_config.json").read_text())
    for name in ("own_digest", "sha256"):
        values.pop(name, None)
    Path("downloaded/tokenizer_config.json").write_text(json.dumps(values))
    assert call("import bpe --source text --out downloaded") == 0
    assert contents("downloaded") == {**contents("text"), "notes": b"mine"}
    assert call("create pixels --channels 1 --out pixels1") == 0
    assert call("create pixels --channels 4 --out pixels1 --overwrite") == 0
    assert contents("pixels1") != contents("pixels")
    shutil.rmtree("downloaded")


def test_a_report_is_written_again_by_the_same_command_alone(world, capsys):
    line = "evaluate --tokenizer pixels --data pictures --limit 1 --no-codecs --out report"
    assert call(line) == 0
    Path("report/report.html").unlink()
    assert call(line) == 0
    before = contents("report")
    assert call(line.replace("--limit 1", "--limit 2")) == 1
    assert (
        "report has the evaluation.json of another evaluation; choose another --out, or --overwrite"
        in capsys.readouterr().err
    )
    assert contents("report") == before
    assert call(line.replace("--limit 1", "--limit 2") + " --overwrite") == 0
    assert json.loads(Path("report/evaluation.json").read_text())["samples"] == 2
    shutil.rmtree("report")
