"""Linear probes of hidden states and fine-tuning: what layers tell of a label that the tokens have or have not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from toys.world import LETTERS, Letters, Shades

from tokenize_kit.cli.main import main
from tokenize_kit.files import write_json
from tokenize_kit.shards import Manifest, ShardSet, StreamInfo, dtype_for, open_shard
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.model_folder import ModelConfigFile, load_model, write_model_folder, write_weights
from trainers.autoregressive.models import LayeredModel, build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.objectives import objective_named
from trainers.autoregressive.probing.finetuning import Classifier, finetune
from trainers.autoregressive.probing.hidden_states import SampleReader, states_of
from trainers.autoregressive.probing.linear import fit_probe
from trainers.autoregressive.probing.options import ProbeOptions
from trainers.autoregressive.probing.raw_features import raw_features
from trainers.autoregressive.probing.run import probe
from trainers.autoregressive.probing.samples import open_probed

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 240
SIZES = {"vocab_size": 11, "context": 24}


def parity_pictures(rng):
    """Grey pictures 2x4 of two shades: their class is whether the places of shade 1 in the upper row are an odd number."""
    grids = [rng.integers(0, 2, (2, 4)).astype(np.uint8) for _ in range(COUNT)]
    return grids, [int(grid[0].sum()) % 2 for grid in grids]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Texts, pictures, and the columns: shade (told by every token), parity, noise (told by nothing), part (often missing)."""
    rng = np.random.default_rng(0)
    grids, parity = parity_pictures(rng)
    shade = [int(number) for number in rng.integers(0, 3, COUNT)]
    grids = [np.where(grid > 0, one + 1, one).astype(np.uint8) for grid, one in zip(grids, shade, strict=True)]
    texts = ["abc" * int(rng.integers(1, 9)) for _ in range(COUNT)]
    folder = tmp_path_factory.mktemp("probed") / "shards"
    tokenizers = {"text": Letters(), "image": Shades()}
    infos = [
        StreamInfo(n, t.spec, t.fingerprint, dtype_for(t.spec.max_vocab_size), t_name)
        for n, t, t_name in (("text", tokenizers["text"], "letters"), ("image", tokenizers["image"], "shades"))
    ]
    columns = {"shade": "string", "parity": "int64", "noise": "int64", "part": "string", "same": "int64"}
    folder.mkdir()
    letters = [np.array([LETTERS.index(one) for one in text], np.uint8) for text in texts]
    ids = {
        "text": (np.concatenate(letters), np.array([[len(one)] for one in letters], np.int32)),
        "image": (np.concatenate([grid.reshape(-1) for grid in grids]), np.array([[2, 4]] * COUNT, np.int32)),
    }
    values = {
        "shade": [f"shade {one}" for one in shade],
        "parity": parity,
        "noise": [int(one) for one in rng.integers(0, 2, COUNT)],
        "part": ["even" if number % 2 == 0 else None for number in range(COUNT)],
        "same": [1] * COUNT,
    }
    values["part"] = [None if one is None else f"{one} {parity[number]}" for number, one in enumerate(values["part"])]
    with open_shard(folder / "00000.arrow", infos, columns) as writer:
        writer.write([f"sample-{number}" for number in range(COUNT)], ids, values)
    named = {info.name: info for info in infos}
    write_json(folder / "dataset.json", Manifest(named, columns, (writer.entry,), {}, {}, 0).to_dict())
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folder / "tokenizers" / name)
    return str(folder)


def untrained(shards, out, template="image", family="transformer", objective="next-token", **changes):
    """A model folder as a training leaves it, with weights of chance: layers tell something of their tokens all the same."""
    data = TokenData.of_sets([shards], [ShardSet.open(shards)], template)
    extra = objective_named(objective).extra_ids
    config = {"vocab_size": data.documents.vocabulary.size + extra, "context": 24, "width": 32, **changes}
    if family == "transformer":
        config |= {"layers": 2, "heads": 2, "form": "causal" if objective == "next-token" else "bidirectional"}
    torch.manual_seed(0)
    made = build_model(family, config)
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    fingerprints = {name: info.fingerprint for name, info in data.infos.items()}
    told = ModelConfigFile(family, config, data.documents.template, data.documents.vocabulary, fingerprints, objective)
    folders = {name: data.folders[0] / "tokenizers" / name for name in data.infos}
    write_model_folder(out, told, folders)
    write_weights(out, made, 0, {})
    return str(out)


@pytest.fixture(scope="module")
def model(shards, tmp_path_factory):
    return untrained(shards, tmp_path_factory.mktemp("models") / "image")


def options(model, shards, out, label, **changes):
    return ProbeOptions(
        **{"model": model, "shards": (shards,), "label": label, "out": str(out), "validation_fraction": 0.3, **changes}
    )


def opened(model, shards, label="shade", **changes):
    loaded = load_model(model)
    given = {"stream": None, "fraction": 0.3, "listed": None, "limit": None, "seed": 0, **changes}
    return loaded, open_probed(loaded, (shards,), label, **given)


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("transformer", {"layers": 2, "width": 16, "heads": 2}),
        ("transformer", {"layers": 2, "width": 16, "heads": 2, "norm_position": "post", "logit_soft_cap": 3.0}),
        ("transformer", {"layers": 1, "width": 16, "heads": 2, "form": "bidirectional"}),
        ("transformer", {"layers": 2, "width": 16, "heads": 2, "codebooks": "heads", "codebook_slots": 3}),
        ("recurrent", {"layers": 2, "width": 16}),
        ("recurrent", {"layers": 1, "width": 16, "cell": "gru", "coordinates": True}),
        ("wavenet", {"layers": 3, "width": 16, "skip_width": 8, "coordinates": True}),
        ("linear-attention", {"layers": 2, "width": 16, "heads": 2, "coordinates": True}),
        ("state-space", {"layers": 2, "width": 16, "kind": "s4d"}),
    ],
)
def test_the_last_states_through_the_head_are_the_logits(family, values):
    torch.manual_seed(0)
    made = build_model(family, {**SIZES, **values}).eval()
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    ids = torch.randint(0, 11, (3, 13))
    place = torch.arange(13).expand(3, -1)
    steps = torch.stack((place % 3 == 0, place % 3), -1)
    inputs = Inputs(
        ids, documents=torch.zeros_like(ids), positions=place, axial=place[..., None].expand(-1, -1, 3), steps=steps
    )
    assert isinstance(made, LayeredModel)
    states = made.layer_states(inputs)
    assert len(states) >= values["layers"] + 1
    assert all(one.shape == (3, 13, 16) for one in states.values())
    torch.testing.assert_close(made.head(list(states.values())[-1]), made.logits(inputs))


def test_layers_build_on_one_another():
    torch.manual_seed(0)
    made = build_model("transformer", {**SIZES, "layers": 2, "width": 16, "heads": 2}).eval()
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    ids = torch.randint(0, 11, (2, 9))
    states = made.layer_states(Inputs(ids))
    assert list(states) == ["embedding", "block 1", "block 2", "norm"]
    torch.testing.assert_close(states["embedding"], made.embedding.weight[ids])
    cos, sin = (part[:9] for part in made.waves.rotation(ids.device))
    torch.testing.assert_close(states["block 2"], made.blocks[1](states["block 1"], (cos, sin), None))


def test_states_are_the_mean_over_the_places_of_the_sample(model, shards):
    loaded, probed = opened(model, shards)
    chosen = np.array([3, 7, 100])
    found = states_of(loaded.model, SampleReader(loaded.model, probed), chosen, 2)
    for row, sample in enumerate(chosen.tolist()):
        document = loaded.template.document({"image": probed.grid(sample)}, loaded.vocabulary)
        with torch.no_grad():
            states = loaded.model.layer_states(Inputs(torch.from_numpy(document.ids[None, :-1])))
        # <bos> <begin:image>, eight ids; <eos> is never read.
        assert document.ids[:-1].shape == (10,)
        for name, one in states.items():
            np.testing.assert_allclose(found[name][row], one[0, 2:].mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_texts_of_several_lengths_do_not_see_their_padding(shards, tmp_path):
    loaded, probed = opened(untrained(shards, tmp_path / "text", "text", context=16), shards, "parity")
    reader = SampleReader(loaded.model, probed)
    chosen = np.arange(12)
    together, alone = (states_of(loaded.model, reader, chosen, size) for size in (12, 1))
    assert len({int(size) for size in probed.sizes[:12]}) > 3
    for name, states in together.items():
        np.testing.assert_allclose(states, alone[name], rtol=1e-4, atol=1e-5)
    # Of a text that is longer than the context the beginning is read: <bos>, <begin:text> and 14 ids at most.
    assert max(len(probed.grid(sample)) for sample in range(COUNT)) == 14


def test_a_masked_model_is_read_whole_with_nothing_hidden(shards, tmp_path):
    loaded, probed = opened(untrained(shards, tmp_path / "masked", objective="masked"), shards)
    inputs, counted = SampleReader(loaded.model, probed).read(np.arange(5))
    assert int(inputs.ids.max()) < loaded.vocabulary.size
    assert counted.sum(1).tolist() == pytest.approx([1.0] * 5)
    assert inputs.ids.shape == (5, 11)


def test_raw_features_against_a_loop(model, shards):
    _, probed = opened(model, shards)
    chosen = np.arange(20)
    found = raw_features(probed, chosen)
    grids = np.stack([probed.grid(sample).reshape(-1) for sample in chosen])
    one_hot = np.stack([[[float(value == one) for one in np.unique(grids)] for value in row] for row in grids])
    np.testing.assert_allclose(found["ids"].toarray(), one_hot.mean(1), rtol=1e-6)
    np.testing.assert_array_equal(found["ids by place"].toarray(), one_hot.reshape(20, -1))
    np.testing.assert_array_equal(found["values"], grids * 64 + 32)


def test_a_probe_is_the_plain_logistic_regression():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    features = (rng.standard_normal((90, 4)) + labels[:, None] * [0, 0.5, 1, 0]) * [1, 10, 100, 0] + 5
    training, held_out = np.arange(60), np.arange(60, 90)
    probed = fit_probe(features.astype(np.float32), labels, training, held_out, penalty=2.0)
    scaler = StandardScaler().fit(features[:60])
    plain = LogisticRegression(C=0.5, max_iter=1000).fit(scaler.transform(features[:60]), labels[:60])
    assert probed.accuracy == plain.score(scaler.transform(features[60:]), labels[60:])
    assert probed.converged
    logits = features[60:] @ probed.head.weight.T + probed.head.bias
    np.testing.assert_allclose(logits, plain.decision_function(scaler.transform(features[60:])), atol=1e-3)


def test_a_label_that_tokens_tell_is_found_and_noise_is_chance(model, shards, tmp_path):
    found = probe(options(model, shards, tmp_path / "shade", "shade"))
    assert found.classes == ("shade 0", "shade 1", "shade 2")
    assert found.best("layer").accuracy == 1.0
    assert found.best("raw").accuracy == 1.0
    noise = probe(options(model, shards, tmp_path / "noise", "noise"))
    # Three standard errors of so many coins.
    band = 3 * noise.standard_error(0.5)
    assert all(abs(row.accuracy - 0.5) < band for row in noise.rows)
    assert found.samples + found.held_out == noise.samples + noise.held_out == COUNT


def test_the_same_command_gives_the_same_files(model, shards, tmp_path, capsys):
    command = [
        "probe",
        "--model",
        model,
        "--shards",
        shards,
        "--label",
        "parity",
        "--labels",
        "4",
        "8",
        "--limit",
        "60",
    ]
    command += [
        "--finetune-steps",
        "3",
        "--validation-fraction",
        "0.3",
        "--out",
        str(tmp_path / "out"),
        "--json",
        "--quiet",
    ]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"probe.json", "results.json", "curve.png", "report.html"}
    assert json.loads(files["results.json"]) == told
    assert files["curve.png"].startswith(b"\x89PNG")
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert (told["samples"], told["held_out"]) == (60, 60)
    few = [row for row in told["rows"] if row["a_class"] == 4]
    layers, raw = ["embedding", "block 1", "block 2", "norm"], ["ids", "ids by place", "values"]
    assert [row["features"] for row in few] == [*layers, *raw, "fine-tuned"]
    assert {row["samples"] for row in few} == {8}
    assert main([*command[:6], "shade", *command[7:]]) == 1
    assert "not an empty folder" in capsys.readouterr().err


def test_fine_tuning_begins_at_the_probe_and_learns_what_that_cannot(model, shards):
    loaded, probed = opened(model, shards, "parity")
    reader = SampleReader(loaded.model, probed)
    every = np.arange(COUNT)
    states = states_of(loaded.model, reader, every, 64)["norm"]
    fitted = fit_probe(states, probed.labels, probed.training, probed.held_out)
    before = {name: one.clone() for name, one in loaded.model.named_parameters()}
    with torch.no_grad():
        inputs, counted = reader.read(probed.held_out)
        logits = Classifier(loaded.model, fitted.head).eval()(inputs, counted)
    assert float((logits.argmax(-1).numpy() == probed.labels[probed.held_out]).mean()) == fitted.accuracy

    def losses(steps):
        learnt = finetune(
            loaded.model,
            fitted.head,
            reader,
            probed.training,
            probed.labels[probed.training],
            steps=steps,
            batch_size=16,
            learning_rate=3e-3,
            seed=0,
        )
        with torch.no_grad():
            logits = learnt(*reader.read(probed.training))
            return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(probed.labels[probed.training])))

    first = losses(1)
    last = losses(60)
    assert last < 0.8 * first
    assert losses(1) == first
    assert all(torch.equal(one, before[name]) for name, one in loaded.model.named_parameters())


def test_few_labels_of_one_seed_are_among_more(model, shards):
    _, probed = opened(model, shards)
    four, nine = probed.few(4, 0), probed.few(9, 0)
    assert set(four.tolist()) <= set(nine.tolist()) <= set(probed.training.tolist())
    assert np.bincount(probed.labels[four]).tolist() == [4, 4, 4]
    assert probed.few(4, 1).tolist() != four.tolist()


def test_samples_without_a_label_are_left_out(model, shards):
    _, probed = opened(model, shards, "part")
    assert probed.unlabelled == COUNT // 2
    assert not np.concatenate((probed.training, probed.held_out)) @ np.ones(COUNT // 2) % 2
    most = np.bincount(probed.labels[probed.training]).argmax()
    assert probed.chance == (probed.labels[probed.held_out] == most).mean()


def test_what_cannot_be_probed_is_refused(model, shards, tmp_path):
    def refused(match, **changes):
        given = {"model": model, "label": "shade", **changes}
        with pytest.raises(ValueError, match=match):
            probe(options(given.pop("model"), shards, tmp_path / "none", given.pop("label"), **given))
        assert not (tmp_path / "none").exists()

    refused("tells the model what --label image asks for", label="image")
    refused("no column 'colour' .there is shade, parity, noise, part, same, image.", label="colour")
    refused("is '1' for all samples", label="same")
    refused("--stream text: the template 'image' has image", stream="text")
    refused("no sample with a 'shade' is held out", validation_fraction=0.0)
    captioned = untrained(shards, tmp_path / "captioned", "text -> image", context=64)
    refused("tells the model what --label text asks for", model=captioned, label="text")
    mean = untrained(shards, tmp_path / "mean", family="mean")
    refused("a model of MeanModel tells no layers", model=mean)
