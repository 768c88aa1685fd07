"""Parallel decoding: whole grids from a model of hidden tokens, in a few steps (MaskGIT, Chang et al. 2022, arXiv 2202.04200).

All ids that are to be drawn are hidden at first. In each step the model reads the document, every hidden place draws an id of
those that its codebook allows, and those that are the most certain are kept; the part cos(pi / 2 * step / steps) stays hidden.
How certain an id is, is its log-probability with Gumbel noise that fades, without which pictures lack variety. What is given,
and the structure, is never hidden.

The shape of a grid must be known, since structure is not drawn. Each document draws from a generator of its own, as in
`generation`. With guidance each has several readings, of which the same places are hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from tokenize_kit.sequences.grammar import Grammar, GrammarState
from tokenize_kit.sequences.segment import Segment
from trainers.autoregressive.generation import Beginning, PlacedGrammar, inputs_of, sample
from trainers.autoregressive.guidance import Guidance, guided
from trainers.autoregressive.models import SequenceModel, device_of
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.sampling_options import SamplingOptions

STEPS = 12
"""Steps by default: MaskGIT's pictures are the best between 8 and 12."""
NOISE = 4.5
"""Scale of the Gumbel noise at the first step by default (the choice temperature of MaskGIT's code)."""


@dataclass
class _Laid:
    """A document of known structure, and what of it is to be drawn."""

    ids: list[int]
    """All tokens; what is to be drawn has any id that is allowed."""
    places: list[int]
    """Where it stands."""
    ranges: list[tuple[int, int]]
    """Which ids may be drawn there, half-open."""
    inputs: Inputs | None = None
    """What is known of the tokens, made on the device."""


def lay_out_whole(segments: Sequence[Segment], grammar: Grammar, beginning: Sequence[int]) -> _Laid:
    """Return a whole document that begins in a way, with its ids still to be drawn.

    Args:
        segments: of the template.
        grammar: of the document.
        beginning: the ids that are given.

    Raises:
        ValueError: its structure is not known: a text has any length, a grid one of several shapes, a part may be missing.
    """
    state: GrammarState = grammar.start()
    for token in beginning:
        state = grammar.advance(state, int(token))
    laid = _Laid([int(token) for token in beginning], [], [])
    while not grammar.done(state):
        allowed = grammar.allowed(state)
        low, high = allowed[0]
        if len(allowed) > 1 or high - low > 1:
            _check_known(segments[state.segment], state)
            laid.places.append(len(laid.ids))
            laid.ranges.append((low, high))
        laid.ids.append(low)
        state = grammar.advance(state, low)
    return laid


def _check_known(segment: Segment, state: GrammarState) -> None:
    how = "a model of the objective next-token draws it"
    if segment.stream.is_open:
        raise ValueError(
            f"parallel decoding draws grids of a known shape, and a {segment.name!r} has any length; {how} token by token"
        )
    if state.place == 0:
        raise ValueError(
            f"parallel decoding cannot tell whether there is a {segment.name!r}, which may be missing; {how}"
        )
    if state.place < segment.header:
        shapes = ", ".join("x".join(map(str, shape)) for shape in segment.stream.shapes)
        raise ValueError(
            f"parallel decoding draws grids of a known shape, and a {segment.name!r} has one of several ({shapes}); {how}, or "
            "encode all samples in one size"
        )


def decode_parallel(
    model: SequenceModel,
    segments: Sequence[Segment],
    beginnings: Sequence[Beginning],
    options: SamplingOptions,
    mask: int,
    *,
    max_length: int | None = None,
    first_index: int = 0,
    on_tokens: Callable[[int], None] | None = None,
    guidance: Guidance | None = None,
    weaker: Sequence[Sequence[Beginning]] = (),
) -> list[list[int]]:
    """Finish each document.

    Args:
        model: of hidden tokens, in any mode; it is evaluated.
        segments: of the template.
        beginnings: for each document its grammar and the ids that are given.
        options: how to draw; the filters are of the ids of a place.
        mask: the id of a hidden token.
        max_length: the longest document; at most and by default the model's context.
        first_index: the number of the first document, from which each one's generator follows.
        on_tokens: is told how many tokens were drawn.
        guidance: see `generation.generate`; a schedule goes by how much is drawn.
        weaker: the same.

    Returns:
        For each document all ids.

    Raises:
        ValueError: the model is causal, a structure is not known, or a document is longer than ``max_length``.
    """
    if model.causal:
        raise ValueError("a causal model draws token by token; parallel decoding is for models of hidden tokens")
    limit = model.config.context if max_length is None else max_length
    device = device_of(model)
    rows = []
    for index, beginning in enumerate(beginnings):
        own = [lay_out_whole(segments, cast("Grammar", grammar), ids) for grammar, ids in [beginning]]
        more = [
            lay_out_whole(segments, cast("Grammar", grammar), ids) for grammar, ids in (weaker[index] if weaker else ())
        ]
        if len(own[0].ids) > limit:
            raise ValueError(f"document {first_index + index} has {len(own[0].ids)} tokens, more than {limit}")
        every = [*more, *own]
        grammars = [grammar for grammar, _ in (*(weaker[index] if weaker else ()), beginning)]
        wanted = [len(every) - 1] if guidance is None else guidance.readings
        readings = [every[number] for number in wanted]
        for reading, number in zip(readings, wanted, strict=True):
            reading.inputs = inputs_of(cast("PlacedGrammar", grammars[number]), reading.ids, bool(model.needs), device)
        rows.append(_Row(own[0], readings, first_index + index, options.seed))
    was_training = isinstance(model, nn.Module) and model.training
    model.eval()
    try:
        order = sorted(rows, key=lambda row: len(row.laid.ids))
        for start in range(0, len(order), options.batch_size):
            _finish(model, order[start : start + options.batch_size], options, mask, guidance, on_tokens)
    finally:
        model.train(was_training)
    return [row.laid.ids for row in rows]


class _Row:
    """One document on its way."""

    def __init__(self, laid: _Laid, readings: list[_Laid], index: int, seed: int) -> None:
        self.laid, self.readings = laid, readings
        self.random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
        self.hidden = list(range(len(laid.places)))
        """Numbers of the places that are hidden, ascending."""

    @property
    def progress(self) -> float:
        """How much is drawn."""
        return 1 - len(self.hidden) / max(1, len(self.laid.places))

    def keep(self, numbers: Sequence[int], ids: Sequence[int]) -> None:
        """Set the ids of some of the hidden places."""
        for number, token in zip(numbers, ids, strict=True):
            for reading in {id(one): one for one in (self.laid, *self.readings)}.values():
                reading.ids[reading.places[number]] = token
        self.hidden = sorted({*self.hidden} - {*numbers})


def _finish(
    model: SequenceModel,
    rows: Sequence[_Row],
    options: SamplingOptions,
    mask: int,
    guidance: Guidance | None,
    on_tokens: Callable[[int], None] | None,
) -> None:
    steps = STEPS if options.decoding_steps is None else options.decoding_steps
    for step in range(1, steps + 1):
        going = [row for row in rows if row.hidden]
        if not going:
            return
        logits = _logits(model, going, mask, guidance)
        for row, own in zip(going, logits, strict=True):
            every = len(row.laid.places)
            left = 0 if step == steps else min(len(row.hidden) - 1, int(every * math.cos(math.pi / 2 * step / steps)))
            kept = _step(row, own, options, len(row.hidden) - left, 1 - step / steps)
            if on_tokens is not None:
                on_tokens(kept)


def _logits(model: SequenceModel, rows: Sequence[_Row], mask: int, guidance: Guidance | None) -> list[Tensor]:
    """Return for each row the logits of its hidden places, (n, V) on the CPU."""
    readings = [(row, reading) for row in rows for reading in row.readings]
    longest = max(len(reading.ids) for _, reading in readings)
    parts: dict[str, list[Tensor]] = {}
    for row, reading in readings:
        assert reading.inputs is not None
        ids = torch.tensor([reading.ids], device=reading.inputs.ids.device)
        ids[0, [reading.places[number] for number in row.hidden]] = mask
        known = {**reading.inputs.parts(), "ids": ids, "documents": torch.zeros_like(ids)}
        for name, part in known.items():
            parts.setdefault(name, []).append(_filled(part, longest, -1 if name == "documents" else 0))
    with torch.inference_mode():
        logits = model.logits(Inputs(**{name: torch.cat(several) for name, several in parts.items()})).float()
    found, at = [], 0
    for row in rows:
        each = []
        for reading in row.readings:
            each.append(logits[at, [reading.places[number] for number in row.hidden]])
            at += 1
        if len(each) > 1:
            assert guidance is not None
            weights = guidance.weights(row.progress)
            several = torch.stack(each, 1).flatten(0, 1)
            each = [guided(several, [weights] * len(row.hidden))]
        found.append(each[0].cpu())
    return found


def _filled(part: Tensor, length: int, value: int) -> Tensor:
    """Fill what is known of one document (1, T, ..) up to a length."""
    more = part.new_full((1, length - part.shape[1], *part.shape[2:]), value)
    return torch.cat((part, more), 1)


def _step(row: _Row, logits: Tensor, options: SamplingOptions, count: int, rest: float) -> int:
    """Draw an id for every hidden place and keep ``count`` of them; return ``count``.

    Args:
        row: the document.
        logits: (n, V), of its hidden places.
        options: how to draw.
        count: how many are kept.
        rest: how much of the steps is left, which scales the noise.
    """
    ids, certain = np.zeros(len(row.hidden), np.int64), np.zeros(len(row.hidden))
    # The same numbers are drawn whatever is asked for, a place a number for its id and one for its noise.
    numbers = row.random.random((2, len(row.hidden)))
    ranges = np.array([row.laid.ranges[number] for number in row.hidden])
    for low, high in np.unique(ranges, axis=0).tolist():
        mine = np.flatnonzero((ranges == (low, high)).all(1))
        part = logits[torch.from_numpy(mine), low:high]
        drawn = sample(part, options, numbers[0, mine].tolist())
        ids[mine] = low + drawn.numpy()
        certain[mine] = part.double().log_softmax(-1).gather(-1, drawn[:, None])[:, 0].numpy()
    if options.temperature > 0:
        scale = NOISE if options.decoding_noise is None else options.decoding_noise
        certain += scale * rest * -np.log(-np.log(np.clip(numbers[1], 1e-300, 1 - 1e-16)))
    chosen = np.sort(np.argsort(-certain, kind="stable")[:count])
    row.keep([row.hidden[place] for place in chosen.tolist()], ids[chosen].tolist())
    return count


def check_whole(causal: bool, options: Any) -> None:
    """Refuse what goes with the other way of drawing alone.

    Args:
        causal: whether the model draws token by token.
        options: of ``generate``, or `SamplingOptions`.

    Raises:
        ValueError: names the option.
    """
    if causal:
        for name, value in (("steps", options.decoding_steps), ("noise", options.decoding_noise)):
            if value is not None:
                raise ValueError(
                    f"--decoding-{name} {value} is for models of hidden tokens (--objective maskgit, any-order or masked); "
                    "this one draws token by token: leave it out"
                )
        return
    for option, given in (("--stream", getattr(options, "stream", False)), ("--compiled", options.compiled)):
        if given:
            raise ValueError(
                f"{option} is for models that draw token by token; this one is of hidden tokens and draws whole grids: leave it "
                "out"
            )
