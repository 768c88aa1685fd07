"""A grid to bytes and back, with a loaded model: which template, how many rows side by side, and refusals that name the reason.

A grid without an end of its own (text, sound) is cut into streams that are coded side by side, as a step of a model costs little
more for 64 rows than for one. Each begins as a document of its own does, which costs some bits, so there are as many as the grid
has eight times what a window codes, up to `MOST_ROWS`. A grid whose shape is known (a picture) is one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from tokenize_kit.errors import VerificationError
from tokenize_kit.sequences.document import shared_ids
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from trainers.autoregressive.coding.coder import DisagreementError, Reader, Writer
from trainers.autoregressive.coding.machine import FINGERPRINT_BYTES, Machine, computing, model_fingerprint
from trainers.autoregressive.coding.rows import Stream, Told, Windows, code_rows
from trainers.autoregressive.coding.section import MOST_STREAMS, Section
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.models import device_of

MOST_ROWS = 64
"""Rows side by side, if nothing else is asked for."""
_WINDOWS_A_ROW = 8
CARRY = 0.5
"""Part of a window that is known from the one before, if nothing else is asked for."""


def coded_part(template: SequenceTemplate, vocabulary: Vocabulary) -> str | None:
    """Return the name of the part that a template codes: its only one, or the only one that samples cannot lack.

    None if there is no such part, or if it is a condition, which the model was never taught to predict.
    """
    needed = [segment.name for segment in template.segments(vocabulary) if segment.null is None]
    names = template.names if len(template.names) == 1 else tuple(needed)
    return names[0] if len(names) == 1 and names[0] in template.target else None


def coding_template(
    loaded: LoadedModel, template: str | None, fits: Callable[[str], bool] | None = None
) -> LoadedModel:
    """Return the model with the template that codes.

    Args:
        loaded: a model.
        template: one of its templates; None takes the one of which `coded_part` is a stream that ``fits``.
        fits: whether what is to be coded is of a stream; None lets all through.

    Raises:
        ValueError: the model cannot go on from the left, no template codes such a stream alone, or several do.
    """
    if not loaded.model.causal:
        raise ValueError(
            "the model predicts hidden tokens and not the next one, so that it cannot code; train a causal one"
        )
    known = loaded.templates or (loaded.template,)
    if template is not None:
        chosen = loaded.using(template)
        if coded_part(chosen.template, loaded.vocabulary) is None:
            raise ValueError(f"--template {template!r}: {_only_alone(known)}")
        return chosen
    found = [one for one in known if (part := coded_part(one, loaded.vocabulary)) and _fits(one, part, fits)]
    # A template of the stream alone knows it better than one in which all else is missing.
    found = [one for one in found if len(one.names) == 1] or found
    if not found:
        raise ValueError(_only_alone(known))
    if len(found) > 1:
        names = ", ".join(repr(str(one)) for one in found)
        raise ValueError(f"the model has several templates that could code this ({names}); choose one with --template")
    return loaded.using(str(found[0]))


def _fits(template: SequenceTemplate, part: str, fits: Callable[[str], bool] | None) -> bool:
    return fits is None or fits(template.stream_of(part))


def _only_alone(known: Sequence[SequenceTemplate]) -> str:
    return (
        f"the model was trained on {', '.join(repr(str(one)) for one in known)}, and what is coded must be a stream that it "
        "predicts without any other; train it with a template of that stream alone as well"
    )


class GridCoder:
    """Codes grids of one stream.

    Args:
        loaded: with the template that codes, see `coding_template`; on the device that computes.

    Raises:
        ValueError: the template does not code a part alone.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded.using(str(loaded.template)) if loaded.templates else loaded
        part = coded_part(loaded.template, loaded.vocabulary)
        if part is None:
            raise ValueError(_only_alone([loaded.template]))
        self.stream = Stream(loaded.model, loaded.template, part, loaded.vocabulary)
        self.fingerprint = model_fingerprint(loaded)[: 2 * FINGERPRINT_BYTES]
        self.device = device_of(loaded.model)
        loaded.model.eval()

    def encode(
        self,
        grid: NDArray[np.integer],
        streams: int | None = None,
        carry: float = CARRY,
        told: Told | None = None,
    ) -> Section:
        """Code one grid.

        Args:
            grid: ids of the part, of the axes of its tokenizer.
            streams: rows that are coded side by side; None chooses.
            carry: part of a window that is known from the one before, 0 to 0.75.
            told: for a progress line.

        Raises:
            ValueError: the grid does not fit the vocabulary or the model's context, or an option is out of range.
        """
        if not 0 <= carry <= 0.75:
            raise ValueError(f"a carry of {carry} is not between 0 and 0.75 of a window")
        if streams is not None and not 1 <= streams <= MOST_STREAMS:
            raise ValueError(f"--streams {streams} must be from 1 to {MOST_STREAMS}")
        if not self.stream.is_open and (streams or 1) > 1:
            raise ValueError(
                f"--streams {streams}: a sample of {self.stream.part!r} has a known shape and is not cut; leave --streams out"
            )
        known = self.loaded.vocabulary.stream(self.loaded.template.stream_of(self.stream.part))
        ids = np.array(grid, np.int64)
        shared_ids(ids, known)
        windows, count = None, 1
        if self.stream.is_open:
            length = self.stream.capacity(ids.shape[1:])
            windows = Windows(length, int(length * carry))
            fresh = _WINDOWS_A_ROW * (length - windows.carry)
            count = max(1, min(len(ids), streams or min(MOST_ROWS, len(ids) // fresh)))
        writer = Writer()
        with computing(self.device):
            machine = Machine.here(self.device)
            if ids.size:
                code_rows(self.stream, np.array_split(ids, count), writer, windows, told)
        words = writer.finish()
        templates = self.loaded.templates or (self.loaded.template,)
        number = templates.index(self.loaded.template)
        cut = (0, 0) if windows is None else (windows.length, windows.carry)
        return Section(self.fingerprint, machine, number, count, *cut, tuple(writer.pieces), words)

    def decode(
        self, section: Section, shape: Sequence[int], name: str = "the file", told: Told | None = None
    ) -> NDArray[np.int64]:
        """Return the grid of ``shape`` that `encode` coded; ``name`` is how errors call the file.

        Raises:
            VerificationError: another model coded it, this machine computes other logits than that which did, or what it says is
                impossible.
        """
        check_model(section, self.fingerprint, name)
        known = self.loaded.vocabulary.stream(self.loaded.template.stream_of(self.stream.part))
        if len(shape) != len(known.spec.axes) or min(shape[1:], default=1) < 1:
            raise VerificationError(f"{name} is damaged: a grid of {tuple(shape)} is none of {known.name!r}")
        windows = None
        try:
            known.shape_index(shape[1:] if known.is_open else shape)
            if known.is_open:
                windows = Windows(section.window, section.carry)
                possible = 1 <= windows.length <= self.stream.capacity(shape[1:])
            else:
                possible = (section.window, section.streams) == (0, 1)
        except ValueError as error:
            raise VerificationError(f"{name} is damaged: {error}") from None
        if not possible or section.streams > max(1, shape[0]):
            raise VerificationError(f"{name} is damaged: its streams or windows are not what such a model codes")
        grid = np.zeros(shape, np.int64)
        reader = Reader(section.words, list(section.pieces))
        with computing(self.device, section.machine.threads):
            machine = Machine.here(self.device)
            try:
                if prod(shape):
                    code_rows(self.stream, np.array_split(grid, section.streams), reader, windows, told)
                reader.finish()
            except DisagreementError:
                raise VerificationError(_disagreement(section, machine, name)) from None
        return grid


def check_model(section: Section, fingerprint: str, name: str) -> None:
    """Refuse what another model coded.

    Raises:
        VerificationError: it did; the message has both fingerprints.
    """
    if section.model != fingerprint:
        raise VerificationError(
            f"{name} was coded by the model {section.model[:12]}, this one is {fingerprint[:12]} (their weights, vocabulary or "
            "tokenizers differ); give the one that coded it"
        )


def recorded_device(section: Section, name: str) -> torch.device:
    """Return where a file must be decoded: the same kind of device as coded it.

    Raises:
        ValueError: there is none here.
    """
    if section.machine.kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{name} was coded on a GPU ({section.machine.device}), and torch finds none here")
    return torch.device("cuda" if section.machine.kind == "cuda" else "cpu")


def _disagreement(section: Section, machine: Machine, name: str) -> str:
    differences = machine.differences(section.machine)
    reason = (
        f"this machine is not the one that coded it: {differences}"
        if differences
        else "the machine is as that which coded it was, so the file was altered or made with a model in another state"
    )
    return (
        f"{name} cannot be decoded here: the ids of a piece are not what they were ({reason}). One bit of one logit is enough; "
        "decode it where it was coded"
    )
