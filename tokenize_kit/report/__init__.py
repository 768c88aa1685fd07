"""Pictures, videos and plots: one HTML file that needs no other file and no network."""

from tokenize_kit.report.html import Page, Pair, SoundPair, VideoPair

__all__ = ["Page", "Pair", "SoundPair", "VideoPair"]
