"""Which axis of a grid is open, and where a size must be a multiple: fields of the spec that are asked, not decoration."""

import json

import pytest
import torch
from toys.simple import ToyImage

from tokenize_kit.cli import main
from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary


def spec(axes, open_axes=None):
    return TokenSpec("image", 9, axes, (None,) * len(axes), lossless=True, open_axes=open_axes)


@pytest.mark.parametrize(
    ("axes", "given", "expected"),
    [
        # As before there was the field.
        (("time",), None, True),
        (("time", "codebook"), None, True),
        (("time", "channel"), None, False),
        (("height", "width"), None, False),
        (("place",), None, False),
        (("time", "height", "width"), None, False),
        # As it says.
        (("time",), (), False),
        (("place",), ("place",), True),
        (("time", "height", "width"), ("time",), True),
    ],
)
def test_the_first_axis_is_open_as_the_spec_says(axes, given, expected):
    assert spec(axes, given).is_open is expected


def test_a_spec_without_the_field_is_saved_as_before_there_was_one():
    assert "open_axes" not in spec(("time",)).to_dict()
    for given in ((), ("time",)):
        saved = json.loads(json.dumps(spec(("time",), given).to_dict()))
        assert saved["open_axes"] == list(given)
        assert TokenSpec.from_dict(saved) == spec(("time",), given)


@pytest.mark.parametrize("given", [("width",), ("height", "width"), ("nothing",)])
def test_only_the_first_axis_can_be_open(given):
    with pytest.raises(ValueError, match=r"open_axes .* must be none or the first axis, \('height',\)"):
        spec(("height", "width"), given)


def test_a_closed_row_is_ended_by_its_shape_and_an_open_one_by_a_token():
    closed, opened = (
        Vocabulary({"row": spec(("place",), given)}, shapes)
        for given, shapes in (((), {"row": [(3,), (5,)]}), (("place",), None))
    )
    grid = {"row": torch.tensor([1, 2, 3]).numpy()}
    template = SequenceTemplate.parse("row")
    names = [
        [vocabulary.special_tokens[token] if token < len(vocabulary.special_tokens) else "id" for token in ids]
        for vocabulary in (closed, opened)
        for ids in [template.flatten(grid, vocabulary)[0]]
    ]
    assert names == [
        ["<bos>", "<begin:row>", "<shape:row:3>", "id", "id", "id", "<eos>"],
        ["<bos>", "<begin:row>", "id", "id", "id", "<end:row>", "<eos>"],
    ]


def test_an_open_axis_of_several_places_a_step_is_ended_by_a_token_between_two_steps():
    vocabulary = Vocabulary({"film": spec(("time", "height", "width"), ("time",))}, {"film": [(2, 2)]})
    template = SequenceTemplate.parse("film")
    ids = template.flatten({"film": torch.arange(8).reshape(2, 2, 2).numpy()}, vocabulary)[0]
    end = vocabulary.special("<end:film>")
    assert ids.tolist()[2:] == [*(vocabulary.offset("film") + place for place in range(8)), end, vocabulary.eos]
    with pytest.raises(ValueError, match="in the middle of a time step"):
        template.parse_ids([*ids[:-3].tolist(), end, vocabulary.eos], vocabulary)


def test_encode_refuses_a_size_that_the_tokenizer_does_not_take(tmp_path, emoji_tar, capsys):
    ToyImage().save(tmp_path / "tokenizer")
    words = f"encode --tokenizer {tmp_path}/tokenizer --data {emoji_tar} --limit 3 --out {tmp_path}/shards --image-size"
    assert main([*words.split(), "15", "--quiet"]) == 1
    assert "--image-size 15 is not a multiple of 2, as this tokenizer wants (size_multiple); use 14 or 16" in (
        capsys.readouterr().err
    )
    assert main([*words.split(), "16", "--quiet"]) == 0
