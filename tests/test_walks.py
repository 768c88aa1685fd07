"""The walks of docs/architecture.md: each function is called on the way, and stands in no higher room than those before it."""

import re
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

from tokenize_kit.cli import main

ROOT = Path(__file__).parents[1]
WALKS = ("A PNG file becomes a row of ids", "A row becomes a loss", "A prompt becomes a file")
STOP = re.compile(r"^    (\S+\.py):(\S+)  ", re.MULTILINE)


def stops(title):
    """The (file, function) pairs of a walk."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    part = text.split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    return STOP.findall(part)


def floor_of(file):
    """How high the room of a file is, by the import contract; the ground is 0."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["type"] == "layers")["layers"]
    module = file.removesuffix(".py").replace("/", ".")
    for height, layer in enumerate(reversed(layers)):
        for room in re.split(r"\s*[|:]\s*", layer):
            if f"{module}.".startswith(f"{room}."):
                return height
    raise AssertionError(f"{file} is in no room of the contract")


class Calls:
    """Remembers which functions of the house are called, in any thread, while it is open."""

    def __init__(self):
        self.seen = set()

    def _note(self, frame, event, _argument):
        if event == "call":
            code = frame.f_code
            if code.co_filename.startswith(f"{ROOT}/"):
                name = code.co_qualname.removesuffix(".<locals>.<genexpr>")
                self.seen.add((str(Path(code.co_filename).relative_to(ROOT)), name))

    def __enter__(self):
        self._before = sys.getprofile()
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_):
        sys.setprofile(self._before)
        threading.setprofile(None)


@pytest.fixture(scope="module")
def trips(tmp_path_factory):
    """What was called on each of the three trips, with pictures of 4x4 pixels."""
    root = tmp_path_factory.mktemp("walks")
    (root / "pictures").mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(24):
        pixels = torch.randint(0, 256, (4, 4), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(root / "pictures" / f"{number:02}.png")
    commands = {
        None: f"create pixels --channels 1 --out {root}/tokenizer",
        WALKS[0]: f"encode --tokenizer {root}/tokenizer --data {root}/pictures --out {root}/shards",
        WALKS[1]: f"train transformer --shards {root}/shards --template image --preset tiny --steps 2 --batch-size 2 "
        f"--model.layers 1 --model.width 16 --model.heads 2 --out {root}/model",
        WALKS[2]: f"generate --model {root}/model --out {root}/samples",
    }
    found = {}
    for title, words in commands.items():
        with Calls() as calls:
            assert main([*words.split(), "--quiet"]) == 0
        found[title] = calls.seen
    return found


@pytest.mark.parametrize("title", WALKS)
def test_rooms_only_go_down(title):
    walk = stops(title)
    assert len(walk) >= 9
    floors = [floor_of(file) for file, _ in walk]
    assert floors == sorted(floors, reverse=True), list(zip(floors, walk, strict=True))


@pytest.mark.parametrize("title", WALKS)
def test_every_function_of_a_walk_is_called_on_the_way(trips, title):
    missing = [stop for stop in stops(title) if stop not in trips[title]]
    assert not missing, missing
