"""Errors and p-values: against tables, by hand, against other ways to the same, and by what they promise."""

import math

import numpy as np
import pytest

from lm.evaluation.comparison.statistics import (
    LEVEL,
    Series,
    beta_share,
    binomial_interval,
    holm,
    mcnemar,
    paired,
    student_p,
    student_quantile,
)


@pytest.mark.parametrize(
    ("share", "degrees", "expected"),
    [  # from printed tables of Student's t
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 9, 2.2622),
        (0.975, 30, 2.0423),
        (0.995, 5, 4.0321),
        (0.8, 10, 0.8791),
        (0.975, 1_000_000, 1.95996),  # normal
        (0.8, 1_000_000, 0.84162),
    ],
)
def test_quantiles_are_the_tables(share, degrees, expected):
    assert student_quantile(share, degrees) == pytest.approx(expected, abs=6e-5)
    assert student_p(student_quantile(share, degrees), degrees) == pytest.approx(2 * (1 - share), rel=1e-6)


def test_beta_share_is_the_binomial_and_the_arcsine():
    # P(X >= 3) of 10 throws with 0.3; and I_x(1/2, 1/2) is the arcsine law.
    tail = sum(math.comb(10, k) * 0.3**k * 0.7 ** (10 - k) for k in range(3, 11))
    assert beta_share(0.3, 3, 8) == pytest.approx(tail, rel=1e-12)
    assert beta_share(0.9, 0.5, 0.5) == pytest.approx(2 / math.pi * math.asin(math.sqrt(0.9)), rel=1e-12)


def test_mcnemar_by_hand():
    assert mcnemar(0, 5) == 2 / 32
    assert mcnemar(1, 7) == 2 * (1 + 8) / 256
    assert mcnemar(3, 3) == 1
    assert mcnemar(0, 0) == 1
    low, high = binomial_interval(0, 5)  # 1 − (0.025)^(1/5)
    assert (low, high) == (0, pytest.approx(1 - 0.025**0.2))
    low, high = binomial_interval(5, 5)
    assert (low, high) == (pytest.approx(0.025**0.2), 1)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([0.02]) == [0.02]


def test_a_mean_of_single_examples_is_the_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 40))
    d = b - a
    found = paired(Series(a), Series(b))
    assert found.error == pytest.approx(d.std(ddof=1) / math.sqrt(40))
    assert found.unpaired == pytest.approx(math.hypot(a.std(ddof=1), b.std(ddof=1)) / math.sqrt(40))
    assert found.p == pytest.approx(student_p(d.mean() / found.error, 39))
    assert (found.low, found.high) == pytest.approx(
        (d.mean() - 2.0227 * found.error, d.mean() + 2.0227 * found.error), rel=1e-4
    )
    assert found.test == "t" and found.clusters == found.examples == 40


def test_clusters_are_millers_formula():
    """SE² = SE of single ones² + Σ of the products within clusters / n², but for the factor G / (G − 1)."""
    random = np.random.default_rng(1)
    names = random.integers(0, 12, size=60)
    effect = random.normal(size=12)[names]
    a, b = random.normal(size=(2, 60))
    b += effect
    d = (b - a) - (b - a).mean()
    squares = sum(d[i] * d[j] for i in range(60) for j in range(60) if names[i] == names[j])
    found = paired(Series(a), Series(b), list(names))
    groups = len(set(names))
    assert found.clusters == groups
    assert found.error == pytest.approx(math.sqrt(squares * groups / (groups - 1)) / 60)
    assert found.error > paired(Series(a), Series(b)).error  # what hangs together says less


@pytest.mark.parametrize("own", [False, True])
def test_a_ratio_s_error_is_that_of_resampled_clusters(own):
    """Bits per byte, whose weights both models share; and an F1, where each has its own."""
    random = np.random.default_rng(2)
    groups = 150
    names = np.repeat(np.arange(groups), 3)
    n = len(names)
    topic = random.normal(size=groups)[names]
    weights = random.integers(50, 500, size=n).astype(float)
    others = weights + random.integers(0, 40, size=n) if own else weights
    a = weights * (2 + 0.3 * topic + 0.2 * random.normal(size=n))
    b = others * (1.9 + 0.4 * topic + 0.2 * random.normal(size=n))
    found = paired(Series(a, weights), Series(b, others), list(names))
    assert found.difference == pytest.approx(b.sum() / others.sum() - a.sum() / weights.sum())
    sums = [np.bincount(names, column) for column in (a, weights, b, others)]
    drawn = []
    for _ in range(3000):
        rows = random.integers(0, groups, size=groups)
        x, u, y, v = (column[rows].sum() for column in sums)
        drawn.append(y / v - x / u)
    assert found.error == pytest.approx(np.std(drawn), rel=0.06)


def test_few_that_disagree_are_decided_exactly():
    a, b = np.zeros(500), np.zeros(500)
    b[:5] = 1
    five = paired(Series(a), Series(b))
    assert (five.test, five.p) == ("McNemar", 0.0625)
    assert five.low <= 0  # the interval says what the test says
    b[5] = 1
    six = paired(Series(a), Series(b))
    assert six.p == 0.03125 and six.low > 0
    # Six of them, all to one side, are the least that can be seen at all.
    assert paired(Series(a), Series(np.eye(500)[0])).detectable() == pytest.approx(6 / 500)
    assert math.isinf(paired(Series(a[:4]), Series(np.array([1.0, 0, 0, 0]))).detectable())
    b[:30] = 1
    assert paired(Series(a), Series(b)).test == "t"
    assert paired(Series(a), Series(b), [*range(499), 0]).test == "t"  # not independent
    assert paired(Series(2 * a), Series(2 * b)).test == "t"


def test_what_does_not_vary():
    same = np.array([0.5, 0.25, 1])
    found = paired(Series(same), Series(same + 1e-9))
    assert (found.test, found.p, found.error) == ("same", 1, pytest.approx(0, abs=1e-9))
    assert math.isnan(found.detectable())
    shifted = paired(Series(same), Series(same + 1))
    assert (shifted.test, shifted.p) == ("sign", 0.25)
    assert math.isinf(shifted.detectable())


@pytest.mark.parametrize(
    ("a", "b", "clusters", "says"),
    [
        ([1], [2], None, "1 cluster"),
        ([1, 2], [2, 4], ["x", "x"], "1 cluster"),
        ([1, 2], [2], None, "equally many"),
        ([1, math.nan], [2, 3], None, "finite"),
    ],
)
def test_what_can_not_be_compared(a, b, clusters, says):
    with pytest.raises(ValueError, match=says):
        paired(Series(np.array(a, float)), Series(np.array(b, float)), clusters)


def sure(kind: str, lead: float, seed: int) -> tuple[bool, float, float]:
    """Two models on examples that are hard or easy for both: whether they are said to differ, the paired
    error and the unpaired one."""
    random = np.random.default_rng(seed)
    hard = random.normal(size=80)
    names = None
    if kind == "clustered":
        names = list(np.repeat(np.arange(20), 4))
        hard = np.repeat(hard[:20], 4) + 0.3 * hard
    a, b = (hard + random.normal(size=(2, 80)) * 0.5) + np.array([[0], [lead]])
    if kind == "clustered":
        b = b + np.repeat(random.normal(size=20), 4) * 0.3  # one model's topics
    if kind == "right":
        a, b = (a > 0).astype(float), (b > 0).astype(float)
    found = paired(Series(a), Series(b), names)
    return found.p < LEVEL, found.error, found.unpaired


@pytest.mark.parametrize("kind", ["graded", "right", "clustered"])
def test_equals_are_rarely_said_to_differ_and_others_are(kind):
    claims, errors, unpaired = zip(*(sure(kind, 0, seed) for seed in range(100)), strict=True)
    assert sum(claims) <= 8  # 5 are to be expected
    assert all(own < other for own, other in zip(errors, unpaired, strict=True))
    assert np.mean(errors) < 0.75 * np.mean(unpaired)
    assert sum(sure(kind, 0.8, seed)[0] for seed in range(50)) >= 48


def test_the_least_that_can_be_seen_is_seen_in_eighty_of_a_hundred():
    random = np.random.default_rng(5)
    noise = random.normal(size=(2000, 60))
    least = (2.0010 + 0.8480) / math.sqrt(60)  # Student's with 59 degrees
    nothing = np.zeros(60)
    found = [paired(Series(nothing), Series(row + least)) for row in noise]
    assert np.mean([each.detectable() for each in found]) == pytest.approx(least, rel=0.02)
    assert np.mean([each.p < LEVEL for each in found]) == pytest.approx(0.8, abs=0.03)
