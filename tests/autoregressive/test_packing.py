import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.documents import Documents, vocabulary_of
from tokenize_kit.sequences.packing import fill_rows
from tokenize_kit.sequences.plans import plan_stream, plan_whole
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards import StreamArray
from trainers.autoregressive.batches import PackedDataset, every_row_once

SPECS = {
    "text": TokenSpec("text", 200, ("time",), (None,), lossless=True),
    "image": TokenSpec("image", 9, ("height", "width"), (1, 1), lossless=False, channels=3),
    "sound": TokenSpec("audio", (30, 20), ("time", "codebook"), (320, None), lossless=False, channels=1),
}


def make_arrays(rng: np.random.Generator, name: str, rows: list[int]) -> list[StreamArray]:
    """One array for each number of rows, with random grids; the values begin with ids that belong to no row."""
    arrays = []
    for count in rows:
        if name == "text":
            shapes = rng.integers(0, 12, (count, 1))
        elif name == "image":
            shapes = np.array([(2, 3), (3, 2), (2, 2)])[rng.integers(0, 3, count)]
        else:
            shapes = np.stack([rng.integers(1, 5, count), np.full(count, 2)], 1)
        offsets = 3 + np.concatenate([[0], np.cumsum(shapes.prod(1))])
        if name == "sound":
            values = rng.integers(0, 20, offsets[-1] + 2).astype(np.uint8)
        else:
            values = rng.integers(0, SPECS[name].max_vocab_size, offsets[-1] + 2).astype(np.uint8)
        arrays.append(StreamArray(values, offsets.astype(np.int64), shapes.astype(np.int64)))
    return arrays


def make_documents(template: str, rows: list[int], seed: int = 0) -> Documents:
    rng = np.random.default_rng(seed)
    parsed = SequenceTemplate.parse(template)
    arrays = {name: make_arrays(rng, name, rows) for name in parsed.streams}
    return Documents(parsed, vocabulary_of(parsed, SPECS, arrays), arrays)


def slow_rows(documents: Documents, plan, context: int) -> list[list[tuple[int, int, int, int]]]:
    """Each row as (id, label, position, document) tuples, from `flatten` and the pieces of the plan, one token at a time."""
    rows = []
    for row in range(plan.rows):
        places = []
        for number, piece in enumerate(range(plan.offsets[row], plan.offsets[row + 1])):
            grids = documents.grids(int(plan.document[piece]))
            ids, mask = documents.template.flatten(grids, documents.vocabulary)
            for position in range(plan.length[piece]):
                at = int(plan.first[piece]) + position
                label = int(ids[at + 1]) if mask[at + 1] else -100
                places.append((int(ids[at]), label, position, number))
        padding = [(documents.vocabulary.pad, -100, position, -1) for position in range(context - len(places))]
        rows.append(places + padding)
    return rows


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["text", "image", "text -> image", "image text", "text image -> sound", "sound text"]),
    st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(lambda rows: sum(rows) > 0),
    st.integers(1, 60),
    st.integers(0, 1000),
)
def test_packed_rows_equal_the_slow_reference(template, rows, room, seed) -> None:
    documents = make_documents(template, rows, seed)
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(rng.random(len(documents)) < 0.8)
    if documents.is_stream:
        context = room
        plan = plan_stream(documents.tokens - 1, context, rng.permutation(chosen))
    else:
        context = int((documents.tokens - 1).max()) + room
        plan = plan_whole(documents.tokens - 1, context, chosen)
    expected = slow_rows(documents, plan, context)
    wanted = rng.integers(0, plan.rows, 5) if plan.rows else np.zeros(0, np.int64)
    for picked in (np.arange(plan.rows), wanted):
        filled = fill_rows(documents, plan, picked, context)
        tuples = np.stack(filled, -1)
        assert tuples.shape == (len(picked), context, 4)
        assert [[tuple(place) for place in row] for row in tuples.tolist()] == [expected[row] for row in picked]


@settings(deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(3, 50), min_size=1, max_size=30))
def test_the_line_uses_every_pair_once_and_fills_every_row_but_the_last(context, lengths) -> None:
    plan = plan_stream(np.array(lengths), context)
    used = [(d, f + i) for d, f, n in zip(plan.document, plan.first, plan.length, strict=True) for i in range(n)]
    assert used == [(d, i) for d, n in enumerate(lengths) for i in range(n)]
    per_row = [int(plan.length[a:b].sum()) for a, b in zip(plan.offsets[:-1], plan.offsets[1:], strict=True)]
    assert per_row[:-1] == [context] * (plan.rows - 1)
    assert 0 < per_row[-1] <= context


@settings(deadline=None)
@given(st.lists(st.integers(3, 39), min_size=1, max_size=60), st.integers(40, 90))
def test_whole_documents_are_packed_once_each_within_the_context_and_tightly(lengths, context) -> None:
    plan = plan_whole(np.array(lengths), context)
    assert sorted(plan.document.tolist()) == list(range(len(lengths)))
    assert plan.first.tolist() == [0] * len(lengths)
    assert plan.length.tolist() == [lengths[document] for document in plan.document]
    per_row = [int(plan.length[a:b].sum()) for a, b in zip(plan.offsets[:-1], plan.offsets[1:], strict=True)]
    assert max(per_row) <= context
    # First-fit decreasing is the slow reference; grouping documents of one length costs a row here and there at most.
    bins: list[int] = []
    for length in sorted(lengths, reverse=True):
        for index, used in enumerate(bins):
            if used + length <= context:
                bins[index] += length
                break
        else:
            bins.append(length)
    assert plan.rows <= len(bins) + max(1, len(bins) // 10)


def test_a_document_longer_than_the_context_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"longest document has 51 tokens.*context of 50.*--context 51"):
        plan_whole(np.array([4, 50, 8]), 50)
    assert plan_whole(np.array([4, 50, 8]), 51).rows == 2


@pytest.mark.parametrize("template", ["text", "text -> image"])
def test_batches_depend_on_the_position_alone(template) -> None:
    documents = make_documents(template, [40, 30])
    context = 32

    def dataset() -> PackedDataset:
        return PackedDataset(documents, np.arange(len(documents)), context, 3, seed=5)

    whole = dataset()
    batches = [whole.batch(index) for index in range(40)]
    assert whole.epoch(40) > 2  # the middle of an epoch, its end and the second one are all in it
    for start in (0, 1, 7, 13, 29):
        resumed = dataset()
        for index in range(start, start + 5):
            for one, other in zip(resumed.batch(index), batches[index], strict=True):
                assert one is other or (torch.equal(one, other) if torch.is_tensor(one) else one == other)
    other_seed = PackedDataset(documents, np.arange(len(documents)), context, 3, seed=6).batch(0)
    assert not torch.equal(other_seed.ids, batches[0].ids)


@pytest.mark.parametrize("template", ["text", "image text"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_together_read_each_row_once_an_epoch(template, world) -> None:
    documents = make_documents(template, [50])
    parts = [PackedDataset(documents, np.arange(50), 40, 2, seed=1, rank=rank, world=world) for rank in range(world)]
    single = PackedDataset(documents, np.arange(50), 40, 2 * world, seed=1)
    rows = []
    for index in range(2 * single.rows_per_epoch):
        joint = torch.cat([part.batch(index).ids for part in parts])
        assert torch.equal(joint, single.batch(index).ids)
        rows += [tuple(row) for row in joint.tolist()]
    counts = single.rows_per_epoch
    first, second = rows[:counts], rows[counts : 2 * counts]
    if not documents.is_stream:  # the line of text is cut anew in every epoch
        assert sorted(first) == sorted(second)
    assert first != second
    labels = sorted(
        label for index in range(counts) for part in parts for label in part.batch(index).labels.flatten().tolist()
    )
    expected = [
        label for batch in every_row_once(documents, np.arange(50), 40, 4) for label in batch.labels.flatten().tolist()
    ]
    assert labels == sorted(expected * (2 * world))  # counts batches of 2 * world rows are 2 * world epochs


@pytest.mark.parametrize("world", [1, 2, 3, 5, 50])
def test_validation_shows_each_row_once_whatever_the_number_of_ranks(world) -> None:
    documents = make_documents("text -> image", [37])
    chosen = np.arange(0, 37, 2)
    batches = [b for rank in range(world) for b in every_row_once(documents, chosen, 30, 4, rank, world)]
    rows = sorted(tuple(row) for batch in batches for row in batch.ids.tolist())
    plan = plan_whole(documents.tokens - 1, 30, chosen)
    assert rows == sorted(tuple(row) for row in fill_rows(documents, plan, np.arange(plan.rows), 30).ids.tolist())
    assert sum(batch.weight for batch in batches) == sum(
        documents.template.flatten(documents.grids(i), documents.vocabulary)[1].sum() for i in chosen
    )


def test_rows_of_one_document_need_no_document_mask() -> None:
    documents = make_documents("image", [9])
    context = int((documents.tokens - 1).max()) + 1
    batch = PackedDataset(documents, np.arange(9), context, 4).batch(0)
    assert batch.documents is None
    assert batch.positions is None
    assert batch.ids[:, 0].tolist() == [documents.vocabulary.bos] * 4
    packed = PackedDataset(documents, np.arange(9), 2 * context, 4).batch(0)
    assert packed.documents is not None
    assert packed.documents.max() == 1


def test_ids_up_to_the_limits_of_the_narrow_types_do_not_wrap() -> None:
    for size, kind in ((256, np.uint8), (65_536, np.uint16), (65_537, np.uint32)):
        specs = {"text": TokenSpec("text", size, ("time",), (None,), lossless=True)}
        values = np.array([size - 1, 0, size - 1], kind)
        arrays = {"text": [StreamArray(values, np.array([0, 3]), np.array([[3]]))]}
        template = SequenceTemplate.parse("text")
        documents = Documents(template, vocabulary_of(template, specs, arrays), arrays)
        rows = fill_rows(documents, plan_stream(documents.tokens - 1, 8), np.array([0]), 8)
        offset = documents.vocabulary.offset("text")
        assert rows.ids[0, 2:5].tolist() == [size - 1 + offset, offset, size - 1 + offset]


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    arrays = {"text": [StreamArray(np.array([1, 200], np.uint8), np.array([0, 2]), np.array([[2]]))]}
    template = SequenceTemplate.parse("text")
    documents = Documents(template, Vocabulary({"text": SPECS["text"]}), arrays)
    with pytest.raises(ValueError, match=r"id 200, outside its vocabulary of 200; .*verify"):
        fill_rows(documents, plan_stream(documents.tokens - 1, 8), np.array([0]), 8)


def test_reading_copies_nothing_of_the_shards() -> None:
    documents = make_documents("text", [5])
    values = documents.segments[0].values[0]
    assert np.shares_memory(documents.grids(int(np.argmax(documents.tokens - 1)))["text"], values)
