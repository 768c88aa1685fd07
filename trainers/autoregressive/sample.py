"""``generate``: samples from a model folder, as files.

The model folder carries its tokenizers and its template, so nothing else is needed. The grammar of the template, bounded by
the model's context, makes sure that every sequence ends and decodes. The module loads no torch until it is called.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trainers.autoregressive.options import GenerateOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from tokenize_kit.progress import Progress
    from tokenize_kit.protocol import Sample
    from tokenize_kit.sequences.prompt import Beginning
    from trainers.autoregressive.model_folder import LoadedModel
    from trainers.autoregressive.sampling_options import SamplingOptions

SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True)
class GeneratedSample:
    """One sample."""

    ids: list[int]
    """The whole sequence, prompt and special tokens included."""
    samples: dict[str, Sample]
    """The decoded sample of each predicted stream."""
    prompt_length: int
    """How many of the ids were given."""


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


def generate_samples(options: GenerateOptions, progress: Progress | None = None) -> GenerateResult:
    """Sample from a model folder and write each sample as a file, and ``samples.jsonl`` with its ids, seed and prompt.

    Raises:
        FileNotFoundError: there is no model, or a prompt file is missing.
        ValueError: the prompt does not fit the template, or an option is out of range.
    """
    import torch

    from tokenize_kit.files import write_text
    from tokenize_kit.protocol import modality_of
    from trainers.autoregressive.model_folder import load_model
    from trainers.runtime import resolve_device

    loaded = load_model(options.model, resolve_device(options.device))
    cast("nn.Module", loaded.model).to(getattr(torch, options.precision))
    grids = prompt_grids(loaded, options.prompt, options.prompt_file)
    if progress is not None:
        progress.task("generate", options.count)
    began = time.monotonic()
    generated = draw(loaded, [grids] * options.count, options, options.max_length, progress)
    seconds = time.monotonic() - began

    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the samples")
    out.mkdir(parents=True, exist_ok=True)
    lines, files, texts, tokens = [], [], [], 0
    for index, sequence in enumerate(generated):
        written = {}
        for stream, sample in sequence.samples.items():
            spec = loaded.tokenizers[stream].spec
            kind = modality_of(spec)
            tail = "" if len(sequence.samples) == 1 else f".{stream}"
            path = out / f"sample_{index:05}{tail}{kind.suffix}"
            kind.write(sample, path, spec)
            written[stream] = path.name
            files.append(str(path))
            if kind.textual:
                texts.append(cast("str", sample))
        line = {"index": index, "seed": options.seed, "prompt": options.prompt, "files": written, "ids": sequence.ids}
        lines.append(json.dumps(line, ensure_ascii=False))
        tokens += len(sequence.ids) - sequence.prompt_length
    write_text(out / SAMPLES_FILE, "\n".join(lines) + "\n")
    return GenerateResult(str(out), len(generated), tuple(files), tuple(texts), tokens, tokens / max(1e-9, seconds))


def draw(
    loaded: LoadedModel,
    prompts: Sequence[Mapping[str, NDArray[np.integer[Any]]]],
    options: SamplingOptions,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> list[GeneratedSample]:
    """Sample one sequence for each prompt and decode it.

    Args:
        loaded: from `load_model`.
        prompts: for each sequence the grids of the template's first streams (see `prompt_grids`); may be empty. Without a
            condition in the template, the last of them is continued where it ends.
        options: how tokens are drawn; sequence i depends on the seed and i alone.
        max_length: the most tokens of a sequence; the model's context if None.
        progress: is told how many tokens were drawn.

    Raises:
        ValueError: a prompt does not fit the template, or is too long.
    """
    import torch

    from tokenize_kit.sequences.prompt import begin
    from trainers.autoregressive.generation import generate

    context = loaded.model.config.context
    limit = context if max_length is None else max_length
    if not 1 <= limit <= context:
        raise ValueError(f"--max-length {limit} must be between 1 and the model's context of {context}")
    begun: dict[int, Beginning] = {}
    for grids in prompts:
        # Prompts that are the same object are laid out once.
        if id(grids) not in begun:
            begun[id(grids)] = begin(loaded.template, loaded.vocabulary, grids, limit)
    total = 0

    def count(tokens: int) -> None:
        nonlocal total
        total += tokens
        if progress is not None:
            progress.update(tokens=total)

    beginnings = [begun[id(grids)] for grids in prompts]
    sequences = generate(
        loaded.model,
        [beginning.grammar for beginning in beginnings],
        [beginning.ids for beginning in beginnings],
        options,
        max_length=limit,
        on_tokens=count,
        states=[beginning.state for beginning in beginnings],
    )
    results = []
    for ids, beginning in zip(sequences, beginnings, strict=True):
        grids = loaded.template.parse_ids(ids, loaded.vocabulary)
        samples = {
            stream: loaded.tokenizers[stream].decode(torch.from_numpy(grids[stream]))
            for stream in loaded.template.target
        }
        results.append(GeneratedSample(ids, samples, len(beginning.ids)))
    if progress is not None:
        progress.update(len(sequences))
    return results


def prompt_grids(
    loaded: LoadedModel, prompt: str | None = None, files: Sequence[str] = ()
) -> dict[str, NDArray[np.integer[Any]]]:
    """Encode a prompt for the template's first streams.

    Args:
        loaded: from `load_model`.
        prompt: text for the first stream.
        files: instead of it, a file for each of the first streams.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the first stream is no text, there are more files than streams, or a condition is missing.
    """
    from tokenize_kit.protocol import modality_of
    from tokenize_kit.sequences.prompt import continues

    template = loaded.template
    if prompt is not None:
        first = loaded.tokenizers[template.streams[0]]
        if not modality_of(first.spec).textual:
            raise ValueError(
                f"--prompt is text, but the first stream of the template {str(template)!r} is of modality "
                f"{first.spec.modality!r}; use --prompt-file"
            )
        grids = {template.streams[0]: first.encode(prompt).numpy()}
    else:
        if len(files) > len(template.streams):
            raise ValueError(f"{len(files)} prompt files, but the template {str(template)!r} has fewer streams")
        grids = {}
        for stream, file in zip(template.streams, files, strict=False):
            tokenizer = loaded.tokenizers[stream]
            kind = modality_of(tokenizer.spec)
            sample = kind.read(kind.self_describing(file, Path(file).read_bytes()), tokenizer.spec)
            grids[stream] = _known_codebooks(loaded, stream, tokenizer.encode(sample).numpy())
    if missing := [name for name in template.condition if name not in grids]:
        fix = "--prompt TEXT" if modality_of(loaded.tokenizers[missing[0]].spec).textual else "--prompt-file FILE"
        raise ValueError(f"the template {str(template)!r} needs the condition {missing[0]!r}; give it with {fix}")
    if set(grids) >= set(template.streams) and not continues(template, loaded.vocabulary, grids):
        raise ValueError(
            f"the prompt gives every stream of the template {str(template)!r}; nothing is left to generate"
        )
    return grids


def _known_codebooks(loaded: LoadedModel, stream: str, grid: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the grid with as many of its first codebooks as the model was trained on."""
    known = loaded.vocabulary.stream(stream)
    if not known.has_codebooks:
        return grid
    return grid[..., : max(known.codebooks(shape) for shape in known.shapes)]
