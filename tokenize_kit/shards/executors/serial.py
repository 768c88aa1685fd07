"""One unit after the other, in this process, with the tokenizers that are in memory already."""

from __future__ import annotations

from collections.abc import Iterable

from tokenize_kit.shards.executors.base import Job
from tokenize_kit.shards.options import EncodeOptions
from tokenize_kit.shards.unit import encode_unit
from tokenize_kit.sources.planning import Unit


class SerialExecutor:
    """See `base.Executor`. It takes each unit only when the one before is done, so that a limit of samples can be kept."""

    def __init__(self, options: EncodeOptions) -> None:
        del options  # there is nothing to choose

    def run(self, units: Iterable[Unit], job: Job) -> None:
        """Encode all units in order."""
        setup = job.setup
        tokenizers = {name: setup.placement.place(tokenizer) for name, tokenizer in job.tokenizers.items()}
        for unit in units:
            samples, failures = job.left()
            result = encode_unit(
                unit,
                tokenizers,
                setup.recipe,
                setup.out,
                limit=samples,
                max_failures=failures,
                report=job.report,
                placement=setup.placement,
            )
            job.done(result)
