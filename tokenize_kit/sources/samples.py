"""Samples of one tokenizer's modality out of any source, one after another: what trainers and metrics read.

The encode pipeline does not come through here; it reads units in many processes and keeps keys, captions and failures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenize_kit.protocol.modality import modality_of
from tokenize_kit.sources.blocks import Failure

if TYPE_CHECKING:
    from tokenize_kit.protocol import Clips, Sample, TokenSpec

# How much input is planned at once: it bounds nothing but the size of the plan.
_UNIT_BYTES = 64 << 20


class KeyedSample(NamedTuple):
    """A sample and where it came from."""

    key: str
    """Its name, as the shards would call it."""
    sample: Sample
    """As `TokenSpec` describes it."""


def iter_samples(
    data: Sequence[str],
    spec: TokenSpec,
    on_failure: Callable[[Failure], None],
    *,
    split: str = "none",
    field: str | None = None,
    media_field: str | None = None,
    image_size: int | None = None,
    pad: bool = False,
    fps: float | None = None,
    clips: Clips | None = None,
    keep: Callable[[str], bool] | None = None,
    on_conversion: Callable[[str], None] | None = None,
    on_remark: Callable[[str], None] | None = None,
    leave_out: Sequence[str] = (),
) -> Iterator[KeyedSample]:
    """Yield the samples of files, folders, globs and URLs, in the order in which they would be encoded.

    Args:
        data: what to read, see `listing.list_files`.
        spec: the samples that are wanted: modality and channels.
        on_failure: called with each `Failure`: a sample that cannot be read; reading goes on.
        split: what a sample of a txt file is: ``none``, ``lines`` or ``paragraphs``.
        field: where in a row or among the files of one stem the sample is, see `parts`; None is its usual place.
        media_field: the same for pictures and sounds only.
        image_size: scale and crop pictures to a square of this many pixels; None leaves them as they are.
        pad: with ``image_size``: scale and pad them to that square instead.
        fps: frames a second that are taken of films; None is what ``spec`` wants.
        clips: how films are cut into samples; None takes them whole.
        keep: called with each key; only samples of which it says True are decoded. See `tokenize_kit.sources.heldout`.
        on_conversion: called for each file that was not of the sample rate or channels that ``spec`` wants, with what was done.
        on_remark: called with what should be known of the input, such as what is not read; see `planning.find_sources`.
        leave_out: folders that are no input although they lie in it.

    Raises:
        FileNotFoundError: nothing is there, or nothing of this modality.
        ValueError: an option does not suit the modality.
    """
    from tokenize_kit.sources.decoding import RowDecoder, Shaping, check_timed
    from tokenize_kit.sources.fields import check_places
    from tokenize_kit.sources.planning import ReadOptions, Source, find_sources, plan_units
    from tokenize_kit.sources.reading import read_unit

    kind = modality_of(spec)
    if image_size is not None and not kind.resizable:
        raise ValueError(f"image size {image_size} is given, but the tokenizer reads {spec.modality}; leave it out")
    check_timed(fps, clips, [spec])
    if media_field is not None:
        if kind.textual or field not in (None, media_field):
            what = "the tokenizer reads texts" if kind.textual else f"the field {field} too"
            raise ValueError(f"media field {media_field} is given, but {what}; leave it out")
        field = media_field
    source = Source(spec.modality, spec.modality, field)
    options = ReadOptions(modalities=(), split=split, named=(source,), incomplete="fail")
    files = find_sources(data, options, leave_out, on_remark)
    if (remark := check_places(files, options)) and on_remark:
        on_remark(remark)
    decoder = RowDecoder({spec.modality: spec}, Shaping(image_size, True, pad, fps, clips))
    for unit in plan_units(files, options, _UNIT_BYTES):
        for block in read_unit(unit, options):
            for failure in block.failures:
                on_failure(failure)
            for key, content in zip(block.keys, block.contents[spec.modality], strict=True):
                name = _plain(key)
                if keep is not None and not keep(name):
                    continue
                for decoded in decoder(name, {spec.modality: _plain(content)}):
                    if on_conversion:
                        for note in decoded.notes:
                            on_conversion(note)
                    if decoded.failure is not None:
                        on_failure(decoded.failure)
                    elif decoded.samples:
                        yield KeyedSample(decoded.key, decoded.samples[spec.modality])


def _plain(value: Any) -> Any:
    """Return an Arrow scalar as a Python value."""
    return value.as_py() if hasattr(value, "as_py") else value
