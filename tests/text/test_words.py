"""Words as ids: how texts are divided, what comes back, and how a vocabulary is made."""

import re
import unicodedata
from collections import Counter

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenize_kit.protocol import RaggedEncoder, load_tokenizer
from tokenize_kit.tokenizers.text.engines import Texts
from tokenize_kit.tokenizers.text.words import TrainWordsOptions, WordsTokenizer, divided, train_words

TEXT = st.text(st.sampled_from("abЖह\u093f é7_'\u2019\u200d.,(-人\u4dff😀\ufe0f\n\t\u00a0 "), max_size=40)


def kind(character):
    """word, space or other; slow and obvious."""
    category = unicodedata.category(character)
    if character.isspace():
        return "space"
    ideograph = 0x4E00 <= ord(character) < 0xA000 or 0x3400 <= ord(character) < 0x4DC0 or ord(character) >= 0x20000
    return "word" if (category[0] in "LMN" or category == "Pc") and not ideograph else "other"


def by_hand(text):
    """The words, marks and white space of a text as the ids name them: (what, whether it is joined)."""
    units, inside = [], False
    for place, character in enumerate(text):
        around = 0 < place < len(text) - 1 and kind(text[place - 1]) == kind(text[place + 1]) == "word"
        if kind(character) == "word" or (character in "'\u2019\u200c\u200d" and around):
            units = [*units[:-1], units[-1] + character] if inside else [*units, character]
            inside = True
        else:
            units, inside = [*units, character], False
    kinds = ["word" if kind(unit[0]) == "word" else kind(unit) for unit in units]
    found = []
    for place, unit in enumerate(units):
        before = kinds[place - 1] if place else "begin"
        after = kinds[place + 1] if place + 1 < len(units) else "end"
        if unit == " " and before in ("word", "other") and after == "word":
            continue
        found.append((unit, kinds[place] == "word" and before == "other"))
    return found


def vocabulary(*texts):
    return WordsTokenizer(sorted({unit for text in texts for unit, _ in by_hand(text)}))


def test_a_sentence_as_the_module_shows_it():
    text = 'He said: "Don\'t  go."'
    tokenizer = WordsTokenizer(["He", "said", ":", " ", '"', "Don't", "go", "."])
    assert tokenizer.encode(text).tolist() == [2, 3, 4, 5, 6, 1, 7, 5, 5, 8, 9, 6]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokens(tokenizer.encode("said go")) == [b"said", b" go"]
    assert (tokenizer.spec.vocab_size, tokenizer.spec.step, tokenizer.spec.lossless) == (10, (None,), False)


@settings(deadline=None)
@given(TEXT)
def test_known_words_come_back_with_their_white_space(text):
    tokenizer = vocabulary(text)
    ids = tokenizer.encode(text)
    expected = []
    for unit, joined in by_hand(text):
        expected += [1] * joined + [2 + tokenizer.words.index(unit)]
    assert ids.tolist() == expected
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.tokens(ids)) == text.encode()


@settings(deadline=None)
@given(st.lists(TEXT, max_size=5), TEXT, st.booleans())
def test_many_texts_at_once_give_what_one_by_one_gives(texts, known, lowercase):
    tokenizer = WordsTokenizer(vocabulary(known).words, lowercase)
    assert isinstance(tokenizer, RaggedEncoder)
    expected = [tokenizer.encode(text).tolist() for text in texts]
    for form in (texts, pa.array(["x", *texts], pa.large_string())[1:]):
        values, lengths = tokenizer.encode_ragged(form)
        assert lengths.tolist() == [len(ids) for ids in expected]
        assert values.tolist() == [i for ids in expected for i in ids]


@settings(deadline=None)
@given(st.lists(TEXT, max_size=5))
def test_the_parts_of_texts_joined_are_the_texts(texts):
    parts = divided(Texts.of(texts))
    words = parts.words.to_pylist()
    for text, start, stop in zip(texts, parts.offsets[:-1], parts.offsets[1:], strict=True):
        assert "".join(words[start:stop]) == text


def test_unknown_words_are_lost_but_not_their_places():
    tokenizer = WordsTokenizer(["a", ",", "b"])
    assert tokenizer.encode("a xyz, b?").tolist() == [2, 0, 3, 4, 0]
    assert tokenizer.decode(tokenizer.encode("a xyz, b?")) == "a <unk>, b <unk>"


def test_case_is_folded_where_it_is_asked_for():
    tokenizer = WordsTokenizer(["straße", "É", "é"], lowercase=True)
    assert tokenizer.encode("Straße É é").tolist() == [2, 4, 4]
    assert WordsTokenizer(tokenizer.words).encode("Straße É é").tolist() == [0, 3, 4]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=10))
def test_whatever_a_model_samples_is_a_text(ids):
    tokenizer = WordsTokenizer([" ", ".", "a"])
    text = tokenizer.decode(torch.tensor(ids, dtype=torch.int64))
    assert len(re.findall("<unk>", text)) == ids.count(0)
    assert text.count("a") == ids.count(4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", ""], "'', which is no word"),
        (["a", 3], "3, which is no word"),
        (["a", "b", "a"], "the word 'a' is twice"),
        (["\ud800"], "lone surrogate"),
    ],
)
def test_wrong_vocabularies_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        WordsTokenizer(words)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("b a, B a. c b\nThe b", encoding="utf-8")
    return str(path)


def test_the_most_frequent_come_first_and_of_equals_the_lower_code_point(corpus, tmp_path):
    result = train_words(TrainWordsOptions((corpus,), str(tmp_path / "out")))
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.words == ("b", "a", "\n", ",", ".", "B", "The", "c")
    assert (result.vocab_size, result.distinct, result.coverage) == (10, 8, 1.0)
    assert (result.documents, result.bytes_read, result.fingerprint) == (1, 19, tokenizer.fingerprint)
    assert tokenizer.decode(tokenizer.encode("The b a.")) == "The b a."


def test_size_frequency_and_case_decide_what_is_known(corpus, tmp_path):
    assert train_words(TrainWordsOptions((corpus,), str(tmp_path / "a"), vocab_size=4)).coverage == 0.454545
    assert load_tokenizer(tmp_path / "a").words == ("b", "a")
    train_words(TrainWordsOptions((corpus,), str(tmp_path / "b"), lowercase=True, min_frequency=2))
    assert load_tokenizer(tmp_path / "b").words == ("b", "a")
    assert load_tokenizer(tmp_path / "b").lowercase


def test_counts_are_those_of_the_plain_way(udhr_txt, tmp_path):
    text = "".join(udhr_txt.read_text(encoding="utf-8").splitlines(keepends=True)[::40])
    path = tmp_path / "some.txt"
    path.write_text(text, encoding="utf-8")
    counts = Counter(unit for unit, _ in by_hand(text))
    result = train_words(TrainWordsOptions((str(path),), str(tmp_path / "out"), vocab_size=10**6))
    expected = sorted(counts, key=lambda word: (-counts[word], word))
    assert load_tokenizer(tmp_path / "out").words == tuple(expected)
    assert result.distinct == len(counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 2}, "vocab_size 2 leaves no id for a word; use 3"),
        ({"min_frequency": -1}, "min_frequency -1 is negative"),
        ({"limit": 0}, "limit 0 is below 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainWordsOptions(("x",), "y", **options)
