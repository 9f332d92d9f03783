"""Whether two models' figures on the same examples differ by more than chance.

A figure is a sum over the examples by a sum of their weights: of equal weights a mean, of bytes as weights
nats a byte, of entities found and there as weights an F1. The errors are those of Miller 2024, "Adding Error
Bars to Evals" (arXiv:2411.00640), where examples hang together by clusters: differences of paired examples,
summed by cluster. Of ratios, the examples' differences are linearised first (the delta method; Cochran,
"Sampling Techniques", 1977, 6.4), of which the mean is the case of equal weights.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # at most this share of equal models is said to differ
POWER = 0.8  # of the differences that are named as the least to be seen, this share is seen
_FEW = 25  # discordant examples below which McNemar's test is exact (Fagerland et al. 2013)
_ROUNDING = 1e-5  # relative, of sums of float32


class Series(NamedTuple):
    """One model's figure, example by example: what it is the sum of, and what that is divided by."""

    values: np.ndarray  # (n,)
    weights: np.ndarray | None = None  # (n,); None: 1 each

    @property
    def divisors(self) -> np.ndarray:
        return np.ones(len(self.values)) if self.weights is None else self.weights

    @property
    def figure(self) -> float:
        """The figure itself, Σ values / Σ weights."""
        return float(self.values.sum() / self.divisors.sum())


@dataclass(frozen=True)
class Difference:
    """What came of comparing B with A.

    Attributes:
        a, b: the figures.
        difference: b − a.
        examples, clusters: how many; as many clusters as examples where each stands for itself.
        error: the standard error of the difference, paired and clustered.
        unpaired: what it would be if the models had seen different examples.
        low, high: the 95% interval of the difference.
        p: how probable a difference at least as far from 0 is where there is none; two-sided.
        test: what p is from: `t`, `McNemar` (exact), `sign`, or `same` where nothing differs.
    """

    a: float
    b: float
    difference: float
    examples: int
    clusters: int
    error: float
    unpaired: float
    low: float
    high: float
    p: float
    test: str

    def detectable(self, level: float = LEVEL, power: float = POWER) -> float:
        """The least true difference of which this many examples would have shown a share `power`.

        (t_{1 − level/2} + t_{power}) · error, with normal quantiles for t's where clusters are many (Bloom
        1995, "Minimum Detectable Effects"). Where p is exact, not less than what can be seen at all: k
        examples that differ, all to one side, with 2^(1 − k) ≤ level; infinite where there are not so many.
        Not a number where nothing differs.
        """
        if self.test == "same":
            return math.nan
        fewest = math.ceil(1 - math.log2(level))
        if self.test != "t" and fewest > self.clusters:
            return math.inf
        degrees = self.clusters - 1
        least = (student_quantile(1 - level / 2, degrees) + student_quantile(power, degrees)) * self.error
        if self.test == "McNemar":
            least = max(least, fewest / self.examples)
        return least


def paired(a: Series, b: Series, clusters: Sequence[Hashable] | None = None) -> Difference:
    """Compare two models on the same examples.

    The standard error of b − a: with R = Σ values / Σ weights of each model, an example's share of it is
    u = (value − R · weight) / Σ weights (of a mean: its distance from it by n); the shares of b minus those
    of a are summed in each cluster, and error² = G / (G − 1) · Σ (sum in the cluster)², G clusters. The
    factor makes it unbiased (CR1); of clusters of one, and of a mean, this is s / √n. The quantiles are
    Student's with G − 1 degrees of freedom.

    0/1 figures of fewer than 25 examples on which the models disagree, each a cluster of its own, are decided
    by McNemar's exact test, with Clopper and Pearson's interval of which of them go to b. Where all clusters
    differ by the same, which has no error, by the sign test.

    Args:
        clusters: n names; what has the same hangs together. None: each example stands for itself.

    Raises:
        ValueError: not equally many examples, fewer than two clusters, or numbers that are not finite.
    """
    n = len(a.values)
    names = np.arange(n) if clusters is None else _numbered(clusters)
    groups = len(np.unique(names))
    if not n == len(b.values) == len(a.divisors) == len(b.divisors) == len(names):
        raise ValueError("not equally many examples")
    if groups < 2:
        raise ValueError(f"{groups} cluster: there is nothing to tell an error from")
    if not all(np.isfinite(column).all() for column in (a.values, b.values, a.divisors, b.divisors)):
        raise ValueError("not all figures are finite numbers")

    def error(shares: np.ndarray) -> float:
        sums = np.bincount(names, weights=shares)
        return math.sqrt(groups / (groups - 1) * float((sums**2).sum()))

    ours, theirs = _shares(a), _shares(b)
    difference = b.figure - a.figure
    own, unpaired = error(theirs - ours), math.hypot(error(ours), error(theirs))
    sizes = {"examples": n, "clusters": groups, "error": own, "unpaired": unpaired}

    def found(low: float, high: float, p: float, test: str) -> Difference:
        of = {"a": a.figure, "b": b.figure, "difference": difference}
        return Difference(**of, **sizes, low=low, high=high, p=p, test=test)  # type: ignore[arg-type]

    if _close(a.values, b.values) and _close(a.divisors, b.divisors):
        return found(difference, difference, 1.0, "same")
    if groups == n and (discordant := _discordant(a, b)) is not None and sum(discordant) < _FEW:
        low, high = binomial_interval(discordant[1], sum(discordant))
        share = sum(discordant) / n
        return found((2 * low - 1) * share, (2 * high - 1) * share, mcnemar(*discordant), "McNemar")
    if own <= _ROUNDING * abs(difference):
        return found(difference, difference, 0.5 ** (groups - 1), "sign")
    half = student_quantile(1 - LEVEL / 2, groups - 1) * own
    return found(difference - half, difference + half, student_p(difference / own, groups - 1), "t")


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def _shares(series: Series) -> np.ndarray:
    return (series.values - series.figure * series.divisors) / series.divisors.sum()


def _close(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.allclose(left, right, rtol=_ROUNDING, atol=1e-9))


def _discordant(a: Series, b: Series) -> tuple[int, int] | None:
    """How many examples only a has right, and only b; None of figures that are not 0 or 1."""
    for series in (a, b):
        if not np.isin(series.values, (0.0, 1.0)).all() or not (series.divisors == 1).all():
            return None
    return int((a.values > b.values).sum()), int((b.values > a.values).sum())


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value of McNemar's test: whether examples on which two models disagree go to
    either with a probability of a half.

    Args:
        only_a: examples that a alone has right.
        only_b: examples that b alone has right.
    """
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def binomial_interval(hits: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a probability after `hits` of n: it holds a half if and only if
    the exact two-sided test does not reject a half. Of things that hang together, as many hits and things as
    they are worth, which need not be whole numbers."""
    low = 0.0 if hits == 0 else _solve(lambda x: beta_share(x, hits, n - hits + 1), level / 2)
    high = 1.0 if hits == n else _solve(lambda x: beta_share(x, hits + 1, n - hits), 1 - level / 2)
    return low, high


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for there being several (Holm 1979): taking those below `LEVEL` for differences,
    there is any false one among them in at most that share of tables."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, least = [0.0] * len(ps), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = least
    return corrected


def student_p(t: float, degrees: float) -> float:
    """How probable it is that Student's t is at least as far from 0."""
    return 1.0 if t == 0 else beta_share(degrees / (degrees + t * t), degrees / 2, 0.5)


@cache
def student_quantile(share: float, degrees: float) -> float:
    """What a `share` of Student's distribution lies below; share from 0.5 to below 1."""
    if share == 0.5:
        return 0.0
    # 1 / (1 + t²/ν) falls from 1 to 0 as t grows.
    x = _solve(lambda x: beta_share(x, degrees / 2, 0.5), 2 * (1 - share))
    return math.sqrt(degrees * (1 - x) / x)


def _solve(rising: Callable[[float], float], value: float) -> float:
    """Where in (0, 1) a rising function has a value, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), which Student's and the binomial distribution are
    made of: by its continued fraction (Abramowitz and Stegun 26.5.8), evaluated by Lentz's method."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # on this side it converges quickly
        return 1 - beta_share(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    value = d
    for m in range(1, 20_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return min(1.0, math.exp(scale) * value / a)
