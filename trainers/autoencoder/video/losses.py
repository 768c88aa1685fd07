"""Losses of clips, as pure functions: each the sum over the batch of a mean over each clip, as in `trainers.autoencoder.losses`.

Clips are (B, C, T, H, W).
"""

from __future__ import annotations

from torch import Tensor

from tokenize_kit.tokenizers.learned.video.networks.patches import bands, patches


def differences(made: Tensor, real: Tensor) -> Tensor:
    """Return the absolute error of the differences of following frames: mean over each clip, sum over the batch.

    Args:
        made: (B, C, T, H, W) of two frames or more.
        real: the same.
    """
    error = made.float() - real.float()
    return (error[:, :, 1:] - error[:, :, :-1]).abs().flatten(1).mean(1).sum()


def haar(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return the absolute errors of the low band and of the high bands of one orthonormal step of the Haar transform.

    The first frame is transformed in space alone, each pair of frames after it in time too (LeanVAE, Cheng et al. 2025); each
    error is a mean over the coefficients of a clip, and a sum over the batch.

    Args:
        made: (B, C, 1 + T, H, W) with even T, H and W.
        real: the same.
    """
    error = (made.float() - real.float()).permute(0, 2, 3, 4, 1)
    parts = [bands(patches(error[:, :1], 1, 2))]
    if error.shape[1] > 1:
        parts.append(bands(patches(error[:, 1:], 2, 2)))
    low = sum(part[..., :1, :, :, :, :].abs().flatten(1).sum(1) for part in parts)
    high = sum(part[..., 1:, :, :, :, :].abs().flatten(1).sum(1) for part in parts)
    lows = sum(part[0, ..., :1, :, :, :, :].numel() for part in parts)
    highs = sum(part[0, ..., 1:, :, :, :, :].numel() for part in parts)
    assert isinstance(low, Tensor)
    assert isinstance(high, Tensor)
    return low.sum() / lows, high.sum() / highs
