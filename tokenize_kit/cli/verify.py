"""``tokenize-kit verify SHARDS``: the options of the command around `tokenize_kit.shards.verify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from tokenize_kit.progress import Progress
    from tokenize_kit.shards.verify import VerifyReport


@dataclass(frozen=True)
class VerifyCommandOptions:
    """Check hashes, row and token counts, id ranges and fingerprints of a shard set; exit code 3 if anything differs."""

    shards: Annotated[Positional[str], arg(metavar="SHARDS")]
    """The shard set: a folder or an fsspec URL."""
    tokenizer: tuple[str, ...] = ()
    """Tokenizer folders that the shards must have been made with."""


def verify_command(options: VerifyCommandOptions, progress: Progress) -> VerifyReport:
    """Verify one shard set, and show how far it is.

    Raises:
        VerificationError: something differs; the message lists what.
    """
    from tokenize_kit.shards.verify import verify

    return verify(options.shards, options.tokenizer, progress)
