"""Pictures of any kind of file as RGB pixels, with the boxes and the labels of pixels that belong to them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from lm.errors import UserError, not_installed

if TYPE_CHECKING:
    from PIL.Image import Image

VOID = 255  # the label of what lies beyond a picture's mask
FILL = (124, 116, 104)  # ImageNet's mean colour, which is near zero when normalised
MOST_PIXELS = 100_000_000  # of a picture; small files can hold more than memory does


@dataclass
class Picture:
    """A picture with what is known of its places.

    Args:
        pixels: RGB, uint8 (H, W, 3).
        boxes: float32 (n, 4), each x0 y0 x1 y1 in pixels; the whole picture is 0 0 W H.
        labels: class of each box, or of each number from 1 in the mask, int64 (n,).
        mask: class of each pixel, or number of the thing that it is of, uint8 or int32 (H, W).
        fill: colour of what lies beyond it, where it is moved; in the mask it is `VOID`.
    """

    pixels: np.ndarray
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    mask: np.ndarray | None = None
    fill: tuple[int, int, int] = FILL

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def resized(self, height: int, width: int, resample: str = "bilinear") -> "Picture":
        """Stretched to another size, the mask by its nearest pixels."""
        old_height, old_width = self.size
        if (height, width) == (old_height, old_width):
            return self
        scale = np.array([width / old_width, height / old_height] * 2)  # fp64: no border moves by rounding
        return replace(
            self,
            pixels=np.asarray(_image(self.pixels).resize((width, height), _filter(resample))),
            boxes=None if self.boxes is None else (self.boxes * scale).astype(np.float32),
            mask=None if self.mask is None else nearest(self.mask, height, width),
        )

    def cut(self, top: int, left: int, height: int, width: int, least: float = 0.0) -> "Picture":
        """A window of it, which may reach beyond its borders.

        Args:
            least: boxes of which less than this share is left are dropped.
        """
        moved = replace(
            self,
            pixels=window(self.pixels, top, left, height, width, self.fill),
            mask=None if self.mask is None else window(self.mask, top, left, height, width, VOID),
        )
        if self.boxes is None:
            return moved
        return moved.with_boxes(self.boxes - np.array([left, top] * 2, np.float32), least)

    def with_boxes(self, boxes: np.ndarray, least: float = 0.0) -> "Picture":
        """The picture with its boxes moved to other places (n, 4): clipped to it, and dropped where nothing
        or less than the share `least` is left."""
        height, width = self.size
        clipped = boxes.clip(0, [width, height] * 2).astype(np.float32)
        sides = clipped[:, 2:] - clipped[:, :2]
        kept = (sides > 0).all(axis=1) & (area(clipped) >= least * area(boxes))
        labels = None if self.labels is None else self.labels[kept]
        return replace(self, boxes=clipped[kept], labels=labels)


def area(boxes: np.ndarray) -> np.ndarray:
    """Areas (n,) of boxes (n, 4)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map of labels (H, W) at another size, each pixel the one whose middle is nearest."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip((height, width), mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def window(values: np.ndarray, top: int, left: int, height: int, width: int, fill: Any) -> np.ndarray:
    """Rows and columns of an array (H, W) or (H, W, 3), `fill` where there are none."""
    bottom, right = min(top + height, values.shape[0]), min(left + width, values.shape[1])
    inside = values[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inside.shape[:2] == (height, width):
        return inside
    window = np.empty((height, width, *values.shape[2:]), values.dtype)
    window[...] = fill
    row, column = max(-top, 0), max(-left, 0)
    window[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return window


def read_picture(data: bytes, where: str, at_least: tuple[int, int] | None = None) -> Picture:
    """The pixels of a file that Pillow reads, as RGB: of several frames the first, turned as a camera's EXIF
    says, alpha over white, 16 bits as 8.

    Args:
        where: how errors name the file.
        at_least: height and width that are enough: a JPEG is decoded at a half, a quarter or an eighth where
            both sides stay that large, which is several times faster.

    Raises:
        UserError: it is no picture, is cut short or damaged, or has more than 100 million pixels.
    """
    with _decoding(data, where) as image:
        from PIL import ImageOps

        if at_least is not None:
            lying = image.getexif().get(0x0112, 1) >= 5  # EXIF's orientations with rows and columns changed
            image.draft(None, at_least if lying else at_least[::-1])
        image.load()
        return Picture(np.asarray(_in_colours(ImageOps.exif_transpose(image))))


def _in_colours(image: "Image") -> "Image":
    """A decoded picture of any mode as RGB."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are no whole numbers")
    if image.mode.startswith("I"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def read_mask(data: bytes, where: str) -> np.ndarray:
    """A picture whose pixels are labels, (H, W): the indices of a palette or the values of greys; uint8,
    int32 where it has more than 8 bits.

    Raises:
        UserError: it is no picture, is cut short or damaged, is too large, or is one of colours.
    """
    with _decoding(data, where) as image:
        tiles = getattr(image, "tile", [])  # how its pixels lie in the file
        image.load()
        labels = np.asarray(image)
    if image.format in {"JPEG", "MPO"}:
        raise UserError(f"{where}: a mask can't be a JPEG, which changes values a little: save it as PNG")
    if image.mode.startswith("I"):
        return labels.astype(np.int32)
    if image.mode not in {"1", "L", "P"}:
        raise UserError(
            f"{where}: a mask has one number a pixel, this has colours ({image.mode}): save it as PNG with a "
            "palette or in grey, each value a label"
        )
    # Pillow spreads greys of 2 and 4 bits over 0 to 255.
    spread = {"L;2": 85, "L;4": 17}.get(str(tiles[0].args) if tiles else "", 1)
    return labels.astype(np.uint8) // spread


@contextmanager
def _decoding(data: bytes, where: str) -> Iterator["Image"]:
    """The picture, of which nothing but the head has been read; errors of decoding it name the file."""
    try:
        from PIL import Image
    except ImportError as error:
        raise not_installed("reading pictures", "pillow", "images") from error
    limit = MOST_PIXELS // 1_000_000
    too_large = UserError(f"{where}: the picture has more than {limit} million pixels: make it smaller")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of damaged EXIF, which does no harm
            image = Image.open(BytesIO(data))
            if image.width * image.height > MOST_PIXELS:
                raise too_large
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise too_large from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{where} is no picture, or none of a kind that Pillow reads") from error
    except Exception as error:  # each decoder raises what it likes
        if "truncated" in str(error).lower():
            raise UserError(f"{where}: the picture is cut short: get it again or leave it out") from error
        raise UserError(f"{where}: the picture is damaged: {error}") from error


def _image(pixels: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(pixels)


def _filter(name: str) -> int:
    from PIL import Image

    return Image.Resampling[name.upper()]
