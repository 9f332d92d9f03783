"""What private training is made of (Abadi et al. 2016, arXiv:1607.00133): samples that each step draws by
chance, and the sum of their gradients, each clipped, with noise."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lm.data.windows import Samples, mix, stream_hash

_SAMPLES, _NOISE = 32, 33  # what a random number is for; `lm.data` has those below
_DRAWS = 4  # normals that one of the system's noise is the sum of


class PoissonSamples(Dataset):
    """Each sample is in each optimizer step with the probability `rate`, whatever the others and the other
    steps have: a pure function of (seed, step, sample), so that what comes next follows from the loader's
    {epoch, samples consumed} as always. How large a step is varies around `batch_size * accumulate`; it may
    be empty.

    Indexed with `(epoch, first sample)`: the part of the step's samples that belongs to a micro-batch, a list
    of batches of one sample. An epoch has as many steps as it would have without.

    Args:
        dataset: whose samples can be chosen one by one.
        accumulate: micro-batches of a step.
        seed: decides which samples come.

    Raises:
        ValueError: a step is to have more samples than there are.
    """

    def __init__(self, dataset: Samples, accumulate: int, seed: int) -> None:
        self.dataset, self.accumulate, self.seed = dataset, accumulate, seed
        self.windows, self.batch_size = dataset.windows, dataset.batch_size
        self.expected = self.batch_size * accumulate  # samples of a step
        if self.expected > self.windows:
            raise ValueError(f"a step of {self.expected} samples out of {self.windows}")
        self.rate = self.expected / self.windows
        self._step: tuple[int, np.ndarray] = (-1, np.array([]))

    def samples(self, step: int) -> np.ndarray:
        """The numbers of a step's samples in order, int64 (n,)."""
        if self._step[0] != step:
            drawn = mix(stream_hash(self.seed, step, _SAMPLES) ^ np.arange(self.windows, dtype=np.uint64))
            # 53 random bits: a double has no more. At a rate of 1 every sample is below.
            self._step = step, np.flatnonzero((drawn >> np.uint64(11)) < self.rate * (1 << 53))
        return self._step[1]

    def __getitem__(self, place: tuple[int, int]) -> list[Any]:
        epoch, first = place
        step = epoch * (self.windows // self.expected) + first // self.expected
        part = self.samples(step)[first % self.expected // self.batch_size :: self.accumulate]
        return [self.dataset.chosen(part[i : i + 1], step) for i in range(len(part))]


class ClippedSum:
    """The sum of samples' gradients, each clipped to a norm over all parameters together.

    A gradient comes from a backward pass of one sample alone. So no layer, loss or kernel can mix samples,
    each works that works without, and no more than one sample's activations are there at once.

    Args:
        parameters: those that are trained.
        max_norm: the most that a sample's gradient may be.
    """

    def __init__(self, parameters: Sequence[Tensor], max_norm: float) -> None:
        self.parameters, self.max_norm = list(parameters), max_norm
        self.sums = [torch.zeros_like(p, dtype=torch.float32) for p in self.parameters]

    def add(self, loss: Tensor) -> float:
        """Differentiate a sample's loss, a scalar; gives the gradient's norm before it is clipped. A gradient
        that is not finite has no bound, and is left out."""
        if not loss.requires_grad:
            return 0.0
        with torch.autocast(loss.device.type, enabled=False):
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        with torch.no_grad():
            pairs = [(s, g.float()) for s, g in zip(self.sums, found, strict=True) if g is not None]
            sums, gradients = [s for s, _ in pairs], [g for _, g in pairs]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            if math.isfinite(norm):
                torch._foreach_add_(sums, gradients, alpha=min(1.0, self.max_norm / (norm + 1e-6)))
        return norm

    @torch.no_grad()
    def release(self, normal: Callable[[Tensor], Tensor], multiplier: float, expected: int) -> None:
        """Put the mean gradient of a step where an optimizer looks for it, with noise, and begin anew.

        Args:
            normal: independent standard normals in the shape of a tensor.
            multiplier: the noise's standard deviation, in `max_norm`.
            expected: samples that a step has on average: how many there were is a secret.
        """
        for parameter, total in zip(self.parameters, self.sums, strict=True):
            if multiplier:
                total.add_(normal(total), alpha=multiplier * self.max_norm)
            parameter.grad = (total / expected).to(parameter.dtype)
            total.zero_()


def seeded_noise(seed: int, step: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Standard normals for `ClippedSum.release`, a pure function of (seed, step)."""
    key = int(stream_hash(seed, step, _NOISE)) >> 1
    generator = torch.Generator(device).manual_seed(key)
    return lambda like: torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float32)


def system_noise(like: Tensor) -> Tensor:
    """Standard normals for `ClippedSum.release` from the operating system's random numbers. Each is the sum
    of several, so that which floating-point numbers come out tells nothing of what they were added to
    (arXiv:2107.10138)."""
    total = np.zeros(like.numel() + like.numel() % 2)
    for _ in range(_DRAWS):
        bits = np.frombuffer(os.urandom(8 * len(total)), dtype=np.uint64) >> np.uint64(11)
        first, second = ((bits + 0.5) / (1 << 53)).reshape(2, -1)  # in (0, 1); Box and Muller 1958
        radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
        total += np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
    normal = (total / _DRAWS**0.5).astype(np.float32)[: like.numel()]
    return torch.from_numpy(normal).view(like.shape).to(like.device)
