"""The folder of a tokenizer: its configuration file, its fingerprint, saving and loading."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.disk import explained, step
from tokenize_kit.errors import VerificationError
from tokenize_kit.files import (
    canonical_json,
    check_sums,
    make_folder,
    read_signed,
    signed,
    sums_of,
    sync_folder,
    write_json,
)
from tokenize_kit.partial import partial_folder, remove_abandoned_below, remove_abandoned_beside
from tokenize_kit.protocol.tokenizer import Tokenizer, tokenizer_class, tokenizer_name

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
CONFIG_FILE = "tokenizer_config.json"
_SUMS = "sha256"
_RESTORE = "restore the folder from a copy"


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Load any registered tokenizer from the folder that its ``save`` wrote; its files, fingerprint and spec are checked.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: the folder holds no tokenizer, or one of a newer format.
        VerificationError: a file of it is not what was saved.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no tokenizer folder at {folder}; train one with 'tokenize-kit train'")
    # Before anything looks into the files.
    config = check_files(folder)
    tokenizer = tokenizer_class(config["tokenizer"]).load(folder)
    if tokenizer.fingerprint != config["fingerprint"]:
        raise VerificationError(
            f"{folder} was changed after it was saved: its files give the fingerprint {tokenizer.fingerprint[:12]}, "
            f"{CONFIG_FILE} says {str(config['fingerprint'])[:12]}; {_RESTORE}"
        )
    if tokenizer.spec.to_dict() != config["spec"]:
        raise VerificationError(
            f"{folder} was changed after it was saved: its files give another spec than {CONFIG_FILE} says; {_RESTORE}"
        )
    return tokenizer


def check_files(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Check that the files of a tokenizer's folder are what was saved, without its class; return what `read_config` does.

    Folders from before there were sums have only their configuration looked at.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: as `read_config`.
        VerificationError: a file is not what was saved.
    """
    config = read_config(folder)
    check_sums(folder, config.get(_SUMS, {}), _RESTORE)
    return config


def write_config(
    folder: str | os.PathLike[str], tokenizer: Tokenizer, options: Mapping[str, Any], files: Sequence[str] = ()
) -> None:
    """Write ``tokenizer_config.json``; a tokenizer's ``save`` calls it last, after its other files.

    Args:
        folder: where the tokenizer is saved.
        tokenizer: the tokenizer, of a registered class.
        options: what its ``load`` needs besides its weights, JSON-ready.
        files: the names of its other files; their sha256 are kept, and `load_tokenizer` checks them.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "tokenizer": tokenizer_name(tokenizer),
        "fingerprint": tokenizer.fingerprint,
        "spec": tokenizer.spec.to_dict(),
        "options": dict(options),
    }
    if files:
        config[_SUMS] = sums_of(folder, files)
    write_json(Path(folder) / CONFIG_FILE, signed(config))


def check_target(folder: str | os.PathLike[str], tokenizer: Tokenizer) -> Path:
    """Return ``folder`` as a path, created; a tokenizer's ``save`` calls it first.

    Raises:
        ValueError: the folder holds a tokenizer with another fingerprint, which would be lost.
    """
    folder = Path(folder)
    _check_holds(folder, "fingerprint", tokenizer.fingerprint)
    make_folder(folder)
    remove_abandoned_below(folder)
    if is_tokenizer_folder(folder) and (config := read_config(folder)).pop(_SUMS, None):
        # The files may be spelled in another way this time, and a kill may come between one of them and the new sums.
        write_json(folder / CONFIG_FILE, signed(config))
    return folder


def save_as(tokenizer: Tokenizer, folder: str | os.PathLike[str], *, overwrite: bool | None = None) -> None:
    """Save a tokenizer as a folder that appears whole; in one that is there already, without harm to what it holds.

    Files that hold the same are no hindrance, so a command that was killed can be run again.

    Args:
        tokenizer: the tokenizer.
        folder: where to; may hold other things.
        overwrite: whether files of the same names may be replaced, such as those of another tokenizer; None where the user
            cannot say so.

    Raises:
        ValueError: the folder is a file, or holds another tokenizer or other files of the same names.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to save the tokenizer in")
    remove_abandoned_beside(folder)
    if is_tokenizer_folder(folder) and _fingerprint_in(folder) == tokenizer.fingerprint:
        tokenizer.save(folder)  # the same one, perhaps spelled in another way
        return
    make_folder(folder.parent)
    with partial_folder(folder) as made:
        tokenizer.save(made)
        if not _renamed(made, folder):
            remove_abandoned_below(folder)
            # The configuration last, so that a folder that has it is complete.
            names = sorted((path.name for path in made.iterdir()), key=lambda name: (name == CONFIG_FILE, name))
            differing = [name for name in names if not _is_free(folder / name, made / name)]
            if differing and not overwrite:
                what = "another tokenizer" if is_tokenizer_folder(folder) else f"another {differing[0]}"
                fix = (
                    "choose another folder or delete that one"
                    if overwrite is None
                    else "choose another folder, or --overwrite"
                )
                raise ValueError(f"{folder} already holds {what}; {fix}")
            if differing:
                # What is half replaced shall not be taken for a tokenizer.
                (folder / CONFIG_FILE).unlink(missing_ok=True)
            for name in names:
                step("rename", folder / name)
                with explained(folder / name):
                    (made / name).replace(folder / name)
            sync_folder(folder)
            step("remove", made)
            shutil.rmtree(made, ignore_errors=True)
    sync_folder(folder.parent)


def _fingerprint_in(folder: Path) -> str:
    """Return the fingerprint that a folder says; nothing where its configuration is damaged."""
    with suppress(ValueError):
        return str(read_config(folder)["fingerprint"])
    return ""


def _renamed(made: Path, folder: Path) -> bool:
    """Give a folder its final name; False if there is one with something in it."""
    step("rename", folder)
    try:
        made.rename(folder)
    except OSError:
        if folder.is_dir() and any(folder.iterdir()):
            return False
        with explained(folder):
            raise
    return True


def _is_free(path: Path, made: Path) -> bool:
    return not path.exists() or (path.is_file() and made.is_file() and filecmp.cmp(path, made, shallow=False))


def check_kind(folder: str | os.PathLike[str], name: str) -> None:
    """Refuse a folder that no tokenizer registered as ``name`` can be saved in; a trainer calls it before its work.

    Raises:
        ValueError: it is a file, or holds a tokenizer of another kind.
    """
    _check_holds(Path(folder), "tokenizer", name)


def _check_holds(folder: Path, key: str, expected: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to save the tokenizer in")
    if is_tokenizer_folder(folder) and read_config(folder)[key] != expected:
        raise ValueError(f"{folder} already holds another tokenizer; choose another folder or delete that one")


def is_tokenizer_folder(folder: str | os.PathLike[str]) -> bool:
    """Return whether a tokenizer was saved in a folder."""
    return (Path(folder) / CONFIG_FILE).is_file()


def split_name(text: str) -> tuple[str | None, str]:
    """Return the name (None if there is none) and the folder of what is given as DIR or NAME=DIR."""
    name, equals, folder = text.partition("=")
    return (name, folder) if equals and "/" not in name else (None, text)


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check ``tokenizer_config.json``: keys ``tokenizer``, ``fingerprint``, ``spec`` and ``options`` (dicts).

    Raises:
        ValueError: the folder holds no tokenizer, or the file is of a newer format version.
        VerificationError: the file is damaged.
    """
    path = Path(folder) / CONFIG_FILE
    if not is_tokenizer_folder(folder):
        hint = ""
        if (Path(folder) / "tokenizer.json").is_file():
            hint = f"; to use its tokenizer.json: tokenize-kit import bpe --source {folder} --out DIR"
        raise ValueError(f"{folder} is not a tokenizer folder: it has no {CONFIG_FILE}{hint}")
    config = read_signed(path, _RESTORE)
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version!r}, this tokenize-kit reads {FORMAT_VERSION}; upgrade it")
    for key, kind in (("tokenizer", str), ("fingerprint", str), ("spec", dict), ("options", dict)):
        if not isinstance(config.get(key), kind):
            raise VerificationError(f"{path} is damaged: {key!r} is missing or not a {kind.__name__}")
    if not isinstance(config.get(_SUMS, {}), dict):
        raise VerificationError(f"{path} is damaged: {_SUMS!r} is not a dict")
    return config


def read_config_of(folder: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Return `read_config` of a folder with a tokenizer that is registered as ``name``; a tokenizer's ``load`` calls it.

    Raises:
        ValueError: it holds another kind of tokenizer, or as `read_config`.
    """
    config = read_config(folder)
    if config["tokenizer"] != name:
        raise ValueError(f"{folder} holds a {config['tokenizer']!r} tokenizer, not {name!r}; use load_tokenizer")
    return config


def read_options(folder: str | os.PathLike[str], name: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return the options of `read_config_of`: those that are named and no others, each of exactly its type.

    Raises:
        ValueError: there are others, or as `read_config_of`.
    """
    options = dict(read_config_of(folder, name)["options"])
    if set(options) != set(kinds) or any(type(options[key]) is not kind for key, kind in kinds.items()):
        raise ValueError(f"{folder} is damaged: its options {_short(options)} are not those of a {name!r} tokenizer")
    return options


def _short(options: Mapping[str, Any]) -> str:
    text = str(options)
    return text if len(text) <= 200 else f"{text[:197]}..."


def fingerprint_of(name: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> str:
    """Return the sha256 over a tokenizer's registered name, its options and its weights (name, dtype, shape, bytes).

    Args:
        name: the registered name.
        options: JSON-ready values that determine the ids.
        tensors: the weights that determine the ids, on any device.
    """
    digest = hashlib.sha256(canonical_json({"tokenizer": name, "options": dict(options)}))
    if tensors:
        # Only now, so that a tokenizer without weights does not wait for it.
        import torch
    for key in sorted(tensors or {}):
        value = (tensors or {})[key].detach().cpu().contiguous()
        digest.update(canonical_json([key, str(value.dtype), list(value.shape)]))
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
