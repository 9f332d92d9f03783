"""Processes: which of several this is, before torch.distributed knows; how many are worth it; their end."""

import os
import sys

from lm.errors import spelled


def is_rank_zero() -> bool:
    """Whether this is the first process of a run, by what torchrun, Slurm and Lightning's launchers set."""
    names = ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End this worker process with the one that started it: one that was killed can't tell its workers to."""
    import multiprocessing  # only workers need these
    import threading

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def say(text: str) -> None:
    """A line for the person, on stderr, from the first process, spelt as the command at work does."""
    if is_rank_zero():
        print(spelled(text), file=sys.stderr)
