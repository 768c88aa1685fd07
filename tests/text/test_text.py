"""BPETokenizer: what goes in comes out, ids are those of the public libraries, and hard input is served or refused."""

import json
import multiprocessing
import os
import random
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.tokenizers.text import engines, formats
from tokenize_kit.tokenizers.text.bpe import BPETokenizer

SPECIAL = "<|endoftext|>"
HARD_TEXTS = [
    "",
    " ",
    "\x00\x00a\x00",
    "שלום עולם ‏(rtl)‎ مرحبا بالعالم",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd",
    "e\u0301 \ufeff \u2028 \x85 \uffff \U0010ffff",
    "\r\n\r\n\t  \u3000\xa0 x",
    f"a{SPECIAL}b {SPECIAL}{SPECIAL}",
]


def library_tokenizer(texts, pattern, vocab_size=600, special=(SPECIAL,)):
    """Train with `tokenizers` alone."""
    tokenizer = Tokenizer(models.BPE())
    splitter = json.loads(json.dumps(formats.pre_tokenizer(pattern)))
    tokenizer.decoder = decoders.ByteLevel()
    if pattern == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        from tokenizers import Regex

        regex = splitter["pretokenizers"][0]["pattern"]["Regex"]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(regex), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def paragraphs(udhr_txt):
    return udhr_txt.read_text(encoding="utf-8").splitlines(keepends=True)[::7]


@pytest.fixture(scope="module", params=["gpt2", "cl100k", "o200k", r"\s+|\w+|[^\s\w]+"])
def pair(request, paragraphs, tmp_path_factory):
    """Our tokenizer and the library's, of one vocabulary."""
    library = library_tokenizer(paragraphs, request.param)
    path = tmp_path_factory.mktemp("library") / "tokenizer.json"
    library.save(str(path))
    library.encode_special_tokens = True
    return BPETokenizer.from_tokenizer_json(path), library


@pytest.fixture(scope="module")
def tokenizer(paragraphs, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    library_tokenizer(paragraphs, "gpt2").save(str(path))
    return BPETokenizer.from_tokenizer_json(path)


def test_ids_equal_the_library(pair, paragraphs):
    ours, library = pair
    for text in [*paragraphs, *HARD_TEXTS, "".join(paragraphs)]:
        assert ours.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text


def test_fast_engine_serves_the_named_patterns(pair):
    ours, _ = pair
    custom = r"\\w+|[^" in json.dumps(ours._definition["pre_tokenizer"])
    assert ours.engine == ("tokenizers" if custom else "gigatoken")


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_engines_agree_on_every_character(pattern):
    """Both packages have tables of letters, numbers and spaces; a difference would show in how text is divided.

    The merges join ``a``, ``A`` and ``1`` with the first byte of a character behind them, and ``a`` with the last byte of
    the one before, so the ids show whether there is a border.
    """
    vocab = {character: i for i, character in enumerate(formats.byte_alphabet())}
    merges = []
    for byte in range(0x80, 0xF5):
        character = formats.to_characters(bytes([byte]))
        merges += [("a", character), ("A", character), ("1", character)] if byte >= 0xC2 else [(character, "a")]
    vocab |= {left + right: 256 + i for i, (left, right) in enumerate(merges)}
    content = formats.dump_definition(formats.make_definition(vocab, merges, pattern, {}))
    reference = engines.Reference(content)
    fast = engines.GigaToken(content, reference)
    # The long blocks of Han, Hangul and Tangut are looked at only at their borders.
    blocks = [(0, 0x3410), (0x4DB0, 0x4E10), (0x9FF0, 0xAC10), (0xD790, 0xD800), (0xE000, 0xE010), (0xF8F0, 0x17010)]
    blocks += [(0x187E0, 0x20010), (0x2A6D0, 0x2A710), (0x2FA00, 0x30010), (0x31340, 0x31360), (0xE0000, 0xE0200)]
    points = [point for start, stop in blocks for point in range(start, stop)]
    texts = engines.Texts.of([f"a{chr(p)}a A{chr(p)}a1{chr(p)}1{chr(p)}{chr(p)}" for p in points])
    unassigned = texts.unassigned()
    assert unassigned[:0x800].sum() < 60
    assert unassigned.mean() < 0.6
    known = texts.only(~unassigned)
    values, lengths = fast.encode_ragged(known)
    expected, expected_lengths = reference.encode_ragged(known)
    assert np.array_equal(lengths, expected_lengths)
    assert np.array_equal(values, expected)


def test_unassigned_characters_are_those_of_the_reference():
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    split = Split(Regex(r"\p{Cn}"), "removed")
    # Every character of the first planes' scripts in turn, and a few of each block of 64 beyond them.
    points = [*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x10000, 3), *range(0x10000, 0x110000, 61)]
    characters = [chr(point) for point in points if not 0xD800 <= point < 0xE000]
    found = engines.Texts.of([f"é{character}字" for character in characters]).unassigned()
    expected = [not split.pre_tokenize_str(character) for character in characters]
    assert 1000 < sum(expected) < len(expected) - 1000
    assert found.tolist() == expected


def test_a_text_with_a_new_character_goes_to_the_reference(monkeypatch, tokenizer):
    asked = []
    whole = engines.Reference.encode_ragged
    monkeypatch.setattr(engines.Reference, "encode_ragged", lambda s, t: asked.append(len(t)) or whole(s, t))
    assert tokenizer.engine == "gigatoken"
    asked.clear()
    texts = ["plain", "a\U00032400b", "x\u0379", "also plain", "\U0001f600 字"]
    values, lengths = tokenizer.encode_ragged(texts)
    assert asked == [2]
    assert values.tolist() == [i for text in texts for i in tokenizer.encode(text).tolist()]
    assert lengths.tolist() == [len(tokenizer.encode(text)) for text in texts]


def test_gate_refuses_an_engine_that_differs(monkeypatch, tokenizer, paragraphs):
    class Wrong(engines.GigaToken):
        def encode_ragged(self, texts):
            values, lengths = super().encode_ragged(texts)
            values = values.copy()
            values[-1] += 1
            return values, lengths

    monkeypatch.setattr(engines, "GigaToken", Wrong)
    other = BPETokenizer(tokenizer._definition)
    assert other.engine == "tokenizers"
    assert torch.equal(other.encode(paragraphs[0]), tokenizer.encode(paragraphs[0]))


def test_gate_refuses_an_engine_whose_single_path_differs(monkeypatch, tokenizer):
    class Wrong(engines.GigaToken):
        def encode(self, text):
            return super().encode(text)[:-1]

    monkeypatch.setattr(engines, "GigaToken", Wrong)
    assert BPETokenizer(tokenizer._definition).engine == "tokenizers"


def test_gate_is_quick(tokenizer):
    definition = formats.without_special(tokenizer._definition, tokenizer._added)
    assert sum(len(text.encode()) for text in engines.probe_texts(definition)) < 100_000


def test_special_tokens_are_text_unless_asked_for(pair):
    ours, library = pair
    text = f"one {SPECIAL} two"
    special = ours.special_tokens[SPECIAL]
    assert special not in ours.encode(text).tolist()
    assert special not in ours.encode_batch([text])[0].tolist()
    library.encode_special_tokens = False
    asked = ours.encode(text, allow_special=True)
    assert asked.tolist() == library.encode(text, add_special_tokens=False).ids
    library.encode_special_tokens = True
    assert asked.tolist().count(special) == 1
    assert ours.decode(asked) == text


def test_a_special_word_is_text_even_where_merges_are_ignored(tmp_path):
    """With `ignore_merges` a whole word that is in the vocabulary is taken as it is, special or not."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    path = tmp_path / "small.tiktoken"
    write_ranks(path, ranks)
    ours = BPETokenizer.from_tiktoken(path, "cl100k", {"PAD": 300})
    assert ours.encode("PAD").tolist() == [ord("P"), ord("A"), ord("D")]
    assert ours.encode("PAD", allow_special=True).tolist() == [300]
    assert ours.spec.vocab_size == 301


def test_batches_equal_single_texts(pair, paragraphs):
    ours, _ = pair
    texts = [*HARD_TEXTS, *paragraphs[:50], ""]
    single = [ours.encode(text) for text in texts]
    assert all(torch.equal(a, b) for a, b in zip(ours.encode_batch(texts), single, strict=True))
    assert ours.decode_batch(single) == texts
    values, lengths = ours.encode_ragged(texts)
    assert values.dtype == np.uint32
    assert lengths.dtype == np.int64
    assert values.tolist() == torch.cat(single).tolist()
    assert lengths.tolist() == [len(ids) for ids in single]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_arrow_arrays_and_their_slices(tokenizer, kind):
    texts = ["", "one", "zwei", "", "три", "四"]
    array = pa.array(texts, type=kind)
    for part in (array, array.slice(2, 3), array.slice(1, 0), pa.chunked_array([array.slice(0, 2), array.slice(2)])):
        values, lengths = tokenizer.encode_ragged(part)
        expected, expected_lengths = tokenizer.encode_ragged(part.to_pylist())
        assert values.tolist() == expected.tolist()
        assert lengths.tolist() == expected_lengths.tolist()


def test_no_texts(tokenizer):
    assert tokenizer.encode_batch([]) == []
    for nothing in ([], pa.array([], type=pa.string()), pa.array([""])):
        values, lengths = tokenizer.encode_ragged(nothing)
        assert values.tolist() == []
        assert lengths.tolist() == [0] * len(nothing)
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode(torch.zeros(0, dtype=torch.int64)) == ""


def test_wrong_samples_are_refused(tokenizer):
    with pytest.raises(TypeError, match="got bytes"):
        tokenizer.encode(b"x")
    with pytest.raises(TypeError, match="text 1 is a int"):
        tokenizer.encode_batch(["a", 1])
    with pytest.raises(TypeError, match="text 1 is a int"):
        tokenizer.encode_ragged(["a", 1])
    with pytest.raises(TypeError, match="got one str"):
        tokenizer.encode_ragged("abc")
    with pytest.raises(TypeError, match="int64"):
        tokenizer.encode_ragged(pa.array([1]))
    with pytest.raises(ValueError, match="text 1 is null"):
        tokenizer.encode_ragged(pa.array(["a", None]))


def test_lone_surrogates_are_refused_with_their_position(tokenizer):
    with pytest.raises(ValueError, match=r"U\+D83D at position 2"):
        tokenizer.encode("ab\ud83d")
    with pytest.raises(ValueError, match=r"text 1 has a lone surrogate U\+DC00 at position 1"):
        tokenizer.encode_ragged(["fine", "x\udc00"])
    with pytest.raises(ValueError, match="text 0 has a lone surrogate"):
        tokenizer.encode_batch(["\udfff"])


def test_wrong_ids_are_refused(tokenizer):
    size = tokenizer.spec.vocab_size
    with pytest.raises(ValueError, match=str(size)):
        tokenizer.decode(torch.tensor([size]))
    with pytest.raises(ValueError, match="-1"):
        tokenizer.decode_bytes(torch.tensor([-1]))
    with pytest.raises(ValueError, match="axes"):
        tokenizer.decode(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(TypeError):
        tokenizer.decode(torch.tensor([0.5]))


def test_every_sequence_of_ids_decodes(tokenizer):
    ids = torch.randint(0, tokenizer.spec.vocab_size, (2000,), generator=torch.Generator().manual_seed(0))
    assert isinstance(tokenizer.decode(ids), str)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_round_trip(tokenizer, data):
    ids = tokenizer.encode_bytes(data)
    assert ids.dtype == torch.int64
    assert tokenizer.decode_bytes(ids) == data
    assert b"".join(tokenizer.tokens(ids)) == data


def test_valid_bytes_are_encoded_as_text(tokenizer, paragraphs):
    text = paragraphs[3]
    assert torch.equal(tokenizer.encode_bytes(text.encode()), tokenizer.encode(text))
    mixed = b"caf\xc3\xa9 \xff\xfe tail"
    parts = [tokenizer.encode("café "), tokenizer.encode_bytes(b"\xff"), tokenizer.encode_bytes(b"\xfe")]
    assert tokenizer.encode_bytes(mixed).tolist() == torch.cat([*parts, tokenizer.encode(" tail")]).tolist()
    noise = random.Random(0).randbytes(300_000)
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(noise)) == noise


def test_a_vocabulary_without_all_bytes(tmp_path):
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(["abc abc"], trainers.BpeTrainer(vocab_size=20, show_progress=False))
    library.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.from_tokenizer_json(tmp_path)
    assert not ours.spec.lossless
    assert ours.decode(ours.encode("abc")) == "abc"
    for refused in (lambda: ours.encode("abd"), lambda: ours.encode_ragged(["abd"]), lambda: ours.encode_bytes(b"d")):
        with pytest.raises(ValueError, match="no token for byte 0x64"):
            refused()


def test_a_normalizer_is_kept_and_makes_it_lossy(tmp_path, paragraphs):
    library = library_tokenizer(paragraphs[:100], "gpt2")
    library.normalizer = normalizers.Lowercase()
    library.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.from_tokenizer_json(tmp_path)
    assert ours.engine == "tokenizers"
    assert not ours.spec.lossless
    assert ours.decode(ours.encode("ABC Def")) == "abc def"
    with pytest.raises(ValueError, match="normalizer"):
        ours.encode_bytes(b"ABC")


def test_a_loaded_tokenizer_is_saved_as_it_was_spelled(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    path = tmp_path / "t" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    # A folder from before there were sums may have been laid out by hand.
    config = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    del config["sha256"], config["own_digest"]
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(config))
    load_tokenizer(tmp_path / "t").save(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == path.read_bytes()


def test_save_and_load(tokenizer, tmp_path, paragraphs):
    tokenizer.save(tmp_path / "t")
    again = load_tokenizer(tmp_path / "t")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.spec == tokenizer.spec
    assert torch.equal(again.encode(paragraphs[5]), tokenizer.encode(paragraphs[5]))
    again.save(tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").read_bytes() == (tmp_path / "t/tokenizer.json").read_bytes()


def test_a_changed_file_is_noticed(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    definition = json.loads((tmp_path / "t/tokenizer.json").read_text())
    definition["model"]["merges"].pop()
    (tmp_path / "t/tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ValueError, match="changed after it was saved"):
        load_tokenizer(tmp_path / "t")
    (tmp_path / "t/tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="changed after it was saved"):
        load_tokenizer(tmp_path / "t")
    (tmp_path / "t/tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "t")


def change(definition, name):
    definition = json.loads(json.dumps(definition))
    if name == "merges":
        definition["model"]["merges"].pop()
    elif name == "vocab":
        definition["model"]["vocab"]["zzzzzz"] = 5000
    elif name == "pattern":
        definition["pre_tokenizer"] = formats.pre_tokenizer("cl100k")
    elif name == "special":
        definition["added_tokens"][0]["special"] = False
    elif name == "normalizer":
        definition["normalizer"] = {"type": "NFC"}
    elif name == "ignore_merges":
        definition["model"]["ignore_merges"] = True
    elif name == "order":
        definition = dict(reversed(definition.items()))
    return definition


@pytest.mark.parametrize("name", ["merges", "vocab", "pattern", "special", "normalizer", "ignore_merges"])
def test_fingerprint_sees_what_determines_ids(tokenizer, name):
    assert BPETokenizer(change(tokenizer._definition, name)).fingerprint != tokenizer.fingerprint


def test_fingerprint_does_not_see_spelling(tokenizer):
    assert BPETokenizer(change(tokenizer._definition, "order")).fingerprint == tokenizer.fingerprint


def write_ranks(path, ranks):
    import base64

    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))


RUNS = ["a", " ", "\n", "字", "=", "1", "\U0001f600"]


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "reference"])
@pytest.mark.parametrize("pattern", ["gpt2", "o200k"])
def test_a_megabyte_of_one_character_takes_linear_time(paragraphs, pattern, fast):
    """Four times as much text may take ten times as long here; quadratic work would take sixteen times, and minutes."""
    library = library_tokenizer([*paragraphs[:200], *(c * 500 for c in RUNS)], pattern, vocab_size=800)
    ours = BPETokenizer(json.loads(library.to_str()), fast=fast)
    ours.encode("warm up")
    for character in RUNS:
        took = []
        for size in (250_000, 1_000_000):
            text = character * (size // len(character.encode()))
            began = time.process_time()
            ids = ours.encode(text)
            took.append(time.process_time() - began)
            assert ours.decode(ids) == text
        assert took[1] < 10 * took[0] + 1.0, f"{character!r}: {took}"


def _ids_in_child(folder, text, queue):
    queue.put(load_tokenizer(folder).encode_ragged([text])[0].tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_ids(tokenizer, tmp_path, paragraphs, method):
    tokenizer.save(tmp_path / "t")
    text = "".join(paragraphs[:300])
    # The parent has used its threads before, which is where a fork may hang.
    expected = tokenizer.encode_ragged([text, *paragraphs[:300]])[0][: len(tokenizer.encode(text))].tolist()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_ids_in_child, args=(tmp_path / "t", text, queue))
    child.start()
    try:
        assert queue.get(timeout=120) == expected
    finally:
        child.join(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_engine_that_was_used_works_after_a_fork(tokenizer, paragraphs):
    expected = tokenizer.encode_ragged(paragraphs)[0].tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(tokenizer.encode_ragged(paragraphs)[0].tolist()))
    child.start()
    try:
        assert queue.get(timeout=60) == expected
    finally:
        child.join(30)


def test_transformers_opens_the_folder(tokenizer, tmp_path, paragraphs, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer.save(tmp_path / "t")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "t"))
    plain = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "t/tokenizer.json"))
    for text in [*paragraphs[:40], *(text for text in HARD_TEXTS if SPECIAL not in text)]:
        expected = tokenizer.encode(text).tolist()
        assert theirs(text, add_special_tokens=False).input_ids == expected
        assert plain(text, add_special_tokens=False).input_ids == expected
    assert len(theirs) == tokenizer.spec.vocab_size
    assert theirs(SPECIAL).input_ids == [tokenizer.special_tokens[SPECIAL]]


def test_tokenizers_opens_the_folder(tokenizer, tmp_path, paragraphs):
    tokenizer.save(tmp_path / "t")
    library = Tokenizer.from_file(str(tmp_path / "t/tokenizer.json"))
    for text in paragraphs[:40]:
        assert library.encode(text).ids == tokenizer.encode(text).tolist()
        assert library.decode(tokenizer.encode(text).tolist()) == text
