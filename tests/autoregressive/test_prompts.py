"""Many prompts in one process, prompts that are brought to what the data were, and weights of trainings that go on."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from toys.codec import ToyCodec
from toys.progress import Told
from toys.world import Letters, Shades, text_samples, write_shards, write_streams

from tokenize_kit.cli import main
from tokenize_kit.media.audio import read_audio
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.shards.preparation import Preparation
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.prompts import read_prompts
from trainers.autoregressive.sample import draw, generate_samples
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.train import train_transformer
from trainers.checkpoints import last_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(out, shards, template, **changes):
    values = {
        "shards": (shards,),
        "template": template,
        "out": str(out),
        "model": TransformerOverrides(layers=1, width=16, heads=2),
        "steps": 4,
        "batch_size": 4,
        "device": "cpu",
        "validate_every": 2,
        "checkpoint_every": 2,
        "validation_fraction": 0.2,
    }
    train_transformer(TrainTransformerOptions(**{**values, **changes}))
    return str(out)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return trained(folder / "model", write_shards(folder / "shards", text_samples(30)), "text", context=48)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """A model of texts to pictures of 4x4 that were scaled and cropped to that size when they were encoded."""
    folder = tmp_path_factory.mktemp("captions")
    rng = np.random.default_rng(0)
    words = ["dark", "light"]
    grids = {
        "image": [rng.integers(0, 4, (4, 4)) for _ in range(20)],
        "text": [Letters().encode(words[i % 2]).numpy() for i in range(20)],
    }
    options = {"image_size": 4, "crop": True, "split": "none"}
    shards = write_streams(folder / "shards", {"image": Shades(), "text": Letters()}, grids, options)
    return trained(folder / "model", shards, "image -> text")


def generated(model, out, **changes):
    return generate_samples(GenerateOptions(model=model, out=str(out), **changes)), lines_of(out)


def lines_of(out):
    return [json.loads(line) for line in (Path(out) / "samples.jsonl").read_text().splitlines()]


def test_a_list_of_prompts_gives_numbered_samples_of_each(texts, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(b"red\r\n\nblue cat\n  \ngreen\n")
    changes = {"prompts": str(tmp_path / "prompts.txt"), "count": 2, "seed": 3}
    result, lines = generated(texts, tmp_path / "all", **changes)
    assert [(line["index"], line["line"], line["prompt"]) for line in lines] == [
        *((0, 1, "red"), (1, 1, "red"), (2, 3, "blue cat"), (3, 3, "blue cat"), (4, 5, "green"), (5, 5, "green")),
    ]
    assert result.count == 6
    assert list(result.texts) == [line["text"] for line in lines]
    for line in lines:
        assert line["text"].startswith(line["prompt"])
        assert (tmp_path / "all" / line["files"]["text"]).read_text() == line["text"]
    # A draw depends on its number and nothing else: not on the batch, nor on what comes later.
    for name, size in (("single", 1), ("pairs", 2)):
        assert generated(texts, tmp_path / name, batch_size=size, **changes)[1] == lines
    (tmp_path / "prompts.txt").write_text("red\n")
    assert generated(texts, tmp_path / "first", **changes)[1] == lines[:2]
    one = {name: value for name, value in changes.items() if name != "prompts"}
    alone = generated(texts, tmp_path / "alone", prompt="red", **one)[1]
    assert [line["ids"] for line in alone] == [line["ids"] for line in lines[:2]]


def test_more_prompts_than_are_held_at_a_time_are_all_drawn(texts, tmp_path):
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": word}) + "\n" for word in "abcdefghijkl"))
    changes = {"prompts": str(tmp_path / "prompts.jsonl"), "max_length": 8}
    result, lines = generated(texts, tmp_path / "some", batch_size=1, **changes)  # 8 at a time
    assert [line["text"][0] for line in lines] == list("abcdefghijkl")
    assert lines == generated(texts, tmp_path / "all", **changes)[1]
    assert result.tokens == sum(len(line["ids"]) - 3 for line in lines)


def test_a_line_of_a_jsonl_is_a_text_or_gives_streams_by_name(texts, captions, tmp_path):
    (tmp_path / "a.jsonl").write_text('"red"\n{"prompt": "sun", "id": 7}\n{"text": "book"}\n')
    _, lines = generated(texts, tmp_path / "texts", prompts=str(tmp_path / "a.jsonl"))
    assert [line["prompt"] for line in lines] == ["red", "sun", "book"]
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.full((4, 4), 224, np.uint8)).save(folder / "w.png")
    rows = [{"image": "w.png"}, {"prompt_file": "w.png"}, {"prompt_file": ["w.png"]}, "w.png"]
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, lines = generated(captions, tmp_path / "captions", prompts=str(folder / "b.jsonl"), temperature=0)
    assert {tuple(line["ids"]) for line in lines} == {tuple(lines[0]["ids"])}
    assert lines[0]["prompt"] == {"image": str(folder / "w.png")}
    (folder / "list.txt").write_text("w.png\n")
    _, listed = generated(captions, tmp_path / "list", prompts=str(folder / "list.txt"), temperature=0)
    assert listed[0]["ids"] == lines[0]["ids"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '"red"\n{"prompt": 3}\n', r"a\.jsonl, line 2: 'prompt' is a JSON int, expected a string"),
        ("a.jsonl", "\n{broken\n", r"a\.jsonl, line 2: "),
        ("a.jsonl", "[1]\n", "line 1: a JSON list, expected a string or an object"),
        ("a.jsonl", '{"promt": "x"}\n', "line 1: it has none of prompt, prompt_file, text, but promt"),
        ("a.jsonl", '{"prompt": "x", "text": "y"}\n', "line 1: the stream 'text' is given twice"),
        ("a.jsonl", "[" * 100_000, "line 1"),
        ("a.txt", "red\n" + "red " * 40 + "\n", r"a\.txt, line 2: the prompt of \d+ tokens leaves no room"),
        ("a.txt", "\n \n", "has no prompt; write one a line"),
        ("a.txt", b"\xff\xfe", r"is not UTF-8 \(byte 0\)"),
        ("a.jsonl", '{"prompt_file": "nowhere.txt"}\n', "line 1: .*nowhere.txt: No such file"),
    ],
)
def test_a_line_that_is_no_prompt_is_named_before_anything_is_drawn(texts, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, OSError), match=message):
        generate_samples(GenerateOptions(model=texts, out=str(tmp_path / "out"), prompts=str(tmp_path / name)))
    assert not (tmp_path / "out").exists()


def test_one_way_to_give_prompts_at_a_time():
    with pytest.raises(ValueError, match="--prompt and --prompts both say"):
        GenerateOptions(model="m", out="o", prompt="a", prompts="b.txt")
    with pytest.raises(FileNotFoundError, match=r"--prompts nowhere\.txt"):
        read_prompts("nowhere.txt", None)


def test_a_picture_is_scaled_and_cropped_as_the_data_were(captions, tmp_path):
    loaded = load_model(captions)
    assert loaded.preparation == Preparation(image_size=4, crop=True)
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, 4:12] = 224  # white in the middle, where the crop is
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(np.full((4, 4), 224, np.uint8)).save(tmp_path / "white.png")
    told = Told()
    options = {"model": captions, "temperature": 0.0}
    wide = generate_samples(
        GenerateOptions(out=str(tmp_path / "1"), prompt_file=(str(tmp_path / "wide.png"),), **options), told
    )
    assert told.said == [f"{tmp_path / 'wide.png'} is converted from 16x8 pixels to 4x4, as the data of the model had"]
    white, lines = generated(captions, tmp_path / "2", prompt_file=(str(tmp_path / "white.png"),), temperature=0.0)
    assert (wide.texts, lines_of(tmp_path / "1")[0]["ids"]) == (white.texts, lines[0]["ids"])
    # A model folder from before there was a recipe takes them as they are.
    old = tmp_path / "old"
    shutil.copytree(captions, old)
    (old / "recipe.json").unlink()
    assert load_model(old).preparation == Preparation()
    with pytest.raises(ValueError, match="grid of shape 8x16, but the vocabulary knows only 4x4"):
        generate_samples(
            GenerateOptions(model=str(old), out=str(tmp_path / "3"), prompt_file=(str(tmp_path / "wide.png"),))
        )


def test_a_prompt_has_the_ids_that_encode_gives_its_file(tmp_path, make_picture):
    from tokenize_kit.shards import ShardSet

    assert main(["create", "pixels", "--out", str(tmp_path / "pixels"), "--quiet"]) == 0
    (tmp_path / "data").mkdir()
    pixels = make_picture(3, 30, 44).permute(1, 2, 0).numpy()
    for name in ("a", "b", "c"):
        Image.fromarray(pixels).save(tmp_path / "data" / f"{name}.png")
    for number, words in enumerate((["--pad"], ["--crop"], ["--no-crop"])):
        out = tmp_path / f"shards{number}"
        line = ["encode", "--tokenizer", str(tmp_path / "pixels"), "--data", str(tmp_path / "data"), "--out", str(out)]
        assert main([*line, "--image-size", "6", *words, "--quiet"]) == 0
        prepared = Preparation.of_options(ShardSet.open(out).manifest.options)
        assert Preparation.of_options(json.loads(json.dumps(prepared.to_dict()))) == prepared
        tokenizer = load_tokenizer(tmp_path / "pixels")
        path = tmp_path / "data" / "b.png"
        sample, _ = prepared.read(path.name, path.read_bytes(), tokenizer.spec)
        stored = ShardSet.open(out).record(1).grids["image"]
        assert tokenizer.encode(sample).tolist() == stored.tolist()


def test_names_and_prompts_that_are_no_utf8(captions, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Image.fromarray(np.full((4, 4), 224, np.uint8)).save(path)
    _, (line,) = generated(captions, tmp_path / "out", prompt_file=(path,))
    assert line["prompt"] == {"image": f"{tmp_path}/\\udcff.png"}
    with pytest.raises(ValueError, match=r"--prompt is not UTF-8: it has '\\udcff' at character 1"):
        GenerateOptions(model="m", out="o", prompt="a\udcff")


def test_shard_sets_that_were_prepared_otherwise_leave_prompts_as_they_are(tmp_path):
    first, second = Preparation(32, crop=False, allow_special=("<|a|>",)), Preparation(64, crop=False)
    assert Preparation.common([first, second]) == Preparation()
    assert Preparation.common([Preparation(32, pad=True), Preparation(32)]) == Preparation()
    assert Preparation.common([Preparation(32, pad=True), Preparation(32, pad=True, codebooks=2)]) == Preparation(
        32, pad=True
    )
    assert Preparation.common([first, first]) == first
    assert Preparation.of_options(json.loads(json.dumps(first.to_dict()))) == first
    assert Preparation().to_dict() == {}
    for damaged in ({"image_size": "32"}, {"pad": 1}, {"allow_special": [3]}):
        with pytest.raises(ValueError, match="damaged"):
            Preparation.of_options(damaged)


def test_sounds_are_brought_to_the_codebooks_and_the_rate_of_the_data(tmp_path):
    codec = ToyCodec()
    sounds = [torch.sin(torch.arange(64) * (0.05 + 0.01 * i))[None] for i in range(12)]
    grids = {"audio": [codec.encode(sound).numpy()[:, :2] for sound in sounds]}
    options = {"codebooks": 2, "image_size": None}
    shards = write_streams(tmp_path / "shards", {"audio": codec}, grids, options, {"audio": [(64,)] * 12})
    model = trained(tmp_path / "model", shards, "audio:delay")
    assert load_model(model).preparation == Preparation(codebooks=2)
    wave = np.sin(np.arange(80) * 0.03) / 2
    soundfile.write(tmp_path / "begin.wav", np.stack([wave, wave], 1), 16_000)
    told = Told()
    options = GenerateOptions(model=model, out=str(tmp_path / "out"), prompt_file=(str(tmp_path / "begin.wav"),))
    (file,) = generate_samples(options, told).files
    assert told.said == [f"{tmp_path / 'begin.wav'} is converted from 16000 Hz stereo to 8000 Hz mono"]
    prompt = codec.encode(read_audio((tmp_path / "begin.wav").read_bytes(), 8000, 1).samples)[:, :2]
    (line,) = lines_of(tmp_path / "out")
    loaded = load_model(model)
    drawn = loaded.template.parse_ids(line["ids"], loaded.vocabulary)["audio"]
    assert drawn[: len(prompt)].tolist() == prompt.tolist()
    assert soundfile.info(file).samplerate == 8000


def test_a_run_that_goes_on_says_how_far_it_is(texts, tmp_path, monkeypatch):
    from trainers.autoregressive.task import SequenceTask

    whole = SequenceTask.batch

    def batch(self, index):
        if index == 3:
            raise KeyboardInterrupt
        return whole(self, index)

    monkeypatch.setattr(SequenceTask, "batch", batch)
    model, shards = str(tmp_path / "model"), str(Path(texts).parent / "shards")
    with pytest.raises(KeyboardInterrupt):
        trained(model, shards, "text", context=48)
    assert load_model(model).step == 2
    assert (
        load_model(model).note
        == f"the training in {model} is not finished (step 2 of 4); these are its weights of step 2"
    )
    told = Told()
    generate_samples(GenerateOptions(model=model, out=str(tmp_path / "out")), told)
    assert told.said == [load_model(model).note]


@pytest.mark.parametrize("ema", [None, 0.5])
def test_generate_opens_a_checkpoint_and_a_run_that_goes_on(texts, tmp_path, ema):
    shards = str(Path(texts).parent / "shards")
    model = trained(tmp_path / "model", shards, "text", context=48, ema=ema, keep="last")
    best = load_model(model)
    assert (best.step, best.note) == (4, "")
    checkpoint = last_checkpoint(Path(model) / "checkpoints")
    opened = load_model(checkpoint)
    assert opened.step == 4
    assert "step 4 of 4, from " in opened.note
    for name, value in best.model.state_dict().items():
        assert torch.equal(value, opened.model.state_dict()[name])
    drawn = [draw(loaded, [{}] * 3, SamplingOptions(seed=1)) for loaded in (best, opened)]
    assert [sample.ids for sample in drawn[0]] == [sample.ids for sample in drawn[1]]
    # Before the first validation there is nothing but the checkpoint.
    (Path(model) / "model.safetensors").unlink()
    _, lines = generated(model, tmp_path / "out", count=3, seed=1)
    assert [line["ids"] for line in lines] == [sample.ids for sample in drawn[0]]
    assert main(["generate", "--model", str(checkpoint), "--out", str(tmp_path / "cli"), "--quiet"]) == 0
    # Damage is seen, and a checkpoint of something else is none.
    path = next(checkpoint.glob("*model.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="was changed after it was saved"):
        load_model(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "lonely" / "a" / "step")
    with pytest.raises(ValueError, match="not inside a model folder"):
        load_model(tmp_path / "lonely" / "a" / "step")
