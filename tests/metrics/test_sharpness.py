"""Sharpness against numbers worked out by hand and by a plain Fourier transform."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tokenize_kit.metrics.sharpness import Sharpness, gradient_magnitudes, luma, upper_octave_power


def noise(size=32, seed=0):
    return torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def blurred(picture):
    return (
        functional.avg_pool2d(functional.pad(picture[None].float(), (1,) * 4, "reflect"), 3, 1)[0]
        .round()
        .to(torch.uint8)
    )


def test_brightness_of_grey_colour_and_transparency():
    assert luma(torch.full((1, 2, 2), 7, dtype=torch.uint8)).tolist() == [[7, 7], [7, 7]]
    red = torch.zeros(3, 1, 1, dtype=torch.uint8)
    red[0] = 100
    assert luma(red).item() == pytest.approx(29.9)
    assert luma(torch.cat([red, torch.zeros(1, 1, 1, dtype=torch.uint8)])).item() == pytest.approx(255)


def test_gradients_are_differences_to_the_right_and_below():
    brightness = torch.tensor([[0.0, 3.0, 3.0], [4.0, 9.0, 0.0]])
    assert gradient_magnitudes(brightness).tolist() == [[5.0, 6.0]]


@pytest.mark.parametrize("size", [(16, 16), (9, 20), (11, 13)])
def test_power_is_that_of_a_plain_fourier_transform(size):
    values = np.random.default_rng(0).uniform(0, 255, size).astype(np.float32)
    window = np.outer(np.hanning(size[0]), np.hanning(size[1]))
    power = np.abs(np.fft.fft2((values - values.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None])
    expected = power[(radius >= 0.25) & (radius <= 0.5)].sum()
    assert upper_octave_power(torch.from_numpy(values)) == pytest.approx(expected, rel=1e-3)


def test_blur_is_below_one_and_noise_above():
    sharp = noise()
    same, soft, rough = Sharpness(), Sharpness(), Sharpness()
    same.add(sharp, sharp)
    soft.add(sharp, blurred(sharp))
    rough.add(blurred(sharp), sharp)
    assert same.summary() == {"gradient_ratio": 1.0, "upper_octave_ratio": 1.0, "gradient_distance": 0.0}
    assert soft.summary()["gradient_ratio"] < 0.5
    assert soft.summary()["upper_octave_ratio"] < 0.1
    assert rough.summary()["gradient_ratio"] > 2
    # Blur only shrinks gradients here, so the earth mover's distance is the difference of the means, but for rounding.
    means = [float(gradient_magnitudes(luma(picture)).mean()) for picture in (sharp, blurred(sharp))]
    assert soft.summary()["gradient_distance"] == pytest.approx(means[0] - means[1], abs=0.2)


def test_ratios_are_sums_over_sums():
    pairs = [(noise(8), blurred(noise(8))), (noise(40, 1), noise(40, 1))]
    sharpness = Sharpness()
    for pair in pairs:
        sharpness.add(*pair)
    sums = [sum(float(gradient_magnitudes(luma(pair[side])).sum()) for pair in pairs) for side in (0, 1)]
    assert sharpness.summary()["gradient_ratio"] == pytest.approx(sums[1] / sums[0])


def test_too_small_and_flat_pictures_have_no_ratio():
    sharpness = Sharpness()
    sharpness.add(noise(7), noise(7, 1))
    assert sharpness.pictures == 0
    assert set(sharpness.summary().values()) == {None}
    flat = torch.full((1, 8, 8), 9, dtype=torch.uint8)
    sharpness.add(flat, flat)
    assert sharpness.summary() == {"gradient_ratio": None, "upper_octave_ratio": None, "gradient_distance": 0.0}
