"""mixup and CutMix: shares that are what they say, of draws alone."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from lm.data.images.mixing import mixed


@pytest.fixture
def batch():
    """Pictures whose pixels are all their own number, so that every share can be read off."""
    pixels = torch.arange(8.0)[:, None, None, None].expand(8, 3, 20, 30)
    return pixels, one_hot(torch.arange(8), 8).float()


def test_nothing_is_mixed_without_an_alpha(batch):
    pixels, targets = mixed(*batch, torch.arange(8))
    assert pixels is batch[0] and targets is batch[1]


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_pixels_and_targets_have_the_same_shares(batch, alphas):
    for seed in range(20):
        draws = torch.arange(8) * 1000 + seed
        pixels, targets = mixed(*batch, draws, *alphas)
        assert pixels.shape == batch[0].shape and pixels.dtype == targets.dtype == torch.float32
        assert torch.allclose(targets.sum(dim=1), torch.ones(8))
        # The mean pixel of a mixed picture is its own number and its neighbour's by their shares.
        assert torch.allclose(pixels.mean(dim=(1, 2, 3)), targets @ torch.arange(8.0), atol=1e-4)
        neighbours = torch.arange(8).roll(1)
        others = targets.clone()
        others[torch.arange(8), torch.arange(8)] = others[torch.arange(8), neighbours] = 0
        assert not others.any()


def test_mixup_adds_and_cutmix_puts_in(batch):
    added, targets = mixed(*batch, torch.arange(8), mixup_alpha=1.0)
    assert torch.equal(added, added[:, :, :1, :1].expand_as(added))
    assert (targets.max(dim=1).values < 1).all()
    cut, _ = mixed(*batch, torch.arange(8), cutmix_alpha=1.0)
    for own, other, picture in zip(range(8), [7, *range(7)], cut, strict=True):
        inside = picture[0] == other
        assert torch.equal(picture[0] == own, ~inside) and torch.equal(picture[0], picture[2])
        rows, columns = (np.flatnonzero(inside.any(dim=axis)) for axis in (1, 0))
        assert inside.sum() == len(rows) * len(columns)  # a window without holes
        if len(rows):
            assert (rows[-1] - rows[0], columns[-1] - columns[0]) == (len(rows) - 1, len(columns) - 1)


def test_a_sample_is_mixed_by_its_draw_alone(batch):
    draws = torch.tensor([5, -3, 2**62, 0, 9, 9, 1, 2])
    alphas = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}
    pixels, targets = mixed(*batch, draws, **alphas)
    again, _ = mixed(*batch, draws, **alphas)
    assert torch.equal(pixels, again)
    order = torch.tensor([3, 4, 5])  # 4 and 5 have their neighbours still
    part, part_targets = mixed(batch[0][order], batch[1][order], draws[order], **alphas)
    assert torch.equal(part[1:], pixels[4:6]) and torch.equal(part_targets[1:], targets[4:6])
    assert torch.equal(targets[4, 4], targets[5, 5])  # equal draws, equal shares


def test_shares_are_betas():
    """Means and variances as the distribution has them: 1/2, and 1 / (4 (2 alpha + 1))."""
    count = 4000
    pixels, targets = torch.rand(count, 3, 2, 2), torch.eye(2)[torch.arange(count) % 2]
    for alpha in (0.2, 1.0):
        _, soft = mixed(pixels, targets, torch.arange(count), mixup_alpha=alpha)
        shares = (soft * targets).sum(dim=1)
        assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
        assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    # Half of all by either, where both may be: a quarter of CutMix's windows hold less than 4 pixels of 4.
    cut, _ = mixed(pixels, targets, torch.arange(count), 1.0, 1.0)
    others = pixels.roll(1, 0)
    put_in = ((cut == pixels) | (cut == others)).all(dim=3).all(dim=2).all(dim=1)
    assert put_in.float().mean().item() == pytest.approx(0.5, abs=0.03)
