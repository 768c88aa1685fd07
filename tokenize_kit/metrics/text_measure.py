"""What `evaluate` measures on texts: how many come back, and how short the tokens make them."""

from __future__ import annotations

from collections.abc import Sequence

from tokenize_kit.metrics.measures import Judgement, Measure, Metrics, Totals
from tokenize_kit.metrics.options import EvaluateOptions
from tokenize_kit.protocol import TokenSpec


class TextMeasure(Measure):
    """Texts: how many come back, and how short the tokens make them."""

    def __init__(self, _spec: TokenSpec, _options: EvaluateOptions) -> None:
        self._exact = self._bytes = self._characters = self._words = 0

    def add(self, samples: Sequence[str], reconstructions: Sequence[str]) -> list[Judgement]:
        """Measure texts."""
        return [self._judge(*pair) for pair in zip(samples, reconstructions, strict=True)]

    def _judge(self, sample: str, reconstruction: str) -> Judgement:
        exact = sample == reconstruction
        self._exact += exact
        self._bytes += len(sample.encode())
        self._characters += len(sample)
        self._words += len(sample.split())
        return Judgement("exact", 0.0) if exact else Judgement("not equal", 1.0)

    def summary(self, totals: Totals) -> Metrics:
        """See `Measure`."""
        return {
            "exact_samples": self._exact,
            "bytes": self._bytes,
            "bytes_per_token": self._bytes / totals.tokens,
            "characters_per_token": self._characters / totals.tokens,
            "tokens_per_word": totals.tokens / self._words if self._words else None,
            "bits_per_byte": totals.fixed_bits / self._bytes,
            "entropy_bits_per_byte": totals.entropy_bits / self._bytes,
            "encode_megabytes_per_second": self._bytes / 1e6 / totals.encoding,
            "decode_megabytes_per_second": self._bytes / 1e6 / totals.decoding,
        }

    def protocol(self) -> str:
        """See `Measure`."""
        return (
            "exact_samples counts texts that come back equal, character for character. Bytes are those of UTF-8, words are "
            "what whitespace parts; every ratio is over the whole set."
        )
