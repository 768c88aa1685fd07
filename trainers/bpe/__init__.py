"""Fitting byte-level BPE."""
