"""How many frames a film has at a rate, and which: each the one that is shown at its time, at both ends and for uneven stamps."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from toys.films import film, moving, numbered, numbers_of, written

from tokenize_kit.media.video import VideoReader, conversion_of, exact_rate, read_video, read_video_noting
from tokenize_kit.media.video.shown import Shown, at_rate

MILLISECOND = Fraction(1, 1000)
BUNNY = Path(__file__).resolve().parents[3] / "assets" / "films" / "bigbuckbunny.mp4"


def _chosen(stamps, end, rate):
    """The rule, slow and obvious: for each time before the end, the last frame that has appeared."""
    times = [Fraction(number) / rate for number in range(math.ceil(end * rate))]
    return [max(index for index, stamp in enumerate(stamps) if stamp <= time) for time in times]


@pytest.mark.parametrize("rate", [5, 10, 12, Fraction(25, 2), 24, 30, 60])
@pytest.mark.parametrize("seed", range(4))
def test_each_frame_is_the_one_that_is_shown_at_its_time(rate, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = [Fraction(int(length), 90_000) for length in torch.randint(1, 20_000, (30,), generator=generator)]
    stamps = [sum(lengths[:number], Fraction(3)) for number in range(30)]
    frames = [Shown(time, length, lambda out: None) for time, length in zip(stamps, lengths, strict=True)]
    found = [frames.index(one) for one in at_rate(iter(frames), Fraction(rate), Fraction(3), Fraction(0), Fraction(24))]
    assert found == _chosen([stamp - 3 for stamp in stamps], sum(lengths), Fraction(rate))


@pytest.mark.parametrize(
    ("stamps", "rate", "expected"),
    [
        # Matroska rounds 24 a second to milliseconds.
        ([0, 42, 83, 125, 167, 208], 24, [0, 1, 2, 3, 4, 5]),
        ([0, 42, 83, 125, 167, 208], 12, [0, 2, 4]),
        ([0, 100, 150, 500, 520], 12, [0, 0, 2, 2, 2, 2, 3]),
        ([0, 100, 150, 500, 520], 10, [0, 1, 2, 2, 2, 3]),
        ([1000, 1100, 1200], 10, [0, 1, 2]),
    ],
)
def test_films_of_a_variable_frame_rate_are_read_by_their_stamps(stamps, rate, expected):
    data = film(numbered(len(stamps)), "matroska", "ffv1", "bgr0", 24, stamps=stamps, base=MILLISECOND)
    assert numbers_of(read_video(data, rate).frames) == expected
    assert numbers_of(read_video(data).frames) == list(range(len(stamps)))


def test_unequal_lengths_are_said_where_frames_are_taken_one_by_one():
    data = film(numbered(4), "matroska", "ffv1", "bgr0", 24, stamps=[0, 100, 150, 500], base=MILLISECOND)
    assert read_video_noting(data)[1] == ("frames of unequal lengths taken one by one",)


# A transport stream is known as one from some twenty frames on.
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *((kind, count) for kind in ("mp4", "matroska") for count in (1, 2, 3, 24, 25, 49)),
        *(("mpegts", count) for count in (24, 25, 49)),
    ],
)
@pytest.mark.parametrize(("source", "wanted"), [(25, 12), (12, 24), (24, 12), (24, 24), (30, 24)])
def test_a_constant_rate_is_off_by_none_at_both_ends(kind, count, source, wanted):
    data = film(moving(count, 16, 16), kind, rate=source)
    expected = math.ceil(Fraction(count * wanted, source))
    assert len(read_video(data, wanted).frames) == expected


def test_frames_of_25_a_second_at_12_are_every_second_one():
    data = film(numbered(25), "matroska", "ffv1", "bgr0", 25)
    assert numbers_of(read_video(data, 12).frames) == [k * 25 // 12 for k in range(12)]


def test_animations_of_42_milliseconds_are_read_by_their_stamps(tmp_path):
    import io

    from PIL import Image

    pictures = [Image.new("RGB", (8, 8), (8 + number,) * 3) for number in range(72)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=42, lossless=True)
    video, notes = read_video_noting(buffer.getvalue(), 12)
    assert notes == ("23.81 frames a second to 12",)
    # 3.024 seconds have a frame at 3.000.
    assert numbers_of(video.frames) == [(k * 1000 + 6) // (12 * 42) for k in range(37)]


@pytest.mark.parametrize("delay", [0, 1])
def test_a_gif_without_delays_runs_as_browsers_show_it(delay):
    data = bytearray(written(moving(5), ".gif"))
    place = 0
    while (place := data.find(b"!\xf9\x04", place) + 1) > 0:
        data[place + 3 : place + 5] = delay.to_bytes(2, "little")
    assert VideoReader(bytes(data)).rate == 10


def test_negative_and_late_stamps_are_counted_from_the_first_frame():
    early = film(numbered(6), "matroska", "ffv1", "bgr0", 24, stamps=[500, 542, 583, 625, 667, 708], base=MILLISECOND)
    assert numbers_of(read_video(early, 12).frames) == [0, 2, 4]
    frames = moving(20)
    reordered = film(frames, options={"bf": "3"})
    assert (read_video(reordered).frames.float() - frames.float()).abs().mean() < 4


def test_conversion_is_said_in_words_without_decoding_it():
    data = film(moving(24))
    assert conversion_of(data, 12) == "24 frames a second to 12"
    assert conversion_of(data, 24) == conversion_of(data, None) == ""
    assert conversion_of(film(moving(24), rate=Fraction(24_000, 1001)), 24) == "23.976 frames a second to 24"
    assert exact_rate(29.97) == Fraction(30_000, 1001)
    assert exact_rate(10.5) == Fraction(21, 2)


def test_a_real_film():
    reader = VideoReader(BUNNY)
    assert (reader.format, reader.codec, reader.rate) == ("mp4", "h264", 24)
    whole = torch.cat(list(reader.blocks()))
    assert whole.shape == (34, 3, 96, 171)
    assert read_video(BUNNY, 12).frames.equal(whole[::2])
    assert read_video(BUNNY, 12, start=5, frames=4).frames.equal(whole[10:18:2])
