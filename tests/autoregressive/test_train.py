import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys.world import Letters, MeanModel, picture_samples, text_samples, write_shards

from tokenize_kit.files import sha256_of_file
from tokenize_kit.shards import ShardSet
from trainers.autoregressive.data import TokenData, split_documents
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig
from trainers.logs import TIMING, read_log

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent
SMALL = TransformerOverrides(layers=1, width=16, heads=2, dropout=0.1)


@pytest.fixture(scope="module")
def text_shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "text", text_samples(40))


@pytest.fixture(scope="module")
def picture_shards(tmp_path_factory):
    samples = picture_samples(60, shapes=((3, 4), (2, 2)))
    return write_shards(tmp_path_factory.mktemp("data") / "pictures", samples)


def options_for(data, out, **changes):
    values = {
        "shards": (data,),
        "template": "text",
        "out": str(out),
        "model": SMALL,
        "steps": 24,
        "batch_size": 2,
        "context": 32,
        "log_every": 4,
        "validate_every": 8,
        "checkpoint_every": 5,
        "validation_fraction": 0.15,
        "optimizer": OptimizerConfig(learning_rate=3e-3, warmup_steps=4),
        "device": "cpu",
    }
    return TrainTransformerOptions(**{**values, **changes})


def weights(folder):
    return {
        "best": load_file(Path(folder) / "model.safetensors"),
        "last": load_file(next((Path(folder) / "checkpoints").glob("step_*/model.safetensors"))),
        "optimizer": load_file(next((Path(folder) / "checkpoints").glob("step_*/optimizer_model_0.safetensors"))),
    }


def log_without_timing(folder):
    return [
        {k: v for k, v in line.items() if not k.endswith(TIMING)} for line in read_log(Path(folder) / "train_log.jsonl")
    ]


def file_hashes(folder):
    files = [Path(folder) / "model.safetensors", *sorted((Path(folder) / "checkpoints").rglob("*"))]
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in files if path.is_file()}


def assert_same_run(one, other):
    for name, tensors in weights(one).items():
        others = weights(other)[name]
        assert set(tensors) == set(others)
        assert all(torch.equal(tensors[key], others[key]) for key in tensors), name
    # The files too: what is in them besides the tensors must not depend on the process.
    assert file_hashes(one) == file_hashes(other)
    assert log_without_timing(one) == log_without_timing(other)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that catches errors catches it."""


def train_until(options, step, monkeypatch):
    """Run until a batch of ``step`` is asked for, then vanish."""
    from trainers.autoregressive.task import SequenceTask

    original = SequenceTask.batch

    def batch(self, index):
        if index >= step * options.accumulate:
            raise Killed
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(SequenceTask, "batch", batch)
        with pytest.raises(Killed):
            train_transformer(options)


@pytest.mark.parametrize("template", ["text", "text -> image"])
def test_killed_and_continued_runs_give_the_bits_of_an_unbroken_one(template, picture_shards, tmp_path, monkeypatch):
    options = options_for(picture_shards, tmp_path / "whole", template=template, context=64, accumulate=2)
    whole = train_transformer(options)
    assert whole.epochs > 2
    per_epoch = whole.steps / whole.epochs
    # In the middle of the first epoch, around its end, in the second one, and after the last checkpoint.
    for step in sorted({int(per_epoch / 2), math.ceil(per_epoch), int(per_epoch * 1.5), 23}):
        out = tmp_path / f"killed{step}"
        again = dataclasses.replace(options, out=str(out))
        train_until(again, step, monkeypatch)
        with (out / "train_log.jsonl").open("a") as log:
            log.write('{"step": 24, "lo')  # a line cut short by the kill
        result = train_transformer(again)
        assert result.resumed_from == step // 5 * 5
        assert_same_run(options.out, out)
        shutil.rmtree(out)


def test_a_kill_while_a_checkpoint_is_written_or_replaced_loses_nothing(text_shards, tmp_path, monkeypatch):
    from trainers import checkpoints

    options = options_for(text_shards, tmp_path / "whole")
    train_transformer(options)
    moments = [("save_file", 2), ("write_json", 2), ("sync_folder", 3), ("_remove", 1)]
    for name, count in moments:
        out = tmp_path / name
        again = dataclasses.replace(options, out=str(out))
        calls = []
        original = getattr(checkpoints, name)

        def killing(*arguments, original=original, calls=calls, count=count):
            calls.append(1)
            if len(calls) > count:
                raise Killed
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, name, killing)
            patch.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)  # a killed process does not clean up
            with pytest.raises(Killed):
                train_transformer(again)
        assert list((out / "checkpoints").glob("*.partial-*")) or name == "sync_folder"
        train_transformer(again)
        assert_same_run(options.out, out)
        assert not list((out / "checkpoints").glob("*.partial-*"))


def test_a_real_sigkill_continues_to_the_same_bits(text_shards, tmp_path):
    changes = {"steps": 150, "checkpoint_every": 7, "validate_every": 50}
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]\n"
        "import test_train, torch\nfrom trainers.autoregressive.train import train_transformer\n"
        "torch.set_num_threads(1)\n"
        f"train_transformer(test_train.options_for({text_shards!r}, sys.argv[1], **{changes}))\n"
    )
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "killed")])
    while process.poll() is None and not list((tmp_path / "killed" / "checkpoints").glob("step_????????")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    train_transformer(options_for(text_shards, tmp_path / "whole", **changes))
    assert 0 < train_transformer(options_for(text_shards, tmp_path / "killed", **changes)).resumed_from < 150
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_ctrl_c_finishes_the_step_and_keeps_it(text_shards, tmp_path, monkeypatch):
    from trainers.autoregressive.task import SequenceTask

    original = SequenceTask.batch
    options = options_for(text_shards, tmp_path / "stopped")

    def batch(self, index):
        if index == 12:
            signal.raise_signal(signal.SIGINT)
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(SequenceTask, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            train_transformer(options)
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step_00000013"]
    assert train_transformer(options).resumed_from == 13
    train_transformer(dataclasses.replace(options, out=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_finished_run_says_so_and_does_nothing(text_shards, tmp_path):
    options = options_for(text_shards, tmp_path / "model")
    first = train_transformer(options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "model").rglob("*.safetensors")}
    second = train_transformer(options)
    assert second.resumed_from == second.steps == first.steps == 24
    assert second.metrics == first.metrics
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "model").rglob("*.safetensors")} == before


def test_another_run_is_refused_with_what_differs(text_shards, picture_shards, tmp_path):
    options = options_for(text_shards, tmp_path / "model", steps=2)
    train_transformer(options)
    for changes, message in [
        ({"batch_size": 3}, "batch_size was 2, now 3"),
        (
            {"optimizer": OptimizerConfig(learning_rate=0.5, warmup_steps=4)},
            "optimizer.learning_rate was 0.003, now 0.5",
        ),
        ({"model": TransformerOverrides(layers=2, width=16, heads=2, dropout=0.1)}, "model.layers was 1, now 2"),
        ({"shards": (picture_shards,)}, "shards was"),
        ({"steps": 9}, "steps was 2, now 9.*schedule depends on the number of steps.*--init-from"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_transformer(dataclasses.replace(options, **changes))
    harmless = dataclasses.replace(options, log_every=1, checkpoint_every=1)
    assert train_transformer(harmless).resumed_from == 2
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty and holds no training run"):
        train_transformer(dataclasses.replace(options, out=str(tmp_path / "foreign")))


def test_damaged_checkpoints_are_refused(text_shards, tmp_path):
    options = options_for(text_shards, tmp_path / "model", steps=2)
    train_transformer(options)
    path = next((tmp_path / "model" / "checkpoints").glob("step_*/model.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    message = r"model\.safetensors was changed after it was saved.*remove .*step_\d+ to start the training again"
    with pytest.raises(ValueError, match=message):
        train_transformer(options)


def test_accumulation_over_unequal_token_counts_equals_one_large_batch(picture_shards, tmp_path):
    # Documents differ in length and in how many of their tokens count, so a mean of means would be wrong.
    no_dropout = TransformerOverrides(layers=1, width=16, heads=2)
    common = {"template": "text -> image", "context": 40, "steps": 6, "model": no_dropout, "z_loss": 1e-3}
    common["precision"] = "32-true"
    train_transformer(options_for(picture_shards, tmp_path / "one", batch_size=6, **common))
    train_transformer(options_for(picture_shards, tmp_path / "three", batch_size=2, accumulate=3, **common))
    data = TokenData.open([picture_shards], "text -> image")
    assert len(set((data.documents.tokens - 1).tolist())) > 2
    for one, other in zip(log_without_timing(tmp_path / "one"), log_without_timing(tmp_path / "three"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    one, other = weights(tmp_path / "one")["last"], weights(tmp_path / "three")["last"]
    assert all(torch.allclose(one[key], other[key], atol=2e-5) for key in one)


def test_two_processes_equal_one_with_the_joint_batch(picture_shards, tmp_path):
    changes = {"template": "text -> image", "context": 40, "steps": 6, "accumulate": 2, "precision": "32-true"}
    changes["model"] = TransformerOverrides(layers=1, width=16, heads=2)
    train_transformer(options_for(picture_shards, tmp_path / "one", batch_size=4, **changes))
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]\n"
        "import test_train, torch\nfrom trainers.autoregressive.options import TransformerOverrides\n"
        "from trainers.autoregressive.train import train_transformer\n"
        "torch.set_num_threads(1)\n"
        f"out, changes = {str(tmp_path / 'two')!r}, {changes}\n"
        f"train_transformer(test_train.options_for({picture_shards!r}, out, batch_size=2, devices=2, **changes))\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    one, two = weights(tmp_path / "one")["last"], weights(tmp_path / "two")["last"]
    assert all(torch.allclose(one[key], two[key], atol=2e-5) for key in one)
    last = [log_without_timing(tmp_path / name)[-1] for name in ("one", "two")]
    assert last[0] == pytest.approx(last[1], rel=1e-4)


def test_the_loss_begins_at_that_of_guessing_and_falls_and_the_best_weights_are_kept(picture_shards, tmp_path):
    options = options_for(
        picture_shards,
        tmp_path / "model",
        template="text -> image",
        context=40,
        steps=150,
        log_every=1,
        validate_every=30,
        model=TransformerOverrides(layers=2, width=32, heads=2),
    )
    result = train_transformer(options)
    log = read_log(tmp_path / "model" / "train_log.jsonl")
    # Fresh logits have a standard deviation of 0.3, and the few distinct tokens of these pictures do not average it out.
    assert log[0]["loss"] == pytest.approx(math.log(result.vocabulary), abs=0.3)
    validations = {
        line["step"]: line["validation/bits_per_token"] for line in log if "validation/bits_per_token" in line
    }
    assert list(validations) == [30, 60, 90, 120, 150]
    assert result.best_step == min(validations, key=validations.get)
    assert result.metrics["bits_per_token"] == validations[result.best_step] < 1.6
    loaded = load_model(tmp_path / "model")
    assert loaded.step == result.best_step
    assert loaded.metrics == result.metrics
    assert any((tmp_path / "model" / "tensorboard").iterdir())


@pytest.mark.parametrize("template", ["text", "text -> image", "image text"])
def test_validation_is_that_of_the_slow_reference(template, picture_shards, tmp_path):
    result = train_transformer(options_for(picture_shards, tmp_path / "m", template=template, context=48, steps=8))
    loaded = load_model(tmp_path / "m")
    data = TokenData.open([picture_shards], template)
    _, held_out = split_documents(data, 0.15, 65536)
    assert result.validation_documents == len(held_out) > 2
    nats, tokens, units = dict.fromkeys(loaded.template.target, 0.0), 0, dict.fromkeys(loaded.template.target, 0)
    for document in held_out:
        grids = data.documents.grids(int(document))
        ids, mask = loaded.template.flatten(grids, loaded.vocabulary)
        with torch.no_grad():
            logits = loaded.model(torch.from_numpy(ids[:-1])[None])[0].double()
        nll = -logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.from_numpy(ids[1:])]
        place = 1
        for name in loaded.template.streams:
            stream = loaded.vocabulary.stream(name)
            length = stream.header + grids[name].size + int(stream.is_open)
            if name in nats:
                nats[name] += float(
                    nll[place - 1 : place - 1 + length][torch.from_numpy(mask[place : place + length])].sum()
                )
                units[name] += grids[name].size  # a letter is a byte, a grey pixel a dimension
            place += length
        tokens += int(mask.sum())
    metrics = result.metrics
    assert metrics["bits_per_token"] == pytest.approx(sum(nats.values()) / tokens / math.log(2), rel=1e-4)
    names = {"text": "text/bits_per_byte", "image": "image/bits_per_dimension_quantised"}
    for name, value in nats.items():
        assert metrics[names[name]] == pytest.approx(value / units[name] / math.log(2), rel=1e-4)
    assert set(metrics) == {"bits_per_token", "loss", *(names[name] for name in nats)}


def test_a_new_model_family_trains_without_an_edit(text_shards, tmp_path):
    (tmp_path / "mean.json").write_text(json.dumps({"width": 24, "dropout": 0.1}))
    options = options_for(
        text_shards,
        tmp_path / "model",
        family="mean",
        family_config=str(tmp_path / "mean.json"),
        model=TransformerOverrides(),
    )
    result = train_transformer(options)
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded.model, MeanModel)
    assert loaded.model.config.width == 24
    assert result.metrics["bits_per_token"] < math.log2(result.vocabulary)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": OptimizerConfig(optimizer="muon", warmup_steps=2)},
        {"precision": "bf16-mixed"},
    ],
)
def test_other_ways_to_train_continue_exactly_too(text_shards, tmp_path, monkeypatch, changes):
    options = options_for(text_shards, tmp_path / "whole", steps=8, **changes)
    train_transformer(options)
    killed = dataclasses.replace(options, out=str(tmp_path / "killed"))
    train_until(killed, 6, monkeypatch)
    assert train_transformer(killed).resumed_from == 5
    assert_same_run(options.out, killed.out)


def test_a_tied_head_is_stored_once_and_loads(text_shards, tmp_path):
    tied = TransformerOverrides(layers=1, width=16, heads=2, tied_head=True)
    train_transformer(options_for(text_shards, tmp_path / "model", steps=2, model=tied))
    loaded = load_model(tmp_path / "model")
    assert (
        sum(name.endswith(("embedding.weight", "unembedding.weight")) for name in weights(tmp_path / "model")["best"])
        == 1
    )
    assert loaded.model(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, loaded.vocabulary.size)


def test_training_that_breaks_down_stops_with_advice_and_keeps_the_last_checkpoint(text_shards, tmp_path, monkeypatch):
    from trainers.autoregressive.task import LossOf

    original = LossOf.forward
    calls = []

    def forward(self, *arguments):
        total, nll = original(self, *arguments)
        calls.append(self.training)
        return (total * float("nan"), nll) if calls.count(True) > 12 else (total, nll)

    monkeypatch.setattr(LossOf, "forward", forward)
    with pytest.raises(ValueError, match=r"broke down at step 13.*learning-rate.*last good checkpoint: step 10"):
        train_transformer(options_for(text_shards, tmp_path / "model"))
    kept = weights(tmp_path / "model")["last"]
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_init_from_begins_with_the_weights_of_another_model(text_shards, picture_shards, tmp_path):
    options = options_for(text_shards, tmp_path / "first")
    first = train_transformer(options)
    second = dataclasses.replace(
        options, out=str(tmp_path / "second"), init_from=options.out, steps=3, log_every=1, seed=7, validate_every=3
    )
    train_transformer(second)
    start = read_log(tmp_path / "second" / "train_log.jsonl")[0]["bits_per_token"]
    fresh = read_log(tmp_path / "first" / "train_log.jsonl")[0]["bits_per_token"]
    assert start < fresh - 0.5
    assert abs(start - first.metrics["bits_per_token"]) < 0.7


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"template": "txt"}, ValueError, "did you mean 'text'"),
        ({"template": "text -> image", "context": 10}, ValueError, r"longest document has \d+ tokens.*--context \d+"),
        ({"shards": ("nowhere",)}, FileNotFoundError, "nowhere"),
        ({"shards": ()}, ValueError, "no shards given"),
        ({"init_from": "nowhere"}, FileNotFoundError, "nowhere"),
        ({"family": "transformers", "model": TransformerOverrides()}, ValueError, "did you mean 'transformer'"),
        ({"tokenizer": ("nowhere",)}, FileNotFoundError, "nowhere"),
        ({"validation_fraction": 0.9999999}, ValueError, "fall into the validation part"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(changes, error, message, picture_shards, tmp_path):
    with pytest.raises(error, match=message):
        train_transformer(options_for(picture_shards, tmp_path / "model", **changes))
    assert not (tmp_path / "model").exists()


def test_shards_of_another_tokenizer_are_refused_and_missing_tokenizers_asked_for(text_shards, tmp_path):
    other = write_shards(tmp_path / "other", text_samples(10), carry=False, tokenizers={"text": Letters(salt=1)})
    with pytest.raises(ValueError, match="made by another tokenizer"):
        train_transformer(options_for(text_shards, tmp_path / "m", shards=(text_shards, other)))
    with pytest.raises(ValueError, match="--tokenizer DIR"):
        train_transformer(options_for(other, tmp_path / "m"))
    Letters().save(tmp_path / "wrong")
    with pytest.raises(ValueError, match="none of those given is it"):
        train_transformer(options_for(other, tmp_path / "m", tokenizer=(str(tmp_path / "wrong"),)))
    Letters(salt=1).save(tmp_path / "right")
    train_transformer(options_for(other, tmp_path / "m", tokenizer=(str(tmp_path / "right"),), steps=1))
    assert load_model(tmp_path / "m").tokenizers["text"].salt == 1


def test_every_option_of_the_transformer_can_be_overridden():
    overridable = {field.name for field in dataclasses.fields(TransformerOverrides)}
    kinds, config = get_type_hints(TransformerOverrides), get_type_hints(TransformerConfig)
    assert overridable == set(config) - {"vocab_size", "context", "form", "codebook_slots", "told_next", "ordinal"}
    for name in overridable:
        assert kinds[name] == config[name] | None


def test_held_out_samples_stay_held_out_when_data_is_added(tmp_path):
    samples = text_samples(200)
    few = TokenData.open([write_shards(tmp_path / "few", samples[:100])], "text")
    many = TokenData.open([write_shards(tmp_path / "many", samples, shards=3)], "text")
    (train_few, held_few), (train_many, held_many) = (split_documents(data, 0.2, 10**9) for data in (few, many))
    assert {few.keys[i] for i in held_few} == {key for key in (many.keys[i] for i in held_many) if key in few.keys}
    assert not {few.keys[i] for i in train_few} & {many.keys[i] for i in held_many}
    assert len(train_many) + len(held_many) == 200
    # A limit on the tokens takes the same documents first, and those beyond it are not trained on either.
    train_less, held_less = split_documents(many, 0.2, 300)
    assert set(held_less) < set(held_many)
    assert np.array_equal(train_less, train_many)


def test_several_shard_sets_are_one_data_set(tmp_path):
    samples = text_samples(30)
    parts = [write_shards(tmp_path / "a", samples[:10], shards=1), write_shards(tmp_path / "b", samples[10:], shards=3)]
    data = TokenData.open(parts, "text")
    texts = [Letters().decode(torch.from_numpy(data.documents.grids(i)["text"].astype("int64"))) for i in range(30)]
    assert texts == [text for text, _ in samples]
    assert data.digest != TokenData.open(parts[::-1], "text").digest
    assert ShardSet.open(parts[1]).num_rows == 20
