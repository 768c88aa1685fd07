"""rFVD: the Fréchet distance between original and reconstructed clips in the features of I3D (Unterthiner et al. 2018).

The network is the TorchScript export of the I3D of Kinetics-400 that StyleGAN-V published and the field measures with
(github.com/universome/fvd-comparison): it scales clips to 224x224 itself and gives 400 logits. It is never fetched: the file is
given by its path, and only the published one gives a number of the name ``rfvd``. TorchScript is a program: what is given is run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenize_kit.files import sha256_of_file
from tokenize_kit.metrics.perceptual import PublishedWeights
from tokenize_kit.metrics.video import opaque

I3D = PublishedWeights(
    "the I3D of FVD (51 MB)",
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
)

FVD_FRAMES = 16
"""Frames of a clip that the network sees at once, as in most published figures."""

_BATCH = 4


class VideoFeatures(nn.Module):
    """The 400 logits of FVD's I3D. Frozen.

    Args:
        weights: file of the network as TorchScript.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged, no TorchScript, or gives something else.
    """

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        super().__init__()
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"there is no weights file at {path}; it is {I3D.what} from {I3D.url}")
        digest = sha256_of_file(path)
        self.foreign = None if digest == I3D.sha256 else digest[:12]
        """Beginning of the sha256 if the file is not the published one."""
        try:
            with warnings.catch_warnings():
                # TorchScript is deprecated, and the only form that the network is published in.
                warnings.simplefilter("ignore", FutureWarning)
                jit: Any = torch.jit
                self.network: Any = jit.load(str(path), map_location="cpu").eval()
            probe = self(torch.zeros(1, 3, FVD_FRAMES, 32, 32, dtype=torch.uint8))
        except (RuntimeError, ValueError, TypeError, AttributeError, EOFError) as error:
            said = " ".join(str(error).split())[:300]
            raise ValueError(f"{path} is no TorchScript of a network for FVD ({I3D.what}): {said}") from None
        if not isinstance(probe, Tensor) or probe.ndim != 2 or len(probe) != 1:
            raise ValueError(
                f"{path} gives no features (B, D) of clips (B, 3, {FVD_FRAMES}, H, W), so it is not {I3D.what}"
            )
        self.num_features = probe.shape[1]
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Return the features of uint8 clips ``(B, 3, T, H, W)``, float32 ``(B, 400)``."""
        values = clips.to(torch.float32).contiguous()
        # The names are those of the published network: values of 255 to [-1, 1], scaling, no softmax.
        features: Tensor = self.network(values, rescale=True, resize=True, return_features=True)
        return features


class FrechetVideoDistance:
    """Collects the features of originals and reconstructions as sums, whatever the number of clips.

    A video gives as many clips of `FVD_FRAMES` frames, one behind the other, as fit; what is left over is not seen.

    Args:
        weights: as for `VideoFeatures`.
    """

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        features = VideoFeatures(weights)
        self.name = "rfvd" if features.foreign is None else f"rfvd_like[{features.foreign}]"
        """``rfvd``, or ``rfvd_like[...]`` if the weights are not the published ones."""
        self.clips = 0
        """How many pairs were added."""
        # Nothing in it but the features knows of pictures.
        self._metric = FrechetInceptionDistance(feature=features)

    def add(self, videos: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """Add originals and reconstructions, uint8 ``(T, C, H, W)``: grey is repeated, RGBA composited on white."""
        for video, other in zip(videos, others, strict=True):
            mine, theirs = clips_of(video), clips_of(other)
            for start in range(0, len(mine), _BATCH):
                self._metric.update(mine[start : start + _BATCH], real=True)
                self._metric.update(theirs[start : start + _BATCH], real=False)
            self.clips += len(mine)

    def distance(self) -> float | None:
        """Return the distance of the two sets; None if there are fewer than two clips."""
        return max(0.0, float(self._metric.compute())) if self.clips > 1 else None


def clips_of(video: Tensor) -> Tensor:
    """Return a uint8 video ``(T, C, H, W)`` cut into clips for the network, uint8 ``(N, 3, FVD_FRAMES, H, W)``."""
    count = len(video) // FVD_FRAMES
    frames = opaque(video[: count * FVD_FRAMES]) if count else video.new_zeros(0, 3, *video.shape[-2:])
    return frames.expand(-1, 3, -1, -1).reshape(count, FVD_FRAMES, 3, *video.shape[-2:]).transpose(1, 2)
