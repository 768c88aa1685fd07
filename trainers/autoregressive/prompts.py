"""What a user prompts a model with: a text, files, or a list of many, as grids of the template's first streams.

A prompt is brought to what the data of the model were (`tokenize_kit.shards.preparation`): a picture is scaled and cropped as
they were, a sound has as many codebooks, and special tokens in a text are found if they were found there.

``--prompts`` names a list. In a ``.jsonl`` a line is a text, or an object: ``prompt`` is the text of the first stream,
``prompt_file`` a file of it or a list of files for the first streams, and the name of a stream has its text, or where it is no
text, its file; null is no condition, for a model that knows what that means. In any other file a line is a text, or a file's name
where the first stream is no text. Empty lines are passed over. Names of files are relative to the folder of the list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.protocol import SpecialTokens, Tokenizer, allowed_tokens, modality_of, with_special
from tokenize_kit.protocol.special import ALL
from tokenize_kit.sequences.prompt import begin, continues
from tokenize_kit.sources.names import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tokenize_kit.protocol import Modality, Sample
    from tokenize_kit.sequences.segment import Segment
    from trainers.autoregressive.model_folder import LoadedModel
    from trainers.autoregressive.options import PromptOptions

    Grids = dict[str, NDArray[np.integer[Any]]]

JSON_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Prompt:
    """How a sequence begins, as the user gave it."""

    texts: dict[str, str] = field(default_factory=dict)
    """Texts by stream."""
    files: dict[str, Path] = field(default_factory=dict)
    """Files by stream."""
    where: str = ""
    """The place in the list that it is from, for messages; empty for one from the command line."""
    line: int | None = None
    """The number of its line in the list, from 1."""
    part: float | None = None
    """How much of the last of the files is kept, where it is to be completed; None takes all of it."""

    def shown(self) -> Any:
        """Return what ``samples.jsonl`` says of it: the text, or texts and files by stream; None if there is nothing."""
        if len(self.texts) == 1 and not self.files:
            return next(iter(self.texts.values()))
        return {**self.texts, **{name: printable(str(path)) for name, path in self.files.items()}} or None


def given_prompts(loaded: LoadedModel, options: PromptOptions) -> list[Prompt]:
    """Return the prompts that the options give, one at least; it may be empty.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty or a line of it is no prompt, or the prompt is a text and the first stream is none.
    """
    first = loaded.template.names[0]
    if options.prompts is not None:
        prompts = read_prompts(options.prompts, loaded)
    elif options.prompt is not None:
        prompts = [Prompt(texts={first: _text(loaded, first, options.prompt)})]
    else:
        prompts = [Prompt(files=_files(loaded, [Path(name) for name in options.prompt_file]))]
    if options.complete is None:
        return prompts
    return [_completing(loaded, prompt, Path(options.complete), options.complete_part) for prompt in prompts]


def _completing(loaded: LoadedModel, prompt: Prompt, file: Path, part: float) -> Prompt:
    """Return a prompt that begins the first predicted part with a file's.

    Raises:
        ValueError: the prompt gives that part already.
    """
    target = loaded.template.target[0]
    if target in prompt.texts or target in prompt.files:
        raise ValueError(f"--complete {file}: the prompt gives the {target!r} already; give it once")
    return replace(prompt, files={**prompt.files, target: file}, part=part)


def read_prompts(path: str, loaded: LoadedModel) -> list[Prompt]:
    """Read a list of prompts; see the module.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty or not UTF-8, or a line of it is no prompt; names the line.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"--prompts {path}: there is no such file")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {path} is not UTF-8 (byte {error.start})") from None
    prompts = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        where = f"--prompts {path}, line {number}"
        try:
            value: Any = json.loads(line) if file.suffix.lower() in JSON_ENDINGS else line
            texts, files = _contents(loaded, value, file.parent)
        except RecursionError:
            raise ValueError(f"{where}: not JSON that can be read: it is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        prompts.append(Prompt(texts, files, where, number))
    if not prompts:
        raise ValueError(f"--prompts {path} has no prompt; write one a line")
    return prompts


def _contents(loaded: LoadedModel, value: Any, folder: Path) -> tuple[dict[str, str], dict[str, Path]]:
    """Return the texts and files that a line gives."""
    streams = loaded.template.names
    if isinstance(value, str):
        if _is_text(loaded, streams[0]):
            return {streams[0]: value}, {}
        return {}, {streams[0]: folder / value}
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, expected a string or an object")
    texts: dict[str, str] = {}
    files: dict[str, Path] = {}
    known = ("prompt", "prompt_file", *streams)
    if not any(name in value for name in known):
        raise ValueError(f"it has none of {', '.join(known)}, but {', '.join(map(str, value)) or 'nothing'}")
    if "prompt" in value and "prompt" not in streams:
        texts[streams[0]] = _text(loaded, streams[0], _string(value["prompt"], "prompt"))
    if "prompt_file" in value and "prompt_file" not in streams:
        names = value["prompt_file"] if isinstance(value["prompt_file"], list) else [value["prompt_file"]]
        files |= _files(loaded, [folder / _string(name, "prompt_file") for name in names])
    droppable = {segment.name for segment in _droppable(loaded) if segment.condition}
    for stream in streams:
        if stream in value and not (value[stream] is None and stream in droppable):
            if stream in texts or stream in files:
                raise ValueError(f"the stream {stream!r} is given twice")
            content = _string(value[stream], stream)
            if _is_text(loaded, stream):
                texts[stream] = content
            else:
                files[stream] = folder / content
    if both := sorted(texts.keys() & files.keys()):
        raise ValueError(f"the stream {both[0]!r} is given twice")
    return texts, files


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(
            f"{name!r} is {'null' if value is None else f'a JSON {type(value).__name__}'}, expected a string"
        )
    return value


def _text(loaded: LoadedModel, stream: str, text: str) -> str:
    """Return a text for a stream, if it is one of texts."""
    if not _is_text(loaded, stream):
        raise ValueError(
            f"--prompt is text, but the first stream of the template {str(loaded.template)!r} is of modality "
            f"{_tokenizer(loaded, stream).spec.modality!r}; use --prompt-file{_or_another(loaded)}"
        )
    return text


def _files(loaded: LoadedModel, files: Sequence[Path]) -> dict[str, Path]:
    """Return files for the first streams."""
    template = loaded.template
    if len(files) > len(template.names):
        raise ValueError(f"{len(files)} prompt files, but the template {str(template)!r} has fewer streams")
    return dict(zip(template.names, files, strict=False))


def _or_another(loaded: LoadedModel) -> str:
    """Return what else can be done where a prompt does not fit the template: take another one, if there is one."""
    others = [repr(str(template)) for template in loaded.templates if template != loaded.template]
    return f", or take another template with --template ({', '.join(others)})" if others else ""


def _droppable(loaded: LoadedModel) -> list[Segment]:
    """Return the parts that a sequence may lack."""
    return [segment for segment in loaded.template.segments(loaded.vocabulary) if segment.null is not None]


def _is_text(loaded: LoadedModel, stream: str) -> bool:
    return modality_of(_tokenizer(loaded, stream).spec).textual


def _tokenizer(loaded: LoadedModel, name: str) -> Tokenizer:
    """Return the tokenizer of a part of the template."""
    return loaded.tokenizers[loaded.template.stream_of(name)]


def prompt_tokenizers(loaded: LoadedModel, allow_special: Sequence[str] | None) -> dict[str, Tokenizer]:
    """Return the tokenizers that encode prompts.

    Args:
        loaded: the model.
        allow_special: the special tokens that are found in texts; None takes those of the data of the model.

    Raises:
        ValueError: one of them is none.
    """
    if allow_special is None:
        ready = loaded.preparation.tokenizers(loaded.tokenizers)
        for stream, prepared in loaded.preparations.items():
            tokenizer = loaded.tokenizers[stream]
            if isinstance(tokenizer, SpecialTokens) and (special := tokenizer.special_tokens):
                allowed = [token for token in prepared.allow_special if token == ALL or token in special]
                ready |= with_special({stream: tokenizer}, allowed)
        return ready
    return with_special(loaded.tokenizers, allowed_tokens(allow_special))


def grids_of(
    loaded: LoadedModel, tokenizers: Mapping[str, Tokenizer], prompt: Prompt, frames: int | None = None
) -> tuple[Grids, tuple[str, ...]]:
    """Encode a prompt for the template's first streams.

    Args:
        loaded: the model.
        tokenizers: from `prompt_tokenizers`.
        prompt: what is given.
        frames: how many frames are taken of a film that is continued; None takes all of them, or one if nothing is left then.

    Returns:
        The grids by stream, in the order of the template, and in words what had to be done to its files, and which conditions the
        samples are drawn without: a model that was trained on dropped ones needs none.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is none that the tokenizer takes, a condition is missing, a stream is given after a missing one, or
            nothing is left to generate.
    """
    template = loaded.template
    grids: Grids = {}
    notes: list[str] = []
    for place, stream in enumerate(template.names):
        if stream not in prompt.texts and stream not in prompt.files:
            continue
        after = template.names[place + 1 :]
        last = stream in template.target and not {*prompt.texts, *prompt.files} & {*after}
        grids[stream], changes = encoded(loaded, tokenizers, prompt, stream, frames if last else None)
        if last and prompt.part is not None:
            grids[stream] = _first_part(loaded, stream, grids[stream], prompt.part)
        elif last and frames is None and not after and stream in prompt.files:
            first = _first_frame_of_whole(loaded, tokenizers, prompt, stream, grids)
            if first is not None:
                grids[stream] = first
                changes = (
                    *changes,
                    f"{prompt.files[stream]}: continued from its first frame; --prompt-frames takes more",
                )
        notes += changes
    droppable = {segment.name for segment in _droppable(loaded)}
    given = template.given(grids)
    if absent := [name for name in template.condition if name not in given and name in droppable]:
        notes.append(
            f"no {' and no '.join(map(repr, absent))} is given: the samples are drawn "
            f"without {'a condition' if len(absent) == len(template.condition) else 'it'}"
        )
    if missing := [name for name in template.condition if name not in grids and name not in droppable]:
        fix = "--prompt TEXT" if _is_text(loaded, missing[0]) else "--prompt-file FILE"
        raise ValueError(
            f"the template {str(template)!r} needs the condition {missing[0]!r}; give it with {fix}{_or_another(loaded)}"
        )
    if set(grids) >= set(template.names) and not continues(template, loaded.vocabulary, grids):
        raise ValueError(
            f"the prompt gives every stream of the template {str(template)!r}; nothing is left to generate"
        )
    return grids, tuple(notes)


def encoded(
    loaded: LoadedModel, tokenizers: Mapping[str, Tokenizer], prompt: Prompt, stream: str, frames: int | None = None
) -> tuple[NDArray[np.integer[Any]], tuple[str, ...]]:
    """Return the grid of what a prompt gives for a part of the template, and in words what had to be done to its file.

    Args:
        loaded: the model.
        tokenizers: from `prompt_tokenizers`.
        prompt: which gives it.
        stream: the part.
        frames: how many frames of a film are taken; None takes all.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is none that the tokenizer takes.
    """
    of = loaded.template.stream_of(stream)
    tokenizer = tokenizers[of]
    if stream in prompt.texts:
        return tokenizer.encode(prompt.texts[stream]).numpy(), ()
    path, kind = prompt.files[stream], modality_of(tokenizer.spec)
    try:
        sample, changes = loaded.prepared(of).read(path.name, path, tokenizer.spec, of)
        if frames is not None and kind.timed:
            sample = _first_frames(sample, kind, frames)
        grid = _known_codebooks(loaded, stream, tokenizer.encode(sample).numpy())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return grid, tuple(f"{path} is converted from {note}" if " to " in note else f"{path}: {note}" for note in changes)


def _first_frame_of_whole(
    loaded: LoadedModel, tokenizers: Mapping[str, Tokenizer], prompt: Prompt, stream: str, grids: Grids
) -> NDArray[np.integer[Any]] | None:
    """Return the grid of the first frame of a film that leaves nothing to continue; None if it is no such film."""
    known = loaded.vocabulary.stream(loaded.template.stream_of(stream))
    kind = modality_of(known.spec)
    if not kind.timed or grids[stream].shape not in known.shapes:
        return None
    first, _ = encoded(loaded, tokenizers, prompt, stream, 1)
    return first if continues(loaded.template, loaded.vocabulary, {**grids, stream: first}) else None


def _first_part(
    loaded: LoadedModel, stream: str, grid: NDArray[np.integer[Any]], part: float
) -> NDArray[np.integer[Any]]:
    """Return the first steps of a grid: rows of a picture, time steps of a sound or film; one at least, and not all.

    Raises:
        ValueError: it has only one.
    """
    steps = len(grid)
    if steps < 2:
        axis = loaded.vocabulary.stream(loaded.template.stream_of(stream)).spec.axes[0]
        raise ValueError(
            f"--complete: the {stream!r} has only {steps} step of {axis}, of which no part can be left open"
        )
    return grid[: min(steps - 1, max(1, int(steps * part)))]


def _first_frames(sample: Sample, kind: Modality, frames: int) -> Sample:
    """Return the beginning of a film.

    Raises:
        ValueError: it has fewer frames.
    """
    there, *rest = kind.size(sample)
    if not 1 <= frames <= there:
        raise ValueError(
            f"--prompt-frames {frames} must be from 1 to {there}, the frames of the film as the model takes it"
        )
    return kind.crop(sample, (frames, *rest))


def checked_grids(
    loaded: LoadedModel,
    tokenizers: Mapping[str, Tokenizer],
    prompt: Prompt,
    max_length: int,
    frames: int | None = None,
) -> tuple[Grids, tuple[str, ...]]:
    """Do the same, and see that what follows has room: errors name the line of a list.

    Raises:
        FileNotFoundError, ValueError: as `grids_of`, or the prompt leaves no room in ``max_length`` tokens.
    """
    try:
        grids, notes = grids_of(loaded, tokenizers, prompt, frames)
        begin(loaded.template, loaded.vocabulary, grids, max_length)
    except (ValueError, OSError) as error:
        if not prompt.where:
            raise
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{prompt.where}: {said}") from None
    return grids, notes


def _known_codebooks(loaded: LoadedModel, stream: str, grid: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the grid with as many of its first codebooks as the model was trained on."""
    known = loaded.vocabulary.stream(loaded.template.stream_of(stream))
    if not known.has_codebooks:
        return grid
    return grid[..., : max(known.codebooks(shape) for shape in known.shapes)]
