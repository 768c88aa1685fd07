"""Conditions that are dropped in training and parts that samples lack: batches, runs, and what is drawn afterwards."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import assert_same_run, options_for, train_until
from toys.progress import Told
from toys.world import LETTERS, Letters, Shades, picture_samples, write_shards, write_streams

from tokenize_kit.cli import main
from tokenize_kit.sequences.documents import Documents
from trainers.autoregressive.batches import PackedDataset, dropped_conditions, every_row_once
from trainers.autoregressive.data import TokenData, split_documents
from trainers.autoregressive.model_folder import load_model, read_model_config
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.sample import draw, generate_samples
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SHADES = ("black", "dark", "light", "white")


def grid(text):
    return np.array([LETTERS.index(letter) for letter in text], np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("dropout") / "pictures", picture_samples(120, shapes=((3, 4), (2, 2))))


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    """Each sample can be told by its picture."""
    rng = np.random.default_rng(0)
    grids = {
        "text": [grid("abcdefg"[: rng.integers(0, 7)]) for _ in range(50)],
        "hint": [grid("uvwxyz"[: rng.integers(0, 6)]) for _ in range(50)],
        "image": [np.array([[number % 4, number // 4 % 4], [number // 16, 0]], np.uint8) for number in range(50)],
    }
    folder = tmp_path_factory.mktemp("dropout") / "triples"
    return write_streams(folder, {"text": Letters(), "hint": Letters(), "image": Shades()}, grids)


@pytest.mark.parametrize("template", ["text -> image", "text hint -> image"])
def test_rows_are_those_of_the_documents_without_what_is_dropped(triples, template):
    """A row has in every epoch the documents that it has without dropout, in their order, and padding for what is dropped."""
    documents = TokenData.open([triples], template, dropped=True).documents
    parsed, vocabulary, rate = documents.template, documents.vocabulary, 0.4
    keys = {documents.grids(number)["image"].tobytes(): number for number in range(50)}
    plain = PackedDataset(documents, np.arange(50), 64, 1, seed=5)
    dataset = PackedDataset(documents, np.arange(50), 64, 1, seed=5, condition_dropout=rate)
    assert dataset.rows_per_epoch == plain.rows_per_epoch > 8
    for index in range(3 * dataset.rows_per_epoch):
        epoch = index // dataset.rows_per_epoch
        dropped = dropped_conditions(documents, rate, 5, epoch)
        whole, batch = plain.batch(index), dataset.batch(index)
        expected = []
        for number in range(int(whole.documents.max()) + 1):
            ids = whole.ids[0][whole.documents[0] == number].tolist()
            grids = parsed.parse_ids([*ids, vocabulary.eos], vocabulary)
            mine = dropped[keys[grids["image"].astype(np.uint8).tobytes()]]
            kept = {name: grids[name] for name in parsed.names if name not in np.array(parsed.condition)[mine]}
            ids, mask = parsed.flatten(kept, vocabulary)
            labels = np.where(mask, ids, -100)[1:]
            expected += zip(ids[:-1].tolist(), labels.tolist(), range(len(labels)), [number] * len(labels), strict=True)
        expected += [(0, -100, place, -1) for place in range(64 - len(expected))]
        parts = (batch.ids, batch.labels, batch.positions, batch.documents)
        assert list(zip(*(part[0].tolist() for part in parts), strict=True)) == expected
        assert batch.weight == whole.weight == sum(label != -100 for _, label, _, _ in expected)


def test_batches_are_a_function_of_their_number_over_any_processes(triples):
    documents = TokenData.open([triples], "text hint -> image", dropped=True).documents
    settings = {"seed": 2, "condition_dropout": 0.3, "needs": {"given"}}
    whole = PackedDataset(documents, np.arange(50), 64, 4, **settings)
    halves = [PackedDataset(documents, np.arange(50), 64, 2, rank=rank, world=2, **settings) for rank in range(2)]
    batches = [whole.batch(index) for index in range(12)]
    for index, batch in enumerate(batches):
        for name in ("ids", "labels", "given"):
            parts = torch.cat([getattr(half.batch(index), name) for half in halves])
            assert torch.equal(getattr(batch, name), parts)
    fresh = PackedDataset(documents, np.arange(50), 64, 4, **settings)
    for index in (11, 3, 7):
        assert torch.equal(fresh.batch(index).ids, batches[index].ids)
    other = PackedDataset(documents, np.arange(50), 64, 4, **{**settings, "seed": 3})
    assert not torch.equal(other.batch(0).ids, batches[0].ids)


def test_how_often_conditions_are_dropped(triples):
    documents = TokenData.open([triples], "text hint -> image", dropped=True).documents
    rate = 0.2
    drops = np.concatenate([dropped_conditions(documents, rate, 1, epoch) for epoch in range(400)])
    both, first, second = drops.all(1).mean(), drops[:, 0].mean(), drops[:, 1].mean()
    assert both == pytest.approx(rate + (1 - rate) * rate**2, abs=0.01)
    assert first == pytest.approx(rate + (1 - rate) * rate, abs=0.01)
    assert second == pytest.approx(first, abs=0.015)
    one = TokenData.open([triples], "text -> image", dropped=True).documents
    alone = np.concatenate([dropped_conditions(one, rate, 1, epoch) for epoch in range(400)])
    assert alone.shape == (400 * 50, 1)
    assert alone.mean() == pytest.approx(rate, abs=0.01)
    assert not dropped_conditions(one, 0.0, 1, 0).any()
    assert not np.array_equal(alone[:50], alone[50:100])


def test_validation_is_never_dropped(triples, tmp_path, monkeypatch):
    seen = []
    without = Documents.without
    monkeypatch.setattr(Documents, "without", lambda self, dropped: seen.append(dropped) or without(self, dropped))
    documents = TokenData.open([triples], "text -> image", dropped=True).documents
    null = documents.vocabulary.special("<none:text>")
    assert not any((batch.ids == null).any() for batch in every_row_once(documents, np.arange(50), 64, 4))
    assert not seen
    dataset = PackedDataset(documents, np.arange(50), 64, 4, condition_dropout=0.5)
    assert any((dataset.batch(index).ids == null).any() for index in range(3))
    assert seen


def test_a_killed_run_with_dropout_goes_on_to_the_same_bits(pictures, tmp_path, monkeypatch):
    changes = {"template": "text -> image", "context": 64, "condition_dropout": 0.3}
    options = options_for(pictures, tmp_path / "whole", **changes)
    whole = train_transformer(options)
    for step in (7, 23):
        again = dataclasses.replace(options, out=str(tmp_path / f"killed{step}"))
        train_until(again, step, monkeypatch)
        assert train_transformer(again).resumed_from == step // 5 * 5
        assert_same_run(options.out, again.out)
    with pytest.raises(ValueError, match=r"condition_dropout was 0\.3, now"):
        train_transformer(dataclasses.replace(options, condition_dropout=0.2))
    plain = options_for(pictures, tmp_path / "plain", template="text -> image", context=64)
    assert train_transformer(plain).vocabulary == whole.vocabulary - 1
    run = json.loads((tmp_path / "plain" / "run.json").read_text())
    assert "condition_dropout" not in json.dumps(run)
    assert "null" not in (tmp_path / "plain" / "model_config.json").read_text().replace(": null", "")
    assert read_model_config(options.out).vocabulary.nulls == ("text",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "image", "condition_dropout": 0.1}, "--condition-dropout: the template 'image' has no condition"),
        (
            {"template": "text? -> image"},
            r"has the condition 'text' as optional, but no sample lacks it.*leave the '\?' out",
        ),
        ({"template": "text?"}, "nothing where its only part is missing"),
    ],
)
def test_nulls_that_nothing_would_teach_are_refused(pictures, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_transformer(options_for(pictures, tmp_path / "model", **{"context": 64, **changes}))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_is_at_least_zero_and_below_one(rate):
    with pytest.raises(ValueError, match=r"--condition-dropout .* must be at least 0 and below 1"):
        options_for("nowhere", "nowhere", condition_dropout=rate)


def train(out, shards, template, progress=None, **changes):
    values = {
        "model": TransformerOverrides(layers=2, width=32, heads=2),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=10),
        "steps": 60,
        "batch_size": 16,
        "device": "cpu",
        "precision": "32-true",
        "validation_fraction": 0.1,
    }
    options = TrainTransformerOptions(shards=shards, template=template, out=str(out), **{**values, **changes})
    train_transformer(options, progress)
    return str(out)


@pytest.fixture(scope="module")
def guided(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("dropout") / "guided"
    return train(out, (pictures,), "text -> image", condition_dropout=0.25)


def lines_of(out):
    return [json.loads(line) for line in (Path(out) / "samples.jsonl").read_text().splitlines()]


def test_guidance_makes_pictures_follow_their_caption_more(guided, tmp_path):
    right = {}
    for scale in (0.0, 1.0, 4.0):
        shares = []
        for shade, name in enumerate(SHADES):
            out = tmp_path / f"{scale}{name}"
            words = ["generate", "--model", guided, "--out", str(out), "--count", "12", "--prompt", name, "--quiet"]
            assert main([*words, "--guidance", str(scale), "--guidance-schedule", "constant"]) == 0
            shown = [np.array(Image.open(out / line["files"]["image"])) for line in lines_of(out)]
            assert [line["guidance"] for line in lines_of(out)] == [scale] * 12
            shares.append((np.concatenate([picture.reshape(-1) for picture in shown]) // 64 == shade).mean())
        right[scale] = np.mean(shares)
    assert right[0.0] < 0.45 < 0.6 < right[1.0] < right[4.0]
    assert right[4.0] > 0.85


def test_what_the_samples_tell_of_guidance(guided, tmp_path):
    loaded = load_model(guided)
    options = GenerateOptions(
        model=guided, out=str(tmp_path / "a"), prompt="dark", count=3, guidance=(3.0,), guidance_schedule="cosine"
    )
    generate_samples(options)
    assert [(line["guidance"], line["guidance_schedule"]) for line in lines_of(options.out)] == [(3.0, "cosine")] * 3
    ids = [line["ids"] for line in lines_of(options.out)]
    # The same in Python, and one at a time; what is drawn without guidance is as it was, and says nothing of it.
    prompt = {"text": loaded.tokenizers["text"].encode("dark").numpy()}
    asked = SamplingOptions(guidance=(3.0,), guidance_schedule="cosine", batch_size=1)
    assert [one.ids for one in draw(loaded, [prompt] * 3, asked)] == ids
    plain = [one.ids for one in draw(loaded, [prompt] * 3, SamplingOptions())]
    assert plain != ids
    assert [one.ids for one in draw(loaded, [prompt] * 3, SamplingOptions(guidance=(1.0,)))] == plain
    generate_samples(GenerateOptions(model=guided, out=str(tmp_path / "b"), prompt="dark", count=3))
    assert [line["ids"] for line in lines_of(tmp_path / "b")] == plain
    assert not any("guidance" in key for line in lines_of(tmp_path / "b") for key in line)
    assert "guidance" not in (tmp_path / "b" / "generate.json").read_text()


def test_a_model_that_knows_dropped_conditions_draws_without_one(guided, tmp_path):
    told = Told()
    result = generate_samples(GenerateOptions(model=guided, out=str(tmp_path / "out"), count=24), told)
    assert told.said == ["no 'text' is given: the samples are drawn without a condition"]
    means = {int(np.median(np.array(Image.open(file)))) // 64 for file in result.files}
    assert len(means) >= 3
    with pytest.raises(ValueError, match="guidance strengthens a condition, but the prompt gives none"):
        generate_samples(GenerateOptions(model=guided, out=str(tmp_path / "none"), guidance=(3.0,)))


def test_inspect_tells_what_sequences_may_lack(guided, capsys):
    assert main(["inspect", guided, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sequences_may_lack"] == ["text"]


def test_guidance_of_a_model_without_dropout_is_refused(pictures, tmp_path):
    model = train(tmp_path / "model", (pictures,), "text -> image", steps=2)
    with pytest.raises(ValueError, match=r"--guidance 3: the model has never seen a sequence without 'text'"):
        generate_samples(GenerateOptions(model=model, out=str(tmp_path / "out"), prompt="dark", guidance=(3.0,)))
    with pytest.raises(ValueError, match="needs the condition 'text'"):
        generate_samples(GenerateOptions(model=model, out=str(tmp_path / "out")))
    assert generate_samples(
        GenerateOptions(model=model, out=str(tmp_path / "out"), prompt="dark", guidance=(1.0,))
    ).files


def test_two_conditions_are_guided_and_given_each_by_itself(triples, tmp_path):
    model = train(tmp_path / "model", (triples,), "text hint -> image", steps=4, condition_dropout=0.3)
    lines = [{"text": "abc", "hint": "xy"}, {"text": "abc", "hint": None}, {"hint": "xy"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = Told()
    options = GenerateOptions(
        model=model, out=str(tmp_path / "out"), prompts=str(tmp_path / "list.jsonl"), guidance=(3.0, 2.0)
    )
    assert generate_samples(options, told).count == 3
    assert [line["guidance"] for line in lines_of(options.out)] == [[3.0, 2.0]] * 3
    assert told.said == [f"no '{name}' is given: the samples are drawn without it" for name in ("hint", "text")]
    (tmp_path / "list.jsonl").write_text('{"text": null, "hint": null}\n')
    asked = {"model": model, "out": str(tmp_path / "free"), "prompts": str(tmp_path / "list.jsonl")}
    assert generate_samples(GenerateOptions(**asked)).count == 1
    with pytest.raises(
        ValueError, match=r"list\.jsonl, line 1: --guidance strengthens a condition, but the prompt gives none"
    ):
        generate_samples(GenerateOptions(**asked, guidance=(3.0,), overwrite=True))
    (tmp_path / "list.jsonl").write_text('{"image": null}\n')
    with pytest.raises(ValueError, match="'image' is null, expected a string"):
        generate_samples(GenerateOptions(**asked, overwrite=True))
    loaded = load_model(model)
    found = [list(loaded.template.parse_ids(line["ids"], loaded.vocabulary)) for line in lines_of(options.out)]
    assert found == [["text", "hint", "image"], ["text", "image"], ["hint", "image"]]


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """Two shard sets: pictures of which a third has an empty caption, and pictures alone; the captions are none of theirs."""
    folder = tmp_path_factory.mktemp("lacking")
    samples = [("" if number % 3 == 0 else text, picture) for number, (text, picture) in enumerate(picture_samples(60))]
    alone = write_streams(folder / "alone", {"image": Shades()}, {"image": [picture for _, picture in samples[:30]]})
    return write_shards(folder / "some", samples), alone


def test_samples_without_a_condition_are_trained_on_and_drawn(lacking, tmp_path):
    data = TokenData.open(lacking, "text? -> image")
    assert [sum("text" in data.documents.grids(i) for i in part) for part in (range(60), range(60, 90))] == [40, 0]
    told = Told()
    model = train(tmp_path / "model", lacking, "text? -> image", told, validation_fraction=0)
    assert told.said[1:] == ["50 of 90 documents have no 'text'"]
    assert str(read_model_config(model).template) == "text? -> image"
    told = Told()
    generate_samples(GenerateOptions(model=model, out=str(tmp_path / "none"), count=8, prompt=""), told)
    assert told.said == ["no 'text' is given: the samples are drawn without a condition"]
    guided = GenerateOptions(model=model, out=str(tmp_path / "out"), count=8, prompt="dark", guidance=(3.0,))
    shown = [np.array(Image.open(file)) // 64 for file in generate_samples(guided).files]
    assert (np.stack(shown) == 1).mean() > 0.8
    # The other way round the set without the stream comes first.
    assert len(TokenData.open(lacking[::-1], "text? -> image").documents) == 90
    for template, message in (
        ("text -> image", "has no stream 'text', which the template"),
        ("txt? image", "did you mean"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenData.open(lacking, template)


def test_what_is_drawn_may_lack_a_part(lacking, tmp_path):
    model = train(tmp_path / "model", lacking, "text? image", validation_fraction=0.2)
    metrics = load_model(model).metrics
    assert set(metrics) == {"bits_per_token", "loss", "text/bits_per_byte", "image/bits_per_dimension_quantised"}
    # Whether there is a text is predicted too, and counts as of the text.
    loaded, data = load_model(model), TokenData.open(lacking, "text? image")
    held_out = split_documents(data, 0.2, 65536)[1]
    nats, units = {"text": 0.0, "image": 0.0}, {"text": 0, "image": 0}
    for number in held_out.tolist():
        grids = data.documents.grids(number)
        document = loaded.template.document(grids, loaded.vocabulary)
        ids = torch.from_numpy(document.ids)
        with torch.no_grad():
            logits = loaded.model(ids[None, :-1])[0].double()
        nll = -logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0].numpy()
        for part, name in enumerate(("text", "image")):
            nats[name] += nll[((document.segments == part) & document.loss_mask)[1:]].sum()
            units[name] += grids[name].size if name in grids else 0
    assert 0 < sum("text" not in data.documents.grids(number) for number in held_out.tolist()) < len(held_out)
    found = (metrics["text/bits_per_byte"], metrics["image/bits_per_dimension_quantised"])
    for (name, value), metric in zip(nats.items(), found, strict=True):
        assert metric == pytest.approx(value / units[name] / math.log(2), rel=1e-4)
    options = GenerateOptions(model=model, out=str(tmp_path / "out"), count=40)
    made = generate_samples(options)
    lines = lines_of(options.out)
    with_text = [line for line in lines if "text" in line["files"]]
    # 5 of 9 samples have none.
    assert 5 < len(with_text) < 35
    assert all(line["files"]["image"] == f"sample_{line['index']:05}.image.png" for line in lines)
    assert len(made.texts) == len(with_text)
    for line in lines:
        grids = loaded.template.parse_ids(line["ids"], loaded.vocabulary)
        assert set(grids) == set(line["files"])


def test_random_weights_draw_documents_that_decode_with_and_without_parts(lacking, tmp_path):
    model = train(tmp_path / "model", lacking, "text? image? -> text? image?", steps=1, condition_dropout=0.5)
    loaded = load_model(model)
    for parameter in loaded.model.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.3)
    prompts = [{}, {"text": grid("dark")}, {"image": np.ones((3, 4), int)}]
    made = draw(loaded, prompts * 20, SamplingOptions(batch_size=60, guidance=(2.0,)))
    found = {tuple(one.samples) for one in made}
    assert found == {(), ("text#2",), ("image#2",), ("text#2", "image#2")}
    for one in made:
        assert loaded.template.grammar(loaded.vocabulary).accepts(one.ids)
    shutil.rmtree(model)
