"""Two or more models side by side: which figures there are of each, paired by their examples, and what may be
said of the differences.

Where the figures come from, the files beside this one know (`records`, `text`,
`predictions`, `tested`); here nobody knows what an example is.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lm.errors import UserError, some
from lm.evaluation.comparison.statistics import LEVEL, POWER, Difference, Series, holm, paired

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Figure:
    """A figure of one model, example by example.

    Args:
        source: where it was read, for messages.
        ids: a name for each of the n examples: those of two models are paired by them.
        values: (n,); the figure is Σ values / Σ weights.
        weights: (n,); None: 1 each.
        clusters: n names: examples that hang together have the same; None: each stands for itself.
        higher_is_better: whether it is a score, and not an error.
        unit: what it is in, for people; empty for a share of 1.
        settings: under what it was measured: two figures are comparable if these are equal.
    """

    source: str
    ids: Sequence[str]
    values: np.ndarray
    weights: np.ndarray | None = None
    clusters: Sequence[Hashable] | None = None
    higher_is_better: bool = True
    unit: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


Figures = dict[str, Figure]  # of one model, by what is measured


@dataclass(frozen=True)
class Comparison:
    """One model beside the first in one figure.

    Attributes:
        what: the figure's name.
        first, other: the letters of the two models.
        found: the figures and their difference.
        higher_is_better, unit: see `Figure`.
        p: corrected for all comparisons that were made at once.
        together: how many these are.
    """

    what: str
    first: str
    other: str
    found: Difference
    higher_is_better: bool
    unit: str
    p: float
    together: int

    @property
    def better(self) -> str | None:
        """The letter of the better one; None where the figures don't say."""
        if self.p >= LEVEL:
            return None
        return self.other if (self.found.difference > 0) == self.higher_is_better else self.first

    @property
    def detectable(self) -> float:
        """The least difference that would have been seen in 80 of 100 cases; see `Difference.detectable`."""
        return self.found.detectable(LEVEL / self.together)

    @property
    def verdict(self) -> str:
        """A sentence without its subject."""
        if self.found.test == "same":
            return f"{self.first} and {self.other} are the same in every example"
        if (better := self.better) is not None:
            return f"{better} is better than {self.other if better == self.first else self.first}"
        if math.isinf(self.detectable):
            return f"no difference seen: {self.found.examples} examples are too few to show any"
        return f"no difference seen; one of {self.detectable:.2g} or more would have been seen ({POWER:.0%})"

    def values(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        found, bound = self.found, self.detectable
        return {
            "figure": self.what,
            "a": self.first,
            "b": self.other,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "examples": found.examples,
            "clusters": found.clusters,
            "value_a": found.a,
            "value_b": found.b,
            "difference": found.difference,
            "stderr": found.error,
            "stderr_unpaired": found.unpaired,
            "low": found.low,
            "high": found.high,
            "test": found.test,
            "p": found.p,
            "p_corrected": self.p,
            "comparisons": self.together,
            "detectable": bound if math.isfinite(bound) else None,
            "better": self.better,
            "verdict": self.verdict,
        }


def compare(models: Sequence[Figures]) -> tuple[list[Comparison], list[str]]:
    """Each of the other models beside the first, in every figure that both have.

    Args:
        models: two at least, the figures of each by their names.

    Returns:
        The comparisons, and notes for people: what could not be compared.

    Raises:
        UserError: nothing can be compared; or two figures of one name are of other examples, or were measured
            otherwise.
    """
    pairs: list[tuple[str, str, Figure, Difference]] = []
    notes: list[str] = []
    first = models[0]
    for letter, other in zip(LETTERS[1:], models[1:], strict=False):
        for whose, ours, theirs in ((LETTERS[0], first, other), (letter, other, first)):
            if alone := [name for name in ours if name not in theirs]:
                without = letter if whose == LETTERS[0] else LETTERS[0]
                notes.append(f"only {whose} and not {without} has {some(alone, 6)}")
        for name, figure in first.items():
            if name in other:
                pairs.append((name, letter, figure, _difference(name, figure, other[name])))
    if not pairs:
        raise UserError("; ".join(["there is nothing to compare", *notes]))
    corrected = holm([found.p for *_, found in pairs])
    comparisons = [
        Comparison(name, LETTERS[0], letter, found, figure.higher_is_better, figure.unit, p, len(pairs))
        for (name, letter, figure, found), p in zip(pairs, corrected, strict=True)
    ]
    return comparisons, notes


def _difference(name: str, a: Figure, b: Figure) -> Difference:
    """Two models' figures, paired by the examples' ids."""
    both = f"{a.source} and {b.source}"
    for key in dict.fromkeys([*a.settings, *b.settings]):
        ours, theirs = a.settings.get(key), b.settings.get(key)
        if ours != theirs:
            raise UserError(f"{both} can't be compared in {name}: {key} is {ours} and {theirs}")
    order = _counterparts(a.ids, b.ids)
    if order is None:
        ours, theirs = _without(a.ids, b.ids), _without(b.ids, a.ids)
        raise UserError(
            f"{both} hold records of other examples to compare in {name}: "
            f"{ours:,} of {len(a.ids):,} and {theirs:,} of {len(b.ids):,} have no counterpart"
        )
    series = (
        Series(a.values, a.weights),
        Series(b.values[order], None if b.weights is None else b.weights[order]),
    )
    try:
        return paired(*series, a.clusters)
    except ValueError as error:
        raise UserError(f"{both} can't be compared in {name}: {error}") from error


def _counterparts(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray | None:
    """Where each of our ids stands among theirs, the second of a kind beside the second; None where one has
    no counterpart."""
    if len(ours) != len(theirs):
        return None
    places = {name: place for place, name in enumerate(_counted(theirs))}
    found = [places.get(name, -1) for name in _counted(ours)]
    return None if -1 in found else np.array(found, dtype=np.int64)


def _counted(ids: Sequence[str]) -> list[tuple[str, int]]:
    seen: dict[str, int] = defaultdict(int)
    counted = []
    for name in ids:
        counted.append((name, seen[name]))
        seen[name] += 1
    return counted


def _without(ours: Sequence[str], theirs: Sequence[str]) -> int:
    return len(set(_counted(ours)) - set(_counted(theirs)))
