"""Samples of 16 bits: every value of a 16-bit file comes back, and others move by at most half a step."""

import numpy as np
import pytest
import torch

from tokenize_kit.media.audio import read_audio, wav_bytes
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.tokenizers.audio.pcm import SILENCE, PCMTokenizer


def test_every_value_of_16_bits_comes_back_as_its_own_id():
    ids = torch.arange(1 << 16)
    for tokenizer, grid in ((PCMTokenizer(), ids), (PCMTokenizer(8000, 2), ids.view(-1, 2))):
        assert torch.equal(tokenizer.encode(tokenizer.decode(grid)), grid)
    sound = PCMTokenizer().decode(ids)
    assert sound[0, [0, SILENCE, SILENCE + 1, -1]].tolist() == [-1.0, 0.0, 1 / 32768, 32767 / 32768]


def test_a_16_bit_file_comes_back_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    for channels in (1, 2):
        file = wav_bytes(torch.rand(channels, 999, generator=generator) * 2 - 1, 8000)
        tokenizer = PCMTokenizer(8000, channels)
        sound = read_audio(file).samples
        assert torch.equal(tokenizer.decode(tokenizer.encode(sound)), sound)
        assert wav_bytes(tokenizer.decode(tokenizer.encode(sound)), 8000) == file


def test_stereo_grids_have_the_channels_last():
    sound = torch.tensor([[0.0, 0.5, -1.0], [0.25, 0.0, 1.0]])
    assert PCMTokenizer(8000, 2).encode(sound).tolist() == [[32768, 40960], [49152, 32768], [0, 65535]]


def test_other_samples_move_by_at_most_half_a_step():
    sound = torch.from_numpy(np.linspace(-1, 1, 300_001, dtype=np.float32))[None]
    loss = (PCMTokenizer().decode(PCMTokenizer().encode(sound)) - sound).abs()[0]
    below = sound[0] <= 32767 / 32768
    assert 0.49 / 32768 < float(loss[below].max()) <= 0.5 / 32768
    assert float(loss[-1]) == 1 / 32768


def test_what_it_is_is_saved_with_it(tmp_path):
    fingerprints = {PCMTokenizer(rate, channels).fingerprint for rate in (8000, 16_000) for channels in (1, 2)}
    assert len(fingerprints) == 4
    PCMTokenizer(44_100, 2).save(tmp_path)
    spec = load_tokenizer(tmp_path).spec
    assert (spec.sample_rate, spec.channels, spec.axes) == (44_100, 2, ("time", "channel"))


def test_wrong_options_and_grids_are_refused():
    for options in ({"sample_rate": 0}, {"sample_rate": True}, {"channels": 3}, {"channels": True}):
        with pytest.raises(ValueError, match=r"sample rate|channels"):
            PCMTokenizer(**options)
    with pytest.raises(ValueError, match="2 channels last"):
        PCMTokenizer(8000, 2).decode(torch.zeros(4, 3, dtype=torch.int64))
