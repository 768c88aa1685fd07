"""Sounds to batches: what is cut out of which sound, and that a batch follows from its number alone."""

import functools
import io
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.media.audio import read_audio, to_pcm16, wav_bytes
from tokenize_kit.progress import Progress
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.sources.heldout import key_fractions
from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
from trainers.autoencoder import data
from trainers.autoencoder.audio.data import DRAWS, Cropping, SoundBatches, Sounds, prepare, to_samples
from trainers.autoencoder.audio.options import TrainAudioOptions

RATE = 8000


class Notes(Progress):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(enabled=False)
        self.said = []

    def note(self, text):
        self.said.append(text)


def numbered(number, length, channels=1):
    """A sound whose 16-bit values say which one it is, which channel and which place."""
    values = 1 + number * 3000 + torch.arange(length).repeat(channels, 1)
    values[1:] *= -1
    return values.float() / 32768


def write_sounds(folder, sounds, rate=RATE):
    folder.mkdir(parents=True, exist_ok=True)
    for number, sound in enumerate(sounds):
        (folder / f"{number:03}.wav").write_bytes(wav_bytes(sound, rate))
    return folder


def prepared(tmp_path, data, channels=1, progress=None, **options):
    options = TrainAudioOptions(data=(str(data),), out=str(tmp_path / "out"), **options)
    prepare(options, options.data, tmp_path / "shards", PCMTokenizer(RATE, channels), progress)
    return Sounds(ShardSet.open(tmp_path / "shards"))


def sounds_of(tmp_path, lengths, channels=1, **options):
    made = [numbered(number, length, channels) for number, length in enumerate(lengths)]
    return prepared(tmp_path, write_sounds(tmp_path / "files", made), channels, **options)


def batches_of(sounds, length, chosen=None, batch_size=4, seed=0, rank=0, world=1, silence_db=None):
    chosen = np.arange(len(sounds)) if chosen is None else chosen
    return SoundBatches(sounds, chosen, Cropping(length, silence_db), batch_size, seed, rank, world)


def which(crop):
    """The number of a numbered sound and the place of the first sample of a crop (C, N)."""
    return divmod(int(crop[0, 0]) - 1, 3000)


def test_several_workers_prepare_the_shards_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "EncodeOptions", functools.partial(EncodeOptions, shard_mb=0.001))
    for workers in (1, 2):
        sounds_of(tmp_path / str(workers), [500, 700, 1000, 20], workers=workers)
    first, second = (
        {
            path.relative_to(root): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.name != "plan.json"
        }
        for root in (tmp_path / "1" / "shards", tmp_path / "2" / "shards")
    )
    assert len([name for name in first if name.suffix == ".arrow"]) > 1
    assert first == second


def test_sounds_come_back_as_the_samples_of_their_files(tmp_path):
    for channels in (1, 2):
        sounds = sounds_of(tmp_path / str(channels), [50, 7, 1000], channels)
        assert sounds.lengths.tolist() == [50, 7, 1000]
        assert sounds.channels == channels
        for number, length in enumerate([50, 7, 1000]):
            expected = to_pcm16(numbered(number, length, channels))
            assert np.array_equal(sounds.part(number, 0, 5000), expected)
            assert np.array_equal(sounds.part(number, 3, 4), expected[:, 3:7])
        assert sounds.fractions.tolist() == key_fractions(["000.wav", "001.wav", "002.wav"]).tolist()
    whole = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)[None]
    assert torch.equal(to_samples(whole), whole.double().div(32768).float())


def test_every_source_is_brought_to_one_rate_and_channels_and_that_is_said(tmp_path):
    noise = (torch.rand(2, 4000, generator=torch.Generator().manual_seed(0)) - 0.5).cumsum(1)
    noise /= 2 * noise.abs().max()
    folder = write_sounds(tmp_path / "files", [numbered(0, 500), numbered(1, 400)])
    (folder / "stereo.wav").write_bytes(wav_bytes(noise, RATE))
    (folder / "fast.wav").write_bytes(wav_bytes(noise[:1], 2 * RATE))
    with tarfile.open(folder / "more.tar", "w") as tar:
        for name in ("a.wav", "b.wav"):
            info, data = tarfile.TarInfo(name), wav_bytes(noise, RATE)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    notes = Notes()
    sounds = prepared(tmp_path, folder, progress=notes, workers=2)
    assert sorted(sounds.lengths.tolist()) == [400, 500, 2000, 4000, 4000, 4000]
    assert notes.said[-2:] == [
        "1 of 6 sounds were converted from 16000 Hz mono to 8000 Hz mono",
        "3 of 6 sounds were converted from 8000 Hz stereo to 8000 Hz mono",
    ]
    expected = to_pcm16(read_audio(wav_bytes(noise, RATE), RATE, 1).samples)
    assert sum(np.array_equal(sounds.part(number, 0, 4000), expected) for number in range(6)) == 3


def test_a_batch_is_a_function_of_its_number_alone(tmp_path):
    sounds = sounds_of(tmp_path, [900, 2000, 100])
    one = batches_of(sounds, 300)
    expected = [one.batch(index).samples for index in range(9)]
    assert expected[0].shape == (4, 1, 300)
    assert expected[0].dtype == torch.int16
    for index in (8, 0, 3, 4, 5, 2):
        assert torch.equal(one.batch(index).samples, expected[index])
        assert torch.equal(batches_of(sounds, 300).batch(index).samples, expected[index])
    assert not torch.equal(batches_of(sounds, 300, seed=1).batch(0).samples, expected[0])
    assert len({values.numpy().tobytes() for values in expected}) == 9


def test_two_processes_have_the_crops_of_one_with_the_joint_batch(tmp_path):
    sounds = sounds_of(tmp_path, [900, 2000, 100])
    joint = batches_of(sounds, 300, batch_size=6)
    ranks = [batches_of(sounds, 300, batch_size=3, rank=rank, world=2) for rank in range(2)]
    for index in range(5):
        assert torch.equal(torch.cat([rank.batch(index).samples for rank in ranks]), joint.batch(index).samples)


def test_a_sound_is_chosen_in_proportion_to_its_duration_and_cut_anywhere(tmp_path):
    sounds = sounds_of(tmp_path, [300, 2400, 50, 900])
    batches = batches_of(sounds, 100, np.array([0, 1, 3]))
    crops = [which(crop) for index in range(300) for crop in batches.read(index).samples.numpy()]
    shares = Counter(number for number, _ in crops)
    assert set(shares) == {0, 1, 3}
    for number, length in ((0, 300), (1, 2400), (3, 900)):
        assert shares[number] / 1200 == pytest.approx(length / 3600, abs=0.04)
    starts = [start for number, start in crops if number == 0]
    assert min(starts) < 10
    assert 190 < max(starts) <= 200
    assert np.mean(starts) == pytest.approx(100, abs=20)
    assert batches.samples == 3600
    assert batches.epoch(9) == pytest.approx(9 * 4 * 100 / 3600)
    assert batches_of(sounds, 100, batch_size=2, world=3).epoch(5) == pytest.approx(5 * 6 * 100 / 3650)


def test_the_samples_of_a_crop_are_those_of_the_sound(tmp_path):
    sounds = sounds_of(tmp_path, [600], channels=2)
    for crop in batches_of(sounds, 200).read(0).samples.numpy():
        number, start = which(crop)
        assert np.array_equal(crop, to_pcm16(numbered(0, 600, 2))[:, start : start + 200])
        assert number == 0


def test_a_sound_that_is_shorter_than_a_crop_lies_anywhere_in_silence(tmp_path):
    sounds = sounds_of(tmp_path, [40, 40], channels=2)
    batches = batches_of(sounds, 100, np.array([1]), silence_db=-60.0)
    begins = set()
    for index in range(150):
        for crop in batches.read(index).samples.numpy():
            inside = np.flatnonzero(crop[0])
            assert np.array_equal(crop[:, inside[0] : inside[0] + 40], to_pcm16(numbered(1, 40, 2)))
            assert len(inside) == 40
            begins.add(int(inside[0]))
    assert begins == set(range(61))


def test_silence_is_rare_where_there_is_sound_and_nothing_else_where_there_is_none(tmp_path):
    silence = torch.zeros(1, 9000)
    noise = torch.rand(1, 9000, generator=torch.Generator().manual_seed(0)) * 0.1
    faint = noise * 0.001
    for name, other in (("silence", silence), ("faint", faint)):
        sounds = prepared(tmp_path / name, write_sounds(tmp_path / name / "files", [other, noise]))
        loudness = {}
        for silence_db in (None, -60.0):
            batches = batches_of(sounds, 100, batch_size=8, silence_db=silence_db)
            crops = np.concatenate([batches.read(index).samples.numpy() for index in range(100)])
            loudness[silence_db] = float((np.abs(crops).max((1, 2)) < 300).mean())
        assert loudness[None] == pytest.approx(0.5, abs=0.06)
        assert 0 < loudness[-60.0] == pytest.approx(0.5**DRAWS, abs=0.03)
    sounds = prepared(tmp_path / "none", write_sounds(tmp_path / "none" / "files", [silence]))
    assert not batches_of(sounds, 100, silence_db=-60.0).read(0).samples.any()


def test_a_set_without_one_readable_sound_is_refused(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.wav").write_bytes(b"not a sound")
    with pytest.raises(TooManyFailuresError, match=r"none of 1 samples could be read; .*failures\.jsonl"):
        prepared(tmp_path, tmp_path / "files")
