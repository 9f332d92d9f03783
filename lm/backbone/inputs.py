"""What stands before the blocks: a raw batch to hidden states. Tokens today; patches and frames are others of
the kind, and a class of one's own is given to a network as its `embeddings`."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backbone.config import BackboneConfig


def make_norm(config: BackboneConfig) -> nn.Module:
    """A norm over the hidden size."""
    if config.norm == "rms":
        return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.has_bias("norm"))


def document_positions(documents: Tensor) -> Tensor:
    """Each position's distance from the start of its document: (B, T) from document ids (B, T)."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def positions(length: int, documents: Tensor | None, past: int, device: torch.device) -> Tensor:
    """Where `length` positions stand that come after `past` others: (T,), or (B, T) where they count anew in
    each document.

    Raises:
        ValueError: documents of another length than `past` + `length`.
    """
    if documents is None:
        return torch.arange(past, past + length, device=device)
    if documents.shape[1] != past + length:
        raise ValueError(f"documents of {documents.shape[1]} positions, but there are {past + length}")
    return document_positions(documents)[:, -length:]


class Input(nn.Module, ABC):
    """A raw batch to hidden states. Its matrices are optimised as embeddings are: not by Muon."""

    @abstractmethod
    def forward(self, raw: Any, documents: Tensor | None = None, past: int = 0, **more: Any) -> Tensor:
        """Hidden states (B, T, hidden_size).

        Args:
            raw: the batch, in whatever shape the modality has.
            documents: see `Backbone.forward`.
            past: positions that are in a cache already.
        """


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
