"""The folder that ``generate`` makes: what it says of itself, a file for each part of each sample, and ``samples.jsonl``.

The module loads no torch until a sample is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trainers.autoregressive.options import GenerateOptions
from trainers.autoregressive.sampling_options import SamplingOptions

if TYPE_CHECKING:
    from tokenize_kit.protocol import Sample, TokenSpec
    from trainers.autoregressive.model_folder import LoadedModel
    from trainers.autoregressive.prompts import Prompt

SAMPLES_FILE = "samples.jsonl"
BFLOAT16 = ("bf16-mixed", "bfloat16")
GENERATE_FILE = "generate.json"
"""What the samples of a folder are drawn from, and how."""


def identity_of(options: GenerateOptions) -> dict[str, Any]:
    """Return what the samples depend on, the files that are named among the options by what they hold."""
    from tokenize_kit.files import sha256_of_file
    from tokenize_kit.sources.names import printable

    # Whether they go to stdout as well is nothing to them.
    values = {name: value for name, value in asdict(options).items() if name not in ("out", "overwrite", "stream")}
    # As it was called before, so that samples from then can be gone on with.
    values["precision"] = "bfloat16" if options.precision in BFLOAT16 else "float32"
    for name in ("prompt_frames", "template", "decoding_steps", "decoding_noise"):
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


def spec_of_part(loaded: LoadedModel, name: str) -> TokenSpec:
    """Return what the samples of a part of the template are: of its tokenizer, as the data of the model were taken."""
    stream = loaded.template.stream_of(name)
    return loaded.prepared(stream).taken(loaded.tokenizers[stream].spec)


def write_sample(loaded: LoadedModel, samples: Mapping[str, Sample], out: Path, index: int) -> dict[str, str]:
    """Write each part of sample number ``index`` as a file, and return their names."""
    from tokenize_kit.protocol import modality_of

    written = {}
    for part, sample in samples.items():
        spec = spec_of_part(loaded, part)
        kind = modality_of(spec)
        tail = "" if len(loaded.template.target) == 1 else f".{part}"
        written[part] = f"sample_{index:05}{tail}{kind.suffix}"
        kind.write(sample, out / written[part], spec)
    return written


def texts_of(loaded: LoadedModel, samples: Mapping[str, Sample]) -> dict[str, str]:
    """Return those of the parts that are texts."""
    from tokenize_kit.protocol import modality_of

    return {
        part: cast("str", sample) for part, sample in samples.items() if modality_of(spec_of_part(loaded, part)).textual
    }


def line_of(
    options: SamplingOptions,
    index: int,
    prompt: Prompt,
    files: Mapping[str, str],
    texts: Mapping[str, str],
    ids: Sequence[int],
    order_seed: int | None,
) -> str:
    """Return the line of one sample in ``samples.jsonl``.

    Args:
        options: how it was drawn.
        index: its number.
        prompt: what was given.
        files: names by part.
        texts: those of the parts that are texts.
        ids: the whole sequence.
        order_seed: decides the order of its ids, if the template has one that is drawn.
    """
    line: dict[str, Any] = {"index": index, "seed": options.seed, "prompt": prompt.shown()}
    line |= {} if prompt.line is None else {"line": prompt.line}
    line |= {"files": dict(files)}
    line |= {} if order_seed is None else {"order_seed": order_seed}
    if options.guidance is not None:
        line["guidance"] = options.guidance[0] if len(options.guidance) == 1 else list(options.guidance)
        line |= {} if options.guidance_schedule == "constant" else {"guidance_schedule": options.guidance_schedule}
    if texts:
        line["text"] = next(iter(texts.values())) if len(texts) == 1 else dict(texts)
    return json.dumps(line | {"ids": list(ids)}, ensure_ascii=False)
