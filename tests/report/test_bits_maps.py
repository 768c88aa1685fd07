"""Where the bits of a sample are, kind by kind: what is beside what, and that a surprise is where it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.report import Page
from tokenize_kit.report.bits import Bits, shade, show_bits, show_place_bits

PICTURE = TokenSpec("image", 256, ("height", "width", "channel"), (1, 1, 1), lossless=True, channels=3)
PATCHES = TokenSpec("image", 64, ("height", "width", "codebook"), (4, 4, None), lossless=False, channels=1)
SOUND = TokenSpec("audio", 256, ("time",), (1,), lossless=False, channels=1, sample_rate=8000)
FILM = TokenSpec("video", 64, ("time", "height", "width"), (4, 2, 2), lossless=False, channels=1, frame_rate=8.0)
TEXT = TokenSpec("text", 300, ("time",), (None,), lossless=True)


def shown(tmp_path, sample, bits, spec, tokens=None):
    """The picture that is written (H, W, 3), if one is, and the page."""
    page = Page("bits")
    path = show_bits(
        page, Bits("a", sample, np.asarray(bits, float), tokens, "known"), spec, tmp_path / "maps" / "a.png"
    )
    text = page.write(tmp_path / "page.html").read_text()
    return None if path is None else np.asarray(Image.open(path).convert("RGB")).astype(int), text


def test_no_bits_are_black_and_the_most_are_the_lightest():
    colours = shade(np.array([[0.0, 1.0, 2.0, 5.0]]), most=2.0).int().sum(0)[0].tolist()
    assert colours[0] < 10 < colours[1] < colours[2] == colours[3]
    assert int(shade(np.zeros((2, 2))).sum(0).max()) < 10


def test_a_picture_is_left_of_the_bits_of_its_places(tmp_path):
    sample = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bits = np.zeros((5, 7, 3))
    bits[2, 6] = 1.0, 2.0, 3.0
    made, text = shown(tmp_path, sample, bits, PICTURE)
    assert made.shape == (5, 7 + 2 + 7, 3)
    assert np.array_equal(made[:, :7], sample.permute(1, 2, 0).numpy())
    assert (made[:, 7:9] == 255).all()
    assert np.unravel_index(made[:, 9:].sum(-1).argmax(), (5, 7)) == (2, 6)
    assert "a: known; 0.171 bits a place, at most 6" in text


def test_a_place_covers_all_pixels_of_its_step(tmp_path):
    bits = np.zeros((2, 3, 2))
    bits[1, 0, 1] = 4.0
    made, _ = shown(tmp_path, torch.zeros(1, 8, 12, dtype=torch.uint8), bits, PATCHES)
    light = made[:, 14:].sum(-1) > 300
    assert light[4:, :4].all()
    assert light.sum() == 16


def test_the_bits_of_a_sound_are_below_its_spectrogram(tmp_path):
    sample = torch.zeros(1, 8000)
    bits = np.full(8000, 0.1)
    bits[6000:6400] = 8.0
    made, text = shown(tmp_path, sample, bits, SOUND)
    below = made[128 + 2 :]
    assert below.shape[0] == 64
    heights = (below != 255).any(-1).sum(0)
    assert heights.max() == 64
    assert 6000 / 8000 <= heights.argmax() / len(heights) < 6400 / 8000
    assert heights[: len(heights) // 2].max() == 1
    assert "the highest stretch 8 a time step" in text


def test_frames_of_a_film_stand_above_their_bits(tmp_path):
    bits = np.zeros((3, 2, 2))
    bits[2, 1, 1] = 1.0
    made, _ = shown(tmp_path, torch.zeros(9, 1, 4, 4, dtype=torch.uint8), bits, FILM)
    assert made.shape == (4 + 2 + 4, 8 * 4 + 7 * 2, 3)
    light = made[6:].sum(-1) > 300
    assert light[2:, -2:].all()
    assert not light[:2, -4:].any()


def test_a_text_has_the_bits_of_each_token_in_its_tooltip(tmp_path):
    made, text = shown(tmp_path, "to be", [0.5, 4.0], TEXT, [b"to", b" be"])
    assert made is None
    assert '<span title="0.50 bits" style="background:rgba(220,50,30,0.12)">to</span>' in text
    assert '<span title="4.00 bits" style="background:rgba(220,50,30,1.00)"> be</span>' in text


def test_a_text_without_known_tokens_is_shown_by_letters_or_as_it_is(tmp_path):
    _, text = shown(tmp_path, "ab", [1.0, 2.0], TEXT)
    assert '<span title="2.00 bits" style="background:rgba(220,50,30,1.00)">b</span>' in text
    _, text = shown(tmp_path, "abc", [1.0, 2.0], TEXT)
    assert "<blockquote>abc</blockquote>" in text


def test_any_other_kind_has_a_map_in_the_order_of_its_grid():
    page = Page("bits")
    bits = np.zeros(130)
    bits[129] = 3.0
    made = show_place_bits(page, Bits("a", torch.zeros(1, 130), bits, None, "known"), SOUND)
    assert made.shape == (3, 2, 128)
    assert np.unravel_index(int(made.int().sum(0).argmax()), (2, 128)) == (1, 1)


def test_as_many_bits_as_tokens():
    with pytest.raises(ValueError, match="2 tokens for 1 bits"):
        Page("bits").surprises([b"a", b"b"], [1.0])
