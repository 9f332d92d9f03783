"""Optimizers, the groups they work on, and learning-rate schedules."""

from lm.optim.groups import parameter_groups
from lm.optim.muon import Muon, orthogonalize
from lm.optim.schedules import Constant, Cosine, Linear, Schedule, WarmupStableDecay

__all__ = [
    "Constant",
    "Cosine",
    "Linear",
    "Muon",
    "Schedule",
    "WarmupStableDecay",
    "orthogonalize",
    "parameter_groups",
]
