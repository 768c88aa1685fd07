"""Options that are derived from a configuration, and what the command line makes of them."""

import dataclasses
import re
import typing

import pytest

from tokenize_kit.cli.commands import all_commands, resolve
from tokenize_kit.cli.main import main
from tokenize_kit.cli.options import CommandOptions
from tokenize_kit.tokenizers.learned.audio.config import CodecNetworkConfig
from tokenize_kit.tokenizers.learned.image.config import NetworkConfig
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from tokenize_kit.tokenizers.learned.video.config import VideoNetworkConfig
from trainers.autoencoder.audio.config import AudioLossConfig, audio_recipe
from trainers.autoencoder.image.config import LossConfig, recipe
from trainers.autoencoder.video.config import VideoLossConfig
from trainers.autoregressive.models.config import TransformerConfig
from trainers.config import OptimizerConfig
from trainers.overrides import Overrides, changed, field_documents

PARTS = {
    "train image": {
        "network": (NetworkConfig, {"channels"}),
        "quantizer": (QuantizerConfig, {"library_defaults"}),
        "loss": (LossConfig, set()),
        "optimizer": (OptimizerConfig, set()),
    },
    "train audio": {
        "network": (CodecNetworkConfig, {"sample_rate", "channels"}),
        "quantizer": (QuantizerConfig, {"library_defaults"}),
        "loss": (AudioLossConfig, set()),
        "optimizer": (OptimizerConfig, set()),
    },
    "train video": {
        "network": (VideoNetworkConfig, {"frame_rate", "channels"}),
        "quantizer": (QuantizerConfig, {"library_defaults"}),
        "loss": (VideoLossConfig, set()),
        "optimizer": (OptimizerConfig, set()),
    },
    "train transformer": {
        "model": (TransformerConfig, {"vocab_size", "context", "form", "codebook_slots", "told_next", "ordinal"}),
        "optimizer": (OptimizerConfig, set()),
    },
}
"""For each command and each part of its options the configuration, and the fields that other options or the data say."""
EACH = [(command, part) for command, parts in PARTS.items() for part in parts]


def options_type(command):
    return resolve(all_commands()[command])[1]


def plain(text):
    """Text without what a help page puts between its words."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    import contextlib
    import io

    found = {}
    for command in PARTS:
        with contextlib.redirect_stdout(io.StringIO()) as page:
            assert main([*command.split(), "--help"]) == 0
        found[command] = plain(page.getvalue())
    return found


@pytest.mark.parametrize(("command", "part"), EACH)
def test_the_options_of_a_part_are_the_fields_of_its_configuration(command, part):
    config, left_out = PARTS[command][part]
    flags = CommandOptions(command, options_type(command)).flags
    shown = {flag for flag in flags if flag.startswith(f"--{part}.") and not flag.startswith(f"--{part}.no-")}
    names = {field.name for field in dataclasses.fields(config)} - left_out
    assert shown == {f"--{part}.{name.replace('_', '-')}" for name in names}
    kind = typing.get_type_hints(options_type(command))[part]
    if kind is not config:
        assert kind.configuration is config
        assert set(kind.left_out) == left_out
        hints, own = typing.get_type_hints(config), typing.get_type_hints(kind)
        assert {name: own[name] for name in names} == {name: hints[name] | None for name in names}
        assert kind().given() == {}


@pytest.mark.parametrize(("command", "part"), EACH)
def test_the_help_of_an_option_is_the_docstring_of_the_field(pages, command, part):
    config, left_out = PARTS[command][part]
    documents = field_documents(config)
    for field in dataclasses.fields(config):
        assert documents[field.name], f"{config.__name__}.{field.name} has no docstring"
        if field.name not in left_out:
            start = pages[command].index(f"--{part}.{field.name.replace('_', '-')} ")
            text = plain(documents[field.name])
            assert text in pages[command][start : start + len(text) + 300], field.name


@pytest.mark.parametrize("command", ["train image", "train audio", "train video"])
def test_what_only_presets_could_set_is_reachable(command, tmp_path, capsys):
    base = [*command.split(), "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]
    for name, bad, message in (
        ("final-fraction", "2", "final_fraction 2.0 must be in [0, 1]"),
        ("eps", "-1", "eps -1.0 must be positive"),
        ("momentum", "1.5", "momentum 1.5 must be in [0, 1)"),
        ("muon-learning-rate", "-1", "muon_learning_rate -1.0 must be positive"),
    ):
        assert main([*base, f"--optimizer.{name}", bad]) == 1
        assert message in capsys.readouterr().err


def test_a_final_fraction_is_that_of_the_recipe():
    assert audio_recipe("dac", "base").optimizer.final_fraction == 0.2
    assert audio_recipe("dac", "base", optimizer={"final_fraction": 0.1}).optimizer.final_fraction == 0.1
    assert recipe("fsq", optimizer={"final_fraction": 0.3, "eps": 1e-6}).optimizer.final_fraction == 0.3


@dataclasses.dataclass(frozen=True)
class Base:
    """A configuration."""

    kind: str = "a"
    """Which one it is;
    there are two."""
    size: int = 1
    """How large."""


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    """A configuration with one field more and another text."""

    size: int = 2
    """How tall."""
    rate: float | None = None
    """How fast."""


class DerivedOverrides(Overrides, of=Derived, without=("rate",)):
    """Parts of it."""


def test_overrides_hold_what_was_given_and_refuse_what_there_is_not():
    one = DerivedOverrides(size=0)
    assert one.given() == {"size": 0}
    assert one == DerivedOverrides(size=0) != DerivedOverrides(size=1)
    assert hash(one) == hash(DerivedOverrides(size=0))
    assert one.size == 0
    assert one.kind is None
    assert dataclasses.asdict(one) == {"kind": None, "size": 0}
    for wrong in ("rate", "sizes"):
        with pytest.raises(TypeError, match=wrong):
            DerivedOverrides(**{wrong: 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.size = 3


def test_documents_are_those_of_the_last_class_that_has_the_field():
    assert field_documents(Derived) == {
        "kind": "Which one it is;\nthere are two.",
        "size": "How tall.",
        "rate": "How fast.",
    }


def test_changes_are_put_upon_a_preset():
    preset = {"kind": "a", "size": 5, "rate": 1.0}
    assert changed(Derived, preset) == Derived("a", 5, 1.0)
    assert changed(Derived, preset, {"size": 6}) == Derived("a", 6, 1.0)
    # Another kind begins with the defaults, but for what does not depend on it.
    assert changed(Derived, preset, {"kind": "b"}, dial="kind") == Derived("b", 2, None)
    assert changed(Derived, preset, {"kind": "b"}, dial="kind", kept=("rate",)) == Derived("b", 2, 1.0)
    assert changed(Derived, preset, {"kind": "a", "rate": 2.0}, dial="kind") == Derived("a", 5, 2.0)
    with pytest.raises(TypeError, match="unknown option 'siez' of Derived; did you mean 'size'"):
        changed(Derived, preset, {"siez": 1})
