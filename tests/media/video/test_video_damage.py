"""A film that is cut or damaged is a failure that says so; a frame is never left out in silence."""

from __future__ import annotations

import io
import random
import re
import struct

import pytest
from PIL import Image
from toys.films import film, moving, written

from tokenize_kit.media.video import read_video

FILMS = {
    "mp4": lambda: film(moving(12), options={"g": "4"}),
    "fragmented mp4": lambda: film(moving(12), options={"g": "4"}, container={"movflags": "frag_keyframe+empty_moov"}),
    "mov": lambda: film(moving(12), "mov", "png", "rgb24"),
    "webm": lambda: film(moving(12), "webm", "libvpx-vp9", options={"g": "4"}),
    "mkv": lambda: film(moving(12), "matroska", "ffv1", "bgr0", options={"level": "3", "slicecrc": "1"}),
    "avi": lambda: film(moving(12), "avi", "mpeg4", options={"g": "4"}),
    "ogv": lambda: film(moving(12), "ogg", "libvpx"),
    "gif": lambda: written(moving(12), ".gif"),
    "webp": lambda: written(moving(12), ".webp"),
    "apng": lambda: written(moving(12), ".apng"),
}


@pytest.fixture(scope="module", params=FILMS)
def data(request):
    return FILMS[request.param]()


def test_a_film_that_is_cut_is_a_failure(data):
    assert len(read_video(data).frames) == 12
    for share in (0.05, 0.3, 0.5, 0.8, 0.97):
        place = int(share * len(data))
        # Between two fragments a film of fragments is whole, as far as anybody can tell.
        for box in re.finditer(b"moof|mfra", data):
            if 0 <= place - (box.start() - 4) < 8:
                place = box.start() + 4
        with pytest.raises(ValueError, match=r"cut short|not a video|not a picture|damaged"):
            read_video(data[:place])


def test_the_beginning_of_a_box_behind_a_fragment_is_a_cut():
    data = FILMS["fragmented mp4"]()
    for box in re.finditer(b"moof|mfra", data[1000:]):
        end = 1000 + box.start() - 4
        read_video(data[:end])
        read_video(data[:end] + bytes(7))  # padding
        for more in (4, 6, 7):  # the first three bytes of a length are zeros
            with pytest.raises(ValueError, match=r"bytes that are the beginning of a box end an MP4 file; .*cut short"):
                read_video(data[: end + more])


@pytest.mark.parametrize("kind", FILMS)
def test_turned_bits_leave_out_no_frame(kind):
    data = FILMS[kind]()
    rng = random.Random(kind)
    failures = 0
    for _ in range(25):
        changed = bytearray(data)
        # Not in the header, where the length of a frame may be said.
        changed[rng.randrange(len(data) // 3, 4 * len(data) // 5)] ^= 1 << rng.randrange(8)
        try:
            assert len(read_video(bytes(changed)).frames) == 12
        except ValueError:
            failures += 1
    # MPEG-4 decodes nearly everything to something.
    assert failures or kind == "avi"


def _sizes_of_blocks(data):
    """The places of the sizes of all sub-blocks of a GIF."""
    place, found = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0), []
    while data[place] != ord(";"):
        if data[place] == ord("!"):
            place += 2
        else:
            place += 11 + (3 << (data[place + 9] & 7) + 1 if data[place + 9] & 0x80 else 0)
        while size := data[place]:
            found.append(place)
            place += 1 + size
        found.append(place)
        place += 1
    return found


def _by_pillow():
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in moving(12)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=80, loop=0)
    return buffer.getvalue()


@pytest.mark.parametrize("made", [FILMS["gif"], _by_pillow])
def test_a_damaged_size_takes_no_frame_out_of_a_gif(made):
    data = made()
    rng = random.Random(0)
    assert len(read_video(data).frames) == 12
    for place in rng.sample(_sizes_of_blocks(data), 40):
        for size in (data[place] ^ 1 << rng.randrange(8), *rng.sample(range(256), 3)):
            changed = data[:place] + bytes([size]) + data[place + 1 :]
            try:
                assert len(read_video(changed).frames) == 12
            except ValueError:
                continue


def test_frames_behind_the_end_of_a_gif_are_a_failure():
    data = FILMS["gif"]()
    with pytest.raises(ValueError, match=r"a frame of the GIF at byte \d.* behind the end"):
        read_video(data + data[13:])
    assert len(read_video(data + b"\0" * 20).frames) == 12


@pytest.mark.parametrize("kind", ["mkv", "apng"])
def test_with_checksums_every_turned_bit_in_a_frame_is_a_failure(kind):
    data = FILMS[kind]()
    for place in range(len(data) // 2, len(data) // 2 + 200, 20):
        changed = bytearray(data)
        changed[place] ^= 16
        with pytest.raises(ValueError, match=r"damaged"):
            read_video(bytes(changed))


def test_damage_in_the_middle_names_the_time():
    data = FILMS["mkv"]()
    changed = bytearray(data)
    changed[6 * len(data) // 12 + 100] ^= 16
    with pytest.raises(ValueError, match=r"at 0\.\d\d s|after 0\.\d\d s"):
        read_video(bytes(changed))


def test_damage_behind_a_clip_does_not_concern_it():
    data = FILMS["mkv"]()
    changed = bytearray(data)
    changed[9 * len(data) // 12] ^= 16
    assert read_video(bytes(changed), frames=5).frames.equal(read_video(data, frames=5).frames)


def _changed(data, name, at, value):
    changed = bytearray(data)
    struct.pack_into(">I", changed, data.index(name) + 4 + at, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        (b"ctts", 4, 0, "a table ctts says 0 entries"),
        (b"ctts", 8, 9, r"a track says when \d+ of its 12 samples are shown"),
        (b"elst", 8, 100, "the edits of a track are 100 long, and the track 500"),
        (b"mdhd", 12, 0, "a track without its head"),
        (b"mdhd", 12, 1 << 30, "a track without its head"),
        (b"mvhd", 12, 1 << 30, "a movie whose second has more than 100,000,000 ticks"),
        (b"mdhd", 12, 4, "next to nothing of its samples"),
        (b"mvhd", 12, 4_000_000, "next to nothing of its samples"),
        (b"ctts", 20, 1536, r"two frames are shown at 0\.08 s"),
    ],
)
def test_tables_of_a_film_that_do_not_agree_are_a_failure(name, at, value, message):
    data = film(moving(12), options={"bf": "2"})
    assert len(read_video(data).frames) == 12
    with pytest.raises(ValueError, match=message):
        read_video(_changed(data, name, at, value))


@pytest.mark.usefixtures("one_thread")
def test_a_time_that_goes_back_is_a_failure():
    data = bytearray(film(moving(12), "webm", "libvpx-vp9"))
    blocks = [
        place
        for place in range(len(data) - 4)
        if data[place] == 0xA3 and data[place + 1] & 0x80 and data[place + 2] == 0x81
    ]
    assert len(blocks) > 8
    data[blocks[6] + 3] ^= 2
    with pytest.raises(ValueError, match=r"the frame at 0\.\d+ s comes after that at 0\.\d+ s"):
        read_video(bytes(data))


def test_a_block_that_says_to_hold_several_frames_hides_none():
    data = bytearray(film(moving(12), "webm", "libvpx-vp9"))
    for block in re.finditer(rb"\xa3.\x81(..)\0", bytes(data), re.DOTALL):
        damaged = bytearray(data)
        damaged[block.end() - 1] = 2
        with pytest.raises(ValueError, match=r"video streams are found in 1 video tracks|damaged"):
            read_video(bytes(damaged))


def test_no_frame_hides_in_a_number():
    data = bytearray(film(moving(12), "webm", "libvpx-vp9"))
    block = next(place for place in range(len(data) // 2, len(data)) if data[place] == 0xA3 and data[place + 2] == 0x81)
    data[block] ^= 8
    with pytest.raises(ValueError, match="is none of a cluster"):
        read_video(bytes(data))


def test_colours_that_no_converter_knows_are_a_failure():
    data = film(moving(2), options={"x264-params": "colormatrix=YCgCo"}, tagged=False)
    with pytest.raises(ValueError, match="a frame in yuv420p with the colour space 8 cannot be converted"):
        read_video(data)


AVI = film(moving(12), "avi", "mpeg4")


def test_a_healthy_avi_has_all_of_its_frames():
    assert len(read_video(AVI).frames) == 12
    # A stream that nobody came back to: sizes of no meaning, and no index.
    live = bytearray(AVI[: AVI.rindex(b"idx1")])
    for place in (4, AVI.index(b"movi") - 4):
        struct.pack_into("<I", live, place, 0)
    assert len(read_video(bytes(live)).frames) == 12


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        (b"avih", 0, b"avig", "an AVI file without its head"),
        (b"strh", 0, b"strg", "a stream of an AVI file without its head"),
        (b"strh", 28, bytes(4), "a video stream of an AVI file without a rate"),
        (b"strh", 31, b"\x04", r"its frame rate is said to be 0.\d+ a second|\de-\d\d"),
        (b"hdrl", 0, b"hdrk", "is of no stream"),
        (b"00dc", 0, b"04dc", "is of no stream"),
        (b"00dc", 0, b"JUNK", "names 12 chunks of a stream, and 11 are there"),
        (b"00dc", 0, b"\0\0\0\0", "there is no chunk at byte"),
    ],
)
def test_no_chunk_of_an_avi_is_left_out(name, at, value, message):
    place = AVI.rindex(name, 0, AVI.rindex(b"idx1")) if name == b"00dc" else AVI.index(name)
    damaged = bytearray(AVI)
    damaged[place + at : place + at + len(value)] = value
    with pytest.raises(ValueError, match=message):
        read_video(bytes(damaged))


def test_what_is_zero_up_to_the_end_of_an_avi_is_no_padding():
    place = AVI.rindex(b"00dc", 0, AVI.rindex(b"idx1"))
    with pytest.raises(ValueError, match="there is no chunk at byte"):
        read_video(AVI[:place] + bytes(len(AVI) - place))


def test_damage_in_av1_leaves_out_no_frame():
    data = bytearray(film(moving(12), "mp4", "libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"}))
    place = data.index(b"mdat") + 200
    data[place : place + 60] = bytes(60)
    with pytest.raises(ValueError, match=r"the frame at 0\.\d\d s cannot be decoded"):
        read_video(bytes(data))


def test_a_frame_of_mpeg4_that_gives_nothing_is_a_failure():
    said = []
    for start in re.finditer(bytes.fromhex("000001b6"), AVI):
        for damage in (b"\0\0\0\x80", bytes(30)):
            damaged = AVI[: start.end()] + damage + AVI[start.end() + len(damage) :]
            try:
                assert len(read_video(damaged).frames) == 12
            except ValueError as error:
                said.append(str(error))
    assert any("1 of 12 frames cannot be decoded" in words for words in said)


def test_two_ogg_films_in_one_are_a_failure():
    data = FILMS["ogv"]()
    with pytest.raises(ValueError, match="two Ogg files in one"):
        read_video(data + data)
