"""Parts that samples may lack, and conditions that are dropped; documents and rows of them are in test_compiled_documents."""

import json

import numpy as np
import pytest

from tokenize_kit.protocol import TokenSpec
from tokenize_kit.sequences.documents import Documents, vocabulary_of
from tokenize_kit.sequences.prompt import begin, continues
from tokenize_kit.sequences.template import Part, SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards import StreamArray

SPECS = {
    "text": TokenSpec("text", 7, ("time",), (None,), lossless=True),
    "image": TokenSpec("image", 5, ("height", "width"), (1, 1), lossless=False, channels=3),
    "sound": TokenSpec("audio", (3, 2), ("time", "codebook"), (320, None), lossless=False, channels=1),
}
SHAPES = {"image": [(2, 2), (1, 3)], "sound": [(2,)]}
PLAIN, NULLS = Vocabulary(SPECS, SHAPES), Vocabulary(SPECS, SHAPES, ("image", "text"))
TEXT, IMAGE = np.array([1, 2, 3]), np.zeros((2, 2), int)


def names_of(ids, vocabulary):
    return [vocabulary.special_tokens[i] if i < len(vocabulary.special_tokens) else "id" for i in ids]


def test_nulls_stand_behind_all_other_special_tokens_and_change_no_id_before_them():
    assert "nulls" not in PLAIN.to_dict()
    assert PLAIN.nulls == ()
    assert all(stream.null is None for stream in PLAIN.streams.values())
    assert NULLS.special_tokens == (*PLAIN.special_tokens, "<none:text>", "<none:image>")
    assert NULLS.nulls == ("text", "image")
    assert NULLS.size == PLAIN.size + 2
    for name in SPECS:
        one, other = PLAIN.stream(name), NULLS.stream(name)
        assert (one.begin, one.end, one.first_shape) == (other.begin, other.end, other.first_shape)
        assert [offset + 2 for offset in one.offsets] == list(other.offsets)
    assert NULLS.stream("image").null == NULLS.special("<none:image>")
    for vocabulary in (PLAIN, NULLS):
        assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary
    assert PLAIN != NULLS
    damaged = {**NULLS.to_dict(), "nulls": ["text"]}
    with pytest.raises(ValueError, match="vocabulary is damaged"):
        Vocabulary.from_dict(damaged)
    with pytest.raises(ValueError, match=r"no stream is named 'txt'.*did you mean 'text'"):
        Vocabulary(SPECS, SHAPES, ("txt",))


def test_a_question_mark_stands_at_the_end_of_a_part():
    template = SequenceTemplate.parse("text? image:spiral? -> sound:delay? text")
    assert template.parts == (
        Part("text", optional=True),
        Part("image", "spiral", optional=True),
        Part("sound", layout="delay", optional=True),
        Part("text"),
    )
    assert str(template) == "text? image:spiral? -> sound:delay? text"
    assert template.optional_streams == ("image", "sound")
    assert template.nulls() == ("text", "image", "sound")
    assert SequenceTemplate.parse("text image -> sound").nulls() == ()
    assert SequenceTemplate.parse("text image -> sound").nulls(dropped=True) == ("text", "image")
    for text in ("image?:spiral", "text??"):
        with pytest.raises(ValueError, match=r"a '\?' stands once, at the end; write '(image:spiral|text)\?'"):
            SequenceTemplate.parse(f"{text} -> sound")
    with pytest.raises(ValueError, match=r"'text\?' is nothing where its only part is missing; write 'text'"):
        SequenceTemplate.parse("text?")
    with pytest.raises(ValueError, match=r"has 'sound\?', but the vocabulary has no <none:sound>"):
        SequenceTemplate.parse("text -> sound?").segments(NULLS)


def test_documents_without_a_part():
    template = SequenceTemplate.parse("text? -> image")
    ids, mask = template.flatten({"image": IMAGE}, NULLS)
    assert names_of(ids, NULLS) == ["<bos>", "<none:text>", "<begin:image>", "<shape:image:2x2>", *["id"] * 4, "<eos>"]
    assert mask.tolist() == [False] * 3 + [True] * 5 + [False]
    assert list(template.parse_ids(ids, NULLS)) == ["image"]
    # An empty text says as much as none, if the part is optional.
    assert np.array_equal(template.flatten({"text": TEXT[:0], "image": IMAGE}, NULLS)[0], ids)
    both = SequenceTemplate.parse("text? image?")
    ids, mask = both.flatten({"text": TEXT}, NULLS)
    assert names_of(ids, NULLS) == ["<bos>", "<begin:text>", *["id"] * 3, "<end:text>", "<none:image>", "<eos>"]
    assert mask.tolist() == [False] + [True] * 6 + [False], "whether a part is there is predicted"
    # A condition that is no optional part is dropped, and an empty text is a text.
    plain = SequenceTemplate.parse("text -> image")
    assert names_of(plain.flatten({"image": IMAGE}, NULLS)[0], NULLS)[1] == "<none:text>"
    assert names_of(plain.flatten({"text": TEXT[:0], "image": IMAGE}, NULLS)[0], NULLS)[1:3] == [
        "<begin:text>",
        "<end:text>",
    ]
    for grids, vocabulary, name in (({"text": TEXT}, NULLS, "image"), ({"image": IMAGE}, PLAIN, "text")):
        with pytest.raises(ValueError, match=f"the sample has no stream '{name}'"):
            plain.document(grids, vocabulary)


def test_the_grammar_lets_a_part_be_missing_only_where_it_may_be():
    null, begin_ = NULLS.special("<none:text>"), NULLS.stream("text").begin

    def first(text, vocabulary=NULLS, limit=None):
        grammar = SequenceTemplate.parse(text).grammar(vocabulary, limit)
        return grammar.allowed(grammar.advance(grammar.start(), vocabulary.bos))

    assert first("text -> image") == first("text? image") == [(begin_, begin_ + 1), (null, null + 1)]
    assert first("text image") == [(begin_, begin_ + 1)]
    assert first("text -> image", PLAIN) == [(PLAIN.stream("text").begin,) * 1 + (PLAIN.stream("text").begin + 1,)]
    # The shortest document is one without it: bos, none, begin, shape, three ids, eos.
    assert first("text? image", limit=8) == [(null, null + 1)]
    with pytest.raises(ValueError, match=r"the shortest document of 'text\? image' has 8 tokens, but only 7"):
        SequenceTemplate.parse("text? image").grammar(NULLS, 7)
    # An optional text has an id at the least.
    grammar = SequenceTemplate.parse("text? image").grammar(NULLS)
    state = grammar.advance(grammar.advance(grammar.start(), NULLS.bos), begin_)
    assert grammar.allowed(state) == [NULLS.stream("text").range_of(0)]
    # Where the null follows <begin> directly they are one interval.
    alone = Vocabulary({"image": SPECS["image"], "text": SPECS["text"]}, {"image": [(2, 2)]}, ("image",))
    small = Vocabulary({"image": SPECS["image"]}, {"image": [(2, 2)]}, ("image",))
    assert first("image? text", alone) == [(3, 4), (6, 7)]
    assert first("image? image", small) == [(3, 5)]
    assert (
        not SequenceTemplate.parse("text image")
        .grammar(NULLS)
        .accepts(SequenceTemplate.parse("text? image").flatten({"image": IMAGE}, NULLS)[0])
    )


def test_prompts_without_a_part():
    def start(text, grids, vocabulary=NULLS):
        return names_of(begin(SequenceTemplate.parse(text), vocabulary, grids, 40).ids, vocabulary)

    assert start("text -> image", {}) == ["<bos>", "<none:text>"]
    assert start("text? -> image", {"text": TEXT[:0]}) == ["<bos>", "<none:text>"]
    assert start("text -> image", {"text": TEXT[:1]}) == ["<bos>", "<begin:text>", "id", "<end:text>"]
    assert start("text image -> sound", {"image": IMAGE})[:4] == [
        "<bos>",
        "<none:text>",
        "<begin:image>",
        "<shape:image:2x2>",
    ]
    assert start("text image -> sound", {"text": TEXT[:0]}) == ["<bos>", "<begin:text>", "<end:text>", "<none:image>"]
    # A part that is predicted is left to the model, unless a later one is given.
    assert start("text? image", {}) == ["<bos>"]
    assert start("text? image", {"text": TEXT[:0]}) == ["<bos>", "<none:text>"]
    assert start("image? text", {"text": TEXT[:2]}) == ["<bos>", "<none:image>", "<begin:text>", "id", "id"]
    assert start("text -> image", {}, PLAIN) == ["<bos>"]
    with pytest.raises(ValueError, match="the prompt gives image, but the template is 'text -> image'"):
        start("text -> image", {"image": IMAGE}, PLAIN)
    with pytest.raises(ValueError, match="the prompt gives image, but the template is 'text image'"):
        start("text image", {"image": IMAGE})
    template = SequenceTemplate.parse("image? text")
    assert continues(template, NULLS, {"text": TEXT})
    assert not continues(SequenceTemplate.parse("text? image"), NULLS, {"text": TEXT[:0]})
    # What is begun is not missing.
    begun = SequenceTemplate.parse("image:column? text").grammar(NULLS, begun={"image": np.zeros((1, 2), int)})
    state = begun.advance(begun.start(), NULLS.bos)
    assert begun.allowed(state) == [(NULLS.stream("image").begin, NULLS.stream("image").begin + 1)]


def test_empty_grids_of_shards_are_missing_parts():
    def array(grids, axes):
        shapes = np.array([grid.shape for grid in grids], np.int64).reshape(len(grids), axes)
        values = np.concatenate([grid.reshape(-1) for grid in grids]).astype(np.uint8)
        return [StreamArray(values, np.concatenate([[0], np.cumsum(shapes.prod(1))]), shapes)]

    none = np.zeros((0, 0), int)
    sounds = [np.zeros((2, 2), int), none, none]
    arrays = {"image": array([IMAGE, none, IMAGE], 2), "sound": array(sounds, 2), "text": array([TEXT, TEXT, TEXT], 1)}
    template = SequenceTemplate.parse("image? sound:delay? text")
    vocabulary = vocabulary_of(template, SPECS, arrays)
    assert vocabulary.stream("image").shapes == ((2, 2),)
    assert vocabulary.stream("sound").shapes == ((2,),)
    assert vocabulary.nulls == ("image", "sound")
    documents = Documents(template, vocabulary, arrays)
    assert [list(documents.grids(number)) for number in range(3)] == [
        ["image", "sound", "text"],
        ["text"],
        ["image", "text"],
    ]
    assert documents.tokens.tolist() == [2 + 5 + 6 + 5, 2 + 1 + 1 + 5, 2 + 5 + 1 + 5]
    needed = SequenceTemplate.parse("sound text")
    with pytest.raises(ValueError, match="'sound' has a grid without a single time step"):
        Documents(needed, Vocabulary(SPECS, SHAPES), arrays)
    nothing = {"image": array([none, none], 2), "text": array([TEXT, TEXT], 1)}
    with pytest.raises(
        ValueError, match=r"no sample has the stream 'image'; leave it out of the template 'image\? text'"
    ):
        vocabulary_of(SequenceTemplate.parse("image? text"), SPECS, nothing)
