"""``tokenize-kit verify PATH``: is what lies there what was written? Shard sets, tokenizers, models, runs and compressed files.

A folder may be several of these: that of a training is a model or a tokenizer, holds checkpoints, and perhaps the samples that
were decoded for it. All that is found is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from tokenize_kit.errors import UsageError, VerificationError
from tokenize_kit.files import is_signed, read_signed
from tokenize_kit.progress import several

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.shards.verify import VerifyReport

_BEFORE = "carries no digest of itself: it is from before such files did"


@dataclass(frozen=True)
class VerifyCommandOptions:
    """Check that a shard set, tokenizer, model, run or .tkc file is what was written; exit code 3 if anything differs.

    Of a shard set: its manifest, hashes, row and token counts, id ranges, keys and tokenizers. Of the others: the sums and
    digests that their files carry, and the fingerprints of tokenizers.
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A shard set (folder or fsspec URL), the folder of a tokenizer, model, training or checkpoint, or a .tkc file."""
    tokenizer: tuple[str, ...] = ()
    """Tokenizer folders that the shards must have been made with."""
    model: str | None = None
    """For a .tkc file that a model coded: its folder, to decode the file and compare the checksums of its pieces. Without it
    the sum of the bytes is checked."""


@dataclass(frozen=True)
class FolderReport:
    """What was checked; there is one only if nothing differs."""

    path: str
    checked: dict[str, str]
    """What each file or folder is."""
    notes: tuple[str, ...] = ()
    """What could not be checked, because it is from before there were sums."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**asdict(self), "notes": list(self.notes)}

    def to_text(self) -> str:
        """Return some lines for a person."""
        checked = [f"  {name}: {what}" if name else f"  {what}" for name, what in self.checked.items()]
        return "\n".join([f"{self.path} is sound:", *checked, *self.notes])


def verify_command(options: VerifyCommandOptions, progress: Progress) -> VerifyReport | FolderReport:
    """Verify what lies at a path, and show how far it is.

    Raises:
        FileNotFoundError: there is nothing, or a part is missing.
        ValueError: it is nothing that the kit wrote.
        VerificationError: something differs; the message lists what.
    """
    path = Path(options.path)
    if options.model is not None:
        return FolderReport(options.path, {"": _decoded(path, options.model, progress)})
    found = [] if "://" in options.path else _parts(path)
    if not found:
        from tokenize_kit.shards.verify import verify

        return verify(options.path, options.tokenizer, progress)
    if options.tokenizer:
        raise UsageError(f"--tokenizer is for shard sets, and {path} is none; leave it out")
    checked: dict[str, str] = {}
    notes: list[str] = []
    problems: list[str] = []
    for name, check in found:
        try:
            told, more = check(path / name)
        except (VerificationError, FileNotFoundError) as error:
            # A training that goes on puts a new checkpoint in the place of the one that is being read.
            if (path / name).exists():
                problems.append(str(error))
            continue
        checked |= {"/".join(part for part in (name, inner) if part): what for inner, what in told.items()}
        notes += more
    if problems:
        raise VerificationError(f"{path} is not what it should be: {'; '.join(problems)}")
    return FolderReport(options.path, checked, tuple(notes))


Check = Callable[[Path], tuple[dict[str, str], list[str]]]
"""Returns what was checked, by name inside the path, and what could not be."""


def _parts(path: Path) -> list[tuple[str, Check]]:
    """Return what a path holds besides a shard set of its own, each with the name inside it; nothing if it holds none."""
    from tokenize_kit.protocol import is_tokenizer_folder

    if path.is_file():
        return [("", _container)]
    if (path / "dataset.json").is_file():
        return []
    if (path / "state.json").is_file():
        return [("", _checkpoint)]
    parts: list[tuple[str, Check]] = []
    if (path / "model_config.json").is_file():
        parts.append(("", _model))
    if is_tokenizer_folder(path):
        parts.append(("", _tokenizer))
    if (path / "run.json").is_file():
        parts.append(("run.json", _run))
        if (path / "best.safetensors").is_file():
            parts.append(("best.safetensors", _weights))
        parts += [(f"checkpoints/{name}", _checkpoint) for name in _checkpoints(path / "checkpoints")]
        parts += [(item.parent.name, _shards) for item in sorted(path.glob("*/dataset.json"))]
    return parts


def _container(path: Path) -> tuple[dict[str, str], list[str]]:
    from tokenize_kit.cli.coded import section_of
    from tokenize_kit.container import CodedSample, from_file

    packed = from_file(path)
    what = f"{packed.modality} by the tokenizer {packed.fingerprint[:12]}"
    if not isinstance(packed, CodedSample):
        return {"": what}, []
    note = f"{path} was not decoded: its pieces have checksums of their own, which --model compares"
    return {"": f"{what}, coded by the model {section_of(packed, str(path)).model[:12]}"}, [note]


def _decoded(path: Path, model: str, progress: Progress) -> str:
    """Decode a coded file, and return what it is."""
    from tokenize_kit.cli.coded import ModelEnd, section_of
    from tokenize_kit.container import CodedSample, from_file

    found = from_file(path) if path.is_file() else None
    if not isinstance(found, CodedSample):
        raise UsageError(f"--model is for .tkc files that a model coded, and {path} is none; leave it out")
    ModelEnd.of_file(model, found, str(path)).decode(found, str(path), progress)
    section = section_of(found, str(path))
    pieces = several(len(section.pieces), "pieces")
    return f"{found.modality} coded by the model {section.model[:12]}, {pieces} decoded"


def _tokenizer(path: Path) -> tuple[dict[str, str], list[str]]:
    from tokenize_kit.protocol import CONFIG_FILE, load_tokenizer

    config = path / CONFIG_FILE
    fingerprint = load_tokenizer(path).fingerprint
    return {CONFIG_FILE: f"tokenizer {fingerprint[:12]}"}, _unsigned(config)


def _model(path: Path) -> tuple[dict[str, str], list[str]]:
    from trainers.autoregressive.model_folder import check_model_folder

    return check_model_folder(path)


def _run(path: Path) -> tuple[dict[str, str], list[str]]:
    read_signed(path)
    return {"": "what determines the run"}, _unsigned(path)


def _weights(path: Path) -> tuple[dict[str, str], list[str]]:
    from tokenize_kit.weights import check_seal, read_training

    notes = [] if check_seal(path) else [f"{path} {_BEFORE}"]
    return {"": f"weights of step {read_training(path).get('step')}"}, notes


def _checkpoints(folder: Path) -> list[str]:
    from trainers.checkpoints import checkpoints_in

    return [path.name for path in checkpoints_in(folder)]


def _checkpoint(path: Path) -> tuple[dict[str, str], list[str]]:
    from trainers.checkpoints import STATE_FILE, check_checkpoint

    return {"": f"step {check_checkpoint(path)['step']}"}, _unsigned(path / STATE_FILE)


def _shards(path: Path) -> tuple[dict[str, str], list[str]]:
    from tokenize_kit.shards.verify import verify

    report = verify(path)
    return {"": several(report.rows, "samples")}, list(report.notes)


def _unsigned(path: Path) -> list[str]:
    return [] if is_signed(path) else [f"{path} {_BEFORE}"]
