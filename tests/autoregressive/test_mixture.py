"""Several templates and shard sets in one run: the order of the rows, the vocabulary, the split."""

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train import options_for
from toys.world import Letters, Shades, picture_samples, text_samples, write_shards, write_streams

from tokenize_kit.sources.heldout import held_out, read_keys
from trainers.autoregressive.batches import PackedDataset
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.mixture import Interleaving, MixedData, counts_of, mixed_dataset
from trainers.autoregressive.objectives.masked import MASKED
from trainers.autoregressive.objectives.next_token import NEXT_TOKEN
from trainers.autoregressive.options import TransformerOverrides
from trainers.autoregressive.task import token_weights_of
from trainers.autoregressive.train import train_transformer

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent
BOTH = ("text -> image", "image -> text", "text")
CONTEXT = 40
PLAIN = TransformerOverrides(layers=1, width=16, heads=2)


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
