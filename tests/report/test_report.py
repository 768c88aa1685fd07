"""The report page: one file, nothing fetched, text that cannot break out of it."""

import base64
import io
import re

import pytest
import torch
from PIL import Image

from tokenize_kit.media.audio import read_audio
from tokenize_kit.report import Page, Pair


def written(page, tmp_path):
    return page.write(tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_is_self_contained_and_escapes_text(tmp_path):
    page = Page("A <b> title")
    page.heading("<script>alert(1)</script>")
    page.paragraph("a & b")
    page.quote("line one\nline two")
    page.notes(["first < note", "second"])
    page.table(("name", "value"), [("x <", 1234567), ("y", 0.123456)])
    page.curves({"train": ([0, 1, 2], [3.0, 2.0, 1.0]), "held out": ([0, 2], [3.1, 1.2])}, "step", "loss")
    html = written(page, tmp_path)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "a &amp; b" in html
    assert "<li>first &lt; note</li><li>second</li>" in html
    assert '<td class="number">1,234,567</td>' in html
    assert '<td class="number">0.1235</td>' in html
    assert html.count("<svg") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', html)


def test_pictures_are_embedded_exactly(tmp_path):
    image = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    page = Page("p")
    page.pictures([(image, "an emoji")], scale=3)
    html = written(page, tmp_path)
    data = re.search(r"base64,([^\"]+)\"", html)[1]
    pixels = torch.tensor(list(Image.open(io.BytesIO(base64.b64decode(data))).tobytes())).reshape(4, 5, 3)
    assert torch.equal(pixels.permute(2, 0, 1).to(torch.uint8), image)
    assert 'width="15" height="12"' in html


def test_recordings_can_be_seen_and_heard(tmp_path):
    sounds = [torch.linspace(-1, 1, length)[None] for length in (1600, 800)]
    page = Page("p")
    page.recordings([(sounds[0], "a <b>"), (sounds[1], "c")], 16_000)
    html = written(page, tmp_path)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", html) == ["a &lt;b&gt;", "c"]
    assert html.count('alt="spectrogram of the sound"') == 2
    found = [base64.b64decode(data) for data in re.findall(r"data:audio/wav;base64,([^\"]+)\"", html)]
    for data, sound in zip(found, sounds, strict=True):
        heard = read_audio(data)
        assert heard.sample_rate == 16_000
        torch.testing.assert_close(heard.samples, sound, atol=1 / 32768, rtol=0)


def test_pairs_are_enlarged_by_a_whole_factor_or_shown_smaller(tmp_path):
    small, large = torch.zeros(1, 20, 50, dtype=torch.uint8), torch.zeros(4, 700, 1000, dtype=torch.uint8)
    page = Page("p")
    page.pairs([Pair(small, small + 1, "a <b>", "30 dB"), Pair(large, large, "large", "exact")])
    html = written(page, tmp_path)
    assert re.findall(r'width="(\d+)" height="(\d+)" alt="(\w+)"', html) == [
        ("100", "40", "original"),
        ("100", "40", "reconstruction"),
        ("320", "224", "original"),
        ("320", "224", "reconstruction"),
    ]
    embedded = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)\"", html)]
    assert [picture.size for picture in embedded] == [(50, 20), (50, 20), (320, 224), (320, 224)]
    assert embedded[1].getpixel((3, 3)) == 1
    assert "<b>30 dB</b>a &lt;b&gt;" in html


def test_histograms_keep_their_ends_and_thin_the_rest(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(Page, "curves", lambda self, curves, *labels, **options: drawn.update(curves))
    Page("p").histogram({"many": range(1, 16385), "one": [7]}, "rank", "uses")
    ranks, counts = drawn["many"]
    assert (ranks[:3], counts[:3]) == ([1, 2, 3], [16384, 16383, 16382])
    assert (ranks[-1], counts[-1]) == (16384, 1)
    assert len(ranks) < 450
    assert drawn["one"] == ([1], [7])


def test_the_token_view_joins_back_to_the_text_and_shows_broken_bytes(tmp_path):
    page = Page("p")
    page.tokens([b"All ", b"h", "ü".encode()[:1], b"<i>"], [5, 6, 7, 8])
    html = written(page, tmp_path)
    shown = re.findall(r'<span title="(\d+)"[^>]*>([^<]*)</span>', html)
    assert shown == [("5", "All "), ("6", "h"), ("7", "⟨c3⟩"), ("8", "&lt;i&gt;")]


def test_wrong_parts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 cells"):
        Page("p").table(("a",), [(1, 2)])
    with pytest.raises(ValueError, match="1 tokens for 2 ids"):
        Page("p").tokens([b"a"], [1, 2])


def test_two_runs_give_the_same_bytes(tmp_path):
    def make():
        page = Page("same")
        page.curves({"a": ([0, 1], [1.0, 2.0])}, "x", "y")
        return written(page, tmp_path)

    assert make() == make()
