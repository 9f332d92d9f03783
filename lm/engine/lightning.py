"""What Lightning keeps to itself and a run can't do without, each with its reason. Nothing else in lm touches
a name of Lightning's that begins with an underscore."""

from typing import Any

from lightning.fabric.connector import _PRECISION_INPUT
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from lm.errors import UserError

Precision = _PRECISION_INPUT  # what a trainer takes, as the type of an option that takes one word more


def within_step(trainer: Trainer) -> bool:
    """Whether the optimizer step goes on after this batch: gradients are still being accumulated. Lightning
    has no public word for it, and its hooks come for each batch."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def validation_due(trainer: Trainer) -> bool:
    """Whether a validation follows this batch: a checkpoint saved before it has to know, or the validation
    would be left out on a resume."""
    loop = trainer.fit_loop
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def validate_now(trainer: Trainer) -> None:
    """Validate as Lightning does within training. `trainer.validate` would tear the training down."""
    connector = trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.restarting = False
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    connector._first_loop_iter = first


def train_by_steps(trainer: Trainer, batches: int) -> None:
    """Give `max_steps` where epochs were asked for, and validate once an epoch where no interval was: the
    learning-rate schedule and the counters of a run go by steps. A trainer takes both when it is made, before
    the data are known.

    Args:
        batches: in an epoch, on each process.

    Raises:
        UserError: neither epochs nor steps were asked for.
    """
    if trainer.fast_dev_run:
        return
    most = trainer.limit_train_batches  # a part of an epoch, or so many batches
    batches = max(int(batches * most) if isinstance(most, float) else min(batches, most), 1)
    steps = max(batches // trainer.accumulate_grad_batches, 1)
    if isinstance(trainer.val_check_interval, float) and trainer.check_val_every_n_epoch is None:
        trainer.val_check_interval = steps * trainer.accumulate_grad_batches
    if trainer.max_steps < 1:
        if (trainer.max_epochs or 0) < 1:
            raise UserError("how long? Give `trainer.max_epochs` or `trainer.max_steps`", status=2)
        trainer.fit_loop.epoch_loop.max_steps = steps * trainer.max_epochs
    trainer.fit_loop.max_epochs = -1  # where both are given, steps say more


def over_all_processes(strategy: ModelParallelStrategy) -> None:
    """Shard over every process there is. Lightning wants their number in the configuration, or takes those of
    one machine."""
    if strategy._data_parallel_size == "auto":
        strategy._data_parallel_size = strategy.num_processes * strategy.num_nodes


def finished_batches(trainer: Trainer) -> Any:
    """A function that counts the batches that training has finished, over all epochs."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return lambda: progress.total.processed


def recount(progress: dict[str, dict[str, int]], before: int, now: int) -> None:
    """Lightning's counters of batches in a checkpoint, in place, from `before` micro-batches a step to `now`.
    Between hooks they differ by one, which stays."""
    for counts in (progress["total"], progress["current"]):
        processed = counts["processed"]
        for key in counts:
            counts[key] += processed // before * now - processed
