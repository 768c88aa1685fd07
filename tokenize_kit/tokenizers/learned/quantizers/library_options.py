"""Options of a class of vector-quantize-pytorch as words ``NAME=VALUE``, checked by name against the class's signature.

Words are the same on a command line, in YAML and in the JSON of a tokenizer. A value is a number, ``true`` or ``false``,
``none``, a word, or several of these with commas between them (``levels=8,5,5,5``; one alone as ``8,``).

The library's defaults belong to what decides the ids and may change with its version, so a configuration notes those that it
was made with (`completed`) and is rebuilt from them. What a caller of the library has to know is kept here too: which classes
fit our contract, which class an option is passed on to, and which options are ours to set.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from tokenize_kit.errors import did_you_mean

Value: TypeAlias = "bool | int | float | str | list[Any] | None"


class Wrapped(NamedTuple):
    """What must be known of a class to use it."""

    inverse: Literal["get_output_from_indices", "indices_to_codes"]
    """The method that turns ids into codes."""
    inner: str | None = None
    """The class that gets the options that this one does not know."""
    refused: Mapping[str, str] = {}
    """Options that this class sets in the inner one itself, and others that it cannot have, with the reason."""


_HALVED = {"codebook_scale": "each codebook has half the scale of the one before"}
_SYMMETRIC = {"preserve_symmetry": "each codebook must have its levels around zero"}
CLASSES: dict[str, Wrapped] = {
    "VectorQuantize": Wrapped("get_output_from_indices"),
    "ResidualVQ": Wrapped("get_output_from_indices", "VectorQuantize"),
    "GroupedResidualVQ": Wrapped("get_output_from_indices", "ResidualVQ"),
    "SimVQ": Wrapped("indices_to_codes"),
    "ResidualSimVQ": Wrapped("get_output_from_indices", "SimVQ"),
    "FSQ": Wrapped("indices_to_codes"),
    "ResidualFSQ": Wrapped("get_output_from_indices", "FSQ", _SYMMETRIC),
    "GroupedResidualFSQ": Wrapped("get_output_from_indices", "ResidualFSQ", _SYMMETRIC),
    "LFQ": Wrapped("indices_to_codes"),
    "ResidualLFQ": Wrapped("get_output_from_indices", "LFQ", _HALVED),
    "GroupedResidualLFQ": Wrapped("get_output_from_indices", "ResidualLFQ", _HALVED),
}
"""The classes that fit. The others do not: LatentQuantize decodes other codes than it trained, FSP's loss has no finite gradient
for a constant channel, RandomProjectionQuantizer has no inverse, BinaryMapper samples, HierarchicalVQ has grids of several
sizes, EvoLFQ is an optimiser around LFQ."""

OURS: dict[str, Value] = {"codebook_size": 1024, "num_quantizers": 8, "levels": [8, 5, 5, 5]}
"""What is taken where it is not given, as for our own kinds."""

_LAYOUT = "the tokens are laid out before they come to the quantizer"
_PARALLEL = (
    "codebooks side by side have no order, so the first of them alone mean nothing; GroupedResidualVQ has groups"
)
_PROCESSES = "it follows from the number of processes"
_OBJECT = "it takes a Python object, which neither a command line nor a saved configuration can hold"
_NEVER_CALLED = "nothing would make the update that it leaves to its caller"
_BATCH = "it lets the ids of a token depend on the others of its batch, in evaluation too"
_MASKS = "no masks are used"
REFUSED: dict[str, str] = {
    "dim": "it is the number of channels of the latent",
    **dict.fromkeys(("channel_last", "channel_first", "is_channel_first"), _LAYOUT),
    **dict.fromkeys(("accept_image_fmap", "accept_3d_fmap"), _LAYOUT),
    **dict.fromkeys(("heads", "separate_codebook_per_head", "num_codebooks", "keep_num_codebooks_dim"), _PARALLEL),
    "has_projections": "it follows from the number of channels of the latent",
    "return_indices": "ids are what a tokenizer is for",
    **dict.fromkeys(("sync_codebook", "sync_kmeans", "sync_affine_param"), _PROCESSES),
    **dict.fromkeys(("affine_param", "affine_param_batch_decay", "affine_param_codebook_decay"), _BATCH),
    **dict.fromkeys(("in_place_codebook_optimizer", "vq_bridge", "codebook_transform", "init_fn"), _OBJECT),
    **dict.fromkeys(("straight_through_activation", "allowed_dtypes", "mlp_kwargs"), _OBJECT),
    **dict.fromkeys(("manual_ema_update", "manual_in_place_optimizer_update"), _NEVER_CALLED),
    "return_zeros_for_masked_padding": _MASKS,
    "diveq": "it draws random numbers in evaluation too",
}
"""Options that cannot be given, with the reason."""


def completed(
    name: str, options: Iterable[str], defaults: Iterable[str] | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options and the defaults of a class as sorted words in one spelling.

    Args:
        name: of the class.
        options: words that were given.
        defaults: words of a saved configuration, which are kept; None: those of the installed library.

    Raises:
        ValueError: the class or an option is unknown (the message suggests the closest one) or not to be given, or a value
            has the wrong type.
    """
    if name not in CLASSES:
        raise ValueError(f"library_class {name!r} is not one of {', '.join(CLASSES)}{did_you_mean(name, CLASSES)}")
    known = _signature(name)
    given = option_values(options)
    for option, value in given.items():
        _check(name, option, value, known)
    for option, value in OURS.items():
        if option in known and option not in given and not (option == "num_quantizers" and _sizes_given(given)):
            given[option] = value
    if defaults is None:
        noted = {
            option: parameter.default
            for option, parameter in known.items()
            if option not in given and option not in refused_by(name) and _plain(parameter.default)
        }
    else:
        noted = {option: value for option, value in option_values(defaults).items() if option not in given}
        for option, value in noted.items():
            _check(name, option, value, known)
    missing = [
        option
        for option, parameter in known.items()
        if parameter.default is parameter.empty and option not in given and option != "dim"
    ]
    if missing:
        raise ValueError(f"library_options of {name} lack {missing[0]}; write {missing[0]}=VALUE")
    return words(given), words(noted)


def option_values(options: Iterable[str]) -> dict[str, Value]:
    """Return the values of words ``NAME=VALUE`` by name.

    Raises:
        ValueError: a word has another form, or a name comes twice.
    """
    values: dict[str, Value] = {}
    for word in options:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier() or not text.strip():
            raise ValueError(f"library_options {word!r} is not of the form NAME=VALUE, such as codebook_size=256")
        if name in values:
            raise ValueError(f"library_options has {name} twice")
        values[name] = _read(text.strip())
    return values


def words(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return options as sorted words; `option_values` is the inverse."""
    return tuple(f"{name}={_written(values[name])}" for name in sorted(values))


def refused_by(name: str) -> dict[str, str]:
    """Return the options that a class cannot be given, with the reasons."""
    return {**REFUSED, **CLASSES[name].refused}


def library_class(name: str) -> Any:
    """Return a class of vector-quantize-pytorch; the import takes seconds."""
    import vector_quantize_pytorch

    return getattr(vector_quantize_pytorch, name)


def _signature(name: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class by name, those that it passes on to its inner class included."""
    inner = CLASSES[name].inner
    own = {
        option: parameter
        for option, parameter in inspect.signature(library_class(name)).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    return own if inner is None else {**_signature(inner), **own}


def _check(name: str, option: str, value: Value, known: Mapping[str, inspect.Parameter]) -> None:
    if reason := refused_by(name).get(option):
        raise ValueError(f"library_options {option} cannot be given: {reason}")
    if option not in known:
        allowed = [other for other in known if other not in refused_by(name)]
        raise ValueError(
            f"unknown library_options {option} of {name}{did_you_mean(option, allowed) or '; it has ' + ', '.join(allowed)}"
        )
    default = known[option].default
    if isinstance(default, bool):
        right, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int | float):
        right, wanted = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        right, wanted = isinstance(value, str), "a word"
    elif option in OURS:
        numbers = value if isinstance(value, list) else [value]
        right = bool(numbers) and all(type(number) is int and number > 0 for number in numbers)
        wanted = "made of positive whole numbers"
    else:
        return
    if not right:
        raise ValueError(f"library_options {option}={_written(value)} of {name} must be {wanted}")
    if option == "levels" and math.prod(numbers) > 1 << 24:
        raise ValueError(
            f"library_options levels={_written(value)} has more than 2^24 codes, whose ids the library rounds in float32; "
            "take --quantizer.kind fsq"
        )


def _sizes_given(given: Mapping[str, Value]) -> bool:
    return isinstance(given.get("codebook_size"), list)


def _plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, bool | int | float | str) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _read(text: str) -> Value:
    if text.startswith("["):
        try:
            return list(json.loads(text))
        except ValueError:
            raise ValueError(f"library_options value {text!r} is not a list; write 8,5,5") from None
    if "," in text:
        return [_read(part.strip()) for part in text.split(",") if part.strip()]
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _written(value: Value | Sequence[Any]) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_written, value)) + ("," if len(value) == 1 else "")
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
