"""Two streams of one kind in a template: questions and answers, and pictures of pictures."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys.progress import Told
from toys.world import Letters, Shades, write_streams

from tokenize_kit.cli import main
from trainers.autoregressive.data import TokenData, split_documents
from trainers.autoregressive.likelihood import score
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.sample import generate_samples
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = {"red": "apple", "blue": "sea and sky", "green": "tree", "white": "snow"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    letters = Letters()
    questions = [list(PAIRS)[i % 4] for i in range(80)]
    grids = {
        "question": [letters.encode(text).numpy() for text in questions],
        "answer": [letters.encode(PAIRS[text]).numpy() for text in questions],
    }
    folder = tmp_path_factory.mktemp("pairs") / "shards"
    return write_streams(folder, {"question": letters, "answer": Letters()}, grids)


def train(out, shards, template, progress=None, **changes):
    values = {
        "model": TransformerOverrides(layers=2, width=32, heads=2),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=10),
        "steps": 60,
        "batch_size": 8,
        "device": "cpu",
        "precision": "32-true",
        "validation_fraction": 0.2,
    }
    options = TrainTransformerOptions(shards=(shards,), template=template, out=str(out), **{**values, **changes})
    return train_transformer(options, progress)


@pytest.fixture(scope="module")
def model(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "model"
    return str(out), train(out, shards, "question -> answer")


def test_each_question_has_its_answer(model, tmp_path):
    for question, answer in PAIRS.items():
        options = GenerateOptions(model=model[0], out=str(tmp_path / question), prompt=question, temperature=0)
        result = generate_samples(options)
        assert result.texts == (answer,)
        assert Path(result.files[0]).name == "sample_00000.txt"
        assert Path(result.files[0]).read_text() == answer
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"question": question}) + "\n" for question in PAIRS))
    words = ["generate", "--model", model[0], "--out", str(tmp_path / "many"), "--temperature", "0", "--quiet"]
    assert main([*words, "--prompts", str(tmp_path / "list.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "many" / "samples.jsonl").read_text().splitlines()]
    assert {line["prompt"]: line["text"] for line in lines} == PAIRS


def test_the_streams_have_ids_of_their_own_and_only_the_answer_carries_loss(model, shards):
    loaded = load_model(model[0])
    assert list(loaded.vocabulary.streams) == ["question", "answer"]
    first, second = (loaded.vocabulary.stream(name) for name in ("question", "answer"))
    assert second.offsets[0] == first.offsets[0] + first.spec.max_vocab_size
    data = TokenData.open([shards], "question -> answer")
    _, held_out = split_documents(data, 0.2, 10**9)
    nats = tokens = 0
    for document in held_out:
        grids = data.documents.grids(int(document))
        ids, mask = loaded.template.flatten(grids, loaded.vocabulary)
        assert loaded.template.parse_ids(ids, loaded.vocabulary)["answer"].tolist() == grids["answer"].tolist()
        assert not mask[: grids["question"].size + 4].any()
        (nll,) = score(loaded.model, [ids.tolist()])
        nats -= float(nll[torch.from_numpy(mask[1:])].sum())
        tokens += int(mask.sum())
    metrics = model[1].metrics
    assert metrics["bits_per_token"] == pytest.approx(nats / tokens / math.log(2), rel=1e-3, abs=1e-6)
    assert set(metrics) == {"bits_per_token", "loss", "answer/bits_per_byte"}


def test_both_may_be_predicted_and_are_files_of_their_own(shards, tmp_path):
    result = train(tmp_path / "model", shards, "answer question", steps=2, validation_fraction=0.3)
    assert set(result.metrics) >= {"answer/bits_per_byte", "question/bits_per_byte"}
    made = generate_samples(GenerateOptions(model=str(tmp_path / "model"), out=str(tmp_path / "out"), prompt="tre"))
    assert [Path(file).name for file in made.files] == ["sample_00000.answer.txt", "sample_00000.question.txt"]
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert line["text"] == dict(zip(("answer", "question"), made.texts, strict=True))
    assert line["text"]["answer"].startswith("tre")


def test_pictures_of_pictures(tmp_path):
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 4, (3, 3)) for _ in range(12)]
    shards = write_streams(
        tmp_path / "shards",
        {"photo": Shades(), "negative": Shades()},
        {"photo": photos, "negative": [3 - p for p in photos]},
    )
    train(tmp_path / "model", shards, "photo -> negative", steps=2)
    Image.fromarray(np.full((3, 3), 224, np.uint8)).save(tmp_path / "white.png")
    model, prompt = str(tmp_path / "model"), (str(tmp_path / "white.png"),)
    made = generate_samples(GenerateOptions(model=model, out=str(tmp_path / "out"), prompt_file=prompt))
    assert Image.open(made.files[0]).size == (3, 3)
    with pytest.raises(ValueError, match="needs the condition 'photo'; give it with --prompt-file FILE"):
        generate_samples(GenerateOptions(model=model, out=str(tmp_path / "nothing")))


def test_a_stream_that_comes_twice_is_of_two_samples(tmp_path):
    """Of the line red, apple, blue, sky, red, .. a document is a word and the one after it."""
    letters = Letters()
    line = [text for i in range(80) for text in (list(PAIRS)[i % 4], PAIRS[list(PAIRS)[i % 4]])]
    grids = {"text": [letters.encode(text).numpy() for text in line]}
    shards = write_streams(tmp_path / "shards", {"text": letters}, grids)
    told = Told()
    result = train(tmp_path / "model", shards, "text -> text", progress=told)
    assert result.documents + result.validation_documents == 80
    assert any("2 samples that follow each other" in text for text in told.said)
    options = GenerateOptions(
        model=str(tmp_path / "model"), out=str(tmp_path / "out"), prompt="red", temperature=0.0, device="cpu"
    )
    assert generate_samples(options).texts == ("apple",)
    (line_,) = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert line_["files"] == {"text#2": "sample_00000.txt"}


def articles(text, word):
    """The thirty articles of the declaration in one language, each as one text."""
    numbered = [text.index(f"\n{word} {number}\n") for number in range(1, 31)]
    ends = [
        *numbered[1:],
        text.index("\n\n\n", numbered[-1]) if "\n\n\n" in text[numbered[-1] :] else numbered[-1] + 400,
    ]
    return [" ".join(text[begin:end].split("\n", 2)[2].split()) for begin, end in zip(numbered, ends, strict=True)]


def test_a_translation_from_a_table_to_a_file(udhr_txt, tmp_path, capsys):
    text = udhr_txt.read_text(encoding="utf-8")
    german = text[text.index("\nArtikel 1\n") - 1 :]
    pairs = list(zip(articles(text, "Article"), articles(german, "Artikel"), strict=True))
    assert pairs[2] == (
        "Everyone has the right to life, liberty and the security of person.",
        "Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.",
    )
    rows = "".join(json.dumps({"id": i, "pair": {"en": en, "de": de}}) + "\n" for i, (en, de) in enumerate(pairs))
    (tmp_path / "pairs.jsonl").write_text(rows, encoding="utf-8")

    def run(*words):
        code = main([*map(str, words), "--quiet", "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    bpe, data = tmp_path / "bpe", ("--data", tmp_path / "pairs.jsonl")
    run("train", "bpe", *data, "--field", "pair.en", "--vocab-size", "400", "--out", bpe)
    made = run(
        *(
            "encode",
            "--tokenizer",
            f"english={bpe}",
            "--tokenizer",
            f"german={bpe}",
            *data,
            "--out",
            tmp_path / "shards",
        ),
        *("--field", "english=pair.en", "--field", "german=pair.de"),
    )
    assert (made["rows"], set(made["tokens"])) == (30, {"english", "german"})
    run(
        *("train", "transformer", "--shards", tmp_path / "shards", "--template", "english -> german", "--steps", "2"),
        *("--out", tmp_path / "model", "--model.layers", "1", "--model.width", "16", "--model.heads", "2"),
        *("--batch-size", "2", "--device", "cpu"),
    )
    said = run("generate", "--model", tmp_path / "model", "--prompt", pairs[2][0], "--out", tmp_path / "samples")
    (line,) = [json.loads(line) for line in (tmp_path / "samples" / "samples.jsonl").read_text().splitlines()]
    loaded = load_model(tmp_path / "model")
    grids = loaded.template.parse_ids(line["ids"], loaded.vocabulary)
    assert loaded.tokenizers["english"].decode(torch.from_numpy(grids["english"])) == pairs[2][0]
    assert said["texts"] == [loaded.tokenizers["german"].decode(torch.from_numpy(grids["german"]))]
