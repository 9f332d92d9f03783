"""Random changes of where things are in a picture; those of its colours are in `colours`.

Each is a dataclass, called with a picture and a generator: equal ones give the same picture. Boxes and mask
move along. A box that is cut so far that less than a quarter of it is left is dropped."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lm.errors import UserError
from lm.processors.pictures import VOID, Picture

LEAST = 0.25  # the share of a box that must be left


class Augmentation(Protocol):
    """A random change of a picture, a pure function of the picture and the generator."""

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture: ...


def in_order(name: str, values: tuple[float, float], least: float = 0.0) -> None:
    """Raises UserError unless these are two numbers above `least`, the smaller one first."""
    if len(values) != 2 or not least < values[0] <= values[1]:
        raise UserError(
            f"`{name}` {values}: these are to be two numbers above {least:g}, the smaller one first"
        )


@dataclass
class RandomCrop:
    """A window of the picture's own size, after `padding` pixels were put around it; CIFAR's (He et al. 2015,
    arXiv:1512.03385)."""

    padding: int = 4

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        top, left = rng.integers(-self.padding, self.padding, 2, endpoint=True).tolist()
        return picture.cut(top, left, *picture.size, least=LEAST)


@dataclass
class RandomResizedCrop:
    """A window of random area and shape, resized (Szegedy et al. 2014, arXiv:1409.4842).

    Args:
        scale: smallest and largest share of the picture's area.
        ratio: smallest and largest width by height.
        size: height and width afterwards; null for those that the picture had.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        in_order("scale", self.scale)
        in_order("ratio", self.ratio)

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        rows, columns = picture.size
        for _ in range(10):
            height, width = shape(rows * columns, self.scale, self.ratio, rng)
            if height <= rows and width <= columns:
                break
        else:  # the largest window in the middle whose shape is allowed
            width = min(columns, max(1, round(rows * self.ratio[1])))
            height = min(rows, max(1, round(columns / self.ratio[0])))
        top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
        return picture.cut(top, left, height, width, least=LEAST).resized(*self.size or picture.size)


def shape(
    area: float, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int]:
    """Height and width, at least 1, of a random share of an area, the logarithm of its shape uniform."""
    area *= rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))


@dataclass
class Flip:
    """Mirrors left and right, and top and bottom, with these probabilities."""

    horizontal: float = 0.5
    vertical: float = 0.0

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        across, down = rng.random(2) < (self.horizontal, self.vertical)
        axes = (slice(None, None, -1 if down else 1), slice(None, None, -1 if across else 1))
        boxes = picture.boxes
        height, width = picture.size
        if boxes is not None and across:
            boxes = boxes * np.float32([-1, 1, -1, 1]) + np.float32([width, 0, width, 0])
            boxes = boxes[:, [2, 1, 0, 3]]
        if boxes is not None and down:
            boxes = boxes * np.float32([1, -1, 1, -1]) + np.float32([0, height, 0, height])
            boxes = boxes[:, [0, 3, 2, 1]]
        mask = None if picture.mask is None else picture.mask[axes]
        return replace(picture, pixels=picture.pixels[axes], boxes=boxes, mask=mask)


@dataclass
class Turn:
    """Turns about the middle by at most so many degrees; corners that were beyond the picture get its `fill`.
    A box becomes the smallest upright one around its turned corners."""

    degrees: float = 10.0

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        return turned(picture, rng.uniform(-self.degrees, self.degrees))


@dataclass
class ScaleJitter:
    """Resized by a random factor, then a random window of one size, what lies beyond on the right and below
    filled up; for boxes and masks (Ghiasi et al. 2020, arXiv:2012.07177).

    Args:
        scale: smallest and largest factor; 1 is where the picture just fits into the size.
        size: height and width afterwards; null for those that the picture had.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        in_order("scale", self.scale)

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        goal = self.size or picture.size
        factor = rng.uniform(*self.scale) * min(goal[0] / picture.size[0], goal[1] / picture.size[1])
        height, width = (max(1, round(side * factor)) for side in picture.size)
        top, left = (
            int(rng.integers(max(0, height - goal[0]) + 1)),
            int(rng.integers(max(0, width - goal[1]) + 1)),
        )
        return picture.resized(height, width).cut(top, left, *goal, least=LEAST)


@dataclass
class RandomErasing:
    """Covers a window with noise (Zhong et al. 2017, arXiv:1708.04896). Boxes and mask stay.

    Args:
        probability: of covering any.
        scale: smallest and largest share of the picture's area.
        ratio: smallest height by width; the largest is its inverse.
    """

    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 0.4)
    ratio: float = 0.3

    def __post_init__(self) -> None:
        in_order("scale", self.scale)
        in_order("ratio", (self.ratio, 1.0))

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        if rng.random() >= self.probability:
            return picture
        rows, columns = picture.size
        for _ in range(10):
            height, width = shape(rows * columns, self.scale, (self.ratio, 1 / self.ratio), rng)
            if height < rows and width < columns:
                top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
                pixels = picture.pixels.copy()
                pixels[top : top + height, left : left + width] = rng.integers(256, size=(height, width, 3))
                return replace(picture, pixels=pixels)
        return picture


def turned(picture: Picture, degrees: float) -> Picture:
    """Turned against the clock about its middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return moved(picture, np.array([[cos, sin], [-sin, cos]]))


def moved(picture: Picture, matrix: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> Picture:
    """Moved by an affine map of x and y, which go right and down from the picture's middle.

    Args:
        matrix: (2, 2).
        shift: x and y in pixels.
    """
    from PIL import Image

    height, width = picture.size
    middle = np.array([width / 2, height / 2])
    back = np.linalg.inv(matrix)  # Pillow asks where a pixel comes from
    start = middle - back @ (middle + shift)
    data = (*back[0], start[0], *back[1], start[1])

    def drawn(values: np.ndarray, resample: Image.Resampling, fill: tuple[int, int, int] | int) -> np.ndarray:
        image = Image.fromarray(values)
        done = image.transform(image.size, Image.Transform.AFFINE, data, resample, fillcolor=fill)
        return np.asarray(done)

    mask = picture.mask
    result = replace(
        picture,
        pixels=drawn(picture.pixels, Image.Resampling.BILINEAR, picture.fill),
        mask=None if mask is None else drawn(mask, Image.Resampling.NEAREST, VOID),
    )
    if picture.boxes is None:
        return result
    corners = picture.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    corners = (corners - middle) @ matrix.T + middle + shift
    return result.with_boxes(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1), LEAST)
