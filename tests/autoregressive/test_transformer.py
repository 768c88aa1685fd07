"""The Transformer's numbers against public implementations, and its fast paths against plain formulas."""

from __future__ import annotations

import json
import math
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from trainers.autoregressive.models.config import TransformerConfig, preset
from trainers.autoregressive.models.fast.counted import counted_places
from trainers.autoregressive.models.fast.decode import attend_one
from trainers.autoregressive.models.fast.fused import fused_training
from trainers.autoregressive.models.fast.loss import linear_token_loss
from trainers.autoregressive.models.fast.packed import Packed
from trainers.autoregressive.models.fast.pointwise import place_heads, rms_norm, swiglu
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.losses import token_loss
from trainers.autoregressive.models.transformer import Transformer

IDS = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(0))


COMMON = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("Llama", {}, {}),
    "llama-3.1": (
        "Llama",
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 50.0, **LLAMA3}, "head_dim": 20},
        {"rope_base": 50.0, "rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 16, "head_size": 20},
    ),
    "llama-linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}, "attention_bias": True},
        {"rope_scaling": "linear", "rope_factor": 4.0, "qkv_bias": True, "out_bias": True},
    ),
    "llama-biases": ("Llama", {"mlp_bias": True, "tie_word_embeddings": True}, {"mlp_bias": True, "tied_head": True}),
    "qwen2": ("Qwen2", {}, {"qkv_bias": True}),
    "qwen3": ("Qwen3", {"head_dim": 16}, {"head_size": 16, "qk_norm": True, "qk_norm_gain": True}),
    "qwen3-yarn": (
        "Qwen3",
        {
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16},
                **{"beta_fast": 2.0, "beta_slow": 0.1},
            },
            "head_dim": 24,
        },
        {
            **{"rope_base": 1000.0, "rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_context": 16},
            **{"rope_low_turns": 0.1, "rope_high_turns": 2.0, "head_size": 24, "qk_norm": True, "qk_norm_gain": True},
        },
    ),
}


def weights_of(theirs: torch.nn.Module, layers: int) -> dict[str, torch.Tensor]:
    """The weights of a decoder of transformers under our names."""
    weights = theirs.state_dict()
    renamed = {"embedding.weight": weights["model.embed_tokens.weight"], "norm.weight": weights["model.norm.weight"]}
    if not theirs.config.tie_word_embeddings:
        renamed["unembedding.weight"] = weights["lm_head.weight"]
    names = {
        "attention_norm": ["input_layernorm"],
        "mlp_norm": ["post_attention_layernorm"],
        "attention.qkv": [f"self_attn.{part}_proj" for part in "qkv"],
        "attention.out": ["self_attn.o_proj"],
        "mlp.up": ["mlp.gate_proj", "mlp.up_proj"],
        "mlp.down": ["mlp.down_proj"],
    }
    for layer in range(layers):
        source, target = f"model.layers.{layer}.", f"blocks.{layer}."
        for name, parts in names.items():
            for kind in ("weight", "bias"):
                if f"{source}{parts[0]}.{kind}" in weights:
                    renamed[f"{target}{name}.{kind}"] = torch.cat([weights[f"{source}{part}.{kind}"] for part in parts])
        for ours, name in (("queries", "q_norm"), ("keys", "k_norm")):
            if f"{source}self_attn.{name}.weight" in weights:
                renamed[f"{target}attention.place.{ours}"] = weights[f"{source}self_attn.{name}.weight"]
    return renamed


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_decoders_equal_those_of_transformers(name: str) -> None:
    import transformers

    family, theirs_options, ours_options = PUBLISHED[name]
    torch.manual_seed(0)
    options = {"vocab_size": 50, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, **COMMON, **theirs_options}
    theirs = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**options)).eval()
    # Weights large enough for every part to matter.
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    sizes = {"layers": 3, "width": 48, "heads": 4, "kv_heads": 2, "mlp_width": 96, "qk_norm": False}
    config = preset("tiny", vocab_size=50, context=64, **{**sizes, **ours_options})
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    ours = Transformer(config).eval()
    ours.load_state_dict(weights_of(theirs, 3), strict=True)
    ids = torch.randint(0, 50, (2, 50), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids).logits
    assert float(expected.detach().std()) > 0.5
    torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=1e-4)
    # And token by token, by the short way.
    cache = ours.new_cache(2, 50)
    stepped = [ours.step(Inputs(ids[:, :9]), cache)]
    stepped += [ours.step(Inputs(ids[:, place : place + 1]), cache) for place in range(9, 50)]
    torch.testing.assert_close(torch.cat(stepped, 1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_factor": 2.0}, "rope_factor 2.0 needs a rope_scaling"),
        ({"rope_scaling": "linear", "positions": "learned"}, "rope_scaling 'linear' is for rotary positions"),
        ({"rope_scaling": "yarn", "rope_factor": 2.0}, "'yarn' needs rope_original_context"),
        ({"rope_scaling": "linear", "rope_factor": 0.5}, "rope_factor 0.5 must be at least 1"),
        ({"rope_scaling": "linear", "rope_original_context": 8}, "are for llama3 and yarn"),
        (
            {"rope_scaling": "llama3", "rope_factor": 2.0, "rope_original_context": 8, "rope_low_turns": 5.0},
            "rope_low_turns 5.0 must be above 0 and below rope_high_turns 4.0",
        ),
        ({"qk_norm_gain": True, "qk_norm": False}, "qk_norm_gain is the gain of qk_norm"),
        ({"head_size": 7}, "head_size 7 is odd"),
        ({"head_size": 0}, "head_size 0 must be at least 1"),
        ({"heads": 3}, "width 32 is not a multiple of heads 3"),
        ({"form": "casual"}, "unknown form 'casual' .*did you mean 'causal'"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{"vocab_size": 9, "context": 8, "layers": 1, "width": 32, "heads": 4, **changes})


def test_gpt2_style_equals_transformers_gpt2() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=48, n_layer=3, n_head=4)).eval()
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    ours = Transformer(preset("tiny", "gpt2", vocab_size=50, context=32, layers=3, width=48, heads=4)).eval()
    weights = theirs.transformer.state_dict()
    renamed = {
        "embedding.weight": weights["wte.weight"],
        "positions.weight": weights["wpe.weight"],
        "norm.weight": weights["ln_f.weight"],
        "norm.bias": weights["ln_f.bias"],
    }
    names = {
        "ln_1": "attention_norm",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.out",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }
    for layer in range(3):
        for theirs_name, name in names.items():
            for part in ("weight", "bias"):
                value = weights[f"h.{layer}.{theirs_name}.{part}"]
                # GPT-2 keeps its matrices the other way round.
                renamed[f"blocks.{layer}.{name}.{part}"] = value.T.contiguous() if value.ndim == 2 else value
    ours.load_state_dict(renamed, strict=True)
    expected = theirs(IDS).logits
    assert float(expected.detach().std()) > 0.5
    torch.testing.assert_close(ours(IDS), expected, atol=1e-4, rtol=1e-4)


def test_sinusoids_are_those_of_the_paper() -> None:
    config = preset("tiny", "sinusoidal", vocab_size=50, context=32, layers=1, width=8, heads=2)
    table = Transformer(config).waves.sinusoids(torch.device("cpu"))
    for place in (0, 1, 31):
        for i in range(4):
            angle = torch.tensor(place / 10000 ** (2 * i / 8), dtype=torch.float64)
            assert float(table[place, 2 * i]) == pytest.approx(float(angle.sin()), abs=1e-6)
            assert float(table[place, 2 * i + 1]) == pytest.approx(float(angle.cos()), abs=1e-6)


def test_rotation_depends_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    cos, sin = Transformer(preset("tiny", vocab_size=5, context=64, depth=1)).waves.rotation(torch.device("cpu"))
    query, key = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 1, 64)

    def product(a: int, b: int) -> float:
        turned = [place_heads(x, cos[p : p + 1], sin[p : p + 1], None) for x, p in ((query, a), (key, b))]
        return float((turned[0] * turned[1]).sum())

    assert product(10, 3) == pytest.approx(product(60, 53), abs=1e-4)
    assert product(10, 3) != pytest.approx(product(10, 4), abs=1e-2)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_fused_parts_equal_plain_formulas(kind: torch.dtype) -> None:
    compare_with_plain_formulas(kind)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_formulas_for_the_compiler_equal_plain_ones(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compare_with_plain_formulas(kind)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    model = Transformer(
        TransformerConfig(vocab_size=50, context=32, layers=2, width=32, heads=4, kv_heads=2, logit_soft_cap=5.0)
    )
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    documents = (torch.arange(19) > 8).long().expand(2, 19)
    results = []
    for enabled in (True, False):
        model.zero_grad()
        with fused_training(model, enabled), torch.autocast("cpu", torch.bfloat16):
            assert (model.norm.fusion is not None) == (model.blocks[1].fusion is not None) == enabled
            loss = model.loss(Inputs(IDS[:, :-1], documents=documents), IDS[:, 1:], z_loss=0.01)
        loss.total.backward()
        results.append([loss.total.detach(), loss.nll, *(parameter.grad.clone() for parameter in model.parameters())])
    assert model.norm.fusion is None
    with pytest.raises(ValueError, match="Linear has no parts that can be compiled"), fused_training(model.unembedding):
        pass
    for found, expected in zip(*results, strict=True):
        # The plain way rounds to bfloat16 in more places.
        assert float((found - expected).norm() / expected.norm()) < 0.02


def compare_with_plain_formulas(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-5, torch.bfloat16: 3e-2}[kind]
    angles = torch.rand(5, 1, 4)
    cos, sin = torch.cat((angles.cos(), angles.cos()), -1), angles.sin()

    def plain_norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain

    def plain_heads(x: torch.Tensor, eps: float | None) -> torch.Tensor:
        if eps is not None:
            x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
        a, b = x.chunk(2, -1)
        return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)

    cases = [
        (lambda x, gain: rms_norm(x, gain, 1e-5), plain_norm),
        (lambda x, gain: place_heads(x * gain, cos, sin, 1e-5), lambda x, gain: plain_heads(x * gain, 1e-5)),
        (lambda x, gain: place_heads(x * gain, cos, sin, None), lambda x, gain: plain_heads(x * gain, None)),
        (lambda x, gain: place_heads(x * gain, None, None, 1e-5), lambda x, gain: plain_norm(x * gain, torch.ones(()))),
        (
            lambda x, gain: swiglu(x * gain),
            lambda x, gain: F.silu((x * gain)[..., :4]) * (x * gain)[..., 4:],
        ),
    ]
    for fused, plain in cases:
        x, gain = torch.randn(2, 5, 3, 8).to(kind), torch.randn(8).to(kind)
        results = []
        for function, dtype in ((fused, kind), (plain, torch.float64)):
            a, b = (part.to(dtype, copy=True).requires_grad_() for part in (x, gain))
            y = function(a, b)
            # A gradient that is not contiguous, as attention's transposes give.
            weight = torch.linspace(-1, 1, y.numel(), dtype=dtype).view(*reversed(y.shape)).permute(3, 2, 1, 0)
            (y * weight).sum().backward()
            with torch.no_grad():
                torch.testing.assert_close(function(a, b), y)
            results.append([y.detach().double(), a.grad.double(), b.grad.double()])
        torch.testing.assert_close(results[0], results[1], atol=tolerance * 10, rtol=tolerance)


def test_fused_parts_pass_gradcheck() -> None:
    torch.manual_seed(0)
    x, gain = torch.randn(2, 3, 2, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    angles = torch.rand(3, 1, 4, dtype=torch.float64)
    cos, sin = torch.cat((angles.cos(), angles.cos()), -1), angles.sin()
    x.requires_grad_()
    gain.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-5), (x, gain))
    assert torch.autograd.gradcheck(lambda a: place_heads(a, cos, sin, 1e-5), (x,))
    assert torch.autograd.gradcheck(lambda a: place_heads(a, None, None, 1e-5), (x,))
    assert torch.autograd.gradcheck(lambda a: place_heads(a, cos, sin, None), (x,))
    assert torch.autograd.gradcheck(swiglu, (x,))


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("chunk", [1, 37 * 4, 10**6])
def test_chunked_loss_equals_the_plain_one(soft_cap: float | None, chunk: int) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(3, 10, 16), torch.randn(37, 16) * 0.5
    labels, weights = torch.randint(0, 37, (3, 10)), torch.rand(3, 10)
    weights[0, :4] = 0
    labels[0, :4] = -100
    results = []
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if fused:
            loss = linear_token_loss(h, w, labels, weights, z_loss=0.1, soft_cap=soft_cap, chunk_elements=chunk)
        else:
            logits = h @ w.T
            logits = logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
            loss = token_loss(logits, labels, weights, z_loss=0.1)
        (loss.total * 0.5).backward()
        results.append([*(part.detach() for part in loss), h.grad, w.grad])
    torch.testing.assert_close(results[0], results[1], atol=2e-5, rtol=1e-5)
    assert torch.all(results[0][3][0, :4] == 0)


@pytest.mark.parametrize("values", [{}, {"norm_position": "post"}, {"logit_soft_cap": 5.0}, {"layers": 1}])
@pytest.mark.parametrize("hidden", [0, 9, 18, 20])
def test_places_without_loss_are_left_out_and_nothing_changes(values: dict[str, Any], hidden: int) -> None:
    """Beside the loss of all logits, with its gradients; where no place counts, they are zero."""
    torch.manual_seed(0)
    model = Transformer(preset("tiny", vocab_size=50, context=32, **{"layers": 2, "width": 16, "heads": 2, **values}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids, labels, weights = torch.randint(0, 50, (3, 20)), torch.randint(0, 50, (3, 20)), torch.rand(3, 20) + 0.1
    weights[:, :hidden] = 0
    places = counted_places(weights)
    if hidden == 0:
        assert places is None
    else:
        assert places is not None
        assert len(places) == {9: 36, 18: 8, 20: 4}[hidden], (
            "a multiple of a sixteenth of 60, 4, that holds 33, 6 and 0"
        )
        assert set(torch.nonzero(weights.reshape(-1)).flatten().tolist()) <= set(places.tolist())
        assert places.diff().min() > 0
    results = []
    for fast in (True, False):
        model.zero_grad()
        if fast:
            loss = model.loss(Inputs(ids), labels, weights, z_loss=0.1)
        else:
            loss = token_loss(model.logits(Inputs(ids)), labels, weights, z_loss=0.1)
        loss.total.backward()
        results.append([*(part.detach() for part in loss), *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


def test_plain_loss_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 9), torch.randint(0, 9, (4, 6))
    loss = token_loss(logits, labels, z_loss=0.1)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert float(loss.nll) == pytest.approx(float(expected), rel=1e-6)
    assert float(loss.total) == pytest.approx(float(expected + 0.1 * logits.logsumexp(-1).square().sum()), rel=1e-6)
    assert float(loss.weight) == 24


def test_masked_places_reach_neither_loss_nor_z_loss() -> None:
    model = Transformer(preset("tiny", vocab_size=50, context=32, layers=1, width=16, heads=2))
    weights = torch.ones(2, 19)
    weights[:, :7] = 0
    labels = IDS[:, 1:].clone()
    base = model.loss(Inputs(IDS[:, :-1]), labels, weights, z_loss=0.5)
    labels[:, :7] = 3
    again = model.loss(Inputs(IDS[:, :-1]), labels, weights, z_loss=0.5)
    alone = token_loss(model(IDS[:, :-1])[:, 7:], IDS[:, 8:], z_loss=0.5)
    assert float(base.total.detach()) == float(again.total.detach())
    assert float(base.total.detach()) == pytest.approx(float(alone.total.detach()), rel=1e-5)
    assert float(base.weight) == 24


def test_accumulation_over_unequal_batches_equals_one_large_batch() -> None:
    torch.manual_seed(0)
    model = Transformer(preset("tiny", vocab_size=50, context=32, layers=2, width=32, heads=2))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    weights = torch.ones(2, 19)
    weights[0, 3:] = 0
    gradients = []
    for rows in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        model.zero_grad()
        parts = [model.loss(Inputs(IDS[r, :-1]), IDS[r, 1:], weights[r], z_loss=0.01) for r in rows]
        count = sum(part.weight for part in parts)
        for part in parts:
            (part.total / count).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


def test_dropout_acts_in_training_alone() -> None:
    model = Transformer(TransformerConfig(vocab_size=50, context=32, layers=1, width=16, heads=2, dropout=0.5))
    model.blocks[0].mlp.down.weight.data.normal_()
    assert not torch.equal(model.train()(IDS), model(IDS))
    assert torch.equal(model.eval()(IDS), model(IDS))


@pytest.mark.parametrize("style", ["llama", "gpt2", "sinusoidal"])
@pytest.mark.usefixtures("one_thread")
def test_it_learns_to_copy(style: str) -> None:
    torch.manual_seed(0)
    model = Transformer(preset("tiny", style, vocab_size=12, context=16, layers=2, width=32, heads=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    draw = torch.Generator().manual_seed(1)
    for _ in range(250):
        half = torch.randint(0, 12, (32, 8), generator=draw)
        ids = torch.cat((half, half), 1)
        weights = torch.zeros(32, 15)
        weights[:, 7:] = 1
        loss = model.loss(Inputs(ids[:, :-1]), ids[:, 1:], weights)
        (loss.total / loss.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    # Without attention to eight places back it could not be below ln 12 = 2.48.
    assert float(loss.nll / loss.weight) < 0.3


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_step_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    model = Transformer(
        TransformerConfig(
            vocab_size=50, context=32, layers=1, width=32, heads=4, kv_heads=2, window=6, logit_soft_cap=5.0
        )
    ).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    cache = model.new_cache(1, 20, compiled=True)
    stepped = [model.step(Inputs(IDS[:1, :3]), cache)]
    stepped += [model.step(Inputs(IDS[:1, place : place + 1]), cache) for place in range(3, 20)]
    torch.testing.assert_close(torch.cat(stepped, 1), model(IDS[:1]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("with_bias", [False, True])
def test_packed_products_equal_plain_ones(kind: torch.dtype, with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(24, 17).to(kind), torch.randn(24).to(kind) if with_bias else None
    packed = Packed(weight, bias)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2}[kind]
    with torch.inference_mode():
        for rows in (1, 3, 8, 40):
            x, residual = torch.randn(rows, 17).to(kind), torch.randn(rows, 24).to(kind)
            expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
            for found, wanted in ((packed(x), expected), (packed.added(x, residual), expected + residual.double())):
                assert found.dtype == kind
                torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "kv_heads", "length"), [(1, 4, 5), (3, 2, 90), (2, 4, 200)])
def test_attention_of_one_query_equals_the_formula(kind: torch.dtype, rows: int, kv_heads: int, length: int) -> None:
    """On both sides of the work from which on matrices are multiplied."""
    torch.manual_seed(0)
    queries, room = torch.randn(rows, 4, 16).to(kind), torch.randn(2, rows, kv_heads, 256, 16).to(kind)
    keys, values = room[:, :, :, 10 : 10 + length]
    shared = [part.double().repeat_interleave(4 // kv_heads, 1) for part in (keys, values)]
    scores = (queries.double()[:, :, None] * shared[0]).sum(-1) / 4
    expected = (scores.softmax(-1)[..., None] * shared[1]).sum(2).flatten(1)
    tolerance = 1e-5 if kind == torch.float32 else 2e-2
    torch.testing.assert_close(attend_one(queries, keys, values).double(), expected, atol=tolerance, rtol=tolerance)
    mask = torch.rand(rows, 1, length) < 0.5
    mask[..., -1] = True
    expected = (scores.masked_fill(~mask, -math.inf).softmax(-1)[..., None] * shared[1]).sum(2).flatten(1)
    found = attend_one(queries, keys, values, mask)
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
