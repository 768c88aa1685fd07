"""What the scores of a set add up to, in the units and by the names of a training's validation."""

from __future__ import annotations

from typing import Any

from trainers.autoregressive.likelihood import bits_per
from trainers.autoregressive.model_folder import LoadedModel
from trainers.autoregressive.scoring.scores import Score
from trainers.autoregressive.units import Units


class Summary:
    """Adds scores up; of each set one.

    Args:
        loaded: the model, with the template that is followed.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.samples = self.cut = 0
        """How many, and how many of them were scored in pieces."""
        self.nats = 0.0
        """Log-likelihood of all samples together."""
        self._loaded = loaded
        names = loaded.template.target
        self._streams = dict.fromkeys(names, 0.0)
        self._tokens = dict.fromkeys(names, 0)
        self._units = dict.fromkeys(names, 0)
        self._known = True

    @property
    def tokens(self) -> int:
        """Predicted tokens of all samples."""
        return sum(self._tokens.values())

    def add(self, score: Score) -> None:
        """Take a sample in."""
        self.samples += 1
        self.cut += score.pieces > 1
        self.nats += score.nats
        self._known = self._known and bool(score.streams)
        for name, count in score.tokens.items():
            self._tokens[name] += count
            self._units[name] += score.units[name]
            self._streams[name] += score.streams.get(name, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the totals and means, JSON-ready; see `score.ScoreResult`."""
        nats, tokens = self.nats, self.tokens
        return {
            "samples": self.samples,
            "cut": self.cut,
            "tokens": tokens,
            "nats": nats,
            "nats_per_sample": nats / self.samples,
            "metrics": {"bits_per_token": bits_per(-nats, tokens), "loss": -nats / tokens, **self._rates()},
            "streams": {
                name: {
                    "nats": value,
                    "tokens": self._tokens[name],
                    "nats_per_sample": value / self.samples,
                    **({"bits_per_token": bits_per(-value, self._tokens[name])} if self._tokens[name] else {}),
                }
                for name, value in self._streams.items()
            }
            if self._known
            else {},
        }

    def _rates(self) -> dict[str, float]:
        """Return the rates of each stream, of all its parts together."""
        found: dict[str, float] = {}
        template = self._loaded.template
        for stream in dict.fromkeys(map(template.stream_of, template.target)) if self._known else ():
            parts = [name for name in template.target if template.stream_of(name) == stream]
            nats, number = (sum(of[name] for name in parts) for of in (self._streams, self._units))
            found |= Units(self._loaded.tokenizers[stream]).rates(stream, -nats, int(number))
        return found
