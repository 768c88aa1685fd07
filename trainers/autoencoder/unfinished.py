"""The tokenizer of a training that is not finished: of a run's folder, or of a checkpoint in it.

When a run is finished its folder is a tokenizer, and needs none of this.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenize_kit.protocol import is_tokenizer_folder, resolved

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenize_kit.protocol import Tokenizer

NETWORK = "autoencoder"
"""The name of encoder, quantizer and decoder in a checkpoint."""


def is_unfinished(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a run, or a checkpoint of one, and no tokenizer."""
    from trainers.checkpoints import RUN_FILE, is_checkpoint

    folder = Path(path)
    return is_checkpoint(folder) or ((folder / RUN_FILE).is_file() and not is_tokenizer_folder(folder))


def open_unfinished(path: str | os.PathLike[str]) -> tuple[Tokenizer, str]:
    """Return the tokenizer of a run's best weights so far, or of those of a checkpoint, and what is to be said of them.

    Args:
        path: the folder of a run of ``train image``, ``train audio`` or ``train video``, or of a checkpoint in it.

    Raises:
        FileNotFoundError: there are no weights yet.
        ValueError: it is the run of something else, or damaged.
    """
    import torch

    from tokenize_kit.files import read_signed
    from trainers.autoencoder.audio.train import AudioRun
    from trainers.autoencoder.image.train import ImageRun
    from trainers.autoencoder.video.train import VideoRun
    from trainers.checkpoints import RUN_FILE, is_checkpoint, load_module

    given = Path(path)
    folder = given.absolute().parent.parent if is_checkpoint(given) else given
    if not (folder / RUN_FILE).is_file():
        raise ValueError(f"{given} is not inside the folder of a run: {folder} has no {RUN_FILE}")
    run = read_signed(folder / RUN_FILE)
    kinds = {kind.command: kind for kind in (ImageRun, AudioRun, VideoRun)}
    if run.get("command") not in kinds:
        raise ValueError(f"{folder} is no training of a tokenizer that can be opened ({', '.join(kinds)})")
    config, network, tokenizer = (resolved(part) for part in kinds[run["command"]].parts)
    try:
        made = config.from_dict({name: run[name] for name in ("network", "quantizer")})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / RUN_FILE} is damaged: {error!r}") from None
    with torch.random.fork_rng([]):  # the fresh weights are overwritten; nobody's random numbers shall change
        model: nn.Module = network(made)
    source, tensors, note = _weights(given, folder)
    load_module(model, tensors, source)
    opened: Any = tokenizer(model)
    return opened, note


def _weights(given: Path, folder: Path) -> tuple[Path, dict[str, Tensor], str]:
    """Return where weights are, the weights, and of which step they are in words."""
    from tokenize_kit.weights import read_tensors
    from trainers.autoencoder.task import BEST_FILE
    from trainers.checkpoints import CHECKPOINTS, is_checkpoint, last_checkpoint, load_weights, run_position

    made, steps = run_position(folder)
    if not is_checkpoint(given) and (folder / BEST_FILE).is_file():
        said = f"the training in {folder} is not finished (step {made:,} of {steps:,}); this is the best of its weights so far"
        return folder / BEST_FILE, read_tensors(folder / BEST_FILE), said
    while True:
        checkpoint = given if is_checkpoint(given) else last_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None:
            raise FileNotFoundError(f"{folder} has no weights yet; its training has not reached the first checkpoint")
        try:
            tensors, state = load_weights(checkpoint, NETWORK)
        except (ValueError, OSError):
            # A run that goes on puts a new checkpoint in the place of the one that is being read.
            if checkpoint.exists() or checkpoint == given:
                raise
            continue
        return checkpoint, tensors, f"the weights are those of step {state['step']:,} of {steps:,}, from {checkpoint}"
