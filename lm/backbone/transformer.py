"""The backbone: its input, blocks, final norm. Initialisation and the counting of parameters and FLOPs.

- grouped key/value heads, QK-norm, a sliding window in all or most blocks, causal or bidirectional
- rotary or learned positions that start again with each document
- RMS or layer norm, before or after the sublayer
- SwiGLU, GeGLU, ReGLU, GELU, ReLU or squared ReLU
- documents packed into one sequence don't see each other
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.attention import Attention, KVCache, Pattern, Rotary, pattern
from lm.backbone.config import BackboneConfig
from lm.backbone.inputs import Input, TokenInput, make_norm, positions
from lm.backbone.linear import Linear
from lm.backbone.quantised import QuantisedLinear

ACTIVATIONS = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "reglu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class MLP(nn.Module):
    """Feed-forward network, gated or plain."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        width, bias = config.mlp_width, config.has_bias("mlp")
        self.up = Linear(config.hidden_size, width, bias=bias)
        self.gate = Linear(config.hidden_size, width, bias=bias) if config.gated else None
        self.down = Linear(width, config.hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, hidden_size) to the same shape."""
        activate = ACTIVATIONS[self.kind]
        if self.gate is None:
            return self.down(activate(self.up(x)))
        return self.down(activate(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention and feed-forward network, each with a residual sum and a norm before or after it."""

    def __init__(self, config: BackboneConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.norm_first = config.norm_position == "before"
        bare = self.norm_first and layer == 0 and not config.first_attention_norm
        self.attention_norm = nn.Identity() if bare else make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        pattern: Pattern,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Map (B, T, hidden_size) to the same shape."""
        # Without a cache no number of the layer's own: a compiled block then serves all layers.
        layer = 0 if cache is None else self.layer
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), pattern, rotary, cache, layer))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, pattern, rotary, cache, layer)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Backbone(nn.Module):
    """The Transformer that every task shares: a raw batch in, hidden states out. `embeddings` make the first
    hidden states of a raw batch; None: token embeddings."""

    def __init__(self, config: BackboneConfig, embeddings: Input | None = None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = embeddings or TokenInput(config)
        rotary = config.positions == "rotary"
        self.rotary = Rotary(config) if rotary else None
        local = rotary and config.local_rope_theta is not None
        self.local_rotary = Rotary(config, config.local_rope_theta) if local else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        last = config.final_norm and config.norm_position == "before"
        self.norm = make_norm(config) if last else nn.Identity()

    def forward(
        self,
        raw: Any,
        documents: Tensor | None = None,
        cache: KVCache | None = None,
        layers: list[Tensor] | None = None,
        **more: Any,
    ) -> Tensor:
        """Hidden states (B, T, hidden_size) of a raw batch: of tokens, ids (B, T).

        Args:
            raw: what the input takes.
            documents: ids that are the same within a document and differ between the documents of a
                sequence, (B, T), with a cache (B, earlier positions + T); None where each sequence is one
                document. Padding is a document too, by custom −1.
            cache: what earlier calls left; the new positions stand after it and are added to it.
            layers: what goes into each block is added to it.
            more: what else the input takes: of tokens, `segments`.

        Raises:
            ValueError: more positions than `max_seq_len` and learned positions; or documents of another
                length.
        """
        past = cache.length if cache is not None else 0
        return self.transform(self.embeddings(raw, documents, past, **more), documents, cache, layers)

    def transform(
        self,
        x: Tensor,
        documents: Tensor | None = None,
        cache: KVCache | None = None,
        layers: list[Tensor] | None = None,
    ) -> Tensor:
        """What the blocks and the final norm make of hidden states (B, T, hidden_size): the same shape. The
        other arguments are `forward`'s."""
        T = x.shape[1]
        past = cache.length if cache is not None else 0
        places = None if self.rotary is None else positions(T, documents, past, x.device)
        # FlexAttention has no dropout and no gradient on CPU: there, a mask.
        flex = x.is_cuda and cache is None and not (self.training and self.config.dropout)
        # Who sees whom, and the angles: made once for all blocks of a kind.
        kinds = {self.config.windowed(layer) for layer in range(self.config.num_layers)}
        seen = {kind: pattern(self.config, T, past + T, documents, x.device, flex, kind) for kind in kinds}
        turns = {kind: self.angles(places, past + T, kind) for kind in kinds}
        for layer, block in enumerate(self.blocks):
            if layers is not None:
                layers.append(x)
            kind = self.config.windowed(layer)
            x = block(x, seen[kind], turns[kind], cache)
        if cache is not None:
            cache.length += T
        return self.norm(x)

    def angles(self, places: Tensor | None, length: int, windowed: bool) -> tuple[Tensor, Tensor] | None:
        """Rotary cosines and sines of positions (T,) or (B, T), all below `length`, for the blocks with or
        without a window; None where positions are learned."""
        rotary = self.local_rotary if windowed and self.local_rotary is not None else self.rotary
        if rotary is None or places is None:
            return None
        cos, sin = rotary(places, length)
        return (cos, sin) if places.ndim == 1 else (cos[:, None], sin[:, None])

    @torch.no_grad()
    def initialize(self) -> None:
        """The one place where initial weights come from: normal, biases zero, norms one, projections into
        the residual stream scaled down or zero. A network that the input brings along keeps its own."""
        config = self.config
        brought = {id(each) for each in self.embeddings.brought()}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and id(module) not in brought:
                draw(module, config.matrix_std if name.startswith("blocks.") else config.init_std)
        for block in self.blocks:
            for projection in (block.attention.output, block.mlp.down):
                if config.residual_init == "zero":
                    nn.init.zeros_(projection.weight)
                else:
                    projection.weight.mul_((2 * config.num_layers) ** -0.5)

    def num_parameters(self) -> int:
        """Number of parameters, each counted once."""
        integers = (each for each in self.modules() if isinstance(each, QuantisedLinear))
        return sum(p.numel() for p in self.parameters()) + sum(each.num_weights for each in integers)


def last_norm(network: nn.Module) -> nn.RMSNorm | nn.LayerNorm | None:
    """The norm in front of a network's head, if there is one. Its gain is where muP's factor of the logits
    lives (arXiv:2203.03466, table 8): Adam trains a gain that begins there, at a rate times the factor, as it
    would train one that begins at 1 with the factor behind it, and the network is one like any other."""
    brought = {id(own) for each in network.modules() if isinstance(each, Input) for own in each.brought()}
    norms = [each for each in network.modules() if isinstance(each, nn.RMSNorm | nn.LayerNorm)]
    return next((each for each in reversed(norms) if id(each) not in brought), None)


def draw(layer: nn.Linear | nn.Embedding, std: float) -> None:
    """Initial weights of a layer, in place: normal, biases zero."""
    nn.init.normal_(layer.weight, std=std)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


def training_flops_per_token(
    module: nn.Module, config: BackboneConfig, seq_len: int, head: nn.Module | None = None
) -> int:
    """Floating-point operations to train on one token: 6 for each weight of a matrix product and
    12 · layers · heads · head width · positions seen for attention (PaLM, arXiv:2204.02311, appendix B).

    Args:
        module: backbone with its head. Embedding look-ups cost nothing.
        seq_len: tokens of a sequence; a causal one is counted in full, as is the field's custom.
        head: whose weight may be tied to the embeddings: it counts all the same.
    """
    looked_up = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    if head is not None:
        looked_up.discard(id(head.weight))
    weights = sum(p.numel() for p in module.parameters() if p.ndim == 2 and id(p) not in looked_up)
    weights += sum(each.num_weights for each in module.modules() if isinstance(each, QuantisedLinear))
    seen = 0
    for layer in range(config.num_layers):
        reach = seq_len
        if config.windowed(layer):
            reach = config.window if config.causal else 2 * config.window - 1
        seen += min(seq_len, reach)
    return 6 * weights + 12 * config.num_heads * config.dim_per_head * seen
