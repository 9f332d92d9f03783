"""A language model prepared to write: one new token of each text at a time, behind a cache.

The same numbers as the backbone's own forward pass, but for rounding, with as few calls as there can be: for
a small model these, and not the products, are what a token costs. Projections that read the same input are
one matrix, an RMS norm's weight is part of the matrix behind it, and the configuration is asked once.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone import BackboneConfig, Block, KVCache, LanguageModel, TokenInput
from lm.backbone.attention import Attention, HeadNorm
from lm.backbone.inputs import positions
from lm.backbone.linear import Linear, fastest_linear
from lm.backbone.transformer import ACTIVATIONS, MLP

Step = Callable[[Tensor], Tensor]
# What a block is made of; an adapter's layers, or another library's, are none of these.
KNOWN = {Block, Attention, MLP, Linear, HeadNorm, nn.RMSNorm, nn.LayerNorm, nn.Identity, nn.Dropout}
MOST = 1 << 28  # parameters: of a larger model the products are what a token costs, and a copy costs memory


def can_be_prepared(model: LanguageModel) -> bool:
    """Whether it is worth it, and the model is whole and plain: not sharded, without adapters."""
    return (
        model.num_parameters() <= MOST
        and type(model.backbone.embeddings) is TokenInput
        and model.head.dense is None
        and KNOWN.issuperset(type(part) for block in model.backbone.blocks for part in block.modules())
        and all(type(parameter) is nn.Parameter for parameter in model.parameters())
    )


def _unit(x: Tensor, eps: float) -> Tensor:
    """RMS norm without a weight, in one kernel: layer norm of a vector and its negative, whose mean is 0."""
    size = x.shape[-1]
    return F.layer_norm(torch.cat((x, -x), -1), (2 * size,), None, None, eps)[..., :size]


class _Prepared:
    """A norm and the projections behind it, as one.

    Args:
        norm: before these.
        layers: that read the same input.
        rows: texts side by side.
    """

    def __init__(self, norm: nn.Module, layers: list[Any], rows: int) -> None:
        weight = torch.cat([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers]
        bias = None if biases[0] is None else torch.cat(biases)
        self.norm: Step | None = None if isinstance(norm, nn.Identity) else norm
        if isinstance(norm, nn.RMSNorm):
            weight, eps = weight * norm.weight, float(norm.eps)
            self.norm = lambda x: _unit(x, eps)
        self.linear = fastest_linear(weight, bias, rows)

    def __call__(self, x: Tensor) -> Tensor:
        return self.linear(x if self.norm is None else self.norm(x))


class _Layer:
    """A block's step: hidden states (B, hidden_size) to the same shape.

    Args:
        cache: whose entries of this layer it reads and writes.
    """

    def __init__(self, block: Block, config: BackboneConfig, cache: KVCache) -> None:
        attention, mlp, rows = block.attention, block.mlp, cache.entries.shape[2]
        self.block = block
        self.first = block.norm_first
        before = [block.attention_norm, block.mlp_norm] if self.first else [nn.Identity(), nn.Identity()]
        self.qkv = _Prepared(before[0], [attention.query, attention.key, attention.value], rows)
        self.out = fastest_linear(attention.output.weight, attention.output.bias, rows)
        self.up = _Prepared(before[1], [mlp.up] if mlp.gate is None else [mlp.gate, mlp.up], rows)
        self.down = fastest_linear(mlp.down.weight, mlp.down.bias, rows)
        self.gated, self.activate = mlp.gate is not None, ACTIVATIONS[mlp.kind]
        self.heads, self.kv_heads, self.dim = attention.heads, attention.kv_heads, attention.dim
        self.windowed = config.windowed(block.layer)
        self.window = config.window if self.windowed else None
        self.keys, self.values = cache.entries[block.layer]
        self.head_norm: Tensor | None = None
        if config.qk_norm:  # queries and keys in one
            both = ((attention.query_norm, self.heads), (attention.key_norm, self.kv_heads))
            self.head_norm = torch.cat([norm.weight.expand(count, -1) for norm, count in both])
            self.eps = config.norm_eps

    def attend(self, x: Tensor, end: int, turns: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
        """What the attention adds to hidden states (B, hidden_size) of the position before `end`."""
        heads, both = self.heads, self.heads + self.kv_heads
        qkv = self.qkv(x).view(len(x), both + self.kv_heads, self.dim)
        qk = qkv[:, :both]
        if self.head_norm is not None:
            qk = _unit(qk, self.eps) * self.head_norm
        if turns is not None:
            qk = torch.addcmul(qk * turns[0], qk.roll(self.dim // 2, -1), turns[1])
        self.keys[:, :, end - 1] = qk[:, heads:]
        self.values[:, :, end - 1] = qkv[:, both:]
        start = 0 if self.window is None else max(0, end - self.window)
        keys, values = self.keys[:, :, start:end], self.values[:, :, start:end]
        y = F.scaled_dot_product_attention(
            qk[:, :heads].unsqueeze(2).to(keys.dtype),
            keys,
            values,
            attn_mask=None if mask is None else mask[..., start:],
            enable_gqa=heads != self.kv_heads,
        )
        return self.out(y.reshape(len(x), heads * self.dim))

    def feed(self, x: Tensor) -> Tensor:
        """What the feed-forward network adds."""
        h = self.up(x)
        if self.gated:
            gate, h = h.chunk(2, -1)
            return self.down(self.activate(gate) * h)
        return self.down(self.activate(h))

    def __call__(
        self, x: Tensor, end: int, turns: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> Tensor:
        if self.first:
            x = self.attend(x, end, turns, mask).add_(x)
            return self.feed(x).add_(x)
        x = self.block.attention_norm(self.attend(x, end, turns, mask).add_(x))
        return self.block.mlp_norm(self.feed(x).add_(x))


class Decoder:
    """The steps after the prompt, which the model itself has read into the cache.

    Args:
        model: see `can_be_prepared`.
        cache: of the texts so far.
        documents: (B, S) of the positions in the cache, where texts are padded; what is written belongs to
            the last position's.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, documents: Tensor | None) -> None:
        self.model, self.cache = model, cache
        self.layers = [_Layer(block, model.config, cache) for block in model.backbone.blocks]
        self.head = _Prepared(model.backbone.norm, [model.head], cache.entries.shape[2])
        self.mask: Tensor | None = None  # (B, 1, 1, L): the positions that are seen, as they come
        device, length = cache.entries.device, cache.entries.shape[4]
        self.places = positions(1, None, cache.length, device)
        if documents is not None:
            seen = torch.ones(len(documents), length, dtype=torch.bool, device=device)
            seen[:, : documents.shape[1]] = documents == documents[:, -1:]
            self.mask = seen[:, None, None]
            self.places = positions(1, documents, documents.shape[1] - 1, device)[:, 0] + 1
        self.tables = {
            kind: None if model.backbone.rotary is None else self._table(length, kind)
            for kind in {layer.windowed for layer in self.layers}
        }

    def _table(self, length: int, windowed: bool) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with their signs, of all positions: (length, D) each."""
        every = positions(length, None, 0, self.places.device)
        cos, sin = self.model.backbone.angles(every, length, windowed)
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits (B, V) behind the next token of each text (B,)."""
        embeddings = self.model.backbone.embeddings
        x = F.embedding(tokens, embeddings.tokens.weight)
        if embeddings.positions is not None:
            x = x + embeddings.positions.weight[self.places]
        if embeddings.segments is not None:
            x = x + embeddings.segments.weight[0]
        x = embeddings.norm(x)
        turns = {
            kind: table and (table[0][self.places].unsqueeze(1), table[1][self.places].unsqueeze(1))
            for kind, table in self.tables.items()
        }
        end = self.cache.length + 1
        mask = None if self.mask is None else self.mask[..., :end]
        for layer in self.layers:
            x = layer(x, end, turns[layer.windowed], mask)
        self.cache.length = end
        self.places = self.places + 1
        return self.head(x)
