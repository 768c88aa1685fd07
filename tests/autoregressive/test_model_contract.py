"""One contract for every sequence model: all registered families, and the Transformer in all its styles."""

from __future__ import annotations

import itertools
import math
from importlib.metadata import entry_points

import pytest
import torch
from safetensors.torch import load, save

from tokenize_kit.protocol import MODELS
from trainers.autoregressive.likelihood import score
from trainers.autoregressive.models import (
    SequenceModel,
    build_model,
    model_class,
    register_model,
)
from trainers.autoregressive.models.config import TransformerConfig, preset
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.losses import token_loss

VOCAB, CONTEXT = 11, 24
SIZES = {"vocab_size": VOCAB, "context": CONTEXT}
"""What every model is told."""
SMALL: dict[str, dict[str, object]] = {
    "transformer": {"layers": 2, "width": 32, "heads": 4},
    "recurrent": {"layers": 2, "width": 32},
    "wavenet": {"layers": 6, "cycle": 3, "width": 32, "skip_width": 32},
    "linear-attention": {"layers": 2, "width": 32, "heads": 4},
    "state-space": {"layers": 2, "width": 32, "state": 16},
    "histogram": {},
    "logistics": {},
    "bayes": {"samples": 40},
    "made": {"width": 48},
    "pixelcnn": {"layers": 3, "width": 32},
}
"""What makes a family small."""

# How a family is built small, and how far back it must see. A new family adds its line here.
FAMILIES: dict[str, list[tuple[str, dict[str, object], int]]] = {
    "transformer": [
        ("llama", {}, CONTEXT),
        ("grouped", {"kv_heads": 2}, CONTEXT),
        ("one-kv-head", {"kv_heads": 1, "logit_soft_cap": 3.0, "mlp": "relu2"}, CONTEXT),
        ("window", {"window": 4}, 7),
        ("window-grouped", {"window": 3, "kv_heads": 2, "qk_norm": False}, 5),
        ("layernorm-tied", {"norm": "layer", "tied_head": True, "bias": True}, CONTEXT),
        ("learned", {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True, "qk_norm": False}, CONTEXT),
        (
            "sinusoidal",
            {
                "positions": "sinusoidal",
                "norm": "layer",
                "norm_position": "post",
                "mlp": "relu",
                "bias": True,
                "qk_norm": False,
                "embedding_scale": 32**0.5,
            },
            CONTEXT,
        ),
        ("qwen3", {"head_size": 12, "kv_heads": 2, "qk_norm_gain": True, "qkv_bias": True}, CONTEXT),
        (
            "scaled",
            {
                "rope_scaling": "yarn",
                "rope_factor": 4.0,
                "rope_original_context": 12,
                "out_bias": True,
                "mlp_bias": True,
            },
            CONTEXT,
        ),
        ("post-rms", {"norm_position": "post", "tied_head": True}, CONTEXT),
        ("heads", {"codebooks": "heads", "codebook_slots": 3}, CONTEXT),
        ("depth", {"codebooks": "depth", "codebook_slots": 3, "kv_heads": 2}, CONTEXT),
        ("logistics", {"head": "logistics", "mixtures": 3, "ordinal": ((1, 3),)}, CONTEXT),
        ("strided", {"attention": "strided", "stride": 4, "kv_heads": 2}, CONTEXT),
        ("strided-window", {"attention": "strided", "stride": 3, "layers": 3, "positions": "learned"}, CONTEXT),
        ("fixed", {"attention": "fixed", "stride": 4}, CONTEXT),
        ("fixed-columns", {"attention": "fixed", "stride": 6, "summary_columns": 2, "positions": "axial"}, CONTEXT),
    ],
    "recurrent": [
        ("lstm", {}, CONTEXT),
        ("gru", {"cell": "gru"}, CONTEXT),
        ("coordinates", {"coordinates": True}, CONTEXT),
        ("logistics", {"head": "logistics", "ordinal": ((1, 3),)}, CONTEXT),
    ],
    # Dilations 1, 2, 4, 1, 2, 4: what is seen is shorter than the context.
    "wavenet": [
        ("short", {}, 15),
        ("kernel-of-3", {"kernel": 3, "layers": 3}, 15),
        ("long", {"layers": 5, "cycle": 5}, CONTEXT),
        ("coordinates", {"coordinates": True, "layers": 4}, 9),
        ("logistics", {"head": "logistics", "ordinal": ((1, 3),)}, 15),
    ],
    "linear-attention": [
        ("plain", {"kind": "plain"}, CONTEXT),
        ("decay", {"kind": "decay"}, CONTEXT),
        ("delta", {"kind": "delta", "head_size": 12}, CONTEXT),
        ("gated-delta", {}, CONTEXT),
        ("no-convolution", {"convolution": 0, "coordinates": True}, CONTEXT),
        ("logistics", {"head": "logistics", "ordinal": ((1, 3),)}, CONTEXT),
    ],
    "state-space": [
        ("selective", {"head_size": 16}, CONTEXT),
        ("no-convolution", {"head_size": 16, "convolution": 0}, CONTEXT),
        ("s4d", {"kind": "s4d"}, CONTEXT),
        ("s4d-inv", {"kind": "s4d", "spectrum": "inv"}, CONTEXT),
        ("logistics", {"head_size": 16, "head": "logistics", "ordinal": ((1, 3),)}, CONTEXT),
    ],
    "histogram": [("all", {}, 0), ("by-place", {"by_place": True}, 0)],
    "logistics": [
        ("all", {"ordinal": ((1, 3),), "mixtures": 2}, 0),
        ("by-place", {"ordinal": ((1, 3),), "by_place": True}, 0),
    ],
    "bayes": [
        ("chain", {"edges": tuple((place, place + 1) for place in range(CONTEXT))}, 1),
        (
            "two",
            {"edges": tuple((place, place + up) for place in range(CONTEXT - 1) for up in (1, 2)), "parents": 2},
            2,
        ),
    ],
    "made": [("one", {"layers": 1, "channels": 1}, CONTEXT), ("two", {}, CONTEXT)],
    # With these kernels the original sees all of so small a picture, also to the right of the pixel.
    "pixelcnn": [
        ("gated", {}, CONTEXT),
        ("original", {"kind": "original"}, CONTEXT),
        ("conditioned", {"grid_condition": True}, CONTEXT),
        ("logistics", {"head": "logistics", "ordinal": ((1, 3),)}, CONTEXT),
    ],
}
CASES = [
    pytest.param(name, values, reach, id=f"{name}-{label}")
    for name, family in FAMILIES.items()
    for label, values, reach in family
]
every_model = pytest.mark.parametrize(("name", "values", "reach"), CASES)


def build(name: str, values: dict[str, object], *, trained: bool = True, **more: object) -> SequenceModel:
    """A model whose weights are as if trained: fresh ones have zero output projections, which hide mistakes."""
    torch.manual_seed(0)
    model = build_model(name, {**SIZES, **SMALL[name], **values, **more})
    if trained:
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.15)
        if not learns_by_gradient(model):
            ids = some_ids(20, model.config.context, seed=9, vocab=model.config.vocab_size)
            model.train().loss(given(model, ids[:, :-1]), ids[:, 1:])
    return model.eval()


def learns_by_gradient(model: SequenceModel) -> bool:
    """Whether there are parameters; tables learn by counting what they are given."""
    return any(True for _ in model.parameters())


def some_ids(rows: int, length: int, seed: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def given(
    model: SequenceModel,
    ids: torch.Tensor,
    place: torch.Tensor | None = None,
    documents: torch.Tensor | None = None,
    start: int = 0,
) -> Inputs:
    """Ids with what a model asks for. Of joint steps the first has one token and each further one three: 0 | 1 2 3 | 4 5 6 | ..

    Args:
        model: that asks.
        ids: (B, T).
        place: (B, T), of each token in its document, below 0 for padding; they count from ``start`` if None.
        documents: (B, T).
        start: see ``place``.
    """
    positions = None if place is None or documents is None else place.clamp(min=0)
    if not model.needs:
        return Inputs(ids, positions, documents)
    if place is None:
        place = torch.arange(start, start + ids.shape[1]).expand_as(ids)
    if "cells" in model.needs:
        return Inputs(ids, positions, documents, cells=cells_after(place))
    if "axial" in model.needs:
        return Inputs(ids, positions, documents, axial=place.clamp(min=0)[..., None].expand(-1, -1, 3))
    steps = torch.stack((place % 3 == 0, place % 3), -1) * (place >= 0)[..., None]
    return Inputs(ids, positions, documents, steps=steps)


def cells_after(place: torch.Tensor) -> torch.Tensor:
    """The first token is alone, and the others are a picture of 6 rows and 4 columns: the cell after each, (B, T, 8)."""
    known = (0, place // 4, place % 4, 0, 6, 4, 1, 0)
    cells = torch.stack([torch.as_tensor(part).expand_as(place) for part in known], -1)
    return cells.masked_fill((place < 0)[..., None], -1)


def test_every_registered_family_is_under_this_contract() -> None:
    # Those of the installed packages: other tests register toys in this process.
    assert set(FAMILIES) == {point.name for point in entry_points(group=MODELS.group)}


@every_model
def test_causal_by_gradient(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values).double()
    if not any(isinstance(module, torch.nn.Embedding) for module in model.modules()):
        check_causal_by_change(model, reach)
        return
    ids = some_ids(1, CONTEXT)
    embedding = next(module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    embedded = embedding.weight.detach()[ids].requires_grad_()
    # What the embedding gives is replaced by a leaf, so that the gradient tells which token reaches which logit.
    handle = embedding.register_forward_hook(lambda *_: embedded)
    logits = model.logits(given(model, ids))
    handle.remove()
    for place in (0, 5, CONTEXT - 1):
        (gradient,) = torch.autograd.grad(logits[0, place].square().sum(), embedded, retain_graph=True)
        influence = gradient[0].abs().sum(-1)
        first = max(0, place - reach + 1)
        # Heads do not see the step that a token is of before it is closed.
        last = place - place % 3 if values.get("codebooks") == "heads" else place
        assert torch.all(influence[last + 1 :] == 0)
        assert torch.all(influence[first : last + 1] > 0)
        assert torch.all(influence[:first] == 0)


def check_causal_by_change(model: SequenceModel, reach: int) -> None:
    """Tables embed nothing, so there is no gradient: another token must change the logits where it is seen, and no others."""
    # A document that was counted: with another token it is one that was not.
    ids = some_ids(20, CONTEXT, seed=9)[:1]
    logits = model.logits(given(model, ids))
    for place in range(CONTEXT - 1):
        other = ids.clone()
        other[0, place] = (ids[0, place] + 1) % VOCAB
        changed = (model.logits(given(model, other)) != logits)[0].any(-1)
        assert not changed[:place].any()
        assert not changed[place + reach :].any()
        assert changed[place : min(place + reach, CONTEXT - 1)].all()


@every_model
def test_cached_equals_uncached(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values)
    ids = some_ids(3, CONTEXT)
    whole = model.logits(given(model, ids))
    for cuts in ([0, 24], [0, 1, 2, 3, 11, 12, 20, 24], list(range(25)), [0, 7, *range(8, 25)]):
        cache = model.new_cache(3, CONTEXT)
        pieces = [
            model.step(given(model, ids[:, start:stop], start=start), cache) for start, stop in itertools.pairwise(cuts)
        ]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)
        assert cache.position == CONTEXT
        with pytest.raises(ValueError, match="do not fit"):
            model.step(given(model, ids[:, :1]), cache)
    cache = model.new_cache(3, CONTEXT)
    last = model.step(given(model, ids), cache, last_only=True)
    torch.testing.assert_close(last, whole[:, -1:], atol=1e-5, rtol=1e-5)


@every_model
def test_left_padding_and_dropped_rows(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values)
    lengths = [5, 9, 2]
    ids = some_ids(3, CONTEXT)
    alone = [model.logits(given(model, ids[row : row + 1])) for row in range(3)]
    padding = torch.tensor([9 - length for length in lengths])
    prompt = torch.stack([torch.cat((torch.full((9 - n,), 3), ids[row, :n])) for row, n in enumerate(lengths)])
    place = torch.arange(9) - padding[:, None]
    cache = model.new_cache(3, 20, left_padding=padding)
    pieces = torch.cat(
        [model.step(given(model, prompt[:, part], place[:, part]), cache) for part in (slice(0, 4), slice(4, 9))], 1
    )
    for row, length in enumerate(lengths):
        torch.testing.assert_close(pieces[row, 9 - length :], alone[row][0, :length], atol=1e-5, rtol=1e-5)
    kept = [2, 0]
    cache = cache.select(torch.tensor(kept))
    for more in range(4):
        new = torch.tensor([[int(ids[row, lengths[row] + more])] for row in kept])
        logits = model.step(given(model, new, torch.tensor([[lengths[row] + more] for row in kept])), cache)
        for at, row in enumerate(kept):
            torch.testing.assert_close(logits[at, 0], alone[row][0, lengths[row] + more], atol=1e-5, rtol=1e-5)


@every_model
def test_documents_do_not_see_each_other(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values)
    first, second = some_ids(2, 7, 1), some_ids(2, 10, 2)
    documents = torch.tensor([[0] * 7 + [1] * 10 + [-1] * 3] * 2)
    place = torch.tensor([[*range(7), *range(10), -1, -1, -1]] * 2)
    packed = torch.cat((first, second, torch.zeros(2, 3, dtype=torch.int64)), 1)
    logits = model.logits(given(model, packed, place, documents))
    changed = torch.cat((some_ids(2, 7, 3), second, torch.full((2, 3), 7)), 1)
    torch.testing.assert_close(
        model.logits(given(model, changed, place, documents))[:, 7:17], logits[:, 7:17], atol=0, rtol=0
    )
    torch.testing.assert_close(logits[:, :7], model.logits(given(model, first)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[:, 7:17], model.logits(given(model, second)), atol=1e-5, rtol=1e-5)
    assert torch.isfinite(logits).all()


@every_model
def test_left_padded_rows_in_the_forward_pass(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values)
    ids = some_ids(1, 6)
    padded = torch.cat((torch.full((1, 4), 9), ids), 1)
    place = torch.tensor([[-1, -1, -1, -1, *range(6)]])
    documents = torch.tensor([[-1] * 4 + [0] * 6])
    logits = model.logits(given(model, padded, place, documents))
    torch.testing.assert_close(logits[:, 4:], model.logits(given(model, ids)), atol=1e-5, rtol=1e-5)


@every_model
def test_loss_starts_at_ln_vocabulary(name: str, values: dict[str, object], reach: int) -> None:
    wide = {"width": 64} if "width" in SMALL[name] else {}
    model = build(
        name, values, trained=False, vocab_size=512, **wide, **{n: None for n in values if n == "logit_soft_cap"}
    )
    ids = some_ids(8, CONTEXT, vocab=512)
    loss = token_loss(model.logits(given(model, ids[:, :-1])), ids[:, 1:])
    # Half the variance of the first logits (0.3 squared) above it; with a tied head each token is a little likely to follow
    # itself besides.
    assert math.log(512) - 0.02 < float((loss.total / loss.weight).detach()) < math.log(512) + 0.1


@every_model
def test_fused_loss_equals_the_plain_one(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values)
    ids, weights = some_ids(3, CONTEXT), torch.rand(3, CONTEXT - 1, generator=torch.Generator().manual_seed(4))
    weights[:, :5] = 0
    gradients = []
    for fused in (True, False):
        model.zero_grad()
        if fused:
            loss = model.loss(given(model, ids[:, :-1]), ids[:, 1:], weights, z_loss=0.01)
        else:
            loss = token_loss(model.logits(given(model, ids[:, :-1])), ids[:, 1:], weights, z_loss=0.01)
        if learns_by_gradient(model):
            loss.total.backward()
        gradients.append((loss, [parameter.grad.clone() for parameter in model.parameters()]))
    (ours, our_gradients), (plain, plain_gradients) = gradients
    torch.testing.assert_close(list(ours), list(plain), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(our_gradients, plain_gradients, atol=1e-4, rtol=1e-4)


@every_model
def test_weights_survive_saving(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values)
    weights = load(save({key: value.clone() for key, value in model.state_dict().items()}))
    other = build_model(name, model.config.to_dict())
    other.load_state_dict(weights, strict=True)
    ids = some_ids(2, CONTEXT)
    assert torch.equal(other.eval().logits(given(model, ids)), model.logits(given(model, ids)))
    buffers = {key for key, _ in model.named_buffers()}
    own = sum(value.numel() for key, value in weights.items() if key not in buffers)
    assert sum(p.numel() for p in model.parameters()) == own


@every_model
def test_probabilities_of_all_sequences_sum_to_one(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values, vocab_size=3)
    sequences = [[0, *rest] for rest in itertools.product(range(3), repeat=4)]
    ids = torch.tensor(sequences)
    each = model.logits(given(model, ids[:, :-1])).log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    if not model.needs:
        torch.testing.assert_close(torch.stack(score(model, sequences)), each, atol=1e-5, rtol=1e-5)
    total = float(each.detach().double().sum(1).exp().sum())
    assert total == pytest.approx(1, abs=1e-5)


@every_model
def test_bfloat16_runs(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values)
    model.train(learns_by_gradient(model))  # else the second loss is that of one who has seen the first batch
    ids = some_ids(2, CONTEXT)
    plain = model.loss(given(model, ids[:, :-1]), ids[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.loss(given(model, ids[:, :-1]), ids[:, 1:], z_loss=1e-4)
    if learns_by_gradient(model):
        mixed.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert float(mixed.nll) == pytest.approx(float(plain.nll), rel=0.02)
    pure = model.eval().to(torch.bfloat16)
    whole, cache = pure.logits(given(pure, ids)).detach().float(), pure.new_cache(2, CONTEXT)
    stepped = torch.cat(
        [pure.step(given(pure, ids[:, place : place + 1], start=place), cache) for place in range(CONTEXT)], 1
    ).float()
    assert torch.isfinite(whole).all()
    # bfloat16 has 8 bits: the two paths round differently, by a few per cent of the spread of the logits.
    assert float((whole - stepped).abs().max()) < 0.15 * float(whole.std())


@every_model
def test_tables_are_parameters_of_the_model(name: str, values: dict[str, object], reach: int) -> None:
    model = build(name, values)
    known = {id(parameter) for parameter in model.parameters()}
    assert bool(model.tables()) == learns_by_gradient(model)
    assert all(id(table) in known for table in model.tables())


@pytest.mark.parametrize("style", ["llama", "gpt2", "sinusoidal"])
def test_base_preset_has_its_shapes_without_memory(style: str) -> None:
    with torch.device("meta"):
        model = build_model("transformer", preset("base", style, vocab_size=50257, context=1024).to_dict())
        assert model(torch.zeros(2, 64, dtype=torch.int64)).shape == (2, 64, 50257)
    count = sum(parameter.numel() for parameter in model.parameters())
    # GPT-2 small has 124,439,808; the others an untied head of 38.6 M and no table of positions.
    assert {"gpt2": count == 124_439_808, "llama": 160e6 < count < 165e6, "sinusoidal": 160e6 < count < 165e6}[style]


def test_too_long_sequences_are_refused() -> None:
    model = build("transformer", {})
    with pytest.raises(ValueError, match="25 tokens does not fit the model's context of 24"):
        model(some_ids(1, 25))
    with pytest.raises(ValueError, match="25 tokens does not fit the model's context of 24"):
        model.new_cache(1, 25)


def test_registry_suggests_the_closest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'transformer'"):
        model_class("transfomer")
    with pytest.raises(ValueError, match="already registered"):
        register_model("transformer", model_class("transformer"))
    with pytest.raises(ValueError, match="did you mean 'layers'"):
        build_model("transformer", {"layer": 2})


def test_misspelt_preset_names_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'small'"):
        preset("smal", vocab_size=10, context=8)
    with pytest.raises(ValueError, match="did you mean 'gpt2'"):
        preset("tiny", "gpt-2", vocab_size=10, context=8)
    with pytest.raises(ValueError, match="did you mean 'kv_heads'"):
        preset("tiny", vocab_size=10, context=8, kv_head=2)
    with pytest.raises(ValueError, match="did you mean 'rotary'"):
        TransformerConfig(positions="rotry")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width 30 is not a multiple of heads 4"):
        TransformerConfig(width=30, heads=4)
    with pytest.raises(ValueError, match="heads 4 is not a multiple of kv_heads 3"):
        TransformerConfig(width=32, heads=4, kv_heads=3)


def test_one_dial_sets_the_size() -> None:
    for name, layers in {"tiny": 4, "small": 8, "base": 12}.items():
        config = preset(name, vocab_size=100, context=64)
        assert (config.layers, config.width, config.heads, config.head_dim) == (layers, 64 * layers, layers, 64)
    assert preset("tiny", vocab_size=100, context=64, depth=5).width == 320
    assert TransformerConfig.from_dict(config.to_dict()) == config
