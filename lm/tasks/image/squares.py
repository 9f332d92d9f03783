"""Classes of pixels from every position of a picture, which speaks for small squares; in between, logits are
interpolated (the linear decoder of Segmenter, arXiv:2105.05633)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.processors.pictures import VOID


@dataclass(frozen=True)
class Squares:
    """Where the numbers of positions belong.

    Args:
        each: squares of a position, as many by as many.
        grid: rows and columns of positions.
        step: pixels from one to the next.
        size: height and width of the input, in pixels.
    """

    each: int
    grid: tuple[int, int]
    step: int
    size: tuple[int, int]

    def laid_out(self, values: Tensor) -> Tensor:
        """A square's n numbers in its place, (B, n, rows · each, columns · each), of (B, rows · columns, n ·
        each²)."""
        return F.pixel_shuffle(values.mT.unflatten(2, self.grid), self.each)

    def pixels(self, squares: Tensor) -> Tensor:
        """Numbers of each pixel of the input, (B, n, H, W), of those that are `laid_out`."""
        rows, columns = self.grid
        size = rows * self.step, columns * self.step  # what is padded to whole positions is cut off again
        height, width = self.size
        return F.interpolate(squares, size, mode="bilinear")[:, :, :height, :width]


@dataclass(frozen=True)
class SquareLabels:
    """What a position's outputs mean: of each class the logits of its squares.

    Args:
        classes: how many.
        squares: where they are.
        dice: weight of 1 less the dice coefficient, the mean of a picture's classes (arXiv:1606.04797),
            beside the pixels' cross-entropy: a class counts as much as another, however small it is.
    """

    classes: int
    squares: Squares
    dice: float = 0.0

    @property
    def outputs(self) -> int:
        return self.classes * self.squares.each**2

    def scores(self, outputs: Tensor) -> Tensor:
        """Logits of each pixel of the input (B, classes, H, W), of outputs (B, T, outputs) whose last
        positions are the grid's."""
        rows, columns = self.squares.grid
        return self.squares.pixels(self.squares.laid_out(outputs[:, -rows * columns :]))

    def losses(self, outputs: Tensor, mask: Tensor) -> Tensor:
        """The summed loss of each picture (B,).

        Args:
            mask: class of each pixel (B, H, W), `VOID` where none is known.
        """
        likely = self.scores(outputs).log_softmax(1)
        losses = F.nll_loss(likely, mask.long(), ignore_index=VOID, reduction="none").sum((1, 2))
        if not self.dice:
            return losses
        numbers = torch.arange(self.classes, device=mask.device)
        true = (mask[:, None] == numbers[:, None, None]).to(likely.dtype)
        found = likely.exp() * (mask != VOID)[:, None]
        size, both = true.sum((2, 3)), (true * found).sum((2, 3))  # (B, classes)
        apart = (1 - (2 * both + 1) / (size + found.sum((2, 3)) + 1)) * (size > 0)
        apart = apart.sum(1) / (size > 0).sum(1).clamp(min=1)
        return losses + self.dice * apart * self.targets(mask)

    def targets(self, mask: Tensor) -> Tensor:
        """Pixels that count, (B,)."""
        return (mask != VOID).sum((1, 2))
