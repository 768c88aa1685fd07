"""The .tkc file: packing at every width, samples of every modality there and back, and every kind of damage."""

import hashlib
import json
import struct
import time
import tracemalloc
import weakref
import zlib
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from toys.codec import ToyCodec
from toys.neural_codec import FSQ, RVQ, toy_codec
from toys.neural_video import toy_video

from tokenize_kit.cli import main
from tokenize_kit.container import (
    MAGIC,
    PackedSample,
    bit_width,
    compress,
    compress_pieces,
    decompress,
    decompress_pieces,
    from_bytes,
    from_file,
    pack_ids,
    to_bytes,
    unpack_ids,
    varint,
    widths_of,
)
from tokenize_kit.errors import VerificationError
from tokenize_kit.media.audio import read_audio, write_audio
from tokenize_kit.protocol import PieceTokenizer, TokenSpec
from tokenize_kit.tokenizers.audio.mulaw import MuLawTokenizer
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer, PixelTokenizer
from tokenize_kit.tokenizers.video.frames import FramesTokenizer


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
    monkeypatch.setattr("tokenize_kit.container.bits._CHUNK_BITS", 300)
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
    newer[len(MAGIC)] = 4
    with pytest.raises(ValueError, match="is of version 4, this tokenize-kit reads 1, 2 and 3"):
        from_bytes(bytes(newer))


@pytest.mark.parametrize("rate", [12.0, 29.97, 30_000 / 1001, 0.5, 1000.0])
def test_a_video_has_its_frame_rate_in_the_file(tmp_path, rate):
    tokenizer = FramesTokenizer(rate, 1)
    video = torch.randint(0, 256, (5, 1, 3, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    compress(tokenizer, video, tmp_path / "a.tkc")
    assert torch.equal(decompress(tokenizer, tmp_path / "a.tkc"), video)
    packed = from_file(tmp_path / "a.tkc")
    assert (packed.frame_rate, packed.size) == (pytest.approx(rate, rel=1e-9), (5, 3, 4))
    data = (tmp_path / "a.tkc").read_bytes()
    assert (data[len(MAGIC)], DATA[len(MAGIC)]) == (2, 1)
    for place in range(len(MAGIC), 80):
        with pytest.raises(ValueError, match=r"altered|cut short|version"):
            from_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_raw_frames_go_through_in_pieces(tmp_path, channels):
    tokenizer = FramesTokenizer(12.0, channels)
    video = torch.randint(0, 256, (9, channels, 3, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    compress(tokenizer, video, tmp_path / "whole.tkc")
    compress_pieces(tokenizer, video.split(4), tmp_path / "pieces.tkc")
    assert (tmp_path / "pieces.tkc").read_bytes() == (tmp_path / "whole.tkc").read_bytes()
    assert torch.equal(torch.cat(list(decompress_pieces(tokenizer, tmp_path / "pieces.tkc"))), video)
    ids = tokenizer.encode(video).split(4)
    assert torch.equal(torch.cat(list(tokenizer.decode_pieces(ids, 6))), video[:6])
    with pytest.raises(ValueError, match="ids of 9 frames do not cover 10"):
        list(tokenizer.decode_pieces(ids, 10))


def crafted(size=(5,), shape=(5,), widths=(8,), content=b"12345", modality=(3,)):
    """A file whose sums are right, whatever its header says."""
    numbers = [*modality, 16_000, 1, len(size), *size, len(shape), *shape, len(widths), *widths]
    head = MAGIC + b"\x01" + b"\xab" * 32 + b"".join(map(varint, numbers))
    head += struct.pack("<I", zlib.crc32(head))
    return head + content + hashlib.sha256(head + content).digest()[:16]


def test_a_crafted_header_is_refused_before_memory_is_asked_for():
    assert from_bytes(crafted()).ids.tolist() == list(b"12345")
    for changes in (
        {"shape": (1 << 40,)},
        {"shape": (1 << 40,), "widths": (0,), "content": b""},
        {"shape": (1 << 20, 1 << 12), "widths": (0,) * (1 << 12), "content": b""},
        {"shape": (0, 1 << 61), "content": b""},
        {"shape": (1 << 61, 0), "widths": (0,), "content": b""},
        {"shape": (1,) * 9},
        {"shape": (1,) * 50_000},
        {"size": (1 << 61,) * 100_000},
        {"widths": (0,) * 5000, "shape": (5, 5000), "content": b""},
        {"widths": (255,)},
        {"modality": (4, 300, *b"x" * 300)},
        {"modality": (1 << 40,)},
        {"shape": ()},
    ):
        tracemalloc.start()
        began = time.process_time()
        with pytest.raises(VerificationError, match=r"x\.tkc is (damaged|cut short)"):
            from_bytes(crafted(**changes), "x.tkc")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()
        assert time.process_time() - began < 5


def test_ids_that_take_no_bits_are_kept_up_to_a_number(tmp_path):
    class One(PixelTokenizer):
        """A tokenizer with a vocabulary of one."""

        spec = TokenSpec("image", 1, ("height", "width"), (1, 1), lossless=False, channels=1)

        def encode(self, sample):
            return torch.zeros(sample.shape[1:], dtype=torch.int64)

    compress(One(1), torch.zeros(1, 1000, 2000, dtype=torch.uint8), tmp_path / "a.tkc")
    assert from_file(tmp_path / "a.tkc").ids.shape == (1000, 2000)
    with pytest.raises(ValueError, match="holds 16,777,216 ids at most, and these are 20,000,000"):
        compress(One(1), torch.zeros(1, 1000, 20_000, dtype=torch.uint8), tmp_path / "b.tkc")


def test_what_is_no_sample_of_the_tokenizer_is_refused_before_it_is_decoded(tmp_path):
    class Large(PixelTokenizer):
        """A tokenizer whose every id covers much."""

        spec = TokenSpec("image", 256, ("height", "width"), (4096, 4096), lossless=False, channels=3)

        def decode(self, ids):
            raise AssertionError("nothing may be decoded")

    path = tmp_path / "a.tkc"
    good = packed(np.zeros((4, 4), np.int64), (8,), modality="image", size=(9, 9), fingerprint=Large(3).fingerprint)
    for sample, message in [
        (good, r"its grid \(4, 4\) covers more than 536,870,912 values"),
        (replace(good, ids=np.zeros((4, 4, 1), np.int64)), "has 3 axes"),
        (replace(good, ids=np.full((1, 1), 256), widths=(9,)), "id 256 is outside the vocabulary"),
        (replace(good, size=(9,)), "its size"),
    ]:
        path.write_bytes(to_bytes(sample))
        with pytest.raises(VerificationError, match=rf"a\.tkc is damaged: .*{message}"):
            decompress(Large(3), path)


def test_a_large_file_of_another_kind_is_not_read(tmp_path):
    with (tmp_path / "a.tkc").open("wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(ValueError, match=r"a\.tkc is not a \.tkc file"):
        from_file(tmp_path / "a.tkc")


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


def sound_of(codec, samples):
    """A tone in noise, for a codec of few channels."""
    generator = torch.Generator().manual_seed(samples)
    noise = torch.rand(codec.spec.channels, samples, generator=generator) * 2 - 1
    return noise * 0.5 + torch.sin(torch.arange(samples) / 5) * 0.5


@pytest.mark.parametrize("quantizer", [RVQ, FSQ], ids=lambda options: options["kind"])
@pytest.mark.parametrize("samples", [1, 12, 61, 1009])
def test_pieces_of_a_sound_make_the_file_of_the_whole(tmp_path, quantizer, samples):
    codec = toy_codec("frames", quantizer, channels=2)
    sound = sound_of(codec, samples)
    size = compress(codec, sound, tmp_path / "whole.tkc")
    expected = decompress(codec, tmp_path / "whole.tkc")
    assert expected.shape == sound.shape
    assert torch.equal(expected, codec.decode_sized([codec.encode(sound)], [(samples,)])[0])
    for piece in (1, 7, 500, 2000):
        assert compress_pieces(codec, sound.split(piece, 1), tmp_path / "pieces.tkc") == (size, (samples,))
        assert (tmp_path / "pieces.tkc").read_bytes() == (tmp_path / "whole.tkc").read_bytes()
    assert torch.equal(torch.cat(list(decompress_pieces(codec, tmp_path / "pieces.tkc")), 1), expected)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (6, 13, 21), (14, 8, 9)])
def test_pieces_of_a_video_are_the_whole_with_its_own_sides(tmp_path, frames, height, width):
    tokenizer = toy_video()
    film = torch.randint(0, 256, (frames, tokenizer.spec.channels, height, width), dtype=torch.uint8)
    compress(tokenizer, film, tmp_path / "whole.tkc")
    compress_pieces(tokenizer, film.split(4), tmp_path / "pieces.tkc")
    assert (tmp_path / "pieces.tkc").read_bytes() == (tmp_path / "whole.tkc").read_bytes()
    whole = decompress(tokenizer, tmp_path / "whole.tkc")
    assert whole.shape == film.shape
    assert torch.equal(torch.cat(list(decompress_pieces(tokenizer, tmp_path / "pieces.tkc"))), whole)


@pytest.mark.parametrize(("codes", "width"), [(1000, 10), (3, 2), (1025, 11)])
def test_fewer_codebooks_are_a_smaller_file_that_sounds_as_they_do(tmp_path, codes, width):
    codec = toy_codec("encodec", RVQ | {"codebook_size": codes})
    sound = sound_of(codec, 601)  # 101 steps of 6 samples
    ids, sizes = codec.encode(sound), []
    for count in (1, 2, 3):
        size, _ = compress_pieces(codec, [sound], tmp_path / "a.tkc", codebooks=count)
        assert compress(codec, sound, tmp_path / "b.tkc", codebooks=count) == size
        assert (tmp_path / "a.tkc").read_bytes() == (tmp_path / "b.tkc").read_bytes()
        sizes.append(size)
        (expected,) = codec.decode_sized([ids[:, :count]], [(601,)])
        assert torch.equal(decompress(codec, tmp_path / "a.tkc"), expected)
        assert torch.equal(torch.cat(list(decompress_pieces(codec, tmp_path / "a.tkc")), 1), expected)
    bits = [-(-101 * count * width // 8) for count in (1, 2, 3)]
    # Beside the ids there is one more width in the header for each codebook.
    assert [sizes[1] - sizes[0], sizes[2] - sizes[1]] == [bits[1] - bits[0] + 1, bits[2] - bits[1] + 1]
    for count in (0, 4):
        for call in (compress, compress_pieces):
            with pytest.raises(ValueError, match=rf"--codebooks {count} is not what the tokenizer has \(1 to 3\)"):
                call(codec, sound if call is compress else [sound], tmp_path / "c.tkc", codebooks=count)
    assert not (tmp_path / "c.tkc").exists()


def test_damaged_files_of_a_codec_are_refused_before_anything_is_decoded(tmp_path):
    codec, path = toy_codec("dac"), tmp_path / "a.tkc"
    compress(codec, sound_of(codec, 300), path)
    data = path.read_bytes()
    altered = bytearray(data)
    altered[-30] ^= 4
    good = from_bytes(data)
    for content, message in [
        (data[:-1], "cut short"),
        (data[:40], "cut short inside its header"),
        (bytes(altered), "its content was altered"),
        (data + b"!", "1 bytes follow after its end"),
        (to_bytes(replace(good, size=())), "is damaged: its size"),
        (to_bytes(replace(good, fingerprint="ab" * 32)), "made by another tokenizer"),
    ]:
        path.write_bytes(content)
        for call in (decompress, decompress_pieces):
            with pytest.raises(VerificationError, match=message):
                call(codec, path)
    # Such a file can only be made on purpose.
    good.ids[20, 2] = 32  # of a codebook of 32
    path.write_bytes(to_bytes(replace(good, widths=(5, 5, 6))))
    for call in (decompress, lambda *given: list(decompress_pieces(*given))):
        with pytest.raises(ValueError, match="id 32 is outside the vocabulary"):
            call(codec, path)


def test_a_long_sound_is_never_held_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("tokenize_kit.container.samples._STEPS_AT_ONCE", 10)
    codec = toy_codec("frames")
    alive, most = weakref.WeakSet(), [0, 0]

    def counted(blocks, place):
        for block in blocks:
            alive.add(block)
            most[place] = max(most[place], sum(other.numel() for other in alive))
            yield block
            del block

    fresh = (sound_of(codec, 100 + number % 2) for number in range(200))
    _, (samples,) = compress_pieces(codec, counted(fresh, 0), tmp_path / "a.tkc")
    assert samples == 20_100
    heard = 0
    for piece in counted(decompress_pieces(codec, tmp_path / "a.tkc"), 1):
        heard += piece.shape[1]
        del piece
    assert heard == samples
    # Two pieces of 100 samples go in at a time; out come those of 10 steps and of the block that waited.
    assert most[0] <= 202
    assert most[1] <= 2 * (10 + 5) * 12


def test_what_takes_no_pieces_is_refused_and_told_apart():
    assert isinstance(toy_codec(), PieceTokenizer)
    assert not isinstance(ToyCodec(), PieceTokenizer)
    with pytest.raises(TypeError, match="ToyCodec does not take samples in pieces"):
        compress_pieces(ToyCodec(), [], "a.tkc")
    with pytest.raises(TypeError, match="PixelTokenizer does not take samples in pieces"):
        decompress_pieces(PixelTokenizer(3), "a.tkc")


def test_sounds_pass_through_the_command_line_in_pieces(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    codec = toy_codec("encodec", channels=2, block=2000)
    codec.save("codec")
    sound = torch.sin(torch.arange(150_000) / 9).repeat(1, 1) * 0.7
    write_audio(sound, tmp_path / "a.wav", 24_000)
    assert main("compress a.wav a.tkc --tokenizer codec --codebooks 2 --json".split()) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["conversion"] == "24000 Hz mono to 16000 Hz stereo"
    assert "a.wav is converted from 24000 Hz mono" in captured.err
    assert "compress" in captured.err
    assert "seconds 6.2" in captured.err  # 100,000 samples of 16 kHz
    assert found["size"] == [100_000]
    assert found["source_bytes"] == 300_044
    whole = read_audio((tmp_path / "a.wav").read_bytes(), 16_000, 2).samples
    assert compress(codec, whole, tmp_path / "b.tkc", codebooks=2) == found["bytes"]
    assert (tmp_path / "a.tkc").read_bytes() == (tmp_path / "b.tkc").read_bytes()

    assert main("decompress a.tkc b.wav --tokenizer codec --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["size"] == [100_000]
    write_audio(decompress(codec, "a.tkc"), tmp_path / "c.wav", 16_000)
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "c.wav").read_bytes()

    # What is wrong shows late: nothing is left behind.
    broken = np.zeros(200_000, np.float32)
    broken[150_000] = np.nan
    soundfile.write("nan.wav", broken, 16_000, subtype="FLOAT")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-9])
    (tmp_path / "cut.tkc").write_bytes((tmp_path / "a.tkc").read_bytes()[:-9])
    for words, code, message in [
        ("compress nan.wav d.tkc --tokenizer codec", 1, "nan.wav: sample 150,000 (9.38 s) is not a number"),
        ("compress cut.wav d.tkc --tokenizer codec", 1, "cut.wav: the sound ends after"),
        ("compress a.wav d.tkc --tokenizer codec --codebooks 4", 1, "--codebooks 4 is not what the tokenizer has"),
        ("compress none.wav d.tkc --tokenizer codec", 1, "none.wav"),
        ("decompress cut.tkc d.wav --tokenizer codec", 3, "cut.tkc is cut short"),
    ]:
        assert main([*words.split(), "--quiet"]) == code
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("d.*"))
