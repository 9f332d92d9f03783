"""Losses that stay exact however many tokens or examples they are summed over."""

import math

import torch
from torch import Tensor

from lm.metrics.base import Sums, exact


class TokenLoss(Sums):
    """Nats per token, perplexity, bits per byte and accuracy, from sums in fp64 and counts in int64.

    torchmetrics' own perplexity counts in fp32, which stops counting at 2^24 tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("nats", dtype=torch.float32)
        for name in ("tokens", "bytes", "hits"):
            self.add_sum(name)

    def update(self, nats: Tensor, tokens: Tensor, bytes_: Tensor, hits: Tensor) -> None:
        """Add a batch.

        Args:
            nats: summed cross-entropy.
            tokens: targets that were counted.
            bytes_: UTF-8 bytes of the original text that those targets stand for.
            hits: targets that had the largest logit.
        """
        for name, value in ("nats", nats), ("tokens", tokens), ("bytes", bytes_), ("hits", hits):
            self.increase(name, value)

    def compute(self) -> dict[str, Tensor]:
        """`loss` (nats per token), `perplexity`, `bits_per_byte`, `accuracy`. Not a number without tokens."""
        loss = self.nats / self.tokens
        return {
            "loss": loss,
            "perplexity": loss.exp(),
            "bits_per_byte": self.nats / self.bytes / math.log(2),
            "accuracy": self.hits / self.tokens,
        }


class MeanLoss(Sums):
    """The mean of the examples' losses."""

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total", dtype=torch.float32)
        self.add_sum("count")

    def update(self, losses: Tensor, count: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            losses: of the examples, (B,), or their sum.
            count: how many they are, where `losses` is a sum.
        """
        self.increase("total", losses.to(exact(losses.device)).sum())
        self.increase("count", torch.tensor(losses.numel()) if count is None else count)

    def compute(self) -> dict[str, Tensor]:
        """`loss`; not a number without examples."""
        return {"loss": self.total / self.count}
