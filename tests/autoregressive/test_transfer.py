"""What a model takes over from another one: each row of ids and each matrix, beside what stands in the two files."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file
from toys.world import Letters, picture_samples, text_samples, write_shards

from trainers.autoregressive.model_folder import read_model_config
from trainers.autoregressive.models import build_model
from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.train import train_transformer
from trainers.autoregressive.transfer import take_over

pytestmark = pytest.mark.usefixtures("one_thread")


def options(shards, out, **changes):
    values = {"template": "text", "preset": "tiny", "batch_size": 2, "steps": 2, "context": 40}
    values["model"] = TransformerOverrides(layers=2, width=32, heads=2)
    return TrainTransformerOptions(shards=(shards,), out=str(out), log_every=1, **{**values, **changes})


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    texts = write_shards(folder / "text", text_samples(40))
    pictures = write_shards(folder / "pictures", picture_samples(40, shapes=((3, 4), (2, 2))))
    train_transformer(options(texts, folder / "reader"))
    return folder, texts, pictures


class Notes:
    """Remembers what is said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def begun(folder, options_, source):
    """A fresh model of a trained folder, what it was before, and with the weights of another one."""
    config = read_model_config(options_.out)
    torch.manual_seed(1)
    model = build_model(config.family, config.config)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    taken = take_over(model, config.vocabulary, config.fingerprints, config.family, str(folder / source))
    return config, before, dict(model.named_parameters()), taken


def test_a_text_model_starts_one_of_captions(worlds):
    folder, _, pictures = worlds
    asked = options(pictures, folder / "painter", template="text -> image", init_from=str(folder / "reader"))
    notes = Notes()
    train_transformer(asked, notes)
    (said,) = [note for note in notes.said if "gives" in note]
    assert "27 ids of text" in said
    assert "the ids of image" in said
    config, before, after, taken = begun(folder, asked, "reader")
    theirs, other = load_file(folder / "reader" / "model.safetensors"), read_model_config(folder / "reader")
    mine, its = config.vocabulary, other.vocabulary
    for table in ("embedding.weight", "unembedding.weight"):
        for row in range(mine.size):
            name = mine.special_tokens[row] if row < len(mine.special_tokens) else None
            letter = row - mine.offset("text")
            if name is not None:
                source = its.special(name) if name in its.special_tokens else None
            else:
                source = its.offset("text") + letter if 0 <= letter < 27 else None
            expected = before[table][row] if source is None else theirs[table][source]
            assert torch.equal(after[table][row], expected), (table, row, name)
    for name, value in after.items():
        if not name.startswith(("embedding", "unembedding")):
            assert torch.equal(value, theirs[name])
    matrices = sum(value.numel() for name, value in after.items() if "embedding" not in name)
    shared = [name for name in mine.special_tokens if name in its.special_tokens]
    assert taken.special == len(shared) == 5  # pad, bos, eos, begin and end of text
    assert taken.parameters == matrices + 2 * 32 * (27 + 5)
    assert taken.ids == {"text": 27}
    assert taken.new == ("the ids of image",)


def test_another_tokenizer_of_the_same_name_gives_no_ids(worlds):
    folder, *_ = worlds
    others = write_shards(folder / "salted", text_samples(40), tokenizers={"text": Letters(salt=1)})
    asked = options(others, folder / "salted-reader")
    train_transformer(asked)
    *_, taken = begun(folder, asked, "reader")
    assert taken.ids == {}
    assert taken.new == ("the ids of text",)


def test_a_deeper_model_and_a_longer_context_take_what_there_is(worlds):
    folder, texts, _ = worlds
    learned = {"positions": "learned", "width": 32, "heads": 2}
    first = options(texts, folder / "places", model=TransformerOverrides(layers=1, **learned))
    train_transformer(first)
    asked = options(texts, folder / "more-places", context=48, model=TransformerOverrides(layers=2, **learned))
    train_transformer(asked)
    _, before, after, taken = begun(folder, asked, "places")
    theirs = load_file(folder / "places" / "model.safetensors")
    assert torch.equal(after["positions.weight"][:40], theirs["positions.weight"])
    assert torch.equal(after["positions.weight"][40:], before["positions.weight"][40:])
    assert "positions.weight from place 40" in taken.new
    assert torch.equal(after["blocks.1.mlp.up.weight"], before["blocks.1.mlp.up.weight"])
    assert torch.equal(after["blocks.0.mlp.up.weight"], theirs["blocks.0.mlp.up.weight"])
    assert "blocks.1.mlp.up.weight" in taken.new


def test_a_masked_model_and_a_causal_one(worlds):
    folder, texts, _ = worlds
    masked = options(texts, folder / "masked", objective="masked", init_from=str(folder / "reader"))
    train_transformer(masked)
    config, before, after, _ = begun(folder, masked, "reader")
    assert torch.equal(
        after["embedding.weight"][config.vocabulary.size], before["embedding.weight"][config.vocabulary.size]
    )
    again = dataclasses.replace(masked, out=str(folder / "masked-again"), init_from=masked.out)
    train_transformer(again)
    config, before, after, _ = begun(folder, again, "masked")
    theirs = load_file(folder / "masked" / "model.safetensors")
    assert torch.equal(after["embedding.weight"], theirs["embedding.weight"]), "the mask is one of the shared ids"


def test_what_shares_nothing_is_refused(worlds, tmp_path):
    folder, texts, _ = worlds
    wide = options(
        texts,
        tmp_path / "wide",
        model=TransformerOverrides(layers=2, width=48, heads=2),
        init_from=str(folder / "reader"),
    )
    with pytest.raises(ValueError, match=r"shares no matrix with this model .*width 32 there and 48 here"):
        train_transformer(wide)
    assert not (tmp_path / "wide").exists()


def test_a_folder_without_weights_is_said(worlds, tmp_path):
    folder, texts, _ = worlds
    shutil.copytree(folder / "reader", tmp_path / "young")
    (tmp_path / "young" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors yet; its training has not reached"):
        train_transformer(options(texts, tmp_path / "next", init_from=str(tmp_path / "young")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is not a model folder"):
        train_transformer(options(texts, tmp_path / "next", init_from=str(tmp_path / "empty")))
    assert not (tmp_path / "next").exists()
