"""The measures of videos against plain references: loops over frames and pixels, and torchmetrics."""

import itertools
import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from toys.clips import ToyVideo, moving_square

from tokenize_kit.metrics import video as functions
from tokenize_kit.metrics.measures import Totals
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.video import behind_borders, changes, frame_errors, video_ssim
from tokenize_kit.metrics.video_measure import Seams, VideoMeasure
from tokenize_kit.tokenizers.video.frames import FramesTokenizer

TOTALS = Totals(tokens=10, fixed_bits=80.0, entropy_bits=40.0, encoding=0.5, decoding=0.25)
OPTIONS = EvaluateOptions("t", ("d",))


def noisy(video, seed=0, spread=12):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(-spread, spread + 1, video.shape, generator=generator)
    return (video.int() + noise).clamp(0, 255).to(torch.uint8)


def plain_flicker(pairs, levels=2):
    """The formula of the docstring, value by value: power and number of the still values, power of the error there."""
    power = still = error = values = 0
    for original, other in pairs:
        x, y = original.numpy().astype(int), other.numpy().astype(int)
        for t in range(1, len(x)):
            for row, column in itertools.product(range(x.shape[2]), range(x.shape[3])):
                values += x.shape[1]
                if max(abs(x[t, :, row, column] - x[t - 1, :, row, column])) > levels:
                    continue
                for channel in range(x.shape[1]):
                    now = y[t, channel, row, column] - x[t, channel, row, column]
                    before = y[t - 1, channel, row, column] - x[t - 1, channel, row, column]
                    power += (now - before) ** 2
                    error += now**2 + before**2
                    still += 1
    return math.sqrt(power / still), power / error, still / values


def summary(pairs, spec=None):
    measure = VideoMeasure(spec or ToyVideo().spec, OPTIONS)
    for pair in pairs:
        measure.add([pair[0]], [pair[1]])
    return measure.summary(TOTALS), measure


def test_numbers_are_those_of_plain_references():
    pairs = [
        (video, noisy(video, seed)) for seed, video in enumerate([moving_square(6, 16, 20), moving_square(3, 24, 16)])
    ]
    found, _ = summary(pairs)

    def of(first, second):
        return float(peak_signal_noise_ratio(second.double(), first.double(), data_range=255.0))

    assert found["psnr"] == pytest.approx(np.mean([of(*pair) for pair in pairs]), abs=1e-5)
    errors = [((a.double() - b.double()) ** 2).flatten() for a, b in pairs]
    assert found["psnr_of_all_pixels"] == pytest.approx(10 * math.log10(255**2 / float(torch.cat(errors).mean())))
    assert found["psnr_of_first_frames"] == pytest.approx(np.mean([of(a[0], b[0]) for a, b in pairs]), abs=1e-5)
    assert found["psnr_of_last_frames"] == pytest.approx(np.mean([of(a[-1], b[-1]) for a, b in pairs]), abs=1e-5)
    steps = [(a.double().diff(dim=0), b.double().diff(dim=0)) for a, b in pairs]
    assert found["psnr_of_differences"] == pytest.approx(np.mean([of(*pair) for pair in steps]), abs=1e-5)
    similar = [
        np.mean(
            [
                float(structural_similarity_index_measure(y[None].double(), x[None].double(), data_range=255.0))
                for x, y in zip(a, b, strict=True)
            ]
        )
        for a, b in pairs
    ]
    assert found["ssim"] == pytest.approx(np.mean(similar), abs=1e-5)
    flicker, share, still = plain_flicker(pairs)
    assert 0.5 < still < 1
    assert (found["flicker"], found["flicker_share"], found["still_share"]) == pytest.approx((flicker, share, still))
    assert share == pytest.approx(1, abs=0.1)  # the error is drawn anew for each frame
    assert (found["frames"], found["exact_samples"]) == (9, 0)


def test_memory_is_bounded_by_parts_that_change_nothing(monkeypatch):
    video = moving_square(11, 16, 20)
    other = noisy(video)
    before = frame_errors(video, other), changes(video, other), video_ssim(video, other)
    monkeypatch.setattr(functions, "_CHUNK_VALUES", 2 * video[0].numel())
    assert torch.equal(frame_errors(video, other), before[0])
    assert all(map(torch.equal, changes(video, other), before[1]))
    assert video_ssim(video, other) == pytest.approx(before[2], abs=1e-12)
    assert [len(part) for part in before[1]] == [10] * 4


def test_an_error_that_stands_still_does_not_flicker_and_one_that_alternates_does():
    video = torch.full((8, 3, 8, 8), 100, dtype=torch.uint8)
    bias = video + 5
    found, _ = summary([(video, bias)])
    assert (found["flicker"], found["flicker_share"], found["psnr_of_differences"]) == (0, 0, None)
    alternating = video.clone()
    alternating[::2] += 5
    alternating[1::2] -= 5
    found, _ = summary([(video, alternating)])
    assert (found["flicker"], found["flicker_share"]) == (10, 2)
    # Where everything moves there is nothing to say.
    moving = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 8, 8) * 10
    found, _ = summary([(moving, moving + 1)])
    assert (found["flicker"], found["flicker_share"], found["still_share"]) == (None, None, 0)
    # One channel that changes moves the pixel, by more than two levels.
    for levels, share in ((2, 1), (3, 0)):
        one = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        one[1, 1] = levels
        assert summary([(one, one + 1)])[0]["still_share"] == share


def test_a_picture_is_a_video_of_one_frame():
    video = moving_square(1, 16, 16)
    found, measure = summary([(video, noisy(video))])
    assert found["psnr"] == found["psnr_of_first_frames"] == found["psnr_of_last_frames"]
    for name in (
        "psnr_of_differences",
        "flicker",
        "flicker_share",
        "still_share",
        "seam_error_ratio",
        "seam_change_ratio",
    ):
        assert found[name] is None
    assert found["frames"] == 1
    assert "mean over the 0 videos of two frames" in measure.protocol()


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_seams_compare_the_frames_behind_the_borders_with_the_others(factor):
    frames = 1 + 3 * factor
    behind = [t for t in range(1, frames) if (t - 1) % factor == 0]
    assert behind_borders(frames, factor).nonzero().flatten().tolist() == behind
    video = torch.full((frames, 3, 8, 8), 100, dtype=torch.uint8)
    other = video + 2
    other[behind] += 4  # an error of 6 instead of 2
    other[0] += 90
    seams = Seams(factor)
    seams.add(frame_errors(video, other), changes(video, other).power, 3 * 8 * 8)
    found = seams.summary()
    assert found["seam_error_ratio"] == pytest.approx(36 / 4)
    changed = [int(other[t, 0, 0, 0]) - int(other[t - 1, 0, 0, 0]) for t in range(1, frames)]
    inside = [change**2 for t, change in enumerate(changed, 1) if t not in behind]
    borders = [change**2 for t, change in enumerate(changed, 1) if t in behind]
    assert found["seam_change_ratio"] == pytest.approx(np.mean(borders) / np.mean(inside))


def test_the_measure_knows_the_frames_of_a_step_from_the_spec():
    video = torch.full((9, 3, 8, 8), 100, dtype=torch.uint8)
    other = video + 1
    other[[1, 5]] += 1
    assert summary([(video, other)])[0]["seam_error_ratio"] == pytest.approx(4)
    assert summary([(video, other)], FramesTokenizer().spec)[0]["seam_error_ratio"] is None


def test_rates_count_pixels_of_all_frames_and_seconds_at_the_frame_rate():
    video = moving_square(9, 16, 16)
    found, _ = summary([(video, noisy(video)), (video[:3], noisy(video[:3]))])
    assert (found["frames"], found["seconds"]) == (12, 1)
    assert found["bits_per_pixel"] == 80 / (12 * 256)
    assert found["entropy_bits_per_pixel"] == 40 / (12 * 256)
    assert (found["kilobits_per_second"], found["entropy_kilobits_per_second"]) == (0.08, 0.04)
    assert (found["encode_frames_per_second"], found["decode_frames_per_second"]) == (24, 48)
    assert found["pixels_per_token"] == 12 * 256 / 10


def test_exact_videos_are_counted_and_not_averaged():
    video = moving_square(5, 16, 16)
    other = noisy(video)
    measure = VideoMeasure(ToyVideo().spec, OPTIONS)
    judged = measure.add([video, video], [video, other])
    assert judged[0] == ("exact", 0.0)
    assert judged[1].note.endswith("dB")
    found = measure.summary(TOTALS)
    assert found["exact_samples"] == 1
    assert found["psnr"] == pytest.approx(summary([(video, other)])[0]["psnr"])


def test_transparent_videos_are_measured_on_white_too():
    video = moving_square(3, 16, 16, channels=4)
    video[:, 3] = 0
    other = video.clone()
    other[:, :3] = 0
    found, measure = summary([(video, other)])
    assert found["psnr"] < 10
    assert found["psnr_on_white"] is None
    assert "psnr_on_white, LPIPS and rFVD see the frames composited on white" in measure.protocol()


def test_what_cannot_be_compared_is_refused():
    video = moving_square(3, 16, 16)
    with pytest.raises(ValueError, match="round them to uint8"):
        frame_errors(video, video.float())
    with pytest.raises(ValueError, match="cannot be compared; both are"):
        changes(video, video[:2])
    with pytest.raises(ValueError, match="cannot be compared; both are"):
        video_ssim(video[0], video[0])


def test_only_videos_take_the_weights_of_fvd(tmp_path):
    from tokenize_kit.metrics.measures import measure_of
    from tokenize_kit.tokenizers.image.pixels import PixelTokenizer

    options = EvaluateOptions("t", ("d",), fvd_weights=str(tmp_path / "none.pt"))
    with pytest.raises(ValueError, match="FVD measures videos, but the tokenizer reads image"):
        measure_of(PixelTokenizer().spec, options)
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*none\.pt; it is the I3D of FVD"):
        VideoMeasure(ToyVideo().spec, options)
