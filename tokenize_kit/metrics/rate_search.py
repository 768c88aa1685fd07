"""The search for the settings at which the rate of a codec is near to some others, in few runs of the codec."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product

_FALL = 0.1
"""About how much the logarithm of the rate falls from one setting to the next."""
_NEAR_ENOUGH = 0.03
"""What it may be off."""
_BEYOND = (3, 7)
"""How many settings beside the nearest ones the ends of a curve lie."""


def rates_near(measure: Callable[[int], float], settings: range, wanted: Sequence[float]) -> dict[int, float]:
    """Return the rates at the settings nearest to those wanted, at some beyond, and at what was tried on the way.

    Args:
        measure: runs the codec at a setting and returns its rate, which falls with the setting; called once for each.
        settings: those that the codec has.
        wanted: rates, each above 0.
    """
    rates: dict[int, float] = {}

    def rate(setting: int) -> float:
        if setting not in rates:
            rates[setting] = max(measure(setting), 1e-9)
        return rates[setting]

    nearest = {_nearest(rate, settings, one, rates) for one in wanted}
    for step, sign in product(_BEYOND, (-1, 1)):
        rate(_within((min if sign < 0 else max)(nearest) + sign * step, settings))
    return rates


def _nearest(rate: Callable[[int], float], settings: range, wanted: float, known: Mapping[int, float]) -> int:
    """Return the setting whose rate is nearest to the one wanted, or within `_NEAR_ENOUGH` of it.

    The search keeps a bracket and guesses in it along the logarithm of the rate, which is nearly straight.
    """
    low, high = settings[0] - 1, settings[-1] + 1  # the rate is above and below the one wanted, or an end is not tried
    for setting, value in known.items():
        low, high = (max(low, setting), high) if value >= wanted else (low, min(high, setting))

    def off(setting: int) -> float:
        return math.log(rate(setting) / wanted)

    while high - low > 1:
        tried = [end for end in (low, high) if end in settings]
        if len(tried) == 2:
            guess = low + round((high - low) * off(low) / (off(low) - off(high)))
        else:
            guess = tried[0] + round(off(tried[0]) / _FALL) if tried else settings[len(settings) * 3 // 4]
        guess = min(max(guess, low + 1), high - 1)
        if abs(off(guess)) < _NEAR_ENOUGH:
            return guess
        low, high = (guess, high) if off(guess) >= 0 else (low, guess)
    return min((end for end in (low, high) if end in settings), key=lambda setting: abs(rate(setting) - wanted))


def _within(setting: int, settings: range) -> int:
    return min(max(setting, settings[0]), settings[-1])
