"""Learning-rate schedules by optimizer step: factors from 0 to 1 on every group's learning rate."""

import math
from abc import ABC, abstractmethod

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Schedule(ABC):
    """A factor for each step. Subclasses say how it goes on after the warm-up.

    Args:
        warmup: steps in which the factor rises linearly from 0 to 1.
        final: the factor when the last step is done: what a step after it would have.
    """

    def __init__(self, warmup: int = 0, final: float = 0.0) -> None:
        if warmup < 0:
            raise ValueError(f"the schedule's warmup is {warmup}: it must be 0 or more steps")
        self.warmup, self.final = warmup, final

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """The factor at `progress`, from 0 (end of the warm-up) to 1 (the last step is done)."""

    def factor(self, step: int, total: int) -> float:
        """The factor at `step` (0 to `total` − 1); from `total` on it stays."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, total - self.warmup)
        return self.after_warmup(min(1.0, progress))

    def scheduler(self, optimizer: Optimizer, total: int) -> LambdaLR:
        """The torch scheduler that applies the factors over `total` steps."""
        return LambdaLR(optimizer, lambda step: self.factor(step, total))


class Constant(Schedule):
    """Stays where the warm-up ends."""

    def after_warmup(self, progress: float) -> float:
        return 1.0


class Linear(Schedule):
    """Falls in a straight line."""

    def after_warmup(self, progress: float) -> float:
        return 1 + (self.final - 1) * progress


class Cosine(Schedule):
    """Falls along half a cosine (arXiv:1608.03983)."""

    def after_warmup(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


class WarmupStableDecay(Schedule):
    """Constant, then a straight line down (arXiv:2404.06395): a run can be continued from the plateau.

    Args:
        warmup: steps in which the factor rises linearly from 0 to 1.
        decay: part of the steps after the warm-up in which it falls.
        final: the factor when the last step is done: what a step after it would have.
    """

    def __init__(self, warmup: int = 0, decay: float = 0.6, final: float = 0.0) -> None:
        super().__init__(warmup, final)
        if not 0 <= decay <= 1:
            raise ValueError(f"the schedule's decay is {decay}: it must be from 0 to 1")
        self.decay = decay

    def after_warmup(self, progress: float) -> float:
        left = min(1.0, (1 - progress) / self.decay) if self.decay else 1.0
        return self.final + (1 - self.final) * left
