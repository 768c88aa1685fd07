"""JPEG files: whole without their end or cut, junk, several pictures, what libjpeg does not read."""

import numpy as np
import pytest
from PIL import Image
from toys import files
from toys.pictures import frame_of, noisy, read

from tokenize_kit.media.image import jpeg

KINDS = {
    "baseline": {},
    "best": {"quality": 100, "subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_lacks_only_its_end_is_read(kind, mode):
    data = files.saved(noisy(mode), "JPEG", **KINDS[kind])
    right = read(data)
    for other in (
        data[:-2],
        data[:-1],
        data[:-2] + bytes(5000),
        data[:-1] + bytes(9),
        data + b"more",
        data + bytes(5000),
    ):
        assert np.array_equal(read(other), right)


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_lacks_a_pixel_is_not_read(kind):
    """At every place it is either refused or the same to the last bit, whatever is appended."""
    data = files.saved(noisy(), "JPEG", **KINDS[kind])
    right = read(data)
    refused = 0
    for less in [*range(1, 40), *range(40, len(data) - 650, 61)]:
        for tail in (b"", bytes(100)):
            pixels, reason = attempt(data[:-less] + tail)
            assert "cut short" in reason if pixels is None else np.array_equal(pixels, right)
            assert pixels is not None or less > 2
            refused += pixels is None
    assert refused > 60


def attempt(data):
    """The pixels and no reason, or the reason alone."""
    try:
        return read(data), ""
    except ValueError as error:
        return None, str(error)


def test_a_progressive_jpeg_without_its_last_scans_is_not_read():
    data = files.saved(noisy(), "JPEG", progressive=True)
    starts = [place for place in range(len(data) - 1) if data[place : place + 2] == b"\xff\xc4"]
    assert len(starts) > 5
    for start in starts[2:]:  # each cut is exactly between two scans
        with pytest.raises(ValueError, match="cut short"):
            read(data[:start])


def test_junk_between_the_segments_of_a_jpeg_is_no_matter():
    data = files.saved(files.scene(), "JPEG", quality=95)
    frame = data.index(b"\xff\xc0")
    for junk in (b"\0\0\0", b"\xff\xff\xff", b"junk", b"\xff\xe5\0\x06abcd", b"\xff\xfe\0\x05xyz"):
        assert np.array_equal(read(data[:frame] + junk + data[frame:]), read(data)), junk


def test_a_jpeg_of_several_pictures_gives_the_first():
    second = files.scene().transpose(Image.Transpose.ROTATE_180)
    data = files.saved(files.scene(), "MPO", save_all=True, append_images=[second], quality=95)
    assert b"MPF\0" in data
    assert np.array_equal(read(data), read(files.saved(files.scene(), "JPEG", quality=95)))
    broken = data.replace(b"MPF\0", b"MPF\0XXXXXXXX"[:4], 1)
    place = broken.index(b"MPF\0") + 4
    assert np.array_equal(read(broken[:place] + b"\xff" * 20 + broken[place + 20 :]), read(data))


def test_what_libjpeg_cannot_read_is_said():
    data = files.saved(files.scene(), "JPEG")
    with pytest.raises(ValueError, match="12 bits a sample"):
        read(frame_of(data, bits=12))
    with pytest.raises(ValueError, match="2 components"):
        read(frame_of(data, layers=2))
    with pytest.raises(ValueError, match="without image data"):
        read(data[:300])
    with pytest.raises(ValueError, match="without a frame"):
        read(data.replace(b"\xff\xc0", b"\xff\xe7"))


def test_progressive_jpegs_that_would_take_much_are_refused(monkeypatch):
    data = files.saved(files.scene(), "JPEG", progressive=True)
    monkeypatch.setattr(jpeg, "MAX_BYTES", 60 * 40 * 7 - 1)  # 4:2:0 has 1.5 coefficients a pixel, of 2 bytes
    with pytest.raises(ValueError, match="progressive JPEG of 60x40"):
        read(data)
    monkeypatch.setattr(jpeg, "MAX_BYTES", 60 * 40 * 7)
    assert read(data).shape == (40, 60, 3)
    scan = data[data.index(b"\xff\xda") : data.index(b"\xff\xda") + 20]
    with pytest.raises(ValueError, match=r"2\d\d scans"):
        read(data[: data.index(b"\xff\xda")] + scan * 201 + data[data.index(b"\xff\xda") :])
