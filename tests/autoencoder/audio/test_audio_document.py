"""docs/audio.md: its Python runs, and its figures are those of the code."""

import re
from pathlib import Path

import pytest
import torch
from toys.neural_codec import toy_codec

from tokenize_kit.media.audio import read_audio
from tokenize_kit.tokenizers.learned.audio.model import Codec
from trainers.autoencoder.audio.config import PRESETS, SIZES, audio_recipe

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "audio.md").read_text(encoding="utf-8")


def test_the_python_of_the_document_runs(tmp_path, monkeypatch, capsys):
    # Two seconds of sound are 2,667 steps of this codec; what the document promises holds for any length and any codec.
    codec = toy_codec("frames", causal=True, block=400, sample_rate=16_000)
    codec.save(tmp_path / "tokenizers" / "codec")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    streaming, blocks = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names: dict[str, object] = {}
    exec(streaming, names)
    assert (
        capsys.readouterr().out
        == f"{1000 * codec.delay / 16_000:.0f} ms from a sample to the moment when it can be heard again\n"
    )
    exec(blocks, names)
    again = read_audio(Path("again.wav").read_bytes()).samples
    torch.testing.assert_close(again, names["whole"], atol=1 / 32768, rtol=0)


def rows():
    """The table of presets, a row for each preset and size: sample rate, steps, codebooks, kbit/s, millions, latency."""
    found = {}
    for line in DOCUMENT.splitlines():
        if cells := re.fullmatch(r"\| (`[a-z]+`(?:, `[a-z]+`)*) \| `(tiny|base)` \| (.*) \|", line):
            for preset in re.findall(r"`([a-z]+)`", cells[1]):
                found[preset, cells[2]] = cells[3].split(" | ")
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_table_of_presets_is_that_of_the_code(preset, size):
    rate, steps, codebooks, kilobits, millions, latency = rows()[preset, size]
    config = audio_recipe(preset, size).model
    network, quantizer = config.network, config.quantizer.options()
    assert int(rate.replace(",", "")) == network.sample_rate
    assert steps == f"{network.rate:.0f}"
    assert int(codebooks) == quantizer["codebooks"]
    assert quantizer["codebook_size"] == 1024
    assert kilobits == f"{network.rate * quantizer['codebooks'] * 10 / 1000:.2g}"
    with torch.device("meta"):
        model = Codec(config)
    lengths = sum(value.numel() for name, value in model.named_parameters() if name.endswith("original0"))
    weights = sum(value.numel() for name, value in model.named_parameters() if "quantizer" not in name) - lengths
    assert millions == f"{weights / 1e6:.1f} million"
    encoder, decoder = model.encoder, model.decoder
    delay = max(encoder.needs(decoder.needs(count)) - count for count in range(1, network.hop + 1))
    assert latency == (f"{1000 * delay / network.sample_rate:.0f} ms" if network.causal else "looks ahead")
