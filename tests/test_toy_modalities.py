"""Kinds of data that no package knows of, served by every command: a declaration, a tokenizer, and two registrations."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from toys.modalities import HOP, SERIES, TOY_VIDEO, SeriesTokenizer, TuneTokenizer, VideoTokenizer, known
from toys.world import Letters

from tokenize_kit.cli import main
from tokenize_kit.media.audio import read_audio
from tokenize_kit.protocol import MODALITIES, modality_named, resolved
from tokenize_kit.shards import ShardSet

TOKENIZERS = {"series": SeriesTokenizer(), "toy-video": VideoTokenizer()}
NUMBERS = {f"{number:02}": [number, -number, *range(number % 4 + 1)] for number in range(12)}


def film(number):
    """Frames of the levels that the tokenizer keeps, of two lengths and sizes; odd sides, so that the grid covers more."""
    frames, height, width = ((3, 5, 6), (5, 4, 7))[number % 2]
    levels = torch.randint(0, 8, (frames, 1, height, width), generator=torch.Generator().manual_seed(number))
    levels = levels[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :height, :width]
    return (levels * 32).to(torch.uint8).contiguous()


FILMS = {f"{number:02}": film(number) for number in range(12)}


def run(*words, code=0):
    assert main([*words, "--quiet"]) == code


def result_of(capsys, *words):
    capsys.readouterr()
    assert main([*words, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module", autouse=True)
def newcomers():
    with known():
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve samples, each a series, a film and a word for them, as files and in a tar."""
    root = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(root)
    Path("data").mkdir()
    for key, values in NUMBERS.items():
        SERIES.write(torch.tensor(values), Path(f"data/{key}.series"), TOKENIZERS["series"].spec)
        TOY_VIDEO.write(FILMS[key], Path(f"data/{key}.toyvid"), TOKENIZERS["toy-video"].spec)
        Path(f"data/{key}.txt").write_text(("odd" if int(key) % 2 else "even") + " film")
    with tarfile.open("data.tar", "w") as archive:
        for path in sorted(Path("data").iterdir()):
            archive.add(path, path.name)
    SeriesTokenizer().save("tokenizers/series")
    VideoTokenizer().save("tokenizers/toy-video")
    Letters().save("tokenizers/text")
    for kind in TOKENIZERS:
        for source, data in (("files", "data"), ("tar", "data.tar")):
            run("encode", "--tokenizer", f"tokenizers/{kind}", "--data", data, "--out", f"shards/{kind}/{source}")
    yield root
    os.chdir(before)


def grids(folder, stream):
    return {Path(record.key).stem: record.grids[stream] for record in ShardSet.open(folder).records()}


@pytest.mark.parametrize("source", ["files", "tar"])
def test_shards_hold_what_the_tokenizers_give(world, source):
    found = grids(f"shards/series/{source}", "series")
    assert {key: (ids.astype(int) - 50).tolist() for key, ids in found.items()} == NUMBERS
    found = grids(f"shards/toy-video/{source}", "toy-video")
    assert sorted(found) == sorted(FILMS)
    for key, ids in found.items():
        assert ids.tolist() == VideoTokenizer().encode(FILMS[key]).tolist()
    sizes = {record.sizes["toy-video"] for record in ShardSet.open(f"shards/toy-video/{source}").records()}
    assert sizes == {(3, 5, 6), (5, 4, 7)}


@pytest.mark.parametrize("kind", ["series", "toy-video"])
@pytest.mark.parametrize("source", ["files", "tar"])
def test_verify_and_decode_give_the_files_back(world, tmp_path, kind, source):
    shards, tokenizer = f"shards/{kind}/{source}", f"tokenizers/{kind}"
    run("verify", shards, "--tokenizer", tokenizer)
    run("decode", "--shards", shards, "--tokenizer", tokenizer, "--out", str(tmp_path / "back"))
    suffix = modality_named(kind).suffix
    back = {path.name: path.read_bytes() for path in (tmp_path / "back").rglob(f"*{suffix}")}
    assert back == {path.name: path.read_bytes() for path in Path("data").glob(f"*{suffix}")}


def test_a_kind_without_a_measure_is_measured_all_the_same(world, capsys):
    found = result_of(
        capsys, "evaluate", "--tokenizer", "tokenizers/series", "--data", "data", "--out", "evaluation/series"
    )
    values, metrics = sum(map(len, NUMBERS.values())), found["metrics"]
    assert (metrics["exact_samples"], metrics["values"], metrics["tokens"]) == (12, values, values)
    assert (metrics["values_per_token"], metrics["bits_per_value"]) == (1.0, 7.0)
    assert metrics["entropy_bits_per_value"] == pytest.approx(metrics["entropy_bits_per_token"])
    assert metrics["encode_megavalues_per_second"] > 0
    assert (found["rate"], found["speed_by_size"], found["sample_rate"]) == (None, [], None)
    assert "exact_samples counts series that come back equal" in found["protocol"]
    html = Path("evaluation/series/report.html").read_text()
    assert "<tr><th>sample</th><th>size</th><th>measured</th></tr>" in html
    assert "<td>01.series</td><td>4</td><td>exact</td>" in html


def test_a_kind_brings_its_own_measure_and_is_shown_as_it_says(world, capsys):
    found = result_of(
        capsys, "evaluate", "--tokenizer", "tokenizers/toy-video", "--data", "data", "--out", "evaluation/video"
    )
    assert found["metrics"]["frames"] == found["metrics"]["exact_frames"] == 6 * 3 + 6 * 5
    assert (found["metrics"]["mean_difference"], found["worst"]) == (0.0, [])
    assert found["metrics"]["tokens_per_frame"] == pytest.approx((6 * 3 * 3 * 3 + 6 * 5 * 2 * 4) / 48)
    html = Path("evaluation/video/report.html").read_text()
    assert html.count("<figcaption>first frame of ") == 8
    assert 'width="24" height="20"' in html


def test_a_kind_brings_the_codecs_that_it_is_compared_with(world, capsys):
    words = ["--tokenizer", "tokenizers/toy-video", "--data", "data", "--codec-pictures", "3"]
    found = result_of(capsys, "evaluate", *words, "--out", "evaluation/codecs")["rate"]
    assert list(found) == ["films", "fixed_rate", "entropy_coded", "codecs", "nearest", "protocol"]
    ids = sum(VideoTokenizer().encode(FILMS[key]).numel() for key in ("00", "01", "02"))
    # Three bits an id of eight levels.
    assert (found["films"], found["fixed_rate"]) == (
        3,
        [{"name": "tokens, fixed length", "kilobytes": pytest.approx(ids * 3 / 8000), "difference": 0.0}],
    )
    assert found["entropy_coded"][0]["kilobytes"] < found["fixed_rate"][0]["kilobytes"]
    assert [point["name"] for point in found["codecs"]["zlib"]] == ["zlib", "zlib"]
    assert [pair["codec"]["name"] for pair in found["nearest"]] == ["zlib", "zlib"]
    assert found["protocol"].splitlines()[::2] == ["The first 3 films.", "zlib at the levels 1 and 9."]
    html = Path("evaluation/codecs/report.html").read_text()
    assert "<tr><th></th><th>kB</th><th>difference</th><th>zlib kB</th></tr>" in html
    run("evaluate", *words, "--out", "evaluation/without", "--no-codecs")
    assert json.loads(Path("evaluation/without/evaluation.json").read_text())["rate"] is None


def test_options_that_a_kind_does_not_take_are_refused(world, capsys):
    words = ["evaluate", "--tokenizer", "tokenizers/toy-video", "--data", "data"]
    run(*words, "--lpips", code=1)
    said = capsys.readouterr().err
    assert "LPIPS measures pictures and videos, but the tokenizer reads toy-video; leave them out" in said
    run(*words, "--image-size", "8", code=1)
    assert "image size 8 is given, but the tokenizer reads toy-video; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["series", "toy-video"])
def test_one_file_there_and_back(world, tmp_path, capsys, kind):
    suffix, tokenizer = modality_named(kind).suffix, f"tokenizers/{kind}"
    found = result_of(capsys, "compress", f"data/05{suffix}", str(tmp_path / "a.tkc"), "--tokenizer", tokenizer)
    assert found["size"] == ([4] if kind == "series" else [5, 4, 7])
    assert result_of(capsys, "inspect", str(tmp_path / "a.tkc"))["modality"] == kind
    run("decompress", str(tmp_path / "a.tkc"), str(tmp_path / f"a{suffix}"), "--tokenizer", tokenizer)
    assert (tmp_path / f"a{suffix}").read_bytes() == Path(f"data/05{suffix}").read_bytes()


def test_inspect_knows_them(world, capsys):
    found = result_of(capsys, "inspect", "data/05.series")
    assert (found["kind"], found["shape"], found["dtype"]) == ("series file", [4], "torch.int64")
    found = result_of(capsys, "inspect", "data/05.toyvid")
    assert (found["kind"], found["frames"], found["height"], found["width"]) == ("toy-video file", 5, 4, 7)
    found = result_of(capsys, "inspect", "tokenizers/toy-video")
    assert (found["tokenizer"], found["modality"], found["grid"]) == ("toy-film", "toy-video", "time x height x width")
    found = result_of(capsys, "inspect", "shards/series/tar")
    assert (found["rows"], found["tokens"]) == (12, {"series": sum(map(len, NUMBERS.values()))})


@pytest.mark.parametrize(
    ("template", "prompt"),
    [("series", []), ("text -> series", ["--prompt", "odd film"]), ("text -> toy-video", ["--prompt", "odd film"])],
)
def test_a_transformer_trains_on_them_and_generates(world, tmp_path, capsys, template, prompt):
    streams = template.split(" -> ")
    tokenizers = [f"tokenizers/{stream}" for stream in streams]
    run("encode", "--tokenizer", *tokenizers, "--data", "data", "--out", str(tmp_path / "shards"))
    assert ShardSet.open(tmp_path / "shards").num_rows == 12
    model = ["--model.layers", "1", "--model.width", "32", "--model.heads", "2", "--context", "128"]
    words = ["--shards", str(tmp_path / "shards"), "--template", template, "--out", str(tmp_path / "model")]
    result_of(capsys, "train", "transformer", *words, *model, "--steps", "4", "--batch-size", "4")
    out = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "samples"), "--count", "3", "--seed", "1"]
    run("generate", *out, *prompt)
    kind, spec = modality_named(streams[-1]), TOKENIZERS[streams[-1]].spec
    files = sorted((tmp_path / "samples").glob(f"*{kind.suffix}"))
    sizes = [kind.size(kind.read(file.read_bytes(), spec)) for file in files]
    assert len(sizes) == 3
    if kind.name == "toy-video":
        assert set(sizes) <= {(3, 6, 6), (5, 4, 8)}
    else:
        assert min(sizes) >= (1,)


def test_a_codec_that_pads_and_knows_no_sizes(tmp_path, capsys):
    """29,102 samples are 4,158 steps of 7: four samples too many, which nobody sees."""
    sound = (np.sin(np.arange(29_102) / 30) / 2).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, 16_000)
    TuneTokenizer().save(tmp_path / "tune")
    assert len(TuneTokenizer().encode(torch.from_numpy(sound)[None])) * HOP == 29_106
    source, tokenizer, shards = (str(tmp_path / name) for name in ("a.wav", "tune", "shards"))
    out = str(tmp_path / "evaluation")
    found = result_of(capsys, "evaluate", "--tokenizer", tokenizer, "--data", source, "--out", out)
    assert (found["samples"], found["failures"], found["metrics"]["seconds"]) == (1, 0, 29_102 / 16_000)
    assert found["metrics"]["tokens"] == 4158
    assert found["metrics"]["si_sdr"] > 10
    run("encode", "--tokenizer", tokenizer, "--data", source, "--out", shards)
    run("decode", "--shards", shards, "--tokenizer", tokenizer, "--out", str(tmp_path / "back"))
    run("compress", source, str(tmp_path / "a.tkc"), "--tokenizer", tokenizer)
    run("decompress", str(tmp_path / "a.tkc"), str(tmp_path / "b.wav"), "--tokenizer", tokenizer)
    for path in (tmp_path / "back" / "a.wav", tmp_path / "b.wav"):
        assert read_audio(path.read_bytes()).samples.shape == (1, 29_102)


def test_what_a_declaration_names_is_resolved_when_asked():
    assert resolved("json:dumps") is json.dumps
    assert resolved(TuneTokenizer) is TuneTokenizer
    for wrong in ("json:nothing", "no_such_module:x", "json", ":x"):
        with pytest.raises(ValueError, match="cannot be had as module:attribute"):
            resolved(wrong)


def test_without_their_package_sound_shards_are_not_called_damaged(world, capsys, monkeypatch):
    monkeypatch.delitem(MODALITIES._registered, "series")
    capsys.readouterr()
    for words in (["verify", "shards/series/files"], ["inspect", "shards/series/files"]):
        assert main([*words, "--quiet"]) == 4
        told = capsys.readouterr().err
        assert "modality 'series' is not one of audio, image, label, text" in told
        assert "install the package that brings it" in told
        assert "damaged" not in told
