"""How ids of wide ordered ranges enter: by their value, beside rows of a table."""

import numpy as np
import pytest
import torch
from test_train import options_for
from toys.world import write_streams

from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.embeddings import WIDE, ValueEmbedding, embedding_of, reset_embedding, rows_of_ids
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.options import TransformerOverrides
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 65_536
RANGE = (4, 4 + COUNT)
AFTER = 3


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    made = embedding_of(RANGE[1] + AFTER, 32, ((RANGE),))
    assert isinstance(made, ValueEmbedding)
    reset_embedding(made, 1.0)
    return made.requires_grad_(False)


def test_a_narrow_range_keeps_its_rows():
    narrow = embedding_of(WIDE + 10, 8, ((5, 5 + WIDE),))
    assert narrow.weight.shape == (WIDE + 10, 8)
    assert rows_of_ids(narrow) == [narrow.weight]
    assert isinstance(embedding_of(WIDE + 10, 8, ((5, 6 + WIDE),)), ValueEmbedding)


def test_ids_of_a_wide_range_share_a_row_and_others_have_their_own(embedding):
    assert embedding.weight.shape == (4 + 1 + AFTER, 32)
    assert rows_of_ids(embedding) == []
    others = torch.tensor([0, 1, 2, 3, RANGE[1], RANGE[1] + 1, RANGE[1] + 2])
    assert torch.equal(embedding(others), embedding.weight[[0, 1, 2, 3, 5, 6, 7]])
    wide = embedding(torch.arange(*RANGE).view(2, -1))
    assert wide.shape == (2, COUNT // 2, 32)
    assert float(wide.std()) == pytest.approx(2**0.5, rel=0.15), "a row and what waves make of it"


def test_values_tell_neighbours_apart_and_are_smooth(embedding):
    every = embedding(torch.arange(*RANGE)).double()
    steps = (every[1:] - every[:-1]).norm(dim=1)
    assert float(steps.min()) > 0.1, "one id from the next"
    least = torch.cdist(every[::257], every[::257]).fill_diagonal_(torch.inf).min()
    assert float(least) > 0.5, "far ones from each other"


def test_in_bfloat16_fast_waves_keep_their_phase(embedding):
    ids = torch.arange(*RANGE)[::911]
    exact = embedding(ids)
    rounded = embedding.to(torch.bfloat16)(ids).float()
    assert float((rounded - exact).abs().max()) < 0.1


@pytest.mark.parametrize("family", ["recurrent", "wavenet", "transformer", "linear-attention"])
def test_a_model_of_samples_has_no_table_of_them_and_no_future(family):
    sizes = {"layers": 2, "width": 16, "head": "logistics", "ordinal": [list(RANGE)]}
    if family == "transformer":
        sizes["heads"] = 2
    model = build_model(family, {"vocab_size": RANGE[1] + AFTER, "context": 12, **sizes}).eval()
    assert sum(weight.numel() for weight in model.parameters()) < 60_000
    ids = torch.randint(*RANGE, (2, 8), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 5:] = RANGE[0]
    with torch.inference_mode():
        one, other = (model.logits(Inputs(given)) for given in (ids, changed))
        cache = model.new_cache(2, 8)
        steps = torch.cat([model.step(Inputs(ids[:, place : place + 1]), cache) for place in range(8)], 1)
    assert torch.equal(one[:, :5], other[:, :5])
    assert not torch.equal(one[:, 5], other[:, 5])
    torch.testing.assert_close(steps, one, atol=1e-4, rtol=1e-4)


def test_samples_of_16_bits_are_learned_by_their_values(tmp_path):
    draw = np.random.default_rng(0)
    time = np.arange(120)
    waves = [
        (32_768 + 9000 * np.sin(0.2 * time + draw.uniform(0, 6)) + draw.normal(0, 20, 120)).round().astype(np.int64)
        for _ in range(60)
    ]
    data = write_streams(tmp_path / "data", {"audio": PCMTokenizer()}, {"audio": waves})
    result = train_transformer(
        options_for(
            data,
            tmp_path / "model",
            template="audio",
            context=128,
            batch_size=8,
            steps=80,
            model=TransformerOverrides(layers=1, width=32, heads=2, head="logistics", mixtures=3),
            optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=10, weight_decay=0.0),
            validation_fraction=0.1,
            validate_every=80,
            log_every=80,
            checkpoint_every=80,
        )
    )
    # No value comes twice among 65,536: by rows of a table it would stay at what their distribution alone says, 14.2 bits.
    assert result.metrics["bits_per_token"] < 12
    assert result.parameters < 30_000
    assert isinstance(load_model(tmp_path / "model").model.embedding, ValueEmbedding)
