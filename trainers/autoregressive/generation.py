"""Drawing sequences from a model: prompts in, whole documents out, under a grammar that says which ids may come next.

Each sequence draws its random numbers from a generator of its own, which follows from the seed and its number. What is
drawn then does not depend on what else is in the batch, save that a matrix product over more rows may round the last bit
of a logit differently, which changes a token only where the draw falls within that bit.

With guidance (`guidance`) the model reads each sequence several times, with more and less of its condition: as further rows of
the same batch and cache, which are padded on the left, since they are shorter. All of them get the tokens that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from tokenize_kit.sequences.document import Role
from tokenize_kit.sequences.grammar import TokenPlace
from tokenize_kit.sequences.segment import NO_CELL
from trainers.autoregressive.guidance import Guidance, WithProgress, guided
from trainers.autoregressive.models import Cache, SequenceModel, device_of
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.sampling_options import SamplingOptions

Intervals = tuple[tuple[int, int], ...]
"""Half-open intervals of ids."""


class Grammar(Protocol):
    """What generation asks of a grammar; `tokenize_kit.sequences.template.Grammar` is one."""

    def start(self) -> Any:
        """Return the state before the first token."""
        ...

    def allowed(self, state: Any) -> Sequence[tuple[int, int]]:
        """Return the ids that may come next as half-open intervals."""
        ...

    def advance(self, state: Any, token: int, /) -> Any:
        """Return the state after ``token``; ValueError if it is not allowed."""
        ...

    def done(self, state: Any) -> bool:
        """Whether the document is finished."""
        ...


Beginning = tuple[Grammar, Sequence[int]]
"""A grammar, and ids that it accepts."""


class PlacedGrammar(Grammar, Protocol):
    """What generation asks of it besides for a model that needs to know more of a token than its id."""

    def place_of(self, state: Any, token: int) -> TokenPlace:
        """Return what a token is that is allowed in a state."""
        ...

    def following(self, state: Any) -> tuple[int, ...]:
        """Return where the id that comes next is, if a model must be told."""
        ...

    def next_step(self, state: Any) -> tuple[bool, int]:
        """Return whether the token that comes next begins a joint step, and its slot."""
        ...

    def next_cell(self, state: Any) -> tuple[int, ...]:
        """Return which cell of which picture comes next."""
        ...


class Known(NamedTuple):
    """What is known of a token besides its id."""

    place: TokenPlace
    """What it is."""
    following: tuple[int, ...]
    """Where the id after it is."""
    step: tuple[bool, int]
    """Whether the token after it begins a joint step, and the slot of that."""
    cell: tuple[int, ...]
    """The `tokenize_kit.sequences.segment.CELL` of the token after it."""

    @classmethod
    def of(cls, grammar: PlacedGrammar, before: Any, token: int, after: Any) -> Self:
        """Ask the grammar, with its states before and after the token."""
        place, following = grammar.place_of(before, token), grammar.following(after)
        return cls(place, following, grammar.next_step(after), grammar.next_cell(after))


def generate(
    model: SequenceModel,
    grammar: Grammar | Sequence[Grammar],
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    *,
    max_length: int | None = None,
    first_index: int = 0,
    on_tokens: Callable[[int], None] | None = None,
    states: Sequence[Any] | None = None,
    guidance: Guidance | None = None,
    weaker: Sequence[Sequence[Beginning]] = (),
) -> list[list[int]]:
    """Continue each prompt until the grammar is done with it.

    Args:
        model: in any mode; it is evaluated.
        grammar: decides what may come next; one for all prompts, or one for each. An id that is the only one allowed is taken
            without a draw.
        prompts: ids that the grammar accepts, any lengths; an empty prompt starts with what the grammar forces.
        options: how to draw.
        max_length: the longest sequence, prompt included; at most and by default the model's context.
        first_index: the number of the first prompt, from which each sequence's generator follows.
        on_tokens: is told how many tokens were added, for a progress line.
        states: the state of the grammar after each prompt where it is known already.
        guidance: how strongly conditions are followed; a schedule needs a grammar with `guidance.WithProgress`.
        weaker: for it, for each prompt the same with none of its conditions, with the first of them and so on, as many as there
            are scales. What follows is that of the prompt itself.

    Returns:
        For each prompt all ids, the prompt's first.

    Raises:
        ValueError: the model is not causal, a prompt is empty of what to predict from, is refused by the grammar, or is longer
            than ``max_length``; or a sequence is not finished at ``max_length``.
    """
    steps = drawing(
        model,
        grammar,
        prompts,
        options,
        max_length=max_length,
        first_index=first_index,
        states=states,
        guidance=guidance,
        weaker=weaker,
    )
    while True:
        try:
            added = next(steps)
        except StopIteration as finished:
            return cast("list[list[int]]", finished.value)
        if on_tokens is not None:
            on_tokens(len(added))


def drawing(
    model: SequenceModel,
    grammar: Grammar | Sequence[Grammar],
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    *,
    max_length: int | None = None,
    first_index: int = 0,
    states: Sequence[Any] | None = None,
    guidance: Guidance | None = None,
    weaker: Sequence[Sequence[Beginning]] = (),
) -> Generator[list[tuple[int, int]], None, list[list[int]]]:
    """Do the same token by token: yield, as they come, numbers of sequences and the token that each got; return all ids.

    Raises:
        ValueError: as `generate`, when the first token is asked for.
    """
    if not model.causal:
        raise ValueError(
            "a bidirectional model predicts hidden tokens and cannot go on from the left; train a causal one"
        )
    if options.compiled and guidance is not None and len(guidance.readings) > 1:
        raise ValueError(
            "compiled is for a single row, and guidance reads a sequence several times; leave one of them out"
        )
    if options.compiled and min(options.batch_size, len(prompts)) > 1:
        raise ValueError(
            "compiled is for sequences that are generated one at a time; use it with a batch_size of 1, not "
            f"{options.batch_size}"
        )
    limit = model.config.context if max_length is None else max_length
    if limit > model.config.context:
        raise ValueError(f"max_length {limit} is beyond the model's context of {model.config.context}")
    grammars = grammar if isinstance(grammar, Sequence) else [grammar] * len(prompts)
    rows = [
        _Row(own, prompt, index, limit, options.seed, state, bool(model.needs))
        for index, (own, prompt, state) in enumerate(
            zip(grammars, prompts, states or [None] * len(prompts), strict=True), first_index
        )
    ]
    if guidance is not None:
        for row, beginnings in zip(rows, weaker, strict=True):
            all_readings: list[_Reading | _Row] = [
                *(_Reading(*beginning, bool(model.needs)) for beginning in beginnings),
                row,
            ]
            row.readings = [all_readings[number] for number in guidance.readings]
    network = model if isinstance(model, nn.Module) else None
    was_training = network is not None and network.training
    model.eval()
    try:
        # Rows of similar length side by side need less padding.
        order = sorted((row for row in rows if not row.done), key=lambda row: len(row.ids))
        for start in range(0, len(order), options.batch_size):
            yield from _drawn(model, order[start : start + options.batch_size], options, limit, guidance)
    finally:
        model.train(was_training)
    return [row.ids for row in rows]


def sample(logits: Tensor, options: SamplingOptions, uniforms: Sequence[float]) -> Tensor:
    """Return one index for each row of ``logits`` (N, V), int64 (N,): the inverse of the cumulative distribution.

    Args:
        logits: (N, V), any float dtype; -inf is never drawn.
        options: temperature and filters.
        uniforms: N numbers in [0, 1).
    """
    if options.temperature == 0:
        return logits.argmax(-1)
    cumulative = filtered_probabilities(logits, options).cumsum(-1)
    target = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


def filtered_probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Return the distribution that is drawn from, float64 (N, V): temperature, then top-k, top-p and min-p in this order.

    Each filter works on the distribution that the one before it left, as in transformers; equal probabilities at the
    edge of top-k are all kept. A row sums to 1.

    Args:
        logits: (N, V).
        options: ``temperature`` must not be 0.
    """
    # Dividing by a tiny temperature must not overflow: the largest logit becomes 0 first.
    logits = logits.double()
    logits = (logits - logits.amax(-1, keepdim=True)) / options.temperature
    probabilities = logits.softmax(-1)
    if options.top_k is not None and options.top_k < logits.shape[-1]:
        edge = probabilities.topk(options.top_k, -1).values[:, -1:]
        probabilities = _keep(probabilities, probabilities >= edge)
    if options.top_p is not None and options.top_p < 1:
        ordered, index = probabilities.sort(stable=True, dim=-1, descending=True)
        # A token stays if the more probable ones together do not reach top_p yet.
        before = ordered.cumsum(-1) - ordered
        kept = torch.zeros_like(probabilities, dtype=torch.bool).scatter_(-1, index, before < options.top_p)
        probabilities = _keep(probabilities, kept)
    if options.min_p is not None and options.min_p > 0:
        edge = probabilities.amax(-1, keepdim=True) * options.min_p
        probabilities = _keep(probabilities, probabilities >= edge)
    return probabilities


def _keep(probabilities: Tensor, kept: Tensor) -> Tensor:
    probabilities = probabilities * kept
    return probabilities / probabilities.sum(-1, keepdim=True)


class _Reading:
    """What the model reads of a sequence: its ids, and what they are if the model asks."""

    def __init__(self, grammar: Grammar, prompt: Sequence[int], placed: bool) -> None:
        self.ids: list[int] = []
        self.places: list[Known] | None = [] if placed else None
        """For each id what is known of it, if the model asks."""
        self._grammar, self._state = cast("PlacedGrammar", grammar), grammar.start()
        for token in prompt:
            self.add(int(token))

    def add(self, token: int) -> None:
        if self.places is not None:
            before, self._state = self._state, self._grammar.advance(self._state, token)
            self.places.append(Known.of(self._grammar, before, token, self._state))
        self.ids.append(token)


class _Row:
    """One sequence on its way: its ids, its place in the grammar and its generator."""

    def __init__(
        self,
        grammar: Grammar,
        prompt: Sequence[int],
        index: int,
        limit: int,
        seed: int,
        state: Any = None,
        placed: bool = False,
    ) -> None:
        self.grammar = grammar
        self.index = index
        self.limit = limit
        self.random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
        self.ids: list[int] = []
        self.places: list[Known] | None = [] if placed else None
        """For each id what is known of it, if the model asks."""
        self.readings: list[_Reading | _Row] = [self]
        """What the model reads for it."""
        if len(prompt) > limit:
            raise ValueError(
                f"prompt {index} has {len(prompt)} tokens, more than the {limit} that a sequence may have; shorten it"
            )
        if placed:
            state = None  # the prompt is read again, to know where its tokens are
        if state is not None:
            self.ids += [int(token) for token in prompt]
        self.state = grammar.start() if state is None else state
        self.allowed: Intervals = () if self.done else tuple(grammar.allowed(self.state))
        for token in prompt if state is None else ():
            self.add(int(token))
        while not self.ids and not self.done:
            if (first := self.forced()) is None:
                raise ValueError(f"prompt {index} is empty; give at least the token that every sequence begins with")
            self.add(first)

    @property
    def done(self) -> bool:
        return self.grammar.done(self.state)

    def forced(self) -> int | None:
        """Return the only id that may come next, or None where there is a choice."""
        low, high = self.allowed[0]
        return low if len(self.allowed) == 1 and high - low == 1 else None

    def add(self, token: int) -> None:
        if len(self.ids) == self.limit:
            raise ValueError(
                f"sequence {self.index} is not finished after {self.limit} tokens; give the grammar a max_length of "
                f"{self.limit}, or use a model with a longer context"
            )
        before, self.state = self.state, self.grammar.advance(self.state, token)
        if self.places is not None:
            self.places.append(Known.of(cast("PlacedGrammar", self.grammar), before, token, self.state))
        self.allowed = () if self.done else tuple(self.grammar.allowed(self.state))
        self.ids.append(token)


def _drawn(
    model: SequenceModel, rows: list[_Row], options: SamplingOptions, limit: int, guidance: Guidance | None = None
) -> Iterator[list[tuple[int, int]]]:
    """Finish ``rows`` in lock-step, see `drawing`; rows that are done leave the batch and the cache."""
    device = device_of(model)
    each = len(rows[0].readings)
    readings = [reading for row in rows for reading in row.readings]
    longest = max(len(reading.ids) for reading in readings)
    padding = torch.tensor([longest - len(reading.ids) for reading in readings])
    compiled = options.compiled
    # A compiled step is made for one length of the cache, so that is always the same one.
    length = model.config.context if compiled else limit + int(padding.max())
    cache: Cache = model.new_cache(len(readings), length, left_padding=padding, compiled=compiled)
    # What the model has not seen yet, a column a token; forced tokens gather here until a row has a choice.
    waiting = [[0] * (longest - len(reading.ids)) + reading.ids for reading in readings]
    while rows:
        forced = [row.forced() for row in rows]
        chosen = forced
        if None in forced:
            # Not longer than this: who asks for tokens one by one computes other things between them.
            with torch.inference_mode():
                logits = model.step(_inputs(readings, waiting, device), cache, last_only=True)[:, -1]
                if guidance is not None and each > 1:
                    logits = guided(logits, [guidance.weights(_progress(row, guidance)) for row in rows])
                chosen = _draw(logits, rows, forced, options)
            waiting = [[] for _ in readings]
        for row, token in zip(rows, chosen, strict=True):
            assert token is not None
            row.add(token)
            for reading in row.readings:
                if reading is not row:
                    reading.add(token)
        for reading, unseen in zip(readings, waiting, strict=True):
            unseen.append(reading.ids[-1])
        yield [(row.index, row.ids[-1]) for row in rows]
        left = [place for place, row in enumerate(rows) if not row.done]
        if len(left) < len(rows):
            rows = [rows[place] for place in left]
            kept = [place * each + number for place in left for number in range(each)]
            readings, waiting = [readings[place] for place in kept], [waiting[place] for place in kept]
            if rows:
                with torch.inference_mode():
                    cache = cache.select(torch.tensor(kept, device=device))


def _progress(row: _Row, guidance: Guidance) -> float:
    return 0.0 if guidance.schedule == "constant" else cast("WithProgress", row.grammar).progress(row.state)


def _inputs(rows: Sequence[_Row | _Reading], waiting: list[list[int]], device: torch.device) -> Inputs:
    """Return the last tokens of each row with what is known of them; what is before a row's first is padding."""
    ids = torch.tensor(waiting, device=device)
    if any(row.places is None for row in rows):
        return Inputs(ids)
    count = ids.shape[1]
    given, axial, following, steps, cells = [], [], [], [], []
    for row in rows:
        places = (row.places or [])[-count:]
        padding = count - len(places)
        given.append([False] * padding + [known.place.role == Role.CONDITION for known in places])
        axial.append([(0, 0, 0)] * padding + [known.place.axial for known in places])
        following.append([(-1, -1, -1)] * padding + [known.following for known in places])
        steps.append([(0, 0)] * padding + [(int(known.step[0]), known.step[1]) for known in places])
        cells.append([NO_CELL] * padding + [known.cell for known in places])
    parts = (torch.tensor(part, device=device) for part in (given, axial, following, steps, cells))
    return Inputs(ids, None, None, *parts)


def inputs_of(grammar: PlacedGrammar, ids: Sequence[int], placed: bool, device: torch.device) -> Inputs:
    """Return the tokens of the beginning of one document (1, n) with what is known of them.

    Args:
        grammar: of the document.
        ids: n of its tokens, from the first on.
        placed: whether the model asks for more than ids (`SequenceModel.needs`).
        device: where the model is.

    Raises:
        ValueError: the grammar does not accept the tokens.
    """
    row = _Row(grammar, [int(token) for token in ids], 0, len(ids), 0, None, placed)
    return _inputs([row], [row.ids], device)


def _draw(logits: Tensor, rows: list[_Row], forced: Sequence[int | None], options: SamplingOptions) -> list[int | None]:
    """Return the next token of each row: rows under the same intervals are drawn together, over these ids alone."""
    chosen = list(forced)
    groups: dict[Intervals, list[int]] = {}
    for place, (row, token) in enumerate(zip(rows, forced, strict=True)):
        if token is None:
            groups.setdefault(row.allowed, []).append(place)
    for intervals, places in groups.items():
        part = logits if len(places) == len(rows) else logits[places]
        pieces = [part[:, low:high] for low, high in intervals]
        part = pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)
        # A token is drawn with one number whatever the filters are, and greedy decoding uses none.
        uniforms = [] if options.temperature == 0 else [rows[place].random.random() for place in places]
        for place, drawn in zip(places, sample(part, options, uniforms).tolist(), strict=True):
            chosen[place] = _nth(intervals, drawn)
    return chosen


def _nth(intervals: Intervals, index: int) -> int:
    """Return the id number ``index`` of the intervals, counted through all of them."""
    for low, high in intervals:
        if index < high - low:
            return low + index
        index -= high - low
    raise AssertionError("an index beyond the intervals")
