"""Runs told to Weights & Biases (``wandb``) and to Trackio (``trackio``): two packages with the same few calls.

The project is ``tokenize-kit``, or what the service's own variable says (WANDB_PROJECT, TRACKIO_PROJECT); a run is named after
its folder, and goes on under the same number after it was stopped: OUT/tracked.json keeps that.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tokenize_kit.files import read_json_object, write_json

PROJECT = "tokenize-kit"
TRACKED_FILE = "tracked.json"
RUN_FILE = "run.json"


class Service:
    """A tracker that is a package; see `trainers.trackers.Tracker`.

    Args:
        name: of the package.
        out: the folder of the run.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self, name: str, out: Path) -> None:
        try:
            self._package: Any = import_module(name)
        except ImportError as error:
            raise ValueError(
                f"--track {name} needs the package {name} ({error}); install tokenize-kit[{name}], or take --track tensorboard"
            ) from None
        config = json.loads((out / RUN_FILE).read_text(encoding="utf-8")) if (out / RUN_FILE).is_file() else {}
        project = os.environ.get(f"{name.upper()}_PROJECT") or PROJECT
        # What a service says is not what the command prints.
        with redirect_stdout(sys.stderr):
            self._run: Any = self._begin(project, out, config)

    def _begin(self, project: str, out: Path, config: dict[str, Any]) -> Any:
        """Begin or continue the run of a folder."""
        raise NotImplementedError

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        self._run.log(dict(values), step=step)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.add_scalars`."""
        self._log(values, step)

    def add_text(self, tag: str, text_string: str, global_step: int) -> None:
        """See `Tracker.add_text`."""
        self._log({tag: text_string}, global_step)

    def add_image(self, tag: str, img_tensor: Tensor, global_step: int) -> None:
        """See `Tracker.add_image`."""
        pixels = img_tensor.permute(1, 2, 0).cpu().numpy()
        self._log({tag: self._package.Image(np.repeat(pixels, 3 // pixels.shape[2], 2))}, global_step)

    def add_audio(self, tag: str, snd_tensor: Tensor, global_step: int, sample_rate: int) -> None:
        """See `Tracker.add_audio`."""
        self._log({tag: self._package.Audio(snd_tensor.cpu().numpy(), sample_rate=sample_rate)}, global_step)

    def close(self) -> None:
        """See `Tracker.close`."""
        with redirect_stdout(sys.stderr):
            self._run.finish()


class WeightsAndBiases(Service):
    """Runs at Weights & Biases, or, with WANDB_MODE=offline, in OUT/wandb."""

    def __init__(self, out: Path, step: int) -> None:  # noqa: ARG002 (the service drops steps that it has)
        super().__init__("wandb", out)

    def _begin(self, project: str, out: Path, config: dict[str, Any]) -> Any:
        return self._package.init(
            project=project, name=out.name, id=number_of(out), dir=str(out), config=config, resume="allow"
        )


class Trackio(Service):
    """Runs of Trackio, which keeps them on this machine, or where TRACKIO_DIR and TRACKIO_SPACE_ID say."""

    def __init__(self, out: Path, step: int) -> None:  # noqa: ARG002 (the service keeps what a killed run told)
        super().__init__("trackio", out)

    def _begin(self, project: str, out: Path, config: dict[str, Any]) -> Any:
        return self._package.init(
            project=project, name=f"{out.name}-{number_of(out)}", config=config, resume="allow", embed=False
        )


def number_of(out: Path) -> str:
    """Return the number that the run of a folder has with every service, a new one if it has none yet."""
    file = out / TRACKED_FILE
    if not file.is_file():
        write_json(file, {"run": uuid.uuid4().hex[:12]})
    return str(read_json_object(file)["run"])
