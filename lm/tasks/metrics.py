"""Figures of a language model that stay exact however many tokens they are summed over."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenLoss(Metric):
    """Nats per token, perplexity, bits per byte and accuracy, from sums in fp64 and counts in int64.

    torchmetrics' own perplexity counts in fp32, which stops counting at 2^24 tokens.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros(()), dist_reduce_fx="sum")  # fp64 from the first batch on
        for name in ("tokens", "bytes", "hits"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, tokens: Tensor, bytes_: Tensor, hits: Tensor) -> None:
        """Add a batch.

        Args:
            nats: summed cross-entropy.
            tokens: targets that were counted.
            bytes_: UTF-8 bytes of the original text that those targets stand for.
            hits: targets that had the largest logit.
        """
        # Here, not when the state is made: a model converted to bf16 takes its states along, and Apple's
        # GPUs have no fp64.
        exact = torch.float32 if nats.device.type == "mps" else torch.float64
        self.nats = self.nats.to(exact) + nats.to(exact)
        self.tokens += tokens
        self.bytes += bytes_
        self.hits += hits

    def compute(self) -> dict[str, Tensor]:
        """`loss` (nats per token), `perplexity`, `bits_per_byte`, `accuracy`. Not a number without tokens."""
        loss = self.nats / self.tokens
        return {
            "loss": loss,
            "perplexity": loss.exp(),
            "bits_per_byte": self.nats / self.bytes / math.log(2),
            "accuracy": self.hits / self.tokens,
        }
