"""What a modality names of the higher floors, and what a spec refuses before work begins."""

import pytest
import torch
from toys.simple import ToyImage

from tokenize_kit.metrics.evaluate import evaluate
from tokenize_kit.metrics.measures import Measure, measure_of
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.metrics.rate import Codecs
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import TokenSpec, modality_named, resolved

SPECS = {
    "text": TokenSpec("text", 9, ("time",), (1,), lossless=True),
    "image": TokenSpec("image", 9, ("height", "width"), (1, 1), lossless=True, channels=3),
    "audio": TokenSpec("audio", 9, ("time",), (1,), lossless=True, channels=2, sample_rate=8000),
}
OPTIONS = EvaluateOptions("tokenizer", ("data",))


@pytest.mark.parametrize(("name", "coded"), [("text", False), ("image", True), ("audio", True)])
def test_what_the_declarations_name_is_there(name, coded):
    kind, spec = modality_named(name), SPECS[name]
    assert isinstance(measure_of(spec, OPTIONS), Measure)
    assert bool(kind.codecs) == coded
    if coded:
        assert isinstance(resolved(kind.codecs)(spec), Codecs)
    assert callable(resolved(kind.show))
    assert kind.exhibit_folder == kind.plural


class Board:
    """Takes notes of what it is shown."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *values: self.calls.append((name, *values))


def test_each_kind_is_shown_on_the_board_as_it_can_be():
    board = Board()
    picture, sound = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    for name, sample in (("text", "words"), ("image", picture), ("audio", sound)):
        modality_named(name).board(board, "a", sample, 7, SPECS[name])
    text, image, audio = board.calls
    assert text == ("add_text", "a", "words", 7)
    assert (image[:2], image[2] is picture, image[3]) == (("add_image", "a"), True, 7)
    assert (audio[:2], audio[2].tolist(), audio[3:]) == (("add_audio", "a"), [0.25, 0.5], (7, 8000))


@pytest.mark.parametrize(
    ("multiple", "size", "use"), [(16, 60, "48 or 64"), (16, 3, "16"), (2, 5, "4 or 6"), (4, 8, None), (1, 7, None)]
)
def test_an_image_size_that_does_not_fit_is_refused(multiple, size, use):
    spec = TokenSpec("image", 9, ("height", "width"), (multiple,) * 2, lossless=False, size_multiple=multiple)
    if use is None:
        spec.check_image_size(size)
        return
    wanted = f"--image-size {size} is not a multiple of {multiple}, as this tokenizer wants (size_multiple); use {use}"
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        spec.check_image_size(size)
    assert str(raised.value) == wanted


def test_evaluate_refuses_it_before_anything_is_read(tmp_path):
    ToyImage().save(tmp_path / "toy")
    options = EvaluateOptions(str(tmp_path / "toy"), (str(tmp_path / "no such folder"),), image_size=7)
    with pytest.raises(ValueError, match=r"--image-size 7 is not a multiple of 2, .*; use 6 or 8"):
        evaluate(options, Progress(False))
