"""Pictures show what they should: pixels are looked at."""

import logging
import sys
import warnings

import numpy as np
import pytest
import torch

from lm.errors import UserError
from lm.metrics import ClassificationScores
from lm.metrics.pictures import confusion_picture, reliability_picture, sheet_picture

pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def _nothing_said(caplog):
    """Neither warnings nor log lines, whatever the characters and lengths of the labels."""
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        yield
    assert not caplog.records


def has_color(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Which pixels have the colour, (H, W)."""
    return np.abs(picture.astype(int) - color).sum(axis=-1) < 6


DARKEST = (8, 48, 107)  # of the colour map
BAR = (31, 119, 180)


def test_a_right_classifier_has_a_dark_diagonal():
    right = confusion_picture(torch.tensor([[5, 0], [0, 7]]), ["no", "yes"])
    assert right.dtype == np.uint8
    assert right.ndim == 3
    assert right.shape[2] == 3
    unsure = confusion_picture(np.array([[3, 2], [4, 3]]), ["no", "yes"])
    assert has_color(right, DARKEST).mean() > 0.2
    assert not has_color(unsure, DARKEST).any()
    # The two dark cells lie at the upper left and the lower right.
    rows, columns = np.nonzero(has_color(right, DARKEST))
    assert np.corrcoef(rows, columns)[0, 1] > 0.5


@pytest.mark.parametrize(
    "labels",
    [
        ["体育", "财经", "𠀀"],
        ["a" * 300, "$x_{", "$\\frac$"],
        ["", "\n", "<b>"],
        [f"class {number}" for number in range(60)],
        [str(number) for number in range(200)],
    ],
)
def test_any_labels(labels):
    size = len(labels)
    picture = confusion_picture(torch.eye(size, dtype=torch.int64), labels)
    assert 300 < picture.shape[0] < 2500
    assert picture.std() > 1


def test_no_examples():
    assert confusion_picture(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"]).ndim == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics: no update before compute
        reliability = ClassificationScores(["a", "b"]).reliability
    assert reliability_picture(reliability).ndim == 3


def test_reliability():
    """A model that is sure and wrong has less blue in its bars than one that is sure and right."""
    pictures = []
    for target in (0, 1):
        metric = ClassificationScores(["a", "b"])
        metric.update(torch.tensor([[0.97, 0.03]] * 10), torch.full((10,), target))
        pictures.append(reliability_picture(metric.reliability))
    blue = [has_color(picture, BAR).sum() for picture in pictures]
    assert blue[0] > 4 * blue[1]


def test_global_state_is_left_alone():
    """pyplot would keep every figure."""
    from matplotlib import pyplot

    confusion_picture(torch.eye(2), ["a", "b"])
    assert pyplot.get_fignums() == []


def test_wrong_shape():
    with pytest.raises(ValueError, match="for 3 labels"):
        confusion_picture(torch.eye(2), ["a", "b", "c"])


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"drawing needs matplotlib: pip install -e '\.\[finetune\]'"):
        confusion_picture(torch.eye(2), ["a", "b"])


def test_a_sheet_shows_its_pictures_and_what_is_said_of_them():
    red, blue = (np.zeros((4, 6, 3), np.uint8) for _ in range(2))
    red[..., 0], blue[..., 2] = 255, 255
    sheet = sheet_picture([red, blue, red], ["one", "猫: $x$", "three"], columns=2)
    found = {
        name: (sheet == colour).all(-1) for name, colour in (("red", [255, 0, 0]), ("blue", [0, 0, 255]))
    }
    assert found["red"].sum() > 1.9 * found["blue"].sum() > 10_000
    assert found["red"][: len(sheet) // 2].any() and found["red"][len(sheet) // 2 :].any()
    assert (sheet.max(-1) < 60).sum() > 100  # the words
