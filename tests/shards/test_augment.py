"""What is drawn for samples when they are encoded: by seed and key alone, and never more than was asked for."""

import json
import tarfile

import numpy as np
import pytest
import torch

from tokenize_kit.cli import main
from tokenize_kit.modalities.picture_augmentations import FILMS, PICTURES
from tokenize_kit.modalities.text_augmentations import TEXTS
from tokenize_kit.protocol import modality_named
from tokenize_kit.protocol.augmentations import augmentation_of, augmentations_of
from tokenize_kit.shards import ShardSet

CAPTION = "nerd face, clever, glasses, geek"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    (root / "captions.txt").write_text(CAPTION)
    assert main(["train", "chars", "--data", str(root / "captions.txt"), "--out", str(root / "text"), "--quiet"]) == 0
    assert main(["create", "pixels", "--out", str(root / "pixels"), "--quiet"]) == 0
    return root


@pytest.fixture
def few(tmp_path, emoji_tar):
    """Six emoji with their long captions."""
    path = tmp_path / "few" / "emoji.tar"
    path.parent.mkdir()
    with tarfile.open(emoji_tar) as source, tarfile.open(path, "w") as target:
        for member in source.getmembers()[:18]:
            target.addfile(member, source.extractfile(member))
    return path


def encoded(tmp_path, tokenizers, data, name, *words):
    out = tmp_path / name
    base = ["encode", "--tokenizer", str(tokenizers / "text"), "--tokenizer", str(tokenizers / "pixels")]
    asked = ["--data", str(data), "--field", "caption", "--image-size", "16", "--out", str(out), "--quiet"]
    code = main([*base, *asked, *words])
    return code, {} if code else {one.key: one.grids for one in ShardSet.open(out).records()}


def test_what_is_drawn_follows_from_seed_and_key(tmp_path, tokenizers, few):
    drawn = ("--augment", "image=flip+zoom:0.2+shift:0.2", "text=parts")
    _, plain = encoded(tmp_path, tokenizers, few, "plain")
    _, first = encoded(tmp_path, tokenizers, few, "first", *drawn)
    _, again = encoded(tmp_path, tokenizers, few, "again", *drawn, "--workers", "2", "--shard-mb", "0.01")
    _, second = encoded(tmp_path, tokenizers, few, "second", *drawn, "--augment-seed", "1")
    assert list(plain) == list(first) == list(second)
    assert sorted(first) == sorted(again)
    for key, grids in first.items():
        assert all(np.array_equal(grid, again[key][name]) for name, grid in grids.items())
    for other in (plain, second):
        changed = [key for key in first if not np.array_equal(first[key]["image"], other[key]["image"])]
        assert len(changed) >= 4
    assert all(grids["image"].shape == plain[key]["image"].shape for key, grids in first.items())
    assert any(len(first[key]["text"]) < len(plain[key]["text"]) for key in plain)
    options = json.loads((tmp_path / "second" / "dataset.json").read_text())["options"]
    assert options["augment"] == {"image": "flip+zoom:0.2+shift:0.2", "text": "parts"}
    assert options["augment_seed"] == 1


def test_another_seed_is_another_run(tmp_path, tokenizers, few, capsys):
    assert encoded(tmp_path, tokenizers, few, "one", "--augment", "image=flip")[0] == 0
    assert encoded(tmp_path, tokenizers, few, "one", "--augment", "image=flip", "--augment-seed", "2")[0] == 1
    assert "augment_seed" in capsys.readouterr().err


def test_parts_of_a_caption():
    draw = TEXTS["parts"].make("")
    found = [draw(CAPTION, np.random.default_rng(seed)) for seed in range(300)]
    whole = CAPTION.split(", ")
    for text in found:
        parts = text.split(", ")
        assert set(parts) <= set(whole)
        assert len(set(parts)) == len(parts)
    assert {len(text.split(", ")) for text in found} == {1, 2, 3, 4}
    assert {text.split(", ")[0] for text in found} == set(whole)
    assert draw("one part", np.random.default_rng(0)) == "one part"


def test_pictures_are_moved_scaled_and_mirrored():
    picture = torch.arange(3 * 20 * 10, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(3, 20, 10)
    mirrored = [PICTURES["flip"].make("")(picture, np.random.default_rng(seed)) for seed in range(50)]
    flips = [bool(torch.equal(one, picture.flip(-1))) for one in mirrored]
    assert 15 < sum(flips) < 35
    assert all(torch.equal(one, picture) for one, flip in zip(mirrored, flips, strict=True) if not flip)
    shifted = [PICTURES["shift"].make("0.1")(picture, np.random.default_rng(s)) for s in range(80)]
    moves = set()
    for one in shifted:
        (move,) = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-1, 2)
            if torch.equal(one[:, 3:-3, 2:-2], picture[:, 3 - down : 17 - down, 2 - right : 8 - right])
        ]
        moves.add(move)
    assert {down for down, _ in moves} == {-2, -1, 0, 1, 2}
    assert {right for _, right in moves} == {-1, 0, 1}
    flat = torch.full((3, 20, 10), 7, dtype=torch.uint8)
    dot = flat.clone()
    dot[:, 5:15, 3:7] = 200
    sizes = []
    for seed in range(40):
        zoomed = PICTURES["zoom"].make("0.5")(dot, np.random.default_rng(seed))
        assert zoomed.shape == dot.shape
        assert zoomed.dtype == torch.uint8
        sizes.append(int((zoomed[0] > 100).sum()))
    assert min(sizes) < 24 < 60 < max(sizes)


def test_all_frames_of_a_film_change_alike():
    film = (
        torch.randint(0, 256, (1, 3, 12, 12), generator=torch.Generator().manual_seed(0))
        .to(torch.uint8)
        .repeat(4, 1, 1, 1)
    )
    for name, argument in (("flip", ""), ("shift", "0.3"), ("zoom", "0.3")):
        for seed in range(5):
            changed = FILMS[name].make(argument)(film, np.random.default_rng(seed))
            assert changed.shape == film.shape
            assert all(torch.equal(frame, changed[0]) for frame in changed)


def test_operations_of_views_can_be_joined():
    picture = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    grey = augmentation_of(modality_named("image"), "grey+shift:0.2", 0)(picture, "a")
    assert torch.equal(grey[0], grey[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("image", "write STREAM=AUGMENTATIONS"),
        ("picture=flip", "there is no stream 'picture'; there is text, image"),
        ("image=flop", "did you mean 'flip'"),
        ("image=shift", "'shift' is not shift:PART"),
        ("image=shift:2", "above 0 and below 1"),
        ("image=flip:1", "it takes no argument"),
        ("text=flip", "texts have no augmentation 'flip' (there is parts)"),
        ("text=parts:2", "it takes no argument"),
    ],
)
def test_what_is_none_is_refused(given, said):
    streams = {"text": modality_named("text"), "image": modality_named("image")}
    with pytest.raises(ValueError, match="--augment") as error:
        augmentations_of([given], streams)
    assert said in str(error.value)


def test_one_stream_twice_and_a_seed_alone_are_refused(tmp_path, tokenizers, few, capsys):
    with pytest.raises(ValueError, match="image twice"):
        augmentations_of(["image=flip", "image=zoom:0.1"], {"image": modality_named("image")})
    assert encoded(tmp_path, tokenizers, few, "seed", "--augment-seed", "3")[0] == 1
    assert "--augment" in capsys.readouterr().err
    assert encoded(tmp_path, tokenizers, few, "below", "--augment", "image=flip", "--augment-seed", "-1")[0] == 1
