"""Sounds that are not as they are wanted: channels mixed, values clipped, parts joined; and how much is too much."""

import io
import struct

import numpy as np
import pytest
import torch
from toys.files import RATE, encoded, flac_total, mp3, noise, sound, tone, wav, wav_float
from toys.sounds import ID3, UNKNOWN, chunk, exact, extensible, live, muxed, read, riff

from tokenize_kit.media.audio import AudioReader, read_audio, read_audio_noting, reader, stream_audio
from tokenize_kit.media.audio.speakers import VORBIS, WAV, of_mask, stereo_weights
from tokenize_kit.modalities import modality_named
from tokenize_kit.protocol import TokenSpec

ROOT = 0.5**0.5


def channels_of(count, rate=RATE):
    """A pitch for each channel, 0.1 s."""
    return np.stack([tone(0.1, rate, 300 + 200 * index) for index in range(count)], 1)


def mixed(values, speakers):
    """Left and right by the formula of the recommendation, written out."""
    by = dict(zip(speakers, values.T, strict=True))
    none = np.zeros(len(values))

    def of(*names):
        return sum((by.get(name, none) for name in names), none)

    left = of("FL") + ROOT * of("FC", "BL", "SL") + 0.5 * of("BC")
    right = of("FR") + ROOT * of("FC", "BR", "SR") + 0.5 * of("BC")
    weight = {"FL": 1, "FC": ROOT, "BL": ROOT, "SL": ROOT, "BC": 0.5}
    return np.stack([left, right]) / sum(weight.get(name, 0) for name in speakers)


# --- channels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_many_channels_become_two_by_the_weights_of_bs775(kind, count):
    values = np.round(channels_of(count) * 32767) / 32768
    got = read(sound(values, RATE, kind, "PCM_16"), channels=2)
    np.testing.assert_allclose(got.numpy(), mixed(values, WAV[count]), atol=1e-6)


def test_what_is_within_full_scale_stays_there():
    for speakers in [*WAV.values(), *VORBIS.values()]:
        weights = stereo_weights(speakers, len(speakers))
        assert weights.sum(0).max() == pytest.approx(1)
    loud = read(sound(np.ones((100, 6), np.float32), RATE, "WAV", "FLOAT"), channels=2)
    torch.testing.assert_close(loud, torch.ones(2, 100))


def test_the_mask_of_a_wav_says_where_channels_belong():
    values = channels_of(4)
    data = chunk(b"data", (values * 32767).astype("<i2").tobytes())
    for mask, speakers in [
        (0x33, ("FL", "FR", "BL", "BR")),
        (0x107, ("FL", "FR", "FC", "BC")),
        (0x0F, ("FL", "FR", "FC", "LFE")),
        (0x603, ("FL", "FR", "SL", "SR")),
    ]:
        got = read(riff(extensible(4, mask), data), channels=2)
        np.testing.assert_allclose(got.numpy(), mixed(values, speakers), atol=1e-4)
        assert of_mask(mask, 4) == speakers
    # One that is for another number of channels is no mask.
    assert of_mask(0x3F, 4) == WAV[4]


@pytest.mark.parametrize(("coding", "rate"), [("VORBIS", 44_100), ("OPUS", 48_000)])
def test_ogg_has_an_order_of_its_own(coding, rate):
    data = sound(channels_of(6, rate), rate, "OGG", coding)
    np.testing.assert_allclose(read(data, channels=2).numpy(), mixed(exact(data).numpy().T, VORBIS[6]), atol=1e-6)


def test_one_channel_is_the_mean_of_all():
    values = channels_of(6)
    got = read(sound(values, RATE, "WAV", "FLOAT"), channels=1)
    np.testing.assert_allclose(got[0].numpy(), values.mean(1), atol=1e-6)


def test_channels_that_belong_nowhere_cannot_be_made_stereo():
    data = sound(channels_of(9), RATE, "WAV", "FLOAT")
    with pytest.raises(ValueError, match="9 channels cannot be made stereo: it does not say where they belong"):
        read(data, channels=2)
    assert read(data, channels=1).shape[0] == 1


# --- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "notes"),
    [
        (wav_float(tone(0.1)), ()),
        (wav_float(np.float32([0, 1.5, -2, 1])), ("1-9 values beyond full scale clipped",)),
        (wav_float(tone(1) * 4), ("10,000-99,999 values beyond full scale clipped",)),
        (
            sound(channels_of(6), RATE, "WAV", "PCM_16"),
            ("16000 Hz 6 channels to 16000 Hz mono",),
        ),
        (
            sound(tone(0.5), RATE, "OGG") + sound(tone(0.5, 8000), 8000, "OGG"),
            ("8000 Hz mono to 16000 Hz mono", "parts of a chained or joined file put together"),
        ),
        (bytes(100) + mp3(64, 0.2), ("44100 Hz mono to 16000 Hz mono", "bytes before the first MP3 frame skipped")),
    ],
)
def test_what_was_done_is_said(data, notes):
    assert read_audio_noting(data, RATE, 1)[1] == notes
    spec = TokenSpec("audio", 256, ("time",), (1,), lossless=False, channels=1, sample_rate=RATE)
    sample, said = modality_named("audio").read_noting(data, spec)
    assert said == notes
    assert torch.equal(sample, read_audio(data, RATE, 1).samples)


def test_notes_of_a_stream_are_complete_when_it_is_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_float(tone(1) * 4))
    spec = TokenSpec("audio", 256, ("time",), (1,), lossless=False, channels=1, sample_rate=RATE)
    with modality_named("audio").open_stream(tmp_path / "a.wav", spec) as stream:
        assert stream.notes == ()
        assert sum(piece.shape[1] for piece in stream.pieces()) == RATE
        assert stream.notes == ("10,000-99,999 values beyond full scale clipped",)


# --- in pieces --------------------------------------------------------------------------------------------------------

ODD = {
    "wav from a pipe": wav(noise(0.5, RATE).astype("<f4").tobytes(), tag=3, sample_bytes=4, data_size=0xFFFFFFFF),
    "wav behind a tag": ID3 + wav_float(noise(0.5, RATE)),
    "flac that says half": flac_total(sound(noise(1, RATE), RATE, "FLAC"), RATE // 2),
    "flac and more": sound(noise(1, RATE), RATE, "FLAC") + bytes(900),
    "flac from a pipe": encoded(noise(1, RATE), RATE, "flac", "flac", pipe=True),
    "mp3 without a length": mp3(64, 1),
    "joined mp3": mp3(64, 1, xing=True) + ID3 + mp3(64, 0.5, xing=True, seed=1),
    "chained ogg": sound(tone(1), RATE, "OGG") + sound(channels_of(2, 44_100), 44_100, "OGG"),
    "chained opus": sound(tone(0.5, 48_000), 48_000, "OGG", "OPUS") * 2,
    "live webm": live(muxed("webm", "libopus")),
    "fragmented mp4": muxed("mp4", "aac", movflags="frag_keyframe+empty_moov", frag_duration="300000"),
    "six channels": sound(channels_of(6), RATE, "FLAC", "PCM_16"),
}


@pytest.mark.parametrize("name", ODD)
def test_pieces_are_the_samples_of_the_whole(tmp_path, name):
    (tmp_path / "a.bin").write_bytes(ODD[name])
    pieces = list(stream_audio(tmp_path / "a.bin", 7001, 11_025, 2))
    assert torch.equal(torch.cat(pieces, 1), read_audio(ODD[name], 11_025, 2).samples)
    assert all(piece.shape == (2, 7001) for piece in pieces[:-1])


# --- too much ---------------------------------------------------------------------------------------------------------


def checksum(data, polynomial, bits):
    value = 0
    for byte in data:
        value ^= byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial) & (1 << bits) - 1 if value >> bits - 1 else value << 1
    return value.to_bytes(bits // 8, "big")


def silence(frames, samples=65_535):
    """A FLAC file of frames of silence, 14 bytes each."""
    rate = (RATE << 44 | 15 << 36 | samples * frames).to_bytes(8, "big")
    data = b"fLaC\x80\0\0\x22" + struct.pack(">HH", samples, samples) + bytes(6) + rate + bytes(16)
    for number in range(frames):
        utf8 = chr(number).encode() if number < 0xD800 else b""
        head = b"\xff\xf8\x70\x08" + utf8 + struct.pack(">H", samples - 1)
        frame = head + checksum(head, 7, 8) + bytes(3)
        data += frame + checksum(frame, 0x8005, 16)
    return data


def test_hours_of_silence_in_a_few_bytes_are_refused_and_streamed(monkeypatch):
    data = silence(40)
    assert len(data) < 1000
    monkeypatch.setattr(reader, "FREE_VALUES", 40 * 65_535)
    assert read_audio(data).samples.shape == (1, 40 * 65_535)
    monkeypatch.setattr(reader, "FREE_VALUES", 39 * 65_535)
    with pytest.raises(ValueError, match=r"more than 2,555,865 values \(0.0 hours\) in 562 bytes is too long"):
        read_audio(data)
    assert sum(block.shape[1] for block in AudioReader(io.BytesIO(data)).blocks()) == 40 * 65_535
    monkeypatch.setattr(reader, "VALUES_PER_BYTE", 1 << 20)
    assert read_audio(data).samples.shape == (1, 40 * 65_535)


def test_a_sample_rate_of_nearly_nothing_is_resampled_in_small_parts(monkeypatch):
    data = bytearray(wav_float(noise(0.25, RATE)))
    struct.pack_into("<I", data, 24, 10)
    made = []
    original = AudioReader._clip
    monkeypatch.setattr(AudioReader, "_clip", lambda self, block: made.append(len(block)) or original(self, block))
    monkeypatch.setattr(reader, "_RESAMPLED", 1 << 14)
    assert read_audio(bytes(data), 2000).samples.shape == (1, 800_000)
    assert max(made) <= 1 << 18


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfb\x04\xc0" * 30_000,
        b"\xff" * 200_000,
        b"\xff\xfb\x90\xc0" * 30_000,
        bytes.fromhex("1a45dfa380") + b"\x18\x53\x80\x67" + UNKNOWN + bytes.fromhex("1f43b67580") * 20_000,
        b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08free" * 20_000,
        b"RIFF\xff\xff\xff\xffWAVE" + b"JUNK\0\0\0\0" * 120_000,
        b"RIFF\xff\xff\xff\xffAVI " + b"LIST\0\0\0\0movi" * 20_000,
        b"OggS" * 10_000,
        b"NIST_1A\n   1024\n" + b"x " * 5000,
    ],
    ids=["free format", "ff", "headers", "clusters", "boxes", "chunks", "lists", "pages", "sphere"],
)
def test_headers_without_end_are_refused_soon(data):
    with pytest.raises(ValueError, match=r"\S+ "):
        read(data)
