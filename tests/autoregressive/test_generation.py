"""Sampling against slow references, and generation under a grammar."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from trainers.autoregressive.generation import filtered_probabilities, generate, sample
from trainers.autoregressive.models.config import preset
from trainers.autoregressive.models.transformer import Transformer
from trainers.autoregressive.sampling_options import SamplingOptions

BOS, BEGIN, END, EOS, FIRST, LAST = 0, 1, 2, 3, 4, 14
VOCAB = 20


class ToyGrammar:
    """``<bos> <begin> content* <end> <eos>`` with content of 4..13, at most ``most`` of it, or exactly ``exactly``."""

    def __init__(self, most: int = 10, exactly: int | None = None) -> None:
        self.most, self.exactly = most, exactly

    def start(self) -> tuple[int, ...]:
        return ()

    def allowed(self, state: tuple[int, ...]) -> list[tuple[int, int]]:
        if len(state) < 2:
            return [(len(state), len(state) + 1)]
        if state[-1] == END:
            return [(EOS, EOS + 1)]
        count = len(state) - 2
        if self.exactly is not None:
            return [(FIRST, LAST)] if count < self.exactly else [(END, END + 1)]
        return [(END, END + 1), (FIRST, LAST)] if count < self.most else [(END, END + 1)]

    def advance(self, state: tuple[int, ...], token: int) -> tuple[int, ...]:
        if not any(low <= token < high for low, high in self.allowed(state)):
            raise ValueError(f"id {token} is not allowed")
        return (*state, token)

    def done(self, state: tuple[int, ...]) -> bool:
        return bool(state) and state[-1] == EOS


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    made = Transformer(preset("tiny", vocab_size=VOCAB, context=24, layers=2, width=32, heads=2))
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return made.eval()


def slow_distribution(logits: Sequence[float], options: SamplingOptions) -> list[float]:
    """The filters, one token at a time in plain Python."""
    logits = [value / options.temperature for value in logits]
    weights = [math.exp(value - max(logits)) for value in logits]
    kept = set(range(len(logits)))

    def share(token: int) -> float:
        return weights[token] / sum(weights[other] for other in kept)

    if options.top_k is not None:
        kept = set(sorted(kept, key=lambda token: -weights[token])[: options.top_k])
    if options.top_p is not None:
        reached, nucleus = 0.0, set()
        for token in sorted(kept, key=lambda token: -weights[token]):
            if reached < options.top_p:
                nucleus.add(token)
            reached += share(token)
        kept = nucleus
    if options.min_p is not None:
        best = max(share(token) for token in kept)
        kept = {token for token in kept if share(token) >= options.min_p * best}
    return [share(token) if token in kept else 0.0 for token in range(len(logits))]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_k": 4},
        {"top_k": 99},
        {"top_p": 0.05},
        {"top_p": 0.7},
        {"top_p": 1.0},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"temperature": 1.5, "top_k": 6, "top_p": 0.8, "min_p": 0.1},
    ],
)
def test_filters_equal_the_slow_reference(values: dict[str, float]) -> None:
    options = SamplingOptions(**values)  # type: ignore[arg-type]
    logits = torch.randn(20, 9, generator=torch.Generator().manual_seed(0)) * 2
    result = filtered_probabilities(logits, options)
    for row in range(20):
        assert result[row].tolist() == pytest.approx(slow_distribution(logits[row].tolist(), options), abs=1e-7)


def test_filters_equal_those_of_transformers() -> None:
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(1)).double() * 2
    theirs = logits
    for warper in (TemperatureLogitsWarper(1.3), TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.1)):
        theirs = warper(None, theirs)
    options = SamplingOptions(temperature=1.3, top_k=20, top_p=0.8, min_p=0.1)
    torch.testing.assert_close(filtered_probabilities(logits, options), theirs.softmax(-1))


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, -math.inf, 1.0, 2.0])
    count = 20_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    drawn = Counter(sample(logits.expand(count, 4), SamplingOptions(), uniforms).tolist())
    for token, probability in enumerate(logits.softmax(-1).tolist()):
        assert drawn[token] / count == pytest.approx(probability, abs=4 * math.sqrt(0.25 / count))
    assert drawn[1] == 0


def test_a_draw_at_each_end_is_a_token() -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert sample(logits, SamplingOptions(), [0.0, 0.0]).tolist() == [1, 0]
    assert sample(logits, SamplingOptions(), [1 - 2**-53, 1 - 2**-53]).tolist() == [2, 2]


def test_temperature_to_zero_is_argmax() -> None:
    logits = torch.randn(100, 50, generator=torch.Generator().manual_seed(0))
    for temperature in (0.0, 1e-4, 1e-300):
        options = SamplingOptions(temperature=temperature)
        assert torch.equal(sample(logits, options, [0.999] * 100), logits.argmax(-1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0 must be 0 or more"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_k": 0}, "top_k 0 must be at least 1"),
        ({"top_p": 0.0}, "top_p 0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p 1.5 must be above 0 and at most 1"),
        ({"min_p": -0.1}, "min_p -0.1"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_options_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**values)  # type: ignore[arg-type]


PROMPTS = [[0], [0, 1], [0, 1, 5, 6, 7], [], [0, 1, 9], [0, 1, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]]


def slow_generate(model: Transformer, grammar: ToyGrammar, prompt: list[int]) -> list[int]:
    """Greedy, without a cache, one sequence, masking the logits."""
    ids, state = list(prompt), grammar.start()
    for token in prompt:
        state = grammar.advance(state, token)
    while not grammar.done(state):
        mask = torch.full((VOCAB,), -math.inf)
        for low, high in grammar.allowed(state):
            mask[low:high] = 0
        logits = model(torch.tensor([ids]))[0, -1] + mask if ids else mask
        ids.append(int(logits.argmax()))
        state = grammar.advance(state, ids[-1])
    return ids


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_greedy_generation_equals_the_uncached_loop(model: Transformer, batch_size: int) -> None:
    grammar = ToyGrammar()
    options = SamplingOptions(temperature=0, batch_size=batch_size)
    result = generate(model, grammar, PROMPTS, options)
    assert result == [slow_generate(model, grammar, prompt) for prompt in PROMPTS]


def test_samples_do_not_depend_on_batch_mates(model: Transformer) -> None:
    grammar = ToyGrammar()
    together = generate(model.double(), grammar, PROMPTS, SamplingOptions(seed=7, batch_size=16))
    for batch_size in (1, 2, 4):
        assert generate(model, grammar, PROMPTS, SamplingOptions(seed=7, batch_size=batch_size)) == together
    one = [
        generate(model, grammar, [prompt], SamplingOptions(seed=7), first_index=i) for i, prompt in enumerate(PROMPTS)
    ]
    assert [ids for (ids,) in one] == together
    assert generate(model, grammar, PROMPTS, SamplingOptions(seed=8)) != together


def test_sequences_are_drawn_from_the_models_distribution(model: Transformer) -> None:
    grammar = ToyGrammar(exactly=1)
    count = 4000
    drawn = Counter(ids[2] for ids in generate(model, grammar, [[0, 1]] * count, SamplingOptions(batch_size=1000)))
    expected = model(torch.tensor([[0, 1]]))[0, -1, FIRST:LAST].detach().softmax(-1)
    for token, probability in enumerate(expected.tolist(), FIRST):
        assert drawn[token] / count == pytest.approx(probability, abs=4 * math.sqrt(0.25 / count))


def test_what_is_sampled_is_accepted_by_the_grammar(model: Transformer) -> None:
    grammar = ToyGrammar(most=5)
    for ids in generate(model, grammar, [[0]] * 30, SamplingOptions(temperature=3.0)):
        state = grammar.start()
        for token in ids:
            state = grammar.advance(state, token)
        assert grammar.done(state)


def test_a_sequence_may_fill_the_whole_context(model: Transformer) -> None:
    full = generate(model, ToyGrammar(exactly=20), [[0], [0, 1, 5, 6], []], SamplingOptions())
    assert [len(ids) for ids in full] == [24, 24, 24]
    with pytest.raises(ValueError, match="sequence 0 is not finished after 24 tokens"):
        generate(model, ToyGrammar(exactly=21), [[0]], SamplingOptions())
    with pytest.raises(ValueError, match="prompt 0 has 25 tokens, more than the 24"):
        generate(model, ToyGrammar(exactly=30), [[0, 1, *[5] * 23]], SamplingOptions())
    with pytest.raises(ValueError, match="max_length 25 is beyond the model's context of 24"):
        generate(model, ToyGrammar(), [[0]], SamplingOptions(), max_length=25)


def test_refused_prompts_and_the_mode_of_the_model(model: Transformer) -> None:
    with pytest.raises(ValueError, match="id 15 is not allowed"):
        generate(model, ToyGrammar(), [[0, 1, 15]], SamplingOptions())
    model.train()
    counted: list[int] = []
    (ids,) = generate(model, ToyGrammar(), [[0]], SamplingOptions(), on_tokens=counted.append)
    assert model.training
    assert sum(counted) == len(ids) - 1
    assert generate(model, ToyGrammar(), [], SamplingOptions()) == []
    assert generate(model, ToyGrammar(), [[0, 1, 2, 3]], SamplingOptions()) == [[0, 1, 2, 3]]
