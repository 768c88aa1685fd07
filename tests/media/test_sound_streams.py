"""Files that are frames one behind the other (MP3, AAC, AMR, FLAC): every frame, and nothing else."""

import struct

import numpy as np
import pytest
import torch
from toys.files import RATE, encoded, flac_total, mp3, noise, sound, tone, true_length
from toys.sounds import APE, ID3, ID3V1, exact, muxed, read

from tokenize_kit.media.audio import read_audio

FRAME = 1152
PLAIN = mp3(64, 1)
"""Without a frame that tells the length."""
TAGGED = mp3(64, 1, xing=True)
OTHER = mp3(64, 0.5, xing=True, seed=1)
NOISE = np.random.default_rng(0).bytes(3000)

FLAC = sound(noise(1, RATE), RATE, "FLAC")
PIPED = encoded(noise(1, RATE), RATE, "flac", "flac", pipe=True)


def frames_said(count):
    """TAGGED with another number of frames in its Xing frame."""
    place = TAGGED.index(b"Info") + 8
    return TAGGED[:place] + count.to_bytes(4, "big") + TAGGED[place + 4 :]


def variant(rate, layout="mono", kind="mp3", coding="libmp3lame", kilobits=64):
    """Half a second without a Xing frame."""
    import av
    from toys.files import _Pipe

    target = _Pipe()
    with av.open(target, "w", format=kind, options={"write_xing": "0", "id3v2_version": "0"}) as output:
        stream = output.add_stream(coding, rate=rate, layout=layout, options={})
        stream.bit_rate = kilobits * 1000
        values = np.stack([noise(0.5, rate, seed) for seed in range(1 if layout == "mono" else 2)])
        frame = av.AudioFrame.from_ndarray(values, "fltp", layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return bytes(target.data)


# --- MP3 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kilobits", [32, 48, 320])
def test_an_mp3_without_a_stated_length_is_read_to_its_end(kilobits):
    data = mp3(kilobits, 0.5)
    assert read(data).shape[1] == true_length(data)


@pytest.mark.parametrize("order", [(256, 32), (32, 256), (320, 32, 128)])
def test_bit_rates_that_change_do_not_change_the_length(order):
    parts = [mp3(kilobits, 0.5, seed=kilobits) for kilobits in order]
    assert read(b"".join(parts)).shape[1] == sum(map(true_length, parts))


def test_an_mp3_with_a_stated_length_is_as_long_as_what_was_encoded():
    assert torch.equal(read(TAGGED), exact(TAGGED))
    assert read(TAGGED).shape[1] == 44_100


def test_mp3_files_that_were_joined_are_all_their_samples():
    assert torch.equal(read(TAGGED + OTHER), torch.cat([exact(TAGGED), exact(OTHER)], 1))
    assert torch.equal(read(TAGGED + PLAIN), torch.cat([exact(TAGGED), read(PLAIN)], 1))
    assert torch.equal(read(PLAIN + OTHER), torch.cat([read(PLAIN), exact(OTHER)], 1))


@pytest.mark.parametrize("between", [ID3, ID3V1, APE, ID3V1 + ID3, APE + ID3V1, b"LYRICSBEGIN0123LYRICS200"])
def test_tags_are_no_sound_wherever_they_are(between):
    assert torch.equal(read(TAGGED + between + OTHER), torch.cat([exact(TAGGED), exact(OTHER)], 1))
    assert read(PLAIN + between + PLAIN).shape[1] == 2 * true_length(PLAIN)
    assert torch.equal(read(between + TAGGED + between), exact(TAGGED))


@pytest.mark.parametrize("before", [NOISE[:777], bytes(5000), PLAIN[-100:]])
def test_bytes_before_the_first_frame_are_passed_over(before):
    assert torch.equal(read(before + PLAIN), read(PLAIN))
    assert torch.equal(read(before + TAGGED), exact(TAGGED))


def test_a_stream_recorded_from_the_middle_of_a_frame_is_read_from_the_next_one():
    assert 0 <= true_length(PLAIN) - FRAME - read(PLAIN[100:]).shape[1] <= 3 * FRAME


@pytest.mark.parametrize("behind", [bytes(3000), NOISE])
def test_bytes_behind_the_stated_frames_are_no_sound(behind):
    assert torch.equal(read(TAGGED + behind), exact(TAGGED))
    assert torch.equal(read(TAGGED + bytes(700) + OTHER), torch.cat([exact(TAGGED), exact(OTHER)], 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PLAIN[:-100], "in the middle of an MP3 frame"),
        (TAGGED[:-100], "in the middle of an MP3 frame|frames and the file holds"),
        (TAGGED[:-209], "frames and the file holds"),
        (TAGGED[: -3 * 209], "frames and the file holds"),
        (TAGGED + OTHER[:-100], "in the middle of an MP3 frame|frames and the file holds"),
        (frames_said(100), "says 100 MP3 frames and the file holds"),
        (frames_said(20), "says 20 MP3 frames and the file holds"),
        (PLAIN[:2000] + bytes(1000) + PLAIN[3000:], "are no MP3 frames"),
        (TAGGED[:2000] + bytes(1000) + TAGGED[3000:], "are no MP3 frames|frames and the file holds"),
        (PLAIN + bytes(3000), "are no MP3 frames"),
        (PLAIN + NOISE, "are no MP3 frames|in the middle"),
    ],
)
def test_an_mp3_that_lacks_frames_is_a_failure(data, message):
    with pytest.raises(ValueError, match=message):
        read(data)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_xing_frame_may_count_itself_or_forget_a_frame(wrong):
    place = TAGGED.index(b"Info") + 8
    count = int.from_bytes(TAGGED[place : place + 4], "big") + wrong
    assert read(frames_said(count)).shape[1] == 44_100


@pytest.mark.parametrize("rate", [8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 48_000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_mpeg_2_and_2_5_are_read(rate, layout):
    data = variant(rate, layout)
    assert read(data).shape == (1 if layout == "mono" else 2, true_length(data))


def test_a_rate_or_channels_that_change_inside_are_brought_to_the_first():
    one, two, three = variant(44_100), variant(22_050), variant(48_000, "stereo")
    got = read(one + two + three)
    assert torch.equal(got, torch.cat([read(one), read(two, 44_100), read(three, 44_100, 1)], 1))


def test_free_format_is_read():
    data = bytearray(variant(48_000))
    for place in range(0, len(data), 192):
        data[place + 2] &= 0x0F
    assert torch.equal(read(bytes(data)), read(variant(48_000)))
    with pytest.raises(ValueError, match="in the middle of an MP3 frame"):
        read(bytes(data[:-50]))


def test_a_vbri_frame_is_no_sound_and_states_the_number():
    count = true_length(PLAIN) // FRAME
    head = bytearray(PLAIN[:208])
    head[4:] = bytes(204)
    head[36:54] = b"VBRI" + bytes(6) + struct.pack(">II", len(PLAIN) + 208, count)
    assert torch.equal(read(bytes(head) + PLAIN), read(PLAIN))
    with pytest.raises(ValueError, match=f"says {count} MP3 frames"):
        read(bytes(head) + PLAIN[:-209])


def test_layer_2_is_read():
    data = variant(44_100, kind="mp2", coding="mp2", kilobits=128)
    assert read(data).shape[1] == true_length(data)
    with pytest.raises(ValueError, match="in the middle"):
        read(data[:-5])


# --- AAC, AMR ---------------------------------------------------------------------------------------------------------


def test_raw_aac_is_read_to_its_last_frame():
    data = muxed("adts", "aac", seconds=0.5)
    whole = read(data)
    assert whole.shape[1] == true_length(data)
    for other in (ID3 + data, data + ID3V1, bytes(100) + data):
        assert torch.equal(read(other), whole)
    with pytest.raises(ValueError, match="in the middle of an AAC frame"):
        read(data[:-9])
    with pytest.raises(ValueError, match="are no AAC frames"):
        read(data[:2000] + bytes(500) + data[2500:])


@pytest.mark.parametrize(("mark", "frame", "samples"), [(b"#!AMR\n", 32, 160), (b"#!AMR-WB\n", 61, 320)])
def test_amr_is_read_to_its_last_frame(mark, frame, samples):
    kind = b"\x3c" if samples == 160 else b"\x44"
    data = mark + (kind + bytes(frame - 1)) * 20
    assert read(data).shape == (1, 20 * samples)
    with pytest.raises(ValueError, match="in the middle of an AMR frame"):
        read(data[:-3])


# --- FLAC -------------------------------------------------------------------------------------------------------------


def without_digest(data):
    return data[:26] + bytes(16) + data[42:]


@pytest.mark.parametrize("data", [PIPED, flac_total(FLAC, 0), flac_total(without_digest(FLAC), 0)])
def test_flac_of_unknown_length_is_read_to_its_end(data):
    assert torch.equal(read(data)[:, :RATE], read(data))
    assert read(data).shape == (1, RATE)


@pytest.mark.parametrize("said", [RATE // 2, 1, RATE + 5000])
def test_a_wrong_number_of_samples_is_overruled_by_the_digest_or_is_a_failure(said):
    assert torch.equal(read(flac_total(FLAC, said)), exact(FLAC))
    with pytest.raises(ValueError, match=f"says {said:,} samples and the file holds 16,000"):
        read(flac_total(without_digest(FLAC), said))
    changed = bytearray(flac_total(FLAC, said))
    changed[30] ^= 1
    with pytest.raises(ValueError, match=f"says {said:,} samples and the file holds 16,000"):
        read(bytes(changed))


@pytest.mark.parametrize("bits", ["PCM_S8", "PCM_16", "PCM_24"])
def test_the_digest_is_that_of_every_width(bits):
    data = sound(np.stack([noise(0.5, RATE), noise(0.5, RATE, 1)], 1), RATE, "FLAC", bits)
    assert torch.equal(read(flac_total(data, 100)), exact(data))


@pytest.mark.parametrize("data", [FLAC, PIPED, without_digest(FLAC)])
def test_a_flac_that_is_cut_is_a_failure_wherever_it_is_cut(data):
    for left in range(100, len(data), len(data) // 13):
        with pytest.raises(ValueError, match=r"damaged or cut short|not a sound that can be read"):
            read(data[:left])


@pytest.mark.parametrize("rate", [7_350, 11_025, RATE, 48_000, 50_000, 100_000, 192_000])
def test_a_flac_has_the_sample_rate_of_its_frames(rate):
    data = bytearray(sound(noise(0.2, rate), rate, "FLAC"))
    assert read_audio(bytes(data)).sample_rate == rate
    for bit in range(20):  # of the header, which has no checksum
        damaged = bytearray(data)
        damaged[18 + bit // 8] ^= 0x80 >> bit % 8
        with pytest.raises(ValueError, match=f"the frames say {rate:,}"):
            read_audio(bytes(damaged))


def test_tags_and_bytes_around_the_frames_of_a_flac_are_no_sound():
    for data in (ID3 + FLAC, FLAC + ID3V1, FLAC + APE + ID3V1, FLAC + bytes(500), without_digest(FLAC) + NOISE):
        assert torch.equal(read(data), exact(FLAC))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FLAC + sound(tone(1), RATE, "FLAC"), "two FLAC files in one"),
        (PIPED + PIPED, "damaged"),
        (FLAC[:9000] + bytes(300) + FLAC[9300:], "damaged"),
        (FLAC[:9000] + bytes([FLAC[9000] ^ 1]) + FLAC[9001:], "damaged"),
    ],
)
def test_a_flac_that_is_damaged_or_two_is_a_failure(data, message):
    with pytest.raises(ValueError, match=message):
        read(data)
