"""``train chars`` and ``train words`` the whole way: shards, checks, decoding, evaluation, a model, generation."""

import json

import pytest

from tokenize_kit.cli.main import main


def run(capsys, *words):
    code = main([*(str(word) for word in words), "--quiet", "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.parametrize(
    ("name", "options", "exact"),
    [
        ("chars", ["--fallback", "bytes", "--vocab-size", 300], True),
        ("chars", ["--fallback", "unknown"], True),
        ("words", ["--vocab-size", 100], False),
    ],
)
def test_the_whole_way(capsys, tmp_path, udhr_txt, name, options, exact):
    text = tmp_path / "some.txt"
    text.write_text("\n\n".join(udhr_txt.read_text(encoding="utf-8").split("\n\n")[:60]), encoding="utf-8")
    tokenizer, shards, model = tmp_path / "tokenizer", tmp_path / "shards", tmp_path / "model"
    trained = run(capsys, "train", name, "--data", text, "--out", tokenizer, *options)
    assert trained["bytes_read"] == len(text.read_bytes())
    encoded = run(capsys, "encode", "--tokenizer", tokenizer, "--data", text, "--split", "paragraphs", "--out", shards)
    assert encoded["rows"] == 60
    assert run(capsys, "verify", shards, "--tokenizer", tokenizer)["rows"] == 60
    run(capsys, "decode", "--shards", shards, "--tokenizer", tokenizer, "--out", tmp_path / "texts")
    decoded = [path.read_text(encoding="utf-8").strip("\n") for path in (tmp_path / "texts").rglob("*.txt")]
    assert len(decoded) == 60
    assert (sorted(decoded) == sorted(text.read_text(encoding="utf-8").strip("\n").split("\n\n"))) == exact
    measured = run(capsys, "evaluate", "--tokenizer", tokenizer, "--data", text, "--out", tmp_path / "evaluation")
    assert measured["fingerprint"] == trained["fingerprint"]
    steps = ["--preset", "tiny", "--steps", 3, "--batch-size", 2, "--context", 64, "--device", "cpu"]
    run(capsys, "train", "transformer", "--shards", shards, "--template", "text", "--out", model, *steps)
    made = run(capsys, "generate", "--model", model, "--prompt", "All human beings", "--out", tmp_path / "made")
    assert made["count"] == 1
