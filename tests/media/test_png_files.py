"""PNG files: chunks of any size, checksums, transparency of every depth, animations."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from toys import files
from toys.pictures import CUT, SCENE, damaged, packed, png, read

from tokenize_kit.media.image import read_image, read_image_noting


@pytest.mark.parametrize("unfolded", [2 << 20, 100 << 20])
def test_text_and_profiles_of_any_size_are_no_matter(unfolded):
    folded = zlib.compress(bytes(unfolded), 1)
    for chunk in (
        (b"zTXt", b"settings\0\0" + folded),
        (b"iTXt", b"settings\0\1\0\0\0" + folded),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + folded),
        (b"zTXt", b"Raw profile type exif\0\0" + folded),
        (b"iCCP", b"screen\0\0" + folded),
    ):
        for data in (png(chunk), png(after=files.png_chunk(*chunk))):
            assert np.array_equal(read(data), SCENE), chunk[0]
    many = png(*[(b"zTXt", b"k%d\0\0" % number + zlib.compress(bytes(1 << 19), 1)) for number in range(200)])
    assert np.array_equal(read(many), SCENE)


def test_wrong_checksums_of_what_is_no_part_are_no_matter():
    for name, body in (
        (b"tEXt", b"comment\0hello"),
        (b"zTXt", b"k\0\0" + zlib.compress(b"x")),
        (b"iTXt", b"k\0\0\0\0\0x"),
        (b"tIME", bytes(7)),
        (b"pHYs", bytes(9)),
        (b"eXIf", files.tiff_directory([files.ORIENTATION_6])),
        (b"gAMA", struct.pack(">I", 45455)),
        (b"bKGD", b""),
        (b"teSt", bytes(5)),
    ):
        chunk = damaged(files.png_chunk(name, body))
        assert np.array_equal(read(png(chunk)), SCENE), name
        assert np.array_equal(read(png(after=chunk)), SCENE), name
    pixels = read_image_noting(png(damaged(files.png_chunk(b"iCCP", b"x\0\0" + zlib.compress(files.ADOBE_RGB)))), 3)
    assert pixels.notes == ("a colour profile that cannot be read, which was left out",)


def test_wrong_checksums_of_the_picture_are_failures():
    whole = png((b"tRNS", struct.pack(">3H", 0, 0, 0)))
    palette = files.saved(files.scene().quantize(8), "PNG")
    for data, name in ((whole, b"IHDR"), (whole, b"tRNS"), (palette, b"PLTE")):
        place = data.index(name) + 4 + int.from_bytes(data[data.index(name) - 4 : data.index(name)], "big")
        with pytest.raises(ValueError, match=r"checksum|not a picture"):
            read(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    for data, name in ((whole, b"tRNS"), (palette, b"PLTE"), (whole, b"IDAT")):
        for other in (name[:3] + b"\0", name[:2] + bytes([name[2] ^ 0x20]) + name[3:], name.swapcase()):
            with pytest.raises(ValueError, match="lost its name"):
                read(data.replace(name, other))
    for place in range(whole.index(b"IDAT") + 8, len(whole) - 20, 97):
        with pytest.raises(ValueError, match=CUT):
            read(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(ValueError, match="unknown part CgBI"):
        read(png((b"CgBI", bytes(4))))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_every_depth(depth):
    most = (1 << depth) - 1
    values = np.arange(40 * 64).reshape(40, 64) * (7 if depth < 16 else 577) & most
    key = most // 3 if depth == 1 else most // 3 + 1
    data = png((b"tRNS", struct.pack(">H", key)), rows=packed(values, depth), depth=depth, colour=0, width=64)
    grey = (values * 255 + most // 2) // most
    assert np.array_equal(read(data, 4)[..., 0], grey)
    assert np.array_equal(read(data, 4)[..., 3], np.where(values == key, 0, 255))
    assert np.array_equal(read(data, 1)[..., 0], np.where(values == key, 255, grey))
    assert read_image(data).shape[0] == 4


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_of_every_depth(depth):
    values = np.arange(40 * 64 * 3).reshape(40, 64, 3) * 271 & (1 << depth) - 1
    values[3:5] = values[3, 7]
    values[4] += 1  # of 16 bits another colour with the same high bytes
    key = values[3, 7]
    data = png((b"tRNS", struct.pack(">3H", *key)), rows=packed(values.reshape(40, -1), depth), depth=depth, width=64)
    hidden = (values == key).all(-1)
    assert hidden[3].all()
    assert not hidden[4].any()
    assert np.array_equal(read(data, 4)[..., 3], np.where(hidden, 0, 255))
    assert np.array_equal(read(data, 4)[..., :3], values >> (depth - 8))
    assert (read(data)[hidden] == 255).all()


def test_bits_above_the_depth_of_a_transparent_value_do_not_count():
    data = png(
        (b"tRNS", struct.pack(">H", 0xFF05)), rows=packed(np.arange(64)[None] % 16, 4), depth=4, colour=0, width=64
    )
    assert np.array_equal(read(data, 4)[0, :, 3] == 0, np.arange(64) % 16 == 5)


def test_the_first_picture_of_an_animated_png_and_webp():
    frames = [files.scene(), files.scene().transpose(Image.Transpose.ROTATE_180)]
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = files.saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(read(data), SCENE), kind
    # The default picture of an animation that it is no part of, and frames that are nonsense.
    data = files.saved(files.scene(), "PNG", save_all=True, default_image=True, append_images=frames[1:])
    assert np.array_equal(read(data), SCENE)
    assert np.array_equal(
        read(png((b"acTL", struct.pack(">II", 1 << 30, 0)), (b"fcTL", bytes(26)), (b"fdAT", bytes(2)))), SCENE
    )


def test_texts_of_pngs_are_made_as_programs_make_them():
    info = PngImagePlugin.PngInfo()
    info.add_text("settings", '{"a":1}' * 300_000, zip=True)
    assert np.array_equal(read(files.saved(files.scene(), "PNG", pnginfo=info)), SCENE)


@pytest.mark.parametrize("place", [0, 200, -5])
def test_pixels_whose_checksum_is_wrong_are_not_read(place):
    # Stored and not packed, so that zlib finds nothing wrong before the last pixel is there.
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)).save(
        buffer, "PNG", compress_level=0
    )
    data = bytearray(buffer.getvalue())
    start = data.index(b"IDAT") + 4
    length = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start + (7 if place == 0 else place % length)] ^= 1
    with pytest.raises(ValueError, match="IDAT chunk of a PNG has a wrong checksum"):
        read_image(bytes(data))


def test_pixels_that_reach_behind_the_end_are_not_read():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)).save(
        buffer, "PNG", compress_level=0
    )
    data = buffer.getvalue()
    with pytest.raises(ValueError, match="ends inside its pixels"):
        read_image(data[: data.index(b"IDAT") + 1700] + data[-7:])
