"""Vocabularies of others keep their ids; what is not byte-level BPE, or is damaged, is refused with one clear line."""

import json
import random

import pytest
from test_text import SPECIAL, library_tokenizer, write_ranks
from tokenizers import Tokenizer, models, pre_tokenizers

from tokenize_kit.tokenizers.text import formats
from tokenize_kit.tokenizers.text.bpe import BPETokenizer

tiktoken = pytest.importorskip("tiktoken")

# tiktoken's own spelling of its patterns: https://github.com/openai/tiktoken/blob/main/tiktoken_ext/openai_public.py
TIKTOKEN_PATTERNS = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"""
    r"""\s*[\r\n]|\s+(?!\S)|\s""",
    "o200k": formats.PATTERNS["o200k"],
    r"\s+|\w+|[^\s\w]+": r"\s+|\w+|[^\s\w]+",
}


@pytest.fixture(scope="module")
def texts(udhr_txt):
    lines = udhr_txt.read_text(encoding="utf-8").splitlines(keepends=True)[::5]
    code = [line + "\n" for line in __import__("inspect").getsource(json.JSONEncoder).split("\n")]
    chance = random.Random(3)
    pieces = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u3000",
        "a",
        "B",
        "12",
        "'s",
        "'S",
        ".",
        "/",
        "é",
        "字",
        "\U0001f642",
        "==",
    ]
    mixed = ["".join(chance.choice(pieces) for _ in range(chance.randint(1, 30))) for _ in range(2000)]
    return [*lines, "".join(code), *code, *mixed, *("a" * n for n in range(1, 70))]


def ranks_of(library, special):
    """The ranks of a trained vocabulary: its special tokens get ids behind all others."""
    vocab = json.loads(library.to_str())["model"]["vocab"]
    ordered = sorted((token for token in vocab if token not in special), key=vocab.__getitem__)
    return {formats.to_bytes(token): rank for rank, token in enumerate(ordered)}


@pytest.mark.parametrize("pattern", list(TIKTOKEN_PATTERNS))
def test_tiktoken_ids(texts, tmp_path, pattern):
    ranks = ranks_of(library_tokenizer(texts[:400], pattern, vocab_size=1500), {SPECIAL})
    # A gap, as p50k and cl100k have before their special tokens.
    special = {SPECIAL: len(ranks) + 7, "<|fim|>": len(ranks) + 9}
    write_ranks(tmp_path / "x.tiktoken", ranks)
    theirs = tiktoken.Encoding(
        "test", pat_str=TIKTOKEN_PATTERNS[pattern], mergeable_ranks=ranks, special_tokens=special
    )
    ours = BPETokenizer.from_tiktoken(tmp_path / "x.tiktoken", pattern, special)
    assert ours.spec.vocab_size == theirs.n_vocab
    for text in [*texts, f"x {SPECIAL} y<|fim|>"]:
        assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
        assert ours.encode(text, allow_special=True).tolist() == theirs.encode(text, allowed_special="all")
    ours.save(tmp_path / "saved")
    library = Tokenizer.from_file(str(tmp_path / "saved/tokenizer.json"))
    for text in [*texts[:300], f"x {SPECIAL} y<|fim|>"]:
        assert library.encode(text).ids == theirs.encode(text, allowed_special="all")


def test_merges_of_ranks():
    ranks = {b"a": 0, b"b": 1, b"ab": 2, b"aa": 3, b"aab": 4}
    assert formats.merges_of_ranks(ranks) == [("a", "b"), ("a", "a"), ("a", "ab"), ("aa", "b")]


def test_ids_in_a_gap_decode_to_nothing(tmp_path):
    import torch

    write_ranks(tmp_path / "x.tiktoken", {bytes([byte]): byte for byte in range(256)})
    ours = BPETokenizer.from_tiktoken(tmp_path / "x.tiktoken", "gpt2", {SPECIAL: 260})
    assert ours.decode(torch.tensor([97, 258, 260])) == f"a{SPECIAL}"


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_gpt2_files(texts, tmp_path, names):
    library = library_tokenizer(texts[:400], "gpt2", vocab_size=900, special=())
    model = json.loads(library.to_str())["model"]
    # GPT-2's special token is the last.
    model["vocab"][SPECIAL] = len(model["vocab"])
    (tmp_path / names[0]).write_text(json.dumps(model["vocab"]))
    lines = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / names[1]).write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")
    ours = BPETokenizer.from_gpt2(tmp_path / names[0], tmp_path / names[1])
    assert ours.special_tokens == {SPECIAL: 900}
    for text in texts:
        assert ours.encode(text).tolist() == library.encode(text).ids
    assert ours.encode(SPECIAL, allow_special=True).tolist() == [900]


def test_added_tokens_get_the_ids_of_the_library(texts, tmp_path):
    """`tokenizers` numbers added tokens itself; ours must follow, special or not."""
    library = library_tokenizer(texts[:200], "gpt2", vocab_size=400)
    library.add_tokens(["<tool>", "    "])
    library.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    content = json.loads(library.to_str())
    for entry in content["added_tokens"][1:]:
        entry["id"] += 50
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    theirs = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.from_tokenizer_json(tmp_path)
    text = f"a <tool>b<|im_start|>      c{SPECIAL}<|im_end|> d"
    assert ours.encode(text, allow_special=True).tolist() == theirs.encode(text).ids
    theirs.encode_special_tokens = True
    assert ours.encode(text).tolist() == theirs.encode(text).ids
    assert ours.decode(ours.encode(text)) == text
    assert ours.spec.vocab_size == theirs.get_vocab_size()
    assert ours.special_tokens == {SPECIAL: 0, "<|im_start|>": 402, "<|im_end|>": 403}


def test_old_files_write_merges_as_strings(texts, tmp_path):
    library = library_tokenizer(texts[:200], "gpt2", vocab_size=400)
    content = json.loads(library.to_str())
    new = BPETokenizer(json.loads(library.to_str()))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    old = BPETokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    assert old.fingerprint == new.fingerprint
    assert old.encode(texts[7]).tolist() == library.encode(texts[7]).ids


def tokenizer_json(change):
    library = library_tokenizer(["abc abc"], "gpt2", vocab_size=260)
    content = json.loads(library.to_str())
    change(content)
    return content


def set_model(content, **values):
    content["model"].update(values)


REFUSED = {
    "a WordPiece model": lambda c: c.__setitem__("model", {"type": "WordPiece", "vocab": {"a": 0}}),
    "a Unigram model": lambda c: c.__setitem__("model", {"type": "Unigram", "vocab": [["a", 0.0]]}),
    "byte fallback": lambda c: set_model(c, byte_fallback=True),
    "without a ByteLevel step": lambda c: c.__setitem__("pre_tokenizer", {"type": "Whitespace"}),
    "dropout": lambda c: set_model(c, dropout=0.1),
    "end_of_word_suffix": lambda c: set_model(c, end_of_word_suffix="</w>"),
    "it has no 'model'": lambda c: c.pop("model"),
    "'vocab' or 'merges'": lambda c: c["model"].pop("vocab"),
    "not in the vocabulary": lambda c: c["model"]["merges"].append(["zz", "q"]),
    "the tokenizer is damaged": lambda c: c.__setitem__("decoder", {"type": "Nonsense"}),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_what_is_not_byte_level_bpe_is_refused(tmp_path, message):
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(REFUSED[message])))
    with pytest.raises(ValueError, match=message):
        BPETokenizer.from_tokenizer_json(tmp_path)


def test_character_bpe_is_refused(tmp_path):
    library = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="without a ByteLevel step"):
        BPETokenizer.from_tokenizer_json(tmp_path)


def test_missing_files(tmp_path):
    for missing in (
        lambda: BPETokenizer.from_tokenizer_json(tmp_path / "no.json"),
        lambda: BPETokenizer.from_tokenizer_json(tmp_path),
        lambda: BPETokenizer.from_gpt2(tmp_path / "a", tmp_path / "b"),
        lambda: BPETokenizer.from_tiktoken(tmp_path / "c", "gpt2"),
    ):
        with pytest.raises(FileNotFoundError):
            missing()


def test_damaged_rank_files(tmp_path):
    path = tmp_path / "x.tiktoken"
    every = {bytes([byte]): byte for byte in range(256)}
    path.write_bytes(b"YQ== 0\n!!! 1\n")
    with pytest.raises(ValueError, match="line 2: expected a base64 token"):
        BPETokenizer.from_tiktoken(path, "gpt2")
    write_ranks(path, {**every, b"ab": 3})
    with pytest.raises(ValueError, match="the same rank 3"):
        BPETokenizer.from_tiktoken(path, "gpt2")
    write_ranks(path, {token: rank for token, rank in every.items() if token != b"z"})
    with pytest.raises(ValueError, match="no token for byte 0x7a"):
        BPETokenizer.from_tiktoken(path, "gpt2")
    write_ranks(path, every)
    with pytest.raises(ValueError, match="the id 7 belongs to"):
        BPETokenizer.from_tiktoken(path, "gpt2", {SPECIAL: 7})
    with pytest.raises(ValueError, match=r"'gpt5' is not one of gpt2, cl100k, o200k"):
        BPETokenizer.from_tiktoken(path, "gpt5")
    with pytest.raises(ValueError, match="no valid regex"):
        BPETokenizer.from_tiktoken(path, "(unclosed")


def test_damaged_gpt2_files(tmp_path):
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text(json.dumps({character: i for i, character in enumerate(formats.byte_alphabet())} | {"ab": 256}))
    merges.write_text("#version: 0.2\na b\nab c\n")
    with pytest.raises(ValueError, match="line 3: token 'abc' is not in"):
        BPETokenizer.from_gpt2(vocab, merges)
    merges.write_text("a b c\n")
    with pytest.raises(ValueError, match="line 1: a merge is two tokens"):
        BPETokenizer.from_gpt2(vocab, merges)
    vocab.write_text('{"a": "x"}')
    with pytest.raises(ValueError, match="every value must be an id"):
        BPETokenizer.from_gpt2(vocab, merges)
