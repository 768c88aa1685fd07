"""Trainings on several templates and shard sets: the loss, resume, validation, the folder, generation."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_mixture import opened
from test_train import assert_same_run, log_without_timing, options_for, train_until, weights
from toys.progress import Told
from toys.world import Letters, Shades, picture_samples, write_shards, write_streams

from tokenize_kit.cli import main
from tokenize_kit.files import read_signed, signed, write_json
from tokenize_kit.sources.heldout import held_out
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.likelihood import bits_per, score
from trainers.autoregressive.mixture import MixedData, mixed_dataset
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.losses import token_loss
from trainers.autoregressive.options import GenerateOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples, prompt_grids
from trainers.autoregressive.task import LossOf, token_weights_of
from trainers.autoregressive.train import train_transformer
from trainers.logs import read_log

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent
BOTH = ("text -> image", "image -> text", "text")
CONTEXT = 40
PLAIN = TransformerOverrides(layers=1, width=16, heads=2)


# The loss.


def test_the_loss_weighs_the_tokens_of_each_stream(pictures):
    data = MixedData.open([pictures], ("text image", "image -> text"))
    halves = data.split(0.1, 10**9)
    dataset = mixed_dataset(data, data.sources([one for one, _ in halves], ()), 24, 6)
    token_weights = token_weights_of(["image=0.25", "text=3"], data.templates, data.vocabulary)
    torch.manual_seed(0)
    model = build_model("mean", {"vocab_size": data.vocabulary.size, "context": 24})
    batch = dataset.batch(0)
    slow = [0.0, 0.0]
    logits = model(batch.ids, positions=batch.positions, documents=batch.documents)
    image = data.vocabulary.stream("image")
    own = {
        image.begin,
        *range(image.first_shape, image.first_shape + len(image.shapes)),
        *range(image.offsets[0], image.offsets[0] + 4),
    }
    for row, labels in enumerate(batch.labels.tolist()):
        for place, label in enumerate(labels):
            if label != -100:
                weight = 0.25 if label in own else 3.0
                slow[0] += weight * float(token_loss(logits[row, place], torch.tensor(label)).nll)
                slow[1] += weight
    network = LossOf(model, 0.0, token_weights)
    total, nll = network(batch)
    assert float(total.detach()) == pytest.approx(slow[0], rel=1e-5)
    assert float(nll) == pytest.approx(slow[0], rel=1e-5)
    from trainers.autoregressive.task import SequenceTask, Validation
    from trainers.config import OptimizerConfig

    tokenizers = {"text": Letters(), "image": Shades()}
    validation = Validation(data.parts[0].documents, halves[0][1], 24, 4, tokenizers)
    task = SequenceTask(model, dataset, validation, OptimizerConfig(), 4, 0.0, Path("unused"), token_weights)
    assert task.weight(batch) == slow[1]
    assert task.size(batch) == batch.weight == int((batch.labels != -100).sum())
    # Validation counts every token as one.
    plain = float(model.loss(batch.inputs, batch.labels, (batch.labels != -100).float()).nll)
    assert float(network(batch, batch.labels != -100)[1]) == pytest.approx(plain)
    assert "token_weights" not in network.state_dict()


def test_a_stream_of_weight_nothing_teaches_nothing(pictures):
    data = MixedData.open([pictures], ("text image",))
    halves = data.split(0.1, 10**9)
    batch = mixed_dataset(data, data.sources([halves[0][0]], ()), 24, 6).batch(0)
    torch.manual_seed(0)
    model = build_model("mean", {"vocab_size": data.vocabulary.size, "context": 24})
    LossOf(model, 0.0, token_weights_of(["image=0"], data.templates, data.vocabulary))(batch)[0].backward()
    text = model.out.weight.grad.clone()
    model.zero_grad()
    only = (batch.labels != -100) & (batch.labels < data.vocabulary.offset("image"))
    image = data.vocabulary.stream("image")
    only &= ~((batch.labels >= image.first_shape) & (batch.labels < image.first_shape + len(image.shapes)))
    model.loss(batch.inputs, batch.labels, only.float()).total.backward()
    assert only.any()
    torch.testing.assert_close(text, model.out.weight.grad)


@pytest.mark.parametrize("loss_weights", [("image=0.3", "text=0.07"), ("image=0.0001", "text=0.0003")])
def test_accumulation_with_loss_weights_equals_one_large_batch(pictures, texts, tmp_path, loss_weights):
    common = {"template": BOTH, "shards": (pictures, texts), "context": CONTEXT, "steps": 6, "model": PLAIN}
    common |= {"loss_weights": loss_weights, "precision": "32-true", "z_loss": 1e-3}
    train_transformer(options_for(None, tmp_path / "one", batch_size=6, **common))
    train_transformer(options_for(None, tmp_path / "three", batch_size=2, accumulate=3, **common))
    for one, other in zip(log_without_timing(tmp_path / "one"), log_without_timing(tmp_path / "three"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    one, other = weights(tmp_path / "one")["last"], weights(tmp_path / "three")["last"]
    assert all(torch.allclose(one[key], other[key], atol=2e-5) for key in one)
    assert log_without_timing(tmp_path / "one")[0]["bits_per_token"] > 3  # a mean, whatever the weights are worth


def test_weights_that_say_nothing_change_nothing(pictures, tmp_path):
    common = {"template": "text -> image", "context": CONTEXT, "steps": 4}
    train_transformer(options_for(pictures, tmp_path / "plain", **common))
    train_transformer(options_for(pictures, tmp_path / "ones", loss_weights=("image=1",), **common))
    said = {"template_weights": (3,), "mix": (0.5,)}
    train_transformer(options_for(pictures, tmp_path / "said", **said, **common))
    assert_same_run(tmp_path / "plain", tmp_path / "ones")
    assert_same_run(tmp_path / "plain", tmp_path / "said")
    runs = [read_signed(tmp_path / name / "run.json") for name in ("plain", "ones", "said")]
    assert runs[0] == runs[2]
    assert runs[0]["template"] == "text -> image"
    assert not {"template_weights", "mix", "loss_weights"} & set(runs[0])
    assert runs[1]["loss_weights"] == ["image=1"]
    config = read_signed(tmp_path / "plain" / "model_config.json")
    assert config["template"] == "text -> image"
    assert "templates" not in config


# Whole runs.


def run_options(pictures, more_pictures, texts, out, **changes):
    values = {
        "shards": (pictures, more_pictures, texts),
        "template": BOTH,
        "template_weights": (2, 1, 1.5),
        "mix": (1, 2, 2.2),
        "loss_weights": ("image=0.3",),
        "context": CONTEXT,
    }
    return options_for(None, out, **{**values, **changes})


def test_a_killed_run_gives_the_bits_of_an_unbroken_one(pictures, more_pictures, texts, tmp_path, monkeypatch):
    options = run_options(pictures, more_pictures, texts, tmp_path / "whole", accumulate=2)
    result = train_transformer(options)
    assert 0.5 < result.epochs < 1
    data, sources, _ = opened(options.shards, BOTH, options.mix, 0.15)
    dataset = mixed_dataset(data, sources, CONTEXT, 2, template_weights=options.template_weights, mix=options.mix)
    read = 24 * 2 * 2 * dataset.interleaving.counts / dataset.interleaving.period
    assert max(read / [one.rows_per_epoch for one in dataset.sources]) > 2  # the smallest source is in its third epoch
    for step in (7, 23):
        again = dataclasses.replace(options, out=str(tmp_path / f"killed{step}"))
        train_until(again, step, monkeypatch)
        assert train_transformer(again).resumed_from == step // 5 * 5
        assert_same_run(options.out, again.out)
    for changes, message in [
        ({"template_weights": (1, 1, 1)}, r"template_weights was \[2.0, 1.0, 1.5\], now|template_weights"),
        ({"mix": ()}, "mix was"),
        ({"loss_weights": ()}, "loss_weights was"),
        ({"template": BOTH[::-1]}, "template was"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_transformer(dataclasses.replace(options, **changes))


def test_two_processes_give_the_losses_of_one(pictures, more_pictures, texts, tmp_path):
    changes = {"steps": 6, "accumulate": 2, "precision": "32-true", "model": PLAIN}
    train_transformer(run_options(pictures, more_pictures, texts, tmp_path / "one", batch_size=4, **changes))
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]\n"
        "import test_mixed_trainings, torch\nfrom trainers.autoregressive.options import TransformerOverrides\n"
        "from trainers.autoregressive.train import train_transformer\n"
        "torch.set_num_threads(1)\n"
        f"sets, out = {[pictures, more_pictures, texts]}, {str(tmp_path / 'two')!r}\n"
        f"options = test_mixed_trainings.run_options(*sets, out, batch_size=2, devices=2, **{changes})\n"
        "train_transformer(options)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for one, other in zip(log_without_timing(tmp_path / "one"), log_without_timing(tmp_path / "two"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    one, other = weights(tmp_path / "one")["last"], weights(tmp_path / "two")["last"]
    assert all(torch.allclose(one[key], other[key], atol=2e-5) for key in one)


@pytest.fixture(scope="module")
def trained(pictures, texts, tmp_path_factory):
    """A folder with several templates, its result, and what was told."""
    out = tmp_path_factory.mktemp("mixture") / "model"
    told = Told()
    templates = ("text image", "image -> text", "text")
    changes = {"steps": 8, "model": PLAIN, "precision": "32-true", "validation_tokens": 10**6}
    options = options_for(None, out, shards=(pictures, texts), template=templates, context=CONTEXT, **changes)
    return str(out), train_transformer(options, told), told


def slow_score(model, ids, before, cut):
    """The log-probability of each token of a document that comes after so many places of the line; and the places up to its end.

    Where documents are cut, each piece of the line that is in one row is by itself.
    """
    found = []
    begin = 0
    while begin < len(ids) - 1:
        room = CONTEXT - (before + begin) % CONTEXT if cut else len(ids)
        end = min(len(ids) - 1, begin + room)
        found += score(model, [ids[begin : end + 1]])[0].tolist()
        begin = end
    return found, before + len(ids) - 1


def test_validation_is_of_each_template_and_stream(trained, pictures, texts):
    folder, result, told = trained
    loaded = load_model(folder)
    sets = ([pictures], [pictures], [pictures, texts])
    nats, counts, expected = {}, Counter(), {}
    for template, shards in zip(loaded.templates, sets, strict=True):
        data = TokenData.open(shards, str(template), loaded.vocabulary)
        units = Counter()
        of_stream, tokens_of, before = Counter(), Counter(), 0
        for document in (number for number, key in enumerate(data.keys) if held_out(key, 0.15)):
            grids = data.documents.grids(document)
            laid = template.document(grids, loaded.vocabulary)
            nll, before = slow_score(loaded.model, laid.ids.tolist(), before, data.documents.is_stream)
            streams = list(loaded.vocabulary.streams)
            for place in np.flatnonzero(laid.loss_mask):
                assert laid.streams[place] >= 0
                name = streams[laid.streams[place]]
                of_stream[name] -= nll[place - 1]
                tokens_of[name] += 1
            for name in template.target:
                units[name] += grids[name].size
        name = str(template)
        nats[name], counts[name] = sum(of_stream.values()), sum(tokens_of.values())
        expected[f"{name}/bits_per_token"] = bits_per(nats[name], counts[name])
        if len(of_stream) > 1:
            expected |= {f"{name}/{one}/bits_per_token": bits_per(of_stream[one], tokens_of[one]) for one in of_stream}
        rate = {"text": "bits_per_byte", "image": "bits_per_dimension_quantised"}
        expected |= {f"{name}/{one}/{rate[one]}": bits_per(of_stream[one], units[one]) for one in of_stream}
    expected["bits_per_token"] = bits_per(sum(nats.values()), sum(counts.values()))
    expected["loss"] = sum(nats.values()) / sum(counts.values())
    assert result.metrics == pytest.approx(expected, rel=1e-4)
    assert list(result.metrics)[:2] == ["bits_per_token", "loss"]  # the first picks the best weights
    lines = [line for line in log_without_timing(folder) if "validation/loss" in line]
    assert {name.removeprefix("validation/") for name in lines[-1] if name.startswith("validation/")} == set(expected)
    shares = [line for line in told.said if "% of the rows" in line]
    assert [line.split(":")[0] for line in shares] == ["'text image'", "'image -> text'", "'text'"]
    assert result.documents + result.validation_documents == 60 + 60 + 110


def test_a_validation_says_in_a_line_what_each_template_has_and_progress_the_whole(trained):
    _, result, told = trained
    templates = ("text image", "image -> text", "text")
    rates = ", ".join(f"'{name}' {result.metrics[f'{name}/bits_per_token']:.3f}" for name in templates)
    assert f"step {result.best_step}: held out, bits a token: {rates}" in told.said
    assert {name for name in told.shown if name.startswith("validation/")} == {"validation/bits_per_token"}


def test_the_folder_knows_all_templates(trained, capsys):
    folder = trained[0]
    config = read_signed(Path(folder) / "model_config.json")
    assert config["templates"] == ["text image", "image -> text", "text"]
    assert "template" not in config
    loaded = load_model(folder)
    assert str(loaded.template) == "text image"
    assert list(map(str, loaded.templates)) == config["templates"]
    assert set(loaded.tokenizers) == {"text", "image"}
    assert str(loaded.using("image->text").template) == "image -> text"
    assert loaded.using(None) is loaded
    assert str(loaded.using("text").using("text image").template) == "text image"
    with pytest.raises(ValueError, match=r"not trained on the template 'text -> image'.*did you mean 'text image'"):
        loaded.using("text -> image")
    assert main(["verify", folder]) == 0
    assert "text image, image -> text, text" in capsys.readouterr().out
    assert main(["inspect", folder]) == 0
    assert "templates: text image, image -> text, text" in capsys.readouterr().out


def test_generate_follows_the_template_that_is_asked_for(trained, tmp_path, capsys):
    folder = trained[0]
    Image.fromarray(np.full((3, 4), 200, np.uint8)).save(tmp_path / "picture.png")

    def drawn(name, *words):
        code = main(["generate", "--model", folder, "--out", str(tmp_path / name), "--quiet", "--json", *words])
        captured = capsys.readouterr()
        if code:
            return captured.err
        (line,) = map(json.loads, (tmp_path / name / "samples.jsonl").read_text().splitlines())
        return line

    loaded = load_model(folder)
    first = drawn("first")
    assert set(first["files"]) == {"text", "image"}
    assert set(loaded.template.parse_ids(first["ids"], loaded.vocabulary)) == {"text", "image"}
    caption = drawn("caption", "--template", "image -> text", "--prompt-file", str(tmp_path / "picture.png"))
    assert set(caption["files"]) == {"text"}
    grids = loaded.using("image -> text").template.parse_ids(caption["ids"], loaded.vocabulary)
    assert grids["image"].tolist() == [[3] * 4] * 3
    text = drawn("text", "--template", "text", "--prompt", "red")
    assert text["text"].startswith("red")
    bare = drawn("bare", "--template", "image -> text")
    assert (
        "needs the condition 'image'; give it with --prompt-file FILE, or take another template with --template" in bare
    )
    wrong = drawn("wrong", "--template", "image -> text", "--prompt", "red")
    assert "use --prompt-file, or take another template with --template ('text image', 'text')" in " ".join(
        wrong.split()
    )
    assert "did you mean 'image -> text'" in drawn("unknown", "--template", "image -> texts")
    assert json.loads((tmp_path / "first" / "generate.json").read_text()).get("template") is None
    assert json.loads((tmp_path / "text" / "generate.json").read_text())["template"] == "text"


def test_prompts_of_each_stream_are_prepared_as_its_own_sets_were(texts, tmp_path):
    grids = {"text": [np.array([1, 2], np.uint8)] * 12, "image": [np.zeros((2, 2), np.uint8)] * 12}
    small = write_streams(
        tmp_path / "small", {"text": Letters(), "image": Shades()}, grids, options={"image_size": 2, "crop": True}
    )
    options = options_for(None, tmp_path / "m", shards=(small, texts), template=BOTH, context=CONTEXT, steps=2)
    train_transformer(options)
    recipe = read_signed(tmp_path / "m" / "recipe.json")
    assert recipe["streams"] == {"image": {"image_size": 2}}
    loaded = load_model(tmp_path / "m")
    assert loaded.prepared("image").image_size == 2
    assert loaded.prepared("text").image_size is None
    Image.fromarray(np.full((8, 8), 224, np.uint8)).save(tmp_path / "large.png")
    found = prompt_grids(loaded.using("image -> text"), files=(str(tmp_path / "large.png"),))
    assert found["image"].tolist() == [[3, 3], [3, 3]]
    recipe["streams"] = 3
    write_json(tmp_path / "m" / "recipe.json", signed({k: v for k, v in recipe.items() if k != "own_digest"}))
    with pytest.raises(ValueError, match=r"recipe\.json"):
        load_model(tmp_path / "m")


def test_a_model_learns_both_directions(tmp_path):
    shards = write_shards(tmp_path / "shards", picture_samples(80))
    from trainers.config import OptimizerConfig

    changes = {
        "model": TransformerOverrides(layers=2, width=32, heads=2),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=10),
        "steps": 80,
        "batch_size": 8,
        "precision": "32-true",
    }
    options = options_for(shards, tmp_path / "m", template=BOTH[:2], context=CONTEXT, **changes)
    train_transformer(options)
    picture = {}
    for number, word in enumerate(("black", "dark", "light", "white")):
        out = str(tmp_path / word)
        ask = {"model": options.out, "out": out, "temperature": 0.0, "device": "cpu"}
        drawn = generate_samples(GenerateOptions(prompt=word, **ask))
        picture[word] = np.asarray(Image.open(drawn.files[0]))
        assert np.median(picture[word] // 64) == number
        named = GenerateOptions(
            template="image -> text", prompt_file=(drawn.files[0],), **(ask | {"out": f"{out}-named"})
        )
        assert generate_samples(named).texts == (word,)


def test_options_come_from_a_file_and_from_words(pictures, texts, tmp_path, capsys):
    common = f"shards: [{pictures}, {texts}]\nsteps: 1\nbatch_size: 2\ncontext: {CONTEXT}\ndevice: cpu\n"
    common += "model: {layers: 1, width: 16, heads: 2}\n"
    said = {
        "one": "template: text\n",
        "two": "template: ['text -> image', text]\ntemplate_weights: [2, 1]\nmix: [3, 1]\nloss_weights: [image=0.5]\n",
    }
    for name, text in said.items():
        (tmp_path / f"{name}.yaml").write_text(common + text)
        words = ["train", "transformer", "--config", str(tmp_path / f"{name}.yaml"), "--quiet", "--out"]
        assert main([*words, str(tmp_path / name)]) == 0, capsys.readouterr().err
    words = [
        "train",
        "transformer",
        "--shards",
        pictures,
        "--shards",
        texts,
        "--template",
        "text -> image",
        "--template",
        "text",
    ]
    words += [
        "--template-weights",
        "2",
        "1",
        "--mix",
        "3",
        "1",
        "--loss-weights",
        "image=0.5",
        "--steps",
        "1",
        "--batch-size",
        "2",
    ]
    words += [
        "--context",
        str(CONTEXT),
        "--model.layers",
        "1",
        "--model.width",
        "16",
        "--model.heads",
        "2",
        "--device",
        "cpu",
    ]
    assert main([*words, "--quiet", "--out", str(tmp_path / "words")]) == 0, capsys.readouterr().err
    runs = {name: read_signed(tmp_path / name / "run.json") for name in ("one", "two", "words")}
    assert runs["one"]["template"] == "text"
    assert runs["two"] == runs["words"]
    assert runs["two"]["template"] == ["text -> image", "text"]


def test_nothing_held_out_is_measured_nowhere_and_the_last_weights_are_kept(pictures, texts, tmp_path):
    told = Told()
    changes = {
        "template": BOTH,
        "shards": (pictures, texts),
        "context": CONTEXT,
        "steps": 3,
        "validation_fraction": 0.0,
    }
    result = train_transformer(options_for(None, tmp_path / "m", **changes), told)
    assert result.metrics == {}
    assert result.best_step == 3
    assert load_model(tmp_path / "m").step == 3
    assert not any("is not measured" in text for text in told.said)


def test_a_template_of_which_nothing_is_held_out_is_not_measured(pictures, texts, tmp_path):
    (tmp_path / "keys.txt").write_text("sample-45\nsample-47\n")
    few = write_shards(tmp_path / "few", picture_samples(20))  # sample-45 is none of them
    told = Told()
    changes = {"template": ("image", "text"), "shards": (few, texts), "context": CONTEXT, "steps": 2}
    changes |= {"validation_keys": str(tmp_path / "keys.txt"), "validation_fraction": 0.05}
    result = train_transformer(options_for(None, tmp_path / "m", **changes), told)
    assert set(result.metrics) == {"bits_per_token", "loss", "text/bits_per_token", "text/text/bits_per_byte"}
    assert "'image': none of its 20 documents falls into the validation part; it is not measured" in told.said


def test_an_encoder_decoder_learns_templates_without_a_condition_too(pictures, texts, tmp_path):
    changes = {"form": "encoder-decoder", "steps": 2, "template": ("text -> image", "text")}
    train_transformer(options_for(None, tmp_path / "both", shards=(pictures, texts), **changes))
    names = {name for line in read_log(tmp_path / "both" / "train_log.jsonl") for name in line}
    assert {"validation/text -> image/bits_per_token", "validation/text/bits_per_token"} <= names
