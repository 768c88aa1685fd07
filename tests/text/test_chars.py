"""Characters as ids: which ids, what comes back, and how a vocabulary is made."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.damage import read_unsigned

from tokenize_kit.protocol import RaggedEncoder, load_tokenizer
from tokenize_kit.tokenizers.text.chars import CharsTokenizer, TrainCharsOptions, train_chars

VALID = st.text(st.characters(exclude_categories=["Cs"]))


def by_hand(tokenizer, text):
    """What the ids must be, a character at a time."""
    ids = []
    for character in text:
        if character in tokenizer.characters:
            ids.append((1 if tokenizer.fallback == "unknown" else 256) + tokenizer.characters.index(character))
        else:
            ids += [0] if tokenizer.fallback == "unknown" else list(character.encode())
    return ids


def test_ids_follow_those_of_the_fallback():
    unknown, kept = CharsTokenizer("eäb"), CharsTokenizer("eäb", "bytes")
    assert unknown.encode("bee?ä€").tolist() == [3, 1, 1, 0, 2, 0]
    assert kept.encode("bee?ä€").tolist() == [258, 256, 256, 63, 257, 226, 130, 172]
    assert unknown.decode(torch.tensor([3, 1, 1, 0, 2, 0])) == "bee\ufffdä\ufffd"
    assert kept.decode(torch.tensor([258, 256, 256, 63, 257, 226, 130, 172])) == "bee?ä€"
    assert (unknown.spec.vocab_size, unknown.spec.step, unknown.spec.lossless) == (4, (1,), False)
    assert (kept.spec.vocab_size, kept.spec.step, kept.spec.lossless) == (259, (None,), True)


@settings(deadline=None)
@given(VALID, st.lists(st.characters(exclude_categories=["Cs"]), unique=True))
def test_with_bytes_every_text_comes_back(text, characters):
    tokenizer = CharsTokenizer("".join(characters), "bytes")
    ids = tokenizer.encode(text)
    assert ids.tolist() == by_hand(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.tokens(ids)) == text.encode()


@settings(deadline=None)
@given(st.lists(VALID | st.text("abcä€😀"), max_size=6), st.sampled_from(["unknown", "bytes"]))
def test_many_texts_at_once_give_what_one_by_one_gives(texts, fallback):
    tokenizer = CharsTokenizer("aä😀", fallback)
    assert isinstance(tokenizer, RaggedEncoder)
    expected = [by_hand(tokenizer, text) for text in texts]
    for form in (texts, pa.array(texts, pa.string()), pa.array(["x", *texts], pa.large_string())[1:]):
        values, lengths = tokenizer.encode_ragged(form)
        assert (values.dtype, lengths.dtype) == (np.uint32, np.int64)
        assert lengths.tolist() == [len(ids) for ids in expected]
        assert values.tolist() == [i for ids in expected for i in ids]


def test_bytes_that_a_model_samples_need_not_be_text():
    assert CharsTokenizer("a", "bytes").decode(torch.tensor([256, 0xC3, 256, 0xC3, 0xA4])) == "a\ufffdaä"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("aba",), "the character 'a' is twice in the vocabulary"),
        (("a\ud800",), "lone surrogate"),
        (("a", "byte"), "fallback 'byte' is not one of unknown, bytes"),
    ],
)
def test_wrong_vocabularies_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CharsTokenizer(*values)


def test_a_damaged_folder_is_refused_without_its_whole_vocabulary(tmp_path):
    CharsTokenizer("".join(map(chr, range(0x4E00, 0x5E00)))).save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(read_unsigned(path)).replace('"fallback"', '"fall"'))
    with pytest.raises(ValueError, match=r"are not those of a 'chars' tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert len(str(caught.value)) < 500


def test_it_can_be_sent_to_another_process_after_use():
    tokenizer = CharsTokenizer("ab")
    tokenizer.encode("abc")
    assert pickle.loads(pickle.dumps(tokenizer)).encode("abc").tolist() == [1, 2, 0]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("bbb aaa c€ d e", encoding="utf-8")
    return str(path)


def test_the_most_frequent_come_first_and_of_equals_the_lower_code_point(corpus, tmp_path):
    result = train_chars(TrainCharsOptions((corpus,), str(tmp_path / "out")))
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.characters == " abcde€"
    assert tokenizer.fallback == "bytes"
    assert (result.vocab_size, result.distinct, result.coverage) == (263, 7, 1.0)
    assert (result.documents, result.bytes_read) == (1, 16)
    assert result.fingerprint == tokenizer.fingerprint


def test_rare_characters_are_left_to_the_fallback(corpus, tmp_path):
    options = TrainCharsOptions((corpus,), str(tmp_path / "a"), "unknown", vocab_size=3)
    assert train_chars(options).coverage == 0.5
    assert load_tokenizer(tmp_path / "a").characters == " a"
    train_chars(TrainCharsOptions((corpus,), str(tmp_path / "b"), min_frequency=2))
    assert load_tokenizer(tmp_path / "b").characters == " ab"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 256}, "vocab_size 256 leaves no id for a character .* use 257"),
        ({"vocab_size": 1, "fallback": "unknown"}, "use 2 or more"),
        ({"min_frequency": -1}, "min_frequency -1 is negative"),
        ({"limit": 0}, "limit 0 is below 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainCharsOptions(("x",), "y", **options)


def test_nothing_to_count_and_a_folder_of_another_kind_are_refused(corpus, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="has no text to train on"):
        train_chars(TrainCharsOptions((str(tmp_path / "empty.txt"),), str(tmp_path / "out")))
    with pytest.raises(ValueError, match="is a file; give a folder to save the tokenizer in"):
        train_chars(TrainCharsOptions((corpus,), corpus))
