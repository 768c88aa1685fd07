"""Autoregressive models over token sequences: the networks, their data, their training and their generation."""
