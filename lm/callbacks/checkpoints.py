"""A run's `last.ckpt` and `best.ckpt`, written whole or not at all, and stopping without losing a step."""

import math
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, Timer

from lm import checkpoint as checkpoints
from lm.callbacks.files import states
from lm.engine.lightning import recount, validate_now, validation_due, within_step
from lm.engine.replicas import data_shard
from lm.errors import UserError
from lm.processes import say

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Stopped(BaseException):
    """Training was asked to stop and has saved its state.

    Args:
        signal: the signal's number; None: `trainer.max_time` is over.
        step: the optimizer step that was saved; None where there was no time to.
    """

    def __init__(self, signal: int | None, step: int | None) -> None:
        super().__init__(f"stopped by signal {signal} at step {step}")
        self.signal, self.step = signal, step


@contextmanager
def interruptible() -> Iterator[None]:
    """Where nothing has to be saved: Ctrl-C raises `Stopped`, for Lightning turns a KeyboardInterrupt into an
    exit without a word."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number, step=None)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def timed_out(trainer: Trainer) -> bool:
    """Whether training ends because `trainer.max_time` is over."""
    left = [each.time_remaining() for each in trainer.callbacks if isinstance(each, Timer)]
    return trainer.should_stop and any(seconds is not None and seconds <= 0 for seconds in left)


def samples_per_step(trainer: Trainer) -> int:
    """Samples that an optimizer step learns from, over all micro-batches and processes."""
    return trainer.datamodule.batch_size * trainer.accumulate_grad_batches * data_shard(trainer).size


def circumstances(trainer: Trainer, task: LightningModule) -> dict[str, Any]:
    """What decides how the numbers are rounded on the way, beside what is learned, in plain values."""
    return {
        "device": task.device.type,
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
        "compile": task.compiled,
        "micro-batches": f"{trainer.accumulate_grad_batches} of {trainer.datamodule.batch_size}",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


class RunCheckpointIO(TorchCheckpointIO):
    """Reads and writes through `lm.checkpoint`: atomic, flushed, refusing foreign pickles. The run's whole
    `configuration` as YAML is kept in every checkpoint."""

    def __init__(self, configuration: str = "") -> None:
        super().__init__()
        self.configuration = configuration

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "lm" in checkpoint:
            checkpoint["lm"]["configuration"] = self.configuration
        checkpoints.write(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Plain values and tensors only, whatever `weights_only` says."""
        return checkpoints.read(path, mmap=False)


class RunCheckpoints(Checkpoint):
    """Saves `last.ckpt` regularly, at the end and when asked to stop; `best.ckpt`, the weights alone,
    whenever the validation loss, or the figure that the task goes by, is the best so far.

    The first Ctrl-C, SIGTERM or SIGUSR1 (what Slurm sends before it takes a machine back) finishes the step,
    saves and stops. A second Ctrl-C stops at once.

    Args:
        folder: of the run.
        every_n_steps: optimizer steps between two savings of `last.ckpt`.
        keep: how many of the latest states to keep: `last.ckpt`, and those before it as `step-<n>.ckpt`. A
            run whose last one is damaged goes on from the one before.
        patience: end the run when this many validations in a row have brought nothing better; None: never.
    """

    def __init__(
        self, folder: Path, every_n_steps: int = 200, patience: int | None = None, keep: int = 1
    ) -> None:
        self.folder, self.every_n_steps, self.patience = Path(folder), every_n_steps, patience
        self.keep = keep
        self._waited = 0  # validations since the best
        self.best = math.inf
        self.figure = "loss"  # what `best` is
        self.best_step = -1
        self.saved_step = -1
        self._last_step = -1  # of `last.ckpt`, where this process has read or written it
        self._validation_due = False  # at the step that was saved
        self._signal: int | None = None
        self._validating = False
        self._previous: dict[int, Any] = {}
        self._samples_per_step = 0
        self._circumstances: dict[str, Any] = {}  # those that decide the last bits of what is learned
        if every_n_steps < 1:
            raise UserError(f"`checkpoint.every_n_steps` {every_n_steps}: it must be at least 1", status=2)
        if keep < 1:
            raise UserError(f"`checkpoint.keep` {keep}: it must be at least 1", status=2)
        if patience is not None and patience < 1:
            raise UserError(f"`checkpoint.patience` {patience}: it must be at least 1, or null", status=2)

    @property
    def last_path(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        return self.folder / "best.ckpt"

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_step": self.best_step,
            "figure": self.figure,
            "waited": self._waited,
            "validation_due": self._validation_due,
            "samples_per_step": self._samples_per_step,
            "circumstances": self._circumstances,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self.figure, self._waited = state_dict.get("figure", "loss"), state_dict.get("waited", 0)
        self._validation_due = state_dict["validation_due"]
        self._circumstances = state_dict.get("circumstances", {})

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Recount Lightning's progress where a step is cut into other micro-batches or processes than before.

        Raises:
            UserError: a step would have another number of samples.
        """
        before = checkpoint["callbacks"][self.state_key]["samples_per_step"]
        now = samples_per_step(trainer)
        if before != now:
            raise UserError(
                f"a step of this run has {before} samples, but batch_size x accumulate_grad_batches x "
                f"processes is now {now}: change them so that it is {before}, or choose another `name`"
            )
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        batches = progress["total"]["processed"]
        steps = checkpoint["global_step"]
        if steps and batches != steps * trainer.accumulate_grad_batches:
            recount(progress, batches // steps, trainer.accumulate_grad_batches)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise Stopped(number, step=None)
        self._signal = number
        if self._validating:
            # Past Python's buffers: the signal may have come while a line is written to one.
            os.write(2, b"\nstopping after this validation and a step; Ctrl-C again: at once\n")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what was still to do at the step that was saved; from here on signals wait for a step's end."""
        self._samples_per_step = samples_per_step(trainer)
        before, self._circumstances = self._circumstances, circumstances(trainer, pl_module)
        changed = [name for name, value in before.items() if self._circumstances.get(name) != value]
        if changed:
            words = ", ".join(f"{name} {before[name]} → {self._circumstances.get(name)}" for name in changed)
            say(f"goes on with {words}: the same training, but from here on not to the last bit")
        if self.saved_step < 0 and self._validation_due:
            validate_now(trainer)
        self._validation_due = False
        self.saved_step = trainer.global_step
        if trainer.ckpt_path == str(self.last_path):
            self._last_step = trainer.global_step
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every N steps, and before stopping.

        Raises:
            Stopped: a signal came; the state is saved.
        """
        step = trainer.global_step
        if within_step(trainer) or step == self.saved_step:
            return
        late = timed_out(trainer)
        stop = trainer.strategy.reduce_boolean_decision(self._signal is not None or late, all=False)
        # At the end too, here and not when training has ended: Lightning resumes from here only, exactly.
        if step % self.every_n_steps == 0 or stop or step == trainer.max_steps:
            self._validation_due = validation_due(trainer)
            if trainer.is_global_zero:
                self._set_aside()
            self.saved_step = step
            trainer.save_checkpoint(self.last_path, weights_only=False)
            self._last_step = step
        if step == trainer.max_steps:
            trainer.should_stop = True  # Lightning then validates after this step, whatever the interval
        elif stop:
            raise Stopped(None if late and self._signal is None else self._signal or signal.SIGTERM, step)

    def _set_aside(self) -> None:
        """Keep the state before the one that is about to be saved, and no more than `keep` in all."""
        if self.keep > 1 and self._last_step > 0:
            aside = self.folder / f"step-{self._last_step}.ckpt"
            aside.unlink(missing_ok=True)
            try:
                os.link(self.last_path, aside)
            except OSError:  # a file system without links
                shutil.copyfile(self.last_path, aside)
        for path in states(self.folder)[self.keep :]:
            path.unlink()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating = self.saved_step != trainer.global_step

    def on_validation_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
        """Stop where the step before this validation is saved: the run goes on with the validation.

        Raises:
            Stopped: a signal came.
        """
        if not self._previous or self.saved_step != trainer.global_step:
            return
        if trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False):
            raise Stopped(self._signal or signal.SIGTERM, self.saved_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validating = False
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.keep_if_best(trainer)

    def keep_if_best(self, trainer: Trainer) -> None:
        task = trainer.lightning_module
        figure, way = task.best_by
        value = trainer.callback_metrics.get(f"val/{figure}", torch.tensor(math.nan)).item()
        better = value < self.best if way == "min" else value > self.best
        if better or (self.best_step < 0 and math.isfinite(value)):
            self.best, self.best_step, self.figure, self._waited = value, trainer.global_step, figure, 0
            trainer.save_checkpoint(self.best_path, weights_only=True)
            task.save_beside(self.folder)
            return
        self._waited += 1
        if self.patience is not None and self._waited >= self.patience:
            trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
