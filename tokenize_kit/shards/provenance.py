"""With what a shard was made: versions, platform and place.

Ids that come out of floating point may differ between these, so the ledger of a unit names them. They decide nothing: a unit that
was made elsewhere is as finished as any other.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

from tokenize_kit.protocol import Placement


def made_with(placement: Placement) -> dict[str, str]:
    """Return what the ledger of a unit says of the machine that made it, JSON-ready."""
    return {**_here(), "device": placement.device, "precision": placement.precision}


@cache
def _here() -> dict[str, str]:
    # The version of torch comes from its package: a text tokenizer does not load torch for this.
    return {
        "tokenize-kit": version("tokenize-kit"),
        "torch": version("torch"),
        "platform": f"{platform.system()} {platform.machine()}",
    }
