"""Sounds in Ogg files (RFC 3533): each link, and the pages of one sound apart from those of other tracks.

A chained file is several files one behind the other, its links: each gets a decoder of its own. Whether all pages are there
says `tokenize_kit.media.containers.ogg`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from tokenize_kit.errors import NoTrackError
from tokenize_kit.media.audio.part import Part, Pieces
from tokenize_kit.media.audio.speakers import VORBIS, WAV
from tokenize_kit.media.containers.ogg import Page, pages
from tokenize_kit.media.containers.peek import CUT, Peek


class _Sound(NamedTuple):
    """What the first packet of a sound track says."""

    rate: int
    channels: int
    speakers: tuple[str, ...]
    packet: int
    """The most samples of a packet."""
    exact: bool = False
    """Whether the last granule position is the number of samples, whoever decodes them."""


@dataclass
class _Track:
    """The pages of one logical stream."""

    sound: _Sound | None
    pages: list[tuple[int, int]] = field(default_factory=list)
    """Stretches of the file; pages that follow one another are one."""
    ended: bool = False
    packets: int = 0
    """So many ended on the page that had a granule position first."""
    first: int = -1
    """The first granule position behind the headers."""
    last: int = -1
    """The last one."""


def ogg_parts(peek: Peek, start: int) -> list[Part]:
    """Return one part for each link of an Ogg file that begins at ``start``.

    Raises:
        ValueError: a page is damaged, missing or cut, or a link holds no sound that is known.
    """
    links: list[dict[int, _Track]] = []
    for page in pages(peek, start):
        if page.link == len(links):
            links.append({})
        if page.first:
            links[-1][page.serial] = _Track(_sound_of(page.body))
        _add(links[-1][page.serial], page)
    return [_part(peek, link, index) for index, link in enumerate(links)]


def _add(track: _Track, page: Page) -> None:
    if track.pages and track.pages[-1][1] == page.place:
        track.pages[-1] = (track.pages[-1][0], page.place + page.size)
    else:
        track.pages.append((page.place, page.place + page.size))
    if page.granule > 0 or (page.granule == 0 and track.last > 0):
        if track.first < 0:
            track.first, track.packets = page.granule, page.packets
        if page.granule < track.last and track.sound:
            raise ValueError(f"the Ogg page at byte {page.place:,} goes back in time; the sound is damaged")
        track.last = page.granule
    track.ended = page.last


def _part(peek: Peek, link: dict[int, _Track], index: int) -> Part:
    sounds = [(track, track.sound) for track in link.values() if track.sound]
    if not sounds:
        which = f"link {index + 1} of an Ogg file" if index else "an Ogg file"
        raise NoTrackError(f"{which} without a sound track that is known (Vorbis, Opus, FLAC, Speex)")
    track, sound = sounds[0]
    if not track.ended:
        raise ValueError(f"the last Ogg page of the sound is not marked as the last; {CUT}")
    whole = track.pages == [(0, peek.size)]
    # A stream that was recorded from its middle does not begin at 0, which the decoder takes for a longer one.
    shifted = track.first > track.packets * sound.packet
    samples = track.last - track.first if shifted else track.last if sound.exact else None
    note = f"the first of {len(sounds)} sound tracks taken" if len(sounds) > 1 else ""
    file = peek.file if whole else Pieces(peek.file, list(track.pages))
    return Part(
        file,
        samples,
        counted=not shifted,
        speakers=sound.speakers,
        rate=sound.rate,
        channels=sound.channels,
        note=note,
    )


def _sound_of(head: bytes) -> _Sound | None:
    """Read the first packet of a track; None if it is no sound that is known."""
    if head[:7] == b"\x01vorbis" and len(head) >= 30:
        channels, rate = struct.unpack_from("<BI", head, 11)
        return _Sound(rate, channels, VORBIS.get(channels, ()), 1 << (head[28] >> 4))
    if head[:8] == b"OpusHead" and len(head) >= 19:
        channels = head[9]
        return _Sound(48_000, channels, VORBIS.get(channels, ()) if head[18] == 1 else (), 5760)
    if head[:5] == b"\x7fFLAC" and len(head) >= 35:
        packed = int.from_bytes(head[27:35], "big")
        channels = (packed >> 41 & 7) + 1
        return _Sound(packed >> 44, channels, WAV.get(channels, ()), 65_535, exact=True)
    if head[:8] == b"Speex   " and len(head) >= 68:
        rate, _, _, channels, _, frame, _, per_packet = struct.unpack_from("<8I", head, 36)
        return _Sound(rate, channels, (), max(1, frame * max(1, per_packet)))
    return None
