"""Training BPE: merges and ids are those of `tokenizers`, from any kind of file, or one clear error."""

import dataclasses
import gzip
import io
import json
import random
import re
from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tokenizers import trainers as library_trainers

from tokenize_kit.errors import TooManyFailuresError
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.tokenizers.text import formats
from tokenize_kit.tokenizers.text.bpe import BPETokenizer
from tokenize_kit.tokenizers.text.chars import TrainCharsOptions, train_chars
from tokenize_kit.tokenizers.text.engines import Texts
from tokenize_kit.tokenizers.text.words import TrainWordsOptions, train_words
from trainers.bpe import merges as bpe
from trainers.bpe import train as text
from trainers.bpe.merges import learn_merges
from trainers.bpe.train import TrainBPEOptions, alphabet_order, train_bpe


@pytest.fixture(scope="module")
def corpus(udhr_txt, tmp_path_factory):
    """A file of 300 kB in many languages, with code and long runs."""
    lines = udhr_txt.read_text(encoding="utf-8").splitlines(keepends=True)[::4]
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(
        "".join([*lines, "x" * 3000, "\n", "=" * 500, " " * 700, "\n\n    def f(x):\n\treturn '1234567'\n"])
    )
    return path


def library_result(documents, vocab_size, pattern="gpt2", special=("<|endoftext|>",), min_frequency=0):
    """Train with `tokenizers` alone: its vocabulary and its merges."""
    tokenizer = Tokenizer(models.BPE())
    if pattern == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        from tokenizers import Regex

        split = pre_tokenizers.Split(Regex(formats.PATTERNS.get(pattern, pattern)), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    trainer = library_trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def result_in(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(
    ("pattern", "special", "min_frequency"),
    [
        ("gpt2", ("<|endoftext|>",), 1),
        ("gpt2", ("<s>", "the", "<pad token>", "<ünï>\u2603"), 4),
        ("cl100k", (), 0),
        ("o200k", ("<|a|>", "<|b|>"), 2),
        (r"\s+|\w+|[^\s\w]+", ("<|endoftext|>",), 1),
    ],
)
def test_vocabulary_and_merges_equal_the_library(corpus, tmp_path, engine, pattern, special, min_frequency):
    options = TrainBPEOptions(
        data=(str(corpus),),
        out=str(tmp_path / "out"),
        vocab_size=1200,
        pattern=pattern,
        special_tokens=special,
        min_frequency=min_frequency,
        engine=engine,
    )
    result = train_bpe(options)
    documents = Texts.joined(
        list(text.Corpus(options.data, options.field, text.PIECE_BYTES, None, None).blocks())
    ).strings()
    assert "".join(documents) == corpus.read_text()
    assert result_in(tmp_path / "out") == library_result(documents, 1200, pattern, special, min_frequency)
    assert result.engine == ("fast" if pattern == "gpt2" and engine == "auto" else "tokenizers")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.fingerprint == result.fingerprint
    assert tokenizer.special_tokens == {token: i for i, token in enumerate(special)}
    assert tokenizer.decode(tokenizer.encode(corpus.read_text())) == corpus.read_text()
    assert result.bytes_read == corpus.stat().st_size


def test_training_again_gives_the_same_bytes(corpus, tmp_path):
    for name in ("one", "two"):
        train_bpe(TrainBPEOptions(data=(str(corpus),), out=str(tmp_path / name), vocab_size=700))
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (tmp_path / "two/tokenizer.json").read_bytes()
    train_bpe(TrainBPEOptions(data=(str(corpus),), out=str(tmp_path / "one"), vocab_size=700))
    with pytest.raises(ValueError, match="already holds another tokenizer"):
        train_bpe(TrainBPEOptions(data=(str(corpus),), out=str(tmp_path / "one"), vocab_size=701))


def slow_merges(counts, vocab_size, special_tokens, alphabet, min_frequency=0):
    """Recount every pair before each merge; without the library's habits where two ways lead to one token."""
    tokens = [*special_tokens, *(bytes([byte]) for byte in alphabet)]
    ids = {token: i for i, token in enumerate(tokens)}
    words = [([ids[bytes([byte])] for byte in word], count) for word, count in counts.items()]
    pairs = []
    while len(tokens) < vocab_size:
        found = Counter()
        for word, count in words:
            for pair in pairwise(word):
                found[pair] += count
        if not found or max(found.values()) < max(1, min_frequency):
            break
        first, second = min(found, key=lambda pair: (-found[pair], pair))
        token = tokens[first] + tokens[second]
        if token in ids:
            return None
        pairs.append((first, second))
        ids[token] = len(tokens)
        tokens.append(token)
        for word, _ in words:
            at = 0
            while at + 1 < len(word):
                if word[at] == first and word[at + 1] == second:
                    word[at : at + 2] = [ids[token]]
                at += 1
    return tokens, pairs


@pytest.mark.parametrize("few", [0, 3, 100])
def test_merges_equal_plain_recounting(monkeypatch, few):
    monkeypatch.setattr(bpe, "_FEW", few)
    compared = 0
    for seed in range(40):
        chance = random.Random(seed)
        letters = chance.choice([b"ab", b"a", b"abc", b"abcdefgh"])
        counts = {}
        for _ in range(chance.choice([3, 30, 150])):
            word = bytes(chance.choice(letters) for _ in range(chance.randint(1, chance.choice([3, 12, 40]))))
            counts[word] = chance.randint(1, 9)
        vocab_size, least = 257 + chance.choice([2, 20, 60]), chance.choice([0, 2, 5])
        expected = slow_merges(counts, vocab_size, [b"<s>"], alphabet_order(), least)
        if expected is not None:
            compared += 1
            learnt = learn_merges(counts, vocab_size, [b"<s>"], alphabet_order(), least)
            assert (learnt.tokens, learnt.pairs) == expected
    assert compared > 25


@pytest.mark.parametrize("few", [0, 100])
def test_doubled_tokens_equal_the_library(monkeypatch, few):
    """Where two merges lead to one token the library queues pairs twice; its merges must come out all the same."""
    monkeypatch.setattr(bpe, "_FEW", few)
    doubled = 0
    for seed in range(60):
        chance = random.Random(seed)
        letters = chance.choice(["ab", "abc", "ab ="])
        words = ["".join(chance.choice(letters) for _ in range(chance.randint(1, 30))) for _ in range(120)]
        documents = [" ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
        special = chance.choice([(), ("ab", "<x>")])
        vocab, merges = library_result(documents, 1000, "gpt2", special)
        options = TrainBPEOptions(data=(), out="", special_tokens=special)
        counts = text._count_reference(Texts.of(documents))
        learnt = learn_merges(counts, 1000, text._special_bytes(options), alphabet_order())
        spelt = [formats.to_characters(token) for token in learnt.tokens]
        assert {token: i for i, token in enumerate(spelt)} == vocab
        assert [(spelt[first], spelt[second]) for first, second in learnt.pairs] == merges
        doubled += len(merges) > len(vocab) - 256 - len(special)
    assert doubled > 5


@settings(max_examples=60, deadline=None)
@given(documents=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=12))
def test_words_are_counted_as_the_library_does(documents):
    texts = Texts.of(documents)
    assert text._count_fast(texts) == text._count_reference(texts)


def test_new_characters_are_counted_as_the_library_does():
    texts = Texts.of(["a\U00032400b c", "plain words", "x\u088fy"])
    assert text._count_fast(texts) == text._count_reference(texts)


@pytest.mark.parametrize("when", ["at once", "later", "missing"])
def test_a_counter_that_differs_is_not_believed(monkeypatch, corpus, tmp_path, when):
    right = text._count_fast
    calls = []

    def wrong(texts):
        calls.append(len(texts))
        counts = right(texts)
        if when == "missing":
            return None
        # The gate asks for the probe and for a sample; after that the counts of real chunks are looked at.
        return counts if when == "later" and len(calls) <= 2 else {**counts, b"zz": 5}

    monkeypatch.setattr(text, "_count_fast", wrong)
    result = train_bpe(TrainBPEOptions(data=(str(corpus),), out=str(tmp_path / "out"), vocab_size=400))
    assert result.engine == "tokenizers"
    assert (
        result.documents
        == len(list(Texts.of([corpus.read_text()]).strings())) + corpus.stat().st_size // text.PIECE_BYTES
    )
    monkeypatch.undo()
    again = train_bpe(TrainBPEOptions(data=(str(corpus),), out=str(tmp_path / "fast"), vocab_size=400))
    assert (again.engine, again.fingerprint) == ("fast", result.fingerprint)


def test_every_kind_of_file_gives_the_same(corpus, tmp_path):
    lines = corpus.read_text().splitlines(keepends=True)
    rows = "".join(json.dumps({"body": line, "n": 1}, ensure_ascii=bool(i % 2)) + "\n" for i, line in enumerate(lines))
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "a.ndjson.zst").write_bytes(zstandard.compress(rows.encode()))
    pq.write_table(pa.table({"body": lines}), tmp_path / "a.parquet", row_group_size=100)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, part in enumerate([rows[: len(rows) // 2], rows[len(rows) // 2 :]]):
        # A line that is divided over two files would not be JSON, so the cut is moved to a border.
        head, newline, tail = part.partition("\n") if number else ("", "", part)
        (folder / f"{number}.jsonl").write_text(tail)
        if number:
            with (folder / "0.jsonl").open("a") as file:
                file.write(head + newline)
    found = set()
    for name in ("a.jsonl", "a.jsonl.gz", "a.ndjson.zst", "a.parquet", "folder", "folder/*.jsonl"):
        out = tmp_path / "out" / name.replace("/*", "-")
        result = train_bpe(
            TrainBPEOptions(data=(str(tmp_path / name),), out=str(out), vocab_size=500, field="body", pattern="gpt2")
        )
        assert result.documents == len(lines)
        found.add(result.fingerprint)
    assert len(found) == 1


def test_gz_and_zst_of_text(corpus, tmp_path):
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    (tmp_path / "b.txt.zst").write_bytes(zstandard.compress(corpus.read_bytes()))
    found = {
        train_bpe(TrainBPEOptions(data=(str(path),), out=str(tmp_path / f"{i}"), vocab_size=500)).fingerprint
        for i, path in enumerate([corpus, tmp_path / "b.txt.gz", tmp_path / "b.txt.zst"])
    }
    assert len(found) == 1


def test_limit(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"word{i} "}) + "\n" for i in range(100)))
    result = train_bpe(
        TrainBPEOptions(data=(str(tmp_path / "a.jsonl"),), out=str(tmp_path / "o"), vocab_size=300, limit=7)
    )
    assert result.documents == 7
    assert result.bytes_read == 7 * 6


def test_too_little_text_is_a_warning(tmp_path, capfd):
    (tmp_path / "a.txt").write_text("abcabc")
    result = train_bpe(TrainBPEOptions(data=(str(tmp_path / "a.txt"),), out=str(tmp_path / "out"), vocab_size=5000))
    assert result.vocab_size == 257 + 3
    assert "only 260 tokens of the 5000" in result.warnings[0]
    assert json.loads(json.dumps(result.to_dict()))["vocab_size"] == 260
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(bytes(range(256)))) == bytes(range(256))
    # Native code reports to the streams of the process behind Python's back.
    assert capfd.readouterr() == ("", "")


def test_a_file_without_spaces_trains_in_time(tmp_path):
    chance = random.Random(0)
    (tmp_path / "a.txt").write_text("".join(chance.choice("acgt") for _ in range(1_000_000)))
    result = train_bpe(TrainBPEOptions(data=(str(tmp_path / "a.txt"),), out=str(tmp_path / "out"), vocab_size=600))
    assert result.engine == "fast"
    assert result.vocab_size == 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 256}, "vocab_size 256 is below the 256 bytes and the special tokens; use 257"),
        ({"pattern": "gpt5"}, "'gpt5' is not one of gpt2, cl100k, o200k"),
        ({"pattern": "(open"}, "no valid regex"),
        ({"special_tokens": ("",)}, "a special token is empty"),
        ({"special_tokens": ("Ġthe",)}, "looks like bytes"),
        ({"special_tokens": ("a",)}, "looks like bytes"),
        ({"min_frequency": -1}, "min_frequency -1"),
        ({"limit": 0}, "limit 0"),
    ],
)
def test_wrong_options(corpus, tmp_path, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        train_bpe(TrainBPEOptions(data=(str(corpus),), out=str(tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists()


BAD_FILES = {
    "b.jsonl": (b'{"text": "some words"}\n\nnope\n', 1, r"b.jsonl@24: not JSON"),
    "c.jsonl": (b'{"text": "some words"}\n{"body": "x", "n": 1}\n', 1, "c.jsonl@23: no field 'text'; it has body, n"),
    "d.jsonl": (b'{"text": "\\ud800"}\n', 0, "d.jsonl@0: field 'text' has a lone surrogate"),
    "e.txt": (b"abc\n\xff", 0, "e.txt: not UTF-8 text: byte 0xff at offset 4"),
    "f.jsonl.gz": (gzip.compress(b'{"text": "some words"}\n' * 3)[:-4], 3, "f.jsonl.gz: the file is damaged"),
    "g.txt.gz": (gzip.compress(b"abc" * 1000)[:-20], 0, "g.txt.gz: the file is damaged"),
    "h.csv": (b"text,n\nsome words,1\nx\n", 1, "h.csv@20: it has 1 fields"),
}
TRAINERS = {
    train_bpe: lambda **given: TrainBPEOptions(**given, vocab_size=260),
    train_chars: TrainCharsOptions,
    train_words: TrainWordsOptions,
}


@pytest.mark.parametrize("train", TRAINERS)
@pytest.mark.parametrize("name", BAD_FILES)
def test_what_cannot_be_read_is_left_out_told_and_counted(tmp_path, train, name):
    data, documents, words = BAD_FILES[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in" / "picture.png").write_bytes(b"no text")
    options = TRAINERS[train](data=(str(tmp_path / "in"),), out=str(tmp_path / "out"))
    said = io.StringIO()
    if not documents:
        with pytest.raises(
            TooManyFailuresError, match=re.escape(f"none of 1 documents can be read, the last is {words}")
        ):
            train(options)
        assert not (tmp_path / "out").exists()
        return
    result = train(options, Progress(stream=said))
    assert (result.documents, result.failures, result.to_dict()["failures"]) == (documents, 1, 1)
    assert said.getvalue().count(f"left out {words}") == 1
    assert said.getvalue().count("not read: 1 .png (picture.png)") == 1
    with pytest.raises(TooManyFailuresError, match="more than 0 documents cannot be read"):
        train(dataclasses.replace(options, max_failures=0, out=str(tmp_path / "other")))


def test_a_null_in_a_parquet_does_not_end_the_training(tmp_path):
    texts = [f"text number {number}" for number in range(20)]
    pq.write_table(pa.table({"text": [*texts[:10], None, *texts[10:]]}), tmp_path / "a.parquet")
    options = TrainBPEOptions(data=(str(tmp_path / "a.parquet"),), out=str(tmp_path / "out"), vocab_size=280)
    result = train_bpe(options)
    assert (result.documents, result.failures) == (20, 1)
    assert result.bytes_read == sum(map(len, texts))


def test_a_field_that_is_nowhere_is_said_at_once_and_no_text_too(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n' * 5)
    (tmp_path / "empty.txt").write_text("")
    for name, words in (("a.jsonl", "has no field 'text'; it has body"), ("empty.txt", "no text")):
        for train, make in TRAINERS.items():
            with pytest.raises(ValueError, match=words):
                train(make(data=(str(tmp_path / name),), out=str(tmp_path / "out")))


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train_bpe(TrainBPEOptions(data=(str(tmp_path / "nowhere"),), out=str(tmp_path / "out")))


def test_another_tokenizer_in_the_way(corpus, tmp_path):
    from tokenize_kit.tokenizers.image.pixels import PixelTokenizer

    PixelTokenizer(channels=3).save(tmp_path / "out")
    with pytest.raises(ValueError, match="already holds another tokenizer"):
        train_bpe(TrainBPEOptions(data=(str(corpus),), out=str(tmp_path / "out")))


def test_trained_tokenizers_are_fast(corpus, tmp_path):
    train_bpe(TrainBPEOptions(data=(str(corpus),), out=str(tmp_path / "out"), vocab_size=400))
    assert BPETokenizer.load(tmp_path / "out").engine == "gigatoken"
