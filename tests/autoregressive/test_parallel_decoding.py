"""Whole grids out of models of hidden tokens, beside one document that is decoded step by step with plain loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys.world import picture_samples, text_samples, write_shards

from tokenize_kit.sequences.prompt import begin
from tokenize_kit.sequences.template import SequenceTemplate
from trainers.autoregressive.api import Model
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.guidance import Guidance
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.parallel import decode_parallel, lay_out_whole
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("parallel") / "pictures", picture_samples(30, shapes=((3, 4),)))


@pytest.fixture(scope="module")
def world(shards):
    """A model as if trained, the segments of its template, and three beginnings with conditions of different lengths."""
    data = TokenData.open((shards,), "text -> image:column", dropped=True)
    template, vocabulary = data.documents.template, data.documents.vocabulary
    torch.manual_seed(0)
    sizes = {"vocab_size": vocabulary.size + 1, "context": 40, "layers": 2, "width": 32, "heads": 4}
    model = build_model("transformer", {**sizes, "form": "bidirectional", "positions": "axial"})
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    given = [{"text": np.array(text)} for text in ([1, 2, 3], [4], [7, 7, 7, 7, 7, 7])]
    begun = [begin(template, vocabulary, grids, 40) for grids in given]
    nothing = [begin(template, vocabulary, {}, 40) for _ in given]
    return model.eval(), template.segments(vocabulary), vocabulary, begun, nothing, template


def drawn(world, options, which=(0, 1, 2), **more):
    model, segments, vocabulary, begun, *_ = world
    some = [(begun[index].grammar, begun[index].ids) for index in which]
    return decode_parallel(model, segments, some, options, vocabulary.size, **more)


def by_loops(model, known, ids, places, allowed, mask, steps, seed, index, noise):
    """One document: the words of the documentation."""
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    hidden, ids = list(places), list(ids)
    for step in range(1, steps + 1):
        if not hidden:
            break
        row = torch.tensor([[mask if place in hidden else token for place, token in enumerate(ids)]])
        with torch.inference_mode():
            logits = model.logits(replace(known, ids=row))[0].double()
        uniforms, noises = random.random((2, len(hidden)))
        found = []
        for place, uniform, other in zip(hidden, uniforms, noises, strict=True):
            low, high = allowed
            chances = logits[place, low:high].softmax(-1)
            token = low + int(torch.searchsorted(chances.cumsum(0), torch.tensor(uniform), right=True))
            gumbel = -math.log(-math.log(other))
            found.append((float(chances[token - low].log()) + noise * (1 - step / steps) * gumbel, place, token))
        left = (
            0 if step == steps else min(len(hidden) - 1, math.floor(len(places) * math.cos(math.pi / 2 * step / steps)))
        )
        for _, place, token in sorted(found, reverse=True)[: len(hidden) - left]:
            ids[place] = token
            hidden.remove(place)
    return ids


@pytest.mark.parametrize(("steps", "noise"), [(1, 4.5), (4, 4.5), (5, 0.0), (13, 100.0)])
def test_equals_one_document_by_loops_whatever_the_batch(world, steps, noise):
    model, segments, vocabulary, begun, _, _ = world
    options = SamplingOptions(decoding_steps=steps, decoding_noise=noise, seed=3, batch_size=4)
    counted: list[int] = []
    together = drawn(world, options, first_index=5, on_tokens=counted.append)
    assert sum(counted) == 3 * 12
    for index in (0, 2):
        laid = lay_out_whole(segments, begun[index].grammar, begun[index].ids)
        assert len(laid.places) == 12
        (allowed,) = {*laid.ranges}
        grammar, state, axial = begun[index].grammar, begun[index].grammar.start(), []
        for token in laid.ids:
            axial.append(grammar.place_of(state, token).axial)
            state = grammar.advance(state, token)
        known = Inputs(torch.tensor([laid.ids]), axial=torch.tensor([axial]))
        expected = by_loops(model, known, laid.ids, laid.places, allowed, vocabulary.size, steps, 3, 5 + index, noise)
        assert together[index] == expected
        assert grammar.accepts(expected)
        if steps == 4:
            assert drawn(world, replace(options, batch_size=1), (index,), first_index=5 + index) == [expected]
    assert together != drawn(world, replace(options, seed=4), first_index=5)


def test_temperature_zero_takes_the_most_probable_and_draws_nothing(world):
    options = SamplingOptions(temperature=0.0, decoding_steps=3)
    assert drawn(world, options) == drawn(world, replace(options, seed=9))


def test_guidance_of_one_is_the_condition_and_of_nothing_the_other(world):
    model, segments, vocabulary, begun, nothing, _ = world
    weaker = [[(one.grammar, one.ids)] for one in nothing]
    options = SamplingOptions(decoding_steps=4, seed=1)
    plain = drawn(world, options)
    # At scale 1 there is one reading, with the condition; weights that add up to 1 make the same of two.
    assert drawn(world, options, guidance=Guidance((1.0,)), weaker=weaker) == plain
    without = decode_parallel(model, segments, [parts[0] for parts in weaker], options, vocabulary.size)
    guided = drawn(world, options, guidance=Guidance((0.0,)), weaker=weaker)
    assert [ids[-13:] for ids in guided] == [ids[-13:] for ids in without]
    strong = drawn(world, options, guidance=Guidance((3.0,)), weaker=weaker)
    assert strong != plain
    for ids, start in zip(strong, begun, strict=True):
        assert ids[: len(start.ids)] == list(start.ids)
        assert start.grammar.accepts(ids)


def test_what_is_given_of_a_grid_stays(world):
    model, segments, vocabulary, *_, template = world
    half = begin(template, vocabulary, {"text": np.array([1, 2]), "image": np.array([[3, 2, 1, 0]])}, 40)
    (ids,) = decode_parallel(model, segments, [(half.grammar, half.ids)], SamplingOptions(seed=2), vocabulary.size)
    grids = template.parse_ids(ids, vocabulary)
    assert grids["image"][0].tolist() == [3, 2, 1, 0]
    assert len(lay_out_whole(segments, half.grammar, half.ids).places) == 8


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("image -> text", "'text' has any length"),
        ("text -> image", r"'image' has one of several \(2x2, 3x4\)"),
        ("text image?", "'text' has any length"),
        ("image? text", "cannot tell whether there is a 'image'"),
    ],
)
def test_unknown_structure_is_refused(tmp_path, template, message):
    folder = write_shards(tmp_path / "some", picture_samples(30, shapes=((3, 4), (2, 2))))
    vocabulary = TokenData.open((folder,), template).documents.vocabulary
    parsed = SequenceTemplate.parse(template)
    given = {"text": np.array([1])} if template.startswith("text ->") else {}
    given = {"image": np.zeros((2, 2), np.int64)} if template.startswith("image ->") else given
    begun = begin(parsed, vocabulary, given, 60)
    with pytest.raises(ValueError, match=message):
        lay_out_whole(parsed.segments(vocabulary), begun.grammar, begun.ids)


def train(shards, out, **changes):
    options = TrainTransformerOptions(
        shards=(shards,),
        template=("text -> image",),
        out=str(out),
        model=TransformerOverrides(layers=1, width=32, heads=2),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=4),
        steps=8,
        batch_size=4,
        device="cpu",
        precision="32-true",
        validation_fraction=0.2,
        condition_dropout=0.1,
    )
    return train_transformer(replace(options, **changes))


def test_generate_draws_pictures_and_refuses_what_is_token_by_token(shards, tmp_path):
    trained = train(shards, tmp_path / "model", objective="maskgit")
    assert set(trained.metrics) == {"bits_per_token", "loss"}, "its loss is no bound"
    model = str(tmp_path / "model")

    def asked(out, **more):
        return GenerateOptions(model=model, out=str(tmp_path / out), prompt="abc", count=3, device="cpu", **more)

    said = []
    for batch in (1, 4):
        result = generate_samples(asked(f"out-{batch}", batch_size=batch, decoding_steps=4, guidance=(2.0,)))
        assert result.count == 3
        said.append((tmp_path / f"out-{batch}" / "samples.jsonl").read_text())
    assert said[0] == said[1]
    loaded = load_model(model, torch.device("cpu"))
    for line in said[0].splitlines():
        grids = loaded.template.parse_ids(json.loads(line)["ids"], loaded.vocabulary)
        assert grids["image"].shape == (3, 4)
    with pytest.raises(ValueError, match="--compiled is for models that draw token by token"):
        generate_samples(asked("no", compiled=True, batch_size=1))
    with pytest.raises(ValueError, match="--stream is for models that draw token by token"):
        generate_samples(replace(asked("no"), stream=True, count=1))
    in_python = Model(loaded)
    pictures = in_python.generate(text="abc", count=2, decoding_steps=3, seed=5)
    again = in_python.generate(text="abc", count=2, decoding_steps=3, seed=5, batch_size=1)
    assert [np.asarray(one).tolist() for one in pictures] == [np.asarray(one).tolist() for one in again]


def test_a_causal_model_refuses_decoding_steps(tmp_path):
    folder = write_shards(tmp_path / "text", text_samples(30))
    train(folder, tmp_path / "model", template=("text",), condition_dropout=0.0, context=32, steps=2)
    options = GenerateOptions(model=str(tmp_path / "model"), out=str(tmp_path / "out"), device="cpu", decoding_steps=4)
    with pytest.raises(ValueError, match="--decoding-steps 4 is for models of hidden tokens"):
        generate_samples(options)
    with pytest.raises(ValueError, match="decoding_steps 0 must be at least 1"):
        SamplingOptions(decoding_steps=0)
