"""Boxes from every position of a picture: each says how likely a thing of each class is there, and how far it
reaches (FCOS, arXiv:1904.01355). Which positions are to find a thing goes by how well they do already (TOOD,
arXiv:2108.07755)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.tasks.image.boxes import overlap, surest

_RARE = -4.0  # added to logits of classes: at first a thing is nowhere likely (arXiv:1708.02002)
_MOST = 10  # positions that are to find the same thing
_BOX = 2.0  # weight of a box's loss beside the classes'
_CANDIDATES, _KEPT = 300, 100  # boxes of a picture; as many as COCO's figures look at are kept
_LEAST = 0.01  # score of a box that is kept


@dataclass(frozen=True)
class DenseBoxes:
    """What a position's outputs mean: a logit of each class, and the logarithms of how far a thing reaches to
    the left, top, right and bottom, measured by the distance between positions.

    Args:
        classes: how many.
        grid: rows and columns of positions.
        step: pixels from one to the next.
    """

    classes: int
    grid: tuple[int, int]
    step: int

    @property
    def outputs(self) -> int:
        return self.classes + 4

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, P, classes) and boxes (B, P, 4) in pixels from outputs (B, T, classes + 4), whose last P
        positions are the grid's."""
        rows, columns = self.grid
        outputs = outputs[:, -rows * columns :]
        reach = outputs[..., self.classes :].clamp(-6, 6).exp() * self.step
        places = self.places(outputs.device)
        boxes = torch.cat((places - reach[..., :2], places + reach[..., 2:]), -1)
        return outputs[..., : self.classes] + _RARE, boxes

    def places(self, device: torch.device) -> Tensor:
        """x and y of the positions, (P, 2) in pixels."""
        rows, columns = (torch.arange(count, device=device) for count in self.grid)
        return (torch.cartesian_prod(rows, columns).flip(-1) + 0.5) * self.step

    def losses(self, outputs: Tensor, true: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of each picture (B,).

        Args:
            true: boxes that are there, (B, N, 4).
            labels: their classes (B, N), -1 where there are no more.
        """
        true, labels = F.pad(true, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)  # one there is always
        logits, boxes = self.read(outputs)
        thing, share, quality = self.assigned(logits, boxes, true, labels)
        counted = thing >= 0  # (B, P)
        thing = thing.clamp(min=0)
        wanted = labels.gather(1, thing).clamp(min=0)
        target = F.one_hot(wanted, self.classes) * (quality * counted)[..., None]
        # Where it is nearly right already, little is left of the loss (arXiv:2006.04388).
        ease = (target - logits.sigmoid()).detach().square()
        sure = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * ease
        there = true.gather(1, thing[..., None].expand(-1, -1, 4))
        place = (1 - overlap(boxes, there, generalised=True)) * share * counted
        return (sure.sum((1, 2)) + _BOX * place.sum(1)) / _MOST

    @torch.no_grad()
    def assigned(
        self, logits: Tensor, boxes: Tensor, true: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Which thing each position is to find (B, P), -1 for none; how much its box counts, 1 where it does
        best of all for that thing; and how sure it should be."""
        P = boxes.shape[1]
        hit = overlap(true[:, :, None], boxes[:, None])  # (B, N, P)
        chance = logits.sigmoid().mT.gather(1, labels.clamp(min=0)[..., None].expand(-1, -1, P))
        middle = (true[..., :2] + true[..., 2:]) / 2
        half = ((true[..., 2:] - true[..., :2]) / 2).clamp(min=self.step / 2)  # so that one is in a small box
        away = (self.places(boxes.device) - middle[:, :, None]).abs() / half[:, :, None]
        away = away.amax(-1)  # 0 in a thing's middle, 1 at its border
        # While all boxes are bad alike, those in its middle are to find a thing.
        fit = (chance.sqrt() * hit**6 + 1e-6 * (1 - away)) * ((away <= 1) & (labels >= 0)[..., None])
        best, chosen = fit.topk(min(_MOST, P), -1)
        fit = torch.zeros_like(fit).scatter(-1, chosen, best)
        share = fit / fit.amax(-1, keepdim=True).clamp(min=1e-12)
        quality = share * (hit * (fit > 0)).amax(-1, keepdim=True)
        found, thing = fit.max(1)  # of several things that which it fits best

        def of_thing(values: Tensor) -> Tensor:
            return values.gather(1, thing[:, None])[:, 0]

        return torch.where(found > 0, thing, -1), of_thing(share), of_thing(quality)

    def found(self, outputs: Tensor) -> list[dict[str, Tensor]]:
        """Of each picture `boxes` (n, 4), `scores` and `labels` (n,), the surest first."""
        logits, boxes = self.read(outputs)
        scores, numbers = logits.sigmoid().flatten(1).topk(min(_CANDIDATES, logits[0].numel()))
        results = []
        for all_boxes, all_scores, number in zip(boxes, scores, numbers, strict=True):
            likely = all_scores > _LEAST
            box, label = all_boxes[number[likely] // self.classes], number[likely] % self.classes
            kept = surest(box, score := all_scores[likely], label)[:_KEPT]
            results.append({"boxes": box[kept], "scores": score[kept], "labels": label[kept]})
        return results
