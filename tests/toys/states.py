"""What a network keeps between two pieces of a sample."""

import torch


def held_bytes(state):
    """All memory that a state keeps alive."""
    if isinstance(state, torch.Tensor):
        return state.untyped_storage().nbytes()
    return sum(map(held_bytes, state)) if isinstance(state, tuple) else 0
