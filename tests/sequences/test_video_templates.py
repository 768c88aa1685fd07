"""Documents of grids with three axes: flattened and back, with and without codebooks, and begun with their first frames."""

import numpy as np
import pytest

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.layouts import LAYOUTS
from tokenize_kit.sequences.prompt import begin, continues
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary

AXES = ("time", "height", "width")
VIDEO = TokenSpec("video", 9, AXES, (4, 8, 8), lossless=False, channels=3, frame_rate=12.0)
BOOKS = TokenSpec("video", (3, 2, 4), (*AXES, "codebook"), (4, 8, 8, None), lossless=False, channels=3, frame_rate=12.0)
PICTURE = TokenSpec("image", 5, AXES[1:], (8, 8), lossless=False, channels=3)
SHAPES = {"video": [(3, 2, 2)], "books": [(3, 2, 2, 3), (5, 2, 2, 3), (3, 1, 2, 3)], "image": [(2, 2)]}
VOCABULARY = Vocabulary({"video": VIDEO, "books": BOOKS, "image": PICTURE}, SHAPES)


def grid_of(name, shape, seed=0):
    spec = VOCABULARY.stream(name).spec
    sizes = spec.codebook_sizes if spec.axes[-1] == "codebook" else spec.vocab_size
    return np.random.default_rng(seed).integers(0, sizes, shape)


def finished(template, beginning, seed):
    """A document that goes on from a beginning, drawn from what the grammar allows."""
    rng = np.random.default_rng(seed)
    ids, state = list(beginning.ids), beginning.state
    while not beginning.grammar.done(state):
        allowed = beginning.grammar.allowed(state)
        ids.append(int(rng.choice([token for low, high in allowed for token in range(low, high)])))
        state = beginning.grammar.advance(state, ids[-1])
    return template.parse_ids(ids, VOCABULARY)


def test_a_video_is_closed_and_flattened_frame_by_frame():
    assert not VIDEO.is_open
    grid = grid_of("video", (3, 2, 2))
    template = SequenceTemplate.parse("image -> video")
    picture = grid_of("image", (2, 2))
    ids, mask = template.flatten({"image": picture, "video": grid}, VOCABULARY)
    offset = VOCABULARY.offset("video")
    assert ids[-13:-1].tolist() == (grid.reshape(-1) + offset).tolist()
    # No shape token, as there is one shape, and no end token, as it says the length.
    assert len(ids) == 1 + (1 + 4) + (1 + 12) + 1
    assert mask.tolist() == [False] * 7 + [True] * 12 + [False]
    assert template.grammar(VOCABULARY).accepts(ids)
    assert np.array_equal(template.parse_ids(ids, VOCABULARY)["video"], grid)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES["books"])
def test_videos_with_codebooks_come_back_in_every_layout(layout, shape):
    template = SequenceTemplate.parse(f"books:{layout}")
    grid = grid_of("books", shape)
    ids, _ = template.flatten({"books": grid}, VOCABULARY)
    assert template.grammar(VOCABULARY).accepts(ids)
    assert np.array_equal(template.parse_ids(ids, VOCABULARY)["books"], grid)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_video_goes_on_after_its_first_frames(frames):
    template = SequenceTemplate.parse("video")
    grid = grid_of("video", (frames, 2, 2))
    assert continues(template, VOCABULARY, {"video": grid})
    beginning = begin(template, VOCABULARY, {"video": grid}, 15)
    assert len(beginning.ids) == 2 + 4 * frames
    found = {finished(template, beginning, seed)["video"].tobytes() for seed in range(4)}
    assert len(found) == 4
    for data in found:
        whole = np.frombuffer(data, np.int64).reshape(3, 2, 2)
        assert np.array_equal(whole[:frames], grid)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (2, 2, 2, 3), (4, 2, 2, 3), (2, 1, 2, 3)])
def test_the_first_frames_are_kept_in_every_layout_and_the_model_chooses_the_shape(layout, shape):
    template = SequenceTemplate.parse(f"books:{layout}")
    grid = grid_of("books", shape, seed=3)
    longer = [known for known in SHAPES["books"] if known[1:] == shape[1:] and known[0] > shape[0]]
    beginning = begin(template, VOCABULARY, {"books": grid}, 80)
    # Where two shapes could be meant, the choice is left to the model.
    assert (len(beginning.ids) == 2) == (len(longer) > 1)
    found = [finished(template, beginning, seed)["books"] for seed in range(12)]
    assert {one.shape for one in found} == set(longer)
    assert all(np.array_equal(one[: shape[0]], grid) for one in found)


@pytest.mark.parametrize("shape", [(3, 2, 2), (4, 2, 2), (0, 2, 2), (1, 1, 2), (1, 2)])
def test_whole_videos_and_others_do_not_go_on(shape):
    template, grid = SequenceTemplate.parse("video"), grid_of("video", shape)
    assert not continues(template, VOCABULARY, {"video": grid})
    with pytest.raises(ValueError, match="cannot be begun with a grid of shape"):
        template.grammar(VOCABULARY, begun={"video": grid})


def test_a_condition_is_never_gone_on_with():
    template = SequenceTemplate.parse("video -> image")
    with pytest.raises(ValueError, match="the vocabulary knows only 3x2x2"):
        begin(template, VOCABULARY, {"video": grid_of("video", (1, 2, 2))}, 40)
