"""Scenes: what a user does with the command line, each told as plain values that `test_goldens.py` compares with goldens.json.

Only the command line and the two names of the README are used, `load_tokenizer` and `ShardSet`, so that this file survives
every move of a module. The scenes run in a folder that `build_world` fills, with relative paths, so that nothing that is pinned
knows where it was made. What depends on floating point is either left out or compared with a tolerance; where a model draws ids,
its weights are set by hand to whole numbers, so that every machine computes the same logits.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import tarfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tokenize_kit import load_tokenizer
from tokenize_kit.cli import main
from tokenize_kit.shards import ShardSet
from tokenize_kit.shards.decode import DECODE_FILE, FILES_FILE

ROOT = Path(__file__).resolve().parents[2]
BEFORE = ROOT / "tests" / "data" / "before"
"""Folders and files that an older tokenize-kit wrote; `write.py before` makes them."""
SPEECH = {"ten-of-clubs": (3000, 2801), "amiable": (20_000, 1601), "cold-hearted": (9000, 4000)}
"""Which part of each spoken sentence is used: first sample, number of samples."""
TIMES = ("seconds", "tokens_per_second", "bytes_per_second", "samples_per_second")
TINY_MODEL = "--model.layers 1 --model.width 16 --model.heads 2 --device cpu --precision 32-true"
TEMPLATES = {
    "text": ("before/shards", "text", "--context 32"),
    "image": ("before/shards", "image", ""),
    "caption": ("before/shards", "text -> image", ""),
    "both": ("before/shards", "image text", ""),
    "delay": ("before/codes", "audio:delay", ""),
    "coarse": ("before/codes", "audio:coarse-first", ""),
    "flat": ("before/codes", "text -> audio", ""),
    "spoken": ("before/codes", "text -> audio:delay", ""),
    "samples": ("before/sounds", "audio", "--context 64"),
}
"""Models whose ids are drawn: shard set, template, further options."""


# --- the stage


def run(line: str | list[str], *, as_json: bool = True) -> tuple[int, Any, str]:
    """Run a command line in this process; return its exit code, its result (read as JSON) and what it said on stderr."""
    words = line if isinstance(line, list) else split(line)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words, *(["--json"] if as_json else []), "--quiet"])
    text = out.getvalue()
    return code, json.loads(text) if as_json and code == 0 else text, err.getvalue()


def must(line: str | list[str]) -> Any:
    """Run a command line that works; return its result without times."""
    code, result, err = run(line)
    assert code == 0, f"{line}: {err}"
    return {name: value for name, value in result.items() if name not in TIMES}


def split(line: str) -> list[str]:
    """Return the words of a line in which single quotes hold words together."""
    parts = line.split("'")
    return [word for place, part in enumerate(parts) for word in ([part] if place % 2 else part.split())]


def digest(data: bytes) -> str:
    """Return the first 128 bits of sha256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:32]


def digests(folder: str | Path, *patterns: str) -> dict[str, str]:
    """Return the digest of every file of a folder that one of the patterns fits, by name."""
    files = sorted({path for pattern in patterns for path in Path(folder).rglob(pattern) if path.is_file()})
    return {str(path.relative_to(folder)): digest(without_sums(path)) for path in files}


def without_sums(path: Path) -> bytes:
    """Return the content of a file, without the entries in which a manifest or a configuration carries a digest of itself and the
    sums of the files beside it: these came after what is pinned, and nothing else did.
    """
    if path.name not in ("dataset.json", "tokenizer_config.json"):
        return path.read_bytes()
    values = without(json.loads(path.read_text(encoding="utf-8")), "own_digest", "sha256")
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def content(path: str | Path) -> str:
    """Return a digest of what a file says: pixels, samples or text, not how a library happened to pack them."""
    path = Path(path)
    if path.suffix == ".png":
        with Image.open(path) as picture:
            return f"{picture.mode} {picture.size} {digest(picture.tobytes())}"
    if path.suffix == ".wav":
        with wave.open(str(path)) as sound:
            frames = sound.readframes(sound.getnframes())
            return f"{sound.getframerate()} Hz, {sound.getnchannels()} x {sound.getnframes()}, {digest(frames)}"
    return digest(path.read_bytes())


def contents(folder: str | Path) -> dict[str, str]:
    """Return `content` of every file of a folder, but for those in which `decode` says what it does."""
    files = sorted(
        path for path in Path(folder).rglob("*") if path.is_file() and path.name not in (DECODE_FILE, FILES_FILE)
    )
    return {str(path.relative_to(folder)): content(path) for path in files}


def numbers_of(records: Any) -> str:
    """Return a digest of all that the records of a shard set hold."""
    found = [
        [
            record.key,
            {
                name: [str(grid.dtype), list(grid.shape), grid.reshape(-1).tolist()]
                for name, grid in record.grids.items()
            },
            dict(record.columns),
        ]
        for record in records
    ]
    return digest(json.dumps(found, sort_keys=True).encode())


def build_world(folder: Path) -> None:
    """Fill a folder with small inputs, the same bytes everywhere, and with what was written before."""
    shutil.copytree(BEFORE, folder / "before")
    build_inputs(folder)


def build_inputs(folder: Path) -> None:
    """Fill a folder with small inputs from the assets of the repository."""
    text = (ROOT / "assets" / "udhr.txt").read_text(encoding="utf-8")
    middle = text.index("\n\n", 400_000)
    text = text[:14_000] + text[middle : middle + 6_000]
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    rows = [
        {"text": line, "label": number, "kind": "odd" if number % 2 else "even"}
        for number, line in enumerate(line for line in text.splitlines() if line.strip())
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[5] = '{"text": oops}'
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "pictures").mkdir()
    with tarfile.open(ROOT / "assets" / "emoji.tar") as archive:
        shown = [member for member in archive.getmembers() if not member.name.endswith(".json")][:48]
        members = [(member.name, archive.extractfile(member).read()) for member in shown]
    write_tar(folder / "pictures.tar", members)
    for name, data in members[:16]:
        if name.endswith(".png"):
            (folder / "pictures" / name).write_bytes(data)
    (folder / "speech").mkdir()
    for name, (first, count) in SPEECH.items():
        samples, rate = soundfile.read(ROOT / "assets" / "speech" / f"{name}.flac", dtype="int16")
        write_wav(folder / "speech" / f"{name}.wav", samples[first : first + count], rate)
        (folder / "speech" / f"{name}.txt").write_text(name.replace("-", " "))
    write_tar(folder / "speech.tar", [(path.name, path.read_bytes()) for path in sorted((folder / "speech").iterdir())])
    write_wav(folder / "stereo.wav", np.stack([samples[:900], samples[900:1800]], 1), 16_000)
    grey = (np.arange(6 * 7) * 37 % 256).astype(np.uint8).reshape(6, 7)
    Image.fromarray(grey).save(folder / "grey.png")
    (folder / "empty").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text("{}")
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_bytes(b"not a picture")
    Image.new("RGB", (8, 8)).save(folder / "broken" / "b.png")
    (folder / "list.yaml").write_text("- a\n- b\n")


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """Write a tar without owners and times."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_wav(path: Path, samples: Any, rate: int) -> None:
    """Write int16 samples, (N,) or (N, C)."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.astype("<i2").tobytes())


# --- the scenes


def tokenizers() -> dict[str, Any]:
    """Train, create and import tokenizers: their fingerprints, results and files."""
    lines = {
        "text": "train bpe --data corpus.txt --vocab-size 400",
        "reference": "train bpe --data corpus.txt --vocab-size 400 --engine reference",
        "cl100k": "train bpe --data corpus.txt --vocab-size 350 --pattern cl100k --special-tokens <a> <b>",
        "imported": "import bpe --source text/tokenizer.json",
        "mulaw": "create mulaw --sample-rate 16000",
        "pcm": "create pcm --sample-rate 16000",
        "stereo": "create pcm --sample-rate 16000 --channels 2",
        "grey": "create pixels --channels 1",
        "pixels": "create pixels",
        "rgba": "create pixels --channels 4",
    }
    found: dict[str, Any] = {}
    for name, line in lines.items():
        found[name] = {"result": must(f"{line} --out {name}"), "files": digests(name, "*")}
        assert load_tokenizer(name).fingerprint == found[name]["result"]["fingerprint"], name
        facts = must(f"inspect {name}")
        config = Path(name, "tokenizer_config.json")
        facts["bytes"] -= config.stat().st_size - len(without_sums(config))
        found[name]["inspect"] = facts
    return found


SETS = {
    "paragraphs": "--tokenizer text --data corpus.txt --split paragraphs --shard-mb 0.006",
    "lines": "--tokenizer text --data corpus.txt --split lines --shard-mb 0.005 --max-document-mb 0.0001",
    "rows": "--tokenizer text --data rows.jsonl --columns label kind --shard-mb 0.008",
    "palette": "--tokenizer before/palette --data pictures.tar --shard-mb 0.01 --image-size 16",
    "pixels": "--tokenizer pixels --data pictures --shard-mb 0.004",
    "mulaw": "--tokenizer mulaw --data speech --shard-mb 0.004",
    "pcm": "--tokenizer pcm --data speech.tar --shard-mb 0.004",
    "captions": "--tokenizer text --tokenizer before/palette --tokenizer raw=pixels --data pictures.tar --shard-mb 0.02 "
    "--image-size 24 --no-crop",
    "spoken": "--tokenizer text --tokenizer mulaw --tokenizer exact=pcm --data speech.tar --shard-mb 0.008",
}
"""Shard sets of every tokenizer that computes with whole numbers, each of several shards."""
IN_PROCESSES = ("captions",)
"""Those that are also encoded by worker processes; the others by two parts, as two machines would."""


def shards() -> dict[str, Any]:
    """Encode: the digest of every shard and of dataset.json, the result, and that several workers give the same bytes."""
    found: dict[str, Any] = {}
    for name, line in SETS.items():
        result = must(f"encode {line} --out shards-{name}")
        files = digests(f"shards-{name}", "*.arrow", "dataset.json", "failures.jsonl")
        assert result["shards"] > 1, name
        if name in IN_PROCESSES:
            must(f"encode {line} --out workers-{name} --workers 2")
        else:
            for part in ("0/2", "1/2"):
                must(f"encode {line} --out workers-{name} --part {part}")
        assert digests(f"workers-{name}", "*.arrow", "dataset.json", "failures.jsonl") == files, name
        found[name] = {
            "result": result,
            "files": files,
            "inspect": must(f"inspect shards-{name} --rows 2"),
            "verify": must(f"verify shards-{name}"),
            "records": numbers_of(ShardSet.open(f"shards-{name}").records()),
        }
    # A dry run, a limit, and a run that is there already.
    found["dry run"] = without(must(f"encode {SETS['rows']} --out dry --dry-run"), "output_bytes")
    found["limit"] = must(f"encode {SETS['rows']} --out limited --limit 7")
    found["again"] = must(f"encode {SETS['rows']} --out shards-rows")
    for name, tokenizer in (
        ("captions", "before/palette"),
        ("captions", "raw=pixels"),
        ("rows", "text"),
        ("pcm", "pcm"),
    ):
        target = f"files-{name}-{Path(tokenizer).name}"
        found[f"decode {name} {tokenizer}"] = [
            must(f"decode --shards shards-{name} --tokenizer {tokenizer} --out {target} --limit 5"),
            contents(target),
        ]
    return found


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a dictionary without some of its entries."""
    return {name: value for name, value in values.items() if name not in names}


def containers() -> dict[str, Any]:
    """Compress and decompress: the digest of the .tkc files and what comes back."""
    found: dict[str, Any] = {}
    for source, tokenizer, suffix in (
        ("corpus.txt", "text", ".txt"),
        ("pictures/1st-place-medal.png", "pixels", ".png"),
        ("pictures/1st-place-medal.png", "rgba", ".png"),
        ("grey.png", "grey", ".png"),
        ("pictures/1st-place-medal.png", "before/palette", ".png"),
        ("speech/amiable.wav", "mulaw", ".wav"),
        ("speech/amiable.wav", "pcm", ".wav"),
        ("stereo.wav", "stereo", ".wav"),
    ):
        name = Path(tokenizer).name
        result = must(f"compress {source} {name}.tkc --tokenizer {tokenizer}")
        back = must(f"decompress {name}.tkc {name}{suffix} --tokenizer {tokenizer}")
        found[name] = {
            "result": result,
            "tkc": digest(Path(f"{name}.tkc").read_bytes()),
            "inspect": must(f"inspect {name}.tkc"),
            "back": [back, content(f"{name}{suffix}")],
        }
    return found


ERRORS = {
    "missing data": "train bpe --data nowhere.txt --out x",
    "empty folder": "encode --tokenizer text --data empty --out x",
    "vocabulary too small": "train bpe --data corpus.txt --vocab-size 100 --out x",
    "unknown pattern": "train bpe --data corpus.txt --pattern '(' --out x",
    "no colours": "train palette --data pictures --colors 0 --out x",
    "missing tokenizer": "encode --tokenizer nowhere --data corpus.txt --out x",
    "foreign folder": "encode --tokenizer foreign --data corpus.txt --out x",
    "wrong field": "encode --tokenizer text --data rows.jsonl --field txet --out x",
    "wrong column": "encode --tokenizer text --data rows.jsonl --columns lable --out x",
    "unreadable picture": "encode --tokenizer pixels --data broken --max-failures 0 --out x1",
    "bad json line": "encode --tokenizer text --data rows.jsonl --max-failures 0 --out x2",
    "wrong kind of data": "encode --tokenizer pixels --data corpus.txt --out x",
    "sound for a text": "encode --tokenizer text --data stereo.wav --out x",
    "two streams of one name": "encode --tokenizer mulaw --tokenizer pcm --data speech --out x",
    "name of a stream": "encode --tokenizer 9=text --data corpus.txt --out x",
    "codebooks of text": "encode --tokenizer text --data corpus.txt --codebooks 2 --out x",
    "too many codebooks": "encode --tokenizer before/codec --data speech --codebooks 9 --out x",
    "part": "encode --tokenizer text --data corpus.txt --part 4/4 --out x",
    "limit of a part": "encode --tokenizer text --data corpus.txt --part 0/4 --limit 3 --out x",
    "url to write": "encode --tokenizer text --data corpus.txt --out s3://bucket/x",
    "no worker": "encode --tokenizer text --data corpus.txt --workers 0 --out x",
    "shards too small": "encode --tokenizer text --data corpus.txt --shard-mb 0 --out x",
    "folder of another run": "encode --tokenizer text --data corpus.txt --split lines --out shards-paragraphs",
    "decode with another tokenizer": "decode --shards shards-rows --tokenizer cl100k --out x",
    "decode into a folder with files": "decode --shards shards-rows --tokenizer text --out pictures",
    "decode no stream": "decode --shards shards-rows --tokenizer pixels --out x",
    "verify with another tokenizer": "verify shards-rows --tokenizer cl100k",
    "verify nothing": "verify empty",
    "tokenizer of another folder": "create pixels --channels 4 --out pixels",
    "sample rate": "create mulaw --sample-rate 0 --out x",
    "no shards": "train transformer --shards empty --template text --out x",
    "misspelt stream": "train transformer --shards before/shards --template txt --out x",
    "two arrows": "train transformer --shards before/shards --template 'text -> image -> text' --out x",
    "layout of a text": "train transformer --shards before/shards --template text:delay --out x",
    "unknown layout": "train transformer --shards before/codes --template audio:zigzag --out x",
    "context too short": "train transformer --shards before/shards --template 'text -> image' --context 9 --preset tiny --out x",
    "no steps": "train transformer --shards before/shards --template text --steps 0 --out x",
    "heads": "train transformer --shards before/shards --template text --model.width 30 --model.heads 4 --out x",
    "no model": "generate --model empty --out x",
    "no condition": "generate --model before/model --out x",
    "two prompts": "generate --model before/model --prompt a --prompt-file corpus.txt --out x",
    "temperature": "generate --model before/model --prompt a --temperature -1 --out x",
    "max length": "generate --model before/model --prompt a --max-length 5 --out x",
    "everything is given": "generate --model before/model --prompt-file corpus.txt grey.png --out x",
    "image size and factor": "train image --data pictures --image-size 15 --steps 1 --out x",
    "pictures of no kind": "train image --data corpus.txt --out x",
    "option of another quantizer": "train image --data pictures --preset fsq --quantizer.codebook-size 64 --out x",
    "levels": "train image --data pictures --preset fsq --quantizer.levels 1 5 --out x",
    "validation fraction": "train audio --data speech --validation-fraction 1 --out x",
    "option of another body": "train audio --data speech --network.strides 2 4 --out x",
    "crop of no length": "train audio --data speech --crop-seconds 0 --out x",
    "compress another kind": "compress corpus.txt x.tkc --tokenizer pixels",
    "compress into no tkc": "compress corpus.txt x.bin --tokenizer text",
    "compress nothing": "compress nowhere.txt x.tkc --tokenizer text",
    "decompress with another": "decompress before/text.tkc x.txt --tokenizer text",
    "decompress no tkc": "decompress corpus.txt x.txt --tokenizer text",
    "decompress into another kind": "decompress before/text.tkc x.png --tokenizer before/bpe",
    "inspect a foreign folder": "inspect foreign",
    "inspect nothing": "inspect no/such/place",
    "inspect of no kind": "inspect list.yaml",
    "evaluate the wrong kind": "evaluate --tokenizer pixels --data corpus.txt",
    "evaluate nothing": "evaluate --tokenizer text --data nowhere.txt",
    "misspelt command": "inspct x",
    "misspelt trainer": "train bep --data x",
    "misspelt option": "import bpe --sorce x --out y",
    "option of a part": "train transformer --layers 3",
    "no config": "encode --config no.yaml",
    "config of a list": "encode --config list.yaml",
    "import nothing": "import bpe --source no.tiktoken --out y",
    "import of no kind": "import bpe --source rows.jsonl --out y",
}
"""Command lines with bad input."""
USAGE = {
    "no number": "encode --tokenizer text --data corpus.txt --out x --limit two",
    "missing option": "import bpe --out y",
    "channels": "create pixels --channels 2 --out x",
    "no choice": "train image --data pictures --preset vqqan --out x",
    "nothing after train": "train",
}
"""Command lines whose message is laid out by the parser: only the exit code is pinned."""


def errors() -> dict[str, Any]:
    """Give bad input: the exit code and the line on stderr."""
    found: dict[str, Any] = {}
    for name, line in ERRORS.items():
        code, out, err = run(line, as_json=False)
        assert out == "", name
        # Which endings there are may grow; the lists of each kind are tested with it.
        found[name] = [code, re.sub(r"\(extensions: [^)]+\)", "(extensions: ...)", err)]
    for name, line in USAGE.items():
        found[name] = [run(line, as_json=False)[0], ""]
    return found


def options() -> dict[str, list[str]]:
    """Return the options of every command, as its help lists them."""
    _, overview, _ = run(["--help"], as_json=False)
    commands = re.findall(r"^  ((?:train|create|import) \w+|[a-z]+)  ", overview, re.MULTILINE)
    found = {}
    for words in commands:
        _, text, _ = run([*words.split(), "--help"], as_json=False)
        found[words] = sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", text.partition("examples:")[0])))
    return found


def measures() -> dict[str, Any]:
    """Evaluate lossless tokenizers: every number that is no time, rounded."""
    found = {}
    for name, line in {
        "text": "--tokenizer text --data corpus.txt --split paragraphs",
        "palette": "--tokenizer before/palette --data pictures --image-size 16",
        "mulaw": "--tokenizer mulaw --data speech",
    }.items():
        code, result, err = run(f"evaluate {line} --out evaluation-{name}")
        assert code == 0, err
        found[name] = rounded(result)
    return found


_OF_THIS_MACHINE = re.compile(
    "seconds$|speed|mega.*_per_second|^tokens_per_second|milliseconds|times_real_time|protocol|pesq|stoi"
)
"""Times, and what depends on the packages that are installed."""


def rounded(values: Any) -> Any:
    """Return numbers with 4 significant digits, without what is of this machine."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items() if not _OF_THIS_MACHINE.search(name)}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return float(f"{values:.4g}") if isinstance(values, float) else values


def generation() -> dict[str, Any]:
    """Draw ids under the grammar of every template from models whose weights are whole numbers."""
    found: dict[str, Any] = {}
    for name, (data, template, more) in TEMPLATES.items():
        model = f"model-{name}"
        line = f"train transformer --shards {data} --out {model} --steps 1 --batch-size 2 --validation-fraction 0"
        must([*split(f"{line} {TINY_MODEL} {more}"), "--template", template])
        config = without(json.loads(Path(model, "model_config.json").read_text()), "own_digest")
        prompt = ["--prompt", "ten of clubs"] if template.startswith("text ->") else []
        drawn = {}
        for weights in ("nothing", "bigrams"):
            set_weights(Path(model, "model.safetensors"), weights == "bigrams")
            out = f"{model}-{weights}"
            must([*split(f"generate --model {model} --out {out} --count 3 --seed 5 --temperature 1.5"), *prompt])
            drawn[weights] = ids_of(out)
        found[name] = {"config": config, **drawn}
    must("generate --model model-text --out continued --count 2 --seed 6 --prompt Everyone")
    found["continued text"] = ids_of("continued")
    must("generate --model model-delay --out continued-sound --count 2 --seed 6 --prompt-file speech/amiable.wav")
    found["continued sound has the length of the ids"] = [len(ids) for ids in ids_of("continued-sound")]
    return found


def ids_of(folder: str) -> list[list[int]]:
    """Return the ids of each sample of `generate`."""
    return [json.loads(line)["ids"] for line in Path(folder, "samples.jsonl").read_text().splitlines()]


def set_weights(path: Path, bigrams: bool) -> None:
    """Set all weights to 0, so that every id that the grammar allows is as likely as another; or make a model of pairs.

    Of pairs: the embeddings are 1 and -1, so that the last norm changes nothing, the blocks add nothing, and the logits are sums
    of the 0, 1 and -1 of the head.
    """
    with safe_open(path, "pt") as file:
        # Without the sum of the weights that are replaced, as in a file from before there were sums.
        metadata = without(file.metadata(), "sha256")
    tensors = {name: torch.zeros_like(value) for name, value in load_file(path).items()}
    if bigrams:
        for name, factor, values in (
            ("embedding.weight", 7919, (-1, 1)),
            ("unembedding.weight", 104_729, (-1, 0, 0, 1)),
        ):
            places = torch.arange(tensors[name].numel()) * factor + 12_345
            mixed = (places * 1_103_515_245 % 2**31) // 65_536 % len(values)
            tensors[name] = torch.tensor(values, dtype=torch.float32)[mixed].reshape(tensors[name].shape)
        tensors["norm.weight"] = torch.ones_like(tensors["norm.weight"])
    save_file(tensors, path, metadata)


def opened() -> dict[str, Any]:
    """Open what was written before: look at it, verify it, decode it, draw from it."""
    found: dict[str, Any] = {}
    for name in ("bpe", "palette", "pixels", "mulaw", "pcm", "image", "codec", "model", "shards", "codes", "sounds"):
        found[f"inspect {name}"] = must(f"inspect before/{name}")
    for name, words in {
        "shards": "--tokenizer before/bpe before/palette",
        "codes": "--tokenizer before/bpe before/codec",
        "sounds": "--tokenizer before/mulaw",
    }.items():
        found[f"verify {name}"] = must(f"verify before/{name} {words}")
        found[f"records of {name}"] = numbers_of(ShardSet.open(f"before/{name}").records())
    for name, tokenizer in (("shards", "bpe"), ("shards", "palette"), ("codes", "bpe"), ("sounds", "mulaw")):
        must(f"decode --shards before/{name} --tokenizer before/{tokenizer} --out files-before-{name}-{tokenizer}")
        found[f"files of {name} by {tokenizer}"] = contents(f"files-before-{name}-{tokenizer}")
    for name, tokenizer, suffix in (
        ("text", "bpe", ".txt"),
        ("palette", "palette", ".png"),
        ("pixels", "pixels", ".png"),
        ("mulaw", "mulaw", ".wav"),
        ("pcm", "pcm", ".wav"),
    ):
        must(f"decompress before/{name}.tkc before-{name}{suffix} --tokenizer before/{tokenizer}")
        found[f"decompress {name}"] = content(f"before-{name}{suffix}")
    must("generate --model before/model --prompt 'ten of clubs' --count 2 --seed 3 --out before-samples")
    found["generate"] = ids_of("before-samples")
    code, out, err = run(f"{MODEL_COMMAND.replace('--out ', '--out before/')}", as_json=False)
    found["the run goes on"] = [code, without_time(out), err]
    return found


MODEL_COMMAND = (
    "train transformer --shards before/shards --template 'text -> image' --out model --steps 2 --batch-size 4 "
    f"--validation-fraction 0 {TINY_MODEL}"
)
"""How the model folder of before was made."""


def without_time(text: str) -> str:
    """Return printed lines without those that tell a time."""
    return "\n".join(line for line in text.splitlines() if "second" not in line)


def learned() -> dict[str, list[int] | list[list[float]]]:
    """Encode and decode with the learned tokenizers of before: ids, pixels and samples, to be compared with a tolerance."""
    with Image.open("pictures/1st-place-medal.png") as file:
        canvas = Image.new("RGBA", file.size, "white")
        canvas.alpha_composite(file.convert("RGBA"))
    picture = torch.from_numpy(np.array(canvas.convert("RGB"))).permute(2, 0, 1)[:, :26, :22].contiguous()
    image = load_tokenizer("before/image")
    sound = torch.from_numpy(soundfile.read("speech/amiable.wav", dtype="float32")[0])[None, :700]
    codec = load_tokenizer("before/codec")
    places = torch.arange(6 * 5).reshape(6, 5) % image.spec.vocab_size
    steps = torch.arange(14 * 3).reshape(14, 3) % codec.spec.codebook_sizes[0]
    must("decompress before/codec.tkc before-codec.wav --tokenizer before/codec")
    return {
        "image ids": image.encode(picture).reshape(-1).tolist(),
        "image pixels": image.decode(places).reshape(-1).tolist(),
        "codec ids": codec.encode(sound).reshape(-1).tolist(),
        "codec samples": (codec.decode(steps)[0] * 32_768).round().long().tolist(),
        "codec samples of a file": soundfile.read("before-codec.wav", dtype="int16")[0].tolist(),
    }


SCENES = {
    "tokenizers": tokenizers,
    "shards": shards,
    "containers": containers,
    "errors": errors,
    "options": options,
    "measures": measures,
    "generation": generation,
    "opened": opened,
    "learned": learned,
}
"""The scenes in the order in which they are played: later ones use what earlier ones made."""
