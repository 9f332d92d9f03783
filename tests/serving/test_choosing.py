"""Drawing by one number a text: from the right tokens, as often as they are likely."""

import pytest
import torch

from lm.errors import UserError
from lm.inference.generate import Sampling
from lm.serving import choosing
from lm.serving.choosing import Chooser, choose, draw
from lm.serving.requests import Request

CPU = torch.device("cpu")
WAYS = [
    {},
    {"temperature": 0.5},
    {"top_k": 4},
    {"top_p": 0.6},
    {"top_k": 7, "top_p": 0.8, "temperature": 1.5},
    {"min_p": 0.2},
    {"top_p": 0.9, "min_p": 0.1},
    {"top_p": 1e-9},
    {"top_k": 100},
]


def shares(logits: torch.Tensor, how: Sampling, times: int = 40_000) -> torch.Tensor:
    """How often `Sampling.choose` takes each token."""
    torch.manual_seed(1)
    chosen = how.choose(logits.expand(times, -1), torch.empty(times, 0, dtype=torch.long))
    return torch.bincount(chosen, minlength=len(logits)) / times


@pytest.mark.parametrize("few", [(256, 4096), (2, 5)], ids=["few", "very few"])
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_as_often_as_sampling_takes_them(options, few, monkeypatch):
    monkeypatch.setattr(choosing, "FEW", few)
    torch.manual_seed(0)
    logits, how = 0.7 * torch.randn(12), Sampling(**options)
    generator, times = torch.Generator().manual_seed(2), 40_000
    chosen, sums = draw(logits.expand(times, -1), how, [generator] * times)
    ours, theirs = torch.bincount(chosen, minlength=12) / times, shares(logits, how)
    assert (ours - theirs).abs().max() < 0.012  # four standard errors of the difference
    assert torch.equal(ours > 0, theirs > 0) and bool((sums > 0).all())


def test_the_ends_of_what_can_be_drawn(monkeypatch):
    """A random number may be 0, or so near to 1 that it rounds to it."""
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    for number, expected in ((0.0, 1), (1 - 2**-24, 2), (1.0, 2)):
        monkeypatch.setattr(torch, "rand", lambda *_, n=number, **__: torch.tensor([n]))
        assert draw(logits, Sampling(), [torch.Generator()])[0].tolist() == [expected]


def test_texts_that_share_nothing():
    """Each its own way of choosing, its own draws; one without numbers fails alone."""
    torch.manual_seed(0)
    logits = torch.randn(6, 300)
    ways = [
        {"temperature": 0},
        {"seed": 3},
        {"seed": 4, "top_p": 0.5},
        {"seed": 5},
        {"temperature": 1e-4, "logit_bias": {7: 50.0}},
        {"seed": 3, "top_k": 20},
    ]

    def fresh() -> list[Chooser]:
        return [Chooser(Request((1,), 9, **options), 300, CPU) for options in ways]

    together = choose(logits, fresh())
    assert together[0] == int(logits[0].argmax()) and together[4] == 7
    assert together == [choose(row[None], [chooser])[0] for row, chooser in zip(logits, fresh(), strict=True)]
    for wrong in (torch.nan, torch.inf):
        for sick in range(6):
            broken = logits.clone()
            broken[sick, 11] = wrong
            found = choose(broken, fresh())
            assert isinstance(found[sick], UserError)
            assert [*found[:sick], *found[sick + 1 :]] == [*together[:sick], *together[sick + 1 :]]
