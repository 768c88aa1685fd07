"""Files of chunks and headers (wav and its kin, AIFF, CAF, AU, SPHERE): all samples, whatever the header says of their number."""

import io
import struct

import pytest
import soundfile
import torch
from toys.files import RATE, mp3, noise, pcm16, sound, tone, wav
from toys.sounds import ID3, ID3V1, chunk, exact, extensible, form, muxed, read, riff

from tokenize_kit.media.audio import AudioReader
from tokenize_kit.media.audio.examine import parts_of

SAMPLES = pcm16(noise(0.25, RATE))
WHOLE = exact(wav(SAMPLES))
FORM = form()
DATA = chunk(b"data", SAMPLES)
JUNK = bytes(range(1, 201)) * 5

PLACEHOLDERS = {
    "nothing": (0, 0),
    "python": (36, 0),
    "ffmpeg": (0xFFFFFFFF, 0xFFFFFFFF),
    "minus the header": (0xFFFFFFFF, 0xFFFFFFFF - 36),
    "lame": (0x7FFFFFFF, 0x7FFFFFFF),
    "largest signed": (0x7FFFFFFF, 0x7FFFFFFF - 36),
    "sox": (0x7FFFF024, 0x7FFFF000),
    "arecord": (0x80000024, 0x80000000),
    "only the outer": (0xFFFFFFFF, 0),
    "whole frames": (0, 0xFFFFFFFC),
    "a gibibyte": (0x40000024, 0x40000000),
    "0x7f000000": (0x7F000024, 0x7F000000),
    "of the whole file": (len(SAMPLES) + 36, len(SAMPLES) + 44),
}


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_a_wav_that_was_written_to_a_pipe_is_read_to_its_end(name):
    outer, inner = PLACEHOLDERS[name]
    assert torch.equal(read(wav(SAMPLES, riff_size=outer, data_size=inner)), WHOLE)


@pytest.mark.parametrize("tag", [ID3V1, b"LIST\x04\0\0\0INFO"])
def test_what_follows_samples_of_unknown_number_is_no_sound(tag):
    got = read(wav(SAMPLES + (tag if tag == ID3V1 else b""), data_size=0xFFFFFFFF))
    assert torch.equal(got, WHOLE)


@pytest.mark.parametrize(
    ("outer", "inner", "message"),
    [
        (None, 16_000, "ends after 8,000 of 16,000 bytes"),
        (16_036, 16_000, "ends after 8,000 of 16,000 bytes"),
        (None, 8001, "ends after 8,000 of 8,001 bytes"),
        (305_419_932, 305_419_896, "ends after 8,000 of 305,419,896 bytes"),
        (None, 4000, "says 4,000 bytes of samples, and 4,000 bytes that are no chunk follow"),
        (4036, 4000, "says 4,000 bytes of samples, and 4,000 bytes that are no chunk follow"),
    ],
)
def test_a_size_that_is_meant_and_wrong_is_a_failure(outer, inner, message):
    outer = 1 << 20 if outer is None else outer
    with pytest.raises(ValueError, match=message):
        read(wav(SAMPLES, riff_size=outer, data_size=inner))


@pytest.mark.parametrize("lost", [1, 2, 3, 1001])
def test_a_wav_that_is_cut_is_a_failure(lost):
    with pytest.raises(ValueError, match="cut short"):
        read(wav(SAMPLES)[:-lost])


LAYOUTS = {
    "list behind": riff(FORM, DATA, chunk(b"LIST", b"INFOISFT\x04\0\0\0abc\0")),
    "id3 behind": riff(FORM, DATA, chunk(b"id3 ", ID3)),
    "odd chunks before": riff(chunk(b"LIST", b"INFOa"), FORM, chunk(b"junk", b"abc"), DATA),
    "an odd chunk without padding": riff(b"junk\x03\0\0\0abc", FORM, DATA),
    "bext before fmt": riff(chunk(b"bext", bytes(602)), FORM, DATA),
    "an ID3v1 tag behind": riff(FORM, DATA) + ID3V1,
    "an ID3v2 tag before": ID3 + riff(FORM, DATA),
    "zeros behind": riff(FORM, DATA) + bytes(999),
    "a few bytes behind": riff(FORM, DATA) + b"\1\2\3",
    "a cut list behind": riff(FORM, DATA, chunk(b"LIST", bytes(100)))[:-40],
    "an outer size that is too small": wav(SAMPLES, riff_size=44),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_chunks_and_tags_around_the_samples_are_no_sound(name):
    assert torch.equal(read(LAYOUTS[name]), WHOLE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (riff(FORM, DATA, DATA), "another sound follows"),
        (wav(SAMPLES) * 2, "another sound follows"),
        (riff(FORM, DATA) + JUNK, "1,000 bytes that are no chunk follow"),
        (riff(DATA), "without a fmt chunk"),
        (riff(FORM), "without a data chunk"),
        (riff(FORM, chunk(b"data", b""), chunk(b"LIST", b"INFO")), "holds no sound"),
    ],
)
def test_a_wav_of_two_sounds_or_none_is_a_failure(data, message):
    with pytest.raises(ValueError, match=message):
        read(data)


def test_an_odd_number_of_bytes_needs_no_padding():
    data = sound(tone(1)[:1001], RATE, "WAV", "PCM_U8")
    assert read(data).shape == read(data.removesuffix(b"\0")).shape == (1, 1001)


@pytest.mark.parametrize(
    ("tag", "width", "kind"),
    [
        (1, 1, "PCM_U8"),
        (1, 3, "PCM_24"),
        (1, 4, "PCM_32"),
        (3, 4, "FLOAT"),
        (3, 8, "DOUBLE"),
        (6, 1, "ALAW"),
        (7, 1, "ULAW"),
    ],
)
def test_every_coding_of_a_wav_is_read_through_a_pipe_too(tag, width, kind):
    healthy = sound(noise(0.1, RATE), RATE, "WAV", kind)
    samples = healthy[healthy.index(b"data") + 8 :][: 1600 * width]
    streamed = riff(form(tag, 1, width), b"data\xff\xff\xff\xff" + samples)
    assert torch.equal(read(streamed), exact(healthy))


@pytest.mark.parametrize("coding", ["adpcm_ms", "adpcm_ima_wav", "g722"])
def test_compressed_wav_from_a_pipe_is_as_long_as_from_a_file(coding):
    rate = 16_000
    assert torch.equal(*(read(muxed("wav", coding, seconds=0.5, rate=rate, pipe=pipe)) for pipe in (True, False)))


def test_a_big_endian_wav_is_read():
    swapped = torch.frombuffer(bytearray(SAMPLES), dtype=torch.uint8).reshape(-1, 2).flip(1).numpy().tobytes()
    for size in (len(SAMPLES), 0xFFFFFFFF):
        data = form(order=">") + b"data" + struct.pack(">I", size) + swapped
        assert torch.equal(read(b"RIFX" + struct.pack(">I", 4 + len(data)) + b"WAVE" + data), WHOLE)


@pytest.mark.parametrize("kind", [b"RF64", b"BW64"])
@pytest.mark.parametrize("said", [len(SAMPLES), 0, (1 << 64) - 1])
def test_a_wav_of_64_bits_is_read(kind, said):
    sizes = chunk(b"ds64", struct.pack("<QQQI", 0 if said == 0 else len(SAMPLES) + 72, said, 0, 0))
    data = kind + b"\xff\xff\xff\xffWAVE" + sizes + FORM + b"data\xff\xff\xff\xff" + SAMPLES
    assert torch.equal(read(data), WHOLE)
    if said == len(SAMPLES):
        with pytest.raises(ValueError, match="cut short"):
            read(data[:-1])


@pytest.mark.parametrize("kind", ["aiff", "au", "w64", "caf", "wav"])
def test_other_formats_are_read_through_a_pipe_too(kind):
    coding = "pcm_s16be" if kind in ("aiff", "au") else "pcm_s16le"
    piped, filed = (muxed(kind, coding, seconds=0.25, rate=RATE, pipe=pipe) for pipe in (True, False))
    assert torch.equal(read(piped), exact(filed))
    assert torch.equal(read(filed), exact(filed))
    assert exact(filed).shape == (1, 4000)
    for lost in (1, 2000):
        with pytest.raises(ValueError, match="cut short"):
            read(filed[:-lost])


@pytest.mark.parametrize(
    ("kind", "coding"),
    [
        *(("AIFF", coding) for coding in ("PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW")),
        *(("AU", coding) for coding in ("ULAW", "PCM_24", "FLOAT", "DOUBLE")),
        *(("CAF", coding) for coding in ("PCM_24", "FLOAT", "ULAW", "ALAC_16")),
        *(("NIST", coding) for coding in ("PCM_16", "ULAW")),
        *(("W64", coding) for coding in ("PCM_24", "IMA_ADPCM")),
        *(("RF64", coding) for coding in ("PCM_16", "FLOAT")),
    ],
)
def test_other_formats_give_their_samples_and_are_refused_when_cut(kind, coding):
    data = sound(noise(0.25, RATE), RATE, kind, coding)
    assert torch.equal(read(data), exact(data))
    assert torch.equal(read(ID3 + data), exact(data))
    for behind in (bytes(100), bytes(2001), ID3V1):
        assert torch.equal(read(data + behind), exact(data))
    with pytest.raises(ValueError, match="cut short"):
        read(data[: len(data) * 6 // 10])


@pytest.mark.parametrize(("kind", "place"), [("AU", 8), ("AIFF", 22)])
def test_a_header_that_says_half_is_a_failure(kind, place):
    data = bytearray(sound(noise(0.25, RATE), RATE, kind, "PCM_16"))
    (size,) = struct.unpack_from(">I", data, place)
    struct.pack_into(">I", data, place, size // 2)
    with pytest.raises(ValueError, match="header says"):
        read(bytes(data))


def test_an_au_of_unknown_length_is_read_to_its_end():
    data = bytearray(sound(noise(0.25, RATE), RATE, "AU", "PCM_16"))
    data[8:12] = b"\xff\xff\xff\xff"
    assert read(bytes(data)).shape == (1, 4000)


@pytest.mark.parametrize("said", [0xFFFFFFFF, 0, 8000])
def test_an_au_whose_samples_begin_behind_its_end_is_refused(said):
    data = bytearray(sound(noise(0.25, RATE), RATE, "AU", "PCM_16"))
    data[4:12] = struct.pack(">II", 0xFFFF, said)
    with pytest.raises(ValueError, match="begin at byte 65,535"):
        read(bytes(data))


def test_a_caf_of_unknown_length_is_read_to_its_end():
    data = bytearray(sound(noise(0.25, RATE), RATE, "CAF", "PCM_16"))
    place = data.index(b"data")
    data[place + 4 : place + 12] = b"\xff" * 8
    assert read(bytes(data)).shape == (1, 4000)


def test_a_wav_that_holds_mp3_is_read_by_its_frames():
    frames = mp3(64, 0.5)
    head = chunk(b"fmt ", struct.pack("<HHIIHHH", 0x55, 1, 44_100, 8000, 1, 0, 12) + bytes(12))
    assert torch.equal(read(riff(head, chunk(b"data", frames))), read(frames))


def test_speakers_of_a_wav_are_those_of_its_mask():
    def opened(mask):
        return AudioReader(io.BytesIO(riff(extensible(3, mask), chunk(b"data", SAMPLES[:6000]))))

    assert opened(0b111)._first.speakers == ("FL", "FR", "FC")
    assert opened(0b100000011)._first.speakers == ("FL", "FR", "BC")
    assert opened(0)._first.speakers == ("FL", "FR", "FC")


def test_a_wav_of_more_than_four_gibibytes_from_a_pipe_has_all_its_samples(tmp_path):
    with (tmp_path / "a.wav").open("w+b") as file:
        file.write(wav(b"", riff_size=0xFFFFFFFF, data_size=0xFFFFFFFF))
        # A hole, which takes no room on the disk.
        file.truncate(4_500_000_044)
        (part,) = parts_of(file)
        assert part.samples == 2_250_000_000
        assert soundfile.SoundFile(part.open()).frames == 2_250_000_000


def test_a_coding_that_nobody_knows_is_a_failure():
    data = sound(noise(0.25, RATE), RATE, "CAF", "ALAC_16").replace(b"alac", b"xlac", 1)
    with pytest.raises(ValueError, match="coded in no way that is known"):
        read(data)
