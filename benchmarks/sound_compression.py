"""Lossless coding of speech by sequence models beside FLAC: 8-bit mu-law samples, and 16-bit ones with the mixture head.

    python benchmarks/sound_compression.py [--minutes 4] [--seconds 20] [--only NAME...] [--out FOLDER] [--threads N]

568 spoken prompts of one voice at 16 kHz; those that are held out, by the hashes of their names, are heard by no model. Each
model is trained for ``--minutes``, which a short trial turns into steps. Bits a sample are those of `tokenize-kit score` on the
first held-out prompts, ``--seconds`` of them, each in pieces of the model's context; ``file`` is what the same samples take when
they are coded in one stream, as `compress --model` does it, with header and checksums, and came back. FLAC, at its highest
level, gets the same numbers as one file: 8-bit samples for mu-law, 16-bit ones for pcm. The prompts were distributed as G.722,
which has thrown away what FLAC would have to store of a recording. Run it alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from fetch import fetch
from numpy.typing import NDArray
from shared_model import run

from tokenize_kit.files import write_text
from tokenize_kit.shards import ShardSet
from trainers.autoregressive.coding.grids import GridCoder
from trainers.autoregressive.comparing.timing import steps_that_fit
from trainers.autoregressive.model_folder import load_model
from trainers.autoregressive.options import TrainSequenceOptions
from trainers.autoregressive.train import train_sequence
from trainers.config import OptimizerConfig

RATE = 16_000
CONTEXT = 2048
HELD_OUT = 10
"""One prompt in so many."""
LEVEL = 1.0
"""Of FLAC, the highest."""


@dataclass(frozen=True)
class Member:
    """A model, and the samples that it learns."""

    tokenizer: str
    family: str
    settings: tuple[str, ...]
    batch_size: int = 4
    learning_rate: float = 2e-3


_WAVENET = ("layers=20", "width=64", "skip_width=128")
_TRANSFORMER = ("layers=4", "width=128", "heads=4", "window=256")
_ORDINAL = ("head=logistics",)
MEMBERS = {
    "wavenet, softmax": Member("mulaw", "wavenet", _WAVENET),
    "wavenet, mixture": Member("mulaw", "wavenet", (*_WAVENET, *_ORDINAL)),
    "transformer, softmax": Member("mulaw", "transformer", _TRANSFORMER),
    "transformer, mixture": Member("mulaw", "transformer", (*_TRANSFORMER, *_ORDINAL)),
    "wavenet, pcm": Member("pcm", "wavenet", (*_WAVENET, *_ORDINAL)),
    "transformer, pcm": Member("pcm", "transformer", (*_TRANSFORMER, *_ORDINAL)),
}


def prepare(root: Path) -> None:
    """Make both shard sets and the list of what is held out."""
    data = fetch("speech")
    for name in ("mulaw", "pcm"):
        if not (root / name).is_dir():
            run(f"create {name} --sample-rate {RATE} --out {root / name}")
        run(f"encode --tokenizer {root / name} --data {data} --out {root / 'shards' / name}")
    keys = [record.key for record in ShardSet.open(str(root / "shards" / "pcm")).records()]
    apart = [key for key in keys if int(hashlib.sha256(key.encode()).hexdigest(), 16) % HELD_OUT == 0]
    write_text(root / "keys.txt", "\n".join(apart) + "\n")


def heard(root: Path, tokenizer: str, seconds: float) -> list[NDArray[np.int64]]:
    """Return the first held-out prompts, ``seconds`` of them."""
    apart, found, left = set((root / "keys.txt").read_text().split("\n")), [], round(seconds * RATE)
    for record in ShardSet.open(str(root / "shards" / tokenizer)).records():
        if record.key in apart and left > 0:
            found.append(record.grids["audio"].astype(np.int64).reshape(-1))
            left -= len(found[-1])
    return found


def train(name: str, root: Path, minutes: float) -> Path:
    """Train a member, or find it trained; return its folder."""
    member, out = MEMBERS[name], root / "models" / f"{name.replace(', ', '-')}-{minutes:g}"
    plan = out.with_suffix(".steps.txt")

    def options(steps: int) -> TrainSequenceOptions:
        return TrainSequenceOptions(
            family=member.family,
            set=member.settings,
            shards=(str(root / "shards" / member.tokenizer),),
            template=("audio",),
            out=str(out),
            context=CONTEXT,
            batch_size=member.batch_size,
            steps=steps,
            optimizer=OptimizerConfig(
                optimizer="muon", learning_rate=member.learning_rate, warmup_steps=50, decay_fraction=0.5
            ),
            validation_keys=str(root / "keys.txt"),
            validation_tokens=32 * CONTEXT,
            validate_every=steps,
            checkpoint_every=max(1, steps // 4),
        )

    if not plan.is_file():
        plan.parent.mkdir(parents=True, exist_ok=True)
        write_text(plan, str(steps_that_fit(options(20), 60 * minutes)[0]))
    made = train_sequence(options(int(plan.read_text())))
    write_text(out.with_suffix(".parameters.txt"), str(made.parameters))
    return out


def measured(name: str, root: Path, minutes: float, seconds: float) -> dict[str, Any]:
    """Return the row of a member."""
    member, file = MEMBERS[name], root / "models" / f"{name.replace(', ', '-')}-{minutes:g}-{seconds:g}.json"
    if file.is_file():
        row: dict[str, Any] = json.loads(file.read_text())
        return row
    model = train(name, root, minutes)
    sounds = heard(root, member.tokenizer, seconds)
    scored = run(
        f"score --model {model} --shards {root / 'shards' / member.tokenizer} --part held-out "
        f"--validation-keys {root / 'keys.txt'} --limit {len(sounds)} --out {model}-scores --overwrite"
    )
    coder, samples = GridCoder(load_model(model)), np.concatenate(sounds)
    begin = time.perf_counter()
    section = coder.encode(samples)
    middle = time.perf_counter()
    assert np.array_equal(coder.decode(section, samples.shape), samples), "the round trip"
    end = time.perf_counter()
    row = {
        "bits": scored["bits_per_token"],
        "file": 8 * len(section.to_bytes()) / len(samples),
        "parameters": int(model.with_suffix(".parameters.txt").read_text()),
        "rate": len(samples) / (middle - begin),
        "rate_back": len(samples) / (end - middle),
    }
    write_text(file, json.dumps(row))
    return row


def flac(sounds: list[NDArray[np.int64]], tokenizer: str) -> float:
    """Return the bits a sample of FLAC, all prompts in one file."""
    target = io.BytesIO()
    subtype, dtype, middle = ("PCM_S8", np.int16, 128) if tokenizer == "mulaw" else ("PCM_16", np.int16, 32_768)
    samples = np.concatenate(sounds) - middle
    # 8-bit samples are handed over in the upper half of 16 bits.
    samples = (samples * (256 if subtype == "PCM_S8" else 1)).astype(dtype)
    soundfile.write(target, samples, RATE, format="FLAC", subtype=subtype, compression_level=LEVEL)
    back, _ = soundfile.read(io.BytesIO(target.getvalue()), dtype="int16")
    assert np.array_equal(back, samples), "the round trip of FLAC"
    return 8 * len(target.getvalue()) / len(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="of the training of each model")
    parser.add_argument("--seconds", type=float, default=20.0, help="of held-out speech that is scored and coded")
    parser.add_argument("--only", nargs="+", choices=list(MEMBERS), default=list(MEMBERS))
    parser.add_argument("--out", type=Path, help="folder for everything; a temporary one by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        root = given.out or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        prepare(root)
        for tokenizer, title in (("mulaw", "8-bit mu-law"), ("pcm", "16-bit pcm")):
            names = [name for name in given.only if MEMBERS[name].tokenizer == tokenizer]
            if not names:
                continue
            sounds = heard(root, tokenizer, given.seconds)
            count = sum(map(len, sounds))
            print(f"\n{title}, {len(sounds)} held-out prompts, {count / RATE:.1f} s; round trips verified\n")
            print(
                "| | bits a sample | file | parameters | samples/s coded | back |\n| --- | --- | --- | --- | --- | --- |"
            )
            print(f"| FLAC | | {flac(sounds, tokenizer):.3f} | | | |", flush=True)
            for name in names:
                row = measured(name, root, given.minutes, given.seconds)
                print(
                    f"| {name} | {row['bits']:.3f} | {row['file']:.3f} | {row['parameters']:,} | {row['rate']:,.0f} "
                    f"| {row['rate_back']:,.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
