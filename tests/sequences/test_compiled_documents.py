"""Documents, and all readings of them, beside a slow one that a reader believes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layouts import slow_end, slow_order
from test_orders import slow_turns

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.document import Role
from tokenize_kit.sequences.documents import Documents, vocabulary_of
from tokenize_kit.sequences.layouts import LAYOUTS
from tokenize_kit.sequences.packing import IGNORED, fill_places, fill_rows
from tokenize_kit.sequences.plans import plan_stream, plan_whole
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards import StreamArray

PLANES = ["raster", "column", "serpentine", "spiral", "spiral-out", "coarse"]
VIDEO_AXES = ("time", "height", "width")
SPECS = {
    "text": TokenSpec("text", 7, ("time",), (None,), lossless=True),
    "image": TokenSpec("image", 9, ("height", "width"), (8, 8), lossless=False, channels=3),
    "pixels": TokenSpec("image", 4, ("height", "width", "channel"), (1, 1, None), lossless=True, channels=3),
    "patches": TokenSpec("image", (3, 2, 4), ("height", "width", "codebook"), (8, 8, None), lossless=False, channels=3),
    "audio": TokenSpec("audio", (3, 2, 4), ("time", "codebook"), (320, None), lossless=False, channels=1),
    "stereo": TokenSpec("audio", 6, ("time", "channel"), (1, None), lossless=True, channels=2, open_axes=("time",)),
    "video": TokenSpec("video", 9, VIDEO_AXES, (4, 8, 8), lossless=False, channels=3, frame_rate=12.0),
    "film": TokenSpec(
        "video", 5, VIDEO_AXES, (4, 8, 8), lossless=False, channels=3, frame_rate=12.0, open_axes=("time",)
    ),
}
SHAPES = {
    "image": [(2, 3), (3, 2), (2, 2)],
    "pixels": [(2, 2, 3)],
    "patches": [(2, 2, 3), (1, 3, 3)],
    "audio": [(3,)],
    "stereo": [(2,)],
    "video": [(2, 2, 2), (3, 2, 2)],
    "film": [(2, 2), (1, 2)],
}
OPEN = ("text", "audio", "stereo", "film")
VOCABULARY = Vocabulary(SPECS, SHAPES, SPECS)
COLUMNS = {"time": 0, "height": 1, "width": 2}

orders_of_planes = st.sampled_from([*PLANES, "random"])
parts = st.one_of(
    st.sampled_from(["text", "stereo"]),
    st.sampled_from(["image", "pixels", "video"]).flatmap(
        lambda name: orders_of_planes.map(lambda order: f"{name}:{order}")
    ),
    st.sampled_from(PLANES).map(lambda order: f"film:{order}"),
    st.sampled_from(list(LAYOUTS)).map(lambda layout: f"audio:{layout}"),
    st.tuples(orders_of_planes, st.sampled_from(list(LAYOUTS))).map(lambda marks: f"patches:{marks[0]}:{marks[1]}"),
)
parts_or_none = st.tuples(parts, st.sampled_from(["", "", "?"])).map("".join)
templates = (
    st.tuples(st.lists(parts_or_none, max_size=2), st.lists(parts_or_none, min_size=1, max_size=2))
    .map(lambda sides: " -> ".join(" ".join(side) for side in sides if side))
    .map(lambda text: text if " " in text else text.rstrip("?"))
)


def shape_of(name, rng):
    if name in OPEN:
        known = SHAPES.get(name, [()])
        return (int(rng.integers(0 if name == "text" else 1, 5)), *known[rng.integers(len(known))])
    return SHAPES[name][rng.integers(len(SHAPES[name]))]


def grid_of(name, shape, rng):
    spec = SPECS[name]
    sizes = np.resize(spec.codebook_sizes, shape[-1]) if spec.axes[-1] == "codebook" else spec.vocab_size
    return rng.integers(0, sizes, shape)


def grids_for(text, seed):
    rng = np.random.default_rng(seed)
    template = SequenceTemplate.parse(text)
    grids = {}
    for name, part in zip(template.names, template.parts, strict=True):
        missing = rng.random() < 0.4
        if part.optional and missing and rng.random() < 0.5:
            grids[name] = np.zeros((0,) * len(SPECS[part.stream].axes), int)
        elif not missing or not (part.optional or name in template.condition):
            grids[name] = grid_of(part.stream, shape_of(part.stream, rng), rng)
    return grids


def slow_document(text, grids, vocabulary=VOCABULARY, seed=0):
    """Each token as (id, role, part, stream, occurrence, codebook, coordinates), by the definitions, one at a time."""
    left, arrow, right = text.partition("->")
    words = [
        (word, bool(arrow) and side == left) for side in ((left, right) if arrow else (left,)) for word in side.split()
    ]
    names = list(vocabulary.streams)
    nowhere = (-1, -1, -1)
    first = Role.CONDITION if words[0][1] else Role.STRUCTURE
    tokens = [(vocabulary.bos, first, -1, -1, 0, -1, nowhere)]
    seen: dict[str, int] = {}
    for number, (word, given_) in enumerate(words):
        optional = word.endswith("?")
        name, *marks = word.removesuffix("?").split(":")
        seen[name] = seen.get(name, 0) + 1
        grid = grids.get(name if seen[name] == 1 else f"{name}#{seen[name]}")
        of = (number, names.index(name), seen[name])
        role = Role.CONDITION if given_ else Role.TARGET
        begin = Role.CONDITION if given_ else Role.TARGET if optional else Role.STRUCTURE
        if grid is None or (optional and grid.size == 0):
            tokens.append((vocabulary.special(f"<none:{name}>"), role, *of, -1, nowhere))
            continue
        tokens.append((vocabulary.special(f"<begin:{name}>"), begin, *of, -1, nowhere))
        known = vocabulary.stream(name).shapes
        if len(known) > 1:
            rest = grid.shape[1:] if name in OPEN else grid.shape
            shape = vocabulary.special(f"<shape:{name}:{'x'.join(map(str, rest))}>")
            tokens.append((shape, role, *of, -1, nowhere))
        order = next((mark for mark in marks if mark not in LAYOUTS), "raster")
        layout = next((mark for mark in marks if mark in LAYOUTS), "flatten")
        axes = [axis for axis in SPECS[name].axes if axis not in ("codebook", "channel")]
        size = grid.shape[: len(axes)]
        depth = int(np.prod(grid.shape[len(axes) :]))
        places = slow_places(order, size, axes, seed)
        ids = []
        for turn, codebook in slow_order(layout, len(places), depth):
            place = places[turn]
            value = int(grid[(*place, codebook)[: grid.ndim]])
            at = [-1, -1, -1]
            for axis, index in zip(axes, place, strict=True):
                at[COLUMNS[axis]] = index
            offset = vocabulary.offset(name, codebook if SPECS[name].axes[-1] == "codebook" else 0)
            ids.append((value + offset, role, *of, codebook, tuple(at)))
        if name in OPEN:
            end = (vocabulary.special(f"<end:{name}>"), role, *of, -1, nowhere)
            ids.insert(slow_end(layout, len(places), depth), end)
        tokens += ids
    return [*tokens, (vocabulary.eos, Role.STRUCTURE, -1, -1, 0, -1, nowhere)]


def slow_joint(text, tokens):
    """(opens, slot) of each token of `slow_document`: which begin a joint step, and the slot of each."""
    words = text.replace("->", "").split()
    found, last, seen = [], None, {}
    for number, (*_, part, _stream, _occurrence, codebook, _at) in enumerate(tokens):
        name, *marks = words[part].removesuffix("?").split(":") if part >= 0 else ("",)
        if codebook < 0 or SPECS[name].axes[-1] != "codebook":
            found.append((True, 0))
            last = None
            continue
        # In every layout the ids of a codebook come in the order of their places.
        turn = seen[part, codebook] = seen.get((part, codebook), -1) + 1
        layout = next((mark for mark in marks if mark in LAYOUTS), "flatten")
        key = {"flatten": turn, "delay": turn + codebook, "coarse-first": number}[layout]
        found.append((last is None or key != last, codebook))
        last = key
    return found


def slow_cells(text, tokens, grids):
    """What is told of each token of `slow_document` that is an id of a grid of height and width; -1 for the others."""
    template = SequenceTemplate.parse(text)
    found = []
    for _, _, part, _, _, codebook, (time, row, column) in tokens:
        if codebook < 0 or time >= 0 or row < 0:
            found.append((-1,) * 8)
            continue
        height, width, *depth = grids[template.names[part]].shape
        given_ = int(template.names[part] in template.condition)
        found.append((part, row, column, codebook, height, width, *(depth or [1]), given_))
    return found


@pytest.mark.parametrize(
    ("part", "slots"),
    [
        ("audio", 3),
        ("audio:delay", 3),
        ("audio:coarse-first", 1),
        ("patches:hilbert:delay", 3),
        ("pixels", 1),
        ("stereo", 1),
        ("text", 1),
    ],
)
def test_only_codebooks_with_ranges_of_their_own_are_joined(part, slots):
    (segment,) = SequenceTemplate.parse(part).segments(VOCABULARY)
    assert segment.arrangement.slots == slots


def slow_places(order, size, axes, seed):
    """The places of a grid in their order, as tuples of indices."""
    if len(axes) == 1:
        return [(index,) for index in range(size[0])]
    if order == "random":
        flat = slow_turns("random", 1, int(np.prod(size)), seed)
        return [tuple(map(int, np.unravel_index(place, size))) for _, place in flat]
    planes = slow_turns(order, size[-2], size[-1])
    return [(*before, *place) for before in np.ndindex(size[:-2]) for place in planes]


def columns(document):
    """The tokens of a document as `slow_document` gives them."""
    parts_ = (
        document.ids,
        document.roles,
        document.segments,
        document.streams,
        document.occurrences,
        document.codebooks,
    )
    return [
        (*values, tuple(at))
        for *values, at in zip(*(part.tolist() for part in parts_), document.coordinates.tolist(), strict=True)
    ]


@settings(max_examples=300, deadline=None)
@given(templates, st.integers(0, 2**32), st.integers(0, 2**62))
def test_a_document_is_the_slow_one_and_comes_apart_again(text, seed, order_seed):
    template, grids = SequenceTemplate.parse(text), grids_for(text, seed)
    document = template.document(grids, VOCABULARY, order_seed)
    expected = slow_document(text, grids, seed=order_seed)
    assert columns(document) == expected
    assert document.loss_mask.tolist() == [role == Role.TARGET for _, role, *_ in expected]
    apart = template.parse_ids(document.ids, VOCABULARY, order_seed)
    assert tuple(apart) == template.given(grids)
    for name, grid in apart.items():
        assert np.array_equal(grid, grids[name])


@settings(max_examples=200, deadline=None)
@given(templates, st.integers(0, 2**32), st.integers(0, 2**62))
def test_the_grammar_accepts_every_document_and_knows_where_each_id_goes(text, seed, order_seed):
    template, grids = SequenceTemplate.parse(text), grids_for(text, seed)
    document = template.document(grids, VOCABULARY, order_seed)
    grammar = template.grammar(VOCABULARY, len(document), seed=order_seed)
    free = template.grammar(VOCABULARY, seed=order_seed)
    state = grammar.start()
    slow = slow_document(text, grids, seed=order_seed)
    joint, cells = iter(slow_joint(text, slow)), iter(slow_cells(text, slow, grids))
    for token, role, at in zip(document.ids.tolist(), document.roles, document.coordinates.tolist(), strict=True):
        assert grammar.next_step(state) == free.next_step(state) == next(joint)
        assert grammar.next_cell(state) == next(cells)
        allowed = free.allowed(state)
        assert all(low < high for low, high in allowed)
        assert all(one[1] < two[0] for one, two in itertools.pairwise(allowed))
        assert grammar.place_of(state, token).role == role
        assert not (role == Role.TARGET and sum(high - low for low, high in allowed) == 1)
        if at != [-1, -1, -1]:
            assert list(grammar.coordinates(state)) == at
        state = grammar.advance(state, token)
    assert grammar.done(state)
    assert grammar.next_step(state) == (True, 0)


@settings(max_examples=200, deadline=None)
@given(templates, st.integers(0, 2**32), st.integers(0, 20), st.integers(0, 99))
def test_what_is_drawn_from_the_grammar_is_a_document(text, seed, room, order_seed):
    template = SequenceTemplate.parse(text)
    grammar = template.grammar(VOCABULARY, shortest(template) + room, seed=order_seed)
    rng, state, ids = np.random.default_rng(seed), grammar.start(), []
    while not grammar.done(state):
        allowed = [token for low, high in grammar.allowed(state) for token in range(low, high)]
        ids.append(int(rng.choice(allowed)))
        state = grammar.advance(state, ids[-1])
    assert len(ids) <= shortest(template) + room
    grids = template.parse_ids(ids, VOCABULARY, order_seed)
    assert template.flatten(grids, VOCABULARY, order_seed)[0].tolist() == ids


def shortest(template):
    """The fewest tokens of a document, counted by hand."""
    least = {"text": 2, "image": 6, "pixels": 13, "patches": 11, "audio": 5, "stereo": 4, "video": 10, "film": 5}
    may_lack = {*template.condition, *(n for n, p in zip(template.names, template.parts, strict=True) if p.optional)}
    return 2 + sum(1 if name in may_lack else least[template.stream_of(name)] for name in template.names)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        ["image:{o}", "pixels:{o}", "patches:{o}:{l}", "video:{o}", "film:{p}", "audio:{l}", "stereo", "text"]
    ),
    st.sampled_from([*PLANES, "random"]),
    st.sampled_from(PLANES),
    st.sampled_from(list(LAYOUTS)),
    st.integers(0, 2**32),
    st.integers(0, 99),
)
def test_what_is_begun_is_kept_in_every_order(form, order, plane, layout, seed, order_seed):
    """The first steps of a grid are given; what is drawn goes on from there, whatever comes later in the sequence."""
    from tokenize_kit.sequences.prompt import begin, continues

    template = SequenceTemplate.parse(form.format(o=order, p=plane, l=layout))
    (name,) = template.names
    whole = grids_for(str(template), seed)[name]
    rng = np.random.default_rng(seed)
    if name in OPEN:
        first = whole[: rng.integers(0 if name == "text" else 1, len(whole) + 1)]
    else:
        first = whole[: rng.integers(1, max(2, len(whole)))]
    if not continues(template, VOCABULARY, {name: first}):
        assert name not in OPEN
        return
    beginning = begin(template, VOCABULARY, {name: first}, 60, order_seed)
    ids, state = list(beginning.ids), beginning.state
    while not beginning.grammar.done(state):
        allowed = [token for low, high in beginning.grammar.allowed(state) for token in range(low, high)]
        ids.append(int(rng.choice(allowed)))
        state = beginning.grammar.advance(state, ids[-1])
    made = template.parse_ids(ids, VOCABULARY, order_seed)[name]
    assert np.array_equal(made[: len(first)], first)


def arrays_for(template, rows, seed):
    """Flat arrays of random grids, which begin and end with ids that belong to no row."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in template.streams:
        found[name] = []
        for count in rows:
            shapes = [shape_of(name, rng) for _ in range(count)]
            if name in template.optional_streams:
                shapes = [shape if rng.random() < 0.6 else (0,) * len(shape) for shape in shapes]
            flat = [grid_of(name, shape, rng).reshape(-1) for shape in shapes]
            offsets = 3 + np.concatenate([[0], np.cumsum([len(ids) for ids in flat])]).astype(np.int64)
            values = np.concatenate([np.zeros(3, int), *flat, np.zeros(2, int)]).astype(np.uint8)
            table = np.array(shapes, np.int64).reshape(count, len(SPECS[name].axes))
            found[name].append(StreamArray(values, offsets, table))
    return found


@settings(max_examples=250, deadline=None)
@given(
    templates,
    st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(lambda rows: sum(rows) > 2),
    st.sampled_from([0, 1]),
    st.integers(0, 2**32),
)
def test_packed_rows_are_the_documents(text, rows, ahead, seed):
    """Ids, labels, positions, numbers, roles and coordinates, of the tokens and of those that follow them."""
    template = SequenceTemplate.parse(text)
    arrays = arrays_for(template, rows, seed)
    rng = np.random.default_rng(seed)
    dropping = bool(template.left) and rng.random() < 0.5
    try:
        vocabulary = vocabulary_of(template, SPECS, arrays, dropping)
    except ValueError as error:
        assert "no sample has the stream" in str(error)  # noqa: PT017
        return
    documents = Documents(template, vocabulary, arrays)
    count = sum(rows) // template.samples
    assert len(documents) == count
    if not count:
        return
    if dropping:
        whole, dropped = documents, rng.random((count, len(template.left))) < 0.4
        documents = whole.without(dropped)
        for number in range(count):
            grids = whole.grids(number)
            kept = [name for name in grids if name not in itertools.compress(template.names, dropped[number])]
            assert list(documents.grids(number)) == kept
    assert documents.tokens.tolist() == [
        len(slow_document(text, documents.grids(number), vocabulary)) for number in range(count)
    ]
    seeds = rng.integers(0, 2**62, count)
    chosen = np.flatnonzero(rng.random(count) < 0.8)
    context = int(rng.integers(1, 30))
    if not documents.is_stream:
        context += int(documents.tokens.max())
    if documents.is_stream:
        plan = plan_stream(documents.tokens - ahead, context, rng.permutation(chosen))
    else:
        plan = plan_whole(documents.tokens - ahead, context, chosen, ahead)
    picked = rng.permutation(plan.rows)
    filled = fill_rows(documents, plan, picked, context, ahead, seeds)
    places = [fill_places(documents, plan, picked, context, more, seeds) for more in (0, 1)]
    for at, row in enumerate(picked.tolist()):
        expected = slow_row(documents, plan, row, context, ahead, seeds)
        found = list(zip(*(array[at].tolist() for array in filled), strict=True))
        assert found == [place[:4] for place in expected]
        for more, place in enumerate(places):
            columns_ = (
                place.roles,
                place.segments,
                place.coordinates,
                place.axial,
                place.opens,
                place.slots,
                place.cells,
            )
            drawn = [table.segment.arrangement.drawn for table in documents.segments]
            own = (place.coordinates >= 0).any(-1)
            assert np.array_equal(place.drawn, own & np.array([*drawn, False])[place.segments])
            told = [
                tuple(map(tuple_of, values)) for values in zip(*(array[at].tolist() for array in columns_), strict=True)
            ]
            assert told == [place[4 + more] for place in expected]


def tuple_of(value):
    return tuple(value) if isinstance(value, list) else value


def slow_row(documents, plan, row, context, ahead, seeds):
    """A row, token by token: id, label, position, number of the document; what it is, and what the token after it is."""
    template, vocabulary = documents.template, documents.vocabulary
    nowhere = (-1, -1, -1)
    outside = (0, -1, nowhere)
    no_cell = (-1,) * 8
    blank = (*outside, (0, 0, 0), False, 0, no_cell)
    found = []
    for number, piece in enumerate(range(plan.offsets[row], plan.offsets[row + 1])):
        document = int(plan.document[piece])
        tokens = slow_document(str(template), documents.grids(document), vocabulary, int(seeds[document]))
        starts, joint = first_ids(tokens), slow_joint(str(template), tokens)
        cells = slow_cells(str(template), tokens, documents.grids(document))
        for position in range(int(plan.length[piece])):
            at = int(plan.first[piece]) + position
            goal = at + ahead
            label = tokens[goal][0] if tokens[goal][1] == Role.TARGET else IGNORED
            told = []
            for more in (0, 1):
                if at + more >= len(tokens):
                    told.append((*outside, (position + more,) * 3, True, 0, no_cell))
                    continue
                _, role, part, stream, _, _, where = tokens[at + more]
                axial = (position + more,) * 3
                axes = SPECS[list(vocabulary.streams)[stream]].axes if stream >= 0 else ()
                if where != nowhere and len([axis for axis in axes if axis in COLUMNS]) > 1:
                    axial = tuple(starts[part] - int(plan.first[piece]) + max(0, index) for index in where)
                told.append((int(role), part, where, axial, *joint[at + more], cells[at + more]))
            found.append((tokens[at][0], label, position, number, *told))
    padding = context - len(found)
    return found + [(vocabulary.pad, IGNORED, position, -1, blank, blank) for position in range(padding)]


def first_ids(tokens):
    """For each part the place of its first id or end after the header."""
    starts = {}
    for place, (_, _, part, *_rest) in enumerate(tokens):
        if part >= 0 and part not in starts:
            starts[part] = place
    return {part: place + header_of(tokens, place) for part, place in starts.items()}


def header_of(tokens, place):
    """How many tokens of a segment come before its ids: those without coordinates at its start."""
    part, count = tokens[place][2], 0
    while tokens[place + count][2] == part and tokens[place + count][6] == (-1, -1, -1):
        count += 1
    return count


def test_several_samples_make_a_document_and_what_is_left_makes_none():
    template = SequenceTemplate.parse("image text -> image text text")
    arrays = arrays_for(template, [4, 4], 0)
    documents = Documents(template, vocabulary_of(template, SPECS, arrays), arrays)
    assert len(documents) == 2
    rows = Documents(SequenceTemplate.parse("image text"), documents.vocabulary, arrays)
    for number in range(2):
        grids = documents.grids(number)
        assert list(grids) == ["image", "text", "image#2", "text#2", "text#3"]
        for name, grid in grids.items():
            stream, _, occurrence = name.partition("#")
            expected = rows.grids(3 * number + int(occurrence or 1) - 1)[stream]
            assert np.array_equal(grid, expected)


def test_a_film_of_open_length_is_cut_between_its_steps():
    template = SequenceTemplate.parse("film:spiral")
    arrays = arrays_for(template, [9], 1)
    documents = Documents(template, vocabulary_of(template, SPECS, arrays), arrays)
    context = documents.tokens_of_steps(2)
    pieces = documents.pieces(context)
    assert documents.tokens.max() > context
    assert pieces.tokens.max() <= context
    parts_ = [pieces.grids(piece)["film"] for piece in range(len(pieces))]
    ended = pieces.segments[0].ended
    joined, start = [], 0
    for stop in np.flatnonzero(ended) + 1:
        joined.append(np.concatenate(parts_[start:stop]))
        start = stop
    for number, film in enumerate(joined):
        assert np.array_equal(film, documents.grids(number)["film"])
    roles = fill_places(pieces, plan_whole(pieces.tokens, context, ahead=0), np.arange(1), context).roles
    assert roles.max() <= Role.TARGET
    with pytest.raises(ValueError, match=r"single time step of 'film' has .* ids a step.* smaller samples"):
        documents.pieces(4)
