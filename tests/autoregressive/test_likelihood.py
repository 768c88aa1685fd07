"""Scores of sequences and the units they are told in."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.autoregressive.likelihood import bits_per, score
from trainers.autoregressive.models.config import preset
from trainers.autoregressive.models.transformer import Transformer


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    made = Transformer(preset("tiny", vocab_size=9, context=12, layers=2, width=32, heads=2))
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return made


def test_scores_equal_one_by_one_log_softmax(model: Transformer) -> None:
    draw = torch.Generator().manual_seed(0)
    sequences = [torch.randint(0, 9, (length,), generator=draw).tolist() for length in (2, 13, 5, 12, 7, 2)]
    results = score(model.train(), sequences, batch_size=4)
    assert model.training
    model.eval()
    for ids, result in zip(sequences, results, strict=True):
        assert result.dtype == torch.float32
        expected = []
        for place in range(1, len(ids)):
            logits = model(torch.tensor([ids[:place]]))[0, -1].detach().double()
            expected.append(float(logits.log_softmax(-1)[ids[place]]))
        assert result.tolist() == pytest.approx(expected, abs=1e-5)


def test_too_short_and_too_long_sequences_are_refused(model: Transformer) -> None:
    with pytest.raises(ValueError, match="sequence 1 has 14 tokens; it takes 2 to 13"):
        score(model, [[1, 2], [0] * 14])
    with pytest.raises(ValueError, match="sequence 0 has 1 tokens"):
        score(model, [[1]])


def test_one_conversion_for_tokens_bytes_and_dimensions() -> None:
    # A uniform model over 512 colours costs 9 bits a token, and a palette token stands for 3 channel values.
    nats = 64 * math.log(512)
    assert bits_per(nats, 64) == pytest.approx(9)
    assert bits_per(nats, 64 * 3) == pytest.approx(3)
    # A uniform model over bytes costs 8 bits a byte, however many bytes a token holds.
    assert bits_per(100 * math.log(256), 100) == pytest.approx(8)
    assert bits_per(25 * math.log(256**4), 100) == pytest.approx(8)
    with pytest.raises(ValueError, match="nothing was predicted"):
        bits_per(1.0, 0)
