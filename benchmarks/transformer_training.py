"""Training tokens a second of our Transformer and of transformers' Llama, and the loss after equal steps.

    python benchmarks/transformer_training.py [--precision bfloat16 float32] [--rounds 4] [--steps 15] [--quick]

Both have 13.8 M parameters (6 layers, 384 wide, 6 heads, 4,096 ids), see the same batches of 8 x 256 bytes of
`assets/udhr.txt`, and use fused AdamW at the same rates with clipping at 1. Each lives in a process of its own with its own
allocator settings; they run in turns, so that the ratio of two neighbouring rounds is free of drift. ``transformers+`` is
theirs with our `keep_freed_memory`, to tell that part of the gain from the rest; ``ours, compiled`` is
`train transformer --compile`. The loss is the mean over the last round,
on batches not seen before. Run it alone: a busy neighbour slows two threads tenfold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TEXT = Path(__file__).resolve().parent.parent / "assets" / "udhr.txt"
BATCH, LENGTH, VOCAB = 8, 256, 4096
CONTENDERS = ("ours", "ours, compiled", "transformers", "transformers+")


def worker(name: str, precision: str, threads: int) -> None:
    """Build one contender, then train as many steps as each line of stdin says and print the result as JSON."""
    import torch

    from trainers.autoregressive.models.config import TransformerConfig
    from trainers.autoregressive.models.fast.fused import fused_training
    from trainers.autoregressive.models.inputs import Inputs
    from trainers.autoregressive.models.transformer import Transformer
    from trainers.config import OptimizerConfig
    from trainers.memory import keep_freed_memory
    from trainers.optim import build_optimizers, learning_rate_factor, set_learning_rate

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if name != "transformers":
        keep_freed_memory()
    config = OptimizerConfig(schedule="constant", warmup_steps=20)
    model: Any
    ours = name.startswith("ours")
    if ours:
        model = Transformer(TransformerConfig(vocab_size=VOCAB, context=LENGTH, layers=6, width=384, heads=6))
        optimizers = build_optimizers(model, config, model.tables())

        def mean_loss(ids: torch.Tensor) -> torch.Tensor:
            loss = model.loss(Inputs(ids[:, :-1]), ids[:, 1:])
            return loss.total / loss.weight
    else:
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=384,
                intermediate_size=1024,
                num_hidden_layers=6,
                num_attention_heads=6,
                max_position_embeddings=LENGTH,
            )
        )
        optimizers = build_optimizers(model, config)

        def mean_loss(ids: torch.Tensor) -> torch.Tensor:
            return model(ids[:, :-1], labels=ids, shift_labels=ids[:, 1:].contiguous()).loss

    text = torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8)
    draw = torch.Generator().manual_seed(1)
    step = 0
    stack = contextlib.ExitStack()
    stack.enter_context(fused_training(model, name == "ours, compiled"))
    print(json.dumps({"parameters": sum(parameter.numel() for parameter in model.parameters())}), flush=True)
    for line in sys.stdin:
        losses = []
        begin = time.perf_counter()
        for _ in range(int(line)):
            starts = torch.randint(0, len(text) - LENGTH - 1, (BATCH,), generator=draw).tolist()
            ids = torch.stack([text[start : start + LENGTH + 1] for start in starts]).long()
            set_learning_rate(optimizers, learning_rate_factor(min(step, 9999), 10000, config))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = mean_loss(ids)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
            step += 1
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "loss": statistics.fmean(losses), "peak_mb": peak}), flush=True)


def compare(precision: str, threads: int, rounds: int, steps: int) -> None:
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--worker", name, "--precision", precision, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in CONTENDERS
    }
    parameters, speeds, last = {}, {name: [] for name in CONTENDERS}, {}
    for name, process in processes.items():
        parameters[name] = json.loads(process.stdout.readline())["parameters"]
        ask(process, 2)
    for number in range(rounds):
        for name, process in processes.items():
            last[name] = ask(process, steps)
            speeds[name].append(steps * BATCH * LENGTH / last[name]["seconds"])
        print(f"round {number + 1} of {rounds}: { ({n: round(s[-1]) for n, s in speeds.items()}) }", file=sys.stderr)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print(
        f"\nTraining, {precision}, {BATCH} x {LENGTH} tokens a step, {rounds} rounds of {steps} steps, {threads} threads\n"
    )
    print(
        "| model | parameters | tokens/s, median | against transformers, median of rounds | loss, last round | peak MB |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name in CONTENDERS:
        pairs = zip(speeds[name], speeds["transformers"], strict=True)
        ratio = statistics.median(each / reference for each, reference in pairs)
        print(
            f"| {name} | {parameters[name]:,} | {statistics.median(speeds[name]):,.0f} | {ratio:.2f} "
            f"| {last[name]['loss']:.3f} | {last[name]['peak_mb']:,.0f} |"
        )


def ask(process: Any, steps: int) -> dict[str, float]:
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 3 steps: shows that it runs, not a result")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.precision[0], options.threads)
        return
    for precision in options.precision:
        compare(precision, options.threads, *((2, 3) if options.quick else (options.rounds, options.steps)))


if __name__ == "__main__":
    main()
