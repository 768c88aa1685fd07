"""The sound of clips: to the sample, for sounds that begin and end when they like."""

import pytest
import torch
from toys.talkies import SOUND_RATE, numbered, ramp, write_film

from tokenize_kit.media.audio import AudioReader
from tokenize_kit.media.audio.spans import ENDED, SoundSpans, sound_delay


class Blocks:
    """A sound that comes in blocks of one size."""

    sample_rate, channels, notes = SOUND_RATE, 1, ()

    def __init__(self, samples, size):
        self._blocks = torch.arange(1, samples + 1).float()[None].split(size, 1)

    def blocks(self):
        return iter(self._blocks)


def taken_plainly(samples, delay, start, stop):
    """What is heard from ``start`` to ``stop`` seconds, sample by sample."""
    first, end, before = round(start * SOUND_RATE), round(stop * SOUND_RATE), round(delay * SOUND_RATE)
    return [n - before + 1 if 0 <= n - before < samples else 0 for n in range(first, end)]


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
@pytest.mark.parametrize("delay", [0.0, 0.01, -0.005, 1.0])
@pytest.mark.parametrize("step", [0.002, 0.0041, 0.01])
def test_spans_are_those_of_the_whole_sound(block, delay, step):
    spans = SoundSpans(Blocks(200, block), delay)
    for number in range(12):
        start, stop = number * step, number * step + 0.0041
        sound, notes = spans.take(start, stop)
        wanted = taken_plainly(200, delay, start, stop)
        assert sound[0].tolist() == wanted
        ends = round(delay * SOUND_RATE) + 200
        assert notes == ((ENDED,) if ends < round(stop * SOUND_RATE) and delay < 1 else ())


def test_clips_share_no_sample_and_miss_none():
    spans = SoundSpans(Blocks(20_000, 333))
    frame = 1001 / 30_000
    sounds = [spans.take(17 * number * frame, 17 * (number + 1) * frame)[0] for number in range(4)]
    assert torch.cat(sounds, 1)[0].tolist() == list(range(1, round(68 * frame * SOUND_RATE) + 1))


@pytest.mark.parametrize("begins", [0.0, 0.25])
def test_the_beginning_of_a_sound_track_is_counted_from_the_first_frame(tmp_path, begins):
    write_film(tmp_path / "a.mkv", numbered(12), 12, ramp(4000), begins)
    with (tmp_path / "a.mkv").open("rb") as file:
        assert sound_delay(file) == pytest.approx(begins, abs=1 / SOUND_RATE)
        sound, _ = SoundSpans(AudioReader(file, SOUND_RATE, 1), begins).take(0.25, 0.5)
    assert torch.equal(sound[0] * 32_768, ramp(4000)[2000 - round(begins * SOUND_RATE) :][:2000] * 32_768)


def test_a_film_without_sound_and_a_sound_without_film_have_no_delay(tmp_path):
    write_film(tmp_path / "a.mkv", numbered(3))
    (tmp_path / "b.mkv").write_bytes(b"nothing of the kind")
    for name in ("a.mkv", "b.mkv"):
        with (tmp_path / name).open("rb") as file:
            assert sound_delay(file) == 0
