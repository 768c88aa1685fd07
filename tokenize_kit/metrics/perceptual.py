"""LPIPS, the distance of two pictures in the features of VGG16 (Zhang et al. 2018), as a measure and as a loss.

The weights are not shipped. They are given as a file, or found in torch's cache, or fetched from where they were published.
A number carries the name LPIPS only if the file has the published sha256; with any other weights it is called
``lpips_like[...]``. The same policy, here in `find_weights`, serves `tokenize_kit.metrics.fid`.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenize_kit.errors import MissingWeightsError
from tokenize_kit.files import sha256_of_file
from tokenize_kit.metrics.options import EvaluateOptions

LPIPS_MIN_SIDE = 16
"""Smaller pictures vanish in the four poolings of VGG16."""

_BATCH_PIXELS = 1 << 19
"""So many are compared at once: features take some hundred times the memory of a picture."""


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that others measure with."""

    what: str
    """For messages."""
    url: str
    """Where it is published."""
    sha256: str
    """Of the whole file."""

    @property
    def cached(self) -> Path:
        """Where torch keeps it: ``$TORCH_HOME/hub/checkpoints``, by default below ``~/.cache/torch``."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]


VGG16 = PublishedWeights(
    "VGG16 of torchvision (528 MB)",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)

LPIPS_HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
"""Of ``lpips/weights/v0.1/vgg.pth`` in the package lpips 0.1.4; torchmetrics ships the same file."""


def find_weights(published: PublishedWeights, given: str | os.PathLike[str] | None) -> tuple[Path, str | None]:
    """Return a weights file, and its short sha256 if it is not the published one.

    Args:
        published: the file that the measure is named after.
        given: a file to use; None takes torch's cache, or fetches into it.

    Raises:
        FileNotFoundError: ``given`` does not exist.
        MissingWeightsError: nothing is given or cached, and it cannot be fetched.
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise FileNotFoundError(f"there is no weights file at {path}; it is {published.what} from {published.url}")
    else:
        path = published.cached
        if not path.is_file():
            _fetch(published, path)
    digest = sha256_of_file(path)
    return path, None if digest == published.sha256 else digest[:12]


def _fetch(published: PublishedWeights, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(published.url, str(path), hash_prefix=published.sha256, progress=False)
    except (OSError, RuntimeError) as error:  # no network, or not the file that was published
        raise MissingWeightsError(
            f"the weights of {published.what} are not in {path} and cannot be fetched from {published.url} "
            f"({' '.join(str(error).split())}); fetch the file elsewhere and put it there, or give its path"
        ) from None


def load_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict out of a safetensors file or a torch checkpoint; nothing is unpickled but tensors.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is not a file of weights: {' '.join(str(error).split())}") from None
    except Exception as error:
        # safetensors has an exception of its own that derives from nothing else.
        raise ValueError(f"{path} is not a file of weights: {' '.join(str(error).split())}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors")
    return state


def load_into(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict, every key of it and no other.

    Raises:
        ValueError: keys or shapes differ.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit: {' '.join(str(error).split())[:300]}") from None


def three_channels(pictures: Tensor) -> Tensor:
    """Return pictures ``(B, C, H, W)`` in [-1, 1] as RGB: grey is repeated, RGBA composited on white. Differentiable.

    Raises:
        ValueError: they have neither 1, 3 nor 4 channels.
    """
    channels = pictures.shape[1]
    if channels == 1:
        return pictures.expand(-1, 3, -1, -1)
    if channels == 4:
        alpha = (pictures[:, 3:] + 1) / 2
        return pictures[:, :3] * alpha + (1 - alpha)
    if channels != 3:
        raise ValueError(f"pictures of shape {tuple(pictures.shape)} must have 1, 3 or 4 channels, (B, C, H, W)")
    return pictures


class Perceptual(nn.Module):
    """LPIPS with the VGG16 backbone and the linear heads of version 0.1. Frozen; gradients flow to the pictures.

    Args:
        weights: file of torchvision's VGG16 (or of its ``features`` alone), ``.pth`` or ``.safetensors``; None takes
            torch's cache or fetches them.

    Raises:
        FileNotFoundError: ``weights`` does not exist.
        MissingWeightsError: none are given or cached, and they cannot be fetched.
        ValueError: the file does not hold the weights of a VGG16.
    """

    # After which layers of ``features`` a head looks: the last ReLU before each pooling.
    _TAPS = (3, 8, 15, 22, 29)

    _shift: Tensor
    _scale: Tensor

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        from torchvision.models.vgg import cfgs, make_layers

        path, foreign = find_weights(VGG16, weights)
        state = load_state(path)
        if any(key.startswith("features.") for key in state):
            state = {
                key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")
            }
        # The whole network would be forty times as large with its classifier, which is not used.
        self.backbone: nn.Sequential = make_layers(cfgs["D"], batch_norm=False)
        load_into(self.backbone, state, path)
        heads, foreign_heads = _load_heads()
        self.heads = nn.ParameterList(heads)
        # The published constants that bring [-1, 1] to the mean and spread of ImageNet.
        self.register_buffer("_shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("_scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.name = _name("lpips", foreign or foreign_heads)
        """``lpips``, or ``lpips_like[...]`` with the beginning of the sha256 if the weights are not the published ones."""
        self.requires_grad_(False)
        self.eval()

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        """Return the distance of each pair, ``(B,)``; 0 for equal pictures.

        Args:
            pictures: ``(B, C, H, W)`` of 1, 3 or 4 channels in [-1, 1], sides of at least `LPIPS_MIN_SIDE`.
            others: of the same shape.

        Raises:
            ValueError: the shapes differ or are not those of pictures.
        """
        if pictures.shape != others.shape or pictures.ndim != 4:
            raise ValueError(f"pictures of shapes {tuple(pictures.shape)} and {tuple(others.shape)} cannot be compared")
        if min(pictures.shape[-2:]) < LPIPS_MIN_SIDE:
            raise ValueError(
                f"pictures of shape {tuple(pictures.shape)} are smaller than the {LPIPS_MIN_SIDE} that LPIPS needs"
            )
        distance = pictures.new_zeros(pictures.shape[0])
        pairs = zip(self.features(pictures), self.features(others), self.heads, strict=True)
        for mine, theirs, head in pairs:
            difference = (mine - theirs).square()  # (B, D, h, w)
            distance = distance + torch.einsum("bdhw,d->b", difference, head) / difference[0, 0].numel()
        return distance

    @torch.no_grad()
    def distances(self, pictures: Tensor, others: Tensor) -> list[float]:
        """Return the distance of each pair of uint8 pictures ``(B, C, H, W)``, any number of them in bounded memory.

        Raises:
            ValueError: as `forward`.
        """
        count = max(1, _BATCH_PIXELS // (pictures.shape[-2] * pictures.shape[-1]))
        pairs = zip(torch.split(pictures, count), torch.split(others, count), strict=True)
        return [value for mine, theirs in pairs for value in self(mine / 127.5 - 1, theirs / 127.5 - 1).tolist()]

    def features(self, pictures: Tensor) -> list[Tensor]:
        """Return the five maps of features ``(B, D, h, w)``, each of length 1 along D."""
        maps, values = [], (three_channels(pictures) - self._shift) / self._scale
        for number, layer in enumerate(self.backbone[: self._TAPS[-1] + 1]):
            values = layer(values)
            if number in self._TAPS:
                # Inside the root, so that the gradient of a place where every feature is zero is not NaN.
                maps.append(values / (values.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return maps


def _load_heads() -> tuple[list[nn.Parameter], str | None]:
    """Return the weights of the five heads, each ``(D,)``, from the file that torchmetrics ships."""
    from importlib.util import find_spec

    spec = find_spec("torchmetrics")
    assert spec is not None, "torchmetrics is a dependency"
    assert spec.origin is not None, "torchmetrics is a package with files"
    path = Path(spec.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
    if not path.is_file():
        raise MissingWeightsError(
            f"this torchmetrics does not bring the heads of LPIPS ({path}); install torchmetrics 1.9"
        )
    state: dict[str, Any] = load_state(path)
    digest = sha256_of_file(path)
    heads = [nn.Parameter(state[f"lin{number}.model.1.weight"].reshape(-1)) for number in range(5)]
    return heads, None if digest == LPIPS_HEADS_SHA256 else digest[:12]


def asked_for(options: EvaluateOptions) -> Perceptual | None:
    """Return the measure if the options of `evaluate` ask for it."""
    return Perceptual(options.lpips_weights) if options.lpips or options.lpips_weights else None


def not_published(name: str, measure: str) -> str:
    """Return what a protocol adds to the number of that name: nothing where the weights are those of the measure."""
    if "_like" not in name:
        return ""
    return f" The weights are not the published ones, so this is no {measure} and compares with nothing but itself."


def _name(measure: str, foreign: str | None) -> str:
    return measure if foreign is None else f"{measure}_like[{foreign}]"
