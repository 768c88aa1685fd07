"""Ids of several codebooks at one place, by heads or a small Transformer: beside slow loops, and through the commands."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from test_codebooks import make_documents, options_for, write_sounds

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.document import Role
from tokenize_kit.sequences.layouts import LAYOUTS
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive import generation
from trainers.autoregressive.api import Model
from trainers.autoregressive.batches import PackedDataset
from trainers.autoregressive.generation import inputs_of
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.fast.fused import Fusion
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.joint import JointCache
from trainers.autoregressive.models.losses import token_loss
from trainers.autoregressive.options import GenerateOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_transformer

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT, SLOTS = 64, 3
KINDS = {
    "heads": {"codebooks": "heads"},
    "depth": {"codebooks": "depth"},
    "heads-grouped": {"codebooks": "heads", "kv_heads": 2, "logit_soft_cap": 3.0, "window": 6, "positions": "learned"},
    "depth-post": {
        **{"codebooks": "depth", "depth_layers": 1, "depth_width": 24, "norm_position": "post", "norm": "layer"},
        **{"bias": True, "qk_norm": False, "positions": "sinusoidal", "tied_head": True, "embedding_scale": 32**0.5},
    },
    "heads-prefix": {"codebooks": "heads", "form": "prefix", "positions": "axial"},
    "depth-encoder-decoder": {"codebooks": "depth", "form": "encoder-decoder", "window": 9},
    "depth-told": {"codebooks": "depth", "told_next": True, "positions": "axial"},
}
TEMPLATES = [
    *(f"text -> audio:{layout}" for layout in LAYOUTS),
    "patches:delay -> audio",
    "audio:delay -> patches:spiral:delay",
]


def build(kind, vocabulary, *, trained=True, **more):
    """A model whose weights are as if trained: fresh ones have zero output projections, which hide mistakes."""
    torch.manual_seed(0)
    sizes = {"vocab_size": vocabulary.size, "context": CONTEXT, "layers": 2, "width": 32, "heads": 4}
    model = build_model("transformer", {**sizes, "codebook_slots": SLOTS, **KINDS.get(kind, {}), **more})
    if trained:
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def one(documents, number):
    """One document by itself with all that is known of its tokens but the last."""
    document = documents.template.document(documents.grids(number), documents.vocabulary)
    grammar = documents.template.grammar(documents.vocabulary)
    return inputs_of(grammar, document.ids[:-1].tolist(), True, torch.device("cpu")), document


def part(inputs, places, rows=slice(None)):
    values = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    return Inputs(**{name: None if value is None else value[rows, places] for name, value in values.items()})


def places_of(inputs):
    """For each place the tokens of its step, and for each token how many places are closed at it, by a loop."""
    places, waiting, closed = [], [], []
    for token, (closes, _) in enumerate(inputs.steps[0].tolist()):
        waiting.append(token)
        if closes:
            places.append(waiting)
            waiting = []
        closed.append(len(places))
    return places, closed


def slow_logits(model, inputs):
    """The logits of one row: a Transformer without codebooks over sums of embeddings, and the codebooks token by token."""
    config = model.config.to_dict()
    flat = {name: value for name, value in config.items() if not name.startswith(("codebook", "depth"))}
    plain = build_model("transformer", flat).eval()
    plain.load_state_dict({name: v for name, v in model.state_dict().items() if not name.startswith("codebooks.")})
    tokens = model.embedded(inputs.ids)[0]
    places, closed = places_of(inputs)
    sums = torch.stack([tokens[place].sum(0) for place in places]) / model.config.embedding_scale
    handle = plain.embedding.register_forward_hook(lambda *_: sums[None])
    last = [place[-1] for place in places]
    known = part(inputs, last)
    axial = inputs.axial[:, [place[0] for place in places]]
    hidden = plain.hidden(dataclasses.replace(known, axial=axial, steps=None))[0]
    handle.remove()
    made = []
    for token, (closes, slot) in enumerate(inputs.steps[0].tolist()):
        state = hidden[closed[token] - 1]
        if slot and model.config.codebooks == "heads":
            state = state + model.codebooks.each[slot - 1](state)
        elif slot:
            state = state + slow_depth(model.codebooks, state, tokens, inputs.steps[0], token)
        made.append(state)
        assert bool(closes) == (token in last)
    return model.head(torch.stack(made))


def slow_depth(depth, state, tokens, steps, token):
    """What the small Transformer adds, from the first token of the step with a codebook before it to this one."""
    first = token
    while first > 0 and steps[first - 1, 1] and not steps[first, 0]:
        first -= 1
    row = []
    for at in range(first, token + 1):
        x = depth.enter(state) + depth.slot.weight[steps[at, 1]]
        row.append(x if steps[at, 0] else x + depth.drawn(tokens[at]))
    x = torch.stack(row)[None]
    for block in depth.blocks:
        x = block(x, None, None)
    return depth.leave(depth.norm(x))[0, -1]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_slow_loop(kind, template):
    documents = make_documents(template, [3], SLOTS, seed=2)
    model = build(kind, documents.vocabulary)
    for number in range(3):
        inputs, document = one(documents, number)
        made = model.logits(inputs)[0]
        expected = slow_logits(model, inputs)
        asked = document.roles[1:] != Role.CONDITION if "encoder" in kind else slice(None)
        torch.testing.assert_close(made[asked], expected[asked], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["heads", "depth"])
def test_a_token_is_predicted_from_closed_steps_and_by_depth_from_its_own(kind):
    documents = make_documents("text -> audio:delay", [1], SLOTS, seed=3)
    inputs, _ = one(documents, 0)
    model = build(kind, documents.vocabulary).double()
    embedded = model.embedding.weight.detach()[inputs.ids].requires_grad_()
    handle = model.embedding.register_forward_hook(lambda *_: embedded)
    logits = model.logits(inputs)
    handle.remove()
    _, closed = places_of(inputs)
    for token in range(inputs.ids.shape[1]):
        (gradient,) = torch.autograd.grad(logits[0, token].square().sum(), embedded, retain_graph=True)
        reached = (gradient[0].abs().sum(-1) > 0).tolist()
        # The step of a token is closed at it if the places up to the token before it are fewer than those up to here.
        last = token if kind == "depth" else max(at for at in range(token + 1) if inputs.steps[0, at, 0])
        assert reached == [at <= last for at in range(len(reached))], (token, closed)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_are_each_as_alone(kind):
    documents = make_documents("text -> audio:delay", [8], SLOTS, seed=1, longest=4)
    model = build(kind, documents.vocabulary)
    dataset = PackedDataset(documents, np.arange(8), CONTEXT, 2, needs=model.needs)
    batch = dataset.batch(0)
    assert batch.documents is not None
    together = model.logits(batch.inputs)
    found = 0
    for row, number in itertools.product(range(2), range(4)):
        mine = (batch.documents[row] == number).nonzero()[:, 0]
        if len(mine):
            asked = batch.labels[row, mine] != -100
            alone = part(batch.inputs, mine, slice(row, row + 1))
            torch.testing.assert_close(model.logits(alone)[0, asked], together[row, mine][asked], atol=1e-5, rtol=1e-5)
            found += 1
    assert found > 3


def readings(model, documents, lengths):
    """The beginnings of documents side by side, padded on the left, as generation gives them."""
    rows = []
    for number, length in enumerate(lengths):
        document = documents.template.document(documents.grids(number), documents.vocabulary)
        grammar = documents.template.grammar(documents.vocabulary)
        rows.append(generation._Reading(grammar, document.ids[:length].tolist(), bool(model.needs)))
    longest = max(lengths)
    waiting = [[0] * (longest - len(row.ids)) + row.ids for row in rows]
    padding = torch.tensor([longest - length for length in lengths])
    return generation._inputs(rows, waiting, torch.device("cpu")), padding


@pytest.mark.parametrize("template", ["text -> audio:delay", "text -> audio", "text -> patches:delay"])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_uncached_in_pieces_behind_padding_and_for_chosen_rows(kind, template):
    """Rows whose steps do not end together, which is harder than what generation does."""
    documents = make_documents(template, [4], SLOTS, seed=4)
    model = build(kind, documents.vocabulary)
    whole, conditions = [], []
    for number in range(4):
        inputs, document = one(documents, number)
        whole.append(model.logits(inputs)[0].detach())
        conditions.append(int((document.roles == Role.CONDITION).sum()))
    lengths = [len(logits) for logits in whole]
    lengths[1] -= 2
    inputs, padding = readings(model, documents, lengths)
    longest = max(lengths)
    # A condition that is seen as a whole comes in one piece.
    least = max(int(padding[row]) + conditions[row] for row in range(4)) if "form" in KINDS[kind] else 1
    for size in (1, 4, longest):
        cache = model.new_cache(4, longest, left_padding=padding)
        assert isinstance(cache, JointCache)
        kept, at = [0, 1, 2, 3], 0
        while at < longest:
            stop = min(longest, max(least, at + size))
            logits = model.step(part(inputs, slice(at, stop), kept), cache)
            for row, number in enumerate(kept):
                mine = slice(max(at - int(padding[number]), conditions[number] if "encoder" in kind else 0), None)
                expected = whole[number][mine][: max(0, stop - int(padding[number]) - mine.start)]
                made = logits[row, logits.shape[1] - len(expected) :]
                torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
            at = stop
            if at > longest // 2 and len(kept) == 4:
                cache, kept = cache.select(torch.tensor([3, 0, 1])), [3, 0, 1]
        assert cache.position == longest
    cache = model.new_cache(4, longest, left_padding=padding)
    model.step(part(inputs, slice(0, longest - 1)), cache)
    last = model.step(part(inputs, slice(longest - 1, longest)), cache, last_only=True)
    cache = model.new_cache(4, longest, left_padding=padding)
    once = model.step(inputs, cache, last_only=True)
    for row in range(4):
        expected = whole[row][lengths[row] - 1][None]
        torch.testing.assert_close(once[row], expected, atol=1e-5, rtol=1e-5)
        if "form" not in KINDS[kind]:
            torch.testing.assert_close(last[row], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="do not fit"):
        model.step(part(inputs, slice(0, 1)), cache)


@pytest.mark.parametrize("kind", ["heads", "depth"])
def test_rows_that_end_their_steps_together_cost_one_run_of_the_blocks(kind, monkeypatch):
    documents = make_documents("text -> audio:delay", [1], SLOTS, seed=3, longest=9)
    model = build(kind, documents.vocabulary)
    inputs, _ = one(documents, 0)
    runs = []
    from trainers.autoregressive.models.fast import decode

    through = decode.through
    monkeypatch.setattr(decode, "through", lambda *given: runs.append(len(given[3])) or through(*given))
    cache = model.new_cache(3, CONTEXT)
    for token in range(inputs.ids.shape[1]):
        one_token = part(inputs, slice(token, token + 1), [0, 0, 0])
        assert model.step(one_token, cache).shape == (3, 1, documents.vocabulary.size)
    assert runs == [3] * int(inputs.steps[0, :, 0].sum())


@pytest.mark.parametrize("kind", ["heads", "depth"])
def test_a_fresh_model_finds_all_ids_alike_and_its_loss_is_the_plain_one(kind):
    documents = make_documents("text -> audio:delay", [12], SLOTS, seed=5)
    dataset = PackedDataset(documents, np.arange(12), CONTEXT, 4, needs={"steps"})
    batch = dataset.batch(0)
    weights = (batch.labels != -100).float()
    fresh = build(kind, documents.vocabulary, trained=False, width=64)
    mean = token_loss(fresh.logits(batch.inputs), batch.labels, weights)
    assert abs(float(mean.nll / mean.weight) - math.log(documents.vocabulary.size)) < 0.1
    model, gradients = build(kind, documents.vocabulary), []
    for fused in (True, False):
        model.zero_grad()
        loss = (
            model.loss(batch.inputs, batch.labels, weights, z_loss=0.01)
            if fused
            else token_loss(model.logits(batch.inputs), batch.labels, weights, z_loss=0.01)
        )
        loss.total.backward()
        gradients.append((list(loss), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["heads", "depth"])
def test_every_weight_has_a_gradient_where_no_step_has_several_ids(kind):
    """Processes that read other templates must agree on what there is to sum."""
    documents = make_documents("text", [6], seed=5)
    batch = PackedDataset(documents, np.arange(6), 16, 2, needs={"steps"}).batch(0)
    model = build(kind, documents.vocabulary)
    model.loss(batch.inputs, batch.labels, (batch.labels != -100).float()).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_places_have_few_shapes_where_blocks_are_compiled(monkeypatch):
    documents = make_documents("audio:delay", [12], SLOTS, seed=6)
    batch = PackedDataset(documents, np.arange(12), CONTEXT, 2, needs={"steps"}).batch(0)
    model = build("depth", documents.vocabulary)
    shapes = []
    handle = model.blocks[0].register_forward_hook(lambda *given: shapes.append(given[1][0].shape[1]))
    expected = model.logits(batch.inputs)
    monkeypatch.setattr(Fusion, "__call__", lambda _, function: shapes.append(function.__name__) or function)
    model.fuse(Fusion())
    torch.testing.assert_close(model.logits(batch.inputs), expected, atol=1e-5, rtol=1e-5)
    handle.remove()
    plain, multiple = (shape for shape in shapes if isinstance(shape, int))
    assert plain % 32
    assert multiple == -(-plain // 32) * 32
    assert shapes.count("_run") == 2, "the small Transformer is not compiled: each batch has other shapes there"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["heads", "depth"])
def test_the_probabilities_of_all_documents_sum_to_one(kind, layout):
    spec = TokenSpec("audio", (2, 2), ("time", "codebook"), (320, None), lossless=False, channels=1)
    vocabulary = Vocabulary({"audio": spec}, {"audio": [(2,)]})
    grammar = SequenceTemplate.parse(f"audio:{layout}").grammar(vocabulary, max_length=8)
    model = build(kind, vocabulary, codebook_slots=2)
    found, waiting = [], [([], grammar.start(), 0.0)]
    while waiting:
        ids, state, log_probability = waiting.pop()
        if grammar.done(state):
            found.append(log_probability)
            continue
        allowed = [token for low, high in grammar.allowed(state) for token in range(low, high)]
        shares = torch.zeros(1)
        if len(allowed) > 1:
            with torch.no_grad():
                logits = model.logits(inputs_of(grammar, ids, True, torch.device("cpu")))
            shares = logits[0, -1, allowed].double().log_softmax(-1)
        for token, share in zip(allowed, shares.tolist(), strict=True):
            waiting.append(([*ids, token], grammar.advance(state, token), log_probability + share))
    assert len(found) == 4 + 4**2
    assert sum(map(math.exp, found)) == pytest.approx(1)


def test_configurations_that_cannot_be_are_refused_and_older_ones_are_as_they_were():
    sizes = {"vocab_size": 20, "context": 16, "layers": 1, "width": 32, "heads": 4}
    for values, message in [
        ({"codebooks": "heads"}, "needs codebook_slots, at least 2, got 1"),
        ({"codebook_slots": 4}, "codebook_slots 4 is for the codebooks heads or depth"),
        ({"codebooks": "dept", "codebook_slots": 4}, "did you mean 'depth'"),
        ({"codebooks": "heads", "codebook_slots": 4, "depth_layers": 3}, "are for the codebooks depth, not for heads"),
        ({"codebooks": "depth", "codebook_slots": 4, "depth_width": 20}, "depth_width 20 is not a multiple .* 8"),
        ({"codebooks": "depth", "codebook_slots": 4, "form": "bidirectional"}, "not for the form bidirectional"),
    ]:
        with pytest.raises(ValueError, match=message):
            build_model("transformer", {**sizes, **values})
    plain = build_model("transformer", sizes)
    assert not {name for name in plain.config.to_dict() if name.startswith(("codebook", "depth"))}
    model = build_model("transformer", {**sizes, "codebooks": "heads", "codebook_slots": 2})
    with pytest.raises(ValueError, match="cannot be compiled"):
        model.new_cache(1, 16, compiled=True)
    with pytest.raises(ValueError, match="this model needs the steps of the tokens"):
        model(torch.zeros(1, 4, dtype=torch.int64))


# Through the commands.


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("joint") / "shards")


def parts(kind, **more):
    return TransformerOverrides(layers=1, width=32, heads=2, codebooks=kind, **more)


@pytest.mark.parametrize(("kind", "layout"), [("heads", "delay"), ("depth", "flatten")])
def test_trained_models_give_sounds_that_follow_their_text(kind, layout, shards, tmp_path):
    train_transformer(options_for(shards, tmp_path / "model", f"text -> audio:{layout}", model=parts(kind)))
    loaded = load_model(tmp_path / "model")
    assert loaded.model.config.codebook_slots == 3
    for level, letter in enumerate("ac"):
        said = []
        for batch in (1, 6):
            out = tmp_path / f"{letter}{batch}"
            options = GenerateOptions(
                model=str(tmp_path / "model"), out=str(out), count=6, prompt=letter, batch_size=batch
            )
            assert len(generate_samples(options).files) == 6
            said.append((out / "samples.jsonl").read_text())
        assert said[0] == said[1]
        lines = [json.loads(line) for line in said[0].splitlines()]
        grids = [loaded.template.parse_ids(line["ids"], loaded.vocabulary)["audio"] for line in lines]
        assert np.mean(np.concatenate([grid.reshape(-1) for grid in grids]) == 2 * level) > 0.8


def test_a_flat_model_begins_one_with_heads_and_a_run_that_goes_on_gives_the_same_bits(shards, tmp_path):
    whole = options_for(
        shards, tmp_path / "whole", "text -> audio:delay", steps=6, checkpoint_every=3, validate_every=3
    )
    train_transformer(dataclasses.replace(whole, out=str(tmp_path / "flat")))
    begun = {"init_from": str(tmp_path / "flat"), "model": parts("depth")}
    train_transformer(dataclasses.replace(whole, **begun))
    again = dataclasses.replace(whole, out=str(tmp_path / "again"), **begun)

    class Stop(Exception):
        pass

    def stop(*_, **__):
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainers.autoregressive.task.SequenceTask.loss", after(4, stop))
        with pytest.raises(Stop):
            train_transformer(again)
    assert train_transformer(again).resumed_from == 3
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()


def after(calls, then):
    """A loss that is the task's own for so many calls."""
    from trainers.autoregressive.task import SequenceTask

    own, count = SequenceTask.loss, itertools.count()
    return lambda *given: own(*given) if next(count) < calls else then()


def test_options_that_would_do_nothing_are_refused_before_anything_is_written(shards, tmp_path):
    for kind, template, more, message in [
        ("heads", "text", {}, "no stream of the template has several codebooks"),
        ("depth", "text -> audio:coarse-first", {}, "coarse-first puts every id of 'audio' by itself"),
        ("heads", "audio:delay", {"objective": "masked"}, "'masked' hides single tokens"),
    ]:
        with pytest.raises(ValueError, match=f"--model.codebooks {kind}: .*{message}"):
            train_transformer(options_for(shards, tmp_path / "m", template, model=parts(kind), **more))
    assert not (tmp_path / "m").exists()


def test_mixtures_with_dropped_conditions_are_guided_and_scored_as_single_ids_are(shards, tmp_path):
    templates = ("text -> audio:delay", "text")
    more = {"condition_dropout": 0.2, "steps": 30}
    train_transformer(options_for(shards, tmp_path / "model", templates, model=parts("depth"), **more))
    said = []
    for batch in (1, 4):
        out = tmp_path / str(batch)
        options = GenerateOptions(
            model=str(tmp_path / "model"), out=str(out), count=4, prompt="b", guidance=(2.0,), batch_size=batch
        )
        generate_samples(options)
        said.append((out / "samples.jsonl").read_text())
    assert said[0] == said[1]
    model = Model.load(tmp_path / "model", "cpu")
    sound = tmp_path / "1" / "sample_00000.wav"
    ids = json.loads(said[0].splitlines()[0])["ids"]
    found = model.score(text="b", audio=sound)
    # The same token by token, with a cache.
    loaded = model.loaded
    inputs = inputs_of(loaded.template.grammar(loaded.vocabulary), ids[:-1], True, torch.device("cpu"))
    cache = loaded.model.new_cache(1, len(ids))
    steps = [loaded.model.step(part(inputs, slice(at, at + 1)), cache) for at in range(len(ids) - 1)]
    each = torch.cat(steps, 1).log_softmax(-1)[0].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    first = ids.index(loaded.vocabulary.special("<begin:audio>"))
    assert found.tokens["audio"] == len(ids) - 2 - first
    assert found.streams["audio"] == pytest.approx(float(each[first:-1].sum()), rel=1e-4)
