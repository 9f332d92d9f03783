"""Which of several processes this is, before torch.distributed knows."""

import os
import sys

from lm.errors import spelled


def is_rank_zero() -> bool:
    """Whether this is the first process of a run, by what torchrun, Slurm and Lightning's launchers set."""
    names = ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def say(text: str) -> None:
    """A line for the person, on stderr, from the first process, spelt as the command at work does."""
    if is_rank_zero():
        print(spelled(text), file=sys.stderr)
