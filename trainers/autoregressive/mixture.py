"""Several templates and shard sets in one run: which rows come from where, and in which order.

Each template reads the shard sets that have its streams, and all of them have one vocabulary. A *source* is the rows of one
template, or of one template from one shard set where the sets are weighted; it has an endless line of rows of its own, all of
them once an epoch (`batches.PackedDataset`). `Interleaving` makes one line of these lines. It is a rule for the number of a row
alone, so the position in the data stays the step, whatever the number of processes, and no row is lost or comes twice:

    row         0  1  2  3  4  5  6  7  8  9 10 11 ..      weights 2 : 1 : 1, a period of 4
    source      A  B  C  A  A  B  C  A  A  B  C  A ..
    its row     0  0  0  1  2  1  1  3  4  2  2  5 ..
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenize_kit.files import canonical_json
from tokenize_kit.sequences.documents import FlatStream, vocabulary_of
from tokenize_kit.sequences.packing import Ints
from tokenize_kit.sequences.template import SequenceTemplate
from tokenize_kit.sequences.vocabulary import Vocabulary
from tokenize_kit.shards import ShardSet, StreamInfo
from tokenize_kit.shards.preparation import Preparation
from tokenize_kit.sources.heldout import KeyList, key_fractions
from trainers.autoregressive.batches import CHUNK_TOKENS, Chunk, PackedDataset, RowBatches
from trainers.autoregressive.data import TokenData, check_conditions, keys_of, split_documents
from trainers.autoregressive.objectives import Objective
from trainers.autoregressive.objectives.next_token import NEXT_TOKEN

LONGEST_PERIOD = 1 << 20
"""The most rows after which the order of the sources repeats itself: weights are kept to a millionth of all rows."""


class Interleaving:
    """One endless line of rows made of several: for each row which line it is from, and which row of that line it is.

    The order repeats itself after ``sum(counts)`` rows. Inside such a period the rows of a line are spread evenly: row j of the c
    rows of a line stands at (j + 1/2) / c of it (Webster's divisors). So among the first rows, however many, one of n lines has
    never more than 1/2 + n/2 times its share too many or too few.

    Args:
        counts: rows of each line in a period, at least 1.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        assert counts
        assert min(counts) >= 1
        self.counts = np.array(counts, np.int64)
        self.period = int(self.counts.sum())
        source = np.repeat(np.arange(len(counts)), self.counts)
        inside = np.arange(self.period) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        order = np.argsort((inside + 0.5) / self.counts[source], kind="stable")
        self._source, self._inside = source[order], inside[order]

    def split(self, line: Ints) -> tuple[Ints, Ints]:
        """Return for rows (n,) of the joint line their lines and their rows there, both (n,)."""
        period, place = np.divmod(line, self.period)
        source = self._source[place]
        return source, period * self.counts[source] + self._inside[place]


def counts_of(shares: Sequence[Fraction], longest: int = LONGEST_PERIOD) -> list[int]:
    """Return how many rows of a period each line has: exactly its share if such a period is short enough, else nearly.

    Args:
        shares: of each line, more than 0; they need not add up to 1.
        longest: the most rows of a period.
    """
    total = sum(shares)
    exact = [share / total for share in shares]
    period = math.lcm(*(share.denominator for share in exact))
    if period <= longest:
        return [int(share * period) for share in exact]
    # Largest remainder, and at least one row each.
    counts = [max(1, int(share * longest)) for share in exact]
    left = max(0, longest - sum(counts))
    by_need = sorted(range(len(exact)), key=lambda line: (counts[line] - exact[line] * longest, line))
    for line in by_need[:left]:
        counts[line] += 1
    return counts


class MixedDataset(RowBatches):
    """Endless training batches whose rows come from several sources in turn.

    Args:
        sources: each with its line of rows.
        interleaving: of them.
        context: tokens of a row.
        batch_size: rows of a batch on this rank.
        rank: this process.
        world: number of processes.
        needs: what a model asks for.
    """

    def __init__(
        self,
        sources: Sequence[PackedDataset],
        interleaving: Interleaving,
        context: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        needs: Collection[str] = (),
    ) -> None:
        self.sources, self.interleaving = tuple(sources), interleaving
        self.rows_per_epoch = sum(source.rows_per_epoch for source in sources)
        self.tokens_per_epoch = sum(source.tokens_per_epoch for source in sources)
        # As long as an epoch of the source that lasts longest.
        shares = interleaving.counts / interleaving.period
        lasting = max(int(source.rows_per_epoch / share) for source, share in zip(sources, shares, strict=True))
        super().__init__(batch_size, rank, world, needs, min(CHUNK_TOKENS // context, lasting // world))

    def fill(self, line: Ints, numbers: Ints) -> Chunk:
        """See `RowBatches.fill`."""
        source, own = self.interleaving.split(line)
        parts: list[Chunk] = []
        places: list[Ints] = []
        for index in np.unique(source).tolist():
            mine = np.flatnonzero(source == index)
            parts.append(self.sources[index].fill(own[mine], numbers[mine]))
            places.append(mine)
        if len(parts) == 1:
            return parts[0]
        return Chunk.joined(parts).taken(np.argsort(np.concatenate(places), kind="stable"))


@dataclass(frozen=True)
class Source:
    """The documents of one template that are trained on, or those of them that are of one shard set."""

    part: int
    """Which template."""
    shard_set: int | None
    """Which shard set; None if those of the template are one pool."""
    chosen: Ints
    """The documents."""


@dataclass(frozen=True)
class MixedData:
    """The samples of some shard sets, as documents of one or several templates."""

    parts: tuple[TokenData, ...]
    """For each template the documents of the shard sets that have its streams."""
    serving: tuple[tuple[int, ...], ...]
    """For each template which shard sets these are."""
    shards: tuple[str, ...]
    """The shard sets."""
    sizes: tuple[int, ...]
    """How many samples each of them has."""
    vocabulary: Vocabulary
    """The id space of all."""
    infos: dict[str, StreamInfo]
    """For each stream of the templates, whose ids it holds."""
    folders: tuple[Path, ...]
    """The local folders of the shard sets."""
    digest: str
    """sha256 over the hashes of all shard files: the same data wherever it lies."""
    preparation: Preparation
    """How the samples of all shard sets were prepared, as far as it is the same."""
    preparations: dict[str, Preparation]
    """The same for the streams whose shard sets have more in common than all."""

    @classmethod
    def open(
        cls,
        shards: Sequence[str],
        templates: Sequence[str],
        trust: bool = False,
        note: Callable[[str], None] | None = None,
        dropped: bool = False,
    ) -> MixedData:
        """Open shard sets for templates such as ``text -> image`` and ``text``.

        Args:
            shards: folders or URLs of shard sets. Of several templates each is served by those sets that have its streams; a
                single one by all.
            templates: see `SequenceTemplate.parse`.
            trust: see `ShardSet.open`.
            note: the same.
            dropped: whether conditions may be dropped, see `batches.dropped_conditions`.

        Raises:
            FileNotFoundError: a shard set is missing.
            ValueError: a template does not fit the shards, one is there twice, a shard set serves none, or a stream of several
                shard sets comes from different tokenizers.
            VerificationError: a shard set is not what was written.
        """
        if not shards:
            raise ValueError("no shards given; use --shards DIR")
        if not templates:
            raise ValueError("no template given; use --template, such as --template text")
        sets = [ShardSet.open(url, trust, note) for url in shards]
        if len(templates) == 1:
            data = TokenData.of_sets(shards, sets, templates[0], dropped=dropped)
            check_conditions([data], dropped)
            vocabulary = data.documents.vocabulary
            every = tuple(range(len(sets)))
            return cls(
                (data,),
                (every,),
                tuple(shards),
                tuple(map(len, sets)),
                vocabulary,
                data.infos,
                data.folders,
                data.digest,
                data.preparation,
                {},
            )
        known = list(dict.fromkeys(name for shard_set in sets for name in shard_set.streams))
        parsed = [SequenceTemplate.parse(template, known=known) for template in templates]
        if twice := next((one for number, one in enumerate(parsed) if one in parsed[:number]), None):
            raise ValueError(
                f"--template {str(twice)!r} is given twice; give it once, and a larger share with --template-weights"
            )
        serving = [_serving(template, shards, sets) for template in parsed]
        for number, (url, shard_set) in enumerate(zip(shards, sets, strict=True)):
            if not any(number in some for some in serving):
                raise ValueError(
                    f"{url} (streams {', '.join(shard_set.streams)}) has all streams of no template; leave it out, or give a "
                    "template of its streams"
                )
        infos = _same_tokenizers(tuple(dict.fromkeys(name for one in parsed for name in one.streams)), shards, sets)
        used = {
            name: sorted(
                {
                    number
                    for one, some in zip(parsed, serving, strict=True)
                    if name in one.streams
                    for number in some
                    if name in sets[number].streams
                }
            )
            for name in infos
        }
        arrays: dict[str, list[FlatStream]] = {
            name: [array for number in numbers for array in sets[number].stream_arrays(name)]
            for name, numbers in used.items()
        }
        vocabulary = vocabulary_of(parsed, {name: info.spec for name, info in infos.items()}, arrays, dropped)
        keys = keys_of(sets)
        parts = []
        for template, some in zip(templates, serving, strict=True):
            named, served = [shards[number] for number in some], [sets[number] for number in some]
            own = [keys[number] for number in some]
            parts.append(TokenData.of_sets(named, served, template, vocabulary, keys=own))
        check_conditions(parts, dropped)
        prepared = [Preparation.of_options(shard_set.manifest.options) for shard_set in sets]
        common = Preparation.common(prepared)
        of_streams = {
            name: Preparation.common([prepared[number] for number in numbers]) for name, numbers in used.items()
        }
        hashes = [[file.sha256 for file in shard_set.files] for shard_set in sets]
        return cls(
            tuple(parts),
            tuple(serving),
            tuple(shards),
            tuple(map(len, sets)),
            vocabulary,
            infos,
            tuple(shard_set.folder for shard_set in sets),
            hashlib.sha256(canonical_json(hashes)).hexdigest(),
            common,
            {name: one for name, one in of_streams.items() if one != common},
        )

    @property
    def templates(self) -> tuple[SequenceTemplate, ...]:
        """The templates."""
        return tuple(part.documents.template for part in self.parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all documents of all templates; one may be there several times."""
        return self.parts[0].keys if len(self.parts) == 1 else tuple(key for part in self.parts for key in part.keys)

    @property
    def has_drawn_orders(self) -> bool:
        """Whether a document has an order that its seed decides."""
        return any(part.documents.has_drawn_orders for part in self.parts)

    def split(
        self, validation_fraction: float, validation_tokens: int, listed: KeyList | None = None
    ) -> list[tuple[Ints, Ints]]:
        """Return for each template the documents for training and those for validation; see `split_documents`.

        A key decides for all templates and sets, so no sample is measured in one and trained on in another.

        Raises:
            ValueError: as `split_documents`; names the template if there are several.
        """
        if len(self.parts) == 1:
            return [split_documents(self.parts[0], validation_fraction, validation_tokens, listed)]
        # Once a shard set, not once a template: hashing the keys of a large set takes a while.
        hashes: dict[int, NDArray[np.float64]] = {}
        for part, some in zip(self.parts, self.serving, strict=True):
            starts = np.cumsum([0, *(self.sizes[number] for number in some)])
            for number, start, stop in zip(some, starts[:-1].tolist(), starts[1:].tolist(), strict=True):
                if number not in hashes:
                    hashes[number] = key_fractions(part.sample_keys[start:stop])
        found = []
        for part, some in zip(self.parts, self.serving, strict=True):
            known = np.concatenate([hashes[number] for number in some])
            try:
                found.append(
                    split_documents(part, validation_fraction, validation_tokens, listed, whole=True, hashes=known)
                )
            except ValueError as error:
                raise ValueError(f"template {str(part.documents.template)!r}: {error}") from None
        return found

    def sources(self, chosen: Sequence[Ints], mix: Sequence[float]) -> list[Source]:
        """Return the sources of the rows.

        Args:
            chosen: for each template the documents to train on.
            mix: a weight for each shard set; none makes one pool of those of a template.

        Raises:
            ValueError: a shard set that serves a template has no document for it.
        """
        found = []
        for number, (part, some, documents) in enumerate(zip(self.parts, self.serving, chosen, strict=True)):
            if not mix:
                found.append(Source(number, None, documents))
                continue
            of_set = part.sets[documents]
            for index, shard_set in enumerate(some):
                mine = documents[of_set == index]
                if not len(mine):
                    raise ValueError(
                        f"{self.shards[shard_set]} has no document to train on for the template "
                        f"{str(part.documents.template)!r} (all are held out); leave it out, or lower --validation-fraction"
                    )
                found.append(Source(number, shard_set, mine))
        return found


def mixed_dataset(
    data: MixedData,
    sources: Sequence[Source],
    context: int,
    batch_size: int,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    objective: Objective = NEXT_TOKEN,
    needs: Collection[str] = (),
    template_weights: Sequence[float] = (),
    mix: Sequence[float] = (),
    condition_dropout: float = 0.0,
) -> PackedDataset | MixedDataset:
    """Return the training batches; of a single source those that it has by itself.

    Args:
        data: from `MixedData.open`.
        sources: from `MixedData.sources`.
        context: tokens of a row.
        batch_size: rows of a batch on this rank.
        seed: decides the order of the rows of each source.
        rank: this process.
        world: number of processes.
        objective: what is predicted where.
        needs: what a model asks for.
        template_weights: the share of the rows of each template; none is that of its rows an epoch, so that every row comes
            equally often.
        mix: a weight for each shard set, which divides the rows of each template that it serves.
        condition_dropout: see `PackedDataset`; templates without a condition have none to drop.

    Raises:
        ValueError: as `PackedDataset`; names the template if there are several.
    """
    if len(sources) == 1:
        (only,) = sources
        documents = data.parts[only.part].documents
        return PackedDataset(
            *(documents, only.chosen, context, batch_size, seed, rank, world, objective, needs),
            condition_dropout=condition_dropout,
        )
    datasets = []
    for number, source in enumerate(sources):
        documents = data.parts[source.part].documents
        try:
            datasets.append(
                PackedDataset(
                    documents,
                    source.chosen,
                    context,
                    1,
                    seed,
                    objective=objective,
                    needs=needs,
                    salt=(number + 1,),
                    condition_dropout=condition_dropout if documents.template.left else 0.0,
                )
            )
        except ValueError as error:
            raise ValueError(f"template {str(documents.template)!r}: {error}") from None
    shares = _shares(sources, [dataset.rows_per_epoch for dataset in datasets], template_weights, mix)
    return MixedDataset(datasets, Interleaving(counts_of(shares)), context, batch_size, rank, world, needs)


def _shares(
    sources: Sequence[Source], rows: Sequence[int], template_weights: Sequence[float], mix: Sequence[float]
) -> list[Fraction]:
    """Return the share of the rows of each source, exactly as the weights are written."""
    within = [Fraction(1) if source.shard_set is None else _written(mix[source.shard_set]) for source in sources]
    parts = sorted({source.part for source in sources})
    of_template = {
        part: Fraction(sum(count for source, count in zip(sources, rows, strict=True) if source.part == part))
        for part in parts
    }
    if template_weights:
        of_template = {part: _written(template_weights[part]) for part in parts}
    total = {
        part: sum(share for source, share in zip(sources, within, strict=True) if source.part == part) for part in parts
    }
    return [
        of_template[source.part] * share / total[source.part] for source, share in zip(sources, within, strict=True)
    ]


def _written(weight: float) -> Fraction:
    """Return a weight as people write it: 0.1 is a tenth."""
    return Fraction(repr(float(weight)))


def _serving(template: SequenceTemplate, shards: Sequence[str], sets: Sequence[ShardSet]) -> tuple[int, ...]:
    """Return the shard sets that have the streams of a template.

    Raises:
        ValueError: none has.
    """
    needed = [name for name in template.streams if name not in template.optional_streams] or template.streams
    found = tuple(number for number, shard_set in enumerate(sets) if all(name in shard_set.streams for name in needed))
    if not found:
        there = "; ".join(
            f"{url} has {', '.join(shard_set.streams)}" for url, shard_set in zip(shards, sets, strict=True)
        )
        raise ValueError(
            f"no shard set has all streams of the template {str(template)!r} ({', '.join(template.streams)}): {there}"
        )
    return found


def _same_tokenizers(streams: Sequence[str], shards: Sequence[str], sets: Sequence[ShardSet]) -> dict[str, StreamInfo]:
    """Return what is known of each stream.

    Raises:
        ValueError: two shard sets have it from different tokenizers.
    """
    infos = {}
    for name in streams:
        (first, info), *others = [
            (url, shard_set.streams[name])
            for url, shard_set in zip(shards, sets, strict=True)
            if name in shard_set.streams
        ]
        for url, other in others:
            if other.fingerprint != info.fingerprint:
                raise ValueError(
                    f"stream {name!r} of {url} was made by another tokenizer than that of {first} (fingerprints "
                    f"{other.fingerprint[:12]} and {info.fingerprint[:12]}); encode one of them again, with the same tokenizer "
                    "or as a stream of another name"
                )
        infos[name] = info
    return infos
