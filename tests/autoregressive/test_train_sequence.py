"""``train sequence``: every registered family through the one trainer, and what a user can know and change of each."""

import dataclasses
import json
import shlex
from importlib.metadata import entry_points

import pytest
import torch
from test_train import assert_same_run, log_without_timing, options_for, train_until, weights
from toys.world import text_samples, write_shards

from tokenize_kit.cli.main import main
from tokenize_kit.files import sha256_of_file
from tokenize_kit.protocol import MODELS
from trainers.autoregressive.model_folder import load_model, read_model_config
from trainers.autoregressive.models import configuration_of
from trainers.autoregressive.options import GenerateOptions, TrainSequenceOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_sequence, train_transformer
from trainers.config import OptimizerConfig
from trainers.overrides import field_documents

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {
    "recurrent": ("layers=1", "width=16", "dropout=0.1"),
    "wavenet": ("layers=3", "cycle=2", "width=16", "skip_width=16", "dropout=0.1", "coordinates=true"),
    "transformer": ("layers=1", "width=16", "heads=2"),
}


def sequence_options(shards, out, family, **changes):
    """Those of `test_train`, of a family of small size."""
    plain = options_for(shards, out)
    values = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    values |= {"family": family, "set": SIZES.get(family, ()), "model": TransformerOverrides(), "steps": 10}
    return TrainSequenceOptions(**{**values, **changes})


def test_train_transformer_is_the_short_way_to_the_same_folder(texts, tmp_path):
    model = TransformerOverrides(layers=1, width=16, heads=2)
    train_transformer(options_for(texts, tmp_path / "short", steps=4, model=model))
    long = sequence_options(texts, tmp_path / "long", "transformer", steps=4, model=model, set=())
    train_sequence(long)
    train_sequence(
        dataclasses.replace(long, out=str(tmp_path / "set"), model=TransformerOverrides(), set=SIZES["transformer"])
    )

    def files(folder):
        found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        # These two have times in them.
        kept = sorted(path for path in found if path.parts[0] not in ("tensorboard", "train_log.jsonl"))
        assert {"run.json", "model_config.json", "model.safetensors"} <= {str(path) for path in kept}
        return {str(path): sha256_of_file(folder / path) for path in kept}

    short = files(tmp_path / "short")
    for name in ("long", "set"):
        assert files(tmp_path / name) == short
        assert log_without_timing(tmp_path / name) == log_without_timing(tmp_path / "short")
    # And so each goes on in the other's folder.
    assert train_sequence(dataclasses.replace(long, out=str(tmp_path / "short"))).resumed_from == 4


@pytest.mark.parametrize("family", ["recurrent", "wavenet"])
def test_another_family_trains_resumes_exactly_and_draws(family, pictures, tmp_path, monkeypatch):
    changes = {"template": "text -> image", "context": 40}
    options = sequence_options(pictures, tmp_path / "whole", family, **changes)
    result = train_sequence(options)
    killed = dataclasses.replace(options, out=str(tmp_path / "killed"))
    train_until(killed, 8, monkeypatch)
    assert train_sequence(killed).resumed_from == 5
    assert_same_run(options.out, killed.out)
    assert main(["verify", options.out, "--quiet"]) == 0
    loaded = load_model(tmp_path / "whole")
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == result.parameters
    drawn = []
    for batch in (1, 3):
        out = tmp_path / f"samples{batch}"
        generate_samples(
            GenerateOptions(model=options.out, out=str(out), prompt="dark", count=3, batch_size=batch, device="cpu")
        )
        drawn.append([json.loads(line)["ids"] for line in (out / "samples.jsonl").read_text().splitlines()])
    assert drawn[0] == drawn[1]
    for ids in drawn[0]:
        assert loaded.template.parse_ids(ids, loaded.vocabulary)["image"].ndim == 2


def test_the_folder_says_the_whole_configuration(texts, tmp_path, capsys):
    options = sequence_options(texts, tmp_path / "model", "recurrent", steps=1, set=("cell=gru", "width=8"))
    train_sequence(options)
    config = read_model_config(tmp_path / "model").config
    kind = configuration_of("recurrent")
    assert set(config) == {field.name for field in dataclasses.fields(kind)}
    assert (config["cell"], config["width"], config["layers"], config["context"]) == ("gru", 8, 2, 32)
    assert main(["inspect", options.out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["config"]["cell"]) == ("recurrent", "gru")
    # The same said in a file, or partly so, is the same run; something else is not.
    (tmp_path / "gru.json").write_text(json.dumps({"cell": "gru", "width": 99}))
    file = {"family_config": str(tmp_path / "gru.json"), "set": ("width=8",)}
    assert train_sequence(dataclasses.replace(options, **file)).resumed_from == 1
    with pytest.raises(ValueError, match=r"model\.cell was gru, now lstm"):
        train_sequence(dataclasses.replace(options, set=("width=8",)))


def test_the_context_of_text_is_that_of_the_small_transformer(tmp_path):
    shards = write_shards(tmp_path / "shards", text_samples(30))
    options = sequence_options(shards, tmp_path / "model", "recurrent", steps=1, context=None)
    assert train_sequence(options).context == 512


def test_init_from_takes_over_what_another_model_of_the_family_shares(texts, pictures, tmp_path):
    first = sequence_options(texts, tmp_path / "first", "wavenet", steps=3)
    train_sequence(first)
    still = OptimizerConfig(learning_rate=1e-12)
    second = dataclasses.replace(
        first, out=str(tmp_path / "second"), shards=(pictures,), seed=7, steps=1, init_from=first.out, optimizer=still
    )
    train_sequence(second)
    theirs, ours = weights(first.out)["best"], weights(second.out)["best"]
    assert all(torch.allclose(theirs[name], ours[name], atol=1e-6) for name in theirs)
    wide = (*SIZES["wavenet"][:2], "width=24", "skip_width=24", "coordinates=true")
    with pytest.raises(
        ValueError, match=r"shares no matrix .*\(width 16 there and 24 here, skip_width 16 there and 24 here\)"
    ):
        train_sequence(dataclasses.replace(second, out=str(tmp_path / "wide"), set=wide))
    with pytest.raises(ValueError, match="is a model of the family 'wavenet', this one is 'recurrent'"):
        train_sequence(dataclasses.replace(second, out=str(tmp_path / "other"), family="recurrent", set=()))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("wavnet", {"set": ()}, "no model is named 'wavnet' .*did you mean 'wavenet'"),
        ("recurrent", {"set": ("cells=gru",)}, r"the family 'recurrent' has no 'cells' .*did you mean 'cell'\?"),
        ("recurrent", {"set": ("cell=lstn",)}, "cell is lstm or gru, not 'lstn'; did you mean 'lstm'"),
        ("recurrent", {"set": ("context=3",)}, "--set context=3: context is --context"),
        ("recurrent", {"set": ("layers=0",)}, "layers 0 must be at least 1"),
        (
            "recurrent",
            {"preset": "tiny"},
            "--preset tiny is of the transformer; change 'recurrent' with --set NAME=VALUE",
        ),
        ("recurrent", {"style": "gpt2"}, "--style gpt2 is of the transformer"),
        ("wavenet", {"form": "causal"}, "--form causal is of the transformer"),
        ("wavenet", {"model": TransformerOverrides(kv_heads=2)}, "--model.kv-heads 2 is of the transformer"),
        ("wavenet", {"compile": True}, "--compile: a model of the family 'wavenet' has no parts that can be compiled"),
        ("wavenet", {"objective": "masked"}, "family 'wavenet' sees no later tokens"),
        ("mean", {"set": ("width=3",)}, "the family 'mean' does not say which fields.*--family-config FILE"),
        ("transformer", {"set": ("form=prefix",)}, "--set form=prefix: form is --form"),
        ("transformer", {"set": ("kv_head=2",)}, "the family 'transformer' has no 'kv_head' .*did you mean 'kv_heads'"),
        (
            "transformer",
            {"set": ("kv_heads=2",), "model": TransformerOverrides(kv_heads=2)},
            "--set kv_heads and --model.kv-heads are both given",
        ),
        ("transformer", {"family_config": "x.json"}, "--family-config is for other families"),
    ],
)
def test_what_the_family_does_not_have_is_refused_before_anything_is_written(texts, tmp_path, family, changes, message):
    with pytest.raises(ValueError, match=message):
        train_sequence(sequence_options(texts, tmp_path / "model", family, **changes))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("family", [point.name for point in entry_points(group=MODELS.group)])
def test_the_help_shows_the_fields_of_a_family(family, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    kind = configuration_of(family)
    documents = field_documents(kind)
    assert main(["train", "sequence", "--family", family, "--help"]) == 0
    shown = capsys.readouterr().out.partition(f"--set NAME=VALUE, of the family {family}: ")[2].splitlines()
    told = {line.split()[0] for line in shown if line.startswith("  ") and line[2] != " " and "by default" in line}
    own = {"transformer": {"form", "codebook_slots", "told_next"}, "pixelcnn": {"channels", "grid_condition"}}
    hidden = {"vocab_size", "context", "ordinal"} | own.get(family, set())
    assert told == {field.name for field in dataclasses.fields(kind)} - hidden
    for name in told:
        assert documents[name]
        assert any(line.strip().startswith(" ".join(documents[name].split())[:100]) for line in shown)


def test_the_command_line_trains_and_names_the_families(texts, tmp_path, capsys):
    assert main(["train", "sequence", "--help"]) == 0
    assert f"The registered model family to train: {', '.join(MODELS.names())}." in " ".join(
        capsys.readouterr().out.replace("│", " ").split()
    )
    common = f"--shards {texts} --template text --steps 1 --batch-size 2 --context 32 --device cpu --json --quiet"
    assert main(shlex.split(f"train sequence {common} --out {tmp_path}/none")) == 2
    assert ", ".join(MODELS.names()) in " ".join(capsys.readouterr().err.replace("│", " ").split())
    words = f"train sequence --family recurrent --set layers=1 width=8 --set cell=gru {common} --out {tmp_path}/model"
    assert main(shlex.split(words)) == 0
    assert json.loads(capsys.readouterr().out)["context"] == 32
    (tmp_path / "run.yaml").write_text("family: recurrent\nset: [layers=1, width=8, cell=gru]\n")
    assert main(shlex.split(f"train sequence --config {tmp_path}/run.yaml {common} --out {tmp_path}/model")) == 0
    assert json.loads(capsys.readouterr().out)["resumed_from"] == 1
