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
# Stores a layer's new keys and values (B, T, K, D), and gives what its queries (B, H, T, D) find among all
# that they may see: (B, H, T, D).
Look = Callable[["Layer", Tensor, Tensor, Tensor], Tensor]
_Turns = tuple[Tensor, Tensor] | None  # cosines, and sines with their signs; None where positions are learned
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


def sight(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: nothing where a position is seen."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, -torch.inf)


def attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled dot-product attention of a few queries (B, H, T, D) for keys and values (B, K, S, D), which have
    `bias` added to their scores: 0 or -inf, (1 or B, 1, 1 or T, S); None where all are seen.

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


class _Joined:
    """A norm and the projections behind it, as one.

    Args:
        norm: before these.
        layers: that read the same input.
        rows: texts side by side.
        copied: put into matrices of their own; False: the modules are called as they are.
    """

    def __init__(self, norm: nn.Module, layers: list[Any], rows: int, copied: bool) -> None:
        self.norm: Step | None = None if isinstance(norm, nn.Identity) else norm
        if not copied:
            one = len(layers) == 1
            self.linear: Step = layers[0] if one else lambda x: torch.cat([each(x) for each in layers], -1)
            return
        if isinstance(layers[0], QuantisedLinear):
            if isinstance(norm, nn.RMSNorm):  # its weight can't be put into integers
                scale, eps = norm.weight, float(norm.eps)
                self.norm = lambda x: _unit(x, eps) * scale
            self.linear = QuantisedLinear.joined(layers)
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


class Layer:
    """A block's step: hidden states (B * T, hidden_size) of T tokens of each of B texts, to the same shape.

    Attributes:
        number: of the block.
        windowed: whether it sees no further than the window.
    """

    def __init__(self, block: Block, config: BackboneConfig, rows: int, copied: bool) -> None:
        attention, mlp = block.attention, block.mlp
        self.block, self.number, self.windowed = block, block.layer, config.windowed(block.layer)
        self.first = block.norm_first
        before = [block.attention_norm, block.mlp_norm] if self.first else [nn.Identity(), nn.Identity()]
        self.qkv = _Joined(before[0], [attention.query, attention.key, attention.value], rows, copied)
        self.out = _Joined(nn.Identity(), [attention.output], rows, copied)
        self.up = _Joined(before[1], [mlp.up] if mlp.gate is None else [mlp.gate, mlp.up], rows, copied)
        self.down = _Joined(nn.Identity(), [mlp.down], rows, copied)
        self.gated, self.activate = mlp.gate is not None, ACTIVATIONS[mlp.kind]
        self.heads, self.kv_heads, self.dim = attention.heads, attention.kv_heads, attention.dim
        self.head_norm: Tensor | None = None
        if config.qk_norm:  # queries and keys in one
            both = ((attention.query_norm, self.heads), (attention.key_norm, self.kv_heads))
            self.head_norm = torch.cat([norm.weight.expand(count, -1) for norm, count in both])
            self.eps = config.norm_eps

    def attend(self, x: Tensor, texts: int, turns: _Turns, look: Look) -> Tensor:
        """What the attention adds to hidden states of T tokens of each text."""
        heads, kv_heads, both = self.heads, self.kv_heads, self.heads + self.kv_heads
        qkv = self.qkv(x).view(texts, -1, both + kv_heads, self.dim)  # (B, T, ..., D)
        qk = qkv.narrow(2, 0, both)
        if self.head_norm is not None:
            qk = _unit(qk, self.eps) * self.head_norm
        if turns is not None:
            qk = torch.addcmul(qk * turns[0], qk.roll(self.dim // 2, -1), turns[1])
        q = qk.narrow(2, 0, heads).transpose(1, 2)
        y = look(self, q, qk.narrow(2, heads, kv_heads), qkv.narrow(2, both, kv_heads))
        return self.out(y.transpose(1, 2).reshape(x.shape[0], -1).to(x.dtype))

    def feed(self, x: Tensor) -> Tensor:
        """What the feed-forward network adds."""
        h = self.up(x)
        if self.gated:
            gate, h = h.chunk(2, -1)
            return self.down(self.activate(gate) * h)
        return self.down(self.activate(h))

    def __call__(self, x: Tensor, texts: int, turns: _Turns, look: Look) -> Tensor:
        if self.first:
            x = self.attend(x, texts, turns, look).add_(x)
            return self.feed(x).add_(x)
        x = self.block.attention_norm(self.attend(x, texts, turns, look).add_(x))
        return self.block.mlp_norm(self.feed(x).add_(x))


class Prepared:
    """A model's step, whatever keeps the keys and values.

    Args:
        model: see `can_be_prepared`.
        rows: texts side by side.
        length: positions of a text at most.
        copied: see `_Joined`; False is slower, for models that can't be prepared.
    """

    def __init__(self, model: LanguageModel, rows: int, length: int, copied: bool = True) -> None:
        self.model = model
        self.layers = [Layer(block, model.config, rows, copied) for block in model.backbone.blocks]
        self.head = _Joined(model.backbone.norm, [model.head], rows, copied)
        self.kinds = {layer.windowed for layer in self.layers}
        self.tables: dict[bool, _Turns] = {kind: self._table(length, kind) for kind in self.kinds}

    def _table(self, length: int, windowed: bool) -> _Turns:
        """Cosines, and sines with their signs, of all positions: (length, D) each."""
        every = torch.arange(length, device=self.model.head.weight.device)
        angles = self.model.backbone.angles(every, length, windowed)
        if angles is None:
            return None
        cos, sin = angles
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def __call__(self, tokens: Tensor, places: Tensor, look: Look, last: int | None = None) -> Tensor:
        """Logits (B, T, V) behind each of the next tokens of each text (B, T).

        Args:
            places: (1 or B, T): positions of the tokens in their texts.
            last: how many of a text's tokens are asked for, the last ones; None for all.
        """
        texts, count = tokens.shape
        embeddings = self.model.backbone.embeddings
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
        for layer in self.layers:
            x = layer(x, texts, turns[layer.windowed], look)
        if last is not None:
            x, count = x.view(texts, count, -1)[:, count - last :].flatten(0, 1), last
        return self.head(x).view(texts, count, self.model.config.vocab_size)


class Decoder:
    """The steps after the prompt, which the model itself has read into the cache.

    Args:
        model: see `can_be_prepared`.
        cache: of the texts so far.
        documents: (B, S) of the positions in the cache, where texts are padded; what is written belongs to
            the last position's.
        network: the model's step, where it has been prepared before.
    """

    def __init__(
        self,
        model: LanguageModel,
        cache: KVCache,
        documents: Tensor | None,
        network: Prepared | None = None,
    ) -> None:
        self.cache, self.window = cache, model.config.window
        device, length = cache.entries.device, cache.entries.shape[4]
        self.network = network or Prepared(model, cache.entries.shape[2], length)
        self.entries = [(keys, values) for keys, values in cache.entries]  # of each layer
        self.bias: Tensor | None = None  # (B, 1, 1, L)
        self.every = torch.arange(length, device=device)
        self.pads = self.every.new_zeros(1, 1)  # (1 or B, 1): positions before a text's own first
        if documents is not None:
            seen = torch.ones(len(documents), length, dtype=torch.bool, device=device)
            seen[:, : documents.shape[1]] = documents == documents[:, -1:]
            self.bias = sight(seen, cache.entries.dtype)[:, None, None]
            last = positions(1, documents, documents.shape[1] - 1, device)
            self.pads = documents.shape[1] - 1 - last

    def _sight(self, begin: int, end: int, windowed: bool) -> tuple[int, Tensor | None]:
        """The first position that the tokens from `begin` to `end` see, and what is added to their scores of
        it and of those behind it; see `attention`."""
        window = (self.window if windowed else None) or end
        start = max(0, begin + 1 - window)
        bias = None if self.bias is None else self.bias[..., start:end]
        if end - begin > 1:  # not those behind them, nor what has left their window
            back = self.every[begin:end, None] - self.every[start:end]
            own = sight((back >= 0) & (back < window), self.cache.entries.dtype)[None, None]
            bias = own if bias is None else own + bias
        return start, bias

    def __call__(self, tokens: Tensor, last: int | None = None) -> Tensor:
        """Logits (B, T, V) behind each of the next tokens of each text (B, T); `last`: see `Prepared`."""
        count = tokens.shape[1]
        begin, end = self.cache.length, self.cache.length + count
        sights = {kind: self._sight(begin, end, kind) for kind in self.network.kinds}

        def look(layer: Layer, q: Tensor, *new: Tensor) -> Tensor:
            """All texts go on at the same position."""
            (start, bias), both = sights[layer.windowed], self.entries[layer.number]
            for kept, own in zip(both, new, strict=True):
                kept.narrow(2, begin, count).copy_(own.transpose(1, 2))
            keys, values = (kept.narrow(2, start, end - start) for kept in both)
            return attention(q.to(keys.dtype), keys, values, bias)

        logits = self.network(tokens, self.every[begin:end] - self.pads, look, last)
        self.cache.length = end
        return logits
