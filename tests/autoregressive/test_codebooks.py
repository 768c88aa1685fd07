"""Sounds with codebooks through the sequence trainer: packing, pieces of long ones, training, generation, likelihood."""

import dataclasses
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.codec import HOP, ToyCodec
from toys.world import LETTERS, Letters, MeanConfig, MeanModel

from tokenize_kit.files import write_json
from tokenize_kit.protocol import TokenSpec, tokenizer_name
from tokenize_kit.sequences.documents import Documents, vocabulary_of
from tokenize_kit.sequences.layouts import LAYOUTS
from tokenize_kit.sequences.packing import fill_rows
from tokenize_kit.sequences.plans import Plan, plan_whole
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards import Manifest, StreamArray, StreamInfo, dtype_for, open_shard
from trainers.autoregressive.batches import PackedDataset, every_row_once
from trainers.autoregressive.data import TokenData, split_documents
from trainers.autoregressive.likelihood import score
from trainers.autoregressive.model_folder import LoadedModel, load_model
from trainers.autoregressive.options import GenerateOptions, TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.sample import draw, generate_samples, prompt_grids
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.train import train_transformer
from trainers.config import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SPECS = {
    "text": TokenSpec("text", 200, ("time",), (None,), lossless=True),
    "audio": TokenSpec("audio", (30, 20, 25, 7), ("time", "codebook"), (320, None), lossless=False, channels=1),
    "patches": TokenSpec("image", (9, 8, 7), ("height", "width", "codebook"), (8, 8, None), lossless=False, channels=3),
}
layouts = st.sampled_from(list(LAYOUTS))


def make_documents(text, rows, codebooks=3, seed=0, longest=6):
    """Documents of random grids; the flat arrays begin and end with ids that belong to no row."""
    rng = np.random.default_rng(seed)
    template = SequenceTemplate.parse(text)
    arrays = {}
    for name in template.streams:
        arrays[name] = []
        for count in rows:
            if name == "text":
                shapes = rng.integers(0, 8, (count, 1))
            elif name == "patches":
                shapes = np.array([(2, 3, 3), (1, 2, 3)])[rng.integers(0, 2, count)]
            else:
                shapes = np.stack([rng.integers(1, longest + 1, count), np.full(count, codebooks)], 1)
            offsets = 3 + np.concatenate([[0], np.cumsum(shapes.prod(1))])
            values = rng.integers(0, min(SPECS[name].codebook_sizes), offsets[-1] + 2).astype(np.uint8)
            arrays[name].append(StreamArray(values, offsets.astype(np.int64), shapes.astype(np.int64)))
    return Documents(template, vocabulary_of(template, SPECS, arrays), arrays)


def slow_rows(documents, plan, context, ended=None):
    """Each row as (id, label, position, document) tuples, from `flatten` and the plan, one token at a time."""
    rows = []
    ends = {stream.ids.end for stream in documents.segments}
    for row in range(plan.rows):
        places = []
        for number, piece in enumerate(range(plan.offsets[row], plan.offsets[row + 1])):
            document = int(plan.document[piece])
            ids, mask = documents.template.flatten(documents.grids(document), documents.vocabulary)
            if ended is not None and not ended[document]:
                mask &= ~np.isin(ids, list(ends))
            for position in range(plan.length[piece]):
                at = int(plan.first[piece]) + position
                label = int(ids[at + 1]) if mask[at + 1] else -100
                places.append((int(ids[at]), label, position, number))
        rows.append(places + [(0, -100, position, -1) for position in range(context - len(places))])
    return rows


forms = st.sampled_from(
    [
        "audio:{a}",
        "patches:{p}",
        "text -> audio:{a}",
        "audio:{a} -> text",
        "audio:{a} patches:{p}",
        "patches:{p} -> audio:{a}",
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(lambda form, a, p: form.format(a=a, p=p), forms, layouts, layouts),
    st.lists(st.integers(0, 6), min_size=1, max_size=3).filter(lambda rows: sum(rows) > 0),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(0, 1000),
)
def test_packed_rows_equal_flatten_token_by_token(text, rows, codebooks, room, seed):
    documents = make_documents(text, rows, codebooks, seed)
    context = int((documents.tokens - 1).max()) + room
    plan = plan_whole(documents.tokens - 1, context)
    expected = slow_rows(documents, plan, context)
    tuples = np.stack(fill_rows(documents, plan, np.arange(plan.rows), context), -1)
    assert [[tuple(place) for place in row] for row in tuples.tolist()] == expected


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(1, 4), st.integers(1, 12), st.integers(0, 1000))
def test_any_part_of_a_document_is_filled_with_its_own_tokens_and_labels(layout, codebooks, size, seed):
    """`fill_rows` asks no plan for whole documents: cut anywhere, the labels at the cuts are right too."""
    documents = make_documents(f"audio:{layout}", [3], codebooks, seed)
    first = np.concatenate([np.arange(0, pairs, size) for pairs in (documents.tokens - 1)])
    document = np.repeat(np.arange(3), -(-(documents.tokens - 1) // size))
    length = np.minimum(size, (documents.tokens - 1)[document] - first)
    plan = Plan(np.arange(len(first) + 1), document, first, length)
    tuples = np.stack(fill_rows(documents, plan, np.arange(plan.rows), size), -1)
    assert [[tuple(place) for place in row] for row in tuples.tolist()] == slow_rows(documents, plan, size)


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(1, 4), st.integers(0, 25), st.integers(0, 1000))
def test_long_sounds_are_cut_into_whole_documents_that_hold_each_step_once(layout, codebooks, room, seed):
    documents = make_documents(f"audio:{layout}", [4, 3], codebooks, seed, longest=20)
    context = documents.tokens_of_steps(1) + room
    chosen = np.random.default_rng(seed).permutation(7)[:5]
    pieces = documents.pieces(context, chosen)
    grammar = documents.template.grammar(documents.vocabulary, context)
    parts: list[list[np.ndarray]] = [[]]
    for piece in range(len(pieces)):
        grid = pieces.grids(piece)["audio"]
        ids, _ = documents.template.flatten({"audio": grid}, documents.vocabulary)
        assert len(ids) == pieces.tokens[piece]
        assert grammar.accepts(ids)
        parts[-1].append(grid)
        if pieces.segments[0].ended[piece]:
            parts.append([])
    assert parts.pop() == []
    assert len(parts) == len(chosen)
    for document, found in zip(chosen.tolist(), parts, strict=True):
        assert np.array_equal(np.concatenate(found), documents.grids(document)["audio"])
        # All but the last piece are as long as the context allows.
        assert {len(grid) for grid in found[:-1]} <= {(context - documents.tokens_of_steps(0)) // codebooks}
    plan = plan_whole(pieces.tokens - 1, context)
    expected = slow_rows(pieces, plan, context, ended=pieces.segments[0].ended)
    tuples = np.stack(fill_rows(pieces, plan, np.arange(plan.rows), context), -1)
    assert [[tuple(place) for place in row] for row in tuples.tolist()] == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_and_validation_read_every_id_of_long_sounds_once(layout):
    documents = make_documents(f"audio:{layout}", [6, 3], codebooks=3, longest=30)
    chosen, context = np.array([0, 2, 5, 7]), 24
    expected = sum(documents.grids(i)["audio"].size for i in chosen) + len(chosen)  # the ids, and a true end for each
    read = list(every_row_once(documents, chosen, context, 2))
    assert sum(batch.weight for batch in read) == expected
    dataset = PackedDataset(documents, chosen, context, 1)
    assert sum(dataset.batch(index).weight for index in range(dataset.rows_per_epoch)) == expected
    parts = [list(every_row_once(documents, chosen, context, 2, rank, 3)) for rank in range(3)]
    assert sum(batch.weight for part in parts for batch in part) == expected
    for row in torch.cat([batch.ids for batch in read]).tolist():
        assert row[0] == documents.vocabulary.bos


def test_a_context_below_one_time_step_is_refused_with_the_least_one():
    documents = make_documents("audio:delay", [4], codebooks=4)
    with pytest.raises(
        ValueError, match=r"single time step of 'audio' has 8 tokens \(4 codebooks\).*context of 7; use --context 8"
    ):
        PackedDataset(documents, np.arange(4), 7, 1)
    steps = sum(len(documents.grids(i)["audio"]) for i in range(4))
    assert PackedDataset(documents, np.arange(4), 8, 1).rows_per_epoch == steps


def test_the_vocabulary_has_only_the_codebooks_of_the_data():
    for codebooks in (1, 2, 4):
        vocabulary = make_documents("text audio:delay", [5], codebooks).vocabulary
        assert vocabulary.size == 3 + 2 + 2 + 200 + sum((30, 20, 25, 7)[:codebooks])
        assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary


def test_a_sound_with_a_text_is_never_cut():
    documents = make_documents("text -> audio:delay", [9], longest=30)
    with pytest.raises(ValueError, match=r"longest document has \d+ tokens, more than the context of 30"):
        PackedDataset(documents, np.arange(9), 30, 1)


def test_mixed_numbers_of_codebooks_are_refused_and_several_picture_sizes_are_not():
    shapes = np.array([(2, 3), (2, 2)])
    arrays = {"audio": [StreamArray(np.zeros(10, np.uint8), np.array([0, 6, 10]), shapes)]}
    template = SequenceTemplate.parse("audio")
    with pytest.raises(ValueError, match="mixes 2, 3 codebooks"):
        Documents(template, vocabulary_of(template, SPECS, arrays), arrays)
    assert len(make_documents("patches", [20]).vocabulary.stream("patches").shapes) == 2


# From shards to sounds.


def write_sounds(folder, count=40, codebooks=3, longest=14, seed=0):
    """A shard set of (text, sound of a codec) samples as `encode` would write it: louder sounds for later letters."""
    rng = np.random.default_rng(seed)
    tokenizers = {"text": Letters(), "audio": ToyCodec()}
    streams = {
        name: StreamInfo(name, t.spec, t.fingerprint, dtype_for(t.spec.max_vocab_size), tokenizer_name(t))
        for name, t in tokenizers.items()
    }
    folder.mkdir(parents=True)
    levels = rng.integers(0, 3, count)
    steps = rng.integers(1, longest + 1, count)
    texts = [np.array([LETTERS.index("abc"[level])], np.uint8) for level in levels]
    grids = [np.full((t, codebooks), level, np.uint8) for t, level in zip(steps, levels, strict=True)]
    with open_shard(folder / "shard-00000.arrow", list(streams.values()), {}) as writer:
        ids = {"text": (np.concatenate(texts), np.ones((count, 1), np.int32))}
        sizes = np.stack([steps, np.full(count, codebooks), steps * HOP], 1).astype(np.int32)
        ids["audio"] = np.concatenate([grid.reshape(-1) for grid in grids]), sizes
        writer.write([f"sample-{i}" for i in range(count)], ids, {})
    write_json(folder / "dataset.json", Manifest(streams, {}, (writer.entry,), {}, {}, 0).to_dict())
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folder / "tokenizers" / name)
    return str(folder)


def options_for(shards, out, template, **changes):
    values = {
        "shards": (shards,),
        "template": template,
        "out": str(out),
        "model": TransformerOverrides(layers=1, width=32, heads=2),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=5),
        "steps": 60,
        "batch_size": 8,
        "validation_fraction": 0.15,
        "device": "cpu",
    }
    return TrainTransformerOptions(**{**values, **changes})


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds") / "shards")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trained_models_give_sounds_that_follow_their_text(layout, shards, tmp_path):
    train_transformer(options_for(shards, tmp_path / "model", f"text -> audio:{layout}"))
    loaded = load_model(tmp_path / "model")
    assert str(loaded.template) == ("text -> audio" if layout == "flatten" else f"text -> audio:{layout}")
    for level, letter in enumerate("abc"):
        options = GenerateOptions(model=str(tmp_path / "model"), out=str(tmp_path / letter), count=6, prompt=letter)
        result = generate_samples(options)
        lines = [json.loads(line) for line in (tmp_path / letter / "samples.jsonl").read_text().splitlines()]
        grids = [loaded.template.parse_ids(line["ids"], loaded.vocabulary)["audio"] for line in lines]
        assert {grid.shape[1] for grid in grids} == {3}
        assert np.mean(np.concatenate([grid.reshape(-1) for grid in grids]) == level) > 0.8
        for file, grid in zip(result.files, grids, strict=True):
            samples, rate = soundfile.read(file)
            assert (rate, len(samples)) == (8000, len(grid) * HOP)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codebooks", [1, 3, 4])
def test_wild_models_decode_and_continue_prompts_in_every_layout(layout, codebooks):
    """Whatever the weights say, a grid of the right shape comes out, as long as the context at most; prompts are kept."""
    codec = ToyCodec()
    vocabulary = Vocabulary({"audio": codec.spec}, {"audio": [(codebooks,)]})
    context = 4 + 9 * codebooks
    torch.manual_seed(1)
    model = MeanModel(MeanConfig(vocabulary.size, context))
    torch.nn.init.normal_(model.out.weight, std=2.0)
    loaded = LoadedModel(model, SequenceTemplate.parse(f"audio:{layout}"), vocabulary, {"audio": codec}, 0, {})
    rng = np.random.default_rng(0)
    prompts = [{"audio": rng.integers(0, 3, (steps, codebooks))} for steps in (1, 4, 9, 2)]
    prompts += [{}] * 12
    lengths = set()
    for prompt, result in zip(prompts, draw(loaded, prompts, SamplingOptions(seed=3, temperature=4.0)), strict=True):
        grid = loaded.template.parse_ids(result.ids, vocabulary)["audio"]
        assert grid.shape[1] == codebooks
        assert len(result.ids) <= context
        assert result.samples["audio"].shape == (1, len(grid) * HOP)
        lengths.add(len(grid))
        if prompt:
            assert len(grid) >= len(prompt["audio"])
            assert np.array_equal(grid[: len(prompt["audio"])], prompt["audio"])
    assert len(lengths) > 2
    with pytest.raises(ValueError, match="shorten"):
        draw(loaded, [{"audio": np.zeros((10, codebooks), int)}], SamplingOptions())


def test_a_prompt_file_is_cut_to_the_codebooks_of_the_model_and_continued(shards, tmp_path):
    model = str(tmp_path / "model")
    train_transformer(options_for(shards, model, "audio:delay", steps=5))
    soundfile.write(tmp_path / "begin.wav", np.linspace(-0.9, 0.9, 5 * HOP), 8000, subtype="FLOAT")
    loaded = load_model(model)
    grids = prompt_grids(loaded, files=[str(tmp_path / "begin.wav")])
    expected = ToyCodec().encode(torch.linspace(-0.9, 0.9, 5 * HOP)[None])[:, :3]
    assert grids["audio"].tolist() == expected.tolist()
    generate_samples(
        GenerateOptions(model=model, out=str(tmp_path / "out"), count=3, prompt_file=(str(tmp_path / "begin.wav"),))
    )
    for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines():
        found = loaded.template.parse_ids(json.loads(line)["ids"], loaded.vocabulary)["audio"]
        assert found[:5].tolist() == expected.tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("template", ["audio:{}", "text audio:{}"])
def test_validation_is_that_of_the_slow_reference(template, layout, shards, tmp_path):
    text = template.format(layout)
    context = 24 if template.startswith("audio") else None  # of sounds alone the long ones are cut
    result = train_transformer(options_for(shards, tmp_path / "m", text, steps=5, context=context, precision="32-true"))
    loaded = load_model(tmp_path / "m")
    data = TokenData.open([shards], text)
    _, held_out = split_documents(data, 0.15, 65536)
    assert result.validation_documents == len(held_out) > 2
    documents = data.documents.pieces(context, held_out) if context else data.documents
    assert not context or len(documents) > len(held_out)
    nats, tokens, values = dict.fromkeys(loaded.template.target, 0.0), 0, 0
    for document in range(len(documents)) if context else held_out.tolist():
        grids = documents.grids(document)
        ids, mask = loaded.template.flatten(grids, loaded.vocabulary)
        if not documents.segments[-1].ended[document]:
            mask &= ids != loaded.vocabulary.special("<end:audio>")
        scores = score(loaded.model, [ids.tolist()])[0].double().numpy()
        audio = np.cumsum(ids == loaded.vocabulary.special("<begin:audio>"))[1:] > 0
        for name in nats:
            mine = audio if name == "audio" else ~audio
            nats[name] -= float(scores[mask[1:] & mine].sum())
        tokens += int(mask.sum())
        values += len(grids["audio"]) * HOP
    assert result.metrics["bits_per_token"] == pytest.approx(sum(nats.values()) / tokens / math.log(2), rel=1e-4)
    found = result.metrics["audio/bits_per_dimension_quantised"]
    assert found == pytest.approx(nats["audio"] / values / math.log(2), rel=1e-4)
    seconds = values / 8000
    assert result.metrics["audio/kilobits_per_second"] == pytest.approx(
        nats["audio"] / math.log(2) / seconds / 1000, rel=1e-4
    )


def test_the_default_context_of_sounds_is_the_longest_one_or_a_number_of_steps(shards, tmp_path, monkeypatch):
    from trainers.autoregressive import model_settings

    def context():
        out = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        return train_transformer(options_for(shards, out, "audio:coarse-first", steps=1, preset="tiny")).context

    assert context() == 1 + 1 + 14 * 3 + 2
    monkeypatch.setitem(model_settings.DEFAULT_CONTEXT, "tiny", 10)
    assert context() == 1 + 1 + 10 * 3 + 2


def test_wrong_layouts_are_refused_before_anything_is_written(shards, tmp_path):
    for template, message in [
        ("audio:dealy", "did you mean 'delay'"),
        ("text:delay -> audio", "have no codebooks to order"),
        ("audoi:delay", "did you mean 'audio'"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_transformer(options_for(shards, tmp_path / "m", template))
    assert not (tmp_path / "m").exists()


def test_a_run_with_another_layout_is_another_run_and_flatten_is_the_default(shards, tmp_path):
    options = options_for(shards, tmp_path / "m", "audio", steps=1)
    train_transformer(options)
    assert json.loads((tmp_path / "m" / "model_config.json").read_text())["template"] == "audio"
    assert train_transformer(dataclasses.replace(options, template="audio:flatten")).resumed_from == 1
    with pytest.raises(ValueError, match=r"template was .*audio.*, now .*audio:delay"):
        train_transformer(dataclasses.replace(options, template="audio:delay"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_probabilities_of_all_documents_under_the_grammar_sum_to_one(layout):
    spec = TokenSpec("audio", (2, 2), ("time", "codebook"), (320, None), lossless=False, channels=1)
    vocabulary = Vocabulary({"audio": spec}, {"audio": [(2,)]})
    grammar = SequenceTemplate.parse(f"audio:{layout}").grammar(vocabulary, max_length=10)
    torch.manual_seed(0)
    model = MeanModel(MeanConfig(vocabulary.size, 10)).eval()
    torch.nn.init.normal_(model.out.weight, std=2.0)
    found, waiting = [], [([], grammar.start(), 0.0)]
    while waiting:
        ids, state, log_probability = waiting.pop()
        if grammar.done(state):
            found.append((ids, log_probability))
            continue
        allowed = [token for low, high in grammar.allowed(state) for token in range(low, high)]
        shares = torch.zeros(1)
        if len(allowed) > 1:
            with torch.no_grad():
                shares = model(torch.tensor([ids]))[0, -1, allowed].double().log_softmax(-1)
        for token, share in zip(allowed, shares.tolist(), strict=True):
            waiting.append(([*ids, token], grammar.advance(state, token), log_probability + share))
    assert len(found) == 4 + 4**2 + 4**3
    assert sum(math.exp(value) for _, value in found) == pytest.approx(1)
