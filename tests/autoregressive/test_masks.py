"""Who sees what, beside a loop that a reader believes: forms, documents, padding, windows, the conditions of an encoder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tokenize_kit.protocol.registry import FORMS
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.forms import form_named
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.masks import ENCODED_MULTIPLE, Condition, Span, attention_mask

LENGTH = 9
GIVEN = torch.tensor([[0, 1, 1, 1, 0, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0]]).bool()
DOCUMENTS = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, -1, -1]])
PADDING = torch.tensor([3, 0])


def seen(form: str, row: int, query: int, key: int, window: int | None) -> bool:
    """Whether a query sees a key, by the words of the documentation; of one document without padding."""
    near = window is None or abs(query - key) < window
    before = key <= query and near
    both = bool(GIVEN[row, query] and GIVEN[row, key])
    if form == "causal":
        return before
    if form == "bidirectional":
        return near
    if form == "prefix":
        return before or (both and near)
    assert form == "encoder-decoder"
    return key == query or (before and not bool(GIVEN[row, key]))


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("form", ["causal", "prefix", "encoder-decoder", "bidirectional"])
def test_masks_say_what_the_forms_say(form: str, window: int | None) -> None:
    known = form_named(form)
    cases = [(0, LENGTH, None, None), (0, LENGTH, DOCUMENTS, None)]
    if known.causal:  # while it generates: the first places, some more, one more, each behind padding too
        cases += [(start, stop, None, pad) for start, stop in ((0, 8), (4, 8), (7, 8)) for pad in (None, PADDING)]
    for start, stop, documents, padding in cases:
        given = GIVEN[:, :stop] if "given" in known.needs else None
        if start > 0:
            given = None if given is None else given.clone()
            if given is not None:
                given[:, start:] = False  # a condition comes whole in the first step
        span = Span(start, stop, torch.device("cpu"), window, documents, given, padding)
        mask = attention_mask(span, known.sees, known.causal)
        if mask is None:
            # Attention then sees all keys up to the query, or all; of one query the last ones of the window.
            first = max(0, stop - (window or stop)) if stop - start == 1 else 0
            ones = torch.ones(stop - start, stop, dtype=torch.bool)
            ones[:, :first] = False
            mask = (ones.tril(start) if known.causal else ones)[None, None]
        mask = mask.expand(2, 1, -1, -1)
        for row, query, key in itertools.product(range(2), range(start, stop), range(stop)):
            expected = seen(form, row, query, key, window)
            if start > 0 and form != "causal":
                g = GIVEN[row].clone()
                g[start:] = False
                near = window is None or query - key < window
                expected = (
                    (key <= query and near)
                    if form == "prefix"
                    else key == query or (key < query and near and not g[key])
                )
            if documents is not None:
                expected = expected and documents[row, query] == documents[row, key]
            if padding is not None:
                expected = (expected and key >= padding[row]) or (query == key)
            assert bool(mask[row, 0, query - start, key]) == bool(expected), (start, stop, row, query, key)


def test_all_forms_are_under_this_test() -> None:
    assert {"causal", "prefix", "encoder-decoder", "bidirectional"} == set(FORMS.names())


@pytest.mark.parametrize("window", [None, 2])
def test_conditions_are_brought_together(window: int | None) -> None:
    condition = Condition.of(GIVEN, DOCUMENTS, window)
    assert condition.places.shape == (2, LENGTH), "not more places than the row has"
    assert Condition.of(torch.zeros(1, 100).bool(), None, None).places.shape == (1, ENCODED_MULTIPLE)
    values = torch.arange(2 * LENGTH * 3).view(2, LENGTH, 3)
    for row in range(2):
        places = condition.places[row].tolist()
        assert sorted(places) == list(range(LENGTH))
        count = int(GIVEN[row].sum())
        assert places[:count] == np.flatnonzero(GIVEN[row].numpy()).tolist()
        assert torch.equal(condition.gather(values)[row], values[row, places])
        for a, b in itertools.product(range(LENGTH), repeat=2):
            same = DOCUMENTS[row, places[a]] == DOCUMENTS[row, places[b]]
            near = window is None or abs(places[a] - places[b]) < window
            expected = a == b or bool(GIVEN[row, places[a]] and GIVEN[row, places[b]] and same and near)
            assert bool(condition.mask[row, 0, a, b]) == expected
        for query in range(LENGTH):
            sees = condition.seen[row, 0, query]
            expected = [bool(GIVEN[row, place] and DOCUMENTS[row, place] == DOCUMENTS[row, query]) for place in places]
            assert sees[:-1].tolist() == expected
            assert bool(sees[-1]) != any(expected), "nothing is seen where there is nothing else"


def test_a_document_without_a_condition_sees_none_of_its_neighbours() -> None:
    """Packed beside others in a row of an encoder-decoder, it is what it is alone."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 30,
        "context": 16,
        "layers": 2,
        "width": 32,
        "heads": 4,
        "form": "encoder-decoder",
        "bias": True,
    }
    model = build_model("transformer", sizes)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    model.eval()
    ids = torch.randint(0, 30, (1, 14))
    documents = torch.tensor([[0] * 8 + [1] * 6])
    given = torch.zeros(1, 14, dtype=torch.bool)
    given[0, 1:5] = True
    positions = torch.tensor([[*range(8), *range(6)]])
    together = model.logits(Inputs(ids, positions, documents, given))
    for part in (slice(0, 8), slice(8, 14)):
        alone = model.logits(Inputs(ids[:, part], given=given[:, part]))
        own = ~given[0, part]
        torch.testing.assert_close(together[0, part][own], alone[0, own], atol=1e-5, rtol=1e-5)
