"""Which field feeds which stream: what ``--field`` and ``--media-field`` mean for the streams of a run.

    --field STREAM=PLACE    the place of one stream
    --field PLACE           the place of the one stream that has none yet: the text, or else the picture, sound or film
    --media-field PLACE     the place of the pictures, sounds or films

What a place can be is told by `tokenize_kit.sources.parts` and `tokenize_kit.sources.members`. A stream without a place of its
own is read from where its modality usually is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenize_kit.protocol import modality_named
from tokenize_kit.sources.planning import TEXT_FIELD, Source


@dataclass(frozen=True)
class Feeds:
    """Where the streams of a run are read from, in the words of `tokenize_kit.sources.planning.ReadOptions`."""

    modalities: tuple[str, ...]
    named: tuple[Source, ...]
    text_field: str
    media_field: str | None
    unclear: tuple[str, ...] = ()
    """Streams of several modalities that ``--media-field`` alone would feed from one place; a run cannot begin so."""

    @property
    def places(self) -> dict[str, str]:
        """The places of the streams that have one of their own."""
        return {source.name: source.field for source in self.named if source.field is not None}


def feeds_of(streams: Mapping[str, str], fields: Sequence[str], media_field: str | None) -> Feeds:
    """Return where each stream is read from.

    Args:
        streams: the modality of each stream.
        fields: what was given with ``--field``; a ``str`` is one of them.
        media_field: what was given with ``--media-field``.

    Raises:
        ValueError: a stream is not there, has two places, or a place would be ignored or is for several streams.
    """
    places: dict[str, str] = {}
    alone: list[str] = []
    for given in (fields,) if isinstance(fields, str) else fields:
        name, place = _divided(given, streams)
        if name is None:
            alone.append(place)
        elif places.setdefault(name, place) != place:
            raise ValueError(f"--field gives the stream {name} two places, {places[name]} and {place}; leave one out")
    text_field = TEXT_FIELD
    for place in dict.fromkeys(alone):
        name = _only_one([name for name in streams if name not in places], streams, place)
        kind = modality_named(streams[name])
        textual = kind.textual and not kind.usual_field
        if len(set(alone)) > 1:
            raise ValueError(
                f"--field is given without a stream twice: {' and '.join(alone)}; write {name}=... for one"
            )
        if textual and place != TEXT_FIELD:
            text_field = place  # as it was before streams could have places of their own
        else:
            places[name] = place
    left = [name for name in streams if name not in places]
    media = [name for name in left if not modality_named(streams[name]).textual]
    if media_field is not None and not media:
        raise ValueError(
            f"--media-field {media_field} is given, but no stream is left for it; leave it out, or use --field"
        )
    kinds = dict.fromkeys(streams[name] for name in media)
    unclear = tuple(media) if media_field is not None and len(kinds) > 1 else ()
    # A source is named after its stream or after its modality, so no stream with a place may have the name of a modality.
    clash = {streams[name] for name in left} & set(places)
    named = [
        Source(name, streams[name], places.get(name)) for name in streams if name in places or streams[name] in clash
    ]
    modalities = tuple(dict.fromkeys(streams[name] for name in left if streams[name] not in clash))
    return Feeds(modalities, tuple(named), text_field, media_field, unclear)


def _divided(given: str, streams: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the stream that ``--field`` names, if it does, and the place."""
    for sign in "=:":
        # Lists of tar members are often written with a colon; in txt:2, the second line, no stream stands before it.
        name, there, place = given.partition(sign)
        if there and name in streams:
            if not place:
                raise ValueError(f"--field {given} names no field")
            return name, place
    if "=" in given:
        raise ValueError(
            f"--field {given}: there is no stream {given.partition('=')[0]!r}; there is {', '.join(streams)} (a field whose name "
            f"has '=' in it is written as {next(iter(streams))}={given})"
        )
    if not given:
        raise ValueError("--field names no field")
    return None, given


def _only_one(left: Sequence[str], streams: Mapping[str, str], place: str) -> str:
    """Return the stream that a place is for which names none."""
    kinds = {name: modality_named(streams[name]) for name in left}
    texts = [name for name in left if kinds[name].textual and not kinds[name].usual_field]
    found = texts or list(left)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"--field {place} is given, but every stream has a field already; leave it out")
    each = " ".join(f"--field {name}=FIELD" for name in found)
    raise ValueError(
        f"--field {place} does not say which of the streams {', '.join(found)} it is for; give each its own: {each}"
    )
