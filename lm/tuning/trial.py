"""A trial: `lm fit` in a process of its own, watched at each validation and ended early where it is bad."""

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from lm.callbacks.files import read_summary
from lm.processes import cores
from lm.tuning.callbacks import PIPE, read_validations
from lm.tuning.configuration import REPORT, Configurations
from lm.tuning.study import Claim, Study, name_of

COMMAND = [sys.executable, "-m", "lm"]
LOG = "trial.log"
STEPS, WHY = "steps", "why"  # what is kept with a trial: how long it is, and why it ended early
_LIVES = 3  # how often a trial may be killed in one sweep before it counts as failed
_PROBE = 40  # steps that the speed is measured over
_POLL = 0.1  # seconds


@dataclass
class Ended:
    """How a trial ended.

    Args:
        state: Optuna's; RUNNING: the sweep was stopped, and it goes on with the next one.
        value: its best figure.
        why: in words, where it did not come to its end.
    """

    state: TrialState
    value: float | None = None
    why: str = ""


class Runner:
    """Runs trials.

    Args:
        study: theirs.
        stop: is set when the sweep is to stop: what runs is saved.
    """

    def __init__(self, study: Study, stop: threading.Event) -> None:
        self.study, self.stop = study, stop
        self.configurations: Configurations = study.configurations

    def run(self, claim: Claim) -> Ended:
        """Run a trial to its end, or go on with it, and write down what came of it."""
        trial = claim.trial
        ended = self._steps_and_fit(claim)
        if ended.state != TrialState.RUNNING:
            if ended.why:
                self.study.note(trial, WHY, ended.why)
            self.study.tell(trial, ended.state, ended.value)
        return ended

    def _steps_and_fit(self, claim: Claim) -> Ended:
        trial = claim.trial
        steps = self.study.noted(trial, STEPS)
        if steps is None:
            given = self.study.sweep.budget.given
            if given and given[0] == "seconds":
                speed = self._speed(claim)
                if isinstance(speed, Ended):
                    return speed
                steps = max(1, round(given[1] * speed))
            else:
                steps = self.configurations.steps(self.configurations.tree(trial.params))
            if steps is not None:
                self.study.note(trial, STEPS, steps)
        words = self.configurations.words(trial.params, steps)
        return self._fit(claim, words, name_of(trial.number))

    def _speed(self, claim: Claim) -> float | Ended:
        """Steps a second of a trial, by a few that are made and forgotten; or that it failed."""
        name = f".speed/{name_of(claim.trial.number)}"
        words = self.configurations.words(claim.trial.params, None)
        words += [f"--trainer.max_steps={_PROBE}", "--trainer.limit_val_batches=1", "--sample.tokens=1"]
        words.append(f"--trainer.val_check_interval={10**9}")
        ended = self._fit(claim, words, name, watched=False)
        if ended.state != TrialState.COMPLETE:
            return ended
        rows = read_validations(self.study.folder / name)
        return float(rows[-1]["steps_per_second"])

    def _fit(self, claim: Claim, words: list[str], name: str, watched: bool = True) -> Ended:
        """The process of a trial, again where something kills it.

        Args:
            claim: the trial.
            words: of `lm fit`.
            name: of the run's folder in the study's.
            watched: whether its figures are the trial's.
        """
        folder = self.study.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_LIVES):
            at = (folder / LOG).stat().st_size if (folder / LOG).exists() else 0
            status, pruned = self._process(claim, words, folder, watched)
            if self._finished(folder) or (pruned and not self.stop.is_set()):
                break
            if self.stop.is_set():
                return Ended(TrialState.RUNNING)
            if status >= 0 and status not in (
                128 + signal.SIGTERM,
                128 + signal.SIGINT,
                128 + signal.SIGKILL,
            ):
                return _failed((folder / LOG).read_bytes()[at:].decode(errors="replace"))
        values, missing = self._values(folder)
        if missing and watched:
            return Ended(TrialState.FAIL, why=missing)
        if not self._finished(folder):
            if not pruned:
                return Ended(TrialState.FAIL, why=f"it was killed {_LIVES} times")
            return Ended(TrialState.PRUNED, why="ended early")
        finite = [value for value in values if math.isfinite(value)]
        if watched and not finite:
            return Ended(TrialState.PRUNED, why="no validation gave a number")
        best = min if self.configurations.direction == "min" else max
        return Ended(TrialState.COMPLETE, best(finite, default=None))

    def _finished(self, folder: Path) -> bool:
        return (read_summary(folder) or {}).get("finished") is True

    def _values(self, folder: Path) -> tuple[list[float], str]:
        """What a run's validations gave, and what is wrong where they haven't got the metric."""
        rows, metric = read_validations(folder), self.configurations.metric
        for row in rows:
            if metric not in row["figures"]:
                has = ", ".join(sorted(row["figures"]))
                return [], f"there is no validation figure {metric!r}: only {has}"
        return [row["figures"][metric] for row in rows], ""

    def _process(self, claim: Claim, words: list[str], folder: Path, watched: bool) -> tuple[int, bool]:
        """Run the process once; its exit status, and whether it was ended for being bad."""
        if self._finished(folder):  # the sweep was killed before it wrote it down
            return 0, False
        if watched and self._is_bad(claim.trial, folder):
            return 0, True
        pipe, ours = os.pipe()
        name = f"--name={folder.relative_to(self.study.folder.parent)}"
        extra = [*self.configurations.measured(), REPORT]
        environment = {**os.environ, PIPE: str(pipe)}
        if self.study.sweep.workers > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.study.sweep.workers)))
        try:
            with (folder / LOG).open("ab") as log:
                process = subprocess.Popen(
                    [*COMMAND, "fit", *words, *extra, name],
                    cwd=self.study.home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    # It holds the trial as long as it lives, be the sweep killed or not.
                    pass_fds=(pipe, claim.lock.descriptor),
                    start_new_session=True,  # Ctrl-C is the sweep's to hear
                )
            os.close(pipe)
            return self._watch(process, claim.trial if watched else None, folder)
        finally:
            os.close(ours)

    def _watch(
        self, process: "subprocess.Popen[bytes]", trial: FrozenTrial | None, folder: Path
    ) -> tuple[int, bool]:
        pruned = stopped = False
        while process.poll() is None:
            time.sleep(_POLL)
            if self.stop.is_set() and not stopped:
                stopped = True
                process.send_signal(signal.SIGTERM)
            if trial is not None and not pruned and not stopped and self._is_bad(trial, folder):
                pruned = True
                process.send_signal(signal.SIGTERM)
        if trial is not None:
            self._is_bad(trial, folder)  # what came last is kept, too
        return process.returncode, pruned

    def _is_bad(self, trial: FrozenTrial, folder: Path) -> bool:
        """Keep what the validations gave; whether the trial is to end."""
        values, missing = self._values(folder)
        return bool(missing) or (bool(values) and self.study.report(trial, values))


def _failed(log: str) -> Ended:
    """What a run that failed said. One that diverged is a bad one, and no failure."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = next(
        (line for line in reversed(lines) if re.match(r"lm( fit)?: ", line)), lines[-1] if lines else ""
    )
    said = re.sub(r"^lm( fit)?: ", "", said)
    if "training has diverged" in said:
        return Ended(TrialState.PRUNED, why="diverged")
    return Ended(TrialState.FAIL, why=said[:300] or "it ended without a word")


def result(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """A trial in plain values, for tables and pages."""
    rows = read_validations(study.folder / name_of(trial.number))
    metric = study.configurations.metric
    states = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "ended early", TrialState.FAIL: "failed"}
    return {
        "number": trial.number,
        "state": states.get(trial.state, "running"),
        "value": trial.value,
        "params": trial.params,
        "given": bool(trial.user_attrs.get("given")),
        "why": trial.user_attrs.get(WHY, ""),
        "steps": rows[-1]["step"] if rows else None,
        "of": trial.user_attrs.get(STEPS),
        "seconds": rows[-1]["train_seconds"] if rows else None,
        "curve": [(row["step"], row["figures"][metric]) for row in rows if metric in row["figures"]],
    }
