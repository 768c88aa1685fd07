"""Scores of documents beside a loop over single steps, beside training's validation, and beside themselves in other batches."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from toys.codec import ToyCodec
from toys.world import LETTERS, Letters, Shades, picture_samples, text_samples

from tokenize_kit.protocol import Tokenizer
from tokenize_kit.sequences.documents import Documents, vocabulary_of
from tokenize_kit.sequences.packing import IGNORED
from tokenize_kit.sequences.single import documents_of
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.shards import StreamArray
from trainers.autoregressive.any_order import order_log_likelihood
from trainers.autoregressive.batches import VALIDATION_EPOCH, drawn_seeds, single_rows
from trainers.autoregressive.generation import inputs_of
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.models import build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.scoring.anomalies import Rates, compare
from trainers.autoregressive.scoring.scores import Score, bits_of_grids, score_documents
from trainers.autoregressive.scoring.summary import Summary
from trainers.autoregressive.task import LossOf, Validation

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENIZERS: dict[str, Tokenizer] = {"text": Letters(), "image": Shades(), "audio": ToyCodec()}
FAMILIES = {
    "transformer": {"layers": 2, "width": 32, "heads": 4},
    "recurrent": {"layers": 2, "width": 16},
    "mean": {},
}
families = pytest.mark.parametrize("family", FAMILIES)
Grids = list[dict[str, np.ndarray]]


def samples(count: int = 12, longest: int = 8) -> Grids:
    """Captions, pictures of two shapes and sounds of several lengths."""
    draw = np.random.default_rng(5)
    pictures = [picture for _, picture in picture_samples(count, seed=2, shapes=((3, 4), (2, 2)))]
    texts = [text[: 1 + number % longest] for number, (text, _) in enumerate(text_samples(count, seed=2))]
    return [
        {
            "text": np.array([LETTERS.index(letter) for letter in text], np.uint8),
            "image": picture,
            "audio": draw.integers(0, 3, (1 + number % 7, 4)).astype(np.uint8),
        }
        for number, (text, picture) in enumerate(zip(texts, pictures, strict=True))
    ]


def documents(template: str, grids: Grids) -> Documents:
    """The grids as shards would hold them."""
    parsed = SequenceTemplate.parse(template)
    arrays = {
        name: [
            StreamArray(
                np.concatenate([one[name].reshape(-1) for one in grids]),
                np.cumsum([0, *(one[name].size for one in grids)]),
                np.array([one[name].shape for one in grids]),
            )
        ]
        for name in parsed.streams
    }
    specs = {name: TOKENIZERS[name].spec for name in parsed.streams}
    return Documents(parsed, vocabulary_of(parsed, specs, arrays), arrays)


def loaded(made: Documents, family: str = "mean", context: int = 64, **more: object) -> LoadedModel:
    """A model of their vocabulary whose weights are as if trained."""
    torch.manual_seed(0)
    sizes = {"vocab_size": made.vocabulary.size, "context": context}
    model = build_model(family, {**sizes, **FAMILIES[family], **more})
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return LoadedModel(model.eval(), made.template, made.vocabulary, TOKENIZERS, 0, {})


def step_by_step(known: LoadedModel, grids: dict[str, np.ndarray], seed: int = 0) -> np.ndarray:
    """The log-probability of each token of a document but the first, from a model that is told one token after the other."""
    document = known.template.document(grids, known.vocabulary, seed)
    grammar = known.template.grammar(known.vocabulary, seed=seed)
    ids = document.ids.tolist()
    inputs = inputs_of(grammar, ids[:-1], bool(known.model.needs), torch.device("cpu"))
    cache = known.model.new_cache(1, len(ids) - 1)
    found = []
    for place in range(len(ids) - 1):
        now = {name: part[:, place : place + 1] for name, part in inputs.parts().items()}
        logits = known.model.step(Inputs(**now), cache)[0, -1].detach().double()
        found.append(float(logits.log_softmax(-1)[ids[place + 1]]))
    return np.array(found)


@families
@pytest.mark.parametrize("template", ["text -> image", "text image:spiral", "audio:delay -> text", "text? -> image"])
def test_a_score_is_the_sum_of_single_steps(family: str, template: str) -> None:
    grids = samples(4)
    made = documents(template, [*grids, {**grids[0], "text": np.zeros(0, np.uint8)}])
    known = loaded(made, family)
    for number, score in enumerate(score_documents(known, made, np.arange(4), batch_size=3)):
        document = known.template.document(grids[number], known.vocabulary)
        each, target = step_by_step(known, grids[number]), document.loss_mask[1:]
        assert score.nats == pytest.approx(each[target].sum(), abs=1e-4)
        for part, name in enumerate(known.template.names):
            mine = target & (document.segments[1:] == part)
            assert score.tokens.get(name, 0) == mine.sum()
            assert score.streams.get(name, 0.0) == pytest.approx(each[mine].sum(), abs=1e-4)
        assert score.bits_per_token == pytest.approx(-each[target].sum() / math.log(2) / target.sum(), abs=1e-4)


def test_a_random_order_is_that_of_the_validation_or_of_a_seed() -> None:
    grids = samples(4)
    made = documents("image:random", grids)
    known = loaded(made, "transformer", told_next=True)
    seeds = drawn_seeds(made, 0, VALIDATION_EPOCH)
    assert seeds is not None
    for given in (None, np.arange(4)):
        scores = score_documents(known, made, np.arange(4), seeds=given)
        expected = [
            step_by_step(known, one, int(seed))[1:-1].sum()
            for one, seed in zip(grids, seeds if given is None else given, strict=True)
        ]
        # Of a picture all but <begin> and <eos> is predicted: its shape and its pixels.
        assert [score.nats for score in scores] == pytest.approx(expected, abs=1e-4)


@families
def test_no_score_depends_on_its_batch(family: str) -> None:
    made = documents("text image", samples(20))
    known, chosen = loaded(made, family), np.random.default_rng(0).permutation(20)
    alone = [score.nats for score in score_documents(known, made, chosen, batch_size=1)]
    for batch_size in (3, 64):
        together = [score.nats for score in score_documents(known, made, chosen, batch_size=batch_size)]
        assert together == pytest.approx(alone, abs=1e-4, rel=1e-5)
    assert next(score_documents(known, made, chosen[4:5])).nats == pytest.approx(alone[4], abs=1e-4)


def test_few_logits_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = documents("text -> image", samples(9))
    known = loaded(made)
    expected = [score.nats for score in score_documents(known, made, np.arange(9))]
    sizes = []
    logits = known.model.logits
    monkeypatch.setattr(known.model, "logits", lambda inputs: sizes.append(inputs.ids.numel()) or logits(inputs))
    monkeypatch.setattr("trainers.autoregressive.scoring.scores.LOGITS", 50 * made.vocabulary.size)
    assert [score.nats for score in score_documents(known, made, np.arange(9))] == pytest.approx(expected, abs=1e-4)
    assert max(sizes) <= 50


@pytest.mark.parametrize(
    ("template", "more"),
    [
        ("text -> image", {"form": "prefix"}),
        ("text image", {}),
        ("image text", {}),
        ("audio", {}),
        ("image audio:delay", {}),
        ("text audio:delay", {"codebooks": "heads", "codebook_slots": 4}),
        ("text audio:delay", {"codebooks": "depth", "codebook_slots": 4}),
    ],
)
def test_the_summary_is_the_validation_of_the_training(template: str, more: dict[str, object]) -> None:
    made = documents(template, samples(14))
    known = loaded(made, "transformer", **more)
    summary = Summary(known)
    chosen = np.arange(0, 14, 2)
    for score in score_documents(known, made, chosen):
        summary.add(score)
    validation = Validation(made, chosen, 64, 3, TOKENIZERS, needs=known.model.needs)
    runtime = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"), sums=list)
    with torch.no_grad():
        measured = validation.measure(LossOf(known.model, 0.0), runtime)
    found = summary.to_dict()
    assert found["metrics"] == pytest.approx(measured, rel=1e-5)
    assert list(found["metrics"]) == list(measured)
    assert found["nats"] == pytest.approx(sum(one["nats"] for one in found["streams"].values()))
    assert found["nats_per_sample"] == pytest.approx(found["nats"] / 7)


@pytest.mark.parametrize(("template", "context", "pieces"), [("text", 10, 3), ("audio:delay", 22, 4)])
def test_long_documents_are_cut_as_a_training_cuts_them(template: str, context: int, pieces: int) -> None:
    grids = samples(8)
    grids[3]["text"] = np.arange(25, dtype=np.uint8)
    grids[3]["audio"] = np.random.default_rng(0).integers(0, 3, (15, 4)).astype(np.uint8)
    made = documents(template, grids)
    known = loaded(made, "transformer", context=context)
    scores = [*score_documents(known, made, np.arange(8), batch_size=4)]
    assert (scores[0].pieces, scores[3].pieces) == (1, pieces)
    runtime = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"), sums=list)
    for number, score in enumerate(scores):
        # In a line by itself a document is cut where its own context ends.
        validation = Validation(made, np.array([number]), context, 2, TOKENIZERS)
        with torch.no_grad():
            nats, tokens, _ = validation.sums(LossOf(known.model, 0.0), runtime)
        assert score.nats == pytest.approx(-sum(nats.values()), rel=1e-5)
        assert sum(score.tokens.values()) == sum(tokens.values())


def test_a_whole_document_that_does_not_fit_is_refused() -> None:
    made = documents("text image", samples(4))
    with pytest.raises(ValueError, match=r"the sample has \d+ tokens, more than the 9 that the model can score"):
        next(score_documents(loaded(made, context=8), made, np.arange(4)))


@pytest.mark.parametrize("template", ["text -> image:spiral", "text audio:delay", "text"])
def test_bits_lie_where_their_ids_are(template: str) -> None:
    grids = samples(6)
    made = documents(template, grids)
    known = loaded(made, "transformer", context=12 if template == "text" else 64)
    for number in (1, 5):
        found = bits_of_grids(known, made, number)
        document = known.template.document(grids[number], known.vocabulary)
        each = step_by_step(known, grids[number])
        assert list(found) == list(known.template.target)
        for name, bits in found.items():
            assert bits.shape == grids[number][name].shape
            part = known.template.names.index(name)
            spec = TOKENIZERS[name].spec
            for place in np.flatnonzero((document.segments == part) & (document.codebooks >= 0)):
                at = tuple(value for value in document.coordinates[place].tolist() if value >= 0)
                at += (int(document.codebooks[place]),) if spec.axes[-1] == "codebook" else ()
                assert bits[at] == pytest.approx(-each[place - 1] / math.log(2), abs=1e-4)


def test_bits_of_a_document_in_pieces_are_those_of_its_pieces() -> None:
    grids = samples(2)
    grids[0]["audio"] = np.random.default_rng(0).integers(0, 3, (15, 4)).astype(np.uint8)
    made = documents("audio:delay", grids)
    known = loaded(made, "transformer", context=22)
    (bits,) = bits_of_grids(known, made, 0).values()
    pieces = made.pieces(22, np.array([0]))
    start = 0
    for piece in range(len(pieces)):
        grid = pieces.grids(piece)["audio"]
        (alone,) = bits_of_grids(known, documents_of(made.template, made.vocabulary, {"audio": grid}), 0).values()
        assert bits[start : start + len(grid)] == pytest.approx(alone, abs=1e-4)
        start += len(grid)
    assert start == 15


def test_a_model_with_a_probability_of_its_own_is_asked_for_it() -> None:
    """As one that averages over several orders: the number of a document is no product over its logits."""
    made = documents("text -> image", samples(5))
    known = loaded(made)
    model, other = known.model, loaded(made, "recurrent").model

    def average(inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(labels))[:, None]
        counted = (labels != IGNORED).float()
        both = [-one.loss(inputs.rows(row), labels[row], counted[row]).nll for row in rows for one in (model, other)]
        return torch.logsumexp(torch.stack(both).view(-1, 2), 1) - math.log(2)

    plain = [
        [score.nats for score in score_documents(one, made, np.arange(5))] for one in (known, loaded(made, "recurrent"))
    ]
    model.document_log_probabilities, model.joint = average, True
    scores = [*score_documents(known, made, np.arange(5), batch_size=2)]
    assert [score.nats for score in scores] == pytest.approx(np.logaddexp(*plain) - math.log(2), abs=1e-4)
    assert [score.streams["image"] for score in scores] == [score.nats for score in scores]
    with pytest.raises(ValueError, match="one probability of a whole document"):
        bits_of_grids(known, made, 0)


def hiding(made: Documents, **more: object) -> LoadedModel:
    """A model of hidden tokens; the id after the vocabulary's is the mask."""
    return loaded(made, "transformer", form="bidirectional", vocab_size=made.vocabulary.size + 1, **more)


def test_a_model_that_sees_all_tokens_and_can_hide_none_is_refused() -> None:
    made = documents("text", samples(3))
    with pytest.raises(ValueError, match=r"sees all tokens and has no id that hides one.*--objective any-order"):
        next(score_documents(loaded(made, "transformer", form="bidirectional"), made, np.arange(3)))


@pytest.mark.parametrize("template", ["image", "text -> image"])
def test_a_score_of_hidden_tokens_is_the_mean_over_all_orders(template: str) -> None:
    grids = [one for one in samples(12, longest=2) if one["image"].shape == (2, 2)][:1]
    made = documents(template, grids)
    known = hiding(made)
    mask = made.vocabulary.size
    rows = single_rows(made, np.arange(1), 64, 0)[0]
    places = np.flatnonzero((rows.labels[0] >= 0).numpy()).tolist()
    orders = [
        float(order_log_likelihood(known.model, rows.inputs, order, mask).sum())
        for order in itertools.permutations(places)
    ]
    (score,) = score_documents(known, made, np.arange(1), readings=4000)
    assert score.nats == pytest.approx(np.mean(orders), abs=0.02)
    assert score.nats < logsumexp(orders) - math.log(len(orders)), "a bound"
    assert score.streams == {"image": pytest.approx(score.nats)}
    assert score.tokens == {"image": len(places)}
    (bits,) = bits_of_grids(known, made, 0, readings=4000).values()
    assert bits.shape == (2, 2)
    assert bits.sum() <= -score.nats / math.log(2) + 1e-9


def test_estimates_depend_on_the_document_alone() -> None:
    made = documents("text -> image", samples(6))
    known = hiding(made)
    alone = [next(score_documents(known, made, np.array([number]), readings=3)).nats for number in range(6)]
    together = [score.nats for score in score_documents(known, made, np.arange(6), batch_size=4, readings=3)]
    assert together == pytest.approx(alone, abs=1e-4)
    assert len(set(alone)) == 6
    long = documents("text", samples(6, longest=9))
    (piece,) = score_documents(hiding(long, context=4), long, np.array([5]))
    assert piece.pieces > 1
    assert math.isfinite(piece.nats)


@pytest.mark.parametrize(
    ("template", "missing"), [("text? -> image", "text"), ("image -> text?", "text"), ("text -> image", None)]
)
def test_a_single_sample_is_the_document_of_the_template(template: str, missing: str | None) -> None:
    grids = samples(6)
    several = documents(template, [*grids, {**grids[0], "text": np.zeros(0, np.uint8)}])
    one = {name: grid for name, grid in grids[3].items() if name != missing}
    known = loaded(several)
    made = documents_of(known.template, known.vocabulary, one)
    document = known.template.document(one, known.vocabulary)
    assert made.tokens.tolist() == [len(document)]
    (score,) = score_documents(known, made, np.arange(1))
    assert score.nats == pytest.approx(step_by_step(known, one)[document.loss_mask[1:]].sum(), abs=1e-4)
    with pytest.raises(ValueError, match="has no stream 'image'"):
        documents_of(known.template, known.vocabulary, {"text": grids[3]["text"]})


def test_what_tells_two_sets_apart() -> None:
    """Of 3 x 2 pairs the second set has more bits in 5: an area of 5/6. Codes turn it round."""
    first, second = Rates("dimension"), Rates("dimension")
    for rates, values in ((first, [(10, 1), (20, 3), (30, 1)]), (second, [(25, 10), (40, 12)])):
        for bits, code in values:
            rates.add(Score(-bits * math.log(2), {}, {"image": 3}, {"image": 10}, {}), code)
    assert first.plain == pytest.approx([1.0, 2.0, 3.0])
    assert first.corrected == pytest.approx([0.2, -0.4, 2.2])
    found = compare(first, second, ["PNG"])
    assert found.plain.more_bits_are_anomalous == pytest.approx(5 / 6)
    assert found.plain.fewer_bits_are_anomalous == pytest.approx(1 / 6)
    assert (found.corrected.more_bits_are_anomalous, found.corrected.fewer_bits_are_anomalous) == (0.0, 1.0)
    assert (found.plain.mean, found.plain.mean_against) == (pytest.approx(2.0), pytest.approx(3.25))
    assert (found.samples, found.samples_against) == (3, 2)
