"""What a model writes and foresees, in batches of equally long texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.audit.findings import Figure
from lm.backbone import LanguageModel
from lm.errors import UserError
from lm.inference.batch import complete
from lm.tasks.text.pretraining import several_documents

ROWS = 64  # texts at once


@torch.no_grad()
def token_statistics(
    network: LanguageModel, tokens: np.ndarray, documents: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each token but the first, given those before it: log p, and the mean and standard deviation of log p
    over the vocabulary, each token weighted by its probability.

    Args:
        network: a GPT in evaluation mode.
        tokens: ids (B, T + 1).
        documents: which document of its row a token is from, (B, T + 1): they don't see each other, as in
            training; None: each row is one.

    Returns:
        each (B, T), float32 on the CPU, nats.
    """
    device: Any = network.head.weight.device
    rows = torch.from_numpy(np.ascontiguousarray(tokens)).to(device)
    borders = None if documents is None else several_documents(torch.from_numpy(documents[:, :-1]))
    borders = None if borders is None else borders.to(rows.device)
    hidden = network.backbone(rows[:, :-1], borders)  # (B, T, H)
    parts = []
    for states, targets in zip(hidden, rows[:, 1:], strict=True):  # a text at a time: logits are large
        logs = network.head(states).float().log_softmax(dim=-1)  # (T, V)
        p = logs.exp()
        centre = (p * logs).sum(dim=-1)
        spread = (p * logs.square()).sum(dim=-1) - centre.square()
        chosen = logs.gather(1, targets[:, None])[:, 0]
        parts.append(torch.stack([chosen, centre, spread.clamp(min=0).sqrt()]).cpu())
    log_p, centre, spread = torch.stack(parts, dim=1)
    return log_p, centre, spread


def greedy(network: LanguageModel, prompts: Sequence[Sequence[int]], tokens: int, vocab: int) -> np.ndarray:
    """The likeliest continuation of each prompt, int64 (B, tokens): to its end, whatever comes in it."""
    rows = complete(network, prompts, tokens, [-1], vocab_size=vocab, batch_size=ROWS)
    return np.array(rows, dtype=np.int64).reshape(len(prompts), tokens)


def finite(what: str, values: Sequence[float]) -> None:
    """Raises UserError where a model's numbers are none: compared, they would look like a good model's."""
    if not np.isfinite(np.array(values, dtype=np.float64)).all():
        raise UserError(f"the model's {what} is not finite: its training has diverged")


def clustered_share(hits: Sequence[int], each: int | Sequence[int], what: str) -> Figure:
    """A share of things that hang together in clusters, as the continuations of a prompt.

    The interval is Korn and Graubard's (1998, "Confidence Intervals for Proportions With Small Expected
    Number of Positive Counts"): Clopper and Pearson's of as many independent things as would have this
    variance between clusters. Where no two clusters differ, as after 0 hits, each counts as one thing.

    Args:
        hits: of each cluster.
        each: things in a cluster, or in each of them.

    Raises:
        ValueError: there is no cluster.
    """
    from lm.evaluation import binomial_interval, student_quantile

    if not hits:
        raise ValueError("a share of nothing")
    own, sizes = np.array(hits), np.broadcast_to(each, len(hits))
    clusters, n = len(own), int(sizes.sum())
    p, effective = int(own.sum()) / n, float(clusters)
    rest = own * n - own.sum() * sizes  # n times what a cluster has above its part: exactly 0 where none has
    variance = float((rest**2).sum()) / n**4 * clusters / (clusters - 1) if clusters > 1 else 0.0
    if variance:
        widening = student_quantile(0.975, n - 1) / student_quantile(0.975, clusters - 1)
        effective = min(p * (1 - p) / variance * widening**2, float(n))
    level = 0.1 if p in (0, 1) else 0.05  # one-sided at the ends, as `share` is
    return Figure(p, what, *binomial_interval(p * effective, effective, level), n, "%")
