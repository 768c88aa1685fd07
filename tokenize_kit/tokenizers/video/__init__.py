"""Tokenizers of video without a network."""
