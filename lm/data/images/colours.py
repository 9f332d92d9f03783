"""Random changes of a picture's colours, and RandAugment, which draws among all changes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lm.data.images.augment import moved, turned
from lm.errors import UserError
from lm.processors.pictures import Picture

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class ColorJitter:
    """Brightness, contrast and saturation times a random factor of 1 - x to 1 + x each, the hue turned by at
    most so much of the circle; in a random order.

    Args:
        brightness, contrast, saturation: x of each, from 0.
        hue: from 0 to 0.5, where it may become any other.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation, self.hue) < 0 or self.hue > 0.5:
            raise UserError(f"{self}: these are not to be below 0, and `hue` not above 0.5")

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        from PIL import Image, ImageEnhance

        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        drawn = (rng.uniform(-1, 1, 4) * strengths).tolist()
        image = Image.fromarray(picture.pixels)
        for kind in rng.permutation(4).tolist():
            if not strengths[kind]:
                continue
            if kind == 3:
                image = _with_hue(image, drawn[3])
            else:
                enhance = getattr(ImageEnhance, ("Brightness", "Contrast", "Color")[kind])
                image = enhance(image).enhance(max(0.0, 1 + drawn[kind]))
        return replace(picture, pixels=np.asarray(image))


def _with_hue(image: "Image", turn: float) -> "Image":
    """The picture with its hue turned by a share of the circle."""
    from PIL import Image

    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(round(turn * 256) % 256)
    return Image.fromarray(hsv, "HSV").convert("RGB")


@dataclass
class RandAugment:
    """So many changes, drawn from the paper's 14 with the same strength (Cubuk et al. 2019,
    arXiv:1909.13719).

    At magnitude 10 they are as strong as AutoAugment's (arXiv:1805.09501) can be: 30 degrees, a shear of 0.3,
    a shift by 0.45 of the side, contrast and the like 0.1 or 1.9 times as strong. All grow with the
    magnitude, unlike in the paper's code, and go either way where there are two.

    Args:
        num_ops: the paper's N.
        magnitude: the paper's M, from 0 to 10.
    """

    num_ops: int = 2
    magnitude: float = 9.0

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= 10 or self.num_ops < 0:
            raise UserError(f"{self}: `magnitude` lies in 0 to 10, `num_ops` not below 0")

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        for number in rng.integers(len(OPERATIONS), size=self.num_ops).tolist():
            sign = 1 if rng.random() < 0.5 else -1
            picture = OPERATIONS[number](picture, sign * self.magnitude / 10)
        return picture


Operation = Callable[[Picture, float], Picture]  # of a picture and a strength in -1 to 1


def _drawn(change: "Callable[[Image, float], Image]") -> Operation:
    """An operation on pixels alone of one of Pillow's."""

    def apply(picture: Picture, strength: float) -> Picture:
        from PIL import Image

        return replace(picture, pixels=np.asarray(change(Image.fromarray(picture.pixels), strength)))

    return apply


def _enhanced(name: str) -> Operation:
    def apply(image: "Image", strength: float) -> "Image":
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + 0.9 * strength)

    return _drawn(apply)


def _operation(name: str, *arguments: Callable[[float], int]) -> Operation:
    def apply(image: "Image", strength: float) -> "Image":
        from PIL import ImageOps

        return getattr(ImageOps, name)(image, *(argument(abs(strength)) for argument in arguments))

    return _drawn(apply)


def _shear(x: float, y: float) -> Operation:
    return lambda picture, strength: moved(picture, np.array([[1, x * strength], [y * strength, 1]]))


def _shift(x: float, y: float) -> Operation:
    def apply(picture: Picture, strength: float) -> Picture:
        height, width = picture.size
        return moved(picture, np.eye(2), (round(x * strength * width), round(y * strength * height)))

    return apply


OPERATIONS: tuple[Operation, ...] = (
    lambda picture, strength: picture,
    _operation("autocontrast"),
    _operation("equalize"),
    lambda picture, strength: turned(picture, 30 * strength),
    _operation("solarize", lambda strength: math.ceil(256 * (1 - strength))),
    _operation("posterize", lambda strength: 8 - round(4 * strength)),
    _enhanced("Color"),
    _enhanced("Contrast"),
    _enhanced("Brightness"),
    _enhanced("Sharpness"),
    _shear(0.3, 0),
    _shear(0, 0.3),
    _shift(0.45, 0),
    _shift(0, 0.45),
)
