"""The ground floor: specs, the registry, tokenizer folders, id checks and fingerprints."""

import json

import pytest
import torch

from tokenize_kit import Tokenizer, load_tokenizer, register_tokenizer, registered_tokenizers
from tokenize_kit.protocol import (
    CONFIG_FILE,
    TokenSpec,
    check_ids,
    fingerprint_of,
    read_config,
    tokenizer_class,
    tokenizer_name,
)
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer, PixelTokenizer

IMAGE = TokenSpec("image", 512, ("height", "width"), (1, 1), lossless=False, channels=3)
AUDIO = TokenSpec("audio", (1024, 512), ("time", "codebook"), (320, 1), lossless=False, channels=1, sample_rate=16_000)


@pytest.mark.parametrize("spec", [IMAGE, AUDIO, TokenSpec("text", 300, ("time",), (None,), True)])
def test_specs_survive_json(spec):
    assert TokenSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "smell"}, "'smell' is not one of audio, image, label, text"),
        ({"axes": []}, "one entry for each"),
        ({"step": [1]}, "one entry for each"),
        ({"vocab_size": 0}, "must be positive"),
        ({"vocab_size": [4, -1]}, "must be positive"),
        ({"vocab_size": [4, 4]}, "last axis must be 'codebook'"),
        ({"flavour": 3}, "unknown field 'flavour'"),
    ],
)
def test_wrong_specs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TokenSpec.from_dict(IMAGE.to_dict() | changes)


def test_an_incomplete_spec_is_refused():
    with pytest.raises(ValueError, match="incomplete token spec"):
        TokenSpec.from_dict({"modality": "text"})


def test_codebook_sizes():
    assert (IMAGE.codebook_sizes, IMAGE.max_vocab_size) == ((512,), 512)
    assert (AUDIO.codebook_sizes, AUDIO.max_vocab_size) == ((1024, 512), 1024)


def test_the_registry_knows_ours_and_suggests():
    assert {"bpe", "palette", "pixels"} <= set(registered_tokenizers())
    assert tokenizer_class("palette") is PaletteTokenizer
    assert tokenizer_name(PixelTokenizer(1)) == "pixels"
    with pytest.raises(ValueError, match="did you mean 'palette'"):
        tokenizer_class("palete")


def test_names_belong_to_one_class(monkeypatch):
    monkeypatch.setattr("tokenize_kit.protocol.TOKENIZERS._registered", {})

    class Mine(PixelTokenizer):
        pass

    with pytest.raises(ValueError, match="Mine is not registered"):
        tokenizer_name(Mine)
    with pytest.raises(ValueError, match="'pixels' is already registered"):
        register_tokenizer("pixels", Mine)
    register_tokenizer("test-mine", Mine)
    register_tokenizer("test-mine", Mine)
    assert tokenizer_name(Mine(1)) == "test-mine"
    assert tokenizer_class("test-mine") is Mine

    class Other(PixelTokenizer):
        pass

    with pytest.raises(ValueError, match="'test-mine' is already registered"):
        register_tokenizer("test-mine", Other)


def test_batches_are_loops_unless_a_tokenizer_does_better(make_picture):
    tokenizer = PixelTokenizer(1)
    samples = [make_picture(1, 2, 3), make_picture(1, 5, 1)]
    grids = Tokenizer.encode_batch(tokenizer, samples)
    assert [grid.shape for grid in grids] == [(2, 3), (5, 1)]
    assert all(torch.equal(a, b) for a, b in zip(Tokenizer.decode_batch(tokenizer, grids), samples, strict=True))


@pytest.mark.parametrize(
    ("ids", "spec", "kind", "message"),
    [
        ([[1]], IMAGE, TypeError, "got list"),
        (torch.zeros(1, 1), IMAGE, TypeError, "torch.float32"),
        (torch.zeros(1, 1, dtype=torch.bool), IMAGE, TypeError, "torch.bool"),
        (torch.zeros(1, dtype=torch.int64), IMAGE, ValueError, "has 1 axes"),
        (torch.tensor([[0, 512]]), IMAGE, ValueError, "id 512 is outside"),
        (torch.tensor([[0, -1]]), IMAGE, ValueError, "id -1 is outside"),
        (torch.tensor([[1023, 512]]), AUDIO, ValueError, "id 512 is outside"),
        (torch.zeros(1, 3, dtype=torch.int64), AUDIO, ValueError, "3 codebooks"),
    ],
)
def test_ids_are_checked(ids, spec, kind, message):
    with pytest.raises(kind, match=message):
        check_ids(ids, spec)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_type_of_ids_becomes_int64(dtype):
    assert check_ids(torch.tensor([[0, 127]], dtype=dtype), IMAGE).dtype == torch.int64
    assert check_ids(torch.tensor([[1023, 511]]), AUDIO).tolist() == [[1023, 511]]
    assert check_ids(torch.tensor([[1023]]), AUDIO).tolist() == [[1023]]  # the first codebook alone
    assert check_ids(torch.zeros(0, 4, dtype=dtype), IMAGE).shape == (0, 4)


def test_the_fingerprint_covers_name_options_and_every_part_of_the_tensors():
    base = {"w": torch.arange(6, dtype=torch.int32).reshape(2, 3)}
    variants = [
        fingerprint_of("a", {"x": 1}, base),
        fingerprint_of("b", {"x": 1}, base),
        fingerprint_of("a", {"x": 2}, base),
        fingerprint_of("a", {"x": 1}),
        fingerprint_of("a", {"x": 1}, {"v": base["w"]}),
        fingerprint_of("a", {"x": 1}, {"w": base["w"].reshape(3, 2)}),
        fingerprint_of("a", {"x": 1}, {"w": base["w"].to(torch.int64)}),
        fingerprint_of("a", {"x": 1}, {"w": base["w"] + 1}),
    ]
    assert len(set(variants)) == len(variants)
    assert variants[0] == fingerprint_of("a", {"x": 1}, {"w": base["w"].T.contiguous().T})
    assert fingerprint_of("a", {"x": 1, "y": 2}) == fingerprint_of("a", {"y": 2, "x": 1})
    assert fingerprint_of("a", {}, {"s": torch.tensor(3)}) != fingerprint_of("a", {}, {"s": torch.tensor(4)})


def test_fingerprints_of_ours_never_change():
    """Shards and models on users' disks name them; a change here makes all of them refuse their tokenizers."""
    assert PixelTokenizer(3).fingerprint == "7235051cd47e40762c94004f66dcae2abc55d35931cb513a66c7c18daa08b4e8"
    assert (
        PaletteTokenizer([[0, 0, 0], [255, 128, 1]]).fingerprint
        == "3354ae9a2fea47a39538847e68a26373ffe0edd73103475b3f29acf8f59c876b"
    )


def test_folders_that_hold_no_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer folder at .*missing"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(ValueError, match=f"no {CONFIG_FILE}"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenize-kit import bpe"):
        load_tokenizer(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        PixelTokenizer(3).save(tmp_path / "file")


def test_saving_again_is_fine_and_over_another_is_refused(tmp_path):
    PixelTokenizer(3).save(tmp_path)
    PixelTokenizer(3).save(tmp_path)
    before = read_config(tmp_path)
    with pytest.raises(ValueError, match="already holds another tokenizer"):
        PixelTokenizer(1).save(tmp_path)
    assert read_config(tmp_path) == before


def test_load_of_the_wrong_class_says_so(tmp_path):
    PixelTokenizer(3).save(tmp_path)
    with pytest.raises(ValueError, match="holds a 'pixels' tokenizer, not 'palette'"):
        PaletteTokenizer.load(tmp_path)
