r"""Names as they lie on disks, in archives and in JSON, made fit for keys, ledgers and messages: valid UTF-8, reversibly.

A file name is bytes, and Python holds those that are not UTF-8 as lone surrogates (PEP 383), which no Arrow string and no file in
UTF-8 can hold. `printable` writes each of them as ``\udcXX``, as JSON does; `original` gives the name back.
"""

from __future__ import annotations

import re

_LONE = re.compile("[\ud800-\udfff]")
# What is written as an escape, or would read like one, with the backslashes before it.
_LIKE_ESCAPES = re.compile("(\\\\*)([\ud800-\udfff])|(\\\\+)(?=ud[89a-f][0-9a-f]{2})")
_ESCAPES = re.compile(r"(\\+)(ud[89a-f][0-9a-f]{2})")


def printable(name: str) -> str:
    r"""Return a name as valid UTF-8: lone surrogates become ``\udcXX``; a name without any stays as it is.

    Backslashes before an escape, or before what would read like one, are doubled, so that no two names become one.
    """
    if name.isascii() and "\\" not in name:
        return name
    return _LIKE_ESCAPES.sub(_escape, name)


def original(text: str) -> str:
    """Return the name of which `printable` made this."""
    return _ESCAPES.sub(_unescape, text) if "\\" in text else text


def without_surrogates(text: str) -> str:
    r"""Return a text for people, such as a reason, as valid UTF-8: lone surrogates become ``\udcXX``."""
    return text if text.isascii() else _LONE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(found: re.Match[str]) -> str:
    if found[2]:
        return f"{found[1] * 2}\\u{ord(found[2]):04x}"
    return found[3] * 2


def _unescape(found: re.Match[str]) -> str:
    half, odd = divmod(len(found[1]), 2)
    return "\\" * half + (chr(int(found[2][1:], 16)) if odd else found[2])
