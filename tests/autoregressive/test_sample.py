import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from toys.world import LETTERS, MeanConfig, MeanModel, picture_samples, text_samples, write_shards

from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models.transformer import Transformer
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.sample import draw, generate_samples, prompt_grids
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SHADES = ("black", "dark", "light", "white")


def trained(folder, samples, template, **changes):
    values = {
        "shards": (write_shards(folder / "shards", samples),),
        "template": template,
        "out": str(folder / "model"),
        "model": TransformerOverrides(layers=2, width=32, heads=2),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=10),
        "steps": 60,
        "batch_size": 16,
        "device": "cpu",
    }
    train_transformer(TrainTransformerOptions(**{**values, **changes}))
    return str(folder / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    samples = picture_samples(120, shapes=((3, 4), (2, 2)))
    return trained(tmp_path_factory.mktemp("pictures"), samples, "text -> image")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("texts"), text_samples(80), "text", context=48, steps=40)


def lines_of(out):
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def test_pictures_follow_their_caption_and_have_a_shape_of_the_data(pictures, tmp_path):
    for shade, name in enumerate(SHADES):
        out = tmp_path / name
        result = generate_samples(GenerateOptions(model=pictures, out=str(out), count=8, prompt=name, seed=3))
        shown = [np.array(Image.open(file)) for file in result.files]
        assert {picture.shape for picture in shown} <= {(3, 4), (2, 2)}
        pixels = np.concatenate([picture.reshape(-1) for picture in shown]) // 64
        assert (pixels == shade).mean() > 0.6
        loaded = load_model(pictures)
        for index, line in enumerate(lines_of(out)):
            assert (line["index"], line["seed"], line["prompt"]) == (index, 3, name)
            grids = loaded.template.parse_ids(line["ids"], loaded.vocabulary)
            assert loaded.tokenizers["text"].decode(torch.from_numpy(grids["text"])) == name
            assert np.array_equal(grids["image"], shown[index] // 64)
            assert str(out / line["files"]["image"]) == result.files[index]
        assert result.tokens == sum(len(line["ids"]) for line in lines_of(out)) - 8 * (len(name) + 3)


def test_texts_continue_the_prompt_and_fit_the_context(texts, tmp_path):
    result = generate_samples(
        GenerateOptions(model=texts, out=str(tmp_path), overwrite=True, count=6, prompt="red app", seed=1)
    )
    assert all(text.startswith("red app") for text in result.texts)
    assert [open(file).read() for file in result.files] == list(result.texts)  # noqa: PTH123, SIM115
    assert all(len(line["ids"]) <= 48 for line in lines_of(tmp_path))
    free = generate_samples(GenerateOptions(model=texts, out=str(tmp_path), overwrite=True, count=3))
    assert len(free.texts) == 3
    assert set("".join(free.texts)) <= set(LETTERS)
    short = generate_samples(
        GenerateOptions(model=texts, out=str(tmp_path), overwrite=True, count=5, max_length=9, temperature=3)
    )
    assert all(len(line["ids"]) <= 9 for line in lines_of(tmp_path))
    assert max(map(len, short.texts)) == 5


def test_samples_depend_on_seed_and_number_alone(texts, tmp_path):
    def drawn(**changes):
        options = {"model": texts, "out": str(tmp_path), "overwrite": True, "count": 6, "prompt": "blue"} | changes
        return generate_samples(GenerateOptions(**options)).texts

    first = drawn(seed=4)
    assert drawn(seed=4) == first
    assert drawn(seed=4, batch_size=2) == first
    assert drawn(seed=4, count=3) == first[:3]
    assert drawn(seed=5) != first
    assert len(set(drawn(temperature=0.0))) == 1


def test_bfloat16_samples_in_bfloat16(texts, tmp_path, monkeypatch):
    kinds = set()
    step = Transformer.step

    def watched(self, *arguments, **more):
        logits = step(self, *arguments, **more)
        kinds.add(logits.dtype)
        return logits

    monkeypatch.setattr(Transformer, "step", watched)
    # The words of the other commands, and those that this one had before: the same samples, in which a run goes on.
    for now, before, kind in (("32-true", "float32", torch.float32), ("bf16-mixed", "bfloat16", torch.bfloat16)):
        results = []
        for precision in (now, before):
            options = GenerateOptions(model=texts, out=str(tmp_path / now), count=2, precision=precision)
            results.append(generate_samples(options))
            assert kinds == {kind}
            kinds.clear()
        assert len(results[0].texts) == 2
        assert results[0].texts == results[1].texts
        line, *shown = results[0].to_text().split("\n\n")
        assert line.startswith(f"2 samples in {tmp_path / now}, ")
        assert shown == list(results[0].texts)


def test_untrained_models_decode_too(pictures, tmp_path):
    # Whatever the weights say, what is sampled is whole: a model that was trained on nothing has no habits to rely on.
    loaded = load_model(pictures)
    config = MeanConfig(loaded.vocabulary.size, loaded.model.config.context)
    wild = MeanModel(config)
    torch.nn.init.normal_(wild.out.weight, std=5.0)
    loaded = type(loaded)(wild, loaded.template, loaded.vocabulary, loaded.tokenizers, 0, {})
    prompts = [prompt_grids(loaded, word) for word in ("dark", "a", "", "light") * 4]
    for number, result in enumerate(draw(loaded, prompts, SamplingOptions(seed=2))):
        assert result.samples["image"].shape in {(1, 3, 4), (1, 2, 2)}
        grids = loaded.template.parse_ids(result.ids, loaded.vocabulary)
        assert np.array_equal(grids["text"], prompts[number]["text"])


def test_the_condition_may_come_from_files_and_be_a_picture(tmp_path):
    model = trained(tmp_path, picture_samples(80), "image -> text", steps=60)
    Image.fromarray(np.full((3, 4), 224, np.uint8)).save(tmp_path / "white.png")
    options = GenerateOptions(
        model=model, out=str(tmp_path / "out"), prompt_file=(str(tmp_path / "white.png"),), temperature=0
    )
    assert generate_samples(options).texts == ("white",)
    with pytest.raises(ValueError, match="needs the condition 'image'; give it with --prompt-file"):
        generate_samples(GenerateOptions(model=model, out=str(tmp_path / "out"), overwrite=True))
    with pytest.raises(ValueError, match="modality 'image'; use --prompt-file"):
        generate_samples(GenerateOptions(model=model, out=str(tmp_path / "out"), overwrite=True, prompt="white"))


def test_several_predicted_streams_give_several_files(tmp_path):
    model = trained(tmp_path, picture_samples(40), "text image", steps=5)
    result = generate_samples(GenerateOptions(model=model, out=str(tmp_path / "out"), count=2))
    assert len(result.files) == 4
    assert lines_of(tmp_path / "out")[1]["files"] == {
        "text": "sample_00001.text.txt",
        "image": "sample_00001.image.png",
    }
    given = generate_samples(
        GenerateOptions(model=model, out=str(tmp_path / "out"), overwrite=True, prompt="white", max_length=22)
    )
    assert given.texts[0].startswith("white")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "needs the condition 'text'; give it with --prompt TEXT"),
        ({"prompt": "dark" * 20}, "leaves no room"),
        ({"prompt": "dark", "max_length": 1000}, "between 1 and the model's context"),
        ({"prompt": "dark", "max_length": 3}, "shortest document"),
        ({"prompt_file": ("a", "b", "c")}, "3 prompt files"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(pictures, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        generate_samples(GenerateOptions(model=pictures, out=str(tmp_path), **changes))


def test_wrong_generate_options_are_refused():
    for changes, message in [
        ({"count": 0}, "--count 0"),
        ({"prompt": "a", "prompt_file": ("b",)}, "give one of them"),
        ({"temperature": -1.0}, "temperature"),
    ]:
        with pytest.raises(ValueError, match=message):
            GenerateOptions(model="m", out="o", **changes)


def test_a_model_folder_needs_nothing_else_and_damage_is_refused(pictures, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(pictures, folder)
    for name in ("checkpoints", "tensorboard", "run.json", "train_log.jsonl"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    options = GenerateOptions(model=str(folder), out=str(tmp_path / "out"), prompt="dark")
    assert generate_samples(options).count == 1

    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    for changed, message in [
        ({key: value for key, value in tensors.items() if key != name}, "lacks the tensor"),
        (tensors | {"extra": torch.zeros(1)}, "unknown tensor 'extra'"),
        (tensors | {name: torch.zeros(3)}, "the model has"),
        (tensors, "metadata lacks"),
    ]:
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_model(folder)
    (folder / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ValueError, match="damaged"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has not reached the first validation"):
        load_model(folder)
    shutil.rmtree(folder / "tokenizers" / "text")
    with pytest.raises(FileNotFoundError, match="no tokenizer folder"):
        load_model(folder)
    (folder / "model_config.json").unlink()
    with pytest.raises(ValueError, match=r"no model_config\.json"):
        load_model(folder)
    with pytest.raises(FileNotFoundError, match="no model folder"):
        load_model(tmp_path / "nowhere")


def test_a_swapped_tokenizer_is_refused(pictures, tmp_path):
    from toys.world import Letters

    folder = tmp_path / "swapped"
    shutil.copytree(pictures, folder)
    shutil.rmtree(folder / "tokenizers" / "text")
    Letters(salt=9).save(folder / "tokenizers" / "text")
    with pytest.raises(ValueError, match="not the tokenizer that the model was trained with"):
        load_model(folder)
