"""Rate and distortion of the classical codecs, and of tokenizers beside them."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tokenize_kit.metrics.image import on_white, psnr
from tokenize_kit.metrics.image_codecs import (
    ImageCodecs,
    RatePoint,
    available_codecs,
    codec_curve,
    nearest_point,
    point_of,
)
from tokenize_kit.metrics.rate import Coded, Picks, compare
from tokenize_kit.metrics.usage import UsageCounter
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import Tokenizer, TokenSpec
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer

ALL = available_codecs()
CODECS = ImageCodecs(TokenSpec("image", 2, ("height", "width"), (1, 1), lossless=False))


def test_pillow_brings_these_codecs():
    assert {"jpeg", "webp", "avif"} <= set(ALL)


def test_jpeg_is_measured_as_plain_pillow_does_it(make_picture):
    pictures = [make_picture(3, 40, 24), make_picture(3, 17, 30, seed=1)]
    sizes, values = [], []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=40, optimize=True)
        sizes.append(len(file.getvalue()))
        decoded = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        values.append(psnr(picture, decoded))
    (point,) = codec_curve(pictures, "jpeg", [40])
    assert (point.name, point.quality, point.pictures, point.exact) == ("jpeg", 40, 2, 0)
    assert point.bytes == sum(sizes) / 2
    assert point.psnr == pytest.approx(sum(values) / 2)
    assert point.bits_per_pixel == pytest.approx(8 * sum(sizes) / (40 * 24 + 17 * 30))


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_higher_quality_costs_more_and_is_nearer(make_picture, codec, channels):
    low, high = codec_curve([make_picture(channels, 40, 40)], codec, [10, 90])
    assert low.bytes < high.bytes
    assert low.psnr + 1 < high.psnr


def test_transparency_is_compared_on_white():
    picture = torch.zeros(4, 16, 16, dtype=torch.uint8)
    assert on_white(picture).unique().tolist() == [255]
    picture[3, 8:] = 255
    for codec in ALL:
        (point,) = codec_curve([picture], codec, [95])
        assert point.psnr is None or point.psnr > 25
    half = torch.tensor([10, 20, 30, 128], dtype=torch.uint8).reshape(4, 1, 1)
    assert on_white(half).flatten().tolist() == [round((value * 128 + 255 * 127) / 255) for value in (10, 20, 30)]


@pytest.mark.parametrize("known", [[], [1, 30, 60, 95]])
def test_the_nearest_point_is_that_of_a_full_sweep(make_picture, known):
    pictures = [make_picture(3, 32, 32), make_picture(3, 24, 40, seed=1)]
    sweep = codec_curve(pictures, "jpeg", range(1, 96))
    curve = [sweep[quality - 1] for quality in known]
    for size in (1, sweep[19].bytes + 1, sweep[70].bytes, 1e6):
        found = nearest_point(pictures, "jpeg", size, curve)
        assert abs(found.bytes - size) == min(abs(point.bytes - size) for point in sweep)


def test_wrong_requests_are_refused(make_picture):
    with pytest.raises(ValueError, match="'gif' is not one of jpeg"):
        codec_curve([make_picture()], "gif", [50])
    with pytest.raises(ValueError, match="quality 0 is outside 1 to 100"):
        codec_curve([make_picture()], "jpeg", [0])
    with pytest.raises(ValueError, match="no pictures"):
        codec_curve([], "jpeg", [50])


def test_exact_pictures_are_counted_apart(make_picture):
    a, b = make_picture(3, 8, 8), make_picture(3, 8, 8, seed=1)
    point = point_of("x", [(a, a), (a, b)], 100)
    assert (point.exact, point.bytes, point.psnr) == (1, 50, pytest.approx(psnr(a, b)))
    assert point_of("x", [(a, a)], 10).psnr is None


class Planes(Tokenizer):
    """Grey pictures as two codebooks: the high and the low four bits; the first alone is a coarse picture."""

    spec = TokenSpec("image", (16, 16), ("height", "width", "codebook"), (1, 1, None), lossless=True, channels=1)
    fingerprint = "0" * 64

    def encode(self, sample):
        return torch.stack([sample[0] >> 4, sample[0] & 15], -1).long()

    def decode(self, ids):
        low = ids[..., 1] if ids.shape[-1] == 2 else torch.full(ids.shape[:-1], 8)
        return (ids[..., 0] * 16 + low).to(torch.uint8)[None]


def test_one_point_for_each_number_of_codebooks(make_picture, monkeypatch):
    monkeypatch.setattr("tokenize_kit.metrics.image_codecs.available_codecs", lambda: ("jpeg",))
    tokenizer, usage = Planes(), UsageCounter(Planes.spec)
    pictures = [make_picture(1, 16, 16, seed=seed) for seed in range(3)]
    items = [Coded(picture, tokenizer.encode(picture)) for picture in pictures]
    for item in items:
        usage.update(item.ids)
    books = usage.summaries()
    result = compare(ImageCodecs(tokenizer.spec), tokenizer, items, books, Progress(False))
    assert [point.name for point in result.fixed_rate] == [
        "tokens, 1 codebook, fixed length",
        "tokens, 2 codebooks, fixed length",
    ]
    assert [point.bytes for point in result.fixed_rate] == [16 * 16 * 4 / 8, 16 * 16]
    assert [point.bytes for point in result.entropy_coded] == [
        pytest.approx(32 * books[0].entropy_bits),
        pytest.approx(32 * (books[0].entropy_bits + books[1].entropy_bits)),
    ]
    assert result.fixed_rate[1].psnr is None
    coarse = [psnr(picture, tokenizer.decode(tokenizer.encode(picture)[..., :1])) for picture in pictures]
    assert result.fixed_rate[0].psnr == result.entropy_coded[0].psnr == pytest.approx(sum(coarse) / 3)
    assert [pair.ours for pair in result.nearest] == [*result.fixed_rate, *result.entropy_coded]
    for pair in result.nearest:
        near = abs(pair.codec.bytes - pair.ours.bytes)
        assert near == min(abs(point.bytes - pair.ours.bytes) for point in result.codecs["jpeg"])
    qualities = [point.quality for point in result.codecs["jpeg"]]
    assert qualities == sorted(set(qualities))


def test_a_single_codebook_is_one_point(make_picture, monkeypatch):
    monkeypatch.setattr("tokenize_kit.metrics.image_codecs.available_codecs", lambda: ())
    tokenizer = PaletteTokenizer(torch.randint(0, 256, (8, 3)))
    picture = make_picture(3, 10, 12)
    usage = UsageCounter(tokenizer.spec)
    usage.update(tokenizer.encode(picture))
    result = compare(
        ImageCodecs(tokenizer.spec),
        tokenizer,
        [Coded(picture, tokenizer.encode(picture))],
        usage.summaries(),
        Progress(False),
    )
    assert [(point.name, point.bytes) for point in result.fixed_rate] == [("tokens, fixed length", 120 * 3 / 8)]
    assert result.fixed_rate[0].psnr == pytest.approx(psnr(picture, tokenizer.decode(tokenizer.encode(picture))))


def test_the_first_pictures_are_kept_within_the_bounds(make_picture, monkeypatch):
    ids = torch.zeros(1, 1)
    picks = Picks(2, CODECS)
    for seed in range(4):
        picks.offer(make_picture(1, 4, 4, seed=seed), ids)
    assert len(picks.items) == 2
    monkeypatch.setattr("tokenize_kit.metrics.image_codecs.MAX_PIXELS", 40)
    picks = Picks(9, CODECS)
    for side in (5, 6, 2):  # the second does not fit, so nothing after it is taken
        picks.offer(make_picture(1, side, side), ids)
    assert [item.sample.shape[-1] for item in picks.items] == [5]
    picks = Picks(9, CODECS)
    picks.offer(make_picture(1, 50, 50), ids)  # one picture in any case
    assert len(picks.items) == 1


def test_points_hold_nothing_that_json_cannot(make_picture):
    point = point_of("x", [(make_picture(), make_picture())], 10)
    assert point == RatePoint("x", None, 10.0, pytest.approx(80 / 480), None, 1, 1)
    assert not math.isinf(point.bytes)
