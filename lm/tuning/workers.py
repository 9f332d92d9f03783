"""The workers of a sweep, each a thread that runs one trial after the other; more processes may help."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from optuna.trial import TrialState

from lm.errors import UserError
from lm.files import write_atomically
from lm.processes import say
from lm.tuning.configuration import Configurations
from lm.tuning.results import line_of, result, said_at_the_end, write_results
from lm.tuning.study import WHY, Study, name_of
from lm.tuning.sweep import Sweep
from lm.tuning.trial import LOG, Runner, Stop

_FIRST = 3  # trials: where so many failed and none did not, the others would, too
_WAIT = 0.3  # seconds between two looks for something to do


class Workers:
    """The trials that this process runs.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.stop = Stop()
        self.signal: int | None = None
        self.errors: list[BaseException] = []
        self._speaking = threading.Lock()

    def run(self) -> None:
        """Run trials until there are none left, here or elsewhere.

        Raises:
            UserError: every trial fails.
        """
        threads = [threading.Thread(target=self._work) for _ in range(self.study.sweep.workers)]
        with self._signals():
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_WAIT)  # in short, so that signals are heard
        if self.errors:
            raise self.errors[0]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the trials as it ends a run: saved. Ctrl-C again: at once."""

        def heard(number: int, frame: FrameType | None) -> None:
            if self.signal is None:
                say("stopping: the trials at work are saved; Ctrl-C again: at once")
            elif number == signal.SIGINT:
                self.stop.at_once = True
            self.signal = number
            self.stop.set()

        before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _work(self) -> None:
        try:
            while not self.stop.is_set():
                if self.hopeless():
                    self.stop.set()
                    return
                claim = self.study.claim()
                if claim is not None:
                    try:
                        ended = Runner(self.study, claim, self.stop).run()
                    finally:
                        os.close(claim.lock)
                    if ended:
                        self._say(claim.trial.number)
                elif any(each.state == TrialState.RUNNING for each in self.study.trials()):
                    self.stop.wait(_WAIT)  # another's, or of a process that is about to end
                else:
                    return
        except BaseException as error:
            self.errors.append(error)
            self.stop.set()

    def hopeless(self) -> bool:
        """Whether every trial fails."""
        states = [each.state for each in self.study.trials() if each.state != TrialState.RUNNING]
        return len(states) >= min(_FIRST, self.study.limit) and {*states} == {TrialState.FAIL}

    def _say(self, number: int) -> None:
        with self._speaking:
            row = result(self.study, self.study.trials()[number])
            best = self.study.best()
            shown = "" if best is None else f"; best so far {best.value:.4f}, trial {best.number}"
            say(f"{line_of(row, self.study.limit, self.study.configurations.metric)}{shown}")


def run(sweep: Sweep, path: Path, typed: Sequence[str] = ()) -> str:
    """Carry a sweep out, or go on with it.

    Args:
        sweep: the sweep.
        path: of its file, which is kept with the study.
        typed: the words of the command, which are noted in it.

    Returns:
        What a person is told at the end.

    Raises:
        UserError: the sweep can't be, or every trial failed.
    """
    configurations = Configurations(sweep)
    study = Study(sweep, configurations)
    kept = study.folder / "sweep.yaml"
    if not kept.exists() or not kept.samefile(path):
        over = f"# lm sweep {shlex.join(typed)}\n" if typed else ""
        write_atomically(kept, over + path.read_text(encoding="utf-8"))
    _begin(study)
    workers = Workers(study)
    workers.run()
    if workers.hopeless():
        failed = [each for each in study.trials() if each.state == TrialState.FAIL]
        log = study.shown / name_of(failed[0].number) / LOG
        raise UserError(
            f"every trial failed ({len(failed)}), the first one so: {failed[0].user_attrs[WHY]}\n"
            f"{log} has all of it; once it is mended, delete {study.shown}"
        )
    if workers.signal is not None:
        say(f"stopped with {_done(study)} of {study.limit} trials. The same command goes on.")
        sys.exit(128 + workers.signal)
    with study.alone():
        write_results(study)
    return said_at_the_end(study)


def _done(study: Study) -> int:
    return sum(each.state.is_finished() for each in study.trials())


def _begin(study: Study) -> None:
    """Say what is swept."""
    sweep, configurations = study.sweep, study.configurations
    done, before = _done(study), len(study.trials())
    if done >= study.limit:
        say(f"{study.shown} is finished: nothing to do")
        return
    verb = f"goes on after {done} of" if before else "starts:"
    way = "lower" if configurations.direction == "min" else "higher"
    say(
        f"sweep {study.shown} {verb} {study.limit} trials of {' '.join(sweep.configs)}, {sweep.budget}; "
        f"val {configurations.metric}, {way} is better; {sweep.sampler}, pruner {sweep.pruner}"
    )
    if before:
        return
    width = max(map(len, sweep.space))
    for name, each in sweep.space.items():
        given = configurations.given.get(name, "outside of it")
        said = " or ".join(map(str, each.choices)) if each.choices else f"{each.low} to {each.high}"
        extra = " (log)" if each.log else f" in steps of {each.step}" if each.step else ""
        say(f"  {name:{width}}  {said}{extra}; given: {given}")
    if len(configurations.given) < len(sweep.space):
        say("  the given configuration is the first trial all the same")
    unequal = {"data.batch_size", "data.seq_len", "trainer.accumulate_grad_batches"} & {*sweep.space}
    if unequal and (sweep.budget.given is None or sweep.budget.steps):
        say(
            f"warning: trials of as many steps learn from more or less with another {min(unequal)}: "
            "give `budget.tokens` or `budget.examples`"
        )
