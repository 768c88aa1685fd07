"""Colours that are not sRGB: ICC profiles, cameras that say Adobe RGB, and what PNG says in a few numbers."""

import io
import struct
from collections import OrderedDict

import numpy as np
import pytest
from PIL import Image, ImageCms
from toys import files

from tokenize_kit.media.image import profiles, read_image, read_image_noting
from tokenize_kit.modalities import modality_named
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OPTIONS = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 95}}
PROFILES = {"Adobe RGB (1998)": files.ADOBE_RGB, "Display P3": files.DISPLAY_P3}
LEFT_OUT = "which was left out"
UNREAD = f"a colour profile that cannot be read, {LEFT_OUT}"


def read(data, channels=3):
    """Pixels (H, W, C) as int, and the notes."""
    picture = read_image_noting(data, channels)
    return picture.pixels.permute(1, 2, 0).numpy().astype(int), picture.notes


def converted(picture, profile, mode="RGB"):
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(
        ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    ).astype(int)


def linear(values):
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def coded(values):
    """Linear light as sRGB, 0 to 255."""
    values = np.clip(values, 0, 1)
    return 255 * np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def to_xyz(points, white=(0.3127, 0.3290)):
    """The matrix from linear RGB of these primaries to XYZ."""
    rows = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
    x, y = white
    return rows * np.linalg.solve(rows, [x / y, 1, (1 - x - y) / y])


BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_profiles_are_converted_as_little_cms_does(kind, name):
    data = files.saved(files.scene(), kind, icc_profile=PROFILES[name], **OPTIONS.get(kind, {}))
    pixels, notes = read(data)
    assert np.array_equal(pixels, files.as_srgb(data))
    assert np.abs(pixels - np.asarray(files.scene())).mean() > 5
    assert notes == (f"{name} to sRGB",)


def test_grey_is_made_of_converted_colours():
    data = files.saved(files.scene(), "PNG", icc_profile=files.ADOBE_RGB)
    assert np.array_equal(read(data, 1)[0][..., 0], np.asarray(Image.fromarray(files.as_srgb(data)).convert("L")))


def test_transparency_and_palettes_are_kept_beside_a_profile():
    scene = files.scene()
    rgba = scene.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.mgrid[0:40, 0:60][1].astype(np.uint8) * 4))
    right = converted(scene, files.DISPLAY_P3)
    pixels, _ = read(files.saved(rgba, "PNG", icc_profile=files.DISPLAY_P3), 4)
    assert np.array_equal(pixels[..., :3], right)
    assert np.array_equal(pixels[..., 3], np.asarray(rgba)[..., 3])
    palette = scene.quantize(64)
    right = converted(palette.convert("RGB"), files.DISPLAY_P3)
    pixels, notes = read(files.saved(palette, "PNG", icc_profile=files.DISPLAY_P3, transparency=3), 4)
    assert np.array_equal(pixels[..., :3], right)
    assert np.array_equal(pixels[..., 3] == 0, np.asarray(palette) == 3)
    assert notes == ("Display P3 to sRGB",)
    # The colour that is transparent is that of the file, not what becomes of it.
    key = tuple(np.asarray(scene)[10, 20].tolist())
    pixels, _ = read(files.saved(scene, "PNG", icc_profile=files.ADOBE_RGB, transparency=key), 3)
    hidden = (np.asarray(scene) == key).all(-1)
    assert hidden.any()
    assert (pixels[hidden] == 255).all()
    assert np.array_equal(pixels[~hidden], converted(scene, files.ADOBE_RGB)[~hidden])


def test_grey_profiles_change_grey():
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    pixels, notes = read(files.saved(grey, "PNG", icc_profile=files.grey_profile(1.0)), 1)
    assert np.abs(pixels[0, :, 0] - coded(np.arange(256) / 255)).max() <= 1
    assert notes == ("Dot Gain to sRGB",)
    both = grey.convert("LA")
    both.putalpha(grey)
    pixels, _ = read(files.saved(both, "PNG", icc_profile=files.grey_profile(1.0)), 4)
    assert np.array_equal(pixels[0, :, 3], np.arange(256))
    assert np.abs(pixels[0, :, 1] - coded(np.arange(256) / 255)).max() <= 1


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_profiles_are_converted(kind):
    cmyk = files.scene().convert("CMYK")
    data = files.saved(cmyk, kind, icc_profile=files.cmyk_profile(), **({"quality": 95} if kind == "JPEG" else {}))
    pixels, notes = read(data)
    assert np.array_equal(pixels, converted(Image.open(io.BytesIO(data)), files.cmyk_profile()))
    assert np.abs(pixels - np.asarray(cmyk.convert("RGB"))).mean() > 10
    assert notes == ("Web press to sRGB",)


def test_lab_becomes_srgb():
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(files.scene(), transform)
    pixels, notes = read(files.saved(lab, "TIFF"))
    assert np.abs(pixels - np.asarray(files.scene())).mean() < 2
    assert notes == ("Lab to sRGB",)


def test_srgb_of_any_writer_changes_nothing():
    scene = np.asarray(files.scene())
    srgb_curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    for profile in (SRGB, profiles.matrix_profile("sRGB of ours", BT709, (0.3127, 0.3290), srgb_curve)):
        for picture in (files.scene(), files.scene().convert("L"), files.scene().convert("RGBA")):
            pixels, notes = read(files.saved(picture, "PNG", icc_profile=profile))
            assert notes == ()
            assert np.array_equal(pixels, np.asarray(picture.convert("RGB")))
    # Gamma 2.2 with the same primaries is not sRGB: dark colours differ.
    pixels, notes = read(
        files.saved(files.scene(), "PNG", icc_profile=profiles.matrix_profile("2.2", BT709, (0.3127, 0.329), (2.2,)))
    )
    assert notes == ("2.2 to sRGB",)
    assert np.abs(pixels - scene).max() > profiles.SRGB_TOLERANCE


@pytest.mark.parametrize(
    ("mode", "profile", "what"),
    [
        ("RGB", b"no profile at all" * 20, "cannot be read"),
        ("RGB", files.ADOBE_RGB[:200], "cannot be read"),
        ("RGB", b"\0" * 400, "cannot be read"),
        ("L", files.ADOBE_RGB, "for RGB on grey"),
        ("RGB", files.grey_profile(1.8), "for grey on RGB"),
        ("RGB", files.cmyk_profile(), "for CMYK on RGB"),
        ("RGB", files.ADOBE_RGB.replace(b"RGB XYZ ", b"HSV XYZ "), "not for pictures"),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_profile_that_cannot_be_used_is_left_out_and_said(kind, mode, profile, what):
    picture = files.scene().convert(mode)
    pixels, notes = read(files.saved(picture, kind, icc_profile=profile))
    assert np.array_equal(pixels, np.asarray(picture.convert("RGB")))
    assert len(notes) == 1
    assert what in notes[0]
    assert notes[0].endswith(LEFT_OUT)
    assert " to " not in notes[0]


def test_a_jpeg_profile_comes_in_pieces():
    long = files.ADOBE_RGB + bytes(150_000)  # what follows the profile is no part of it
    data = files.saved(files.scene(), "JPEG", quality=95, icc_profile=long)
    assert data.count(b"ICC_PROFILE\0") == 3
    assert np.array_equal(read(data)[0], files.as_srgb(data))
    # The last piece is gone: nothing is missing of this profile, so it holds. Of one whose first is gone nothing does.
    first = data.index(b"ICC_PROFILE\0")
    pixels, notes = read(data.replace(b"ICC_PROFILE\0", b"ICC_profile\0", 1))
    assert notes == (UNREAD,)
    assert np.array_equal(
        pixels, read(data[: first - 4] + data[first - 4 :].replace(b"ICC_PROFILE\0", b"ICC_profile\0"))[0]
    )


def camera(index=None, space=0xFFFF):
    """A JPEG with the colour space and the interoperability index of a camera."""
    base = 8 + 2 + 12 + 4
    second = struct.pack("<H", 2) + struct.pack("<HHIHH", 0xA001, 3, 1, space, 0)
    third = base + 2 + 24 + 4
    second += struct.pack("<HHII", 0xA005, 4, 1, third) + bytes(4)
    last = struct.pack("<H", 1) + struct.pack("<HHI4s", 1, 2, 4, index or b"R98\0") + bytes(4)
    exif = files.tiff_directory([(0x8769, 4, 1, struct.pack("<I", base))]) + second + last
    return files.saved(files.scene(), "JPEG", quality=95, exif=b"Exif\0\0" + exif)


def test_cameras_that_say_adobe_rgb_without_a_profile():
    plain = Image.open(io.BytesIO(camera()))
    for data in (camera(b"R03\0"), camera(space=2)):
        pixels, notes = read(data)
        assert np.abs(pixels - converted(plain, files.ADOBE_RGB)).max() <= 1
        assert notes == ("Adobe RGB (1998) to sRGB",)
    for data in (camera(), camera(space=1)):
        pixels, notes = read(data)
        assert np.array_equal(pixels, np.asarray(plain))
        assert notes == ()
    # A profile goes before it.
    data = files.saved(plain, "JPEG", quality=95, icc_profile=SRGB, exif=plain.info["exif"].replace(b"R98", b"R03"))
    assert read(data)[1] == ()


def png_that_says(*chunks):
    rows = [row.tobytes() for row in np.asarray(files.scene())]
    return files.png_raw(60, 40, 8, 2, rows, b"".join(files.png_chunk(name, body) for name, body in chunks))


CHROMA = (b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in (0.3127, 0.329, *sum(BT709, ())))))
P3_CHROMA = (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
GAMMA = {value: (b"gAMA", struct.pack(">I", round(100_000 * value))) for value in (1 / 2.2, 1.0, 1 / 1.8)}


def test_the_colours_that_png_says_in_numbers():
    scene = np.asarray(files.scene())
    for chunks in ([(b"sRGB", b"\0"), GAMMA[1.0]], [GAMMA[1 / 2.2]], [GAMMA[1 / 2.2], CHROMA], [CHROMA]):
        pixels, notes = read(png_that_says(*chunks))
        assert np.array_equal(pixels, scene), chunks
        assert notes == ()
    for gamma, name in ((1.0, "gamma 1"), (1 / 1.8, "gamma 1.8")):
        pixels, notes = read(png_that_says(GAMMA[gamma]))
        assert np.abs(pixels - coded((scene / 255) ** (1 / gamma))).max() <= 1.01
        assert notes == (f"{name} to sRGB",)
    p3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
    bt2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
    for chunks, points in (
        ([(b"cICP", bytes([12, 13, 0, 1]))], p3),
        ([GAMMA[1 / 2.2], P3_CHROMA], p3),
        ([(b"cICP", bytes([9, 1, 0, 1]))], bt2020),
    ):
        pixels, notes = read(png_that_says(*chunks))
        matrix = np.linalg.solve(to_xyz(BT709), to_xyz(points))
        assert np.abs(pixels - coded(linear(scene / 255) @ matrix.T)).max() <= 2
        assert len(notes) == 1
        assert notes[0].endswith(" to sRGB")
    assert read(png_that_says((b"cICP", bytes([1, 13, 0, 1])), GAMMA[1.0]))[1] == ()  # the most telling goes first
    for chunk in ((b"cICP", bytes([9, 16, 0, 1])), (b"gAMA", bytes(4)), (b"gAMA", b"")):
        pixels, notes = read(png_that_says(chunk))  # high dynamic range, and nothing that can be
        assert np.array_equal(pixels, scene)
        assert notes == (UNREAD,)


def test_a_profile_is_made_ready_once(monkeypatch):
    calls = []
    made = profiles._made

    def counting(profile, bands):
        calls.append(bands)
        return made(profile, bands)

    monkeypatch.setattr(profiles, "_made", counting)
    monkeypatch.setattr(profiles, "_cache", OrderedDict())
    data = files.saved(files.scene(), "PNG", icc_profile=files.DISPLAY_P3)
    first = read_image(data, 3)
    for _ in range(3):
        assert (read_image(data, 3) == first).all()
    assert calls == ["RGB"]
    for number in range(profiles._CACHED + 3):
        read_image(
            files.saved(files.scene(4, 4), "PNG", icc_profile=files.profile(f"P{number}", [(0.4, 0.3, 0.2)] * 3, 2)), 3
        )
    assert len(profiles._cache) == profiles._CACHED


def test_what_was_done_is_counted_over_the_samples_of_a_run(tmp_path):
    PixelTokenizer(3).save(tmp_path / "pixels")
    for number in range(3):
        files.put(tmp_path / "in", f"p{number}.jpg", files.saved(files.scene(), "JPEG", icc_profile=files.DISPLAY_P3))
    files.put(tmp_path / "in", "plain.jpg", files.saved(files.scene(), "JPEG", icc_profile=SRGB))
    result = encode(EncodeOptions((str(tmp_path / "pixels"),), (str(tmp_path / "in"),), str(tmp_path / "out")))
    assert result.conversions == {"Display P3 to sRGB": 3}
    assert "3 pictures were converted from Display P3 to sRGB" in result.to_text()


def test_a_single_picture_says_what_was_done(tmp_path):
    spec = TokenSpec("image", 256, ("height", "width"), (1, 1), True, channels=3)
    files.put(tmp_path, "a.png", files.saved(files.scene(), "PNG", icc_profile=files.ADOBE_RGB))
    kind = modality_named("image")
    assert kind.converts
    with kind.open_stream(tmp_path / "a.png", spec) as stream:
        assert stream.notes == ("Adobe RGB (1998) to sRGB",)
