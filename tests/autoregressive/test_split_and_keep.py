"""Own lists of what is held out, and which weights a run ends with."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import assert_same_run, options_for, train_until
from toys.progress import Told
from toys.world import text_samples, write_shards

from trainers.autoregressive.data import TokenData, split_documents
from trainers.autoregressive.train import train_transformer
from trainers.logs import read_log


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "text", text_samples(30))


def test_exactly_the_listed_documents_are_held_out(shards, tmp_path):
    (tmp_path / "keys.txt").write_text("sample-3\nsample-17\nsample-29\nelsewhere\n")
    keys = {"validation_keys": str(tmp_path / "keys.txt"), "steps": 2, "validation_fraction": 0.9}
    told = Told()
    result = train_transformer(options_for(shards, tmp_path / "model", **keys), told)
    assert (result.documents, result.validation_documents) == (27, 3)
    assert any("1 of the 4 keys in" in text and "'elsewhere'" in text for text in told.said)
    data = TokenData.open([shards], "text")
    from tokenize_kit.sources.heldout import read_keys

    listed = read_keys(str(tmp_path / "keys.txt"))
    training, held_out = split_documents(data, 0.9, 10**9, listed)
    assert [data.keys[i] for i in held_out] == ["sample-3", "sample-17", "sample-29"]
    assert len(training) == 27
    # Those beyond --validation-tokens are not trained on either, and that is said.
    told = Told()
    result = train_transformer(options_for(shards, tmp_path / "few", validation_tokens=1, **keys), told)
    assert (result.documents, result.validation_documents) == (27, 1)
    assert any("2 of the listed documents are neither trained on nor measured" in text for text in told.said)


def test_the_run_goes_on_with_the_same_keys_and_no_others(shards, tmp_path):
    path = tmp_path / "keys.jsonl"
    path.write_text('{"key": "sample-3"}\n{"key": "sample-5"}\n')
    options = options_for(shards, tmp_path / "model", steps=2, validation_keys=str(path))
    train_transformer(options)
    (tmp_path / "other.txt").write_text("sample-5\nsample-3\nsample-3\n")
    same = dataclasses.replace(options, validation_keys=str(tmp_path / "other.txt"))
    assert train_transformer(same).resumed_from == 2
    path.write_text('{"key": "sample-3"}\n')
    with pytest.raises(ValueError, match="validation_keys was"):
        train_transformer(options)
    with pytest.raises(ValueError, match="validation_keys was"):
        train_transformer(dataclasses.replace(options, validation_keys=None))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing\n", "none of its 1 keys is that of a sample"),
        ("\n".join(f"sample-{i}" for i in range(30)), "lists all 30 samples; nothing is left to train on"),
    ],
)
def test_a_list_that_divides_nothing_is_refused(shards, tmp_path, content, message):
    (tmp_path / "keys.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        train_transformer(options_for(shards, tmp_path / "model", validation_keys=str(tmp_path / "keys.txt")))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("keep", [None, "best", "last"])
def test_the_weights_that_are_kept_are_those_of_the_best_or_of_the_last_validation(shards, tmp_path, monkeypatch, keep):
    # A rate at which a model this small gets worse in the end.
    from trainers.config import OptimizerConfig

    wild = OptimizerConfig(learning_rate=2.0, warmup_steps=4, schedule="constant")
    options = options_for(shards, tmp_path / "whole", keep=keep, optimizer=wild, steps=12, validate_every=2)
    result = train_transformer(options)
    log = read_log(Path(options.out) / "train_log.jsonl")
    scores = {line["step"]: line["validation/bits_per_token"] for line in log if "validation/bits_per_token" in line}
    best = min(scores, key=scores.get)
    assert best < 12
    assert result.best_step == (12 if keep == "last" else best)
    assert result.metrics["bits_per_token"] == scores[result.best_step]
    written = load_file(Path(options.out) / "model.safetensors")
    last = load_file(next((Path(options.out) / "checkpoints").glob("step_*/model.safetensors")))
    equal = all(torch.equal(value, last[f"model.{name}"]) for name, value in written.items())
    assert equal == (keep == "last")
    # Killed before and after the best validation and continued, it is the same run.
    for step in (best - 1, 11):
        again = dataclasses.replace(options, out=str(tmp_path / f"killed{step}"))
        train_until(again, step, monkeypatch)
        assert train_transformer(again).best_step == result.best_step
        assert_same_run(options.out, again.out)


def test_another_choice_of_weights_is_another_run(shards, tmp_path):
    options = options_for(shards, tmp_path / "model", steps=2, keep="last")
    train_transformer(options)
    assert json.loads((tmp_path / "model" / "run.json").read_text())["keep"] == "last"
    with pytest.raises(ValueError, match="keep was last, now best"):
        train_transformer(dataclasses.replace(options, keep="best"))
    with pytest.raises(ValueError, match="--keep first must be best or last"):
        options_for(shards, tmp_path, keep="first")
