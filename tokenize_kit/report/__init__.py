"""Pictures and plots: one HTML file that needs no other file and no network."""

from tokenize_kit.report.html import Page, Pair, SoundPair

__all__ = ["Page", "Pair", "SoundPair"]
