"""What a Transformer is made of, as plain data: the configuration, its styles and its presets.

It loads nothing but the standard library and the names of forms, so that a command line can build its options from it without
loading torch.
The network itself is `trainers.autoregressive.models.transformer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isqrt, log
from typing import Any, Literal, get_args, get_type_hints

from tokenize_kit.errors import did_you_mean
from tokenize_kit.protocol.registry import FORMS
from trainers.autoregressive.models.ordinal import MIXTURES, Ranges, checked_head

HEAD_DIM = 64
"""Width of one attention head in the presets (GPT-2, Llama and nanochat use 64 or 128)."""


@dataclass(frozen=True)
class TransformerConfig:
    """A Transformer of one stack of blocks. The defaults are the modern recipe of `STYLES`' ``llama`` at the size ``small``."""

    vocab_size: int = 4096
    """Number of ids, special tokens and all; the head has one logit for each."""
    context: int = 1024
    """The longest sequence, in tokens, that is trained on and generated."""
    layers: int = 8
    """Number of blocks; the one dial of the presets."""
    width: int = 512
    """Size of the residual stream."""
    heads: int = 8
    """Number of query heads."""
    head_size: int | None = None
    """Channels of a head; None divides ``width`` among the heads."""
    kv_heads: int | None = None
    """Number of key and value heads that the query heads share (grouped queries); None means one for each query head."""
    mlp: Literal["swiglu", "gelu", "relu2", "relu"] = "swiglu"
    """Kind of the feed-forward layer: gated SiLU (Llama), GELU (GPT-2, tanh form), squared ReLU, or ReLU (Vaswani)."""
    mlp_width: int | None = None
    """Hidden size of the feed-forward layer; None means 8/3 of the width for swiglu and 4 times it for the others."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm or LayerNorm."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalise what enters each layer (all modern models), or the sum that leaves it (the original Transformer)."""
    norm_eps: float = 1e-5
    """Added to the variance before the square root."""
    form: str = "causal"
    """What a token sees: itself and those before it (causal); of a condition besides all of it from everywhere in it (prefix, as
    PrefixLM of T5); the condition through an encoder of its own and cross attention (encoder-decoder); or all, for masked tokens
    (bidirectional, which cannot generate token by token). See `trainers.autoregressive.models.forms`."""
    encoder_layers: int | None = None
    """Blocks of the encoder of an encoder-decoder; None means as many as ``layers``."""
    positions: Literal["rotary", "learned", "sinusoidal", "axial"] = "rotary"
    """How a token knows its place: rotated queries and keys, a learned table, or added sines and cosines; axial rotates by time,
    height and width in turn, which are the same number for a token that is at no place of a grid with several axes."""
    codebooks: Literal["flat", "heads", "depth"] = "flat"
    """How ids of several codebooks are predicted that the layout puts together, all of a time step or a diagonal: one after the
    other, each at a place of its own (flat); or from one place, so that the blocks see as many fewer places, by a head
    for each (heads, as MusicGen; with the layout delay) or a small Transformer over them (depth, as RQ-Transformer and Moshi)."""
    codebook_slots: int = 1
    """The most codebooks of a stream; training sets it by the data."""
    depth_layers: int = 2
    """Blocks of the small Transformer of ``codebooks`` depth."""
    depth_width: int | None = None
    """Its width, a multiple of the size of a head; None means half of the heads."""
    told_next: bool = False
    """Tell each token at which place of the grid the id after it is, where orders are drawn; training sets it by the template."""
    rope_base: float = 10000.0
    """Base of the rotary (and sinusoidal) wavelengths."""
    rope_scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    """How rotary waves are stretched for a longer context than the model was trained on first: all (linear), or the slow ones and
    not the fast ones (Llama 3.1, YaRN)."""
    rope_factor: float = 1.0
    """How many times longer the stretched waves are."""
    rope_original_context: int | None = None
    """llama3, yarn: the context of the first training."""
    rope_low_turns: float | None = None
    """llama3, yarn: waves that turn less often within it are stretched as a whole (``low_freq_factor``, ``beta_slow``); 1."""
    rope_high_turns: float | None = None
    """llama3, yarn: waves that turn more often are left as they are (``high_freq_factor``, ``beta_fast``); 4, and 32 for yarn."""
    qk_norm: bool = True
    """Bring queries and keys to unit root mean square before the rotation (as nanochat), so that attention logits cannot grow
    without bound."""
    qk_norm_gain: bool = False
    """Multiply them by a learned gain a channel then, one for all queries and one for all keys (Qwen3)."""
    window: int | None = None
    """Each token sees itself and the ``window - 1`` tokens before it; None means all before it."""
    attention: Literal["full", "strided", "fixed"] = "full"
    """Which of the tokens that its form shows a token attends to: all (full), or a pattern of few, whose time and memory grow
    with the pairs that it keeps (Sparse Transformer, Child et al. 2019): in layers by turns the nearest and those whole strides
    away (strided, for pictures and sounds with a period), or its own block and the last tokens of each (fixed, for text). See
    `trainers.autoregressive.models.patterns`."""
    stride: int | None = None
    """strided, fixed: how far apart, in tokens: a row of a picture, or a block; None means the root of the context."""
    summary_columns: int = 1
    """fixed: how many of the last tokens of a block all later tokens see."""
    tied_head: bool = False
    """Use the embedding table as the head."""
    head: Literal["softmax", "logistics"] = "softmax"
    """What a distribution over the next id is made of: a number for each id, or for ids that are ordered (raw pixels, samples of
    sounds) a mixture of logistics along their order (PixelCNN++), and a number for each other id."""
    mixtures: int = MIXTURES
    """Of the head logistics how many are mixed."""
    ordinal: Ranges = ()
    """Of the head logistics the ids that are ordered, from the first to before the last; training sets them by the data."""
    logit_soft_cap: float | None = None
    """Squash logits to (-cap, cap) through ``cap * tanh(logits / cap)``; None leaves them."""
    embedding_scale: float = 1.0
    """Factor on the token embedding where it enters; ``sqrt(width)`` in the original Transformer."""
    bias: bool = False
    """Biases in the linear layers and in LayerNorm (never in the head)."""
    qkv_bias: bool | None = None
    """Biases of queries, keys and values; None means as ``bias``."""
    out_bias: bool | None = None
    """The same of the projection out of attention."""
    mlp_bias: bool | None = None
    """The same of the feed-forward layer."""
    dropout: float = 0.0
    """Probability of dropping an activation after the embedding and after each layer while training."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "layers", "width", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name, kind in get_type_hints(type(self)).items():
            choices = get_args(kind)
            if choices and isinstance(choices[0], str) and getattr(self, name) not in choices:
                hint = did_you_mean(str(getattr(self, name)), choices)
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}{hint}")
        if self.form not in FORMS:
            raise ValueError(_unknown("form", self.form, FORMS.names()))
        if self.head_size is None and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.head_size is not None and self.head_size < 1:
            raise ValueError(f"head_size {self.head_size} must be at least 1, or None for a part of the width")
        if self.heads % self.key_value_heads or self.key_value_heads < 1:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.rotated and self.head_dim % 2:
            said = (
                f"width {self.width} / heads {self.heads}" if self.head_size is None else f"head_size {self.head_size}"
            )
            raise ValueError(f"rotary positions need an even head size; {said} is odd")
        self._check_scaling()
        self._check_codebooks()
        self._check_head()
        if self.qk_norm_gain and not self.qk_norm:
            raise ValueError("qk_norm_gain is the gain of qk_norm, which is False; switch it on, or leave the gain out")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"sinusoidal positions need an even width, got {self.width}")
        if self.mlp_width is not None and self.mlp_width < 1:
            raise ValueError(
                f"mlp_width {self.mlp_width} must be at least 1, or None for the usual multiple of the width"
            )
        if self.encoder_layers is not None and self.form != "encoder-decoder":
            raise ValueError(
                f"encoder_layers {self.encoder_layers} is for the form encoder-decoder, not for {self.form}"
            )
        if self.encoder_layers is not None and self.encoder_layers < 1:
            raise ValueError(f"encoder_layers {self.encoder_layers} must be at least 1, or None for as many as layers")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window {self.window} must be at least 1, or None for no window")
        self._check_attention()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must be in [0, 1)")
        if self.logit_soft_cap is not None and self.logit_soft_cap <= 0:
            raise ValueError(f"logit_soft_cap {self.logit_soft_cap} must be positive, or None for no cap")

    def _check_attention(self) -> None:
        kind = self.attention
        if kind == "full":
            if self.stride is not None or self.summary_columns != 1:
                raise ValueError("stride and summary_columns are for the attention strided or fixed, not for full")
            return
        if self.window is not None:
            raise ValueError(
                f"window {self.window} is for full attention; {kind} has a pattern of its own: leave one out"
            )
        if self.form == "encoder-decoder":
            raise ValueError(
                f"attention {kind!r} is of one row of tokens, not for the form encoder-decoder, which brings conditions together"
            )
        if kind == "fixed" and self.form == "bidirectional":
            raise ValueError(
                "attention 'fixed' is not for the form bidirectional: blocks are told of at their ends, and the last block of a "
                "document may have none; take strided"
            )
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride {self.stride} must be at least 1, or None for the root of the context")
        if kind == "strided" and self.layers < 2:
            raise ValueError("attention 'strided' has two halves that layers take in turns; it needs at least 2 layers")
        if kind == "strided" and self.summary_columns != 1:
            raise ValueError(f"summary_columns {self.summary_columns} is for the attention fixed, not for strided")
        if not 1 <= self.summary_columns <= self.stride_length:
            raise ValueError(
                f"summary_columns {self.summary_columns} must be from 1 to the stride, {self.stride_length}"
            )

    def _check_codebooks(self) -> None:
        kind = self.codebooks
        if kind == "flat" and self.codebook_slots != 1:
            raise ValueError(f"codebook_slots {self.codebook_slots} is for the codebooks heads or depth, not for flat")
        if kind != "flat" and self.codebook_slots < 2:
            raise ValueError(f"codebooks {kind!r} needs codebook_slots, at least 2, got {self.codebook_slots}")
        if kind != "flat" and self.form == "bidirectional":
            raise ValueError(f"codebooks {kind!r} is for a model that draws ids, not for the form bidirectional")
        if kind != "depth" and (self.depth_layers, self.depth_width) != (2, None):
            raise ValueError(f"depth_layers and depth_width are for the codebooks depth, not for {kind}")
        if self.depth_layers < 1:
            raise ValueError(f"depth_layers {self.depth_layers} must be at least 1")
        if self.depth_width is not None and (self.depth_width < 1 or self.depth_width % self.head_dim):
            raise ValueError(
                f"depth_width {self.depth_width} is not a multiple of the size of a head, {self.head_dim}; None is half of them"
            )

    def _check_head(self) -> None:
        ranges = checked_head(self.head, self.mixtures, self.ordinal, self.vocab_size)
        object.__setattr__(self, "ordinal", ranges)
        if self.head == "softmax":
            return
        for name, other in (("tied_head", self.tied_head), ("logit_soft_cap", self.logit_soft_cap is not None)):
            if other:
                raise ValueError(f"{name} is for the head softmax, not for {self.head}; leave one of them out")
        if self.codebooks != "flat":
            raise ValueError(f"the head {self.head} predicts one id at a place; leave codebooks {self.codebooks!r} out")

    def _check_scaling(self) -> None:
        kind, given = self.rope_scaling, self.rope_factor != 1
        if kind == "none" and given:
            raise ValueError(f"rope_factor {self.rope_factor} needs a rope_scaling: linear, llama3 or yarn")
        if kind != "none" and not self.rotated:
            raise ValueError(f"rope_scaling {kind!r} is for rotary positions, not for {self.positions}")
        if not self.rope_factor >= 1:
            raise ValueError(f"rope_factor {self.rope_factor} must be at least 1")
        original, turns = self.rope_original_context, (self.rope_low_turns, self.rope_high_turns)
        if kind in ("llama3", "yarn"):
            if original is None or original < 1:
                raise ValueError(f"rope_scaling {kind!r} needs rope_original_context, at least 1, got {original}")
            low, high = self.rope_turns
            if not 0 < low < high:
                raise ValueError(f"rope_low_turns {low} must be above 0 and below rope_high_turns {high}")
        elif original is not None or turns != (None, None):
            raise ValueError("rope_original_context, rope_low_turns and rope_high_turns are for llama3 and yarn")

    @property
    def depth(self) -> TransformerConfig:
        """What the small Transformer of ``codebooks`` depth is made of: the same blocks, whose places a table tells apart."""
        heads = max(1, self.heads // 2) if self.depth_width is None else self.depth_width // self.head_dim
        kept = ("vocab_size", "mlp", "norm", "norm_position", "norm_eps", "qk_norm", "qk_norm_gain", "dropout")
        biases = ("bias", "qkv_bias", "out_bias", "mlp_bias")
        return TransformerConfig(
            context=self.codebook_slots,
            layers=self.depth_layers,
            width=heads * self.head_dim,
            heads=heads,
            positions="learned",
            **{name: getattr(self, name) for name in (*kept, *biases)},
        )

    @property
    def rope_turns(self) -> tuple[float, float]:
        """``rope_low_turns`` and ``rope_high_turns`` with their defaults filled in."""
        high = 32.0 if self.rope_scaling == "yarn" else 4.0
        return (
            1.0 if self.rope_low_turns is None else self.rope_low_turns,
            high if self.rope_high_turns is None else self.rope_high_turns,
        )

    @property
    def rope_amplitude(self) -> float:
        """Factor of the rotated queries and keys: YaRN makes attention sharper in a longer context."""
        return 0.1 * log(self.rope_factor) + 1 if self.rope_scaling == "yarn" else 1.0

    @property
    def stride_length(self) -> int:
        """``stride`` with its default filled in."""
        return isqrt(self.context - 1) + 1 if self.stride is None else self.stride

    @property
    def rotated(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.positions in ("rotary", "axial")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads if self.head_size is None else self.head_size

    def bias_of(self, part: Literal["qkv", "out", "mlp"]) -> bool:
        """Return whether the linear layers of a part have biases."""
        own: bool | None = getattr(self, f"{part}_bias")
        return self.bias if own is None else own

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads, with the default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def feed_forward_width(self) -> int:
        """Hidden size of the feed-forward layer, with the default filled in: for swiglu a multiple of 32."""
        if self.mlp_width is not None:
            return self.mlp_width
        return -(-self.width * 8 // 3 // 32) * 32 if self.mlp == "swiglu" else 4 * self.width

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; `from_dict` is its inverse.

        What there was not in earlier versions is left out where it changes nothing, so that their runs can be continued.
        """
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value != _LATER[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransformerConfig:
        """Build a configuration from `to_dict`'s form.

        Raises:
            ValueError: a field is unknown (the message suggests the closest one) or out of range.
        """
        check_names(values)
        return cls(**values)


_LATER: dict[str, Any] = {
    "form": "causal",
    "codebooks": "flat",
    "codebook_slots": 1,
    "depth_layers": 2,
    "depth_width": None,
    "told_next": False,
    "head": "softmax",
    "mixtures": MIXTURES,
    "ordinal": (),
    "encoder_layers": None,
    "head_size": None,
    "rope_scaling": "none",
    "rope_factor": 1.0,
    "rope_original_context": None,
    "rope_low_turns": None,
    "rope_high_turns": None,
    "qk_norm_gain": False,
    "qkv_bias": None,
    "out_bias": None,
    "mlp_bias": None,
    "attention": "full",
    "stride": None,
    "summary_columns": 1,
}
"""Options that came later, and what was then."""

STYLES: dict[str, dict[str, Any]] = {
    # Llama's block with the additions of modded-nanogpt and nanochat: QK-norm and an untied head.
    "llama": {},
    # Radford et al. 2019, as `GPT2LMHeadModel` computes it.
    "gpt2": {
        "positions": "learned",
        "norm": "layer",
        "mlp": "gelu",
        "bias": True,
        "qk_norm": False,
        "tied_head": True,
    },
    # Vaswani et al. 2017, the decoder without its encoder. The head is untied: with a tied one and the scaled embedding
    # every token would predict itself at the start.
    "sinusoidal": {
        "positions": "sinusoidal",
        "norm": "layer",
        "norm_position": "post",
        "mlp": "relu",
        "bias": True,
        "qk_norm": False,
    },
}
"""What a style changes in the default configuration."""

DEPTHS = {"tiny": 4, "small": 8, "base": 12}
"""Layers of each preset; the rest follows from it. ``base`` has the size of GPT-2 (12 layers, 768 wide, 12 heads)."""


def preset(
    name: str = "small",
    style: str = "llama",
    *,
    vocab_size: int,
    context: int,
    depth: int | None = None,
    **overrides: Any,
) -> TransformerConfig:
    """Return the configuration of a preset: one dial, the depth, gives the width (64 a layer) and the heads (64 wide).

    Args:
        name: ``tiny``, ``small`` or ``base``.
        style: ``llama``, ``gpt2`` or ``sinusoidal``.
        vocab_size: number of ids.
        context: longest sequence in tokens.
        depth: turns the dial by hand instead of ``name``.
        overrides: fields of `TransformerConfig` that shall differ.

    Raises:
        ValueError: an unknown name, style or field; the message suggests the closest one.
    """
    for kind, value, known in (("preset", name, list(DEPTHS)), ("style", style, list(STYLES))):
        if value not in known:
            raise ValueError(_unknown(kind, value, known))
    check_names(overrides)
    layers = DEPTHS[name] if depth is None else depth
    if layers < 1:
        raise ValueError(f"depth {layers} must be at least 1")
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "context": context,
        "layers": layers,
        "width": HEAD_DIM * layers,
        "heads": layers,
        **STYLES[style],
        **overrides,
    }
    if values.get("positions") == "sinusoidal":
        values.setdefault("embedding_scale", float(values["width"]) ** 0.5)
    return TransformerConfig(**values)


def check_names(values: Mapping[str, Any]) -> None:
    """Refuse names that are no field of `TransformerConfig`.

    Raises:
        ValueError: names the first unknown field and the closest known one.
    """
    known = [field.name for field in fields(TransformerConfig)]
    for name in values:
        if name not in known:
            raise ValueError(_unknown("option of the transformer", name, known))


def _unknown(kind: str, value: str, known: list[str]) -> str:
    return f"unknown {kind} {value!r} (known: {', '.join(known)}){did_you_mean(value, known)}"
