"""MADE with one and several orders: a slow reference of its cuts, the average over orders, and the trainer."""

import itertools
import json
import math

import pytest
import torch
from test_train import options_for
from toys.world import picture_samples, write_shards

from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import as_joint, build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.options import GenerateOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def build(orders, vocab=2, context=6, **values):
    torch.manual_seed(orders)
    config = {"vocab_size": vocab, "context": context, "width": 16, "orders": orders, **values}
    model = build_model("made", config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return model.double().eval()


def every_document(context=6, vocab=2):
    return torch.tensor([[0, *rest] for rest in itertools.product(range(vocab), repeat=context)])


def documents_of(ids):
    return Inputs(ids[:, :-1]), ids[:, 1:]


@pytest.mark.parametrize("orders", [1, 2, 5])
def test_probabilities_of_all_documents_sum_to_one(orders):
    model = build(orders)
    found = model.document_log_probabilities(*documents_of(every_document()))
    assert float(found.detach().exp().sum()) == pytest.approx(1, abs=1e-5)


def slow_log_probability(model, ids, order):
    """Of one document in one order, place by place: what an output says must not change with what is after it, so those are
    all made another token."""
    ranks = model.ranks[order].tolist()
    turns = sorted(range(len(ids)), key=lambda place: ranks[place])
    total = 0.0
    for number, place in enumerate(turns[1:], 1):
        known = [ids[p] if p in turns[:number] else 1 - ids[p] for p in range(len(ids))]
        units = model._units(torch.tensor([known]), len(ids), order)
        features = model._features(units, order, torch.tensor([place - 1]))
        total += float(model.unembedding(features)[0, 0].detach().log_softmax(-1)[ids[place]])
    return total


def test_orders_are_averaged_as_probabilities():
    model = build(4)
    documents = every_document()[::5]
    found = model.document_log_probabilities(*documents_of(documents)).detach()
    for row, ids in enumerate(documents.tolist()):
        each = [slow_log_probability(model, ids, order) for order in range(4)]
        assert float(found[row]) == pytest.approx(math.log(sum(map(math.exp, each)) / 4), abs=1e-6)
        assert max(each) - min(each) > 1e-3


def test_with_one_order_a_document_is_the_product_of_its_steps():
    model = build(1)
    assert as_joint(model) is None
    assert as_joint(several := build(2)) is several
    inputs, labels = documents_of(every_document())
    steps = model.logits(inputs).log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(
        model.document_log_probabilities(inputs, labels), steps.sum(1), check_dtype=False, atol=1e-5, rtol=1e-5
    )


def test_the_first_order_is_that_of_the_document_and_generation_goes_by_it():
    several, one = build(3), build(1)
    one.load_state_dict(several.state_dict())
    inputs, _ = documents_of(every_document())
    assert torch.equal(several.logits(inputs), one.logits(inputs))


def test_evaluation_is_of_the_average_and_training_of_one_order():
    model = build(3).float()
    inputs, labels = documents_of(every_document())
    mixed = model.loss(inputs, labels)
    torch.testing.assert_close(mixed.nll, -model.document_log_probabilities(inputs, labels).sum())
    singles = []
    for order in range(3):
        ranks = model.ranks.clone()
        model.ranks[0] = ranks[order]
        singles.append(float(build_alone(model).loss(inputs, labels).nll))
        model.ranks.copy_(ranks)
    model.train()
    found = {round(float(model.loss(inputs, labels).nll), 1) for _ in range(20)}
    assert found == {round(value, 1) for value in singles}
    # An average is at least as probable as the orders are on average (Jensen).
    assert float(mixed.nll) <= sum(singles) / 3


def build_alone(model):
    """The same weights with one order, that which stands first."""
    alone = build(1).float()
    alone.load_state_dict(model.state_dict())
    alone.ranks.copy_(model.ranks[:1])
    return alone


def test_what_follows_the_last_token_that_counts_changes_nothing():
    model = build(3, context=8)
    ids = every_document()[:, :6]
    labels = torch.cat((ids[:, 1:], torch.full((len(ids), 3), -100)), 1)
    found = [
        model.document_log_probabilities(Inputs(torch.cat((ids, torch.full((len(ids), 2), tail)), 1)), labels)
        for tail in (0, 1)
    ]
    torch.testing.assert_close(*found, atol=0, rtol=0)
    # Each of the shorter documents is there twice.
    assert float(found[0].detach().exp().sum()) == pytest.approx(2, abs=1e-5)


def test_documents_of_two_lengths_are_refused():
    model = build(2).float().train()
    ids = every_document()[:2]
    weights = torch.ones(2, 6)
    weights[1, 4:] = 0
    with pytest.raises(ValueError, match="a document ends at place 4 and another one at 6"):
        model.loss(Inputs(ids[:, :-1]), ids[:, 1:], weights)
    model.loss(Inputs(ids[:, :-1]), ids[:, 1:])
    with pytest.raises(ValueError, match="a document ends at place 4 and another one at 6"):
        model.loss(Inputs(ids[:, :-1]), ids[:, 1:], weights[1:].expand(2, -1))


def test_training_and_generation_with_several_orders(tmp_path):
    data = write_shards(tmp_path / "data", picture_samples(60, shapes=((3, 4),)))
    (tmp_path / "made.json").write_text(json.dumps({"width": 32, "layers": 1, "orders": 2}))
    options = options_for(
        data,
        tmp_path / "model",
        template="image",
        family="made",
        family_config=str(tmp_path / "made.json"),
        model=TransformerOverrides(),
        context=None,
        steps=80,
        validate_every=80,
        batch_size=8,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=4),
    )
    result = train_transformer(options)
    # A shade of four, and a tenth of noise: 2 bits for the picture, and at most 0.1 x log2(3) + 0.47 a pixel.
    assert result.metrics["bits_per_token"] < 1.2
    assert load_model(tmp_path / "model").model.config.orders == 2
    generate_samples(GenerateOptions(model=str(tmp_path / "model"), out=str(tmp_path / "drawn"), count=3))
    assert len((tmp_path / "drawn" / "samples.jsonl").read_text().splitlines()) == 3
