"""Layers in pieces give what they give whole, for any pieces; convolutions are torch's."""

import pytest
import torch
import torch.nn.functional as F

from tokenize_kit.tokenizers.learned.audio.networks.activations import Elu, Snake
from tokenize_kit.tokenizers.learned.audio.networks.spectra import OverlapAdd, Spectra, Waves
from tokenize_kit.tokenizers.learned.layers import Convolution, Linear, Norm, Recurrent, TransposedConvolution
from tokenize_kit.tokenizers.learned.streaming import Chain, Residual

CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pieces(length, size):
    """Lengths of pieces: all of ``size``, or of all sorts, some of them empty."""
    if size:
        return [size] * (length // size) + [length % size] * (length % size > 0)
    sizes = []
    while sum(sizes) < length:
        sizes.append(min((0, 1, 5, 2, 0, 13, 3)[len(sizes) % 7], length - sum(sizes)))
    return [*sizes, 0]


def pushed(layer, x, sizes):
    state, made = layer.start(), []
    parts = x.split(sizes, 1)
    for place, part in enumerate(parts):
        y, state = layer.push(part, state, place == len(parts) - 1)
        made.append(y)
    return torch.cat(made, 1)


def assert_pieces_equal_the_whole(layer, x):
    with torch.no_grad():
        whole = layer(x)
        for size in (1, 2, 3, 7, x.shape[1], None):
            torch.testing.assert_close(pushed(layer, x, pieces(x.shape[1], size)), whole, atol=1e-5, rtol=0)
    return whole


@CAUSAL
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_convolutions(causal, stride):
    for kernel, dilation in ((stride, 1), (2 * stride, 1), (3 * stride, 1), (7, 1), (3, 3), (4, 2)):
        layer = Convolution(3, 4, kernel, stride=stride, dilation=dilation, causal=causal)
        for count in (1, 2, 11):
            x = noise(2, count * stride, 3)
            whole = assert_pieces_equal_the_whole(layer, x)
            # The same from torch's own convolution, in its own layout.
            beyond = (kernel - 1) * dilation + 1 - stride
            right = 0 if causal else beyond // 2
            padded = F.pad(x.transpose(1, 2), (beyond - right, right))
            expected = F.conv1d(padded, layer.weight.transpose(1, 2), layer.bias, stride, dilation=dilation)
            torch.testing.assert_close(whole, expected.transpose(1, 2), atol=1e-5, rtol=0)
            assert whole.shape == (2, count, 4)


@CAUSAL
def test_depthwise_convolutions(causal):
    layer = Convolution(6, 6, 7, groups=6, causal=causal)
    whole = assert_pieces_equal_the_whole(layer, noise(2, 23, 6))
    padded = F.pad(noise(2, 23, 6).transpose(1, 2), (6, 0) if causal else (3, 3))
    expected = F.conv1d(padded, layer.weight.transpose(1, 2), layer.bias, groups=6)
    torch.testing.assert_close(whole, expected.transpose(1, 2), atol=1e-5, rtol=0)


@CAUSAL
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_transposed_convolutions(causal, stride):
    for kernel in (stride, 2 * stride, 3 * stride):
        layer = TransposedConvolution(3, 4, kernel, stride, causal=causal)
        for count in (1, 2, 11):
            x = noise(2, count, 3)
            whole = assert_pieces_equal_the_whole(layer, x)
            right = kernel - stride if causal else (kernel - stride) // 2
            expected = F.conv_transpose1d(x.transpose(1, 2), layer.weight.transpose(1, 2), layer.bias, stride)
            expected = expected[..., kernel - stride - right : expected.shape[2] - right].transpose(1, 2)
            torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)
            assert whole.shape == (2, count * stride, 4)


def test_impossible_convolutions_are_refused():
    with pytest.raises(ValueError, match="sees 3 places cannot have a stride of 4"):
        Convolution(1, 1, 3, stride=4)
    with pytest.raises(ValueError, match="kernel 5 of a transposed convolution is not a multiple of its stride 2"):
        TransposedConvolution(1, 1, 5, 2)


@CAUSAL
def test_a_chain_of_everything(causal):
    # The skips have to wait for what the layers beside them still want to see.
    layers = [
        Convolution(2, 6, 7, causal=causal, normed=True),
        Residual(Chain([Snake(6), Convolution(6, 3, 3, dilation=3, causal=causal), Elu(), Convolution(3, 6, 1)])),
        Convolution(6, 8, 6, stride=3, causal=causal),
        Recurrent(8, 2),
        Residual(Chain([Residual(Convolution(8, 8, 5, causal=causal)), Norm(8), Linear(8, 8)])),
        TransposedConvolution(8, 4, 10, 5, causal=causal, normed=True),
        Residual(Convolution(4, 4, 7, dilation=2, causal=causal)),
    ]
    for count in (1, 2, 9):
        assert assert_pieces_equal_the_whole(Chain(layers), noise(3, 3 * count, 2)).shape == (3, 5 * count, 4)


@pytest.mark.parametrize(("window", "hop"), [(8, 4), (20, 6), (12, 2), (16, 4), (64, 10)])
def test_spectra_and_their_synthesis(window, hop):
    spectra, synthesis = Spectra(window, hop), Chain([Waves(window, 2), OverlapAdd(window, hop)])
    for count in (1, 2, 3, 17):
        x = noise(2, count * hop, 2)
        assert assert_pieces_equal_the_whole(spectra, x).shape == (2, count, 2 * (window + 2))
        y = noise(2, count, 2 * (window + 2), seed=1)
        assert assert_pieces_equal_the_whole(synthesis, y).shape == (2, count * hop, 2)


@pytest.mark.parametrize(("window", "hop"), [(8, 4), (20, 6), (64, 10)])
def test_synthesis_inverts_the_fourier_transform_at_both_ends_too(window, hop):
    x = noise(2, 13 * hop, 2)
    side = (window - hop) // 2
    padded = F.pad(x, (0, 0, side, side))
    values = torch.fft.rfft(padded.unfold(1, window, hop) * torch.hann_window(window))  # (B, T, C, W / 2 + 1)
    given = torch.view_as_real(torch.polar(values.abs() ** 0.3, values.angle())).flatten(2)
    torch.testing.assert_close(Chain([Waves(window, 2), OverlapAdd(window, hop)])(given), x, atol=1e-5, rtol=0)


def test_spectra_are_those_of_torch_with_compressed_magnitudes():
    x = noise(1, 60, 1)
    padded = F.pad(x[:, :, 0], (7, 7))
    values = torch.stft(padded, 20, 6, window=torch.hann_window(20), center=False, return_complex=True)[0].T
    expected = torch.polar(values.abs() ** 0.3, values.angle())
    got = torch.view_as_complex(Spectra(20, 6)(x).view(10, 11, 2))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_an_old_state_can_be_gone_on_from_again():
    layer = Chain(
        [Convolution(2, 4, 5), Recurrent(4, 1), TransposedConvolution(4, 6, 4, 2), Waves(4, 1), OverlapAdd(4, 2)]
    )
    with torch.no_grad():
        _, state = layer.push(noise(1, 9, 2), layer.start(), False)
        first, _ = layer.push(noise(1, 6, 2, seed=1), state, True)
        layer.push(noise(1, 8, 2, seed=2), state, False)
        again, _ = layer.push(noise(1, 6, 2, seed=1), state, True)
    assert torch.equal(first, again)
    assert first.abs().max() > 0


@CAUSAL
def test_what_a_layer_says_it_needs_is_when_outputs_come(causal):
    layers = [
        Convolution(2, 2, 7, dilation=3, causal=causal),
        Convolution(2, 2, 6, stride=3, causal=causal),
        TransposedConvolution(2, 2, 10, 5, causal=causal),
        Spectra(20, 6),
        OverlapAdd(20, 6),
        Residual(Convolution(2, 2, 4, causal=causal)),
    ]
    for layer in layers:
        channels = 20 if isinstance(layer, OverlapAdd) else 2
        state, seen, came = layer.start(), 0, 0
        while came < 25:
            y, state = layer.push(noise(1, 1, channels), state, False)
            seen += 1
            for count in range(came + 1, came + y.shape[1] + 1):
                assert layer.needs(count) == seen or (seen == 1 and layer.needs(count) <= 1), (layer, count)
            came += y.shape[1]


def test_snake_is_that_of_the_paper():
    layer = Snake(3)
    layer.alpha.data = torch.tensor([0.5, 1.0, 2.0])
    x = noise(1, 4, 3) * 5
    torch.testing.assert_close(layer(x), x + (x * layer.alpha).sin() ** 2 / layer.alpha)
