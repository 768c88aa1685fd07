"""What must be right of the options of `encode` before anything is read, and what they name: tokenizers, streams, executor.

Only the standard library is imported before a function is called, so that ``--help`` is instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tokenize_kit.files import check_local

if TYPE_CHECKING:
    from tokenize_kit.protocol import Tokenizer, TokenSpec, View
    from tokenize_kit.shards.executors.base import Executor
    from tokenize_kit.shards.format import StreamInfo
    from tokenize_kit.shards.options import EncodeOptions
    from tokenize_kit.shards.recipe import Recipe

MB = 1_000_000


def check_numbers(options: EncodeOptions) -> tuple[int, int]:
    """Check the numbers among the options; returns which part this is, and of how many."""
    for name in ("workers", "limit", "image_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be at least 1")
    for name in ("shard_mb", "max_document_mb"):
        if getattr(options, name) * MB < 8:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)} is too small")
    if options.pad and options.image_size is None:
        raise ValueError("--pad needs an --image-size: the side of the square that pictures are padded to")
    if options.max_failures < 0:
        raise ValueError(f"--max-failures {options.max_failures} must be 0 or more")
    check_local(options.out, what="shard set")
    number, slash, parts = options.part.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
        raise ValueError(f"--part {options.part} must be K/N with K from 0 to N-1, such as 0/4")
    if options.limit is not None and int(parts) > 1:
        raise ValueError("--limit takes the first samples in order, so it cannot be divided with --part")
    return int(number), int(parts)


def named_executor(options: EncodeOptions) -> Executor | None:
    """Return the executor that the user named, if so."""
    if options.ray_address is not None and options.executor != "ray":
        raise ValueError(f"--ray-address {options.ray_address} needs --executor ray")
    if options.executor is None:
        return None
    if options.executor == "serial" and options.workers > 1:
        raise ValueError(f"--executor serial is one process, not --workers {options.workers}; leave one of them out")
    from tokenize_kit.shards.executors.base import executor_named

    return executor_named(options.executor)(options)


def load_tokenizers(
    given: Sequence[str], loaded: Mapping[str, Tokenizer], view: Sequence[str] = ()
) -> tuple[dict[str, Tokenizer], tuple[View, ...]]:
    """Return the tokenizer of each stream, and those streams that are views of others by what ``--view`` says."""
    tokenizers = _given_tokenizers(given, loaded)
    from tokenize_kit.protocol import modality_of, views_of
    from tokenize_kit.protocol.views import view_streams

    own = set(view_streams(tokenizers))
    views = views_of(view, {name: modality_of(one.spec) for name, one in tokenizers.items() if name not in own})
    if unknown := sorted(own - {one.stream for one in views}):
        raise ValueError(
            f"--tokenizer names the view {unknown[0]}, and no --view says what it is; add --view {unknown[0]}=..."
        )
    for one in views:
        kinds = tokenizers[one.of].spec.modality, tokenizers.setdefault(one.stream, tokenizers[one.of]).spec.modality
        if kinds[0] != kinds[1]:
            raise ValueError(f"{one.stream} is a view of {kinds[0]}, but its tokenizer reads {kinds[1]}")
    return tokenizers, views


def _given_tokenizers(given: Sequence[str], loaded: Mapping[str, Tokenizer]) -> dict[str, Tokenizer]:
    from tokenize_kit.protocol import load_tokenizer, split_name

    if not given:
        raise ValueError("no tokenizer is given; name its folder with --tokenizer")
    tokenizers: dict[str, Tokenizer] = {}
    for text in given:
        name, folder = split_name(text)
        tokenizer = loaded[folder] if folder in loaded else load_tokenizer(folder)
        name = name or tokenizer.spec.modality
        if name in tokenizers:
            raise ValueError(f"two streams would be named {name!r}; name them, as in --tokenizer NAME={folder}")
        tokenizers[name] = tokenizer
    return tokenizers


def check_shared(recipe: Recipe) -> None:
    """Check that streams that are made of the same pictures, sounds or films want them alike."""
    specs: dict[str, tuple[str, TokenSpec]] = {}
    for stream in recipe.streams:
        wanted = recipe.shaping.taken(stream.spec)
        name, spec = specs.setdefault(recipe.sources[stream.name], (stream.name, wanted))
        if (spec.channels, spec.sample_rate) != (wanted.channels, wanted.sample_rate):
            raise ValueError(
                f"the stream {stream.name} wants other channels or another sample rate than {name}, which reads the same; "
                "encode it by itself"
            )
        if spec.frame_rate != wanted.frame_rate:
            raise ValueError(
                f"the stream {stream.name} wants {wanted.frame_rate} frames a second, and {name}, which reads the same, "
                f"{spec.frame_rate}; give the rate for both with --fps, or encode it by itself"
            )


def check_image_size(size: int, specs: Sequence[TokenSpec]) -> None:
    """Check that ``--image-size`` is for one of the tokenizers, and suits all that it is for."""
    from tokenize_kit.protocol import modality_of

    sized = [spec for spec in specs if modality_of(spec).resizable]
    if not sized:
        names = ", ".join(dict.fromkeys(spec.modality for spec in specs))
        raise ValueError(f"image size {size} is given, but the tokenizer reads {names}; leave it out")
    for spec in sized:
        spec.check_image_size(size)


def check_codebooks(tokenizers: Mapping[str, Tokenizer], count: int | None) -> None:
    """Check that the number fits each tokenizer with codebooks, of which there is one at least."""
    if count is None:
        return
    specs = [tokenizer.spec for tokenizer in tokenizers.values()]
    for spec in [spec for spec in specs if spec.axes[-1] == "codebook"] or specs:
        spec.first_codebooks(count)


def stream_of(name: str, tokenizer: Tokenizer) -> StreamInfo:
    """Return what the manifest says of a stream."""
    from tokenize_kit.protocol import tokenizer_name
    from tokenize_kit.shards.format import StreamInfo, dtype_for

    dtype = dtype_for(tokenizer.spec.max_vocab_size)
    return StreamInfo(name, tokenizer.spec, tokenizer.fingerprint, dtype, tokenizer_name(tokenizer))
