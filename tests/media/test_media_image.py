"""Picture files of every kind to uint8 tensors: values, orientation, transparency, and what is refused."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from tokenize_kit.media import image as image_module
from tokenize_kit.media.image import read_image, resize_image, write_image
from tokenize_kit.modalities import modality_named
from tokenize_kit.protocol import TokenSpec


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pillow(sample):
    return Image.fromarray(sample[0].numpy() if sample.shape[0] == 1 else sample.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("kind", "channels"),
    [(kind, channels) for kind in ("PNG", "TIFF", "WEBP") for channels in (1, 3, 4) if (kind, channels) != ("WEBP", 1)],
)
def test_lossless_files_give_their_pixels(make_picture, channels, kind):
    sample = make_picture(channels)
    data = encoded(pillow(sample), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert torch.equal(read_image(data), sample)
    assert torch.equal(read_image(data, channels), sample)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_write_and_read(tmp_path, make_picture, channels):
    sample = make_picture(channels)
    write_image(sample, tmp_path / "new" / "picture.png")
    assert torch.equal(read_image((tmp_path / "new" / "picture.png").read_bytes()), sample)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]


def test_transparency_is_composited_on_white():
    rgba = Image.new("RGBA", (1, 3))
    for y, pixel in enumerate([(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 128)]):
        rgba.putpixel((0, y), pixel)
    got = read_image(encoded(rgba), 3)[:, :, 0].T.tolist()
    assert got[0] == [200, 100, 0]
    assert got[1] == [255, 255, 255]
    exact = [value * 128 / 255 + 255 * 127 / 255 for value in (200, 100, 0)]
    assert np.abs(np.array(got[2]) - exact).max() <= 1
    grey = read_image(encoded(rgba), 1)
    assert grey.shape == (1, 3, 1)
    assert int(grey[0, 1, 0]) == 255
    assert torch.equal(read_image(encoded(rgba), 4)[3, :, 0], torch.tensor([255, 0, 128], dtype=torch.uint8))


def test_an_opaque_picture_gets_a_full_alpha_channel(make_picture):
    sample = make_picture(3)
    got = read_image(encoded(pillow(sample)), 4)
    assert torch.equal(got[:3], sample)
    assert (got[3] == 255).all()


def test_palette_pictures_with_and_without_transparency():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert read_image(encoded(palette))[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]
    data = encoded(palette, transparency=1)
    assert read_image(data)[:, 0].T.tolist() == [[255, 0, 0, 255], [0, 0, 255, 0]]
    assert read_image(data, 3)[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]


def test_sixteen_bit_grey_is_rounded_not_clipped():
    values = np.array([[0, 128, 129, 256, 32768, 65535]], np.uint16)
    got = read_image(encoded(Image.fromarray(values)))
    assert got.tolist() == [[np.round(values[0].astype(float) * 255 / 65535).astype(int).tolist()]]


def test_one_bit_pictures_are_grey():
    assert read_image(encoded(Image.fromarray(np.array([[True, False]])))).tolist() == [[[255, 0]]]


def test_grey_is_itu_r_601(make_picture):
    sample = make_picture(3)
    exact = (sample.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    assert (read_image(encoded(pillow(sample)), 1)[0] - exact).abs().max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    # What a viewer shows for each value of the tag: rows and columns of the stored picture, mirrored or turned.
    stored = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3) * 40
    shown = {
        1: stored,
        2: stored.flip(2),
        3: stored.flip(1, 2),
        4: stored.flip(1),
        5: stored.transpose(1, 2),
        6: stored.rot90(-1, (1, 2)),
        7: stored.transpose(1, 2).flip(1, 2),
        8: stored.rot90(1, (1, 2)),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert torch.equal(read_image(encoded(pillow(stored), exif=exif)), shown)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(data, 3)[:, 0, 0].tolist() == [255, 0, 0]


def test_cmyk_jpeg_is_not_inverted():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = read_image(encoded(cyan, "JPEG", quality=100), 3)[:, 8, 8].tolist()
    assert red < 10
    assert min(green, blue) > 245


def png_of_size(width, height):
    """A PNG whose header claims any size, with next to no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 10)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return data


@pytest.mark.parametrize(("width", "height"), [(10_000, 7_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_they_are_decoded(width, height, recwarn):
    with pytest.raises(ValueError, match=r"limit|Image size"):
        read_image(png_of_size(width, height))
    assert not recwarn.list


def test_a_bomb_names_its_size():
    with pytest.raises(ValueError, match=r"10000x7000 pixels .* 67,108,864"):
        read_image(png_of_size(10_000, 7_000))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused(make_picture, kind):
    data = encoded(pillow(make_picture(3, 64, 64)), kind)
    for keep in (len(data) // 2, len(data) // 8):
        with pytest.raises(ValueError, match=r"damaged or cut short|not a picture"):
            read_image(data[:keep], 3)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ValueError, match="not a picture"):
        read_image(data)


def test_flipped_bytes_never_raise_anything_but_value_errors(make_picture):
    generator = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        original = np.frombuffer(encoded(pillow(make_picture(3))), np.uint8)
        for _ in range(60):
            data = original.copy()
            data[generator.integers(0, len(data), 4)] = generator.integers(0, 256, 4)
            with suppress(ValueError):
                assert read_image(data.tobytes(), 3).shape[0] == 3, kind


def test_float_pictures_and_odd_channels_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        read_image(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))
    with pytest.raises(ValueError, match="channels 2 is not"):
        read_image(encoded(Image.new("L", (1, 1))), 2)


@pytest.mark.parametrize(
    ("sample", "kind", "message"),
    [
        ("text", TypeError, "got str"),
        (torch.zeros(3, 2, 2), TypeError, "torch.float32"),
        (torch.zeros(2, 2, dtype=torch.uint8), ValueError, "axes"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), ValueError, "2 channels, expected 1 or 3 or 4"),
        (torch.zeros(3, 0, 2, dtype=torch.uint8), ValueError, "no pixels"),
    ],
)
def test_what_is_no_sample_is_not_written(tmp_path, sample, kind, message):
    with pytest.raises(kind, match=message):
        write_image(sample, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_resize_takes_the_middle(make_picture):
    sample = torch.zeros(1, 10, 30, dtype=torch.uint8)
    sample[:, :, 10:20] = 200
    assert resize_image(sample, 10).tolist() == torch.full((1, 10, 10), 200).tolist()
    assert resize_image(make_picture(3, 48, 64), 16).shape == (3, 16, 16)
    assert resize_image(make_picture(3, 48, 64), 16, crop=False).shape == (3, 16, 21)
    assert resize_image(make_picture(3, 5, 7), 16).shape == (3, 16, 16)


def test_padding_keeps_the_whole_picture_in_the_middle_of_a_white_square(make_picture):
    sample = torch.zeros(1, 10, 30, dtype=torch.uint8)
    got = resize_image(sample, 30, pad=True)
    assert got.shape == (1, 30, 30)
    assert (got[0, 10:20] == 0).all()
    assert (got[0, :10] == 255).all()
    assert (got[0, 20:] == 255).all()
    tall = make_picture(3, 64, 48)
    got = resize_image(tall, 16, pad=True)
    assert (got[:, :, :2] == 255).all()
    assert (got[:, :, 14:] == 255).all()
    right = np.asarray(pillow(tall).resize((12, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(got[:, :, 2:14].numpy(), right)
    rgba = make_picture(4, 5, 8)
    got = resize_image(rgba, 8, pad=True)  # no scaling; of an odd rest the smaller part is above
    assert torch.equal(got[:, 1:6], rgba)
    assert (got[3, 0] == 0).all()
    assert (got[3, 6:] == 0).all()
    assert (got[:3, 6:] == 255).all()
    same = make_picture(3, 16, 16)
    assert torch.equal(resize_image(same, 16, pad=True), same)
    assert resize_image(make_picture(3, 1, 500), 8, pad=True).shape == (3, 8, 8)
    for size in (0, 10**6):
        with pytest.raises(ValueError, match=f"image size {size}"):
            resize_image(same, size, pad=True)


def test_resize_is_antialiased_and_keeps_a_picture_of_the_right_size(make_picture):
    board = torch.zeros(1, 64, 64, dtype=torch.uint8)
    board[:, ::2, ::2] = 255
    board[:, 1::2, 1::2] = 255
    inner = resize_image(board, 8)[0, 1:-1, 1:-1]
    assert (inner.int() - 127).abs().max() <= 6
    same = make_picture(3, 16, 16)
    assert resize_image(same, 16) is same or torch.equal(resize_image(same, 16), same)
    for size in (0, -1, 10**6):
        with pytest.raises(ValueError, match=f"image size {size}"):
            resize_image(same, size)


def test_resizing_transparent_pictures_does_not_bleed_hidden_colours():
    sample = torch.zeros(4, 8, 8, dtype=torch.uint8)
    sample[0] = 255  # red everywhere, but visible on the left only
    sample[3, :, :4] = 255
    sample[1, :, 4:] = 255  # the hidden half is yellow
    got = resize_image(sample, 4)
    assert int(got[1][got[3] > 200].max()) <= 2


def test_the_table_of_media(tmp_path, make_picture):
    spec = TokenSpec("image", 256, ("height", "width"), (1, 1), True, channels=1)
    sample = make_picture(1)
    modality_named("image").write(sample, tmp_path / "a.png", spec)
    assert torch.equal(modality_named("image").read((tmp_path / "a.png").read_bytes(), spec), sample)
    text = TokenSpec("text", 256, ("time",), (None,), True)
    for value in ("", "\ufeffline\r\nline\n", "ü 漢 👩‍🚀 \0"):
        modality_named("text").write(value, tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_bytes() == value.encode()
        assert modality_named("text").read(value.encode(), text) == value
    with pytest.raises(ValueError, match="byte 0xff at offset 2"):
        modality_named("text").read(b"ab\xff", text)
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        modality_named("text").write("a\ud800", tmp_path / "b.txt", text)
    with pytest.raises(TypeError, match="got int"):
        modality_named("text").write(3, tmp_path / "b.txt", text)
    with pytest.raises(ValueError, match="no modality is named 'smell'"):
        modality_named("smell")
    assert image_module.MAX_PIXELS == 2**26
