"""Tokenizers of pictures that need no network: raw pixels and a palette of colours."""
