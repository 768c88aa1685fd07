"""Sizes of lossless codes: those of files that come back exactly, by what each kind of data declares."""

from __future__ import annotations

import io
import lzma
import zlib

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tokenize_kit.metrics.lossless import lossless_code_of
from tokenize_kit.protocol import TokenSpec

GREY = TokenSpec("image", 256, ("height", "width"), (1, 1), lossless=True, channels=1)
SOUND = TokenSpec("audio", 256, ("time",), (1,), lossless=False, channels=1, sample_rate=8000)
TEXT = TokenSpec("text", 256, ("time",), (None,), lossless=True)
FILM = TokenSpec("video", 256, ("time", "height", "width"), (1, 1, 1), lossless=True, channels=1, frame_rate=8.0)


def test_a_picture_is_a_png_of_its_own():
    picture = torch.randint(0, 9, (1, 20, 30), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(picture[0].numpy()).save(file, "PNG", optimize=True)
    code = lossless_code_of(GREY)
    assert (code.name, code.size(picture, GREY)) == ("PNG", len(file.getvalue()))
    assert code.size(torch.zeros(1, 20, 30, dtype=torch.uint8), GREY) < code.size(picture, GREY)


def test_a_sound_is_a_flac_that_gives_its_16_bits_back():
    values = (np.sin(np.arange(4000) / 9) * 20000).astype(np.int16)
    code = lossless_code_of(SOUND)
    size = code.size(torch.from_numpy(values / 32768).float()[None], SOUND)
    file = io.BytesIO()
    soundfile.write(file, values, 8000, format="FLAC", subtype="PCM_16")
    assert (code.name, size) == ("FLAC", len(file.getvalue()))
    assert np.array_equal(soundfile.read(io.BytesIO(file.getvalue()), dtype="int16")[0], values)
    assert size < values.nbytes


@pytest.mark.parametrize("text", ["ab", "all human beings are born free and equal " * 400])
def test_a_text_takes_the_shorter_of_two_codes(text):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = len(packer.compress(text.encode()) + packer.flush())
    packed = len(lzma.compress(text.encode(), preset=9))
    assert lossless_code_of(TEXT).size(text, TEXT) == min(deflated, packed)


def test_a_kind_of_data_that_declares_none_has_xz_of_its_values():
    film = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    code = lossless_code_of(FILM)
    assert (code.name, code.size(film, FILM)) == ("xz", len(lzma.compress(bytes(4 * 8 * 8), preset=9)))
