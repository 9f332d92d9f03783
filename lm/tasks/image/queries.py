"""Boxes from learned queries: vectors that stand behind the patches, and of which each finds one thing or
nothing (DETR, arXiv:2005.12872; by an encoder alone YOLOS, arXiv:2106.00666). No two are to find the same, so
nothing is sorted out afterwards."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.tasks.image.boxes import overlap
from lm.tasks.image.matching import class_cost, class_losses, matched

_PLACE, _OVERLAP = 5.0, 2.0  # weights of distance and of overlap, beside 1 for the class
_KEPT = 100  # boxes of a picture: as many as COCO's figures look at
_LEAST = 0.01  # score of a box that is kept


@dataclass(frozen=True)
class QueryBoxes:
    """What a query's outputs mean: a logit of each class and one of nothing, and the box's middle, width and
    height as logits of shares of the input's.

    Args:
        classes: how many.
        queries: how many; they are the last positions.
        size: height and width of the input, in pixels.
    """

    classes: int
    queries: int
    size: tuple[int, int]

    @property
    def outputs(self) -> int:
        return self.classes + 1 + 4

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, classes + 1) and boxes (B, Q, 4) as shares, middle first, of outputs (B, T, classes +
        5)."""
        outputs = outputs[:, -self.queries :]
        return outputs[..., : self.classes + 1], outputs[..., self.classes + 1 :].sigmoid()

    def losses(self, outputs: Tensor, true: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of each picture (B,).

        Args:
            true: boxes that are there, x0 y0 x1 y1 in pixels (B, N, 4).
            labels: their classes (B, N), -1 where there are no more.
        """
        true, labels = F.pad(true, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)  # one there is always
        logits, boxes = self.read(outputs)
        there = self.shares(true)
        near = overlap(corners(boxes)[:, :, None], corners(there)[:, None], generalised=True)  # (B, Q, N)
        away = torch.cdist(boxes, there, p=1)
        cost = class_cost(logits, labels) + _PLACE * away - _OVERLAP * near
        thing = matched(cost, labels)
        pair = thing.clamp(min=0)[..., None]
        place = _PLACE * away.gather(2, pair) + _OVERLAP * (1 - near.gather(2, pair))
        return class_losses(logits, thing, labels) + torch.where(thing >= 0, place[..., 0], 0).sum(1)

    def found(self, outputs: Tensor) -> list[dict[str, Tensor]]:
        """Of each picture `boxes` (n, 4), x0 y0 x1 y1 in pixels, `scores` and `labels` (n,), the surest
        first."""
        logits, boxes = self.read(outputs)
        boxes = corners(boxes) * self.sides(boxes)
        results = []
        for box, chances in zip(boxes, logits.softmax(-1)[..., :-1], strict=True):
            scores, labels = chances.max(-1)
            order = scores.argsort(descending=True, stable=True)[:_KEPT]
            kept = order[scores[order] > _LEAST]
            results.append({"boxes": box[kept], "scores": scores[kept], "labels": labels[kept]})
        return results

    def sides(self, like: Tensor) -> Tensor:
        """Width, height, width and height of the input."""
        height, width = self.size
        return like.new_tensor([width, height, width, height])

    def shares(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) from x0 y0 x1 y1 in pixels to middle, width and height in shares of the input's."""
        start, end = (boxes / self.sides(boxes)).split(2, -1)
        return torch.cat(((start + end) / 2, end - start), -1)


def corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) from middle, width and height to x0 y0 x1 y1."""
    middle, sides = boxes.split(2, -1)
    return torch.cat((middle - sides / 2, middle + sides / 2), -1)
