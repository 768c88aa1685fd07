"""Which stream of a file is taken, and what is no video: refused in words, with little memory."""

from __future__ import annotations

import io
import struct

import av
import pytest
import torch
from toys.films import film, moving, written
from toys.sounds import muxed

from tokenize_kit.media.video import VideoReader, read_video, read_video_noting


def _several(kind, covers=(), default=None, flagged=True):
    """A file of two streams, grey of 60 and of 120; those of ``covers`` are pictures."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as out:
        streams = []
        for number in range(2):
            cover = number in covers
            stream = out.add_stream("mjpeg" if cover else "libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if cover else "yuv420p"
            if cover and flagged:
                stream.disposition = av.stream.Disposition.attached_pic
            elif number == default:
                stream.disposition = av.stream.Disposition.default
            streams.append(stream)
        for number, stream in enumerate(streams):
            for time in range(1 if number in covers else 5):
                frame = av.VideoFrame(64, 48, stream.pix_fmt)
                for plane, value in zip(frame.planes, (60 + 60 * number, 128, 128), strict=True):
                    plane.update(bytes([value]) * plane.buffer_size)
                frame.pts = time
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_the_default_of_several_streams_is_taken_and_said(kind):
    video, notes = read_video_noting(_several(kind, default=1))
    assert notes == ("video stream 2 of 2 taken",)
    assert video.frames.float().mean() > 100


@pytest.mark.parametrize(("kind", "flagged"), [("mp4", True), ("matroska", False)])
def test_a_cover_picture_is_no_film(kind, flagged):
    video, _ = read_video_noting(_several(kind, covers=(0,), flagged=flagged))
    assert len(video.frames) == 5
    assert video.frames.float().mean() > 100


def test_a_film_with_sound_gives_its_film():
    assert len(read_video(muxed("mp4", "aac", video="mpeg4")).frames) > 1


@pytest.mark.parametrize(("kind", "codec"), [("ipod", "aac"), ("matroska", "flac"), ("ogg", "libopus")])
def test_a_file_without_video_is_refused(kind, codec):
    with pytest.raises(ValueError, match=r"file without a video stream; it is no video"):
        read_video(muxed(kind, codec))


def test_a_film_of_no_frames_is_refused():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as out:
        stream = out.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    with pytest.raises(ValueError, match="holds no frames"):
        read_video(buffer.getvalue())


@pytest.mark.parametrize("rate", [None, 1, 12, 24])
def test_a_film_of_one_frame_has_one(rate):
    assert len(read_video(film(moving(1)), rate).frames) == 1


def test_what_is_no_video_is_refused_and_opens_nothing(tmp_path):
    film_path = tmp_path / "a.mp4"
    film_path.write_bytes(film(moving(2)))
    for data in (
        b"",
        b"abcd" * 100,
        f"#EXTM3U\n#EXTINF:1,\n{film_path}\n".encode(),
        f"ffconcat version 1.0\nfile {film_path}\n".encode(),
    ):
        with pytest.raises(ValueError, match="not a video that can be read"):
            read_video(data)


@pytest.mark.parametrize(
    ("kind", "codec", "options"),
    [
        ("h264", "libx264", {"bf": "0"}),
        ("ivf", "libvpx-vp9", {}),
        ("ogg", "libvpx", {}),
        ("m4v", "mpeg4", {}),
        ("mpegvideo", "mpeg2video", {}),
        ("mpegts", "libx264", {}),
        ("flv", "flv", {}),
        ("asf", "wmv2", {}),
        ("3gp", "mpeg4", {}),
        ("mpeg", "mpeg1video", {}),
        ("yuv4mpegpipe", "rawvideo", {}),
        ("avi", "mjpeg", {}),
    ],
)
def test_other_containers_and_raw_streams_are_read(kind, codec, options, monkeypatch):
    kind, pixels = {"mpegvideo": "mpeg2video"}.get(kind, kind), "yuvj420p" if codec == "mjpeg" else "yuv420p"
    data = film(moving(12), kind, codec, pixels, 25, matrix=5, full=codec == "mjpeg", options=options)
    video = read_video(data)
    assert len(video.frames) == 12
    assert video.frame_rate == 25
    assert (video.frames.float() - moving(12).float()).abs().mean() < 8
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(read_video(data).frames, video.frames)


@pytest.mark.parametrize("first", [0, 3])
def test_edits_say_which_frames_are_played(first):
    data = bytearray(film(moving(12), rate=12, options={"bf": "0"}))
    whole = read_video(bytes(data)).frames
    edit, track = data.index(b"elst") + 12, data.index(b"tkhd") + 24
    assert struct.unpack_from(">Ii", data, edit) == (1000, 0)
    struct.pack_into(">Ii", data, edit, 500, first * 1024)
    struct.pack_into(">I", data, track, 500)
    assert torch.equal(read_video(bytes(data)).frames, whole[first : first + 6])


def test_huge_frames_are_refused_before_they_are_decoded():
    gif = b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0x80) + bytes(6) + b"\x02\x02\x44\x01\x00"
    with pytest.raises(ValueError, match=r"65535x65535 pixels is outside the limit"):
        read_video(gif + frame + frame + b";")
    apng = bytearray(written(moving(2), ".apng"))
    apng[16:24] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(ValueError, match=r"checksum|limit"):
        read_video(bytes(apng))
    webp = bytearray(written(moving(2), ".webp"))
    webp[24:30] = b"\xff\x3f\0\xff\x3f\0"
    with pytest.raises(ValueError, match=r"16384x16384 pixels is outside the limit"):
        read_video(bytes(webp))
    webp[24:30] = b"\xff\x0f\0\xff\x0f\0"
    with pytest.raises(ValueError, match=r"4096x4096 pixels is outside the limit of 1 to 12,582,912"):
        read_video(bytes(webp))
    raw = b"YUV4MPEG2 W30000 H30000 F25:1 C420jpeg\nFRAME\n"
    with pytest.raises(ValueError, match=r"limit|not a video|cannot|no frames"):
        read_video(raw + bytes(1000))


def test_a_video_that_does_not_fit_is_read_block_by_block(monkeypatch):
    data = film(moving(30))
    monkeypatch.setattr("tokenize_kit.media.video.reader.MAX_VALUES", 20 * 3 * 48 * 64)
    with pytest.raises(ValueError, match=r"too long to be read at once"):
        read_video(data)
    assert sum(map(len, VideoReader(data).blocks())) == 30
    assert len(read_video(data, start=4, frames=20).frames) == 20


def test_wishes_outside_their_limits_are_refused():
    data = film(moving(2))
    for wish in ({"frame_rate": 0}, {"frame_rate": 2000}, {"channels": 2}, {"start": -1}, {"frames": 0}):
        with pytest.raises(ValueError, match=r"frame rate|channels|frames from"):
            VideoReader(data, **wish)
