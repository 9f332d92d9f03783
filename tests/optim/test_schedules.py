"""Learning-rate factors at chosen steps, by hand."""

import itertools
import math

import pytest
import torch
from torch import nn

from lm.optim import Constant, Cosine, Linear, Muon, Schedule, WarmupStableDecay

# Warm-up of 4 steps: 1/5, 2/5, 3/5, 4/5, and the fifth step is at 1.
CASES = [
    (Constant(warmup=4), 24, {0: 0.2, 3: 0.8, 4: 1.0, 5: 1.0, 23: 1.0, 24: 1.0}),
    (Linear(warmup=4), 24, {0: 0.2, 3: 0.8, 4: 1.0, 5: 0.95, 14: 0.5, 23: 0.05, 24: 0.0, 99: 0.0}),
    (Linear(final=0.1), 10, {0: 1.0, 1: 0.91, 5: 0.55, 9: 0.19, 10: 0.1, 11: 0.1}),
    (
        Cosine(warmup=4),
        24,
        {
            0: 0.2,
            4: 1.0,
            9: 0.5 + math.sqrt(0.125),
            14: 0.5,
            23: (1 - math.cos(math.pi / 20)) / 2,
            24: 0.0,
            50: 0.0,
        },
    ),
    (Cosine(final=0.1), 20, {0: 1.0, 5: 0.1 + 0.9 * (0.5 + math.sqrt(0.125)), 10: 0.55, 20: 0.1, 30: 0.1}),
    (
        WarmupStableDecay(warmup=4, decay=0.5),
        24,
        {0: 0.2, 3: 0.8, 4: 1.0, 13: 1.0, 14: 1.0, 15: 0.9, 19: 0.5, 23: 0.1, 24: 0.0, 30: 0.0},
    ),
    (WarmupStableDecay(decay=0.2, final=0.5), 10, {0: 1.0, 8: 1.0, 9: 0.75, 10: 0.5, 11: 0.5}),
    (WarmupStableDecay(decay=0.0), 10, {0: 1.0, 9: 1.0, 10: 1.0}),
    (WarmupStableDecay(), 10, {0: 1.0, 4: 1.0, 5: 5 / 6, 7: 0.5, 9: 1 / 6}),
    (Linear(warmup=10), 5, {0: 1 / 11, 4: 5 / 11}),
    (Linear(), 1, {0: 1.0, 1: 0.0}),
]


@pytest.mark.parametrize(("schedule", "total", "factors"), CASES, ids=lambda x: type(x).__name__)
def test_factors(schedule, total, factors):
    for step, factor in factors.items():
        assert schedule.factor(step, total) == pytest.approx(factor, abs=1e-12), step


@pytest.mark.parametrize(
    "schedule",
    [Linear(warmup=7, final=0.2), Cosine(warmup=7, final=0.2), WarmupStableDecay(warmup=7, final=0.2)],
    ids=lambda x: type(x).__name__,
)
def test_up_then_down_without_a_jump(schedule):
    factors = [schedule.factor(step, 100) for step in range(101)]
    peak = factors.index(1.0)
    assert peak == 7
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[0] > 0
    assert factors[99] > 0.2, "the last step must still learn"
    assert factors[100] == pytest.approx(0.2)
    assert max(abs(a - b) for a, b in itertools.pairwise(factors)) <= 1 / 8 + 1e-9


def test_every_group_follows_from_its_own_rate():
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = Muon([matrix, vector], lr=0.5, adamw_lr=0.1)
    scheduler = Linear(warmup=1).scheduler(optimizer, total=5)
    seen = []
    for _ in range(5):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    factors = [0.5, 1.0, 0.75, 0.5, 0.25]
    for rates, factor in zip(seen, factors, strict=True):
        assert rates == pytest.approx([0.5 * factor, 0.1 * factor])


def test_a_schedule_of_ones_own_says_what_follows_the_warmup():
    class Halves(Schedule):
        def after_warmup(self, progress: float) -> float:
            return 0.5

    assert [Halves(warmup=1).factor(step, 3) for step in range(3)] == [0.5, 0.5, 0.5]
    with pytest.raises(TypeError, match="after_warmup"):
        Schedule()  # a schedule that does not say it cannot even be made
