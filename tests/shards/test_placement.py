"""--device and --precision: the default is the CPU in float32 and leaves no trace, all else is asked for and remembered."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys.autoencoder import RVQ, toy_autoencoder
from toys.neural_codec import NETWORKS, toy_codec
from toys.simple import RaggedToyText, ToyImage

from tokenize_kit.cli import main
from tokenize_kit.media.audio import wav_bytes
from tokenize_kit.protocol import DeviceTokenizer, Placement, load_tokenizer, placed, placement_for
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.encode import EncodeOptions, encode

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def pictures(count=4, size=32):
    generator = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(size), np.arange(size))[..., None] * 3
    return [(ramp + generator.integers(0, 40, (size, size, 3))).astype(np.uint8) for _ in range(count)]


def picture_ids(tokenizer):
    samples = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures()]
    return torch.stack(tokenizer.encode_batch(samples)), tokenizer


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Pictures with captions, and tokenizers of both, in the folder where commands run."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for number, picture in enumerate(pictures()):
        Image.fromarray(picture).save(f"data/{number}.png")
        Path(f"data/{number}.txt").write_text(f"picture {number}")
    toy_autoencoder().save("learned")
    RaggedToyText().save("text")
    return EncodeOptions(("learned",), ("data/*.png",), "out", shard_mb=0.003)


@pytest.mark.parametrize("quantizer", [None, RVQ])
def test_pictures_in_bfloat16_have_mostly_the_ids_of_float32(quantizer):
    given = {} if quantizer is None else {"quantizer": quantizer}
    exact, tokenizer = picture_ids(toy_autoencoder(**given))
    fingerprint, decoded = tokenizer.fingerprint, tokenizer.decode(exact[0])
    mixed, same = picture_ids(tokenizer.to("cpu", "bf16-mixed"))
    assert same is tokenizer
    assert (mixed.shape, mixed.dtype) == (exact.shape, torch.int64)
    assert 0.6 < (mixed == exact).double().mean() < 1
    rounded = tokenizer.decode(exact[0])
    assert rounded.dtype == torch.uint8
    assert 0 < (rounded.int() - decoded.int()).abs().double().mean() < 4
    assert tokenizer.fingerprint == fingerprint == toy_autoencoder(**given).to("cpu", "bf16-mixed").fingerprint
    # And back again, to the bit.
    assert torch.equal(picture_ids(tokenizer.to("cpu"))[0], exact)
    with pytest.raises(ValueError, match="precision 'float16' must be 32-true or bf16-mixed"):
        tokenizer.to("cpu", "float16")


@pytest.mark.parametrize("network", NETWORKS)
def test_sounds_in_bfloat16_have_mostly_the_ids_of_float32(network):
    codec = toy_codec(network)
    sound = torch.rand(1, 2000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact, decoded = codec.encode(sound), codec.decode(codec.encode(sound))
    codec.to("cpu", "bf16-mixed")
    mixed = codec.encode(sound)
    assert (mixed.shape, mixed.dtype) == (exact.shape, torch.int64)
    assert 0.6 < (mixed == exact).double().mean() < 1
    # The same in any pieces, as in float32.
    assert torch.equal(torch.cat(list(codec.encode_pieces(sound.split(77, 1)))), mixed)
    rounded = codec.decode(exact)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - decoded).abs().mean() < 0.02
    codec.to("cpu")
    assert torch.equal(codec.encode(sound), exact)


def test_the_place_is_decided_once_for_all_tokenizers():
    learned, fixed = toy_autoencoder(), ToyImage()
    assert isinstance(learned, DeviceTokenizer)
    assert isinstance(toy_codec(), DeviceTokenizer)
    assert not isinstance(fixed, DeviceTokenizer)
    for device in ("cpu", "auto"):
        assert placement_for([fixed], device, "32-true") == Placement()
    assert placement_for([learned, fixed], "auto", "bf16-mixed").precision == "bf16-mixed"
    assert placement_for([learned], "cpu", "bf16-mixed") == Placement("cpu", "bf16-mixed")
    assert Placement().to_dict() == {}
    assert Placement("cuda", "bf16-mixed").to_dict() == {"device": "cuda", "precision": "bf16-mixed"}
    assert Placement("cpu", "bf16-mixed").place(fixed) is fixed
    for device, precision, words in (
        ("cuda", "32-true", "--device cuda: a ToyImage computes on the CPU in its own way alone; leave it out"),
        (
            "cpu",
            "bf16-mixed",
            "--precision bf16-mixed: a ToyImage computes on the CPU in its own way alone; leave it out",
        ),
        ("auto", "bf16-mixed", "--precision bf16-mixed: a ToyImage .*; leave it out"),
        ("gpu", "32-true", "--device gpu must be auto, cpu or cuda"),
        ("cpu", "16", "--precision 16 must be 32-true or bf16-mixed"),
    ):
        with pytest.raises(ValueError, match=words):
            placed(fixed, device, precision)
    with pytest.raises(ValueError, match=r"--device cuda: a ToyImage .*; with --device auto it stays there"):
        placement_for([learned, fixed], "cuda", "32-true")


def test_a_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    learned, fixed = toy_autoencoder(), ToyImage()
    assert placement_for([learned], "cuda", "32-true") == Placement("cuda")
    assert placement_for([learned, fixed], "auto", "bf16-mixed") == Placement("cuda", "bf16-mixed")
    assert placement_for([fixed], "auto", "32-true") == Placement()
    assert placement_for([learned], "cpu", "32-true") == Placement()
    moved = []
    monkeypatch.setattr(type(learned), "to", lambda self, *where: moved.append(where) or self)
    assert Placement("cuda").place(learned) is learned
    assert moved == [("cuda", "32-true")]


@NO_GPU
@pytest.mark.parametrize(
    "command",
    [
        "encode --tokenizer learned --data data/0.png --out out",
        "decode --tokenizer learned --shards made --out out",
        "evaluate --tokenizer learned --data data/0.png",
        "compress data/0.png out.tkc --tokenizer learned",
        "decompress made.tkc out.png --tokenizer learned",
    ],
)
def test_without_a_gpu_it_is_said_in_one_line(world, capsys, command):
    encode(replace(world, out="made"))
    assert main(["compress", "data/0.png", "made.tkc", "--tokenizer", "learned", "--quiet"]) == 0
    capsys.readouterr()
    assert main([*command.split(), "--quiet", "--device", "cuda"]) == 1
    assert capsys.readouterr().err == "error: --device cuda: torch finds no usable GPU here; use --device cpu\n"
    assert not Path("out").exists()
    assert not Path("out.png").exists()


def test_the_default_leaves_no_trace_in_the_plan_and_all_else_is_remembered(world):
    encode(world)
    plan = json.loads(Path("out/plan.json").read_text())
    assert "device" not in plan["options"]
    assert "precision" not in plan["options"]
    before = Path("out/plan.json").read_bytes()
    encode(replace(world, device="cpu", precision="32-true"))
    assert Path("out/plan.json").read_bytes() == before
    with pytest.raises(ValueError, match=r'options.precision was null, is now "bf16-mixed"'):
        encode(replace(world, precision="bf16-mixed"))
    mixed = replace(world, precision="bf16-mixed", out="mixed")
    encode(mixed)
    for workers in (1, 2):
        again = replace(mixed, out=f"mixed{workers}", workers=workers)
        encode(again)
        for path in Path("mixed").glob("*.*"):
            assert path.read_bytes() == (Path(again.out) / path.name).read_bytes()
    exact, rounded = (
        np.concatenate([record.grids["image"].reshape(-1) for record in ShardSet.open(name).records()])
        for name in ("out", "mixed")
    )
    assert exact.shape == rounded.shape
    assert 0.6 < (exact == rounded).mean() < 1
    assert json.loads(Path("mixed/dataset.json").read_text())["options"]["precision"] == "bf16-mixed"
    with pytest.raises(ValueError, match=r'options.precision was "bf16-mixed", is now null'):
        encode(replace(mixed, precision="32-true"))


def test_the_ledger_says_with_what_a_shard_was_made_and_decides_nothing_by_it(world):
    encode(replace(world, precision="bf16-mixed"))
    ledger = json.loads(Path("out/00000.json").read_text())
    made = ledger.pop("made")
    del ledger["own_digest"]
    assert made.pop("platform").startswith(("Linux", "Darwin"))
    assert made == {
        "tokenize-kit": version("tokenize-kit"),
        "torch": version("torch"),
        "device": "cpu",
        "precision": "bf16-mixed",
    }
    # As an earlier version wrote it: the shard counts as done.
    Path("out/00000.json").write_text(json.dumps(ledger))
    shard = Path("out/00000.arrow").stat().st_mtime_ns
    encode(replace(world, precision="bf16-mixed"))
    assert Path("out/00000.arrow").stat().st_mtime_ns == shard
    assert json.loads(Path("out/00000.json").read_text()) == ledger


def test_auto_leaves_tokenizers_that_have_no_choice(world):
    both = replace(world, tokenizer=("learned", "text"), data=("data",), precision="bf16-mixed")
    with pytest.raises(ValueError, match=r"a RaggedToyText computes .*; with --device auto it stays there"):
        encode(both)
    if not torch.cuda.is_available():
        assert encode(replace(both, device="auto")).rows == 4


def test_every_command_takes_a_precision(world, capsys):
    precision = ["--precision", "bf16-mixed", "--quiet"]
    encode(world)
    assert main(["decode", "--shards", "out", "--tokenizer", "learned", "--out", "exact", "--quiet"]) == 0
    assert main(["decode", "--shards", "out", "--tokenizer", "learned", "--out", "mixed", *precision]) == 0
    first, second = (np.asarray(Image.open(f"{folder}/0.png")).astype(int) for folder in ("exact", "mixed"))
    assert 0 < np.abs(first - second).mean() < 4
    assert main(["compress", "data/0.png", "0.tkc", "--tokenizer", "learned", *precision]) == 0
    assert main(["decompress", "0.tkc", "0.png", "--tokenizer", "learned", *precision]) == 0
    with Image.open("0.png") as back:
        assert back.size == (32, 32)
    capsys.readouterr()
    assert main(["evaluate", "--tokenizer", "learned", "--data", "data/*.png", "--json", *precision]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["samples"] == 4
    assert measured["fingerprint"] == load_tokenizer("learned").fingerprint
    Path("a.wav").write_bytes(wav_bytes(torch.zeros(1, 100), 8000))
    toy_codec(sample_rate=8000).save("codec")
    assert main(["compress", "a.wav", "a.tkc", "--tokenizer", "codec", *precision]) == 0
    assert main(["decompress", "a.tkc", "b.wav", "--tokenizer", "codec", *precision]) == 0


def test_a_size_for_pictures_is_refused_where_there_are_none(world, capsys):
    command = "encode --tokenizer text --data data/0.txt --out none --image-size 64 --quiet"
    assert main(command.split()) == 1
    expected = "error: image size 64 is given, but the tokenizer reads text; leave it out\n"
    assert capsys.readouterr().err == expected
    assert not Path("none").exists()
    assert main("evaluate --tokenizer text --data data/0.txt --image-size 64 --quiet".split()) == 1
    assert capsys.readouterr().err == expected


def test_verify_shows_how_far_it_is(world, capsys):
    encode(world)
    capsys.readouterr()
    assert main(["verify", "out"]) == 0
    assert "verify 100%" in capsys.readouterr().err
    assert main(["verify", "out", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
