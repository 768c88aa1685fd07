"""A progress that shows nothing and remembers what it was told."""

from __future__ import annotations


class Told:
    """Stands for the progress, and remembers its notes."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    def task(self, *_):
        pass

    def update(self, *_, **__):
        pass
