"""Average precision of boxes and masks: by hand, and the figures of pycocotools 2.0.11."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from lm.data.images.boxes import read_boxes
from lm.data.images.masks import runs_of
from lm.metrics.detection import DetectionScores, InstanceScores

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def found(*rows: tuple) -> dict[str, torch.Tensor]:
    """Boxes found, each x0 y0 x1 y1, its class and its score."""
    rows = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": rows[:, :4], "labels": rows[:, 4].long(), "scores": rows[:, 5]}


def true(*rows: tuple, aside: tuple = ()) -> dict[str, torch.Tensor]:
    """Boxes that are there, each x0 y0 x1 y1 and its class."""
    rows = torch.tensor(rows).reshape(-1, 5)
    more = {"aside": torch.tensor(aside)} if aside else {}
    return {"boxes": rows[:, :4], "labels": rows[:, 4].long(), **more}


def plain(metric: DetectionScores) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def test_by_hand():
    """Two cats: the first is found exactly at 0.9, then a wrong one at 0.8, then the second at 0.7 with an
    overlap of 60 by 100 of 100 by 100. Precision is 1 up to half of the recall and 2/3 up to all of it: 51
    and 50 of COCO's 101 points. From a threshold of 0.65 on the second is not found."""
    metric = DetectionScores(["cat", "dog"])
    metric.update(
        [found((0, 0, 100, 100, 0, 0.9), (300, 300, 400, 400, 0, 0.8)), found((0, 0, 60, 100, 0, 0.7))],
        [true((0, 0, 100, 100, 0)), true((0, 0, 100, 100, 0))],
    )
    loose, strict = (51 + 50 * 2 / 3) / 101, 51 / 101
    figures = plain(metric)
    assert figures["map_50"] == figures["ap50_cat"] == pytest.approx(loose)
    assert figures["map_75"] == pytest.approx(strict)
    # 0.5, 0.55 and 0.6 of the ten thresholds.
    assert figures["map"] == figures["map_large"] == pytest.approx((3 * loose + 7 * strict) / 10)
    assert math.isnan(figures["map_small"]) and math.isnan(figures["map_medium"])
    assert "ap50_dog" not in figures  # there is none to be found


def test_nobody_has_to_find_what_is_aside():
    crowd = true((0, 0, 100, 100, 0), (200, 0, 300, 100, 0), aside=(0, 1))
    inside = found((0, 0, 100, 100, 0, 0.5), (210, 10, 250, 50, 0, 0.9))
    metric = DetectionScores(["cat"])
    metric.update([inside], [crowd])
    assert plain(metric)["map"] == pytest.approx(1)
    plainly = DetectionScores(["cat"])
    plainly.update([inside], [true((0, 0, 100, 100, 0), (200, 0, 300, 100, 0))])
    assert plain(plainly)["map"] == pytest.approx(51 / 101 / 2)  # half of them, each after a wrong one


def test_nothing_found_and_nothing_there():
    metric = DetectionScores(["cat"])
    assert all(math.isnan(value) for value in plain(metric).values())
    metric.update([found((0, 0, 9, 9, 0, 0.9))], [true()])
    assert all(math.isnan(value) for value in plain(metric).values())
    metric.update([found()], [true((0, 0, 9, 9, 0))])
    assert plain(metric)["map"] == 0
    metric.reset()
    metric.update([found()], [true((0, 0, 9, 9, 0))])
    assert plain(metric)["map"] == plain(metric)["ap50_cat"] == 0
    with pytest.raises(ValueError, match="2 boxes with 2 labels and 1 scores"):
        metric.update([{**found(*[(0, 0, 1, 1, 0, 0)] * 2), "scores": torch.ones(1)}], [true()])
    with pytest.raises(ValueError, match="zip"):
        metric.update([found()], [])


@pytest.mark.real_data
def test_blood_cells_as_pycocotools_has_them(real_data, compute_together):
    """Real boxes, moved and left out by chance, some of them crowds; in one process and over three."""
    names = ["RBC", "WBC", "Platelets"]
    pictures = list(read_boxes(f"{real_data}/bccd/bccd.tar!BCCD/Annotations", Counter()))[:120]
    rng, guesses, rights = np.random.default_rng(0), [], []
    for picture in pictures:
        boxes = torch.tensor(picture.boxes)
        labels = torch.tensor([names.index(name) for name in picture.labels])
        kept = torch.from_numpy(rng.random(len(boxes)) < 0.8)
        moved = (boxes + torch.from_numpy(rng.normal(0, 6, boxes.shape)).float())[kept]
        scores = torch.from_numpy(rng.random(len(moved))).float()
        guesses.append({"boxes": moved, "labels": labels[kept], "scores": scores})
        aside = torch.from_numpy(rng.random(len(boxes)) < 0.05)
        rights.append({"boxes": boxes, "labels": labels, "aside": aside})
    whole = DetectionScores(names)
    whole.update(guesses, rights)
    figures = plain(whole)
    assert figures == pytest.approx(PYCOCOTOOLS, abs=1e-6)
    parts = [DetectionScores(names) for _ in range(3)]  # the third has none
    for part, places in zip(parts, (slice(70), slice(70, None)), strict=False):
        part.update(guesses[places], rights[places])
    together = {name: value.item() for name, value in compute_together(*parts).items()}
    assert together == pytest.approx(PYCOCOTOOLS, abs=1e-6)


PYCOCOTOOLS = {
    "map": 0.4350913846631114,
    "map_50": 0.7498513981832966,
    "map_75": 0.49822836365691536,
    "map_small": 0.3540822340748006,
    "map_medium": 0.2152813423049754,
    "map_large": 0.6611026233969659,
    "ap50_RBC": 0.7920792079207921,
    "ap50_WBC": 0.8118811881188119,
    "ap50_Platelets": 0.645593798510285,
}


def test_masks_of_rectangles_score_as_their_boxes(compute_together):
    """Found, moved, left out and crowds by chance, on whole pixels; and over three processes."""
    names, rng = ["cat", "dog"], np.random.default_rng(1)
    guesses, rights = [], []
    for _ in range(20):
        start, sides = rng.integers(0, 150, (6, 2)), rng.integers(5, 110, (6, 2))
        boxes = torch.from_numpy(np.concatenate([start, start + sides], axis=1)).float()
        labels, aside = torch.from_numpy(rng.integers(0, 2, 6)), torch.from_numpy(rng.random(6) < 0.2)
        rights.append({"boxes": boxes, "labels": labels, "aside": aside})
        moved = boxes + torch.from_numpy(rng.integers(-6, 7, (6, 1))).clamp(min=-boxes.min())
        scores, kept = torch.from_numpy(rng.random(6)).float(), torch.from_numpy(rng.random(6) < 0.8)
        guesses.append({"boxes": moved[kept], "labels": labels[kept], "scores": scores[kept]})

    def masked(picture):
        masks = []
        for x0, y0, x1, y1 in picture["boxes"].int().tolist():
            mask = np.zeros((280, 280), bool)
            mask[y0:y1, x0:x1] = True
            masks.append(runs_of(mask))
        return {**picture, "masks": masks}

    whole = DetectionScores(names)
    whole.update(guesses, rights)
    parts = [InstanceScores(names) for _ in range(3)]  # the third has none
    for part, places in zip(parts, (slice(7), slice(7, None)), strict=False):
        part.update(list(map(masked, guesses[places])), list(map(masked, rights[places])))
    together = {name: value.item() for name, value in compute_together(*parts).items()}
    assert together == pytest.approx(plain(whole), abs=1e-6) and 0.2 < together["map"] < 0.95


def test_masks_of_which_there_are_none():
    metric = InstanceScores(["cat"])
    assert all(math.isnan(value) for value in plain(metric).values())
    mask = np.ones((4, 4), bool)
    nothing = {"masks": [], "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    there = {"masks": [runs_of(mask)], "labels": torch.zeros(1).long(), "aside": torch.zeros(1)}
    metric.update([nothing], [there])
    assert plain(metric)["map"] == 0
    metric.update([{**there, "scores": torch.ones(1)}], [there])
    assert plain(metric)["map"] == pytest.approx(51 / 101)
    with pytest.raises(ValueError, match="zip"):
        metric.update([{**nothing, "masks": [runs_of(mask)]}], [there])
