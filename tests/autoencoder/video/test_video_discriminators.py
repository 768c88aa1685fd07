"""The discriminators of clips: what a logit sees in space and time, frames by themselves, and what refuses."""

import pytest
import torch

from trainers.autoencoder.patches import DiscriminatorConfig, PatchDiscriminator, discriminator_config
from trainers.autoencoder.video.discriminator import ClipDiscriminator


def build(**changes):
    torch.manual_seed(0)
    return PatchDiscriminator(DiscriminatorConfig(**{"width": 4, "layers": 2, "clips": True} | changes))


def test_time_is_halved_where_the_picture_is():
    verdict = build()(torch.zeros(2, 3, 17, 32, 32))
    assert [tuple(part.shape) for part in (*verdict.features, verdict.logits)] == [
        (2, 4, 9, 16, 16),
        (2, 8, 5, 8, 8),
        (2, 16, 5, 7, 7),
        (2, 1, 5, 6, 6),
    ]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_logit_sees_its_patch_and_some_frames_around_it(layers):
    network = build(layers=layers, norm="none").double()
    frames, size = 41, 2 * network.config.patch
    size += -size % 2**layers
    clip = torch.randn(1, 3, frames, size, size, dtype=torch.float64, requires_grad=True)
    logits = network(clip).logits
    _, _, time, row, column = (length // 2 for length in logits.shape)
    logits[0, 0, time, row, column].backward()
    reach = clip.grad.abs()
    across = reach.sum((0, 1, 2, 3)).nonzero().flatten()
    along = reach.sum((0, 1, 3, 4)).nonzero().flatten()
    assert int(across[-1] - across[0]) + 1 == network.config.patch
    # Kernels of three, the first ``layers`` of them at a stride of two, and two after them.
    seen = 1 + 2 * 2
    for _ in range(layers):
        seen = 2 * seen + 1
    assert int(along[-1] - along[0]) + 1 == seen


def test_a_picture_is_judged_as_a_clip_of_one_frame():
    network = build()
    assert network(torch.zeros(1, 3, 1, 32, 32)).logits.shape == (1, 1, 1, 6, 6)
    with pytest.raises(ValueError, match=r"takes \(B, 3, T, H, W\) with H and W of at least 12, not \(1, 3, 32, 32\)"):
        network(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="of at least 12"):
        network(torch.zeros(1, 3, 5, 32, 11))
    with pytest.raises(ValueError, match="use at least 6"):
        ClipDiscriminator("clips", 4, 3)


def test_the_judge_of_frames_sees_each_of_them_alone_and_that_of_clips_the_order():
    torch.manual_seed(0)
    both = ClipDiscriminator("both", 16, 3)
    clip = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    of_clips, of_frames = both(clip)
    judge = both.judges["frames"]
    assert of_frames.logits.shape[:2] == (2, 5)
    for frame in range(5):
        alone = judge(clip[:, :, frame])
        assert torch.allclose(of_frames.logits[:, frame], alone.logits, atol=1e-6)
        assert all(
            torch.allclose(one[:, frame], other, atol=1e-6)
            for one, other in zip(of_frames.features, alone.features, strict=True)
        )
    swapped_clips, swapped_frames = both(clip.flip(2))
    assert torch.allclose(swapped_frames.logits.flip(1), of_frames.logits, atol=1e-6)
    assert not torch.allclose(swapped_clips.logits.flip(2), of_clips.logits, atol=1e-3)


@pytest.mark.parametrize(("judges", "kinds"), [("clips", {True}), ("frames", {False}), ("both", {True, False})])
def test_there_are_the_judges_that_are_asked_for(judges, kinds):
    network = ClipDiscriminator(judges, 16, 1)
    assert {judge.config.clips for judge in network.judges.values()} == kinds
    assert len(network(torch.zeros(1, 1, 3, 16, 16))) == len(kinds)
    assert discriminator_config(16, clips=True).clips
