"""Subtitles: SubRip and WebVTT, and the words of a span of time."""

import pytest

from tokenize_kit.media.subtitles import Cue, read_subtitles

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Once</i> upon
a time

2
00:00:02,500 --> 00:00:04,000
{\\an8}there was a hen &amp; a fox

3
01:00:00,000 --> 01:00:00,500
The end.
"""
VTT = """WEBVTT Kind: captions

STYLE
::cue { color: white }

NOTE this is no cue
but goes on

intro
00:01.000 --> 00:02.500 align:start position:10%
<v Ann>Once</v> upon
a time

00:00:02.500 --> 00:00:04.000
there was a hen &amp; a fox

01:00:00.000 --> 01:00:00.500
The end.
"""


@pytest.mark.parametrize("data", [SRT, VTT, SRT.replace("\n", "\r\n"), "\ufeff" + SRT, VTT.replace("\n", "\r")])
def test_both_kinds_give_the_same_cues(data):
    found = read_subtitles(data.encode())
    assert found.cues == (
        Cue(1.0, 2.5, "Once upon\na time"),
        Cue(2.5, 4.0, "there was a hen & a fox"),
        Cue(3600.0, 3600.5, "The end."),
    )
    assert str(found) == "Once upon\na time\nthere was a hen & a fox\nThe end."


@pytest.mark.parametrize(
    ("span", "words"),
    [
        ((0, 1), ""),
        ((0, 1.001), "Once upon\na time"),
        ((2.5, 3), "there was a hen & a fox"),
        ((2.4, 2.6), "Once upon\na time\nthere was a hen & a fox"),
        ((4, 3600), ""),
        ((3600.4, 9999), "The end."),
    ],
)
def test_a_span_has_the_words_that_share_a_moment_with_it(span, words):
    assert read_subtitles(SRT.encode()).words(*span) == words


def test_cues_are_in_the_order_of_their_times():
    found = read_subtitles(b"00:09.000 --> 00:10.000\nlater\n\n00:01.5 --> 00:02.25\nsooner")
    assert found.cues == (Cue(1.5, 2.25, "sooner"), Cue(9.0, 10.0, "later"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no subtitles"),
        (b"1\nno arrow\n", "no subtitles"),
        (b"1\n00:00:xx --> 00:00:02,000\nwords\n", "line 2 of the subtitles is no pair of times"),
        (b"00:00:02,000 --> 00:00:01,000\nwords\n", "ends before it begins"),
        (b"\xff\xfe1", "not UTF-8"),
    ],
)
def test_what_is_no_subtitles_is_refused(data, said):
    with pytest.raises(ValueError, match=said):
        read_subtitles(data)
