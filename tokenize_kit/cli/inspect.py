"""``tokenize-kit inspect PATH``: say what a tokenizer, a shard set, a model folder or a media file is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from tokenize_kit.files import read_signed
from tokenize_kit.protocol import CONFIG_FILE, TokenSpec, is_tokenizer_folder, load_tokenizer, read_config


@dataclass(frozen=True)
class InspectOptions:
    """Say what a tokenizer, a shard set, a model folder or a media file is."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A tokenizer folder, a shard set (folder or URL), a model folder or a file."""
    rows: int = 3
    """How many rows of a shard set to show."""


@dataclass(frozen=True)
class InspectResult:
    """What was found; ``facts`` is JSON-ready."""

    path: str
    kind: str
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as one JSON-ready dictionary."""
        return {"path": self.path, "kind": self.kind, **self.facts}

    def to_text(self) -> str:
        """Return the facts as indented lines for a person."""
        return "\n".join([f"{self.path}: {self.kind}", *_lines(self.facts, "  ")])


def inspect(options: InspectOptions) -> InspectResult:
    """Look at a path and say what it is.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is nothing that tokenize-kit knows, or it is damaged.
    """
    path = Path(options.path)
    if options.rows < 0:
        raise ValueError(f"--rows {options.rows} must be 0 or more")
    if "://" in options.path or (path / "dataset.json").is_file():
        return InspectResult(options.path, "shard set", _shard_facts(options))
    if (path / "model_config.json").is_file():
        return InspectResult(options.path, "model", _model_facts(path))
    if is_tokenizer_folder(path):
        return InspectResult(options.path, "tokenizer", _tokenizer_facts(path))
    if (path / "plan.json").is_file():
        raise ValueError(f"{path} is an unfinished shard set; run the same 'tokenize-kit encode' again to finish it")
    if path.is_file():
        return InspectResult(options.path, *_media_facts(path))
    if path.is_dir():
        raise ValueError(
            f"{path} holds no {CONFIG_FILE}, dataset.json or model_config.json: not a folder of tokenize-kit"
        )
    raise FileNotFoundError(f"there is nothing at {path}")


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

    shards = ShardSet.open(options.path)
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
            name: {"fingerprint": stream.fingerprint, "dtype": stream.dtype, **describe_spec(stream.spec)}
            for name, stream in shards.streams.items()
        },
        "first_rows": rows,
    }


def _model_facts(folder: Path) -> dict[str, Any]:
    config = read_signed(folder / "model_config.json")
    facts = {key: value for key, value in config.items() if key not in ("vocabulary", "format_version")}
    weights = folder / "model.safetensors"
    if weights.is_file():
        from tokenize_kit.weights import count_weights

        facts["parameters"] = count_weights(weights)
    tokenizers = folder / "tokenizers"
    if tokenizers.is_dir():
        facts["tokenizers"] = {
            stream.name: read_config(stream)["tokenizer"] for stream in sorted(tokenizers.iterdir()) if stream.is_dir()
        }
    return facts


def _media_facts(path: Path) -> tuple[str, dict[str, Any]]:
    from tokenize_kit.modalities import all_modalities

    if path.suffix.lower() == ".tkc":
        return "compressed file", _container_facts(path)
    kinds = all_modalities()
    for kind in kinds:
        if path.suffix.lower() in kind.extensions:
            return f"{kind.name} file", kind.describe(path)
    known = sorted({extension for kind in kinds for extension in kind.extensions})
    raise ValueError(f"{path} is of no known kind (extensions: {' '.join(known)})")


def _container_facts(path: Path) -> dict[str, Any]:
    from tokenize_kit.container import from_file

    packed = from_file(path)
    facts = {name: value for name, value in vars(packed).items() if name != "ids" and value is not None}
    facts |= {name: list(value) for name, value in facts.items() if isinstance(value, tuple)}
    return facts | {"grid": list(packed.ids.shape), "bytes": path.stat().st_size}


def _short(value: Any) -> Any:
    return value[:60] + "..." if isinstance(value, str) and len(value) > 60 else value


def _lines(facts: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in facts.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict) and value:
            lines += [f"{label}:", *_lines(value, indent + "  ")]
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
