"""Tokenizers of text."""
