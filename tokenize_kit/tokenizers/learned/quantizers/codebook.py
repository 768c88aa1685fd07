"""A learned codebook: search, k-means start, moving averages, replacement of dead codes. Used by vq and by each layer of rvq.

State is the codes, the share of the tokens that each code gets (moving average), and whether the k-means start is done. There
is no separate average of the vectors: with a_k = share_k * code_k it follows from the two, so a replaced or initialised code
cannot be undone by an average that was forgotten. One update with decay d, batch shares p_k and batch means m_k is

    share_k <- d share_k + (1 - d) p_k        code_k <- code_k + (1 - d) p_k / share_k * (m_k - code_k)

which is the moving average of van den Oord et al. 2017 (arXiv:1711.00937, appendix A.1) for batches of equal size.
Shares instead of counts keep the meaning of the threshold for dead codes when batch or codebook change in size.

The k-means start is ten rounds over the joint batch of all processes, on its device, which scikit-learn's KMeans cannot do; with
one process both have the same error, and KMeans takes 1.1 times as long (``benchmarks/libraries.py --only kmeans``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tokenize_kit.tokenizers.learned.quantizers.nearest import nearest_angle, nearest_code
from tokenize_kit.tokenizers.learned.quantizers.processes import drawn_rows, shared, summed

KMEANS_ROUNDS = 10
"""Rounds of Lloyd's algorithm at the start, as in vector-quantize-pytorch."""


class Codebook(nn.Module):
    """K codes of d dimensions.

    Args:
        size: K.
        dim: d.
        l2_normalised: whether codes have length 1 and the angle decides.
        codebook_update: ``ema``: codes are a buffer that moves in training; ``gradient``: they are a parameter.
        ema_decay: memory of the moving averages (for gradient: of the shares).
        kmeans_init: whether the first training batch sets the codes.
        dead_code_threshold: part of an equal share below which a code is replaced.
    """

    codes: Tensor
    shares: Tensor
    initialised: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        l2_normalised: bool,
        codebook_update: str,
        ema_decay: float,
        kmeans_init: bool,
        dead_code_threshold: float,
    ) -> None:
        super().__init__()
        self.l2_normalised = l2_normalised
        self.learned = codebook_update == "gradient"
        self.decay = ema_decay
        self.dead_code_threshold = dead_code_threshold
        codes = torch.randn(size, dim) * dim**-0.5
        if l2_normalised:
            codes = normalize(codes, dim=1)
        if self.learned:
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        self.register_buffer("shares", torch.full((size,), 1 / size))
        self.register_buffer("initialised", torch.tensor(not kmeans_init))

    def prepared(self, vectors: Tensor) -> Tensor:
        """Return vectors ``(N, d)`` as they are looked up: scaled to length 1 if the codes are."""
        return normalize(vectors, dim=1) if self.l2_normalised else vectors

    def table(self) -> Tensor:
        """Return the codes ``(K, d)`` as they are handed out; with a gradient if they are learned."""
        return normalize(self.codes, dim=1) if self.l2_normalised and self.learned else self.codes

    def search(self, vectors: Tensor) -> Tensor:
        """Return the ids ``(N,)`` nearest to prepared vectors ``(N, d)``."""
        table = self.table()
        return nearest_angle(vectors, table) if self.l2_normalised else nearest_code(vectors, table)

    @torch.no_grad()
    def before_search(self, vectors: Tensor) -> None:
        """Start with k-means if that is to be done, else replace dead codes by prepared training vectors ``(N, d)``."""
        if not self.initialised:
            self._start(vectors)
        elif self.dead_code_threshold:
            self._replace_dead(vectors)

    @torch.no_grad()
    def after_search(self, vectors: Tensor, ids: Tensor) -> None:
        """Account for prepared training vectors ``(N, d)`` and their ids ``(N,)``, and move the codes to them."""
        sums, counts = self._statistics(vectors, ids, self.learned)
        total = counts.sum()
        if not total:
            return
        self.shares.lerp_(counts / total, 1 - self.decay)
        if not self.learned:
            # An unused code has neither a sum nor a count, and stays.
            step = (sums - counts[:, None] * self.codes) / total
            self.codes += step * ((1 - self.decay) / self.shares.clamp(min=1e-12))[:, None]
            if self.l2_normalised:
                self.codes.copy_(normalize(self.codes, dim=1))

    def _statistics(self, vectors: Tensor, ids: Tensor, counts_only: bool = False) -> tuple[Tensor, Tensor]:
        """Return the sum of the vectors ``(K, d)`` and their number ``(K,)`` for each code, over all processes."""
        counts = torch.bincount(ids, minlength=len(self.codes)).float()
        sums = torch.zeros_like(self.codes)
        if not counts_only:
            sums.index_add_(0, ids, vectors)
            summed(sums)
        summed(counts)
        return sums, counts

    def _start(self, vectors: Tensor) -> None:
        size = len(self.codes)
        means = drawn_rows(vectors, size)
        if not len(means):
            return
        # Fewer vectors than codes: the others keep their fresh values, and are replaced later if nothing comes near them.
        self.codes[: len(means)] = means
        for _ in range(KMEANS_ROUNDS):
            sums, counts = self._statistics(vectors, self.search(vectors))
            means = self.prepared(sums / counts.clamp(min=1)[:, None])
            self.codes.copy_(torch.where(counts[:, None] > 0, means, self.codes))
        _, counts = self._statistics(vectors, self.search(vectors), counts_only=True)
        self.shares.copy_(counts / counts.sum())
        self.initialised.fill_(True)

    def _replace_dead(self, vectors: Tensor) -> None:
        fair = 1 / len(self.codes)
        dead = (self.shares < self.dead_code_threshold * fair).nonzero().squeeze(1)
        if not len(dead):
            return
        fresh = drawn_rows(vectors, len(dead))
        if len(fresh) < len(dead):
            dead = dead[shared(torch.randperm(len(dead), device=dead.device))[: len(fresh)]]
        self.codes[dead] = fresh
        self.shares[dead] = fair
