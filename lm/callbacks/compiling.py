"""Compiling the blocks in a run that is long enough to win the time back."""

import shutil
import statistics
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lm.callbacks.monitor import Monitor
from lm.engine.lightning import within_step
from lm.processes import say

LOOK_AT = 20  # the step at whose end it is decided
# Seconds that a run has to go on for: compiling takes half a minute or less, and saves a tenth or more.
WORTH = 600


def can_compile(device: torch.device) -> bool:
    """Whether the compiler works for a device: a GPU, or a CPU with a C++ compiler beside it."""
    return device.type == "cuda" or (device.type == "cpu" and shutil.which("g++") is not None)


class CompileWhenWorthwhile(Callback):
    """With `compile: auto`, compiles the blocks after the first steps where the rest takes long. What was
    decided is kept in the checkpoint: a run that goes on decides nothing again.

    Args:
        monitor: has timed the steps.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._decided: bool | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"decided": self._decided}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._decided = state_dict["decided"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.compiled == "auto" and self._decided and can_compile(pl_module.device):
            self._compile(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.compiled != "auto" or self._decided is not None:
            return
        if trainer.global_step < LOOK_AT or within_step(trainer):
            return
        batches = statistics.median(seconds for seconds, _ in self.monitor.history)
        left = batches * trainer.accumulate_grad_batches * (trainer.max_steps - trainer.global_step)
        worth = left > WORTH and can_compile(pl_module.device)
        self._decided = trainer.strategy.broadcast(worth)
        if self._decided:
            say(f"the rest takes about {left / 60:.0f} minutes: compiling the blocks")
            self._compile(pl_module)

    def _compile(self, task: LightningModule) -> None:
        import torch._dynamo  # only where it is used: a second and more

        torch._dynamo.config.suppress_errors = True  # what can't be compiled runs as it is
        task.compile_now()
