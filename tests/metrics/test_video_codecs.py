"""H.264, H.265 and AV1 on a small clip: what is counted of their packets, colours, order, and the search for a rate."""

import io
import math

import av
import pytest
from av.bitstream import BitStreamFilterContext
from toys.clips import ToyVideo, moving_square

from tokenize_kit.metrics import video_codecs, video_coding
from tokenize_kit.metrics.bitstreams import picture_bytes
from tokenize_kit.metrics.image import psnr
from tokenize_kit.metrics.rate import Coded, compare
from tokenize_kit.metrics.usage import UsageCounter
from tokenize_kit.metrics.video_codecs import (
    VideoCodecs,
    VideoRatePoint,
    video_codec_curve,
    video_codec_point,
    video_point,
)
from tokenize_kit.metrics.video_coding import available_video_codecs, decode_video, encode_video
from tokenize_kit.progress import Progress
from tokenize_kit.tokenizers.video.frames import FramesTokenizer

CODECS = {"h264": "yuv444p", "h265": "yuv444p", "av1": "yuv420p10le"}
ENCODERS = {"h264": "libx264", "h265": "libx265", "av1": "libsvtav1"}


@pytest.fixture(scope="module")
def clip():
    return moving_square(5, 64, 64)


@pytest.fixture(scope="module")
def packets(clip):
    return {codec: encode_video(clip, codec, 24, form, 12.0) for codec, form in CODECS.items()}


def test_all_codecs_come_with_pyav():
    assert available_video_codecs() == ("h264", "h265", "av1")


@pytest.mark.parametrize("codec", CODECS)
def test_pictures_are_what_the_filter_of_ffmpeg_leaves(packets, codec):
    # The reference: libavcodec's own parsers, which pass only slices (h264, h265) or frames and tile groups (av1).
    passed = {"h264": "1-5", "h265": "0-31", "av1": "3|4|6|7"}[codec]
    with av.open(io.BytesIO(), "w", format="null") as sink:
        stream = sink.add_stream(ENCODERS[codec], rate=12)
        stream.width = stream.height = 64
        stream.pix_fmt = CODECS[codec]
        filters = BitStreamFilterContext(f"filter_units=pass_types={passed}", stream)
        kept = []
        for packet in packets[codec]:
            kept.append(sum(part.size for part in filters.filter(av.Packet(packet))))
    counted = [picture_bytes(packet, codec) for packet in packets[codec]]
    # What is written again begins with a start code of four bytes, where the slice behind others had three.
    assert all(0 <= mine - theirs <= 1 or 0 <= theirs - mine <= 1 for mine, theirs in zip(counted, kept, strict=True))
    assert sum(counted) < sum(map(len, packets[codec]))


def test_the_text_of_x264_is_not_counted(packets):
    first = packets["h264"][0]
    assert b"x264 - core" in first
    assert len(first) - picture_bytes(first, "h264") > 600
    assert b"x265" not in packets["h265"][0]
    # Later packets are slices alone, and of AV1 all but the delimiter of two bytes.
    assert all(picture_bytes(packet, "h264") == len(packet) for packet in packets["h264"][1:])
    assert all(picture_bytes(packet, "av1") == len(packet) - 2 for packet in packets["av1"][1:])


def test_damaged_packets_are_refused(packets):
    with pytest.raises(ValueError, match="no start code"):
        picture_bytes(b"\0\0\2\3", "h264")
    with pytest.raises(ValueError, match="empty unit"):
        picture_bytes(b"\0\0\1\0\0\1\x65\1", "h264")
    with pytest.raises(ValueError, match="cut short"):
        picture_bytes(packets["av1"][0][:-3], "av1")
    with pytest.raises(ValueError, match="without its size"):
        picture_bytes(b"\x30\1", "av1")
    with pytest.raises(ValueError, match="'vp9' is not one of h264, h265, av1"):
        picture_bytes(b"\0\0\1\x65", "vp9")


@pytest.mark.parametrize("codec", CODECS)
def test_streams_say_their_colours_and_come_back_by_what_they_say(packets, clip, codec):
    context = av.CodecContext.create({"av1": "libdav1d", "h265": "hevc"}.get(codec, codec), "r")
    frames = [frame for packet in packets[codec] for frame in context.decode(av.Packet(packet))]
    frames += context.decode(None)
    assert {(int(frame.colorspace), int(frame.color_range)) for frame in frames} == {(1, 2)}
    back = decode_video(packets[codec], codec, clip)
    assert back.shape == clip.shape
    assert psnr(clip, back) > 33
    # A wrong matrix or range shifts colours by more.
    assert (back.float() - clip.float()).mean((0, 2, 3)).abs().max() < 1.2


@pytest.mark.parametrize("codec", CODECS)
def test_more_bits_lose_less(clip, codec):
    low, high = (video_codec_point([clip], codec, setting, CODECS[codec], 12.0) for setting in (45, 20))
    assert low.bits_per_pixel < 0.7 * high.bits_per_pixel
    assert low.psnr + 2 < high.psnr
    assert low.ssim < high.ssim
    assert (high.name, high.setting, high.pixel_format, high.videos) == (codec, 20, CODECS[codec], 1)
    assert high.kilobits_per_second == pytest.approx(high.bits_per_pixel * 64 * 64 * 12 / 1000)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 33, 49), (4, 34, 18), (3, 17, 19)])
def test_grey_transparent_and_odd_videos_come_back_in_their_shape(channels, height, width):
    clip = moving_square(3, height, width, channels=channels)
    for form in ("yuv444p", "yuv420p"):
        back = decode_video(encode_video(clip, "h264", 10, form), "h264", clip)
        assert back.shape == (3, 3 if channels == 4 else channels, height, width)
        assert video_codec_point([clip], "h264", 10, form).psnr > 25


def test_one_frame_is_a_video(clip):
    for codec, form in CODECS.items():
        assert video_codec_point([clip[:1]], codec, 30, form).psnr > 25


def points_of(settings, calls):
    """A codec whose rate halves every six settings."""

    def at(videos, codec, setting, pixel_format, frame_rate):
        calls.append((pixel_format, setting))
        rate = 2 ** (-setting / 6) * (1.2 if pixel_format == "yuv444p" else 1)
        quality = 50 - 0.7 * setting + (2.5 if pixel_format == "yuv444p" and setting < 30 else 0)
        return VideoRatePoint(codec, setting, pixel_format, rate, None, quality, None, 0, 1)

    return at


def test_the_nearest_setting_is_found_in_a_few_steps(monkeypatch, clip):
    for wanted in (0.004, 0.03, 0.5, 0.9):
        calls = []
        monkeypatch.setattr(video_codecs, "video_codec_point", points_of(range(1, 52), calls))
        curve = video_codec_curve([clip], "h264", [wanted], formats=["yuv420p"])
        best = min(range(1, 52), key=lambda setting: abs(2 ** (-setting / 6) - wanted))
        assert (
            abs(curve.nearest[0].bits_per_pixel / 2 ** (-best / 6) - 1) < 0.13
        )  # that one, or one that is near enough
        assert abs(math.log(curve.nearest[0].bits_per_pixel / wanted)) < 0.06
        assert len(calls) == len(set(calls)) <= 9
    # What a codec cannot reach is its last setting.
    monkeypatch.setattr(video_codecs, "video_codec_point", points_of(range(1, 52), []))
    assert video_codec_curve([clip], "h264", [1e-6], formats=["yuv420p"]).nearest[0].setting == 51


def test_of_two_formats_the_better_one_counts_at_each_rate(monkeypatch, clip):
    monkeypatch.setattr(video_codecs, "video_codec_point", points_of(range(1, 52), []))
    curve = video_codec_curve([clip], "h264", [0.2, 0.01])
    assert curve.nearest[0].pixel_format == "yuv444p"
    assert curve.nearest[1].pixel_format == "yuv420p"
    rates = [point.bits_per_pixel for point in curve.points]
    qualities = [point.psnr for point in curve.points]
    assert rates == sorted(rates)
    assert qualities == sorted(qualities)
    with pytest.raises(ValueError, match="each above 0 bits a pixel"):
        video_codec_curve([clip], "h264", [0.0])


def test_what_is_not_there_is_said(monkeypatch, clip):
    codecs = VideoCodecs(ToyVideo().spec)
    assert codecs.available([clip]) == ("h264", "h265", "av1")
    assert "not measured" not in codecs.protocol()
    assert codecs.available([clip, clip[..., :48]]) == ("h264", "av1")
    assert "H.265 was not measured: libx265 is given no side below 64 pixels." in codecs.protocol()
    monkeypatch.setattr(video_coding, "has_codec", lambda name: name not in ("libsvtav1", "libdav1d"))
    monkeypatch.setattr(video_codecs, "has_codec", video_coding.has_codec)
    assert codecs.available([clip]) == ("h264", "h265")
    assert "AV1 was not measured: this PyAV has no libsvtav1 and libdav1d." in codecs.protocol()
    with pytest.raises(ValueError, match="codec 'av1' is not one of h264, h265"):
        video_codec_point([clip], "av1", 30, "yuv420p10le")
    with pytest.raises(ValueError, match="side below the 64 that h265 takes"):
        encode_video(clip[..., :48], "h265", 30, "yuv444p")
    with pytest.raises(ValueError, match="setting 60 of h264 is outside 1 to 51"):
        encode_video(clip, "h264", 60, "yuv444p")


def test_a_tokenizer_stands_beside_the_codecs(monkeypatch, clip):
    tokenizer = ToyVideo()
    monkeypatch.setattr(video_codecs, "available_video_codecs", lambda: ("h264",))
    usage = UsageCounter(tokenizer.spec)
    usage.update(tokenizer.encode(clip))
    result = compare(
        VideoCodecs(tokenizer.spec),
        tokenizer,
        [Coded(clip, tokenizer.encode(clip))],
        usage.summaries(),
        Progress(False),
    )
    (ours,) = result.fixed_rate
    assert ours.bits_per_pixel == pytest.approx(2 * 16 * 16 * 6 / clip[:, 0].numel())
    assert ours.kilobits_per_second == pytest.approx(ours.bits_per_pixel * 64 * 64 * 12 / 1000)
    assert ours.psnr == pytest.approx(psnr(clip, tokenizer.decode(tokenizer.encode(clip))))
    near = result.near(ours, "h264")
    assert near.bits_per_pixel == pytest.approx(ours.bits_per_pixel, rel=0.25)
    assert result.to_dict()["videos"] == 1
    assert "The first 1 videos (5 frames, 0.02 megapixels)." in result.protocol
    assert "libx264, preset veryslow, tune psnr" in result.protocol
    assert "no SEI" in result.protocol


def test_points_are_means_over_videos_and_pooled_over_pixels(clip):
    other = clip.clone()
    other[0, 0, 0, 0] ^= 64
    point = video_point("x", [(clip, other), (clip[:2], clip[:2])], 70, None)
    assert point.psnr == pytest.approx(psnr(clip, other))
    assert (point.exact, point.videos, point.kilobits_per_second) == (1, 2, None)
    assert point.bits_per_pixel == 70 / (7 * 64 * 64)
    with pytest.raises(ValueError, match="no videos"):
        video_point("x", [], 1)
    with pytest.raises(ValueError, match="no videos"):
        video_codec_point([], "h264", 30, "yuv444p")
    assert VideoCodecs(FramesTokenizer().spec).weight(clip) == 5 * 64 * 64
