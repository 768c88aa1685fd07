"""Attention that skips work beside attention with a mask, which is written here as a loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.fast import patterns as fast
from trainers.autoregressive.models.forms import form_named
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.masks import Span, attention_mask
from trainers.autoregressive.models.patterns import Blocks, Columns, Pattern

LENGTH, ROWS = 45, 2
PATTERNS = {
    "window": Pattern(5, None),
    "wider-window": Pattern(11, None),
    "columns": Pattern(None, Columns(6)),
    "blocks": Pattern(None, Blocks(6, 1)),
    "blocks-of-two": Pattern(None, Blocks(5, 2)),
}
FORMS = ("causal", "bidirectional", "prefix")
# Documents of which one is shorter than a block, one begins with padding and one row ends with it.
DOCUMENTS = torch.tensor([[0] * 17 + [1] * 3 + [2] * 25, [-1] * 4 + [0] * 31 + [1] * 6 + [-1] * 4])
GIVEN = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
GIVEN[0, 1:9] = GIVEN[0, 21:28] = GIVEN[1, 5:20] = True


def looked_at(pattern: Pattern, form: str, row: int, documents: Tensor | None) -> Tensor:
    """Which keys a query looks at, by the words of the documentation."""
    seen = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    names = [0] * LENGTH if documents is None else documents[row].tolist()
    own = [place - min(i for i in range(place + 1) if len(set(names[i : place + 1])) == 1) for place in range(LENGTH)]
    for query, key in itertools.product(range(LENGTH), repeat=2):
        apart = abs(query - key)
        shown = key <= query or form == "bidirectional"
        shown = shown or (form == "prefix" and bool(GIVEN[row, query] and GIVEN[row, key]))
        if pattern.window is not None:
            kept = apart < pattern.window
        elif isinstance(pattern.far, Columns):
            kept = apart % pattern.far.stride == 0
        else:
            assert pattern.far is not None
            stride, columns = pattern.far.stride, pattern.far.columns
            kept = own[query] // stride == own[key] // stride or own[key] % stride >= stride - columns
        seen[query, key] = shown and kept and names[query] == names[key]
    return seen


def span_of(form: str, documents: Tensor | None) -> Span:
    given = GIVEN if "given" in form_named(form).needs else None
    return Span(0, LENGTH, torch.device("cpu"), None, documents, given)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "LEAST_BLOCK", 4)
    monkeypatch.setattr(fast, "MOST_BLOCK", 7)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PATTERNS)
def test_skipping_equals_masking_with_gradients(name: str, form: str, packed: bool) -> None:
    pattern, known, documents = PATTERNS[name], form_named(form), DOCUMENTS if packed else None
    made = fast.sparse(span_of(form, documents), pattern, known.sees, known.causal, known.ahead)
    assert made is not None
    draw = torch.Generator().manual_seed(0)
    queries, keys, values = (
        torch.randn(ROWS, heads, LENGTH, 8, generator=draw, requires_grad=True) for heads in (4, 2, 2)
    )
    # Nobody asks what padding sees.
    real = torch.ones(ROWS, LENGTH) if documents is None else (documents >= 0).float()
    above = torch.randn(ROWS, 4, LENGTH, 8, generator=draw) * real[:, None, :, None]
    mask = torch.stack([looked_at(pattern, form, row, documents) for row in range(ROWS)])[:, None]
    plain = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
    expected = torch.autograd.grad(plain, (queries, keys, values), above)
    ours = made.attend(queries, keys, values)
    torch.testing.assert_close(ours * real[:, None, :, None], plain * real[:, None, :, None], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(ours).all()
    found = torch.autograd.grad(ours, (queries, keys, values), above)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PATTERNS)
def test_masks_say_the_same(name: str, form: str, packed: bool) -> None:
    """The plain form, which also serves generation."""
    pattern, known, documents = PATTERNS[name], form_named(form), DOCUMENTS if packed else None
    keeps = None if pattern.far is None else pattern.far.keeps
    span = replace(span_of(form, documents), window=pattern.window)
    mask = attention_mask(span, known.sees, known.causal, keeps)
    assert mask is not None
    for row in range(ROWS):
        assert torch.equal(mask.expand(ROWS, -1, -1, -1)[row, 0], looked_at(pattern, form, row, documents))


def test_the_work_grows_with_the_kept_pairs() -> None:
    """Scores of a row: for a window a multiple of the length, for the others the square by the stride."""
    for name, most in (("window", 2 * 5), ("columns", -(-LENGTH // 6)), ("blocks", 6 + LENGTH // 6)):
        made = fast.sparse(span_of("causal", None), PATTERNS[name], form_named("causal").sees, True, False)
        assert made is not None
        if made.along:
            scores = made.block * (-(-LENGTH // made.block)) ** 2
        else:
            assert made.mask is not None
            scores = made.mask.numel()
        assert scores <= most * (LENGTH + 6), name


def test_short_rows_take_a_mask() -> None:
    form = form_named("causal")
    for length, pattern in ((8, Pattern(5, None)), (6, Pattern(None, Columns(6))), (7, Pattern(None, Blocks(6, 1)))):
        assert fast.sparse(Span(0, length, torch.device("cpu")), pattern, form.sees, True, False) is None


CASES = {
    "window": {"window": 5},
    "window-prefix": {"window": 6, "form": "prefix"},
    "window-encoder": {"window": 6, "form": "encoder-decoder"},
    "strided": {"attention": "strided", "stride": 6, "kv_heads": 2},
    "strided-learned": {"attention": "strided", "stride": 6, "positions": "learned"},
    "strided-prefix": {"attention": "strided", "stride": 6, "form": "prefix"},
    "fixed": {"attention": "fixed", "stride": 6},
    "fixed-axial": {"attention": "fixed", "stride": 5, "summary_columns": 2, "positions": "axial"},
    "fixed-prefix": {"attention": "fixed", "stride": 6, "form": "prefix"},
    "strided-masked": {"attention": "strided", "stride": 6, "form": "bidirectional"},
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_the_same_with_and_without_skipping(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "context": LENGTH, "layers": 2, "width": 32, "heads": 4}
    model = build_model("transformer", {**sizes, **CASES[name]}).train()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    ids = torch.randint(0, 11, (ROWS, LENGTH))
    places = torch.tensor([[*range(17), *range(3), *range(25)], [*[0] * 4, *range(31), *range(6), *[0] * 4]])
    inputs = Inputs(ids, places, DOCUMENTS, GIVEN, places[..., None].expand(-1, -1, 3))
    skipped: list[bool] = []
    real = fast.sparse

    def counting(*asked: object) -> object:
        made = real(*asked)  # type: ignore[arg-type]
        skipped.append(made is not None)
        return made

    def losses(how: Callable[..., object]) -> tuple[Tensor, list[Tensor]]:
        monkeypatch.setattr("trainers.autoregressive.models.transformer.sparse", how)
        model.zero_grad()
        loss = model.loss(inputs, ids, (DOCUMENTS >= 0).float()).total
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    (ours, gradients), (plain, expected) = losses(counting), losses(lambda *_: None)
    assert skipped
    assert all(skipped)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradients, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attention": "fixed", "window": 4}, "window 4 is for full attention; fixed has a pattern of its own"),
        ({"stride": 4}, "are for the attention strided or fixed, not for full"),
        ({"attention": "strided", "layers": 1}, "it needs at least 2 layers"),
        ({"attention": "strided", "summary_columns": 2}, "summary_columns 2 is for the attention fixed"),
        ({"attention": "fixed", "stride": 3, "summary_columns": 4}, "must be from 1 to the stride, 3"),
        ({"attention": "strided", "stride": 0}, "stride 0 must be at least 1"),
        ({"attention": "strided", "form": "encoder-decoder"}, "not for the form encoder-decoder"),
        ({"attention": "fixed", "form": "bidirectional"}, "not for the form bidirectional.*take strided"),
        ({"attention": "strided", "stride": 4, "codebook_slots": 1, "attentoin": 1}, "did you mean 'attention'"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig.from_dict(values)


def test_the_stride_is_the_root_of_the_context() -> None:
    assert [TransformerConfig(context=n, attention="fixed").stride_length for n in (1, 4, 5, 784)] == [1, 2, 3, 28]
    assert TransformerConfig().to_dict() == TransformerConfig.from_dict(TransformerConfig().to_dict()).to_dict()
    assert "attention" not in TransformerConfig().to_dict(), "models from before there was the field are what they were"


@pytest.mark.parametrize(
    ("values", "layers"),
    [
        ({"attention": "strided", "stride": 7}, 2),
        ({"attention": "strided", "stride": 7}, 3),
        ({"attention": "fixed", "stride": 7, "summary_columns": 2}, 1),
        ({"attention": "fixed", "stride": 7, "summary_columns": 2}, 2),
        ({"window": 5}, 3),
    ],
)
def test_the_reach_of_a_model_is_the_product_of_its_masks(values: dict[str, object], layers: int) -> None:
    """By gradient: which tokens reach which logits, holes of the pattern and all."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "context": LENGTH, "layers": layers, "width": 16, "heads": 2}
    model = build_model("transformer", {**sizes, **values}).double()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    ids = torch.randint(0, 11, (1, LENGTH))
    embedded = torch.randn(1, LENGTH, 16, dtype=torch.float64, requires_grad=True)
    embedding = next(module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    handle = embedding.register_forward_hook(lambda *_: embedded)
    logits = model.logits(Inputs(ids))
    handle.remove()
    kinds = [Pattern(7, None), Pattern(None, Columns(7))] if values.get("attention") == "strided" else None
    kinds = kinds or [Pattern(None, Blocks(7, 2)) if "attention" in values else Pattern(5, None)]
    reached = torch.eye(LENGTH)
    for layer in range(layers):
        reached = looked_at(kinds[layer % len(kinds)], "causal", 0, None).float() @ reached
    # Two layers of strided reach everything before, and so do two of fixed; one of fixed has holes.
    everything = torch.ones(LENGTH, LENGTH).tril() > 0
    assert torch.equal(reached > 0, everything) == ("attention" in values and layers > 1)
    for place in (0, 8, 20, LENGTH - 1):
        (gradient,) = torch.autograd.grad(logits[0, place].square().sum(), embedded, retain_graph=True)
        assert torch.equal(gradient[0].abs().sum(-1) > 0, reached[place] > 0), place
