"""Tokens: what a text is made of."""

import torch
from torch import Tensor, nn

from lm.backbone.config import BackboneConfig
from lm.backbone.inputs.base import Input, make_norm, positions


class TokenInput(Input):
    """Token embeddings, with learned positions, segments and a norm where the configuration has them."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.max_seq_len = config.max_seq_len
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.max_seq_len, config.hidden_size) if learned else None
        self.segments = nn.Embedding(config.segments, config.hidden_size) if config.segments else None
        self.norm = make_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        raw: Tensor,
        documents: Tensor | None = None,
        past: int = 0,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Embed tokens (B, T).

        Args:
            segments: segment of each token (B, T); None: all of the first.

        Raises:
            ValueError: more positions than were learned.
        """
        x = self.tokens(raw)
        if self.positions is not None:
            length = raw.shape[1]
            if past + length > self.max_seq_len:
                raise ValueError(f"{past + length} positions, but only {self.max_seq_len} were learned")
            x = x + self.positions(positions(length, documents, past, raw.device))
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(raw) if segments is None else segments)
        return self.dropout(self.norm(x))
