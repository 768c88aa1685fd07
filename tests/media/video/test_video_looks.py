"""What a film says of its look is followed: turned, mirrored, with square pixels, its colours, range, depth and transparency."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from toys.films import film, moving, written

from tokenize_kit.media.image import read_image
from tokenize_kit.media.video import read_video, read_video_noting

LOSSLESS = {"qp": "0"}


def _by_the_matrix(frames, degrees, across, upside):
    """A slow reference: FFmpeg's display matrix maps each corner, and pixels are looked up one by one."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).round()
    matrix = matrix * np.where([across, upside], -1, 1)[None, :]
    height, width = frames.shape[2:]
    # x' = a x + c y, y' = b x + d y: the rows are (a, b) and (c, d).
    places = np.array([(x, y) for y in range(height) for x in range(width)])
    turned = (places @ matrix).round().astype(int)
    turned -= turned.min(0)
    out = torch.empty(*frames.shape[:2], *(turned.max(0) + 1)[::-1].tolist(), dtype=torch.uint8)
    out[..., turned[:, 1], turned[:, 0]] = frames[..., places[:, 1], places[:, 0]]
    return out


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(("across", "upside"), [(False, False), (True, False), (False, True)])
def test_turned_and_mirrored_films_are_the_right_way_up(degrees, across, upside):
    frames = moving(2, 16, 24)
    plain = read_video(film(frames)).frames
    turned = film(frames, shape=lambda stream: stream.set_display_rotation(degrees, across, upside))
    assert read_video(turned).frames.equal(_by_the_matrix(plain, degrees, across, upside))


def test_a_film_held_upright_is_turned_clockwise():
    # The matrix that telephones write.
    frames = moving(2, 16, 24)
    turned = film(
        frames, shape=lambda stream: stream.set_display_matrix([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30])
    )
    assert read_video(turned).frames.equal(torch.rot90(read_video(film(frames)).frames, -1, (2, 3)))


@pytest.mark.parametrize(
    ("ratio", "size"), [(Fraction(16, 15), (48, 68)), (Fraction(8, 9), (54, 64)), (Fraction(1), (48, 64))]
)
def test_pixels_become_square(ratio, size):
    def shape(stream):
        stream.codec_context.sample_aspect_ratio = ratio

    video, notes = read_video_noting(film(moving(3), shape=shape))
    assert video.frames.shape[2:] == size
    assert notes == ((f"pixels of {ratio} made square".replace("/", ":"),) if ratio != 1 else ())


def _patches(seed=0):
    """One picture of 6 x 6 flat patches, whose colours do not depend on how 4:2:0 is enlarged."""
    colours = np.random.default_rng(seed).integers(40, 216, (6, 6, 3))
    picture = np.kron(colours, np.ones((16, 16, 1))).astype(np.uint8)
    return torch.from_numpy(picture.transpose(2, 0, 1))[None].repeat(2, 1, 1, 1)


def _inner_error(read, frames):
    inside = torch.zeros(96, dtype=torch.bool)
    for patch in range(6):
        inside[16 * patch + 5 : 16 * patch + 11] = True
    error = (read.int() - frames.int()).abs()
    return int(error[:, :, inside][..., inside].max())


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5])
def test_colours_are_right_to_two_levels(matrix, full, pixels):
    frames = _patches()
    data = film(frames, "matroska", "ffv1", pixels, matrix=matrix, full=full)
    assert _inner_error(read_video(data).frames, frames) <= 2


def test_a_film_that_does_not_say_its_matrix_has_that_of_its_height():
    small = _patches()
    large = small.repeat(1, 1, 7, 1)
    assert _inner_error(read_video(film(small, "matroska", "ffv1", matrix=5, tagged=False)).frames, small) <= 2
    read = read_video(film(large, "matroska", "ffv1", matrix=1, tagged=False)).frames
    assert _inner_error(read[:, :, :96], small) <= 2


@pytest.mark.parametrize(
    ("kind", "codec", "pixels", "most"),
    [
        ("mov", "qtrle", "argb", 0),
        ("mov", "png", "rgba", 0),
        ("matroska", "ffv1", "bgra", 0),
        ("webm", "libvpx-vp9", "yuva420p", 8),
        ("webm", "libvpx", "yuva420p", 10),
    ],
)
def test_transparency_is_kept_for_four_channels_and_on_white_for_fewer(kind, codec, pixels, most):
    frames = moving(3, channels=4)
    data = film(frames, kind, codec, pixels, matrix=5, options={"auto-alt-ref": "0"} if codec == "libvpx" else None)
    kept = read_video(data, channels=4).frames
    assert (kept[:, 3].float() - frames[:, 3].float()).abs().mean() <= most / 8
    assert (kept.float() - frames.float()).abs().mean() <= most
    alpha = kept[:, 3:].float() / 255
    on_white = kept[:, :3].float() * alpha + 255 * (1 - alpha)
    assert (read_video(data).frames.float() - on_white).abs().max() <= 0.51
    assert read_video(film(frames[:, :3]), channels=4).frames[:, 3].min() == 255


def test_grey_and_white_are_those_of_pictures(tmp_path):
    frames = moving(2, channels=4)
    picture = io.BytesIO()
    Image.fromarray(frames[0].permute(1, 2, 0).numpy()).save(picture, "PNG")
    data = written(frames, ".mkv")
    for channels in (1, 3):
        of_picture = read_image(picture.getvalue(), channels)
        assert (read_video(data, channels=channels).frames[0].int() - of_picture.int()).abs().max() <= 1
    opaque = written(frames[:, :3], ".mkv")
    Image.fromarray(frames[0, :3].permute(1, 2, 0).numpy()).save(picture := io.BytesIO(), "PNG")
    assert read_video(opaque, channels=1).frames[0].equal(read_image(picture.getvalue(), 1))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_disposal_and_transparency_of_animations_are_composed(kind):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    first, second = clear.copy(), clear.copy()
    first.paste((255, 0, 0, 255), (0, 0, 4, 4))
    second.paste((0, 0, 255, 255), (4, 4, 8, 8))
    options = {"lossless": True} if kind == "WEBP" else {"disposal": 2 if kind == "GIF" else 1}
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=[second, first], duration=80, **options)
    kept = read_video(buffer.getvalue(), channels=4).frames
    for frame, expected in zip(kept, [first, second, first], strict=True):
        alpha = torch.from_numpy(np.asarray(expected)[..., 3].copy())
        assert frame[3].equal(alpha)
        assert frame[:3, alpha > 0].T.tolist() == np.asarray(expected)[..., :3][alpha.numpy() > 0].tolist()
    white = read_video(buffer.getvalue()).frames
    assert white[1, :, :4, :4].min() == 255
    assert white[1, :, 5, 5].tolist() == [0, 0, 255]


@pytest.mark.parametrize("pixels", ["rgb48le", "gbrp10le", "gray", "gray10le"])
def test_other_depths_become_eight_bits(pixels):
    frames = moving(3)[:, :1].repeat(1, 3, 1, 1)
    read = read_video(film(frames, "matroska", "ffv1", pixels, full=True)).frames
    assert (read.int() - frames.int()).abs().max() <= 1


def test_interlaced_films_are_taken_as_they_are_and_said():
    video, notes = read_video_noting(film(moving(4), options={"x264-params": "interlaced=1"}))
    assert notes == ("interlaced frames taken as they are",)
    assert len(video.frames) == 4
