"""What a trial tells the sweep that has begun it: its figures at each validation, a line each."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lm.callbacks import Monitor, RunCheckpoints
from lm.callbacks.monitor import figures_of

VALIDATIONS = "validations.jsonl"
PIPE = "LM_SWEEP_PIPE"  # the environment's name for a pipe that closes when the sweep ends


class Report(Callback):
    """Writes `validations.jsonl` into the run's folder: the step, the figures, the seconds of training and
    the speed in steps a second. A run that goes on may write a step again: the later line counts.

    Where a sweep has begun the run, the run ends as by SIGTERM, saved, when the sweep is no more.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pipe = os.environ.pop(PIPE, None)
        if pipe is not None and trainer.is_global_zero:
            threading.Thread(target=_end_with_the_sweep, args=(int(pipe),), daemon=True).start()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        monitor = next(each for each in callbacks if isinstance(each, Monitor))
        kept = next(each for each in callbacks if isinstance(each, RunCheckpoints))
        line: dict[str, Any] = {
            "step": trainer.global_step,
            "figures": figures_of(trainer),
            "train_seconds": round(monitor.train_seconds, 3),
            "steps_per_second": _speed(monitor, trainer.accumulate_grad_batches),
        }
        with (kept.folder / VALIDATIONS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _speed(monitor: Monitor, batches_per_step: int) -> float | None:
    """Of the last steps, without the first ones, which are slower."""
    seconds = sum(each for each, _ in monitor.history)
    return len(monitor.history) / batches_per_step / seconds if seconds else None


def _end_with_the_sweep(pipe: int) -> None:
    """Wait until the other end of the pipe is closed, which the system does for a killed process, too."""
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def read_validations(folder: Path) -> list[dict[str, Any]]:
    """The validations of a run, by step."""
    try:
        lines = (folder / VALIDATIONS).read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError:
        return []
    found: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            found[row["step"]] = row
        except (ValueError, KeyError, TypeError):
            continue  # a killed process wrote half of it, or still writes
    return [found[step] for step in sorted(found)]
