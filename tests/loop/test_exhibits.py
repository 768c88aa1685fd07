"""Samples that a run shows: the file of each modality, and what is on the board."""

import pytest
import torch

from tokenize_kit.media.audio import read_audio
from tokenize_kit.media.image import read_image
from trainers.exhibits import Exhibit
from trainers.logs import RunLog


@pytest.fixture
def shown(tmp_path):
    picture = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
    sound = torch.linspace(-0.5, 0.5, 800).repeat(2, 1)
    log = RunLog(tmp_path, 0)
    log.show(
        200,
        {
            "seen": Exhibit("image", picture),
            "heard": Exhibit("audio", sound, 8000),
            "read": Exhibit("text", "two\nlines"),
        },
    )
    log.close()
    return tmp_path, picture, sound


def test_each_modality_has_a_folder_and_its_own_kind_of_file(shown):
    folder, picture, sound = shown
    files = {
        str(path.relative_to(folder)) for path in folder.rglob("*") if "tensorboard" not in str(path) and path.is_file()
    }
    assert files == {
        "pictures/00000200-seen.png",
        "sounds/00000200-heard.wav",
        "texts/00000200-read.txt",
        "train_log.jsonl",
    }
    assert torch.equal(read_image((folder / "pictures/00000200-seen.png").read_bytes(), 3), picture)
    heard = read_audio((folder / "sounds/00000200-heard.wav").read_bytes(), None, None)
    assert heard.sample_rate == 8000
    assert torch.allclose(heard.samples, sound, atol=1 / 32768)
    assert (folder / "texts/00000200-read.txt").read_text() == "two\nlines"


def test_they_are_on_the_board(shown):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(shown[0] / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert (tags["images"], tags["audio"], tags["tensors"]) == (["seen"], ["heard"], ["read/text_summary"])
    assert [(event.step, event.width, event.height) for event in board.Images("seen")] == [(200, 4, 4)]
    assert [(event.step, event.sample_rate) for event in board.Audio("heard")] == [(200, 8000.0)]


def test_a_modality_that_cannot_be_shown_is_named(tmp_path):
    log = RunLog(tmp_path, 0)
    with pytest.raises(ValueError, match="smell"):
        log.show(1, {"x": Exhibit("smell", torch.zeros(1))})
    log.close()
