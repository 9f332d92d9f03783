"""Masks from learned queries: each says a class, or nothing, and where that is (MaskFormer, arXiv:2107.06278;
by an encoder alone EoMT, arXiv:2503.19108)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.processors.pictures import VOID
from lm.tasks.image.matching import class_cost, class_losses, matched
from lm.tasks.image.squares import Squares

_WIDTH = 64  # of the vectors whose products are a mask's logits
_CLASS, _PIXELS, _DICE = 2.0, 5.0, 5.0  # weights of the loss's parts (Mask2Former, arXiv:2112.01527)


@dataclass(frozen=True)
class QueryMasks:
    """What outputs mean: of a query a logit of each class and one of nothing, and a vector; of a position a
    vector of each of its squares. A mask's logits are the products of the query's vector with the squares'.

    Args:
        classes: how many.
        queries: how many; they are the last positions, behind the grid's.
        squares: where the positions' squares are.
    """

    classes: int
    queries: int
    squares: Squares

    @property
    def outputs(self) -> int:
        return self.classes + 1 + _WIDTH * (1 + self.squares.each**2)

    def read(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, Q, classes + 1) and those of masks (B, Q, H, W) of outputs (B, T, outputs)."""
        rows, columns = self.squares.grid
        outputs = outputs[:, -rows * columns - self.queries :]
        positions, queries = outputs.split((rows * columns, self.queries), 1)
        parts = (self.classes + 1, _WIDTH, _WIDTH * self.squares.each**2)
        logits, vectors, _ = queries.split(parts, -1)
        there = self.squares.laid_out(positions.split(parts, -1)[2])
        masks = torch.einsum("bqd,bdrc->bqrc", vectors, there) * _WIDTH**-0.5
        return logits, self.squares.pixels(masks)

    def scores(self, outputs: Tensor) -> Tensor:
        """How likely each class is at each pixel, up to a factor of the pixel's, (B, classes, H, W)."""
        logits, masks = self.read(outputs)
        return torch.einsum("bqc,bqhw->bchw", logits.softmax(-1)[..., :-1], masks.sigmoid())

    def losses(self, outputs: Tensor, mask: Tensor, classes: Tensor | None = None) -> Tensor:
        """The summed loss of each picture (B,).

        Args:
            mask, classes: see `apart`; pixels that are `VOID` count nowhere.
        """
        things, labels = apart(mask, classes)
        logits, masks = self.read(outputs)
        pixels, dice = differences(masks.flatten(2), things.flatten(2), (mask != VOID).flatten(1))
        cost = _CLASS * class_cost(logits, labels) + _PIXELS * pixels + _DICE * dice
        thing = matched(cost, labels)
        pair = thing.clamp(min=0)[..., None]
        place = (_PIXELS * pixels.gather(2, pair) + _DICE * dice.gather(2, pair))[..., 0]
        return _CLASS * class_losses(logits, thing, labels) + torch.where(thing >= 0, place, 0).sum(1)

    def targets(self, mask: Tensor, classes: Tensor | None = None) -> Tensor:
        """Things on each picture, (B,)."""
        return (apart(mask, classes)[1] >= 0).sum(1)


def apart(mask: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where each thing is that is on any of the pictures, bool (B, N, H, W), and its class, -1 for pictures
    that are without it, (B, N).

    Args:
        mask: class of each pixel (B, H, W), each class one thing, or the number of the thing that it is of;
            `VOID` where none is known.
        classes: of the things with the numbers 1, 2 …, (B, n), -1 where there are no more.
    """
    if classes is None:
        numbers = torch.cat((mask.flatten(), mask.new_zeros(1))).unique()  # one there is always
        numbers = classes = numbers[numbers != VOID].long()
    else:
        classes = F.pad(classes, (0, 1), value=-1)
        numbers = torch.arange(1, classes.shape[1] + 1, device=mask.device)
    there = mask[:, None] == numbers[:, None, None]
    return there, torch.where(there.flatten(2).any(2), classes, -1)


def differences(masks: Tensor, things: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """How far each query's mask is from each thing, (B, Q, N) both: the mean binary cross-entropy, and 1 less
    the dice coefficient (arXiv:1606.04797).

    Args:
        masks: logits of P pixels, (B, Q, P).
        things: where these are, bool (B, N, P).
        counted: pixels of which something is known, bool (B, P).
    """
    counted, things = counted[:, None].to(masks), things.to(masks)
    amount = counted.sum(-1, keepdim=True).clamp(min=1)
    away = (F.softplus(masks) * counted).sum(-1, keepdim=True) - (masks * counted) @ things.mT
    there = masks.sigmoid() * counted
    both = there.sum(-1, keepdim=True) + things.sum(-1)[:, None]
    return away / amount, 1 - (2 * there @ things.mT + 1) / (both + 1)
