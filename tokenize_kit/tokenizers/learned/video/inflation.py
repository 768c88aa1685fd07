"""The weights of a picture tokenizer in a video network of the same body: a video of one frame gives what the picture gives.

Layer for layer the convolutional body is a picture network that sees other frames too (`networks/convolutional.py`). The kernel
of a convolution over a frame goes into the last place of its time, zeros into the others; convolutions over the time alone pass
on what they are given, those that make more frames give each step again; attention over the time adds nothing. What is pooled or
repeated is a frame itself where all frames are equal, so no layer changes the first frame: ids and pixels are equal to the bit,
also with convolutions of three axes, whose sums only grow by zeros.

Both configurations and the weights are plain values here: this package does not know the one of pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from tokenize_kit.tokenizers.learned.layers import CausalConvolution
from tokenize_kit.tokenizers.learned.parts import build_options
from tokenize_kit.tokenizers.learned.quantizers.config import QuantizerConfig
from tokenize_kit.tokenizers.learned.video.config import VideoConfig, VideoNetworkConfig
from tokenize_kit.tokenizers.learned.video.model import VideoAutoencoder
from tokenize_kit.tokenizers.learned.video.networks.blocks import Factorised
from tokenize_kit.tokenizers.learned.video.networks.convolutional import pictured
from tokenize_kit.tokenizers.learned.video.networks.half import Half
from tokenize_kit.weights import load_tensors

_SAME = ("channels", "width", "multipliers", "attention", "norm", "latent_channels")
_LEVELS = {"encoder_blocks": "encoder_levels", "decoder_blocks": "decoder_levels"}


def picture_options(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `VideoNetworkConfig` that a picture network fixes, as they are saved.

    Args:
        network: its configuration, the part ``network`` of what a picture tokenizer saves.
    """
    factor = network["patch"] * 2 ** (len(network["multipliers"]) - 1)
    options = {"body": "convolutional", "spatial_factor": factor, **{name: network[name] for name in _SAME}}
    return options | {ours: network[theirs] for theirs, ours in _LEVELS.items()}


def from_pictures(
    model: VideoAutoencoder, config: Mapping[str, Any], weights: Mapping[str, Tensor], source: str
) -> None:
    """Give a video network the weights of a picture tokenizer; it begins with what that gives, for each step's last frame.

    Ids and pixels of videos of one frame are those of the picture to the bit on a CPU, and within rounding on a GPU, or where
    the grid is a single id: libraries then add up in another order.

    Args:
        model: of the convolutional body.
        config: what the picture tokenizer saved, its parts ``network`` and ``quantizer``.
        weights: its ``state_dict``.
        source: where they come from, for messages.

    Raises:
        ValueError: the body is another, or an option differs; the message names each that does.
    """
    ours = model.config.network
    if ours.body != "convolutional":
        raise ValueError(
            f"{source} is a tokenizer of pictures, whose network is convolutional; a video network of the body {ours.body} "
            "cannot begin with it. Use --network.body convolutional"
        )
    wanted = picture_options(config["network"])
    have = {**asdict(ours), **ours.options()}
    different = [f"{name} {have[name]} instead of {_tuple(v)}" for name, v in wanted.items() if have[name] != _tuple(v)]
    different += _differences(model.config.quantizer, build_options(QuantizerConfig, config["quantizer"]))
    if different:
        raise ValueError(f"this network differs from that of {source}: {', '.join(different)}; give the same options")
    targets = {f"quantizer.{name}": value for name, value in model.quantizer.state_dict().items()}
    targets |= _targets("encoder", model) | _targets("decoder", model)
    load_tensors(targets, {name: _shaped(value, targets.get(name)) for name, value in weights.items()}, source)
    for module in model.modules():
        if callable(blind := getattr(module, "blind", None)):
            blind()


def from_videos(model: VideoAutoencoder, config: VideoConfig, weights: Mapping[str, Tensor], source: str) -> None:
    """Give a video network the weights of another of the same configuration.

    Raises:
        ValueError: an option differs; the message names each that does.
    """
    different = _differences(model.config.network, config.network)
    different += _differences(model.config.quantizer, config.quantizer)
    if different:
        raise ValueError(f"this network differs from that of {source}: {', '.join(different)}; give the same options")
    load_tensors(model.state_dict(), weights, source)


def _differences(ours: VideoNetworkConfig | QuantizerConfig, theirs: VideoNetworkConfig | QuantizerConfig) -> list[str]:
    mine, others = ({**asdict(config), **config.options()} for config in (ours, theirs))
    return [f"{name} {mine[name]} instead of {others[name]}" for name in mine if mine[name] != others[name]]


def _targets(half: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the encoder or decoder that a picture network has too, by their names there."""
    ours = model.get_submodule(half)
    assert isinstance(ours, Half)
    places = pictured(ours.layers)
    apart = [module for module in ours.modules() if isinstance(module, Factorised)]
    frames, times = ({id(getattr(module, part)) for module in apart} for part in ("frame", "time"))
    targets = {}
    for name, module in ours.named_modules():
        path = name.split(".")
        if path[:2] == ["layers", "layers"] and len(path) > 2:
            if int(path[2]) not in places:
                continue
            path = ["layers", str(places.index(int(path[2]))), *path[3:]]
        if id(module) in times:
            continue
        if id(module) in frames:
            path = path[:-2]
        for leaf, value in module.named_parameters(recurse=False):
            kernel = isinstance(module, CausalConvolution) and leaf == "weight"
            # Of a kernel, the place of its own frame.
            targets[".".join([half, *path, leaf])] = (value[:, -1] if kernel else value).detach()
    return targets


def _shaped(value: Tensor, target: Tensor | None) -> Tensor:
    """Return the kernel (O, I, h, w) of a picture network as ours are, (O, h, w, I)."""
    return value.movedim(1, -1) if target is not None and target.ndim == 4 and value.ndim == 4 else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
