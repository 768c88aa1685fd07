"""How a report shows samples beside what comes back: one function a kind of data, which its `Modality` names as ``show``.

Each takes the page, the examples and the spec of the samples. A kind of data that names none gets `show_samples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from tokenize_kit.protocol import modality_of, resolved
from tokenize_kit.report.html import Page, Pair, SoundPair, VideoPair

if TYPE_CHECKING:
    from torch import Tensor

    from tokenize_kit.metrics.result import Example
    from tokenize_kit.protocol import Sample, TokenSpec

_FRAME_RATE = 12.0
"""At which videos are shown whose tokenizer names none."""
_ENLARGED_TO = 112
"""Small drawn pictures are enlarged, by a whole factor, to about this many pixels."""


def show(page: Page, examples: Sequence[Example], spec: TokenSpec) -> None:
    """Show examples as their kind of data declares it."""
    resolved(modality_of(spec).show or show_samples)(page, examples, spec)


def show_samples(page: Page, examples: Sequence[Example], spec: TokenSpec) -> None:
    """Show samples of any kind: a table of keys, sizes and what was measured."""
    kind = modality_of(spec)
    rows = [(example.key, " x ".join(map(str, kind.size(example.sample))), example.note) for example in examples]
    page.table(("sample", "size", "measured"), rows)


def show_texts(page: Page, examples: Sequence[Example], spec: TokenSpec) -> None:  # noqa: ARG001
    """Show each text with its tokens, where they are known, and what came back where that is another text."""
    for example in examples:
        if example.tokens is not None:
            page.tokens(example.tokens, example.ids)
        else:
            page.quote(str(example.sample))
        if example.tokens is None or example.sample != example.reconstruction:
            page.quote(str(example.reconstruction))


def show_pictures(page: Page, examples: Sequence[Example], spec: TokenSpec) -> None:  # noqa: ARG001
    """Show pictures side by side with what came back."""
    page.pairs([Pair(*_tensors(example), example.key, example.note) for example in examples])


def show_sounds(page: Page, examples: Sequence[Example], spec: TokenSpec) -> None:
    """Show sounds above what came back, with players."""
    assert spec.sample_rate is not None, "the measure of sounds needs it"
    page.sounds([SoundPair(*_tensors(example), example.key, example.note) for example in examples], spec.sample_rate)


def show_videos(page: Page, examples: Sequence[Example], spec: TokenSpec) -> None:
    """Show videos side by side with what came back, moving, and some frames of each."""
    pairs = [VideoPair(*_tensors(example), example.key, example.note) for example in examples]
    page.videos(pairs, spec.frame_rate or _FRAME_RATE)


def _tensors(example: Example) -> tuple[Tensor, Tensor]:
    return cast("Tensor", example.sample), cast("Tensor", example.reconstruction)


def show_single(page: Page, samples: Sequence[tuple[Sample, str]], spec: TokenSpec) -> None:
    """Show samples by themselves, such as drawn ones, each with a caption, as their kind of data shows pairs."""
    shown = resolved(modality_of(spec).show or show_samples)
    _SINGLE.get(shown, _single_samples)(page, samples, spec)


def _single_samples(page: Page, samples: Sequence[tuple[Sample, str]], spec: TokenSpec) -> None:
    kind = modality_of(spec)
    page.table(("sample", "size"), [(caption, " x ".join(map(str, kind.size(sample)))) for sample, caption in samples])


def _single_texts(page: Page, samples: Sequence[tuple[Sample, str]], spec: TokenSpec) -> None:  # noqa: ARG001
    for sample, _ in samples:
        page.quote(str(sample))


def _single_pictures(page: Page, samples: Sequence[tuple[Sample, str]], spec: TokenSpec) -> None:  # noqa: ARG001
    side = max(max(cast("Tensor", sample).shape[-2:]) for sample, _ in samples)
    page.pictures(
        [(cast("Tensor", sample), caption) for sample, caption in samples], scale=max(1, _ENLARGED_TO // side)
    )


def _single_sounds(page: Page, samples: Sequence[tuple[Sample, str]], spec: TokenSpec) -> None:
    assert spec.sample_rate is not None, "the measure of sounds needs it"
    page.recordings([(cast("Tensor", sample), caption) for sample, caption in samples], spec.sample_rate)


def _single_videos(page: Page, samples: Sequence[tuple[Sample, str]], spec: TokenSpec) -> None:
    page.films([(cast("Tensor", sample), caption) for sample, caption in samples], spec.frame_rate or _FRAME_RATE)


_SINGLE = {
    show_texts: _single_texts,
    show_pictures: _single_pictures,
    show_sounds: _single_sounds,
    show_videos: _single_videos,
}
"""By the function that shows pairs of a kind the one that shows its samples alone."""
