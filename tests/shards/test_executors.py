"""Executors: the same bytes wherever units are encoded, and what happens when a worker, or the run itself, dies."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys.mortal import MortalText
from toys.simple import RaggedToyText

from tokenize_kit.cli.main import main
from tokenize_kit.errors import MissingPackageError, TooManyFailuresError
from tokenize_kit.protocol import Placement
from tokenize_kit.shards.encode import EncodeOptions, encode
from tokenize_kit.shards.executors.base import Job, Setup, executor_named
from tokenize_kit.shards.format import StreamInfo
from tokenize_kit.shards.ledger import UnitResult
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.sources.planning import ReadOptions, find_sources, plan_units

SOURCES = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all tests of this file that need none of their own."""
    pytest.importorskip("ray")
    from tokenize_kit.shards.executors.ray import _start

    ray, ours = _start(2, None)
    assert ours
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(params=["processes", "ray"])
def apart(request):
    """The name of an executor with processes of its own."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return request.param


@pytest.fixture(params=["serial", "processes", "ray"])
def executor(request):
    """The name of any executor."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return request.param


def contents(folder):
    """The bytes of every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def workers_of(executor):
    return 1 if executor == "serial" else 2


@pytest.fixture
def corpus(tmp_path):
    """Options of a run in fourteen units, with two samples that cannot be read."""
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    with (tmp_path / "data" / "a.jsonl").open("w") as file:
        for number in range(400):
            text = json.dumps({"text": "wörd " * int(rng.integers(30))})
            file.write(("{bad" if number in (7, 300) else text) + "\n")
    RaggedToyText().save(tmp_path / "tokenizer")
    return EncodeOptions(
        (str(tmp_path / "tokenizer"),), (str(tmp_path / "data"),), str(tmp_path / "out"), shard_mb=0.0025
    )


def job_of(options, report, done, folder=None):
    """A run with the toy, and its units."""
    toy = RaggedToyText()
    read = ReadOptions()
    recipe = Recipe(read, (StreamInfo("text", toy.spec, toy.fingerprint, "uint16", "toy-ragged"),))
    units = plan_units(find_sources(options.data, read), read, round(options.shard_mb * 1e6))
    folders = {"text": folder or options.tokenizer[0]}
    setup = Setup(recipe, folders, ("toys.simple",), options.out, 100, Placement())
    assert Setup.from_json(setup.to_json()) == setup
    return units, Job(setup, {"text": toy}, lambda: None, report, done, lambda: (None, 100))


def test_the_bytes_are_those_of_one_process(corpus, tmp_path, apart):
    result = encode(corpus)
    assert (result.shards, result.failures) == (len(list(Path(corpus.out).glob("*.arrow"))), 2)
    assert result.shards > 10
    options = replace(corpus, out=str(tmp_path / "apart"), executor=apart, workers=2)
    assert replace_seconds(encode(options), result) == result
    assert contents(options.out) == contents(corpus.out)


def replace_seconds(result, like):
    return replace(result, out=like.out, seconds=like.seconds)


def test_every_unit_is_reported_while_it_goes_on_and_done_once(corpus, executor):
    reports, results = [], []
    units, job = job_of(corpus, lambda *added: reports.append(added), results.append)
    Path(corpus.out).mkdir()
    executor_named(executor)(replace(corpus, workers=workers_of(executor))).run(units, job)
    assert sorted(result.unit for result in results) == list(range(len(units)))
    assert all(isinstance(result, UnitResult) for result in results)
    assert sum(samples for samples, _, _ in reports) == 398
    assert sum(size for _, _, size in reports) == sum(unit.size for unit in units)
    assert sum(tokens for _, tokens, _ in reports) == sum(result.file.tokens["text"] for result in results)


def test_errors_come_back_with_their_text(corpus, tmp_path, executor):
    units, job = job_of(corpus, lambda *_: None, lambda _: None)
    Path(corpus.out).mkdir()
    run = executor_named(executor)(replace(corpus, workers=workers_of(executor))).run
    source = Path(corpus.data[0]) / "a.jsonl"
    source.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError) as caught:
        run(units, job)
    assert (caught.value.strerror, caught.value.filename) == ("No such file or directory", str(source))
    if executor != "serial":
        RaggedToyText(shift=43).save(tmp_path / "other")
        units, job = job_of(corpus_at(corpus, tmp_path / "away"), None, None, str(tmp_path / "other"))
        with pytest.raises(ValueError, match="other was changed during the run; start again"):
            run(units, job)


def corpus_at(corpus, path):
    path.rename(path.with_suffix(".jsonl"))
    return replace(corpus, data=(str(path.with_suffix(".jsonl")),))


def test_too_many_failures_end_the_run(corpus, apart):
    with pytest.raises(TooManyFailuresError, match="more than --max-failures 1; ") as caught:
        encode(replace(corpus, executor=apart, workers=2, max_failures=1))
    assert caught.value.exit_code == 5
    assert encode(replace(corpus, executor=apart, workers=2)).failures == 2


def test_workers_load_tokenizers_that_were_only_in_memory(corpus, tmp_path, apart):
    encode(corpus)
    options = replace(corpus, tokenizer=("text=memory",), out=str(tmp_path / "two"), workers=2, executor=apart)
    encode(options, loaded={"memory": RaggedToyText()})
    assert contents(options.out) == contents(corpus.out)


def test_a_running_cluster_is_used_and_left_running(corpus, tmp_path, cluster):
    import ray

    options = replace(corpus, executor="ray", ray_address=cluster, workers=2)
    with start(options) as process:
        _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    encode(replace(corpus, out=str(tmp_path / "here")))
    assert contents(options.out) == contents(tmp_path / "here")
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 2


def test_a_cluster_that_is_not_there_is_said(corpus):
    pytest.importorskip("ray")
    command = ["--tokenizer", *corpus.tokenizer, "--data", *corpus.data, "--out", corpus.out, "--quiet"]
    script = "import sys; from toys import simple; from tokenize_kit.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["encode", "--executor", "ray", "--ray-address", "127.0.0.1:9", *command]
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    # In a process of its own, because this one may be connected to a cluster already.
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: --ray-address 127.0.0.1:9: no Ray cluster answers there (")
    assert ended.stderr.count("\n") == 1


def test_wrong_executors_are_said_at_once(corpus, monkeypatch, capsys):
    def refused(words, **changes):
        with pytest.raises(ValueError, match=words):
            encode(replace(corpus, **changes))
        assert not Path(corpus.out).exists()

    refused(r"no executor is named 'proceses' \(known: .*processes, ray, serial\); did you mean", executor="proceses")
    refused("--executor serial is one process, not --workers 2", executor="serial", workers=2)
    refused("--ray-address auto needs --executor ray", ray_address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install tokenize-kit\[ray\]"):
        encode(replace(corpus, executor="ray"))
    command = [
        "encode",
        "--executor",
        "ray",
        "--tokenizer",
        *corpus.tokenizer,
        "--data",
        *corpus.data,
        "--out",
        corpus.out,
    ]
    assert main(command) == 4
    assert capsys.readouterr().err == "error: --executor ray needs Ray: pip install tokenize-kit[ray]\n"
    assert not Path(corpus.out).exists()


@pytest.fixture
def deadly(tmp_path):
    """Options of a run of which one text kills the worker as often as there are files in a folder."""
    (tmp_path / "data").mkdir()
    for number in range(6):
        (tmp_path / "data" / f"{number}.txt").write_text("DEADLY" if number == 3 else f"text {number}")
    (tmp_path / "deaths").mkdir()
    MortalText(tmp_path / "deaths").save(tmp_path / "tokenizer")
    return EncodeOptions(
        (str(tmp_path / "tokenizer"),), (str(tmp_path / "data"),), str(tmp_path / "out"), shard_mb=0.00001, workers=2
    )


def die(tmp_path, times):
    for number in range(times):
        (tmp_path / "deaths" / str(number)).touch()


def test_a_dead_process_ends_the_run_and_the_next_one_continues(deadly, tmp_path):
    encode(replace(deadly, out=str(tmp_path / "whole")))
    die(tmp_path, 1)
    with pytest.raises(
        RuntimeError, match=r"a worker was killed by signal 9 \(most often .*run the same command again"
    ):
        encode(deadly)
    assert not list(Path(deadly.out).glob("*.partial-*"))
    encode(deadly)
    assert contents(deadly.out) == contents(tmp_path / "whole")


@pytest.mark.usefixtures("cluster")
def test_ray_replaces_a_dead_worker_some_times(deadly, tmp_path):
    encode(replace(deadly, out=str(tmp_path / "whole")))
    die(tmp_path, 3)
    encode(replace(deadly, executor="ray"))
    assert contents(deadly.out) == contents(tmp_path / "whole")
    die(tmp_path, 9)
    often = replace(deadly, executor="ray", out=str(tmp_path / "often"))
    with pytest.raises(
        RuntimeError, match=r"4 Ray workers died over shard \d{5} \(most often .*run the same command again"
    ):
        encode(often)
    assert len(list((tmp_path / "deaths").iterdir())) == 5
    assert not list((tmp_path / "often").glob("*.partial-*"))


RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
sys.path.insert(0, {sources!r})
import toys.simple
from tokenize_kit.shards.encode import encode, EncodeOptions
if __name__ == "__main__":
    encode(EncodeOptions(**{options!r}))
"""


def start(options):
    script = RUN.format(sources=SOURCES, options=options.__dict__)
    environment = {**os.environ, "TOY_SECONDS": "0.05"}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def children(pid):
    """The processes under a process."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [below for child in found for below in children(child)]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", ["processes", "ray"])
def test_workers_end_with_a_killed_run_and_the_next_one_continues(corpus, tmp_path, name):
    if name == "ray":
        pytest.importorskip("ray")
    encode(corpus)
    options = replace(corpus, out=str(tmp_path / "killed"), executor=name, workers=2)
    with start(options) as process:
        wait_for(lambda: len(list(Path(options.out).glob("*.arrow"))) >= 2)
        # Ray's own agents, which touch no file of ours, take up to some minutes to notice.
        below = [pid for pid in children(process.pid) if b"Agent" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(below) >= 2
        process.kill()
    assert not (Path(options.out) / "dataset.json").exists()
    wait_for(lambda: not any(alive(pid) for pid in below))
    encode(replace(options, executor="processes"))
    assert contents(options.out) == contents(corpus.out)


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_ctrl_c_ends_workers_at_once(corpus):
    options = replace(corpus, workers=2)
    process = start(options)
    wait_for(lambda: len(list(Path(options.out).glob("*.arrow"))) >= 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in stderr
    assert not list(Path(options.out).glob("*.partial-*"))
    assert not (Path(options.out) / "dataset.json").exists()


def test_two_runs_in_one_folder_at_the_same_time_both_end_well(corpus, tmp_path):
    encode(corpus)
    options = replace(corpus, out=str(tmp_path / "both"))
    processes = [start(replace(options, workers=workers)) for workers in (1, 2, 1)]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert (process.returncode, stderr) == (0, "")
    assert contents(options.out) == contents(corpus.out)
