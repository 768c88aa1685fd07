"""The declaration of video: parts, streams, endings, what a file of a shared ending is."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from toys.talkies import numbered, ramp, write_film

from tokenize_kit.errors import NoTrackError
from tokenize_kit.media import video as media
from tokenize_kit.modalities import modality_named
from tokenize_kit.protocol import Clips, Span
from tokenize_kit.sources.stored import StoredFile, spooled
from tokenize_kit.tokenizers.video.frames import FramesTokenizer

VIDEO, SPEC = modality_named("video"), FramesTokenizer(12.0).spec


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "a.mkv"
    noise = torch.randint(0, 256, (20, 3, 12, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    write_film(path, noise)
    return path, noise


@pytest.mark.parametrize("block", [1, 600, 1 << 23])
def test_parts_are_those_of_the_whole_resized_film(film, monkeypatch, block):
    path, noise = film
    monkeypatch.setattr("tokenize_kit.media.video.reader.BLOCK_VALUES", block)
    whole = VIDEO.resize(noise, 5)

    def resize(frames):
        assert frames.numel() <= max(block, noise[0].numel())
        return VIDEO.resize(frames, 5)

    with path.open("rb") as file:
        parts = list(VIDEO.parts(file, SPEC, Clips(8, 6), resize=resize))
        (one,) = VIDEO.parts(file, SPEC, None, resize=resize)
    assert [part.span for part in parts] == [Span(6 * n / 12, (6 * n + 8) / 12) for n in range(3)]
    assert all(torch.equal(part.sample, whole[6 * n : 6 * n + 8]) for n, part in enumerate(parts))
    assert parts[-1].share == pytest.approx(1, abs=0.05)
    assert torch.equal(one.sample, whole)
    assert one.span == Span(0, 20 / 12)


def test_a_film_is_not_decoded_before_its_clips_are_asked_for(film, monkeypatch):
    path, _ = film
    monkeypatch.setattr("tokenize_kit.media.video.reader.BLOCK_VALUES", 1)
    resized = []
    with path.open("rb") as file:
        parts = VIDEO.parts(file, SPEC, Clips(4), resize=lambda frames: resized.append(len(frames)) or frames)
        for number in range(3):
            next(parts)
            assert sum(resized) == 4 * (number + 1)


def test_one_sample_is_held_only_if_there_is_room(film, monkeypatch):
    path, _ = film
    monkeypatch.setattr(media, "MAX_VALUES", 1000)
    with path.open("rb") as file, pytest.raises(ValueError, match="cut it with --clip-frames, or scale it down"):
        list(VIDEO.parts(file, SPEC, None))
    with path.open("rb") as file:
        assert len(list(VIDEO.parts(file, SPEC, None, resize=lambda frames: VIDEO.resize(frames, 2)))) == 1


def test_a_film_streams_in_and_out(film, tmp_path):
    path, noise = film
    with VIDEO.open_stream(path, FramesTokenizer(6.0).spec) as stream:
        assert stream.conversion == "12 frames a second to 6"
        VIDEO.write_pieces(stream.pieces(), tmp_path / "b.mkv", FramesTokenizer(6.0).spec)
        assert stream.notes == ("12 frames a second to 6",)
    found = media.read_video((tmp_path / "b.mkv").read_bytes())
    assert torch.equal(found.frames, noise[::2])
    assert found.frame_rate == 6
    assert VIDEO.joined_size([(3, 4, 5), (2, 4, 5)]) == (5, 4, 5)


def test_what_is_written_is_what_can_be_written():
    assert sorted(VIDEO.suffixes) == sorted(media.ENDINGS)


def test_every_picture_is_a_film_of_one_frame(tmp_path):
    assert set(modality_named("image").extensions) < set(VIDEO.extensions)
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 4, 3), 7, np.uint8)).save(buffer, "PNG")
    sample, notes = VIDEO.read_noting(buffer.getvalue(), SPEC)
    assert (sample.shape, notes) == ((1, 3, 3, 4), ())
    with pytest.raises(ValueError, match="not a video that can be read"):
        VIDEO.read(b"nothing of the kind", SPEC)


def test_a_file_of_a_shared_ending_is_what_is_in_it(film, tmp_path):
    path, noise = film
    assert VIDEO.recognises(path)
    media.write_video(noise, tmp_path / "moving.webp", 12)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "still.webp")
    assert VIDEO.recognises(tmp_path / "moving.webp")
    assert not VIDEO.recognises(tmp_path / "still.webp")
    (tmp_path / "damaged.mp4").write_bytes(b"no film")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    assert VIDEO.recognises(tmp_path / "damaged.mp4")
    assert not VIDEO.recognises(tmp_path / "damaged.png")


def test_a_sound_in_a_film_file_is_no_film(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        track = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        part.sample_rate = 8000
        for packet in [*track.encode(part), *track.encode(None)]:
            output.mux(packet)
    assert not VIDEO.recognises(tmp_path / "a.mkv")
    with (tmp_path / "a.mkv").open("rb") as file, pytest.raises(NoTrackError, match="without a video stream"):
        list(VIDEO.parts(file, SPEC, None))


def test_a_file_that_is_kept_on_the_disk_is_read_from_two_places(tmp_path):
    write_film(tmp_path / "a.mkv", numbered(6), sound=ramp(4000))
    data = (tmp_path / "a.mkv").read_bytes()
    kept = spooled(".mkv", io.BytesIO(data + b"what follows"), len(data))
    assert (kept.read(), kept.size) == (data, len(data))
    with kept.open() as one, kept.open() as two:
        assert (one.read(10), two.read(20), one.read(10)) == (data[:10], data[:20], data[10:20])
        assert two.seek(-5, io.SEEK_END) == len(data) - 5
        assert (two.read(), two.read(1)) == (data[-5:], b"")
    with pytest.raises(ValueError, match="it ends after 3 of 4 bytes"):
        spooled(".mkv", io.BytesIO(b"abc"), 4)
    shutil.copy(tmp_path / "a.mkv", tmp_path / "b.mkv")
    with StoredFile(".mkv", len(data), tmp_path / "b.mkv").open() as file:
        assert file.read() == data
