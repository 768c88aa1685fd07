"""Generated tokens a second of our `generate` and of transformers' `generate` with cache, on the same weights.

    python benchmarks/generation.py [--precision bfloat16 float32] [--rounds 5] [--tokens 200] [--quick]

A Llama of 13.8 M parameters (6 layers, 384 wide, 6 heads, 4,096 ids; no QK-norm, so that both compute the same). Both
sample from the whole distribution after a prompt of 8 tokens. Each contender lives in a process of its own, and they run in
turns. ``ours, compiled`` is `SamplingOptions.compiled`; the time to compile is in its own column. Before the timing each
prints its logits for one sequence: cached and uncached, ours and theirs. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

VOCAB, PROMPT, CONTEXT, LAYERS, WIDTH, HIDDEN, HEADS = 4096, 8, 256, 6, 384, 1024, 6
CONTENDERS = ("ours", "ours, compiled", "transformers")


class AnyTokens:
    """A grammar that allows every id until a sequence has ``length`` of them."""

    def __init__(self, length: int) -> None:
        self.length = length

    def start(self) -> int:
        """Count from nothing."""
        return 0

    def allowed(self, state: int) -> Sequence[tuple[int, int]]:
        """Allow everything."""
        return ((0, VOCAB),) if state < self.length else ()

    def advance(self, state: int, _: int) -> int:
        """Count."""
        return state + 1

    def done(self, state: int) -> bool:
        """Stop at the length."""
        return state >= self.length


def our_model() -> Any:
    """Our Llama with weights as if trained: a peaked distribution, and no zero matrices."""
    import torch

    from trainers.autoregressive.models.config import TransformerConfig
    from trainers.autoregressive.models.transformer import Transformer

    torch.manual_seed(0)
    model = Transformer(
        TransformerConfig(
            vocab_size=VOCAB, context=CONTEXT, layers=LAYERS, width=WIDTH, heads=HEADS, mlp_width=HIDDEN, qk_norm=False
        )
    )
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.03)
    return model.eval()


def their_model() -> Any:
    """Return the Llama of transformers with the weights of `our_model`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            intermediate_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-5,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    ours = our_model().state_dict()
    weights = {
        "model.embed_tokens.weight": ours["embedding.weight"],
        "model.norm.weight": ours["norm.weight"],
        "lm_head.weight": ours["unembedding.weight"],
    }
    for layer in range(LAYERS):
        source, target = f"blocks.{layer}.", f"model.layers.{layer}."
        weights[target + "input_layernorm.weight"] = ours[source + "attention_norm.weight"]
        weights[target + "post_attention_layernorm.weight"] = ours[source + "mlp_norm.weight"]
        for part, matrix in zip("qkv", ours[source + "attention.qkv.weight"].chunk(3), strict=True):
            weights[target + f"self_attn.{part}_proj.weight"] = matrix
        weights[target + "self_attn.o_proj.weight"] = ours[source + "attention.out.weight"]
        for part, matrix in zip(("gate", "up"), ours[source + "mlp.up.weight"].chunk(2), strict=True):
            weights[target + f"mlp.{part}_proj.weight"] = matrix
        weights[target + "mlp.down_proj.weight"] = ours[source + "mlp.down.weight"]
    model.load_state_dict(weights, strict=True)
    return model.eval()


def worker(name: str, precision: str, threads: int) -> None:
    """Build one contender, then generate as each line of stdin says (batch, tokens) and print the seconds as JSON."""
    import torch

    from trainers.autoregressive.generation import generate
    from trainers.autoregressive.sampling_options import SamplingOptions

    torch.set_num_threads(threads)
    kind = getattr(torch, precision)
    ids = torch.randint(0, VOCAB, (1, 64), generator=torch.Generator().manual_seed(1))
    ours = name.startswith("ours")
    model = (our_model() if ours else their_model()).to(kind)
    with torch.inference_mode():
        whole = (model(ids) if ours else model(ids).logits).float()
        difference = 0.0
        if ours:
            from trainers.autoregressive.models.inputs import Inputs

            cache = model.new_cache(1, CONTEXT, compiled=name.endswith("compiled"))
            pieces = [model.step(Inputs(ids[:, :32]), cache)]
            pieces += [model.step(Inputs(ids[:, place : place + 1]), cache) for place in range(32, 64)]
            difference = float((torch.cat(pieces, 1).float() - whole).abs().max())
    print(
        json.dumps({"logits": whole[0, -1, :256].tolist(), "cached": difference, "spread": float(whole.std())}),
        flush=True,
    )
    for line in sys.stdin:
        batch, tokens = map(int, line.split())
        begin = time.perf_counter()
        if ours:
            options = SamplingOptions(batch_size=batch, compiled=name.endswith("compiled"))
            result = generate(model, AnyTokens(PROMPT + tokens), ids[:, :PROMPT].tolist() * batch, options)
        else:
            result = model.generate(
                ids[:, :PROMPT].expand(batch, -1),
                attention_mask=torch.ones(batch, PROMPT, dtype=torch.int64),
                max_new_tokens=tokens,
                do_sample=True,
                top_k=0,
                use_cache=True,
            ).tolist()
        assert [len(row) for row in result] == [PROMPT + tokens] * batch
        print(json.dumps(time.perf_counter() - begin), flush=True)


def compare(precision: str, threads: int, rounds: int, tokens: int) -> None:
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--worker", name, "--precision", precision, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in CONTENDERS
    }
    first = {name: json.loads(process.stdout.readline()) for name, process in processes.items()}
    theirs = first["transformers"]["logits"]
    for name in CONTENDERS[:2]:
        apart = max(abs(a - b) for a, b in zip(first[name]["logits"], theirs, strict=True))
        print(
            f"{name}, {precision}: logits cached against uncached differ by at most {first[name]['cached']:.1e}, from "
            f"transformers' by {apart:.1e} (their standard deviation is {first[name]['spread']:.2f})"
        )
    print(f"\nGeneration, {precision}, {tokens} tokens after {PROMPT}, {rounds} rounds, {threads} threads\n")
    print("| batch | generator | tokens/s, median | against transformers, median of rounds | first call, s |")
    print("| --- | --- | --- | --- | --- |")
    for batch in (1, 8, 16):
        # Only a single row is compiled.
        asked = {name: process for name, process in processes.items() if batch == 1 or not name.endswith("compiled")}
        begun = {name: ask(process, batch, tokens) for name, process in asked.items()}
        speeds: dict[str, list[float]] = {name: [] for name in asked}
        for _ in range(rounds):
            for name, process in asked.items():
                speeds[name].append(batch * tokens / ask(process, batch, tokens))
        for name in asked:
            pairs = zip(speeds[name], speeds["transformers"], strict=True)
            ratio = statistics.median(each / reference for each, reference in pairs)
            print(f"| {batch} | {name} | {statistics.median(speeds[name]):,.0f} | {ratio:.2f} | {begun[name]:.1f} |")
    for process in processes.values():
        process.stdin.close()
        process.wait()


def ask(process: Any, batch: int, tokens: int) -> float:
    process.stdin.write(f"{batch} {tokens}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="1 round of 20 tokens: shows that it runs, not a result")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.precision[0], options.threads)
        return
    for precision in options.precision:
        compare(precision, options.threads, *((1, 20) if options.quick else (options.rounds, options.tokens)))


if __name__ == "__main__":
    main()
