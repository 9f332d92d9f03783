"""What Lightning and our callbacks add to a step: a run's own steps and a bare loop's, in turns.

    python tests/benchmarks/step.py gpt-nano
    python tests/benchmarks/step.py gpt-nano --model.backbone.hidden_size 320 --data.batch_size 16

Whatever follows is a configuration and options of `lm fit`. The bare loop has the same network, optimizer,
schedule, clipping, precision and data loader, within the same process: forward, backward, clip, step. Turns
of 100 steps alternate; the figure is the median of the ratios of neighbours.
"""

import os
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

TURN = 100  # steps


class Turns(Callback):
    """Times a turn of the trainer's steps, then one of a bare loop's, until the run ends."""

    def __init__(self) -> None:
        self.started = 0.0
        self.taken: list[tuple[float, float]] = []  # seconds of a step: the trainer's, the bare loop's

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step < TURN or step % TURN:
            return
        now = time.perf_counter()
        if self.started:
            self.taken.append(((now - self.started) / TURN, self._bare(trainer, pl_module)))
        self.started = time.perf_counter()

    def _bare(self, trainer: Trainer, task: LightningModule) -> float:
        """Seconds of a step."""
        optimizer = trainer.optimizers[0]
        scheduler = task.schedule.scheduler(optimizer, trainer.max_steps)
        batches = iter(trainer.datamodule.train_dataloader())
        next(batches)
        start = time.perf_counter()
        for _ in range(TURN):
            batch = next(batches)
            with trainer.precision_plugin.forward_context():
                loss = task.training_step(batch, 0)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        return (time.perf_counter() - start) / TURN

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ratios = [ours / bare for ours, bare in self.taken]
        ours, bare = (statistics.median(each) * 1e3 for each in zip(*self.taken, strict=True))
        share = statistics.median(ratios) - 1
        print(f"a step {ours:.2f} ms, bare {bare:.2f} ms: {share:+.1%} (median of {len(ratios)} turns)")


if __name__ == "__main__":
    from lm.cli import main

    sys.argv = ["lm", "fit", *sys.argv[1:], "--trainer.callbacks+=step.Turns"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.exit(main())
