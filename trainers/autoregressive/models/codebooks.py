"""How the ids of a joint step are told apart, which come from one place (`steps`): a head each, or a small Transformer.

The id that begins a step comes from the place before it alone. For each further one, of codebook q, the state of that place is
changed before the head of all ids, in which every codebook has rows of its own:

- `Heads`: by a linear layer of codebook q, as MusicGen has a head for each (Copet et al. 2023, arXiv 2306.05284). The ids of a
  step do not depend on each other, which is why it wants the layout delay.
- `Depth`: by a small Transformer over the ids of the step that are drawn already (RQ-Transformer, Lee et al. 2022, arXiv
  2203.01941; Moshi, Défossez et al. 2024, arXiv 2410.00037), so that nothing is lost in any layout.

Both change nothing at the start of a training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.forms import form_named
from trainers.autoregressive.models.layers import Block, make_norm


class Codebooks(nn.Module):
    """What `Heads` and `Depth` have in common."""

    reads = 0
    """How many tokens before one it must know besides."""

    def reset_parameters(self, embedding_std: float) -> None:
        """Draw fresh weights from torch's global generator; ``embedding_std`` is that of what a token brings."""
        raise NotImplementedError

    def tables(self) -> list[nn.Parameter]:
        """Return the parameters with a row for each codebook."""
        return []

    def forward(self, hidden: Tensor, tokens: Tensor, slots: Tensor, closes: Tensor) -> Tensor:
        """Return the states from which the tokens after T tokens are predicted, (B, T, D).

        Args:
            hidden: (B, T, D), the states of the last places that are closed at the tokens.
            tokens: (B, T, D), the embeddings of the tokens.
            slots: int64 (B, T), the codebook of the token after each; 0 for one that comes from ``hidden`` alone.
            closes: bool (B, T), which tokens are the last of their steps.
        """
        raise NotImplementedError


class Heads(Codebooks):
    """A linear layer for each codebook but the first, beside a residual path."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.codebook_slots - 1))

    @torch.no_grad()
    def reset_parameters(self, embedding_std: float) -> None:
        """See `Codebooks.reset_parameters`."""
        del embedding_std
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor, tokens: Tensor, slots: Tensor, closes: Tensor) -> Tensor:
        """See `Codebooks.forward`."""
        del tokens, closes
        flat, slots = hidden.flatten(0, 1), slots.reshape(-1)
        # Ordered by codebook, so that they are gathered once.
        slots, order = slots.sort(stable=True)
        counts = torch.bincount(slots, minlength=len(self.each) + 1).tolist()
        own = order[counts[0] :]
        parts = torch.split(flat.index_select(0, own), counts[1:])
        made = torch.cat([layer(part) for layer, part in zip(self.each, parts, strict=True)])
        return flat.index_add(0, own, made.to(flat.dtype)).view_as(hidden)


class Depth(Codebooks):
    """A small causal Transformer over the ids of each step, for all steps with more than one id at once."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        own, width = config.depth, config.width
        # Of the ids of a step the first is predicted before, and the last predicts none.
        self.reads = max(0, config.codebook_slots - 2)
        self.enter = nn.Linear(width, own.width, bias=False)
        self.drawn = nn.Linear(width, own.width, bias=False)
        self.slot = nn.Embedding(config.codebook_slots, own.width)
        self.blocks = nn.ModuleList(Block(own, form_named(own.form)) for _ in range(own.layers))
        self.norm = make_norm(own) if own.norm_position == "pre" else nn.Identity()
        self.leave = nn.Linear(own.width, width, bias=False)

    @torch.no_grad()
    def reset_parameters(self, embedding_std: float) -> None:
        """See `Codebooks.reset_parameters`."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # The state of the place, the id before and the codebook weigh the same.
        nn.init.normal_(self.drawn.weight, std=self.drawn.in_features**-0.5 / embedding_std)
        nn.init.normal_(self.slot.weight)
        nn.init.zeros_(self.leave.weight)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.mlp.down.weight)

    def tables(self) -> list[nn.Parameter]:
        """See `Codebooks.tables`."""
        return list(self.slot.parameters())

    def forward(self, hidden: Tensor, tokens: Tensor, slots: Tensor, closes: Tensor) -> Tensor:
        """See `Codebooks.forward`."""
        flat = hidden.flatten(0, 1)
        asked = slots.reshape(-1).nonzero()[:, 0]
        at, size = grouped(closes, asked)
        x = self.enter(flat.index_select(0, asked)) + self.slot(slots.reshape(-1)[asked])
        # A token that closes its step is none of the ids of the next one.
        inside = ~closes.reshape(-1)[asked, None]
        x = x + self.drawn(tokens.flatten(0, 1).index_select(0, asked)) * inside
        number = int(at[-1]) // size + 1 if len(at) else 1
        grid = x.new_zeros(number * size, x.shape[-1]).index_add(0, at, x).view(number, size, -1)
        for block in self.blocks:
            grid = block(grid, None, None)
        made = self.leave(self.norm(grid.flatten(0, 1).index_select(0, at)))
        return flat.index_add(0, asked, made.to(flat.dtype)).view_as(hidden)


def grouped(closes: Tensor, asked: Tensor) -> tuple[Tensor, int]:
    """Return for some tokens where each goes in a table with a row for each step that they predict, and the length of a row.

    Args:
        closes: bool (B, T), which tokens are the last of their steps.
        asked: int64 (N,), ascending, which of the B * T tokens.

    Returns:
        int64 (N,), places in the flat table, ascending; and its columns, at least 1.
    """
    if not len(asked):
        return asked, 1
    rows, length = closes.shape
    step = closes.long().cumsum(1) + torch.arange(rows, device=closes.device)[:, None] * (length + 1)
    step = step.reshape(-1)[asked]
    new = torch.ones_like(step, dtype=torch.bool)
    new[1:] = step[1:] != step[:-1]
    group = new.long().cumsum(0) - 1
    rank = torch.arange(len(asked), device=asked.device) - new.nonzero()[:, 0][group]
    size = int(rank.max()) + 1
    return group * size + rank, size


def codebooks_of(config: TransformerConfig) -> Codebooks | None:
    """Return what the configuration names; None if tokens come one by one."""
    if config.codebooks == "flat":
        return None
    return Heads(config) if config.codebooks == "heads" else Depth(config)
