"""Mixtures of logistics over ordered ids: against a slow reference, at their edges, and through the trainer."""

import json
import math

import numpy as np
import pytest
import torch
from test_train import options_for
from toys.world import Letters, write_streams

from tokenize_kit.protocol import OrdinalTokenizer, tokenizer_class
from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.losses import token_loss
from trainers.autoregressive.models.mixture import LEAST_LOG_SCALE, MixtureHead, OrdinalLayout, log_mass
from trainers.autoregressive.options import GenerateOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def slow_mass(weights, means, scales, count):
    """The probabilities of ``count`` ids one by one, in float64, as differences of the cumulative distribution."""
    weights = [math.exp(w) for w in weights]
    result = []
    for place in range(count):
        total = 0.0
        for weight, mean, raw in zip(weights, means, scales, strict=True):
            scale = math.exp(LEAST_LOG_SCALE + math.log1p(math.exp(raw - LEAST_LOG_SCALE)))
            centre = (count - 1) / 2 + mean * count / 2
            low = 0.0 if place == 0 else 1 / (1 + math.exp(-(place - 0.5 - centre) / scale))
            high = 1.0 if place == count - 1 else 1 / (1 + math.exp(-(place + 0.5 - centre) / scale))
            total += weight / sum(weights) * (high - low)
        result.append(total)
    return result


@pytest.mark.parametrize("count", [2, 3, 9, 40])
def test_mass_is_that_of_a_slow_reference(count):
    numbers = torch.randn(3, 4, generator=torch.Generator().manual_seed(count)).double()
    found = log_mass(numbers.expand(count, 3, 4), torch.arange(count), count).exp()
    np.testing.assert_allclose(found.numpy(), slow_mass(*numbers.tolist(), count), rtol=1e-9)


@pytest.mark.parametrize("count", [2, 256, 65_536])
@pytest.mark.parametrize("scale", [-50.0, 0.0, 20.0])
@pytest.mark.parametrize("mean", [-1e4, -1.0, 0.3, 1.0, 1e4])
def test_mass_sums_to_one_and_its_gradient_is_finite_at_the_edges_and_far_outside(count, scale, mean):
    numbers = torch.tensor([[0.0, 2.0], [mean, mean / 2], [scale, scale / 3]], requires_grad=True)
    every = torch.arange(count)
    logs = log_mass(numbers.expand(count, 3, 2), every, count)
    assert torch.isfinite(logs).all()
    assert float(logs.detach().double().exp().sum()) == pytest.approx(1, abs=2e-5)
    (gradient,) = torch.autograd.grad(logs[[0, 1, count // 2, count - 2, count - 1]].sum(), numbers)
    assert torch.isfinite(gradient).all()


def layout():
    """Of 30 ids, two ranges that are ordered."""
    return OrdinalLayout(30, ((3, 11), (20, 30)), 3)


def test_logits_are_one_distribution_over_gates_ids_and_ranges():
    numbers = torch.randn(layout().size, generator=torch.Generator().manual_seed(1))
    found = layout().logits(numbers).log_softmax(-1).double().exp()
    parts = numbers.double().tolist()
    classes, first, second = parts[:14], parts[14:23], parts[23:]
    whole = sum(map(math.exp, classes))
    expected = [0.0] * 30
    for low, high, gate, own in ((3, 11, classes[0], first), (20, 30, classes[1], second)):
        inside = slow_mass(own[:3], own[3:6], own[6:], high - low)
        expected[low:high] = [math.exp(gate) / whole * one for one in inside]
    others = [token for token in range(30) if not (3 <= token < 11 or token >= 20)]
    for token, number in zip(others, classes[2:], strict=True):
        expected[token] = math.exp(number) / whole
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5)


def test_the_loss_is_that_of_the_logits_with_weights_and_z_loss():
    torch.manual_seed(0)
    head = MixtureHead(8, 30, ((3, 11), (20, 30)), 3)
    hidden, labels, weights = torch.randn(50, 8), torch.randint(0, 30, (50,)), torch.rand(50)
    results = []
    for fast in (True, False):
        head.zero_grad()
        x = hidden.clone().requires_grad_()
        loss = head.loss(x, labels, weights, z_loss=0.1) if fast else token_loss(head(x), labels, weights, z_loss=0.1)
        loss.total.backward()
        results.append([*loss, x.grad, *(parameter.grad.clone() for parameter in head.parameters())])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=2e-4, rtol=1e-4)


def test_a_loss_over_16_bits_holds_nothing_as_large_as_the_ids():
    head = MixtureHead(8, 65_540, ((4, 65_540),), 10)
    biggest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal biggest
            result = function(*arguments, **(keywords or {}))
            for one in result if isinstance(result, tuple | list) else (result,):
                biggest = max(biggest, one.numel() if isinstance(one, torch.Tensor) else 0)
            return result

    hidden = torch.randn(100, 8, requires_grad=True)
    with Largest():
        head.loss(hidden, torch.randint(0, 65_540, (100,))).total.backward()
    # 100 places of 30 numbers and their ends, and one table of which id is which.
    assert biggest <= 100 * 40


@pytest.mark.parametrize(
    ("count", "mixtures", "above"), [(256, 10, 0.0185), (65_536, 10, 0.0347), (256, 1, 0.2678), (2, 10, 0.0)]
)
def test_a_fresh_mixture_finds_all_ids_about_equally_probable(count, mixtures, above):
    one = OrdinalLayout(count + 4, ((4, count + 4),), mixtures)
    logs = one.logits(one.start()).log_softmax(-1)
    # Of ids that are equally frequent; the ends of the range have a little too much, which is missing beside them.
    assert -float(logs.mean()) - math.log(count + 4) == pytest.approx(above, abs=5e-4)
    assert float(logs[:4].exp().sum()) == pytest.approx(4 / (count + 4), rel=1e-5)


def test_in_bfloat16_the_numbers_of_a_mixture_keep_their_precision():
    torch.manual_seed(0)
    head = MixtureHead(16, 65_540, ((4, 65_540),), 10)
    hidden, labels = torch.randn(200, 16), torch.randint(0, 65_540, (200,))
    plain = head.loss(hidden, labels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head.loss(hidden, labels)
    assert float(mixed.nll) == pytest.approx(float(plain.nll), rel=1e-6)


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    """Small grey pictures, brighter to the right."""
    draw = np.random.default_rng(0)
    slope = np.arange(5) * 30 + 60
    grids = [np.clip(slope + draw.normal(0, 6, (4, 5)), 0, 255).astype(np.int64) for _ in range(40)]
    return write_streams(tmp_path_factory.mktemp("data") / "greys", {"image": PixelTokenizer(1)}, {"image": grids})


def test_tokenizers_say_of_themselves_that_their_ids_are_ordered():
    ordered = [PixelTokenizer(3), PCMTokenizer(), tokenizer_class("mulaw")(), tokenizer_class("frames")()]
    assert all(isinstance(one, OrdinalTokenizer) and one.ordinal for one in ordered)
    assert not isinstance(tokenizer_class("palette")([[0, 0, 0]]), OrdinalTokenizer)
    assert not isinstance(Letters(), OrdinalTokenizer)


def trained(greys, out, **changes):
    (config := out.with_suffix(".json")).write_text(json.dumps(changes.pop("config", {})))
    values = {
        "template": "image",
        "context": None,
        "batch_size": 8,
        "steps": 80,
        "optimizer": OptimizerConfig(learning_rate=6e-2, warmup_steps=4, weight_decay=0.0),
        "validation_fraction": 0.15,
        "validate_every": 80,
        "log_every": 80,
        "checkpoint_every": 80,
    }
    if changes.get("family"):
        values |= {"family_config": str(config), "model": TransformerOverrides()}
    return train_transformer(options_for(greys, out, **{**values, **changes}))


def test_mixtures_by_place_learn_single_dimensions_better_than_a_histogram(greys, tmp_path):
    found = {
        family: trained(greys, tmp_path / family, family=family, config={"by_place": True}, **changes).metrics
        for family, changes in {"logistics": {}, "histogram": {"optimizer": OptimizerConfig()}}.items()
    }
    # The noise has a standard deviation of 6: log2(6 sqrt(2 pi e)) = 4.63 bits.
    assert 4.4 < found["logistics"]["image/bits_per_dimension"] < 5.4
    assert found["histogram"]["image/bits_per_dimension"] > found["logistics"]["image/bits_per_dimension"] + 1
    loaded = load_model(tmp_path / "logistics")
    assert loaded.model.config.ordinal == (loaded.vocabulary.streams["image"].range_of(0),)
    drawn = generate_samples(GenerateOptions(model=str(tmp_path / "logistics"), out=str(tmp_path / "drawn"), count=2))
    assert drawn is not None


@pytest.mark.parametrize("family", ["transformer", "recurrent"])
def test_a_head_of_logistics_trains_and_generates(greys, tmp_path, family):
    changes = {"steps": 12, "validate_every": 12, "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=2)}
    if family == "transformer":
        changes["model"] = TransformerOverrides(layers=1, width=16, heads=2, head="logistics", mixtures=4)
    else:
        changes |= {"family": family, "config": {"layers": 1, "width": 16, "head": "logistics", "mixtures": 4}}
    result = trained(greys, tmp_path / "model", **changes)
    assert result.metrics["image/bits_per_dimension"] < 7.9
    loaded = load_model(tmp_path / "model")
    assert loaded.model.config.ordinal == (loaded.vocabulary.streams["image"].range_of(0),)
    generate_samples(GenerateOptions(model=str(tmp_path / "model"), out=str(tmp_path / "drawn"), count=2, seed=4))
    assert len((tmp_path / "drawn" / "samples.jsonl").read_text().splitlines()) == 2


def test_streams_without_an_order_are_refused(tmp_path):
    words = [np.array([1, 2, 3])] * 20
    data = write_streams(tmp_path / "data", {"text": Letters()}, {"text": words})
    model = TransformerOverrides(layers=1, width=16, heads=2, head="logistics")
    with pytest.raises(ValueError, match=r"ids that are ordered.* none of the streams text has such ids"):
        train_transformer(options_for(data, tmp_path / "model", model=model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head": "logistics"}, "need the ids that are ordered"),
        ({"head": "logistics", "ordinal": [[3, 4]]}, "no ranges of two ids or more"),
        ({"head": "logistics", "ordinal": [[3, 90]]}, "among 20 ids"),
        ({"head": "logistics", "ordinal": [[3, 9], [8, 12]]}, "no ranges"),
        ({"head": "logistics", "ordinal": [[3, 9]], "mixtures": 0}, "mixtures 0 must be at least 1"),
        ({"ordinal": [[3, 9]]}, "for the head logistics, not for softmax"),
        ({"head": "logistics", "ordinal": [[3, 9]], "tied_head": True}, "tied_head is for the head softmax"),
        ({"head": "logistics", "ordinal": [[3, 9]], "logit_soft_cap": 9.0}, "logit_soft_cap is for the head softmax"),
    ],
)
def test_wrong_heads_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        build_model("transformer", {"vocab_size": 20, "context": 8, "width": 8, "heads": 1, "layers": 1, **values})


def test_a_configuration_survives_json():
    values = {"vocab_size": 20, "context": 8, "width": 8, "heads": 1, "layers": 1}
    model = build_model("transformer", {**values, "head": "logistics", "ordinal": [[3, 9]]})
    again = build_model("transformer", json.loads(json.dumps(model.config.to_dict())))
    assert again.config == model.config
    assert again.logits(Inputs(torch.zeros(1, 3, dtype=torch.int64))).shape == (1, 3, 20)
