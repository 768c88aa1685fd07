"""Write goldens.json again, or with ``before`` the folders of tests/data/before and then goldens.json.

    python tests/goldens/write.py            # what is pinned, told by the present code
    python tests/goldens/write.py before     # and first the folders that an older tokenize-kit wrote

The first may be run only when a change of what users see is meant and told in CHANGELOG.md, and the difference of goldens.json
shows nothing else; also for a scene that is new. The second only when the format of a folder gets a new version: what stands
there proves that folders of the old one still open, so the old ones stay, and new ones go beside them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from scenes import BEFORE, MODEL_COMMAND, SCENES, SETS, build_inputs, build_world, digests, must

HERE = Path(__file__).resolve().parent


def write_before() -> None:
    """Write tests/data/before with the present code."""
    tokenizers = {
        "bpe": "train bpe --data corpus.txt --vocab-size 300",
        "palette": "train palette --data pictures.tar --colors 8 --image-size 16",
        "pixels": "create pixels",
        "mulaw": "create mulaw --sample-rate 16000",
        "pcm": "create pcm --sample-rate 16000",
        "image": "train image --data pictures.tar --image-size 16 --preset fsq --steps 4 --batch-size 8 --network.width 4 "
        "--network.multipliers 1 2 --network.encoder-blocks 0 1 --network.decoder-blocks 1 1 --network.latent-channels 4 "
        "--quantizer.levels 4 3 3 --device cpu --precision 32-true --validation-fraction 0.2",
        "codec": "train audio --data speech --preset encodec --steps 4 --batch-size 4 --crop-seconds 0.1 --network.width 6 "
        "--network.window 160 --network.frame-hop 40 --network.encoder-blocks 1 1 --network.decoder-blocks 1 1 "
        "--network.latent-channels 6 --quantizer.codebooks 3 --quantizer.codebook-size 16 --quantizer.codebook-dim 4 "
        "--device cpu --precision 32-true --validation-fraction 0.4 --validation-seconds 0.2",
    }
    needed = {
        "image": ("model.safetensors", "tokenizer_config.json"),
        "codec": ("model.safetensors", "tokenizer_config.json"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        build_inputs(Path(temporary))
        for name, line in tokenizers.items():
            must(f"{line} --out runs/{name}")
            for path in Path("runs", name).iterdir():
                if path.name in needed.get(name, (path.name,)):
                    Path("before", name).mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, Path("before", name))
        image, sound = "--data pictures.tar", "--data speech.tar"
        pair = "--tokenizer before/bpe --tokenizer"
        must(f"encode {pair} before/palette {image} --image-size 6 --shard-mb 0.02 --out before/shards")
        must(f"encode {pair} before/codec {sound} --codebooks 2 --out before/codes")
        must(f"encode --tokenizer before/mulaw {sound} --limit 2 --out before/sounds")
        for name, tokenizer, source in (
            ("text", "bpe", "speech/amiable.txt"),
            ("palette", "palette", "pictures/1st-place-medal.png"),
            ("pixels", "pixels", "grey.png"),
            ("mulaw", "mulaw", "speech/amiable.wav"),
            ("pcm", "pcm", "speech/amiable.wav"),
            ("codec", "codec", "speech/amiable.wav"),
        ):
            must(f"compress {source} before/{name}.tkc --tokenizer before/{tokenizer}")
        must(MODEL_COMMAND.replace("--out ", "--out before/"))
        shutil.rmtree("before/model/tensorboard")
        shutil.rmtree(BEFORE, ignore_errors=True)
        shutil.copytree("before", BEFORE)


def write_goldens() -> None:
    """Write goldens.json with the present code; every shard set is encoded by several processes too."""
    with tempfile.TemporaryDirectory() as temporary:
        build_world(Path(temporary))
        os.chdir(temporary)
        told = {name: scene() for name, scene in SCENES.items()}
        for name, line in SETS.items():
            must(f"encode {line} --out processes-{name} --workers 3")
            kinds = ("*.arrow", "dataset.json", "failures.jsonl")
            assert digests(f"processes-{name}", *kinds) == digests(f"shards-{name}", *kinds), name
        os.chdir(HERE)
    text = (
        "{\n" + ",\n".join(f"{json.dumps(scene)}: {{\n{lines(values)}\n}}" for scene, values in told.items()) + "\n}\n"
    )
    (HERE / "goldens.json").write_text(text, encoding="utf-8")


def lines(values: dict[str, object]) -> str:
    """Return each entry as a line of JSON."""
    return ",\n".join(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["before"]:
        write_before()
    write_goldens()
