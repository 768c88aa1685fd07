"""Layers over several axes that stream along one of them: to the bit what the whole gives, and nothing of what comes later."""

import pytest
import torch
import torch.nn.functional as F

from tokenize_kit.tokenizers.learned.layers import CausalConvolution, Convolution, Gelu, Norm, TransposedConvolution
from tokenize_kit.tokenizers.learned.streaming import Chain, Residual

PLANS = ([1, 4, 4, 4], [1, 8, 4], [1, 12], [13], [1] * 13, [5, 0, 7, 1, 0])
AXES = pytest.mark.parametrize("axis", [1, 2, 3])


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pushed(layer, x, plan, axis=1):
    state, made = layer.start(), []
    for place, part in enumerate(x.split(plan, axis)):
        y, state = layer.push(part, state, place == len(plan) - 1)
        made.append(y)
    return torch.cat(made, axis)


def placed(values, axis):
    """The numbers of the axes time, height, width with the time at ``axis`` of (B, axes..., C)."""
    time, *others = values
    others.insert(axis - 1, time)
    return tuple(others)


def video_encoder(channels, axis=1):
    """A small causal encoder of videos (B, 13, 8, 8, 3): 4 steps of 4x4 latents."""

    def convolution(inputs, outputs, kernel, stride=(1, 1, 1)):
        return CausalConvolution(inputs, outputs, placed(kernel, axis), stride=placed(stride, axis), axis=axis)

    inner = Chain([Norm(channels), Gelu(), convolution(channels, channels, (3, 3, 3))])
    return Chain(
        [
            convolution(3, channels, (3, 3, 3)),
            Residual(inner),
            convolution(channels, channels, (2, 2, 2), (2, 2, 2)),
            Residual(Chain([Residual(Norm(channels)), convolution(channels, channels, (4, 1, 3))])),
            convolution(channels, channels, (3, 3, 3), (2, 1, 1)),
        ]
    )


@AXES
@pytest.mark.parametrize("channels", [8, 64])
def test_a_video_in_pieces_is_the_whole_to_the_bit(channels, axis):
    torch.manual_seed(0)
    encoder = video_encoder(channels, axis)
    assert encoder.axis == axis
    video = noise(2, 13, 8, 8, 3).movedim(1, axis)
    with torch.no_grad():
        whole = encoder(video)
        assert whole.shape == (2, *placed((4, 4, 4), axis), channels)
        assert whole.std() > 0.1
        for plan in PLANS:
            assert torch.equal(pushed(encoder, video, plan, axis), whole), plan


@AXES
def test_later_frames_change_no_bit_of_earlier_outputs_and_one_frame_is_a_video(axis):
    torch.manual_seed(0)
    encoder = video_encoder(8, axis)
    video = noise(1, 13, 8, 8, 3).movedim(1, axis)
    with torch.no_grad():
        whole = encoder(video)
        # Output t of a causal encoder that makes one step of four frames, but of the first alone, sees frames up to 4 t.
        for frame in range(13):
            changed = video.clone()
            changed.narrow(axis, frame, 1).add_(1)
            same = -(-frame // 4)  # outputs that see nothing of it
            different = (encoder(changed) != whole).movedim(axis, 0).flatten(1).any(1).tolist()
            assert different[:same] == [False] * same
            assert different[same]
            assert encoder.needs(same + 1) == 4 * same + 1
        assert torch.equal(encoder(video.narrow(axis, 0, 1)), whole.narrow(axis, 0, 1))


@AXES
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((3, 3, 3), (1, 1, 1)), ((4, 3, 5), (2, 1, 1)), ((4, 4, 2), (4, 2, 2)), ((1, 3, 3), (1, 2, 3))],
)
def test_causal_convolutions_are_torchs(kernel, stride, axis):
    layer = CausalConvolution(5, 6, placed(kernel, axis), stride=placed(stride, axis), axis=axis)
    video = noise(2, 13, 12, 6, 5)
    _, *beyond = (k - s for k, s in zip(kernel, stride, strict=True))
    sides = [side for both in reversed(beyond) for side in (both - both // 2, both // 2)]
    padded = F.pad(video.movedim(-1, 1), (*sides, kernel[0] - 1, 0))
    expected = F.conv3d(padded, layer.weight.movedim(axis, 1).movedim(-1, 1), layer.bias, stride).movedim(1, -1)
    video, expected = video.movedim(1, axis), expected.movedim(1, axis)
    trained = layer(video)
    torch.testing.assert_close(trained, expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(layer(video), expected, atol=1e-5, rtol=0)
    gradients = torch.autograd.grad(trained.square().sum(), layer.parameters())
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_a_convolution_over_one_more_axis_than_time():
    layer = CausalConvolution(2, 3, (3, 5), axis=1)
    x = noise(2, 9, 7, 2)
    expected = F.conv2d(F.pad(x.movedim(-1, 1), (2, 2, 2, 0)), layer.weight.movedim(-1, 1), layer.bias).movedim(1, -1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
        assert torch.equal(pushed(layer, x, [1, 2, 6]), layer(x))


@AXES
@pytest.mark.parametrize("causal", [False, True])
def test_a_transposed_convolution_spreads_each_place_of_the_other_axes_by_itself(causal, axis):
    torch.manual_seed(1)
    layer = TransposedConvolution(3, 4, 6, 2, causal=causal, axis=axis)
    torch.manual_seed(1)
    alone = TransposedConvolution(3, 4, 6, 2, causal=causal)
    video = noise(2, 7, 3, 5, 3)
    with torch.no_grad():
        places = video.permute(0, 2, 3, 1, 4).reshape(30, 7, 3)
        expected = alone(places).view(2, 3, 5, 14, 4).permute(0, 3, 1, 2, 4)
        x, expected = video.movedim(1, axis), expected.movedim(1, axis)
        torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)
        for plan in ([7], [1, 3, 3], [1] * 7, [2, 0, 5]):
            torch.testing.assert_close(pushed(layer, x, plan, axis), expected, atol=1e-6, rtol=0)


def test_layers_of_different_axes_are_not_put_together():
    first, second = CausalConvolution(1, 1, (3, 3), axis=1), CausalConvolution(1, 1, (3, 3), axis=2)
    with pytest.raises(ValueError, match=r"stream along different axes, \['1', '2'\]"):
        Chain([first, Norm(1), Residual(second)])
    assert Residual(Chain([Norm(1), second])).axis == 2
    assert Chain([Norm(1), Gelu()]).axis is None
    assert Convolution(1, 1, 3).axis == 1


@pytest.mark.parametrize(
    ("kernel", "stride", "axis", "message"),
    [
        ((3,), None, 1, r"over 2 to 4 axes .* got kernel \(3,\), stride \(1,\), axis 1"),
        ((3, 3), (1,), 1, r"got kernel \(3, 3\), stride \(1,\), axis 1"),
        ((3, 3), None, 3, "axis 3"),
        ((3, 3), None, 0, "axis 0"),
        ((3, 2), (1, 3), 1, "sees 2 places cannot have a stride of 3"),
    ],
)
def test_impossible_causal_convolutions_are_refused(kernel, stride, axis, message):
    with pytest.raises(ValueError, match=message):
        CausalConvolution(1, 1, kernel, stride=stride, axis=axis)
