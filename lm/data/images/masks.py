"""COCO's outlines of things as masks, and a label for each pixel of them; masks as COCO's runs."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from lm.errors import UserError, not_installed
from lm.processors.pictures import VOID

_FAR = 1e6  # pixels


def thing_mask(outline: Any, height: int, width: int) -> np.ndarray:
    """Where a thing is, bool (H, W).

    Args:
        outline: what COCO calls a segmentation: polygons, each a list x y x y … in pixels; or an object with
            `size` and `counts`, the lengths of runs, column by column, as a list or compressed in a text.

    Raises:
        UserError: it is none of these, or one of another size.
    """
    mask = _tools()
    try:
        if isinstance(outline, dict) and {"size", "counts"} <= outline.keys():
            counts = outline["counts"]
            pixels = sum(counts) if isinstance(counts, list) else height * width
            if list(outline["size"]) != [height, width] or pixels != height * width:
                raise UserError(f"a mask of {outline['size']} pixels for a picture of {height} by {width}")
            runs = mask.frPyObjects(outline, height, width) if isinstance(counts, list) else outline
        elif isinstance(outline, list) and all(map(_is_polygon, outline)):
            if not outline:
                return np.zeros((height, width), dtype=bool)
            runs = mask.merge(mask.frPyObjects(outline, height, width))
        else:
            raise UserError(
                "an outline is a list of polygons of three points and more, or runs with their size"
            )
        return mask.decode(runs).astype(bool)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"this is no outline in a picture of {height} by {width}: {error}") from error


def _is_polygon(points: list[float]) -> bool:
    """Whether they can be drawn: a number that is none, or is far outside, would take all memory."""
    return len(points) >= 6 and len(points) % 2 == 0 and all(abs(point) < _FAR for point in points)


def _tools() -> ModuleType:
    """COCO's mask tools."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise not_installed("drawing COCO's outlines", "faster-coco-eval", "images") from error
    return mask


def label_map(
    outlines: Sequence[Any], labels: Sequence[int], height: int, width: int, background: int = 0
) -> np.ndarray:
    """The class of each pixel, int32 (H, W): where things cover each other that of the smallest.

    Args:
        outlines: see `thing_mask`.
        labels: the class of each.
        background: the label where nothing is.
    """
    result = np.full((height, width), background, dtype=np.int32)
    masks = [thing_mask(outline, height, width) for outline in outlines]
    for number in sorted(range(len(masks)), key=lambda number: -int(masks[number].sum())):
        result[masks[number]] = labels[number]
    return result


def thing_map(outlines: Sequence[Any], aside: Sequence[bool], height: int, width: int) -> np.ndarray:
    """The number of the thing that each pixel is of, uint8 (H, W): 1 for the first, 0 where nothing is; where
    things cover each other that of the smallest. `VOID` where nothing is but what is aside, and for things
    behind the 254th.

    Args:
        outlines: see `thing_mask`.
        aside: whether each is a crowd, which has no number.
    """
    things = [outline for outline, apart in zip(outlines, aside, strict=True) if not apart]
    crowds = [outline for outline, apart in zip(outlines, aside, strict=True) if apart]
    numbers = label_map(things, [min(n, VOID) for n in range(1, len(things) + 1)], height, width)
    beneath = label_map(crowds, [VOID] * len(crowds), height, width)
    return np.where(numbers == 0, beneath, numbers).astype(np.uint8)


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) as COCO has it: `size`, height and width, and `counts`, its runs compressed in a text."""
    runs = _tools().encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}
