"""Coordinates of a page's pictures: figures on an axis, and the ticks beside them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Axis:
    """Numbers, or words at equal distances, on a line.

    Args:
        start, end: where it begins and ends, in the picture's units.
        low, high: the numbers there; what lies beyond is drawn at the edge.
        log: whether equal distances are equal factors.
        words: in the place of numbers.
    """

    start: float
    end: float
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    words: Sequence[Any] | None = None

    def at(self, value: Any) -> float:
        """Where a value is drawn."""
        if self.words is not None:
            share = (list(self.words).index(value) + 0.5) / len(self.words)
        else:
            low, high, own = (math.log(x) if self.log else x for x in (self.low, self.high, value))
            share = min(1.0, max(0.0, (own - low) / (high - low))) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and what is written there."""
        if self.words is not None:
            return [(self.at(word), str(word)) for word in self.words]
        if self.log:
            powers = range(
                math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1
            )
            marks = [10.0**power for power in powers]
            marks = marks if len(marks) > 1 else [self.low, self.high]
            return [(self.at(mark), f"{mark:.3g}") for mark in marks]
        step = _step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        marks = [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [(self.at(mark), f"{mark:.6g}") for mark in marks]


def _step(rough: float) -> float:
    """1, 2 or 5 times a power of ten that is not below."""
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def upright(values: Iterable[float], start: float, end: float, clip: float = 1.0) -> Axis:
    """An axis for values, a little longer than they need.

    Args:
        values: what is drawn.
        start, end: of the axis.
        clip: the share of the values, from the lowest on, that have to lie on it.
    """
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return Axis(start, end)
    low, high = ordered[0], ordered[min(len(ordered) - 1, math.ceil(clip * len(ordered)) - 1)]
    margin = (high - low) * 0.06 or abs(high) * 0.01 or 1.0
    return Axis(start, end, low - margin, high + margin)


def line(points: Iterable[tuple[float, float]]) -> str:
    """Points as SVG's polyline takes them."""
    return " ".join(f"{x},{y}" for x, y in points)
