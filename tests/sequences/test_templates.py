import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.template import Part, SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary

SPECS = {
    "text": TokenSpec("text", 7, ("time",), (None,), lossless=True),
    "image": TokenSpec("image", 5, ("height", "width"), (1, 1), lossless=False, channels=3),
    "pixels": TokenSpec("image", 4, ("height", "width", "channel"), (1, 1, None), lossless=True, channels=3),
    "sound": TokenSpec("audio", (3, 2), ("time", "codebook"), (320, None), lossless=False, channels=1),
}
SHAPES = {"image": [(2, 2), (1, 3), (3, 1)], "pixels": [(2, 1, 3)], "sound": [(2,)]}
VOCABULARY = Vocabulary(SPECS, SHAPES)

templates = st.permutations(list(SPECS)).flatmap(
    lambda names: st.tuples(st.integers(1, 4), st.integers(0, 3)).map(
        lambda sizes: SequenceTemplate(
            tuple(map(Part, names[: min(sizes[1], sizes[0] - 1)])),
            tuple(map(Part, names[min(sizes[1], sizes[0] - 1) : sizes[0]])),
        )
    )
)


@st.composite
def samples(draw) -> dict[str, np.ndarray]:
    grids = {}
    for name, spec in SPECS.items():
        if name == "text":
            shape = (draw(st.integers(0, 5)),)
        elif name == "sound":
            shape = (draw(st.integers(1, 4)), 2)
        else:
            shape = draw(st.sampled_from(SHAPES[name]))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        grids[name] = rng.integers(0, np.resize(spec.codebook_sizes, shape[-1]), shape).astype(np.uint8)
    return grids


def slow_document(template: SequenceTemplate, grids: dict[str, np.ndarray]) -> list[tuple[str, bool]]:
    """The layout as it is documented, token by token: names of special tokens, or stream:id."""
    tokens = [("<bos>", False)]
    for name in template.streams:
        target = name in template.target
        tokens.append((f"<begin:{name}>", False))
        if name == "image":
            tokens.append((f"<shape:image:{grids[name].shape[0]}x{grids[name].shape[1]}>", target))
        for index in np.ndindex(grids[name].shape):
            codebook = index[-1] if name == "sound" else 0
            tokens.append((f"{name}.{codebook}:{grids[name][index]}", target))
        if name in ("text", "sound"):
            tokens.append((f"<end:{name}>", target))
    return [*tokens, ("<eos>", False)]


def token_id(name: str) -> int:
    if name.startswith("<"):
        return VOCABULARY.special(name)
    stream, _, rest = name.partition(".")
    codebook, _, number = rest.partition(":")
    return VOCABULARY.offset(stream, int(codebook)) + int(number)


@given(templates, samples())
def test_flatten_is_the_documented_layout_and_parse_is_its_inverse(template, grids) -> None:
    ids, mask = template.flatten(grids, VOCABULARY)
    expected = slow_document(template, grids)
    assert ids.tolist() == [token_id(name) for name, _ in expected]
    assert mask.tolist() == [counts for _, counts in expected]
    parsed = template.parse_ids(ids, VOCABULARY)
    assert list(parsed) == list(template.streams)
    for name, grid in parsed.items():
        assert np.array_equal(grid, grids[name])
        assert grid.shape == grids[name].shape


@given(templates, samples())
def test_the_grammar_accepts_every_training_sequence_and_forced_tokens_carry_no_loss(template, grids) -> None:
    ids, mask = template.flatten(grids, VOCABULARY)
    grammar = template.grammar(VOCABULARY, max_length=len(ids))
    state = grammar.start()
    free = template.grammar(VOCABULARY)
    for token, counts in zip(ids.tolist(), mask.tolist(), strict=True):
        forced = sum(high - low for low, high in free.allowed(state)) == 1
        assert not (forced and counts)
        assert any(low <= token < high for low, high in grammar.allowed(state))
        state = grammar.advance(state, token)
    assert grammar.done(state)
    assert grammar.allowed(state) == []


@settings(max_examples=300)
@given(templates, st.integers(0, 2**32), st.integers(0, 30))
def test_whatever_the_grammar_lets_through_parses_within_the_length(template, seed, room) -> None:
    shortest = 2 + sum({"text": 2, "image": 5, "pixels": 7, "sound": 4}[name] for name in template.streams)
    grammar = template.grammar(VOCABULARY, max_length=shortest + room)
    rng = np.random.default_rng(seed)
    state, ids = grammar.start(), []
    while not grammar.done(state):
        intervals = grammar.allowed(state)
        assert intervals == sorted(intervals)
        choices = [token for low, high in intervals for token in range(low, high)]
        assert len(set(choices)) == len(choices) > 0
        ids.append(int(rng.choice(choices)))
        state = grammar.advance(state, ids[-1])
    assert len(ids) <= shortest + room
    grids = template.parse_ids(ids, VOCABULARY)
    assert np.array_equal(template.flatten(grids, VOCABULARY)[0], ids)
    for name, grid in grids.items():
        if name in ("image", "pixels"):
            assert grid.shape in SHAPES[name]


@settings(max_examples=300)
@given(templates, samples(), st.data())
def test_parse_accepts_exactly_what_the_grammar_accepts(template, grids, data) -> None:
    ids = template.flatten(grids, VOCABULARY)[0].tolist()
    place = data.draw(st.integers(0, len(ids) - 1))
    edit = data.draw(st.sampled_from(["change", "drop", "insert", "cut"]))
    token = data.draw(st.integers(0, VOCABULARY.size - 1))
    if edit == "change":
        ids[place] = token
    elif edit == "drop":
        del ids[place]
    elif edit == "insert":
        ids.insert(place, token)
    else:
        ids = ids[:place]
    try:
        template.parse_ids(ids, VOCABULARY)
        parsed = True
    except ValueError:
        parsed = False
    assert parsed == template.grammar(VOCABULARY).accepts(ids)


def test_no_document_shorter_than_the_shortest_is_promised() -> None:
    template = SequenceTemplate.parse("text -> image")
    template.grammar(VOCABULARY, max_length=9)
    with pytest.raises(ValueError, match="has 9 tokens, but only 8 are allowed"):
        template.grammar(VOCABULARY, max_length=8)


def test_prompts_hold_the_first_streams_whole_or_unfinished() -> None:
    template = SequenceTemplate.parse("text -> image")
    text = np.array([3, 1])
    offset = VOCABULARY.offset("text")
    begin, end = VOCABULARY.special("<begin:text>"), VOCABULARY.special("<end:text>")
    assert template.prompt_ids({"text": text}, VOCABULARY).tolist() == [
        VOCABULARY.bos,
        begin,
        offset + 3,
        offset + 1,
        end,
    ]
    unfinished = template.prompt_ids({"text": text}, VOCABULARY, unfinished=True)
    assert unfinished.tolist() == [VOCABULARY.bos, begin, offset + 3, offset + 1]
    assert template.prompt_ids({}, VOCABULARY).tolist() == [VOCABULARY.bos]
    with pytest.raises(ValueError, match="give the first streams"):
        template.prompt_ids({"image": np.zeros((2, 2), int)}, VOCABULARY)
    with pytest.raises(ValueError, match="did you mean 'text'"):
        template.prompt_ids({"texts": text}, VOCABULARY)


@pytest.mark.parametrize(
    ("text", "condition", "target"),
    [
        ("text", (), ("text",)),
        ("text image", (), ("text", "image")),
        (" text->image  sound ", ("text",), ("image", "sound")),
    ],
)
def test_templates_are_parsed(text, condition, target) -> None:
    template = SequenceTemplate.parse(text, known=SPECS)
    assert (template.condition, template.target) == (condition, target)
    assert SequenceTemplate.parse(str(template)) == template


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("txet -> image", "no stream is named 'txet'.*did you mean 'text'"),
        ("text -> image -> sound", "more than one '->'"),
        ("-> image", "nothing left of '->'.*write 'image'"),
        ("text ->", "predicts nothing"),
        ("", "predicts nothing"),
    ],
)
def test_wrong_templates_are_refused(text, message) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceTemplate.parse(text, known=SPECS)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ({}, "no stream 'image'"),
        ({"image": np.zeros((9, 9), int)}, "shape 9x9, but the vocabulary knows only 1x3, 2x2, 3x1"),
        ({"image": np.full((2, 2), 5)}, "id 5 is outside the vocabulary of 5"),
        ({"image": np.full((2, 2), -1)}, "id -1 is outside"),
        ({"image": np.zeros(4, int)}, "expected an integer grid with axes"),
        ({"image": np.zeros((2, 2))}, "expected an integer grid"),
    ],
)
def test_grids_that_do_not_fit_are_refused(grids, message) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceTemplate.parse("image").flatten(grids, VOCABULARY)
