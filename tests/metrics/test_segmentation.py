"""Labels of pixels scored: by hand, and beside a plain count with numpy."""

import numpy as np
import pytest
import torch

from lm.errors import UserError
from lm.metrics.segmentation import SegmentationScores

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")
LABELS = ("sky", "road", "car", "tree")


def plain(metric: SegmentationScores) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def test_by_hand():
    metric = SegmentationScores(LABELS)
    targets = torch.tensor([[[0, 0, 0, 1], [1, 1, 255, 255]]])
    predicted = torch.tensor([[[0, 0, 1, 1], [1, 2, 3, 0]]])  # what is said of void does not count
    metric.update(predicted, targets)
    # sky: 2 of 3; road: 2 of 4; car: 0 of 1, predicted only; tree: nowhere.
    expected = {"mean_iou": (2 / 3 + 2 / 4 + 0) / 3, "pixel_accuracy": 4 / 6}
    assert plain(metric) == pytest.approx(expected | {"iou_sky": 2 / 3, "iou_road": 1 / 2, "iou_car": 0})
    assert metric.confusion.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0] * 4, [0] * 4]
    metric.reset()
    assert all(np.isnan(value) for value in plain(metric).values())


def test_beside_numpy_and_over_processes(compute_together):
    rng = np.random.default_rng(0)
    parts, pictures = [SegmentationScores(LABELS, void=11) for _ in range(3)], []
    for part in parts[:2]:  # the third sees nothing
        targets = rng.choice([0, 1, 2, 3, 11], size=(3, 20, 30))
        predicted = np.where(
            rng.random(targets.shape) < 0.6, targets % 11, rng.integers(4, size=targets.shape)
        )
        pictures.append((predicted, targets))
        part.update(torch.from_numpy(predicted).int(), torch.from_numpy(targets).to(torch.uint8))
    predicted, targets = (np.stack(each) for each in zip(*pictures, strict=True))
    predicted = np.where(targets == 11, -1, predicted)
    scores = [
        ((predicted == n) & (targets == n)).sum() / ((predicted == n) | (targets == n)).sum()
        for n in range(4)
    ]
    figures = {name: value.item() for name, value in compute_together(*parts).items()}
    assert figures["mean_iou"] == pytest.approx(np.mean(scores), abs=1e-12)
    assert [figures[f"iou_{label}"] for label in LABELS] == pytest.approx(scores, abs=1e-12)
    assert figures["pixel_accuracy"] == pytest.approx((predicted == targets)[targets != 11].mean(), abs=1e-12)


def test_counts_do_not_round():
    metric = SegmentationScores(("a", "b"))
    metric.increase(table=[[2**53, 1], [0, 2**53]])
    metric.increase(table=[[1, 0], [0, 0]])
    assert metric.confusion[0].tolist() == [2**53 + 1, 1]


def test_wrong_classes_and_shapes():
    metric = SegmentationScores(("a", "b"))
    with pytest.raises(UserError, match="class number 7 in the data, but there are 2 labels"):
        metric.update(torch.zeros(1, 2, 2).long(), torch.tensor([[[0, 1], [7, 255]]]))
    with pytest.raises(UserError, match="class number 2 in the predictions"):
        metric.update(torch.full((1, 2), 2), torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="shapes"):
        metric.update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))
