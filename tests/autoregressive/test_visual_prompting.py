"""Visual prompting the whole way on the command line: views, sequences of pairs, a model of them, and an answer to a query."""

import json

import numpy as np
import pytest
from PIL import Image

from tokenize_kit.cli.main import main
from tokenize_kit.shards import ShardSet
from trainers.autoregressive.data import TokenData, split_documents
from trainers.autoregressive.model_folder import load_model

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = ["--model.layers", "1", "--model.width", "16", "--model.heads", "2", "--device", "cpu"]
TEMPLATE = "image image image image image -> image"


def run(*words):
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompting")
    generator = np.random.default_rng(0)
    (folder / "files").mkdir()
    for number in range(20):
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"files/{number}.png")
    run("create", "pixels", "--channels", 3, "--out", folder / "pixels")
    command = ["encode", "--tokenizer", folder / "pixels", "--data", folder / "files", "--image-size", 3]
    run(*command, "--view", "grey=grey", "--out", folder / "shards")
    command = ["pairs", "--shards", folder / "shards", "--operations", "grey", "flip", "--held-out-operations", "edges"]
    run(*command, "--pairs", 2, "--count", 24, "--validation-fraction", 0.3, "--out", folder / "prompting")
    return folder


@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace("-> ", "")])
def test_a_model_answers_a_query_after_examples(world, tmp_path, template):
    model, prompting = tmp_path / "model", world / "prompting"
    command = ["train", "transformer", "--shards", prompting, "--template", template, "--out", model, *MODEL]
    keys = ["--validation-keys", prompting / "held_out.txt"]
    run(*command, *keys, "--steps", 2, "--validate-every", 2, "--batch-size", 2)
    files = [world / f"files/{number}.png" for number in range(5)]
    command = ["generate", "--model", model, "--prompt-file", *files, "--count", 2, "--out", tmp_path / "answers"]
    run(*command)
    loaded = load_model(model)
    assert loaded.preparation.image_size == 3
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt_file": [str(path) for path in files]}) + "\n")
    run(*command[:3], "--prompts", tmp_path / "prompts.jsonl", "--count", 2, "--out", tmp_path / "same")
    lines = (tmp_path / "answers/samples.jsonl").read_text().splitlines()
    others = (tmp_path / "same/samples.jsonl").read_text().splitlines()
    for line, other in zip(lines, others, strict=True):
        ids = json.loads(line)["ids"]
        assert ids == json.loads(other)["ids"]
        grids = loaded.template.parse_ids(ids, loaded.vocabulary)
        assert list(grids) == ["image", *(f"image#{number}" for number in range(2, 7))]
        assert all(grid.shape == (3, 3, 3) for grid in grids.values())
    tail = "" if "->" in template else ".image#6"
    assert Image.open(tmp_path / f"answers/sample_00001{tail}.png").size == (3, 3)


def test_the_listed_sequences_are_those_that_are_held_out(world):
    from tokenize_kit.sources.heldout import read_keys

    data = TokenData.open([str(world / "prompting")], TEMPLATE)
    training, validation = split_documents(data, 0.0, 10**9, read_keys(str(world / "prompting/held_out.txt")))
    parts = [record.columns["part"] for record in ShardSet.open(world / "prompting").records()][::6]
    assert {parts[document] for document in training} == {"train"}
    assert {parts[document] for document in validation} == {"held-out"}
    assert len(training) + len(validation) == 24
