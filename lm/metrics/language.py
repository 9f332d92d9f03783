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
        self.add_sums("nats", dtype=torch.float32)
        self.add_sums("tokens", "bytes", "hits")

    def update(self, nats: Tensor, tokens: Tensor, bytes_: Tensor, hits: Tensor) -> None:
        """Add a batch.

        Args:
            nats: summed cross-entropy.
            tokens: targets that were counted.
            bytes_: UTF-8 bytes of the original text that those targets stand for.
            hits: targets that had the largest logit.
        """
        self.increase(nats=nats, tokens=tokens, bytes=bytes_, hits=hits)

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
        self.add_sums("total", dtype=torch.float32)
        self.add_sums("count")

    def update(self, losses: Tensor, count: Tensor | None = None) -> None:
        """Add the losses of a batch, (B,), or their sum and of how many it is."""
        count = losses.numel() if count is None else count
        self.increase(total=losses.to(exact(losses.device)).sum(), count=count)

    def compute(self) -> dict[str, Tensor]:
        """`loss`; not a number without examples."""
        return {"loss": self.total / self.count}
