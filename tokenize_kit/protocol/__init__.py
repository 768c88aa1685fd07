"""The one protocol: samples in, grids of integer ids out, and back.

This is the ground floor. `modality` declares what a kind of data is, `spec` what a tokenizer says of itself, `tokenizer` what it
must be and may be; all else asks these declarations. `registry` is how plug-ins are found, `folder` how a tokenizer is saved and
loaded, `placement` where it computes, `special` which special tokens it finds in texts, `grids` the helpers with which its
promises are kept. The kinds of data themselves are in `tokenize_kit.modalities`, token storage is in `tokenize_kit.shards`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenize_kit.protocol.clips import Clips, Follower, Part, Span, clip_key, file_of, frame_of
from tokenize_kit.protocol.folder import (
    CONFIG_FILE,
    FORMAT_VERSION,
    check_files,
    check_kind,
    check_target,
    fingerprint_of,
    is_tokenizer_folder,
    load_tokenizer,
    read_config,
    read_config_of,
    read_options,
    save_as,
    split_name,
    write_config,
)
from tokenize_kit.protocol.grids import check_grid, check_ids, decode_like, decode_sized, first_codebooks
from tokenize_kit.protocol.modality import Modality, Stream, modality_named, modality_of, register_modality, resolved
from tokenize_kit.protocol.placement import Placement, placed, placement_for
from tokenize_kit.protocol.registry import EXECUTORS, MODALITIES, MODELS, QUANTIZERS, TOKENIZERS, TRAINERS, Registry
from tokenize_kit.protocol.spec import MAX_FRAME_RATE, TokenSpec
from tokenize_kit.protocol.special import allowed_tokens, allowing, with_special
from tokenize_kit.protocol.tokenizer import (
    DeviceTokenizer,
    OrdinalTokenizer,
    PieceTokenizer,
    PipelinedEncoder,
    RaggedEncoder,
    ShowsTokens,
    SizedTokenizer,
    SpecialTokens,
    Tokenizer,
    register_tokenizer,
    registered_tokenizers,
    tokenizer_class,
    tokenizer_name,
)
from tokenize_kit.protocol.views import Operation, View, change_of, register_operation, views_of

if TYPE_CHECKING:
    from tokenize_kit.protocol.spec import Sample

__all__ = [
    "CONFIG_FILE",
    "EXECUTORS",
    "FORMAT_VERSION",
    "MAX_FRAME_RATE",
    "MODALITIES",
    "MODELS",
    "QUANTIZERS",
    "TOKENIZERS",
    "TRAINERS",
    "Clips",
    "DeviceTokenizer",
    "Follower",
    "Modality",
    "Operation",
    "OrdinalTokenizer",
    "Part",
    "PieceTokenizer",
    "PipelinedEncoder",
    "Placement",
    "RaggedEncoder",
    "Registry",
    "Sample",
    "ShowsTokens",
    "SizedTokenizer",
    "Span",
    "SpecialTokens",
    "Stream",
    "TokenSpec",
    "Tokenizer",
    "View",
    "allowed_tokens",
    "allowing",
    "change_of",
    "check_files",
    "check_grid",
    "check_ids",
    "check_kind",
    "check_target",
    "clip_key",
    "decode_like",
    "decode_sized",
    "file_of",
    "fingerprint_of",
    "first_codebooks",
    "frame_of",
    "is_tokenizer_folder",
    "load_tokenizer",
    "modality_named",
    "modality_of",
    "placed",
    "placement_for",
    "read_config",
    "read_config_of",
    "read_options",
    "register_modality",
    "register_operation",
    "register_tokenizer",
    "registered_tokenizers",
    "resolved",
    "save_as",
    "split_name",
    "tokenizer_class",
    "tokenizer_name",
    "views_of",
    "with_special",
    "write_config",
]
