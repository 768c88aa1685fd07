"""What views do to pictures, each operation beside a slow reference."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokenize_kit.media.image.tensors import to_pillow
from tokenize_kit.modalities.image import IMAGE
from tokenize_kit.modalities.picture_operations import COLOUR_MAPS, PICTURES
from tokenize_kit.modalities.text import TEXT
from tokenize_kit.modalities.video import VIDEO
from tokenize_kit.protocol import Operation, change_of, register_operation
from tokenize_kit.protocol.views import operations_of

ALL = ["resize:5", "resize:4x9", "grey", "flip", "edges", "colormap:magma", "blur:0.8"]


def picture(channels=3, height=7, width=11, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8))


def done(operations, sample, kind=IMAGE):
    return change_of(kind, operations)(sample)


def luma(sample):
    """The grey of Pillow."""
    return np.asarray(to_pillow(sample).convert("L"))


def slow_edges(grey):
    height, width = grey.shape
    out = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            across = down = 0
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    value = int(grey[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)])
                    across += dx * (2 - abs(dy)) * value
                    down += dy * (2 - abs(dx)) * value
            out[y, x] = min(255, round(math.hypot(across, down) / 4))
    return out


def slow_blur(planes, sigma):
    """Every pixel as the weighted mean of those around it, the border repeated."""
    radius = math.ceil(4 * sigma)
    channels, height, width = planes.shape
    out = np.zeros(planes.shape)
    for y in range(height):
        for x in range(width):
            total = np.zeros(channels)
            weights = 0.0
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    weight = math.exp(-(dx**2 + dy**2) / (2 * sigma**2))
                    total += weight * planes[:, min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)]
                    weights += weight
            out[:, y, x] = total / weights
    return out


def test_grey_is_that_of_pillow_in_equal_channels():
    for channels in (3, 4):
        sample = picture(channels)
        expected = luma(sample[:3])
        made = done("grey", sample)
        assert made.dtype == torch.uint8
        for plane in made[:3]:
            np.testing.assert_array_equal(plane, expected)
        assert torch.equal(made[3:], sample[3:])
    assert torch.equal(done("grey", picture(1)), picture(1))


def test_flip_mirrors_left_and_right():
    sample = picture()
    made = done("flip", sample)
    for x in range(11):
        assert torch.equal(made[:, :, x], sample[:, :, 10 - x])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_edges_are_sobel_magnitudes(height, width, seed):
    sample = picture(3, height, width, seed)
    made = done("edges", sample)
    expected = slow_edges(luma(sample))
    for plane in made:
        np.testing.assert_array_equal(plane, expected)


def test_a_flat_picture_has_no_edges_and_a_step_has_one():
    flat = torch.full((3, 4, 6), 90, dtype=torch.uint8)
    assert not done("edges", flat).any()
    flat[:, :, 3:] = 190
    assert (done("edges", flat)[0] == torch.tensor([0, 0, 100, 100, 0, 0])).all()


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_a_gaussian_mean(sigma, channels):
    sample = picture(channels, 6, 9)
    made = done(f"blur:{sigma}", sample).numpy().astype(float)
    assert np.abs(made - slow_blur(sample.numpy().astype(float), sigma)).max() <= 0.5 + 1e-6


def test_blur_weighs_colours_by_how_much_is_seen_of_them():
    sample = picture(4, 5, 5)
    sample[3, :, 2:] = 0
    values = sample.numpy().astype(float)
    seen = np.concatenate([values[:3] * values[3] / 255, values[3:]])
    expected = slow_blur(seen, 1.0)
    expected[:3] *= 255 / np.maximum(expected[3], 1e-9)
    assert np.abs(done("blur", sample).numpy() - expected.clip(0, 255)).max() <= 0.5 + 1e-6
    opaque = torch.cat([picture(3), torch.full((1, 7, 11), 255, dtype=torch.uint8)])
    assert torch.equal(done("blur", opaque)[:3], done("blur", picture(3)))


def test_resize_keeps_the_proportion_or_takes_both_sides():
    sample = picture(3, 40, 60)
    assert done("resize:10", sample).shape == (3, 10, 15)
    made = done("resize:10x8", sample)
    expected = np.asarray(to_pillow(sample).resize((8, 10), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(made.permute(1, 2, 0), expected)
    assert torch.equal(done("resize:40x60", sample), sample)


def test_a_colour_map_looks_every_luma_up():
    matplotlib = pytest.importorskip("matplotlib")
    sample = picture()
    for name in COLOUR_MAPS:
        made = done(f"colormap:{name}", sample)
        table = np.array(matplotlib.colormaps[name].colors)
        assert table.shape == (256, 3)
        for y, row in enumerate(luma(sample)):
            for x, value in enumerate(row):
                assert made[:, y, x].tolist() == [math.floor(part * 255 + 0.5) for part in table[value]]
    assert torch.equal(done("colormap", sample), done("colormap:viridis", sample))
    with pytest.raises(ValueError, match="single channel"):
        done("colormap", picture(1))


def test_the_colour_maps_are_the_ones_that_shards_were_made_with():
    ramp = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    digest = hashlib.sha256()
    for name in COLOUR_MAPS:
        digest.update(done(f"colormap:{name}", ramp).numpy().tobytes())
    assert digest.hexdigest()[:16] == "6b386480208c8ca7"


def test_operations_are_done_one_after_another():
    sample = picture(3, 20, 20)
    expected = done("flip", done("resize:5", done("grey", sample)))
    assert torch.equal(done("grey+resize:5+flip", sample), expected)


@pytest.mark.parametrize("operations", ALL)
@pytest.mark.parametrize("channels", [3, 4])
def test_operations_keep_the_channels_and_leave_the_sample_alone(operations, channels):
    sample = picture(channels)
    before = sample.clone()
    made = done(operations, sample)
    assert (made.dtype, len(made)) == (torch.uint8, channels)
    assert torch.equal(sample, before)


@pytest.mark.parametrize("operations", ALL)
def test_films_are_changed_frame_by_frame(operations):
    frames = torch.stack([picture(seed=seed) for seed in range(3)])
    made = done(operations, frames, VIDEO)
    assert torch.equal(made, torch.stack([done(operations, frame) for frame in frames]))


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ("gray", "pictures have no operation 'gray' .*did you mean 'grey'"),
        ("grey+", "no operation ''"),
        ("grey:1", "takes no argument"),
        ("grey:", "nothing stands after the colon"),
        ("resize", "write the pixels of the short side"),
        ("resize:0", "write the pixels of the short side"),
        ("resize:4x4x4", "'resize:4x4x4' is not resize:N or resize:HxW"),
        ("blur:0", "above 0 and at most 64"),
        ("blur:nan", "above 0 and at most 64"),
        ("blur:wide", "above 0 and at most 64"),
        ("colormap:jet", "the colour maps are cividis"),
    ],
)
def test_what_is_no_operation_is_refused(operations, message):
    with pytest.raises(ValueError, match=message):
        change_of(IMAGE, operations)


def test_texts_have_no_operations():
    with pytest.raises(ValueError, match=r"texts have no operation 'grey' \(there is none\)"):
        change_of(TEXT, "grey")


def test_a_further_operation_is_one_registration():
    if "test-negative" not in operations_of(IMAGE):
        register_operation("image", "test-negative", Operation("test-negative", lambda _: lambda sample: 255 - sample))
    assert torch.equal(done("test-negative+flip", picture()), 255 - picture().flip(-1))
    assert "test-negative" not in operations_of(VIDEO)
    with pytest.raises(ValueError, match="has an operation 'grey' already"):
        register_operation("image", "grey", PICTURES["grey"])
