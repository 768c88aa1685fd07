"""Samples in pieces while they are drawn: joined they are what is drawn at once, and no piece waits longer than it must."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys.neural_codec import RVQ, toy_codec
from toys.world import picture_samples, text_samples, write_shards, write_streams

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.protocol.values import Sound
from tokenize_kit.sequences.template import SequenceTemplate
from trainers.autoregressive.api import Model
from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.streaming import Arriving, decoded
from trainers.autoregressive.train import train_transformer

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = TransformerOverrides(layers=1, width=32, heads=2)


def trained(shards, out, **changes):
    values = {"steps": 3, "batch_size": 2, "preset": "tiny", "model": SIZES, **changes}
    train_transformer(TrainTransformerOptions(shards=(str(shards),), out=str(out), **values))
    return Model.load(out, device="cpu")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streaming")
    return trained(write_shards(folder / "texts", text_samples(40)), folder / "text", template="text", context=48)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    codec = toy_codec(quantizer={**RVQ, "codebooks": 3})
    grids = [
        np.random.default_rng(number).integers(0, 32, (20 + number % 5, 3)).astype(np.uint8) for number in range(40)
    ]
    lengths = [(codec.decode(torch.from_numpy(grid).long()).shape[-1],) for grid in grids]
    shards = write_streams(folder / "shards", {"audio": codec}, {"audio": grids}, sizes={"audio": lengths})
    return {
        layout: trained(shards, folder / layout, template=f"audio:{layout}", context=90)
        for layout in ("flatten", "delay", "coarse-first")
    }


@pytest.mark.parametrize("seed", range(4))
def test_a_text_comes_in_pieces(texts, seed):
    pieces = list(texts.stream(seed=seed))
    assert "".join(pieces) == texts.generate(seed=seed)[0]
    assert len(pieces) == len(texts.generate(seed=seed)[0]), "a letter is a token"
    begun = list(texts.stream(text="abc", seed=seed))
    assert begun[0] == "abc"
    assert "".join(begun) == texts.generate(text="abc", seed=seed)[0]


@pytest.mark.parametrize("layout", ["flatten", "delay", "coarse-first"])
def test_a_sound_comes_in_pieces(sounds, layout):
    model = sounds[layout]
    for seed in range(3):
        pieces = list(model.stream(seed=seed))
        assert all(isinstance(piece, Sound) for piece in pieces)
        assert {piece.sample_rate for piece in pieces} == {model.loaded.tokenizers["audio"].spec.sample_rate}
        whole = model.generate(seed=seed)[0]
        assert np.array_equal(np.concatenate([piece.samples for piece in pieces], 1), whole.samples)


@pytest.mark.parametrize("layout", ["flatten", "delay", "coarse-first"])
def test_steps_are_ready_with_their_last_id(sounds, layout):
    """Beside a loop over the whole list of places."""
    loaded = sounds[layout].loaded
    grid = np.random.default_rng(3).integers(0, 32, (7, 3))
    template, vocabulary = loaded.template, loaded.vocabulary
    document = template.document({"audio": grid}, vocabulary)
    arriving = Arriving(template.segments(vocabulary), template.grammar(vocabulary))
    found, there = [], np.zeros((7, 3), bool)
    for place, token in enumerate(document.ids.tolist()):
        if document.codebooks[place] >= 0:
            there[document.coordinates[place, 0], document.codebooks[place]] = True
        ready = arriving.add([token])
        found += [] if ready is None else ready.tolist()
        whole = 7 if there.all() else int(np.argmin(there.all(1)))
        assert found == grid[:whole].tolist(), place
    assert len(found) == 7


@pytest.mark.parametrize("layout", ["flatten", "delay", "coarse-first"])
def test_the_end_of_what_is_given_is_not_that_of_what_is_drawn(sounds, layout):
    """Where both are of one stream they have one end token."""
    vocabulary = sounds[layout].loaded.vocabulary
    template = SequenceTemplate.parse(f"audio:{layout} -> audio:{layout}")
    first, second = (np.random.default_rng(number).integers(0, 32, (6 + number, 3)) for number in (0, 3))
    document = template.document({"audio": first, "audio#2": second}, vocabulary)
    arriving = Arriving(template.segments(vocabulary), template.grammar(vocabulary))
    steps = [ready for token in document.ids.tolist() if (ready := arriving.add([token])) is not None]
    assert torch.cat(steps).tolist() == second.tolist()


def test_a_character_is_not_torn():
    class Bytes:
        """A text tokenizer of single bytes."""

        spec = TokenSpec("text", 256, ("time",), (1,), lossless=True)

        def decode(self, ids):
            return bytes(ids.tolist()).decode("utf-8", "replace")

    text = "a€é\U0001f600z\N{REPLACEMENT CHARACTER}b"
    ids = torch.tensor(list(text.encode()))
    pieces = list(decoded(Bytes(), ids.split(1)))
    assert "".join(pieces) == text
    assert pieces[:5] == ["a", "€", "é", "\U0001f600", "z"]
    torn = torch.tensor([97, 0xE2, 0x82])
    assert list(decoded(Bytes(), torn.split(1))) == ["a", "\N{REPLACEMENT CHARACTER}"], (
        "what stays unfinished is told at the end"
    )


def test_what_comes_at_once_is_refused(tmp_path):
    shards = write_shards(tmp_path / "pictures", picture_samples(30, shapes=((4, 3),)))
    model = trained(shards, tmp_path / "model", template=("text -> image", "image text"))
    for template, target in (("text -> image", "image"), ("image text", "image, text")):
        with pytest.raises(ValueError, match=f"predicts {target}: only a single text, sound or film"):
            next(model.stream(text="a", template=template))
