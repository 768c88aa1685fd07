"""``tokenize-kit inspect PATH``: say what a thing is that the kit makes or reads, how much it holds, and whether it is damaged.

What is asked of files of rows, archives, folders, runs and weights is in `tokenize_kit.cli.looking`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any

from tyro.conf import Positional, arg

from tokenize_kit.files import read_signed, sha256_of_file
from tokenize_kit.protocol import CONFIG_FILE, TokenSpec, is_tokenizer_folder, load_tokenizer, read_config
from tokenize_kit.shards.options import ShardReading
from tokenize_kit.sources.names import printable
from tokenize_kit.sources.spool import STANDARD_INPUT, spooled

_HEAD = 1 << 13
"""By so many bytes what comes through a pipe is known."""


@dataclass(frozen=True)
class InspectOptions(ShardReading):
    """Say what something is that the kit makes or reads: how much it holds, its fields, the first few, what is damaged."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A tokenizer, shard set or model, a run or checkpoint, a folder of data, or a file: jsonl, json, csv, tsv, parquet, txt,
    tar, idx, a picture, a sound, a film, .tkc, .safetensors, .arrow. A URL of a shard set or of a file of data. Standard input
    (-) or a pipe of text, JSON, parquet or tar."""
    rows: int = 3
    """How many rows, samples or files to show."""


@dataclass(frozen=True)
class InspectResult:
    """What was found; ``facts`` is JSON-ready."""

    path: str
    kind: str
    facts: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """3 where something is damaged, as `verify` has it."""
        return 3 if "damaged" in self.facts else 0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as one JSON-ready dictionary."""
        return {"path": printable(self.path), "kind": self.kind, **self.facts}

    def to_text(self) -> str:
        """Return the facts as indented lines for a person."""
        return "\n".join([f"{printable(self.path)}: {self.kind}", *_lines(self.facts, "  ")])


def inspect(options: InspectOptions) -> InspectResult:
    """Look at a path and say what it is.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is nothing that tokenize-kit knows, or it is damaged.
    """
    if options.rows < 0:
        raise ValueError(f"--rows {options.rows} must be 0 or more")
    path, shown = Path(options.path), options.rows
    if options.path in STANDARD_INPUT or path.is_fifo():
        return InspectResult(options.path, *_piped_facts(options.path, shown))
    if "://" in options.path:
        found = _data_facts(options.path, shown)
        return InspectResult(options.path, *(found or ("shard set", _shard_facts(options))))
    if path.is_dir():
        kind, facts = _folder_facts(path, options)
    elif path.is_file():
        kind, facts = _file_facts(path, shown)
    else:
        raise FileNotFoundError(f"there is nothing at {path}")
    return InspectResult(options.path, kind, facts)


def _folder_facts(path: Path, options: InspectOptions) -> tuple[str, dict[str, Any]]:
    from tokenize_kit.cli.looking.archives import look_folder
    from tokenize_kit.cli.looking.runs import (
        look_checkpoint,
        look_decoded,
        look_encode_run,
        look_evaluation,
        look_figures,
        look_samples,
        look_training_run,
    )

    if (path / "dataset.json").is_file():
        return "shard set", _shard_facts(options)
    if (path / "model_config.json").is_file():
        return "model", _model_facts(path)
    if is_tokenizer_folder(path):
        return "tokenizer", _tokenizer_facts(path)
    if (path / "state.json").is_file():
        return "checkpoint", look_checkpoint(path)
    if (path / "plan.json").is_file():
        return "unfinished shard set", look_encode_run(path)
    if (path / "run.json").is_file():
        return "unfinished training", look_training_run(path)
    if facts := look_samples(path, options.rows):
        return "generated samples", facts
    if facts := look_decoded(path, options.rows):
        return "decoded samples", facts
    if facts := look_evaluation(path):
        return "evaluation", facts
    if found := look_figures(path):
        return found
    if facts := look_folder(path, options.rows):
        return "folder of data", facts
    raise ValueError(f"{path} holds no {CONFIG_FILE}, dataset.json or model_config.json: not a folder of tokenize-kit")


def _file_facts(path: Path, shown: int) -> tuple[str, dict[str, Any]]:
    from tokenize_kit.cli.looking.archives import look_zip
    from tokenize_kit.cli.looking.runs import look_weights
    from tokenize_kit.cli.looking.vocabularies import look_tiktoken, look_tokenizer_json
    from tokenize_kit.modalities import all_modalities, modality_of_file

    suffix = path.suffix.lower()
    if suffix == ".tkc":
        return "compressed file", _container_facts(path)
    if suffix == ".safetensors":
        return "weights", look_weights(path)
    if suffix == ".arrow":
        return "shard", _arrow_facts(path, shown)
    if suffix == ".tiktoken":
        return "vocabulary", look_tiktoken(path)
    if path.name == "tokenizer.json" and (facts := look_tokenizer_json(path)):
        return "vocabulary", facts
    if suffix == ".zip":
        return "zip archive", look_zip(str(path), shown)
    if found := _data_facts(str(path), shown):
        return found
    if modality := modality_of_file(path):
        return f"{modality.name} file", modality.describe(path)
    known = sorted({extension for kind in all_modalities() for extension in kind.extensions})
    raise ValueError(f"{path} is of no known kind (extensions: {' '.join(known)})")


def _piped_facts(source: str, shown: int) -> tuple[str, dict[str, Any]]:
    """Return what comes through standard input or a pipe, known by how it begins.

    Raises:
        ValueError: it is nothing that can be told so.
    """
    from tokenize_kit.cli.looking import archives, rows
    from tokenize_kit.cli.looking.damage import up_to_damage

    kept = spooled(source)
    head = b""

    def look(file: IO[bytes]) -> None:
        nonlocal head
        head = file.read(_HEAD)

    up_to_damage(kept.path, kept.compression, look)
    lookers = {"": rows.look_text, "jsonl": rows.look_jsonl, "json": rows.look_json}
    kind, looker = kept.kind or "text", lookers[kept.kind]
    where = "standard input" if source in STANDARD_INPUT else "a pipe"
    if head.startswith(b"PAR1") and not kept.compression:
        kind, looker = "parquet", rows.look_parquet
    elif head[257:262] == b"ustar":
        kind, looker = "tar", archives.look_tar
    elif b"\0" in head:
        raise ValueError(f"{where} is neither text nor JSON, parquet nor tar; inspect it as a file with its name")
    facts = looker(kept.path, kept.compression, shown)
    if kind in ("parquet", "tar"):
        facts["next"] = "encode and train read text and JSON from a pipe, and this as a file with its name"
    compressed = {"compression": kept.compression} if kept.compression else {}
    return f"{kind} from {where}", {**compressed, **facts, "bytes": facts.get("bytes", kept.size)}


def _data_facts(url: str, shown: int) -> tuple[str, dict[str, Any]] | None:
    """Return what a file of rows, of text or of samples is; None if it is none by its name."""
    from tokenize_kit.cli.looking import archives, rows
    from tokenize_kit.sources.endings import PLAIN, kind_of

    kind, compression = kind_of(url.partition("::")[0])  # of a file in an archive: zip://a.jsonl::b.zip
    lookers: dict[str, Callable[[str, str, int], dict[str, Any]]] = {
        PLAIN: rows.look_text,
        "jsonl": rows.look_jsonl,
        "json": rows.look_json,
        "csv": partial(rows.look_delimited, tabs=False),
        "tsv": partial(rows.look_delimited, tabs=True),
        "parquet": rows.look_parquet,
        "tar": archives.look_tar,
        "idx": archives.look_idx,
    }
    if kind not in lookers:
        return None
    facts = lookers[kind](url, compression, shown)
    if compression:
        facts = {"compression": compression, **facts}
    if "://" not in url and "bytes" not in facts:
        facts["bytes"] = Path(url).stat().st_size
    return f"{kind} file", facts


def describe_spec(spec: TokenSpec) -> dict[str, Any]:
    """Return the facts of a `TokenSpec` that are set, by name."""
    facts = {name: value for name, value in spec.to_dict().items() if value is not None}
    facts["grid"] = " x ".join(spec.axes)
    del facts["axes"]
    return facts


def _tokenizer_facts(folder: Path) -> dict[str, Any]:
    tokenizer = load_tokenizer(folder)
    config = read_config(folder)
    options = {key: value for key, value in config["options"].items() if len(json.dumps(value)) < 200}
    return {
        "tokenizer": config["tokenizer"],
        "fingerprint": tokenizer.fingerprint,
        **describe_spec(tokenizer.spec),
        "options": options,
        "bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
    }


def _shard_facts(options: InspectOptions) -> dict[str, Any]:
    from tokenize_kit.shards import ShardSet

    shards = ShardSet.open(options.path, options.trust_shards)
    views: dict[str, str] = shards.manifest.options.get("views", {})
    rows = []
    for number, record in enumerate(shards.records(0, min(options.rows, shards.num_rows))):
        grids = {
            name: {"shape": list(grid.shape), "ids": grid.reshape(-1)[:8].tolist()}
            for name, grid in record.grids.items()
        }
        rows.append({"row": number, "key": record.key, **grids, **{k: _short(v) for k, v in record.columns.items()}})
    return {
        "rows": shards.num_rows,
        "files": len(shards.files),
        "tokens": shards.num_tokens,
        "columns": list(shards.columns),
        "streams": {
            name: {
                "fingerprint": stream.fingerprint,
                "dtype": stream.dtype,
                **describe_spec(stream.spec),
                **({"view": views[name]} if name in views else {}),
            }
            for name, stream in shards.streams.items()
        },
        "first_rows": rows,
    }


def _model_facts(folder: Path) -> dict[str, Any]:
    config = read_signed(folder / "model_config.json")
    facts = {key: value for key, value in config.items() if key not in ("vocabulary", "format_version")}
    vocabulary = config.get("vocabulary")
    if isinstance(vocabulary, dict) and (nulls := vocabulary.get("nulls")):
        facts["sequences_may_lack"] = nulls
    weights = folder / "model.safetensors"
    if weights.is_file():
        from tokenize_kit.weights import count_weights

        facts["parameters"] = count_weights(weights)
    if (folder / "run.json").is_file():
        from trainers.checkpoints import run_position

        made, steps = run_position(folder)
        if made < steps:
            facts["training"] = f"not finished, step {made:,} of {steps:,}"
    if (folder / "recipe.json").is_file():
        recipe = read_signed(folder / "recipe.json")
        facts["samples_were_prepared_with"] = {
            name: value for name, value in recipe.items() if name != "format_version"
        }
    tokenizers = folder / "tokenizers"
    if tokenizers.is_dir():
        facts["tokenizers"] = {
            stream.name: read_config(stream)["tokenizer"] for stream in sorted(tokenizers.iterdir()) if stream.is_dir()
        }
    return facts


def _arrow_facts(path: Path, shown: int) -> dict[str, Any]:
    """Return what one shard holds, after its sum is compared with what the folder around it says.

    Raises:
        ValueError: nothing says what it should be, or it is damaged.
    """
    from tokenize_kit.cli.looking.fields import short

    ledger = path.with_suffix(".json")
    if not ledger.is_file():
        raise ValueError(f"{path} is an Arrow file without a ledger {ledger.name} beside it; inspect its folder")
    entry = read_signed(ledger).get("file")
    expected = entry.get("sha256") if isinstance(entry, dict) else None
    facts: dict[str, Any] = {"folder": str(path.parent), "bytes": path.stat().st_size}
    if (found := sha256_of_file(path)) != expected:
        return facts | {"damaged": f"its sha256 is {found[:12]}, {ledger.name} says {str(expected)[:12]}"}
    import pyarrow as pa

    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        facts["rows"] = sum(batch.num_rows for batch in batches)
        facts["columns"] = {field.name: str(field.type) for field in reader.schema}
        first = batches[0].slice(0, shown).to_pylist() if batches else []
        facts["first_rows"] = [{name: short(value) for name, value in row.items()} for row in first]
    return facts


def _container_facts(path: Path) -> dict[str, Any]:
    from tokenize_kit.cli.coded import coded_facts
    from tokenize_kit.container import CodedSample, from_file

    packed = from_file(path)
    facts = {
        name: value
        for name, value in vars(packed).items()
        if name not in ("ids", "code", "shape") and value is not None
    }
    facts |= {name: list(value) for name, value in facts.items() if isinstance(value, tuple)}
    shape = packed.shape if isinstance(packed, CodedSample) else packed.ids.shape
    facts |= {"grid": list(shape), "bytes": path.stat().st_size}
    return facts | (coded_facts(packed, str(path)) if isinstance(packed, CodedSample) else {})


def _short(value: Any) -> Any:
    return value[:60] + "..." if isinstance(value, str) and len(value) > 60 else value


_OF_DATA = (
    "fields",
    "columns",
    "files",
    "endings",
    "other_files",
    "special_tokens",
    "first_tensors",
    "streams",
    "tokens",
)
"""The facts whose entries have names of the data, which are shown as they are."""


def _lines(facts: dict[str, Any], indent: str, of_data: bool = False) -> list[str]:
    lines = []
    for name, value in facts.items():
        label = f"{indent}{name if of_data else name.replace('_', ' ')}"
        if isinstance(value, dict) and value:
            lines += [f"{label}:", *_lines(value, indent + "  ", name in _OF_DATA)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{label}:")
            for item in value:
                lines.append(indent + "  " + "  ".join(f"{key}={_inline(part)}" for key, part in item.items()))
        else:
            lines.append(f"{label}: {_inline(value)}")
    return lines


def _inline(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return ", ".join(map(_inline, value)) or "none"
    return "none" if value is None else str(value)
