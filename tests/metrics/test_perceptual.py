"""LPIPS and FID with random weights, against torchmetrics and torch-fidelity; and what happens without the real ones."""

import hashlib

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from toys.clips import ToyVideo

from tokenize_kit.cli import main
from tokenize_kit.errors import MissingWeightsError
from tokenize_kit.metrics import fid, perceptual
from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.fid import FrechetDistance, InceptionFeatures, scale_as_tensorflow
from tokenize_kit.metrics.measures import Totals
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.perceptual import Perceptual, PublishedWeights, find_weights, three_channels
from tokenize_kit.metrics.video_measure import VideoMeasure
from tokenize_kit.progress import Progress
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer


@pytest.fixture(scope="session")
def reference():
    """torchmetrics' LPIPS with the real heads and a random backbone."""
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    return _LPIPS(net="vgg", pnet_rand=True)


@pytest.fixture(scope="session")
def vgg_weights(reference, tmp_path_factory):
    """The random backbone as a file of torchvision's layout."""
    state = {}
    for number in range(1, 6):
        state |= {
            f"features.{key}": value for key, value in getattr(reference.net, f"slice{number}").state_dict().items()
        }
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(state | {"classifier.0.bias": torch.zeros(1)}, path)
    return path


def random_pictures(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [(16, 16), (37, 50)])
def test_lpips_is_that_of_torchmetrics(reference, vgg_weights, size):
    ours = Perceptual(vgg_weights)
    a, b = random_pictures(2, 3, *size), random_pictures(2, 3, *size, seed=1)
    expected = reference(a, b).flatten()
    assert expected.min() > 0.01
    torch.testing.assert_close(ours(a, b), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(ours(a, a), torch.zeros(2))


def test_gradients_reach_the_pictures_and_nothing_else(vgg_weights):
    ours = Perceptual(vgg_weights)
    flat, picture = torch.zeros(1, 3, 24, 24), random_pictures(1, 3, 24, 24).requires_grad_()
    ours(picture, flat).sum().backward()
    assert picture.grad.isfinite().all()
    assert picture.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    # Black and equal: every difference is zero, and many features are too.
    same = flat.clone().requires_grad_()
    ours(same, flat).sum().backward()
    assert torch.equal(same.grad, torch.zeros_like(same))


def test_grey_is_repeated_and_rgba_lies_on_white(vgg_weights):
    grey = random_pictures(2, 1, 4, 4)
    assert torch.equal(three_channels(grey), torch.cat([grey] * 3, 1))
    colour = random_pictures(1, 3, 4, 4)
    clear, solid, half = (torch.full((1, 1, 4, 4), value) for value in (-1.0, 1.0, 0.0))
    torch.testing.assert_close(three_channels(torch.cat([colour, clear], 1)), torch.ones_like(colour))
    torch.testing.assert_close(three_channels(torch.cat([colour, solid], 1)), colour)
    torch.testing.assert_close(three_channels(torch.cat([colour, half], 1)), (colour + 1) / 2)
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        three_channels(random_pictures(1, 2, 4, 4))


def test_wrong_pictures_are_refused(vgg_weights):
    ours = Perceptual(vgg_weights)
    with pytest.raises(ValueError, match="smaller than the 16"):
        ours(random_pictures(1, 3, 15, 20), random_pictures(1, 3, 15, 20))
    with pytest.raises(ValueError, match="cannot be compared"):
        ours(random_pictures(1, 3, 20, 20), random_pictures(2, 3, 20, 20))


def test_only_the_published_weights_are_called_lpips(vgg_weights, monkeypatch):
    digest = hashlib.sha256(vgg_weights.read_bytes()).hexdigest()
    assert Perceptual(vgg_weights).name == f"lpips_like[{digest[:12]}]"
    monkeypatch.setattr(perceptual, "VGG16", PublishedWeights("test", "https://example.org/a.pth", digest))
    assert Perceptual(vgg_weights).name == "lpips"
    monkeypatch.setattr(perceptual, "LPIPS_HEADS_SHA256", "0" * 64)
    assert Perceptual(vgg_weights).name == "lpips_like[a78928a0af1e]"


def test_safetensors_serve_too(vgg_weights, tmp_path):
    from safetensors.torch import save_file

    state = {key: value for key, value in torch.load(vgg_weights, weights_only=True).items() if "features" in key}
    save_file({key.removeprefix("features."): value for key, value in state.items()}, tmp_path / "vgg.safetensors")
    a, b = random_pictures(1, 3, 16, 16), random_pictures(1, 3, 16, 16, seed=1)
    assert torch.equal(Perceptual(tmp_path / "vgg.safetensors")(a, b), Perceptual(vgg_weights)(a, b))


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


def test_weights_that_are_none_are_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*vgg16-397923af"):
        Perceptual(tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("this is no checkpoint")
    (tmp_path / "text.safetensors").write_text("this is no checkpoint")
    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    torch.save({"features.0.weight": 3}, tmp_path / "numbers.pth")
    for name, words in (
        ("text.pth", "not a file of weights"),
        ("text.safetensors", "not a file of weights"),
        ("evil.pth", "not a file of weights"),
        ("numbers.pth", "no state dict of tensors"),
    ):
        with pytest.raises(ValueError, match=words):
            Perceptual(tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"do not fit: .*Missing key"):
        Perceptual(tmp_path / "part.pth")


def test_weights_are_taken_from_the_cache_or_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    published = PublishedWeights("the weights of a test", "https://example.org/a-1234.pth", "ab" * 32)
    fetched = []

    def fetch(url, path, hash_prefix, progress):
        fetched.append((url, path, hash_prefix))
        (tmp_path / "checkpoints" / "a-1234.pth").write_bytes(b"something")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    digest = hashlib.sha256(b"something").hexdigest()[:12]
    for _ in range(2):
        assert find_weights(published, None) == (tmp_path / "checkpoints" / "a-1234.pth", digest)
    assert fetched == [(published.url, str(tmp_path / "checkpoints" / "a-1234.pth"), published.sha256)]


def test_without_weights_and_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def fail(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(
        MissingWeightsError, match=r"vgg16-397923af\.pth .*no route to host.* or give its path"
    ) as caught:
        Perceptual()
    assert caught.value.exit_code == 4
    with pytest.raises(MissingWeightsError, match="InceptionV3 of FID"):
        FrechetDistance()


# -- FID --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(299, 299), (20, 33), (400, 310)])
def test_scaling_is_that_of_torch_fidelity(size):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    pictures = (random_pictures(1, 3, *size) * 127.5 + 127.5).round()
    expected = interpolate_bilinear_2d_like_tensorflow1x(pictures, (299, 299), align_corners=False)
    torch.testing.assert_close(scale_as_tensorflow(pictures, 299), expected, rtol=0, atol=2e-3)


def test_features_are_those_of_torch_fidelity(tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchvision.models import Inception3

    torch.manual_seed(0)
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    pictures = (random_pictures(2, 3, 60, 44) * 127.5 + 127.5).round().to(torch.uint8)
    (expected,) = FeatureExtractorInceptionV3("test", ["2048"], feature_extractor_weights_path=str(path))(pictures)
    ours = InceptionFeatures(path)
    assert ours.foreign == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    features = ours(pictures)
    assert features.shape == (2, 2048)
    assert expected.std() > 1e-3
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-5)


class Colours(nn.Module):
    """Six simple features of a picture in place of InceptionV3."""

    num_features = 6
    foreign = None

    def __init__(self, weights):
        super().__init__()

    def forward(self, pictures):
        values = pictures.double().flatten(2)
        return torch.cat([values.mean(2), values.std(2)], 1)


def test_the_distance_is_that_of_two_gaussians(monkeypatch):
    monkeypatch.setattr(fid, "InceptionFeatures", Colours)
    a = (random_pictures(20, 3, 9, 9) * 127.5 + 127.5).to(torch.uint8)
    b = (random_pictures(20, 3, 9, 9, seed=1) * 100 + 127.5).to(torch.uint8)
    measure = FrechetDistance()
    assert measure.distance() is None
    for part in (slice(0, 3), slice(3, 20)):
        measure.add(a[part], b[part])
    means, covariances = [], []
    for side in (a, b):
        features = Colours(None)(side).numpy()
        means.append(features.mean(0))
        covariances.append(np.cov(features, rowvar=False))
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert (measure.name, measure.pictures) == ("rfid", 20)
    assert measure.distance() == pytest.approx(expected, rel=1e-6)


def test_grey_and_transparent_pictures_have_a_distance(monkeypatch):
    monkeypatch.setattr(fid, "InceptionFeatures", Colours)
    measure = FrechetDistance()
    grey = (random_pictures(4, 1, 9, 9) * 127.5 + 127.5).to(torch.uint8)
    clear = torch.cat([grey.expand(-1, 3, -1, -1), torch.zeros_like(grey)], 1)
    measure.add(grey, grey)
    measure.add(clear, torch.full_like(clear, 255))
    # Behind transparency all is white, on both sides.
    assert measure.distance() == pytest.approx(0, abs=1e-4)


# -- evaluate ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def palette(tmp_path):
    """A small palette's folder, and one with pictures of 20x20, 12x30 and 20x20 pixels."""
    from tokenize_kit.media.image import write_image

    PaletteTokenizer(torch.tensor([[0, 0, 0], [255, 255, 255], [200, 90, 30]])).save(tmp_path / "palette")
    (tmp_path / "pictures").mkdir()
    for number, size in enumerate([(20, 20), (12, 30), (20, 20)]):
        picture = (random_pictures(3, *size, seed=number) * 127.5 + 127.5).to(torch.uint8)
        write_image(picture, tmp_path / "pictures" / f"{number}.png")
    return tmp_path


def test_evaluate_measures_lpips_over_the_pictures_that_are_large_enough(palette, vgg_weights):
    options = EvaluateOptions(
        str(palette / "palette"), (str(palette / "pictures"),), lpips_weights=str(vgg_weights), examples=3
    )
    result = evaluate(options, Progress(False))
    network = Perceptual(vgg_weights)
    distances = [
        float(network(example.sample[None] / 127.5 - 1, example.reconstruction[None] / 127.5 - 1))
        for example in (result.examples[0], result.examples[2])
    ]
    assert result.metrics[network.name] == pytest.approx(sum(distances) / 2, rel=1e-5)
    assert "lpips" not in result.metrics
    assert "2 of 3 pictures have the side of 16" in result.protocol
    assert "so this is no LPIPS" in result.protocol


def test_lpips_of_a_video_is_the_mean_over_its_frames(reference, vgg_weights, monkeypatch):
    monkeypatch.setattr(perceptual, "_BATCH_PIXELS", 800)  # two frames at once
    measure = VideoMeasure(ToyVideo().spec, EvaluateOptions("t", ("d",), lpips_weights=str(vgg_weights)))
    pairs = [
        tuple((random_pictures(*shape, seed=seed + 9 * side) * 127.5 + 127.5).to(torch.uint8) for side in (0, 1))
        for seed, shape in enumerate([(3, 3, 20, 20), (1, 3, 24, 18), (2, 3, 12, 30)])
    ]
    for video, other in pairs:
        measure.add([video], [other])
    with torch.no_grad():
        means = [float(reference(video / 127.5 - 1, other / 127.5 - 1).mean()) for video, other in pairs[:2]]
    found = measure.summary(Totals(10, 80.0, 40.0, 0.5, 0.25))
    assert found[Perceptual(vgg_weights).name] == pytest.approx(sum(means) / 2, rel=1e-5)
    assert "2 of 3 videos have the side of 16" in measure.protocol()
    assert "so this is no LPIPS" in measure.protocol()


def test_evaluate_measures_fid(palette, monkeypatch):
    monkeypatch.setattr(fid, "InceptionFeatures", Colours)
    options = EvaluateOptions(str(palette / "palette"), (str(palette / "pictures"),), fid=True)
    result = evaluate(options, Progress(False))
    assert result.metrics["rfid"] > 1
    assert "3 pictures (published figures use 50,000" in result.protocol
    assert "rfid" not in evaluate(EvaluateOptions(options.tokenizer, options.data), Progress(False)).metrics


def test_asking_for_what_is_missing_has_its_exit_code(palette, monkeypatch, capsys):
    def fail(*args, **options):
        raise OSError("offline")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(palette / "empty"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    command = ["evaluate", "--tokenizer", str(palette / "palette"), "--data", str(palette / "pictures"), "--quiet"]
    assert main(command) == 0
    assert main([*command, "--lpips"]) == 4
    assert "offline" in capsys.readouterr().err
    assert main([*command, "--fid"]) == 4
