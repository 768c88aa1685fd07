"""How many times faster than real time neural codecs encode and decode on one thread, ours beside transformers' EnCodec.

    python benchmarks/codec_speed.py [--tokenizer FOLDER...] [--seconds 10] [--rounds 5] [--quick]

float32, one sound of 10 s at a time, random weights (``--tokenizer`` adds trained folders). The contenders:

- the tiny presets of ``train audio``, through their tokenizers, which work in aligned blocks of a second;
- EnCodec at 24 kHz and 6 kbit/s, the ``encodec`` preset of size base, through its tokenizer and as the bare network at once;
- transformers' ``EncodecModel`` of the same layers **with the same weights**, weight norm folded into them as in ours;
- the same class as it comes: ``EncodecConfig()``, with convolutions in its skips and weight norm in every call.

Each lives in a process of its own and they run in turns. Before the timing the first three of EnCodec compare ids and samples.
transformers pads with zeros for that, as ours does, which is less work than its reflection. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

BASE = "EnCodec 24 kHz, tokenizer"
BARE = "EnCodec 24 kHz, bare network"
THEIRS = "EnCodec 24 kHz, transformers"
DEFAULT = "EnCodec 24 kHz, transformers as it comes"
TINY = {"tiny encodec, tokenizer": "encodec", "tiny dac, tokenizer": "dac"}
BANDWIDTH = 6.0


def our_codec(preset: str, size: str) -> Any:
    """Return a codec without weight norm whose random weights let a sound through."""
    import torch

    from tokenize_kit.tokenizers.learned.audio.model import Codec, fold_weight_norm
    from trainers.autoencoder.audio.config import audio_recipe

    torch.manual_seed(0)
    codec = fold_weight_norm(Codec(audio_recipe(preset, size).model)).eval()
    for parameter in codec.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(1.7)
    return codec


def their_codec(ours: Any) -> Any:
    """Return transformers' EnCodec with the layers and weights of ours."""
    import torch
    from torch.nn.utils import parametrize
    from transformers import EncodecConfig, EncodecModel

    from tokenize_kit.tokenizers.learned.layers import Convolution, TransposedConvolution

    model = EncodecModel(EncodecConfig(use_conv_shortcut=False, pad_mode="constant")).eval()
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    kinds = (Convolution, TransposedConvolution, torch.nn.LSTM)
    others = (torch.nn.Conv1d, torch.nn.ConvTranspose1d, torch.nn.LSTM)
    sources = [module for module in ours.modules() if isinstance(module, kinds)]
    targets = [module for module in model.modules() if isinstance(module, others)]
    for source, target in zip(sources, targets, strict=True):
        state = source.state_dict()
        if not isinstance(source, torch.nn.LSTM):
            state["weight"] = state["weight"].transpose(1, 2)
        target.load_state_dict(state)
    for source, target in zip(ours.quantizer.layers, model.quantizer.layers, strict=False):
        target.codebook.embed.copy_(source.codebook.codes)
    return model


def contender(name: str) -> tuple[Any, int, Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the network, its sample rate, what encodes (C, N) to ids (T, Q) and what decodes those to (C, N)."""
    from tokenize_kit.protocol import load_tokenizer
    from tokenize_kit.tokenizers.learned.audio.tokenizer import CodecTokenizer

    if name == BARE:
        codec = our_codec("encodec", "base")
        return codec, 24_000, lambda sound: codec.encode(sound[None])[0], lambda ids: codec.decode(ids[None])[0]
    if name in (THEIRS, DEFAULT):
        from transformers import EncodecConfig, EncodecModel

        model = their_codec(our_codec("encodec", "base")) if name == THEIRS else EncodecModel(EncodecConfig()).eval()
        return (
            model,
            24_000,
            lambda sound: model.encode(sound[None], bandwidth=BANDWIDTH).audio_codes[0, 0].t(),
            lambda ids: model.decode(ids.t()[None, None], [None]).audio_values[0],
        )
    tokenizer: Any
    if name == BASE:
        tokenizer = CodecTokenizer(our_codec("encodec", "base"))
    elif name in TINY:
        tokenizer = CodecTokenizer(our_codec(TINY[name], "tiny"))
    else:
        tokenizer = load_tokenizer(name)
    return tokenizer.model, tokenizer.spec.sample_rate, tokenizer.encode, tokenizer.decode


def worker(name: str, seconds: float) -> None:
    """Build one contender, then encode or decode as each line of stdin says and print the seconds as JSON."""
    import torch

    torch.set_num_threads(1)
    model, rate, encode, decode = contender(name)
    generator = torch.Generator().manual_seed(1)
    sound = (torch.randn(1, int(rate * seconds), generator=generator) * 0.2).clamp(-1, 1)
    with torch.inference_mode():
        ids = encode(sound)
        samples = decode(ids)
    used = model.quantizer.layers[: ids.shape[1]] if hasattr(model.quantizer, "layers") else [model.quantizer]
    parts = [model.encoder, model.decoder, *used]
    seen = {
        # What is counted or averaged for training only is no weight of a codec.
        id(value): value.numel()
        for part in parts
        for key, value in [*part.named_parameters(), *part.named_buffers()]
        if key.split(".")[-1] not in ("shares", "initialised", "cluster_size", "embed_avg", "inited")
    }
    first = {
        "parameters": sum(seen.values()),
        "ids": ids.tolist() if "EnCodec" in name else None,
        "samples": samples[0].tolist() if "EnCodec" in name else None,
    }
    print(json.dumps(first), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        with torch.inference_mode():
            _ = encode(sound) if line.strip() == "encode" else decode(ids)
        print(json.dumps(time.perf_counter() - begin), flush=True)


def ask(process: Any, work: str) -> float:
    process.stdin.write(f"{work}\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def compare_sounds(first: dict[str, dict[str, Any]]) -> None:
    for name in (BASE, BARE):
        mine, yours = first[name], first[THEIRS]
        pairs = [pair for rows in zip(mine["ids"], yours["ids"], strict=True) for pair in zip(*rows, strict=True)]
        same = sum(a == b for a, b in pairs) / len(pairs)
        samples = [[max(-1.0, min(1.0, value)) for value in each["samples"]] for each in (mine, yours)]
        apart = max(abs(a - b) for a, b in zip(*samples, strict=True))
        codes = len({a for a, _ in pairs})
        print(
            f"{name}: {same:.2%} of the ids are transformers' ({codes} of 1,024 codes), samples, clipped to [-1, 1], "
            f"differ by at most {apart:.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", nargs="*", default=[], help="folders of trained codecs to add")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1 round of 2 s: shows that it runs, not a result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds, rounds = (2.0, 1) if options.quick else (options.seconds, options.rounds)
    if options.worker:
        worker(options.worker, seconds)
        return
    names = [*TINY, *options.tokenizer, BASE, BARE, THEIRS, DEFAULT]
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--worker", name, "--seconds", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name in names
    }
    first = {name: json.loads(process.stdout.readline()) for name, process in processes.items()}
    compare_sounds(first)
    times: dict[tuple[str, str], list[float]] = {(name, work): [] for name in names for work in ("encode", "decode")}
    for _ in range(rounds):
        for work in ("encode", "decode"):
            for name, process in processes.items():
                times[name, work].append(ask(process, work))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print(f"\n{seconds:g} s of sound, {rounds} rounds, 1 thread, float32; times real time, and against transformers\n")
    print("| codec | parameters | encode | decode | encode ratio | decode ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in names:
        cells = []
        for show in (lambda name, work: f"{seconds / statistics.median(times[name, work]):,.1f}", ratio(times)):
            cells += [show(name, work) for work in ("encode", "decode")]
        print(f"| {name} | {first[name]['parameters'] / 1e6:.1f} M | {' | '.join(cells)} |")


def ratio(times: dict[tuple[str, str], list[float]]) -> Callable[[str, str], str]:
    """Return what gives the median over rounds of transformers' seconds over those of a contender."""

    def show(name: str, work: str) -> str:
        pairs = zip(times[THEIRS, work], times[name, work], strict=True)
        return f"{statistics.median(theirs / ours for theirs, ours in pairs):.2f}"

    return show


if __name__ == "__main__":
    main()
