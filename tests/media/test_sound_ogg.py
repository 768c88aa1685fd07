"""Ogg files: all links, all pages of a sound and none of other tracks."""

import struct

import numpy as np
import pytest
import torch
from toys.files import RATE, encoded, sound, tone
from toys.sounds import ID3, exact, joined, page, pages, read

VORBIS = sound(tone(2), RATE, "OGG", serial=1)
STEREO = sound(np.stack([tone(0.5, 44_100)] * 2, 1), 44_100, "OGG", serial=2)
OPUS = sound(tone(2, 48_000), 48_000, "OGG", "OPUS", serial=3)
FLAC = encoded(tone(2), RATE, "ogg", "flac")


def speex(packets):
    """Silence at 8 kHz, 160 samples a packet."""
    head = struct.pack("<8s20s13I", b"Speex   ", b"1.2", 1, 80, 8000, 0, 4, 1, 0xFFFFFFFF, 160, 0, 1, 0, 0, 0)
    body = bytearray(page(5, 2, 4, b"\x03\xff" * packets, 160 * packets))
    body[26 : -2 * packets] = bytes([packets]) + b"\2" * packets
    return joined([page(5, 0, 2, head), page(5, 1, 0, struct.pack("<I3sI", 3, b"abc", 0)), body])


def moved(data, offset):
    """A stream whose time does not begin at 0, as one recorded from a radio."""
    changed = pages(data)
    for one in changed:
        (granule,) = struct.unpack_from("<q", one, 6)
        if granule > 0:
            struct.pack_into("<q", one, 6, granule + offset)
    return joined(changed)


@pytest.mark.parametrize("data", [VORBIS, STEREO, OPUS])
def test_a_single_link_is_what_the_library_decodes(data):
    assert torch.equal(read(data), exact(data))


@pytest.mark.parametrize("links", [(VORBIS, VORBIS), (OPUS, OPUS, OPUS), (FLAC, FLAC), (VORBIS, OPUS, FLAC, STEREO)])
def test_all_links_of_a_chain_are_read(links):
    parts = [read(link, RATE, 1) for link in links]
    assert torch.equal(read(b"".join(links), RATE, 1), torch.cat(parts, 1))


def test_links_of_another_rate_and_other_channels_are_brought_to_the_first():
    assert torch.equal(read(VORBIS + STEREO), torch.cat([read(VORBIS), read(STEREO, RATE, 1)], 1))
    assert torch.equal(read(STEREO + VORBIS), torch.cat([read(STEREO), read(VORBIS, 44_100, 2)], 1))


def test_speex_is_read():
    assert read(speex(100)).shape == (1, 16_000)
    assert read(speex(100) + speex(50)).shape == (1, 24_000)
    with pytest.raises(ValueError, match="middle of an Ogg page"):
        read(speex(100)[:-4])


@pytest.mark.parametrize("data", [VORBIS, OPUS, FLAC], ids=["vorbis", "opus", "flac"])
def test_a_page_that_is_missing_cut_or_damaged_is_a_failure(data):
    found = pages(data)
    turned = bytearray(data)
    turned[len(data) * 2 // 3] ^= 1
    unmarked = [*found[:-1], found[-1][:5] + bytes([found[-1][5] & ~4]) + found[-1][6:]]
    for damaged, message in [
        (data[: len(data) // 2], "in the middle of an Ogg page"),
        (b"".join(found[:-1]), "not marked as the last"),
        (joined(unmarked), "not marked as the last"),
        (b"".join([*found[:-2], found[-1]]), "Ogg pages are missing"),
        (b"".join([*found[:-2], found[-1], found[-2]]), "Ogg pages are missing"),
        (b"".join([*found[:-1], found[-2], found[-1]]), "Ogg pages are missing"),
        (bytes(turned), "does not fit its checksum"),
        (b"".join(found[:-1]) + VORBIS, "not marked as the last"),
        (VORBIS + data[: len(data) // 2], "in the middle of an Ogg page"),
        (VORBIS + b"".join(found[:-1]), "not marked as the last"),
        (data + b"some words behind", "no Ogg page"),
    ]:
        with pytest.raises(ValueError, match=message):
            read(damaged)


@pytest.mark.parametrize("data", [VORBIS, OPUS, FLAC], ids=["vorbis", "opus", "flac"])
def test_a_stream_that_begins_late_is_healthy(data):
    assert 0 <= read(moved(data, 1_000_000)).shape[1] - read(data).shape[1] <= 2048


def test_tags_and_zeros_around_the_pages_are_no_sound():
    assert torch.equal(read(ID3 + VORBIS), exact(VORBIS))
    assert torch.equal(read(VORBIS + bytes(100)), exact(VORBIS))


def test_pages_of_other_tracks_are_left_out():
    own = pages(VORBIS)
    skeleton, film = page(99, 0, 2, b"fishead\0" + bytes(56)), page(50, 0, 2, b"\x80theora" + bytes(35))
    data = joined(
        [
            *(skeleton, film, *own[:2]),
            *(page(99, 1, 4, b""), page(50, 1, 0, bytes(300), 5), *own[2:-1], page(50, 2, 4, bytes(200), 9), own[-1]),
        ]
    )
    assert torch.equal(read(data), exact(VORBIS))
    with pytest.raises(ValueError, match="without a sound track"):
        read(joined([film, page(50, 1, 4, bytes(300), 5)]))


def test_the_first_of_several_sounds_is_taken():
    one, two = pages(VORBIS), pages(STEREO)
    assert torch.equal(read(joined([one[0], two[0], *one[1:], *two[1:]])), exact(VORBIS))


def test_an_opus_file_from_a_pipe_is_read():
    data = encoded(tone(1, 48_000), 48_000, "ogg", "libopus", pipe=True)
    assert read(data).shape == (1, 48_000)
