"""``train image``, from pictures in a folder to a tokenizer that all other commands serve."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from tokenize_kit.cli.main import main
from tokenize_kit.files import sha256_of_file
from tokenize_kit.media.image import read_image
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.shards import ShardSet
from trainers.autoencoder.image.config import PRESETS
from trainers.autoencoder.image.options import LossOverrides, NetworkOverrides, TrainImageOptions
from trainers.autoencoder.image.train import train_image
from trainers.autoencoder.options import OptimizerOverrides, QuantizerOverrides
from trainers.checkpoints import last_checkpoint, load_checkpoint
from trainers.logs import TIMING, read_log

HERE = Path(__file__).parent
SMALL = NetworkOverrides(
    width=8, multipliers=(1,), encoder_blocks=(0,), decoder_blocks=(1,), patch=4, latent_channels=8
)
TYPED = [
    *("--network.width", "8", "--network.multipliers", "1", "--network.encoder-blocks", "0"),
    *("--network.decoder-blocks", "1", "--network.patch", "4", "--network.latent-channels", "8"),
    *("--batch-size", "8", "--device", "cpu", "--precision", "32-true", "--quiet"),
]
PICTURES = 48


@pytest.fixture(scope="module")
def emoji(emoji_tar, tmp_path_factory):
    """A folder with the first pictures of the asset, 48x48."""
    folder = tmp_path_factory.mktemp("emoji")
    with tarfile.open(emoji_tar) as tar:
        members = [member for member in tar if member.name.endswith(".png")][:PICTURES]
        for member in members:
            (folder / Path(member.name).name).write_bytes(tar.extractfile(member).read())
    return folder


@pytest.fixture(scope="module")
def trained(emoji, tmp_path_factory):
    """A run of vqgan on the command line in which everything takes part."""
    out = tmp_path_factory.mktemp("run") / "tokenizer"
    code = main(
        [
            *("train", "image", "--data", str(emoji), "--out", str(out), "--preset", "vqgan", "--steps", "16"),
            *("--quantizer.codebook-size", "32", "--quantizer.codebook-update", "gradient", "--ema", "0.9", "--flip"),
            *("--loss.discriminator-start", "0.5", "--loss.adaptive-weight", "True"),
            *("--log-every", "4", "--validate-every", "8", "--validation-fraction", "0.25", "--max-scale", "1.5"),
            *("--image-size", "16"),
            *TYPED,
        ]
    )
    assert code == 0
    return out


def options_for(emoji, out, **changes):
    values = {
        "data": (str(emoji),),
        "out": str(out),
        "image_size": 16,
        "network": SMALL,
        "steps": 6,
        "batch_size": 8,
        "log_every": 2,
        "validate_every": 3,
        "validation_fraction": 0.2,
        "device": "cpu",
        "precision": "32-true",
    }
    return TrainImageOptions(**values | changes)


def log(folder):
    lines = read_log(Path(folder) / "train_log.jsonl")
    return [{name: value for name, value in line.items() if not name.endswith(TIMING)} for line in lines]


def test_the_folder_is_a_tokenizer_of_pictures_of_any_size(trained, emoji):
    tokenizer = load_tokenizer(trained)
    assert tokenizer.spec.vocab_size == 32
    assert tokenizer.spec.step == (4, 4)
    picture = read_image(next(iter(sorted(emoji.iterdir()))).read_bytes(), 3)
    assert tokenizer.encode(picture[:, :30, :41]).shape == (8, 11)
    # The weights that were kept are those of the last validation, and averages.
    averages = load_checkpoint(last_checkpoint(trained / "checkpoints"))[0]["average_autoencoder"]
    weights = tokenizer.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in averages.items())


def test_the_log_has_every_term_and_the_pictures_are_there(trained):
    lines = {line["step"]: line for line in read_log(trained / "train_log.jsonl")}
    assert sorted(lines) == [4, 8, 12, 16]
    both = {
        "step",
        "loss",
        "pixel",
        "commitment",
        "codebook",
        "batch_perplexity",
        "learning_rate",
        "samples_per_second",
    }
    both |= {"gradient_norm_autoencoder"}
    judged = {"generator", "adaptive_weight", "feature_matching", "discriminator", "real_logit", "fake_logit", "lecam"}
    judged |= {"gradient_norm_discriminator"}
    measured = {"validation/loss", "validation/psnr", "validation/usage", "validation/perplexity"}
    assert set(lines[4]) - {"warnings"} == both
    assert set(lines[8]) - {"warnings"} == both | measured
    assert set(lines[12]) - {"warnings"} == both | judged
    assert set(lines[16]) - {"warnings"} == both | judged | measured
    assert lines[16]["pixel"] < lines[4]["pixel"]
    line = lines[4]
    assert line["loss"] == pytest.approx(line["pixel"] + 0.25 * line["commitment"] + line["codebook"], rel=1e-5)
    sheet = read_image((trained / "pictures" / "00000016-reconstructions.png").read_bytes())
    assert sheet.shape[0] == 3
    assert {path.name for path in (trained / "pictures").iterdir()} == {
        "00000008-reconstructions.png",
        "00000016-reconstructions.png",
    }


def test_the_other_commands_work_on_it(trained, emoji, tmp_path, capsys):
    def run(*words):
        assert main([*map(str, words), "--quiet"]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert "autoencoder" in run("inspect", trained)
    report = run("evaluate", "--tokenizer", trained, "--data", emoji, "--limit", 5, "--json")
    assert 5 < json.loads(report)["metrics"]["psnr"] < 40
    run("encode", "--tokenizer", trained, "--data", emoji, "--out", tmp_path / "shards")
    assert ShardSet.open(tmp_path / "shards").record(0).sizes == {"image": (48, 48)}
    run("verify", tmp_path / "shards", "--tokenizer", trained)
    run("decode", "--shards", tmp_path / "shards", "--tokenizer", trained, "--out", tmp_path / "back")
    assert len(list((tmp_path / "back").glob("*.png"))) == PICTURES


def test_training_makes_the_pictures_better(emoji, tmp_path):
    common = {"log_every": 1, "validate_every": 20, "optimizer": OptimizerOverrides(warmup_steps=4)}
    result = train_image(options_for(emoji, tmp_path / "out", steps=120, **common))
    lines = {line["step"]: line for line in log(tmp_path / "out")}
    assert result.metrics["psnr"] > lines[20]["validation/psnr"] + 2 > 10
    assert lines[120]["pixel"] < 0.5 * lines[1]["pixel"]
    assert result.best_step == 120
    assert (result.pictures, result.validation_pictures) == (
        PICTURES - result.validation_pictures,
        result.validation_pictures,
    )
    assert result.epochs == pytest.approx(120 * 8 / result.pictures)
    assert result.vocab_size == [1000]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset, emoji, tmp_path):
    changes = {} if preset != "vqgan" else {"loss": LossOverrides(discriminator_start=0.0)}
    network = NetworkOverrides(width=8)
    result = train_image(
        options_for(emoji, tmp_path, preset=preset, network=network, steps=3, log_every=1, precision="auto", **changes)
    )
    assert result.downsample_factor == 4
    assert len(log(tmp_path)) == 3
    assert all(torch.isfinite(value).all() for value in load_tokenizer(tmp_path).model.state_dict().values())


@pytest.mark.parametrize("kind", ["simvq", "rvq", "bsq"])
def test_the_other_quantizers_train_by_name(kind, emoji, tmp_path):
    options = options_for(emoji, tmp_path, steps=2, quantizer=QuantizerOverrides(kind=kind, codebook_size=16))
    assert train_image(options).vocab_size == [16] * (8 if kind == "rvq" else 1)
    assert load_tokenizer(tmp_path).config.quantizer.kind == kind


class Killed(BaseException):
    """Stands for SIGKILL: nothing that catches errors catches it."""


EVERYTHING = {
    "preset": "vqgan",
    "steps": 12,
    "validate_every": 5,
    "checkpoint_every": 3,
    "flip": True,
    "max_scale": 1.5,
    "ema": 0.9,
    "accumulate": 2,
    "batch_size": 4,
    "quantizer": QuantizerOverrides(codebook_size=16, codebook_update="ema", dead_code_threshold=0.5),
    "loss": LossOverrides(discriminator_start=0.3, lecam_weight=0.01),
}


def assert_same_run(one, other):
    names = ["model.safetensors", "tokenizer_config.json", "best.safetensors"]
    names += [str(path.relative_to(one)) for path in (one / "checkpoints").rglob("*") if path.is_file()]
    names += [f"pictures/{path.name}" for path in (one / "pictures").iterdir()]
    assert len(names) > 10
    for name in names:
        assert sha256_of_file(one / name) == sha256_of_file(other / name), name
    assert log(one) == log(other)


def test_killed_and_continued_runs_give_the_bits_of_an_unbroken_one(emoji, tmp_path, monkeypatch):
    from trainers.autoencoder.image.task import AutoencoderTask

    options = options_for(emoji, tmp_path / "whole", **EVERYTHING)
    train_image(options)
    original = AutoencoderTask.loss
    # Before the discriminator, and between the two phases of a step; checkpoints are at 3, 6, 9.
    for stop, phase in ((2, "autoencoder"), (5, "discriminator"), (7, "discriminator"), (11, "discriminator")):
        out = tmp_path / f"stopped{stop}"

        def loss(self, phase_now, batch, step, stop=stop, phase=phase):
            if (step, phase_now) == (stop, phase):
                raise Killed
            return original(self, phase_now, batch, step)

        again = dataclasses.replace(options, out=str(out))
        with monkeypatch.context() as patch:
            patch.setattr(AutoencoderTask, "loss", loss)
            with pytest.raises(Killed):
                train_image(again)
        assert train_image(again).resumed_from == stop // 3 * 3
        assert_same_run(tmp_path / "whole", out)
    averages = load_checkpoint(last_checkpoint(tmp_path / "whole" / "checkpoints"))[0]["averages"]
    assert float(averages["real"]) != 0


LIBRARY = {
    "VectorQuantize": ("codebook_size=16", "kmeans_init=true", "threshold_ema_dead_code=2", "decay=0.9"),
    "ResidualVQ": ("num_quantizers=3", "codebook_size=16", "kmeans_init=true", "quantize_dropout=true"),
    "GroupedResidualVQ": ("groups=2", "num_quantizers=2", "codebook_size=16", "threshold_ema_dead_code=2"),
    "SimVQ": ("codebook_size=16",),
    "ResidualSimVQ": ("num_quantizers=2", "codebook_size=16"),
    "FSQ": ("levels=8,5,5",),
    "ResidualFSQ": ("num_quantizers=2", "levels=5,5,3"),
    "LFQ": ("codebook_size=16", "commitment_loss_weight=0.25"),
    "ResidualLFQ": ("num_quantizers=2", "codebook_size=16"),
}
"""Classes of vector-quantize-pytorch with options in which everything takes part that draws or remembers."""


@pytest.mark.parametrize("name", LIBRARY)
def test_the_librarys_quantizers_train_and_continue_to_the_same_bits(name, emoji, tmp_path, monkeypatch):
    from trainers.autoencoder.image.task import AutoencoderTask

    quantizer = QuantizerOverrides(kind="library", library_class=name, library_options=LIBRARY[name])
    changes = {"quantizer": quantizer, "steps": 8, "validate_every": 2, "checkpoint_every": 3, "ema": 0.9}
    options = options_for(emoji, tmp_path / "whole", preset="vqvae", **changes)
    result = train_image(options)
    original = AutoencoderTask.loss

    def loss(self, phase, batch, step):
        if step == 5:
            raise Killed
        return original(self, phase, batch, step)

    again = dataclasses.replace(options, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderTask, "loss", loss)
        with pytest.raises(Killed):
            train_image(again)
    assert train_image(again).resumed_from == 3
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    tokenizer = load_tokenizer(tmp_path / "whole")
    assert (tokenizer.config.quantizer.library_class, tokenizer.fingerprint) == (name, result.fingerprint)
    assert set(LIBRARY[name]) <= set(tokenizer.config.quantizer.library_options)
    picture = read_image(next(iter(sorted(emoji.iterdir()))).read_bytes(), 3)
    ids = tokenizer.encode(picture)
    axis = (len(result.vocab_size),) if len(result.vocab_size) > 1 else ()
    assert ids.shape == (12, 12, *axis)
    assert all(int(column.max()) < size for column, size in zip(ids.reshape(144, -1).T, result.vocab_size, strict=True))
    assert torch.equal(tokenizer.decode(ids), load_tokenizer(tmp_path / "stopped").decode(ids))
    assert tokenizer.decode(ids).shape == (3, 48, 48)
    losses = [line["library"] for line in log(tmp_path / "whole") if "library" in line]
    assert len(losses) == (0 if "FSQ" in name else 4)


def test_the_librarys_options_come_from_the_command_line_and_from_yaml(emoji, tmp_path, capsys):
    words = ["num_quantizers=2", "codebook_size=16", "kmeans_init=true"]
    common = ["train", "image", "--data", str(emoji), "--image-size", "16", "--steps", "2", *TYPED]
    chosen = ["--quantizer.kind", "library", "--quantizer.library-class", "ResidualVQ"]
    typed = [*common, *chosen, "--out", str(tmp_path / "typed")]
    assert main([*typed, "--quantizer.library-options", *words]) == 0
    (tmp_path / "run.yaml").write_text(
        "quantizer:\n  kind: library\n  library-class: ResidualVQ\n"
        "  library-options: [num_quantizers=2, codebook_size=16, kmeans_init=true]\n"
    )
    assert main([*common, "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "yaml")]) == 0
    one, other = (load_tokenizer(tmp_path / part) for part in ("typed", "yaml"))
    assert one.fingerprint == other.fingerprint
    assert one.config.quantizer.library_options == tuple(sorted(words))
    assert main([*typed, "--quantizer.library-options", "num_quantisers=2"]) == 1
    assert "did you mean 'num_quantizers'" in capsys.readouterr().err
    assert main([*typed, "--quantizer.library-options", *words[:1], "codebook_size=32"]) == 1
    assert "library_options was ['codebook_size=16'" in capsys.readouterr().err


def test_a_run_of_before_the_library_kind_is_the_same_run(emoji, tmp_path):
    train_image(options_for(emoji, tmp_path, steps=2))
    saved = json.loads((tmp_path / "run.json").read_text())["quantizer"]
    assert "library_class" not in saved
    assert saved["levels"] == [8, 5, 5, 5]
    assert "library_class" not in (tmp_path / "tokenizer_config.json").read_text()


JOINT = {"steps": 5, "accumulate": 2, "preset": "vqvae", "quantizer": QuantizerOverrides(codebook_size=16)}


def test_two_processes_equal_one_with_the_joint_batch(emoji, tmp_path):
    train_image(options_for(emoji, tmp_path / "one", batch_size=8, **JOINT))
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import test_train_image as t, torch\ntorch.set_num_threads(1)\n"
        f"t.train_image(t.options_for({str(emoji)!r}, {str(tmp_path / 'two')!r}, batch_size=4, devices=2, **t.JOINT))\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
    one, two = (
        load_checkpoint(last_checkpoint(tmp_path / part / "checkpoints"))[0]["autoencoder"] for part in ("one", "two")
    )
    assert set(one) == set(two) >= {"quantizer.codebook.codes", "quantizer.codebook.shares"}
    for key, value in one.items():
        # Up to 0.0005 between processors, by the order of sums; without the sums over processes codes are 0.016 off.
        assert torch.allclose(value.float(), two[key].float(), atol=2e-3), key
    # A vector between two codes may go the other way: 0.00015; without the sums over processes it is 0.0016.
    assert torch.allclose(one["quantizer.codebook.shares"], two["quantizer.codebook.shares"], atol=1e-3)
    assert len(log(tmp_path / "one")) == len(log(tmp_path / "two"))
    # A perplexity is that of each process's batch.
    for line, other in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        numbers = set(line) - {"batch_perplexity", "warnings"}
        # A gradient follows from which way a vector between two codes goes.
        assert {key: line[key] for key in numbers} == pytest.approx({key: other[key] for key in numbers}, rel=3e-2)
    assert load_tokenizer(tmp_path / "two").spec == load_tokenizer(tmp_path / "one").spec


def test_it_can_begin_with_the_weights_of_another(emoji, tmp_path):
    first = train_image(options_for(emoji, tmp_path / "first", steps=30, validate_every=30))
    resting = OptimizerOverrides(optimizer="adamw", learning_rate=1e-12, weight_decay=0.0)
    second = train_image(
        options_for(emoji, tmp_path / "second", steps=1, init_from=str(tmp_path / "first"), optimizer=resting)
    )
    assert second.metrics["psnr"] == pytest.approx(first.metrics["psnr"], abs=1e-3)
    with pytest.raises(ValueError, match="has another configuration than this run"):
        train_image(
            options_for(
                emoji,
                tmp_path / "third",
                init_from=str(tmp_path / "first"),
                quantizer=QuantizerOverrides(levels=(5, 5, 5, 5)),
            )
        )


def test_validation_data_is_measured_and_then_all_of_the_data_is_trained_on(emoji, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 33), (number * 90, 30, 200)).save(other / f"{number}.png")
    result = train_image(options_for(emoji, tmp_path / "out", steps=2, validation_data=(str(other),)))
    assert (result.pictures, result.validation_pictures) == (PICTURES, 3)
    limited = options_for(emoji, tmp_path / "limited", steps=2, validation_pictures=4)
    assert train_image(limited).validation_pictures == 4


def test_runs_may_share_the_decoded_pictures(emoji, tmp_path):
    shared = str(tmp_path / "pictures")
    for name in ("one", "two"):
        train_image(options_for(emoji, tmp_path / name, steps=1, pictures=shared))
        assert not (tmp_path / name / "data").exists()
    assert (tmp_path / "pictures" / "data" / "dataset.json").is_file()
    with pytest.raises(ValueError, match="image_size"):
        train_image(options_for(emoji, tmp_path / "three", steps=1, pictures=shared, image_size=8))


def test_without_validation_the_last_weights_are_kept(emoji, tmp_path):
    result = train_image(options_for(emoji, tmp_path / "out", steps=4, validation_fraction=0.0))
    assert (result.best_step, result.metrics, result.validation_pictures) == (4, {}, 0)
    weights = load_checkpoint(last_checkpoint(tmp_path / "out" / "checkpoints"))[0]["autoencoder"]
    kept = load_tokenizer(tmp_path / "out").model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in weights.items())


def test_a_finished_run_says_so_and_changes_nothing(emoji, tmp_path):
    first = train_image(options_for(emoji, tmp_path / "out"))
    before = sha256_of_file(tmp_path / "out" / "model.safetensors")
    second = train_image(options_for(emoji, tmp_path / "out"))
    assert second == dataclasses.replace(first, resumed_from=6)
    assert sha256_of_file(tmp_path / "out" / "model.safetensors") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 9}, "batch_size was 8, now 9"),
        ({"flip": True}, "flip was False, now True"),
        ({"loss": LossOverrides(pixel="l1")}, "loss.pixel was l2, now l1"),
        ({"quantizer": QuantizerOverrides(levels=(7, 5))}, r"quantizer.levels was \[8, 5, 5, 5\], now \[7, 5\]"),
        ({"steps": 7}, "steps was 2, now 7.*--init-from"),
    ],
)
def test_a_run_with_other_options_is_refused(changes, message, emoji, tmp_path):
    options = options_for(emoji, tmp_path, steps=2)
    train_image(options)
    with pytest.raises(ValueError, match=message):
        train_image(dataclasses.replace(options, **changes))


def test_a_folder_of_something_else_is_left_alone(emoji, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty and holds no training run"):
        train_image(options_for(emoji, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "message", "correction"),
    [
        ({"image_size": 18}, r"--image-size 18 is not a multiple of 4 .*; use 16 or 20", {"image_size": 16}),
        ({"image_size": None}, r"different sizes \(20x20 to 48x48\); give an --image-size", {"image_size": 16}),
        ({"data": ("/nowhere",)}, "/nowhere", {}),
        (
            {"preset": "vqgan", "image_size": 4},
            "pictures of 4 pixels are too small for a discriminator; use at least 6",
            {"preset": "vqgan", "image_size": 16},
        ),
        ({"init_from": "/nowhere"}, "nowhere", {}),
    ],
)
def test_after_a_mistake_the_corrected_command_is_not_refused(changes, message, correction, emoji, tmp_path):
    odd = tmp_path / "odd.png"
    Image.new("RGB", (20, 20)).save(odd)
    data = {"data": (str(emoji), str(odd)), "steps": 1}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_image(options_for(emoji, tmp_path / "out", **data | changes))
    assert train_image(options_for(emoji, tmp_path / "out", **data | correction)).steps == 1


def test_mistakes_are_one_line_on_the_command_line(emoji, tmp_path, capsys):
    command = ["train", "image", "--data", str(emoji), "--out", str(tmp_path / "out"), *TYPED]
    for words, message in [
        (["--image-size", "18"], "--image-size 18 is not a multiple of 4"),
        (["--max-scale", "0.5"], "--max-scale 0.5 must be at least 1 (1 cuts"),
        (["--max-scale", "1.5"], "--max-scale 1.5 needs an --image-size"),
        (["--quantizer.codebook-size", "8"], "codebook_size 8 is not an option of the quantizer fsq"),
        (["--loss.lecam-weight", "0.1"], "need a discriminator"),
        (["--channels", "4", "--loss.perceptual-weight", "1"], "grey and RGB pictures"),
        (["--quantiser.levels", "8"], "did you mean --quantizer.levels"),
        (["--validation-fraction", "1"], "--validation-fraction 1.0 must be"),
    ]:
        assert main([*command, *words]) in (1, 2)
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_collapsed_codebook_ends_the_run_if_it_shall(emoji, tmp_path):
    options = options_for(emoji, tmp_path / "warn", steps=3, log_every=1, usage_floor=1.0)
    train_image(options)
    said = [line.get("warnings", []) for line in log(tmp_path / "warn")]
    assert any("hardly used" in text for texts in said for text in texts)
    with pytest.raises(ValueError, match=r"hardly used.*usage 0\.\d+, --usage-floor 1\.0"):
        train_image(dataclasses.replace(options, out=str(tmp_path / "stop"), on_collapse="stop"))


def test_a_run_that_breaks_down_says_where_and_what_may_help(emoji, tmp_path, monkeypatch):
    from trainers.autoencoder import losses

    original, calls = losses.l2, []

    def broken(made, real):
        calls.append(1)
        return original(made, real) * (float("nan") if len(calls) > 3 else 1.0)

    monkeypatch.setattr(losses, "l2", broken)
    with pytest.raises(ValueError, match=r"training broke down at step 4: the \w+ is not a finite number; lower the"):
        train_image(options_for(emoji, tmp_path, validate_every=6))


def test_grey_and_transparent_pictures(emoji, tmp_path):
    for channels in (1, 4):
        out = tmp_path / str(channels)
        train_image(options_for(emoji, out, channels=channels, steps=2))
        tokenizer = load_tokenizer(out)
        assert tokenizer.spec.channels == channels
        sheet = Image.open(io.BytesIO((out / "pictures" / "00000002-reconstructions.png").read_bytes()))
        assert len(sheet.getbands()) == channels


def test_a_training_does_not_read_its_own_pictures(emoji, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(emoji, data)
    options = TrainImageOptions(
        data=(str(data),),
        out=str(data / "run"),
        image_size=16,
        preset="vqvae",
        network=SMALL,
        quantizer=QuantizerOverrides(codebook_size=16),
        batch_size=8,
        steps=2,
        validate_every=1,
        validation_fraction=0.2,
        device="cpu",
        precision="32-true",
    )
    first = train_image(options)
    assert list((data / "run" / "pictures").glob("*.png"))
    again = train_image(options)
    assert (again.resumed_from, again.pictures, again.fingerprint) == (2, first.pictures, first.fingerprint)
    # Other options in the folder of a run that made no step: its decoded pictures go too.
    for name in ("checkpoints", "best.safetensors", "tokenizer_config.json", "model.safetensors"):
        path = data / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    assert train_image(dataclasses.replace(options, image_size=8)).resumed_from == 0
