"""Pictures to classify."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from lm.data.images.augment import Augmentation
from lm.data.images.digits import DIGITS, digits
from lm.data.media.module import LabelledMedia, MediaData
from lm.errors import UserError
from lm.processors.images import ImageProcessor
from lm.processors.pictures import read_picture

PICTURES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"])


@dataclass(frozen=True)
class ImageExample(LabelledMedia):
    """A picture with what it is of.

    Args:
        size: its height and width.
    """

    size: tuple[int, int] = (0, 0)


class ImageData(MediaData):
    """Pictures in folders by class, or named in a table; see `MediaData`. `digits!train` and `digits!test`
    are handwritten digits, which ship with scikit-learn.

    Args:
        size: height and width of the network's input, or one number for both; with `model.init_from` null is
            what that was trained on.
        fit: how a picture of another size or shape is made to fit; see `lm.processors.images.ImageProcessor`.
        crop_ratio, mean, std, resample: likewise.
    """

    record = ImageExample
    endings = PICTURES

    def __init__(
        self,
        train: str,
        size: int | tuple[int, int] | None = None,
        fit: Literal["crop", "pad", "stretch"] = "crop",
        crop_ratio: float = 1.0,
        mean: tuple[float, float, float] = ImageProcessor.mean,
        std: tuple[float, float, float] = ImageProcessor.std,
        resample: Literal["bicubic", "bilinear"] = "bicubic",
        augment: list[Augmentation] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, augment=augment or (), **kwargs)
        self.size = (size, size) if isinstance(size, int) else size
        self.fitting = {"fit": fit, "crop_ratio": crop_ratio, "mean": mean, "std": std, "resample": resample}

    def located(self, path: str) -> str:
        if path.partition("!")[0] != DIGITS:
            return super().located(path)
        return path.replace(DIGITS, str(digits(self._plain)), 1)

    def look(self, data: bytes, where: str) -> dict[str, Any]:
        return {"size": read_picture(data, where).size}

    def make_processor(self, start: ImageProcessor | None = None) -> ImageProcessor:
        if start is not None:
            return start if self.size is None else replace(start, size=self.size)
        if self.size is None:
            raise UserError("`size` is not given: which height and width are pictures made to fit?", status=2)
        return ImageProcessor(self.size, **self.fitting)
