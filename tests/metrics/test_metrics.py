"""Measures against torchmetrics and against numbers worked out by hand, and the evaluation of whole sets."""

import json
import math
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from tokenize_kit.cli.evaluate import evaluate_command
from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.image import MS_SSIM_MIN_SIDE, ms_ssim, on_white, psnr, psnr_of, squared_error, ssim
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.usage import UsageCounter
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sources.heldout import held_out
from tokenize_kit.tokenizers.image.pixels import PaletteTokenizer, PixelTokenizer
from tokenize_kit.tokenizers.text.bpe import BPETokenizer

CODES = TokenSpec("image", 4, ("height", "width"), (1, 1), lossless=False, channels=3)


def noisy(picture, strength=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.rand(picture.shape, generator=generator) - 0.5) * 2 * strength
    return (picture + noise).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("size", [(6, 6), (11, 40), (48, 33)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_psnr_and_ssim_are_those_of_torchmetrics(make_picture, size, channels):
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    picture = make_picture(channels, *size)
    for strength in (1, 20, 120):
        other = noisy(picture, strength)
        a, b = picture[None].double(), other[None].double()
        # torchmetrics takes its logarithms in float32.
        assert psnr(picture, other) == pytest.approx(float(peak_signal_noise_ratio(a, b, data_range=255.0)), abs=1e-4)
        reference = float(structural_similarity_index_measure(a, b, data_range=255.0))
        assert ssim(picture, other) == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("size", [(176, 176), (181, 230)])
def test_ms_ssim_is_that_of_torchmetrics(make_picture, size):
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    picture = make_picture(3, *size)
    for strength in (10, 120):
        other = noisy(picture, strength)
        a, b = picture[None].double(), other[None].double()
        reference = float(multiscale_structural_similarity_index_measure(a, b, data_range=255.0, normalize="relu"))
        assert ms_ssim(picture, other) == pytest.approx(reference, abs=1e-6)
    assert ms_ssim(picture, picture) == pytest.approx(1.0)
    small = picture[:, : MS_SSIM_MIN_SIDE - 1]
    with pytest.raises(ValueError, match="smaller than the 176 that MS-SSIM needs"):
        ms_ssim(small, small)


def test_large_pictures_are_measured_in_strips(make_picture, monkeypatch):
    picture = make_picture(3, 190, 180)
    whole = ssim(picture, noisy(picture)), ms_ssim(picture, noisy(picture))
    monkeypatch.setattr("tokenize_kit.metrics.image._STRIP_VALUES", 3 * 180 * 7)
    assert (ssim(picture, noisy(picture)), ms_ssim(picture, noisy(picture))) == pytest.approx(whole, abs=1e-12)


def test_equal_and_opposite_pictures(make_picture):
    picture = make_picture(3, 16, 16)
    assert psnr(picture, picture) == math.inf
    assert ssim(picture, picture) == pytest.approx(1.0, abs=1e-12)
    black, white = torch.zeros(1, 16, 16, dtype=torch.uint8), torch.full((1, 16, 16), 255, dtype=torch.uint8)
    assert psnr(black, white) == 0.0
    assert ssim(black, white) < 0.001
    # One value of 192 is off by 4: mean squared error 16/192.
    other = picture.clone()[:, :8, :8]
    other[0, 0, 0] ^= 4
    assert psnr(picture[:, :8, :8], other) == pytest.approx(10 * math.log10(255**2 * 192 / 16))


def test_values_that_were_not_rounded_are_refused(make_picture):
    picture = make_picture(3)
    with pytest.raises(ValueError, match="round them to uint8"):
        squared_error(picture, picture.float() + 0.4)
    with pytest.raises(ValueError, match="shapes"):
        squared_error(picture, picture[:, 1:])
    with pytest.raises(ValueError, match="smaller than the 6 that SSIM needs"):
        ssim(picture[:, :5], picture[:, :5])


def test_usage_is_counted_over_the_whole_set():
    counter = UsageCounter(CODES)
    for ids in ([[0, 0]], [[1, 1]], [[0, 0]], [[1, 1]]):
        counter.update(torch.tensor(ids))
    (summary,) = counter.summaries()
    # Each grid alone has perplexity 1; all together have 2.
    assert (summary.tokens, summary.used, summary.usage) == (8, 2, 0.5)
    assert summary.entropy_bits == pytest.approx(1.0)
    assert summary.perplexity == pytest.approx(2.0)
    assert counter.counts().tolist() == [4, 4, 0, 0]
    with pytest.raises(ValueError, match="no ids were counted"):
        UsageCounter(CODES).summaries()


def test_uneven_usage():
    counter = UsageCounter(CODES)
    counter.update(torch.tensor([[0, 0, 0, 1]]))
    (summary,) = counter.summaries()
    assert summary.entropy_bits == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2)


def test_each_codebook_has_its_own_usage():
    spec = TokenSpec("audio", (4, 2), ("time", "codebook"), (320, 1), lossless=False, channels=1, sample_rate=16_000)
    counter = UsageCounter(spec)
    counter.update(torch.tensor([[0, 1], [3, 1], [2, 1], [1, 1]]))
    counter.update(torch.tensor([[3]]))  # a grid of the first codebook only
    first, second = counter.summaries()
    assert (first.tokens, first.used, second.tokens, second.used) == (5, 4, 4, 1)
    assert second.perplexity == 1.0
    shared = UsageCounter(TokenSpec("audio", 4, ("time", "codebook"), (320, 1), lossless=False, channels=1))
    shared.update(torch.tensor([[0, 1], [3, 1]]))
    assert shared.counts().tolist() == [1, 2, 0, 1]


# -- evaluation -------------------------------------------------------------------------------------------------------


def run(tokenizer, tmp_path, data, **options):
    tokenizer.save(tmp_path / "tokenizer")
    values = EvaluateOptions(tokenizer=str(tmp_path / "tokenizer"), data=tuple(map(str, data)), **options)
    return evaluate(values, Progress(False))


@pytest.fixture
def pictures(tmp_path, make_picture):
    """Pictures of very different sizes, so that a mean over batches would differ from one over the set."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    made = [make_picture(3, 12 + 9 * n, 11 + 5 * n, seed=n) for n in range(9)] + [make_picture(3, 5, 5, seed=99)]
    for number, picture in enumerate(made):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    return folder, made


def test_pictures_with_a_palette(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr("tokenize_kit.metrics.evaluate._BATCH_SAMPLES", 4)  # batches of 4, 4 and 2
    folder, made = pictures
    colors = torch.randint(0, 256, (16, 3), generator=torch.Generator().manual_seed(0))
    tokenizer = PaletteTokenizer(colors)
    result = run(tokenizer, tmp_path, [folder], examples=3)
    ids = [tokenizer.encode(picture) for picture in made]
    decoded = [tokenizer.decode(grid) for grid in ids]
    numbers = result.metrics
    pairs = list(zip(made, decoded, strict=True))
    assert numbers["psnr"] == pytest.approx(np.mean([psnr(a, b) for a, b in pairs]))
    assert numbers["ssim"] == pytest.approx(np.mean([ssim(a, b) for a, b in pairs[:-1]]))  # the last is too small
    values = torch.cat([(a.double() - b.double()).flatten() for a, b in pairs])
    assert numbers["psnr_of_all_pixels"] == pytest.approx(psnr_of(float(values.square().mean())))
    pixels = sum(picture[0].numel() for picture in made)
    assert (numbers["pixels"], numbers["tokens"], numbers["bits_per_pixel"]) == (pixels, pixels, 4.0)
    shares = torch.bincount(torch.cat([grid.flatten() for grid in ids]), minlength=16).double() / pixels
    entropy = -float((shares[shares > 0] * shares[shares > 0].log2()).sum())
    assert numbers["entropy_bits_per_token"] == pytest.approx(entropy)
    assert numbers["entropy_bits_per_pixel"] == pytest.approx(entropy)
    assert numbers["perplexity"] == pytest.approx(2**entropy)
    assert numbers["vocabulary_used"] == int((shares > 0).sum())
    assert numbers["dead_codes"] == 16 - numbers["vocabulary_used"]
    (counts,) = result.usage_counts
    assert sum(counts) == pixels
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == numbers["vocabulary_used"]
    (book,) = result.codebooks
    assert (book.vocab_size, book.tokens, book.dead) == (16, pixels, numbers["dead_codes"])
    assert min(numbers["encode_megapixels_per_second"], numbers["decode_megapixels_per_second"]) > 0
    assert [example.key for example in result.examples] == ["00.png", "01.png", "02.png"]
    assert torch.equal(result.examples[1].sample, made[1])
    assert torch.equal(result.examples[1].reconstruction, decoded[1])
    assert result.examples[1].tokens is None
    json.dumps(result.to_dict(), allow_nan=False)
    assert "examples" not in result.to_dict()
    assert "psnr of all pixels" in result.to_text()


def test_lossless_pictures_have_no_psnr_but_are_counted(tmp_path, pictures):
    result = run(PixelTokenizer(3), tmp_path, [pictures[0]])
    assert result.metrics["exact_samples"] == result.samples == 10
    assert result.metrics["psnr"] is None
    assert result.metrics["psnr_of_all_pixels"] is None
    assert result.metrics["bits_per_pixel"] == 24
    assert result.metrics["ssim"] == pytest.approx(1.0)
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_worst_are_those_of_the_whole_set(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr("tokenize_kit.metrics.evaluate._BATCH_SAMPLES", 4)
    folder, made = pictures
    tokenizer = PaletteTokenizer(torch.tensor([[90, 90, 90], [30, 40, 50]]))
    result = run(tokenizer, tmp_path, [folder], examples=3)
    losses = [-psnr(picture, tokenizer.decode(tokenizer.encode(picture))) for picture in made]
    expected = np.argsort(losses)[::-1][:3]
    assert [example.key for example in result.worst] == [f"{number:02}.png" for number in expected]
    assert result.worst[0].note == f"{-losses[expected[0]]:.2f} dB"
    assert torch.equal(result.worst[0].sample, made[expected[0]])
    assert result.to_dict()["worst"][0] == {"key": f"{expected[0]:02}.png", "note": result.worst[0].note}
    limited = run(tokenizer, tmp_path, [folder], examples=3, limit=5)
    assert [example.key for example in limited.examples] == [example.key for example in result.examples]
    nothing = run(tokenizer, tmp_path, [folder], examples=0)
    assert (nothing.examples, nothing.worst) == ([], [])


def test_pictures_are_not_kept(tmp_path, make_picture, monkeypatch):
    monkeypatch.setattr("tokenize_kit.metrics.evaluate._BATCH_SAMPLES", 5)
    for number in range(60):
        Image.fromarray(make_picture(1, 8, 8, seed=number)[0].numpy()).save(tmp_path / f"{number:02}.png")
    alive: set[int] = set()
    most = 0
    encode = PaletteTokenizer.encode

    def watched(self, samples):
        nonlocal most
        for sample in samples:
            alive.add(id(sample))
            weakref.finalize(sample, alive.discard, id(sample))
        most = max(most, len(alive))
        return [encode(self, sample) for sample in samples]

    monkeypatch.setattr(PaletteTokenizer, "encode_batch", watched)
    result = run(PaletteTokenizer(torch.tensor([[90, 90, 90], [30, 40, 50]])), tmp_path, [tmp_path], examples=2)
    assert result.samples == 60
    assert most <= 15  # three batches: the one before, the one that is read, the one that is encoded


def test_large_examples_are_kept_small(tmp_path, make_picture):
    Image.fromarray(make_picture(1, 520, 1040)[0].numpy()).save(tmp_path / "a.png")
    result = run(PaletteTokenizer(torch.tensor([[90, 90, 90], [30, 40, 50]])), tmp_path, [tmp_path / "a.png"])
    example = result.examples[0]
    assert tuple(example.sample.shape) == tuple(example.reconstruction.shape) == (3, 512, 1024)
    assert (example.ids, example.tokens) == ([], None)


def test_transparent_pictures_are_measured_as_stored_and_on_white(tmp_path, make_picture, monkeypatch):
    picture, other = make_picture(4, 16, 16), make_picture(4, 16, 16, seed=1)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    monkeypatch.setattr(PixelTokenizer, "decode_batch", lambda self, grids: [other for _ in grids])
    result = run(PixelTokenizer(4), tmp_path, [tmp_path / "a.png"])
    assert result.metrics["psnr"] == pytest.approx(psnr(picture, other))
    assert result.metrics["psnr_on_white"] == pytest.approx(psnr(on_white(picture), on_white(other)))
    assert "RGBA is measured in all four channels" in result.protocol


def test_only_the_part_that_is_asked_for(tmp_path, pictures):
    folder, _ = pictures
    keys = [f"{number:02}.png" for number in range(10)]
    expected = {"held-out": [key for key in keys if held_out(key, 0.4)], "all": keys}
    expected["train"] = [key for key in keys if key not in expected["held-out"]]
    assert 1 < len(expected["held-out"]) < 9
    for part, wanted in expected.items():
        result = run(PixelTokenizer(3), tmp_path, [folder], part=part, validation_fraction=0.4, examples=20)
        assert [example.key for example in result.examples] == wanted
    assert result.part == "train, validation fraction 0.4"
    with pytest.raises(ValueError, match="no sample of the held-out part"):
        run(PixelTokenizer(3), tmp_path, [folder], part="held-out", validation_fraction=0.0)


def test_the_speed_of_each_size(tmp_path, make_picture):
    for number, size in enumerate([(8, 9), (5, 5), (8, 9), (8, 9), (5, 5), (20, 20)]):
        Image.fromarray(make_picture(3, *size, seed=number).permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    result = run(PixelTokenizer(3), tmp_path, [tmp_path / "*.png"])
    rows = [(row.height, row.width, row.pictures) for row in result.speed_by_size]
    assert rows == [(8, 9, 3), (5, 5, 2), (20, 20, 1)]
    first = result.speed_by_size[0]
    assert first.encode_megapixels_per_second == pytest.approx(72e-6 / (first.encode_milliseconds / 1000))
    seconds = sum(row.pictures * row.decode_milliseconds / 1000 for row in result.speed_by_size)
    assert result.metrics["decode_megapixels_per_second"] == pytest.approx((3 * 72 + 2 * 25 + 400) / 1e6 / seconds)


def test_codecs_are_compared_on_the_first_pictures(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr("tokenize_kit.metrics.image_codecs.available_codecs", lambda: ("jpeg",))
    tokenizer = PaletteTokenizer(torch.tensor([[90, 90, 90], [30, 40, 50]]))
    tokenizer.save(tmp_path / "tokenizer")
    options = EvaluateOptions(str(tmp_path / "tokenizer"), (str(pictures[0]),), codec_pictures=3)
    assert evaluate(options, Progress(False)).rate is None
    rate = evaluate(options, Progress(False), codecs=True).rate
    assert (rate.to_dict()["pictures"], list(rate.codecs)) == (3, ["jpeg"])
    pixels = sum(picture[0].numel() for picture in pictures[1][:3])
    assert rate.fixed_rate[0].bytes == pytest.approx(pixels / 8 / 3)
    assert rate.fixed_rate[0].psnr == pytest.approx(
        np.mean([psnr(picture, tokenizer.decode(tokenizer.encode(picture))) for picture in pictures[1][:3]])
    )
    json.dumps(rate.to_dict(), allow_nan=False)


def test_a_learned_tokenizer_with_codebooks_and_pictures_of_any_size(tmp_path, pictures, monkeypatch):
    from tokenize_kit.tokenizers.learned.image.config import AutoencoderConfig, NetworkConfig
    from tokenize_kit.tokenizers.learned.image.model import Autoencoder
    from tokenize_kit.tokenizers.learned.image.tokenizer import AutoencoderTokenizer
    from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig

    monkeypatch.setattr("tokenize_kit.metrics.image_codecs.available_codecs", lambda: ("jpeg",))
    torch.manual_seed(0)
    network = NetworkConfig(
        width=8, multipliers=(1, 1), encoder_blocks=(0, 0), decoder_blocks=(0, 0), latent_channels=8
    )
    quantizer = QuantizerConfig(kind="rvq", codebook_size=16, codebooks=3, kmeans_init=False)
    AutoencoderTokenizer(Autoencoder(AutoencoderConfig(network, quantizer)).eval()).save(tmp_path / "tokenizer")
    options = EvaluateOptions(str(tmp_path / "tokenizer"), (str(pictures[0]),), codec_pictures=4)
    result = evaluate(options, Progress(False), codecs=True)
    factor = network.downsample_factor
    cells = [-(-picture.shape[1] // factor) * -(-picture.shape[2] // factor) for picture in pictures[1]]
    assert (result.samples, result.failures, result.metrics["tokens"]) == (10, 0, 3 * sum(cells))
    assert len(result.codebooks) == len(result.usage_counts) == 3
    assert result.metrics["dead_codes"] == 48 - result.metrics["vocabulary_used"]
    assert [point.bytes for point in result.rate.fixed_rate] == [
        pytest.approx(count * 4 * sum(cells[:4]) / 8 / 4) for count in (1, 2, 3)
    ]
    assert all(example.sample.shape == example.reconstruction.shape for example in result.examples)


def test_the_command_writes_report_and_numbers(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr("tokenize_kit.metrics.image_codecs.available_codecs", lambda: ("jpeg",))
    PaletteTokenizer(torch.tensor([[90, 90, 90], [30, 40, 50]])).save(tmp_path / "tokenizer")
    values = {"tokenizer": str(tmp_path / "tokenizer"), "data": (str(pictures[0]),), "examples": 4}
    result = evaluate_command(EvaluateOptions(**values, out=str(tmp_path / "out"), codec_pictures=2), Progress(False))
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written["metrics"] == result.metrics
    assert written["rate"]["codecs"]["jpeg"][0]["quality"] == 1
    assert written["codebooks"][0]["dead"] == 0
    assert len(written["speed_by_size"]) == 10
    assert len(written["worst"]) == 4
    assert written["options"]["codec_pictures"] == 2
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("<figure") == 8
    assert html.count("<svg") == 2
    for heading in ("The worst of all", "Rate and distortion", "Use of the vocabulary", "Speed by size"):
        assert heading in html
    evaluate_command(EvaluateOptions(**values, out=str(tmp_path / "plain"), codecs=False), Progress(False))
    assert "Rate and distortion" not in (tmp_path / "plain" / "report.html").read_text()
    assert json.loads((tmp_path / "plain" / "evaluation.json").read_text())["rate"] is None


def test_limit_image_size_and_grey(tmp_path, pictures):
    result = run(PixelTokenizer(1), tmp_path, [pictures[0]], limit=4, image_size=5)
    assert (result.samples, result.metrics["pixels"], result.metrics["ssim"]) == (4, 4 * 25, None)
    assert "scaled and cropped to 5 pixels" in result.protocol


def test_padded_pictures_are_measured(tmp_path):
    Image.new("L", (20, 10)).save(tmp_path / "wide.png")
    palette = PaletteTokenizer([[0, 0, 0]])
    cropped = run(palette, tmp_path, [tmp_path / "wide.png"], image_size=10)
    padded = run(palette, tmp_path, [tmp_path / "wide.png"], image_size=10, pad=True)
    assert cropped.metrics["psnr"] is None  # nothing is lost
    # Half of the square is white, and comes back black.
    assert padded.metrics["psnr"] == pytest.approx(10 * math.log10(2), abs=0.01)
    assert "scaled and padded to 10 pixels" in padded.protocol


@pytest.fixture
def bytes_tokenizer(tmp_path):
    """BPE without a single merge that applies to our texts: one token a byte."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["zq zq zq"], vocab_size=258, show_progress=False)
    trained.save(str(tmp_path / "bytes.json"))
    return BPETokenizer.from_tokenizer_json(tmp_path / "bytes.json")


def test_text(tmp_path, bytes_tokenizer):
    texts = ["two words", "ü", "", "drei kurze Wörter\n"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    result = run(bytes_tokenizer, tmp_path, [tmp_path / "a.jsonl"], field="body", examples=2)
    numbers = result.metrics
    size, characters = len("".join(texts).encode()), len("".join(texts))
    assert numbers["exact_samples"] == result.samples == 4
    assert (numbers["bytes"], numbers["tokens"], numbers["bytes_per_token"]) == (size, size, 1.0)
    assert numbers["characters_per_token"] == pytest.approx(characters / size)
    assert numbers["tokens_per_word"] == pytest.approx(size / 6)
    assert numbers["bits_per_byte"] == pytest.approx(math.log2(bytes_tokenizer.spec.vocab_size))
    assert result.examples[0].sample == result.examples[0].reconstruction == texts[0]
    assert b"".join(result.examples[0].tokens) == texts[0].encode()
    assert len(result.examples[0].ids) == len(result.examples[0].tokens)


def test_long_texts_are_shown_in_part(tmp_path, bytes_tokenizer, udhr_txt):
    result = run(bytes_tokenizer, tmp_path, [udhr_txt])
    assert (result.samples, result.metrics["exact_samples"]) == (1, 1)
    assert result.metrics["bytes"] == udhr_txt.stat().st_size
    assert len(result.examples[0].sample) == 1000
    split = run(bytes_tokenizer, tmp_path, [udhr_txt], split="paragraphs", limit=50)
    assert (split.samples, split.metrics["exact_samples"]) == (50, 50)


def test_what_cannot_be_read_is_counted_and_too_much_stops(tmp_path, pictures):
    folder, _ = pictures
    (folder / "00a.png").write_bytes(b"rubbish")
    result = run(PixelTokenizer(3), tmp_path, [folder])
    assert (result.samples, result.failures) == (10, 1)
    with pytest.raises(TooManyFailuresError, match=r"00a\.png"):
        run(PixelTokenizer(3), tmp_path, [folder], max_failures=0)
    with pytest.raises(ValueError, match=r"no sample in .* can be read and encoded \(1 failed\)"):
        run(PixelTokenizer(3), tmp_path, [folder / "00a.png"])


def test_a_sample_that_the_tokenizer_refuses_does_not_take_its_batch_along(tmp_path, pictures, monkeypatch):
    encode = PixelTokenizer.encode

    def picky(self, sample):
        if sample.shape[1] == 30:
            raise ValueError("height 30 is not to my taste")
        return encode(self, sample)

    monkeypatch.setattr(PixelTokenizer, "encode", picky)
    result = run(PixelTokenizer(3), tmp_path, [pictures[0]])
    assert (result.samples, result.failures) == (9, 1)


def test_wrong_options_are_refused(tmp_path, bytes_tokenizer, udhr_txt):
    wrong = {"limit": 0, "image_size": 0, "examples": -1, "codec_pictures": 0, "validation_fraction": 1.0}
    for options in ({name: value} for name, value in wrong.items()):
        with pytest.raises(ValueError, match=next(iter(options))):
            EvaluateOptions(tokenizer="a", data=("b",), **options)
    with pytest.raises(ValueError, match="image size 8 is given, but the tokenizer reads text"):
        run(bytes_tokenizer, tmp_path, [udhr_txt], image_size=8)
    with pytest.raises(ValueError, match="LPIPS measures pictures and videos, but the tokenizer reads text"):
        run(bytes_tokenizer, tmp_path, [udhr_txt], lpips=True)
    with pytest.raises(FileNotFoundError, match="no tokenizer folder"):
        evaluate(EvaluateOptions(tokenizer=str(tmp_path / "missing"), data=(str(udhr_txt),)), Progress(False))
