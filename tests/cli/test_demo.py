"""The demo at a very small scale: everything is made, said and shown; and run again, it has nothing left to do."""

import base64
import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from tokenize_kit.cli import main
from tokenize_kit.cli.demo import workshop
from tokenize_kit.cli.demo.options import DemoOptions
from tokenize_kit.cli.demo.pace import LEAST, Speed, measured, pace
from tokenize_kit.media.video import read_video
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.shards import ShardSet

SMALL = {
    "text_vocab": 300,
    "colors": 8,
    "image_size": 8,
    "learned_size": 16,
    "film_size": 16,
    "codebooks": 2,
    **{
        f"{name}_steps": 2
        for name in ("tokenizer", "film_tokenizer", "codec", "text", "image", "learned", "film", "speech")
    },
}


@pytest.fixture(scope="module")
def assets(tmp_path_factory, udhr_txt, emoji_tar):
    """The assets of the repository, of everything only a little."""
    root = tmp_path_factory.mktemp("assets")
    (root / "udhr.txt").write_text(udhr_txt.read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    with tarfile.open(emoji_tar) as source, tarfile.open(root / "emoji.tar", "w") as target:
        for member in source.getmembers()[:180]:
            target.addfile(member, source.extractfile(member))
    animated = emoji_tar.parent / "animated-emoji.tar"
    with tarfile.open(animated) as source, tarfile.open(root / "animated-emoji.tar", "w") as target:
        for member in source.getmembers()[:40]:
            target.addfile(member, source.extractfile(member))
    (root / "speech").mkdir()
    for name in ("cold-hearted", "ten-of-clubs"):
        samples, rate = soundfile.read(udhr_txt.parent / "speech" / f"{name}.flac", dtype="int16")
        soundfile.write(root / "speech" / f"{name}.flac", samples[:12_000], rate)
        (root / "speech" / f"{name}.txt").write_text(name)
    return root


@pytest.fixture(scope="module")
def made(assets, tmp_path_factory):
    """The folder of a demo, and the words that made it."""
    out = tmp_path_factory.mktemp("demo") / "out"
    words = ["demo", "--out", str(out), "--assets", str(assets), "--json", "--quiet"]
    for name, value in SMALL.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return out, words


@pytest.fixture(scope="module")
def result(made):
    """What the demo prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", printed)
        assert main(made[1]) == 0
    return json.loads(printed.getvalue())


def test_sound_is_coded_and_spoken(made, result):
    codec = load_tokenizer(made[0] / "tokenizers" / "codec")
    assert (codec.spec.sample_rate, len(codec.spec.codebook_sizes), codec.config.network.causal) == (16_000, 12, True)
    shapes = {
        record.key: record.grids["audio"].shape for record in ShardSet.open(made[0] / "shards" / "speech").records()
    }
    assert shapes == dict.fromkeys(("cold-hearted", "ten-of-clubs"), (38, 2))  # 12,000 samples, hop 320
    files = [Path(name) for name in result["sounds"]]
    decoded = soundfile.info(files[0])
    assert (files[0].name, decoded.frames, decoded.samplerate) == ("cold-hearted.wav", 12_000, 16_000)
    spoken = [soundfile.info(file).frames for file in files[1:]]
    assert len(spoken) == 2
    assert all(frames % 320 == 0 and 320 <= frames <= 48 * 320 for frames in spoken)
    packed = made[0] / "samples" / "compressed" / "cold-hearted.tkc"
    # 38 steps of 12 codebooks of 10 bits, and the header.
    assert 570 < packed.stat().st_size < 680
    assert result["codec_kilobits_per_second"] == pytest.approx(packed.stat().st_size * 8 / 0.75 / 1000)
    assert result["codec_mel_distance"] > 0.5
    assert result["codec_si_sdr"] < 5


def test_the_report_shows_and_plays_it(made, result):
    html = Path(result["report"]).read_text(encoding="utf-8")
    for heading in ("Pictures from captions, in learned tokens", "What a neural audio codec keeps of speech", "Text"):
        assert f"<h2>{heading}</h2>" in html
    sounds = [
        soundfile.info(io.BytesIO(base64.b64decode(data))).frames
        for data in re.findall(r"data:audio/wav;base64,([^\"]+)\"", html)
    ]
    spoken = [soundfile.info(name).frames for name in result["sounds"][1:]]
    assert sounds == [12_000] * 6 + spoken
    assert html.count('alt="spectrogram of the') == 8
    assert "cold-hearted.flac, held out" in html
    assert "ten-of-clubs.flac, trained on" in html
    for stage in ("train audio codec", "encode speech", "train speech model", "generate speech", "compress speech"):
        assert f"<td>{stage}</td>" in html
        assert stage in result["stages"]


def test_the_sheet_has_everything_in_one_picture(made, result):
    kept = max((made[0] / "tokenizers" / "learned" / "pictures").glob("*-reconstructions.png"))
    width = 8 * (3 * 16 + 8) + 8
    with Image.open(kept) as picture:
        top = round(picture.height * width / picture.width)
    with Image.open(made[0] / "pictures.png") as sheet:
        # Films: three rows of two, five frames each.
        films = round(3 * 16 * (width - 16) / (2 * 5 * 16 + 8))
        assert sheet.size == (width, top + 32 + 4 * 56 + 32 + films + 8 + 32 + 96 + 8)
        # The third spectrogram at the bottom is none of a blank strip.
        strip = sheet.crop((width * 2 // 3 + 8, sheet.height - 104, width - 8, sheet.height - 8))
        assert len(strip.getcolors(1 << 20)) > 50


def test_films_are_drawn_from_captions(made, result):
    films = [read_video(Path(name).read_bytes(), 12.0).frames for name in result["films"]]
    assert [tuple(film.shape) for film in films] == [(17, 3, 16, 16)] * 6
    assert result["film_psnr"] > 0
    html = (made[0] / "report.html").read_text(encoding="utf-8")
    assert 'alt="beating heart"' in html
    assert "in 20 tokens" in html


def test_run_again_it_trains_nothing_and_other_options_are_refused(made, result, capsys):
    weights = {path: path.read_bytes() for path in made[0].rglob("model.safetensors")}
    assert len(weights) > 8
    capsys.readouterr()
    assert main(made[1]) == 0
    again = json.loads(capsys.readouterr().out)
    same = set(result) - {"seconds", "stages"}
    assert {name: again[name] for name in same} == {name: result[name] for name in same}
    assert {path: path.read_bytes() for path in weights} == weights
    assert main([*made[1], "--seed", "1"]) == 1
    assert "holds a demo with other options" in capsys.readouterr().err


def test_wrong_assets_and_sizes_are_refused(assets, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "out"), "--assets", str(tmp_path)]) == 1
    assert f"the demo needs {tmp_path / 'udhr.txt'}" in capsys.readouterr().err
    for name in ("udhr.txt", "emoji.tar", "animated-emoji.tar"):
        (tmp_path / name).symlink_to(assets / name)
    (tmp_path / "speech").mkdir()
    assert main(["demo", "--out", str(tmp_path / "out"), "--assets", str(tmp_path)]) == 1
    assert "has 0, of which 0 are held out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for name in ("codec-steps", "speech-steps", "codebooks", "learned-size"):
        assert main(["demo", f"--{name}", "0"]) in (1, 2)
        assert f"--{name} 0 must be at least 1" in capsys.readouterr().err


def test_a_slow_machine_has_fewer_steps_and_keeps_them(tmp_path, monkeypatch):
    slow = [Speed(1e6, 1e6)]
    monkeypatch.setattr(workshop, "measured", slow.pop)
    options = DemoOptions(out=str(tmp_path / "out"), minutes=6, learned_steps=900, speech_steps=1)
    for _ in range(2):  # the second one goes on as the first, and measures nothing
        shop = workshop.Workshop(options, Progress(enabled=False))
        shop.claim()
        assert (shop.pace, shop.options.learned_steps, shop.options.speech_steps) == (LEAST, 900 * LEAST, 1)
    with pytest.raises(ValueError, match="holds a demo with other options"):
        workshop.Workshop(replace(options, minutes=5), Progress(enabled=False)).claim()
    with pytest.raises(ValueError, match="--minutes 0 must be above 0"):
        DemoOptions(minutes=0)


def test_the_pace_falls_with_the_speed_and_stays_in_its_bounds():
    fast, slow, slower, slowest = (pace(6, Speed(seconds, seconds)) for seconds in (0.001, 0.05, 0.1, 10))
    assert fast == 1 > slow > slower > slowest == LEAST


def test_both_measurements_are_of_training_steps():
    assert all(0 < seconds < 20 for seconds in measured())
