"""What a check finds, in plain values: figures with their errors, pictures' points, examples, remarks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A number, and how sure it is.

    Args:
        value: the number.
        what: it says, in a few words.
        low, high: its 95% interval; None of what is exact.
        n: how many things it was measured on; None where nothing was counted.
        unit: of value, low and high: `%` for shares of 1, `bits`; empty for plain numbers.
    """

    value: float
    what: str
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""

    def written(self, value: float | None = None) -> str:
        """A number of its unit, or its own, for people."""
        value = self.value if value is None else value
        if not math.isfinite(value):
            return str(value)
        if self.unit == "%":
            return f"{100 * value:.{1 if abs(value) < 0.995 else 0}f}%"
        if float(value).is_integer() and abs(value) < 1e15:
            return f"{value:,.0f}"
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"

    @property
    def said(self) -> str:
        """The value with its unit, for people."""
        return self.written() + (f" {self.unit}" if self.unit not in ("", "%") else "")

    @property
    def interval(self) -> str:
        """Its 95% interval for people; empty of what is exact."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.written(self.low)} to {self.written(self.high)}"


Point = tuple[Any, float, float | None, float | None]  # where, value, its interval


@dataclass(frozen=True)
class Chart:
    """Points to be drawn, in series by name.

    Args:
        x: what goes across; numbers, or words, which are the same in all series.
        y: what goes up.
        log: whether equal distances across are equal factors; 0 then stands at the left edge.
        line: what chance gives, drawn across; None: nothing.
        joined: whether a series is a line.
    """

    title: str
    x: str
    y: str
    series: dict[str, list[Point]]
    log: bool = False
    line: float | None = None
    joined: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of text that say how a thing is made, where figures would say too little.

    Args:
        rows: all with the same columns.
    """

    title: str
    rows: list[dict[str, str]]


@dataclass
class Findings:
    """What came of one check.

    Attributes:
        figures: by name: letters, digits, `_`, `.`, `/` and `-`.
        charts: to look at.
        examples: rows of a table, all with the same columns, the worst first.
        notes: what a person should know to read them.
        tables: of what was found, beside the figures; those without rows are left out.
        headline: the figure that is said first; empty: the first one.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    charts: list[Chart] = field(default_factory=list)
    examples: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    headline: str = ""


def share(hits: int, n: int, what: str) -> Figure:
    """`hits` of n as a share, with Clopper and Pearson's exact interval, which is one-sided at either end of
    the range: of 0 of n it goes up to 3 / n.

    Raises:
        ValueError: n is 0.
    """
    from lm.evaluation import binomial_interval

    if n == 0:
        raise ValueError("a share of nothing")
    level = 0.1 if hits in (0, n) else 0.05
    low, high = binomial_interval(hits, n, level)
    return Figure(hits / n, what, low, high, n, "%")


def mean(values: Sequence[float], what: str, unit: str = "") -> Figure:
    """The mean of independent values with Student's interval; without one where there is a single value.

    Raises:
        ValueError: there is none.
    """
    from lm.evaluation import student_quantile

    n = len(values)
    if n == 0:
        raise ValueError("a mean of nothing")
    centre = math.fsum(values) / n
    if n == 1:
        return Figure(centre, what, n=1, unit=unit)
    error = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (n - 1) / n)
    half = student_quantile(0.975, n - 1) * error
    return Figure(centre, what, centre - half, centre + half, n, unit)
