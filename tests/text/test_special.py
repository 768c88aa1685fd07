"""Special tokens in texts: text unless they are allowed, and then the ids of the public libraries, in any batch."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
import tiktoken
from test_text import write_ranks
from test_text_import import TIKTOKEN_PATTERNS, ranks_of
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from tokenize_kit.cli import main
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.recipe import Recipe
from tokenize_kit.tokenizers.text.bpe import BPETokenizer

CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|><|x|>")
FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
TALK = "<|im_start|>user\nWhat is  1+1? <|im_end|>\n<|im_start|>assistant\n It's 2.<|im_end|>"
TEXTS = [
    TALK,
    "",
    "plain text, no  token \n",
    "<|im_start|>",
    "<|im_start|><|im_end|>",
    " <|im_end|> ",
    "<|im_start|><|x|>a<|im_start|><|y|>",
    "<|im_start|",
    "<|im_",
    "start|> <|fim_prefix|>def f():\n  <|fim_suffix|>\n<|fim_middle|>return  1<|endoftext|>",
    "é<|im_end|>字\x00<|im_end|>\r\n\t <|im_end|>👍\u0301",
    "x" * 300 + "<|im_end|>" + " " * 40,
]


@pytest.fixture(scope="module")
def library(udhr_txt):
    """A tokenizer of the public library with the tokens of ChatML and of code to be filled in."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([udhr_txt.read_text(encoding="utf-8")[:40_000]], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*CHATML, *FIM)])
    return tokenizer


@pytest.fixture(scope="module")
def folder(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("special")
    library.save(str(folder / "tokenizer.json"))
    BPETokenizer.from_tokenizer_json(folder).save(folder / "bpe")
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return load_tokenizer(folder / "bpe")


def rows(tokenizer, texts):
    values, lengths = tokenizer.encode_ragged(texts)
    assert values.dtype == np.uint32
    assert lengths.dtype == np.int64
    assert len(lengths) == len(texts)
    return [part.tolist() for part in np.split(values, np.cumsum(lengths)[:-1])]


@pytest.mark.parametrize("fast", [True, False])
def test_all_special_tokens_have_the_ids_of_the_library_in_every_batch(library, folder, fast):
    ours = BPETokenizer(json.loads((folder / "tokenizer.json").read_text()), fast=fast)
    allowed = ours.allowing(ours.special_tokens)
    assert allowed.engine == ours.engine == ("gigatoken" if fast else "tokenizers")
    expected = [library.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert [allowed.encode(text).tolist() for text in TEXTS] == expected
    assert [ours.encode(text, allow_special=True).tolist() for text in TEXTS] == expected
    assert rows(allowed, TEXTS) == rows(allowed, pa.array(TEXTS, pa.large_string())) == expected
    assert rows(allowed, TEXTS[::-1]) == expected[::-1]
    assert [ids.tolist() for ids in allowed.encode_batch(TEXTS)] == expected
    assert [allowed.decode(ids) for ids in allowed.encode_batch(TEXTS)] == TEXTS
    assert (allowed.fingerprint, allowed.spec) == (ours.fingerprint, ours.spec)
    # The tokenizer itself is what it was.
    library.encode_special_tokens = True
    try:
        assert rows(ours, TEXTS) == [library.encode(text, add_special_tokens=False).ids for text in TEXTS]
    finally:
        library.encode_special_tokens = False


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_a_list_leaves_the_other_tokens_text_as_tiktoken_does(library, tmp_path, pattern):
    ranks = ranks_of(library, {*CHATML, *FIM})
    write_ranks(tmp_path / "x.tiktoken", ranks)
    # Where one token begins with another, that library does not try the shorter one.
    special = {token: len(ranks) + 3 + i for i, token in enumerate((*CHATML[:3], *FIM))}
    theirs = tiktoken.Encoding(
        "test", pat_str=TIKTOKEN_PATTERNS[pattern], mergeable_ranks=ranks, special_tokens=special
    )
    ours = BPETokenizer.from_tiktoken(tmp_path / "x.tiktoken", pattern, special)
    for chosen in (CHATML[:1], CHATML[:2], FIM, tuple(special)):
        allowed = ours.allowing(chosen)
        expected = [theirs.encode(text, allowed_special=set(chosen), disallowed_special=()) for text in TEXTS]
        assert rows(allowed, TEXTS) == expected
        assert [ours.encode(text, allow_special=chosen).tolist() for text in TEXTS] == expected


def test_tokens_that_take_the_white_space_around_them_are_left_to_the_reference(library, tmp_path):
    content = json.loads(library.to_str())
    for entry in content["added_tokens"]:
        entry |= {"lstrip": True, "single_word": entry["content"] == CHATML[1]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    allowed = BPETokenizer.from_tokenizer_json(tmp_path).allowing(CHATML)
    assert allowed.engine == "tokenizers"
    chat = [text for text in TEXTS if "fim" not in text]
    assert rows(allowed, chat) == [theirs.encode(text, add_special_tokens=False).ids for text in chat]


def test_a_token_that_there_is_not_is_refused_with_those_that_there_are(ours):
    with pytest.raises(
        ValueError, match=r"'<\|imstart\|>' is no special token .* <\|endoftext\|>.*did you mean '<\|im_start\|>'"
    ):
        ours.allowing(["<|imstart|>"])
    assert ours.allowing([]).encode(TALK).tolist() == ours.encode(TALK).tolist()


def run(capsys, *words):
    code = main([*map(str, words), "--quiet", "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if code == 0 else captured.err


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def test_encode_finds_what_the_user_allows_and_remembers_it(capsys, corpus, folder, ours, tmp_path):
    def encoded(name, *words):
        words = ("--tokenizer", folder / "bpe", "--data", corpus, "--out", tmp_path / name, *words)
        code, said = run(capsys, "encode", *words)
        assert code == 0, said
        manifest = json.loads((tmp_path / name / "dataset.json").read_text())
        shards = ShardSet.open(tmp_path / name)
        return [record.grids["text"].tolist() for record in shards.records()], manifest["options"].get("allow_special")

    plain = ours.encode_batch(TEXTS)
    assert encoded("plain") == ([ids.tolist() for ids in plain], None)
    everything = ours.allowing(ours.special_tokens)
    assert encoded("all", "--allow-special", "all") == ([everything.encode(text).tolist() for text in TEXTS], ["all"])
    some = ours.allowing(CHATML[:2])
    listed = ("--allow-special", CHATML[1], CHATML[0])
    assert encoded("some", *listed) == ([some.encode(text).tolist() for text in TEXTS], sorted(CHATML[:2]))
    # The order of the words is nothing, another set of them is another run.
    assert encoded("some", "--allow-special", CHATML[0], "--allow-special", CHATML[1])[1] == sorted(CHATML[:2])
    again = ("--tokenizer", folder / "bpe", "--data", corpus, "--out", tmp_path / "some")
    code, said = run(capsys, "encode", *again)
    assert (code, "allow_special" in said) == (1, True)
    code, said = run(capsys, "encode", *again[:-1], tmp_path / "x", "--allow-special", "<|imend|>")
    assert code == 1
    assert "'<|imend|>' is no special token" in said
    assert "'<|im_end|>'" in said
    assert not (tmp_path / "x").exists()
    code, estimate = run(capsys, "encode", *again[:-1], tmp_path / "x", "--allow-special", "all", "--dry-run")
    assert (code, estimate["tokens"]["text"]) == (0, sum(len(everything.encode(text)) for text in TEXTS))


def test_a_worker_is_told_of_it_and_recipes_without_it_are_as_before():
    from tokenize_kit.sources.planning import ReadOptions

    plain = Recipe(ReadOptions(), ())
    assert "allow_special" not in plain.to_dict()
    allowed = Recipe(ReadOptions(), (), allow_special=("<|a|>", "<|b|>"))
    assert Recipe.from_dict(json.loads(json.dumps(allowed.to_dict()))) == allowed
    assert Recipe.from_dict(json.loads(json.dumps(plain.to_dict()))) == plain


def test_compress_and_evaluate_find_them_too(capsys, folder, tmp_path, ours):
    (tmp_path / "talk.txt").write_text(TALK)
    words = ("compress", tmp_path / "talk.txt", tmp_path / "talk.tkc", "--overwrite", "--tokenizer", folder / "bpe")
    sizes = [run(capsys, *words, *more)[1]["bytes"] for more in ((), ("--allow-special", "all"))]
    assert sizes[1] < sizes[0]
    code, said = run(capsys, "decompress", tmp_path / "talk.tkc", tmp_path / "back.txt", "--tokenizer", folder / "bpe")
    assert code == 0, said
    assert (tmp_path / "back.txt").read_text() == TALK
    words = ("evaluate", "--tokenizer", folder / "bpe", "--data", tmp_path / "talk.txt", "--allow-special", *CHATML[:2])
    code, found = run(capsys, *words)
    assert (code, found["metrics"]["tokens"]) == (0, len(ours.allowing(CHATML[:2]).encode(TALK)))
    assert run(capsys, *words, "<|nothing|>")[0] == 1


def test_a_tokenizer_without_special_tokens_says_so(capsys, udhr_txt, tmp_path):
    assert run(capsys, "train", "chars", "--data", udhr_txt, "--limit", "1", "--out", tmp_path / "chars")[0] == 0
    words = ("encode", "--tokenizer", tmp_path / "chars", "--data", udhr_txt, "--out", tmp_path / "x")
    code, said = run(capsys, *words, "--allow-special", "all")
    assert (code, "has no special tokens" in said) == (1, True)


def test_a_trained_vocabulary_reserves_its_own(capsys, corpus, tmp_path):
    words = ("train", "bpe", "--data", corpus, "--vocab-size", "270", "--out", tmp_path / "bpe")
    assert run(capsys, *words, "--special-tokens", *CHATML[:3])[0] == 0
    tokenizer = load_tokenizer(tmp_path / "bpe")
    assert tokenizer.special_tokens == {token: i for i, token in enumerate(CHATML[:3])}
    assert tokenizer.encode(TALK, allow_special=True).tolist().count(1) == 2
    assert not {0, 1, 2} & set(tokenizer.encode(TALK).tolist())


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_allowed_tokens_are_not_learnt_in_pieces(capsys, tmp_path, engine):
    corpus, talks = tmp_path / "talks.jsonl", [TALK, f"{TALK}\n{TALK}", f"x{CHATML[2]}y"]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in talks))
    words = (
        "train",
        "bpe",
        "--data",
        corpus,
        "--vocab-size",
        "300",
        "--special-tokens",
        *CHATML[:3],
        "--engine",
        engine,
    )
    merged = {}
    for name, more in {"text": (), "all": ("--allow-special", "all"), "one": ("--allow-special", CHATML[0])}.items():
        code, said = run(capsys, *words, "--out", tmp_path / name, *more)
        assert code == 0, said
        tokenizer = load_tokenizer(tmp_path / name)
        merged[name] = {token for token in tokenizer._definition["model"]["vocab"] if token not in CHATML}
    learnt = {name: {"<|", "im", "start", "end", "|>"} & tokens for name, tokens in merged.items()}
    assert learnt == {"text": {"<|", "im", "start", "end", "|>"}, "all": set(), "one": {"<|", "im", "end", "|>"}}
    # As if the tokens stood between documents.
    split = tmp_path / "split.jsonl"
    parts = [part for text in talks for part in re.split("|".join(map(re.escape, CHATML[:3])), text)]
    split.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts))
    code, said = run(capsys, *words[:3], split, *words[4:], "--out", tmp_path / "split")
    assert code == 0, said
    assert load_tokenizer(tmp_path / "split").fingerprint == load_tokenizer(tmp_path / "all").fingerprint
    code, said = run(capsys, *words, "--out", tmp_path / "x", "--allow-special", "<|nothing|>")
    assert (code, "'<|nothing|>' is no special token" in said) == (1, True)
