"""Speed of every family that trains by gradient at about as many parameters as a small Transformer: training and generation.

    python benchmarks/family_speed.py [--batch 4] [--steps 2] [--only NAME ..]

The families and their kinds are asked of the registry; the width of each is chosen so that it has as many parameters as a
Transformer of 2 layers, 256 wide, over 256 ids. ``tokens/s`` is whole steps of training (loss, gradient, AdamW; the best of some)
in float32, ``x`` the ratio to the Transformer; ``ms`` what a single row takes for the next token at that place, with cache. All
seconds are those of one thread on the processor, so that other work on the machine counts little. Takes 2 to 3 minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import torch

from tokenize_kit.protocol.registry import MODELS
from trainers.autoregressive.models import SequenceModel, build_model
from trainers.autoregressive.models.inputs import Inputs
from trainers.memory import keep_freed_memory

VOCAB, WIDTH, LAYERS = 256, 256, 2
CONTEXTS = (256, 1024)
PLACES, GENERATED = (64, 1000), 20
SAME_LAYERS = ("transformer", "recurrent", "linear-attention", "state-space")
"""Families whose layers are blocks of the same kind; any other has as many layers as it has by default."""
KINDS = ("kind", "cell")
"""Fields whose choices are each a row of the table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of training, after one that is not")
    parser.add_argument("--only", nargs="+", default=[], help="only these families, beside the Transformer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    parameters = count("transformer", {}, WIDTH)
    head = [f"tokens/s at {context:,} | x" for context in CONTEXTS] + [f"ms at {place:,}" for place in PLACES]
    print(
        " | ".join(("| family", "width", "parameters", *head))
        + " |\n|"
        + " --- |" * (3 + 2 * len(CONTEXTS) + len(PLACES))
    )
    reference: list[float] = []
    left_out = []
    for name in sorted(MODELS.names(), key=lambda name: (name != "transformer", name)):
        if options.only and name not in (*options.only, "transformer"):
            continue
        try:
            kinds = list(kinds_of(name))
        except ValueError as error:
            left_out.append(f"{name}: {error}")
            continue
        for values in kinds:
            width = fitting_width(name, values, parameters)
            cells, speeds = [], []
            for context in CONTEXTS:
                model = build(name, values, width, context)
                speeds.append(training(model, options.batch, context, options.steps))
                reference = speeds if name == "transformer" else reference
                cells += [f"{speeds[-1]:,.0f}", f"{speeds[-1] / reference[len(speeds) - 1]:.2f}"]
            cells += [f"{1000 * generation(model, place):.2f}" if model.causal else "–" for place in PLACES]
            label = " ".join((name, *map(str, values.values())))
            print(" | ".join((f"| {label}", str(width), f"{count(name, values, width):,}", *cells)) + " |", flush=True)
    print("\n".join(("", *(f"Left out: {line}" for line in left_out))))


def kinds_of(name: str) -> Iterator[dict[str, Any]]:
    """Yield what tells the kinds of a family apart.

    Raises:
        ValueError: says why it is not measured.
    """
    with torch.device("meta"):
        model = build_model(name, {})
    known = model.config.to_dict()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("it has no parameters that a gradient trains")
    if unknown := model.needs - {"axial"}:
        raise ValueError(f"it needs the {', '.join(sorted(unknown))} of the tokens")
    if "width" not in known:
        raise ValueError("it has no width to choose")
    for field in KINDS:
        if field in known:
            yield from ({field: kind} for kind in get_args(get_type_hints(type(model.config))[field]))
            return
    yield {}


def build(name: str, values: dict[str, Any], width: int, context: int) -> SequenceModel:
    """Build one model, with heads of 64 channels where they divide the width."""
    with torch.device("meta"):
        known = build_model(name, {}).config.to_dict()
    size = 64 if width % 64 == 0 else 32
    more = {"layers": LAYERS} if name in SAME_LAYERS else {}
    if "heads" in known:
        more["heads"] = width // size
    elif "head_size" in known and values.get("kind") != "s4d":
        more["head_size"] = size
    torch.manual_seed(0)
    return build_model(name, {"vocab_size": VOCAB, "context": context, "width": width, **more, **values})


def count(name: str, values: dict[str, Any], width: int) -> int:
    """Return how many parameters a model has."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(name, values, width, CONTEXTS[0]).parameters())


def fitting_width(name: str, values: dict[str, Any], parameters: int) -> int:
    """Return the multiple of 32 that comes closest to so many parameters."""
    return min(range(32, 1025, 32), key=lambda width: abs(count(name, values, width) - parameters))


def inputs_of(model: SequenceModel, ids: torch.Tensor, start: int = 0) -> Inputs:
    """Return ids (B, T) and where they are in a grid of 32 columns, if the model asks."""
    place = torch.arange(start, start + ids.shape[1]).expand_as(ids)
    axial = torch.stack((torch.zeros_like(place), place // 32, place % 32), -1)
    return Inputs(ids, axial=axial if "axial" in model.needs else None)


def training(model: SequenceModel, batch: int, context: int, steps: int) -> float:
    """Return trained tokens a second."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, VOCAB, (batch, context + 1), generator=torch.Generator().manual_seed(1))

    def seconds() -> float:
        began = time.process_time()
        optimizer.zero_grad()
        loss = model.loss(inputs_of(model, ids[:, :-1]), ids[:, 1:])
        torch.autograd.backward(loss.total / loss.weight)
        optimizer.step()
        return time.process_time() - began

    seconds()
    return batch * context / min(seconds() for _ in range(steps))


def generation(model: SequenceModel, place: int) -> float:
    """Return the seconds of the next token of a single row at a place; the mean of some tokens, the best of two times."""
    ids = torch.randint(0, VOCAB, (1, place + GENERATED), generator=torch.Generator().manual_seed(1))
    model.eval()

    def seconds() -> float:
        cache = model.new_cache(1, place + GENERATED)
        model.step(inputs_of(model, ids[:, :place]), cache, last_only=True)
        began = time.process_time()
        for at in range(place, place + GENERATED):
            model.step(inputs_of(model, ids[:, at : at + 1], at), cache, last_only=True)
        return time.process_time() - began

    return min(seconds() for _ in range(2)) / GENERATED


if __name__ == "__main__":
    main()
