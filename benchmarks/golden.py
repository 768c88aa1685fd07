"""Do two revisions compute the same, to the bit? One command, one thread, a table of what is equal and exit code 1 if not.

    python benchmarks/golden.py BASE [HEAD] [--only WORD]

Both revisions (HEAD is the checked-out one by default) run the same command lines on the same small inputs, one after the other
on this machine, each in one process: they train every kind of learned tokenizer, fit palette and BPE, encode, compress, decode,
evaluate, train Transformers on the shards and draw from them. Compared are the losses that the run wrote into its log, the names
and bits of all weights, the bytes of shards and of ``.tkc`` files, pixels and samples, and the ids that were drawn. Only command
lines and files are used, so that modules may move between the revisions. It takes about two minutes of one idle core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from revisions import ROOT, Revision, checked_out

LOOP = "--steps 10 --log-every 1 --validate-every 5 --device cpu --precision 32-true --seed 3"
IMAGE = (
    f"train image --data pictures.tar --image-size 16 --batch-size 8 {LOOP} --validation-pictures 16 --network.width 8 "
    "--network.latent-channels 8"
)
IMAGES = {
    "fsq": "--preset fsq --flip --crop random --max-scale 1.5",
    "vq": "--preset vqvae --quantizer.codebook-size 64 --ema 0.9",
    "lfq": "--preset lfq --quantizer.codebook-size 256",
    "vqgan": "--preset vqgan --quantizer.codebook-size 64 --quantizer.codebook-dim 4 --loss.discriminator-start 0.2",
    "adaptive": "--preset fsq --loss.discriminator non-saturating --loss.discriminator-start 0 --loss.adaptive-weight True "
    "--network.attention True --network.norm group",
    "gumbel": "--preset dvae --quantizer.codebook-size 64 --optimizer.optimizer adamw",
    "rvq": "--preset vqvae --quantizer.kind rvq --quantizer.codebooks 3 --quantizer.codebook-size 32",
    "simvq": "--preset vqvae --quantizer.kind simvq --quantizer.codebook-size 64 --accumulate 2",
    "bsq": "--preset lfq --quantizer.kind bsq --quantizer.codebook-size 256",
}
AUDIO = (
    f"train audio --data speech --batch-size 4 --crop-seconds 0.2 {LOOP} --validation-fraction 0.43 --validation-seconds 0.5 "
    "--validation-sounds 1"
)
FRAMES = "--network.width 24 --network.latent-channels 16 --quantizer.codebooks 4 --quantizer.codebook-size 64"
STRIDED = (
    "--size base --sample-rate 16000 --network.width 4 --network.strides 4 5 --network.latent-channels 16 "
    "--quantizer.codebooks 3 --quantizer.codebook-size 32 --loss.discriminator-width 2 --loss.discriminator-network tiny"
)
AUDIOS = {
    "dac": f"--preset dac {FRAMES}",
    "encodec": f"--preset encodec {FRAMES} --loss.quantizer-start 0.3",
    "dac-base": f"--preset dac {STRIDED} --network.decoder-width 6",
    "encodec-base": f"--preset encodec {STRIDED}",
    "soundstream-base": f"--preset soundstream {STRIDED} --optimizer.warmup-steps 2",
    "stereo": f"--preset soundstream {FRAMES} --channels 2 --loss.discriminator hinge --loss.stft-weight 1",
}
SHARDS = {
    "text": "--tokenizer bpe --data corpus.txt --split lines --shard-mb 0.03",
    "captions": "--tokenizer bpe --tokenizer image-vq --data pictures.tar --image-size 16",
    **{f"image-{name}": f"--tokenizer image-{name} --data pictures.tar --image-size 16 --limit 40" for name in IMAGES},
    **{f"audio-{name}": f"--tokenizer bpe --tokenizer audio-{name} --data speech" for name in AUDIOS},
    "first": "--tokenizer bpe --tokenizer audio-encodec --data speech --codebooks 2",
    "palette": "--tokenizer palette --data pictures.tar --image-size 16 --limit 40",
}
MODEL = "--model.layers 2 --model.width 32 --model.heads 4 --batch-size 4 --validation-tokens 2000 --optimizer.warmup-steps 3"
MODELS = {
    "llama": "--shards shards-text --template text --context 48 --model.kv-heads 2 --z-loss 0.001 --ema 0.9",
    "muon": "--shards shards-text --template text --context 48 --optimizer.optimizer muon --accumulate 2",
    "gpt2": "--shards shards-text --template text --context 48 --style gpt2 --model.dropout 0.1",
    "sinusoidal": "--shards shards-text --template text --context 48 --style sinusoidal",
    "window": "--shards shards-text --template text --context 48 --model.window 9 --model.logit-soft-cap 20",
    "captions": "--shards shards-captions --template 'text -> image'",
    "pictures": "--shards shards-image-rvq --template image:delay",
    "spoken": "--shards shards-first --template 'text -> audio:delay'",
    "coarse": "--shards shards-first --template audio:coarse-first",
}
PROMPTS = {"captions": "--prompt 'red heart'", "spoken": "--prompt 'ten of clubs'", "llama": "--prompt Everyone"}

Row = tuple[str, str, bool]
"""What, a short form of it, and whether it is there at all."""


def commands() -> list[str]:
    """Return the command lines in their order."""
    lines = [
        "train bpe --data corpus.txt --vocab-size 400 --out bpe",
        "train palette --data pictures.tar --colors 16 --image-size 16 --limit 60 --out palette",
        "train palette --data pictures.tar --colors 16 --color-space oklab --image-size 16 --limit 60 --out oklab",
        *(f"{IMAGE} {more} --out image-{name}" for name, more in IMAGES.items()),
        *(f"{AUDIO} {more} --out audio-{name}" for name, more in AUDIOS.items()),
        *(f"encode {more} --out shards-{name}" for name, more in SHARDS.items()),
    ]
    for name in IMAGES:
        lines += [
            f"compress picture.png image-{name}.tkc --tokenizer image-{name}",
            f"decompress image-{name}.tkc image-{name}.png --tokenizer image-{name}",
        ]
    for name in AUDIOS:
        lines += [
            f"compress speech/amiable.flac audio-{name}.tkc --tokenizer audio-{name}",
            f"decompress audio-{name}.tkc audio-{name}.wav --tokenizer audio-{name}",
        ]
    lines += [
        "compress speech/amiable.flac audio-first.tkc --tokenizer audio-dac --codebooks 2",
        "decompress audio-first.tkc audio-first.wav --tokenizer audio-dac",
        "evaluate --tokenizer image-vq --data few.tar --image-size 16 --out evaluation-image",
        "evaluate --tokenizer audio-dac --data speech/ten-of-clubs.flac --out evaluation-audio",
    ]
    for name, more in MODELS.items():
        prompt = PROMPTS.get(name, "")
        lines += [
            f"train transformer {more} {MODEL} {LOOP} --out model-{name}",
            f"generate --model model-{name} {prompt} --count 3 --seed 7 --device cpu --out samples-{name}",
            f"generate --model model-{name} {prompt} --count 2 --temperature 0.8 --top-k 20 --top-p 0.9 --batch-size 1 "
            f"--device cpu --out filtered-{name}",
        ]
    return lines


RUNNER = """
import contextlib, io, json, sys, time, torch
from tokenize_kit.cli import main
torch.set_num_threads(1)
for line in json.load(open(sys.argv[1])):
    began, out = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*line, "--json", "--quiet"])
    print(json.dumps([code, out.getvalue(), time.perf_counter() - began]), flush=True)
"""


def split(line: str) -> list[str]:
    """Return the words of a line in which single quotes hold words together."""
    parts = line.split("'")
    return [word for place, part in enumerate(parts) for word in ([part] if place % 2 else part.split())]


def build_inputs(folder: Path) -> None:
    """Write the inputs, which are the same for both."""
    text = (ROOT / "assets" / "udhr.txt").read_text(encoding="utf-8")
    (folder / "corpus.txt").write_text(text[:60_000], encoding="utf-8")
    with tarfile.open(ROOT / "assets" / "emoji.tar") as source:
        members = source.getmembers()
        for name, count in (("pictures.tar", 240), ("few.tar", 24)):
            with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as target:
                for member in members[:count]:
                    target.addfile(member, source.extractfile(member))
        file = source.extractfile(members[0])
        assert file is not None, "the first member is a picture"
        (folder / "picture.png").write_bytes(file.read())
    (folder / "speech").mkdir()
    for path in (ROOT / "assets" / "speech").iterdir():
        (folder / "speech" / path.name).write_bytes(path.read_bytes())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def play(revision: Revision, folder: Path, lines: list[str]) -> dict[str, str]:
    """Run the command lines; return everything that is compared by name."""
    (folder / "lines.json").write_text(json.dumps([split(line) for line in lines]))
    (folder / "runner.py").write_text(RUNNER)
    process = revision.start(["runner.py", "lines.json"], folder)
    assert process.stdout is not None, "stdout is piped"
    found: dict[str, str] = {}
    for line in lines:
        said = process.stdout.readline()
        if not said:
            raise RuntimeError(f"{revision.name} died at: {line}")
        code, out, seconds = json.loads(said)
        what = f"{' '.join(split(line)[:2] if line.startswith('train') else split(line)[:1])} {target_of(line)}"
        print(f"{revision.name}: {what} ({seconds:.1f} s)", file=sys.stderr, flush=True)
        found[f"{what}: exit code"] = str(code)
        if code == 0:
            found |= {f"{what}: {name}": value for name, value in look(folder, target_of(line)).items()}
            if line.startswith("evaluate"):
                found[f"{what}: measures"] = digest(json.dumps(timeless(json.loads(out)), sort_keys=True).encode())
    process.stdout.close()
    process.wait()
    return found


def target_of(line: str) -> str:
    """Return what a command line writes."""
    words = split(line)
    return words[words.index("--out") + 1] if "--out" in words else words[2]


_TIMES = re.compile(
    r"seconds$|speed|mega.*_per_second|^tokens_per_second|^(picture|sound|piece)s_per_second|times_real_time|^protocol$"
)


def timeless(values: Any) -> Any:
    """Return nested values without times."""
    if isinstance(values, dict):
        return {name: timeless(value) for name, value in values.items() if not _TIMES.search(name)}
    return [timeless(value) for value in values] if isinstance(values, list) else values


def look(folder: Path, target: str) -> dict[str, str]:
    """Return what is compared of a file or folder that a command wrote."""
    path = folder / target
    if path.is_file():
        return {"bytes": digest(path.read_bytes())}
    found: dict[str, str] = {}
    log = path / "train_log.jsonl"
    if log.is_file():
        rows = [json.loads(row) for row in log.read_text().splitlines()]
        rows = [{name: value for name, value in row.items() if not name.endswith("_per_second")} for row in rows]
        losses = [row["loss"] for row in rows if "loss" in row]
        shown = f" {losses[0]:.6g} .. {losses[-1]:.6g}" if losses else ""
        found[f"{len(rows)} lines of the log"] = digest(json.dumps(rows, sort_keys=True).encode()) + shown
    for weights in sorted([*path.glob("*.safetensors"), *path.glob("checkpoints/*/*.safetensors")]):
        names, values = tensors(weights)
        place = str(weights.relative_to(path))
        found[f"{place}, names and shapes"] = f"{digest(names.encode())} {names.count(chr(10))}"
        found[f"{place}, values"] = digest(values)
    for config in ("tokenizer_config.json", "model_config.json", "tokenizer.json", "dataset.json", "samples.jsonl"):
        if (path / config).is_file():
            found[config] = digest(without_sums(path / config))
    for pattern in ("*.arrow", "sample_*", "pictures/*.png", "sounds/*.wav"):
        files = sorted(path.glob(pattern))
        if files:
            found[f"{len(files)} files {pattern}"] = digest(b"".join(file.read_bytes() for file in files))
    return found


def without_sums(path: Path) -> bytes:
    """Return the content of a file, without the sums that newer revisions write into their JSON files."""
    data = path.read_bytes()
    if path.suffix != ".json":
        return data
    values = {name: value for name, value in json.loads(data).items() if name not in ("own_digest", "sha256")}
    return json.dumps(values).encode()


def tensors(path: Path) -> tuple[str, bytes]:
    """Return the names, types and shapes in a safetensors file, a line each, and all values in the order of the names."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    names = "".join(f"{name} {header[name]['dtype']} {header[name]['shape']}\n" for name in sorted(header))
    spans = [header[name]["data_offsets"] for name in sorted(header)]
    return names, b"".join(data[start + first : start + last] for first, last in spans)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE")
    parser.add_argument("head", metavar="HEAD", nargs="?", default="HEAD")
    parser.add_argument("--only", help="only the command lines that contain this word; they must need no others")
    parser.add_argument("--differences", action="store_true", help="print only what is not equal")
    options = parser.parse_args()
    lines = [line for line in commands() if not options.only or options.only in line]
    found = []
    with checked_out([options.base, options.head]) as revisions, tempfile.TemporaryDirectory() as temporary:
        for number, revision in enumerate(revisions):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            build_inputs(folder)
            found.append(play(revision, folder, lines))
    base, head = found
    print(f"| what | base {revisions[0].commit} | head {revisions[1].commit} | equal |")
    print("| --- | --- | --- | --- |")
    wrong = 0
    for what in dict.fromkeys([*base, *head]):
        values = base.get(what, "-"), head.get(what, "-")
        failed = what.endswith("exit code") and values != ("0", "0")
        equal = values[0] == values[1] and not failed
        wrong += not equal
        if not (options.differences and equal):
            print(f"| {what} | {values[0]} | {values[1]} | {'yes' if equal else 'NO'} |")
    print(f"\n{len(base)} values of {len(lines)} command lines, {wrong} not equal", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
