"""What a user can get wrong gives one clear line and the right exit code, never a traceback, and loses nothing finished."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tokenize_kit.cli import main

TEXT = "All human beings are born free and equal in dignity and rights.\n\nThey are endowed with reason.\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(root)
    Path("corpus.txt").write_text(TEXT * 20)
    Path("empty").mkdir()
    Path("foreign").mkdir()
    Path("foreign/config.json").write_text("{}")
    Path("pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number * 80, 10, 10)).save(f"pictures/{number}.png")
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"not a picture")
    Image.new("RGB", (8, 8)).save("broken/b.png")
    Path("rows.jsonl").write_text('{"text": "one"}\n{"text": oops}\n{"text": "three"}\n')
    assert main("train bpe --data corpus.txt --vocab-size 300 --out text --quiet".split()) == 0
    assert main("train bpe --data corpus.txt --vocab-size 290 --out other --quiet".split()) == 0
    assert main("train palette --data pictures --colors 2 --out palette --quiet".split()) == 0
    assert main("encode --tokenizer text --data corpus.txt --split paragraphs --out shards --quiet".split()) == 0
    yield root
    os.chdir(before)


CASES = {
    "missing data": ("train bpe --data nowhere.txt --out x", 1, "nowhere.txt"),
    "empty folder": ("encode --tokenizer text --data empty --out x", 1, "empty"),
    "vocabulary too small": ("train bpe --data corpus.txt --vocab-size 100 --out x", 1, "100"),
    "too few colours": ("train palette --data pictures --colors 0 --out x", 1, "0"),
    "missing tokenizer": ("encode --tokenizer nowhere --data corpus.txt --out x", 1, "nowhere"),
    "foreign folder": ("encode --tokenizer foreign --data corpus.txt --out x", 1, "tokenizer_config.json"),
    "wrong field": ("encode --tokenizer text --data rows.jsonl --field txet --out x", 1, "txet"),
    "unreadable picture": ("encode --tokenizer palette --data broken --max-failures 0 --out x5", 5, "failures.jsonl"),
    "bad json line": ("encode --tokenizer text --data rows.jsonl --max-failures 0 --out x6", 5, "failures.jsonl"),
    "wrong kind of data": ("encode --tokenizer palette --data corpus.txt --out x", 1, "corpus.txt"),
    "another run's folder": ("encode --tokenizer other --data corpus.txt --split paragraphs --out shards", 1, "shards"),
    "another tokenizer's shards": ("decode --shards shards --tokenizer other --out x", 3, "did not make these shards"),
    "verification": ("verify shards --tokenizer other", 3, "text"),
    "no shards": ("train transformer --shards empty --template text --out x", 1, "empty"),
    "misspelt stream": ("train transformer --shards shards --template txt --out x", 1, "text"),
    "two arrows": ("train transformer --shards shards --template 'text -> text -> text' --out x", 1, "->"),
    "no model": ("generate --model empty --out x", 1, "empty"),
    "no number": ("encode --tokenizer text --data corpus.txt --out x --limit two", 2, "limit"),
    "inspect a foreign folder": ("inspect foreign", 1, "foreign"),
    "evaluate the wrong kind": ("evaluate --tokenizer palette --data corpus.txt", 1, "corpus.txt"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_the_right_code(world, capsys, name):
    words, code, message = CASES[name]
    quoted = [part.strip() for part in words.split("'")]
    arguments = [word for place, part in enumerate(quoted) for word in ([part] if place % 2 else part.split())]
    assert main([*arguments, "--quiet"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    if code != 2:  # a usage error shows the option it is about, in a box
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_what_can_be_read_is_encoded_and_the_rest_is_listed(world, capsys):
    assert main("encode --tokenizer text --data rows.jsonl --out partial --quiet --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2
    failures = [json.loads(line) for line in Path("partial/failures.jsonl").read_text().splitlines()]
    assert len(failures) == 1
    assert failures[0]["key"] == "rows.jsonl@16"  # the byte at which the bad line begins


def test_a_full_disk_is_one_line_and_the_run_continues(world):
    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    with Path("large.jsonl").open("w") as file:
        for number in range(3000):
            file.write(json.dumps({"text": f"{number} {TEXT}"}) + "\n")
    script = Path(sys.executable).with_name("tokenize-kit")
    command = [script, *"encode --tokenizer text --data large.jsonl --out large --quiet --shard-mb 0.1".split()]
    full = subprocess.run(command, preexec_fn=no_room, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert full.stderr.startswith("error: ")
    assert full.stderr.count("\n") == 1
    assert not list(Path("large").glob("*.arrow"))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert main("verify large".split()) == 0
