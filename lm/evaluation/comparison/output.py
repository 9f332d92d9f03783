"""A comparison as a table for people, and as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm.errors import UserError, not_installed
from lm.evaluation.comparison.compare import LETTERS, Comparison
from lm.evaluation.comparison.samples import columns_of
from lm.evaluation.comparison.statistics import LEVEL
from lm.files import atomic

_LONGEST = 48  # columns of a figure's name in the picture
_RIGHT = "#2c7fb8"
PICTURES = (".png", ".svg")


def table(comparisons: Sequence[Comparison], names: Sequence[str]) -> str:
    """What came of it: the models, a line of figures for each comparison, and what may be said.

    Args:
        names: of the models, in their order.
    """
    several = len(names) > 2
    clustered = any(each.found.clusters < each.found.examples for each in comparisons)
    head = ["figure", *["pair"] * several, "examples", *["clusters"] * clustered]
    head += [*(["first", "other"] if several else ["A", "B"]), "difference", "error", "unpaired"]
    head += ["95% interval", "p", "could see"]
    lines = [head]
    for each in comparisons:
        found, digits = each.found, digits_of(each)
        line = [each.what]
        line += [f"{each.other} − {each.first}"] * several + [f"{found.examples:,}"]
        line += [f"{found.clusters:,}"] * clustered
        line += [f"{found.a:.{digits}f}", f"{found.b:.{digits}f}", f"{found.difference:+.{digits}f}"]
        line += [f"{found.error:.{digits}f}", f"{found.unpaired:.{digits}f}"]
        line += [f"{found.low:+.{digits}f} to {found.high:+.{digits}f}", probability(each.p)]
        line += [f"{each.detectable:.{digits}f}" if math.isfinite(each.detectable) else "–"]
        lines.append(line)
    widths = [max(map(columns_of, column)) for column in zip(*lines, strict=True)]
    words = 1 + several  # columns of words, which stand on the left
    shown = (
        "  ".join(
            cell + " " * (width - columns_of(cell)) if n < words else " " * (width - columns_of(cell)) + cell
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    models = (f"{letter}  {name}" for letter, name in zip(LETTERS, names, strict=False))
    return "\n".join([*models, "", *shown, "", *said(comparisons)])


def digits_of(comparison: Comparison) -> int:
    """Digits behind the point: two of the error that count, four at least and six at most."""
    error = comparison.found.error
    return 4 if error <= 0 else min(6, max(4, 1 - math.floor(math.log10(error))))


def probability(p: float) -> str:
    """A p-value as people write it."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def said(comparisons: Sequence[Comparison]) -> list[str]:
    """The verdicts, a line each, and how many were given at once."""
    lines = [f"{each.what}: {each.verdict}" for each in comparisons]
    together = comparisons[0].together
    if together > 1:
        lines.append(
            f"{together} comparisons at once: p is corrected for it (Holm), what could be seen by "
            "Bonferroni, the intervals are not"
        )
    return lines


def write_picture(path: Path, comparisons: Sequence[Comparison], names: Sequence[str]) -> None:
    """Differences with their 95% intervals: a panel for each unit, a line for each comparison; filled where
    one of the two is better.

    Args:
        path: ends in .png or .svg.

    Raises:
        UserError: matplotlib is not installed, or there is no such folder.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise not_installed("--picture", "matplotlib", "finetune") from error
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for the picture")
    panels: dict[tuple[str, bool], list[Comparison]] = {}
    for each in comparisons:
        panels.setdefault((each.unit, each.higher_is_better), []).append(each)
    sizes = [len(rows) for rows in panels.values()]
    height = 0.9 * len(panels) + 0.32 * sum(sizes) + 0.25 * len(names)
    canvas: Any = Canvas(figsize=(8, height), dpi=120, layout="constrained")
    axes = canvas.subplots(len(panels), 1, squeeze=False, height_ratios=[size + 1 for size in sizes])[:, 0]
    for axis, ((unit, higher), rows) in zip(axes, panels.items(), strict=True):
        for place, each in enumerate(rows):
            found, sure = each.found, each.better is not None
            axis.plot([found.low, found.high], [place, place], color=_RIGHT, linewidth=2)
            fill = _RIGHT if sure else "white"
            axis.plot([found.difference], [place], "o", color=_RIGHT, markerfacecolor=fill)
        axis.axvline(0, color="gray", linewidth=1, linestyle="--")
        labels = [_cut(each.what) + f"  {each.other} − {each.first}" * (len(names) > 2) for each in rows]
        axis.set_yticks(range(len(rows)), labels, parse_math=False)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        which = "right" if higher else "left"
        other = "B" if len(names) == 2 else "the other model"
        axis.set_xlabel(f"difference{f', {unit}' if unit else ''}: to the {which}, {other} is better")
    models = "\n".join(f"{letter}  {name}" for letter, name in zip(LETTERS, names, strict=False))
    title = f"{models}\n95% intervals; filled: p < {LEVEL}"
    canvas.suptitle(title, parse_math=False, fontsize=9, x=0.01, horizontalalignment="left")
    with atomic(path) as file:
        canvas.savefig(file, format=path.suffix.lower()[1:])


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
