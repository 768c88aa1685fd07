"""What Python users have goes into a tokenizer, and comes back as what they ask for."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tokenize_kit
from tokenize_kit.media.audio import read_audio
from tokenize_kit.protocol.values import Film, Sound
from tokenize_kit.tokenizers.audio.mulaw import MuLawTokenizer
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from tokenize_kit.tokenizers.text.chars import CharsTokenizer
from tokenize_kit.tokenizers.video.frames import FramesTokenizer

ASSETS = Path(__file__).resolve().parents[2] / "assets"
COLOURS = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)


def test_a_picture_goes_in_as_anything_and_comes_back(tmp_path):
    tokenizer = PixelTokenizer(3)
    picture = Image.fromarray(COLOURS)
    picture.save(tmp_path / "picture.png")
    given = [picture, COLOURS, tmp_path / "picture.png", str(tmp_path / "picture.png")]
    given.append(torch.from_numpy(COLOURS).permute(2, 0, 1))
    for value in given:
        ids = tokenize_kit.encode(tokenizer, value)
        assert torch.equal(ids, torch.from_numpy(COLOURS).long())
    back = tokenize_kit.decode(tokenizer, ids)
    assert isinstance(back, Image.Image)
    assert np.array_equal(tokenize_kit.decode(tokenizer, ids, to="pil"), COLOURS)
    assert np.array_equal(tokenize_kit.decode(tokenizer, ids.numpy().astype(np.uint8), to="numpy"), COLOURS)
    assert torch.equal(tokenize_kit.decode(tokenizer, ids, to="sample"), given[-1])


def test_colours_are_brought_to_what_the_tokenizer_takes():
    grey = tokenize_kit.encode(PixelTokenizer(1), Image.fromarray(COLOURS))
    assert grey.shape == (4, 5)
    assert torch.equal(grey, tokenize_kit.encode(PixelTokenizer(1), Image.fromarray(COLOURS).convert("L")))
    assert tokenize_kit.decode(PixelTokenizer(1), grey, to="numpy").shape == (4, 5)
    assert tokenize_kit.encode(PixelTokenizer(3), COLOURS[..., 0]).shape == (4, 5, 3)


def test_sounds_have_rates():
    tokenizer = MuLawTokenizer(8000)
    tone = np.sin(np.arange(1600) * 0.05).astype(np.float32) * 0.5
    ids = tokenize_kit.encode(tokenizer, Sound(np.stack([tone, tone]), 16_000))
    assert ids.shape == (800,), "half the rate, one channel"
    back = tokenize_kit.decode(tokenizer, ids)
    assert (back.sample_rate, back.samples.shape) == (8000, (1, 800))
    assert np.array_equal(tokenize_kit.decode(tokenizer, ids, to="numpy"), back.samples)
    with pytest.raises(ValueError, match="to 'pil': sounds have no such form"):
        tokenize_kit.decode(tokenizer, ids, to="pil")
    file = ASSETS / "speech" / "amiable.flac"
    read = read_audio(file.read_bytes(), 8000, 1).samples
    assert torch.equal(tokenize_kit.encode(tokenizer, file), tokenizer.encode(read))


@pytest.mark.parametrize("channels", [1, 3])
def test_films_are_frames(channels):
    tokenizer = FramesTokenizer(12.0, channels)
    frames = np.random.default_rng(1).integers(0, 256, (3, 4, 6, channels), dtype=np.uint8)
    ids = tokenize_kit.encode(tokenizer, torch.from_numpy(frames).permute(0, 3, 1, 2))
    assert np.array_equal(tokenize_kit.decode(tokenizer, ids, to="numpy"), frames)
    pictures = tokenize_kit.decode(tokenizer, ids, to="pil")
    assert [picture.size for picture in pictures] == [(6, 4)] * 3
    film = tokenize_kit.decode(tokenizer, ids)
    assert isinstance(film, Film)
    assert tokenize_kit.encode(tokenizer, film).shape == ids.shape


def test_texts_are_no_paths():
    tokenizer = CharsTokenizer("abc./")
    ids = tokenize_kit.encode(tokenizer, "a/b.c")
    assert tokenize_kit.decode(tokenizer, ids) == "a/b.c"
    with pytest.raises(ValueError, match="to 'numpy': texts have no such form"):
        tokenize_kit.decode(tokenizer, ids, to="numpy")


def test_what_is_none_of_the_kind_is_refused(tmp_path):
    with pytest.raises(TypeError, match="takes pictures: a Sound is none"):
        tokenize_kit.encode(PixelTokenizer(3), Sound(np.zeros(5, np.float32), 8000))
    with pytest.raises(ValueError, match=r"a picture is a uint8 array .*got float64 \(4, 5\)"):
        tokenize_kit.encode(PixelTokenizer(3), np.zeros((4, 5)))
    with pytest.raises(FileNotFoundError):
        tokenize_kit.encode(PixelTokenizer(3), tmp_path / "missing.png")
    with pytest.raises(ValueError, match="to 'array' is none of sample, python, pil and numpy"):
        tokenize_kit.decode(PixelTokenizer(3), np.zeros((1, 1, 3)), to="array")
    data = io.BytesIO(b"no picture")
    (tmp_path / "broken.png").write_bytes(data.getvalue())
    with pytest.raises(ValueError, match="picture"):
        tokenize_kit.encode(PixelTokenizer(3), tmp_path / "broken.png")
