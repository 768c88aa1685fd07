"""One sample to stdout while it is drawn (``generate --stream``): its own bytes and nothing else."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from tokenize_kit.disk import explained
from tokenize_kit.progress import Progress
from tokenize_kit.protocol import Tokenizer, modality_of
from tokenize_kit.protocol.special import without_special
from tokenize_kit.sequences.prompt import Beginning
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.samples_folder import spec_of_part
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.streaming import check_comes_in_pieces, decoded, steps_of


class Stdout:
    """The part of a template that goes to stdout.

    Args:
        loaded: a model.

    Raises:
        ValueError: what it predicts does not come in pieces, its kind of data has no form as a stream of bytes, or those are no
            text and stdout is a terminal.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._part = check_comes_in_pieces(loaded, "leave --stream out")
        self._spec = spec_of_part(loaded, self._part)
        self._kind = kind = modality_of(self._spec)
        self._terminal = sys.stdout.isatty()
        if not kind.pours:
            raise ValueError(
                f"the template {str(loaded.template)!r} predicts {kind.plural}, which cannot be written as they come; leave "
                "--stream out"
            )
        if self._terminal and not kind.textual:
            raise ValueError(
                f"--stream writes {kind.plural} as {kind.pours}, and stdout is a terminal; send it to a player, such as | aplay "
                "or | mpv -, or into a file with >"
            )

    def draw(
        self,
        beginning: Beginning,
        options: SamplingOptions,
        limit: int,
        progress: Progress | None = None,
        *,
        show_special: bool = True,
        **more: Any,
    ) -> list[int]:
        """Draw a document, write its last part as it comes, and return all ids.

        Args:
            beginning: of the document.
            options: how tokens are drawn.
            limit: the most tokens.
            progress: is told how many steps are there; of a text it is not, which shows itself.
            show_special: whether special tokens in a text are shown as they are spelt, or left out.
            more: of `generation.drawing`.

        Raises:
            BrokenPipeError: the reader of stdout has left.
            OSError: stdout takes no more.
        """
        tokenizer = self._loaded.tokenizers[self._loaded.template.stream_of(self._part)]
        ids: list[int] = []

        def drawn() -> Generator[Tensor, None, None]:
            steps = 0
            if progress is not None:
                progress.task("generate")
            found = steps_of(self._loaded, beginning, options, limit, **more)
            for grid in _kept(found, ids):
                steps += len(grid)
                if progress is not None and not self._kind.textual:
                    progress.update(steps=steps)
                yield grid if show_special else _plain(tokenizer, grid)

        pieces: Iterator[Any] = decoded(tokenizer, drawn())
        if self._terminal:
            pieces = itertools.chain(pieces, "\n")
        if (first := next(pieces, None)) is not None:
            with explained("stdout"):
                self._kind.pour(itertools.chain([first], pieces), sys.stdout.buffer, self._spec)
        return ids


def _kept(steps: Generator[Tensor, None, list[int]], ids: list[int]) -> Iterator[Tensor]:
    """Pass steps on, and keep what they return."""
    ids += yield from steps


def _plain(tokenizer: Tokenizer, grid: Tensor) -> Tensor:
    return torch.from_numpy(without_special(tokenizer, grid.numpy()))
