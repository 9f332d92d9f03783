"""Losses that stay exact however many tokens or examples they are summed over."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lm.metrics.base import Sums, exact, ratio


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


class CorpusLosses(Sums):
    """The loss and the bits per byte of each of several corpora.

    Args:
        names: of the corpora, in their order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.add_sums("nats", shape=(len(self.names),), dtype=torch.float32)
        self.add_sums("tokens", "bytes", shape=(len(self.names),))

    def update(self, corpus: Tensor, nats: Tensor, tokens: Tensor, bytes_: Tensor) -> None:
        """Add a batch of one corpus.

        Args:
            corpus: which, a scalar; it may stay on the device.
            nats, tokens, bytes_: as for `TokenLoss`.
        """
        here = torch.arange(len(self.names), device=corpus.device) == corpus
        values = {"nats": nats, "tokens": tokens, "bytes": bytes_}
        self.increase(**{name: torch.where(here, value, 0) for name, value in values.items()})

    def compute(self) -> dict[str, Tensor]:
        """`loss_<name>` and `bits_per_byte_<name>` of each; not a number without tokens."""
        figures = {"loss": ratio(self.nats, self.tokens)}
        figures["bits_per_byte"] = ratio(self.nats, self.bytes) / math.log(2)
        return {
            f"{figure}_{name}": value
            for figure, values in figures.items()
            for name, value in zip(self.names, values, strict=True)
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
