"""A picture with a thing whose place can be seen in its pixels, its mask and its box."""

import numpy as np
import pytest

from lm.processors.pictures import Picture


@pytest.fixture
def marked() -> Picture:
    """Grey, 60 by 100, with a white thing of class 1 in the mask; besides a box 7 of the whole picture."""
    pixels, mask = np.full((60, 100, 3), 60, np.uint8), np.zeros((60, 100), np.uint8)
    pixels[20:40, 30:55], mask[20:40, 30:55] = 255, 1
    boxes = np.float32([[30, 20, 55, 40], [0, 0, 100, 60]])
    return Picture(pixels, boxes, np.array([1, 7]), mask)
