"""Hidden tokens in any order: the objective, its weights, the likelihood that it bounds, and what holds in place of causality."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys.world import picture_samples, write_shards

from tokenize_kit.sequences.packing import IGNORED
from trainers.autoregressive.any_order import bound_log_likelihood, order_log_likelihood
from trainers.autoregressive.batches import PackedDataset
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.models import SequenceModel, build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.objectives import objective_named
from trainers.autoregressive.objectives.any_order import ANY_ORDER
from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.task import LossOf
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

CONTEXT = 64


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    samples = picture_samples(40, shapes=((3, 4), (2, 2)))
    return write_shards(tmp_path_factory.mktemp("any-order") / "pictures", samples)


def small(vocab: int, context: int = CONTEXT, **more: object) -> SequenceModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab, "context": context, "layers": 2, "width": 32, "heads": 4, "form": "bidirectional"}
    model = build_model("transformer", {**sizes, **more})
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def documents_of(batch):
    """Yield the places of each document of a batch that can be hidden, found by its targets, and which are hidden."""
    for row in range(len(batch.ids)):
        for number in range(int(batch.documents[row].max()) + 1):
            mine = batch.documents[row] == number
            yield row, mine, mine & (batch.labels[row] != IGNORED)


@pytest.mark.parametrize("name", ["any-order", "maskgit"])
def test_hidden_tokens_are_masks_and_all_else_is_seen(shards, name):
    data = TokenData.open((shards,), "text -> image")
    documents, size, objective = data.documents, data.documents.vocabulary.size, objective_named(name)
    batches = PackedDataset(documents, np.arange(40), CONTEXT, 4, 3, objective=objective, needs={"given", "documents"})
    plain = PackedDataset(
        documents, np.arange(40), CONTEXT, 4, 3, objective=replace(objective_named("masked")), needs={"documents"}
    )
    shares = []
    for index in range(20):
        batch, other = batches.batch(index), plain.batch(index)
        hidden = batch.ids == size
        assert torch.equal(hidden, batch.labels != IGNORED)
        assert not batch.given[hidden].any()
        # The rest is as the documents have it, which another objective shows where it changes nothing.
        both = ~hidden & (other.labels == IGNORED)
        assert torch.equal(batch.ids[both], other.ids[both])
        for row, mine, own in documents_of(batch):
            could = int(mine.sum()) - int(batch.given[row, mine].sum())
            count = int(own.sum())
            assert count >= 1
            # Of a picture <begin> and <eos> are forced, and the shape is predicted.
            every = could - 2
            shares.append(count / every)
            if name == "any-order":
                assert batch.label_weights is not None
                torch.testing.assert_close(batch.label_weights[row, own], torch.full((count,), every / count))
        if name == "any-order":
            numbers = sum(int((~batch.given[row, mine]).sum()) - 2 for row, mine, _ in documents_of(batch))
            assert float(batch.weights().sum()) == pytest.approx(numbers, rel=1e-5)
        else:
            assert batch.label_weights is None
        assert torch.equal(batches.batch(index).ids, batch.ids), "a pure function of the number of the batch"
    # Uniform over 1 .. N has the mean (N + 1) / 2N; the mean of the cosine is 2 / pi, rounded up.
    assert np.mean(shares) == pytest.approx(0.56 if name == "any-order" else 2 / math.pi + 0.05, abs=0.05)


def test_weights_reach_loss_and_validation_alike(shards):
    documents = TokenData.open((shards,), "text -> image").documents
    model = small(documents.vocabulary.size + 1)
    batch = PackedDataset(documents, np.arange(40), CONTEXT, 2, 3, objective=ANY_ORDER, needs=model.needs).batch(0)
    each = -model.logits(batch.inputs).log_softmax(-1).gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
    asked = batch.labels != IGNORED
    expected = float((each * batch.label_weights)[asked].sum().detach())
    network = LossOf(model, 0.0)
    assert float(network(batch)[1]) == pytest.approx(expected, rel=1e-5)
    assert float(network(batch, asked)[1]) == pytest.approx(expected, rel=1e-5)


def test_probabilities_of_all_sequences_sum_to_one_for_every_order():
    model = small(3, 5)  # two ids and the mask
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        total = 0.0
        for ids in itertools.product(range(2), repeat=4):
            # The last place is given.
            inputs = Inputs(torch.tensor([[*ids, 1]]))
            total += float(order_log_likelihood(model, inputs, order, 2).sum().exp())
        assert total == pytest.approx(1, abs=1e-6)


def test_an_order_is_the_chain_rule_read_one_by_one():
    model = small(6, 8)
    ids = torch.tensor([[1, 4, 0, 2, 3, 3, 1]])
    order = [5, 0, 3, 2]
    expected, seen = [], {1, 4, 6}
    for place in order:
        row = torch.where(torch.tensor([[p in seen for p in range(7)]]), ids, 5)
        logits = model(row, documents=torch.zeros_like(row))[0, place, :5].double()
        expected.append(float(logits.log_softmax(-1)[ids[0, place]]))
        seen.add(place)
    found = order_log_likelihood(model.train(), Inputs(ids), order, 5, batch_size=3)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_bound_is_the_mean_over_all_orders():
    model = small(4, 5)
    inputs, places = Inputs(torch.tensor([[2, 0, 1, 1]])), (0, 1, 2)
    orders = [float(order_log_likelihood(model, inputs, order, 3).sum()) for order in itertools.permutations(places)]
    # All subsets, each with its weight: exactly the mean over orders, and below the mean of the probabilities.
    exact = np.mean(orders)
    assert exact < math.log(np.mean(np.exp(orders)))
    estimate = bound_log_likelihood(model, inputs, places, 3, draws=2000, batch_size=2000)
    assert estimate.nats == pytest.approx(exact, abs=4 * estimate.error)
    assert 0 < estimate.error < 0.05
    few = [bound_log_likelihood(model, inputs, places, 3, draws=5, seed=1, batch_size=size) for size in (16, 2)]
    assert few[0] == pytest.approx(few[1], abs=1e-6)
    assert math.isnan(bound_log_likelihood(model, inputs, places, 3, draws=1).error)


def test_draws_hide_every_choice_of_tokens_alike(shards):
    documents = TokenData.open((shards,), "image").documents
    batches = PackedDataset(documents, np.arange(40), CONTEXT, 4, 0, objective=ANY_ORDER, needs={"documents"})
    counts: Counter[tuple[int, ...]] = Counter()
    for index in range(120):
        batch = batches.batch(index)
        for _, mine, own in documents_of(batch):
            # <bos> <begin> <shape> 4 ids <eos>: the shape and the ids can be hidden.
            if int(mine.sum()) == 8:
                counts[tuple((own[mine].nonzero()[:, 0] - 2).tolist())] += 1
    total = sum(counts.values())
    assert len(counts) == 2**5 - 1
    for chosen, count in counts.items():
        expected = total / 5 / math.comb(5, len(chosen))
        assert abs(count - expected) < 5 * expected**0.5, chosen


@pytest.mark.parametrize("attention", ["full", "strided"])
def test_a_place_reaches_all_others_of_its_document_and_no_other_document(attention):
    """What holds in place of causality; of a hidden token the model has no id to look at."""
    model = small(9, 20, attention=attention).double()
    ids = torch.randint(0, 8, (1, 20), generator=torch.Generator().manual_seed(0))
    ids[0, [2, 3, 13]] = 8
    documents = torch.tensor([[0] * 9 + [1] * 11])
    positions = torch.tensor([[*range(9), *range(11)]])
    embedded = model.embedding.weight.detach()[ids].requires_grad_()
    handle = model.embedding.register_forward_hook(lambda *_: embedded)
    logits = model.logits(Inputs(ids, positions, documents))
    handle.remove()
    for place in (2, 13):
        (gradient,) = torch.autograd.grad(logits[0, place].square().sum(), embedded, retain_graph=True)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, documents[0] == documents[0, place])


@pytest.mark.parametrize(
    ("places", "message"),
    [([], "at least one of the 3"), ([1, 1], "each once"), ([3], "must be at least one of the 3")],
)
def test_places_that_are_none_are_refused(places, message):
    with pytest.raises(ValueError, match=message):
        order_log_likelihood(small(4, 5), Inputs(torch.tensor([[0, 1, 2]])), places, 3)


def test_a_causal_model_has_one_order_alone():
    model = build_model("transformer", {"vocab_size": 4, "context": 5, "layers": 1, "width": 8, "heads": 1})
    with pytest.raises(ValueError, match="in one order alone"):
        bound_log_likelihood(model, Inputs(torch.tensor([[0, 1, 2]])), [1], 3, draws=2)
    with pytest.raises(ValueError, match="draws 0 must be at least 1"):
        bound_log_likelihood(small(4, 5), Inputs(torch.tensor([[0, 1, 2]])), [1], 3, draws=0)


def test_trained_in_any_order_it_tells_a_bound_on_bits_a_dimension(shards, tmp_path):
    options = TrainTransformerOptions(
        shards=(shards,),
        template=("text -> image",),
        out=str(tmp_path / "model"),
        objective="any-order",
        model=TransformerOverrides(layers=1, width=32, heads=2),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=4),
        steps=8,
        batch_size=4,
        device="cpu",
        precision="32-true",
        validation_fraction=0.2,
    )
    bound = train_transformer(options).metrics
    # A picture has a shape token besides its pixels, so a pixel of one channel takes somewhat more than a token.
    assert 1 < bound["image/bits_per_dimension_quantised"] / bound["bits_per_token"] < 1.35
