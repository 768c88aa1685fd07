"""Ids through a range coder under a model: tables, windows and rows against slow references, sizes, and refusals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.codec import ToyCodec
from toys.coders import loaded_model
from toys.world import Letters, Shades

from tokenize_kit.errors import VerificationError
from tokenize_kit.sequences.document import Role
from tokenize_kit.tokenizers.audio.mulaw import MuLawTokenizer
from tokenize_kit.tokenizers.audio.pcm import PCMTokenizer
from tokenize_kit.tokenizers.image.pixels import PixelTokenizer
from tokenize_kit.tokenizers.text.chars import CharsTokenizer
from trainers.autoregressive.coding.coder import DisagreementError, Reader, Writer
from trainers.autoregressive.coding.grids import GridCoder, coding_template, recorded_device
from trainers.autoregressive.coding.machine import computing
from trainers.autoregressive.coding.rows import Windows
from trainers.autoregressive.coding.section import Section
from trainers.autoregressive.coding.tables import TOTAL, frequencies_of, weights_of
from trainers.autoregressive.generation import Known
from trainers.autoregressive.models.inputs import Inputs

pytestmark = pytest.mark.usefixtures("one_thread")

UDHR = Path(__file__).parents[2] / "assets" / "udhr.txt"


# Tables


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_frequencies_are_those_of_whole_numbers(data):
    size = data.draw(st.sampled_from([2, 3, 17, 256]))
    logits = np.array(data.draw(st.lists(st.floats(-40, 40, width=32), min_size=size, max_size=size)), np.float32)
    found = frequencies_of(logits[None])[0].tolist()
    weights = []
    for logit in logits.tolist():
        power = min(round((logits.max().item() - logit) * 1.4426950408889634 * 4096), 31 * 4096)
        weights.append(round(2 ** (30 - (power % 4096) / 4096)) >> (power // 4096))
    shared = [1 + weight * (TOTAL - size) // sum(weights) for weight in weights]
    shared[int(logits.argmax())] += TOTAL - sum(shared)
    assert sum(found) == TOTAL
    assert min(found) >= 1
    # A quotient that is a whole number may be rounded to either side.
    assert max(abs(a - b) for a, b in zip(found, shared, strict=True)) <= 2


def test_tables_differ_little_from_the_softmax():
    logits = np.random.default_rng(0).normal(0, 4, (50, 300)).astype(np.float32)
    wanted = torch.from_numpy(logits).double().softmax(-1).numpy()
    found = frequencies_of(logits) / TOTAL
    lost = (wanted * (np.log2(wanted) - np.log2(found))).sum(-1)
    assert lost.max() < 1e-4
    assert lost.min() >= 0


def test_a_table_of_many_rows_is_that_of_each_row():
    logits = np.random.default_rng(1).normal(0, 3, (700, 512)).astype(np.float32)
    assert np.array_equal(weights_of(logits)[600:601], weights_of(logits[600:601]))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="not finite"):
        weights_of(np.array([[0.0, wrong, 1.0]], np.float32))


# The coder


def slow_interval(tables, symbols):
    """The interval of a range coder of 64 bits, in numbers that never overflow: its low end, its size and their bits."""
    low, size, bits = 0, (1 << 64) - 1, 64
    for table, symbol in zip(tables, symbols, strict=True):
        part = size // TOTAL
        low += part * int(table[:symbol].sum())
        size = part * int(table[symbol])
        while size < 1 << 32:
            low, size, bits = low << 32, size << 32, bits + 32
    return low, size, bits


@pytest.mark.parametrize("size", [2, 5, 256, 70_000])
def test_the_coder_has_just_these_frequencies(size):
    rng = np.random.default_rng(size)
    logits = rng.normal(0, 5, (12, size)).astype(np.float32)
    symbols = rng.integers(0, size, 12)
    writer = Writer()
    writer.code(logits, symbols)
    words = np.frombuffer(writer.finish(), "<u4").tolist()
    low, length, bits = slow_interval(frequencies_of(logits), symbols)
    number = sum(word << (bits - 32 * place) for place, word in enumerate(words, 1))
    assert low <= number < low + length
    assert 32 * len(words) <= bits
    reader = Reader(writer.finish(), writer.pieces)
    assert np.array_equal(reader.code(logits, np.zeros(12, np.int64)), symbols)
    reader.finish()


def test_the_reader_stops_at_the_first_piece_that_differs():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (400, 8, 64)).astype(np.float32)
    symbols = rng.integers(0, 64, (400, 8))
    writer = Writer()
    for part, ids in zip(logits, symbols, strict=True):
        writer.code(part, ids)
    data = writer.finish()
    assert sum(piece.calls for piece in writer.pieces) == 400
    assert len(writer.pieces) == 3
    assert 2560 < len(data) < 4608
    reader, calls = Reader(data, writer.pieces), 0
    wrong = logits.copy()
    wrong[3, 0] = wrong[3, 0, ::-1]
    with pytest.raises(DisagreementError):  # noqa: PT012
        for part in wrong:
            reader.code(part, symbols[0])
            calls += 1
    assert calls < writer.pieces[0].calls <= 120
    short = Reader(data, writer.pieces)
    short.code(logits[0], symbols[0])
    with pytest.raises(DisagreementError):
        short.finish()


# Windows


def test_windows_are_those_of_the_picture():
    assert list(Windows(6, 4).of(10)) == [(0, 0, 6), (2, 6, 8), (4, 8, 10)]
    assert list(Windows(6, 0).of(13)) == [(0, 0, 6), (6, 6, 12), (12, 12, 13)]
    assert list(Windows(6, 3).of(4)) == [(0, 0, 4)]


def codec_grid(steps, seed=0):
    return np.random.default_rng(seed).integers(0, 3, (steps, 3))


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 4, (height, width))


PICTURES = {"image": [(3, 4), (2, 2)]}
PARTS = {
    "text": (("text",), {"text": Letters()}, None, {}, np.arange(40) % 27),
    "picture": (("image",), {"image": Shades()}, PICTURES, {}, picture(3, 4)),
    "spiral, axial": (("image:spiral",), {"image": Shades()}, PICTURES, {"positions": "axial"}, picture(3, 4)),
    "drawn": (("image:random",), {"image": Shades()}, PICTURES, {"told_next": True}, picture(3, 4)),
    "colours": (
        ("image",),
        {"image": PixelTokenizer(3)},
        {"image": [(2, 3, 3)]},
        {},
        np.random.default_rng(2).integers(0, 256, (2, 3, 3)),
    ),
    "of a PixelCNN": (
        ("image",),
        {"image": PixelTokenizer(3)},
        {"image": [(2, 3, 3), (3, 2, 3)]},
        {"family": "pixelcnn", "layers": 2, "width": 12, "channels": 3},
        np.random.default_rng(2).integers(0, 256, (3, 2, 3)),
    ),
    "without its caption": (
        ("text? -> image",),
        {"text": Letters(), "image": Shades()},
        PICTURES,
        {"form": "prefix"},
        picture(2, 2),
    ),
    "codebooks": (("audio",), {"audio": ToyCodec()}, {"audio": [(3,)]}, {}, codec_grid(7)),
    "delay": (("audio:delay",), {"audio": ToyCodec()}, {"audio": [(3,)]}, {}, codec_grid(7)),
    "joint": (
        ("audio:delay",),
        {"audio": ToyCodec()},
        {"audio": [(3,)]},
        {"codebooks": "heads", "codebook_slots": 3},
        codec_grid(7),
    ),
}


def part_of(name, folder, **changes):
    templates, tokenizers, shapes, config, grid = PARTS[name]
    return loaded_model(folder, tokenizers, templates, shapes, **{**config, **changes}), grid


@pytest.mark.parametrize("name", PARTS)
def test_a_frame_says_what_the_grammar_says(name, tmp_path):
    loaded, grid = part_of(name, tmp_path)
    coder = GridCoder(loaded)
    frame = coder.stream.frame(grid.shape)
    document = loaded.template.document({coder.stream.part: grid}, loaded.vocabulary)
    stop = len(frame.special)
    inputs = frame.inputs(grid.reshape(1, -1), 0, stop, torch.device("cpu"))
    assert inputs.ids[0].tolist() == document.ids[:stop].tolist()
    assert not (document.codebooks[stop:] >= 0).any()
    grammar = loaded.template.grammar(loaded.vocabulary)
    state = grammar.start()
    for place, token in enumerate(document.ids[:stop].tolist()):
        low, size = int(frame.low[place]), int(frame.size[place])
        assert (frame.special[place] >= 0) == (size == 0)
        if size:
            assert (low, low + size) in grammar.allowed(state)
        after = grammar.advance(state, token)
        known = Known.of(grammar, state, token, after)
        for part, value in (
            ("given", known.place.role == Role.CONDITION),
            ("axial", list(known.place.axial)),
            ("following", list(known.following)),
            ("steps", [int(known.step[0]), known.step[1]]),
            ("cells", list(known.cell)),
        ):
            if part in loaded.model.needs:
                assert getattr(inputs, part)[0, place].tolist() == value
        state = after


# Grids


def own_bits(coder, rows, windows):
    """The model's own bits for rows: a whole forward pass for each window, and nothing of the coder's tables."""
    total = 0.0
    model, inner = coder.loaded.model, rows[0].shape[1:]
    for row in rows:
        steps = len(row)
        for start, known, stop in [(0, 0, steps)] if windows is None else windows.of(steps):
            frame = coder.stream.frame((stop - start, *inner))
            content = row[start:stop].reshape(1, -1)
            inputs = frame.inputs(content, 0, len(frame.special), torch.device("cpu"))
            with torch.no_grad():
                logits = model.logits(Inputs(**{name: part[:, :-1] for name, part in inputs.parts().items()})).double()[
                    0
                ]
            for place in np.flatnonzero(frame.step >= known - start).tolist():
                low, size = int(frame.low[place]), int(frame.size[place])
                chance = logits[place - 1, low : low + size].log_softmax(-1)
                total -= float(chance[content[0, frame.flat[place]]]) / math.log(2)
    return total


@pytest.mark.parametrize("name", PARTS)
def test_a_grid_comes_back_and_takes_the_models_own_bits(name, tmp_path):
    loaded, grid = part_of(name, tmp_path)
    coder = GridCoder(loaded)
    section = Section.from_bytes(coder.encode(grid).to_bytes())
    assert np.array_equal(coder.decode(section, grid.shape), grid)
    windows = Windows(section.window, section.carry) if section.window else None
    size = len(section.words) + 6 * len(section.pieces)
    bits = own_bits(coder, np.array_split(grid, section.streams), windows)
    assert bits / 8 - 0.1 <= size <= 1.01 * bits / 8 + 32


@pytest.mark.parametrize("family", ["transformer", "recurrent", "mean"])
def test_any_family_with_a_cache_codes_longer_than_its_context(family, tmp_path):
    sizes = {"recurrent": {"width": 16}}.get(family, {})
    loaded = loaded_model(tmp_path, {"text": Letters()}, ("text",), family=family, context=16, **sizes)
    coder = GridCoder(loaded)
    ids = np.random.default_rng(0).integers(0, 27, 203)
    for streams, carry in ((1, 0.5), (5, 0.5), (7, 0.0)):
        section = coder.encode(ids, streams, carry)
        assert (section.window, section.streams) == (15, streams)
        assert np.array_equal(coder.decode(section, ids.shape), ids)
        bits = own_bits(coder, np.array_split(ids, streams), Windows(15, int(15 * carry)))
        assert len(section.words) + 6 * len(section.pieces) <= 1.01 * bits / 8 + 32


def test_delayed_codebooks_of_any_length_come_back(tmp_path):
    loaded, _ = part_of("delay", tmp_path, context=20)
    coder = GridCoder(loaded)
    for steps in (1, 6, 7, 23):
        grid = codec_grid(steps, steps)
        for streams in (1, 3):
            assert np.array_equal(coder.decode(coder.encode(grid, streams), grid.shape), grid)


def test_a_file_of_real_text_is_within_a_hundredth_of_the_models_bits(tmp_path):
    text = UDHR.read_text(encoding="utf-8")[:3000]
    tokenizer = CharsTokenizer("".join(sorted(set(text))))
    loaded = loaded_model(tmp_path, {"text": tokenizer}, ("text",), context=40)
    coder = GridCoder(loaded)
    ids = tokenizer.encode(text).numpy()
    section = coder.encode(ids)
    bits = own_bits(coder, np.array_split(ids, section.streams), Windows(section.window, section.carry))
    assert section.streams == len(ids) // 160
    assert len(section.to_bytes()) <= 1.01 * bits / 8 + 32 + 80
    assert tokenizer.decode(torch.from_numpy(coder.decode(section, ids.shape))) == text


def test_what_is_certain_costs_nothing(tmp_path):
    class One(ToyCodec):
        """A codec of three codebooks of which the second has a single id."""

        @property
        def spec(self):
            return replace(super().spec, vocab_size=(3, 1, 3))

    loaded, _ = part_of("codebooks", tmp_path)
    vocabulary = type(loaded.vocabulary)({"audio": One().spec}, {"audio": [(3,)]})
    from trainers.autoregressive.models import build_model

    model = build_model("transformer", {**loaded.model.config.to_dict(), "vocab_size": vocabulary.size}).eval()
    coder = GridCoder(replace(loaded, model=model, vocabulary=vocabulary))
    grid = codec_grid(10)
    grid[:, 1] = 0
    section = coder.encode(grid)
    assert np.array_equal(coder.decode(section, grid.shape), grid)
    assert sum(piece.calls for piece in section.pieces) == 20
    empty = coder.encode(grid[:0])
    assert (empty.words, empty.pieces) == (b"", ())
    assert coder.decode(empty, (0, 3)).shape == (0, 3)


@pytest.mark.parametrize("tokenizer", [MuLawTokenizer(), PCMTokenizer()])
def test_samples_of_a_sound_come_back(tokenizer, tmp_path):
    loaded = loaded_model(tmp_path, {"audio": tokenizer}, ("audio",), context=24)
    sound = torch.round(torch.sin(torch.arange(70) / 5)[None] * 9000) / 32768
    ids = tokenizer.encode(sound).numpy()
    coder = GridCoder(loaded)
    back = coder.decode(coder.encode(ids, 2), ids.shape)
    assert np.array_equal(back, ids)
    if isinstance(tokenizer, PCMTokenizer):
        assert torch.equal(tokenizer.decode(torch.from_numpy(back)), sound)


# Refusals


@pytest.fixture
def small(tmp_path):
    loaded = loaded_model(tmp_path, {"text": Letters()}, ("text",), context=32)
    coder = GridCoder(loaded)
    ids = np.random.default_rng(0).integers(0, 27, 1500)
    return coder, ids, coder.encode(ids, 20)


def right_or_refused(coder, section, ids):
    """Whether what comes back is what went in, or nothing does, for the reason that the ids are others."""
    try:
        return np.array_equal(coder.decode(section, ids.shape), ids)
    except VerificationError as error:
        return "ids of a piece are not what they were" in str(error)


def test_another_bit_of_a_weight_is_refused_at_the_first_piece(small):
    coder, ids, section = small
    told = []
    with torch.no_grad():
        coder.loaded.model.embedding.weight[5, 3] += 1e-3
    with pytest.raises(VerificationError, match="made with a model in another state"):
        coder.decode(section, ids.shape, told=told.append)
    assert sum(told) < 1000
    with pytest.raises(VerificationError, match=rf"coded by the model {section.model[:12]}, this one is"):
        GridCoder(coder.loaded).decode(section, ids.shape)


def test_what_another_machine_has_is_named(small):
    coder, ids, section = small
    with torch.no_grad():
        coder.loaded.model.embedding.weight[5, 3] += 1e-3
    machine = replace(section.machine, torch_version="1.0", instructions="AVX1024")
    message = r"instructions AVX1024 there and \w+ here, torch version 1.0 there and"
    with pytest.raises(VerificationError, match=message):
        coder.decode(replace(section, machine=machine), ids.shape)


def test_threads_are_those_that_were_recorded_and_then_those_from_before(small):
    coder, ids = small[0], small[1][:60]
    one = coder.encode(ids, 6)
    torch.set_num_threads(2)
    section = coder.encode(ids, 6)
    torch.set_num_threads(1)
    seen = []
    back = coder.decode(section, ids.shape, told=lambda _: seen.append(torch.get_num_threads()))
    assert np.array_equal(back, ids)
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1
    # Whether two threads sum as one does is the library's affair.
    assert right_or_refused(coder, replace(one, machine=replace(one.machine, threads=2)), ids)
    with computing(torch.device("cpu"), 3):
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (3, True)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (1, False)


def test_altered_bytes_never_decode_to_something_else(small):
    coder, ids, _ = small
    ids = ids[:8]
    section = coder.encode(ids)
    data = section.to_bytes()
    head = len(data) - len(section.words)
    for place in range(head):
        altered = bytearray(data)
        altered[place] ^= 1 << place % 8
        with pytest.raises(ValueError):  # noqa: PT011
            Section.from_bytes(bytes(altered))
        with pytest.raises(VerificationError):
            Section.from_bytes(data[:place])
    for place in range(8 * head, 8 * len(data), 5):
        altered = bytearray(data)
        altered[place // 8] ^= 1 << place % 8
        # The last bits of the last word may be of no meaning.
        assert right_or_refused(coder, Section.from_bytes(bytes(altered)), ids)


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"window": 1 << 40}, (1500,)),
        ({"window": 0, "carry": 0}, (1500,)),
        ({"streams": 30}, (20,)),
        ({}, (1500, 1)),
        ({"pieces": ()}, (1500,)),
    ],
)
def test_crafted_sections_are_refused(small, changes, shape):
    coder, _, section = small
    with pytest.raises(VerificationError):
        coder.decode(Section.from_bytes(replace(section, **changes).to_bytes()), shape)


@pytest.mark.parametrize("changes", [{"streams": 257}, {"window": 10, "carry": 8}, {"streams": 0}])
def test_crafted_numbers_are_refused_when_they_are_read(small, changes):
    with pytest.raises(VerificationError, match="was altered"):
        Section.from_bytes(replace(small[2], **changes).to_bytes())
    machine = replace(small[2].machine, threads=100_000)
    with pytest.raises(VerificationError, match="was altered"):
        Section.from_bytes(replace(small[2], machine=machine).to_bytes())


def test_what_was_coded_on_a_gpu_needs_one(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    section = replace(small[2], machine=replace(small[2].machine, device="cuda:NVIDIA H200"))
    with pytest.raises(ValueError, match=r"a\.tkc was coded on a GPU \(cuda:NVIDIA H200\)"):
        recorded_device(section, "a.tkc")


def test_options_out_of_range_and_grids_that_do_not_fit_are_refused(small, tmp_path):
    coder, ids, _ = small
    for match, keywords in (("--streams 257", {"streams": 257}), ("a carry of 0.8", {"carry": 0.8})):
        with pytest.raises(ValueError, match=match):
            coder.encode(ids, **keywords)
    with pytest.raises(ValueError, match="id 27 is outside the vocabulary"):
        coder.encode(np.array([27]))
    narrow = GridCoder(part_of("codebooks", tmp_path / "narrow", context=3)[0])
    with pytest.raises(ValueError, match="a step of 'audio' has 3 tokens"):
        narrow.encode(codec_grid(4))
    pictures = GridCoder(part_of("picture", tmp_path / "pictures", context=8)[0])
    with pytest.raises(ValueError, match="knows only"):
        pictures.encode(picture(5, 5))
    with pytest.raises(ValueError, match="--streams 2: a sample of 'image' has a known shape"):
        pictures.encode(picture(3, 4), 2)
    with pytest.raises(ValueError, match=r"a document of \d+ tokens does not fit the model's context of 8"):
        pictures.encode(picture(3, 4))


def test_the_template_that_codes_is_that_of_the_stream_alone(tmp_path):
    both = {"text": Letters(), "image": Shades()}
    several = loaded_model(tmp_path / "a", both, ("text -> image", "text", "image"), PICTURES)
    assert str(coding_template(several, None, lambda name: name == "image").template) == "image"
    assert str(coding_template(several, "text").template) == "text"
    with pytest.raises(ValueError, match=r"several templates that could code this \('text', 'image'\)"):
        coding_template(several, None)
    with pytest.raises(ValueError, match="--template 'text -> image': the model was trained on"):
        coding_template(several, "text -> image")
    conditional = loaded_model(tmp_path / "b", both, ("text -> image",), PICTURES)
    with pytest.raises(ValueError, match="train it with a template of that stream alone"):
        coding_template(conditional, None)
    dropped = loaded_model(tmp_path / "c", both, ("text? -> image", "image -> text?"), PICTURES)
    assert str(coding_template(dropped, None).template) == "text? -> image"


def test_a_model_of_hidden_tokens_is_refused(tmp_path):
    loaded = loaded_model(tmp_path, {"text": Letters()}, ("text",), form="bidirectional")
    with pytest.raises(ValueError, match="predicts hidden tokens and not the next one"):
        coding_template(loaded, None)
