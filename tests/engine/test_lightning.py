"""Epochs become steps, and Lightning's counters those of other micro-batches."""

import pytest
from lightning.pytorch import Trainer

from lm.engine.lightning import recount, train_by_steps
from lm.errors import UserError

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}


@pytest.mark.parametrize(
    ("options", "batches", "steps", "interval"),
    [
        ({"max_epochs": 3}, 10, 30, 10),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 10, 6, 8),  # the last two batches fill no step
        ({"max_epochs": 3, "limit_train_batches": 4}, 10, 12, 4),
        ({"max_epochs": 3, "limit_train_batches": 0.25}, 10, 6, 2),
        ({"max_epochs": 2, "limit_train_batches": 99}, 10, 20, 10),
        ({"max_epochs": 3, "max_steps": 7}, 10, 7, 10),
        ({"max_steps": 7, "val_check_interval": 5}, 10, 7, 5),
    ],
)
def test_epochs_become_steps(options, batches, steps, interval):
    trainer = Trainer(check_val_every_n_epoch=None, **options, **QUIET)
    train_by_steps(trainer, batches)
    assert (trainer.max_steps, trainer.val_check_interval, trainer.max_epochs) == (steps, interval, -1)
    train_by_steps(trainer, batches)  # a second look finds the same
    assert (trainer.max_steps, trainer.val_check_interval, trainer.max_epochs) == (steps, interval, -1)


def test_how_long_is_asked_where_nothing_was_said():
    with pytest.raises(UserError, match=r"`trainer\.max_epochs` or `trainer\.max_steps`"):
        train_by_steps(Trainer(max_epochs=-1, check_val_every_n_epoch=None, **QUIET), 10)


def test_counters_of_other_micro_batches():
    """6 steps of 2 micro-batches are 6 of 3; `ready` and `started` are one ahead within a hook."""
    counts = {"ready": 13, "started": 13, "processed": 12, "completed": 11}
    progress = {"total": dict(counts), "current": dict(counts)}
    recount(progress, 2, 3)
    expected = {"ready": 19, "started": 19, "processed": 18, "completed": 17}
    assert progress == {"total": expected, "current": expected}
    recount(progress, 3, 2)
    assert progress == {"total": counts, "current": counts}
