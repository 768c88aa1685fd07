"""Models in Python: what the command draws, from values of all kinds; scores beside a loop; beginnings that are completed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from toys.world import Letters, picture_samples, text_samples, write_shards

from tokenize_kit.protocol.values import Film, Sound
from trainers.autoregressive.api import Model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_transformer

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = TransformerOverrides(layers=1, width=32, heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("api")
    pictures = write_shards(place / "pictures", picture_samples(60, shapes=((4, 3),)))
    texts = write_shards(place / "texts", text_samples(40))
    train_transformer(
        TrainTransformerOptions(
            shards=(pictures, texts),
            template=("text -> image", "image -> text", "text image", "text"),
            out=str(place / "model"),
            steps=30,
            batch_size=4,
            context=64,
            preset="tiny",
            model=SIZES,
            condition_dropout=0.2,
        )
    )
    return place


@pytest.fixture(scope="module")
def model(folder):
    return Model.load(folder / "model", device="cpu")


def test_it_draws_what_the_command_draws(folder, model, tmp_path):
    assert model.templates == ("text -> image", "image -> text", "text image", "text")
    drawn = model.generate(text="abc", count=3, seed=5, guidance=2.0)
    generate_samples(
        GenerateOptions(
            model=str(folder / "model"), out=str(tmp_path / "out"), prompt="abc", count=3, seed=5, guidance=(2.0,)
        )
    )
    for number, picture in enumerate(drawn):
        assert isinstance(picture, Image.Image)
        assert (picture.width, picture.height, picture.mode) == (3, 4, "L")
        assert np.array_equal(picture, Image.open(tmp_path / "out" / f"sample_{number:05}.png"))
    assert model.generate(count=2, template="text", seed=1) == model.generate({}, count=2, template="text", seed=1)
    both = model.generate(count=1, template="text image")[0]
    assert set(both) == {"text", "image"}
    assert isinstance(both["text"], str)


def test_pictures_are_given_as_values_arrays_and_files(model, tmp_path):
    picture = model.generate(text="abc")[0]
    picture.save(tmp_path / "picture.png")
    given = [
        picture,
        np.asarray(picture),
        np.asarray(picture)[..., None],
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
    ]
    said = [model.generate(image=value, template="image -> text", count=2, temperature=0.0) for value in given]
    assert all(one == said[0] for one in said)
    assert (
        model.generate({"image": picture.convert("RGB")}, template="image -> text", count=2, temperature=0.0) == said[0]
    )


def test_scores_are_those_of_a_loop(model):
    """Every token by itself, from a model that has seen those before it and nothing else."""
    picture = model.generate(text="hello")[0]
    for template, parts in (
        ("text -> image", ["image"]),
        ("text image", ["text", "image"]),
        ("image -> text", ["text"]),
    ):
        found = model.score(text="hello", image=picture, template=template)
        loaded = model.loaded.using(template)
        tokenizers = loaded.tokenizers
        grids = {
            "text": tokenizers["text"].encode("hello").numpy(),
            "image": tokenizers["image"].encode(torch.from_numpy(np.asarray(picture).copy())[None]).numpy(),
        }
        document = loaded.template.document(grids, loaded.vocabulary)
        total = 0.0
        for place in np.flatnonzero(document.loss_mask):
            logits = loaded.model.logits(Inputs(torch.from_numpy(document.ids[None, :place])))[0, -1].detach().double()
            total += float(logits.log_softmax(-1)[document.ids[place]])
        assert found.nats == pytest.approx(total, abs=1e-4)
        assert sum(found.streams.values()) == pytest.approx(found.nats)
        assert list(found.streams) == parts
        assert sum(found.tokens.values()) == document.loss_mask.sum()
        assert found.bits_per_token == pytest.approx(-total / math.log(2) / document.loss_mask.sum(), abs=1e-5)


@pytest.mark.parametrize("order", ["image", "image:spiral", "image:column"])
def test_the_upper_half_of_a_picture_is_completed(folder, order, tmp_path):
    out = tmp_path / "model"
    train_transformer(
        TrainTransformerOptions(
            shards=(str(folder / "pictures"),),
            template=(f"text -> {order}",),
            out=str(out),
            steps=2,
            preset="tiny",
            model=SIZES,
        )
    )
    model = Model.load(out, device="cpu")
    ids = torch.randint(0, 4, (4, 3), generator=torch.Generator().manual_seed(0))
    pixels = model.loaded.tokenizers["image"].decode(ids)[0].numpy()
    for part, rows in ((0.5, 2), (0.25, 1), (0.99, 3), (0.01, 1)):
        drawn = [np.asarray(one) for one in model.generate(text="ab", image=pixels, complete=part, count=4)]
        assert all(np.array_equal(one[:rows], pixels[:rows]) for one in drawn)
        assert len({one[rows:].tobytes() for one in drawn}) > 1
    Image.fromarray(pixels).save(tmp_path / "half.png")
    options = GenerateOptions(
        model=str(out),
        out=str(tmp_path / "out"),
        prompt="ab",
        complete=str(tmp_path / "half.png"),
        complete_part=0.75,
        count=2,
    )
    generate_samples(options)
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / line["files"]["image"]))[:3], pixels[:3])
        assert line["prompt"] == {"text": "ab", "image": str(tmp_path / "half.png")}


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"txt": "a"}, ValueError, "no stream is named 'txt'.*did you mean 'text'"),
        ({"text": "a", "template": "text -> imge"}, ValueError, "was not trained on the template 'text -> imge'"),
        ({"text": "a", "count": 0}, ValueError, "count 0 must be at least 1"),
        ({"text": 3}, TypeError, "the stream 'text' is of texts: a int is none"),
        ({"image": "nowhere.png", "template": "image -> text"}, FileNotFoundError, r"nowhere\.png"),
        (
            {"image": np.zeros((2, 2)), "template": "image -> text"},
            ValueError,
            "a picture is a uint8 array .* got float64",
        ),
        ({"given": {"text": "a"}, "text": "b"}, ValueError, "the stream 'text' is given twice"),
        ({"text": "a", "complete": 1.0}, ValueError, "complete 1.0 must be above 0 and below 1"),
        ({"text": "a", "guidance": -1}, ValueError, "guidance .* must be"),
    ],
)
def test_what_is_wrong_is_said(model, asked, error, message):
    with pytest.raises(error, match=message):
        model.generate(**asked)


def test_wrong_options_of_completion_are_said(folder, tmp_path):
    common = {"model": str(folder / "model"), "out": str(tmp_path / "out")}
    with pytest.raises(ValueError, match=r"--complete-part 1\.5 must be above 0"):
        GenerateOptions(**common, complete="a.png", complete_part=1.5)
    with pytest.raises(ValueError, match=r"--complete-part 0\.3 is of --complete FILE"):
        GenerateOptions(**common, complete_part=0.3)
    with pytest.raises(ValueError, match="the prompt gives the 'text' already"):
        generate_samples(GenerateOptions(**common, template="text", prompt="a", complete="b.txt"))


def test_scores_need_every_part_and_room(model):
    picture = model.generate(text="a")[0]
    with pytest.raises(ValueError, match="has no stream 'image'"):
        model.score(text="a")
    with pytest.raises(ValueError, match="more than the 65 that the model can score"):
        model.score(text="a" * 80, image=picture)


def test_values_of_sounds_and_films_come_back(tmp_path):
    """What a kind of data gives a Python user it takes from one, through a file that is read like any other."""
    from tokenize_kit.protocol import TokenSpec, modality_of

    sound = TokenSpec("audio", 256, ("time",), (1,), lossless=False, channels=1, sample_rate=8000)
    kind, draw = modality_of(sound), torch.Generator().manual_seed(0)
    sample = torch.rand(1, 900, generator=draw) * 2 - 1
    value = kind.to_python(sample, sound)
    assert isinstance(value, Sound)
    assert value.sample_rate == 8000
    path = kind.save(value, tmp_path / "sound")
    assert torch.equal(kind.read(path.read_bytes(), sound), sample), "32-bit samples lose nothing"
    assert torch.equal(kind.read(kind.save((value.samples[0], 8000), tmp_path / "flat").read_bytes(), sound), sample)
    assert kind.save("a sound", tmp_path / "none") is None
    with pytest.raises(ValueError, match="a sound is floating-point samples"):
        kind.save((np.zeros(9, np.int16), 8000), tmp_path / "none")
    with pytest.raises(ValueError, match=r"sample rate 8000\.5"):
        kind.save((np.zeros(9, np.float32), 8000.5), tmp_path / "none")

    film = TokenSpec(
        "video", 256, ("time", "height", "width", "channel"), (1, 1, 1, 1), lossless=True, channels=3, frame_rate=12.0
    )
    kind = modality_of(film)
    sample = torch.randint(0, 256, (5, 3, 6, 8), generator=draw, dtype=torch.uint8)
    value = kind.to_python(sample, film)
    assert isinstance(value, Film)
    assert value.frames.shape == (5, 6, 8, 3)
    path = kind.save(value, tmp_path / "film")
    assert torch.equal(kind.read(path.read_bytes(), film), sample)
    with pytest.raises(ValueError, match="a film is a uint8 array"):
        kind.save((np.zeros((5, 6, 8, 2), np.uint8), 12), tmp_path / "none")
    with pytest.raises(ValueError, match="frame rate nan"):
        kind.save((value.frames, float("nan")), tmp_path / "none")
    assert modality_of(Letters().spec).to_python("abc", Letters().spec) == "abc"
