"""A Transformer whose configuration covers the modern recipe, GPT-2's and the original one, causal or not.

- RMSNorm or LayerNorm, before or after each layer; QK-norm
- rotary positions in float32, along one axis or three, a learned table, or sinusoids; they restart with each packed document
- masks from documents and conditions: causal, a condition that is seen as a whole, or everything; or an encoder of the
  condition, to which a decoder attends
- grouped queries, document masks, patterns of attention that skip what they do not keep (a sliding window, strided, fixed)
- SwiGLU, GELU, squared ReLU or ReLU; untied or tied head; logit soft cap
- every layer's output projection starts at zero, so that a fresh model is the identity and predicts nearly
  a uniform distribution
- ids of several codebooks that belong together at one place, told apart by heads or a small Transformer (`steps`, `codebooks`)
- generation with a static key-value cache: prefill in pieces, left padding, rows dropped as they finish

It knows nothing of files, tokenizers or the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.cache import LayerCache, Memory, RowsCache, TransformerCache
from trainers.autoregressive.models.codebooks import codebooks_of
from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.embeddings import embedding_of, reset_embedding, rows_of_ids
from trainers.autoregressive.models.fast import decode
from trainers.autoregressive.models.fast.counted import counted_places
from trainers.autoregressive.models.fast.fused import Fusion
from trainers.autoregressive.models.fast.loss import linear_token_loss
from trainers.autoregressive.models.fast.patterns import Sparse, sparse
from trainers.autoregressive.models.forms import form_named
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.joint import JointCache, joint_step
from trainers.autoregressive.models.layers import Block, RMSNorm, make_norm
from trainers.autoregressive.models.losses import SequenceLoss
from trainers.autoregressive.models.masks import (
    ENCODED_MULTIPLE,
    Condition,
    Span,
    attention_mask,
    one_document,
    with_nothing,
)
from trainers.autoregressive.models.mixture import MixtureHead
from trainers.autoregressive.models.patterns import Pattern, pattern_of
from trainers.autoregressive.models.positions import NextPlace, Rotation, Waves
from trainers.autoregressive.models.steps import Joined

EMBEDDING_STD = 0.2
"""What an embedding has where it enters; a tied one follows the head."""
POSITION_STD = 0.02
LOGIT_STD = 0.3


class Transformer(nn.Module):
    """Transformer over ids; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods."""

    configuration: ClassVar[type[TransformerConfig]] = TransformerConfig
    """The class of the configuration."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = embedding_of(config.vocab_size, config.width, config.ordinal)
        self.positions = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.form = form_named(config.form)
        self.patterns = [pattern_of(config, layer) for layer in range(config.layers)]
        self.blocks = nn.ModuleList(
            Block(config, self.form, self.form.encodes, pattern.window) for pattern in self.patterns
        )
        # The last block of a post-norm model ends with a norm already.
        self.norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.encoder = self.encoder_norm = None
        if self.form.encodes:
            depth = config.layers if config.encoder_layers is None else config.encoder_layers
            self.encoder = nn.ModuleList(Block(config, form_named("bidirectional")) for _ in range(depth))
            self.encoder_norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        softmax = config.head == "softmax"
        own = softmax and not config.tied_head
        self.unembedding = nn.Linear(config.width, config.vocab_size, bias=False) if own else None
        self.mixture = (
            None if softmax else MixtureHead(config.width, config.vocab_size, config.ordinal, config.mixtures)
        )
        self.next_place = NextPlace(config.width) if config.told_next else None
        self.codebooks = codebooks_of(config)
        self.waves = Waves(config)
        self.fusion: Fusion | None = None
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a freshly initialised model from `TransformerConfig.to_dict`'s form.

        Raises:
            ValueError: a field is unknown or out of range.
        """
        return cls(TransformerConfig.from_dict(config))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh weights from torch's global generator.

        Matrices are normal with a variance of 1 / inputs, output projections and biases zero, gains one. The head gives
        logits of standard deviation 0.3, so the loss starts 0.045 above ln(vocab_size). A head nearer to zero would start
        closer, but trains slower.
        """
        head_std = LOGIT_STD * float(self.config.width**-0.5)
        embedding_std = EMBEDDING_STD / self.config.embedding_scale
        reset_embedding(self.embedding, head_std if self.config.tied_head else embedding_std)
        if self.unembedding is not None:
            nn.init.normal_(self.unembedding.weight, std=head_std)
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=POSITION_STD)
        if self.next_place is not None:
            # About as large as the embedding: half of the squares of the waves is 1/2.
            nn.init.normal_(
                self.next_place.enter.weight, std=embedding_std * (2 / self.next_place.enter.in_features) ** 0.5
            )
        blocks = [*self.blocks, *(self.encoder or ())]
        for module in (module for block in blocks for module in block.modules()):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.mlp.down.weight)
            if block.cross is not None:
                nn.init.zeros_(block.cross.out.weight)
        if self.codebooks is not None:
            tied = self.unembedding is None
            self.codebooks.reset_parameters(head_std * self.config.embedding_scale if tied else EMBEDDING_STD)

    @property
    def needs(self) -> frozenset[str]:
        """See `SequenceModel.needs`."""
        places = {
            "axial": self.config.positions == "axial",
            "following": self.config.told_next,
            "steps": self.codebooks is not None,
        }
        return self.form.needs | {name for name, asked in places.items() if asked}

    @property
    def causal(self) -> bool:
        """See `SequenceModel.causal`."""
        return self.form.causal

    def fuse(self, fusion: Fusion | None) -> None:
        """Compile what lies between the matrix products of a training step, or no longer; see `fast.fused.fused_training`."""
        self.fusion = fusion
        # Each batch has another number of steps, so what tells their codebooks apart has no shapes to be compiled for.
        apart = set() if self.codebooks is None else set(self.codebooks.modules())
        for module in self.modules():
            if isinstance(module, Block | RMSNorm) and module not in apart:
                module.fusion = fusion

    def forward(self, ids: Tensor, **places: Tensor | None) -> Tensor:
        """Return the logits (B, T, V) of each place of ``ids`` (B, T); see `Inputs` for the further ``places``."""
        return self.logits(Inputs(ids, **places))

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (B, T, V) of each place."""
        return self.head(self.hidden(inputs))

    def layer_states(self, inputs: Inputs) -> dict[str, Tensor]:
        """See `trainers.autoregressive.models.LayeredModel`; of a model with an encoder those of the decoder.

        Where the tokens of a step are joined, each of them has the states of its place.
        """
        seen: dict[str, Tensor] = {}
        self.hidden(inputs, seen=seen)
        return seen

    def hidden(self, inputs: Inputs, counted: Tensor | None = None, seen: dict[str, Tensor] | None = None) -> Tensor:
        """Return the last hidden states (B, T, D), or (N, D) of the places ``counted`` (N,), see `fast.counted`.

        Where the tokens of a step are joined, ``counted`` must be None. What comes out of each layer is put into ``seen``.

        Raises:
            ValueError: the rows are longer than the context, or a part of the inputs is missing that the model needs.
        """
        length = inputs.ids.shape[1]
        if length > self.config.context:
            raise ValueError(f"a sequence of {length} tokens does not fit the model's context of {self.config.context}")
        x = tokens = self.embedded(inputs.ids)
        joined = None
        if self.codebooks is not None:
            real = torch.ones_like(inputs.ids, dtype=torch.bool) if inputs.documents is None else inputs.documents >= 0
            joined = Joined.of(inputs.of("steps"), real, 1 if self.fusion is None else ENCODED_MULTIPLE)
            length = joined.places
            x, inputs = joined.sums(x)[:, :length], joined.inputs(inputs)
        places = slice(0, length) if inputs.positions is None else inputs.positions
        x = self._placed(x, inputs, places)
        rotation = self._rotation(inputs, places)
        documents = None if one_document(inputs.documents) else inputs.documents
        given = inputs.of("given") if "given" in self.needs else None
        span = Span(0, length, x.device, None, documents, given)
        masks = self._masks(span, whole=True)
        memory = self._encode(x, rotation, given, documents)
        hidden = self._through(x, rotation, masks, memory, None, counted, seen)
        if joined is None or self.codebooks is None:
            return hidden
        result: Tensor = self.codebooks(joined.spread(hidden), tokens, joined.slots, joined.closes)
        if seen is not None:
            seen.update({name: joined.spread(states) for name, states in seen.items()})
            seen["codebooks"] = result
        return result

    def _masks(self, span: Span, whole: bool) -> list[Tensor | Sparse | None]:
        """Return for each layer what a span without a window sees.

        Args:
            span: the queries and keys.
            whole: whether they are all places of their rows, so that what a pattern does not keep can be skipped.
        """
        form, made = self.form, dict[Pattern, Tensor | Sparse | None]()
        for pattern in dict.fromkeys(self.patterns):
            found: Tensor | Sparse | None = None
            if whole:
                found = sparse(span, pattern, form.sees, form.causal, form.ahead)
            if found is None:
                keeps = None if pattern.far is None else pattern.far.keeps
                near = replace(span, window=_shorter(pattern.window, span.stop))
                found = attention_mask(near, form.sees, form.causal, keeps)
            made[pattern] = found
        return [made[pattern] for pattern in self.patterns]

    def _through(
        self,
        x: Tensor,
        rotation: Rotation | None,
        masks: Sequence[Tensor | Sparse | None],
        memory: list[Memory] | None,
        layers: Sequence[LayerCache | RowsCache] | None = None,
        counted: Tensor | None = None,
        seen: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Return what the blocks and the last norm make of embedded tokens, (B, T, D); see `hidden`."""
        if seen is not None:
            seen["embedding"] = x
        for index, block in enumerate(self.blocks):
            kept = None if layers is None else layers[index]
            needed = counted if index == len(self.blocks) - 1 else None
            x = block(x, rotation, masks[index], None if memory is None else memory[index], kept, needed)
            if seen is not None:
                seen[f"block {index + 1}"] = x
        result: Tensor = self.norm(x)
        if seen is not None and not isinstance(self.norm, nn.Identity):
            seen["norm"] = result
        return result

    def _encode(
        self, x: Tensor, rotation: Rotation | None, given: Tensor | None, documents: Tensor | None
    ) -> list[Memory] | None:
        """Return what the encoder makes of the conditions of whole rows, for each block; None if there is no encoder."""
        if self.encoder is None or self.encoder_norm is None or given is None:
            return None
        condition = Condition.of(given, documents, _shorter(self.config.window, x.shape[1]))
        if rotation is not None:
            cos, sin = (part.expand(len(x), -1, -1, -1) for part in rotation)
            rotation = condition.gather(cos), condition.gather(sin)
        encoded = condition.gather(x)
        for block in self.encoder:
            encoded = block(encoded, rotation, condition.mask)
        encoded = with_nothing(self.encoder_norm(encoded))
        crossing = [block.cross for block in self.blocks if isinstance(block, Block) and block.cross is not None]
        return [(*cross.remember(encoded), condition.seen) for cross in crossing]

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., D), soft-capped if the configuration says so."""
        if self.mixture is not None:
            mixed: Tensor = self.mixture(hidden)
            return mixed
        logits = F.linear(hidden, self.head_weight)
        cap = self.config.logit_soft_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @property
    def head_weight(self) -> Tensor:
        """The matrix (V, D) of a head that is a softmax."""
        assert self.mixture is None
        return self.embedding.weight if self.unembedding is None else self.unembedding.weight

    def tables(self) -> list[nn.Parameter]:
        """Return the parameters with a row for each token or place, which Muon leaves to AdamW."""
        modules = (self.embedding, self.positions, self.next_place, self.unembedding, self.mixture)
        weights = [weight for module in modules if module is not None for weight in module.parameters()]
        return weights + ([] if self.codebooks is None else self.codebooks.tables())

    def token_tables(self) -> list[nn.Parameter]:
        """See `SequenceModel.token_tables`."""
        head = [] if self.unembedding is None else [*self.unembedding.parameters()]
        return [*rows_of_ids(self.embedding), *head]

    def loss(
        self, inputs: Inputs, labels: Tensor, weights: Tensor | None = None, *, z_loss: float = 0.0
    ) -> SequenceLoss:
        """Return the summed loss of predicting ``labels`` (B, T); see `SequenceLoss`.

        It equals ``token_loss(model.logits(inputs), labels, weights, z_loss)`` without holding all logits at once, and without
        those of places that do not count.

        Args:
            inputs: what is given.
            labels: int64 (B, T), what each place is to predict.
            weights: float (B, T), how much each place counts; 0 for padding, conditions and structure. None means 1.
            z_loss: factor of the squared log-partition.
        """
        # Of joined tokens the places are others than those of the labels.
        counted = counted_places(weights) if self.codebooks is None else None
        hidden = self.hidden(inputs, counted)
        if counted is not None:
            assert weights is not None
            labels, weights = labels.reshape(-1)[counted], weights.reshape(-1)[counted]
        if self.mixture is not None:
            return self.mixture.loss(hidden, labels, weights, z_loss=z_loss)
        return linear_token_loss(
            hidden,
            self.head_weight,
            labels,
            weights,
            z_loss=z_loss,
            soft_cap=self.config.logit_soft_cap,
            fusion=self.fusion,
        )

    def new_cache(
        self,
        batch: int,
        length: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        left_padding: Tensor | None = None,
        compiled: bool = False,
    ) -> TransformerCache | JointCache:
        """Return an empty cache for ``batch`` rows of up to ``length`` tokens; see `SequenceModel.new_cache`.

        Raises:
            ValueError: ``length`` is beyond the context, a compiled step is asked for that there is not, or the model sees later
                tokens.
        """
        config = self.config
        if not self.causal:
            raise ValueError(
                "a bidirectional model cannot go on token by token: it was trained to see the later ones too"
            )
        plain = decode.knows(self)
        if compiled and not (plain and self.codebooks is None):
            raise ValueError(
                "the step of a model with axial positions, drawn orders, an encoder, an attention pattern, a head of logistics "
                "or several codebooks at a place cannot be compiled; leave it plain"
            )
        if left_padding is not None and not bool((left_padding > 0).any()):
            left_padding = None
        longest = length if left_padding is None else length - int(left_padding.max())
        if longest > config.context:
            raise ValueError(f"a cache of {longest} tokens does not fit the model's context of {config.context}")
        weight = self.embedding.weight
        shape = (batch, config.key_value_heads, length, config.head_dim)
        device = weight.device if device is None else torch.device(device)
        dtype = weight.dtype if dtype is None else dtype
        layers = [
            (torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype))
            for _ in range(config.layers)
        ]
        padding = None if left_padding is None else left_padding.to(device)
        given = torch.zeros(batch, length, dtype=torch.bool, device=device) if "given" in self.needs else None
        run = torch.compile(decode.decode_one, dynamic=False, fullgraph=True) if compiled else None
        weights = decode.StepWeights.of(self, device) if plain else None
        if self.codebooks is None:
            return TransformerCache(layers, padding, given, weights, run)
        # Padding takes no place.
        places = TransformerCache(layers, None, given, weights, None)
        return JointCache(places, config.width, self.codebooks.reads, padding)

    @torch.no_grad()
    def step(self, inputs: Inputs, cache: TransformerCache | JointCache, *, last_only: bool = False) -> Tensor:
        """Return the logits (B, n, V) after each of the next ``n`` tokens, and remember them in ``cache``.

        Args:
            inputs: of the tokens, see `SequenceModel.step`.
            cache: of these rows.
            last_only: return only the logits after the last token, (B, 1, V).

        Raises:
            ValueError: the tokens do not fit the cache, or a part of the inputs is missing that the model needs.
        """
        ids = inputs.ids
        start, count = cache.position, ids.shape[1]
        stop = start + count
        if stop > cache.length or stop - cache.shortest_padding > self.config.context:
            raise ValueError(f"{stop} tokens do not fit the cache of {min(cache.length, self.config.context)}")
        if isinstance(cache, JointCache):
            return joint_step(self, inputs, cache, last_only)
        if cache.given is not None:
            cache.given[:, start:stop] = inputs.of("given")
        if count == 1 and cache.weights is not None and start >= cache.longest_padding:
            if cache.run is not None and cache.batch == 1 and cache.left_padding is None:
                place = torch.tensor([start], device=ids.device)
                logits = cache.run(cache.weights, self.config, ids[0], place, cache.layers)
            else:
                if cache.packed is None:
                    cache.packed = decode.PackedWeights.of(cache.weights)
                logits = decode.decode(
                    cache.weights, cache.packed, self.config, ids[:, 0], start, cache.layers, cache.left_padding
                )
            cache.position = stop
            return logits[:, None]
        places: slice | Tensor = slice(start, stop)
        if cache.left_padding is not None:
            places = torch.arange(start, stop, device=ids.device) - cache.left_padding[:, None]
            places = places.clamp_(min=0)
        given = None if cache.given is None else cache.given[:, :stop]
        span = Span(start, stop, ids.device, None, None, given, cache.left_padding)
        layers = [LayerCache(layer, start) for layer in cache.layers]
        hidden = self.extend(self.embedded(ids), inputs, places, span, cache, layers)
        cache.position = stop
        return self.head(hidden[:, -1:] if last_only else hidden)

    def extend(
        self,
        x: Tensor,
        inputs: Inputs,
        places: slice | Tensor,
        span: Span,
        cache: TransformerCache,
        layers: Sequence[LayerCache | RowsCache],
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the states (B, n, D) of further places, and remember them.

        Args:
            x: (B, n, D), what is embedded.
            inputs: what is known of the places.
            places: which they are.
            span: the same, for the masks, without a window.
            cache: has what is encoded; it is encoded now if nothing is.
            layers: take the keys and values.
            rows: int64 (B,), which rows of the cache they are; None means all.
        """
        x = self._placed(x, inputs, places)
        rotation = self._rotation(inputs, places)
        masks = self._masks(span, whole=False)
        if cache.memory is None and (memory := self._encode(x, rotation, span.given, None)) is not None:
            # All places of one document see the same.
            cache.memory = [(keys, values, seen[:, :, -1:]) for keys, values, seen in memory]
        memory = cache.memory
        if memory is not None and rows is not None:
            memory = [(keys[rows], values[rows], seen[rows]) for keys, values, seen in memory]
        return self._through(x, rotation, masks, memory, layers)

    def embedded(self, ids: Tensor) -> Tensor:
        """Return what ids (B, T) bring themselves, (B, T, D)."""
        x: Tensor = self.embedding(ids)
        return x if self.config.embedding_scale == 1 else x * self.config.embedding_scale

    def _placed(self, x: Tensor, inputs: Inputs, places: slice | Tensor) -> Tensor:
        """Add to what is embedded what is known of the places besides."""
        if self.positions is not None:
            x = x + self.positions.weight[places]
        elif self.config.positions == "sinusoidal":
            x = x + self.waves.sinusoids(x.device)[places].to(x.dtype)
        if self.next_place is not None:
            x = x + self.next_place(inputs.of("following"))
        result: Tensor = self.dropout(x)
        return result

    def _rotation(self, inputs: Inputs, places: slice | Tensor) -> Rotation | None:
        if self.config.positions == "axial":
            return self.waves.axial(inputs.of("axial"))
        if self.config.positions != "rotary":
            return None
        cos, sin = self.waves.rotation(inputs.ids.device)
        return cos[places], sin[places]


def _shorter(window: int | None, length: int) -> int | None:
    """Return the window, if it is shorter than ``length`` tokens."""
    return None if window is not None and window >= length else window
