"""Time and memory of a training step of attention against length: patterns that skip work, and the same as masks.

    python benchmarks/attention_patterns.py [--lengths 512 1024 2048 4096 8192] [--rounds 2] [--json]

One layer of 2 heads of 32 channels over one row of random queries, keys and values in float32, forward and backward, with one
thread: `full` (causal, torch's kernel without a mask), a window of 128, the columns of `strided` with a stride of 64, `fixed`
with blocks of 64 and one summary column, and each of the three with a mask of all pairs beside it. `kept` is how many of the
pairs of query and key the pattern keeps. Seconds are the least of the rounds and hold no making of masks, which a model makes
once for all layers of a kind. Memory is what the process has at its peak beyond what it had before the masks were made; each
line of the table's left half has a process of its own, which goes from short to long. Masks are tried up to 4,096 places, as
they take minutes beyond (`--most-masked`).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

HEADS, SIZE, WINDOW, STRIDE = 2, 32, 128, 64
KINDS = ("full", "window", "strided", "fixed")
LENGTHS = (512, 1024, 2048, 4096, 8192)


def kept_pairs(kind: str, length: int) -> int:
    """Return how many pairs a pattern keeps, counted a query at a time."""
    if kind == "full":
        return length * (length + 1) // 2
    if kind == "window":
        return sum(min(WINDOW, query + 1) for query in range(length))
    if kind == "strided":
        return sum(query // STRIDE + 1 for query in range(length))
    return sum(query % STRIDE + 1 + query // STRIDE for query in range(length))


def measure(kind: str, masked: bool, lengths: list[int], rounds: int) -> Iterator[tuple[float, float]]:
    """Yield for each length the seconds of a step and the megabytes at its peak."""
    import torch

    from trainers.autoregressive.models.fast.attention import attend
    from trainers.autoregressive.models.fast.patterns import Sparse, sparse
    from trainers.autoregressive.models.forms import form_named
    from trainers.autoregressive.models.masks import Span, attention_mask
    from trainers.autoregressive.models.patterns import Blocks, Columns, Pattern

    torch.set_num_threads(1)
    torch.manual_seed(0)
    form = form_named("causal")
    pattern = {
        "full": Pattern(None, None),
        "window": Pattern(WINDOW, None),
        "strided": Pattern(None, Columns(STRIDE)),
        "fixed": Pattern(None, Blocks(STRIDE, 1)),
    }[kind]
    # What libraries take at their first call is no part of the step.
    few = [torch.randn(1, HEADS, 64, SIZE, requires_grad=True) for _ in range(3)]
    attend(*few, None).sum().backward()
    before = peak()
    for length in lengths:
        span = Span(0, length, torch.device("cpu"))
        parts = [torch.randn(1, HEADS, length, SIZE, requires_grad=True) for _ in range(3)]
        how: Any = None
        if masked:
            near = Span(0, length, span.device, pattern.window)
            how = attention_mask(near, form.sees, form.causal, None if pattern.far is None else pattern.far.keeps)
        elif kind != "full":
            how = sparse(span, pattern, form.sees, form.causal, form.ahead)
            assert how is not None, f"{kind} at {length} has nothing to skip"
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            out = how.attend(*parts) if isinstance(how, Sparse) else attend(*parts, how)
            out.sum().backward()
            seconds.append(time.perf_counter() - began)
        yield min(seconds), peak() - before


def peak() -> float:
    """Return the megabytes of memory that this process had at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--most-masked", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    lengths = sorted(options.lengths)
    if options.one is not None:
        kind, how = options.one
        print(json.dumps(list(measure(kind, how == "masked", lengths, options.rounds))))
        return
    rows = []
    for kind in KINDS:
        for how in ("skips", "masked") if kind != "full" else ("skips",):
            some = [length for length in lengths if how == "skips" or length <= options.most_masked]
            command = [sys.executable, __file__, "--rounds", str(options.rounds), "--one", kind, how]
            command += ["--lengths", *map(str, some)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            for length, (seconds, megabytes) in zip(some, json.loads(found.stdout), strict=True):
                row = {"pattern": kind, "how": how, "length": length, "kept": kept_pairs(kind, length)}
                rows.append({**row, "seconds": seconds, "megabytes": megabytes})
                if not options.json:
                    show(rows[-1], first=len(rows) == 1)
    if options.json:
        print(json.dumps(rows))


def show(row: dict[str, Any], first: bool) -> None:
    """Print one line of the table."""
    if first:
        print(
            "| pattern | how | length | pairs kept | ms a step | ns a kept pair | MB |\n|---|---|---|---|---|---|---|"
        )
    each = row["seconds"] / row["kept"] * 1e9
    print(
        f"| {row['pattern']} | {row['how']} | {row['length']} | {row['kept']:,} | {row['seconds'] * 1e3:.1f} | {each:.1f} | "
        f"{row['megabytes']:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
