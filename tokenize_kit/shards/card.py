"""The card of a shard set: a README.md for people, whose head tells ``datasets.load_dataset`` and the Hub where the data are.

Without it `datasets` would take the JSON files of the folder for the data.
"""

from __future__ import annotations

from pathlib import Path

from tokenize_kit.files import write_text
from tokenize_kit.shards.format import Manifest

CARD_FILE = "README.md"

_HEAD = """---
configs:
- config_name: default
  data_files: "*.arrow"
library_name: tokenize-kit
tags:
- tokens
- tokenize-kit
---
"""
_OPENED = """
```python
import datasets

table = datasets.load_dataset("PATH", split="train")
```
```python
from tokenize_kit.shards import ShardSet

shards = ShardSet.open("PATH")
```
"""


def dataset_card(manifest: Manifest) -> str:
    """Return the card of a shard set; it follows from the manifest alone."""
    totals = manifest.totals
    lines = [
        _HEAD,
        "# Token shards",
        "",
        f"{totals['rows']:,} samples in {len(manifest.files):,} Arrow files, made by `tokenize-kit`. The ids of a stream are a "
        "column, in grid order; the shape of each grid is beside it.",
        "",
        "| stream | tokenizer | fingerprint | axes | vocabulary | ids | type |",
        "| --- | --- | --- | --- | ---: | ---: | --- |",
    ]
    for name, stream in manifest.streams.items():
        vocabulary = _sizes(stream.spec.vocab_size)
        lines.append(
            f"| `{name}` | {stream.tokenizer} | `{stream.fingerprint[:12]}` | {', '.join(stream.spec.axes)} | {vocabulary} | "
            f"{totals['tokens'][name]:,} | {stream.dtype} |"
        )
    if manifest.columns:
        lines += ["", "Columns: " + ", ".join(f"`{name}` ({kind})" for name, kind in manifest.columns.items()) + "."]
    for count, file in ((manifest.failures, "failures.jsonl"), (manifest.incomplete, "incomplete.jsonl")):
        if count:
            lines += ["", f"{count:,} samples are not there: `{file}` lists them."]
    return "\n".join(lines) + "\n" + _OPENED


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write the card, unless one is there: somebody may have written more into it."""
    if not (folder / CARD_FILE).exists():
        # dataset.json follows in the same folder.
        write_text(folder / CARD_FILE, dataset_card(manifest), durable_name=False)


def _sizes(sizes: int | tuple[int, ...]) -> str:
    if isinstance(sizes, int):
        return f"{sizes:,}"
    if len(set(sizes)) == 1:
        return f"{len(sizes)} x {sizes[0]:,}"
    return ", ".join(f"{size:,}" for size in sizes)
