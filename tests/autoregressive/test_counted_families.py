"""Histograms and Bayes nets: what is counted, through the same trainer and generation as everything else."""

import itertools
import json
import os
import socket
from collections import Counter

import numpy as np
import pytest
import torch
from test_train import options_for, train_until
from torch import distributed, multiprocessing
from toys.world import LETTERS, Letters, Shades, picture_samples, write_shards, write_streams

from tokenize_kit.shards import ShardSet
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.dependence import _Evidence, _joint
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.options import GenerateOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")
COUNT = 60


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """Pictures of one size, and the text of each."""
    return write_shards(tmp_path_factory.mktemp("data") / "pictures", picture_samples(COUNT, shapes=((3, 4),)))


def counting(data, out, family, config, **changes):
    """Options of one epoch: batches of 4 rows of one document each."""
    out.parent.mkdir(parents=True, exist_ok=True)
    (file := out.with_suffix(".json")).write_text(json.dumps(config))
    values = {
        "template": "image",
        "model": TransformerOverrides(),
        "optimizer": OptimizerConfig(),
        "family": family,
        "family_config": str(file),
        "context": None,
        "batch_size": 4,
        "steps": COUNT // 4,
        "validation_fraction": 0.0,
    }
    return options_for(data, out, **{**values, **changes})


def pictures_of(data):
    """Return the pictures of a shard set as flat rows, one by one."""
    return [
        array.values[start:stop].astype(np.int64)
        for array in ShardSet.open(data).stream_arrays("image")
        for start, stop in itertools.pairwise(array.offsets)
    ]


@pytest.mark.parametrize("by_place", [False, True])
def test_after_one_epoch_probabilities_are_the_smoothed_counts_of_the_documents(shades, tmp_path, by_place):
    options = counting(shades, tmp_path / "model", "histogram", {"by_place": by_place, "smoothing": 0.5})
    result = train_transformer(options)
    assert (result.epochs, result.parameters) == (1.0, 0)
    loaded = load_model(tmp_path / "model")
    vocabulary = loaded.vocabulary
    first, _ = vocabulary.streams["image"].range_of(0)
    header = 1 + vocabulary.streams["image"].header  # <bos>, <begin>
    counts = Counter()
    for picture in pictures_of(shades):
        for pixel, shade in enumerate(picture.tolist()):
            counts[header + pixel if by_place else 0, first + shade] += 1
    probabilities = loaded.model(torch.zeros(1, result.context, dtype=torch.int64))[0].double().exp()
    for place in range(header, header + 12):
        total = COUNT if by_place else COUNT * 12
        for token in range(vocabulary.size):
            expected = (counts[place if by_place else 0, token] + 0.5) / (total + 0.5 * vocabulary.size)
            assert float(probabilities[place - 1, token]) == pytest.approx(expected, rel=1e-6)
    found = generate_samples(GenerateOptions(model=str(tmp_path / "model"), out=str(tmp_path / "drawn"), count=2))
    assert len(found.texts) == 2 or len(list((tmp_path / "drawn").glob("sample_*"))) == 2


@pytest.mark.parametrize(("family", "config"), [("histogram", {"by_place": True}), ("bayes", {"samples": 100})])
def test_a_killed_count_goes_on_to_the_bits_of_an_unbroken_one(shades, tmp_path, monkeypatch, family, config):
    changes = {"validation_fraction": 0.2, "steps": 12, "validate_every": 3, "checkpoint_every": 2, "log_every": 1}
    whole = counting(shades, tmp_path / "whole", family, config, **changes)
    broken = counting(shades, tmp_path / "broken", family, config, **changes)
    one = train_transformer(whole)
    train_until(broken, 7, monkeypatch)
    other = train_transformer(broken)
    assert other.resumed_from == 6
    assert one.metrics == other.metrics
    assert one.best_step == other.best_step == 12
    first, second = (load_model(tmp_path / name).model.state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_a_bayes_net_learns_and_draws_through_the_trainer(shades, tmp_path):
    options = counting(shades, tmp_path / "model", "bayes", {"samples": 200, "smoothing": 0.1})
    result = train_transformer(options)
    model = load_model(tmp_path / "model").model
    assert int(model.kept_count) == int(model.fitted) == COUNT
    assert result.epochs == 1.0
    # All pixels of a picture have one shade, with a tenth of noise, so each depends on one before it, and the first on none.
    parents = model.graph[:, 0].tolist()
    assert parents[2] == -1
    assert all(2 <= parents[place] < place for place in range(3, 14))
    generate_samples(GenerateOptions(model=str(tmp_path / "model"), out=str(tmp_path / "drawn"), count=12, seed=1))
    drawn = [json.loads(line) for line in (tmp_path / "drawn" / "samples.jsonl").read_text().splitlines()]
    assert len(drawn) == 12


def made_of(rows, **config):
    """Return a Bayes net that has seen rows, int64 (N, L), from <bos> on."""
    values = {"vocab_size": int(rows.max()) + 1, "context": rows.shape[1], "samples": 2 * len(rows)}
    model = build_model("bayes", {**values, **config}).train()
    model.loss(Inputs(rows[:, :-1]), rows[:, 1:])
    return model.eval()


def some_rows(count):
    """Tokens 1 to 5 of which 3 copies 1, 4 is 1 and 2 together and 5 copies 4, the copies with a tenth of noise."""
    draw = torch.Generator().manual_seed(3)
    one, two = torch.randint(0, 2, (2, count), generator=draw)
    noise = (torch.rand(2, count, generator=draw) < 0.1).long()
    three, four = one ^ noise[0], one & two
    return torch.stack((torch.zeros_like(one), one, two, three, four, four ^ noise[1]), 1)


def test_learned_graphs_are_those_that_made_the_data():
    rows = some_rows(1000)
    tree = made_of(rows).graph[:, 0].tolist()
    assert tree[3] == 1
    assert tree[5] == 4
    graph = made_of(rows, parents=2).graph
    assert [sorted(set(graph[place].tolist()) - {-1}) for place in (2, 3, 4, 5)] == [[], [1], [1, 2], [4]]


def test_the_tree_is_the_one_of_the_highest_mutual_information():
    rows = some_rows(80)
    graph = made_of(rows).graph[:, 0].tolist()

    def information(a, b):
        pairs, left, right = (Counter(map(tuple, rows[:, part].tolist())) for part in ([a, b], [a], [b]))
        return sum(n / 80 * np.log(n * 80 / left[x,] / right[y,]) for (x, y), n in pairs.items())

    for place in range(2, 6):
        amounts = [information(parent, place) for parent in range(place)]
        assert amounts[graph[place]] == pytest.approx(max(amounts), abs=1e-12)


def test_evidence_is_the_product_of_predictions_one_document_after_the_other():
    rows = some_rows(60)
    judge, groups, own = _Evidence(3, 0.5), rows[:, 1], rows[:, 4]
    found = judge(_joint(groups, own, rows[:, [2, 3]], 2))
    for candidate, evidence in zip((2, 3), found.tolist(), strict=True):
        seen, expected = Counter(), 0.0
        for row in rows.tolist():
            parents, token = (row[1], row[candidate]), row[4]
            expected += np.log((seen[parents, token] + 0.5) / (seen[parents] + 0.5 * 3))
            seen.update([parents, (parents, token)])
        assert evidence == pytest.approx(expected, rel=1e-9)


def test_tables_are_smoothed_counts_given_the_parents():
    rows = some_rows(50)
    model = made_of(rows, edges=[[1, 3], [1, 4], [2, 4]], parents=2, smoothing=0.25)
    logits = model.logits(Inputs(rows[:, :-1]))
    parents = {1: [], 2: [], 3: [1], 4: [1, 2], 5: []}
    for row, place, token in itertools.product(range(0, 50, 7), range(1, 6), range(2)):
        same = [other for other in rows.tolist() if all(other[p] == int(rows[row, p]) for p in parents[place])]
        expected = (sum(other[place] == token for other in same) + 0.25) / (len(same) + 0.5)
        assert float(logits[row, place - 1, token].exp()) == pytest.approx(expected, rel=1e-6)


def test_documents_beyond_the_room_are_left_out():
    rows = some_rows(50)
    full = made_of(rows, samples=20)
    assert torch.equal(full.kept[:, :6].long(), rows[:20])
    torch.testing.assert_close(full.logits(Inputs(rows[:, :-1])), made_of(rows[:20]).logits(Inputs(rows[:, :-1])))


def test_documents_of_two_lengths_are_refused(tmp_path):
    draw = np.random.default_rng(0)
    grids = [draw.integers(0, 4, shape) for shape in ((3, 4), (2, 2)) for _ in range(8)]
    data = write_streams(tmp_path / "data", {"image": Shades()}, {"image": grids})
    with pytest.raises(ValueError, match=r"a document ends at place 6 and another one at 14: .* same number of tokens"):
        train_transformer(counting(data, tmp_path / "model", "bayes", {}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ema": 0.9}, "--ema 0.9"),
        ({"z_loss": 0.1}, "--z-loss 0.1"),
        ({"init_from": "elsewhere"}, "--init-from elsewhere"),
        ({"optimizer": OptimizerConfig(learning_rate=5.0)}, "--optimizer.learning-rate 5.0"),
    ],
)
def test_options_of_weights_are_refused_where_there_are_none(shades, tmp_path, changes, said):
    with pytest.raises(ValueError, match=f"{said}: .* only counts and has no weights"):
        train_transformer(counting(shades, tmp_path / "model", "histogram", {}, **changes))
    assert not (tmp_path / "model").exists()


def test_columns_of_labels_are_variables(tmp_path):
    words = [("a", "b"), ("b", "c"), ("c", "a")] * 8
    grids = {f"word{number}": [np.array([LETTERS.index(pair[number])]) for pair in words] for number in range(2)}
    data = write_streams(tmp_path / "data", {"word0": Letters(), "word1": Letters()}, grids)
    changes = {"template": "word0 word1", "steps": 6}
    train_transformer(counting(data, tmp_path / "model", "bayes", {"samples": 50, "smoothing": 0.01}, **changes))
    loaded = load_model(tmp_path / "model")
    first = loaded.vocabulary.streams["word0"].range_of(0)[0]
    second = loaded.vocabulary.streams["word1"].range_of(0)[0]
    document = [int(token) for token in loaded.model.kept[0] if token >= 0]
    place = next(at for at, token in enumerate(document) if token >= second) - 1
    for before, after in ((0, 1), (1, 2), (2, 0)):
        ids = torch.tensor([document[: place + 1]])
        ids[(ids >= first) & (ids < second)] = first + before
        logits = loaded.model(ids)[0, place]
        assert int(logits.argmax()) == second + after
        assert float(logits.max().exp()) > 0.9


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("histogram", {"smoothing": 0}, "smoothing 0 must be above 0"),
        ("bayes", {"smoothing": -1}, "smoothing -1 must be above 0"),
        ("bayes", {"edges": [[3, 2]]}, "3 -> 2 must lead from a place to a later one"),
        ("bayes", {"edges": [[1, 3], [2, 3]]}, "place 3 has 2 parents, more than parents 1 allows"),
        ("bayes", {"vocab_size": 65_536, "parents": 4}, "too large; take fewer parents"),
    ],
)
def test_wrong_configurations_are_refused(family, config, message):
    with pytest.raises(ValueError, match=message):
        build_model(family, {"vocab_size": 8, "context": 8, **config})


def counted(rows, families):
    found = {}
    for family, config in families.items():
        model = build_model(family, {"vocab_size": 2, "context": 6, **config}).train()
        for part in rows:
            model.loss(Inputs(part[:, :-1]), part[:, 1:])
        found[family] = dict(model.eval().state_dict())
    return found


BOTH = {"histogram": {"by_place": True}, "bayes": {"samples": 20}}


def work(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    # Parts of unequal size.
    parts = [step[:3] if rank == 0 else step[3:] for step in some_rows(16).split(8)]
    torch.save(counted(parts, BOTH), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_count_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port, str(tmp_path)), nprocs=2)
    whole = counted(some_rows(16).split(8), BOTH)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for family, state in whole.items():
            assert all(torch.equal(found[family][name], state[name]) for name in state)
