"""Tasks: a backbone, a head, a loss and its metrics. One file each."""

from lm.tasks.base import Task
from lm.tasks.causal import CausalPretraining
from lm.tasks.masked import MaskedPretraining

__all__ = ["CausalPretraining", "MaskedPretraining", "Task"]
