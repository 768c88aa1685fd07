"""The quantizers of vector-quantize-pytorch, opened by name: ``--quantizer.kind library``.

For what our own kinds do not have: groups, beam search, shared codebooks, implicit neural codebooks, orthogonal rotation,
noise, residual FSQ, LFQ and SimVQ. Where both have a quantizer ours has the same ids (the tests compare them), and the library
takes 2.8 to 33 times as long for a search and 1.0 (fsq) to 5.1 times for a training step (``benchmarks/nearest_code.py``).

What the library leaves to its caller is done here. Evaluation goes through ids, so that what is shown is what ids decode to;
it never starts a codebook, and takes a number of tokens at a time that bounds the distances in memory. Ids of all classes are
int64 with the codebooks last; groups take turns, the coarse codebooks of all before the fine ones of any, so that a
prefix is a coarser code of the whole vector. The loss is the library's own, with the weights of its options, as a mean over
codebooks. Its residual quantizers pass the decoder's gradient once a codebook (see `quantizers.rvq`).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.quantizers.base import Quantizer, Rows
from tokenize_kit.tokenizers.learned.quantizers.library_options import CLASSES, library_class, option_values
from tokenize_kit.tokenizers.learned.quantizers.processes import several

_DISTANCES = 1 << 22
"""Distances that the library holds at a time in evaluation; each takes 16 bytes, one-hot codes included."""
_FEWEST_ROWS = 32
"""Calls in evaluation are filled up to this many tokens: torch.cdist takes another path for 25 or fewer."""


class LibraryQuantizer(Quantizer):
    """A class of vector-quantize-pytorch behind our contract.

    Args:
        dim: channels of the latent.
        library_class: its name.
        library_options: words ``NAME=VALUE`` for it.
        library_defaults: the same, of the options that were not given.

    Raises:
        ValueError: the library refuses the options for so many channels.
    """

    def __init__(
        self,
        dim: int,
        *,
        library_class: str,
        library_options: tuple[str, ...],
        library_defaults: tuple[str, ...],
    ) -> None:
        module = _built(dim, library_class, {**option_values(library_defaults), **option_values(library_options)})
        sizes = _codebook_sizes(module)
        if min(sizes) < 2:
            raise ValueError(f"{library_class} with {' '.join(library_options)} has a codebook of less than 2 codes")
        super().__init__(dim, sizes)
        self.groups = len(module.rvqs) if hasattr(module, "rvqs") else 0
        self.codebook_axis = hasattr(module, "num_quantizers") or bool(self.groups)
        self._inverse = CLASSES[library_class].inverse
        self._rows_at_a_time = max(_FEWEST_ROWS, _DISTANCES // max(sizes))
        self.library = module

    def quantize_rows(self, rows: Tensor, _samples: int, /) -> Rows:
        """See `Quantizer.quantize_rows`; a training step in which dropout left a codebook out has 0 as its ids."""
        if not self.training:
            ids = self.encode_rows(rows)
            return Rows(self.decode_rows(ids), ids, {})
        codes, ids, *losses = self.library(rows[None])
        return Rows(codes[0], self._flat(ids).clamp(min=0), {"library": self._loss(losses[0])} if losses else {})

    @torch.no_grad()
    def encode_rows(self, rows: Tensor) -> Tensor:
        """See `Quantizer.encode_rows`."""
        with _as_started(self.library):
            return torch.cat([self._encoded(part) for part in torch.split(rows, self._rows_at_a_time)])

    def decode_rows(self, ids: Tensor) -> Tensor:
        """See `Quantizer.decode_rows`."""
        if self.codebook_axis:
            # -1 is the library's sign for a codebook that adds nothing.
            missing = ids.new_full((len(ids), len(self.codebook_sizes) - ids.shape[1]), -1)
            ids = torch.cat([ids, missing], 1)
        if self.groups:
            ids = ids.view(len(ids), -1, self.groups).permute(2, 0, 1)[:, None]
            codes: Tensor = getattr(self.library, self._inverse)(ids)
        else:
            codes = getattr(self.library, self._inverse)(ids[None])
        return codes[0]

    def _encoded(self, rows: Tensor) -> Tensor:
        count = len(rows)
        if count < _FEWEST_ROWS:
            rows = torch.cat([rows, rows.new_zeros(_FEWEST_ROWS - count, self.dim)])
        return self._flat(self.library(rows[None])[1])[:count]

    def _flat(self, ids: Tensor) -> Tensor:
        """Return ids of one sample, (1, N), (1, N, Q) or (groups, 1, N, Q), as int64 (N,) or (N, codebooks)."""
        ids = ids[:, 0].permute(1, 2, 0).flatten(1) if self.groups else ids[0]
        return ids.long()

    def _loss(self, losses: Tensor) -> Tensor:
        loss = losses.mean()
        if several():
            # Several processes wait for a gradient of every parameter, also of a codebook that dropout left out.
            loss = loss + 0.0 * sum((weight.sum() for weight in self.parameters()), start=loss.new_zeros(()))
        return loss


def _built(dim: int, name: str, values: dict[str, Any]) -> Any:
    if isinstance(values.get("codebook_size"), list):
        values["codebook_size"] = tuple(values["codebook_size"])
    if isinstance(values.get("levels"), int):
        values["levels"] = [values["levels"]]
    if name.endswith("VQ") or name == "VectorQuantize":
        # Left alone, the library remembers what it saw at its first quantizer.
        values |= {} if "Sim" in name else {"sync_codebook": several()}
    try:
        module = library_class(name)(dim=dim, **values)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = str(error) or (place.line or "").removeprefix("assert ")
        raise ValueError(f"{name} of vector-quantize-pytorch cannot be built for {dim} channels: {reason}") from None
    if values.get("shared_codebook"):
        _name_once(module)
    return module


def _name_once(module: nn.Module) -> None:
    """Let a codebook that layers share have one name, so that it is saved once."""
    for residual in module.modules():
        layers = getattr(residual, "layers", None)
        if isinstance(layers, nn.ModuleList) and hasattr(residual, "shared_codebook"):
            for layer in list(layers)[1:]:
                codebook = layer._modules.pop("_codebook")
                object.__setattr__(layer, "_codebook", codebook)


def _codebook_sizes(module: Any) -> tuple[int, ...]:
    """Return the size of each codebook, in the order of our ids."""
    if hasattr(module, "rvqs"):
        return tuple(size for level in zip(*map(_codebook_sizes, module.rvqs), strict=True) for size in level)
    if hasattr(module, "num_quantizers"):
        return tuple(int(layer.codebook_size) for layer in module.layers)
    return (int(module.codebook_size),)


@contextmanager
def _as_started(module: nn.Module) -> Iterator[None]:
    """Keep codebooks from starting with the k-means of what is only looked up."""
    waiting = [buffer for name, buffer in module.named_buffers() if name.endswith("initted") and not buffer]
    for flag in waiting:
        flag.fill_(True)
    try:
        yield
    finally:
        for flag in waiting:
            flag.fill_(False)
