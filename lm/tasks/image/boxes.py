"""Boxes, x0 y0 x1 y1 each: how much they overlap, and which of them say the same thing."""

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Areas (…) of boxes (…, 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def overlap(a: Tensor, b: Tensor, generalised: bool = False) -> Tensor:
    """Intersection over union (…) of boxes (…, 4) and (…, 4), whose shapes broadcast.

    Args:
        generalised: less the share of the smallest box around both that neither covers (arXiv:1902.09630):
            from -1 to 1, it says of boxes far apart how far.
    """
    shared = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = shared.clamp(min=0).prod(-1)
    union = (area(a) + area(b) - shared).clamp(min=1e-9)
    if not generalised:
        return shared / union
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    around = around.prod(-1).clamp(min=1e-9)
    return shared / union - (around - union) / around


def surest(boxes: Tensor, scores: Tensor, labels: Tensor, most: float = 0.6) -> Tensor:
    """Numbers of the boxes that are kept, the surest first: none overlaps a surer one of its class by more
    than `most` (non-maximum suppression).

    Args:
        boxes: (n, 4).
        scores, labels: (n,).
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order], labels[order]
    same = (overlap(boxes[:, None], boxes) > most) & (labels[:, None] == labels)
    kept = torch.ones(len(order), dtype=torch.bool)
    for number, covered in enumerate(same.cpu()):
        if kept[number]:
            kept[number + 1 :] &= ~covered[number + 1 :]
    return order[kept.to(order.device)]
