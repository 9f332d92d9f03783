"""Classification and regression: from a confusion matrix, bins of confidence, and pairs of values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lm.errors import UserError
from lm.metrics.base import Sums, exact, f1_from_counts, ratio


def holds(probability: Any) -> Any:
    """Whether a label holds, of those that each hold or not, by its probability: a number or a tensor."""
    return probability >= 0.5


class Reliability(NamedTuple):
    """How often predictions of about the same confidence are right. Not a number where a bin is empty.

    Attributes:
        edges: borders of the bins, (bins + 1,), from 0 to 1.
        confidence: mean confidence, (bins,).
        accuracy: share that is right, (bins,).
        counts: predictions, (bins,), int64.
    """

    edges: Tensor
    confidence: Tensor
    accuracy: Tensor
    counts: Tensor


class ClassificationScores(Sums):
    """Accuracy, F1, Matthews' correlation and calibration of a classifier, from counts in int64.

    Args:
        labels: names of the classes, C of them, in the order of the probabilities.
        multilabel: an example may have any number of labels, each where its probability is at least one half.
        bins: number of bins of confidence for the calibration error.
    """

    def __init__(self, labels: Sequence[str], multilabel: bool = False, bins: int = 15) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.multilabel = multilabel
        self.bins = bins
        size = len(self.labels)
        self.add_sum("table", *((size, 2, 2) if multilabel else (size, size)))
        for name in ("examples", "exact_matches"):
            self.add_sum(name)
        for name in ("bin_counts", "bin_hits"):
            self.add_sum(name, bins)
        self.add_sum("bin_confidence", bins, dtype=torch.float32)

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add examples.

        Args:
            probabilities: (N, C), each row a softmax; multi-label: each value a sigmoid of its own.
            targets: numbers of the classes, (N,), int64; multi-label: (N, C) of 0 and 1.

        Raises:
            ValueError: the shapes do not fit.
            UserError: a class number outside 0 to C - 1.
        """
        size = len(self.labels)
        expected = (len(probabilities), size) if self.multilabel else (len(probabilities),)
        if probabilities.dim() != 2 or probabilities.shape[1] != size or targets.shape != expected:
            shapes = tuple(probabilities.shape), tuple(targets.shape)
            raise ValueError(f"probabilities and targets of shapes {shapes} for {size} labels")
        probabilities = probabilities.detach().to(exact(probabilities.device))
        if self.multilabel:
            predicted = holds(probabilities)
            right = predicted == targets.bool()
            cells = torch.arange(size, device=targets.device) * 4 + targets.bool() * 2 + predicted
            confidence, hits = torch.maximum(probabilities, 1 - probabilities).flatten(), right.flatten()
            matches = right.all(dim=1)
        else:
            self._check(targets)
            confidence, predicted = probabilities.max(dim=1)
            matches = hits = predicted == targets
            cells = targets * size + predicted
        counts = torch.bincount(cells.flatten(), minlength=self.table.numel())
        self.increase("table", counts.view_as(self.table))
        self.increase("examples", torch.tensor(len(probabilities)))
        self.increase("exact_matches", matches.sum())
        self._bin(confidence, hits)

    def _check(self, targets: Tensor) -> None:
        """Raises UserError for a class number that no label stands for."""
        wrong = targets[(targets < 0) | (targets >= len(self.labels))]
        if len(wrong):
            number, labels = int(wrong[0]), len(self.labels)
            raise UserError(f"class number {number} in the data, but there are {labels} labels")

    def _bin(self, confidence: Tensor, hits: Tensor) -> None:
        """Add predictions with their confidence (K,) and whether they were right (K,)."""
        # Bin m holds (m/bins, (m+1)/bins], as in the paper.
        bins = torch.bucketize(confidence, self._edges(confidence.device)[1:-1])
        self.increase("bin_counts", torch.bincount(bins, minlength=self.bins))
        self.increase("bin_hits", torch.bincount(bins[hits], minlength=self.bins))
        # Not index_add: it adds in any order on GPUs.
        members = F.one_hot(bins, self.bins).bool()  # (K, bins)
        self.increase("bin_confidence", torch.where(members, confidence[:, None], 0).sum(dim=0))

    def _edges(self, device: torch.device) -> Tensor:
        return torch.linspace(0, 1, self.bins + 1, dtype=exact(device), device=device)

    def compute(self) -> dict[str, Tensor]:
        """The figures, each in 0 to 1 but `matthews`; not a number without examples.

        - `accuracy`: the share of examples that are right, with several labels those right in all of them.
        - `macro_f1`: the mean of the classes' F1, over the classes that occur in targets or predictions; with
          several labels over all of them, where one that is neither there nor predicted counts 0, as
          scikit-learn has it.
        - `micro_f1`: F1 over all decisions together; the accuracy where an example has one label.
        - `matthews`: the correlation of predictions and targets in -1 to 1 (Gorodkin 2004 for more than two
          classes), 0 where either has one class only. Absent with several labels.
        - `calibration_error`: the mean distance of confidence and accuracy over bins of equal width (Guo et
          al. 2017, "On Calibration of Modern Neural Networks"), of the most probable class; with several
          labels of each yes-or-no decision.
        """
        self._confusion = self.table.clone()
        self._reliability = Reliability(
            self._edges(self.device),
            ratio(self.bin_confidence, self.bin_counts),
            ratio(self.bin_hits, self.bin_counts),
            self.bin_counts.clone(),
        )
        if self.multilabel:
            hits = self.table[:, 1, 1]
            predicted, true = self.table[:, :, 1].sum(dim=1), self.table[:, 1].sum(dim=1)
            counted = torch.ones_like(hits, dtype=torch.bool)
        else:
            hits = self.table.diagonal()
            predicted, true = self.table.sum(dim=0), self.table.sum(dim=1)
            counted = predicted + true > 0
        gaps = (self.bin_hits - self.bin_confidence).abs().sum()
        figures = {
            "accuracy": ratio(self.exact_matches, self.examples),
            "macro_f1": f1_from_counts(hits, predicted, true)[counted].mean(),
            "micro_f1": f1_from_counts(hits.sum(), predicted.sum(), true.sum()),
            "matthews": self._matthews(hits, predicted, true),
            "calibration_error": ratio(gaps, self.bin_counts.sum()),
        }
        if self.multilabel:
            del figures["matthews"]
        if not self.examples:
            return {name: self.scalar(float("nan")) for name in figures}
        return figures

    def _matthews(self, hits: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """The correlation of predictions and targets as one-hot vectors, from counts (C,)."""
        wide = exact(hits.device)
        hits, predicted, true = (counts.to(wide) / self.examples for counts in (hits, predicted, true))
        shared = hits.sum() - (predicted * true).sum()
        spreads = [1 - counts.square().sum() for counts in (predicted, true)]
        if min(spreads) <= 0:
            return self.scalar(0.0)
        return shared / (spreads[0] * spreads[1]).sqrt()

    @property
    def confusion(self) -> Tensor:
        """Counts in int64, (C, C): rows are targets, columns predictions. Multi-label: (C, 2, 2), per label.

        Over all processes: calls `compute`, which all of them must do together unless they have done so.
        """
        self.compute()
        return self._confusion

    @property
    def reliability(self) -> Reliability:
        """Confidence and accuracy in bins, over all processes like `confusion`."""
        self.compute()
        return self._reliability


class RegressionScores(Metric):
    """Error and correlation of predicted values. Ranks need all values, so all are kept, 8 bytes a pair."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("predicted", "true"):
            self.add_state(name, [], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """fp32 always: with this a process without values takes part where others exchange theirs."""
        return torch.float32

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add examples.

        Args:
            predictions: (N,) or (N, 1).
            targets: as many values.

        Raises:
            ValueError: not as many targets as predictions.
        """
        if predictions.numel() != targets.numel():
            raise ValueError(f"{predictions.numel()} predictions for {targets.numel()} targets")
        self.predicted.append(predictions.detach().float().flatten())
        self.true.append(targets.detach().float().flatten())

    def compute(self) -> dict[str, Tensor]:
        """`mean_squared_error`, `pearson` (linear correlation), `spearman` (that of the ranks).

        Not a number without examples; the correlations also where one side does not vary.
        """
        predicted, true = self._whole(self.predicted), self._whole(self.true)
        return {
            "mean_squared_error": (predicted - true).square().mean(),
            "pearson": _correlation(predicted, true),
            "spearman": _correlation(_ranks(predicted), _ranks(true)),
        }

    def _whole(self, values: list[Tensor] | Tensor) -> Tensor:
        """All values in one tensor (N,), as exact as the device can."""
        whole = dim_zero_cat(values) if len(values) else torch.zeros(0, device=self.device)
        return whole.to(exact(whole.device))


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1 up, (N,); equal values share the mean of theirs."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).to(values.dtype)
    return (last - (counts - 1) / 2)[places]


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """The linear correlation of (N,) and (N,); not a number where one of them does not vary."""
    if not len(x) or bool((x == x[0]).all()) or bool((y == y[0]).all()):
        return x.new_tensor(float("nan"))
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()).clamp(-1, 1)
