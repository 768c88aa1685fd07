"""Bitmaps, TIFF and others; pictures that are too large; names that say something else; what a plug-in reads."""

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import files
from toys.pictures import CUT, SCENE, TURNED, frame_of, longs, noisy, packed, png, read

from tokenize_kit.media import picture_plugins as plugins
from tokenize_kit.media.image import lent, opening, read_image_noting, reading, resize_image, tensors
from tokenize_kit.media.image import tiff as tiff_files
from tokenize_kit.modalities import modality_named


def test_what_follows_the_end_is_no_matter():
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"):
        data = files.saved(files.scene(), kind, **({"lossless": True} if kind == "WEBP" else {}))
        for tail in (b"x", bytes(1000), data):
            assert np.array_equal(read(data + tail), read(data)), kind


def test_a_gif_without_its_trailer_and_a_png_without_its_end_are_whole():
    gif = files.saved(files.scene(), "GIF")
    assert gif.endswith(b"\0;")
    for less in (1, 2):
        assert np.array_equal(read(gif[:-less]), read(gif))
    whole = png()
    for less in range(1, 17):  # the end, and the checksum of the data, which have one of their own
        assert np.array_equal(read(whole[:-less]), SCENE)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["BMP", "DIB"])
def test_bitmaps_of_every_depth(kind, mode):
    picture = files.scene().convert(mode)
    assert np.array_equal(read(files.saved(picture, kind)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_deflate"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "I;16"])
def test_tiff_of_every_compression_and_several_pages(mode, compression):
    if mode == "I;16":
        picture = Image.fromarray(SCENE[..., 0].astype(np.uint16) * 257)
        right = SCENE[..., :1].repeat(3, 2)
    else:
        picture = files.scene().convert(mode)
        right = np.asarray(picture.convert("RGB"))
    pages = [picture.transpose(Image.Transpose.ROTATE_180)]
    data = files.saved(picture, "TIFF", compression=compression, save_all=True, append_images=pages)
    assert np.array_equal(read(data), right)


def tiff(values, bits, photometric):
    """A grey TIFF in one strip, of 12 or 16 bits."""
    height, width = values.shape
    strip = values.astype("<u2").tobytes() if bits == 16 else b"".join(packed(values, bits))
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height, 279: len(strip)}
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4  # behind the directory
    return files.tiff_directory(longs(tags)) + strip


def test_grey_tiffs_of_12_and_16_bits():
    values = np.arange(40 * 64).reshape(40, 64) * 25
    right = (values * 255 + 32767) // 65535
    assert np.array_equal(read(tiff(values, 16, 1), 1)[..., 0], right)
    assert np.array_equal(read(tiff(values, 16, 0), 1)[..., 0], ((65535 - values) * 255 + 32767) // 65535)
    values = np.arange(40 * 64).reshape(40, 64) & 4095
    assert np.array_equal(read(tiff(values, 12, 1), 1)[..., 0], (values * 255 + 2047) // 4095)


def test_absurd_tiles_are_refused():
    tags = {256: 10, 257: 10, 258: 8, 259: 5, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 8, 325: 100}
    with pytest.raises(ValueError, match="tiles of 60000x60000"):
        read(files.tiff_directory(longs(tags)) + bytes(200))


def test_strips_that_would_take_much_are_refused(monkeypatch):
    whole = files.saved(files.scene(), "TIFF", compression="tiff_lzw", strip_size=1 << 20)
    parts = files.saved(files.scene(), "TIFF", compression="tiff_lzw", strip_size=1000)
    plain = files.saved(files.scene(), "TIFF")
    monkeypatch.setattr(tiff_files, "MAX_BYTES", 60 * 40 * 7 - 1)
    with pytest.raises(ValueError, match=r"TIFF of 60x40 .* smaller strips"):
        read(whole)
    for data in (parts, plain):
        assert np.array_equal(read(data), SCENE)
    monkeypatch.setattr(tiff_files, "MAX_BYTES", 60 * 40 * 7)
    assert np.array_equal(read(whole), SCENE)


def test_formats_that_take_much_memory_have_a_lower_limit(monkeypatch):
    # 38 bytes that unfold to 67 megapixels.
    webp = bytes.fromhex("524946461e000000574542505650384c11000000") + b"\x2f" + struct.pack("<I", 8191 | 8191 << 14)
    with pytest.raises(ValueError, match=r"8192x8192 .* 25,165,824 pixels of WEBP.* PNG or JPEG"):
        read(webp + bytes(13))
    monkeypatch.setattr(opening, "MAX_PIXELS_HELD", 60 * 40 - 1)
    text = b"P3 60 40 255\n" + b" ".join(b"%d" % value for value in SCENE.ravel())
    many = b"P6 60 40 65535\n" + (SCENE.astype(">u2") * 257).tobytes()
    for data in (files.saved(files.scene(), "WEBP"), files.saved(files.scene(), "AVIF"), text, many):
        with pytest.raises(ValueError, match=r"60x40 .* 2,399 pixels of "):
            read(data)
    for kind in ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF"):
        assert read(files.saved(files.scene(), kind)).shape == (40, 60, 3)
    monkeypatch.setattr(opening, "MAX_PIXELS_HELD", 60 * 40)
    for data in (files.saved(files.scene(), "WEBP"), files.saved(files.scene(), "AVIF"), text, many):
        assert read(data).shape == (40, 60, 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is in /proc")
def test_memory_of_the_largest_pictures_is_bounded():
    # A quarter of the largest; what does not grow with it is 30 MB. As a whole and its copy it would take twice the pixels.
    data = files.saved(Image.new("RGBA", (4096, 4096), (9, 99, 200, 77)), "PNG", compress_level=1)

    def peak() -> int:
        before = memory("VmRSS")
        assert read_image_noting(data, 4).pixels.shape == (4, 4096, 4096)
        return memory("VmHWM") - before

    assert 0.9 < in_a_fork(peak) / (4 * 4096 * 4096) < 1.8


def memory(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))


def in_a_fork(measure):
    receiving, sending = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            Path("/proc/self/clear_refs").write_text("5")
            os.write(sending, str(measure()).encode())
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as answer:
        said = answer.read()
    os.waitpid(worker, 0)
    return int(said)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("options", [{}, {"crop": False}, {"pad": True}])
def test_a_large_picture_is_scaled_as_a_small_one(monkeypatch, channels, options):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (channels, 150, 217), np.uint8))
    small = [resize_image(pixels, size, **options) for size in (20, 300)]
    monkeypatch.setattr(tensors, "LARGE", 10)
    for one, size in zip(small, (20, 300), strict=True):
        assert torch.equal(resize_image(pixels, size, **options), one)


def test_absurd_sizes_are_refused_before_they_are_decoded():
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


@pytest.mark.parametrize("progressive", [False, True])
def test_pictures_that_are_too_large_are_read_at_reduced_size(monkeypatch, progressive):
    data = files.saved(files.scene(600, 400), "JPEG", quality=95, progressive=progressive)
    monkeypatch.setattr(opening, "MAX_PIXELS", 100_000)
    picture = read_image_noting(data, 3, at_least=150)
    assert picture.pixels.shape == (3, 200, 300)
    assert picture.notes == ("more than 100,000 pixels, read at 1/2 of the width and height",)
    right = np.asarray(files.scene(600, 400).reduce(2)).astype(int)
    assert np.abs(picture.pixels.permute(1, 2, 0).numpy() - right).mean() < 1.5
    assert (read_image_noting(data, 3, at_least=150).pixels == picture.pixels).all()
    monkeypatch.setattr(opening, "MAX_PIXELS", 20_000)
    assert read_image_noting(data, 3, at_least=100).pixels.shape == (3, 100, 150)
    with pytest.raises(ValueError, match=r"600x400 .* short side still has 101"):
        read_image_noting(data, 3, at_least=101)
    with pytest.raises(ValueError, match=r"600x400 .* or give --image-size"):
        read_image_noting(data, 3)
    with pytest.raises(ValueError, match=r"600x400 .*only a JPEG"):
        read_image_noting(files.saved(files.scene(600, 400), "PNG"), 3, at_least=10)
    monkeypatch.setattr(opening, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"600x400 .* also at the reduced size"):
        read_image_noting(data, 3, at_least=1)


def test_a_reduced_picture_is_turned_and_converted(monkeypatch):
    exif = b"Exif\0\0" + files.tiff_directory([files.ORIENTATION_6])
    data = files.saved(files.scene(600, 400), "JPEG", quality=95, exif=exif, icc_profile=files.ADOBE_RGB)
    monkeypatch.setattr(opening, "MAX_PIXELS", 100_000)
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
            patch.setattr(reading, "_STRIP", 150)
            patch.setattr(reading, "LARGE", 10)
            patch.setattr(lent, "LARGE", 10)
            patch.setattr(tensors, "_BY_BANDS", 10)
            parts = read_image_noting(data, channels)
        assert (parts.pixels == whole.pixels).all()
        assert parts.notes == whole.notes


def turn(exif, number):
    exif[0x0112] = number
    return exif


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
    monkeypatch.setattr(opening, "MAX_PIXELS", 1000)
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
    assert np.array_equal(read(packed_jpeg), files.turned(files.saved(files.scene(), "JPEG", quality=95)))


def test_a_jpeg_xl_that_would_be_huge_is_refused_unread():
    bits = 0 | 2 << 1 | 59_999 << 3 | 1 << 21  # not small, 18 bits of height, as wide as high
    with pytest.raises(ValueError, match=r"60000x60000|pillow_jxl"):
        read(b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(100))
    assert plugins.jxl_size(b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(100)) == (60_000, 60_000)
    box = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4s", 20, b"ftyp") + bytes(12) + struct.pack(">I4s", 0, b"jxlc")
    assert plugins.jxl_size(box + b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(9)) == (60_000, 60_000)
    assert plugins.jxl_size(box) is None
