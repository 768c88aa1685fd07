"""``generate``: samples from a model folder, as files.

The model folder carries its tokenizers and its template, so nothing else is needed. The grammar of the template, bounded by
the model's context, makes sure that every sequence ends and decodes. The module loads no torch until it is called.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trainers.autoregressive.options import GenerateOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Sample, Tokenizer
    from tokenize_kit.sequences.prompt import Beginning
    from trainers.autoregressive.guidance import Guidance
    from trainers.autoregressive.model_folder import LoadedModel
    from trainers.autoregressive.sampling_options import SamplingOptions

SAMPLES_FILE = "samples.jsonl"
_BATCHES = 8
"""How many batches are drawn before their samples are written."""
_BFLOAT16 = ("bf16-mixed", "bfloat16")
GENERATE_FILE = "generate.json"
"""What the samples of a folder are drawn from, and how."""


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

    out: str
    """The folder; its samples.jsonl has a line for each sample."""
    count: int
    """Number of samples."""
    files: tuple[str, ...]
    """The files of the samples, in order."""
    texts: tuple[str, ...]
    """The samples of a text stream, in order; empty if none is predicted."""
    tokens: int
    """Tokens that were drawn."""
    tokens_per_second: float
    """Tokens drawn a second, loading not counted."""

    def to_text(self) -> str:
        """Return a line for a person, and then the texts with an empty line between two, or else the files, one a line."""
        from tokenize_kit.progress import readable, several

        line = (
            f"{several(self.count, 'samples')} in {self.out}, {several(self.tokens, 'tokens')} drawn, "
            f"{readable(self.tokens_per_second)} a second"
        )
        return "\n".join([line, *(f"\n{text}" for text in self.texts)] if self.texts else [line, *self.files])


def generate_samples(options: GenerateOptions, progress: Progress | None = None) -> GenerateResult:
    """Sample from a model folder and write each sample as a file, and ``samples.jsonl`` with its ids, seed and prompt.

    Raises:
        FileNotFoundError: there is no model, or a prompt file is missing.
        ValueError: the prompt does not fit the template, an option is out of range, or the folder holds something else.
    """
    from tokenize_kit.claims import begun

    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the samples")
    own = ("sample_[0-9][0-9][0-9][0-9][0-9]*", SAMPLES_FILE)
    foreign = "give an empty or new one, or --overwrite to replace samples there"
    with begun(out, GENERATE_FILE, _identity(options), own=own, overwrite=options.overwrite, foreign=foreign):
        return _generate(options, progress)


def _identity(options: GenerateOptions) -> dict[str, Any]:
    """Return what the samples depend on, the files that are named among the options by what they hold."""
    from tokenize_kit.files import sha256_of_file
    from tokenize_kit.sources.names import printable

    values = {name: value for name, value in asdict(options).items() if name not in ("out", "overwrite")}
    # As it was called before, so that samples from then can be gone on with.
    values["precision"] = "bfloat16" if options.precision in _BFLOAT16 else "float32"
    for name in ("prompt_frames", "template"):
        if values[name] is None:
            del values[name]  # as it was before there was the option
    if options.guidance is None:
        del values["guidance"], values["guidance_schedule"]
    if options.complete is None:
        del values["complete"], values["complete_part"]
    texts = [text for value in values.values() for text in (value if isinstance(value, tuple) else (value,))]
    named = [text for text in texts if isinstance(text, str) and text and len(text) < 4096 and "\0" not in text]
    model = Path(options.model)
    # The states of checkpoints have the digests of their weights.
    of_model = [
        path for pattern in ("model*", "state.json", "checkpoints/*/state.json") for path in model.glob(pattern)
    ]
    files = [Path(text) for text in named] + sorted(of_model)
    hashes: dict[str, str] = {}
    for path in files:
        with suppress(OSError):  # a prompt that is longer than a name may be
            if path.is_file():
                hashes[str(path)] = sha256_of_file(path)
    # Names need not be UTF-8, which a record in JSON is.
    shown = {name: _printable(value) for name, value in values.items()}
    return {"command": "generate", **shown, "sha256": {printable(name): found for name, found in hashes.items()}}


def _printable(value: Any) -> Any:
    from tokenize_kit.sources.names import printable

    if isinstance(value, (tuple, list)):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def _generate(options: GenerateOptions, progress: Progress | None) -> GenerateResult:
    import torch

    from tokenize_kit.files import write_text
    from tokenize_kit.protocol import modality_of
    from trainers.autoregressive.guidance import check_prompt, guidance_of
    from trainers.autoregressive.model_folder import load_model
    from trainers.autoregressive.prompts import checked_grids, given_prompts, prompt_tokenizers
    from trainers.runtime import resolve_device

    loaded = load_model(options.model, resolve_device(options.device)).using(options.template)
    cast("nn.Module", loaded.model).to(torch.bfloat16 if options.precision in _BFLOAT16 else torch.float32)
    tokenizers = prompt_tokenizers(loaded, options.allow_special)
    limit = checked_length(loaded, options.max_length)
    prompts = given_prompts(loaded, options)
    # All of them before the first token is drawn: a line that is no prompt shall not cost an hour.
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
        progress.task("generate", len(prompts) * options.count)

    out = Path(options.out)
    lines: list[str] = []
    files: list[str] = []
    texts: list[str] = []
    tokens, seconds = 0, 0.0
    asked = [number for number in range(len(prompts)) for _ in range(options.count)]
    # Some batches at a time, so that what is decoded is written before the memory is full.
    for start in range(0, len(asked), options.batch_size * _BATCHES):
        some = asked[start : start + options.batch_size * _BATCHES]
        began = time.monotonic()
        generated = draw(
            loaded,
            [begun[number][0] for number in some],
            options,
            limit,
            progress,
            first_index=start,
            show_special=options.show_special,
        )
        seconds += time.monotonic() - began
        for index, (number, sequence) in enumerate(zip(some, generated, strict=True), start):
            written = _write(loaded, sequence, out, index)
            files += [str(out / name) for name in written.values()]
            said = _texts_of(loaded, sequence)
            texts += said.values()
            prompt = prompts[number]
            line: dict[str, Any] = {"index": index, "seed": options.seed, "prompt": prompt.shown()}
            line |= {} if prompt.line is None else {"line": prompt.line}
            line |= {"files": written}
            line |= {} if sequence.order_seed is None else {"order_seed": sequence.order_seed}
            line |= _guidance_told(options)
            if said:
                line["text"] = next(iter(said.values())) if len(said) == 1 else said
            lines.append(json.dumps(line | {"ids": sequence.ids}, ensure_ascii=False))
            tokens += len(sequence.ids) - sequence.prompt_length
    write_text(out / SAMPLES_FILE, "\n".join(lines) + "\n")
    return GenerateResult(str(out), len(asked), tuple(files), tuple(texts), tokens, tokens / max(1e-9, seconds))


def _guidance_told(options: SamplingOptions) -> dict[str, Any]:
    """Return what a line of the samples says of guidance."""
    if options.guidance is None:
        return {}
    told: dict[str, Any] = {"guidance": options.guidance[0] if len(options.guidance) == 1 else list(options.guidance)}
    return told | ({} if options.guidance_schedule == "constant" else {"guidance_schedule": options.guidance_schedule})


def _write(loaded: LoadedModel, sequence: GeneratedSample, out: Path, index: int) -> dict[str, str]:
    """Write each stream of a sample as a file, and return their names."""
    from tokenize_kit.protocol import modality_of

    written = {}
    for stream, sample in sequence.samples.items():
        spec = loaded.prepared(loaded.template.stream_of(stream)).taken(_tokenizer(loaded, stream).spec)
        kind = modality_of(spec)
        tail = "" if len(loaded.template.target) == 1 else f".{stream}"
        written[stream] = f"sample_{index:05}{tail}{kind.suffix}"
        kind.write(sample, out / written[stream], spec)
    return written


def _texts_of(loaded: LoadedModel, sequence: GeneratedSample) -> dict[str, str]:
    """Return those of the streams that are texts."""
    from tokenize_kit.protocol import modality_of

    return {
        stream: cast("str", sample)
        for stream, sample in sequence.samples.items()
        if modality_of(_tokenizer(loaded, stream).spec).textual
    }


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
    import torch

    from trainers.autoregressive.generation import generate

    limit = checked_length(loaded, max_length)
    laid = lay_out(loaded, prompts, options, limit, first_index)
    beginnings, drawn = laid.beginnings, laid.drawn
    total = 0

    def count(tokens: int) -> None:
        nonlocal total
        total += tokens
        if progress is not None:
            progress.update(tokens=total)

    sequences = generate(
        loaded.model,
        [beginning.grammar for beginning in beginnings],
        [beginning.ids for beginning in beginnings],
        options,
        max_length=limit,
        first_index=first_index,
        on_tokens=count,
        **laid.options(),
    )
    results = []
    for ids, beginning in zip(sequences, beginnings, strict=True):
        order_seed = beginning.grammar.seed
        grids = loaded.template.parse_ids(ids, loaded.vocabulary, order_seed)
        samples = {}
        for name in (name for name in loaded.template.target if name in grids):
            tokenizer = _tokenizer(loaded, name)
            shown = grids[name] if show_special else _without_special(tokenizer, grids[name])
            samples[name] = tokenizer.decode(torch.from_numpy(shown))
        results.append(GeneratedSample(ids, samples, len(beginning.ids), order_seed if drawn else None))
    if progress is not None:
        progress.update(first_index + len(sequences))
    return results


def order_seed_of(seed: int, index: int) -> int:
    """Return what decides the orders that are drawn of sequence ``index`` of a generation with a seed."""
    import numpy as np

    from tokenize_kit.sequences.orders.random import mixed

    bits = mixed(np.array([seed], np.int64).astype(np.uint64), np.array([index], np.uint64))
    return int(bits[0] >> np.uint64(1))


def _without_special(tokenizer: Tokenizer, grid: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return ids without those of special tokens, if the tokenizer has some."""
    import numpy as np

    from tokenize_kit.protocol import SpecialTokens

    if not isinstance(tokenizer, SpecialTokens):
        return grid
    return grid[~np.isin(grid, list(tokenizer.special_tokens.values()))]


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
