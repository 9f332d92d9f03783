"""A report as a picture: what speed and size cost in quality."""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lm.compression.report import Variant, dominated
from lm.errors import UserError, not_installed
from lm.files import atomic

_KINDS = (".png", ".svg", ".pdf")
_INK, _PALE, _GOOD, _REST = "#222222", "#bbbbbb", "#1f6fb4", "#c2562b"
_AREA = 260.0  # of the largest model's point, in points²
_RANGE = 4  # largest by smallest value from which an axis is logarithmic
_LEAST = 1e-3  # a change that is worth drawing
_WIDE = 0.5  # change of perplexity from which its axis is
_MANY = 9  # variants from which on points have numbers, and a legend the names
_TICKS = (-0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100)
_LEGEND = (
    "area: megabytes     bar: standard error of the change     line: the best for each speed or size     "
    "hollow: another is as small, as fast and as good, and better in one"
)


def drawable(path: str | Path) -> None:
    """See that a picture can be drawn there, before anything is measured for it.

    Raises:
        UserError: it ends in something else, there is no such folder, or matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in _KINDS:
        raise UserError(f"{path}: a picture's name ends in {', '.join(_KINDS)}", status=2)
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for the picture")
    if find_spec("matplotlib") is None:
        raise not_installed("the picture", "matplotlib", "finetune")


def picture(variants: Sequence[Variant], path: str | Path) -> None:
    """Each variant by its quality and its speed at the first batch, and by its quality and its size.

    Quality is the change against the first variant, with the standard error of that change; better is up.

    Args:
        path: ends in .png, .svg or .pdf.

    Raises:
        UserError: see `drawable`.
    """
    drawable(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    path, first = Path(path), variants[0]
    numbered = len(variants) >= _MANY
    figure: Any = Figure(figsize=(12 if numbered else 10, 4.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    speed, size = figure.subplots(1, 2, sharey=True)

    level = f"{first.quality:.1%} ± {first.error:.1%}"
    if not first.higher:
        of = f" {first.figure}" if first.figure != first.change_of else ""
        level = f"{first.quality:.3f} ± {first.error:.3f}{of}"
    title = f"{first.change_of} against speed and size ({first.name}: {level})"
    figure.suptitle(title[0].upper() + title[1:], fontsize=11, color=_INK, parse_math=False)
    figure.supxlabel(_LEGEND, fontsize=7.5, color="#666666")
    better = "" if first.higher else ", less is up"
    speed.set_ylabel(f"change of {first.change_of}{better}")
    batch = min(first.speed)
    at = "one text at a time" if batch == 1 else f"{batch} texts at a time"
    _panel(speed, variants, lambda each: each.speed[batch], True, f"{first.unit} a second, {at} →")
    where = "on disk" if all(each.disk is not None for each in variants) else "of weights"
    _panel(size, variants, lambda each: each.size, False, f"← megabytes {where}")
    if all(abs(each.change) + each.change_error < _LEAST for each in variants):
        speed.set_ylim(-_LEAST, _LEAST)
    if not first.higher:
        speed.invert_yaxis()
    names = [each.name for each in variants]
    if numbered:
        worse, lines = dominated(variants), [f"{n}  {name}" for n, name in enumerate(names, start=1)]
        names = [str(n) for n in range(1, len(names) + 1)]
        points = [Line2D([], [], linestyle="") for _ in variants]
        legend = figure.legend(
            points, lines, loc="outside right center", fontsize=8.5, frameon=False, handlelength=0
        )
        for line, each in zip(legend.get_texts(), variants, strict=True):
            line.set(parse_math=False, color=_REST if each.name in worse else _GOOD)
    figure.draw_without_rendering()
    _name(speed, variants, names, lambda each: each.speed[batch])
    _name(size, variants, names, lambda each: each.size)
    with atomic(path) as file:
        figure.savefig(file, format=path.suffix.lower()[1:])


def _panel(
    axis: Any, variants: Sequence[Variant], place: Callable[[Variant], float], higher: bool, label: str
) -> None:
    """Points with their errors, and the front as a line: no other is better than these in both.

    Args:
        place: a variant's place across; `higher`: whether more is better there.
    """
    sign = 1 if variants[0].higher else -1
    worse = dominated(variants)
    free = [each for each in variants if each.name not in worse]
    best: list[Variant] = []
    for each in sorted(free, key=lambda v: (-place(v) if higher else place(v), -sign * v.change)):
        if not best or sign * each.change > sign * best[-1].change:
            best.append(each)
    axis.plot([place(v) for v in best], [v.change for v in best], color=_GOOD, linewidth=1.2, alpha=0.5)
    axis.axhline(0, color=_PALE, linewidth=0.8, linestyle="--", zorder=0)
    for each in variants:
        hollow = each.name in worse
        colour, x, y = _REST if hollow else _GOOD, place(each), each.change
        axis.errorbar(x, y, each.change_error or None, color=colour, linewidth=1.2, capsize=3, zorder=2)
        fill = "none" if hollow else colour
        axis.scatter(x, y, _area(each, variants), fill, edgecolors=colour, linewidths=1.4, zorder=3 + hollow)
    places = [place(each) for each in variants]
    if max(places) > _RANGE * min(places):
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    changes = [each.change for each in variants]
    if variants[0].change_of == "perplexity" and max(changes) > _WIDE:  # by factors, as one thinks of them
        axis.set_yscale("function", functions=(np.log1p, np.expm1))
        axis.set_yticks([tick for tick in _TICKS if min(changes) - 0.2 <= tick <= 1.5 * max(changes)])
    if variants[0].higher or variants[0].change_of == "perplexity":
        axis.yaxis.set_major_formatter(
            lambda value, _: f"{100 * value:+,g}%".replace("-", "−") if value else "0"
        )
    axis.margins(0.16, 0.2)
    axis.set_xlabel(label)
    axis.grid(color=_PALE, linewidth=0.4, alpha=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _area(each: Variant, variants: Sequence[Variant]) -> float:
    return max(_AREA * each.size / max(other.size for other in variants), 14)


def _name(
    axis: Any, variants: Sequence[Variant], names: Sequence[str], place: Callable[[Variant], float]
) -> None:
    """Write each variant's name, or its number, where it covers the least, of points, errors, names and
    beyond the axes, and is not nearer to another point. All in points, 72 to the inch."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    dots, worse = axis.figure.dpi / 72, dominated(variants)
    inside = Bbox(axis.get_window_extent().get_points() / dots)
    taken, centres = [], []
    for each in variants:
        low, (x, y), high = (
            axis.transData.transform((place(each), each.change + n * each.change_error)) / dots
            for n in (-1, 0, 1)
        )
        radius = _area(each, variants) ** 0.5 / 2 + 1
        taken.append(Bbox([[x - radius, y - radius], [x + radius, y + radius]]))
        taken.append(Bbox([[x - 4, min(low[1], high[1])], [x + 4, max(low[1], high[1])]]))
        centres.append((x, y, radius))
    for each, text, (x, y, radius) in zip(variants, names, centres, strict=True):
        name = axis.annotate(
            text,
            (place(each), each.change),
            (0, 0),
            textcoords="offset points",
            fontsize=9,
            color=_REST if each.name in worse else _GOOD,
            parse_math=False,
            zorder=5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        name.set_in_layout(False)
        width, height = name.get_window_extent().size / dots
        spots: list[tuple[float, int, Bbox]] = []
        for far, (across, up) in product((2, 7, 14, 24, 36), product((0, 0.5, -0.5, 1, -1), (1, -1, 0))):
            gap = (radius + far) * (0.75 if abs(across * up) == 1 else 1)
            left, bottom = x + across * gap - width * (1 - across) / 2, y + up * gap - height * (1 - up) / 2
            box = Bbox.from_bounds(left, bottom, width, height)
            cost = sum(_common(box, other) for other in taken) + 2 * (width * height - _common(box, inside))
            nearer = any(_away(box, *other[:2]) < _away(box, x, y) for other in centres)
            spots.append((cost + 200 * nearer + far / 10, len(spots), box))
        *_, box = min(spots)
        name.set_position((box.x0 - x, box.y0 - y))
        taken.append(box)


def _common(one: Any, other: Any) -> float:
    """The area that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    return max(width, 0.0) * max(min(one.y1, other.y1) - max(one.y0, other.y0), 0.0)


def _away(box: Any, x: float, y: float) -> float:
    """How far a point is from a box."""
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
