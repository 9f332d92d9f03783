"""Which of the things that are there each query is to find: one each, and all pairs together as good as can
be (DETR, arXiv:2005.12872)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.errors import not_installed

_NOTHING = 0.1  # how much a query counts that is to find nothing: most of them are
_WORST = 1e9  # the cost of a pair in the place of one that is no number


@torch.no_grad()
def matched(cost: Tensor, labels: Tensor) -> Tensor:
    """The number of the thing that each query is to find, int64 (B, Q), -1 for none: one thing a query, one
    query a thing, with the least sum of costs.

    Args:
        cost: of each query with each thing, (B, Q, N).
        labels: classes of the things (B, N), -1 where there are no more.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise not_installed("learning by queries", "scipy", "images") from error
    result = np.full(cost.shape[:2], -1)
    costs = np.nan_to_num(cost.float().cpu().numpy(), nan=_WORST, posinf=_WORST, neginf=_WORST)
    for row, there in enumerate((labels >= 0).cpu().numpy()):
        numbers = there.nonzero()[0]
        queries, things = linear_sum_assignment(costs[row][:, numbers])
        result[row, queries] = numbers[things]
    return torch.from_numpy(result).to(cost.device)


def class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """How unlikely each query says each thing's class is, (B, Q, N), up to a constant.

    Args:
        logits: of the classes and, last, of nothing (B, Q, classes + 1).
        labels: see `matched`.
    """
    wanted = labels.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1)
    return -logits.softmax(-1).gather(2, wanted)


def class_losses(logits: Tensor, thing: Tensor, labels: Tensor) -> Tensor:
    """The summed cross-entropy of what a picture's queries say, (B,).

    Args:
        logits, labels: see `class_cost`; of each picture at least one label.
        thing: see `matched`.
    """
    nothing = thing < 0
    wanted = labels.gather(1, thing.clamp(min=0)).masked_fill(nothing, logits.shape[-1] - 1)
    losses = F.cross_entropy(logits.mT, wanted, reduction="none")
    return torch.where(nothing, _NOTHING * losses, losses).sum(1)
