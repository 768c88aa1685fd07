"""``train video``, from films in a folder to a tokenizer that the other commands serve."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from toys.autoencoder import toy_autoencoder
from toys.films import moving

from tokenize_kit.cli.main import main
from tokenize_kit.files import sha256_of_file
from tokenize_kit.media.image import write_image
from tokenize_kit.media.video import read_video, resize_video, write_video
from tokenize_kit.metrics.image import psnr_of
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.tokenizers.learned.video.inflation import picture_options
from trainers.autoencoder.options import OptimizerOverrides, QuantizerOverrides
from trainers.autoencoder.unfinished import open_unfinished
from trainers.autoencoder.video.options import TrainVideoOptions, VideoLossOverrides, VideoNetworkOverrides
from trainers.autoencoder.video.train import VideoRun, train_video
from trainers.checkpoints import last_checkpoint, load_checkpoint
from trainers.logs import TIMING, read_log

SMALL = VideoNetworkOverrides(
    width=16, latent_channels=8, encoder_blocks=1, decoder_blocks=1, spatial_factor=4, temporal_factor=2
)
LEVELS = QuantizerOverrides(levels=(4, 4, 4))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Eight small films at 12 frames a second, one of them shorter than a clip."""
    folder = tmp_path_factory.mktemp("films")
    for number in range(8):
        write_video(moving(3 if number == 5 else 7 + number, 16, 20, seed=number), folder / f"{number}.webp", 12.0)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        write_image(moving(1, 20, 18, seed=number)[0], folder / f"{number}.png")
    return folder


def options_for(films, out, **changes):
    values = {
        "data": (str(films),),
        "out": str(out),
        "image_size": 16,
        "clip_frames": 5,
        "network": SMALL,
        "quantizer": LEVELS,
        "steps": 4,
        "batch_size": 2,
        "log_every": 1,
        "validate_every": 2,
        "validation_fraction": 0.3,
        "device": "cpu",
        "precision": "32-true",
    }
    return TrainVideoOptions(**values | changes)


def log(folder):
    lines = read_log(Path(folder) / "train_log.jsonl")
    return [{name: value for name, value in line.items() if not name.endswith(TIMING)} for line in lines]


@pytest.fixture(scope="module")
def trained(films, pictures, tmp_path_factory):
    """A run on the command line in which everything takes part."""
    out = tmp_path_factory.mktemp("run") / "tokenizer"
    words = f"train video --data {films} --out {out} --preset vqgan --steps 8 --image-size 16 --clip-frames 5 --flip"
    words += f" --pictures {pictures} --picture-weight 0.4 --quantizer.codebook-size 32 --quantizer.codebook-dim 4"
    words += " --network.width 16 --network.latent-channels 8 --network.encoder-blocks 1 --network.decoder-blocks 1"
    words += " --network.spatial-factor 4 --network.temporal-factor 2 --loss.discriminator-start 0.5 --loss.judges both"
    words += " --loss.adaptive-weight True --loss.low-weight 0.05 --loss.high-weight 0.1 --loss.difference-weight 0.5"
    words += " --log-every 1 --validate-every 4 --validation-fraction 0.3 --batch-size 2 --ema 0.9"
    words += " --device cpu --precision 32-true --quiet"
    assert main(words.split()) == 0
    return out


def test_the_folder_is_a_tokenizer_of_videos_of_any_size(trained):
    tokenizer = load_tokenizer(trained)
    assert (tokenizer.spec.modality, tokenizer.spec.frame_rate, tokenizer.spec.vocab_size) == ("video", 12.0, 32)
    assert tokenizer.encode(moving(6, 10, 13)).shape == (4, 3, 4)
    averages = load_checkpoint(last_checkpoint(trained / "checkpoints"))[0]["average_autoencoder"]
    weights = tokenizer.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in averages.items())


def test_the_log_has_every_term_of_clips_and_of_pictures_and_the_videos_are_there(trained):
    lines = {line["step"]: line for line in read_log(trained / "train_log.jsonl")}
    pictures = {step for step, line in lines.items() if "difference" not in line}
    assert 0 < len(pictures) < 8, "both kinds"
    both = {"loss", "l1", "l2", "low", "high", "batch_perplexity", "learning_rate", "gradient_norm_autoencoder"}
    judged = {"generator", "adaptive_weight", "feature_matching", "discriminator", "real_logit", "fake_logit", "lecam"}
    for step, line in lines.items():
        expected = both | (set() if step in pictures else {"difference"}) | (judged if step > 4 else set())
        assert expected <= set(line), step
        assert not judged & set(line) or step > 4
    measured = {"loss", "psnr", "psnr_first", "psnr_differences", "usage", "perplexity"}
    assert {f"validation/{name}" for name in measured} <= set(lines[8])
    line = next(line for step, line in lines.items() if step < 5 and step not in pictures)
    weighted = line["l1"] + line["l2"] + 0.05 * line["low"] + 0.1 * line["high"] + 0.5 * line["difference"]
    assert line["loss"] == pytest.approx(weighted + 0.25 * line["commitment"], rel=1e-5)
    names = {path.name for path in (trained / "videos").iterdir()}
    assert names == {"00000004-reconstructions.webp", "00000008-reconstructions.webp"}
    shown = read_video((trained / "videos" / "00000008-reconstructions.webp").read_bytes(), 12.0)
    # Two rows, originals and reconstructions, each of frames enlarged to 64 pixels.
    assert shown.frames.shape[:3] == (5, 3, 2 * 66 + 2)
    assert (shown.frames[:, :, :2] == 255).all()


def test_the_measures_are_those_of_the_tokenizer(films, tmp_path):
    result = train_video(options_for(films, tmp_path / "run", validation_data=(str(films),), steps=2))
    tokenizer = load_tokenizer(tmp_path / "run")
    whole, first, moves = [], [], []
    for path in sorted(films.iterdir()):
        frames = resize_video(read_video(path.read_bytes(), 12.0).frames[:5], 16, crop=False)[:, :, :, 2:18]
        made = tokenizer.decode_sized([tokenizer.encode(frames)], [(len(frames), 16, 16)])[0]
        error = made.float() - frames.float()
        whole.append(psnr_of(float(error.square().mean())))
        first.append(psnr_of(float(error[0].square().mean())))
        moves.append(psnr_of(float((error[1:] - error[:-1]).square().mean())))
    for name, values in (("psnr", whole), ("psnr_first", first), ("psnr_differences", moves)):
        assert result.metrics[name] == pytest.approx(sum(values) / len(values), abs=0.02), name


def test_training_makes_the_films_better(films, tmp_path):
    optimizer = OptimizerOverrides(warmup_steps=4, learning_rate=1e-2)
    result = train_video(options_for(films, tmp_path / "out", steps=80, validate_every=40, optimizer=optimizer))
    lines = {line["step"]: line for line in log(tmp_path / "out")}
    assert lines[80]["l2"] < 0.5 * lines[1]["l2"]
    assert result.metrics["psnr"] > 12
    assert result.bits_per_pixel == pytest.approx(3 * 6 / (5 * 16))
    assert (result.films, result.pictures) == (8 - result.validation_clips, 0)


class Killed(BaseException):
    """Stands for SIGKILL: nothing that catches errors catches it."""


def test_killed_and_continued_runs_give_the_bits_of_an_unbroken_one(films, pictures, tmp_path, monkeypatch):
    from trainers.autoencoder.video.task import VideoTask

    everything = {
        "preset": "vqgan",
        "steps": 6,
        "validate_every": 3,
        "checkpoint_every": 2,
        "flip": True,
        "max_scale": 1.25,
        "ema": 0.9,
        "accumulate": 2,
        "pictures": (str(pictures),),
        "picture_weight": 0.4,
        "quantizer": QuantizerOverrides(codebook_size=16, codebook_dim=4),
        "loss": VideoLossOverrides(discriminator_start=0.3, lecam_weight=0.01, judges="both"),
    }
    options = options_for(films, tmp_path / "whole", **everything)
    train_video(options)
    original = VideoTask.loss
    for stop, phase in ((1, "autoencoder"), (5, "discriminator")):
        again = dataclasses.replace(options, out=str(tmp_path / f"stopped{stop}"))

        def loss(self, phase_now, batch, step, stop=stop, phase=phase):
            if (step, phase_now) == (stop, phase):
                raise Killed
            return original(self, phase_now, batch, step)

        with monkeypatch.context() as patch:
            patch.setattr(VideoTask, "loss", loss)
            with pytest.raises(Killed):
                train_video(again)
        assert train_video(again).resumed_from == stop // 2 * 2
        one, other = tmp_path / "whole", tmp_path / f"stopped{stop}"
        names = ["model.safetensors", "tokenizer_config.json", "best.safetensors"]
        names += [str(path.relative_to(one)) for path in (one / "checkpoints").rglob("*") if path.is_file()]
        names += [f"videos/{path.name}" for path in (one / "videos").iterdir()]
        for name in names:
            assert sha256_of_file(one / name) == sha256_of_file(other / name), name
        assert log(one) == log(other)
    averages = load_checkpoint(last_checkpoint(tmp_path / "whole" / "checkpoints"))[0]["averages"]
    assert {name for name, value in averages.items() if float(value) != 0} == {"0.real", "0.fake", "1.real", "1.fake"}


def test_a_run_that_is_not_finished_is_opened_and_inspected(films, tmp_path, monkeypatch, capsys):
    from trainers.autoencoder.data import NumberedBatches

    options = options_for(films, tmp_path / "run")
    whole = NumberedBatches.batch

    def batch(self, index):
        if index == 3:
            raise KeyboardInterrupt
        return whole(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(NumberedBatches, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            train_video(options)
    tokenizer, note = open_unfinished(options.out)
    assert note.endswith("(step 2 of 4); this is the best of its weights so far")
    assert tokenizer.spec.modality == "video"
    assert main(["inspect", options.out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["command"] == "train video"


def test_the_weights_of_another_tokenizer_are_what_a_run_begins_with(films, trained, tmp_path):
    first = load_tokenizer(trained)
    words = {"width": 16, "latent_channels": 8, "encoder_blocks": 1, "decoder_blocks": 1}
    network = VideoNetworkOverrides(**words, spatial_factor=4, temporal_factor=2)
    quantizer = QuantizerOverrides(codebook_size=32, codebook_dim=4)
    run = VideoRun(options_for(films, tmp_path, preset="vqgan", network=network, quantizer=quantizer), None)
    model = run.model()
    run.begin_with(model, str(trained))
    assert all(torch.equal(value, first.model.state_dict()[name]) for name, value in model.state_dict().items())
    other = VideoRun(options_for(films, tmp_path), None)
    with pytest.raises(ValueError, match=r"differs from that of --init-from .*kind fsq instead of vq"):
        other.begin_with(other.model(), str(trained))


def test_a_tokenizer_of_pictures_is_what_a_run_begins_with(films, tmp_path):
    pictures = toy_autoencoder()
    pictures.save(tmp_path / "pictures")
    create = ["create", "frames", "--out", str(tmp_path / "frames"), "--quiet"]
    assert main(create) == 0
    network = picture_options(pictures.config.to_dict()["network"])
    network = {name: tuple(value) if isinstance(value, list) else value for name, value in network.items()}
    del network["channels"]
    changes = {"network": VideoNetworkOverrides(**network), "quantizer": QuantizerOverrides(levels=(8, 5, 5, 5))}
    run = VideoRun(options_for(films, tmp_path, clip_frames=5, **changes), None)
    model = run.model().eval()
    run.begin_with(model, str(tmp_path / "pictures"))
    picture = torch.rand(2, 3, 16, 20) * 2 - 1
    with torch.no_grad():
        made, expected = model(picture[:, :, None]), pictures.model(picture)
    assert torch.equal(made.ids[:, 0], expected[1])
    torch.testing.assert_close(made.pixels[:, :, 0], expected[0], atol=1e-5, rtol=0)
    with pytest.raises(
        ValueError, match=r"is a tokenizer of kind video; name one of 'train video' or of 'train image'"
    ):
        run.begin_with(model, str(tmp_path / "frames"))


def test_short_films_are_filled_up_or_left_out_and_that_is_said(films, tmp_path):
    class Told(Progress):
        def note(self, text):
            said.append(text)

    for short, fate, count in (("pad", "filled up with their last frame", 8), ("drop", "left out", 7)):
        said = []
        changes = {"short": short, "validation_fraction": 0.0, "steps": 1}
        result = train_video(options_for(films, tmp_path / short, **changes), Told(enabled=False))
        assert result.films == count
        assert any(
            f"1 of 8 pieces of films are shorter than the 5 frames of a clip and {fate}" in note for note in said
        )
    with pytest.raises(ValueError, match="all 8 films are shorter than --clip-frames 129; lower that"):
        train_video(options_for(films, tmp_path / "none", clip_frames=129, short="drop", validation_fraction=0.0))
    assert not (tmp_path / "none" / "run.json").exists()


def test_films_of_different_sizes_need_an_image_size_and_keys_name_what_is_held_out(films, tmp_path):
    write_video(moving(5, 8, 8), tmp_path / "odd.webp", 12.0)
    mixed = {"data": (str(films), str(tmp_path / "odd.webp")), "image_size": None}
    with pytest.raises(ValueError, match=r"has films of different sizes \(8x8 to 16x20\); give an --image-size"):
        train_video(options_for(films, tmp_path / "mixed", **mixed))
    (tmp_path / "keys.txt").write_text("3.webp\n")
    listed = options_for(films, tmp_path / "run", validation_keys=str(tmp_path / "keys.txt"), steps=1, image_size=None)
    result = train_video(listed)
    assert (result.films, result.validation_clips) == (7, 1)
