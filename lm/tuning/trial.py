"""A trial: `lm fit` in a process of its own, watched at each validation and ended early where it is bad."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from optuna.trial import TrialState

from lm.callbacks.files import read_summary
from lm.errors import UserError
from lm.processes import cores
from lm.tuning.callbacks import PIPE, read_validations
from lm.tuning.configuration import REPORT
from lm.tuning.study import STEPS, WHY, Claim, Study, name_of

COMMAND = [sys.executable, "-m", "lm"]
LOG = "trial.log"
_LIVES = 3  # how often a trial may be killed in one sweep before it counts as failed
_KILLED = [128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)]
_PROBE = 40  # steps that the speed is measured over
_POLL = 0.1  # seconds


class Stop(threading.Event):
    """Is set when the sweep is to stop: what runs is saved, or `at_once` killed."""

    at_once = False


class Ended(Exception):
    """A trial that didn't come to its end.

    Args:
        state: Optuna's; RUNNING: the sweep was stopped, and the trial goes on with the next one.
        why: in words; nothing where the pruner has ended it.
    """

    def __init__(self, state: TrialState, why: str = "") -> None:
        super().__init__(why)
        self.state, self.why = state, why


class Runner:
    """Runs a trial.

    Args:
        study: of the trial.
        claim: to it.
        stop: the sweep's.
    """

    def __init__(self, study: Study, claim: Claim, stop: Stop) -> None:
        self.study, self.configurations, self.stop = study, study.configurations, stop
        self.trial, self.lock = claim.trial, claim.lock
        self.folder = study.folder / name_of(claim.trial.number)
        self.steps: int | None = None
        self._reported = 0  # validations

    def run(self) -> bool:
        """Run the trial to its end, or go on with it, and write down what came of it.

        Returns:
            whether it has ended.
        """
        value: float | None = None
        try:
            self.folder.mkdir(exist_ok=True)
            value = self._value()
            state, why = TrialState.COMPLETE, ""
        except Ended as ended:
            state, why = ended.state, ended.why
        except UserError as error:  # no configuration: options that don't go together
            state, why = TrialState.FAIL, str(error)
        if state == TrialState.RUNNING:
            return False
        if why:
            self.study.note(self.trial, WHY, why)
        self.study.tell(self.trial, state, value)
        return True

    def _value(self) -> float:
        """Its best figure.

        Raises:
            Ended: it has none.
            UserError: its options are no configuration.
        """
        self.steps = self.study.noted(self.trial, STEPS)
        if self.steps is None:
            self.steps = self._measure_steps()
            if self.steps is not None:
                self.study.note(self.trial, STEPS, self.steps)
        words = self.configurations.words(self.trial.params, self.steps)
        self._fit(self.folder, words, self._judge)
        judged = self._judge()  # what came last is kept, too
        if judged is not None and judged.state == TrialState.FAIL:
            raise judged
        figures = [row["figures"][self.configurations.metric] for row in read_validations(self.folder)]
        finite = [figure for figure in figures if math.isfinite(figure)]
        if not finite:
            raise Ended(TrialState.PRUNED, "no validation gave a number")
        return min(finite) if self.configurations.direction == "min" else max(finite)

    def _measure_steps(self) -> int | None:
        """How long it is; a budget of seconds is measured by a few steps that are made and thrown away."""
        params, given = self.trial.params, self.study.sweep.budget.given
        if given is None or given[0] != "seconds":
            return self.configurations.steps(self.configurations.tree(params))
        probe = self.folder.with_name(f".{self.folder.name}")
        words = [*self.configurations.words(params, None), f"--trainer.max_steps={_PROBE}"]
        words += ["--trainer.limit_val_batches=1", f"--trainer.val_check_interval={10**9}"]
        self._fit(probe, [*words, "--sample.tokens=1"], lambda: None)
        speed = read_validations(probe)[-1]["steps_per_second"]
        shutil.rmtree(probe)
        return max(1, round(given[1] * speed))

    def _judge(self) -> Ended | None:
        """Keep what new validations gave; why the trial is to end now, if it is."""
        rows, metric = read_validations(self.folder), self.configurations.metric
        if len(rows) == self._reported:
            return None
        for row in rows:
            if metric not in row["figures"]:
                has = ", ".join(sorted(row["figures"]))
                said = f"there is no validation figure {metric!r}: give one of {has} as `metric`"
                return Ended(TrialState.FAIL, said)
        self._reported = len(rows)
        bad = self.study.report(self.trial, [row["figures"][metric] for row in rows])
        over = self.steps is not None and rows[-1]["step"] >= self.steps  # nothing is won any more
        return Ended(TrialState.PRUNED) if bad and not over else None

    def _fit(self, folder: Path, words: list[str], judge: Callable[[], Ended | None]) -> None:
        """A run to its end, begun again where something kills its process.

        Args:
            folder: of the run.
            words: of `lm fit`.
            judge: says, again and again, why it is to end before.

        Raises:
            Ended: it did not come to its end.
        """
        for _ in range(_LIVES):
            if _finished(folder):  # the sweep was killed before it wrote it down
                return
            if judged := judge():  # or before it ended it
                raise judged
            log = self.folder / LOG
            before = log.stat().st_size if log.exists() else 0
            status, judged = self._process(folder, words, judge)
            if _finished(folder):
                return
            if self.stop.is_set():
                judge()  # what came last is kept
                raise Ended(TrialState.RUNNING)
            if judged:
                raise judged
            if status >= 0 and status not in _KILLED:
                raise _failed(log.read_bytes()[before:].decode(errors="replace"))
        raise Ended(TrialState.FAIL, f"it was killed {_LIVES} times")

    def _process(
        self, folder: Path, words: list[str], judge: Callable[[], Ended | None]
    ) -> tuple[int, Ended | None]:
        """Run the process once; its exit status, and why it was ended, if it was."""
        name = f"--name={folder.relative_to(self.study.folder.parent)}"
        environment = dict(os.environ)
        if (workers := self.study.sweep.workers) > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // workers)))
        pipe, ours = os.pipe()
        environment[PIPE] = str(pipe)
        try:
            with (self.folder / LOG).open("ab") as log:
                process = subprocess.Popen(
                    [*COMMAND, "fit", *words, *self.configurations.measured(), REPORT, name],
                    cwd=self.study.home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    # It holds the trial as long as it lives, be the sweep killed or not.
                    pass_fds=(pipe, self.lock),
                    start_new_session=True,  # Ctrl-C is the sweep's to hear
                )
            os.close(pipe)
            judged: Ended | None = None
            asked = False
            while process.poll() is None:
                time.sleep(_POLL)
                if self.stop.at_once:
                    _kill(process.pid)
                elif not asked and (self.stop.is_set() or (judged := judge())):
                    process.terminate()
                    asked = True
            if process.returncode < 0:
                _kill(process.pid)  # further processes of the run, which nobody tells
            return process.returncode, judged
        finally:
            os.close(ours)


def _finished(folder: Path) -> bool:
    return (read_summary(folder) or {}).get("finished") is True


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _failed(log: str) -> Ended:
    """What a run that failed said. One that diverged is a bad one, and no failure."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it ended without a word"]
    said = next((line for line in reversed(lines) if re.match(r"lm( fit)?: ", line)), lines[-1])
    if "training has diverged" in said:
        return Ended(TrialState.PRUNED, "diverged")
    return Ended(TrialState.FAIL, re.sub(r"^lm( fit)?: ", "", said)[:300])
