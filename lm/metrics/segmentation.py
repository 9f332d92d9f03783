"""A label for each pixel, scored from a confusion matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm.errors import UserError
from lm.metrics.base import Sums, ratio


class SegmentationScores(Sums):
    """Intersection over union and accuracy of pixels, from counts in int64.

    Args:
        labels: names of the classes, C of them, in the order of their numbers.
        void: the label of pixels that don't count.
    """

    def __init__(self, labels: Sequence[str], void: int = 255) -> None:
        super().__init__()
        self.labels, self.void = tuple(labels), void
        self.add_sums("table", shape=(len(self.labels), len(self.labels)))

    def update(self, predicted: Tensor, targets: Tensor) -> None:
        """Add pictures.

        Args:
            predicted: class of each pixel, integers (B, H, W) or any other shape.
            targets: what is right, of the same shape.

        Raises:
            ValueError: the shapes differ.
            UserError: a class outside 0 to C - 1 that is not void.
        """
        if predicted.shape != targets.shape:
            raise ValueError(f"labels of shapes {tuple(predicted.shape)} and {tuple(targets.shape)}")
        size, counted = len(self.labels), targets != self.void
        targets, predicted = targets[counted].long(), predicted[counted].long()
        for name, numbers in (("data", targets), ("predictions", predicted)):
            wrong = numbers[(numbers < 0) | (numbers >= size)]
            if len(wrong):
                raise UserError(f"class number {int(wrong[0])} in the {name}, but there are {size} labels")
        cells = torch.bincount(targets * size + predicted, minlength=size * size)
        self.increase(table=cells.view(size, size))

    def compute(self) -> dict[str, Tensor]:
        """In 0 to 1: `mean_iou` over the classes that occur in targets or predictions, `pixel_accuracy`, and
        `iou_NAME` of each class that occurs; not a number without pixels."""
        self._confusion = self.table.clone()
        hits = self.table.diagonal()
        union = self.table.sum(dim=0) + self.table.sum(dim=1) - hits
        scores = ratio(hits, union)
        figures = {
            "mean_iou": scores[union > 0].mean(),
            "pixel_accuracy": ratio(hits.sum(), self.table.sum()),
        }
        each = zip(self.labels, scores, union.tolist(), strict=True)
        return figures | {f"iou_{label}": score for label, score, count in each if count}

    @property
    def confusion(self) -> Tensor:
        """Counts in int64, (C, C): rows are targets, columns predictions. Of all processes, which must call
        it together unless they have called `compute`."""
        self.compute()
        return self._confusion
