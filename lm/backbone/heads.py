"""What stands on a backbone: the language-model head, causal or masked, and the pooler."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.attention import KVCache
from lm.backbone.config import BackboneConfig
from lm.backbone.loss import linear_cross_entropy
from lm.backbone.transformer import Backbone, make_norm, training_flops_per_token


class Head(nn.Module):
    """Hidden states to logits over the vocabulary.

    Args:
        config: the backbone's shape.
        transform: put BERT's dense layer, GELU and norm before the projection, and a bias on it.
        tied: the token embeddings to use as the projection; null for a matrix of its own.
    """

    def __init__(self, config: BackboneConfig, transform: bool, tied: nn.Parameter | None) -> None:
        super().__init__()
        self.dense = (
            nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias) if transform else None
        )
        self.norm = make_norm(config) if transform else None
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if transform and config.bias else None
        self.weight = (
            nn.Parameter(torch.empty(config.vocab_size, config.hidden_size)) if tied is None else tied
        )

    def prepare(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., hidden_size) as the projection wants them."""
        return hidden if self.dense is None else self.norm(F.gelu(self.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) of hidden states (..., hidden_size)."""
        return F.linear(self.prepare(hidden), self.weight, self.bias)


class Pooler(nn.Module):
    """BERT's summary of a sequence: its first position through a dense layer and tanh."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, T, hidden_size) to (B, hidden_size)."""
        return self.dense(hidden[:, 0]).tanh()


class LanguageModel(nn.Module):
    """A backbone and its language-model head: GPT where it is causal, BERT where it is not.

    Args:
        config: the backbone's shape.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        tied = self.backbone.embeddings.tokens.weight if config.tie_embeddings else None
        self.head = Head(config, transform=not config.causal, tied=tied)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Initial weights of the backbone, and of the head in the same way."""
        self.backbone.initialize()
        if not self.config.tie_embeddings:
            nn.init.normal_(self.head.weight, std=self.config.init_std)
        if self.head.dense is not None:
            nn.init.normal_(self.head.dense.weight, std=self.config.init_std)
            if self.head.dense.bias is not None:
                nn.init.zeros_(self.head.dense.bias)

    def forward(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, vocab_size). With `targets` (B, T; negative: not counted) instead the summed
        cross-entropy in nats and, outside training, the number of hits: two scalars (see
        `linear_cross_entropy`), without those logits ever being there at once."""
        hidden = self.backbone(tokens, documents, cache=cache)
        if targets is None:
            return self.head(hidden)
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if self.head.dense is not None:
            # Only the masked positions count: the head is spared the rest.
            counted = targets >= 0
            hidden, targets = self.head.prepare(hidden[counted]), targets[counted]
        return linear_cross_entropy(hidden, self.head.weight, targets, self.head.bias)

    def load_weights(self, weights: dict[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Take over `weights` without copying them first: for a model that was built on the meta device.

        Raises:
            RuntimeError: names or shapes differ.
        """
        self.load_state_dict(weights, assign=True)
        if self.backbone.rotary is not None:
            self.backbone.rotary.fill(self.config.max_seq_len, device)
        self.to(device)
        if self.config.tie_embeddings:
            self.head.weight = self.backbone.embeddings.tokens.weight

    def num_parameters(self) -> int:
        """Number of parameters, a tied matrix counted once."""
        return sum(p.numel() for p in self.parameters())

    def training_flops_per_token(self, seq_len: int) -> int:
        """Floating-point operations to train on one token of a sequence of `seq_len`."""
        return training_flops_per_token(self, self.config, seq_len)
