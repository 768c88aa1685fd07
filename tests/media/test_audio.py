"""Sound files of every kind to float32 tensors: values, channels, sample rates, streaming, and what is refused."""

import io
import os
import struct
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
import torch

from tokenize_kit.media.audio import (
    AudioReader,
    check_audio,
    conversion_of,
    pour_blocks,
    read_audio,
    self_describing,
    stream_audio,
    to_pcm16,
    wav_bytes,
    write_audio,
    write_blocks,
)
from tokenize_kit.modalities import modality_named
from tokenize_kit.protocol import TokenSpec

RATE = 16_000


def tone(seconds=0.5, rate=RATE, channels=1, frequency=440.0):
    """Sines, each channel of its own pitch, peak 0.5."""
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * frequency * (1 + c / 2) * time) for c in range(channels)], 1)


def encoded(values, rate=RATE, kind="WAV", subtype="PCM_16"):
    buffer = io.BytesIO()
    soundfile.write(buffer, values, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def with_av(values, rate, container, codec, bit_rate=64_000):
    """A file of one sound track (and for mp4 a video track too), made by PyAV."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        picture = output.add_stream("mpeg4", rate=10) if container == "mp4" else None
        stream = output.add_stream(codec, rate=rate, layout="mono" if values.shape[1] == 1 else "stereo")
        if codec != "g722":
            stream.bit_rate = bit_rate
        if picture is not None:
            picture.width = picture.height = 16
            picture.pix_fmt = "yuv420p"
            for _ in range(3):
                output.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")))
            output.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(
            (values * 32767).astype(np.int16).reshape(1, -1), "s16", "mono" if values.shape[1] == 1 else "stereo"
        )
        frame.sample_rate = rate
        frame.pts, frame.time_base = 0, Fraction(1, rate)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return buffer.getvalue()


FORMATS = {
    "wav": lambda x: encoded(x),
    "flac": lambda x: encoded(x, kind="FLAC"),
    "vorbis": lambda x: encoded(x, kind="OGG", subtype="VORBIS"),
    "opus": lambda x: encoded(x, kind="OGG", subtype="OPUS"),
    "mp3": lambda x: encoded(x, kind="MP3", subtype="MPEG_LAYER_III"),
    "aiff": lambda x: encoded(x, kind="AIFF"),
    "aac": lambda x: with_av(x, RATE, "adts", "aac"),
    "m4a": lambda x: with_av(x, RATE, "ipod", "aac"),
    "mp4": lambda x: with_av(x, RATE, "mp4", "aac"),
    "webm": lambda x: with_av(x, RATE, "webm", "libopus"),
    "g722": lambda x: self_describing(".g722", with_av(x, RATE, "g722", "g722")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_its_sound(name):
    values = tone(1.0)
    got = read_audio(FORMATS[name](values), RATE, 1)
    assert got.sample_rate == RATE
    assert got.samples.dtype == torch.float32
    assert got.samples.shape[0] == 1
    # Raw aac cannot say how much of its first frames is padding.
    assert abs(got.samples.shape[1] - RATE) <= (3 * 1024 if name == "aac" else 0 if name != "webm" else 400)
    # The pitch and loudness, whatever the delay.
    spectrum = torch.fft.rfft(got.samples[0, 4000:12000]).abs() / 4000
    assert int(spectrum.argmax()) == 220
    assert float(spectrum.max()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_24")]
)
def test_lossless_files_give_their_samples(kind, subtype, channels):
    values = tone(0.1, channels=channels)
    scale = {"PCM_16": 2**15, "PCM_24": 2**23, "FLOAT": 2**24}[subtype]
    values = np.round(values * scale) / scale
    data = encoded(values, 44_100, kind, subtype)
    got = read_audio(data)
    assert got.sample_rate == 44_100
    assert torch.equal(got.samples, torch.from_numpy(values.T.astype(np.float32)))
    assert conversion_of(data, 44_100, None) == ""


def test_sixteen_bits_written_come_back_exactly(tmp_path):
    every = torch.arange(-32768, 32768).reshape(2, -1) / 32768
    write_audio(every.clone(), tmp_path / "new" / "a.wav", 8000)
    got = read_audio((tmp_path / "new" / "a.wav").read_bytes())
    assert torch.equal(got.samples, every)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.wav"]
    with wave.open(str(tmp_path / "new" / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 2, 2)


def test_rounding_and_full_scale_are_as_stated():
    values = torch.tensor([[0.5 / 32768, 1.5 / 32768, -0.5 / 32768, 1.0, -1.0, 0.99999]])
    assert to_pcm16(values).tolist() == [[0, 2, 0, 32767, -32768, 32767]]


def test_blocks_that_are_written_are_the_whole(tmp_path):
    sound = torch.from_numpy(tone(0.3, channels=2).T.astype(np.float32))
    write_blocks(sound.split(700, 1), tmp_path / "a.wav", RATE)
    assert (tmp_path / "a.wav").read_bytes() == wav_bytes(sound, RATE)
    with pytest.raises(ValueError, match="no samples to write"):
        write_blocks([], tmp_path / "b.wav", RATE)
    with pytest.raises(ValueError, match="expected 2"):
        write_blocks([sound, sound[:1]], tmp_path / "b.wav", RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_channels_are_averaged_or_copied():
    values = tone(0.1, channels=2)
    values[:, 1] *= -0.5
    stereo = encoded(values, subtype="FLOAT")
    mono = read_audio(stereo, channels=1).samples
    np.testing.assert_allclose(mono[0].numpy(), values.mean(1), atol=1e-7)
    twice = read_audio(encoded(values[:, :1], subtype="FLOAT"), channels=2).samples
    assert torch.equal(twice[0], twice[1])
    assert torch.equal(twice[:1], read_audio(encoded(values[:, :1], subtype="FLOAT")).samples)
    with pytest.raises(ValueError, match="9 channels cannot be made stereo"):
        read_audio(encoded(tone(0.1, channels=9)), channels=2)


@pytest.mark.parametrize(("source", "wanted"), [(44_100, 16_000), (48_000, 16_000), (8000, 16_000), (22_255, 16_000)])
def test_a_sound_resampled_is_that_sound_at_the_other_rate(source, wanted):
    """Against the sines themselves: the same time axis, no delay, an error below 20 bits away from the ends."""
    got = read_audio(encoded(tone(1.0, source), source, subtype="FLOAT"), wanted).samples[0].numpy()
    assert len(got) == wanted
    assert np.abs(got - tone(1.0, wanted)[:, 0])[500:-500].max() < 2e-6


def test_what_lies_above_the_new_nyquist_frequency_is_gone():
    got = read_audio(encoded(tone(1.0, 48_000, frequency=9000), 48_000, subtype="FLOAT"), RATE).samples
    assert float(got[0, 500:-500].abs().max()) < 2e-5


def test_conversion_is_said_in_words():
    data = encoded(tone(0.1, 48_000, 2), 48_000)
    assert conversion_of(data, RATE, 1) == "48000 Hz stereo to 16000 Hz mono"
    assert conversion_of(data, None, 1) == "48000 Hz stereo to 48000 Hz mono"
    assert conversion_of(data, 48_000, 2) == ""


@pytest.mark.parametrize("block", [1, 7, 1000, 65_536, 10**6])
@pytest.mark.parametrize("name", ["flac", "mp3", "m4a", "g722"])
def test_streaming_gives_the_samples_of_the_whole(tmp_path, name, block):
    if block == 1 and name != "flac":
        block = 3
    path = tmp_path / f"a.{name}"
    path.write_bytes(with_av(tone(0.2), RATE, "g722", "g722") if name == "g722" else FORMATS[name](tone(0.2)))
    whole = read_audio(self_describing(f".{name}", path.read_bytes()), 11_025, 2).samples
    parts = list(stream_audio(path, block, 11_025, 2))
    assert all(part.shape == (2, block) for part in parts[:-1])
    assert torch.equal(torch.cat(parts, 1), whole)


def test_streaming_a_raw_file_knows_it_by_its_name(tmp_path):
    (tmp_path / "a.g722").write_bytes(with_av(tone(0.2), RATE, "g722", "g722"))
    assert sum(part.shape[1] for part in stream_audio(tmp_path / "a.g722")) == 3200


def test_what_is_beyond_full_scale_is_clipped_and_counted():
    values = np.array([[0.0], [1.5], [-2.0], [1.0]])
    reader = AudioReader(io.BytesIO(encoded(values, subtype="FLOAT")))
    assert torch.cat(list(reader.blocks()), 1).tolist() == [[0.0, 1.0, -1.0, 1.0]]
    assert reader.clipped == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.0], [float("nan")]], "sample 1 .* is not a number"),
        ([[float("inf")]], "sample 0 .* is not a number"),
        ([[0.0], [20_000.0]], "values up to 20000 are far beyond full scale"),
        (np.zeros((0, 1)), "no sound"),
    ],
)
def test_values_that_are_no_sound_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        read_audio(encoded(np.array(values), subtype="FLOAT"))


@pytest.mark.parametrize("name", ["wav", "aiff", "flac", "vorbis", "opus", "mp3", "m4a", "mp4"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused(name, part):
    data = FORMATS[name](tone(2.0))
    with pytest.raises(ValueError, match=r"cut short|not a sound that can be read"):
        read_audio(data[: round(len(data) * part)])


@pytest.mark.parametrize("data", [b"", b"RIFF", b"not a sound at all" * 20, b"\0" * 5000, b"fLaC" + b"\xff" * 400])
def test_what_is_no_sound_is_refused_with_one_line(data):
    with pytest.raises(ValueError, match=r"\S+ ") as caught:
        read_audio(data)
    assert "\n" not in str(caught.value)


def test_damage_in_the_middle_of_a_flac_is_found():
    data = bytearray(encoded(tone(2.0), kind="FLAC"))
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\0" * 2000
    with pytest.raises(ValueError, match="damaged"):
        read_audio(bytes(data))


def test_a_playlist_cannot_open_other_files(tmp_path):
    (tmp_path / "secret.wav").write_bytes(encoded(tone(0.5)))
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"
    for data in (text.encode(), f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n".encode()):
        with pytest.raises(ValueError, match="not a sound that can be read"):
            read_audio(data)


def test_a_wav_of_unknown_length_is_read_to_its_end():
    data = bytearray(encoded(tone(0.5)))
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert read_audio(bytes(data)).samples.shape == (1, 8000)


def test_blocks_that_are_poured_into_a_file_are_the_whole(tmp_path):
    sound = torch.from_numpy(tone(0.5).T.astype(np.float32))
    write_audio(sound, tmp_path / "whole.wav", 16_000)
    with (tmp_path / "poured.wav").open("wb") as file:
        pour_blocks(iter(sound.split(999, 1)), file, 16_000)
    assert (tmp_path / "poured.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    # Behind something else, and where all goes behind the end.
    (tmp_path / "behind.wav").write_bytes(b"before")
    with (tmp_path / "behind.wav").open("r+b") as file:
        file.seek(0, 2)
        pour_blocks([sound], file, 16_000)
    assert (tmp_path / "behind.wav").read_bytes() == b"before" + (tmp_path / "whole.wav").read_bytes()
    with (tmp_path / "appended.wav").open("ab") as file:
        pour_blocks([sound], file, 16_000)
    data = (tmp_path / "appended.wav").read_bytes()
    assert data[44:] == (tmp_path / "whole.wav").read_bytes()[44:]
    assert torch.equal(read_audio(data).samples, read_audio((tmp_path / "whole.wav").read_bytes()).samples)


def test_blocks_that_are_poured_into_a_pipe_are_there_at_once():
    sound = torch.from_numpy(tone(0.25).T.astype(np.float32))
    reading, writing = os.pipe()
    there = b""

    def blocks():
        nonlocal there
        for block in sound.split(500, 1):
            yield block
            there += os.read(reading, 1 << 16)
            assert len(there) == 44 + 2 * min(500 * (len(there) // 1000), sound.shape[1])

    with os.fdopen(writing, "wb") as pipe:
        pour_blocks(blocks(), pipe, 16_000)
    os.close(reading)
    assert there[4:8] == there[40:44] == b"\xff\xff\xff\xff", "as FFmpeg says that it does not know"
    assert read_audio(there).samples.shape == sound.shape
    with wave.open(io.BytesIO(there)) as reader:
        assert reader.readframes(1 << 20) == there[44:]
    with pytest.raises(ValueError, match="there are no samples"):
        pour_blocks([], io.BytesIO(), 16_000)


@pytest.mark.parametrize("length", [1, 2, 3, 17])
def test_the_shortest_sounds_are_read(length):
    assert read_audio(encoded(tone(1)[:length])).samples.shape == (1, length)
    assert read_audio(encoded(tone(1)[:length], 22_050), RATE).samples.shape[1] == round(length * RATE / 22_050)


def test_a_sound_that_vanishes_at_the_wanted_rate_is_refused():
    with pytest.raises(ValueError, match="1 samples at 44100 Hz has none at 16000 Hz"):
        read_audio(encoded(tone(1)[:1], 44_100), RATE)


def test_check_audio():
    good = torch.zeros(2, 5)
    assert check_audio(good, 2).data_ptr() == good.data_ptr()
    for sample, kind, message in [
        ("text", TypeError, "got str"),
        (good.double(), TypeError, "float64"),
        (good[0], ValueError, r"axes \(C, samples\)"),
        (good[:, :0], ValueError, "no samples"),
        (good + 1.5, ValueError, "1.5 to 1.5"),
        (good + float("nan"), ValueError, "nan"),
    ]:
        with pytest.raises(kind, match=message):
            check_audio(sample)
    with pytest.raises(ValueError, match="has 2 channels, expected 1"):
        check_audio(good, 1)


def test_the_medium_reads_and_writes_what_the_spec_asks_for(tmp_path):
    spec = TokenSpec("audio", 256, ("time",), (1,), lossless=False, channels=1, sample_rate=RATE)
    sample = modality_named("audio").read(encoded(tone(0.5, 32_000, 2), 32_000), spec)
    assert sample.shape == (1, 8000)
    modality_named("audio").write(sample, tmp_path / "a.wav", spec)
    got = read_audio((tmp_path / "a.wav").read_bytes())
    assert got.sample_rate == RATE
    assert float((got.samples - sample).abs().max()) <= 0.5 / 32768
    with pytest.raises(ValueError, match="no sample rate"):
        modality_named("audio").write(
            sample, tmp_path / "b.wav", TokenSpec("audio", 256, ("time",), (1,), lossless=False)
        )


def test_a_large_file_is_streamed_in_bounded_memory(tmp_path, monkeypatch):
    """Blocks are made while the file is read: no more than a few are alive at a time."""
    soundfile.write(tmp_path / "long.wav", np.zeros((3_000_000, 1), np.float32), RATE)
    reads = []
    original = soundfile.SoundFile.read

    def counting(self, frames=-1, *args, **options):
        reads.append(frames)
        return original(self, frames, *args, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    taken = 0
    for number, block in enumerate(stream_audio(tmp_path / "long.wav", 50_000), 1):
        taken += block.shape[1]
        assert sum(reads) <= number * 50_000 + 2 * max(reads)
    assert taken == 3_000_000
