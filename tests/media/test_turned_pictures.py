"""Which way a picture is turned, whatever else its EXIF data say."""

import struct
import zlib

import numpy as np
import pytest
from PIL import TiffImagePlugin
from toys import files
from toys.pictures import SCENE, TURNED, png, read

ODD = {
    "negative": (0x011A, 10, 1, struct.pack("<ii", -72, 1)),
    "no fraction": (0x011A, 5, 1, struct.pack("<II", 72, 0)),
    "text": (0x011A, 2, 3, b"72\0"),
    "one letter": (0x011A, 2, 1, b"7"),
    "not a number": (0x011B, 12, 1, struct.pack("<d", float("nan"))),
    "nothing": (0x011A, 5, 0, b""),
    "an unknown type": (0x011A, 99, 1, b"abcd"),
    "far away": (0x010F, 2, 1 << 31, b"\xff\xff\xff\xff"),
    "a directory that is not there": (0x8769, 4, 1, b"\xff\xff\xff\x7f"),
    "a directory within itself": (0x8769, 4, 1, struct.pack("<I", 8)),
    "a thumbnail that is none": (0x0201, 4, 1, b"\xff\xff\xff\x7f"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tags_do_not_keep_a_picture_from_being_turned(name):
    exif = files.tiff_directory([files.ORIENTATION_6, ODD[name]])
    assert np.array_equal(read(files.jpeg_with_exif([files.ORIENTATION_6, ODD[name]])), turned_jpeg())
    assert np.array_equal(read(png((b"eXIf", exif))), TURNED)
    assert np.array_equal(read(png(after=files.png_chunk(b"eXIf", b"Exif\0\0" + exif))), TURNED)
    webp = files.saved(files.scene(), "WEBP", lossless=True, exif=exif)
    assert np.array_equal(read(webp), TURNED)
    digits = b"\nexif\n%8d\n" % len(exif) + b"\n".join(exif.hex().encode()[at : at + 72] for at in range(0, 999, 72))
    packed_digits = b"Raw profile type APP1\0\0" + zlib.compress(digits)
    for chunk in ((b"tEXt", b"Raw profile type exif\0" + digits), (b"zTXt", packed_digits)):
        assert np.array_equal(read(png(chunk)), TURNED)


def turned_jpeg():
    return files.turned(files.saved(files.scene(), "JPEG", quality=95))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("kind", [2, 10, 12])
def test_odd_tags_of_a_tiff(kind, compression):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 6
    data = bytearray(files.saved(files.scene(), "TIFF", dpi=(72, 72), tiffinfo=tags, compression=compression))
    data[data.index(struct.pack("<HH", 282, 5)) + 2] = kind  # the horizontal resolution is something else
    data[data.index(struct.pack("<HH", 296, 3)) + 8] = 3
    assert np.array_equal(read(bytes(data)), TURNED)


@pytest.mark.parametrize("exif", ["text", "header"])
def test_odd_tags_of_an_avif(exif):
    entries = [files.ORIENTATION_6, (0x011A, 5, 1, struct.pack("<II", 72, 1)), (0x0128, 3, 1, struct.pack("<H", 2))]
    whole = files.saved(files.scene(), "AVIF", quality=95, exif=files.tiff_directory(entries))
    right, data = read(whole), bytearray(whole)
    assert right.shape == (60, 40, 3)
    if exif == "text":
        data[data.index(struct.pack("<HH", 282, 5)) + 2] = 2
    else:
        data[data.index(b"II*\0") : data.index(b"II*\0") + 4] = b"????"
    assert np.array_equal(read(bytes(data)), right)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_are_none_count_as_nothing(value):
    data = files.jpeg_with_exif([(0x0112, 3, 1, struct.pack("<H", value))])
    assert np.array_equal(read(data), read(files.saved(files.scene(), "JPEG", quality=95)))


def test_orientation_as_other_numbers_and_in_xmp():
    for entry in (
        (0x0112, 4, 1, struct.pack("<I", 6)),
        (0x0112, 1, 1, b"\6"),
        (0x0112, 3, 2, struct.pack("<HH", 6, 1)),
    ):
        assert np.array_equal(read(files.jpeg_with_exif([entry])), turned_jpeg())
    big = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    assert np.array_equal(read(png((b"eXIf", big))), TURNED)
    for text in (b"<x tiff:Orientation='6'/>", b'<x tiff:Orientation="6"/>', b"<tiff:Orientation>6</tiff:Orientation>"):
        assert np.array_equal(read(png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text))), TURNED)
        packed_text = b"XML:com.adobe.xmp\0\1\0en\0\0" + zlib.compress(text)
        assert np.array_equal(read(png((b"iTXt", packed_text))), TURNED)
        base = files.saved(files.scene(), "JPEG", quality=95, xmp=text)
        assert np.array_equal(read(base), turned_jpeg())
    other = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='3'/>")
    both = png((b"eXIf", files.tiff_directory([files.ORIENTATION_6])), other)
    assert np.array_equal(read(both), TURNED)  # EXIF goes first


def test_cut_exif_is_read_as_far_as_it_goes():
    exif = files.tiff_directory([files.ORIENTATION_6, ODD["negative"]])
    for keep in range(len(exif)):
        pixels = read(png((b"eXIf", exif[:keep])))
        assert np.array_equal(pixels, TURNED if keep >= 22 else SCENE), keep  # where the entry of the orientation ends
