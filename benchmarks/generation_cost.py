"""Milliseconds for one more token against how many there are, with cache and without, of every family that draws token by token.

    python benchmarks/generation_cost.py [--png FILE] [--lengths 64 256 1024 4096] [--parameters 1000000] [--threads 1] [--quick]

Whatever is registered is measured, one sequence at a time in float32, with fresh weights: the width of each family is chosen so
that it has about as many parameters as the others, all else is its default (``SHAPES`` has the exceptions). With cache is one
call of ``step`` after the tokens before; without, the logits of all tokens again, as a model is used that remembers nothing.
Medians; the families take turns, so that what else the machine does falls on all of them. Run it alone. Families that draw
otherwise are named below the table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tokenize_kit.protocol.registry import MODELS
from trainers.autoregressive.models import build_model, configuration_of
from trainers.autoregressive.models.inputs import Inputs

VOCAB = 256
SHAPES: dict[str, dict[str, Any]] = {"transformer": {"layers": 4, "heads": 4}}
"""What differs from a family's defaults: those of the transformer are for 25 million parameters."""
WIDTHS = range(32, 1025, 32)
SECONDS = 0.2
"""How long one figure is measured for in each round, once at least."""


def sized(name: str, context: int, parameters: int) -> dict[str, Any]:
    """Return the configuration of a family whose number of parameters is the nearest, found without making the weights.

    Raises:
        ValueError: the family has no width to choose.
    """
    kind = configuration_of(name)
    if kind is None or "width" not in kind.__dataclass_fields__:
        raise ValueError("it has no width to choose")
    found: dict[int, dict[str, Any]] = {}
    for width in WIDTHS:
        config = {"vocab_size": VOCAB, "context": context, **SHAPES.get(name, {}), "width": width}
        with torch.device("meta"):
            model: Any = build_model(name, config)
        count = sum(parameter.numel() for parameter in model.parameters())
        found[abs(count - parameters)] = config
        if count > parameters:
            break
    return found[min(found)]


def inputs_of(model: Any, ids: torch.Tensor, start: int = 0) -> Inputs:
    """Return ids (1, T) with the places that a model asks for.

    Raises:
        ValueError: it asks for something else.
    """
    if unknown := sorted(set(model.needs) - {"axial"}):
        raise ValueError(f"it needs {', '.join(unknown)} of the tokens")
    places = torch.arange(start, start + ids.shape[1])[None, :, None].expand(-1, -1, 3)
    return Inputs(ids, axial=places if model.needs else None)


def contenders(context: int, parameters: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the models that draw token by token, and why the others are left out."""
    models, left_out = {}, {}
    for name in MODELS.names():
        torch.manual_seed(0)
        try:
            model: Any = build_model(name, sized(name, context, parameters)).eval()
            if not model.causal:
                raise ValueError("it is not causal")
            model.step(inputs_of(model, torch.zeros(1, 2, dtype=torch.int64)), model.new_cache(1, 4))
        except (ValueError, NotImplementedError) as error:
            left_out[name] = str(error)
        else:
            models[name] = model
    return models, left_out


def milliseconds(call: Callable[[], Any], most: int) -> list[float]:
    """Return how long each of at most ``most`` calls took, until `SECONDS` are over."""
    found: list[float] = []
    begin = time.perf_counter()
    while len(found) < most and (not found or time.perf_counter() - begin < SECONDS):
        before = time.perf_counter()
        call()
        found.append((time.perf_counter() - before) * 1e3)
    return found


def measure(model: Any, length: int) -> tuple[list[float], list[float]]:
    """Return what the token after ``length - 1`` others costs, with cache and without; some calls each."""
    ids = torch.randint(0, VOCAB, (1, length), generator=torch.Generator().manual_seed(1))
    steps = min(16, length // 2)
    begun = length - steps
    with torch.inference_mode():
        cache = model.new_cache(1, length)
        model.step(inputs_of(model, ids[:, :begun]), cache, last_only=True)
        places = iter(range(begun, length))

        def one() -> None:
            place = next(places)
            model.step(inputs_of(model, ids[:, place : place + 1], place), cache)

        cached = milliseconds(one, steps)
        return cached, milliseconds(lambda: model.logits(inputs_of(model, ids)), 5)


def plot(found: dict[str, dict[int, tuple[float, float]]], path: str) -> None:
    """Draw both figures of each family against length, on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for number, (name, rows) in enumerate(found.items()):
        color = mpl.colormaps["tab20"](number % 20)
        lengths = list(rows)
        axes.plot(lengths, [rows[n][0] for n in lengths], "-o", color=color, markersize=3, label=f"{name}, cache")
        axes.plot(lengths, [rows[n][1] for n in lengths], "--", color=color, label=f"{name}, all again")
    axes.set(xscale="log", yscale="log", xlabel="tokens so far", ylabel="milliseconds for one more")
    axes.set_xticks(lengths, [f"{n:,}" for n in lengths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150, bbox_inches="tight")


def report(lengths: Sequence[int], parameters: int, rounds: int, png: str | None) -> None:
    models, left_out = contenders(max(lengths), parameters)
    each: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
    for _ in range(rounds):
        for length in lengths:
            for name, model in models.items():
                kept = each.setdefault((name, length), ([], []))
                for some, new in zip(kept, measure(model, length), strict=True):
                    some += new
    found: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in models}
    for (name, length), (cached, again) in each.items():
        found[name][length] = statistics.median(cached), statistics.median(again)
    print("| family | parameters | " + " | ".join(f"{n:,} tokens" for n in lengths) + " |")
    print("| --- " * (2 + len(lengths)) + "|")
    for name, rows in found.items():
        count = sum(parameter.numel() for parameter in models[name].parameters())
        print(f"| {name} | {count:,} | " + " | ".join(f"{a:.2f} / {b:.1f}" for a, b in rows.values()) + " |")
    print("\nMilliseconds for one more token, with cache / all tokens again.")
    for name, why in left_out.items():
        print(f"Left out: {name}, {why}.")
    if png is not None:
        plot(found, png)
        print(f"The plot is {png}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--png", help="where to draw the figures")
    parser.add_argument(
        "--quick", action="store_true", help="1 round of 16 and 64 tokens: shows that it runs, not a result"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.quick:
        report([16, 64], 100_000, 1, options.png)
    else:
        report(sorted(options.lengths), options.parameters, options.rounds, options.png)


if __name__ == "__main__":
    main()
