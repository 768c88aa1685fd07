"""The one protocol: samples in, grids of integer ids out, and back.

This is the ground floor. `spec` holds what a tokenizer says of itself, `tokenizer` what it must be and may be, `registry` how it
is found, `folder` how it is saved and loaded, `placement` where it computes, `grids` the helpers with which a new tokenizer
keeps the promises of the protocol. It leaves files and media to `tokenize_kit.modalities`, and token storage to
`tokenize_kit.shards`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenize_kit.protocol.folder import (
    CONFIG_FILE,
    FORMAT_VERSION,
    check_target,
    fingerprint_of,
    load_tokenizer,
    read_config,
    write_config,
)
from tokenize_kit.protocol.grids import check_ids, decode_like, first_codebooks, size_of
from tokenize_kit.protocol.placement import Placement, placed, placement_for
from tokenize_kit.protocol.registry import (
    ENTRY_POINT_GROUP,
    register_tokenizer,
    registered_tokenizers,
    tokenizer_class,
    tokenizer_name,
)
from tokenize_kit.protocol.spec import MODALITIES, TokenSpec
from tokenize_kit.protocol.tokenizer import (
    BlockTokenizer,
    DeviceTokenizer,
    PipelinedEncoder,
    RaggedEncoder,
    ShowsTokens,
    SizedTokenizer,
    Tokenizer,
)

if TYPE_CHECKING:
    from tokenize_kit.protocol.spec import Sample

__all__ = [
    "CONFIG_FILE",
    "ENTRY_POINT_GROUP",
    "FORMAT_VERSION",
    "MODALITIES",
    "BlockTokenizer",
    "DeviceTokenizer",
    "PipelinedEncoder",
    "Placement",
    "RaggedEncoder",
    "Sample",
    "ShowsTokens",
    "SizedTokenizer",
    "TokenSpec",
    "Tokenizer",
    "check_ids",
    "check_target",
    "decode_like",
    "fingerprint_of",
    "first_codebooks",
    "load_tokenizer",
    "placed",
    "placement_for",
    "read_config",
    "register_tokenizer",
    "registered_tokenizers",
    "size_of",
    "tokenizer_class",
    "tokenizer_name",
    "write_config",
]
