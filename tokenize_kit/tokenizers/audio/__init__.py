"""Tokenizers of sound that need no network: samples as they are, and mu-law samples."""
