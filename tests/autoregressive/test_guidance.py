"""Classifier-free guidance beside a slow loop: one sequence, no cache, a model with the condition and one without it."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from test_forms import CAUSAL, FORMS, build, part

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.document import Role
from tokenize_kit.sequences.prompt import begin
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive import generation
from trainers.autoregressive.generation import generate
from trainers.autoregressive.guidance import Guidance, guidance_of, guided, less
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.sampling_options import SamplingOptions

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = TokenSpec("text", 7, ("time",), (None,), lossless=True)
IMAGE = TokenSpec("image", 5, ("height", "width"), (1, 1), lossless=False, channels=1)
SPECS = {"text": TEXT, "hint": TEXT, "image": IMAGE}
VOCABULARY = Vocabulary(SPECS, {"image": [(2, 3), (3, 2)]}, ("text", "hint"))
LIMIT = 40
LENGTHS = (0, 5, 2, 9)


def prompts_for(template):
    rng = np.random.default_rng(0)
    return [{name: rng.integers(0, 7, length) for name in template.condition} for length in LENGTHS]


def beginnings(template, grids, guidance, seed=0, limit=LIMIT):
    """The beginning with all conditions, and those with fewer."""
    whole = begin(template, VOCABULARY, grids, limit, seed)
    parts = [] if guidance is None else [less(guidance, template, grids, number) for number in range(guidance.last)]
    return whole, [begin(template, VOCABULARY, part, limit, seed) for part in parts]


def drawn(model, template, guidance, monkeypatch, prompts=None, **options):
    """Sequences, and for each the logits of every choice in order."""
    logits = {}
    draw = generation._draw

    def watched(found, rows, forced, asked):
        for place, row in enumerate(rows):
            if forced[place] is None:
                logits.setdefault(row.index, []).append(found[place].clone())
        return draw(found, rows, forced, asked)

    with monkeypatch.context() as patch:
        patch.setattr(generation, "_draw", watched)
        begun = [beginnings(template, grids, guidance) for grids in prompts or prompts_for(template)]
        made = generate(
            model,
            [whole.grammar for whole, _ in begun],
            [whole.ids for whole, _ in begun],
            SamplingOptions(**{"seed": 3, **options}),
            max_length=LIMIT,
            states=[whole.state for whole, _ in begun],
            guidance=guidance,
            weaker=() if guidance is None else [[(one.grammar, one.ids) for one in parts] for _, parts in begun],
        )
    return made, logits


def slow_logits(model, beginning, rest):
    """The logits after a beginning and some further tokens, from all of them at once."""
    grammar, state = beginning.grammar, beginning.grammar.start()
    given, axial, following, steps = [], [], [], []
    for token in (*beginning.ids, *rest):
        place = grammar.place_of(state, token)
        state = grammar.advance(state, token)
        given.append(place.role == Role.CONDITION)
        axial.append(place.axial)
        following.append(grammar.following(state))
        steps.append(grammar.next_step(state))
    parts = (torch.tensor(part)[None] for part in ((*beginning.ids, *rest), given, axial, following, steps))
    ids, *known = parts
    with torch.no_grad():
        return model.logits(Inputs(ids, None, None, *known))[0, -1]


def slow_rise(schedule, template, vocabulary, ids):
    """How far a schedule has come at the last of some ids, counted by hand: pictures of six ids, which come last."""
    if schedule == "constant":
        return 1.0
    stream = vocabulary.stream("image")
    count = len(ids) - 1 - ids.index(stream.begin) - 1
    done = max(0, count) / 5
    return done if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * done)


def check_against_the_slow_loop(model, template, guidance, made, logits):
    """Every choice of every sequence: guided logits from readings that are computed alone and whole."""
    assert len(made) == len(LENGTHS)
    for index, (ids, grids) in enumerate(zip(made, prompts_for(template), strict=True)):
        whole, parts = beginnings(template, grids, guidance)
        start, state, found = len(whole.ids), whole.state, iter(logits[index])
        for at in range(start, len(ids)):
            allowed = whole.grammar.allowed(state)
            if sum(high - low for low, high in allowed) > 1:
                readings = [slow_logits(model, one, ids[start:at]) for one in (*parts, whole)]
                rise = slow_rise(guidance.schedule, template, VOCABULARY, ids[:at])
                expected = readings[0]
                for scale, (lower, upper) in zip(guidance.scales, itertools.pairwise(readings), strict=True):
                    expected = expected + (1 + (scale - 1) * rise) * (upper - lower)
                torch.testing.assert_close(next(found), expected, atol=1e-5, rtol=1e-5)
            state = whole.grammar.advance(state, ids[at])
        assert whole.grammar.done(state)
        assert next(found, None) is None


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("name", CAUSAL)
def test_guided_logits_are_those_of_two_models_without_cache(name, schedule, monkeypatch):
    """Prompts of several lengths, padded on the left."""
    template = SequenceTemplate.parse("text -> image:random" if "told" in name else "text -> image")
    model, guidance = build(name, VOCABULARY.size), Guidance((2.5,), schedule)
    made, logits = drawn(model, template, guidance, monkeypatch, batch_size=3)
    check_against_the_slow_loop(model, template, guidance, made, logits)


@pytest.mark.parametrize("name", ["axial", "prefix", "encoder-decoder", "told"])
@pytest.mark.parametrize("scales", [(2.5,), (0.0,)])
def test_sequences_that_end_earlier_leave_the_batch(name, scales, monkeypatch):
    template, guidance = SequenceTemplate.parse("text -> hint"), Guidance(scales)
    model = build(name, VOCABULARY.size)
    made, logits = drawn(model, template, guidance, monkeypatch)
    assert len({len(ids) - len(grids["text"]) for ids, grids in zip(made, prompts_for(template), strict=True)}) > 1
    check_against_the_slow_loop(model, template, guidance, made, logits)


@pytest.mark.parametrize("name", [name for name in CAUSAL if "form" not in FORMS[name]])
@pytest.mark.parametrize("sizes", [(1,), (4,), (7, 1)])
def test_a_prefill_in_pieces_gives_the_guided_logits_of_a_whole_one(name, sizes):
    template, guidance = SequenceTemplate.parse("text -> image:random"), Guidance((3.0,))
    model, readings = build(name, VOCABULARY.size), []
    for grids in prompts_for(template):
        whole, (bare,) = beginnings(template, grids, guidance)
        ids = template.flatten({**grids, "image": np.arange(6).reshape(2, 3) % 5}, VOCABULARY)[0].tolist()
        rest = ids[len(whole.ids) : -2]
        readings += [
            generation._Reading(one.grammar, [*one.ids, *rest], placed=bool(model.needs)) for one in (bare, whole)
        ]
    longest = max(len(reading.ids) for reading in readings)
    padding = torch.tensor([longest - len(reading.ids) for reading in readings])
    waiting = [[0] * (longest - len(reading.ids)) + reading.ids for reading in readings]
    inputs = generation._inputs(readings, waiting, torch.device("cpu"))
    cache = model.new_cache(len(readings), longest, left_padding=padding)
    start = 0
    for size in itertools.cycle(sizes):
        logits = model.step(part(inputs, slice(start, start + size)), cache, last_only=True)[:, -1]
        start += size
        if start >= longest:
            break
    made = guided(logits, [guidance.weights(1.0)] * len(LENGTHS))
    for row, (bare, whole) in enumerate(zip(readings[::2], readings[1::2], strict=True)):
        one, other = (slow_logits(model, Alone(reading), ()) for reading in (bare, whole))
        torch.testing.assert_close(made[row], one + 3 * (other - one), atol=1e-5, rtol=1e-5)


class Alone(NamedTuple):
    """A reading as `slow_logits` takes it."""

    reading: generation._Reading

    @property
    def ids(self):
        return self.reading.ids

    @property
    def grammar(self):
        return self.reading._grammar


@pytest.mark.parametrize("name", ["prefix", "encoder-decoder", "told-axial"])
def test_two_conditions_have_two_scales(name, monkeypatch):
    template = SequenceTemplate.parse("text hint -> image:random")
    model = build(name, VOCABULARY.size)
    for scales, rows in (((3.0, 2.0), 3), ((2.0, 2.0), 2), ((1.0, 2.0), 2), ((2.0,), 2)):
        guidance = Guidance(scales)
        assert len(guidance.readings) == rows
        made, logits = drawn(model, template, guidance, monkeypatch)
        check_against_the_slow_loop(model, template, guidance, made, logits)


def test_a_schedule_rises_from_the_condition_alone_to_its_scale(monkeypatch):
    template, model = SequenceTemplate.parse("text -> image"), build("axial", VOCABULARY.size)
    guidance = Guidance((4.0,), "linear")
    made, logits = drawn(model, template, guidance, monkeypatch)
    check_against_the_slow_loop(model, template, guidance, made, logits)
    assert guidance.weights(0.0) == [0.0, 1.0]
    assert guidance.weights(0.5) == [-1.5, 2.5]
    assert guidance.weights(1.0) == [-3.0, 4.0]
    assert Guidance((4.0,), "cosine").weights(0.5) == pytest.approx([-1.5, 2.5])
    assert Guidance((0.0,), "linear").readings == (0, 1)


def test_logits_of_any_precision_are_joined_in_float32():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.5], [0.0, 1.0], [1.0, 1.0]], dtype=torch.bfloat16)
    made = guided(logits, [[-2.0, 3.0], [0.25, 0.75]])
    assert made.dtype == torch.float32
    assert made.tolist() == [[7.0, -2.5], [0.75, 1.0]]


def test_a_grammar_knows_how_far_a_grid_has_come():
    template = SequenceTemplate.parse("image text")
    vocabulary = Vocabulary({"text": TEXT, "image": IMAGE}, {"image": [(2, 3), (3, 2)]})
    ids = template.flatten({"image": np.zeros((2, 3), int), "text": np.zeros(3, int)}, vocabulary)[0].tolist()
    told = []
    # <bos> <begin> <shape> 6 ids <begin> 3 ids <end> <eos>: room for 5 ids of text.
    grammar = template.grammar(vocabulary, len(ids) + 2)
    state = grammar.start()
    for token in ids:
        told.append(grammar.progress(state))
        state = grammar.advance(state, token)
    assert told == pytest.approx([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 0, 0, 0.25, 0.5, 0.75, 0])
    endless = template.grammar(vocabulary)
    state = endless.start()
    for token in ids[:12]:
        state = endless.advance(state, token)
    assert endless.progress(state) == 0


@pytest.mark.parametrize("name", ["axial", "prefix", "encoder-decoder", "told"])
def test_one_is_the_conditional_model_and_zero_the_unconditional_one(name, monkeypatch):
    """Ids and logits, to the bit; and no row is computed that does not count."""
    template = SequenceTemplate.parse("text -> image:random")
    model, rows = build(name, VOCABULARY.size), []
    new_cache = model.new_cache
    monkeypatch.setattr(
        model, "new_cache", lambda batch, *rest, **more: rows.append(batch) or new_cache(batch, *rest, **more)
    )
    prompts = prompts_for(template)
    for scale, plain in ((1.0, prompts), (0.0, [{}] * len(prompts))):
        made, logits = drawn(model, template, Guidance((scale,)), monkeypatch)
        alone, expected = drawn(model, template, None, monkeypatch, prompts=plain)
        assert rows == [len(prompts)] * 2
        rows.clear()
        for index, (grids, bare) in enumerate(zip(prompts, plain, strict=True)):
            start, at = (len(begin(template, VOCABULARY, given, LIMIT).ids) for given in (bare, grids))
            assert alone[index][start:] == made[index][at:]
            torch.testing.assert_close(torch.stack(logits[index]), torch.stack(expected[index]), atol=0, rtol=0)


def test_what_is_drawn_does_not_depend_on_batch_mates(monkeypatch):
    template = SequenceTemplate.parse("text -> image")
    model, guidance = build("axial-prefix", VOCABULARY.size).double(), Guidance((3.0,), "linear")
    together, _ = drawn(model, template, guidance, monkeypatch, batch_size=16)
    for batch_size in (1, 2, 3):
        assert drawn(model, template, guidance, monkeypatch, batch_size=batch_size)[0] == together
    greedy, _ = drawn(model, template, guidance, monkeypatch, temperature=0)
    assert greedy != together


@pytest.mark.parametrize(
    ("template", "vocabulary", "scales", "message"),
    [
        ("image", VOCABULARY, (3.0,), "--guidance 3: the template 'image' has no condition to strengthen"),
        ("text -> image", VOCABULARY, (3.0, 2.0), "--guidance 3 2: .* has text as condition; give one scale$"),
        (
            "text hint -> image",
            VOCABULARY,
            (1.0, 2.0, 3.0),
            "has text, hint as condition; give one scale, or 2, one for each",
        ),
        (
            "text -> image",
            Vocabulary(SPECS, {"image": [(2, 3)]}),
            (3.0,),
            "--guidance 3: the model has never seen a sequence without 'text'; train one with --condition-dropout 0.1",
        ),
        (
            "text hint -> image",
            Vocabulary(SPECS, {"image": [(2, 3)]}, ("text",)),
            (0.0,),
            "never seen a sequence without 'hint'",
        ),
    ],
)
def test_what_cannot_be_guided_is_refused(template, vocabulary, scales, message):
    with pytest.raises(ValueError, match=message):
        guidance_of(SequenceTemplate.parse(template), vocabulary, SamplingOptions(guidance=scales))


def test_guidance_of_one_is_none_for_any_model():
    plain = Vocabulary(SPECS, {"image": [(2, 3)]})
    template = SequenceTemplate.parse("text hint -> image")
    for scales in (None, (1.0,), (1.0, 1.0)):
        assert guidance_of(template, plain, SamplingOptions(guidance=scales)) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance": (-1.0,)}, "guidance -1 must be one or several numbers from 0 to 1000"),
        ({"guidance": ()}, "guidance without a number must be one or several"),
        ({"guidance": (math.nan,)}, "guidance nan must be"),
        ({"guidance": (math.inf, 1.0)}, "guidance inf 1 must be"),
        ({"guidance": (1001.0,)}, "guidance 1001 must be"),
        ({"guidance_schedule": "linear"}, "guidance_schedule 'linear' is of guidance, which is not given"),
    ],
)
def test_scales_that_are_none_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**values)


def test_a_compiled_step_is_refused_and_not_ignored():
    template, guidance = SequenceTemplate.parse("text -> image"), Guidance((3.0,))
    whole, parts = beginnings(template, prompts_for(template)[0], guidance)
    with pytest.raises(ValueError, match="guidance reads a sequence several times; leave one of them out"):
        generate(
            build("axial", VOCABULARY.size),
            whole.grammar,
            [whole.ids],
            SamplingOptions(compiled=True),
            max_length=LIMIT,
            guidance=guidance,
            weaker=[[(one.grammar, one.ids) for one in parts]],
        )
