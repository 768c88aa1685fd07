"""``generate``: samples from a model folder, as files, or one to stdout while it is drawn.

The model folder carries its tokenizers and its template, so nothing else is needed. The grammar of the template, bounded by
the model's context, makes sure that every sequence ends and decodes. The module loads no torch until it is called.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenize_kit.errors import UsageError
from trainers.autoregressive.options import GenerateOptions
from trainers.autoregressive.samples_folder import (
    BFLOAT16,
    GENERATE_FILE,
    SAMPLES_FILE,
    identity_of,
    line_of,
    texts_of,
    write_sample,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Sample, Tokenizer
    from tokenize_kit.sequences.prompt import Beginning
    from trainers.autoregressive.guidance import Guidance
    from trainers.autoregressive.model_folder import LoadedModel
    from trainers.autoregressive.prompts import Prompt
    from trainers.autoregressive.sampling_options import SamplingOptions

_BATCHES = 8
"""How many batches are drawn before their samples are written."""


@dataclass(frozen=True)
class GeneratedSample:
    """One sample."""

    ids: list[int]
    """The whole sequence, prompt and special tokens included."""
    samples: dict[str, Sample]
    """The decoded sample of each predicted part of the template; what it lacks is not among them."""
    prompt_length: int
    """How many of the ids were given."""
    order_seed: int | None = None
    """Decides the order of its ids, if the template has one that is drawn."""


@dataclass(frozen=True)
class GenerateResult:
    """What was written."""

    out: str | None
    """The folder; its samples.jsonl has a line for each sample. None if a sample went to stdout alone."""
    count: int
    """Number of samples."""
    files: tuple[str, ...]
    """The files of the samples, in order."""
    texts: tuple[str, ...]
    """The samples of a text stream, in order; empty if none is predicted, or if it went to stdout."""
    tokens: int
    """Tokens that were drawn."""
    tokens_per_second: float
    """Tokens drawn a second, loading not counted."""

    def to_text(self) -> str:
        """Return a line for a person, and then the texts with an empty line between two, or else the files, one a line."""
        from tokenize_kit.progress import readable, several

        where = "" if self.out is None else f" in {self.out}"
        line = (
            f"{several(self.count, 'samples')}{where}, {several(self.tokens, 'tokens')} drawn, "
            f"{readable(self.tokens_per_second)} a second"
        )
        return "\n".join([line, *(f"\n{text}" for text in self.texts)] if self.texts else [line, *self.files])


def generate_samples(options: GenerateOptions, progress: Progress | None = None) -> GenerateResult:
    """Sample from a model folder and write each sample as a file, and ``samples.jsonl`` with its ids, seed and prompt.

    With ``options.stream`` there is one sample, which goes to stdout while it is drawn, and into the folder if one is given.

    Raises:
        FileNotFoundError: there is no model, or a prompt file is missing.
        ValueError: the prompt does not fit the template, an option is out of range, the folder holds something else, or what
            the template predicts does not come in pieces.
        BrokenPipeError: the reader of stdout has left.
    """
    from tokenize_kit.claims import begun

    if options.out is None:
        return _stream(options, None, progress)
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the samples")
    own = ("sample_[0-9][0-9][0-9][0-9][0-9]*", SAMPLES_FILE)
    foreign = "give an empty or new one, or --overwrite to replace samples there"
    with begun(out, GENERATE_FILE, identity_of(options), own=own, overwrite=options.overwrite, foreign=foreign):
        return _stream(options, out, progress) if options.stream else _generate(options, out, progress)


@dataclass(frozen=True)
class _Asked:
    """What is to be drawn, checked: all of it before the first token, as a line that is no prompt shall not cost an hour."""

    loaded: LoadedModel
    limit: int
    prompts: list[Prompt]
    grids: list[dict[str, NDArray[np.integer[Any]]]]
    """What each of the prompts gives."""


def _asked(options: GenerateOptions, progress: Progress | None) -> _Asked:
    import torch

    from tokenize_kit.protocol import modality_of
    from trainers.autoregressive.guidance import check_prompt, guidance_of
    from trainers.autoregressive.model_folder import load_model
    from trainers.autoregressive.parallel import check_whole
    from trainers.autoregressive.prompts import checked_grids, given_prompts, prompt_tokenizers
    from trainers.runtime import resolve_device

    loaded = load_model(options.model, resolve_device(options.device)).using(options.template)
    check_whole(loaded.model.causal, options)
    cast("nn.Module", loaded.model).to(torch.bfloat16 if options.precision in BFLOAT16 else torch.float32)
    tokenizers = prompt_tokenizers(loaded, options.allow_special)
    limit = checked_length(loaded, options.max_length)
    prompts = given_prompts(loaded, options)
    if options.prompt_frames is not None and not any(modality_of(one.spec).timed for one in tokenizers.values()):
        raise ValueError(f"--prompt-frames {options.prompt_frames} is for films, and the model has none; leave it out")
    begun = [checked_grids(loaded, tokenizers, prompt, limit, options.prompt_frames) for prompt in prompts]
    guidance = guidance_of(loaded.template, loaded.vocabulary, options)
    for prompt, (grids, _) in zip(prompts, begun, strict=True):
        try:
            check_prompt(guidance, loaded.template, grids)
        except ValueError as error:
            raise ValueError(f"{prompt.where}: {error}" if prompt.where else str(error)) from None
    if progress is not None:
        for note in dict.fromkeys((loaded.note, *(note for _, notes in begun for note in notes))):
            if note:
                progress.note(note)
    return _Asked(loaded, limit, prompts, [grids for grids, _ in begun])


def _generate(options: GenerateOptions, out: Path, progress: Progress | None) -> GenerateResult:
    from tokenize_kit.files import write_text

    asked = _asked(options, progress)
    loaded = asked.loaded
    if progress is not None:
        progress.task("generate", len(asked.prompts) * options.count)
    lines: list[str] = []
    files: list[str] = []
    texts: list[str] = []
    tokens, seconds = 0, 0.0
    numbers = [number for number in range(len(asked.prompts)) for _ in range(options.count)]
    # Some batches at a time, so that what is decoded is written before the memory is full.
    for start in range(0, len(numbers), options.batch_size * _BATCHES):
        some = numbers[start : start + options.batch_size * _BATCHES]
        began = time.monotonic()
        generated = draw(
            loaded,
            [asked.grids[number] for number in some],
            options,
            asked.limit,
            progress,
            first_index=start,
            show_special=options.show_special,
        )
        seconds += time.monotonic() - began
        for index, (number, sequence) in enumerate(zip(some, generated, strict=True), start):
            written = write_sample(loaded, sequence.samples, out, index)
            files += [str(out / name) for name in written.values()]
            said = texts_of(loaded, sequence.samples)
            texts += said.values()
            prompt = asked.prompts[number]
            lines.append(line_of(options, index, prompt, written, said, sequence.ids, sequence.order_seed))
            tokens += len(sequence.ids) - sequence.prompt_length
    write_text(out / SAMPLES_FILE, "\n".join(lines) + "\n")
    return GenerateResult(str(out), len(numbers), tuple(files), tuple(texts), tokens, tokens / max(1e-9, seconds))


def _stream(options: GenerateOptions, out: Path | None, progress: Progress | None) -> GenerateResult:
    """Draw one sample to stdout, and write it into the folder as `_generate` does."""
    from tokenize_kit.files import write_text
    from trainers.autoregressive.stdout import Stdout

    asked = _asked(options, progress)
    loaded = asked.loaded
    stdout = Stdout(loaded)
    if len(asked.prompts) > 1:
        raise UsageError(
            f"--stream writes one sample, and --prompts {options.prompts} has {len(asked.prompts)} prompts; give one of them"
        )
    laid = lay_out(loaded, asked.grids, options, asked.limit)
    (beginning,) = laid.beginnings
    began = time.monotonic()
    ids = stdout.draw(beginning, options, asked.limit, progress, show_special=options.show_special, **laid.options())
    seconds, tokens = time.monotonic() - began, len(ids) - len(beginning.ids)
    files: tuple[str, ...] = ()
    if out is not None:
        sample = _finished(loaded, ids, beginning, laid.drawn, options.show_special)
        written = write_sample(loaded, sample.samples, out, 0)
        files = tuple(str(out / name) for name in written.values())
        said = texts_of(loaded, sample.samples)
        line = line_of(options, 0, asked.prompts[0], written, said, ids, sample.order_seed)
        write_text(out / SAMPLES_FILE, line + "\n")
    return GenerateResult(options.out, 1, files, (), tokens, tokens / max(1e-9, seconds))


def _tokenizer(loaded: LoadedModel, name: str) -> Tokenizer:
    """Return the tokenizer of a part of the template."""
    return loaded.tokenizers[loaded.template.stream_of(name)]


def checked_length(loaded: LoadedModel, max_length: int | None) -> int:
    """Return the most tokens of a sequence: what was asked for, or the context.

    Raises:
        ValueError: it is beyond the context.
    """
    context = loaded.model.config.context
    limit = context if max_length is None else max_length
    if not 1 <= limit <= context:
        raise ValueError(f"--max-length {limit} must be between 1 and the model's context of {context}")
    return limit


@dataclass(frozen=True)
class LaidOut:
    """Prompts as the beginnings of documents."""

    beginnings: list[Beginning]
    """For each prompt its own."""
    drawn: bool
    """Whether the template has an order that is drawn."""
    guidance: Guidance | None
    """How strongly conditions are followed."""
    weaker: list[list[Beginning]]
    """With guidance, for each prompt the same with fewer of its conditions."""

    def options(self) -> dict[str, Any]:
        """Return what `generation.generate` is given of it."""
        return {
            "states": [beginning.state for beginning in self.beginnings],
            "guidance": self.guidance,
            "weaker": [[(beginning.grammar, beginning.ids) for beginning in some] for some in self.weaker],
        }


def lay_out(
    loaded: LoadedModel,
    prompts: Sequence[Mapping[str, NDArray[np.integer[Any]]]],
    options: SamplingOptions,
    limit: int,
    first_index: int = 0,
) -> LaidOut:
    """Lay prompts out as the beginnings of documents of at most ``limit`` tokens; see `draw`."""
    from tokenize_kit.sequences.prompt import begin
    from trainers.autoregressive.guidance import guidance_of, less

    guidance = guidance_of(loaded.template, loaded.vocabulary, options)
    drawn = any(segment.arrangement.drawn for segment in loaded.template.segments(loaded.vocabulary))
    begun: dict[tuple[int, int], Beginning] = {}
    beginnings: list[Beginning] = []
    weaker: list[list[Beginning]] = []
    fewer: dict[tuple[int, int], list[Beginning]] = {}
    for index, grids in enumerate(prompts, first_index):
        # Prompts that are the same object are laid out once.
        order_seed = order_seed_of(options.seed, index) if drawn else 0
        if (id(grids), order_seed) not in begun:
            begun[id(grids), order_seed] = begin(loaded.template, loaded.vocabulary, grids, limit, order_seed)
        beginnings.append(begun[id(grids), order_seed])
        if guidance is not None:
            if (id(grids), order_seed) not in fewer:
                parts = [less(guidance, loaded.template, grids, reading) for reading in range(guidance.last)]
                fewer[id(grids), order_seed] = [
                    begin(loaded.template, loaded.vocabulary, part, limit, order_seed) for part in parts
                ]
            weaker.append(fewer[id(grids), order_seed])
    return LaidOut(beginnings, drawn, guidance, weaker)


def draw(
    loaded: LoadedModel,
    prompts: Sequence[Mapping[str, NDArray[np.integer[Any]]]],
    options: SamplingOptions,
    max_length: int | None = None,
    progress: Progress | None = None,
    *,
    first_index: int = 0,
    show_special: bool = True,
) -> list[GeneratedSample]:
    """Sample one sequence for each prompt and decode it.

    Args:
        loaded: from `load_model`.
        prompts: for each sequence the grids of the template's first streams (see `prompt_grids`); may be empty. Without a
            condition in the template, the last of them is continued where it ends.
        options: how tokens are drawn; sequence i depends on the seed and i alone.
        max_length: the most tokens of a sequence; the model's context if None.
        progress: is told how many tokens were drawn, and how many sequences are done.
        first_index: the number i of the first sequence.
        show_special: whether special tokens in a text are shown as they are spelt, or left out.

    Raises:
        ValueError: a prompt does not fit the template, or is too long; or there is no guidance of it (`guidance.guidance_of`).
    """
    from trainers.autoregressive.generation import generate
    from trainers.autoregressive.parallel import check_whole, decode_parallel

    check_whole(loaded.model.causal, options)
    limit = checked_length(loaded, max_length)
    laid = lay_out(loaded, prompts, options, limit, first_index)
    beginnings = laid.beginnings
    total = 0

    def count(tokens: int) -> None:
        nonlocal total
        total += tokens
        if progress is not None:
            progress.update(tokens=total)

    given = [(beginning.grammar, beginning.ids) for beginning in beginnings]
    if loaded.model.causal:
        sequences = generate(
            loaded.model,
            [grammar for grammar, _ in given],
            [ids for _, ids in given],
            options,
            max_length=limit,
            first_index=first_index,
            on_tokens=count,
            **laid.options(),
        )
    else:
        more = laid.options()
        sequences = decode_parallel(
            loaded.model,
            loaded.template.segments(loaded.vocabulary),
            given,
            options,
            loaded.vocabulary.size,
            max_length=limit,
            first_index=first_index,
            on_tokens=count,
            guidance=more["guidance"],
            weaker=more["weaker"],
        )
    results = [
        _finished(loaded, ids, beginning, laid.drawn, show_special)
        for ids, beginning in zip(sequences, beginnings, strict=True)
    ]
    if progress is not None:
        progress.update(first_index + len(sequences))
    return results


def _finished(
    loaded: LoadedModel, ids: list[int], beginning: Beginning, drawn: bool, show_special: bool
) -> GeneratedSample:
    """Decode the parts of a document that are predicted; see `draw`."""
    import torch

    from tokenize_kit.protocol.special import without_special

    order_seed = beginning.grammar.seed
    grids = loaded.template.parse_ids(ids, loaded.vocabulary, order_seed)
    samples = {}
    for name in (name for name in loaded.template.target if name in grids):
        tokenizer = _tokenizer(loaded, name)
        shown = grids[name] if show_special else without_special(tokenizer, grids[name])
        samples[name] = tokenizer.decode(torch.from_numpy(shown))
    return GeneratedSample(ids, samples, len(beginning.ids), order_seed if drawn else None)


def order_seed_of(seed: int, index: int) -> int:
    """Return what decides the orders that are drawn of sequence ``index`` of a generation with a seed."""
    import numpy as np

    from tokenize_kit.sequences.orders.random import mixed

    bits = mixed(np.array([seed], np.int64).astype(np.uint64), np.array([index], np.uint64))
    return int(bits[0] >> np.uint64(1))


def prompt_grids(
    loaded: LoadedModel, prompt: str | None = None, files: Sequence[str] = ()
) -> dict[str, NDArray[np.integer[Any]]]:
    """Encode a prompt for the template's first streams, as the data of the model were; see `trainers.autoregressive.prompts`.

    Args:
        loaded: from `load_model`.
        prompt: text for the first stream.
        files: instead of it, a file for each of the first streams.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the first stream is no text, there are more files than streams, or a condition is missing.
    """
    from trainers.autoregressive.options import PromptOptions
    from trainers.autoregressive.prompts import given_prompts, grids_of, prompt_tokenizers

    (asked,) = given_prompts(loaded, PromptOptions(model="", out="", prompt=prompt, prompt_file=tuple(files)))
    return grids_of(loaded, prompt_tokenizers(loaded, None), asked)[0]
