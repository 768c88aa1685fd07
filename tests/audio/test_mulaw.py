"""Mu-law samples: the ids of torchaudio, the loss that is promised, and what silence becomes."""

import numpy as np
import pytest
import torch
import torchaudio.functional as F

from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.tokenizers.audio.mulaw import BOUND, MuLawTokenizer

TOKENIZER = MuLawTokenizer()


def test_the_ids_are_those_of_torchaudio():
    samples = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    expected = F.mu_law_encoding(samples, 256)
    got = TOKENIZER.encode(samples.float()[None])
    # float32 moves a sample across an edge only where it lies on one.
    different = got != expected
    assert int(different.sum()) < 20
    companded = samples.sign() * (1 + 255 * samples.abs()).log() / np.log(256)
    place = (companded[different] + 1) / 2 * 255 + 0.5
    assert bool(((place - place.round()).abs() < 1e-4).all())


def test_decoded_samples_are_those_of_torchaudio():
    ids = torch.arange(256)
    expected = F.mu_law_decoding(ids, 256)
    torch.testing.assert_close(TOKENIZER.decode(ids)[0], expected, atol=1e-6, rtol=1e-5)


def test_every_id_comes_back():
    ids = torch.arange(256)
    assert torch.equal(TOKENIZER.encode(TOKENIZER.decode(ids)), ids)


def test_the_largest_loss_is_the_one_that_is_stated():
    samples = torch.linspace(-1, 1, 1_000_003)[None]
    loss = (TOKENIZER.decode(TOKENIZER.encode(samples)) - samples).abs()
    relative = float((loss / (samples.abs() + 1 / 255)).max())
    assert 0.99 * BOUND < relative < (1 + 1e-5) * BOUND
    assert float(loss.max()) < 0.0221
    silence = torch.zeros(1, 3)
    assert float(TOKENIZER.decode(TOKENIZER.encode(silence)).abs().max()) == pytest.approx(8.6e-5, abs=1e-6)


def test_the_sample_rate_is_part_of_the_tokenizer(tmp_path):
    telephone = MuLawTokenizer(8000)
    assert telephone.fingerprint != TOKENIZER.fingerprint
    telephone.save(tmp_path)
    assert load_tokenizer(tmp_path).spec.sample_rate == 8000
    for rate in (0, -1, True, 10**9):
        with pytest.raises(ValueError, match="sample rate"):
            MuLawTokenizer(rate)
