"""Boxes and labels of pixels, drawn over the picture they belong to."""

import colorsys
from collections.abc import Sequence

import numpy as np

WHITE = (255, 255, 255)


def colours(count: int) -> list[tuple[int, int, int]]:
    """Colours that are told apart, the same for the same number: hues by the golden ratio."""
    found = (colorsys.hsv_to_rgb(n * 0.618034 % 1, 0.9 - 0.3 * (n % 3 == 2), 1.0) for n in range(count))
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in found]


def with_boxes(
    pixels: np.ndarray,
    boxes: Sequence[Sequence[float]],
    outlines: Sequence[tuple[int, int, int]],
    captions: Sequence[str] = (),
) -> np.ndarray:
    """A copy with boxes on it, uint8 (H, W, 3).

    Args:
        boxes: x0 y0 x1 y1 of each, in pixels.
        outlines: their colours.
        captions: what is written in their corners.
    """
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels).copy()
    draw, side = ImageDraw.Draw(image), min(image.size)
    for number, (box, colour) in enumerate(zip(boxes, outlines, strict=True)):
        draw.rectangle(tuple(box), outline=colour, width=max(1, side // 200))
        if number < len(captions):
            place, size = (box[0] + 2, box[1] + 1), max(9, side // 40)
            draw.rectangle(draw.textbbox(place, captions[number], font_size=size), fill=colour)
            draw.text(place, captions[number], fill=(0, 0, 0), font_size=size)
    return np.asarray(image)


def with_labels(
    pixels: np.ndarray, labels: np.ndarray, palette: Sequence[tuple[int, int, int]], strength: float = 0.5
) -> np.ndarray:
    """A copy with its labels (H, W) as colours over it, uint8 (H, W, 3); what has no colour stays."""
    known = labels < len(palette)
    over = np.array(palette, np.float32)[np.where(known, labels, 0)]
    shares = strength * known[..., None]
    return (pixels * (1 - shares) + over * shares).round().astype(np.uint8)
