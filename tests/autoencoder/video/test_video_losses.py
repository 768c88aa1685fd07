"""The losses of clips beside plain formulas, and what their gradients reach."""

import itertools

import pytest
import torch

from trainers.autoencoder.video import losses


def clips(frames=5, seed=0, batch=2, channels=3, side=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, frames, side, side, generator=generator, dtype=torch.float64) * 2 - 1


def plain_bands(error):
    """One Haar step of an error (C, T, H, W) by its definition: each cube to sums and differences, the first frame flat."""
    low, high = [], []
    channels, frames, height, width = error.shape
    times = [(0,), *((time, time + 1) for time in range(1, frames, 2))]
    for channel, ts, y, x in itertools.product(range(channels), times, range(0, height, 2), range(0, width, 2)):
        cube = {
            (t, dy, dx): error[channel, ts[t], y + dy, x + dx] for t in range(len(ts)) for dy in (0, 1) for dx in (0, 1)
        }
        for signs in itertools.product((0, 1) if len(ts) > 1 else (0,), (0, 1), (0, 1)):
            value = sum(
                value * (-1) ** sum(sign * place for sign, place in zip(signs, at, strict=True))
                for at, value in cube.items()
            )
            (high if any(signs) else low).append(abs(value) / len(cube) ** 0.5)
    return torch.stack(low).mean(), torch.stack(high).mean()


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_bands_are_those_of_the_definition(frames):
    made, real = clips(frames, 1), clips(frames, 2)
    low, high = losses.haar(made, real)
    plain = [plain_bands(error) for error in made - real]
    assert low.item() == pytest.approx(sum(one.item() for one, _ in plain), rel=1e-5)
    assert high.item() == pytest.approx(sum(other.item() for _, other in plain), rel=1e-5)


def test_an_error_that_is_the_same_everywhere_is_in_the_low_band_alone():
    real = clips()
    low, high = losses.haar(real + 0.25, real)
    # Orthonormal: a constant is scaled by the root of the values of a cube, four in the first frame, eight in the pairs.
    assert low.item() == pytest.approx(2 * 0.25 * (2 + 2 * 8**0.5) / 3, rel=1e-5)
    assert high.item() == pytest.approx(0, abs=1e-5)


def test_differences_are_those_of_following_frames():
    made, real = clips(4, 1), clips(4, 2)
    errors = [
        ((made[b, :, t + 1] - made[b, :, t]) - (real[b, :, t + 1] - real[b, :, t])).abs().mean()
        for b in range(2)
        for t in range(3)
    ]
    assert losses.differences(made, real).item() == pytest.approx(sum(error.item() for error in errors) / 3, rel=1e-5)
    # What is wrong in the same way in every frame does not flicker.
    assert losses.differences(real + 0.5, real).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["low", "high", "differences"])
def test_every_term_reaches_all_that_was_made_and_adds_up_over_the_batch(name):
    def loss(made, real):
        return losses.differences(made, real) if name == "differences" else losses.haar(made, real)[name == "high"]

    made, real = clips(5, 1).requires_grad_(), clips(5, 2)
    whole = loss(made, real)
    whole.backward()
    # In a difference of differences signs may cancel.
    assert (made.grad != 0).any(-1).all()
    parts = sum(loss(made[n : n + 1], real[n : n + 1]).item() for n in range(2))
    assert whole.item() == pytest.approx(parts, rel=1e-5)
