"""What Lightning keeps to itself and a run can't do without, each with its reason. Nothing else in lm touches
a name of Lightning's that begins with an underscore."""

from typing import Any

from lightning.pytorch import Trainer


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


def set_steps(trainer: Trainer, steps: int) -> None:
    """Let training end after `steps` optimizer steps, and not by epochs: learning-rate schedules and counters
    go by steps. A trainer takes them when it is made, before the data are known."""
    trainer.fit_loop.epoch_loop.max_steps = steps
    trainer.fit_loop.max_epochs = -1


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
