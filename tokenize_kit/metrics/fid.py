"""rFID: the Fréchet distance between originals and reconstructions in the features of InceptionV3 (Heusel et al. 2017).

The network is torchvision's InceptionV3 with the changes of the one that FID was defined with (TensorFlow, 2015): average
pools that leave out the border, a maximum pool in the last block, 1008 classes, and TensorFlow's old bilinear scaling to
299x299. The distance is `torchmetrics.image.fid`. Weights are found and named as for LPIPS, see `metrics.perceptual`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenize_kit.metrics.image import on_white
from tokenize_kit.metrics.perceptual import PublishedWeights, find_weights, load_into, load_state

INCEPTION = PublishedWeights(
    "the InceptionV3 of FID (96 MB)",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)

_SIDE = 299


class InceptionFeatures(nn.Module):
    """The 2048 features of FID's InceptionV3. Frozen.

    Args:
        weights: file of the network's weights; None takes torch's cache or fetches them.

    Raises:
        FileNotFoundError, MissingWeightsError, ValueError: as `tokenize_kit.metrics.perceptual.Perceptual`.
    """

    num_features = 2048

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        from torchvision.models import Inception3

        path, foreign = find_weights(INCEPTION, weights)
        network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        load_into(network, load_state(path), path)
        network.fc, network.dropout = nn.Identity(), nn.Identity()
        for name, block in network.named_children():
            if name == "Mixed_7c":
                _pool_with(block, lambda maps: functional.max_pool2d(maps, 3, 1, 1))
            elif hasattr(block, "branch_pool"):
                _pool_with(block, lambda maps: functional.avg_pool2d(maps, 3, 1, 1, count_include_pad=False))
        self.network = network
        self.foreign = foreign
        """Beginning of the sha256 if the weights are not the published ones."""
        self.requires_grad_(False)
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the features of uint8 pictures ``(B, 3, H, W)``, float32 ``(B, 2048)``."""
        scaled = scale_as_tensorflow(pictures.to(torch.float32), _SIDE)
        features: Tensor = self.network((scaled - 128) / 128)
        return features


def _pool_with(block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
    """Replace what a block of torchvision pools before its last branch; the other branches stay as they are."""
    plain: Any = block._forward
    last: Any = block.branch_pool
    # Through setattr, because to a type checker a module's attributes are tensors and modules.
    setattr(block, "_forward", lambda maps: [*plain(maps)[:-1], last(pool(maps))])  # noqa: B010


def scale_as_tensorflow(pictures: Tensor, side: int) -> Tensor:
    """Scale ``(B, C, H, W)`` to a square as TensorFlow 1 did: bilinear, the first pixels aligned, no smoothing."""
    rows = _interpolation(pictures.shape[-2], side)
    columns = _interpolation(pictures.shape[-1], side)
    return rows @ pictures @ columns.T


def _interpolation(length: int, side: int) -> Tensor:
    """Return the matrix ``(side, length)`` that interpolates along one axis."""
    places = torch.arange(side, dtype=torch.float32) * (length / side)
    low = places.floor().to(torch.int64).clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    part = places - low
    matrix = torch.zeros(side, length)
    row = torch.arange(side)
    matrix[row, low] += 1 - part
    matrix[row, high] += part
    return matrix


class FrechetDistance:
    """Collects the features of originals and reconstructions as sums, whatever the number of pictures.

    Args:
        weights: as for `InceptionFeatures`.
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        features = InceptionFeatures(weights)
        self.name = "rfid" if features.foreign is None else f"rfid_like[{features.foreign}]"
        """``rfid``, or ``rfid_like[...]`` if the weights are not the published ones."""
        self.pictures = 0
        """How many pairs were added."""
        self._metric = FrechetInceptionDistance(feature=features)

    def add(self, pictures: Tensor, others: Tensor) -> None:
        """Add originals and reconstructions, uint8 ``(B, C, H, W)``: grey is repeated, RGBA composited on white."""
        for batch, real in ((pictures, True), (others, False)):
            plain = torch.stack([on_white(picture) for picture in batch])
            self._metric.update(plain.expand(-1, 3, -1, -1), real=real)
        self.pictures += pictures.shape[0]

    def distance(self) -> float | None:
        """Return the distance of the two sets; None if there are fewer than two pictures."""
        # Of equal sets the rounding of the eigenvalues can leave a little less than nothing.
        return max(0.0, float(self._metric.compute())) if self.pictures > 1 else None
