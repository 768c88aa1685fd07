"""Whatever is drawn decodes: samples of models with random weights, over templates of all kinds, each parsed and decoded.

    python benchmarks/random_weights.py [--samples 10000] [--batch-size 200]

The emoji and animated emoji of `assets` become shards of captions, pictures of 8x8 pixels with a small view, and films. Every
training sequence goes through the grammar first. For each template a Transformer of one layer, whose weights are drawn and not
trained, draws its part of the samples; the grammar alone makes them whole. Counted are sequences that the grammar refuses and
samples that do not decode: there must be none.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tokenize_kit.cli import main as command
from tokenize_kit.protocol import load_tokenizer
from tokenize_kit.sequences.template import SequenceTemplate
from trainers.autoregressive.data import TokenData
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.models import build_model
from trainers.autoregressive.sample import draw
from trainers.autoregressive.sampling_options import SamplingOptions

ASSETS = Path(__file__).resolve().parent.parent / "assets"
STILL = (
    "text",
    "image",
    "text -> image",
    "image -> text",
    "text image",
    "image@small -> image",
    "image:spiral",
    "text -> image:hilbert",
    "image:random",
    "text? image",
    "text? -> image:coarse",
    "image image -> image image",
    "text image:column -> text image",
)
MOVING = ("video", "text -> video", "video:serpentine")


COMMANDS = """
train bpe --data {assets}/udhr.txt --vocab-size 400 --out text
train palette --data {assets}/emoji.tar --colors 16 --image-size 8 --out palette
train video --data {assets}/animated-emoji.tar --image-size 16 --clip-frames 5 --steps 1 --batch-size 2 --network.width 16
    --network.encoder-blocks 1 --network.decoder-blocks 1 --out video
encode --tokenizer text=text --tokenizer image=palette --data {assets}/emoji.tar --image-size 8 --view small=resize:4 --limit 400
    --out still
encode --tokenizer text=text --tokenizer video=video --data {assets}/animated-emoji.tar --image-size 16 --clip-frames 5
    --out moving
"""
"""What makes tokenizers and shards."""


def build(folder: Path) -> None:
    """Run the commands in a folder."""
    with contextlib.chdir(folder):
        for line in COMMANDS.strip().replace("\n    ", " ").format(assets=ASSETS).splitlines():
            if command([*line.split(), "--quiet"]):
                sys.exit(f"{line} failed")


def loaded_model(data: TokenData, folder: Path, seed: int) -> LoadedModel:
    """Return a model with random weights for the data."""
    vocabulary, template = data.documents.vocabulary, data.documents.template
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "vocab_size": vocabulary.size,
        "context": int(data.documents.tokens.max()) + 8,
        "layers": 1,
    }
    config |= {"width": 32, "heads": 2, "told_next": data.documents.has_drawn_orders}
    model = build_model("transformer", config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    sources = {"text": "text", "image": "palette", "image@small": "palette", "video": "video"}
    tokenizers = {name: load_tokenizer(folder / sources[name]) for name in template.streams}
    return LoadedModel(model.eval(), template, vocabulary, tokenizers, 0, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=200)
    options = parser.parse_args()
    each = -(-options.samples // (len(STILL) + len(MOVING)))
    total = refused = broken = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder)
        print("\n| template | training sequences | refused | drawn | not decoded | tokens | seconds |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for number, text in enumerate((*STILL, *MOVING)):
            shards = folder / ("still" if text in STILL else "moving")
            data = TokenData.open((str(shards),), text, dropped=text.startswith("text? ->"))
            documents, vocabulary, template = data.documents, data.documents.vocabulary, data.documents.template
            samples = [documents.grids(index) for index in range(len(documents))]
            bad = sum(not accepted(template, grids, vocabulary, index) for index, grids in enumerate(samples))
            loaded = loaded_model(data, folder, number)
            prompts = [
                {name: grid for name, grid in samples[index % len(samples)].items() if name in template.condition}
                for index in range(each)
            ]
            began = time.perf_counter()
            drawn = draw(loaded, prompts, SamplingOptions(seed=number, batch_size=options.batch_size))
            seconds = time.perf_counter() - began
            there = {name for name in template.target if not name.startswith("text")}
            failed = sum(not there <= set(one.samples) for one in drawn)
            print(
                f"| `{text}` | {len(documents)} | {bad} | {len(drawn)} | {failed} | {sum(len(one.ids) for one in drawn):,} "
                f"| {seconds:.1f} |",
                flush=True,
            )
            total, refused, broken = total + len(drawn), refused + bad, broken + failed
    print(f"\n{total:,} samples, {broken} not decoded; {refused} training sequences refused")
    if broken or refused:
        sys.exit(1)


def accepted(template: SequenceTemplate, grids: Any, vocabulary: Any, seed: int) -> bool:
    """Return whether the grammar accepts the document of a sample and gives its grids back."""
    document = template.document(grids, vocabulary, seed)
    grammar = template.grammar(vocabulary, seed=seed)
    state = grammar.start()
    for token in document.ids.tolist():
        if not any(low <= token < high for low, high in grammar.allowed(state)):
            return False
        state = grammar.advance(state, token)
    back = template.parse_ids(document.ids, vocabulary, seed)
    return grammar.done(state) and all((back[name] == grids[name]).all() for name in back)


if __name__ == "__main__":
    main()
