import json

import numpy as np
import pytest

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.vocabulary import MAX_SHAPES, Vocabulary, distinct_shapes

TEXT = TokenSpec("text", 300, ("time",), (None,), lossless=True)
IMAGE = TokenSpec("image", 16, ("height", "width"), (1, 1), lossless=False, channels=3)
AUDIO = TokenSpec("audio", (8, 4), ("time", "codebook"), (320, None), lossless=False, channels=1, sample_rate=16000)
AUDIO_ONE_SIZE = TokenSpec("audio", 8, ("time", "codebook"), (320, None), lossless=False, channels=1)


def test_ids_are_laid_out_without_overlap_special_tokens_first() -> None:
    vocabulary = Vocabulary(
        {"text": TEXT, "image": IMAGE, "sound": AUDIO}, {"image": [(4, 4), (2, 8)], "sound": [(2,)]}
    )
    special = ["<pad>", "<bos>", "<eos>", "<begin:text>", "<end:text>", "<begin:image>", "<shape:image:2x8>"]
    special += ["<shape:image:4x4>", "<begin:sound>", "<end:sound>"]
    assert list(vocabulary.special_tokens) == special
    assert [vocabulary.special(name) for name in special] == list(range(10))
    assert vocabulary.offset("text") == 10
    assert vocabulary.offset("image") == 310
    assert (vocabulary.offset("sound", 0), vocabulary.offset("sound", 1)) == (326, 334)
    assert vocabulary.size == 338


def test_one_shape_needs_no_shape_token_and_codebooks_of_one_size_get_ranges_of_their_own() -> None:
    vocabulary = Vocabulary({"image": IMAGE, "sound": AUDIO_ONE_SIZE}, {"image": [(4, 4)], "sound": [(3,)]})
    assert vocabulary.stream("image").first_shape is None
    assert vocabulary.stream("sound").offsets == (22, 30, 38)
    assert vocabulary.size == 46


def test_json_round_trip_and_damage_is_refused() -> None:
    vocabulary = Vocabulary({"text": TEXT, "image": IMAGE}, {"image": [(4, 4), (2, 8)]})
    values = json.loads(json.dumps(vocabulary.to_dict()))
    assert Vocabulary.from_dict(values) == vocabulary
    with pytest.raises(ValueError, match="damaged"):
        Vocabulary.from_dict({**values, "size": 5})
    with pytest.raises(ValueError, match="format version 9"):
        Vocabulary.from_dict({**values, "format_version": 9})
    with pytest.raises(ValueError, match="damaged"):
        Vocabulary.from_dict({**values, "streams": [{"name": "text"}]})


def test_distinct_shapes_are_sorted_once_each_and_capped() -> None:
    assert distinct_shapes("image", IMAGE, np.array([[4, 4], [2, 8], [4, 4]])) == ((2, 8), (4, 4))
    assert distinct_shapes("text", TEXT, [(5,), (7,), (0,)]) == ((),)
    assert distinct_shapes("sound", AUDIO, [(5, 2), (9, 2)]) == ((2,),)
    with pytest.raises(ValueError, match=f"{MAX_SHAPES + 1} different grid shapes.*--image-size"):
        distinct_shapes("image", IMAGE, [(1, width) for width in range(1, MAX_SHAPES + 2)])


def test_unknown_names_come_with_a_suggestion() -> None:
    vocabulary = Vocabulary({"text": TEXT, "image": IMAGE}, {"image": [(4, 4)]})
    with pytest.raises(ValueError, match="did you mean 'image'"):
        vocabulary.stream("imgae")
    with pytest.raises(ValueError, match="did you mean <begin:text>"):
        vocabulary.special("<begin:txt>")
    with pytest.raises(ValueError, match="did you mean 'image'"):
        Vocabulary({"image": IMAGE}, {"images": [(4, 4)]})


@pytest.mark.parametrize(
    ("streams", "shapes", "message"),
    [
        ({}, {}, "at least one stream"),
        ({"a b": TEXT}, {}, "must be letters"),
        ({"image": IMAGE}, {}, "needs the shapes"),
        ({"image": IMAGE}, {"image": []}, "0 grid shapes"),
        ({"image": IMAGE}, {"image": [(4,)]}, "does not fit the axes"),
        ({"image": IMAGE}, {"image": [(0, 4)]}, "does not fit the axes"),
        ({"sound": AUDIO}, {"sound": [(3,)]}, "3 codebooks, but its spec has 2"),
    ],
)
def test_impossible_vocabularies_are_refused(streams, shapes, message) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(streams, shapes)
