"""Classification and regression: from a confusion matrix, bins of confidence, and pairs of values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.utilities import dim_zero_cat

from lm.errors import UserError
from lm.metrics.base import Sums, exact, f1_from_counts, ratio


def holds(probability: Any) -> Any:
    """Whether a label holds, of those that each hold or not, by its probability: a number or a tensor."""
    return probability >= 0.5


class Reliability(NamedTuple):
    """How often predictions of about the same confidence are right. Not a number where a bin is empty."""

    edges: Tensor  # borders of the bins, (bins + 1,), from 0 to 1
    confidence: Tensor  # its mean, (bins,)
    accuracy: Tensor  # the share that is right, (bins,)
    counts: Tensor  # predictions, (bins,), int64


class ClassificationScores(Sums):
    """Accuracy, F1, Matthews' correlation and calibration of a classifier, from counts in int64.

    Args:
        labels: names of the classes, C of them, in the order of the probabilities.
        multilabel: an example may have any number of labels, each where its probability is at least one half.
        bins: number of bins of confidence for the calibration error.
    """

    def __init__(self, labels: Sequence[str], multilabel: bool = False, bins: int = 15) -> None:
        super().__init__()
        self.labels, self.multilabel, self.bins = tuple(labels), multilabel, bins
        size = len(self.labels)
        self.add_sums("table", shape=(size, 2, 2) if multilabel else (size, size))
        self.add_sums("examples", "exact_matches")
        self.add_sums("bin_counts", "bin_hits", shape=(bins,))
        self.add_sums("bin_confidence", shape=(bins,), dtype=torch.float32)

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
        expected = probabilities.shape if self.multilabel else probabilities.shape[:1]
        if probabilities.shape[1:] != (size,) or targets.shape != expected:
            shapes = tuple(probabilities.shape), tuple(targets.shape)
            raise ValueError(f"probabilities and targets of shapes {shapes} for {size} labels")
        probabilities = probabilities.detach().to(exact(probabilities.device))
        if self.multilabel:
            predicted, targets = holds(probabilities), targets.bool()
            confidence = torch.maximum(probabilities, 1 - probabilities).flatten()
            right = predicted == targets
            hits, matches = right.flatten(), right.all(dim=1)
            cells = torch.arange(size, device=targets.device) * 4 + targets * 2 + predicted
        else:
            wrong = targets[(targets < 0) | (targets >= size)]
            if len(wrong):
                raise UserError(f"class number {int(wrong[0])} in the data, but there are {size} labels")
            confidence, predicted = probabilities.max(dim=1)
            matches = hits = predicted == targets
            cells = targets * size + predicted
        # Bin m holds (m/bins, (m+1)/bins], as in the paper; torchmetrics' hold their left border.
        bins = torch.bucketize(confidence, self._edges(confidence.device)[1:-1])
        # Not index_add: it adds in any order on GPUs.
        members = F.one_hot(bins, self.bins).bool()  # (predictions, bins)
        self.increase(
            table=torch.bincount(cells.flatten(), minlength=self.table.numel()).view_as(self.table),
            examples=len(probabilities),
            exact_matches=matches.sum(),
            bin_counts=torch.bincount(bins, minlength=self.bins),
            bin_hits=torch.bincount(bins[hits], minlength=self.bins),
            bin_confidence=torch.where(members, confidence[:, None], 0).sum(dim=0),
        )

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
        else:
            hits, predicted, true = self.table.diagonal(), self.table.sum(dim=0), self.table.sum(dim=1)
        counted = self.multilabel | (predicted + true > 0)
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
        return figures if self.examples else dict.fromkeys(figures, self.scalar(float("nan")))

    def _matthews(self, hits: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """The correlation of predictions and targets as one-hot vectors, from counts (C,); torchmetrics
        multiplies counts in fp32."""
        hits, predicted, true = (ratio(counts, self.examples) for counts in (hits, predicted, true))
        shared = hits.sum() - (predicted * true).sum()
        spread = (1 - predicted.square().sum()).clamp(min=0) * (1 - true.square().sum()).clamp(min=0)
        return shared / spread.sqrt() if spread else self.scalar(0.0)

    @property
    def confusion(self) -> Tensor:
        """Counts in int64, (C, C): rows are targets, columns predictions. Multi-label: (C, 2, 2), per label.
        Of all processes, which must call it together unless they have called `compute`."""
        self.compute()
        return self._confusion

    @property
    def reliability(self) -> Reliability:
        """Confidence and accuracy in bins; of all processes, like `confusion`."""
        self.compute()
        return self._reliability


class RegressionScores(Sums):
    """Error and correlation of predicted values. Ranks need all values, so all are kept, 8 bytes a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pairs", [], dist_reduce_fx="cat")  # prediction, target, prediction, target, …

    @property
    def dtype(self) -> torch.dtype:
        """fp32 always: with this a process without values takes part where others exchange theirs."""
        return torch.float32

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add examples: predictions (N,) or (N, 1) and as many targets; ValueError of other numbers."""
        if predictions.numel() != targets.numel():
            raise ValueError(f"{predictions.numel()} predictions for {targets.numel()} targets")
        pairs = [values.detach().float().flatten() for values in (predictions, targets)]
        self.pairs.append(torch.stack(pairs, dim=1).flatten())

    def compute(self) -> dict[str, Tensor]:
        """`mean_squared_error`, `pearson` (linear correlation), `spearman` (that of the ranks).

        Not a number without examples; the correlations also where one side does not vary.
        """
        pairs = dim_zero_cat(self.pairs) if len(self.pairs) else torch.zeros(0)
        # In fp64, in which a mean of equal fp32 values is that value, and the CPU has that everywhere.
        predicted, true = pairs.cpu().double().view(-1, 2).T.contiguous()
        figures = {
            "mean_squared_error": (predicted - true).square().mean(),
            "pearson": _correlation(predicted, true),
            "spearman": _correlation(_ranks(predicted), _ranks(true)),
        }
        return {name: self.scalar(value.item()) for name, value in figures.items()}


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1 up, (N,); equal values share the mean of theirs."""
    _, places, counts = values.unique(return_inverse=True, return_counts=True)
    counts = counts.to(values.dtype)
    return (counts.cumsum(0) - (counts - 1) / 2)[places]


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """The linear correlation of (N,) and (N,); 0 / 0, not a number, where one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()).clamp(-1, 1)
