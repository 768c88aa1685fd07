"""Tokens of what Python users have at hand: pictures of Pillow, arrays, sounds and films with their rates, texts, paths of files.

    import tokenize_kit

    tokenizer = tokenize_kit.load_tokenizer("tokenizers/emoji")
    ids = tokenize_kit.encode(tokenizer, Image.open("heart.png"))
    picture = tokenize_kit.decode(tokenizer, ids, to="pil")

`Tokenizer.encode` takes tensors that are what its spec says; this brings everything else there as `tokenize-kit encode` brings
files: colours, channels and sample rates are converted.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from tokenize_kit.protocol import Sample, Tokenizer

Form = Literal["sample", "python", "pil", "numpy"]


def encode(tokenizer: Tokenizer, value: object) -> Tensor:
    """Return the ids of a value, int64, on the CPU.

    Args:
        tokenizer: of any modality.
        value: a tensor that is a sample (`Tokenizer.encode`); the path of a file; a text or label, for tokenizers of such; a
            `PIL.Image` or uint8 array (H, W) or (H, W, C); a `Sound`; a `Film`. A ``str`` is a path where it is no text.

    Raises:
        TypeError: the value is none of what the tokenizer's modality is.
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or the tokenizer refuses the sample.
    """
    return tokenizer.encode(sample_of(tokenizer, value))


def sample_of(tokenizer: Tokenizer, value: object) -> Sample:
    """Return a value as the sample that a tokenizer takes; see `encode`."""
    from torch import Tensor

    from tokenize_kit.protocol import modality_of

    spec = tokenizer.spec
    kind = modality_of(spec)
    if isinstance(value, Tensor) or (isinstance(value, str) and kind.textual):
        return kind.check(value, spec)
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        return kind.read(kind.self_describing(path.name, path.read_bytes()), spec)
    with tempfile.TemporaryDirectory() as folder:
        file = kind.save(value, Path(folder) / "value")
        if file is None:
            raise TypeError(
                f"the tokenizer takes {kind.plural}: a {type(value).__name__} is none; give what tokenize_kit.decode gives, or "
                "the path of a file"
            )
        return kind.read(file.read_bytes(), spec)


def decode(tokenizer: Tokenizer, ids: Tensor | NDArray[Any], to: Form = "python") -> Any:
    """Return what ids stand for.

    Args:
        tokenizer: that made them.
        ids: of the axes of its spec, any kind of integers.
        to: ``python``: a `PIL.Image`, `Sound`, `Film` or ``str``; ``sample``: what `Tokenizer.decode` gives; ``pil``: a picture,
            or the frames of a film as a list of pictures; ``numpy``: uint8 (H, W) or (H, W, C) of a picture, (T, H, W, C) of a
            film, float32 (C, samples) of a sound.

    Raises:
        ValueError: the ids are none of the tokenizer's, or their kind has no such form.
    """
    import numpy as np
    import torch
    from PIL import Image

    from tokenize_kit.protocol import modality_of
    from tokenize_kit.protocol.values import Film, Sound

    if to not in ("sample", "python", "pil", "numpy"):
        raise ValueError(f"to {to!r} is none of sample, python, pil and numpy")
    grid = ids if isinstance(ids, torch.Tensor) else torch.from_numpy(np.asarray(ids).astype(np.int64))
    sample = tokenizer.decode(grid.long())
    if to == "sample":
        return sample
    kind = modality_of(tokenizer.spec)
    value = kind.to_python(sample, tokenizer.spec)
    if to == "python":
        return value
    if isinstance(value, Image.Image):
        return value if to == "pil" else np.asarray(value)
    if isinstance(value, Film):
        squeezed = value.frames[..., 0] if value.frames.shape[-1] == 1 else value.frames
        return value.frames if to == "numpy" else [Image.fromarray(frame) for frame in squeezed]
    if isinstance(value, Sound) and to == "numpy":
        return value.samples
    raise ValueError(f"to {to!r}: {kind.plural} have no such form; take to='python'")
