import math

import pytest
import torch
import torch.nn.functional as F

from tokenize_kit.metrics import audio as measures
from trainers.autoencoder.audio import losses
from trainers.autoencoder.audio.losses import MEL_SCALES, mel_distance, stft_distance

RATE = 16_000


def sounds(batch=3, channels=1, length=4000, seed=0):
    """Made and real sounds whose made ones have a gradient."""
    generator = torch.Generator().manual_seed(seed)
    real = 0.1 * torch.randn(batch, channels, length, generator=generator)
    made = real + 0.05 * torch.randn(batch, channels, length, generator=generator)
    return made.requires_grad_(), real


def spectra(rows, window):
    """Magnitudes by automatic differentiation, in the arithmetic of the rows."""
    rows = F.pad(rows, (0, max(0, window // 2 + 1 - rows.shape[-1])))
    padded = F.pad(rows[:, None], (window // 2, window // 2), mode="reflect")[:, 0]
    hann = torch.hann_window(window, dtype=rows.dtype)
    return torch.stft(padded, window, window // 4, window=hann, center=False, return_complex=True).abs()


def plain_mel(made, real, scales):
    total = 0.0
    for window, bins in scales:
        bank = measures.mel_bank(window, bins, RATE).to(made.dtype)
        one, other = ((bank @ spectra(x.flatten(0, 1), window)).clamp(min=1e-5).log10() for x in (made, real))
        total = total + (one - other).abs().view(len(made), -1).mean(1).sum()
    return total


def plain_stft(made, real, windows):
    total = 0.0
    for window in windows:
        one, other = (spectra(x.flatten(0, 1), window) for x in (made, real))
        both = (one - other).abs()
        both = both + (one.clamp(min=1e-5).square().log10() - other.clamp(min=1e-5).square().log10()).abs()
        total = total + both.reshape(len(made), -1).mean(1).sum()
    return total


SHAPES = [(1, 4000), (2, 3001), (1, 1025), (2, 1024), (1, 33), (1, 1)]


@pytest.mark.parametrize(("channels", "length"), SHAPES)
def test_distances_are_those_of_the_measures(channels, length):
    made, real = sounds(channels=channels, length=length)
    pairs = list(zip(real, made.detach(), strict=True))
    expected = sum(measures.mel_distance(*pair, RATE) for pair in pairs)
    assert mel_distance(made, real, RATE).item() == pytest.approx(expected, rel=1e-5)
    expected = sum(measures.stft_distance(*pair) for pair in pairs)
    assert stft_distance(made, real).item() == pytest.approx(expected, rel=1e-5)


def gradients(ours, plain, made, real):
    (one,) = torch.autograd.grad(ours, made)
    exact = made.detach().double().requires_grad_()
    (other,) = torch.autograd.grad(plain(exact, real.double()), exact)
    return one.double(), other


@pytest.mark.parametrize(("channels", "length"), SHAPES)
@pytest.mark.parametrize("scale", [MEL_SCALES[0], MEL_SCALES[3], MEL_SCALES[6]])
def test_the_gradient_of_the_mel_distance_is_that_of_automatic_differentiation(channels, length, scale):
    made, real = sounds(channels=channels, length=length)
    ours = mel_distance(made, real, RATE, [scale])
    one, other = gradients(ours, lambda x, y: plain_mel(x, y, [scale]), made, real)
    assert ((one - other).norm() / other.norm()).item() < 1e-3


@pytest.mark.parametrize(("channels", "length"), SHAPES)
def test_the_gradient_of_the_stft_distance_is_that_of_automatic_differentiation(channels, length):
    made, real = sounds(channels=channels, length=length)
    one, other = gradients(stft_distance(made, real, (512, 64)), lambda x, y: plain_stft(x, y, (512, 64)), made, real)
    # In float32 the few numbers that are nearly 0 have a rough direction, and the logarithm pulls hardest at them.
    assert ((one - other).norm() / other.norm()).item() < 1e-2


def test_scales_add_up():
    made, real = sounds()
    parts = sum(mel_distance(made, real, RATE, [scale]).item() for scale in MEL_SCALES)
    assert mel_distance(made, real, RATE).item() == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("distance", [lambda x, y: mel_distance(x, y, RATE), stft_distance])
class TestDistances:
    def test_of_equal_sounds_is_zero_and_has_no_gradient(self, distance):
        _, real = sounds()
        made = real.clone().requires_grad_()
        value = distance(made, real)
        value.backward()
        assert value.item() == 0
        assert made.grad.abs().max().item() == 0

    def test_of_a_batch_is_the_sum_and_each_sound_has_its_own_gradient(self, distance, monkeypatch):
        made, real = sounds(batch=5)
        whole = distance(made, real)
        (gradient,) = torch.autograd.grad(whole, made)
        monkeypatch.setattr(losses, "_CHUNK_SAMPLES", 8000)  # two sounds at a time
        assert distance(made, real).item() == pytest.approx(whole.item(), rel=1e-6)
        alone = 0.0
        for index in range(5):
            one = made.detach()[index : index + 1].clone().requires_grad_()
            part = distance(one, real[index : index + 1])
            part.backward()
            alone += part.item()
            assert torch.allclose(one.grad[0], gradient[index], atol=1e-6 * gradient.abs().max().item())
        assert whole.item() == pytest.approx(alone, rel=1e-5)

    @pytest.mark.parametrize("silent", ["made", "real", "both"])
    def test_of_silence_is_finite(self, distance, silent):
        made, real = (torch.zeros(1, 1, 3000) if silent in (name, "both") else x.detach()[:1, :, :3000]
                      for name, x in zip(("made", "real"), sounds(), strict=True))  # fmt: skip
        made = made.clone().requires_grad_()
        value = distance(made, real)
        value.backward()
        assert math.isfinite(value.item())
        assert (value.item() == 0) == (silent == "both")
        assert made.grad.isfinite().all()

    def test_is_float32_under_autocast(self, distance):
        made, real = sounds()
        exact = distance(made, real)
        with torch.autocast("cpu", torch.bfloat16):
            value = distance(made, real)
        assert value.dtype == torch.float32
        assert value.item() == exact.item()

    def test_takes_the_gradient_to_sounds_in_bfloat16(self, distance):
        made, real = sounds()
        rough = made.detach().bfloat16().requires_grad_()
        distance(rough, real.bfloat16()).backward()
        exact = rough.detach().float().requires_grad_()
        distance(exact, real.bfloat16().float()).backward()
        assert rough.grad.dtype == torch.bfloat16
        assert torch.equal(rough.grad, exact.grad.bfloat16())

    def test_without_gradients_is_the_same_value(self, distance):
        made, real = sounds()
        with torch.no_grad():
            value = distance(made, real)
        assert not value.requires_grad
        assert value.item() == distance(made, real).item()

    def test_scales_its_gradient(self, distance):
        made, real = sounds()
        (one,) = torch.autograd.grad(distance(made, real), made)
        (three,) = torch.autograd.grad(3 * distance(made, real), made)
        assert torch.allclose(three, 3 * one)

    def test_refuses_what_it_cannot_compare(self, distance):
        made, real = sounds()
        with pytest.raises(ValueError, match=r"\(B, C, N\).*\(3, 1, 4000\) and \(3, 1, 3999\)"):
            distance(made, real[..., 1:])
        with pytest.raises(ValueError, match=r"\(3, 4000\)"):
            distance(made[:, 0], real[:, 0])


def test_descending_the_mel_distance_reaches_the_sound():
    _, real = sounds(1)
    made = torch.zeros_like(real).add_(1e-3 * torch.randn(real.shape, generator=torch.Generator().manual_seed(1)))
    made.requires_grad_()
    optimizer = torch.optim.Adam([made], lr=3e-3)
    first = mel_distance(made, real, RATE).item()
    for _ in range(60):
        optimizer.zero_grad()
        mel_distance(made, real, RATE).backward()
        optimizer.step()
    assert mel_distance(made, real, RATE).item() < 0.3 * first


def test_windows_without_a_hop_of_a_quarter_are_refused():
    made, real = sounds()
    with pytest.raises(ValueError, match="window of 30 samples"):
        mel_distance(made, real, RATE, [(30, 5)])


# Two sounds, two discriminators that give each of them two logits and one.
REAL = [torch.tensor([[[2.0, 0.5]], [[-1.0, 3.0]]]), torch.tensor([[[[1.0]]], [[[0.0]]]])]
FAKE = [torch.tensor([[[-2.0, 0.0]], [[0.5, -0.5]]]), torch.tensor([[[[0.5]]], [[[2.0]]]])]


def test_least_squares():
    # (real - 1)²: 1, 0.25 | 4, 4 and 0 | 1; fake²: 4, 0 | 0.25, 0.25 and 0.25 | 4.
    expected = (1.25 + 8) / 2 + 1 + (4 + 0.5) / 2 + 4.25
    assert losses.least_squares_discriminator(REAL, FAKE).item() == pytest.approx(expected)
    # (fake - 1)²: 9, 1 | 0.25, 2.25 and 0.25 | 1.
    assert losses.least_squares_generator(FAKE).item() == pytest.approx((10 + 2.5) / 2 + 1.25)


def test_hinge_is_that_of_pictures_over_all_discriminators():
    first = 0.5 * ((0.25 + 1.0) + (0.5 + 1.0))
    second = 0.5 * ((0.0 + 1.0) + (1.5 + 3.0))
    assert losses.hinge_discriminator(REAL, FAKE).item() == pytest.approx(first + second)
    assert losses.hinge_generator(FAKE).item() == pytest.approx(1.0 + 0.0 - 0.5 - 2.0)


def test_feature_matching_is_a_sum_over_layers_the_relative_one_a_mean():
    real = [[torch.full((2, 1, 3), 4.0), torch.full((2, 2, 1), -2.0)], [torch.full((2, 5), 0.5)]]
    made = [[torch.full((2, 1, 3), 5.0), torch.full((2, 2, 1), -1.5)], [torch.full((2, 5), 0.25)]]
    # For each of the two sounds.
    assert losses.feature_matching(made, real).item() == pytest.approx(2 * (1 + 0.5 + 0.25))
    assert losses.relative_feature_matching(made, real).item() == pytest.approx(2 * (1 / 4 + 0.5 / 2 + 0.25 / 0.5) / 3)


@pytest.mark.parametrize("matching", [losses.feature_matching, losses.relative_feature_matching])
def test_feature_matching_teaches_the_made_side_only(matching):
    made, real = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    matching([[made]], [[real]]).backward()
    assert real.grad is None
    assert torch.allclose(made.grad, torch.full((2, 3), -1 / 3))


def test_a_discriminator_more_or_less_is_refused():
    for loss in (losses.least_squares_discriminator, losses.hinge_discriminator):
        with pytest.raises(ValueError, match="shorter"):
            loss(REAL, FAKE[:1])
