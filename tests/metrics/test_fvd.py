"""rFVD with a toy network as TorchScript: the distance against scipy's, cutting into clips, and what it is called."""

import hashlib

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from toys.clips import ToyVideo

from tokenize_kit.metrics import fvd
from tokenize_kit.metrics.fvd import FVD_FRAMES, FrechetVideoDistance, VideoFeatures, clips_of
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.perceptual import PublishedWeights
from tokenize_kit.metrics.video_measure import VideoMeasure


class ToyNetwork(nn.Module):
    """Random projections of colours and of their changes, called as the published network is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(9, 5)

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        if rescale:
            x = 2 * x / 255 - 1
        parts = [x.mean([2, 3, 4]), x.std([2, 3, 4]), (x[:, :, 1:] - x[:, :, :-1]).abs().mean([2, 3, 4])]
        features = self.linear(torch.cat(parts, 1))
        return features if return_features else features.softmax(1)


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "toy.pt"
    torch.jit.script(ToyNetwork()).save(str(path))
    return path


def films(count, frames=FVD_FRAMES, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(0, 200, (count, 1, channels, 1, 1), generator=generator)
    noise = torch.randint(0, 55, (count, frames, channels, 8, 10), generator=generator)
    return list((base + noise).to(torch.uint8))


def test_the_distance_is_that_of_two_gaussians_of_all_clips(network):
    mine, theirs = films(12, 2 * FVD_FRAMES + 3), films(12, 2 * FVD_FRAMES + 3, seed=1)
    measure = FrechetVideoDistance(network)
    assert measure.distance() is None
    measure.add(mine[:5], theirs[:5])
    measure.add(mine[5:], theirs[5:])
    assert measure.clips == 24
    features = VideoFeatures(network)
    means, covariances = [], []
    for side in (mine, theirs):
        # Cut by hand: frames 0 to 15 and 16 to 31 of each film.
        clips = [film[start : start + 16].permute(1, 0, 2, 3) for film in side for start in (0, 16)]
        values = features(torch.stack(clips)).double().numpy()
        means.append(values.mean(0))
        covariances.append(np.cov(values, rowvar=False))
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert expected > 1e-3
    assert measure.distance() == pytest.approx(expected, rel=1e-3)


def test_equal_films_have_no_distance_and_short_ones_are_not_seen(network):
    measure = FrechetVideoDistance(network)
    short = films(3, FVD_FRAMES - 1)
    measure.add(short, short)
    assert (measure.clips, measure.distance()) == (0, None)
    measure.add(films(4), films(4))
    assert measure.distance() == pytest.approx(0, abs=1e-4)


def test_clips_follow_one_another_in_three_channels():
    (film,) = films(1, 35, channels=1)
    clips = clips_of(film)
    assert clips.shape == (2, 3, 16, 8, 10)
    assert torch.equal(clips[1, 2], film[16:32, 0])
    clear = torch.cat([film.expand(-1, 3, -1, -1), torch.zeros_like(film)], 1)
    assert torch.equal(clips_of(clear), torch.full((2, 3, 16, 8, 10), 255, dtype=torch.uint8))


def test_only_the_published_network_is_called_rfvd(network, monkeypatch):
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    assert FrechetVideoDistance(network).name == f"rfvd_like[{digest[:12]}]"
    monkeypatch.setattr(fvd, "I3D", PublishedWeights("test", "https://example.org/a.pt", digest))
    assert FrechetVideoDistance(network).name == "rfvd"


def test_evaluation_names_it_and_says_what_it_is(network):
    options = EvaluateOptions("t", ("d",), fvd_weights=str(network))
    measure = VideoMeasure(ToyVideo().spec, options)
    measure.add(films(3), films(3, seed=1))
    from tokenize_kit.metrics.measures import Totals

    found = measure.summary(Totals(10, 80.0, 40.0, 0.5, 0.25))
    (name,) = [name for name in found if "fvd" in name]
    assert name.startswith("rfvd_like[")
    assert found[name] > 0
    assert "3 clips of 16 frames" in measure.protocol()
    assert "so this is no FVD" in measure.protocol()


def test_what_is_no_such_network_is_refused(tmp_path, network):
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*missing\.pt; it is the I3D of FVD"):
        VideoFeatures(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("this is no network")
    with pytest.raises(ValueError, match="no TorchScript of a network for FVD"):
        VideoFeatures(tmp_path / "text.pt")
    torch.jit.script(nn.Linear(3, 3)).save(str(tmp_path / "linear.pt"))
    with pytest.raises(ValueError, match="no TorchScript of a network for FVD"):
        VideoFeatures(tmp_path / "linear.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="no TorchScript of a network for FVD"):
        VideoFeatures(tmp_path / "state.pt")
