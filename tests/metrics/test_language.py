"""Losses by hand, exact beyond 2^24 tokens."""

import math

import pytest
import torch
from torch import Tensor

from lm.metrics import CorpusLosses, TokenLoss


def counted(*numbers: int) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(n) for n in numbers)


def test_figures_by_hand():
    """8 tokens for 20 bytes at 16 ln 2 nats: 2 bits per token, 0.8 per byte."""
    metric = TokenLoss()
    metric.update(torch.tensor(10 * math.log(2)), *counted(5, 13, 1))
    metric.update(torch.tensor(6 * math.log(2)), *counted(3, 7, 5))
    figures = {name: value.item() for name, value in metric.compute().items()}
    expected = {"loss": 2 * math.log(2), "perplexity": 4.0, "bits_per_byte": 0.8, "accuracy": 0.75}
    assert figures == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("converted", [False, True])
def test_exact_beyond_what_fp32_counts(converted):
    """3 · 2^24 tokens, then three more, one at a time: in fp32 they would vanish. The same in a model that
    was converted to bf16, whose metrics are converted too."""
    metric = TokenLoss()
    if converted:
        metric = torch.nn.Sequential(metric).to(torch.bfloat16)[0]
    for _ in range(3):
        metric.update(torch.tensor(2.0**25), *counted(2**24, 2**26, 2**23))
    for _ in range(3):
        metric.update(torch.tensor(0.25), *counted(1, 1, 1))
    assert metric.tokens == 3 * 2**24 + 3
    assert metric.bytes == 3 * 2**26 + 3
    assert metric.hits == 3 * 2**23 + 3
    assert metric.nats == 3 * 2**25 + 0.75
    figures = metric.compute()
    assert figures["loss"].item() == (3 * 2**25 + 0.75) / (3 * 2**24 + 3)
    assert figures["accuracy"].item() == pytest.approx((3 * 2**23 + 3) / (3 * 2**24 + 3), rel=1e-7)


def test_each_corpus_has_figures_of_its_own():
    """8 tokens for 20 bytes at 16 ln 2 nats as above, 4 for 5 at 10 ln 2 nats, and none; beyond 2^24 too."""
    metric = CorpusLosses(["code", "web", "none"])
    for corpus, nats, tokens, size in ((0, 10, 5, 13), (1, 10, 4, 5), (0, 6, 3, 7)):
        metric.update(torch.tensor(corpus), torch.tensor(nats * math.log(2)), *counted(tokens, size))
    figures = {name: value.item() for name, value in metric.compute().items()}
    expected = {"loss_code": 2 * math.log(2), "bits_per_byte_code": 0.8}
    expected |= {"loss_web": 2.5 * math.log(2), "bits_per_byte_web": 2.0}
    none = {"loss_none": math.nan, "bits_per_byte_none": math.nan}
    assert figures == pytest.approx(expected | none, rel=1e-7, nan_ok=True)
    metric.reset()
    for tokens in (2**25, 1, 1):
        metric.update(torch.tensor(1), torch.tensor(float(tokens)), *counted(tokens, tokens))
    assert metric.tokens.tolist() == [0, 2**25 + 2, 0] and metric.compute()["loss_web"] == 1


def test_reset_forgets():
    metric = TokenLoss()
    metric.update(torch.tensor(3.0), *counted(3, 9, 1))
    metric.reset()
    metric.update(torch.tensor(2.0), *counted(1, 4, 0))
    assert metric.compute()["loss"] == 2.0
    assert metric.compute()["accuracy"] == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_tokens_is_no_number():
    assert all(value.isnan() for value in TokenLoss().compute().values())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_processes_are_summed():
    """What torchmetrics does with the states of several processes."""
    parts = [TokenLoss(), TokenLoss()]
    parts[0].update(torch.tensor(3.0), *counted(1, 2, 1))
    parts[1].update(torch.tensor(5.0), *counted(3, 6, 0))
    together = TokenLoss()
    for part in parts:
        together._reduce_states({name: getattr(part, name) for name in ("nats", "tokens", "bytes", "hits")})
    assert together.compute()["loss"] == 2.0
    assert together.compute()["accuracy"] == 0.25
