"""Checkpoints that appear whole or not at all, and the guard that keeps two different runs out of one folder.

    OUT/run.json                        what determines the result of the run; another run is refused
    OUT/checkpoints/step_00000200/      the last checkpoint
        state.json                      step, best score so far, what else the loop remembers, sha256 of the other files and a
                                        digest of itself
        NAME.safetensors                weights and buffers of each network
        average_NAME.safetensors        averages of its weights, where the run keeps them
        optimizer_PHASE_0.safetensors   tensors of each optimiser; everything else about it follows from the options

A checkpoint is written under another name, synced and renamed; the one before it is removed after that. So the folder with
the highest step is always whole, whenever the process is killed, and no pointer to it can be wrong. Nothing is pickled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tokenize_kit.disk import explained
from tokenize_kit.disk import step as announce
from tokenize_kit.errors import VerificationError
from tokenize_kit.files import (
    check_sums,
    make_folder,
    read_signed,
    recorded_run,
    sha256_of_file,
    signed,
    sync_file,
    sync_folder,
    write_json,
)
from tokenize_kit.partial import partial_folder, partial_path, remove_abandoned, remove_abandoned_below
from tokenize_kit.weights import load_tensors, save_file

FORMAT_VERSION = 2
RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"
"""The folder for them in that of a run."""
STATE_FILE = "state.json"
CHECKPOINTS = "checkpoints"
_OF_A_RUN = (
    "model_config.json",
    "tokenizers",
    "train_log.jsonl",
    "tensorboard",
    "tracked.json",
    "wandb",
    CHECKPOINTS,
    "pictures",
    "sounds",
    "texts",
    "videos",
)
"""What a run writes besides its weights and its decoded data."""
_PREFIX = "step_"


def claim_folder(folder: Path, identity: Mapping[str, Any], *, alone: bool = False) -> bool:
    """Make ``folder`` the home of a run, or check that it is the home of this very run.

    A run that has neither a checkpoint nor weights keeps no other one out: what it left goes, but for decoded data, which prove
    themselves. What killed processes left half written goes too. The caller owns the folder (`tokenize_kit.claims.owned`).

    Args:
        folder: where the run keeps everything.
        identity: JSON-ready; all that determines the result, by names that the user knows.
        alone: whether it is certain that no other command writes there at this moment.

    Returns:
        Whether the run begins here; False if it goes on.

    Raises:
        ValueError: the folder belongs to a run with another identity (the message says what differs), or to something else.
        VerificationError: run.json is not what was written.
    """
    path = folder / RUN_FILE
    before = recorded_run(
        folder,
        RUN_FILE,
        no_folder="give a folder",
        foreign="is not empty and holds no training run; choose another --out",
    )
    remove_abandoned_below(folder)
    if before is not None and not _is_same(before, identity) and alone and _is_unused(folder):
        _clear(folder)
        before = None
    if before is None:
        write_json(path, signed({"format_version": FORMAT_VERSION, **identity}))
        return True
    if before.pop("format_version", None) != FORMAT_VERSION:
        raise ValueError(f"{path} is of another version of tokenize-kit; choose another --out")
    differing = _differing(before, identity)
    if differing:
        changes = "; ".join(_difference(key, before.get(key), identity.get(key)) for key in differing)
        hint = f"choose another --out, or continue from its weights there with --init-from {folder}"
        if "steps" in differing:
            hint = f"the learning rate schedule depends on the number of steps, so a run cannot be made longer: {hint}"
        raise ValueError(f"{folder} holds a run with other options ({changes}); {hint}")
    return False


def _is_same(before: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    values = dict(before)
    return values.pop("format_version", None) == FORMAT_VERSION and not _differing(values, identity)


def _differing(before: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*before, *identity} if not _same(before.get(key), identity.get(key)))


def _is_unused(folder: Path) -> bool:
    """Return whether the run in a folder has made nothing: no checkpoint, and no weights after a validation."""
    return last_checkpoint(folder / CHECKPOINTS) is None and not list(folder.glob("*.safetensors"))


def _clear(folder: Path) -> None:
    for name in (*_OF_A_RUN, RUN_FILE):
        path = folder / name
        if path.exists():
            announce("remove", path)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint and remove the older ones.

    Args:
        folder: where checkpoints are kept.
        step: how many steps have been made.
        tensors: for each file (named without ending) its tensors.
        state: JSON-ready; what else must be remembered.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the checkpoint before is untouched.
    """
    make_folder(folder)
    goal = folder / f"{_PREFIX}{step:08}"
    with partial_folder(goal) as partial:
        hashes = {}
        for name, content in tensors.items():
            path = partial / f"{name}.safetensors"
            save_file(content, path, goal)
            sync_file(path)
            hashes[path.name] = sha256_of_file(path)
        known = {"format_version": FORMAT_VERSION, "step": step, "sha256": hashes, **state}
        write_json(partial / STATE_FILE, signed(known))
        sync_folder(partial)
        if goal.exists():
            _remove(goal)
        announce("rename", goal)
        with explained(goal):
            partial.rename(goal)
    sync_folder(folder)
    for old in checkpoints_in(folder):
        if old != goal:
            _remove(old)
    return goal


def remove_older(checkpoint: Path) -> None:
    """Remove the checkpoints before one that was read whole; a kill may have come between writing it and removing them."""
    for old in checkpoints_in(checkpoint.parent):
        if old.name < checkpoint.name:
            _remove(old)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the highest step, or None; what a killed process left half-written is not looked at."""
    found = checkpoints_in(folder)
    return found[-1] if found else None


def run_position(folder: Path) -> tuple[int, int]:
    """Return how many steps a run has made by its last checkpoint, and how many it is to make; 0 and 0 where nothing says so.

    A run without a checkpoint is taken for finished: people delete what they need no longer.

    Raises:
        ValueError: what a run says of itself is damaged.
    """
    if not (folder / RUN_FILE).is_file():
        return 0, 0
    steps = read_signed(folder / RUN_FILE).get("steps")
    if type(steps) is not int:
        return 0, 0
    last = last_checkpoint(folder / CHECKPOINTS)
    return (steps if last is None else int(last.name[len(_PREFIX) :])), steps


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half-written or half-removed."""
    if folder.is_dir():
        remove_abandoned(folder.glob(f"{_PREFIX}*.partial-*"))


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a checkpoint by its look."""
    return (folder / STATE_FILE).is_file()


def load_weights(checkpoint: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of one network for use: their averages where the run keeps them, and the state with ``step``.

    Raises:
        FileNotFoundError, VerificationError: as `load_checkpoint`.
        ValueError: it is of another kind of training.
    """
    tensors, state = load_checkpoint(checkpoint, only=(name, f"average_{name}"))
    if name not in tensors:
        raise ValueError(f"{checkpoint} is of another kind of training: it has no weights named {name!r}")
    return {**tensors[name], **tensors.get(f"average_{name}", {})}, state


def load_checkpoint(
    checkpoint: Path, only: Collection[str] | None = None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: the tensors of each file, and the state with ``step``.

    Args:
        checkpoint: its folder.
        only: the files to read, as they were named; all if None.

    Raises:
        FileNotFoundError: a file is missing.
        VerificationError: a file is not what was written; the message says what to do.
    """
    state = check_checkpoint(checkpoint, only)
    wanted = [Path(name) for name in state["sha256"] if only is None or Path(name).stem in only]
    return {name.stem: load_file(checkpoint / name) for name in wanted}, state


def check_checkpoint(checkpoint: Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """Check that a checkpoint is what `save_checkpoint` wrote, and return its state.

    Args:
        checkpoint: its folder.
        only: the files to check, as they were named; all if None.

    Raises:
        FileNotFoundError, VerificationError: as `load_checkpoint`.
    """
    earlier = [path for path in checkpoints_in(checkpoint.absolute().parent) if path.name < checkpoint.name]
    fix = f"remove {checkpoint} to start the training again, or restore it from a copy"
    if earlier:
        fix = f"remove {checkpoint}, and the same command goes on from {earlier[-1].name}; or restore it from a copy"
    state = read_signed(checkpoint / STATE_FILE, fix)
    sums = state.get("sha256")
    if not isinstance(sums, dict) or not isinstance(state.get("step"), int):
        raise VerificationError(f"{checkpoint / STATE_FILE} is damaged: it lacks the step or the sums; {fix}")
    check_sums(checkpoint, {name: sums[name] for name in sums if only is None or Path(name).stem in only}, fix)
    return state


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers of a module on the CPU; of tied ones only the first name."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            tensors[name] = value.detach().to("cpu").contiguous()
    return tensors


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Put the tensors of `module_tensors` into a module; every name and shape must agree.

    Args:
        module: built with the same configuration.
        tensors: by name.
        source: where they come from, for the error message.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
    """
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            own[name] = value
    load_tensors(own, tensors, source)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as tensors named ``PARAMETER.STATE``; numbers become float64 scalars."""
    tensors = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert isinstance(value, (Tensor, int, float)), f"optimiser state {name} is a {type(value).__name__}"
            tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            tensors[f"{index}.{name}"] = tensor.detach().to("cpu").contiguous()
    return tensors


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `optimizer_tensors` into an optimiser that was built with the same options."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        plain = value.dtype == torch.float64 and value.ndim == 0
        state.setdefault(int(index), {})[name] = value.item() if plain else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # Fused optimisers go through parameter and state side by side in memory, so both must have the layout of the parameter.
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the whole checkpoints of a folder, the one with the highest step last."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.name.startswith(_PREFIX) and path.name[len(_PREFIX) :].isdigit()
    )


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that a kill in between leaves no half of one under its name."""
    doomed = partial_path(checkpoint)
    announce("rename", checkpoint)
    checkpoint.rename(doomed)
    announce("remove", doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _same(before: Any, now: Any) -> bool:
    """Return whether two values are the same; an option that an earlier version did not have is None."""
    if isinstance(before, dict) and isinstance(now, dict):
        return all(_same(before.get(name), now.get(name)) for name in {*before, *now})
    return bool(before == now)


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        inner = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        return "; ".join(_difference(f"{key}.{name}", before.get(name), now.get(name)) for name in inner)
    return f"{key} was {_short(before)}, now {_short(now)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
