"""A language model prepared to write: the next token of each text, or a few of them, behind a cache.

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
from lm.backbone.quantised import QuantisedLinear
from lm.backbone.transformer import ACTIVATIONS, MLP

Step = Callable[[Tensor], Tensor]
# The first position that T new tokens see, and what is added to their scores of it and of those behind it:
# 0 or -inf, (1 or B, 1, 1 or T, S); None where all are seen.
_Sight = tuple[int, Tensor | None]
# What a block is made of; an adapter's layers, or another library's, are none of these.
KNOWN = {
    Block,
    Attention,
    MLP,
    Linear,
    QuantisedLinear,
    HeadNorm,
    nn.RMSNorm,
    nn.LayerNorm,
    nn.Identity,
    nn.Dropout,
}
MANY = 16  # key/value heads of all texts, from which two batched products are faster than a fused kernel
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
    return torch.layer_norm(torch.cat((x, -x), -1), (2 * size,), eps=eps).narrow(-1, 0, size)


def _bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: nothing where a position is seen."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, -torch.inf)


def _attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention of a few queries (B, H, T, D) for keys and values (B, K, S, D).

    The fused kernels are made for many queries of a head; with one query each of many heads two batched
    products take half the time.
    """
    texts, heads, count, dim = q.shape
    batch = texts * keys.shape[1]
    if batch < MANY or q.dtype != torch.float32:  # the fused ones keep their scores in fp32
        return F.scaled_dot_product_attention(q, keys, values, bias, enable_gqa=heads != keys.shape[1])
    scores = torch.bmm((q * dim**-0.5).reshape(batch, -1, dim), keys.flatten(0, 1).mT)
    if bias is not None:
        scores.view(texts, heads, count, -1).add_(bias)
    return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view_as(q)


class _Prepared:
    """A norm and the projections behind it, as one.

    Args:
        norm: before these.
        layers: that read the same input.
        rows: texts side by side.
    """

    def __init__(self, norm: nn.Module, layers: list[Any], rows: int) -> None:
        self.norm: Step | None = None if isinstance(norm, nn.Identity) else norm
        if isinstance(layers[0], QuantisedLinear):
            if isinstance(norm, nn.RMSNorm):  # its weight can't be put into integers
                scale, eps = norm.weight, float(norm.eps)
                self.norm = lambda x: _unit(x, eps) * scale
            self.linear: Step = QuantisedLinear.joined(layers)
            return
        weight = torch.cat([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers]
        bias = None if biases[0] is None else torch.cat(biases)
        if isinstance(norm, nn.RMSNorm):
            weight, eps = weight * norm.weight, float(norm.eps)
            self.norm = lambda x: _unit(x, eps)
        self.linear = fastest_linear(weight, bias, rows)

    def __call__(self, x: Tensor) -> Tensor:
        return self.linear(x if self.norm is None else self.norm(x))


class _Layer:
    """A block's step: hidden states (B * T, hidden_size) of T tokens of each text, to the same shape.

    Args:
        cache: whose entries of this layer it reads and writes.
    """

    def __init__(self, block: Block, config: BackboneConfig, cache: KVCache) -> None:
        attention, mlp, rows = block.attention, block.mlp, cache.entries.shape[2]
        self.block = block
        self.first = block.norm_first
        before = [block.attention_norm, block.mlp_norm] if self.first else [nn.Identity(), nn.Identity()]
        self.qkv = _Prepared(before[0], [attention.query, attention.key, attention.value], rows)
        self.out = _Prepared(nn.Identity(), [attention.output], rows)
        self.up = _Prepared(before[1], [mlp.up] if mlp.gate is None else [mlp.gate, mlp.up], rows)
        self.down = _Prepared(nn.Identity(), [mlp.down], rows)
        self.gated, self.activate = mlp.gate is not None, ACTIVATIONS[mlp.kind]
        self.heads, self.kv_heads, self.dim = attention.heads, attention.kv_heads, attention.dim
        self.windowed = config.windowed(block.layer)
        self.keys, self.values = cache.entries[block.layer]
        self.head_norm: Tensor | None = None
        if config.qk_norm:  # queries and keys in one
            both = ((attention.query_norm, self.heads), (attention.key_norm, self.kv_heads))
            self.head_norm = torch.cat([norm.weight.expand(count, -1) for norm, count in both])
            self.eps = config.norm_eps

    def attend(self, x: Tensor, end: int, turns: tuple[Tensor, Tensor] | None, sight: _Sight) -> Tensor:
        """What the attention adds to hidden states of the T positions before `end`."""
        start, bias = sight
        heads, kv_heads, both = self.heads, self.kv_heads, self.heads + self.kv_heads
        qkv = self.qkv(x).view(self.keys.shape[0], -1, both + kv_heads, self.dim)  # (B, T, ..., D)
        qk, count = qkv.narrow(2, 0, both), qkv.shape[1]
        if self.head_norm is not None:
            qk = _unit(qk, self.eps) * self.head_norm
        if turns is not None:
            qk = torch.addcmul(qk * turns[0], qk.roll(self.dim // 2, -1), turns[1])
        self.keys.narrow(2, end - count, count).copy_(qk.narrow(2, heads, kv_heads).transpose(1, 2))
        self.values.narrow(2, end - count, count).copy_(qkv.narrow(2, both, kv_heads).transpose(1, 2))
        keys, values = (each.narrow(2, start, end - start) for each in (self.keys, self.values))
        y = _attention(qk.narrow(2, 0, heads).transpose(1, 2).to(keys.dtype), keys, values, bias)
        return self.out(y.transpose(1, 2).reshape(x.shape[0], -1).to(x.dtype))

    def feed(self, x: Tensor) -> Tensor:
        """What the feed-forward network adds."""
        h = self.up(x)
        if self.gated:
            gate, h = h.chunk(2, -1)
            return self.down(self.activate(gate) * h)
        return self.down(self.activate(h))

    def __call__(self, x: Tensor, end: int, turns: tuple[Tensor, Tensor] | None, sight: _Sight) -> Tensor:
        if self.first:
            x = self.attend(x, end, turns, sight).add_(x)
            return self.feed(x).add_(x)
        x = self.block.attention_norm(self.attend(x, end, turns, sight).add_(x))
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
        device, length = cache.entries.device, cache.entries.shape[4]
        self.bias: Tensor | None = None  # (B, 1, 1, L)
        self.every = torch.arange(length, device=device)
        self.pads = self.every.new_zeros(1, 1)  # (1 or B, 1): positions before a text's own first
        if documents is not None:
            seen = torch.ones(len(documents), length, dtype=torch.bool, device=device)
            seen[:, : documents.shape[1]] = documents == documents[:, -1:]
            self.bias = _bias(seen, cache.entries.dtype)[:, None, None]
            last = positions(1, documents, documents.shape[1] - 1, device)
            self.pads = documents.shape[1] - 1 - last
        self.tables = {
            kind: None if model.backbone.rotary is None else self._table(length, kind)
            for kind in {layer.windowed for layer in self.layers}
        }

    def _table(self, length: int, windowed: bool) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with their signs, of all positions: (length, D) each."""
        cos, sin = self.model.backbone.angles(self.every, length, windowed)
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def _sight(self, begin: int, end: int, windowed: bool) -> _Sight:
        """What the tokens at the positions from `begin` to `end` see."""
        window = (self.model.config.window if windowed else None) or end
        start = max(0, begin + 1 - window)
        bias = None if self.bias is None else self.bias[..., start:end]
        if end - begin > 1:  # not those behind them, nor what has left their window
            back = self.every[begin:end, None] - self.every[start:end]
            own = _bias((back >= 0) & (back < window), self.cache.entries.dtype)[None, None]
            bias = own if bias is None else own + bias
        return start, bias

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) behind each of the next tokens of each text (B, T)."""
        texts, count = tokens.shape
        embeddings = self.model.backbone.embeddings
        begin, end = self.cache.length, self.cache.length + count
        places = self.every[begin:end] - self.pads  # (1 or B, T)
        x = F.embedding(tokens, embeddings.tokens.weight)
        if embeddings.positions is not None:
            x = x + embeddings.positions.weight[places]
        if embeddings.segments is not None:
            x = x + embeddings.segments.weight[0]
        x = embeddings.norm(x).flatten(0, 1)
        turns = {
            kind: table and (table[0][places].unsqueeze(2), table[1][places].unsqueeze(2))
            for kind, table in self.tables.items()
        }
        sights = {kind: self._sight(begin, end, kind) for kind in self.tables}
        for layer in self.layers:
            x = layer(x, end, turns[layer.windowed], sights[layer.windowed])
        self.cache.length = end
        return self.head(x).view(texts, count, -1)
