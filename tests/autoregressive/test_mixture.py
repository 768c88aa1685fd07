"""Several templates and shard sets in one run: the order of the rows, the vocabulary, the split, the loss, the folder."""

import dataclasses
import json
import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_train import assert_same_run, log_without_timing, options_for, train_until, weights
from toys.progress import Told
from toys.world import Letters, Shades, picture_samples, text_samples, write_shards, write_streams

from tokenize_kit.cli import main
from tokenize_kit.files import read_signed, signed, write_json
from tokenize_kit.sources.heldout import held_out, read_keys
from trainers.autoregressive.batches import PackedDataset
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.likelihood import bits_per, score
from trainers.autoregressive.mixture import Interleaving, MixedData, counts_of, mixed_dataset
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.losses import token_loss
from trainers.autoregressive.objectives.masked import MASKED
from trainers.autoregressive.objectives.next_token import NEXT_TOKEN
from trainers.autoregressive.options import GenerateOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples, prompt_grids
from trainers.autoregressive.task import LossOf, token_weights_of
from trainers.autoregressive.train import train_transformer
from trainers.logs import read_log

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent
BOTH = ("text -> image", "image -> text", "text")
CONTEXT = 40
PLAIN = TransformerOverrides(layers=1, width=16, heads=2)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "pictures", picture_samples(60, shapes=((3, 4), (2, 2))))


@pytest.fixture(scope="module")
def more_pictures(tmp_path_factory):
    samples = picture_samples(25, seed=3, shapes=((4, 4),))
    return write_shards(tmp_path_factory.mktemp("data") / "more", samples, shards=1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "texts", text_samples(50, seed=1))


# The order of the rows.


def slow_order(counts):
    """The line of each row of a period: row j of c rows stands at (j + 1/2) / c, of two at one place the first line first."""
    places = [(Fraction(2 * row + 1, 2 * count), line) for line, count in enumerate(counts) for row in range(count)]
    return [line for _, line in sorted(places)]


@settings(max_examples=100)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 3))
def test_each_line_is_read_in_its_order_and_evenly(counts, periods):
    interleaving = Interleaving(counts)
    assert interleaving.period == sum(counts)
    line = np.arange(periods * sum(counts))
    source, own = interleaving.split(line)
    assert source.tolist() == slow_order(counts) * periods
    seen = [0] * len(counts)
    for number, (which, row) in enumerate(zip(source.tolist(), own.tolist(), strict=True)):
        assert row == seen[which]
        seen[which] += 1
        for done, count in zip(seen, counts, strict=True):
            share = count / sum(counts)
            assert abs(done - (number + 1) * share) <= 0.5 + len(counts) / 2 * share + 1e-9
    assert seen == [count * periods for count in counts]
    # A rule for the number of the row alone: in any order, and far away.
    shuffled = np.random.default_rng(0).permutation(line)
    assert [part.tolist() for part in interleaving.split(shuffled)] == [
        source[shuffled].tolist(),
        own[shuffled].tolist(),
    ]
    far = interleaving.split(line + 10**6 * interleaving.period)
    assert far[0].tolist() == source.tolist()
    assert (far[1] - own).tolist() == (10**6 * interleaving.counts[source]).tolist()


def test_the_picture_of_the_module_is_true():
    source, own = Interleaving([2, 1, 1]).split(np.arange(12))
    assert "".join("ABC"[line] for line in source) == "ABCAABCAABCA"
    assert own.tolist() == [0, 0, 0, 1, 2, 1, 1, 3, 4, 2, 2, 5]


def test_weights_are_counts_of_a_period():
    assert counts_of([Fraction(2), Fraction(1), Fraction(1)]) == [2, 1, 1]
    assert counts_of([Fraction("0.1"), Fraction("0.3")]) == [1, 3]
    assert counts_of([Fraction(460), Fraction(460), Fraction(2424)]) == [115, 115, 606]


@settings(max_examples=100)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=6), st.integers(50, 1000))
def test_weights_of_a_long_period_are_kept_nearly(shares, longest):
    counts = counts_of([Fraction(share) for share in shares], longest)
    assert min(counts) >= 1
    for count, share in zip(counts, shares, strict=True):
        exact = Fraction(share, sum(shares)) * sum(counts)
        assert abs(count - exact) <= max(1, len(shares))
    if longest >= sum(shares) // math.gcd(*shares):
        assert [Fraction(count, sum(counts)) for count in counts] == [Fraction(share, sum(shares)) for share in shares]


def opened(shards, templates, mix=(), fraction=0.1):
    data = MixedData.open(shards, templates)
    halves = data.split(fraction, 10**9)
    return data, data.sources([one for one, _ in halves], mix), halves


def rows_of(batch):
    """The rows of a batch as they are, whatever is left out of it because every row is a single document."""
    return [tuple(row) for row in torch.cat([batch.ids, batch.labels], 1).tolist()]


@pytest.mark.parametrize("objective", [NEXT_TOKEN, MASKED], ids=["next", "masked"])
@pytest.mark.parametrize(
    ("template_weights", "mix"), [((), ()), ((3, 1, 0.5), ()), ((), (1, 2, 4)), ((1, 2, 3), (5, 1, 1))]
)
def test_processes_together_read_the_rows_of_one(pictures, more_pictures, texts, template_weights, mix, objective):
    data, sources, _ = opened([pictures, more_pictures, texts], BOTH, mix)

    def dataset(batch_size, rank=0, world=1):
        weighted = (template_weights, mix)
        return mixed_dataset(data, sources, CONTEXT, batch_size, 7, rank, world, objective, (), *weighted)

    whole = dataset(6)
    count = 2 * whole.rows_per_epoch // 6
    expected = [rows_of(whole.batch(index)) for index in range(count)]
    for world in (2, 3):
        parts = [dataset(6 // world, rank, world) for rank in range(world)]
        assert [[row for part in parts for row in rows_of(part.batch(index))] for index in range(count)] == expected
    # The position is the number of the batch: a run that goes on reads what the unbroken one would have.
    for start in (1, count // 2, count - 1):
        assert rows_of(dataset(6).batch(start)) == expected[start]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 0.5, 0.37, 7]), min_size=3, max_size=3),
    st.sampled_from([(), (1, 1, 1), (1, 3, 2)]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_each_source_reads_all_its_rows_once_an_epoch(world_of_three, template_weights, mix, world, batch_size, seed):
    data, sources, _ = opened(world_of_three, BOTH, mix)
    parts = [
        mixed_dataset(data, sources, CONTEXT, batch_size, seed, rank, world, template_weights=template_weights, mix=mix)
        for rank in range(world)
    ]
    interleaving = parts[0].interleaving
    lengths = [dataset.rows_per_epoch for dataset in parts[0].sources]
    steps = math.ceil(2 * max(lengths) / (interleaving.counts / interleaving.period).min() / (world * batch_size))
    line = [row for index in range(steps) for part in parts for row in rows_of(part.batch(index))]
    source, _ = interleaving.split(np.arange(len(line)))
    for number, length in enumerate(lengths):
        mine = [line[place] for place in np.flatnonzero(source == number)]
        alone = PackedDataset(
            data.parts[sources[number].part].documents, sources[number].chosen, CONTEXT, 1, seed, salt=(number + 1,)
        )
        epoch = [rows_of(alone.batch(index))[0] for index in range(2 * length)]
        assert mine[: 2 * length] == epoch
        if not alone.documents.is_stream:  # the line of text is cut anew in every epoch
            assert Counter(epoch[:length]) == Counter(epoch[length:])


@pytest.fixture(scope="module")
def world_of_three(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    return [
        write_shards(root / "a", picture_samples(12, shapes=((3, 4), (2, 2)))),
        write_shards(root / "b", picture_samples(5, seed=2), shards=1),
        write_shards(root / "c", text_samples(9, seed=1)),
    ]


def test_without_weights_every_row_comes_once_before_any_comes_twice(pictures, texts):
    data, sources, _ = opened([pictures, texts], BOTH)
    dataset = mixed_dataset(data, sources, CONTEXT, 1)
    lengths = [one.rows_per_epoch for one in dataset.sources]
    source, own = dataset.interleaving.split(np.arange(dataset.rows_per_epoch))
    for number, length in enumerate(lengths):
        assert sorted(own[source == number]) == list(range(length))
    assert sum(lengths) == dataset.rows_per_epoch
    assert dataset.epoch(dataset.rows_per_epoch) == 1


def test_weights_of_templates_and_of_sets_multiply(pictures, more_pictures, texts):
    data, sources, _ = opened([pictures, more_pictures, texts], ("text -> image", "text"), (3, 1, 4))
    dataset = mixed_dataset(data, sources, CONTEXT, 1, template_weights=(2, 1), mix=(3, 1, 4))
    shares = {
        (str(data.templates[source.part]), source.shard_set): Fraction(int(count), dataset.interleaving.period)
        for source, count in zip(sources, dataset.interleaving.counts, strict=True)
    }
    assert shares == {
        ("text -> image", 0): Fraction(2, 3) * Fraction(3, 4),
        ("text -> image", 1): Fraction(2, 3) * Fraction(1, 4),
        ("text", 0): Fraction(1, 3) * Fraction(3, 8),
        ("text", 1): Fraction(1, 3) * Fraction(1, 8),
        ("text", 2): Fraction(1, 3) * Fraction(4, 8),
    }


def test_the_two_directions_of_a_pair_are_not_read_in_one_order(pictures):
    data, sources, _ = opened([pictures], ("image -> text", "text -> image"))
    dataset = mixed_dataset(data, sources, 24, 1)
    first, second = ([one._plan(0)[2].tolist(), one.rows_per_epoch] for one in dataset.sources)
    assert first[1] == second[1]
    assert first[0] != second[0]


def test_a_single_template_is_what_it_was_to_the_bit(pictures, more_pictures):
    data, sources, halves = opened([pictures, more_pictures], ["text -> image"])
    dataset = mixed_dataset(data, sources, CONTEXT, 3, 5)
    alone = TokenData.open([pictures, more_pictures], "text -> image")
    plain = PackedDataset(alone.documents, halves[0][0], CONTEXT, 3, 5)
    assert type(dataset) is PackedDataset
    assert data.vocabulary == alone.documents.vocabulary
    assert data.digest == alone.digest
    for index in range(2 * plain.rows_per_epoch // 3):
        assert rows_of(dataset.batch(index)) == rows_of(plain.batch(index))


def test_rows_of_several_templates_have_what_a_model_asks_for(pictures, texts):
    data, sources, _ = opened([pictures, texts], ("text -> image:random", "text"))
    needs = {"given", "axial", "following", "documents"}
    dataset = mixed_dataset(data, sources, CONTEXT, 8, needs=needs)
    batch = dataset.batch(0)
    source, own = dataset.interleaving.split(np.arange(8))
    assert set(source) == {0, 1}
    for row, (which, number) in enumerate(zip(source.tolist(), own.tolist(), strict=True)):
        alone = dataset.sources[which].batch(number)
        for name in needs:
            assert torch.equal(getattr(batch, name)[row], getattr(alone, name)[0]), name
    assert batch.following[source == 0].max() >= 0
    assert batch.following[source == 1].max() < 0


# Sets and streams.


def test_the_vocabulary_has_all_streams_and_shapes(pictures, more_pictures, texts):
    data = MixedData.open([texts, pictures, more_pictures], ("text", "image -> text"))
    assert list(data.vocabulary.streams) == ["text", "image"]
    assert data.vocabulary.stream("image").shapes == ((2, 2), (3, 4), (4, 4))
    assert data.serving == ((0, 1, 2), (1, 2))
    assert [len(part.documents) for part in data.parts] == [50 + 60 + 25, 60 + 25]
    assert data.parts[1].sets.tolist() == [0] * 60 + [1] * 25
    assert {id(part.documents.vocabulary) for part in data.parts} == {id(data.vocabulary)}


def test_a_shape_of_a_set_that_serves_no_template_of_the_stream_is_not_in_the_vocabulary(pictures, tmp_path):
    other = {"photo": Shades(), "image": Shades()}
    grids = [np.zeros((5, 5), np.uint8)] * 4
    unused = write_streams(tmp_path / "photos", other, {"photo": grids, "image": grids})
    data = MixedData.open([pictures, unused], ("text -> image", "photo"))
    assert data.vocabulary.stream("image").shapes == ((2, 2), (3, 4))
    assert data.vocabulary.stream("photo").shapes == ((5, 5),)


@pytest.mark.parametrize(
    ("templates", "changes", "message"),
    [
        (("text", "photo"), {}, "template 'photo': no stream is named 'photo'"),
        (
            ("text", "text"),
            {},
            "--template 'text' is given twice; give it once, and a larger share with --template-weights",
        ),
        (("text", "image text", "image  text"), {}, "'image text' is given twice"),
        (("image", "image -> text"), {}, "texts .streams text. has all streams of no template; leave it out"),
        (("text", "image"), {"template_weights": (1,)}, "--template-weights 1 has 1 weights for 2 templates"),
        (("text",), {"template_weights": (1, 2)}, "--template-weights 1 2 has 2 weights for 1 templates"),
        (("text", "image"), {"template_weights": (1, 0)}, "--template-weights 1 0: a weight must be a number above 0"),
        (("text",), {"mix": (1.5,)}, "--mix 1.5 has 1 weights for 2 shard sets"),
        (("text",), {"mix": (1, -1)}, "--mix 1 -1: a weight must be a number above 0"),
        (("text",), {"mix": (1, float("nan"))}, "--mix 1 nan: a weight must be a number above 0"),
        (("text", "image"), {"loss_weights": ("image",)}, "--loss-weights 'image' is not STREAM=W"),
        (("text", "image"), {"loss_weights": ("image=-1",)}, "--loss-weights 'image=-1' is not STREAM=W"),
        (("text", "image"), {"loss_weights": ("image=inf",)}, "--loss-weights 'image=inf' is not STREAM=W"),
        (("text", "image"), {"loss_weights": ("image=1", "image=2")}, "gives the stream 'image' twice"),
        (("text", "image"), {"loss_weights": ("imagge=1",)}, "no stream is named 'imagge'.*did you mean 'image'"),
        (
            ("image", "image -> text", "text"),
            {"loss_weights": ("text=0",)},
            "leaves the template 'image -> text' without any loss",
        ),
        (("text",), {"form": "encoder-decoder"}, "sees a condition as a whole, but the template 'text' has none"),
        (("text", "image"), {"form": "prefix"}, "sees a condition as a whole, but the template 'text' has none"),
        (("text", "text -> image"), {"context": 8}, "template 'text -> image': the longest document has"),
        (
            ("image", "text"),
            {"validation_fraction": 0.999},
            "template 'image': all 60 samples fall into the validation part",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(pictures, texts, templates, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_transformer(options_for(None, tmp_path / "m", shards=(pictures, texts), template=templates, **changes))


def test_a_template_that_no_set_has_all_of_is_refused(texts, tmp_path):
    photos = write_streams(tmp_path / "photos", {"photo": Shades()}, {"photo": [np.zeros((2, 2), np.uint8)] * 4})
    message = (
        r"no shard set has all streams of the template 'text -> photo' \(text, photo\): .*texts has text; .*photos has "
    )
    with pytest.raises(ValueError, match=message):
        MixedData.open([texts, photos], ("text", "text -> photo"))
    with pytest.raises(ValueError, match="photos has no stream 'text', which the template 'text' needs"):
        MixedData.open([texts, photos], ("text",))


def test_a_stream_of_two_tokenizers_is_refused(texts, tmp_path):
    samples = picture_samples(10)
    other = write_shards(tmp_path / "other", samples, tokenizers={"text": Letters(salt=1), "image": Shades()})
    with pytest.raises(
        ValueError, match=r"stream 'text' of .*other was made by another tokenizer than that of .*texts"
    ):
        MixedData.open([texts, other], ("text", "image"))


def test_a_condition_alone_has_no_weight(pictures):
    data = MixedData.open([pictures], ("text -> image", "image"))
    with pytest.raises(
        ValueError, match=r"--loss-weights text=0\.5: the stream 'text' is a condition in all templates"
    ):
        token_weights_of(["text=0.5"], data.templates, data.vocabulary)


def test_a_set_of_which_nothing_is_left_to_train_on_is_refused_with_mix(pictures, tmp_path):
    few = write_shards(tmp_path / "few", picture_samples(2), shards=1)  # of sample-0 and sample-1
    (tmp_path / "keys.txt").write_text("sample-0\nsample-1\n")
    changes = {"validation_keys": str(tmp_path / "keys.txt"), "template": BOTH[:2], "mix": (1, 1)}
    with pytest.raises(ValueError, match="few has no document to train on for the template 'text -> image'"):
        train_transformer(options_for(None, tmp_path / "m", shards=(pictures, few), **changes))


# What is held out.


@pytest.mark.parametrize("listed", [False, True])
def test_a_sample_is_held_out_in_all_templates_and_sets(pictures, more_pictures, texts, tmp_path, listed):
    templates = ("text -> image", "image -> text", "text", "image image -> image image", "text text text")
    data = MixedData.open([pictures, more_pictures, texts], templates)
    keys = None
    if listed:
        (tmp_path / "keys.txt").write_text("".join(f"sample-{number}\n" for number in range(3, 40, 5)))
        keys = read_keys(str(tmp_path / "keys.txt"))
    halves = data.split(0.25, 10**9, keys)

    def out(key):
        return held_out(key, 0.25) if keys is None else key in keys

    for part, (training, validation) in zip(data.parts, halves, strict=True):
        samples = part.documents.template.samples
        assert len(training)
        assert len(validation)
        assert all(out(part.keys[document]) for document in validation)
        for document in training.tolist():
            assert not any(map(out, part.sample_keys[document * samples : (document + 1) * samples]))
    validated = {data.parts[0].keys[document] for document in halves[0][1]}
    trained = {data.parts[1].keys[document] for document in halves[1][0]}
    assert validated
    assert not validated & trained
    # What is neither has a later sample that is held out; with one sample a document there is none.
    for part, (training, validation) in zip(data.parts[:3], halves[:3], strict=True):
        assert len(training) + len(validation) == len(part.documents)


# The loss.


def test_the_loss_weighs_the_tokens_of_each_stream(pictures):
    data = MixedData.open([pictures], ("text image", "image -> text"))
    halves = data.split(0.1, 10**9)
    dataset = mixed_dataset(data, data.sources([one for one, _ in halves], ()), 24, 6)
    token_weights = token_weights_of(["image=0.25", "text=3"], data.templates, data.vocabulary)
    torch.manual_seed(0)
    model = build_model("mean", {"vocab_size": data.vocabulary.size, "context": 24})
    batch = dataset.batch(0)
    slow = [0.0, 0.0]
    logits = model(batch.ids, positions=batch.positions, documents=batch.documents)
    image = data.vocabulary.stream("image")
    own = {
        image.begin,
        *range(image.first_shape, image.first_shape + len(image.shapes)),
        *range(image.offsets[0], image.offsets[0] + 4),
    }
    for row, labels in enumerate(batch.labels.tolist()):
        for place, label in enumerate(labels):
            if label != -100:
                weight = 0.25 if label in own else 3.0
                slow[0] += weight * float(token_loss(logits[row, place], torch.tensor(label)).nll)
                slow[1] += weight
    network = LossOf(model, 0.0, token_weights)
    total, nll = network(batch)
    assert float(total.detach()) == pytest.approx(slow[0], rel=1e-5)
    assert float(nll) == pytest.approx(slow[0], rel=1e-5)
    from trainers.autoregressive.task import SequenceTask, Validation
    from trainers.config import OptimizerConfig

    tokenizers = {"text": Letters(), "image": Shades()}
    validation = Validation(data.parts[0].documents, halves[0][1], 24, 4, tokenizers)
    task = SequenceTask(model, dataset, validation, OptimizerConfig(), 4, 0.0, Path("unused"), token_weights)
    assert task.weight(batch) == slow[1]
    assert task.size(batch) == batch.weight == int((batch.labels != -100).sum())
    # Validation counts every token as one.
    plain = float(model.loss(batch.inputs, batch.labels, (batch.labels != -100).float()).nll)
    assert float(network(batch, batch.labels != -100)[1]) == pytest.approx(plain)
    assert "token_weights" not in network.state_dict()


def test_a_stream_of_weight_nothing_teaches_nothing(pictures):
    data = MixedData.open([pictures], ("text image",))
    halves = data.split(0.1, 10**9)
    batch = mixed_dataset(data, data.sources([halves[0][0]], ()), 24, 6).batch(0)
    torch.manual_seed(0)
    model = build_model("mean", {"vocab_size": data.vocabulary.size, "context": 24})
    LossOf(model, 0.0, token_weights_of(["image=0"], data.templates, data.vocabulary))(batch)[0].backward()
    text = model.out.weight.grad.clone()
    model.zero_grad()
    only = (batch.labels != -100) & (batch.labels < data.vocabulary.offset("image"))
    image = data.vocabulary.stream("image")
    only &= ~((batch.labels >= image.first_shape) & (batch.labels < image.first_shape + len(image.shapes)))
    model.loss(batch.inputs, batch.labels, only.float()).total.backward()
    assert only.any()
    torch.testing.assert_close(text, model.out.weight.grad)


@pytest.mark.parametrize("loss_weights", [("image=0.3", "text=0.07"), ("image=0.0001", "text=0.0003")])
def test_accumulation_with_loss_weights_equals_one_large_batch(pictures, texts, tmp_path, loss_weights):
    common = {"template": BOTH, "shards": (pictures, texts), "context": CONTEXT, "steps": 6, "model": PLAIN}
    common |= {"loss_weights": loss_weights, "precision": "32-true", "z_loss": 1e-3}
    train_transformer(options_for(None, tmp_path / "one", batch_size=6, **common))
    train_transformer(options_for(None, tmp_path / "three", batch_size=2, accumulate=3, **common))
    for one, other in zip(log_without_timing(tmp_path / "one"), log_without_timing(tmp_path / "three"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    one, other = weights(tmp_path / "one")["last"], weights(tmp_path / "three")["last"]
    assert all(torch.allclose(one[key], other[key], atol=2e-5) for key in one)
    assert log_without_timing(tmp_path / "one")[0]["bits_per_token"] > 3  # a mean, whatever the weights are worth


def test_weights_that_say_nothing_change_nothing(pictures, tmp_path):
    common = {"template": "text -> image", "context": CONTEXT, "steps": 4}
    train_transformer(options_for(pictures, tmp_path / "plain", **common))
    train_transformer(options_for(pictures, tmp_path / "ones", loss_weights=("image=1",), **common))
    said = {"template_weights": (3,), "mix": (0.5,)}
    train_transformer(options_for(pictures, tmp_path / "said", **said, **common))
    assert_same_run(tmp_path / "plain", tmp_path / "ones")
    assert_same_run(tmp_path / "plain", tmp_path / "said")
    runs = [read_signed(tmp_path / name / "run.json") for name in ("plain", "ones", "said")]
    assert runs[0] == runs[2]
    assert runs[0]["template"] == "text -> image"
    assert not {"template_weights", "mix", "loss_weights"} & set(runs[0])
    assert runs[1]["loss_weights"] == ["image=1"]
    config = read_signed(tmp_path / "plain" / "model_config.json")
    assert config["template"] == "text -> image"
    assert "templates" not in config


# Whole runs.


def run_options(pictures, more_pictures, texts, out, **changes):
    values = {
        "shards": (pictures, more_pictures, texts),
        "template": BOTH,
        "template_weights": (2, 1, 1.5),
        "mix": (1, 2, 2.2),
        "loss_weights": ("image=0.3",),
        "context": CONTEXT,
    }
    return options_for(None, out, **{**values, **changes})


def test_a_killed_run_gives_the_bits_of_an_unbroken_one(pictures, more_pictures, texts, tmp_path, monkeypatch):
    options = run_options(pictures, more_pictures, texts, tmp_path / "whole", accumulate=2)
    result = train_transformer(options)
    assert 0.5 < result.epochs < 1
    data, sources, _ = opened(options.shards, BOTH, options.mix, 0.15)
    dataset = mixed_dataset(data, sources, CONTEXT, 2, template_weights=options.template_weights, mix=options.mix)
    read = 24 * 2 * 2 * dataset.interleaving.counts / dataset.interleaving.period
    assert max(read / [one.rows_per_epoch for one in dataset.sources]) > 2  # the smallest source is in its third epoch
    for step in (7, 23):
        again = dataclasses.replace(options, out=str(tmp_path / f"killed{step}"))
        train_until(again, step, monkeypatch)
        assert train_transformer(again).resumed_from == step // 5 * 5
        assert_same_run(options.out, again.out)
    for changes, message in [
        ({"template_weights": (1, 1, 1)}, r"template_weights was \[2.0, 1.0, 1.5\], now|template_weights"),
        ({"mix": ()}, "mix was"),
        ({"loss_weights": ()}, "loss_weights was"),
        ({"template": BOTH[::-1]}, "template was"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_transformer(dataclasses.replace(options, **changes))


def test_two_processes_give_the_losses_of_one(pictures, more_pictures, texts, tmp_path):
    changes = {"steps": 6, "accumulate": 2, "precision": "32-true", "model": PLAIN}
    train_transformer(run_options(pictures, more_pictures, texts, tmp_path / "one", batch_size=4, **changes))
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]\n"
        "import test_mixture, torch\nfrom trainers.autoregressive.options import TransformerOverrides\n"
        "from trainers.autoregressive.train import train_transformer\n"
        "torch.set_num_threads(1)\n"
        f"sets, out = {[pictures, more_pictures, texts]}, {str(tmp_path / 'two')!r}\n"
        f"options = test_mixture.run_options(*sets, out, batch_size=2, devices=2, **{changes})\n"
        "train_transformer(options)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for one, other in zip(log_without_timing(tmp_path / "one"), log_without_timing(tmp_path / "two"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    one, other = weights(tmp_path / "one")["last"], weights(tmp_path / "two")["last"]
    assert all(torch.allclose(one[key], other[key], atol=2e-5) for key in one)


@pytest.fixture(scope="module")
def trained(pictures, texts, tmp_path_factory):
    """A folder with several templates, its result, and what was told."""
    out = tmp_path_factory.mktemp("mixture") / "model"
    told = Told()
    templates = ("text image", "image -> text", "text")
    changes = {"steps": 8, "model": PLAIN, "precision": "32-true", "validation_tokens": 10**6}
    options = options_for(None, out, shards=(pictures, texts), template=templates, context=CONTEXT, **changes)
    return str(out), train_transformer(options, told), told.said


def slow_score(model, ids, before, cut):
    """The log-probability of each token of a document that comes after so many places of the line; and the places up to its end.

    Where documents are cut, each piece of the line that is in one row is by itself.
    """
    found = []
    begin = 0
    while begin < len(ids) - 1:
        room = CONTEXT - (before + begin) % CONTEXT if cut else len(ids)
        end = min(len(ids) - 1, begin + room)
        found += score(model, [ids[begin : end + 1]])[0].tolist()
        begin = end
    return found, before + len(ids) - 1


def test_validation_is_of_each_template_and_stream(trained, pictures, texts):
    folder, result, told = trained
    loaded = load_model(folder)
    sets = ([pictures], [pictures], [pictures, texts])
    nats, counts, expected = {}, Counter(), {}
    for template, shards in zip(loaded.templates, sets, strict=True):
        data = TokenData.open(shards, str(template), loaded.vocabulary)
        units = Counter()
        of_stream, tokens_of, before = Counter(), Counter(), 0
        for document in (number for number, key in enumerate(data.keys) if held_out(key, 0.15)):
            grids = data.documents.grids(document)
            laid = template.document(grids, loaded.vocabulary)
            nll, before = slow_score(loaded.model, laid.ids.tolist(), before, data.documents.is_stream)
            streams = list(loaded.vocabulary.streams)
            for place in np.flatnonzero(laid.loss_mask):
                assert laid.streams[place] >= 0
                name = streams[laid.streams[place]]
                of_stream[name] -= nll[place - 1]
                tokens_of[name] += 1
            for name in template.target:
                units[name] += grids[name].size
        name = str(template)
        nats[name], counts[name] = sum(of_stream.values()), sum(tokens_of.values())
        expected[f"{name}/bits_per_token"] = bits_per(nats[name], counts[name])
        if len(of_stream) > 1:
            expected |= {f"{name}/{one}/bits_per_token": bits_per(of_stream[one], tokens_of[one]) for one in of_stream}
        rate = {"text": "bits_per_byte", "image": "bits_per_dimension_quantised"}
        expected |= {f"{name}/{one}/{rate[one]}": bits_per(of_stream[one], units[one]) for one in of_stream}
    expected["bits_per_token"] = bits_per(sum(nats.values()), sum(counts.values()))
    expected["loss"] = sum(nats.values()) / sum(counts.values())
    assert result.metrics == pytest.approx(expected, rel=1e-4)
    assert list(result.metrics)[:2] == ["bits_per_token", "loss"]  # the first picks the best weights
    lines = [line for line in log_without_timing(folder) if "validation/loss" in line]
    assert {name.removeprefix("validation/") for name in lines[-1] if name.startswith("validation/")} == set(expected)
    shares = [line for line in told if "% of the rows" in line]
    assert [line.split(":")[0] for line in shares] == ["'text image'", "'image -> text'", "'text'"]
    assert result.documents + result.validation_documents == 60 + 60 + 110


def test_the_folder_knows_all_templates(trained, capsys):
    folder = trained[0]
    config = read_signed(Path(folder) / "model_config.json")
    assert config["templates"] == ["text image", "image -> text", "text"]
    assert "template" not in config
    loaded = load_model(folder)
    assert str(loaded.template) == "text image"
    assert list(map(str, loaded.templates)) == config["templates"]
    assert set(loaded.tokenizers) == {"text", "image"}
    assert str(loaded.using("image->text").template) == "image -> text"
    assert loaded.using(None) is loaded
    assert str(loaded.using("text").using("text image").template) == "text image"
    with pytest.raises(ValueError, match=r"not trained on the template 'text -> image'.*did you mean 'text image'"):
        loaded.using("text -> image")
    assert main(["verify", folder]) == 0
    assert "text image, image -> text, text" in capsys.readouterr().out
    assert main(["inspect", folder]) == 0
    assert "templates: text image, image -> text, text" in capsys.readouterr().out


def test_generate_follows_the_template_that_is_asked_for(trained, tmp_path, capsys):
    folder = trained[0]
    Image.fromarray(np.full((3, 4), 200, np.uint8)).save(tmp_path / "picture.png")

    def drawn(name, *words):
        code = main(["generate", "--model", folder, "--out", str(tmp_path / name), "--quiet", "--json", *words])
        captured = capsys.readouterr()
        if code:
            return captured.err
        (line,) = map(json.loads, (tmp_path / name / "samples.jsonl").read_text().splitlines())
        return line

    loaded = load_model(folder)
    first = drawn("first")
    assert set(first["files"]) == {"text", "image"}
    assert set(loaded.template.parse_ids(first["ids"], loaded.vocabulary)) == {"text", "image"}
    caption = drawn("caption", "--template", "image -> text", "--prompt-file", str(tmp_path / "picture.png"))
    assert set(caption["files"]) == {"text"}
    grids = loaded.using("image -> text").template.parse_ids(caption["ids"], loaded.vocabulary)
    assert grids["image"].tolist() == [[3] * 4] * 3
    text = drawn("text", "--template", "text", "--prompt", "red")
    assert text["text"].startswith("red")
    bare = drawn("bare", "--template", "image -> text")
    assert (
        "needs the condition 'image'; give it with --prompt-file FILE, or take another template with --template" in bare
    )
    wrong = drawn("wrong", "--template", "image -> text", "--prompt", "red")
    assert "use --prompt-file, or take another template with --template ('text image', 'text')" in " ".join(
        wrong.split()
    )
    assert "did you mean 'image -> text'" in drawn("unknown", "--template", "image -> texts")
    assert json.loads((tmp_path / "first" / "generate.json").read_text()).get("template") is None
    assert json.loads((tmp_path / "text" / "generate.json").read_text())["template"] == "text"


def test_prompts_of_each_stream_are_prepared_as_its_own_sets_were(texts, tmp_path):
    grids = {"text": [np.array([1, 2], np.uint8)] * 12, "image": [np.zeros((2, 2), np.uint8)] * 12}
    small = write_streams(
        tmp_path / "small", {"text": Letters(), "image": Shades()}, grids, options={"image_size": 2, "crop": True}
    )
    options = options_for(None, tmp_path / "m", shards=(small, texts), template=BOTH, context=CONTEXT, steps=2)
    train_transformer(options)
    recipe = read_signed(tmp_path / "m" / "recipe.json")
    assert recipe["streams"] == {"image": {"image_size": 2}}
    loaded = load_model(tmp_path / "m")
    assert loaded.prepared("image").image_size == 2
    assert loaded.prepared("text").image_size is None
    Image.fromarray(np.full((8, 8), 224, np.uint8)).save(tmp_path / "large.png")
    found = prompt_grids(loaded.using("image -> text"), files=(str(tmp_path / "large.png"),))
    assert found["image"].tolist() == [[3, 3], [3, 3]]
    recipe["streams"] = 3
    write_json(tmp_path / "m" / "recipe.json", signed({k: v for k, v in recipe.items() if k != "own_digest"}))
    with pytest.raises(ValueError, match=r"recipe\.json"):
        load_model(tmp_path / "m")


def test_a_model_learns_both_directions(tmp_path):
    shards = write_shards(tmp_path / "shards", picture_samples(80))
    from trainers.config import OptimizerConfig

    changes = {
        "model": TransformerOverrides(layers=2, width=32, heads=2),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=10),
        "steps": 80,
        "batch_size": 8,
        "precision": "32-true",
    }
    options = options_for(shards, tmp_path / "m", template=BOTH[:2], context=CONTEXT, **changes)
    train_transformer(options)
    picture = {}
    for number, word in enumerate(("black", "dark", "light", "white")):
        out = str(tmp_path / word)
        ask = {"model": options.out, "out": out, "temperature": 0.0, "device": "cpu"}
        drawn = generate_samples(GenerateOptions(prompt=word, **ask))
        picture[word] = np.asarray(Image.open(drawn.files[0]))
        assert np.median(picture[word] // 64) == number
        named = GenerateOptions(
            template="image -> text", prompt_file=(drawn.files[0],), **(ask | {"out": f"{out}-named"})
        )
        assert generate_samples(named).texts == (word,)


def test_options_come_from_a_file_and_from_words(pictures, texts, tmp_path, capsys):
    common = f"shards: [{pictures}, {texts}]\nsteps: 1\nbatch_size: 2\ncontext: {CONTEXT}\ndevice: cpu\n"
    common += "model: {layers: 1, width: 16, heads: 2}\n"
    said = {
        "one": "template: text\n",
        "two": "template: ['text -> image', text]\ntemplate_weights: [2, 1]\nmix: [3, 1]\nloss_weights: [image=0.5]\n",
    }
    for name, text in said.items():
        (tmp_path / f"{name}.yaml").write_text(common + text)
        words = ["train", "transformer", "--config", str(tmp_path / f"{name}.yaml"), "--quiet", "--out"]
        assert main([*words, str(tmp_path / name)]) == 0, capsys.readouterr().err
    words = [
        "train",
        "transformer",
        "--shards",
        pictures,
        "--shards",
        texts,
        "--template",
        "text -> image",
        "--template",
        "text",
    ]
    words += [
        "--template-weights",
        "2",
        "1",
        "--mix",
        "3",
        "1",
        "--loss-weights",
        "image=0.5",
        "--steps",
        "1",
        "--batch-size",
        "2",
    ]
    words += [
        "--context",
        str(CONTEXT),
        "--model.layers",
        "1",
        "--model.width",
        "16",
        "--model.heads",
        "2",
        "--device",
        "cpu",
    ]
    assert main([*words, "--quiet", "--out", str(tmp_path / "words")]) == 0, capsys.readouterr().err
    runs = {name: read_signed(tmp_path / name / "run.json") for name in ("one", "two", "words")}
    assert runs["one"]["template"] == "text"
    assert runs["two"] == runs["words"]
    assert runs["two"]["template"] == ["text -> image", "text"]


def test_nothing_held_out_is_measured_nowhere_and_the_last_weights_are_kept(pictures, texts, tmp_path):
    told = Told()
    changes = {
        "template": BOTH,
        "shards": (pictures, texts),
        "context": CONTEXT,
        "steps": 3,
        "validation_fraction": 0.0,
    }
    result = train_transformer(options_for(None, tmp_path / "m", **changes), told)
    assert result.metrics == {}
    assert result.best_step == 3
    assert load_model(tmp_path / "m").step == 3
    assert not any("is not measured" in text for text in told.said)


def test_a_template_of_which_nothing_is_held_out_is_not_measured(pictures, texts, tmp_path):
    (tmp_path / "keys.txt").write_text("sample-45\nsample-47\n")
    few = write_shards(tmp_path / "few", picture_samples(20))  # sample-45 is none of them
    told = Told()
    changes = {"template": ("image", "text"), "shards": (few, texts), "context": CONTEXT, "steps": 2}
    changes |= {"validation_keys": str(tmp_path / "keys.txt"), "validation_fraction": 0.05}
    result = train_transformer(options_for(None, tmp_path / "m", **changes), told)
    assert set(result.metrics) == {"bits_per_token", "loss", "text/bits_per_token", "text/text/bits_per_byte"}
    assert "'image': none of its 20 documents falls into the validation part; it is not measured" in told.said


def test_an_encoder_decoder_learns_templates_without_a_condition_too(pictures, texts, tmp_path):
    changes = {"form": "encoder-decoder", "steps": 2, "template": ("text -> image", "text")}
    train_transformer(options_for(None, tmp_path / "both", shards=(pictures, texts), **changes))
    names = {name for line in read_log(tmp_path / "both" / "train_log.jsonl") for name in line}
    assert {"validation/text -> image/bits_per_token", "validation/text/bits_per_token"} <= names
