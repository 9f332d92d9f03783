"""Optimizers, the groups they work on, and learning-rate schedules."""

from lm.lazy import lazy

SCHEDULES = ("Constant", "Cosine", "Linear", "WarmupStableDecay")

__getattr__, __dir__ = lazy(
    __name__,
    {
        "parameter_groups": "groups",
        **dict.fromkeys(("Muon", "orthogonalize"), "muon"),
        **dict.fromkeys((*SCHEDULES, "Schedule"), "schedules"),
    },
)
