"""Documents of streams with codebooks in every layout: order, inverse and grammar beside slow references."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layouts import slow_end, slow_order

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.layouts import LAYOUTS
from tokenize_kit.sequences.template import Part, SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary

SIZES = (3, 2, 4, 2, 5)
SPECS = {
    "text": TokenSpec("text", 7, ("time",), (None,), lossless=True),
    "audio": TokenSpec("audio", SIZES, ("time", "codebook"), (320, None), lossless=False, channels=1),
    "patches": TokenSpec("image", (3, 2, 4), ("height", "width", "codebook"), (8, 8, None), lossless=False, channels=3),
}
# Fewer codebooks than the tokenizer has, and several numbers of them, which a shape token tells apart.
SHAPES = {"audio": [(1,), (2,), (4,), (5,)], "patches": [(1, 2, 3), (2, 2, 3), (2, 1, 2)]}
VOCABULARY = Vocabulary(SPECS, SHAPES)
ONE_SHAPE = Vocabulary({"audio": SPECS["audio"]}, {"audio": [(3,)]})

layouts = st.sampled_from(list(LAYOUTS))
forms = st.sampled_from(["{a}", "{p}", "text -> {a}", "{a} -> text", "{a} text {p}", "{p} -> {a}", "{a} {p} -> text"])
templates = st.builds(lambda form, a, p: form.format(a=f"audio:{a}", p=f"patches:{p}"), forms, layouts, layouts)


@st.composite
def samples(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = {
        "text": (draw(st.integers(0, 3)),),
        "audio": (draw(st.integers(1, 9)), draw(st.sampled_from(SHAPES["audio"]))[0]),
        "patches": draw(st.sampled_from(SHAPES["patches"])),
    }
    return {name: random_grid(rng, SPECS[name], shape) for name, shape in shapes.items()}


def random_grid(rng, spec, shape):
    sizes = np.resize(spec.codebook_sizes, shape[-1]) if spec.axes[-1] == "codebook" else spec.vocab_size
    return rng.integers(0, sizes, shape)


def slow_document(template, grids):
    """The layout as it is documented, token by token: (name of a special token, or (stream, codebook, id); loss)."""
    marks = dict(word.split(":") for word in template.replace("->", "").split() if ":" in word)
    left, arrow, right = template.partition("->")
    streams = [
        (word.split(":")[0], bool(not arrow or part == right)) for part in (left, right) for word in part.split()
    ]
    tokens = [("<bos>", False)]
    for name, target in streams:
        grid = grids[name]
        tokens.append((f"<begin:{name}>", False))
        if name != "text":
            sizes = grid.shape[1:] if name == "audio" else grid.shape
            tokens.append((f"<shape:{name}:{'x'.join(map(str, sizes))}>", target))
        codebooks = 1 if name == "text" else grid.shape[-1]
        rows = grid.reshape(-1, codebooks)
        ids = [
            ((name, q, int(rows[t, q])), target)
            for t, q in slow_order(marks.get(name, "flatten"), len(rows), codebooks)
        ]
        if name != "patches":
            end = slow_end(marks.get(name, "flatten"), len(rows), codebooks)
            ids.insert(end, (f"<end:{name}>", target))
        tokens += ids
    return [*tokens, ("<eos>", False)]


def token_id(token):
    if isinstance(token, str):
        return VOCABULARY.special(token)
    stream, codebook, number = token
    return VOCABULARY.offset(stream, codebook) + number


@given(templates, samples())
def test_flatten_is_the_documented_layout_and_parse_is_its_inverse(text, grids):
    template = SequenceTemplate.parse(text)
    ids, mask = template.flatten(grids, VOCABULARY)
    expected = slow_document(text, grids)
    assert ids.tolist() == [token_id(token) for token, _ in expected]
    assert mask.tolist() == [counts for _, counts in expected]
    for name, grid in template.parse_ids(ids, VOCABULARY).items():
        assert np.array_equal(grid, grids[name])
        assert grid.shape == grids[name].shape


@given(templates, samples())
def test_each_id_is_of_the_codebook_whose_turn_it_is(text, grids):
    """The grammar allows at each place one codebook's range, and there the codebook is that of the slow order."""
    template = SequenceTemplate.parse(text)
    grammar = template.grammar(VOCABULARY)
    state = grammar.start()
    for (token, _), number in zip(slow_document(text, grids), template.flatten(grids, VOCABULARY)[0], strict=True):
        if not isinstance(token, str):
            stream, codebook, _ = token
            first = VOCABULARY.offset(stream, codebook)
            size = np.resize(SPECS[stream].codebook_sizes, 5)[codebook]
            assert (first, first + size) in grammar.allowed(state)
        state = grammar.advance(state, int(number))
    assert grammar.done(state)


@settings(max_examples=200)
@given(templates, samples())
def test_the_grammar_accepts_every_document_and_forced_tokens_carry_no_loss(text, grids):
    template = SequenceTemplate.parse(text)
    ids, mask = template.flatten(grids, VOCABULARY)
    grammar, free = template.grammar(VOCABULARY, max_length=len(ids)), template.grammar(VOCABULARY)
    state = grammar.start()
    for token, counts in zip(ids.tolist(), mask.tolist(), strict=True):
        forced = sum(high - low for low, high in free.allowed(state)) == 1
        assert not (forced and counts)
        state = grammar.advance(state, token)
    assert grammar.done(state)


@settings(max_examples=300)
@given(templates, samples(), st.data())
def test_one_change_of_structure_is_refused_by_grammar_and_parser_alike(text, grids, data):
    template = SequenceTemplate.parse(text)
    ids = template.flatten(grids, VOCABULARY)[0].tolist()
    place = data.draw(st.integers(0, len(ids) - 1))
    edit = data.draw(st.sampled_from(["change", "drop", "insert", "swap", "cut"]))
    token = data.draw(st.integers(0, VOCABULARY.size - 1))
    changed = list(ids)
    if edit == "change":
        changed[place] = token
    elif edit == "drop":
        del changed[place]
    elif edit == "insert":
        changed.insert(place, token)
    elif edit == "swap":
        changed[place - 1 : place + 1] = changed[place - 1 : place + 1][::-1]
    else:
        changed = changed[:place]
    try:
        parsed = template.parse_ids(changed, VOCABULARY)
        assert template.flatten(parsed, VOCABULARY)[0].tolist() == changed
        accepted = True
    except ValueError:
        accepted = False
    assert accepted == template.grammar(VOCABULARY).accepts(changed)
    if edit in ("drop", "insert") and "text" not in text:
        # One id more or less is a grid of no whole number of steps, save where a step is one id.
        assert not accepted or grids["audio"].shape[1] == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_change_of_the_kind_of_one_token_is_refused(layout):
    """Of a document all tokens are replaced by one of every other kind: special tokens and the ids of each codebook."""
    template = SequenceTemplate.parse(f"audio:{layout}")
    grammar = template.grammar(ONE_SHAPE)
    stream = ONE_SHAPE.stream("audio")
    kinds = [*range(len(ONE_SHAPE.special_tokens)), *stream.offsets]

    def kind(token):
        return max(start for start in kinds if start <= token)

    rng = np.random.default_rng(0)
    for steps in range(1, 6):
        ids = template.flatten({"audio": random_grid(rng, SPECS["audio"], (steps, 3))}, ONE_SHAPE)[0].tolist()
        assert grammar.accepts(ids)
        for place, token in enumerate(ids):
            for other in kinds:
                if other != kind(token):
                    assert not grammar.accepts([*ids[:place], other, *ids[place + 1 :]])


def every_document(grammar):
    """All documents that following `allowed` gives."""
    found, open_ends = [], [([], grammar.start())]
    while open_ends:
        ids, state = open_ends.pop()
        if grammar.done(state):
            found.append(tuple(ids))
            continue
        intervals = grammar.allowed(state)
        assert intervals, "a dead end"
        assert intervals == sorted(intervals)
        for low, high in intervals:
            open_ends += [([*ids, token], grammar.advance(state, token)) for token in range(low, high)]
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spare", [0, 1])
def test_allowed_ids_are_those_of_all_documents_that_fit_and_no_others(layout, spare):
    """On a tiny space: the grammar gives each grid of up to 3 steps of 2 or 3 codebooks once, nothing else, no dead end."""
    spec = TokenSpec("audio", (2, 1, 2), ("time", "codebook"), (320, None), lossless=False, channels=1)
    vocabulary = Vocabulary({"audio": spec}, {"audio": [(2,), (3,)]})
    template = SequenceTemplate.parse(f"audio:{layout}")
    limit = 5 + 6 + spare  # <bos> <begin> <shape> <end> <eos>: 3 steps of 2 ids or 2 of 3
    expected = set()
    for codebooks in (2, 3):
        for steps in range(1, (limit - 5) // codebooks + 1):
            sizes = [spec.codebook_sizes[q] for _ in range(steps) for q in range(codebooks)]
            for values in product(*map(range, sizes)):
                grid = np.array(values).reshape(steps, codebooks)
                expected.add(tuple(template.flatten({"audio": grid}, vocabulary)[0].tolist()))
    found = every_document(template.grammar(vocabulary, max_length=limit))
    assert len(found) == len(set(found))
    assert set(found) == expected


@settings(max_examples=200)
@given(templates, st.integers(0, 2**32), st.integers(0, 25))
def test_whatever_the_grammar_lets_through_parses_within_the_length(text, seed, room):
    template = SequenceTemplate.parse(text)
    shortest = 2 + sum({"text": 2, "audio": 4, "patches": 6}[name] for name in template.streams)
    with pytest.raises(ValueError, match="only"):
        template.grammar(VOCABULARY, max_length=shortest - 1)
    grammar = template.grammar(VOCABULARY, max_length=shortest + room)
    rng = np.random.default_rng(seed)
    state, ids = grammar.start(), []
    while not grammar.done(state):
        choices = [token for low, high in grammar.allowed(state) for token in range(low, high)]
        ids.append(int(rng.choice(choices)))
        state = grammar.advance(state, ids[-1])
    assert len(ids) <= shortest + room
    grids = template.parse_ids(ids, VOCABULARY)
    assert np.array_equal(template.flatten(grids, VOCABULARY)[0], ids)


@settings(max_examples=100)
@given(layouts, st.integers(0, 6), st.integers(0, 5), st.integers(0, 2**32))
def test_a_begun_grid_is_kept_whole_and_goes_on(layout, begun, more, seed):
    rng = np.random.default_rng(seed)
    template = SequenceTemplate.parse(f"audio:{layout}")
    grid = random_grid(rng, SPECS["audio"], (begun, 4))
    prompt = template.prompt_ids({"audio": grid}, VOCABULARY, unfinished=True).tolist()
    limit = 5 + 4 * (max(1, begun) + more)
    grammar = template.grammar(VOCABULARY, limit, begun={"audio": grid})
    state = grammar.start()
    for token in prompt:
        state = grammar.advance(state, token)
    while not grammar.done(state):
        choices = [token for low, high in grammar.allowed(state) for token in range(low, high)]
        prompt.append(int(rng.choice(choices)))
        state = grammar.advance(state, prompt[-1])
    found = template.parse_ids(prompt, VOCABULARY)["audio"]
    assert max(1, begun) <= len(found) <= max(1, begun) + more
    assert np.array_equal(found[:begun], grid)


@pytest.mark.parametrize(
    ("layout", "ids"),
    [("flatten", 3 * 4), ("delay", 1 + 2 + 3), ("coarse-first", 3)],
)
def test_an_unfinished_prompt_ends_where_the_next_id_of_the_first_codebook_is_due(layout, ids):
    template = SequenceTemplate.parse(f"audio:{layout}")
    grid = random_grid(np.random.default_rng(1), SPECS["audio"], (3, 4))
    whole = template.prompt_ids({"audio": grid}, VOCABULARY).tolist()
    unfinished = template.prompt_ids({"audio": grid}, VOCABULARY, unfinished=True).tolist()
    assert len(unfinished) == 3 + ids
    assert unfinished == whole[: len(unfinished)]
    assert whole[len(unfinished)] == VOCABULARY.special("<end:audio>")
    assert len(whole) == 4 + 12


def test_a_begun_grid_that_does_not_fit_is_refused():
    template = SequenceTemplate.parse("text -> audio:delay")
    grid = np.zeros((5, 4), int)
    with pytest.raises(ValueError, match=r"goes on from the prompt has 27 tokens, but only 26.*shorten the prompt"):
        template.grammar(VOCABULARY, 26, begun={"audio": grid})
    with pytest.raises(ValueError, match="grid of shape 3, but the vocabulary knows only 1, 2, 4, 5"):
        template.grammar(VOCABULARY, begun={"audio": grid[:, :3]})
    with pytest.raises(ValueError, match="did you mean 'audio'"):
        template.grammar(VOCABULARY, begun={"audios": grid})
    with pytest.raises(ValueError, match="'patches' cannot be begun"):
        SequenceTemplate.parse("patches").grammar(VOCABULARY, begun={"patches": np.zeros((2, 2, 3), int)})


def test_the_example_of_the_documentation_runs(capsys):
    text = (Path(__file__).parents[2] / "docs" / "sequences.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block, {})
    assert capsys.readouterr().out == "[(4, 5), (5, 1029)]\n"


def test_the_orders_of_the_documentation_are_those_of_the_layouts():
    text = (Path(__file__).parents[2] / "docs" / "sequences.md").read_text()
    found = re.findall(r"`audio:([a-z-]+)` \| `([0-9E ]+)`", text)
    assert [name for name, _ in found] == list(LAYOUTS)
    for name, written in found:
        words = [f"{t}{q}" for t, q in slow_order(name, 4, 3)]
        words.insert(slow_end(name, 4, 3), "E")
        assert written == " ".join(words)


@pytest.mark.parametrize(
    ("text", "canonical", "parts"),
    [
        ("audio", "audio", [Part("audio")]),
        ("audio:flatten", "audio", [Part("audio")]),
        ("audio:raster", "audio", [Part("audio")]),
        ("audio:delay", "audio:delay", [Part("audio", layout="delay")]),
        (
            "text->audio:coarse-first",
            "text -> audio:coarse-first",
            [Part("text"), Part("audio", layout="coarse-first")],
        ),
        ("audio:delay->text", "audio:delay -> text", [Part("audio", layout="delay"), Part("text")]),
        ("patches:spiral", "patches:spiral", [Part("patches", "spiral")]),
        ("patches:delay:spiral", "patches:spiral:delay", [Part("patches", "spiral", "delay")]),
        ("audio audio:delay", "audio audio:delay", [Part("audio"), Part("audio", layout="delay")]),
    ],
)
def test_orders_and_layouts_are_part_of_the_template(text, canonical, parts):
    template = SequenceTemplate.parse(text, known=SPECS)
    assert str(template) == canonical
    assert list(template.parts) == parts
    assert SequenceTemplate.parse(canonical) == template
    assert hash(SequenceTemplate.parse(canonical)) == hash(template)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audio:dealy", "^template 'audio:dealy': no layout is named 'dealy'.*did you mean 'delay'"),
        ("patches:sprial", "no layout is named 'sprial'.*no order .*did you mean 'spiral'"),
        ("text -> audio:", r"no layout is named '' \(known: flatten, delay, coarse-first\)"),
        (
            "audio:delay:delay",
            "^template 'audio:delay:delay': 'audio:delay:delay' has two layouts, 'delay' and 'delay'",
        ),
        ("patches:spiral:column", "has two orders, 'spiral' and 'column'"),
        ("audoi:delay", "no stream is named 'audoi'.*did you mean 'audio'"),
    ],
)
def test_wrong_marks_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        SequenceTemplate.parse(text, known=SPECS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "text:spiral",
            r"the order 'spiral', but its grids \(axes time\) have not the 2 axes of places in a known shape",
        ),
        ("text:random", "the order 'random', but its grids .* have not the one axis"),
        ("text -> audio:hilbert", r"the order 'hilbert', but its grids \(axes time, codebook\) have not the 2 axes"),
    ],
)
def test_orders_of_streams_with_nothing_to_order_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        SequenceTemplate.parse(text, known=SPECS).grammar(VOCABULARY)


def test_a_layout_of_a_stream_without_codebooks_is_refused():
    template = SequenceTemplate.parse("text:delay -> audio", known=SPECS)
    message = r"'text:delay -> audio' gives the stream 'text' the layout 'delay', but its grids \(axes time\) have no codebooks"
    for use in (
        lambda: template.grammar(VOCABULARY),
        lambda: template.flatten({"text": np.zeros(2, int), "audio": np.zeros((1, 2), int)}, VOCABULARY),
        lambda: template.prompt_ids({"text": np.zeros(2, int)}, VOCABULARY),
        lambda: template.parse_ids([1, 3, 4, 2], VOCABULARY),
    ):
        with pytest.raises(ValueError, match=message):
            use()
