"""What the commands do with a run: let the trainer work, then say what came of it."""

import json
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lm.callbacks import Stopped, interruptible
from lm.callbacks.checkpoints import timed_out
from lm.callbacks.progress import figures_line
from lm.engine.replicas import data_shard
from lm.errors import UserError, spelled
from lm.files import atomic
from lm.processes import is_rank_zero, say
from lm.run.report import report
from lm.run.run import Run


def fit(run: Run) -> None:
    """Train, or go on; then say what came of it."""
    trainer, model = run.trainer, run.model
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    try:
        with interruptible():
            try:
                trainer.fit(model, datamodule=run.data)
            except SIGTERMException as error:  # Lightning's own, of a signal that came before the first step
                raise Stopped(signal.SIGTERM, None) from error
        if trainer.global_step < trainer.max_steps and timed_out(trainer):  # before a step was made
            raise Stopped(None, trainer.global_step)
    except Stopped as stopped:
        last = run.checkpoints.last_path
        then = f"goes on from {last}" if last.exists() else "begins anew"
        words = f"stopped at once. The same command {then}."
        if stopped.step is not None:
            words = f"stopped at step {stopped.step} of {trainer.max_steps}; {last} is kept. "
            words += "The same command goes on from there."
            if stopped.signal is None:
                words += " `trainer.max_time`, which counts from the run's beginning, is over: give more."
        _stop(stopped, words)
    except RuntimeError as error:
        asked = re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", str(error))
        if not isinstance(error, torch.OutOfMemoryError) and asked is None:
            raise
        size = f" ({int(asked[1]) / 1e9:.1f} GB at once)" if asked else ""
        raise UserError(
            f"out of memory on {model.device}{size}: give a smaller `data.seq_len` or `data.batch_size`, and "
            "`trainer.accumulate_grad_batches` larger by as much to keep the samples of a step"
        ) from error
    if trainer.global_step < trainer.max_steps:
        _end_early(run)
    try:
        with interruptible():
            figures = _last_figures(run)
    except Stopped as stopped:
        _stop(stopped, "trained, and stopped while it was measured. The same command goes on there.")
    summary = run.summary.write(trainer, model, figures)
    if is_rank_zero():
        print(report(run.folder, summary, run.samples.latest, run.monitor.unit, model))


def _stop(stopped: Stopped, words: str) -> NoReturn:
    """Say how to go on and end with the signal's exit status."""
    say(spelled(words))
    sys.exit(0 if stopped.signal is None else 128 + stopped.signal)


def _end_early(run: Run) -> None:
    """Keep what a callback found good enough, and say why the run ended before its last step."""
    trainer, kept = run.trainer, run.checkpoints
    if not trainer.should_stop:
        raise UserError("training ended before trainer.max_steps: a limit of the trainer ended it")
    trainer.save_checkpoint(kept.last_path)
    if kept.patience is not None:
        say(
            f"ended at step {trainer.global_step} of {trainer.max_steps}: {kept.patience} "
            f"validations without a better {kept.figure} than at step {kept.best_step}"
        )


def _last_figures(run: Run) -> dict[str, float]:
    """What the end is measured by; the test part's figures with the best weights, where there is one."""
    trainer = run.trainer
    trainer.ckpt_path = None  # the weights are those that were trained
    if run.monitor.validated_step != trainer.global_step and trainer.limit_val_batches:
        # It was killed between its last step and the end: what is left is to look at the result.
        trainer.validate(run.model, datamodule=run.data, verbose=False)
        run.checkpoints.keep_if_best(trainer)
        run.samples.renew(trainer, run.model)
    if not run.data.has("test") or not trainer.limit_test_batches:
        return {}
    best = str(run.checkpoints.best_path) if run.checkpoints.best_path.exists() else None
    kept = dict(trainer.callback_metrics)
    trainer.test(run.model, datamodule=run.data, ckpt_path=best, verbose=False)
    most = trainer.limit_test_batches  # of batches where it is an int, a share where it is a float
    if most != 1 or isinstance(most, int):
        say(f"batches tested: {sum(trainer.num_test_batches)}, by `trainer.limit_test_batches`")
    figures = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    trainer.callback_metrics.update(kept)
    return figures


def _evaluate(run: Run, how: Callable[..., Any], **options: Any) -> Any:
    """What the trainer finds with the checkpoint's weights."""
    try:
        with interruptible():
            return how(run.model, datamodule=run.data, **options)
    except Stopped as stopped:
        _stop(stopped, "stopped, and nothing is written.")


def _measure(run: Run, how: Callable[..., Any]) -> None:
    _evaluate(run, how, verbose=False)
    if is_rank_zero():
        print(f"{run.measured}: {figures_line(run.trainer)}")


def validate(run: Run) -> None:
    """The figures of a checkpoint on the held-out part."""
    _measure(run, run.trainer.validate)


def test(run: Run) -> None:
    """The figures of a checkpoint on the test part."""
    _measure(run, run.trainer.test)


def predict(run: Run) -> None:
    """Predictions for every example of the test part, a line of JSON each."""
    batches = _evaluate(run, run.trainer.predict)
    rows = [row for batch in batches or [] for row in batch] + run.model.last_rows()
    if rows and "index" in rows[0]:
        rows.sort(key=lambda row: row["index"])  # batches go by length
        rows = [{**row, "index": run.data.row_number(row["index"])} for row in rows]
    rank, replicas = data_shard(run.trainer)
    path = run.folder / (f"predictions-{rank}.jsonl" if replicas > 1 else "predictions.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows)
    print(f"predictions of {run.measured}: {path}")
