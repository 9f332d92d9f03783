"""Preference pairs by hand."""

import pytest
import torch

from lm.metrics import PreferenceScores

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def test_by_hand(compute_together):
    """Two right, one tie, one wrong: 2.5 of 4. The same over processes of which one has no pair."""
    parts = [PreferenceScores() for _ in range(3)]
    parts[1].update(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 1.0]))
    parts[2].update(torch.tensor([0.5], dtype=torch.bfloat16), torch.tensor([0.0], dtype=torch.bfloat16))
    parts[2].update(torch.tensor([-3.0]), torch.tensor([4.0]))
    figures = {name: value.item() for name, value in compute_together(*parts).items()}
    expected = {"accuracy": 2.5 / 4, "margin": (3 + 0 + 0.5 - 7) / 4, "chosen_reward": 0.5 / 4}
    assert figures == pytest.approx({**expected, "rejected_reward": 4 / 4})


def test_exact_over_many_pairs():
    """A large sum does not swallow small rewards."""
    metric = PreferenceScores()
    metric.update(torch.tensor([2.0**40]), torch.tensor([2.0**40]))
    for _ in range(4):
        metric.update(torch.tensor([2.0**-4]), torch.tensor([0.0]))
    assert metric.compute()["margin"].item() == 2.0**-4 * 4 / 5
    assert metric.compute()["accuracy"].item() == 0.9


def test_no_pair_is_no_number_and_reset_forgets():
    metric = PreferenceScores()
    assert all(value.isnan() for value in metric.compute().values())
    metric.update(torch.tensor([1.0]), torch.tensor([2.0]))
    metric.reset()
    metric.update(torch.zeros(0), torch.zeros(0))
    metric.update(torch.tensor([2.0]), torch.tensor([1.0]))
    assert metric.compute()["accuracy"] == 1
    with pytest.raises(ValueError, match="shape"):
        metric.update(torch.zeros(2), torch.zeros(3))
