from itertools import pairwise

import pytest
import torch

from trainers.autoencoder.audio.discriminator import (
    SoundDiscriminator,
    SoundDiscriminatorConfig,
    _convolution,
    sound_discriminator_config,
)
from trainers.autoencoder.audio.losses import least_squares_discriminator

RATE = 16_000


def build(**changes):
    torch.manual_seed(0)
    return SoundDiscriminator(
        SoundDiscriminatorConfig(**{"width": 2, "periods": (2, 3), "windows": (64, 128)} | changes)
    )


def weights(network):
    return sum(parameter.numel() for parameter in network.parameters())


def convolution(before, after, size):
    """Weights, biases and, as weights are normalised, their lengths."""
    return before * after * size + 2 * after


def test_there_are_as_many_weights_as_in_dac():
    widths = [1, 32, 128, 512, 1024, 1024]
    period = sum(convolution(*pair, 5) for pair in pairwise(widths)) + convolution(1024, 1, 3)
    band = convolution(2, 32, 27) + 3 * convolution(32, 32, 27) + convolution(32, 32, 9)
    window = 5 * band + convolution(32, 1, 9)
    network = SoundDiscriminator(sound_discriminator_config("dac"))
    assert weights(network) == 5 * period + 3 * window
    # HiFi-GAN's discriminator of periods has 41.1 million weights, DAC's of windows 1.4.
    assert round(5 * period / 1e6, 1) == 41.1
    assert round(3 * window / 1e6, 1) == 1.4


def test_there_are_as_many_weights_as_in_encodec():
    window = convolution(2, 32, 27) + 3 * convolution(32, 32, 27) + convolution(32, 32, 9) + convolution(32, 1, 9)
    assert weights(SoundDiscriminator(sound_discriminator_config("encodec"))) == 5 * window


def test_the_tiny_one_is_small_and_has_all_views():
    network = SoundDiscriminator(sound_discriminator_config("tiny", channels=2))
    assert weights(network) < 700_000
    assert len(network.judges) == 8


def test_shapes():
    network = build(channels=2)
    verdict = network(torch.randn(3, 2, 1000))
    # 500 and 334 samples a beginning, a third of them four times over; frames 16 and 32 samples apart; the last of five bands
    # of 33 and 65 frequencies are halved three times, each on its own: 3, 5, 8, 8, 9 to 1, 1, 1, 1, 2 and so on.
    assert [tuple(logits.shape) for logits in verdict.logits] == [
        (3, 1, 2, 7),
        (3, 1, 3, 5),
        (3, 1, 63, 6),
        (3, 1, 32, 10),
    ]
    assert [len(features) for features in verdict.features] == [5, 5, 25, 25]
    assert tuple(verdict.features[1][1].shape) == (3, 8, 3, 38)
    assert tuple(verdict.features[2][0].shape) == (3, 2, 63, 3)
    first, second = verdict.split(1)
    assert torch.equal(torch.cat([first.logits[2], second.logits[2]]), verdict.logits[2])
    assert torch.equal(second.features[3][24], verdict.features[3][24][1:])


def seen(judge, samples, place):
    logits = judge(samples)[0]
    logits[place].backward()
    return samples.grad.abs().sum((0, 1)).nonzero().flatten().tolist()


def test_a_logit_of_a_period_sees_every_pth_sample_of_a_stretch_and_nothing_else():
    period, length = 3, 3000
    judge = build(periods=(period,), windows=()).double().judges[0]
    places = seen(judge, torch.randn(1, 1, length, dtype=torch.float64, requires_grad=True), (0, 0, 1, 5))
    assert {place % period for place in places} == {1}
    # A head of 3 and a layer of 5 at a step of 81, layers of 5 at steps of 27, 9, 3 and 1.
    size = 1 + 2 * 81 + 4 * 81 + 4 * (27 + 9 + 3 + 1)
    assert len(places) == (places[-1] - places[0]) // period + 1 == size


@pytest.mark.parametrize(("dilations", "frames"), [((1, 1, 1), 6), ((1, 2, 4), 10)])
def test_a_logit_of_a_window_sees_the_frames_around_it(dilations, frames):
    window = 64
    judge = build(periods=(), windows=(window,), dilations=dilations, bands=(0.0, 1.0)).double().judges[0]
    place = 40
    found = seen(judge, torch.randn(1, 1, 1600, dtype=torch.float64, requires_grad=True), (0, 0, place, 2))
    # As many frames before and after it; the first sample of a Hann window counts nothing.
    assert found[0] == (place - frames) * window // 4 - window // 2 + 1
    assert found[-1] == (place + frames) * window // 4 + window // 2 - 1


def test_bands_are_judged_by_layers_of_their_own():
    network = build(periods=(), windows=(128,))
    samples = torch.sin(torch.arange(2048) * 2 * torch.pi * 24 / 128)[None, None]  # frequency 24 of 65: 37 %
    features = network(samples).features[0]
    silent = network(torch.zeros(1, 1, 2048)).features[0]
    # The first layer of each band, away from the mirrored ends.
    change = [(one - other)[:, :, 8:-8].abs().max().item() for one, other in zip(features, silent, strict=True)][::5]
    assert max(range(5), key=lambda band: change[band]) == 2
    assert sum(change) - change[2] < 1e-2 * change[2]


def test_white_noise_is_as_loud_at_any_window():
    network = build(periods=(), windows=(64, 512), bands=(0.0, 1.0))
    sizes = []
    for judge in network.judges:
        caught = []
        judge.stacks[0][0].register_forward_pre_hook(lambda module, inputs, caught=caught: caught.append(inputs[0]))
        judge(torch.randn(4, 1, 16_000, generator=torch.Generator().manual_seed(0)))
        sizes.append(caught[0].square().mean().item())
    assert sizes == pytest.approx([0.5, 0.5], rel=0.03)


def test_the_smallest_sound_is_judged_a_shorter_one_is_refused():
    network = build()
    assert network.config.smallest == 65
    assert all(logits.numel() for logits in network(torch.randn(1, 1, 65)).logits)
    with pytest.raises(ValueError, match=r"at least 65 samples, not \(1, 1, 64\)"):
        network(torch.randn(1, 1, 64))
    with pytest.raises(ValueError, match=r"\(B, 1, N\)"):
        network(torch.randn(1, 2, 100))
    only = build(periods=(7, 2), windows=())
    assert only(torch.randn(1, 1, 7)).logits[0].shape == (1, 1, 7, 1)
    with pytest.raises(ValueError, match="at least 7"):
        only(torch.randn(1, 1, 6))


def test_a_verdict_does_not_depend_on_batch_mates():
    network = build()
    samples = torch.randn(4, 1, 700)
    alone, together = network(samples[1:2]), network(samples)
    for one, other in zip(alone.logits, together.logits, strict=True):
        assert torch.allclose(one, other[1:2], atol=1e-5)
    assert not network.state_dict().keys() - dict(network.named_parameters()).keys()


def test_the_channels_of_a_sound_are_judged_together():
    network = build(channels=2).double()
    samples = torch.randn(1, 2, 500, dtype=torch.float64)
    swapped = network(samples.flip(1)).logits
    for one, other in zip(network(samples).logits, swapped, strict=True):
        assert (one - other).abs().max().item() > 1e-6


def test_silence_has_finite_gradients():
    network = build()
    samples = torch.zeros(1, 1, 500, requires_grad=True)
    verdict = network(samples)
    (
        sum(logits.sum() for logits in verdict.logits) + sum(x.abs().sum() for f in verdict.features for x in f)
    ).backward()
    assert samples.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_convolution_of_one_place_a_row_is_the_plain_one_also_where_memory_is_dirty(width):
    convolution = _convolution(4, 4, (3, 9), (1, 2))
    plain = torch.nn.Conv2d(4, 4, (3, 9), (1, 2), (1, 4))
    plain.load_state_dict({"weight": convolution.weight.detach(), "bias": convolution.bias.detach()})
    given = torch.randn(2, 4, 20, width)
    torch.testing.assert_close(convolution(given), plain(given))
    for _ in range(5):
        # What is freed here is what the next tensors get.
        dirty = [torch.full((1 << size,), torch.nan, dtype=torch.bfloat16) for size in range(6, 20)]
        del dirty
        with torch.autocast("cpu", torch.bfloat16):
            rough = convolution(given).float()
        torch.testing.assert_close(rough, plain(given), atol=0.05, rtol=0.05)


def test_bfloat16_verdicts_are_close_to_those_of_float32():
    network = build(width=8)
    samples = torch.randn(2, 1, 2000)
    exact = network(samples).logits
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(samples).logits
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert ((one.float() - other).norm() / other.norm()).item() < 0.05


@pytest.mark.parametrize("views", [{"windows": ()}, {"periods": ()}])
def test_each_kind_learns_to_tell_two_kinds_of_sounds_apart(views):
    network = build(width=4, **views)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.5, 0.9))
    generator = torch.Generator().manual_seed(0)

    def pair():
        noise = torch.randn(8, 1, 600, generator=generator)
        return noise, torch.nn.functional.avg_pool1d(noise, 15, 1, 7) * 15**0.5

    for _ in range(30):
        loss = least_squares_discriminator(*(network(x).logits for x in pair()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = (network(x).logits for x in pair())
    for one, other in zip(real, fake, strict=True):
        right = (one.flatten(1).mean(1) > 0.5).float().mean() + (other.flatten(1).mean(1) < 0.5).float().mean()
        assert right.item() >= 1.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width 0"),
        ({"periods": (), "windows": ()}, "periods or windows"),
        ({"periods": (0, 2)}, r"periods \(0, 2\)"),
        ({"windows": (30,)}, r"windows \(30,\)"),
        ({"dilations": (1, 0, 1)}, "dilations"),
        ({"bands": (0.0, 0.5)}, "from 0 to 1"),
        ({"bands": (0.0, 0.6, 0.5, 1.0)}, "without a frequency at a window of 64"),
        ({"windows": (8,)}, "without a frequency at a window of 8"),
    ],
)
def test_impossible_discriminators_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'vocos'; there are dac, encodec, tiny"):
        sound_discriminator_config("vocos")
