"""A trained model in Python: samples out of what is given, and how probable samples are.

    from trainers.autoregressive.api import Model

    model = Model.load("models/emoji")
    pictures = model.generate(text="red heart", count=4, guidance=3.0)
    model.score(text="red heart", image=pictures[0]).nats

Texts and labels are ``str``, pictures `PIL.Image`, sounds `Sound` and films `Film` (`tokenize_kit.protocol.values`). What is
given may also be an array, a pair of array and rate, or the path of a file (`pathlib.Path`; of a stream that is no text also a
``str``). It is brought to what the data of the model were, as `generate` does with files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tokenize_kit.protocol import Tokenizer, modality_of
from tokenize_kit.sequences.single import documents_of
from tokenize_kit.sequences.vocabulary import unknown_stream
from trainers.autoregressive.guidance import check_prompt, guidance_of
from trainers.autoregressive.model_folder import LoadedModel, load_model
from trainers.autoregressive.prompts import Prompt, encoded, grids_of, prompt_tokenizers
from trainers.autoregressive.sample import checked_length, draw, lay_out
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.scoring.scores import Reader, Score, score_documents
from trainers.autoregressive.streaming import check_comes_in_pieces, decoded, steps_of
from trainers.runtime import resolve_device

__all__ = ["Model", "Score"]


class Model:
    """A model folder that is loaded; see the module.

    Args:
        loaded: from `trainers.autoregressive.model_folder.load_model`.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str = "auto", dtype: torch.dtype = torch.float32) -> Self:
        """Load a model folder, that of a training that goes on, or a checkpoint in it.

        Args:
            folder: made by ``train transformer``.
            device: ``auto`` takes a GPU if there is one.
            dtype: of the weights: float32, or bfloat16, which is faster and rounds the logits.

        Raises:
            FileNotFoundError: there is no such folder, or it has no weights yet.
            ValueError, VerificationError: a part of it is damaged or does not fit.
        """
        loaded = load_model(folder, resolve_device(device))
        assert isinstance(loaded.model, nn.Module)
        loaded.model.to(dtype)
        return cls(loaded)

    @property
    def templates(self) -> tuple[str, ...]:
        """What the model was trained on; the first one is used where none is named."""
        return tuple(map(str, self.loaded.templates or (self.loaded.template,)))

    def generate(
        self,
        given: Mapping[str, Any] | None = None,
        *,
        template: str | None = None,
        count: int = 1,
        guidance: float | Sequence[float] | None = None,
        max_length: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        batch_size: int = 16,
        complete: float | None = None,
        decoding_steps: int | None = None,
        decoding_noise: float | None = None,
        **streams: Any,
    ) -> list[Any]:
        """Draw samples, as ``tokenize-kit generate`` does.

        Args:
            given: what is given, by the names of the template's parts: its condition, or the beginning of its first parts.
            template: which of `templates`.
            count: how many samples.
            guidance: see ``--guidance``; several numbers are for several conditions.
            max_length: the most tokens of a sample, what is given included; the model's context by default.
            temperature: divides the logits; 0 takes the most probable token.
            top_k: keep so many of the most probable tokens; None keeps all.
            top_p: keep the most probable tokens that together reach this probability.
            min_p: keep tokens with at least this part of the probability of the most probable one.
            seed: sample i depends on it and on i alone.
            batch_size: samples that are drawn side by side.
            complete: keep so much of the last part that is given, above 0 and below 1, and draw the rest: 0.5 keeps the upper
                half of a picture, the first half of a sound or film. By default all of it is kept.
            decoding_steps: of a model of hidden tokens, in how many steps a grid is drawn; see ``--decoding-steps``.
            decoding_noise: the same, see ``--decoding-noise``.
            streams: the same as ``given``, for names that Python can write: ``text="red heart"``.

        Returns:
            A value for each sample; where a template predicts several parts, a dictionary of them.

        Raises:
            FileNotFoundError: a file is missing.
            TypeError: a value is none that the stream could take.
            ValueError: it does not fit the template or the model, or an option is out of range.
        """
        loaded = self.loaded.using(template)
        if count < 1:
            raise ValueError(f"count {count} must be at least 1")
        if complete is not None and not 0 < complete < 1:
            raise ValueError(f"complete {complete} must be above 0 and below 1, or left out")
        options = SamplingOptions(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            batch_size=batch_size,
            guidance=_scales(guidance),
            decoding_steps=decoding_steps,
            decoding_noise=decoding_noise,
        )
        limit = checked_length(loaded, max_length)
        grids = _begun(loaded, _joined(given, streams), options, complete)
        drawn = draw(loaded, [grids] * count, options, limit)
        target = loaded.template.target
        values = [{name: _to_python(loaded, name, sample) for name, sample in one.samples.items()} for one in drawn]
        return values if len(target) > 1 else [one.get(target[0]) for one in values]

    def stream(
        self,
        given: Mapping[str, Any] | None = None,
        *,
        template: str | None = None,
        guidance: float | Sequence[float] | None = None,
        max_length: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
        **streams: Any,
    ) -> Iterator[Any]:
        """Draw one sample and yield it in pieces as it comes, that of `generate` with the same arguments.

        A text comes in pieces of whole characters, a sound or film as far as its tokenizer can decode what is there, each piece a
        `Sound` or `Film` of its own. What is given of it to begin with comes first.

        Args:
            given: as `generate`.
            template: the same.
            guidance: the same.
            max_length: the same.
            temperature: the same.
            top_k: the same.
            top_p: the same.
            min_p: the same.
            seed: the same.
            streams: the same.

        Raises:
            FileNotFoundError, TypeError: as `generate`.
            ValueError: as `generate`, or the template predicts anything but one text, sound or film.
        """
        loaded = self.loaded.using(template)
        target = check_comes_in_pieces(loaded, "use generate")
        options = SamplingOptions(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            batch_size=1,
            guidance=_scales(guidance),
        )
        limit = checked_length(loaded, max_length)
        grids = _begun(loaded, _joined(given, streams), options)
        laid = lay_out(loaded, [grids], options, limit)
        (beginning,) = laid.beginnings
        steps = steps_of(loaded, beginning, options, limit, **laid.options())
        for piece in decoded(_tokenizer(loaded, target), steps):
            yield _to_python(loaded, target, piece)

    def score(
        self, given: Mapping[str, Any] | None = None, *, template: str | None = None, seed: int = 0, **streams: Any
    ) -> Score:
        """Return how probable what is predicted of a sample is, given its condition, as ``tokenize-kit score`` does.

        Args:
            given: a value for each part of the template, by its name.
            template: which of `templates`.
            seed: decides an order of places that is drawn.
            streams: the same as ``given``.

        Raises:
            FileNotFoundError, TypeError: as `generate`.
            ValueError: a part is missing, the sample is longer than the model's context and must not be cut (see
                `trainers.autoregressive.scoring.scores`), or the model gives no probability of a whole sample.
        """
        loaded = self.loaded.using(template)
        Reader(loaded)
        tokenizers = prompt_tokenizers(loaded, None)
        with tempfile.TemporaryDirectory() as folder:
            prompt = _prompt(loaded, _joined(given, streams), Path(folder))
            grids = {name: encoded(loaded, tokenizers, prompt, name)[0] for name in (*prompt.texts, *prompt.files)}
        documents = documents_of(loaded.template, loaded.vocabulary, grids)
        (score,) = score_documents(loaded, documents, np.arange(1), seeds=np.array([seed]))
        return score


def _joined(given: Mapping[str, Any] | None, streams: Mapping[str, Any]) -> dict[str, Any]:
    if both := sorted({*(given or {})} & {*streams}):
        raise ValueError(f"the stream {both[0]!r} is given twice")
    return {**(given or {}), **streams}


def _scales(guidance: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if guidance is None:
        return None
    return (guidance,) if isinstance(guidance, int | float) else tuple(guidance)


def _begun(
    loaded: LoadedModel, given: Mapping[str, Any], options: SamplingOptions, part: float | None = None
) -> dict[str, NDArray[np.integer[Any]]]:
    """Return the grids of what is given, of the last of them only so much as ``part`` says."""
    with tempfile.TemporaryDirectory() as folder:
        prompt = replace(_prompt(loaded, given, Path(folder)), part=part)
        grids, _ = grids_of(loaded, prompt_tokenizers(loaded, None), prompt)
    check_prompt(guidance_of(loaded.template, loaded.vocabulary, options), loaded.template, grids)
    return grids


def _prompt(loaded: LoadedModel, given: Mapping[str, Any], folder: Path) -> Prompt:
    """Return what is given as a prompt; what is no text and no file becomes a file in ``folder``."""
    texts: dict[str, str] = {}
    files: dict[str, Path] = {}
    for number, (name, value) in enumerate(given.items()):
        if name not in loaded.template.names:
            raise ValueError(unknown_stream(name, loaded.template.names))
        kind = modality_of(_tokenizer(loaded, name).spec)
        if isinstance(value, os.PathLike):
            files[name] = Path(value)
        elif isinstance(value, str) and kind.textual:
            texts[name] = value
        elif isinstance(value, str):
            files[name] = Path(value)
        elif (file := kind.save(value, folder / f"given-{number}")) is not None:
            files[name] = file
        else:
            raise TypeError(
                f"the stream {name!r} is of {kind.plural}: a {type(value).__name__} is none; give what generate gives of it, "
                "or the path of a file"
            )
    return Prompt(texts, files)


def _to_python(loaded: LoadedModel, name: str, sample: Any) -> Any:
    spec = loaded.prepared(loaded.template.stream_of(name)).taken(_tokenizer(loaded, name).spec)
    return modality_of(spec).to_python(sample, spec)


def _tokenizer(loaded: LoadedModel, name: str) -> Tokenizer:
    return loaded.tokenizers[loaded.template.stream_of(name)]
