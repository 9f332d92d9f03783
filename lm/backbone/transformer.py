"""The backbone: embeddings, blocks, final norm. Initialisation and the counting of parameters and FLOPs.

- grouped key/value heads, QK-norm, a sliding window in all or most blocks, causal or bidirectional
- rotary or learned positions that start again with each document
- RMS or layer norm, before or after the sublayer
- SwiGLU, GeGLU, ReGLU, GELU, ReLU or squared ReLU
- documents packed into one sequence don't see each other
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.attention import Attention, KVCache, Pattern, Rotary, pattern
from lm.backbone.config import BackboneConfig


def make_norm(config: BackboneConfig) -> nn.Module:
    """A norm over the hidden size."""
    if config.norm == "rms":
        return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.has_bias("norm"))


def activation(kind: str, x: Tensor) -> Tensor:
    """The non-linearity of a feed-forward network."""
    match kind:
        case "swiglu":
            return F.silu(x)
        case "relu" | "reglu":
            return F.relu(x)
        case "relu2":
            return F.relu(x).square()
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case _:
            return F.gelu(x)


class MLP(nn.Module):
    """Feed-forward network, gated or plain."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        width, bias = config.mlp_width, config.has_bias("mlp")
        self.up = nn.Linear(config.hidden_size, width, bias=bias)
        self.gate = nn.Linear(config.hidden_size, width, bias=bias) if config.gated else None
        self.down = nn.Linear(width, config.hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, hidden_size) to the same shape."""
        if self.gate is None:
            return self.down(activation(self.kind, self.up(x)))
        return self.down(activation(self.kind, self.gate(x)) * self.up(x))


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
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), pattern, rotary, cache, self.layer))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, pattern, rotary, cache, self.layer)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Embeddings(nn.Module):
    """Token embeddings, with learned positions, segments and a norm where the configuration has them."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.max_seq_len, config.hidden_size) if learned else None
        self.segments = nn.Embedding(config.segments, config.hidden_size) if config.segments else None
        self.norm = make_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        """Embed `tokens` (B, T) that stand at `positions` (T,) or (B, T): (B, T, hidden_size)."""
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(tokens) if segments is None else segments)
        return self.dropout(self.norm(x))


def document_positions(documents: Tensor) -> Tensor:
    """Each position's distance from the start of its document: (B, T) from document ids (B, T)."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return index - torch.where(starts, index, 0).cummax(dim=1).values


class Backbone(nn.Module):
    """The Transformer that every task shares: tokens in, hidden states out."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        rotary = config.positions == "rotary"
        self.rotary = Rotary(config) if rotary else None
        local = rotary and config.local_rope_theta is not None
        self.local_rotary = Rotary(config, config.local_rope_theta) if local else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = make_norm(config) if config.norm_position == "before" else nn.Identity()

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states (B, T, hidden_size) of `tokens` (B, T).

        Args:
            tokens: ids of the pieces.
            documents: ids that are the same within a document and differ between the documents of a
                sequence, (B, T), with a cache (B, earlier positions + T); null where each sequence is one
                document. Padding is a document too, by custom −1.
            segments: segment of each token (B, T), for backbones that have segment embeddings.
            cache: what earlier calls left; the new tokens stand after it and are added to it.

        Raises:
            ValueError: more positions than `max_seq_len` and learned positions; or documents of another
                length.
        """
        T = tokens.shape[1]
        past = cache.length if cache is not None else 0
        if self.embeddings.positions is not None and past + T > self.config.max_seq_len:
            raise ValueError(f"{past + T} positions, but only {self.config.max_seq_len} were learned")
        if documents is None:
            positions = torch.arange(past, past + T, device=tokens.device)
        elif documents.shape[1] != past + T:
            raise ValueError(f"documents of {documents.shape[1]} positions, but there are {past + T}")
        else:
            positions = document_positions(documents)[:, -T:]
        # FlexAttention has no dropout and no gradient on CPU: there, a mask.
        flex = tokens.is_cuda and cache is None and not (self.training and self.config.dropout)
        # Who sees whom, and the angles: made once for all blocks of a kind.
        kinds = {self.config.windowed(layer) for layer in range(self.config.num_layers)}
        seen = {
            kind: pattern(self.config, T, past + T, documents, tokens.device, flex, kind) for kind in kinds
        }
        turns = {kind: self.angles(positions, past + T, kind) for kind in kinds}
        x = self.embeddings(tokens, positions, segments)
        for layer, block in enumerate(self.blocks):
            kind = self.config.windowed(layer)
            x = block(x, seen[kind], turns[kind], cache)
        if cache is not None:
            cache.length += T
        return self.norm(x)

    def angles(self, positions: Tensor, length: int, windowed: bool) -> tuple[Tensor, Tensor] | None:
        """Rotary cosines and sines of `positions` (T,) or (B, T), all below `length`, for the blocks with or
        without a window; null where positions are learned."""
        rotary = self.local_rotary if windowed and self.local_rotary is not None else self.rotary
        if rotary is None:
            return None
        cos, sin = rotary(positions, length)
        return (cos, sin) if positions.ndim == 1 else (cos[:, None], sin[:, None])

    @torch.no_grad()
    def initialize(self) -> None:
        """The one place where initial weights come from: normal, biases zero, norms one, projections into
        the residual stream scaled down or zero."""
        config = self.config
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.init_std)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            for projection in (block.attention.output, block.mlp.down):
                if config.residual_init == "zero":
                    nn.init.zeros_(projection.weight)
                else:
                    projection.weight.mul_((2 * config.num_layers) ** -0.5)

    def num_parameters(self) -> int:
        """Number of parameters, each counted once."""
        return sum(p.numel() for p in self.parameters())


def training_flops_per_token(module: nn.Module, config: BackboneConfig, seq_len: int) -> int:
    """Floating-point operations to train on one token: 6 for each weight of a matrix product and
    12 · layers · heads · head width · positions seen for attention (PaLM, arXiv:2204.02311, appendix B).

    Args:
        module: backbone with its head. Embedding look-ups cost nothing; a tied matrix counts as the head's.
        seq_len: tokens of a sequence; a causal one is counted in full, as is the field's custom.
    """
    looked_up = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    head = getattr(module, "head", None)
    if head is not None:
        looked_up.discard(id(head.weight))
    weights = sum(p.numel() for p in module.parameters() if p.ndim == 2 and id(p) not in looked_up)
    seen = 0
    for layer in range(config.num_layers):
        reach = seq_len
        if config.windowed(layer):
            reach = config.window if config.causal else 2 * config.window - 1
        seen += min(seq_len, reach)
    return 6 * weights + 12 * config.num_heads * config.dim_per_head * seen
