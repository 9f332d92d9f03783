"""Pictures of a batch mixed with each other: mixup and CutMix."""

import numpy as np
import torch
from torch import Tensor


def mixed(
    pixels: Tensor, targets: Tensor, draws: Tensor, mixup_alpha: float = 0.0, cutmix_alpha: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Each sample mixed with the one before it in the batch, the first with the last, and the targets by the
    same share: by mixup (Zhang et al. 2017, arXiv:1710.09412), which adds pictures, or CutMix (Yun et al.
    2019, arXiv:1905.04899), which puts a window of the other into one. Either by half the chances where both
    have an alpha.

    Args:
        pixels: (B, 3, H, W).
        targets: probabilities of the classes, (B, classes), floating point.
        draws: a random number of each sample, int64 (B,), which alone decides how it is mixed.
        mixup_alpha, cutmix_alpha: the share is drawn from Beta(alpha, alpha); 0 for never.

    Returns:
        Pixels and targets of the same shapes.
    """
    if not (mixup_alpha or cutmix_alpha):
        return pixels, targets
    height, width = pixels.shape[2:]
    windows, shares = np.zeros((len(pixels), 4), dtype=np.int64), np.ones(len(pixels), dtype=np.float32)
    for row, draw in enumerate(draws.tolist()):
        rng = np.random.Generator(np.random.Philox(key=draw % (1 << 64)))
        cut = rng.random() * (bool(mixup_alpha) + bool(cutmix_alpha)) >= bool(mixup_alpha)
        share = rng.beta(*[cutmix_alpha if cut else mixup_alpha] * 2)
        if not cut:
            shares[row] = share
            continue
        middle, half = rng.random(2), np.sqrt(1 - share) / 2
        borders = np.stack([middle - half, middle + half]).clip(0, 1) * (height, width)
        windows[row] = np.rint(borders).ravel()
    top, left, bottom, right = torch.from_numpy(windows).to(pixels.device).T[:, :, None, None]
    rows = torch.arange(height, device=pixels.device)[None, :, None]
    columns = torch.arange(width, device=pixels.device)[None, None, :]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)  # (B, H, W)
    kept = torch.from_numpy(shares).to(pixels.device)[:, None, None] * ~inside
    others, weights = pixels.roll(1, 0), kept[:, None].to(pixels.dtype)
    share = kept.mean(dim=(1, 2))[:, None].to(targets.dtype)  # CutMix: of the window as it was cut off
    return weights * pixels + (1 - weights) * others, targets.roll(1, 0) * (1 - share) + targets * share
