"""What a token sees and knows: a condition as a whole, everything, positions along several axes, the place that comes next."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from toys.world import picture_samples, text_samples, write_shards

from tokenize_kit.sequences.document import Role
from tokenize_kit.sequences.template import SequenceTemplate
from trainers.autoregressive.batches import PackedDataset
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.generation import generate
from trainers.autoregressive.likelihood import score
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.objectives.masked import CHANGED, CHOSEN, HIDDEN, MASKED
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples, order_seed_of
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT = 48
FORMS = {
    "prefix": {"form": "prefix"},
    "prefix-window": {"form": "prefix", "window": 5},
    "prefix-grouped": {"form": "prefix", "kv_heads": 2, "positions": "learned"},
    "encoder-decoder": {"form": "encoder-decoder"},
    "encoder-decoder-grouped": {"form": "encoder-decoder", "kv_heads": 2, "encoder_layers": 1, "positions": "axial"},
    "encoder-decoder-window": {"form": "encoder-decoder", "window": 5, "qk_norm_gain": True, "head_size": 12},
    "encoder-decoder-post": {
        **{"form": "encoder-decoder", "norm": "layer", "norm_position": "post", "positions": "sinusoidal"},
        **{"qk_norm": False, "bias": True, "mlp": "relu"},
    },
    "axial": {"positions": "axial"},
    "axial-prefix": {"positions": "axial", "form": "prefix"},
    "told": {"told_next": True},
    "told-axial": {"told_next": True, "positions": "axial", "form": "prefix"},
    # Here every token is a step by itself; `test_joint_steps.py` has others.
    "heads-prefix": {"codebooks": "heads", "codebook_slots": 3, "form": "prefix"},
    "depth-told": {"codebooks": "depth", "codebook_slots": 3, "told_next": True, "positions": "axial"},
    "bidirectional": {"form": "bidirectional"},
    "bidirectional-axial": {"form": "bidirectional", "positions": "axial", "window": 6},
}
CAUSAL = [name for name in FORMS if not name.startswith("bidirectional")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    samples = picture_samples(60, shapes=((3, 4), (2, 2)))
    return write_shards(tmp_path_factory.mktemp("forms") / "pictures", samples)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("forms") / "text", text_samples(40))


def build(name, vocab=40):
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab, "context": CONTEXT, "layers": 2, "width": 32, "heads": 4}
    model = build_model("transformer", {**sizes, **FORMS[name]})
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def document_inputs(shards, template, number, seed=5):
    """One document by itself, as inputs, with everything that is known of its tokens."""
    data = TokenData.open((shards,), template)
    document = data.documents.template.document(data.documents.grids(number), data.documents.vocabulary, seed)
    grammar = data.documents.template.grammar(data.documents.vocabulary, seed=seed)
    state, roles, axial, following, steps = grammar.start(), [], [], [], []
    for token in document.ids.tolist():
        place = grammar.place_of(state, token)
        state = grammar.advance(state, token)
        roles.append(place.role)
        axial.append(place.axial)
        following.append(grammar.following(state))
        steps.append(grammar.next_step(state))
    assert roles == document.roles.tolist()
    given = document.roles == Role.CONDITION
    parts = (torch.tensor(part)[None] for part in (document.ids, given, axial, following, steps))
    ids, *rest = parts
    return data, Inputs(ids, None, None, *rest), document


def part(inputs, places):
    """Some places of inputs."""
    values = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    return Inputs(**{name: None if value is None else value[:, places] for name, value in values.items()})


@pytest.mark.parametrize("name", FORMS)
def test_a_place_sees_what_its_form_says(shards, name):
    """By gradient: which tokens reach which logits, beside the rule written as a loop."""
    _, inputs, document = document_inputs(shards, "text -> image:random", 3)
    model = build(name).double()
    embedded = model.embedding.weight.detach()[inputs.ids].requires_grad_()
    handle = model.embedding.register_forward_hook(lambda *_: embedded)
    logits = model.logits(inputs)
    handle.remove()
    window, layers = FORMS[name].get("window", CONTEXT), 2
    given = document.roles == Role.CONDITION
    assert given.sum() > 4
    length = len(document)
    sees = np.zeros((length, length), bool)
    for query, key in itertools.product(range(length), repeat=2):
        whole = FORMS[name].get("form") == "bidirectional" or (
            FORMS[name].get("form") == "prefix" and given[query] and given[key]
        )
        sees[query, key] = (key <= query or whole) and abs(query - key) < window
    reached = np.linalg.matrix_power(sees.astype(int), layers) > 0
    if FORMS[name].get("form") == "encoder-decoder":
        # All of the condition through the encoder, of the rest what is before; nobody reads what is predicted in the condition.
        own = (np.tril(np.ones((length, length), bool)) & ~given[None] & sees) | np.eye(length, dtype=bool)
        reached = given[None] | (np.linalg.matrix_power(own.astype(int), layers) > 0)
    for place in range(0, length, 3):
        if FORMS[name].get("form") == "encoder-decoder" and given[place]:
            continue
        (gradient,) = torch.autograd.grad(logits[0, place].square().sum(), embedded, retain_graph=True)
        assert np.array_equal((gradient[0].abs().sum(-1) > 0).numpy(), reached[place]), place


@pytest.mark.parametrize("name", FORMS)
def test_packed_documents_are_each_as_alone(shards, name):
    data = TokenData.open((shards,), "text -> image:random")
    documents = data.documents
    model = build(name)
    dataset = PackedDataset(documents, np.arange(8), CONTEXT, 2, 0, needs=model.needs)
    for index in range(2):
        batch = dataset.batch(index)
        together = model.logits(batch.inputs)
        assert batch.documents is not None
        for row, number in itertools.product(range(2), range(3)):
            mine = (batch.documents[row] == number).nonzero()[:, 0]
            if len(mine):
                asked = batch.labels[row, mine] != -100
                values = {f.name: getattr(batch.inputs, f.name) for f in dataclasses.fields(Inputs)}
                alone = Inputs(**{name_: None if v is None else v[row : row + 1, mine] for name_, v in values.items()})
                torch.testing.assert_close(
                    model.logits(alone)[0, asked], together[row, mine][asked], atol=1e-5, rtol=1e-5
                )


@pytest.mark.parametrize("name", CAUSAL)
def test_cached_equals_uncached_in_pieces_and_behind_padding(shards, name):
    _, inputs, document = document_inputs(shards, "text -> image:random", 4)
    model = build(name)
    whole = model.logits(inputs)
    length = len(document)
    given = int((document.roles == Role.CONDITION).sum())
    if FORMS[name].get("form") == "encoder-decoder":
        whole[:, :given] = 0  # nobody reads what is predicted in the condition
    # A condition comes whole, what is after it in any pieces.
    for cuts in ([0, length], [0, given, *range(given + 1, length + 1)], [0, given + 2, given + 3, length]):
        cache = model.new_cache(1, CONTEXT)
        made = [model.step(part(inputs, slice(a, b)), cache) for a, b in itertools.pairwise(cuts)]
        torch.testing.assert_close(told(made, name, given), whole, atol=1e-5, rtol=1e-5)
    padded = 3
    values = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    filled = {
        name_: None if v is None else torch.cat((torch.zeros_like(v[:, :padded]), v), 1) for name_, v in values.items()
    }
    cache = model.new_cache(1, length + padded, left_padding=torch.tensor([padded]))
    first = model.step(part(Inputs(**filled), slice(0, padded + given)), cache)
    rest = [
        model.step(part(Inputs(**filled), slice(at, at + 1)), cache) for at in range(padded + given, length + padded)
    ]
    torch.testing.assert_close(told([first[:, padded:], *rest], name, given), whole, atol=1e-5, rtol=1e-5)


def told(pieces, name, given):
    """The logits that are asked for: of an encoder and decoder none in the condition."""
    joined = torch.cat(pieces, 1)
    if FORMS[name].get("form") == "encoder-decoder":
        joined[:, :given] = 0
    return joined


def test_axial_positions_are_rotary_ones_for_text(texts):
    inputs = part(document_inputs(texts, "text", 0)[1], slice(0, CONTEXT))
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "context": CONTEXT, "layers": 2, "width": 32, "heads": 4}
    models = [build_model("transformer", {**sizes, "positions": kind}) for kind in ("rotary", "axial")]
    models[1].load_state_dict(models[0].state_dict())
    torch.testing.assert_close(models[1].logits(inputs), models[0].logits(inputs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["prefix", "encoder-decoder", "axial", "told"])
def test_what_a_model_needs_must_be_given(name):
    model = build(name)
    with pytest.raises(ValueError, match=r"this model needs the (given|axial|following) of the tokens"):
        model(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="only a causal model that asks for nothing but ids"):
        score(model, [[1, 2, 3]])


def test_a_bidirectional_model_does_not_generate_and_some_steps_do_not_compile():
    with pytest.raises(ValueError, match="cannot go on token by token"):
        build("bidirectional").new_cache(1, 8)
    with pytest.raises(ValueError, match="cannot be compiled"):
        build("axial").new_cache(1, 8, compiled=True)


def test_a_compiled_step_is_refused_for_several_sequences_at_once_and_not_ignored(texts):
    data = TokenData.open((texts,), "text")
    grammar = data.documents.template.grammar(data.documents.vocabulary, CONTEXT)
    with pytest.raises(ValueError, match="one at a time; use it with a batch_size of 1, not 16"):
        generate(build("axial"), grammar, [[], []], SamplingOptions(compiled=True))


def test_masked_rows_hide_some_tokens_and_ask_for_them(shards):
    data = TokenData.open((shards,), "text -> image")
    documents, size = data.documents, data.documents.vocabulary.size
    plain = PackedDataset(documents, np.arange(60), 400, 2, 3, objective=dataclasses.replace(MASKED))
    again = PackedDataset(documents, np.arange(60), 400, 2, 3, objective=MASKED)
    hidden = changed = kept = 0
    target = sum(
        int(documents.template.document(documents.grids(i), documents.vocabulary).loss_mask.sum()) for i in range(60)
    )
    rows = plain.rows_per_epoch
    for index in range(5 * rows):  # of two rows each, so ten epochs
        batch = plain.batch(index)
        assert torch.equal(batch.ids, again.batch(index).ids)
        given = PackedDataset(documents, np.arange(60), 400, 2, 3, objective=MASKED, needs={"given"}).batch(index).given
        asked = batch.labels != -100
        assert batch.weight == int(asked.sum()) > 0
        assert not given[asked].any()
        hidden += int((batch.ids[asked] == size).sum())
        kept += int((batch.ids[asked] == batch.labels[asked]).sum())
        changed += int(((batch.ids[asked] != size) & (batch.ids[asked] != batch.labels[asked])).sum())
        assert (batch.ids[~asked] < size).all()
        assert (batch.labels[asked] < size).all()
    every = hidden + changed + kept
    assert every / (10 * target) == pytest.approx(CHOSEN, abs=0.02)
    assert hidden / every == pytest.approx(HIDDEN, abs=0.05)
    # Another token of the row may be the same one.
    assert 0 < changed / every <= CHANGED + 0.04


def options(shards, out, template, **changes):
    values = {
        "model": TransformerOverrides(layers=1, width=32, heads=2),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=4),
        "steps": 16,
        "batch_size": 4,
        "device": "cpu",
        "precision": "32-true",
        "validation_fraction": 0.2,
    }
    return TrainTransformerOptions(shards=(shards,), template=template, out=str(out), **{**values, **changes})


def test_a_model_of_random_orders_is_told_the_next_place_and_draws_pictures(shards, tmp_path):
    result = train_transformer(options(shards, tmp_path / "model", "text -> image:random"))
    again = train_transformer(options(shards, tmp_path / "again", "text -> image:random"))
    assert result.metrics == again.metrics
    loaded = load_model(tmp_path / "model", torch.device("cpu"))
    assert loaded.model.needs == {"following"}
    made = GenerateOptions(
        model=str(tmp_path / "model"), out=str(tmp_path / "out"), prompt="abc", count=3, device="cpu"
    )
    assert generate_samples(made).count == 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [line["order_seed"] for line in lines] == [order_seed_of(0, index) for index in range(3)]
    template = SequenceTemplate.parse("text -> image:random")
    for line in lines:
        grids = template.parse_ids(line["ids"], loaded.vocabulary, line["order_seed"])
        assert template.flatten(grids, loaded.vocabulary, line["order_seed"])[0].tolist() == line["ids"]
        # One at a time it is the same picture.
    alone = GenerateOptions(
        model=str(tmp_path / "model"), out=str(tmp_path / "one"), prompt="abc", count=3, batch_size=1, device="cpu"
    )
    generate_samples(alone)
    assert (tmp_path / "one" / "samples.jsonl").read_text() == (tmp_path / "out" / "samples.jsonl").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"form": "prefix"},
        {"form": "encoder-decoder"},
        {"model": TransformerOverrides(layers=1, width=32, heads=2, positions="axial")},
    ],
)
def test_other_forms_train_and_generate_alone_and_in_batches(shards, tmp_path, changes):
    train_transformer(options(shards, tmp_path / "model", "text -> image:spiral", **changes))
    said = []
    for batch in (1, 4):
        out = tmp_path / str(batch)
        made = GenerateOptions(
            model=str(tmp_path / "model"), out=str(out), prompt="abc", count=4, batch_size=batch, device="cpu"
        )
        generate_samples(made)
        said.append((out / "samples.jsonl").read_text())
    assert said[0] == said[1]


def test_a_masked_model_trains_and_says_that_it_cannot_draw_token_by_token(shards, tmp_path):
    result = train_transformer(options(shards, tmp_path / "model", "text -> image", objective="masked"))
    # An image has four shades, so a model that learned nothing has 2 bits a token at the least.
    assert set(result.metrics) == {"bits_per_token", "loss"}
    made = GenerateOptions(model=str(tmp_path / "model"), stream=True, prompt="abc", device="cpu")
    with pytest.raises(ValueError, match="--stream is for models that draw token by token"):
        generate_samples(made)


@pytest.mark.parametrize(
    ("template", "changes", "message"),
    [
        ("image", {"form": "prefix"}, "--form prefix sees a condition as a whole, but the template 'image' has none"),
        ("image", {"form": "encoder-decoder"}, "--form encoder-decoder sees a condition as a whole"),
        ("text -> image", {"form": "prefix", "objective": "masked"}, "the objective 'masked' sees all tokens"),
        ("text -> image", {"objective": "maskd"}, "no objective is named 'maskd'.*did you mean 'masked'"),
        ("image:random", {"family": "mean", "model": TransformerOverrides()}, "does not ask which place comes next"),
        (
            "image",
            {"family": "mean", "model": TransformerOverrides(), "objective": "masked"},
            "family 'mean' sees no later tokens",
        ),
        (
            "text -> image",
            {"family": "mean", "model": TransformerOverrides(), "form": "prefix"},
            "--form prefix is of the transformer",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(shards, tmp_path, template, changes, message):
    with pytest.raises(ValueError, match=message):
        train_transformer(options(shards, tmp_path / "model", template, **changes))
    assert not (tmp_path / "model").exists()
