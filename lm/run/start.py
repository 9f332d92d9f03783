"""How the commands that train and evaluate begin: a run, or one for each seed."""

import sys
import time
from contextlib import ExitStack
from pathlib import Path

from lm.errors import spelling
from lm.processes import is_rank_zero
from lm.run import verbs
from lm.run.folder import Finished
from lm.run.report import say_finished
from lm.run.run import Run
from lm.run.seeds import compare_seeds, take_seeds
from lm.run.trainer import quiet
from lm.run.words import Words


def start(argv: list[str], started: float) -> None:
    """Do what was typed.

    Args:
        argv: the command's name and its options.
        started: seconds since the epoch when the command was typed.
    """
    quiet()
    sys.path.insert(0, str(Path.cwd()))  # a class of the person's own may lie in the folder they work in
    seeds, argv = take_seeds(argv)
    if seeds is None:
        one_run(argv, started)
        return
    folders = []
    for seed in seeds:
        folders.append(one_run(argv, started, seed))
        started = time.time()
    if is_rank_zero():
        print(compare_seeds(folders))


def one_run(argv: list[str], started: float, seed: int | None = None) -> Path:
    """One command on one run.

    Returns:
        The run's folder.
    """
    with ExitStack() as held:
        words = Words(argv, held, seed)
        try:
            with spelling(lambda: words.options):
                getattr(verbs, words.command)(Run(words, started, held))
        except Finished as finished:
            if is_rank_zero():
                say_finished(finished)
        return words.folder
