"""Ids of several codebooks one by one, or at one place with a head each or a depth Transformer: at equal time, on speech.

    python benchmarks/codebooks.py [--seconds 180] [--codec-seconds 150] [--codebooks 4] [--forms heads-delay ..] [--out DIR]

A causal codec (``train audio --preset encodec``) learns from the prompts of the set ``speech`` (16 kHz, one speaker) for a while,
and a Transformer of 4 layers, 256 wide, learns the first codebooks of each step. All forms model the same ids, so their bits a
token can be compared. A short trial turns the seconds into steps. All seconds are those of one thread on the processor, so that
other work on the machine counts little. The two validations of a run count in its tokens a second. ``generation`` is how many
seconds a second of sound takes, 8 sounds side by side. With ``--out`` the codec and its shards are kept and found again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fetch import fetch

from tokenize_kit.shards.encode import encode
from tokenize_kit.shards.options import EncodeOptions
from trainers.autoencoder.audio.options import TrainAudioOptions
from trainers.autoencoder.audio.train import train_audio
from trainers.autoregressive.data import TokenData, split_documents
from trainers.autoregressive.generation import generate
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.options import TrainTransformerOptions, TransformerOverrides
from trainers.autoregressive.sample import lay_out
from trainers.autoregressive.sampling_options import SamplingOptions
from trainers.autoregressive.train import TrainResult, train_transformer
from trainers.config import OptimizerConfig

FRACTION, RATE = 0.08, 16_000
FORMS = ("flat-delay", "heads-delay", "heads-flatten", "depth-flatten", "depth-delay")
TRIAL = (4, 16)
"""Steps of two trials, whose difference is timed."""
SOUNDS = 8


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and the seconds that it had the processor."""
    began = time.process_time()
    return work(), time.process_time() - began


def steps_in(seconds: float, train: Callable[[int, str], Any]) -> int:
    """Return how many steps a training makes in so many seconds; the first trial is there for what is loaded once."""
    took = [timed(partial(train, steps, f"trial-{number}"))[1] for number, steps in enumerate((TRIAL[0], *TRIAL))]
    return max(TRIAL[1] + 1, int(seconds / ((took[2] - took[1]) / (TRIAL[1] - TRIAL[0]))))


def shards_of(folder: Path, seconds: float, codebooks: int) -> Path:
    """Train the codec and encode the prompts, unless that is done."""
    shards = folder / f"shards-{codebooks}"
    if (shards / "dataset.json").is_file():
        return shards
    sounds = str(fetch("speech") / "usr/share/asterisk/sounds/en_US_f_Allison")
    codec = folder / "codec"

    def train(steps: int, out: str) -> Any:
        return train_audio(
            TrainAudioOptions(
                data=(sounds,),
                sounds=str(folder / "sounds"),
                out=str(folder / out),
                preset="encodec",
                steps=steps,
                validation_fraction=FRACTION,
                validation_sounds=8,
                validate_every=steps,
            )
        )

    if not (codec / "tokenizer_config.json").is_file():
        steps = steps_in(seconds, train)
        print(f"codec: {steps} steps, mel distance {train(steps, 'codec').metrics}", flush=True)
    encode(EncodeOptions(tokenizer=(str(codec),), data=(sounds,), codebooks=codebooks, out=str(shards)))
    return shards


def train_form(shards: Path, form: str, layout: str, out: Path, steps: int, trial: str = "") -> TrainResult:
    """Train a form of the Transformer; a trial has a folder of its own beside ``out``."""
    return train_transformer(
        TrainTransformerOptions(
            shards=(str(shards),),
            template=(f"audio:{layout}",),
            out=f"{out}-{trial}" if trial else str(out),
            preset="tiny",
            model=TransformerOverrides(codebooks=form),
            steps=steps,
            batch_size=4,
            validation_fraction=FRACTION,
            validation_tokens=1 << 16 if steps > TRIAL[1] else 1 << 12,
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=min(50, max(1, steps // 4)), decay_fraction=0.5),
            validate_every=max(1, steps // 2),
        )
    )


def tokens_of(shards: Path, layout: str) -> int:
    """Return how many tokens an epoch predicts."""
    data = TokenData.open([str(shards)], f"audio:{layout}")
    chosen, _ = split_documents(data, FRACTION, 65536)
    return int((data.documents.tokens[chosen] - 1).sum())


def generation(model: Path) -> float:
    """Return the processor's seconds for a second of sound; decoding is not counted."""
    loaded = load_model(model)
    options, limit = SamplingOptions(batch_size=SOUNDS), loaded.model.config.context

    def drawn(length: int) -> list[list[int]]:
        laid = lay_out(loaded, [{}] * SOUNDS, options, length)
        begun = laid.beginnings
        return generate(
            loaded.model,
            [one.grammar for one in begun],
            [one.ids for one in begun],
            options,
            max_length=length,
            **laid.options(),
        )

    drawn(64)  # for what is laid out once
    sequences, seconds = timed(lambda: drawn(limit))
    steps = sum(len(loaded.template.parse_ids(ids, loaded.vocabulary)["audio"]) for ids in sequences)
    return seconds / (steps * loaded.tokenizers["audio"].spec.step[0] / RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="of training each")
    parser.add_argument("--codec-seconds", type=float, default=150.0, help="of training of the codec")
    parser.add_argument("--codebooks", type=int, default=4, help="of each step, the first ones")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--out", help="folder for the codec and its shards; a temporary one by default")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        shards = shards_of(Path(given.out or temporary), given.codec_seconds, given.codebooks)
        print(f"{given.codebooks} codebooks, {given.seconds:g} seconds of training each, 1 thread\n")
        print(
            "| codebooks | layout | bits a token | bits a second | parameters | steps | tokens a second | generation |"
        )
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for form, layout in (one.split("-") for one in given.forms):
            name = Path(temporary) / f"{form}-{layout}"
            train = partial(train_form, shards, form, layout, name)
            steps = steps_in(given.seconds, train)
            result, seconds = timed(partial(train, steps))
            rate = result.epochs * tokens_of(shards, layout) / seconds
            bits = result.metrics["audio/bits_per_dimension_quantised"] * RATE
            print(
                f"| {form} | {layout} | {result.metrics['bits_per_token']:.4f} | {bits:.0f} | {result.parameters:,} | "
                f"{result.steps} | {rate:,.0f} | {generation(name):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
