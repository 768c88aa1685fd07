"""Training tokens a second on packed rows of several kinds of data, beside transformers' Llama on the same rows.

    python benchmarks/multimodal_training.py [--rounds 5] [--steps 8] [--threads 2] [--quick] [--profile]

The rows are those of `train transformer --template text "text -> image" "image -> text"` over `assets/udhr.txt` and the captioned
pictures of `assets/emoji.tar` (8x8 pixels of a palette: 64 ids, as learned tokenizers give), a third each: 8 rows of 256 tokens
a step, with several documents each, the conditions and the padding out of the loss. Both models have 6 layers of width 384 and
the same vocabulary, bfloat16 autocast and fused AdamW at the same rates with clipping at 1.

Ours sees each document alone, and reads its rows while it trains. Of transformers' Llama there are two: ``documents`` is given
the positions in the documents, from which transformers makes the mask of packed documents by itself, so that it computes what
ours does; ``plain`` is given ids and labels alone, so that all of a row is one document to it. Their rows lie ready in memory.
Each contender lives in a process of its own; they run in turns, and a ratio is of two neighbouring rounds. The ratio of processor
time is of the same rounds: with one thread it holds beside a busy neighbour too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BATCH, CONTEXT = 8, 256
TEMPLATES = ("text", "text -> image", "image -> text")
CONTENDERS = ("ours", "ours, compiled", "transformers, documents", "transformers, plain")
REFERENCE = "transformers, documents"
COMMANDS = (
    f"train bpe --data {ASSETS}/udhr.txt --vocab-size 2048 --out text",
    f"train palette --data {ASSETS}/emoji.tar --colors 64 --image-size 8 --out palette",
    f"encode --tokenizer text --data {ASSETS}/udhr.txt --split paragraphs --out texts",
    f"encode --tokenizer text --tokenizer palette --data {ASSETS}/emoji.tar --image-size 8 --out pictures",
)


def prepare(folder: Path) -> None:
    """Make the tokenizers and the shards."""
    from tokenize_kit.cli import main

    before = Path.cwd()
    os.chdir(folder)
    try:
        for line in COMMANDS:
            assert main([*line.split(), "--quiet"]) == 0, line
    finally:
        os.chdir(before)


def rows_of(folder: Path, needs: frozenset[str] = frozenset()) -> tuple[Any, int]:
    """Return the batches of the mixture and the size of its vocabulary."""
    import numpy as np

    from trainers.autoregressive.mixture import MixedData, mixed_dataset

    data = MixedData.open([str(folder / "pictures"), str(folder / "texts")], TEMPLATES)
    chosen = [np.arange(len(part.documents)) for part in data.parts]
    batches = mixed_dataset(
        data, data.sources(chosen, ()), CONTEXT, BATCH, needs=needs, template_weights=(1.0, 1.0, 1.0)
    )
    return batches, data.vocabulary.size


def ours(vocabulary: int) -> tuple[Any, Any]:
    """Return our model and its parameters with a row for each token."""
    from trainers.autoregressive.models.config import TransformerConfig
    from trainers.autoregressive.models.transformer import Transformer

    model = Transformer(TransformerConfig(vocab_size=vocabulary, context=CONTEXT, layers=6, width=384, heads=6))
    return model, model.tables()


def llama(vocabulary: int) -> Any:
    """Return transformers' model of the same size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=CONTEXT, **sizes))


def contender(name: str, folder: Path) -> tuple[Callable[[int], float], Any]:
    """Build one; return what trains step number n and gives its mean loss, and the model."""
    import torch

    from trainers.autoregressive.task import LossOf
    from trainers.config import OptimizerConfig
    from trainers.memory import keep_freed_memory
    from trainers.optim import build_optimizers, learning_rate_factor, set_learning_rate

    torch.manual_seed(0)
    config = OptimizerConfig(schedule="constant", warmup_steps=20)
    batches, vocabulary = rows_of(folder)
    mean_loss: Callable[[int], torch.Tensor]
    if name.startswith("ours"):
        keep_freed_memory()
        model, tables = ours(vocabulary)
        optimizers = build_optimizers(model, config, tables)
        loss_of = LossOf(model, 0.0)

        def mean_loss(step: int) -> torch.Tensor:
            batch = batches.batch(step)
            return loss_of(batch)[0] / batch.weight
    else:
        model = llama(vocabulary)
        optimizers = build_optimizers(model, config)
        ready = [batches.batch(number) for number in range(400)]

        def mean_loss(step: int) -> torch.Tensor:
            batch = ready[step % len(ready)]
            places = {"position_ids": batch.positions} if name == "transformers, documents" else {}
            return model(batch.ids, labels=batch.labels, shift_labels=batch.labels, use_cache=False, **places).loss

    def train(step: int) -> float:
        set_learning_rate(optimizers, learning_rate_factor(min(step, 9999), 10000, config))
        with torch.autocast("cpu", torch.bfloat16):
            loss = mean_loss(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())

    return train, model


def worker(name: str, folder: Path, threads: int) -> None:
    """Train as many steps of one contender as each line of stdin says, and print the result as JSON."""
    import torch

    from trainers.autoregressive.models.fast.fused import fused_training

    torch.set_num_threads(threads)
    train, model = contender(name, folder)
    step = 0
    stack = contextlib.ExitStack()
    stack.enter_context(fused_training(model, name == "ours, compiled"))
    print(json.dumps({"parameters": sum(parameter.numel() for parameter in model.parameters())}), flush=True)
    for line in sys.stdin:
        began, busy = time.perf_counter(), time.process_time()
        losses = [train(number) for number in range(step, step + int(line))]
        step += len(losses)
        told = {"seconds": time.perf_counter() - began, "busy": time.process_time() - busy}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**told, "loss": statistics.fmean(losses), "peak_mb": peak}), flush=True)


def loading(folder: Path) -> tuple[float, Iterator[str]]:
    """Return the mean processor seconds of reading a batch, materialising rows included, and what the rows are like."""
    import torch

    torch.set_num_threads(1)
    batches, vocabulary = rows_of(folder)
    batches.batch(0)  # the plan of an epoch is made once
    began = time.process_time()
    read = [batches.batch(number) for number in range(512)]
    seconds = (time.process_time() - began) / len(read)
    documents = [int(row.max()) + 1 for batch in read if batch.documents is not None for row in batch.documents]
    padded = statistics.fmean(
        float((batch.documents < 0).float().mean()) for batch in read if batch.documents is not None
    )
    counted = statistics.fmean(batch.weight / batch.ids.numel() for batch in read)
    return seconds, iter(
        (
            f"{vocabulary:,} ids; {statistics.fmean(documents):.1f} documents a row in the mean",
            f"{counted:.0%} of the tokens are in the loss, {padded:.1%} padding",
        )
    )


def profile(folder: Path, threads: int) -> None:
    """Print which operations the processor spends two steps of ours in."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    torch.set_num_threads(threads)
    step, _ = contender("ours", folder)
    for number in range(3):
        step(number)
    with profiled(activities=[ProfilerActivity.CPU]) as seen:
        step(3)
        step(4)
    found = sorted(seen.key_averages(), key=lambda one: -one.self_cpu_time_total)
    total = sum(one.self_cpu_time_total for one in found)
    print("| operation | share of a step |")
    print("| --- | ---: |")
    for one in found[:10]:
        print(f"| {one.key} | {one.self_cpu_time_total / total:.1%} |")


def ask(process: Any, steps: int) -> dict[str, float]:
    """Have a contender train, and return what it says of it."""
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    answer: dict[str, float] = json.loads(process.stdout.readline())
    return answer


def compare(folder: Path, threads: int, rounds: int, steps: int) -> None:
    """Run the contenders in turns and print the table."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--worker", name, "--folder", str(folder), "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in CONTENDERS
    }
    told: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    parameters = {name: json.loads(process.stdout.readline())["parameters"] for name, process in processes.items()}
    for process in processes.values():
        ask(process, 2)
    for number in range(rounds):
        for name, process in processes.items():
            told[name].append(ask(process, steps))
        shown = {name: round(steps * BATCH * CONTEXT / some[-1]["busy"]) for name, some in told.items()}
        print(f"round {number + 1} of {rounds}, tokens a second of processor time: {shown}", file=sys.stderr)
    for process in processes.values():
        process.stdin.close()
        process.wait()

    def ratio(name: str, what: str) -> float:
        pairs = zip(told[name], told[REFERENCE], strict=True)
        return statistics.median(reference[what] / own[what] for own, reference in pairs)

    tokens = steps * BATCH * CONTEXT
    print(f"\n{BATCH} x {CONTEXT} tokens a step, bfloat16, {rounds} rounds of {steps} steps, threads: {threads}")
    seconds, facts = loading(folder)
    print(*facts, sep="; ")
    titles = ("model", "parameters", "tokens/s", f"against {REFERENCE}", "in processor time", "last loss", "peak MB")
    print(f"\n| {' | '.join(titles)} |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, some in told.items():
        speed = statistics.median(tokens / one["seconds"] for one in some)
        print(
            f"| {name} | {parameters[name]:,} | {speed:,.0f} | {ratio(name, 'seconds'):.2f} | {ratio(name, 'busy'):.2f} "
            f"| {some[-1]['loss']:.3f} | {some[-1]['peak_mb']:,.0f} |"
        )
    for name in CONTENDERS[:2]:
        step = statistics.median(one["busy"] / steps for one in told[name])
        print(
            f"\nReading a batch takes {1000 * seconds:.2f} ms of processor time, {seconds / step:.2%} of a step of '{name}'"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 2 steps: shows that it runs, not a result")
    parser.add_argument(
        "--profile", action="store_true", help="which operations a step of ours spends its time in, instead"
    )
    parser.add_argument("--folder", type=Path, help="where the shards are, or are made if there are none")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.folder, options.threads)
        return
    rounds, steps = (2, 2) if options.quick else (options.rounds, options.steps)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "pictures" / "dataset.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            prepare(folder)
        if options.profile:
            profile(folder, options.threads)
        else:
            compare(folder, options.threads, rounds, steps)


if __name__ == "__main__":
    main()
