"""Confusion and calibration by hand, against torchmetrics, and over batches and processes."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional import classification as reference
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

from lm.errors import UserError
from lm.metrics import ClassificationScores, RegressionScores

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def plain(figures: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in figures.items()}


def examples(seed: int, number: int = 500, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Guesses that are somewhat better than chance, and classes that are not equally frequent."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.multinomial(torch.arange(1.0, classes + 1), number, replacement=True, generator=generator)
    logits = torch.randn(number, classes, generator=generator)
    logits[torch.arange(number), targets] += 1
    return logits.softmax(dim=1), targets


def test_by_hand():
    """Six examples of three classes. Rows are true: [[2, 1, 0], [0, 1, 0], [0, 1, 1]].

    F1: 2·2/(2+3), 2·1/(3+1), 2·1/(1+2). Matthews: (6·4 - (2·3 + 3·1 + 1·2)) / sqrt((36-14)(36-14)) = 13/22.
    """
    metric = ClassificationScores(["a", "b", "c"], bins=2)
    choices = torch.tensor([0, 0, 1, 1, 1, 2])
    probabilities = torch.full((6, 3), 0.05).scatter(1, choices[:, None], 0.9)
    probabilities[2] = torch.tensor([0.3, 0.4, 0.3])  # sure to 0.4 and wrong
    metric.update(probabilities, torch.tensor([0, 0, 0, 1, 2, 2]))
    figures = plain(metric.compute())
    assert figures["accuracy"] == figures["micro_f1"] == pytest.approx(4 / 6)
    assert figures["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert figures["matthews"] == pytest.approx(13 / 22)
    # One wrong at 0.4; of five at 0.9 four are right.
    assert figures["calibration_error"] == pytest.approx(1 / 6 * 0.4 + 5 / 6 * 0.1)
    assert metric.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 1, 1]]
    reliability = metric.reliability
    assert reliability.counts.tolist() == [1, 5]
    assert reliability.edges.tolist() == [0, 0.5, 1]
    assert reliability.confidence.tolist() == pytest.approx([0.4, 0.9])
    assert reliability.accuracy.tolist() == pytest.approx([0, 0.8])


def test_bins_close_at_the_right():
    """Guo et al.: bin m is ((m-1)/M, m/M], so 0.5 belongs to the first of two, and 1 to the last."""
    metric = ClassificationScores(["a", "b"], bins=2)
    metric.update(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert metric.reliability.counts.tolist() == [1, 1]


def test_against_torchmetrics():
    probabilities, targets = examples(0)
    metric = ClassificationScores("abcde")
    metric.update(probabilities, targets)
    figures = plain(metric.compute())
    expected = {
        "accuracy": reference.multiclass_accuracy(probabilities, targets, 5, average="micro"),
        "macro_f1": reference.multiclass_f1_score(probabilities, targets, 5, average="macro"),
        "micro_f1": reference.multiclass_f1_score(probabilities, targets, 5, average="micro"),
        "matthews": reference.multiclass_matthews_corrcoef(probabilities, targets, 5),
        "calibration_error": reference.multiclass_calibration_error(probabilities, targets, 5, n_bins=15),
    }
    assert figures == pytest.approx(plain(expected), abs=1e-6)
    assert 0.3 < figures["accuracy"] < 0.7
    assert torch.equal(metric.confusion, reference.multiclass_confusion_matrix(probabilities, targets, 5))


def test_two_classes_against_torchmetrics():
    probabilities, targets = examples(1, classes=2)
    metric = ClassificationScores(["no", "yes"])
    metric.update(probabilities, targets)
    expected = reference.binary_matthews_corrcoef(probabilities[:, 1], targets)
    assert metric.compute()["matthews"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_several_labels_against_torchmetrics():
    generator = torch.Generator().manual_seed(2)
    targets = (torch.rand(300, 4, generator=generator) < torch.tensor([0.5, 0.2, 0.7, 0.0])).long()
    probabilities = (torch.randn(300, 4, generator=generator) + 2 * targets - 1).sigmoid()
    probabilities[:, 3] *= 0.4  # never there and never predicted
    metric = ClassificationScores("wxyz", multilabel=True)
    metric.update(probabilities, targets)
    figures = plain(metric.compute())
    decisions = torch.stack([1 - probabilities, probabilities], dim=-1).flatten(0, 1)
    expected = {
        "accuracy": reference.multilabel_exact_match(probabilities, targets, 4),
        "macro_f1": reference.multilabel_f1_score(probabilities, targets, 4, average="macro"),
        "micro_f1": reference.multilabel_f1_score(probabilities, targets, 4, average="micro"),
        "calibration_error": reference.multiclass_calibration_error(decisions, targets.flatten(), 2),
    }
    assert figures == pytest.approx(plain(expected), abs=1e-6)
    assert torch.equal(metric.confusion, reference.multilabel_confusion_matrix(probabilities, targets, 4))


@pytest.mark.parametrize("multilabel", [False, True])
def test_batches_and_processes_change_nothing(multilabel, compute_together):
    """The same in one batch, in uneven ones, and over three processes of which one has no example."""
    probabilities, targets = examples(3)
    if multilabel:
        targets = (torch.rand(probabilities.shape, generator=torch.Generator().manual_seed(4)) < 0.3).long()
    whole, batched, *parts = (ClassificationScores("abcde", multilabel=multilabel) for _ in range(5))
    whole.update(probabilities, targets)
    for start, end in ((0, 1), (1, 1), (1, 333), (333, 500)):
        batched.update(probabilities[start:end], targets[start:end])
    parts[0].update(probabilities[:100], targets[:100])
    parts[2].update(probabilities[100:], targets[100:])
    expected = plain(whole.compute())
    assert plain(batched.compute()) == pytest.approx(expected, rel=1e-12)
    assert plain(compute_together(*parts)) == pytest.approx(expected, rel=1e-12)
    assert torch.equal(parts[0].confusion, whole.confusion)  # of all processes, read after compute
    assert torch.allclose(parts[0].reliability.confidence, whole.reliability.confidence, equal_nan=True)


def test_classes_never_seen_and_one_class_only():
    """A class in neither targets nor predictions is left out of the mean; a constant's correlation is 0."""
    metric = ClassificationScores(["a", "b", "never"])
    metric.update(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), torch.tensor([0, 1]))
    figures = plain(metric.compute())
    assert figures["macro_f1"] == 1
    assert figures["matthews"] == pytest.approx(1)
    metric.reset()
    metric.update(torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]]), torch.tensor([0, 0]))
    figures = plain(metric.compute())
    assert figures["accuracy"] == figures["macro_f1"] == 1
    assert figures["matthews"] == 0
    metric.reset()
    metric.update(torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([1]))
    assert plain(metric.compute())["macro_f1"] == 0


@pytest.mark.parametrize("multilabel", [False, True])
def test_no_example_is_no_number(multilabel):
    metric = ClassificationScores(["a", "b"], multilabel=multilabel)
    assert all(value.isnan() for value in metric.compute().values())
    assert metric.confusion.sum() == 0
    assert metric.reliability.confidence.isnan().all()


def test_half_precision_model():
    """A model converted to bf16 takes its metrics along; the sums stay exact."""
    metric = torch.nn.Sequential(ClassificationScores(["a", "b"])).to(torch.bfloat16)[0]
    for _ in range(1000):
        metric.update(torch.tensor([[0.75, 0.25]], dtype=torch.bfloat16), torch.tensor([0]))
    assert metric.compute()["calibration_error"].item() == 0.25
    assert metric.reliability.confidence[11].item() == 0.75


def test_wrong_input():
    metric = ClassificationScores(["a", "b"])
    with pytest.raises(UserError, match="class number 2 in the data, but there are 2 labels"):
        metric.update(torch.tensor([[0.5, 0.5]]), torch.tensor([2]))
    with pytest.raises(UserError, match="class number -100"):
        metric.update(torch.tensor([[0.5, 0.5]]), torch.tensor([-100]))
    with pytest.raises(ValueError, match="for 2 labels"):
        metric.update(torch.full((4, 3), 1 / 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="for 2 labels"):
        metric.update(torch.full((4, 2), 0.5), torch.zeros(4, 2, dtype=torch.long))


def test_regression_by_hand():
    """Ranks of [1, 2, 2, 9] are [1, 2.5, 2.5, 4]: with [1, 2, 3, 4] a correlation of 4.5 / sqrt(4.5 · 5)."""
    metric = RegressionScores()
    metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    metric.update(torch.tensor([[2.0], [9.0]]), torch.tensor([3.0, 4.0]))
    figures = plain(metric.compute())
    assert figures["mean_squared_error"] == (1 + 25) / 4
    assert figures["spearman"] == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert figures["pearson"] == pytest.approx(12 / math.sqrt(41 * 5))


def test_regression_against_torchmetrics(compute_together):
    """With many ties, and over three processes of which one has no example."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randint(0, 6, (400,), generator=generator).float()
    predictions = (targets + 2 * torch.randn(400, generator=generator)).round(decimals=1)
    parts = [RegressionScores() for _ in range(3)]
    parts[0].update(predictions[:7], targets[:7])
    parts[0].update(predictions[7:50], targets[7:50])
    parts[1].update(predictions[50:], targets[50:])
    figures = plain(compute_together(*parts))
    assert figures["mean_squared_error"] == pytest.approx((predictions - targets).square().mean().item())
    assert figures["pearson"] == pytest.approx(pearson_corrcoef(predictions, targets).item(), abs=1e-5)
    assert figures["spearman"] == pytest.approx(spearman_corrcoef(predictions, targets).item(), abs=1e-5)
    alone = torch.nn.Sequential(RegressionScores()).to(torch.bfloat16)[0]
    alone.update(predictions, targets)
    empty = torch.nn.Sequential(RegressionScores()).to(torch.bfloat16)[0]
    assert plain(compute_together(empty, alone)) == pytest.approx(figures, rel=1e-12)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-7, 3.7e12])
def test_a_constant_has_no_correlation_however_often_it_comes(value):
    """Its mean is itself to the last bit, so there is no noise to be correlated with."""
    for number in [*range(1, 200), 100_003]:
        metric = RegressionScores()
        metric.update(torch.full((number,), value), torch.arange(float(number)))
        figures = plain(metric.compute())
        assert math.isnan(figures["pearson"]) and math.isnan(figures["spearman"])


def test_regression_that_is_no_number():
    metric = RegressionScores()
    assert all(value.isnan() for value in metric.compute().values())
    metric.reset()
    metric.update(torch.full((3,), 0.1), torch.tensor([1.0, 2.0, 3.0]))  # does not vary
    figures = plain(metric.compute())
    assert math.isnan(figures["pearson"])
    assert math.isnan(figures["spearman"])
    assert figures["mean_squared_error"] == pytest.approx((0.81 + 3.61 + 8.41) / 3)
    with pytest.raises(ValueError, match="2 predictions for 3 targets"):
        metric.update(torch.zeros(2), torch.zeros(3))
