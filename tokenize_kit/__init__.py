"""tokenize-kit: turn anything (text, images, video, sound) into discrete tokens.

`tokenize_kit.protocol` is the protocol and the place to start reading; `trainers` holds what fits tokenizers and models.
"""

from tokenize_kit.protocol import Tokenizer, TokenSpec, load_tokenizer, register_tokenizer, registered_tokenizers
from tokenize_kit.python import decode, encode

__all__ = [
    "TokenSpec",
    "Tokenizer",
    "decode",
    "encode",
    "load_tokenizer",
    "register_tokenizer",
    "registered_tokenizers",
]
