"""The layers of the convolutional body against plain ones, what a fresh network does, and its options."""

import math

import pytest
import torch
import torch.nn.functional as F
from toys.neural_video import awakened, toy_config, toy_model

from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.networks.attention import FrameAttention, TimeAttention
from tokenize_kit.tokenizers.learned.video.networks.blocks import (
    ChannelsToSpace,
    GroupNorm,
    SpaceToChannels,
    convolution,
)
from tokenize_kit.tokenizers.learned.video.networks.convolutional import time_factors
from tokenize_kit.tokenizers.learned.video.networks.resampling import TimeDown, TimeUp

PLANS = ([13], [1] * 13, [1, 4, 4, 4], [1, 8, 4], [1, 12], [0, 5, 0, 7, 1, 0])
CONVOLUTIONAL = ("convolutional", "full", "attention")


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random(layer, seed=0):
    """Give every weight a random value: fresh layers do little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * max(1, parameter[0].numel()) ** -0.5)
    return layer


def pushed(layer, x, plan):
    state, made = layer.start(), []
    for place, part in enumerate(x.split(plan, 1)):
        y, state = layer.push(part, state, place == len(plan) - 1)
        made.append(y)
    return torch.cat(made, 1)


def assert_pieces_are_the_whole(layer, x, atol=1e-5):
    """To the bit without gradients; and what is computed for training is near to that. Return the latter."""
    trained = layer(x)
    with torch.no_grad():
        whole = layer(x)
        torch.testing.assert_close(trained, whole, atol=atol, rtol=0)
        for plan in PLANS:
            assert torch.equal(pushed(layer, x, plan), whole), plan
    assert whole.std() > 0.1
    return trained


@pytest.mark.parametrize("repeat", [False, True], ids=["zeros", "repeat"])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("kind", ["factorised", "full"])
def test_convolutions_are_torchs(kind, kernel, repeat):
    layer = random(convolution(5, 6, kind, kernel, repeat))
    video = noise(2, 13, 6, 4, 5)
    made = assert_pieces_are_the_whole(layer, video)

    def padded(x):
        before = x[:, :, :1].expand(-1, -1, kernel - 1, -1, -1) * repeat
        return torch.cat([before, x], 2)

    x = video.movedim(-1, 1)
    if kind == "full":
        expected = F.conv3d(padded(x), layer.weight.movedim(-1, 1), layer.bias, padding=(0, 1, 1))
    else:
        x = F.conv3d(x, layer.frame.weight.movedim(-1, 1), layer.frame.bias, padding=(0, 1, 1))
        expected = F.conv3d(padded(x), layer.time.weight.movedim(-1, 1), layer.time.bias)
    torch.testing.assert_close(made, expected.movedim(1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["factorised", "full"])
def test_a_fresh_convolution_sees_its_own_frame_alone(kind):
    layer = convolution(5, 6, kind, 3, True)
    video = noise(1, 4, 6, 4, 5)
    whole = layer(video)
    assert whole.std() > 0.1
    for frame in range(4):
        torch.testing.assert_close(layer(video[:, frame : frame + 1]), whole[:, frame : frame + 1])
    (whole**2).sum().backward()
    kernel = (layer.time if kind == "factorised" else layer).weight
    assert (kernel.grad.abs().amax((0, 2, 3, 4)) > 0).all()  # and it learns to see the others


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_fewer_frames(factor):
    layer = random(TimeDown(3, factor))
    video = noise(2, 1 + 3 * factor, 2, 5, 3)
    made = layer(video)
    assert made.shape == (2, 4, 2, 5, 3)
    share = torch.sigmoid(layer.blend)
    weight, bias = layer.convolution.weight[:, :, 0, 0], layer.convolution.bias
    for step in range(4):
        own = video[:, :1] if step == 0 else video[:, 1 + (step - 1) * factor : 1 + step * factor]
        seen = [video[:, max(0, step * factor - back)] for back in reversed(range(factor + 1))]
        convolved = sum(place @ weight[:, tap].T for tap, place in enumerate(seen)) + bias
        expected = share * own.mean(1) + (1 - share) * convolved
        torch.testing.assert_close(made[:, step], expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        for plan in ([1] * (1 + 3 * factor), [1, factor, 2 * factor], [1, 3 * factor], [0, 2, 3 * factor - 1]):
            assert torch.equal(pushed(layer, video, plan), layer(video)), plan
    assert [layer.needs(count) for count in (1, 2, 4)] == [1, 1 + factor, 1 + 3 * factor]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_more_frames(factor):
    layer = random(TimeUp(3, factor))
    video = noise(2, 4, 2, 5, 3)
    made = layer(video)
    assert made.shape == (2, 1 + 3 * factor, 2, 5, 3)
    share = torch.sigmoid(layer.blend)
    weight, bias = (
        layer.convolution.weight[:, :, 0, 0].unflatten(0, (factor, 3)),
        layer.convolution.bias.view(factor, 3),
    )
    for frame in range(1 + 3 * factor):
        step, which = -(-frame // factor), (frame - 1) % factor
        seen = video[:, max(0, step - 1)], video[:, step]
        convolved = sum(place @ weight[which, :, tap].T for tap, place in enumerate(seen)) + bias[which]
        expected = share * video[:, step] + (1 - share) * convolved
        torch.testing.assert_close(made[:, frame], expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        for plan in ([1] * 4, [1, 3], [0, 2, 0, 2]):
            assert torch.equal(pushed(layer, video, plan), layer(video)), plan
    assert [layer.needs(count) for count in (1, 2, 1 + factor, 2 + factor)] == [1, 2, 2, 3]


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_fresh_resampling_pools_and_repeats_and_equal_frames_stay_to_the_bit(factor):
    frame = noise(1, 1, 2, 5, 3)
    still = frame.expand(-1, 1 + 2 * factor, -1, -1, -1)
    down, up = TimeDown(3, factor), TimeUp(3, factor)
    with torch.no_grad():
        assert torch.equal(down(still), frame.expand(-1, 3, -1, -1, -1))
        assert torch.equal(up(frame.expand(-1, 3, -1, -1, -1)), still)
    assert torch.sigmoid(down.blend).item() == pytest.approx(0.880797)  # VidTok's a = 2


def test_a_norm_over_a_frame_sees_no_other_frame_and_is_torchs():
    layer = random(GroupNorm(64))
    video = noise(2, 13, 4, 6, 64)
    made = assert_pieces_are_the_whole(layer, video)
    frames = video.flatten(0, 1).movedim(-1, 1).contiguous()
    expected = F.group_norm(frames, 32, layer.weight, layer.bias, 1e-6).movedim(1, -1).view(video.shape)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    assert GroupNorm(24).groups == 24
    assert GroupNorm(34).groups == 17


def plain_attention(layer, x, seen, bias=None):
    """Attention of places (n, C), one after the other; ``seen`` are those that place i sees."""
    query, key, value = layer.qkv(layer.norm(x)).unflatten(-1, (3, layer.heads, -1)).unbind(1)
    made = []
    for place in range(len(x)):
        heads = []
        for head in range(layer.heads):
            scores = torch.stack([query[place, head] @ key[other, head] for other in seen(place)])
            scores = scores / math.sqrt(key.shape[-1])
            if bias is not None:
                scores = scores + torch.stack([bias[head, place - other] for other in seen(place)])
            heads.append(sum(w * value[o, head] for w, o in zip(scores.softmax(0), seen(place), strict=True)))
        made.append(layer.out(torch.cat(heads)))
    return x + torch.stack(made)


def test_attention_over_a_frame():
    layer = random(FrameAttention(128, "rms"))
    assert layer.heads == 2
    video = noise(2, 13, 2, 3, 128)
    made = assert_pieces_are_the_whole(layer, video)
    expected = plain_attention(layer, video[1, 4].reshape(6, 128), lambda _: range(6))
    torch.testing.assert_close(made[1, 4].reshape(6, 128), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("window", [2, 5, 20])
def test_attention_over_the_time_sees_a_window(window):
    layer = random(TimeAttention(128, "rms", window))
    video = noise(2, 13, 2, 3, 128)
    made = assert_pieces_are_the_whole(layer, video, atol=1e-4)
    expected = plain_attention(layer, video[1, :, 1, 2], lambda t: range(max(0, t + 1 - window), t + 1), layer.bias)
    torch.testing.assert_close(made[1, :, 1, 2], expected, atol=1e-4, rtol=0)
    state = None
    for part in video.split(1, 1):
        _, state = layer.push(part, state, False)
    assert state[0].shape == (12, 2, min(13, window - 1), 64)


def test_squares_of_places_are_torchs():
    video = noise(2, 3, 4, 6, 5)
    made = SpaceToChannels(2)(video)
    assert torch.equal(made[1, 2], F.pixel_unshuffle(video[1, 2].movedim(-1, 0), 2).movedim(0, -1))
    assert torch.equal(ChannelsToSpace(2)(made), video)
    assert SpaceToChannels(2)(video[:, :0]).shape == (2, 0, 2, 3, 20)
    assert ChannelsToSpace(2)(made[:, :0]).shape == (2, 0, 4, 6, 5)


@pytest.mark.parametrize("network", CONVOLUTIONAL)
def test_any_pieces_are_the_whole_to_the_bit_in_the_network_itself(network):
    model = toy_model(network)
    time, side = model.config.network.temporal_factor, model.config.network.spatial_factor
    video = noise(1, 3, 1 + 4 * time, 2 * side, 3 * side)
    with torch.no_grad():
        latents = model.encoder(video)
        made = model.decoder(latents)
        assert latents.std() > 0.1
        assert made.std() > 0.1
        for half, x, whole in ((model.encoder, video, latents), (model.decoder, latents, made)):
            for plan in ([1] * x.shape[2], [1, x.shape[2] - 1], [0, 2, 0, 1, x.shape[2] - 3, 0]):
                state, parts = half.start(), []
                for place, part in enumerate(x.split(plan, 2)):
                    y, state = half.push(part, state, place == len(plan) - 1)
                    parts.append(y)
                assert torch.equal(torch.cat(parts, 2), whole), plan
            assert torch.equal(half(x[:, :, :1]), whole[:, :, :1])


@pytest.mark.parametrize("network", CONVOLUTIONAL)
def test_halves_say_what_they_need(network):
    model = toy_model(network)
    time = model.config.network.temporal_factor
    assert [model.encoder.layers.needs(count) for count in (1, 2, 5)] == [1, 1 + time, 1 + 4 * time]
    assert [model.decoder.layers.needs(count) for count in (1, 2, 1 + time, 2 + time)] == [1, 2, 2, 3]


@pytest.mark.parametrize("network", CONVOLUTIONAL)
def test_a_fresh_network_takes_a_video_for_a_row_of_pictures(network):
    torch.manual_seed(0)
    model = VideoAutoencoder(toy_config(network))
    time = model.config.network.temporal_factor
    picture = noise(1, 3, 1, 16, 16)
    video = torch.cat([noise(1, 3, 1 + time, 16, 16, seed=1), picture.expand(-1, -1, time, -1, -1)], 2)
    with torch.no_grad():
        latents = model.latents(video)
        torch.testing.assert_close(latents[:, :, 2:], model.latents(picture), atol=1e-6, rtol=0)
        made = model.decoder(latents)
        torch.testing.assert_close(made[:, :, -time:], made[:, :, -1:].expand(-1, -1, time, -1, -1))


def test_the_network_learns_a_video_by_heart():
    torch.manual_seed(0)
    model = VideoAutoencoder(toy_config("convolutional"))
    time = model.config.network.temporal_factor
    video = noise(1, 3, 1 + time, 4, 4).repeat_interleave(2, 3).repeat_interleave(2, 4)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    losses = []
    for _ in range(40):
        loss = F.mse_loss(model(video, quantize=False).pixels, video)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]


@pytest.mark.parametrize(
    ("temporal", "multipliers", "factors"),
    [
        (2, (1, 2, 4), (1, 1, 2)),
        (4, (1, 2, 4), (1, 2, 2)),
        (8, (1, 2, 4), (2, 2, 2)),
        (8, (1, 2), (2, 4)),
        (8, (1,), (8,)),
    ],
)
def test_time_is_halved_where_the_last_levels_begin(temporal, multipliers, factors):
    levels = (1,) * len(multipliers)
    config = VideoNetworkConfig(
        body="convolutional",
        temporal_factor=temporal,
        multipliers=multipliers,
        encoder_levels=levels,
        decoder_levels=levels,
        width=4,
    )
    assert time_factors(config) == factors
    model = awakened(VideoAutoencoder(VideoConfig(config)), 0.7)
    made = model(noise(1, 3, 1 + temporal, 8, 16))
    assert made.ids.shape == (1, 2, 1, 2)
    assert made.pixels.shape == (1, 3, 1 + temporal, 8, 16)


# About 100 million parameters, for GPUs; the width is the one dial between sizes.
BASE = {
    "latent": {"body": "latent", "width": 1024, "encoder_blocks": 6, "decoder_blocks": 8, "latent_channels": 256},
    "convolutional": {
        "body": "convolutional",
        "width": 128,
        "multipliers": (1, 2, 4),
        "encoder_levels": (2, 2, 5),
        "decoder_levels": (3, 3, 6),
        "latent_channels": 256,
        "attention": True,
    },
}


@pytest.mark.parametrize("factors", [(4, 8), (8, 16)], ids=["4x8x8", "8x16x16"])
@pytest.mark.parametrize(("body", "millions"), [("latent", 90), ("convolutional", 100)])
def test_base_networks_have_the_right_shapes(body, millions, factors):
    time, side = factors
    config = VideoNetworkConfig(temporal_factor=time, spatial_factor=side, **BASE[body])
    with torch.device("meta"):
        model = VideoAutoencoder(VideoConfig(config))
        latents = model.latents(torch.empty(1, 3, 17, 256, 256))
        assert latents.shape == (1, 256, 1 + 16 // time, 256 // side, 256 // side)
        assert model.decoder(latents).shape == (1, 3, 17, 256, 256)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"body": "latent", "multipliers": (1, 2)},
            r"multipliers \(1, 2\) is not an option of the body latent; it is for conv",
        ),
        ({"haar": True}, "haar True is not an option of the body convolutional; it is for latent"),
        ({"multipliers": ()}, r"multipliers \(\) must be at least 1"),
        ({"multipliers": (1, 0, 2)}, r"multipliers \(1, 0, 2\) must be at least 1"),
        ({"encoder_levels": (1, 1)}, r"encoder_levels \(1, 1\) must have a number for each of the 3 levels"),
        (
            {"decoder_levels": (1, 1, 1, 1)},
            r"decoder_levels \(1, 1, 1, 1\) must have a number for each of the 3 levels",
        ),
        ({"decoder_levels": (1, -1, 1)}, r"decoder_levels \(1, -1, 1\) must be at least 0"),
        (
            {"multipliers": (1, 1, 1, 1), "encoder_levels": (1,) * 4, "decoder_levels": (1,) * 4, "spatial_factor": 4},
            "4 levels make a spatial factor of 8 at least, more than 4; use fewer",
        ),
        ({"convolution": "depthwise"}, "convolution 'depthwise' is not one of factorised, full"),
        ({"padding": "mirror"}, "padding 'mirror' is not one of repeat, zeros"),
        ({"norm": "batch"}, "norm 'batch' is not one of rms, group"),
        ({"temporal_kernel": 0}, "temporal_kernel 0 must be at least 1"),
        ({"attention_window": 0}, "attention_window 0 must be at least 1"),
        ({"attention": True, "width": 49}, "attention over 196 channels needs a multiple of 64; change the width"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        VideoNetworkConfig(**{"body": "convolutional"} | options)
