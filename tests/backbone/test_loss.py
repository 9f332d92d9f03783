"""The chunked cross-entropy against the plain one on the whole matrix of logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm.backbone import linear_cross_entropy
from lm.backbone.loss import CACHED_ELEMENTS, ENOUGH_ROWS, MOST_ELEMENTS, _chunk_rows

N, WIDTH, V = 23, 7, 19


def make(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, WIDTH, generator=generator).requires_grad_()
    weight = torch.randn(V, WIDTH, generator=generator).requires_grad_()
    offset = torch.randn(V, generator=generator).requires_grad_() if bias else None
    targets = torch.randint(V, (N,), generator=generator)
    targets[[0, 4, 5, 11, 22]] = -100
    return hidden, weight, offset, targets


def whole(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), targets, ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [None, 1, 4, 5, 22, 23, 1000])
def test_value_and_gradients_equal_the_plain_ones(rows, bias):
    hidden, weight, offset, targets = make(bias)
    leaves = [hidden, weight] + ([offset] if bias else [])
    expected = whole(hidden, weight, targets, offset)
    expected_gradients = torch.autograd.grad(expected * 0.3, leaves)
    nats, _ = linear_cross_entropy(hidden, weight, targets, offset, rows)
    torch.testing.assert_close(nats, expected, rtol=1e-6, atol=1e-5)
    gradients = torch.autograd.grad(nats * 0.3, leaves)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)
    assert not gradients[0][targets < 0].any(), "an ignored target has a gradient"


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias"])
def test_gradient_of_one_input_alone(trained):
    """Such as a head on a frozen backbone, or biases only."""
    hidden, weight, bias, targets = make(bias=True)
    inputs = {"hidden": hidden, "weight": weight, "bias": bias}
    inputs = {name: x.detach().requires_grad_(name == trained) for name, x in inputs.items()}
    leaf = inputs[trained]
    expected = torch.autograd.grad(whole(targets=targets, **inputs), leaf)[0]
    nats, _ = linear_cross_entropy(targets=targets, rows=4, **inputs)
    torch.testing.assert_close(torch.autograd.grad(nats, leaf)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [None, 4])
@torch.no_grad()
def test_hits_without_gradients(rows, bias):
    hidden, weight, offset, targets = make(bias)
    best = F.linear(hidden, weight, offset).argmax(-1)
    targets = torch.where((torch.arange(N) % 3 == 0) & (targets >= 0), best, targets)
    nats, hits = linear_cross_entropy(hidden, weight, targets, offset, rows)
    assert hits.dtype == torch.int64
    assert hits == ((best == targets) & (targets >= 0)).sum() > 4
    torch.testing.assert_close(nats, whole(hidden, weight, targets, offset), rtol=1e-6, atol=1e-5)


def test_no_target_counts():
    hidden, weight, offset, targets = make(bias=True)
    nats, hits = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100), offset, 4)
    nats.backward()
    assert (nats, hits) == (0, 0)
    for leaf in (hidden, weight, offset):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_no_rows_at_all():
    """A masked batch in which nothing was masked."""
    hidden, weight, offset, targets = make(bias=True)
    nats, _ = linear_cross_entropy(hidden[:0], weight, targets[:0], offset)
    nats.backward()
    assert nats == 0
    assert not weight.grad.any()


def test_large_logits_stay_finite():
    hidden, weight, _, targets = make(bias=False)
    nats, _ = linear_cross_entropy(hidden * 1e4, weight, targets, None, 4)
    nats.backward()
    torch.testing.assert_close(nats, whole(hidden * 1e4, weight, targets, None), rtol=1e-6, atol=1e-2)
    assert hidden.grad.isfinite().all()


def test_bf16_sums_in_fp32():
    """In bf16 the sum of 4,000 losses of 3 nats would stop growing; the weight's gradient likewise."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(4000, WIDTH, generator=generator).bfloat16().requires_grad_()
    weight = (torch.randn(V, WIDTH, generator=generator) / 10).bfloat16().requires_grad_()
    targets = torch.randint(V, (4000,), generator=generator)
    exact = [x.detach().float().requires_grad_() for x in (hidden, weight)]
    expected = whole(*exact, targets, None)
    nats, _ = linear_cross_entropy(hidden, weight, targets, rows=64)
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats, expected, rtol=1e-3, atol=0)
    gradient = torch.autograd.grad(nats, weight)[0]
    wanted = torch.autograd.grad(expected, exact[1])[0]
    assert gradient.dtype == torch.bfloat16
    assert (gradient.float() - wanted).norm() < 0.01 * wanted.norm()


def test_chunks_stay_small():
    hidden = torch.empty(1, 1)
    for vocab_size, limit in ((1000, CACHED_ELEMENTS), (4096, CACHED_ELEMENTS), (200_000, MOST_ELEMENTS)):
        rows = _chunk_rows(hidden, vocab_size)
        assert rows * vocab_size <= limit["cpu"] < (rows + 1) * vocab_size
    assert _chunk_rows(hidden, 50_257) == ENOUGH_ROWS
    assert MOST_ELEMENTS["cpu"] * 4 == 268_435_456, "bytes of logits, as the text says"
    assert _chunk_rows(hidden, 10**7) == 64, "chunks of a few rows would be slow"
