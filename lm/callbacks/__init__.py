"""What is reported and guarded while training."""

from lm.callbacks.checkpoints import RunCheckpoints, Stopped, interruptible
from lm.callbacks.monitor import Monitor
from lm.callbacks.progress import Progress
from lm.callbacks.randomness import RandomState
from lm.callbacks.samples import Samples
from lm.callbacks.summary import Summary

__all__ = [
    "Monitor",
    "Progress",
    "RandomState",
    "RunCheckpoints",
    "Samples",
    "Stopped",
    "Summary",
    "interruptible",
]
