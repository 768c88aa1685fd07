"""The errors that a user can cause, each with the exit code that the command line gives it.

An ordinary wrong value is a plain ``ValueError`` (exit code 1) whose message names the value and the fix; the classes
here are the cases that a script wants to tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "bad_alloc", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, numpy, torch or the system says that there is no memory left."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error).lower() for words in _NO_MEMORY)


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known: the closest one that is, or nothing."""
    close = get_close_matches(value, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class UsageError(ValueError):
    """The command line or a configuration file asks for something that does not exist (exit code 2)."""

    exit_code = 2


class DamagedFileError(ValueError):
    """A file is not what its format says: it is cut, or bytes in it are wrong. The message says what is, not which file."""


class NoTrackError(ValueError):
    """A file of several tracks has none of the kind that is asked for: a film without a sound track, a sound without pictures."""


class VerificationError(ValueError):
    """Stored data is not what its manifest says: a hash, a count, a range or a fingerprint differs (exit code 3)."""

    exit_code = 3


class MissingPackageError(ImportError):
    """An optional package is needed for what was asked (exit code 4); the message names the ``pip install``."""

    exit_code = 4


class MissingWeightsError(RuntimeError):
    """Weights that were asked for are neither on this machine nor to be had from the network (exit code 4)."""

    exit_code = 4


class TooManyFailuresError(RuntimeError):
    """More samples could not be read than ``--max-failures`` allows (exit code 5)."""

    exit_code = 5
