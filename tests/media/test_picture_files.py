"""Picture files as they lie on disks: odd, cut, too large, described wrongly; and what a plug-in reads."""

import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin
from toys import files

from tokenize_kit.media import image, jpeg, picture_files, plugins
from tokenize_kit.media.image import read_image, read_image_noting
from tokenize_kit.modalities import modality_named

SCENE = np.asarray(files.scene())
ROWS = [row.tobytes() for row in SCENE]
TURNED = files.turned(files.saved(files.scene(), "PNG"))
CUT = "damaged or cut short|not a picture"


def read(data, channels=3):
    return read_image(data, channels).permute(1, 2, 0).numpy()


def png(*chunks, after=b"", rows=ROWS, depth=8, colour=2, width=60):
    """A PNG of the scene with further chunks before and after its data."""
    extra = b"".join(chunk if isinstance(chunk, bytes) else files.png_chunk(*chunk) for chunk in chunks)
    data = files.png_raw(width, len(rows), depth, colour, rows, extra)
    return data[:-12] + after + data[-12:]


def damaged(chunk):
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


# --- PNG --------------------------------------------------------------------------------------------------------------


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
    for place in range(whole.index(b"IDAT") + 8, len(whole) - 20, 97):
        with pytest.raises(ValueError, match=CUT):
            read(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(ValueError, match="unknown part CgBI"):
        read(png((b"CgBI", bytes(4))))


def packed(values, depth):
    """Rows of values of 1 to 16 bits."""
    if depth == 16:
        return [row.astype(">u2").tobytes() for row in values]
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return [np.packbits(row).tobytes() for row in bits.reshape(len(values), -1).astype(np.uint8)]


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


# --- JPEG -------------------------------------------------------------------------------------------------------------

KINDS = {
    "baseline": {},
    "best": {"quality": 100, "subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "progressive with restarts": {"progressive": True, "restart_marker_rows": 1},
}


def noisy(mode="RGB"):
    noise = np.random.default_rng(0).integers(0, 40, (40, 60, 3))
    return Image.fromarray((SCENE // 2 + noise).astype(np.uint8)).convert(mode)


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


def frame_of(data, **changes):
    """A JPEG whose frame says something else."""
    place = next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)
    changed = bytearray(data)
    if "marker" in changes:
        changed[place + 1] = changes["marker"]
    if "bits" in changes:
        changed[place + 4] = changes["bits"]
    if "size" in changes:
        changed[place + 5 : place + 9] = struct.pack(">HH", *changes["size"])
    if "layers" in changes:
        changed[place + 9] = changes["layers"]
    return bytes(changed)


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
    monkeypatch.setattr(jpeg, "MAX_COEFFICIENT_BYTES", 60 * 40 * 3 - 1)  # 4:2:0 has 1.5 coefficients a pixel
    with pytest.raises(ValueError, match="progressive JPEG of 60x40"):
        read(data)
    monkeypatch.setattr(jpeg, "MAX_COEFFICIENT_BYTES", 60 * 40 * 3)
    assert read(data).shape == (40, 60, 3)
    scan = data[data.index(b"\xff\xda") : data.index(b"\xff\xda") + 20]
    with pytest.raises(ValueError, match=r"2\d\d scans"):
        read(data[: data.index(b"\xff\xda")] + scan * 201 + data[data.index(b"\xff\xda") :])


# --- which way a picture is turned ------------------------------------------------------------------------------------

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


# --- other formats ----------------------------------------------------------------------------------------------------


def test_what_follows_the_end_is_no_matter():
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"):
        data = files.saved(files.scene(), kind, **({"lossless": True} if kind == "WEBP" else {}))
        for tail in (b"x", bytes(1000), data):
            assert np.array_equal(read(data + tail), read(data)), kind


def test_a_gif_without_its_trailer_and_a_png_without_its_end_are_whole():
    frame = struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0)
    gif = b"GIF89a" + struct.pack("<HHBBB", 5, 5, 0, 0, 0) + b"," + frame + b"\2\2\x44\1\0;"
    bmp = b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99)
    side = struct.pack("<I", 16_382)[:3]
    webp = b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + side * 2 + bytes(60)
    jpegs = [
        frame_of(files.saved(files.scene(), "JPEG", progressive=way), size=(65_500, 65_500)) for way in (False, True)
    ]
    for data in (gif, bmp, webp, b"P6 60000 60000 255\n" + bytes(99), *jpegs):
        with pytest.raises(ValueError, match=r"limit|Image size"):
            read(data)
    with pytest.raises(ValueError, match="progressive JPEG of 65500x65500"):
        read_image_noting(frame_of(jpegs[1], size=(65_500, 65_500)), 3, at_least=256)


# --- too large, and in strips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
def test_pictures_that_are_too_large_are_read_at_reduced_size(monkeypatch, progressive):
    data = files.saved(files.scene(600, 400), "JPEG", quality=95, progressive=progressive)
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 100_000)
    picture = read_image_noting(data, 3, at_least=150)
    assert picture.pixels.shape == (3, 200, 300)
    assert picture.notes == ("more than 100,000 pixels, read at 1/2 of the width and height",)
    right = np.asarray(files.scene(600, 400).reduce(2)).astype(int)
    assert np.abs(picture.pixels.permute(1, 2, 0).numpy() - right).mean() < 1.5
    assert (read_image_noting(data, 3, at_least=150).pixels == picture.pixels).all()
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 20_000)
    assert read_image_noting(data, 3, at_least=100).pixels.shape == (3, 100, 150)
    with pytest.raises(ValueError, match=r"600x400 .* short side still has 101"):
        read_image_noting(data, 3, at_least=101)
    with pytest.raises(ValueError, match=r"600x400 .* or give --image-size"):
        read_image_noting(data, 3)
    with pytest.raises(ValueError, match=r"600x400 .*only a JPEG"):
        read_image_noting(files.saved(files.scene(600, 400), "PNG"), 3, at_least=10)
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"600x400 .* also at the reduced size"):
        read_image_noting(data, 3, at_least=1)


def test_a_reduced_picture_is_turned_and_converted(monkeypatch):
    exif = b"Exif\0\0" + files.tiff_directory([files.ORIENTATION_6])
    data = files.saved(files.scene(600, 400), "JPEG", quality=95, exif=exif, icc_profile=files.ADOBE_RGB)
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 100_000)
    picture = read_image_noting(data, 3, at_least=100)
    assert picture.pixels.shape == (3, 300, 200)
    assert [note.split()[0] for note in picture.notes] == ["more", "Adobe"]


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_large_pictures_in_strips_are_what_they_are_as_a_whole(monkeypatch, channels):
    rgba = files.scene().convert("RGBA")
    rgba.putalpha(Image.fromarray(SCENE[..., 1]))
    exif = Image.Exif()
    deep = packed(SCENE.reshape(40, -1).astype(int) * 250, 16)
    for data in (
        files.saved(rgba, "PNG", icc_profile=files.ADOBE_RGB),
        files.saved(files.scene().quantize(16), "PNG", transparency=3),
        files.saved(noisy("CMYK"), "JPEG", icc_profile=files.cmyk_profile()),
        files.saved(noisy("L"), "JPEG", icc_profile=files.grey_profile(1.4)),
        png((b"tRNS", struct.pack(">3H", 1000, 500, 0)), rows=deep, depth=16),
        png((b"tRNS", struct.pack(">H", 500)), rows=packed(SCENE[..., 0].astype(int) * 250, 16), depth=16, colour=0),
        *(files.saved(files.scene(), "PNG", exif=turn(exif, number)) for number in range(1, 9)),
    ):
        whole = read_image_noting(data, channels)
        with monkeypatch.context() as patch:
            patch.setattr(image, "_STRIP", 150)
            patch.setattr(image, "_BY_BANDS", 10)
            parts = read_image_noting(data, channels)
        assert (parts.pixels == whole.pixels).all()
        assert parts.notes == whole.notes


def turn(exif, number):
    exif[0x0112] = number
    return exif


# --- names and plug-ins -----------------------------------------------------------------------------------------------


def test_endings_that_are_read():
    read_endings = modality_named("image").extensions
    for ending in (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".jif",
        ".mpo",
        ".png",
        ".apng",
        ".bmp",
        ".dib",
        ".tif",
        ".pnm",
        ".avif",
    ):
        assert ending in read_endings
    assert not {".svg", ".eps", ".psd", ".cr2"} & set(read_endings)


def test_the_content_says_what_a_picture_is_not_its_name(tmp_path):
    from tokenize_kit.shards.encode import encode
    from tokenize_kit.shards.options import EncodeOptions
    from tokenize_kit.tokenizers.image.pixels import PixelTokenizer

    PixelTokenizer(3).save(tmp_path / "pixels")
    files.put(tmp_path / "in", "a.png", files.saved(files.scene(), "JPEG"))
    files.put(tmp_path / "in", "b.jfif", files.saved(files.scene(), "PNG"))
    files.put(tmp_path / "in", "C.JPE", files.saved(files.scene(), "WEBP"))
    files.put(tmp_path / "in", "d.dib", files.saved(files.scene(), "DIB"))
    result = encode(EncodeOptions((str(tmp_path / "pixels"),), (str(tmp_path / "in"),), str(tmp_path / "out")))
    assert (result.rows, result.failures) == (4, 0)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_what_needs_a_plugin_says_how_to_have_it(monkeypatch):
    for plugin, data in (
        (plugins.HEIC, HEIC),
        (plugins.JPEG_XL, b"\xff\x0a"),
        (plugins.JPEG_XL, b"\0\0\0\x0cJXL \r\n\x87\n"),
    ):
        assert plugins.plugin_for(data + bytes(200)) is plugin
    assert plugins.plugin_for(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(200)) is None
    kind = modality_named("image")
    for plugin in plugins.PLUGINS:
        for ending in plugin.extensions:
            assert (ending in kind.extensions) == plugin.installed
            assert kind.extras.get(ending) == (None if plugin.installed else plugin.install)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"HEIC pictures need pillow_heif .*pip install 'tokenize-kit\[heic\]'"):
        read(HEIC + bytes(200))
    assert plugins.JPEG_XL.install == "pip install 'tokenize-kit[jxl]'"


def test_heic_pictures(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    exif = files.tiff_directory([files.ORIENTATION_6])
    data = files.saved(files.scene(), "HEIF", quality=100, chroma=444, exif=exif)
    assert np.abs(read(data).astype(int) - TURNED).mean() < 1
    data = files.saved(files.scene(), "HEIF", quality=100, chroma=444, icc_profile=files.DISPLAY_P3)
    picture = read_image_noting(data, 3)
    assert picture.notes == ("Display P3 to sRGB",)
    assert np.abs(picture.pixels.permute(1, 2, 0).numpy().astype(int) - files.as_srgb(data)).max() == 0
    for damaged_file in (data[: len(data) // 2], HEIC + bytes(200), data[:100] + bytes(200)):
        with pytest.raises(ValueError, match=CUT):
            read(damaged_file)
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="60x40 pixels is outside the limit"):
        read(data)


def test_jpeg_xl_pictures(tmp_path):
    pytest.importorskip("pillow_jxl")
    for width, height in ((60, 40), (8, 8), (256, 256), (333, 7), (192, 108)):
        data = files.saved(files.scene(width, height), "JXL", lossless=True)
        assert plugins.jxl_size(data) == (width, height)
        assert np.array_equal(read(data), np.asarray(files.scene(width, height)))
    for damaged_file in (data[: len(data) // 2], b"\xff\x0a" + bytes(100), data[:20] + bytes(range(200))):
        with pytest.raises(ValueError, match=f"{CUT}|limit"):
            read(damaged_file)
    # A JPEG that was packed as JPEG XL is turned as its EXIF data say.
    files.put(tmp_path, "a.jpg", files.jpeg_with_exif([files.ORIENTATION_6]))
    with Image.open(tmp_path / "a.jpg") as picture, pytest.warns(UserWarning, match="reconstruction"):
        packed_jpeg = files.saved(picture, "JXL")
    assert np.array_equal(read(packed_jpeg), turned_jpeg())


def test_a_jpeg_xl_that_would_be_huge_is_refused_unread():
    bits = 0 | 2 << 1 | 59_999 << 3 | 1 << 21  # not small, 18 bits of height, as wide as high
    with pytest.raises(ValueError, match=r"60000x60000|pillow_jxl"):
        read(b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(100))
    assert plugins.jxl_size(b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(100)) == (60_000, 60_000)
    box = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4s", 20, b"ftyp") + bytes(12) + struct.pack(">I4s", 0, b"jxlc")
    assert plugins.jxl_size(box + b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(9)) == (60_000, 60_000)
    assert plugins.jxl_size(box) is None


def test_texts_of_pngs_are_made_as_programs_make_them():
    info = PngImagePlugin.PngInfo()
    info.add_text("settings", '{"a":1}' * 300_000, zip=True)
    assert np.array_equal(read(files.saved(files.scene(), "PNG", pnginfo=info)), SCENE)
