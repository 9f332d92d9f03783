"""Tasks: a backbone, a head, a loss and its metrics. One file each, one line each in `table`.

Names are looked up when first used: what fine-tuning needs is not imported for pretraining.
"""

from lm.lazy import lazy
from lm.tasks.table import BASES, TASKS

__getattr__, __dir__ = lazy(__name__, {name: entry.module for name, entry in TASKS.items()} | BASES)
