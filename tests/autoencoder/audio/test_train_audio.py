"""``train audio``, from sounds in a folder to a tokenizer that all other commands serve."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenize_kit.cli.main import main
from tokenize_kit.files import sha256_of_file
from tokenize_kit.media.audio import read_audio, wav_bytes
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.shards import ShardSet
from trainers.autoencoder.audio.config import PRESETS
from trainers.autoencoder.audio.options import AudioLossOverrides, CodecNetworkOverrides, TrainAudioOptions
from trainers.autoencoder.audio.train import AudioRun, train_audio
from trainers.autoencoder.options import OptimizerOverrides, QuantizerOverrides
from trainers.checkpoints import last_checkpoint, load_checkpoint
from trainers.logs import TIMING, read_log
from trainers.runtime import start

HERE = Path(__file__).parent
RATE = 8000
SOUNDS = 12
SMALL = CodecNetworkOverrides(
    width=16, latent_channels=8, window=160, frame_hop=40, encoder_blocks=(0, 1), decoder_blocks=(1, 0)
)
BOOKS = QuantizerOverrides(codebooks=2, codebook_size=16, quantizer_dropout=0.0)
SLOW = OptimizerOverrides(learning_rate=2e-3)
"""The presets' rate is for larger networks and longer runs."""
TYPED = [
    *("--network.width", "16", "--network.latent-channels", "8", "--network.window", "160"),
    *("--network.frame-hop", "40", "--network.encoder-blocks", "0", "1", "--network.decoder-blocks", "1", "0"),
    *("--quantizer.codebooks", "2", "--quantizer.codebook-size", "16", "--sample-rate", str(RATE)),
    *("--device", "cpu", "--precision", "32-true", "--quiet"),
]
JUDGED = {"discriminator": "least-squares", "discriminator_width": 1, "feature_matching_weight": 2.0}


def tone(number, seconds=0.8):
    """A sound with a pitch of its own that falls, and a little noise."""
    at = torch.arange(round(seconds * RATE)) / RATE
    generator = torch.Generator().manual_seed(number)
    noise = torch.randn(len(at), generator=generator) * 0.01
    wave = torch.sin(2 * torch.pi * (150 + 40 * number) * (at - 0.2 * at**2)) + 0.5 * torch.sin(900 * at * (number + 1))
    return (0.4 * wave + noise).clamp(-1, 1)[None]


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """A folder of wav files of different lengths."""
    folder = tmp_path_factory.mktemp("tones")
    for number in range(SOUNDS):
        (folder / f"{number:02}.wav").write_bytes(wav_bytes(tone(number, 0.5 + 0.05 * number), RATE))
    return folder


@pytest.fixture(scope="module")
def trained(tones, tmp_path_factory):
    """A run on the command line in which everything takes part."""
    out = tmp_path_factory.mktemp("run") / "tokenizer"
    code = main(
        [
            *("train", "audio", "--data", str(tones), "--out", str(out), "--preset", "encodec", "--steps", "16"),
            *("--loss.discriminator", "least-squares", "--loss.discriminator-width", "1"),
            *("--loss.discriminator-start", "0.5", "--loss.feature-matching-weight", "2", "--loss.stft-weight", "1"),
            *("--loss.waveform-weight", "0.5", "--loss.balancer", "True", "--network.weight-norm", "True"),
            *("--ema", "0.9", "--log-every", "4", "--validate-every", "8", "--validation-fraction", "0.3"),
            *("--crop-seconds", "0.3", "--batch-size", "4"),
            *TYPED,
        ]
    )
    assert code == 0
    return out


def options_for(tones, out, **changes):
    values = {
        "data": (str(tones),),
        "out": str(out),
        "sample_rate": RATE,
        "crop_seconds": 0.3,
        "network": SMALL,
        "quantizer": BOOKS,
        "optimizer": SLOW,
        "steps": 6,
        "batch_size": 4,
        "log_every": 2,
        "validate_every": 3,
        "validation_fraction": 0.3,
        "device": "cpu",
        "precision": "32-true",
    }
    return TrainAudioOptions(**values | changes)


def log(folder):
    lines = read_log(Path(folder) / "train_log.jsonl")
    return [{name: value for name, value in line.items() if not name.endswith(TIMING)} for line in lines]


def test_the_folder_is_a_tokenizer_of_sounds_of_any_length(trained, tones):
    tokenizer = load_tokenizer(trained)
    assert (tokenizer.spec.vocab_size, tokenizer.spec.axes) == ((16, 16), ("time", "codebook"))
    assert (tokenizer.spec.sample_rate, tokenizer.spec.channels) == (RATE, 1)
    sound = read_audio((tones / "00.wav").read_bytes()).samples
    assert tokenizer.encode(sound[:, :1999]).shape == (25, 2)
    # Weight norm is folded; the weights that were kept are averages.
    assert not tokenizer.config.network.weight_norm
    assert not any("parametrizations" in name for name in tokenizer.model.state_dict())
    averages = load_checkpoint(last_checkpoint(trained / "checkpoints"))[0]["average_autoencoder"]
    kept = tokenizer.model.state_dict()
    same = [name for name, value in averages.items() if name in kept and torch.equal(kept[name], value)]
    assert len(same) == sum("parametrizations" not in name for name in averages) > 5


def test_the_log_has_every_term_and_one_can_look_and_listen(trained):
    lines = {line["step"]: line for line in read_log(trained / "train_log.jsonl")}
    assert sorted(lines) == [4, 8, 12, 16]
    both = {"step", "loss", "mel", "stft", "waveform", "commitment", "batch_perplexity", "learning_rate"}
    both |= {"samples_per_second", "gradient_norm_autoencoder", "balance_mel", "balance_stft", "balance_waveform"}
    judged = {"generator", "feature_matching", "discriminator", "real_logit", "fake_logit"}
    judged |= {"gradient_norm_discriminator", "balance_generator", "balance_feature_matching"}
    measured = {"validation/mel_distance", "validation/si_sdr", "validation/usage", "validation/perplexity"}
    assert set(lines[4]) - {"warnings"} == both
    assert set(lines[8]) - {"warnings"} == both | measured
    assert set(lines[12]) - {"warnings"} == both | judged
    assert set(lines[16]) - {"warnings"} == both | judged | measured
    assert lines[16]["mel"] < lines[4]["mel"]
    held_out = len(list((trained / "sounds").iterdir())) // 2
    assert {path.name for path in (trained / "sounds").iterdir()} == {
        f"{step:08}-sound{number}.wav" for step in (8, 16) for number in range(held_out)
    }
    assert 1 <= held_out <= 3
    sound = read_audio((trained / "sounds" / "00000016-sound0.wav").read_bytes())
    assert sound.sample_rate == RATE
    length = (sound.samples.shape[1] - RATE // 2) // 2
    assert 0.5 * RATE <= length <= 1.1 * RATE
    assert not sound.samples[:, length : length + RATE // 2].any()
    assert sound.samples[:, -length:].any()
    assert len(list((trained / "pictures").iterdir())) == 2
    assert any((trained / "tensorboard").iterdir())


def test_the_other_commands_work_on_it(trained, tones, tmp_path, capsys):
    def run(*words):
        assert main([*map(str, words), "--quiet"]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    assert "codec" in run("inspect", trained)
    run("encode", "--tokenizer", trained, "--data", tones, "--out", tmp_path / "shards")
    assert ShardSet.open(tmp_path / "shards").record(0).sizes == {"audio": (4000,)}
    run("verify", tmp_path / "shards", "--tokenizer", trained)
    run("decode", "--shards", tmp_path / "shards", "--tokenizer", trained, "--out", tmp_path / "back")
    assert len(list((tmp_path / "back").glob("*.wav"))) == SOUNDS
    report = json.loads(run("evaluate", "--tokenizer", trained, "--data", tones, "--limit", 3, "--json"))
    assert report["metrics"]["mel_distance"] > 0


def test_training_makes_the_sounds_better(tones, tmp_path):
    common = {
        "log_every": 1,
        "validate_every": 20,
        "optimizer": OptimizerOverrides(learning_rate=2e-3, warmup_steps=4),
        "loss": AudioLossOverrides(mel_weight=15.0, waveform_weight=0.0),
    }
    result = train_audio(options_for(tones, tmp_path / "out", steps=120, **common))
    lines = {line["step"]: line for line in log(tmp_path / "out")}
    assert result.metrics["mel_distance"] < 0.85 * lines[20]["validation/mel_distance"]
    assert lines[120]["mel"] < 0.6 * lines[1]["mel"]
    assert lines[1]["loss"] == pytest.approx(15 * lines[1]["mel"] + 0.25 * lines[1]["commitment"], rel=1e-5)
    assert result.sounds + result.validation_sounds == SOUNDS
    assert result.vocab_size == [16, 16]
    assert (result.sample_rate, result.hop, result.bits_per_second) == (RATE, 80, 100 * 2 * 4)
    assert result.epochs == pytest.approx(120 * 4 * 0.3 / (result.hours * 3600))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset, tones, tmp_path):
    loss = AudioLossOverrides(**JUDGED)
    result = train_audio(options_for(tones, tmp_path, preset=preset, steps=3, precision="auto", loss=loss))
    assert result.steps == 3
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.config.network.causal == (preset != "dac")
    assert all(torch.isfinite(value).all() for value in tokenizer.model.state_dict().values())


class Killed(BaseException):
    """Stands for SIGKILL: nothing that catches errors catches it."""


EVERYTHING = {
    "preset": "encodec",
    "steps": 12,
    "validate_every": 5,
    "checkpoint_every": 3,
    "ema": 0.9,
    "accumulate": 2,
    "batch_size": 2,
    "quantizer": QuantizerOverrides(codebooks=2, codebook_size=16, quantizer_dropout=0.5, dead_code_threshold=0.5),
    "loss": AudioLossOverrides(
        **JUDGED,
        discriminator_network="encodec",
        discriminator_start=0.3,
        discriminator_ramp=0.3,
        balancer=True,
        waveform_weight=0.1,
        quantizer_start=0.15,
    ),
}


def assert_same_run(one, other):
    names = ["model.safetensors", "tokenizer_config.json", "best.safetensors"]
    names += [str(path.relative_to(one)) for path in (one / "checkpoints").rglob("*") if path.is_file()]
    names += [f"{kind}/{path.name}" for kind in ("pictures", "sounds") for path in (one / kind).iterdir()]
    assert len(names) > 12
    for name in names:
        assert sha256_of_file(one / name) == sha256_of_file(other / name), name
    assert log(one) == log(other)


def test_two_runs_and_killed_and_continued_ones_give_the_same_bits(tones, tmp_path, monkeypatch):
    from trainers.autoencoder.audio.task import CodecTask

    options = options_for(tones, tmp_path / "whole", **EVERYTHING)
    train_audio(options)
    train_audio(dataclasses.replace(options, out=str(tmp_path / "again")))
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    original = CodecTask.loss
    # Before the codebooks begin, and between the two phases of a step; checkpoints are at 3, 6, 9.
    for stop, phase in ((1, "autoencoder"), (7, "discriminator")):
        out = tmp_path / f"stopped{stop}"

        def loss(self, phase_now, batch, step, stop=stop, phase=phase):
            if (step, phase_now) == (stop, phase):
                raise Killed
            return original(self, phase_now, batch, step)

        again = dataclasses.replace(options, out=str(out))
        with monkeypatch.context() as patch:
            patch.setattr(CodecTask, "loss", loss)
            with pytest.raises(Killed):
                train_audio(again)
        assert train_audio(again).resumed_from == stop // 3 * 3
        assert_same_run(tmp_path / "whole", out)
    balancer = load_checkpoint(last_checkpoint(tmp_path / "whole" / "checkpoints"))[0]["balancer"]
    assert all(float(norm[0]) > 0 for norm in balancer.values())
    assert set(balancer) == {"norm_mel", "norm_waveform", "norm_generator", "norm_feature_matching"}


LIBRARY = {
    "ResidualVQ": ("num_quantizers=3", "codebook_size=16", "kmeans_init=true", "quantize_dropout=true"),
    "GroupedResidualVQ": ("groups=2", "num_quantizers=2", "codebook_size=16", "threshold_ema_dead_code=2"),
    "ResidualFSQ": ("num_quantizers=2", "levels=5,5,3"),
    "LFQ": ("codebook_size=16", "commitment_loss_weight=0.25"),
}
"""Classes of vector-quantize-pytorch with options in which everything takes part that draws or remembers; pictures try more."""


@pytest.mark.parametrize("name", LIBRARY)
def test_the_librarys_quantizers_train_and_continue_to_the_same_bits(name, tones, tmp_path, monkeypatch):
    from trainers.autoencoder.audio.task import CodecTask

    quantizer = QuantizerOverrides(kind="library", library_class=name, library_options=LIBRARY[name])
    changes = {"quantizer": quantizer, "steps": 8, "validate_every": 4, "checkpoint_every": 3, "ema": 0.9}
    changes["loss"] = AudioLossOverrides(quantizer_start=0.25)
    options = options_for(tones, tmp_path / "whole", **changes)
    result = train_audio(options)
    original = CodecTask.loss

    def loss(self, phase, batch, step):
        if step == 5:
            raise Killed
        return original(self, phase, batch, step)

    again = dataclasses.replace(options, out=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        patch.setattr(CodecTask, "loss", loss)
        with pytest.raises(Killed):
            train_audio(again)
    assert train_audio(again).resumed_from == 3
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    tokenizer = load_tokenizer(tmp_path / "whole")
    assert (tokenizer.config.quantizer.library_class, tokenizer.fingerprint) == (name, result.fingerprint)
    sound = read_audio((tones / "00.wav").read_bytes()).samples
    ids = tokenizer.encode(sound)
    assert ids.shape[1:] == ((len(result.vocab_size),) if len(result.vocab_size) > 1 else ())
    assert tokenizer.decode(ids).shape[1] >= sound.shape[1]
    if len(result.vocab_size) > 1:
        fewer, other = tokenizer.decode(ids[:, :1]), tokenizer.decode(ids)
        assert fewer.shape == other.shape
        assert not torch.equal(fewer, other)


def script_of(tmp_path, out, changes):
    """A process that trains with the options of a name of this module."""
    script = tmp_path / f"{Path(out).name}.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import test_train_audio as t, torch\ntorch.set_num_threads(1)\n"
        f"t.train_audio(t.options_for(sys.argv[1], {str(out)!r}, **t.{changes}))\n"
    )
    return [sys.executable, str(script)]


JOINT = {
    "steps": 5,
    "preset": "encodec",
    "batch_size": 2,
    "devices": 2,
    "loss": AudioLossOverrides(
        **JUDGED, discriminator_network="encodec", balancer=True, quantizer_start=0.2, discriminator_start=0.4
    ),
}


def test_two_processes_equal_one_with_the_joint_batch(tones, tmp_path):
    train_audio(options_for(tones, tmp_path / "one", **{**JOINT, "batch_size": 4, "devices": 1}))
    subprocess.run([*script_of(tmp_path, tmp_path / "two", "JOINT"), str(tones)], check=True, timeout=300)
    for name in ("autoencoder", "discriminator", "balancer"):
        one, two = (
            load_checkpoint(last_checkpoint(tmp_path / part / "checkpoints"))[0][name] for part in ("one", "two")
        )
        assert set(one) == set(two)
        for key, value in one.items():
            assert torch.allclose(value.float(), two[key].float(), atol=1e-3, rtol=1e-3), key
    for line, other in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        numbers = set(line) - {"batch_perplexity", "warnings"}
        assert {key: line[key] for key in numbers} == pytest.approx({key: other[key] for key in numbers}, rel=5e-3)


def test_the_decoder_sees_the_latents_until_the_codebooks_begin(tones, tmp_path):
    loss = AudioLossOverrides(quantizer_start=0.5)
    result = train_audio(
        options_for(tones, tmp_path, steps=8, log_every=1, validate_every=2, loss=loss, usage_floor=1.0)
    )
    lines = {line["step"]: line for line in log(tmp_path)}
    # Steps 1 to 4 have no codes; a validation after them would compare what cannot be compared.
    assert [step for step, line in lines.items() if "commitment" in line] == [5, 6, 7, 8]
    assert [step for step, line in lines.items() if "batch_perplexity" in line] == [5, 6, 7, 8]
    assert [step for step, line in lines.items() if "validation/mel_distance" in line] == [6, 8]
    assert not any("warnings" in lines[step] for step in (2, 4))
    assert result.best_step in (6, 8)
    assert (tmp_path / "sounds" / "00000002-sound0.wav").is_file()


@pytest.mark.parametrize("balancer", [False, True])
def test_silence_is_no_trouble(balancer, tmp_path):
    (tmp_path / "files").mkdir()
    for number in range(6):
        (tmp_path / "files" / f"{number}.wav").write_bytes(wav_bytes(torch.zeros(1, 4000), RATE))
    loss = AudioLossOverrides(**JUDGED, balancer=balancer, waveform_weight=1.0, stft_weight=1.0)
    result = train_audio(options_for(tmp_path / "files", tmp_path / "out", steps=4, log_every=1, loss=loss))
    assert "si_sdr" not in result.metrics
    assert result.metrics["mel_distance"] >= 0
    state = load_tokenizer(tmp_path / "out").model.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())


LOSSES = AudioLossOverrides(**JUDGED, balancer=True, stft_weight=1.0)


def test_stereo_sounds_and_another_body(tones, tmp_path):
    network = CodecNetworkOverrides(body="strided", width=4, strides=(4, 4, 5), latent_channels=8, lstm_layers=1)
    result = train_audio(
        options_for(tones, tmp_path, channels=2, network=network, steps=2, precision="bf16-mixed", loss=LOSSES)
    )
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.spec.channels, result.hop) == (2, 80)
    sound = read_audio((tmp_path / "sounds" / "00000002-sound0.wav").read_bytes()).samples
    assert sound.shape[0] == 2
    quantizer = QuantizerOverrides(kind="fsq", levels=(4, 4))
    result = train_audio(options_for(tones, tmp_path / "fsq", quantizer=quantizer, steps=2))
    assert (result.vocab_size, result.bits_per_second) == ([16], 400)


@pytest.mark.parametrize("weight_norm", [False, True])
def test_it_can_begin_with_the_weights_of_another(weight_norm, tones, tmp_path):
    network = dataclasses.replace(SMALL, weight_norm=weight_norm)
    first = train_audio(options_for(tones, tmp_path / "first", steps=20, validate_every=20, network=network))
    resting = OptimizerOverrides(optimizer="adamw", learning_rate=1e-12, weight_decay=0.0)
    books = dataclasses.replace(BOOKS, dead_code_threshold=0.0, ema_decay=0.9999999)
    again = {"init_from": str(tmp_path / "first"), "steps": 1, "optimizer": resting, "network": network}
    with pytest.raises(ValueError, match="has another configuration than this run"):
        train_audio(options_for(tones, tmp_path / "second", **again, quantizer=books))
    second = train_audio(
        options_for(tones, tmp_path / "second", **again, loss=AudioLossOverrides(commitment_weight=0.0))
    )
    assert second.metrics["mel_distance"] == pytest.approx(first.metrics["mel_distance"], abs=0.1)


def test_validation_data_is_measured_to_its_seconds_and_then_all_of_the_data_is_trained_on(tones, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for number in range(3):
        (other / f"{number}.wav").write_bytes(wav_bytes(tone(number), RATE))
    data = {"validation_data": (str(other),), "validation_seconds": 0.25}
    result = train_audio(options_for(tones, tmp_path / "out", steps=2, **data))
    assert (result.sounds, result.validation_sounds) == (SOUNDS, 3)
    sound = read_audio((tmp_path / "out" / "sounds" / "00000002-sound0.wav").read_bytes()).samples
    assert sound.shape[1] == 2 * RATE // 4 + RATE // 2
    limited = options_for(tones, tmp_path / "limited", steps=2, validation_sounds=1)
    assert train_audio(limited).validation_sounds == 1


def test_runs_may_share_the_decoded_sounds(tones, tmp_path):
    shared = str(tmp_path / "sounds")
    for name in ("one", "two"):
        train_audio(options_for(tones, tmp_path / name, steps=1, sounds=shared))
        assert not (tmp_path / name / "data").exists()
    assert (tmp_path / "sounds" / "data" / "dataset.json").is_file()
    with pytest.raises(ValueError, match="sample_rate"):
        train_audio(options_for(tones, tmp_path / "three", steps=1, sounds=shared, sample_rate=16_000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_seconds": 0.4}, "crop_seconds was 0.3, now 0.4"),
        ({"silence_db": None}, "silence_db was -60.0, now None"),
        ({"loss": AudioLossOverrides(waveform="l2")}, "loss.waveform was l1, now l2"),
        ({"quantizer": QuantizerOverrides(codebooks=3, codebook_size=16)}, "quantizer.codebooks was 2, now 3"),
        ({"sample_rate": 16_000}, "network.sample_rate was 8000, now 16000"),
        ({"steps": 7}, "steps was 1, now 7.*--init-from"),
    ],
)
def test_a_run_with_other_options_is_refused(changes, message, tones, tmp_path):
    options = options_for(tones, tmp_path, steps=1)
    train_audio(options)
    with pytest.raises(ValueError, match=message):
        train_audio(dataclasses.replace(options, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ("/nowhere",)}, "/nowhere"),
        ({"validation_fraction": 0.999}, "all 12 sounds fall into the held-out part"),
        ({"init_from": "/nowhere"}, "nowhere"),
        (
            {"loss": AudioLossOverrides(**JUDGED), "crop_seconds": 0.1},
            "crops of 800 samples are too short for the discriminators; use a --crop-seconds of at least 0.13",
        ),
    ],
)
def test_after_a_mistake_the_corrected_command_is_not_refused(changes, message, tones, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_audio(options_for(tones, tmp_path / "out", **{"steps": 1, **changes}))
    assert train_audio(options_for(tones, tmp_path / "out", steps=1)).steps == 1


def test_mistakes_are_one_line_on_the_command_line(tones, tmp_path, capsys):
    command = ["train", "audio", "--data", str(tones), "--out", str(tmp_path / "out"), *TYPED]
    for words, message in [
        (["--crop-seconds", "0"], "--crop-seconds 0.0 must be a number above 0"),
        (["--validation-seconds", "inf"], "--validation-seconds inf must be a number above 0"),
        (["--silence-db", "3"], "--silence-db 3.0 must be below 0"),
        (["--batch-size", "0"], "--batch-size 0 must be at least 1"),
        (["--network.strides", "2"], "strides (2,) is not an option of the body frames"),
        (["--loss.feature-matching-weight", "1"], "needs a discriminator"),
        (["--loss.mel-weight", "0", "--loss.waveform-weight", "0"], "must be above 0"),
        (["--loss.quantizer-start", "1"], "would never train the codebooks"),
        (["--quantiser.codebooks", "8"], "did you mean --quantizer.codebooks"),
    ]:
        assert main([*command, *words]) in (1, 2)
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_collapsed_codebook_ends_the_run_if_it_shall(tones, tmp_path):
    books = QuantizerOverrides(codebooks=2, codebook_size=1024)
    options = options_for(tones, tmp_path / "warn", steps=3, log_every=1, usage_floor=1.0, quantizer=books)
    train_audio(options)
    said = [line.get("warnings", []) for line in log(tmp_path / "warn")]
    assert any("hardly used" in text for texts in said for text in texts)
    with pytest.raises(ValueError, match=r"hardly used.*usage 0\.\d+, --usage-floor 1\.0"):
        train_audio(dataclasses.replace(options, out=str(tmp_path / "stop"), on_collapse="stop"))


def test_discriminators_that_know_everything_are_reported(tones, tmp_path):
    options = options_for(tones, tmp_path, loss=AudioLossOverrides(**JUDGED))
    task = AudioRun(options, None).build(start(options))
    # Eight of them, whose loss is 1 if they cannot tell anything.
    assert task.warnings({"discriminator": 0.2}) == []
    assert task.warnings({"mel": 0.0}) == []
    (said,) = task.warnings({"discriminator": 0.1})
    assert "teaches nothing: lower --loss.discriminator-learning-rate" in said
