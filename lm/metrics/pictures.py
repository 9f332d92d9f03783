"""Pictures of a classifier's figures, as arrays that any logger takes. They need matplotlib."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm.errors import not_installed
from lm.metrics.classification import Reliability

# Fonts with Chinese characters, of which one that is installed is used after matplotlib's own.
_CHINESE = re.compile("(CJK|Sans|PingFang|Heiti) SC|Hiragino Sans GB|Microsoft YaHei|SimHei|WenQuanYi")
_DOTS = 100  # per inch
_LONGEST_LABEL = 24  # characters
_MOST_NUMBERED = 20  # classes whose counts are written into the cells
_MOST_NAMED = 120  # classes whose names are written


def confusion_picture(matrix: Tensor | np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """A confusion matrix: rows are targets, columns predictions, a cell's colour its share of the row.

    torchmetrics' own colours by counts, reads `$` in a label as mathematics and writes every cell.

    Args:
        matrix: counts, (C, C).
        labels: the names of the classes, C of them; long ones are cut.

    Returns:
        uint8, (H, W, 3).

    Raises:
        UserError: matplotlib is not installed.
        ValueError: the matrix is not (C, C) for C labels.
    """
    counts = _array(matrix)
    size = len(labels)
    if counts.shape != (size, size):
        raise ValueError(f"a confusion matrix of shape {counts.shape} for {size} labels")
    side = min(max(4.0, 0.4 * size), 20.0) + 1.5
    figure = _figure(side, side)
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if size <= _MOST_NAMED:
        text = {"fontfamily": _families(), "fontsize": 9 if size <= 40 else 5, "parse_math": False}
        names = [s if len(s) <= _LONGEST_LABEL else s[: _LONGEST_LABEL - 1] + "…" for s in labels]
        axes.set_xticks(range(size), names, rotation=90, **text)
        axes.set_yticks(range(size), names, **text)
    if size <= _MOST_NUMBERED:
        for row, column in np.ndindex(size, size):
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(
                column, row, f"{counts[row, column]:g}", ha="center", va="center", color=color, fontsize=7
            )
    return _pixels(figure)


def reliability_picture(reliability: Reliability) -> np.ndarray:
    """A reliability diagram: the accuracy at each confidence, and below it how many predictions have it.

    Bars under the diagonal mean that the model is surer than it is right. The title gives the error. Returns
    uint8, (H, W, 3); raises UserError where matplotlib is not installed.
    """
    edges, confidence, accuracy, counts = map(_array, reliability)
    seen = counts > 0
    figure = _figure(5.0, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    widths = np.diff(edges)
    bars = {"align": "edge", "edgecolor": "white"}
    upper.bar(edges[:-1][seen], accuracy[seen], widths[seen], label="accuracy", **bars)
    upper.plot([0, 1], [0, 1], color="gray", linestyle="--", label="calibrated")
    upper.plot(confidence[seen], accuracy[seen], "o", color="black", markersize=3)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.legend(loc="upper left")
    if seen.any():
        error = np.average(np.abs(accuracy - confidence)[seen], weights=counts[seen])
        upper.set_title(f"calibration error {error:.4f}")
    lower.bar(edges[:-1], counts, widths, color="gray", **bars)
    lower.set(xlabel="confidence", ylabel="predictions")
    return _pixels(figure)


def sheet_picture(pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int = 4) -> np.ndarray:
    """Pictures side by side with a line under each, uint8 (H, W, 3).

    Args:
        pictures: uint8 (h, w, 3) each, at least one.
        captions: as many.

    Raises:
        UserError: matplotlib is not installed.
    """
    rows = -(-len(pictures) // columns)
    width, height = 240 * columns, 260 * rows  # of cells with a picture of 232 by 230 at most, and a line
    figure = _figure(width / _DOTS, height / _DOTS, layout="none")
    from PIL import Image  # which matplotlib needs, too

    text = {"ha": "center", "va": "top", "fontsize": 9, "fontfamily": _families(), "parse_math": False}
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(number, columns)
        scale = min(232 / picture.shape[1], 230 / picture.shape[0])
        wide, high = (max(round(scale * n), 1) for n in (picture.shape[1], picture.shape[0]))
        middle, bottom = 240 * column + 120, height - 260 * row - 4 - high
        shown = Image.fromarray(picture).resize((wide, high), Image.Resampling.NEAREST)
        figure.figimage(np.asarray(shown), middle - wide // 2, bottom)  # axes would take far longer
        figure.text(middle / width, (bottom - 5) / height, caption, **text)
    return _pixels(figure)


def _families() -> list[str]:
    """matplotlib's own font, and after it one with Chinese characters where there is one."""
    from matplotlib.font_manager import get_font_names

    return ["DejaVu Sans", *sorted(filter(_CHINESE.search, get_font_names()))[:1]]


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return torch.as_tensor(values).cpu().numpy()


def _figure(width: float, height: float, layout: str = "constrained") -> Any:
    """An empty figure of so many inches, apart from matplotlib's global state: no screen is needed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise not_installed("drawing", "matplotlib", "finetune") from error
    return Figure(figsize=(width, height), dpi=_DOTS, layout=layout)


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # Characters that no font has are boxes, and labels may leave little room: a picture all the same.
        warnings.simplefilter("ignore", UserWarning)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
