"""Where the channels of a sound belong, and how many of them become two.

The names of speakers are FFmpeg's: FL and FR front left and right, FC the centre, LFE the low frequencies, BL, BR, BC behind,
SL and SR at the sides. Rec. ITU-R BS.775 gives the weights: the centre and each surround channel go into left and right
with the square root of one half, low frequencies into none. All weights are divided by the largest sum (2.414 for 5.1), as
FFmpeg does for integer samples, so that nothing that was within full scale is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MASK = (
    *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR"),
    *("TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"),
)
"""Of the bits of ``dwChannelMask`` in WAVE_FORMAT_EXTENSIBLE, from the lowest."""

WAV = {
    3: ("FL", "FR", "FC"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
"""The order of wav files that name no speakers, and of FLAC (RFC 9639, section 9.1.3)."""

VORBIS = {
    3: ("FL", "FC", "FR"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FC", "FR", "BL", "BR"),
    6: ("FL", "FC", "FR", "BL", "BR", "LFE"),
    7: ("FL", "FC", "FR", "SL", "SR", "BC", "LFE"),
    8: ("FL", "FC", "FR", "SL", "SR", "BL", "BR", "LFE"),
}
"""The order of Vorbis (specification I, section 4.3.9) and of Opus with mapping family 1 (RFC 7845)."""

_ROOT = 0.5**0.5
_WEIGHTS = {
    **dict.fromkeys(("FL", "FLC", "DL", "TFL", "WL"), (1.0, 0.0)),
    **dict.fromkeys(("FR", "FRC", "DR", "TFR", "WR"), (0.0, 1.0)),
    **dict.fromkeys(("BL", "SL", "TBL", "TSL"), (_ROOT, 0.0)),
    **dict.fromkeys(("BR", "SR", "TBR", "TSR"), (0.0, _ROOT)),
    **dict.fromkeys(("FC", "TFC"), (_ROOT, _ROOT)),
    # One surround channel is two with half its power each.
    **dict.fromkeys(("BC", "TC", "TBC"), (0.5, 0.5)),
    **dict.fromkeys(("LFE", "LFE2"), (0.0, 0.0)),
}


def of_mask(mask: int, channels: int) -> tuple[str, ...]:
    """Return the speakers of a channel mask; those of `WAV` if it is not for so many channels."""
    named = tuple(name for bit, name in enumerate(_MASK) if mask >> bit & 1)
    return named if len(named) == channels and mask < 1 << len(_MASK) else WAV.get(channels, ())


def stereo_weights(speakers: Sequence[str], channels: int) -> NDArray[np.float32]:
    """Return what each channel adds to left and right, float32 ``(channels, 2)``.

    Raises:
        ValueError: it is not known where the channels belong.
    """
    if len(speakers) != channels or not set(speakers) <= set(_WEIGHTS):
        known = f" ({', '.join(speakers)})" if speakers else ""
        raise ValueError(
            f"a sound of {channels} channels{known} cannot be made stereo: it does not say where they belong; "
            "mix it down first, or use a tokenizer of one channel"
        )
    weights = np.array([_WEIGHTS[name] for name in speakers])
    largest = weights.sum(0).max()
    if not largest:
        raise ValueError(f"a sound of the channels {', '.join(speakers)} has nothing for left and right")
    scaled: NDArray[np.float32] = (weights / largest).astype(np.float32)
    return scaled
