"""Sweeps: `lm sweep` looks for the options with which `lm fit` learns best. A wing: nothing else needs it.

Importing this package imports neither torch nor Optuna: names are looked up when first used.
"""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__, {"Sweep": "sweep", "Budget": "sweep", "Range": "space", "read": "sweep", "run": "workers"}
)
