"""The networks of video autoencoders: shapes, what sees what, and their configuration."""

import pytest
import torch
import torch.nn.functional as F
from toys.neural_video import FSQ, NETWORKS, RVQ, toy_config, toy_model

from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.networks.latent import Depthwise
from tokenize_kit.tokenizers.learned.video.networks.patches import bands, frames, patches, pixels

EVERY = pytest.mark.parametrize("network", NETWORKS)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def video(model, steps, seed=0, batch=1):
    network = model.config.network
    side = network.spatial_factor
    return noise(batch, network.channels, 1 + (steps - 1) * network.temporal_factor, 2 * side, 3 * side, seed=seed)


@EVERY
@pytest.mark.parametrize(("channels", "quantizer"), [(1, FSQ), (4, RVQ)], ids=["grey-fsq", "rgba-rvq"])
def test_shapes_and_gradients(network, channels, quantizer):
    model = VideoAutoencoder(toy_config(network, quantizer, channels=channels))
    batch = video(model, 3, batch=2)
    made = model(batch)
    assert made.pixels.shape == batch.shape
    assert made.pixels.dtype == torch.float32
    assert made.ids.shape == (2, 3, 2, 3) + ((3,) if quantizer is RVQ else ())
    (made.pixels.square().mean() + sum(made.losses.values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.decoder.last_weight.grad.abs().sum() > 0
    model.eval()
    assert torch.equal(model.encode(batch), model(batch).ids)
    picture = model(batch[:, :, :1])
    assert picture.pixels.shape == batch[:, :, :1].shape
    bare = model(batch, quantize=False)
    assert bare.pixels.shape == batch.shape
    assert bare.ids.shape == (2, 3, 2, 3, 0)
    assert not bare.losses


@EVERY
def test_a_video_that_the_network_does_not_have_is_refused(network):
    model = toy_model(network)
    time, side = model.config.network.temporal_factor, model.config.network.spatial_factor
    with pytest.raises(ValueError, match=rf"{time} frames is not 1 \+ n \* {time}"):
        model(video(model, 2)[:, :, 1:])
    with pytest.raises(ValueError, match=f"{2 * side}x{3 * side - 1} are no multiples of the spatial factor {side}"):
        model.encode(video(model, 2)[..., 1:])


@EVERY
def test_nothing_later_changes_a_bit(network):
    model = toy_model(network)
    time = model.config.network.temporal_factor
    batch = video(model, 5)
    latents, codes = model.latents(batch), noise(1, 8, 5, 2, 3)
    made = model.decoder(codes)
    for step in range(1, 5):
        changed = batch.clone()
        changed[:, :, 1 + (step - 1) * time :] = noise(*changed[:, :, 1 + (step - 1) * time :].shape, seed=9)
        other = model.latents(changed)
        assert torch.equal(other[:, :, :step], latents[:, :, :step])
        assert (other[:, :, step] != latents[:, :, step]).any()
        changed = codes.clone()
        changed[:, :, step:] = noise(*changed[:, :, step:].shape, seed=9)
        other = model.decoder(changed)
        assert torch.equal(other[:, :, : 1 + (step - 1) * time], made[:, :, : 1 + (step - 1) * time])
        assert (other[:, :, 1 + (step - 1) * time] != made[:, :, 1 + (step - 1) * time]).any()


@EVERY
def test_a_step_sees_its_frames_and_those_before_by_gradient(network):
    model = toy_model(network)
    time = model.config.network.temporal_factor
    batch = video(model, 4).requires_grad_()
    for step in range(4):
        (gradient,) = torch.autograd.grad(model.latents(batch)[:, :, step].square().sum(), batch)
        seen = [bool(frame.any()) for frame in gradient[0].unbind(1)]
        last = step * time
        assert not any(seen[last + 1 :])
        assert all(seen[max(0, last - 3 * time) : last + 1])
    codes = noise(1, 8, 4, 2, 3).requires_grad_()
    for frame in range(3 * time + 1):
        (gradient,) = torch.autograd.grad(model.decoder(codes)[:, :, frame].square().sum(), codes)
        step = -(-frame // time)
        seen = [bool(each.any()) for each in gradient[0].unbind(1)]
        assert seen[max(0, step - 2) : step + 1] == [True] * (step + 1 - max(0, step - 2))
        assert not any(seen[step + 1 :])


def within(distance, radius):
    """Whether so far is seen; where no distance is enough, all is."""
    return radius is None or abs(distance) <= radius


@EVERY
def test_no_place_in_space_is_seen_beyond_the_radius(network):
    model = toy_model(network)
    side = model.config.network.spatial_factor
    batch = noise(1, 3, 1 + model.config.network.temporal_factor, side, 9 * side).requires_grad_()
    (gradient,) = torch.autograd.grad(model.latents(batch)[..., 4].square().sum(), batch)
    seen = gradient.abs().sum((0, 1, 2, 3)).view(9, side).sum(1) > 0
    assert seen.tolist() == [within(place - 4, model.encoder.radius) for place in range(9)]
    codes = noise(1, 8, 2, 1, 9).requires_grad_()
    (gradient,) = torch.autograd.grad(model.decoder(codes)[..., 4 * side : 5 * side].square().sum(), codes)
    seen = gradient.abs().sum((0, 1, 2, 3)) > 0
    assert seen.tolist() == [within(place - 4, model.decoder.radius) for place in range(9)]


@EVERY
@pytest.mark.parametrize("plan", [[1] * 9, [1, 4, 4], [5, 4]], ids=str)
def test_pieces_are_the_whole(network, plan):
    model = toy_model(network)
    time = model.config.network.temporal_factor
    batch, codes = video(model, 9), noise(1, 8, 9, 2, 3)
    counts = [plan[0] * time - time + 1, *(count * time for count in plan[1:])]
    for half, whole, sizes in ((model.encoder, batch, counts), (model.decoder, codes, plan)):
        state, made = half.start(), []
        for place, piece in enumerate(whole.split(sizes, 2)):
            y, state = half.push(piece, state, place == len(plan) - 1)
            made.append(y)
        torch.testing.assert_close(torch.cat(made, 2), half(whole), atol=1e-5, rtol=1e-5)


@EVERY
def test_frames_that_are_no_whole_step_wait(network):
    model = toy_model(network)
    batch = video(model, 4)
    whole = model.latents(batch)
    for size in (1, 2, 3, 5):
        state, made = model.encoder.start(), []
        for piece in batch.split(size, 2):
            y, state = model.encoder.push(piece, state, False)
            made.append(y)
        torch.testing.assert_close(torch.cat(made, 2), whole, atol=1e-5, rtol=1e-5)


def plain_depthwise(x, layer):
    """One place after the other, zeros around a frame, the first step again before it."""
    x = F.pad(torch.cat([x[:, :1], x[:, :1], x], 1), (0, 0, 1, 1, 1, 1))
    y = torch.empty(len(x), x.shape[1] - 2, x.shape[2] - 2, x.shape[3] - 2, x.shape[4])
    for t in range(y.shape[1]):
        for row in range(y.shape[2]):
            for column in range(y.shape[3]):
                seen = x[:, t : t + 3, row : row + 3, column : column + 3]
                y[:, t, row, column] = torch.einsum("bijkc,cijk->bc", seen, layer.weight) + layer.bias
    return y


def test_the_depthwise_convolution_is_the_plain_one():
    layer = Depthwise(6)
    layer.bias.data.normal_()
    x = noise(2, 4, 3, 5, 6).requires_grad_()
    plain = plain_depthwise(x, layer)
    torch.testing.assert_close(layer(x), plain, atol=1e-5, rtol=1e-5)
    target = noise(*plain.shape, seed=1)
    inputs = (x, layer.weight, layer.bias)
    ours, theirs = (torch.autograd.grad((y * target).sum(), inputs) for y in (layer(x), plain))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("time", [1, 2, 8])
def test_patches_and_bands_go_back(time):
    x = noise(2, 2 * time, 8, 16, 3)
    cut = patches(x, time, 4)
    assert cut.shape == (2, 2, 2, 4, time, 4, 4, 3)
    assert torch.equal(cut[0, 1, 1, 2], x[0, time : 2 * time, 4:8, 8:12])
    assert torch.equal(frames(cut), x)
    split = bands(cut)
    count = 4 if time == 1 else 8
    assert split.shape == (2, 2, 2, 4, count, max(1, time // 2), 2, 2, 3)
    torch.testing.assert_close(pixels(split), cut)
    torch.testing.assert_close(split.square().sum(), cut.square().sum())  # orthonormal
    even = torch.ones(1, time, 4, 4, 1)
    torch.testing.assert_close(bands(even)[:, 0], torch.full((1, max(1, time // 2), 2, 2, 1), count**0.5))
    assert bands(even)[:, 1:].abs().max() < 1e-6


def test_a_configuration_survives_json_and_an_unknown_option_is_named():
    for network in NETWORKS:
        config = toy_config(network, RVQ)
        assert VideoConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown option 'widht' of VideoNetworkConfig; did you mean 'width'"):
        VideoConfig.from_dict({"network": {"widht": 3}, "quantizer": {}})
    with pytest.raises(ValueError, match="a video autoencoder's configuration has the parts"):
        VideoConfig.from_dict({"network": {}})
    assert VideoConfig().quantizer == QuantizerConfig(kind="fsq", levels=(8, 8, 8, 6, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"body": "other"}, "body 'other' is not one of latent, convolutional"),
        ({"channels": 2}, "channels 2 is not 1"),
        ({"frame_rate": 0.0}, "frame_rate 0.0 is outside 0 to 1000"),
        ({"temporal_factor": 3}, "temporal_factor 3 is not one of 2, 4, 8"),
        ({"spatial_factor": 2}, "spatial_factor 2 is not one of 4, 8, 16"),
        ({"width": 0}, "width 0 must be at least 1"),
        ({"encoder_blocks": -1}, "encoder_blocks -1 must be at least 0"),
        ({"band_blocks": 1}, "band_blocks 1 needs haar"),
        ({"band_blocks": 1, "haar": True, "width": 6}, "width 6 must be a multiple of 4"),
        ({"band_blocks": 3, "haar": True, "encoder_blocks": 2}, "band_blocks 3 is more than encoder_blocks 2"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VideoNetworkConfig(**options)
