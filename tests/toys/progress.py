"""A progress that shows nothing and remembers what it was told."""

from __future__ import annotations


class Told:
    """Stands for the progress, and remembers its notes and the names of what it has shown beside how far it is."""

    def __init__(self):
        self.said = []
        self.shown = set()

    def note(self, text):
        self.said.append(text)

    def task(self, *_):
        pass

    def update(self, *_, **fields):
        self.shown.update(fields)
