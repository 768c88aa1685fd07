"""Sound tracks of MP4, MOV, WebM, MKV and AVI: whole, or a failure."""

import struct

import pytest
import torch
from toys.files import noise
from toys.sounds import CLUSTER, ID3V1, SEGMENT, UNKNOWN, box, boxes, elements, live, muxed, read

from tokenize_kit.media.audio import read_audio_noting

M4A = muxed("ipod", "aac")
WEBM = muxed("webm", "libopus")
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"}

FILES = {
    "m4a": M4A,
    "mp4": muxed("mp4", "aac", video="mpeg4"),
    "mov": muxed("mov", "pcm_s16le"),
    "alac": muxed("ipod", "alac"),
    "mp4 of flac": muxed("mp4", "flac"),
    "webm": WEBM,
    "webm with pictures": muxed("webm", "libopus", video="libvpx"),
    "webm from a pipe": muxed("webm", "libopus", pipe=True),
    "live webm": live(WEBM, duration=True),
    "mkv of flac": muxed("matroska", "flac"),
    "mkv of mp3": muxed("matroska", "libmp3lame"),
    "avi": muxed("avi", "pcm_s16le"),
    "avi from a pipe": muxed("avi", "pcm_s16le", pipe=True),
    "avi of mp3": muxed("avi", "libmp3lame", video="mpeg4"),
    "caf of alac": muxed("caf", "alac"),
}
STREAMED = {
    "fragmented mp4": muxed("mp4", "aac", **FRAGMENTED),
    "fragmented mp4 with pictures": muxed("mp4", "aac", video="mpeg4", **FRAGMENTED),
    "fragmented mov from a pipe": muxed("mov", "pcm_s16le", pipe=True, **FRAGMENTED),
    "dash": muxed("mp4", "aac", movflags="dash+frag_keyframe", frag_duration="300000"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_has_its_length(name):
    assert 0 <= read(FILES[name]).shape[1] - 48_000 <= (2304 if "mp3" in name else 0)


@pytest.mark.parametrize("name", STREAMED)
def test_all_fragments_are_read(name):
    # Nothing says how much of the first and last frame is padding.
    assert 0 <= read(STREAMED[name]).shape[1] - 48_000 <= (0 if "mov" in name else 2048)


@pytest.mark.parametrize("name", [*FILES, *STREAMED])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.8, 0.97, 1])
def test_a_file_that_is_cut_is_a_failure(name, part):
    data = {**FILES, **STREAMED}[name]
    with pytest.raises(ValueError, match=r"cut short|damaged|not a sound that can be read"):
        read(data[: round(len(data) * part) - 1])


# --- MP4 --------------------------------------------------------------------------------------------------------------


def test_an_mp4_without_its_index_is_a_failure():
    with pytest.raises(ValueError, match="without its index"):
        read(M4A[: box(M4A, b"moov") - 8])


def test_a_fragment_whose_samples_are_missing_is_a_failure():
    data = STREAMED["fragmented mp4"]
    last = [place for name, place, _ in boxes(data) if name == b"mdat"][-1]
    with pytest.raises(ValueError, match="before the samples of its last fragment"):
        read(data[:last])


def test_an_index_of_segments_says_how_long_the_file_is():
    data = STREAMED["dash"]
    place = next(place for name, place, _ in boxes(data) if name == b"moof")
    with pytest.raises(ValueError, match="the file ends after"):
        read(data[:place])


def test_a_fragment_that_is_none_is_a_failure():
    data = STREAMED["fragmented mp4"]
    place = data.rindex(b"traf")
    with pytest.raises(ValueError, match="has no track"):
        read(data[:place] + bytes(4) + data[place + 4 :])


def test_the_length_of_all_fragments_is_compared_where_it_is_said():
    options = FRAGMENTED | {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    data = bytearray(muxed("mp4", "aac", **options))
    place, extends = box(data, b"moov") - 8, box(data, b"moov", b"mvex") - 8
    said = struct.pack(">I4sII", 16, b"mehd", 0, 5000)
    for at in (place, extends):
        size = int.from_bytes(data[at : at + 4], "big") + len(said)
        data[at : at + 4] = size.to_bytes(4, "big")
    data[extends + 8 : extends + 8] = said
    with pytest.raises(ValueError, match=r"ends after 4\d,\d+ of 240,000 samples"):
        read(bytes(data))


HEALTHY = {
    "default base": muxed("mp4", "aac", movflags="frag_keyframe+empty_moov+default_base_moof", frag_duration="300000"),
    "separate": muxed(
        "mp4", "aac", video="mpeg4", **FRAGMENTED | {"movflags": "frag_keyframe+empty_moov+separate_moof"}
    ),
    "not empty": muxed("mp4", "aac", movflags="frag_keyframe", frag_duration="300000"),
    "cmaf of opus": muxed("mp4", "libopus", movflags="cmaf+frag_keyframe", frag_duration="300000"),
    "omit offset": muxed(
        "mp4", "aac", tracks=2, **FRAGMENTED | {"movflags": "frag_keyframe+empty_moov+omit_tfhd_offset"}
    ),
    "live webm": muxed("webm", "libopus", live="1"),
    "small clusters": muxed("webm", "libopus", cluster_time_limit="100"),
    "mka": muxed("matroska", "aac", cluster_size_limit="2000"),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_other_ways_to_write_a_whole_file_are_read(name):
    assert 0 <= read(HEALTHY[name]).shape[1] - 48_000 <= 2048


@pytest.mark.parametrize("name", ["fragmented mp4", "fragmented mov from a pipe", "dash"])
def test_turned_bits_of_a_fragment_are_never_fewer_samples(name):
    data = STREAMED[name]
    fragment = next(place for kind, place, _ in boxes(data) if kind == b"moof")
    run, head = data.index(b"trun", fragment), data.index(b"tfhd", fragment)
    places = {"name": fragment + 4, "count": run + 11, "offset": run + 15, "flags": run + 6, "track's flags": head + 7}
    assert read(data).shape[1] >= 48_000
    for what, place in places.items():
        damaged = bytearray(data)
        damaged[place] ^= 0x10 if what == "track's flags" else 2
        with pytest.raises(ValueError, match=r"damaged|cut short"):
            read(bytes(damaged))


def test_two_beginnings_of_an_opus_track_are_a_failure():
    place = WEBM.index(bytes.fromhex("56aa83")) + 3
    damaged = bytearray(WEBM)
    damaged[place] ^= 0x40
    with pytest.raises(ValueError, match="the file is damaged: its sound begins after"):
        read(bytes(damaged))


@pytest.mark.parametrize(
    ("seconds", "start", "samples"), [(1.0, 1024, 48_000), (0.5, 1024, 24_000), (0.4, 20_000, 19_200)]
)
def test_an_edit_list_says_what_is_played(seconds, start, samples):
    data, place = bytearray(M4A), box(M4A, b"moov", b"trak", b"edts", b"elst")
    struct.pack_into(">Ii", data, place + 8, round(seconds * 1000), start)
    struct.pack_into(">I", data, box(M4A, b"moov", b"trak", b"tkhd") + 20, round(seconds * 1000))
    assert read(bytes(data)).shape == (1, samples)


@pytest.mark.parametrize(
    ("names", "at", "value", "message"),
    [
        ((b"edts", b"elst"), 8, 400, r"the edits of a track are 400 long, and the track 1,0\d\d"),
        ((b"edts", b"elst"), 4, 0, "a table elst says 0 entries in 20 bytes"),
        ((b"edts", b"elst"), 4, 7, "a table elst says 7 entries in 20 bytes"),
        ((b"mdia", b"mdhd"), 12, 0, "a track without its head"),
        ((b"mdia", b"hdlr"), -4, 0, "a track without its head"),
        ((b"mdia", b"minf", b"stbl"), -4, 0, "a track without its table of samples"),
        ((b"mdia", b"minf", b"stbl", b"stts"), 4, 9, "a table stts says 9 entries"),
    ],
)
def test_tables_that_do_not_agree_are_a_failure(names, at, value, message):
    data = bytearray(M4A)
    struct.pack_into(">I", data, box(M4A, b"moov", b"trak", *names) + at, value)
    with pytest.raises(ValueError, match=message):
        read(bytes(data))


def test_a_length_that_is_too_small_hides_no_sound():
    data, place = bytearray(M4A), box(M4A, b"moov", b"trak", b"mdia", b"mdhd")
    struct.pack_into(">I", data, place + 16, 10_000)
    assert read(bytes(data)).shape[1] >= 48_000


def test_a_length_that_is_too_large_is_that_of_no_sample():
    """The table of samples is what there is; all of them are in the file."""
    data, place = bytearray(M4A), box(M4A, b"moov", b"trak", b"mdia", b"mdhd")
    struct.pack_into(">I", data, place + 16, 432_000)
    assert torch.equal(read(bytes(data)), read(M4A))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (M4A + M4A, "two MP4 files in one"),
        (M4A + b"some words " * 9, "cut short"),
        (muxed("mp4", "aac", tracks=0, video="mpeg4"), "without a sound track"),
    ],
)
def test_an_mp4_of_two_files_or_no_sound_is_a_failure(data, message):
    with pytest.raises(ValueError, match=message):
        read(data)


@pytest.mark.parametrize("behind", [bytes(100), ID3V1, b"\0\0\0\x10free" + bytes(8)])
def test_what_is_no_box_of_sound_may_follow(behind):
    assert torch.equal(read(M4A + behind), read(M4A))


def test_tables_that_promise_more_than_there_is_are_refused_before_memory_is_asked_for():
    data, place = bytearray(FILES["mov"]), box(FILES["mov"], b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
    struct.pack_into(">II", data, place + 4, 2, 0x7FFFFFFF)
    with pytest.raises(ValueError, match="says 2,147,483,647 samples"):
        read(bytes(data))


# --- Matroska ---------------------------------------------------------------------------------------------------------


def test_a_live_webm_is_read_whole_with_and_without_sizes():
    whole = read(WEBM)
    place = WEBM.index(SEGMENT) + 4
    for data in (live(WEBM), WEBM[:place] + UNKNOWN + WEBM[place + 8 :], WEBM + bytes(50)):
        assert torch.equal(read(data), whole)


def test_a_live_webm_that_ends_before_its_duration_is_a_failure():
    data = live(muxed("webm", "libopus", seconds=2), duration=True)
    blocks = list(elements(data, data.rindex(CLUSTER) + 12, len(data)))
    cut = data[: blocks[10][1]]
    with pytest.raises(ValueError, match=r"ends after 0\.\d+ of 2\.0\d seconds"):
        read(cut)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WEBM + WEBM, "two files in one"),
        (live(WEBM) + live(WEBM), "two Matroska files in one"),
        (WEBM + b"some words " * 9, "two files in one, or damaged"),
        (WEBM[:4000] + bytes(2000) + WEBM[6000:], "there is no element"),
        (live(WEBM) + bytes(50), "there is no element"),
        (WEBM.replace(b"\xd7\x81\x01", b"\xd7\x81\x02"), "is of no track"),
        (muxed("matroska", "libopus", tracks=0, video="libvpx"), "without a sound track"),
    ],
)
def test_a_matroska_file_of_two_damaged_or_without_sound_is_a_failure(data, message):
    with pytest.raises(ValueError, match=message):
        read(data)


# --- which track ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("default", "taken"), [(0, 1), (1, 2)])
def test_the_default_track_is_taken_and_said(default, taken):
    data = muxed("matroska", "pcm_s16le", tracks=2, default=default, seconds=0.2)
    audio, notes = read_audio_noting(data)
    assert notes == (f"sound track {taken} of 2 taken",)
    right = torch.from_numpy(noise(0.2, 48_000, seed=taken - 1))
    assert float((audio.samples[0] - right).abs().max()) < 1e-4


# --- AVI ------------------------------------------------------------------------------------------------------


def test_an_avi_with_a_hole_is_a_failure():
    data = FILES["avi of mp3"]
    with pytest.raises(ValueError, match="there is no chunk"):
        read(data[:6000] + bytes(3000) + data[9000:])
