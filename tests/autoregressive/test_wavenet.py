"""WaveNet: its rings against a loop that keeps everything, packed documents against single ones, and how far it sees."""

import pytest
import torch

from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.stateful import StatefulModel
from trainers.autoregressive.models.wavenet import WaveNet, WaveNetConfig

VOCAB = 9


def build(**sizes):
    torch.manual_seed(0)
    config = WaveNetConfig(**{"vocab_size": VOCAB, "context": 64, "layers": 5, "cycle": 3, "width": 6, **sizes})
    model = WaveNet(config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().double()


def some_ids(rows, length):
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def slow_logits(model, ids):
    """The formula of the paper for one row, token by token, with the inputs of all layers kept for ever."""
    config = model.config
    kept = [[] for _ in range(config.layers)]
    logits = []
    for token in ids:
        x, total = model.embedding.weight[token], torch.zeros(config.skip_width, dtype=torch.float64)
        for index, layer in enumerate(model.layers):
            kept[index].append(x)
            parts = layer.gate.weight.split(config.width, 1)
            z = layer.gate.bias
            for back, part in enumerate(reversed(parts)):
                place = len(kept[index]) - 1 - back * 2 ** (index % config.cycle)
                if place >= 0:
                    z = z + part @ kept[index][place]
            gated = torch.tanh(z[: config.width]) * torch.sigmoid(z[config.width :])
            out = layer.out.weight @ gated + layer.out.bias
            total = total + out[: config.skip_width]
            if index < config.layers - 1:
                x = x + out[config.skip_width :]
        hidden = torch.relu(model.joining.weight @ torch.relu(total) + model.joining.bias)
        hidden = hidden / (hidden.square().mean() + 1e-5).sqrt() * model.norm.weight
        logits.append(model.unembedding.weight @ hidden)
    return torch.stack(logits)


@pytest.mark.parametrize("sizes", [{}, {"kernel": 3}, {"layers": 1}, {"layers": 4, "cycle": 4, "kernel": 4}])
def test_rings_equal_a_loop_that_keeps_everything(sizes):
    model, ids = build(**sizes), some_ids(1, 40)
    with torch.no_grad():
        slow = slow_logits(model, ids[0])
        torch.testing.assert_close(model(ids)[0], slow)
        for pieces in ([1] * 40, [7, 1, 1, 20, 1, 10]):
            cache, found = model.new_cache(1, 40), []
            for piece in ids.split(pieces, 1):
                found.append(model.step(Inputs(piece), cache)[0])
            torch.testing.assert_close(torch.cat(found), slow)


def test_a_token_moves_nothing_but_itself():
    model = build()
    cache = model.new_cache(2, 64)
    rings = cache.state[0]
    assert rings.shape == (2, 1 + 2 + 4 + 1 + 2, 6)
    # Never the same token twice in a row, which would leave the first ring as it is.
    for token in ((torch.arange(30) + torch.tensor([[0], [3]])) % VOCAB).split(1, 1):
        before = cache.state[0].clone()
        model.step(Inputs(token), cache)
        assert cache.state[0].data_ptr() == rings.data_ptr()
        # One input a layer is new.
        assert (cache.state[0] != before).any(-1).sum(1).tolist() == [5, 5]


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ({}, 1 + 1 + 2 + 4 + 1 + 2),
        ({"kernel": 3}, 1 + 2 * (1 + 2 + 4 + 1 + 2)),
        ({"layers": 6, "cycle": 6}, 64),
        ({"layers": 1, "kernel": 2}, 2),
    ],
)
def test_the_receptive_field_is_what_the_configuration_says(sizes, field):
    model = build(**sizes)
    assert model.config.receptive_field == field
    # In each row another place has another token than in the first.
    ids = some_ids(1, 64).repeat(65, 1)
    ids[1:] = (ids[1:] + torch.eye(64, dtype=torch.int64)) % VOCAB
    with torch.no_grad():
        last = model(ids)[:, -1]
    assert (last[1:] != last[0]).any(-1).tolist() == [False] * (64 - field) + [True] * field


def test_the_field_that_the_documentation_names():
    assert WaveNetConfig().receptive_field == 2047
    assert "2,047" in WaveNetConfig.__doc__


def test_packed_documents_equal_those_that_are_taken_apart():
    model = build(kernel=3)
    documents = torch.tensor([[0] * 3 + [1] * 20 + [2] + [3] * 9 + [-1] * 3, [-1] * 4 + [0] * 32])
    inputs = Inputs(some_ids(2, 36), documents=documents)
    packed, apart = model.hidden(inputs), StatefulModel.hidden(model, inputs)
    torch.testing.assert_close(packed[documents >= 0], apart[documents >= 0])


def test_coordinates_come_in_beside_the_ids():
    model, ids = build(coordinates=True), some_ids(1, 6)
    assert model.needs == {"axial"}
    places = torch.arange(6)[None, :, None].expand(-1, -1, 3)
    assert not torch.equal(model.logits(Inputs(ids, axial=places)), model.logits(Inputs(ids, axial=places * 2)))
    with pytest.raises(ValueError, match="needs the axial"):
        model(ids)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"kernel": 1}, "kernel 1 must be at least 2"),
        ({"cycle": 0}, "cycle 0 must be at least 1"),
        ({"cycle": 80, "layers": 70}, "cycle 80 of 70 layers gives a dilation of 2 to the 69"),
        ({"dropout": 1.0}, r"dropout 1.0 must be in \[0, 1\)"),
    ],
)
def test_wrong_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        WaveNetConfig(**sizes)
