"""Token shards: Arrow IPC files of id grids with a manifest, how they are written, read, checked and turned back.

The names below are loaded when they are first used, so that a command line can read the options without pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenize_kit.shards.format import Manifest, StreamInfo, dtype_for
    from tokenize_kit.shards.reader import Record, ShardSet, StreamArray
    from tokenize_kit.shards.torch_data import ShardDataset, ShardStream
    from tokenize_kit.shards.writer import ShardWriter, open_shard

_HOMES = {
    "Manifest": "format",
    "StreamInfo": "format",
    "dtype_for": "format",
    "Record": "reader",
    "ShardSet": "reader",
    "StreamArray": "reader",
    "ShardDataset": "torch_data",
    "ShardStream": "torch_data",
    "ShardWriter": "writer",
    "open_shard": "writer",
}

__all__ = [
    "Manifest",
    "Record",
    "ShardDataset",
    "ShardSet",
    "ShardStream",
    "ShardWriter",
    "StreamArray",
    "StreamInfo",
    "dtype_for",
    "open_shard",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
