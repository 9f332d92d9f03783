"""What stands on a backbone: the language-model head, causal or masked, and heads that classify."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.attention import KVCache, Rotary
from lm.backbone.config import BackboneConfig
from lm.backbone.inputs import Input, make_norm
from lm.backbone.linear import Linear, linear
from lm.backbone.loss import linear_cross_entropy
from lm.backbone.transformer import Backbone, draw, last_norm, training_flops_per_token


class Head(nn.Module):
    """Hidden states to logits over the vocabulary.

    Args:
        transform: put BERT's dense layer, GELU and norm before the projection, and a bias on it.
        tied: the token embeddings to use as the projection; None for a matrix of its own.
    """

    def __init__(self, config: BackboneConfig, transform: bool, tied: nn.Parameter | None) -> None:
        super().__init__()
        width, pieces = config.hidden_size, config.vocab_size
        self.dense = Linear(width, width, bias=config.bias) if transform else None
        self.norm = make_norm(config) if transform else None
        biased = transform and config.has_bias("head")
        self.bias = nn.Parameter(torch.zeros(pieces)) if biased else None
        self.weight = nn.Parameter(torch.empty(pieces, width)) if tied is None else tied

    def prepare(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., hidden_size) as the projection wants them."""
        return hidden if self.dense is None else self.norm(F.gelu(self.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) of hidden states (..., hidden_size)."""
        return linear(self.prepare(hidden), self.weight, self.bias)


class Pooler(nn.Module):
    """BERT's summary of a sequence: its first position through a dense layer and tanh."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, T, hidden_size) to (B, hidden_size)."""
        return self.dense(hidden[:, 0]).tanh()


class Network(nn.Module):
    """A backbone with a head on it: what every model here has in common."""

    head: nn.Module

    def __init__(self, config: BackboneConfig, embeddings: Input | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config, embeddings)

    @torch.no_grad()
    def initialize(self) -> None:
        """Initial weights; a subclass adds those of its head."""
        self.backbone.initialize()
        if (norm := last_norm(self)) is not None:
            nn.init.constant_(norm.weight, self.config.width_scale)

    def load_weights(self, weights: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Take over `weights` without copying them first: for a model that was built on the meta device.

        Raises:
            RuntimeError: names or shapes differ.
        """
        self.load_state_dict(weights, assign=True)
        for module in self.modules():
            if isinstance(module, Rotary):
                module.fill(self.config.max_seq_len, device)  # tables are no weights: on meta they are empty
        self.to(device)

    num_parameters = Backbone.num_parameters  # a tied matrix is counted once

    def training_flops_per_token(self, seq_len: int) -> int:
        """Floating-point operations to train on one token of a sequence of `seq_len`."""
        return training_flops_per_token(self, self.config, seq_len, self.head)


class LanguageModel(Network):
    """A backbone and its language-model head: GPT where it is causal, BERT where it is not."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        tied = self.backbone.embeddings.tokens.weight if config.tie_embeddings else None
        self.head = Head(config, transform=not config.causal, tied=tied)
        self.initialize()

    def load_weights(self, weights: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """See `Network.load_weights`; a head that is tied to the embeddings may be left out."""
        tied, name = self.config.tie_embeddings, "backbone.embeddings.tokens.weight"
        if tied and name in weights:
            weights = {"head.weight": weights[name], **weights}
        super().load_weights(weights, device)
        if tied:
            self.head.weight = self.backbone.embeddings.tokens.weight

    @torch.no_grad()
    def initialize(self) -> None:
        super().initialize()
        if not self.config.tie_embeddings:
            nn.init.normal_(self.head.weight, std=self.config.init_std)
        if self.head.dense is not None:
            draw(self.head.dense, self.config.matrix_std)

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        segments: Tensor | None = None,
        sparse: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, vocab_size). With `targets` (B, T; negative: not counted) instead the summed
        cross-entropy in nats and, outside training, the number of hits: two scalars (see
        `linear_cross_entropy`), without those logits ever being there at once. With `sparse` the head is
        spared the positions that don't count: worth it where these are many, as with masked tokens. The other
        arguments are the backbone's."""
        hidden = self.backbone(tokens, documents, cache, segments=segments)
        if targets is None:
            return self.head(hidden)
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if sparse or self.head.dense is not None:
            counted = targets >= 0
            hidden, targets = self.head.prepare(hidden[counted]), targets[counted]
        return linear_cross_entropy(hidden, self.head.weight, targets, self.head.bias)


class Classifier(Network):
    """A backbone and a linear head: on one summary of each sequence, or on every position.

    Args:
        outputs: numbers that come out: classes, or 1 for a score, or 2 for a span's start and end.
        pooling: a sequence's summary: its first position, the mean of its positions, its last one, or a mean
            by the weights that a learned query gives them ("attention"); None for outputs at every position.
        pooler: put BERT's dense layer and tanh behind the first position.
        dropout: probability, in front of the linear layer.
        mix_layers: the head reads a mix of what all layers give, by learned weights, each layer normed (ELMo,
            arXiv:1802.05365): what goes into the first one, too.
        also: what of the sequence is read beside its first position, so that the summary is twice as wide:
            the `second` one (DeiT's teacher, arXiv:2012.12877), or the `mean` of those that the input does
            not put before the raw batch's own (DINOv2, arXiv:2304.07193); or, as wide as ever, the
            `average` of the first and the second (AST, arXiv:2104.01778).
        norm: put a norm in front of the linear layer, of a summary that is as wide as ever.

    Raises:
        ValueError: a pooler or `also` with another pooling than "first".
    """

    def __init__(
        self,
        config: BackboneConfig,
        outputs: int,
        pooling: Literal["first", "mean", "last", "attention"] | None,
        pooler: bool = False,
        dropout: float = 0.0,
        embeddings: Input | None = None,
        mix_layers: bool = False,
        also: Literal["second", "mean", "average"] | None = None,
        norm: bool = False,
    ) -> None:
        super().__init__(config, embeddings)
        if (pooler or also) and pooling != "first":
            what = "a pooler takes" if pooler else f"`also` {also!r} stands beside"
            raise ValueError(f"{what} the first position, but pooling is {pooling!r}")
        self.outputs, self.pooling, self.also = outputs, pooling, also
        self.pooler = Pooler(config) if pooler else None
        self.query = nn.Parameter(torch.empty(config.hidden_size)) if pooling == "attention" else None
        self.mix = nn.Parameter(torch.empty(config.num_layers + 1)) if mix_layers else None
        self.norm = make_norm(config) if norm else None
        self.dropout = nn.Dropout(dropout)
        width = config.hidden_size * (2 if also in ("second", "mean") else 1)
        # None behind a sequence's last position: other projects' GPTs have none there, so it can be exported.
        self.head = Linear(width, outputs, bias=pooling != "last")
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        super().initialize()
        draw(self.head, self.config.init_std)
        if self.pooler is not None:
            draw(self.pooler.dense, self.config.matrix_std)
        for weights in (self.query, self.mix):  # all positions and layers count the same at first
            if weights is not None:
                nn.init.zeros_(weights)

    def hidden(self, raw: Any, documents: Tensor | None, **more: Any) -> Tensor:
        """What the head reads, (B, T, hidden_size)."""
        if self.mix is None:
            return self.backbone(raw, documents, **more)
        layers: list[Tensor] = []
        layers.append(self.backbone(raw, documents, layers=layers, **more))
        normed = torch.stack([F.layer_norm(each, each.shape[-1:]) for each in layers])
        return torch.einsum("l,lbth->bth", self.mix.softmax(0).to(normed.dtype), normed)

    def summary(self, hidden: Tensor, documents: Tensor | None) -> Tensor:
        """Hidden states (B, T, hidden_size) to one vector a sequence (B, hidden_size); see `also`."""
        if self.pooling == "first":
            first = hidden[:, 0] if self.pooler is None else self.pooler(hidden)
            if self.also == "average":
                return (first + hidden[:, 1]) / 2
            if self.also == "second":
                return torch.cat((first, hidden[:, 1]), -1)
            if self.also == "mean":
                own = self.backbone.embeddings.prefix
                real = None if documents is None else documents[:, own:]
                return torch.cat((first, _mean(hidden[:, own:], real)), -1)
            return first
        if self.pooling == "attention":
            scores = hidden.float() @ self.query.float() * hidden.shape[-1] ** -0.5  # (B, T)
            if documents is not None:
                scores = scores.masked_fill(documents < 0, float("-inf"))
            return torch.einsum("bt,bth->bh", scores.softmax(1).to(hidden.dtype), hidden)
        if self.pooling == "mean":
            return _mean(hidden, documents)
        if documents is None:
            return hidden[:, -1]
        index = torch.arange(hidden.shape[1], device=hidden.device)
        last = torch.where(documents >= 0, index, 0).amax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def forward(self, raw: Any, documents: Tensor | None = None, **more: Any) -> Tensor:
        """Logits in fp32: (B, outputs) of B sequences where there is pooling, else (B, T, outputs).

        Args:
            raw: what the input takes: of tokens, ids (B, T).
            documents: 0 for a position of the text and −1 for padding, (B, T); None without padding.
            more: what else the input takes: of tokens, `segments` (B, T).
        """
        hidden = self.hidden(raw, documents, **more)
        if self.pooling is not None:
            hidden = self.summary(hidden, documents)
        if self.norm is not None:
            hidden = self.norm(hidden)
        return self.head(self.dropout(hidden)).float()

    def training_flops_per_token(self, seq_len: int) -> int:
        """Floating-point operations to train on one token of a sequence of `seq_len`; a pooled head, which
        works once a sequence, counts by its share."""
        own = sum(p.numel() for name, p in self.named_parameters() if p.ndim == 2 and "backbone" not in name)
        body = training_flops_per_token(self.backbone, self.config, seq_len)
        return body + 6 * own // (seq_len if self.pooling is not None else 1)


def _mean(hidden: Tensor, documents: Tensor | None) -> Tensor:
    """The mean (B, hidden_size) of the positions of hidden states (B, T, hidden_size) that are no padding."""
    if documents is None:
        return hidden.mean(1)
    real = documents >= 0  # (B, T)
    total = torch.where(real[..., None], hidden.float(), 0).sum(1)
    return (total / real.sum(1, keepdim=True).clamp(min=1)).to(hidden.dtype)
