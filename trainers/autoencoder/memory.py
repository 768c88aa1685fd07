"""What the training of an autoencoder needs at the least, told before the first step without making anything of its size.

The network is built and run on torch's device ``meta``, where tensors have shapes and no values. It is told too little rather
than too much: discriminators, perceptual networks, the quantizer and what kernels need besides are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def least_memory(build: Callable[[], Any], shape: Sequence[int], averages: int, mixed: bool) -> int | None:
    """Return the bytes that the training of an autoencoder needs at the least.

    Args:
        build: makes the model, which has an ``encoder`` and a ``decoder`` of its latents.
        shape: of a batch, (B, C, ...).
        averages: tensors that are kept for each weight beside it and its gradient, such as AdamW's two.
        mixed: whether layers compute in bfloat16.

    Returns:
        None if a model of this kind cannot be looked at so.
    """
    try:
        with torch.device("meta"):
            model = build()
            kept = kept_by_layers(model, torch.empty(1, *shape[1:])) * shape[0]
    except (RuntimeError, NotImplementedError, TypeError, AttributeError, ValueError):
        return None  # what is wrong with the options is said when the model is made
    weights: int = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # Gradients come as activations go.
    return weights * (1 + averages) + max(weights, kept // 2 if mixed else kept)


def kept_by_layers(model: Any, samples: Tensor) -> int:
    """Return the bytes of the inputs of all layers that have weights, which a step keeps for the gradients of these weights.

    Args:
        model: has an ``encoder`` and a ``decoder``.
        samples: (B, C, ...).
    """
    kept: dict[int, Any] = {}

    def note(_layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor in inputs:
            if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                storage = tensor.untyped_storage()
                kept[storage._cdata] = storage  # held, so that no other one takes its place

    handles = [
        layer.register_forward_pre_hook(note)
        for part in (model.encoder, model.decoder)
        for layer in part.modules()
        if any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    ]
    try:
        model.decoder(model.encoder(samples))
    finally:
        for handle in handles:
            handle.remove()
    return int(sum(storage.nbytes() for storage in kept.values()))
