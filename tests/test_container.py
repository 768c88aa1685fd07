"""The .tkc file: packing at every width, samples of every modality there and back, and every kind of damage."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenize_kit.cli import main
from tokenize_kit.container import (
    MAGIC,
    PackedSample,
    bit_width,
    compress,
    decompress,
    from_bytes,
    pack_ids,
    to_bytes,
    unpack_ids,
    widths_of,
)
from tokenize_kit.errors import VerificationError
from tokenize_kit.media.audio import read_audio, write_audio
from tokenize_kit.mulaw import MuLawTokenizer
from tokenize_kit.pixels import PaletteTokenizer, PixelTokenizer
from tokenize_kit.tokenizer import TokenSpec


def slow_pack(ids, widths):
    """The bits one after another, as text."""
    bits = "".join(
        f"{value:0{width}b}" for row in ids.tolist() for value, width in zip(row, widths, strict=True) if width
    )
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


@pytest.mark.parametrize("width", range(33))
def test_every_width(width):
    limit = 1 << width
    ids = np.random.default_rng(width).integers(0, limit, (29, 1))
    ids[:2, 0] = (0, limit - 1)
    data = pack_ids(ids, [width])
    assert data == slow_pack(ids, [width])
    assert len(data) == (29 * width + 7) // 8
    assert np.array_equal(unpack_ids(data, 29, [width]), ids)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mixture_of_widths(data):
    widths = data.draw(st.lists(st.integers(0, 32), min_size=1, max_size=6))
    rows = data.draw(st.integers(0, 20))
    columns = [data.draw(hnp.arrays(np.int64, rows, elements=st.integers(0, (1 << width) - 1))) for width in widths]
    ids = np.stack(columns, 1)
    packed = pack_ids(ids, widths)
    assert packed == slow_pack(ids, widths)
    assert np.array_equal(unpack_ids(packed, rows, widths), ids)


def test_pieces_are_packed_as_the_whole(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 8, (1001, 3))
    whole = pack_ids(ids, [3, 3, 5])
    monkeypatch.setattr("tokenize_kit.container._CHUNK_BITS", 300)
    assert pack_ids(ids, [3, 3, 5]) == whole
    assert np.array_equal(unpack_ids(whole, 1001, [3, 3, 5]), ids)


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="id 8 does not fit"):
        pack_ids(np.array([[8]]), [3])
    with pytest.raises(ValueError, match="id -1 does not fit"):
        pack_ids(np.array([[-1]]), [3])
    for widths in ([], [3, 3], [33], [-1]):
        with pytest.raises(ValueError, match="widths"):
            pack_ids(np.array([[1]]), widths)
    with pytest.raises(ValueError, match="2 bytes are not 1 rows of 3 bits"):
        unpack_ids(b"ab", 1, [3])
    with pytest.raises(ValueError, match="fill the last byte"):
        unpack_ids(b"\x01", 1, [3])


@pytest.mark.parametrize(("size", "width"), [(1, 0), (2, 1), (3, 2), (256, 8), (257, 9), (1 << 32, 32)])
def test_bit_width(size, width):
    assert bit_width(size) == width


def test_widths_of_codebooks():
    spec = TokenSpec("audio", (1024, 256, 2), ("time", "codebook"), (320, None), lossless=False, sample_rate=16_000)
    assert widths_of(spec, (7, 3)) == (10, 8, 1)
    assert widths_of(spec, (7, 2)) == (10, 8)
    shared = TokenSpec("audio", 1000, ("time", "codebook"), (320, None), lossless=False, sample_rate=16_000)
    assert widths_of(shared, (7, 4)) == (10, 10, 10, 10)


def packed(ids, widths, **changes):
    values = {
        "fingerprint": "ab" * 32,
        "modality": "audio",
        "sample_rate": 16_000,
        "channels": 2,
        "size": (12_345_678_901,),
        "widths": widths,
        "ids": ids,
    }
    return PackedSample(**(values | changes))


SAMPLE = packed(np.random.default_rng(1).integers(0, 1024, (40, 3)), (10, 10, 10))
DATA = to_bytes(SAMPLE)


@pytest.mark.parametrize(
    "sample",
    [
        SAMPLE,
        packed(np.zeros((5, 6, 3), np.int64) + 255, (8,), modality="image", sample_rate=None, channels=3, size=(5, 6)),
        packed(np.zeros((0,), np.int64), (9,), modality="text", sample_rate=None, channels=None, size=()),
        packed(np.zeros((4, 2), np.int64), (0, 0)),
    ],
)
def test_a_file_holds_what_was_put_in(sample):
    data = to_bytes(sample)
    found = from_bytes(data)
    assert np.array_equal(found.ids, sample.ids)
    assert found.ids.shape == sample.ids.shape
    assert {**vars(found), "ids": 0} == {**vars(sample), "ids": 0}
    assert len(data) < 100 + sum(sample.widths) * sample.ids.size // len(sample.widths) / 8


def test_every_truncation_is_refused():
    for length in range(len(DATA)):
        with pytest.raises((ValueError, VerificationError), match=r"cut short|not a \.tkc file"):
            from_bytes(DATA[:length], "x.tkc")
    with pytest.raises(VerificationError, match=f"x.tkc is cut short: it has {len(DATA) - 1} of {len(DATA)} bytes"):
        from_bytes(DATA[:-1], "x.tkc")


def test_every_altered_bit_is_refused():
    for place in range(len(DATA)):
        for bit in (0, 7):
            altered = bytearray(DATA)
            altered[place] ^= 1 << bit
            with pytest.raises(ValueError, match=r"altered|not a \.tkc file|cut short|version") as caught:
                from_bytes(bytes(altered), "x.tkc")
            if place >= len(DATA) - 16 - 150:
                assert "x.tkc is damaged: its content was altered" in str(caught.value)


def test_what_follows_after_the_end_and_foreign_files_are_refused():
    with pytest.raises(VerificationError, match="3 bytes follow after its end"):
        from_bytes(DATA + b"abc")
    with pytest.raises(ValueError, match=r"x\.wav is not a \.tkc file"):
        from_bytes(b"RIFF....WAVE", "x.wav")
    newer = bytearray(DATA)
    newer[len(MAGIC)] = 2
    with pytest.raises(ValueError, match="is of version 2, this tokenize-kit reads 1"):
        from_bytes(bytes(newer))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_after_the_magic_end_in_a_clear_error(data):
    with pytest.raises(ValueError, match=r"\S+ \S+"):
        from_bytes(MAGIC + b"\x01" + data)


def test_samples_of_each_modality_there_and_back(tmp_path):
    picture = torch.randint(0, 256, (3, 17, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sound = torch.sin(torch.arange(1009) / 9)[None] * 0.7
    for tokenizer, sample in [
        (PixelTokenizer(3), picture),
        (PaletteTokenizer([[0, 0, 0], [255, 255, 255], [9, 9, 9]]), picture),
        (MuLawTokenizer(), sound),
    ]:
        size = compress(tokenizer, sample, tmp_path / "a.tkc")
        assert (tmp_path / "a.tkc").stat().st_size == size
        expected = tokenizer.decode(tokenizer.encode(sample))
        assert torch.equal(decompress(tokenizer, tmp_path / "a.tkc"), expected)
    with pytest.raises(ValueError, match="--codebooks 1 is not what the tokenizer has"):
        compress(MuLawTokenizer(), sound, tmp_path / "b.tkc", codebooks=1)
    with pytest.raises(VerificationError, match="made by another tokenizer"):
        decompress(MuLawTokenizer(8000), tmp_path / "a.tkc")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tkc"]


def test_a_palette_of_three_takes_two_bits_a_pixel(tmp_path):
    tokenizer = PaletteTokenizer([[0, 0, 0], [255, 255, 255], [9, 9, 9]])
    size = compress(tokenizer, torch.zeros(3, 100, 100, dtype=torch.uint8), tmp_path / "a.tkc")
    assert 2500 < size < 2600


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_audio(torch.sin(torch.arange(8000) / 9).repeat(2, 1) * 0.7, tmp_path / "a.wav", 8000)
    assert main("create mulaw --sample-rate 16000 --out mulaw --quiet".split()) == 0
    capsys.readouterr()
    assert main("compress a.wav a.tkc --tokenizer mulaw --json".split()) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["conversion"] == "8000 Hz stereo to 16000 Hz mono"
    assert "a.wav is converted from 8000 Hz stereo to 16000 Hz mono" in captured.err
    assert found["size"] == [16_000]
    assert found["kilobits_per_second"] == pytest.approx(128, rel=0.01)
    assert main("inspect a.tkc --json".split()) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["modality"], facts["sample_rate"], facts["grid"], facts["widths"]) == ("audio", 16_000, [16_000], [8])
    assert main("decompress a.tkc b.wav --tokenizer mulaw --quiet".split()) == 0
    back = read_audio((tmp_path / "b.wav").read_bytes())
    assert (back.sample_rate, back.samples.shape) == (16_000, (1, 16_000))

    (tmp_path / "cut.tkc").write_bytes((tmp_path / "a.tkc").read_bytes()[:-5])
    for words, code, message in [
        ("decompress cut.tkc c.wav --tokenizer mulaw", 3, "cut.tkc is cut short"),
        ("decompress a.wav c.wav --tokenizer mulaw", 1, "a.wav is not a .tkc file"),
        ("decompress a.tkc c.mp3 --tokenizer mulaw", 1, "c.mp3 does not end in .wav"),
        ("compress a.wav a.mp3 --tokenizer mulaw", 1, "a.mp3 does not end in .tkc"),
        ("compress cut.tkc c.tkc --tokenizer mulaw", 1, "cut.tkc: not a sound that can be read"),
        ("compress none.wav c.tkc --tokenizer mulaw", 1, "none.wav"),
    ]:
        capsys.readouterr()
        assert main([*words.split(), "--quiet"]) == code
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("c.*"))
