"""A Transformer whose configuration covers the modern recipe, GPT-2's and the original one, causal or not.

- RMSNorm or LayerNorm, before or after each layer; QK-norm
- rotary positions in float32, along one axis or three, a learned table, or sinusoids; they restart with each packed document
- masks from documents and conditions: causal, a condition that is seen as a whole, or everything; or an encoder of the
  condition, to which a decoder attends
- grouped queries, a sliding window, document masks; `scaled_dot_product_attention` throughout
- SwiGLU, GELU, squared ReLU or ReLU; untied or tied head; logit soft cap
- every layer's output projection starts at zero, so that a fresh model is the identity and predicts nearly
  a uniform distribution
- generation with a static key-value cache: prefill in pieces, left padding, rows dropped as they finish

It knows nothing of files, tokenizers or the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.autoregressive.models.config import TransformerConfig
from trainers.autoregressive.models.decode import BlockWeights, StepWeights, decode, decode_one, weight_and_bias
from trainers.autoregressive.models.inputs import Inputs
from trainers.autoregressive.models.layers import Block, KeyValues, Memory, NextPlace, Rotation, Waves, make_norm
from trainers.autoregressive.models.losses import SequenceLoss, linear_token_loss

EMBEDDING_STD = 0.2
"""What an embedding has where it enters; a tied one follows the head."""
POSITION_STD = 0.02
LOGIT_STD = 0.3


class TransformerCache:
    """Keys and values of every layer, for a fixed number of rows and places; see `Transformer.new_cache`."""

    def __init__(
        self,
        layers: list[KeyValues],
        left_padding: Tensor | None,
        weights: StepWeights,
        run: Callable[..., Tensor] | None,
    ) -> None:
        self.layers = layers
        self.left_padding = left_padding
        self.weights = weights
        self.run = run
        """The compiled step of one row, if it was asked for."""
        self.memory: list[Memory] | None = None
        """What was encoded, of each layer; its mask is (B, 1, 1, S)."""
        self.given: Tensor | None = None
        """(B, S), which of the first places are of the encoder."""
        self.length = layers[0][0].shape[2]
        self.position = 0
        self.shortest_padding = 0 if left_padding is None else int(left_padding.min())

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.layers[0][0].shape[0]

    def select(self, rows: Tensor) -> TransformerCache:
        """Return a cache of the rows ``rows`` (int64), in that order."""
        padding = None if self.left_padding is None else self.left_padding[rows]
        layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        chosen = TransformerCache(layers, padding, self.weights, self.run)
        chosen.position = self.position
        if self.memory is not None and self.given is not None:
            chosen.memory = [(keys[rows], values[rows], mask[rows]) for keys, values, mask in self.memory]
            chosen.given = self.given[rows]
        return chosen


class Transformer(nn.Module):
    """Transformer over ids; see `trainers.autoregressive.models.SequenceModel` for the shapes of the methods."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        both = config.form == "encoder-decoder"
        causal = config.form in ("causal", "encoder-decoder")
        self.blocks = nn.ModuleList(Block(config, causal, both) for _ in range(config.layers))
        # The last block of a post-norm model ends with a norm already.
        self.norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.encoder = self.encoder_norm = None
        if both:
            depth = config.layers if config.encoder_layers is None else config.encoder_layers
            self.encoder = nn.ModuleList(Block(config, causal=False) for _ in range(depth))
            self.encoder_norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.unembedding = None if config.tied_head else nn.Linear(config.width, config.vocab_size, bias=False)
        self.next_place = NextPlace(config.width) if config.told_next else None
        self.waves = Waves(config.context, config.head_dim if config.rotated else config.width, config.rope_base)
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
        nn.init.normal_(self.embedding.weight, std=head_std if self.unembedding is None else embedding_std)
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

    @property
    def needs(self) -> frozenset[str]:
        """See `SequenceModel.needs`."""
        config = self.config
        wanted = {
            "documents": config.form == "bidirectional",
            "given": config.form in ("prefix", "encoder-decoder"),
            "axial": config.positions == "axial",
            "following": config.told_next,
        }
        return frozenset(name for name, asked in wanted.items() if asked)

    @property
    def causal(self) -> bool:
        """See `SequenceModel.causal`."""
        return self.config.form != "bidirectional"

    def forward(self, ids: Tensor, **places: Tensor | None) -> Tensor:
        """Return the logits (B, T, V) of each place of ``ids`` (B, T); see `Inputs` for the further ``places``."""
        return self.logits(Inputs(ids, **places))

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (B, T, V) of each place."""
        return self.head(self.hidden(inputs))

    def hidden(self, inputs: Inputs) -> Tensor:
        """Return the last hidden states (B, T, D).

        Raises:
            ValueError: the rows are longer than the context, or a part of the inputs is missing that the model needs.
        """
        length = inputs.ids.shape[1]
        if length > self.config.context:
            raise ValueError(f"a sequence of {length} tokens does not fit the model's context of {self.config.context}")
        places = slice(0, length) if inputs.positions is None else inputs.positions
        x = self._embed(inputs, places)
        rotation = self._rotation(inputs, places)
        mask = self._mask(inputs)
        if self.encoder is None:
            for block in self.blocks:
                x = block(x, rotation, mask)
        else:
            encoded, sees = self._encode(x, rotation, inputs.of("given"), inputs.documents)
            for block in self.blocks:
                assert isinstance(block, Block)
                assert block.cross is not None
                x = block(x, rotation, mask, (*block.cross.remember(encoded), sees))
        result: Tensor = self.norm(x)
        return result

    def _encode(
        self, x: Tensor, rotation: Rotation | None, given: Tensor, documents: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return what the encoder makes of the places that are a condition (B, T, D), and who sees it (B, 1, T or 1, T).

        Every place goes through the encoder, those of no condition by themselves, and nobody sees what becomes of them.
        """
        assert self.encoder is not None
        assert self.encoder_norm is not None
        length, device = x.shape[1], x.device
        itself = torch.eye(length, dtype=torch.bool, device=device)
        sees = given[:, None, :]
        if documents is not None:
            sees = sees & (documents[:, :, None] == documents[:, None, :])
        mask = (sees & given[:, :, None] & _near(0, length, length, self.config.window, device)) | itself
        encoded = x
        for block in self.encoder:
            encoded = block(encoded, rotation, mask[:, None])
        # A place that has no condition to see, such as padding, sees its own, so that there is something.
        own = itself if sees.shape[1] == length else torch.ones_like(sees)
        sees = sees | (own & ~sees.any(-1, keepdim=True))
        return self.encoder_norm(encoded), sees[:, None]

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., D), soft-capped if the configuration says so."""
        logits = F.linear(hidden, self.head_weight)
        cap = self.config.logit_soft_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix (V, D)."""
        return self.embedding.weight if self.unembedding is None else self.unembedding.weight

    def tables(self) -> list[nn.Parameter]:
        """Return the parameters with a row for each token or place, which Muon leaves to AdamW."""
        modules = (self.embedding, self.positions, self.next_place, self.unembedding)
        return [weight for module in modules if module is not None for weight in module.parameters()]

    def loss(
        self, inputs: Inputs, labels: Tensor, weights: Tensor | None = None, *, z_loss: float = 0.0
    ) -> SequenceLoss:
        """Return the summed loss of predicting ``labels`` (B, T); see `SequenceLoss`.

        It equals ``token_loss(model.logits(inputs), labels, weights, z_loss)`` without holding all logits at once.

        Args:
            inputs: what is given.
            labels: int64 (B, T), what each place is to predict.
            weights: float (B, T), how much each place counts; 0 for padding, conditions and structure. None means 1.
            z_loss: factor of the squared log-partition.
        """
        hidden = self.hidden(inputs)
        return linear_token_loss(
            hidden, self.head_weight, labels, weights, z_loss=z_loss, soft_cap=self.config.logit_soft_cap
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
    ) -> TransformerCache:
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
        if compiled and not self._plain_steps:
            raise ValueError(
                "the step of a model with axial positions or drawn orders cannot be compiled; leave it plain"
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
        run = torch.compile(decode_one, dynamic=False, fullgraph=True) if compiled else None
        return TransformerCache(layers, padding, self._step_weights(device), run)

    @torch.no_grad()
    def step(self, inputs: Inputs, cache: TransformerCache, *, last_only: bool = False) -> Tensor:
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
        if count == 1 and cache.left_padding is None and self._plain_steps:
            if cache.run is not None and cache.batch == 1:
                place = torch.tensor([start], device=ids.device)
                logits = cache.run(cache.weights, self.config, ids[0], place, cache.layers)
            else:
                logits = decode(cache.weights, self.config, ids[:, 0], start, cache.layers)
            cache.position = stop
            return logits[:, None]
        places: slice | Tensor = slice(start, stop)
        if cache.left_padding is not None:
            places = torch.arange(start, stop, device=ids.device) - cache.left_padding[:, None]
            places = places.clamp_(min=0)
        x = self._embed(inputs, places)
        rotation = self._rotation(inputs, places)
        if self.encoder is not None and cache.memory is None:
            cache.given = inputs.of("given")
            encoded, sees = self._encode(x, rotation, cache.given, None)
            crossing = [block.cross for block in self.blocks if isinstance(block, Block) and block.cross is not None]
            cache.memory = [(*cross.remember(encoded), sees) for cross in crossing]
        mask = self._step_mask(cache, start, stop, inputs)
        for index, (block, layer) in enumerate(zip(self.blocks, cache.layers, strict=True)):
            assert isinstance(block, Block)
            x = block.step(x, rotation, mask, layer, start, None if cache.memory is None else cache.memory[index])
        cache.position = stop
        return self.head(self.norm(x[:, -1:] if last_only else x))

    @property
    def _plain_steps(self) -> bool:
        """Whether a token's place is its number in the sequence and nothing else, as `decode` has it."""
        return self.config.positions != "axial" and self.next_place is None and self.encoder is None

    def _embed(self, inputs: Inputs, places: slice | Tensor) -> Tensor:
        x: Tensor = self.embedding(inputs.ids)
        if self.config.embedding_scale != 1:
            x = x * self.config.embedding_scale
        if self.positions is not None:
            x = x + self.positions.weight[places]
        elif self.config.positions == "sinusoidal":
            x = x + self.waves.sinusoids(inputs.ids.device)[places].to(x.dtype)
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

    def _mask(self, inputs: Inputs) -> Tensor | None:
        """Return what each place sees, (B or 1, 1, T, T) boolean, or None where that is all (before it)."""
        length, device, documents = inputs.ids.shape[1], inputs.ids.device, inputs.documents
        window = self.config.window
        if window is not None and window >= length:
            window = None
        # On a GPU the comparison would wait for it, so the mask is built unseen there.
        if documents is not None and documents.device.type == "cpu" and bool((documents == documents[:, :1]).all()):
            documents = None
        if documents is None and window is None and self.config.form not in ("prefix", "encoder-decoder"):
            return None
        if self.config.form == "bidirectional":
            mask = _near(0, length, length, window, device)[None]
        else:
            mask = _causal(0, length, length, window, device)[None]
        if self.config.form == "prefix":
            given = inputs.of("given")
            mask = mask | (given[:, :, None] & given[:, None, :] & _near(0, length, length, window, device))
        if documents is not None:
            mask = mask & (documents[:, :, None] == documents[:, None, :])
        if self.config.form == "encoder-decoder":
            # The decoder has the condition from the encoder alone.
            mask = (mask & ~inputs.of("given")[:, None, :]) | torch.eye(length, dtype=torch.bool, device=device)
        return mask[:, None]

    def _step_weights(self, device: torch.device) -> StepWeights:
        """Look up what a step reads; the weights are shared, so a later change in place is seen."""
        cos = sin = places = None
        if self.config.rotated:
            cos, sines = self.waves.rotation(device)
            sin = torch.cat((-sines, sines), -1)
        elif self.positions is not None:
            places = self.positions.weight.detach()
        else:
            places = self.waves.sinusoids(device).to(self.embedding.weight.dtype)
        blocks = []
        for block in self.blocks:
            assert isinstance(block, Block)
            blocks.append(BlockWeights.of(block))
        embedding, head = self.embedding.weight.detach(), self.head_weight.detach()
        return StepWeights(embedding, places, cos, sin, blocks, *weight_and_bias(self.norm), head)

    def _step_mask(self, cache: TransformerCache, start: int, stop: int, inputs: Inputs) -> Tensor | None:
        padding, window, device = cache.left_padding, self.config.window, inputs.ids.device
        given = None
        if self.config.form == "prefix" and stop - start > 1:
            given = inputs.of("given")
            if not bool(given.any()):
                given = None
        alone = padding is None and given is None and cache.given is None
        if alone and (stop - start == 1 or (start == 0 and (window is None or window >= stop))):
            return None
        mask = _causal(start, stop, stop, window, device)[None]
        if given is not None:
            # A condition sees itself as a whole, and comes whole in one step.
            both = given[:, :, None] & given[:, None, :] & _near(start, stop, stop, window, device)[:, start:]
            mask = torch.cat((mask[..., :start].expand(len(both), -1, -1), mask[..., start:] | both), -1)
        # A place that sees no other sees itself: a row without any key would give NaN.
        key = torch.arange(stop, device=device)
        itself = torch.arange(start, stop, device=device)[:, None] == key
        if cache.given is not None:
            encoded = F.pad(cache.given, (0, stop - cache.given.shape[1]))
            mask = mask & (~encoded[:, None] | itself)
        if padding is not None:
            mask = mask & ((key >= padding[:, None])[:, None] | itself)
        return mask[:, None]


def _near(start: int, stop: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return which of ``keys`` keys are within the window of the queries ``start`` to ``stop``, on both sides."""
    apart = torch.arange(start, stop, device=device)[:, None] - torch.arange(keys, device=device)
    return torch.ones_like(apart, dtype=torch.bool) if window is None else apart.abs() < window


def _causal(start: int, stop: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Return which of ``keys`` keys the queries ``start`` to ``stop`` see, (stop - start, keys) boolean."""
    query = torch.arange(start, stop, device=device)[:, None]
    key = torch.arange(keys, device=device)
    mask = key <= query
    return mask if window is None else mask & (key > query - window)
