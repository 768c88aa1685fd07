"""One contract for every registered tokenizer. A newcomer adds one entry to `CASES` and is held to all of it.

A case says how to build a trained tokenizer and which samples it must serve; everything else follows from its spec.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toys.autoencoder import RVQ, VQ, toy_autoencoder
from toys.damage import read_unsigned
from toys.neural_codec import FSQ, toy_codec
from toys.neural_video import toy_video

from tokenize_kit.protocol import (
    CONFIG_FILE,
    TOKENIZERS,
    Tokenizer,
    TokenSpec,
    decode_like,
    load_tokenizer,
    modality_of,
    tokenizer_class,
    tokenizer_name,
)
from tokenize_kit.tokenizers.audio.mulaw import BOUND, MuLawTokenizer
from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
from tokenize_kit.tokenizers.image.colors import OKLAB_STEPS, coordinates
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer, PixelTokenizer
from tokenize_kit.tokenizers.text.bpe import BPETokenizer
from tokenize_kit.tokenizers.text.chars import CharsTokenizer
from tokenize_kit.tokenizers.text.labels import LabelsTokenizer
from tokenize_kit.tokenizers.text.words import WordsTokenizer
from tokenize_kit.tokenizers.video.frames import FramesTokenizer


@dataclass(frozen=True)
class Case:
    """What the contract needs to know of one tokenizer."""

    build: Callable[[], Tokenizer]
    """Makes a trained instance."""
    samples: list[Any]
    """What it must serve: at least three samples of different sizes."""
    wrong: list[Any]
    """Samples of the right modality that it must refuse with a ValueError or TypeError."""
    distance: Callable[[Any, Any], float] = field(default=lambda a, b: 0.0 if same(a, b) else float("inf"))
    """How far a reconstruction is from its sample."""
    bound: float = 0.0
    """The largest distance that is allowed; 0 for lossless tokenizers."""


def same(a, b):
    return torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b


def picture(channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)


def pictures(channels):
    sizes = [(1, 1), (1, 7), (5, 1), (16, 16), (13, 29), (48, 48)]
    return [picture(channels, height, width, seed) for seed, (height, width) in enumerate(sizes)]


def wrong_pictures(channels):
    return [
        picture(2, 4, 4),
        picture(4 if channels == 3 else 3, 4, 4),
        picture(channels, 4, 4).float() / 255,
        picture(channels, 4, 4).to(torch.int64),
        picture(channels, 0, 4),
        picture(channels, 4, 4)[0],
        picture(channels, 4, 4)[None],
    ]


def film(frames, channels, height, width):
    return torch.stack([picture(channels, height, width, seed) for seed in range(frames)])


def films(channels):
    sizes = [(1, 1, 1), (1, 8, 8), (2, 1, 7), (5, 16, 16), (6, 13, 29), (17, 8, 16)]
    return [film(frames, channels, height, width) for frames, height, width in sizes]


def wrong_films(channels):
    good = film(3, channels, 4, 4)
    other = film(3, 4 if channels == 3 else 3, 4, 4)
    return [film(3, 2, 4, 4), other, good.float() / 255, good.long(), good[:0], good[..., :0], good[0], good[None]]


def build_bpe():
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        TEXTS * 3, vocab_size=400, min_frequency=2, special_tokens=["<|end|>"], show_progress=False
    )
    with tempfile.TemporaryDirectory() as folder:
        trained.save(f"{folder}/tokenizer.json")
        return BPETokenizer.from_tokenizer_json(f"{folder}/tokenizer.json")


TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "a",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.\r\n\tTabs, und  zwei Leerzeichen ",
    "人人生而自由,在尊严和权利上一律平等。",
    "\u05e9\u05dc\u05d5\u05dd \u202e\u05e9\u05dc\0 👩🏽\u200d🚀 e\u0301 \ufeff",
    "<|end|> is text here",
    " " * 300,
    "",
]

# A lattice of 6x6x6 colours: no colour is farther from the nearest than half a step in every channel in RGB, or than
# 0.1299 in Oklab (the largest over all 2^24).
LATTICE = torch.tensor([[51 * r, 51 * g, 51 * b] for r in range(6) for g in range(6) for b in range(6)])


def largest_difference(a, b):
    return float((a.int() - b.int()).abs().max()) if a.shape == b.shape else float("inf")


def largest_oklab_distance(a, b):
    steps = coordinates(a.reshape(3, -1).numpy(), "oklab") - coordinates(b.reshape(3, -1).numpy(), "oklab")
    return float(np.sqrt((steps**2).sum(axis=0).max())) / OKLAB_STEPS if a.shape == b.shape else float("inf")


def sound(samples, channels=1, seed=0):
    """Noise whose loudness falls from full scale to far below a step."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(channels, samples, generator=generator) * 2 - 1
    return noise * torch.logspace(0, -6, samples)


def largest_gap(a, b):
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


SOUNDS = [
    *(sound(samples, seed=samples) for samples in (1, 2, 7, 319, 320, 321, 1009)),
    torch.zeros(1, 50),
    torch.ones(1, 5),
    torch.tensor([[-1.0, 1.0, 1e-30, -1e-30, -0.0]]),
]


CHANNELS = {1: SOUNDS, 2: [torch.cat([samples, samples.flip(1) / 2]) for samples in SOUNDS]}


def wrong_sounds(channels):
    good = sound(10, channels)
    bad = [
        good.abs() + 1.1,
        good + float("nan"),
        good.double(),
        good[0],
        good[None],
        good[:, :0],
        sound(10, channels + 1),
    ]
    return [*bad, (good * 100).short()]


def largest_mulaw_distance(a, b):
    """The loss in units of what the tokenizer promises."""
    return float(((a - b).abs() / (a.abs() + 1 / 255)).max()) / BOUND if a.shape == b.shape else float("inf")


def largest_pcm_distance(a, b):
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


def library(name, *options):
    """A quantizer of vector-quantize-pytorch."""
    return {"kind": "library", "library_class": name, "library_options": options}


def characters_changed(a, b):
    """Part of the characters that are others now, and not U+FFFD."""
    assert len(a) == len(b)
    assert all(old == new or new == "\ufffd" for old, new in zip(a, b, strict=True))
    return sum(old != new for old, new in zip(a, b, strict=True)) / max(1, len(a))


def known_words_lost(a, b):
    """Known words and marks that are not there as before."""
    known = re.compile(r"\b(?:und|All)\b|[.\n|]")
    return float(known.findall(a) != known.findall(b))


CASES: dict[str, list[Case]] = {
    "mulaw": [Case(MuLawTokenizer, SOUNDS, wrong_sounds(1), largest_mulaw_distance, 1 + 1e-5)],
    "pcm": [
        Case(PCMTokenizer, SOUNDS, wrong_sounds(1), largest_pcm_distance, 1 / 32768),
        Case(
            lambda: PCMTokenizer(44_100, 2),
            [sound(samples, 2, seed=samples) for samples in (1, 2, 321)],
            wrong_sounds(2),
            largest_pcm_distance,
            1 / 32768,
        ),
    ],
    "bpe": [Case(build_bpe, TEXTS, [b"bytes", 3, None, "lone \ud800 surrogate"])],
    "chars": [
        Case(lambda: CharsTokenizer("e nai", "bytes"), TEXTS, [b"bytes", 3, None, "lone \ud800 surrogate"]),
        Case(
            lambda: CharsTokenizer("e nai"),
            TEXTS,
            [b"bytes", 3, None, "lone \ud800 surrogate"],
            characters_changed,
            1.0,
        ),
    ],
    "words": [
        Case(
            lambda: WordsTokenizer(["und", " ", "All", ".", "\n", "<", "|", "end"]),
            TEXTS,
            [b"bytes", 3, None, "lone \ud800 surrogate"],
            known_words_lost,
            0.5,
        )
    ],
    "labels": [
        Case(lambda: LabelsTokenizer(["0", "1", "10"]), ["10", "0", "1"], [b"0", 0, None, "2", "", " \n"]),
        Case(
            lambda: LabelsTokenizer(["0", "1", "2"], ["dog", "cat", "hot dog"]),
            ["0", "cat", "hot dog", " 2\n"],
            [b"0", 0, None, "3", "cat dog", ""],
            lambda a, b: float({"0": "dog", " 2\n": "hot dog"}.get(a, a) != b) + 0.5,
            0.5,
        ),
    ],
    "pixels": [Case(lambda c=c: PixelTokenizer(c), pictures(c), wrong_pictures(c)) for c in (1, 3, 4)],
    "palette": [
        Case(lambda: PaletteTokenizer(LATTICE), pictures(3), wrong_pictures(3), largest_difference, 25),
        Case(lambda: PaletteTokenizer(LATTICE, "oklab"), pictures(3), wrong_pictures(3), largest_oklab_distance, 0.13),
    ],
    "frames": [Case(lambda c=c: FramesTokenizer(12.0, c), films(c), wrong_films(c)) for c in (1, 3, 4)],
    # Their weights are random: all that is asked of the round trip is a picture of the same size.
    "autoencoder": [
        Case(lambda c=c, o=o: toy_autoencoder(channels=c, **o), pictures(c), wrong_pictures(c), largest_difference, 255)
        for c, o in (
            (3, {}),
            (1, {"quantizer": VQ}),
            (3, {"quantizer": RVQ, "tile": 16}),
            (4, {"attention": True, "norm": "group", "tile": 32}),
            (3, {"quantizer": library("ResidualFSQ", "num_quantizers=2", "levels=5,5,3"), "tile": 16}),
        )
    ],
    # The same: a sound of the same length, within [-1, 1].
    "codec": [
        Case(lambda o=o: toy_codec(**o), CHANNELS[c], wrong_sounds(c), largest_gap, 2)
        for c, o in (
            (1, {"network": "frames"}),
            (2, {"network": "frames", "causal": True, "channels": 2, "quantizer": FSQ}),
            (1, {"network": "encodec", "causal": True}),
            (2, {"network": "encodec", "channels": 2}),
            (1, {"network": "dac", "quantizer": FSQ, "weight_norm": True}),
            (1, {"quantizer": library("GroupedResidualVQ", "groups=2", "num_quantizers=2", "codebook_size=32")}),
        )
    ],
    # And a video of the same length and size.
    "video": [
        Case(lambda c=c, o=o: toy_video(channels=c, **o), films(c), wrong_films(c), largest_difference, 255)
        for c, o in (
            (3, {}),
            (1, {"quantizer": RVQ}),
            (4, {"network": "bands", "tile": 8}),
            (3, {"network": "haar", "quantizer": library("ResidualFSQ", "num_quantizers=2", "levels=5,5,3")}),
        )
    ],
}

# What lives in this process only, such as the toys of other tests, is not ours to check.
NAMES = sorted(point.name for point in entry_points(group=TOKENIZERS.group))


def test_every_registered_tokenizer_is_under_contract():
    missing = sorted(set(NAMES) - set(CASES))
    assert not missing, f"add a Case for {', '.join(missing)} to CASES in tests/test_tokenizer_contract.py"


@pytest.fixture(
    scope="module",
    params=[pytest.param((name, case), id=f"{name}-{i}") for name in CASES for i, case in enumerate(CASES[name])],
)
def contract(request):
    name, case = request.param
    tokenizer = case.build()
    assert tokenizer_name(tokenizer) == name
    return tokenizer, case


@pytest.fixture(scope="module")
def alone(contract):
    """The ids of each sample by itself, and what they decode to."""
    tokenizer, case = contract
    grids = [tokenizer.encode(sample) for sample in case.samples]
    return grids, [tokenizer.decode(ids) for ids in grids]


def test_it_is_a_tokenizer_and_its_spec_survives_json(contract):
    tokenizer, _ = contract
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(tokenizer.spec, TokenSpec)
    assert TokenSpec.from_dict(json.loads(json.dumps(tokenizer.spec.to_dict()))) == tokenizer.spec
    assert len(tokenizer.fingerprint) == 64
    int(tokenizer.fingerprint, 16)


def test_ids_are_int64_in_range_with_the_axes_of_the_spec(contract, alone):
    tokenizer, case = contract
    limits = torch.tensor(tokenizer.spec.vocab_size)
    for sample, ids in zip(case.samples, alone[0], strict=True):
        assert ids.dtype == torch.int64
        assert ids.device.type == "cpu"
        assert ids.ndim == len(tokenizer.spec.axes)
        assert ids.numel() == 0 or (int(ids.min()) >= 0 and bool((ids < limits).all()))
        for axis, step, size in zip(tokenizer.spec.axes, tokenizer.spec.step, ids.shape, strict=True):
            if axis in ("height", "width") and step is not None:
                assert size == -(-sample.shape[-2 if axis == "height" else -1] // step)


def test_round_trip_or_bounded_loss(contract, alone):
    tokenizer, case = contract
    assert (case.bound == 0) == tokenizer.spec.lossless
    for sample, ids in zip(case.samples, alone[0], strict=True):
        (made,) = decode_like(tokenizer, [ids], [sample])
        assert case.distance(sample, made) <= case.bound


def test_encoding_leaves_the_sample_alone_and_is_repeatable(contract, alone):
    tokenizer, case = contract
    for sample, grid, decoded in zip(case.samples, *alone, strict=True):
        before = sample.clone() if isinstance(sample, torch.Tensor) else sample
        again = tokenizer.encode(sample)
        assert same(sample, before)
        assert torch.equal(again, grid)
        assert same(tokenizer.decode(again), decoded)
        assert torch.equal(again, grid)


def test_a_batch_of_mixed_sizes_gives_what_one_by_one_gives(contract, alone):
    tokenizer, case = contract
    samples, single, made = ([*each, *reversed(each)] for each in (case.samples, *alone))
    for got, expected in zip(tokenizer.encode_batch(samples), single, strict=True):
        assert got.dtype == torch.int64
        assert torch.equal(got, expected)
    decoded = tokenizer.decode_batch(single)
    assert all(map(same, decoded, made))
    assert list(tokenizer.encode_batch([])) == []
    assert list(tokenizer.decode_batch([])) == []


def test_narrow_ids_as_shards_store_them_decode_to_the_same(contract, alone):
    tokenizer, _ = contract
    narrow = np.uint8 if tokenizer.spec.max_vocab_size <= 256 else np.uint16
    for ids, decoded in zip(*alone, strict=True):
        stored = torch.from_numpy(ids.numpy().astype(narrow).astype(np.int32))
        assert same(tokenizer.decode(stored), decoded)


def test_save_and_load(contract, alone, tmp_path):
    tokenizer, case = contract
    tokenizer.save(tmp_path / "saved")
    for loaded in (type(tokenizer).load(tmp_path / "saved"), load_tokenizer(tmp_path / "saved")):
        assert type(loaded) is type(tokenizer)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.spec == tokenizer.spec
    for sample, ids, decoded in zip(case.samples, *alone, strict=True):
        assert torch.equal(loaded.encode(sample), ids)
        assert same(loaded.decode(ids), decoded)
    names = {path.name for path in (tmp_path / "saved").rglob("*")}
    assert CONFIG_FILE in names
    assert {name.rpartition(".")[2] for name in names} <= {"json", "safetensors"}, "no pickles, nothing half written"


def test_saving_is_repeatable_and_two_builds_are_one_tokenizer(contract, tmp_path):
    tokenizer, case = contract
    case.build().save(tmp_path / "a")
    tokenizer.save(tmp_path / "b")
    tokenizer.save(tmp_path / "b")
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert contents[0] == contents[1]


def test_another_tokenizer_is_not_overwritten(contract, tmp_path):
    tokenizer, _ = contract
    other = PaletteTokenizer([[1, 2, 3]])
    other.save(tmp_path)
    with pytest.raises(ValueError, match="already holds another tokenizer"):
        tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == other.fingerprint


def test_wrong_samples_are_refused_with_one_clear_line(contract):
    tokenizer, case = contract
    other_modality = picture(3, 4, 4) if modality_of(tokenizer.spec).textual else "a text"
    with pytest.raises(TypeError) as caught:
        tokenizer.encode(other_modality)
    assert type(other_modality).__name__ in str(caught.value)
    for sample in case.wrong:
        with pytest.raises((TypeError, ValueError)) as caught:
            tokenizer.encode(sample)
        assert len(str(caught.value)) > 15
        assert "\n" not in str(caught.value)
        with pytest.raises((TypeError, ValueError)):
            tokenizer.encode_batch([case.samples[0], sample])


def test_wrong_ids_are_refused(contract):
    tokenizer, case = contract
    good = tokenizer.encode(case.samples[0])
    for value in (-1, tokenizer.spec.max_vocab_size, 2**40):
        bad = good.clone()
        bad.view(-1)[-1] = value
        with pytest.raises(ValueError, match=str(value)):
            tokenizer.decode(bad)
        with pytest.raises(ValueError, match=str(value)):
            tokenizer.decode_batch([good, bad])
    with pytest.raises(ValueError, match="axes"):
        tokenizer.decode(good[None])
    for kind in (good.float(), good.bool(), good.tolist()):
        with pytest.raises(TypeError):
            tokenizer.decode(kind)


def test_changed_files_are_refused(contract, tmp_path):
    tokenizer, _ = contract
    tokenizer.save(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        original = path.read_bytes()
        for changed in (b"", original[: len(original) // 2], b"{}", b"\xff" * 20):
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=r"\S{10}|\S+ "):
                load_tokenizer(tmp_path)
        path.unlink()
        with pytest.raises((ValueError, FileNotFoundError)):
            load_tokenizer(tmp_path)
        path.write_bytes(original)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


def test_foreign_configs_are_refused(contract, tmp_path):
    tokenizer, _ = contract
    tokenizer.save(tmp_path)
    # Without sums, as before there were some: what the values say of each other is compared as well.
    config = read_unsigned(tmp_path / CONFIG_FILE, "sha256")
    cases = [
        ({"format_version": 99}, "format version 99"),
        ({"format_version": None}, "format version None"),
        ({"tokenizer": "unheard-of"}, "unheard-of"),
        ({"fingerprint": "0" * 64}, "was changed after it was saved"),
        ({"fingerprint": None}, "'fingerprint' is missing"),
        ({"options": []}, "'options' is missing"),
        ({"spec": config["spec"] | {"vocab_size": 7}}, "was changed after it was saved"),
    ]
    for changes, message in cases:
        (tmp_path / CONFIG_FILE).write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path)


def test_a_palette_whose_colours_were_exchanged_is_refused(tmp_path):
    """Files that are well-formed but not the saved ones are caught by the fingerprint, also where there are no sums of them."""
    PaletteTokenizer(LATTICE).save(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(read_unsigned(tmp_path / CONFIG_FILE, "sha256")))
    save_file({"colors": LATTICE.flip(0).to(torch.uint8).contiguous()}, tmp_path / "palette.safetensors")
    with pytest.raises(ValueError, match="was changed after it was saved"):
        load_tokenizer(tmp_path)
    save_file({"colours": LATTICE.to(torch.uint8)}, tmp_path / "palette.safetensors")
    with pytest.raises(ValueError, match="colours"):
        load_tokenizer(tmp_path)


def test_the_classes_are_found_by_their_names():
    for name in CASES:
        assert type(CASES[name][0].build()) is tokenizer_class(name)
