"""A run: what `lm fit`, `validate`, `test` and `predict` do with a configuration and a folder.

The folder `checkpoints/<name>/` is the run. `fit` continues what it finds there unfinished, leaves what is
finished alone, and refuses a folder that belongs to another configuration.
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # LightningCLI causes them itself

import torch
import yaml

from lm import checkpoint as checkpoints
from lm.callbacks import Stopped, interruptible
from lm.callbacks.progress import figures_line
from lm.errors import UserError
from lm.processes import is_rank_zero
from lm.run.cli import FolderCLI
from lm.run.folder import Finished, report, report_task
from lm.run.parser import our_own, quiet
from lm.run.seeds import compare_seeds, take_seeds
from lm.run.usage import explain
from lm.tasks import Task


class RunCLI(FolderCLI):
    """The commands: each looks at the data, lets the trainer work and says what came of it."""

    def fit(self, model: Any, datamodule: Any = None, **kwargs: Any) -> None:
        """Train, or go on; then say what came of it."""
        if torch.cuda.is_available():
            torch.set_float32_matmul_precision("high")
        datamodule.prepare_data()  # before the run is announced; Lightning's own calls find it done
        datamodule.setup("fit")
        datamodule.trainer = self.trainer
        self._prepare(model, datamodule, "fit")
        self._count_steps(datamodule)
        self._check_tokenizer(datamodule)
        self._check_steps()
        self._announce(model, datamodule)
        if is_rank_zero():
            self._write_configuration()
        try:
            with interruptible():
                self.trainer.fit(model, datamodule=datamodule, ckpt_path=self.resume_from)
        except Stopped as stopped:
            self._say_stopped(stopped)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of memory on {model.device}: give a smaller --data.batch_size, and --trainer."
                "accumulate_grad_batches larger by as much to keep the samples of a step"
            ) from error
        if self.trainer.global_step < self.trainer.max_steps:
            if not self.trainer.should_stop:
                raise UserError("training ended before trainer.max_steps: a limit of the trainer ended it")
            self.trainer.save_checkpoint(self.checkpoints.last_path)  # a callback found it good enough
            self._say_enough()
        try:
            with interruptible():
                figures = self._last_figures(model, datamodule)
        except Stopped as stopped:
            self._say_stopped(
                stopped, "trained, and stopped while it was measured. The same command goes on there."
            )
        summary = self.summary.write(self.trainer, model, figures)
        if is_rank_zero():
            if hasattr(datamodule, "corpus"):
                opening, latest = self.samples.opening, self.samples.latest
                print(report(self.folder, summary, opening, latest, model.config.causal))
            else:
                print(report_task(self.folder, summary, self.samples.latest, getattr(model, "usage", "")))

    def _prepare(self, model: Any, datamodule: Any, verb: str) -> None:
        """Let the model look at the data, or at the checkpoint that it goes on from."""
        if isinstance(model, Task):
            model.prepare(datamodule, getattr(self, "resume_record", None), verb)

    def _count_steps(self, datamodule: Any) -> None:
        """Give `max_steps` where epochs were asked for, and validate once an epoch where no interval was: the
        learning-rate schedule and the counters of a run go by steps."""
        trainer, batches = self.trainer, getattr(datamodule, "steps_per_epoch", None)
        if batches is None or trainer.fast_dev_run:
            return
        most = trainer.limit_train_batches  # a part of an epoch, or so many batches
        batches = max(int(batches * most) if isinstance(most, float) else min(batches, most), 1)
        steps = max(batches // trainer.accumulate_grad_batches, 1)
        if isinstance(trainer.val_check_interval, float) and trainer.check_val_every_n_epoch is None:
            trainer.val_check_interval = steps * trainer.accumulate_grad_batches
        if trainer.max_steps < 1:
            if (trainer.max_epochs or 0) < 1:
                raise UserError("how long? Give --trainer.max_epochs or --trainer.max_steps", status=2)
            trainer.fit_loop.epoch_loop.max_steps = steps * trainer.max_epochs
        trainer.fit_loop.max_epochs = -1  # where both are given, steps say more

    def _last_figures(self, model: Any, datamodule: Any) -> dict[str, float]:
        """What the end is measured by; the test part's figures."""
        if self.monitor.validated_step != self.trainer.global_step and self.trainer.limit_val_batches:
            # It was killed between its last step and the end: what is left is to look at the result.
            self.trainer.validate(model, datamodule=datamodule, verbose=False)
            self.checkpoints.keep_if_best(self.trainer)
            self.samples.renew(self.trainer, model)
        return self._figures_of_the_best(model, datamodule)

    def _figures_of_the_best(self, model: Any, datamodule: Any) -> dict[str, float]:
        """The test part's figures with the best weights, where there is a test part."""
        if not (hasattr(datamodule, "has") and datamodule.has("test") and self.trainer.limit_test_batches):
            return {}
        best = self.checkpoints.best_path if self.checkpoints.best_path.exists() else None
        kept = dict(self.trainer.callback_metrics)
        self.trainer.test(model, datamodule=datamodule, ckpt_path=best and str(best), verbose=False)
        most = self.trainer.limit_test_batches  # of batches where it is an int, a share where it is a float
        if (most != 1 or isinstance(most, int)) and is_rank_zero():
            tested = sum(self.trainer.num_test_batches)
            print(f"batches tested: {tested}, by --trainer.limit_test_batches", file=sys.stderr)
        figures = {k: v.item() for k, v in self.trainer.callback_metrics.items() if k.startswith("test/")}
        self.trainer.callback_metrics.update(kept)
        return figures

    def _check_steps(self) -> None:
        """A checkpoint that another run has brought to its end leaves nothing to train."""
        if self.resume_from is None:
            return
        its_own_end = self.resume_from == str(self.checkpoints.last_path)  # killed before the last figures
        most = self.trainer.max_steps if its_own_end else self.trainer.max_steps - 1
        if self.resume_step > most:
            raise UserError(
                f"{self.resume_from} is at step {self.resume_step} already: give more --trainer.max_steps",
                status=2,
            )

    def _check_tokenizer(self, datamodule: Any) -> None:
        """A checkpoint's figures on pieces that it does not know would be nonsense."""
        if self.resume_from is None or not isinstance(self.model, Task):
            return
        ours, theirs = datamodule.tokenizer, checkpoints.load_tokenizer(self.resume_record)
        if ours.fingerprint != theirs.fingerprint:
            raise UserError(
                f"{self.resume_from} was trained with another tokenizer than {datamodule.source} has: "
                "give its own --data.corpus, or --data.tokenizer with the tokenizer.model of its corpus"
            )

    def _evaluate(self, how: Any, model: Any, datamodule: Any, **options: Any) -> Any:
        datamodule.prepare_data()
        datamodule.setup(self.subcommand)
        datamodule.trainer = self.trainer
        self._prepare(model, datamodule, self.subcommand)
        self._check_tokenizer(datamodule)
        try:
            with interruptible():
                return how(model, datamodule=datamodule, ckpt_path=self.resume_from, **options)
        except Stopped as stopped:
            self._say_stopped(stopped, "stopped, and nothing is written.")

    def _announce(self, model: Any, datamodule: Any) -> None:
        if not is_rank_zero():
            return
        parameters, steps = model.net.num_parameters(), self.trainer.max_steps
        verb = f"goes on from step {self.resume_step}" if self.resume_from else "starts"
        print(
            f"run {self.folder} {verb}: {parameters:,} parameters, {steps} steps, "
            f"on {self.trainer.accelerator.__class__.__name__.removesuffix('Accelerator')}"
            f" ({self.trainer.world_size} process{'es' if self.trainer.world_size > 1 else ''})",
            file=sys.stderr,
        )
        warmup = getattr(getattr(model, "schedule", None), "warmup", 0)
        if warmup >= steps > 1:
            print(
                f"warning: the learning rate rises for {warmup} steps, and {steps} are all there are: train "
                "for longer (--trainer.max_epochs or max_steps), or with less --model.schedule.warmup",
                file=sys.stderr,
            )

    def _write_configuration(self) -> None:
        """`config.yaml`, or where it is there and differs `config-2.yaml`, `config-3.yaml` …"""
        text = yaml.safe_dump(self.configuration, sort_keys=False, allow_unicode=True)
        paths = [self.folder / "config.yaml", *(self.folder / f"config-{n}.yaml" for n in range(2, 1000))]
        if self.resume_from is None or not paths[0].exists():
            paths[0].write_text(text, encoding="utf-8")
            return
        for path in paths:
            if not path.exists():
                path.write_text(text, encoding="utf-8")
                return
            if path.read_text(encoding="utf-8") == text:
                return

    def _say_stopped(self, stopped: Stopped, words: str = "") -> NoReturn:
        """Say how to go on and end with the signal's exit status.

        Args:
            words: where no step was being trained, what is to be said.
        """
        last = self.checkpoints.last_path
        if not words and stopped.step is not None:
            words = f"stopped at step {stopped.step} of {self.trainer.max_steps}; {last} is kept. "
            words += "The same command goes on from there."
        elif not words:
            words = "stopped at once. The same command "
            words += f"goes on from {last}." if last.exists() else "begins anew."
        if is_rank_zero():
            print(words, file=sys.stderr)
        sys.exit(128 + stopped.signal)

    def _say_enough(self) -> None:
        """That a run ended before its last step, and why."""
        kept = self.checkpoints
        if is_rank_zero() and kept.patience is not None:
            print(
                f"ended at step {self.trainer.global_step} of {self.trainer.max_steps}: {kept.patience} "
                f"validations without a better {kept.figure} than at step {kept.best_step}",
                file=sys.stderr,
            )

    def validate(self, model: Any, datamodule: Any = None, **kwargs: Any) -> None:
        """The figures of a checkpoint on the held-out part."""
        self._evaluate(self.trainer.validate, model, datamodule, verbose=False)
        self._say_figures()

    def test(self, model: Any, datamodule: Any = None, **kwargs: Any) -> None:
        """The figures of a checkpoint on the test part."""
        self._evaluate(self.trainer.test, model, datamodule, verbose=False)
        self._say_figures()

    def _say_figures(self) -> None:
        if is_rank_zero():
            print(f"{self.resume_from}: {figures_line(self.trainer)}")

    def predict(self, model: Any, datamodule: Any = None, **kwargs: Any) -> None:
        """Predictions for every example of the test part, a line of JSON each."""
        batches = self._evaluate(self.trainer.predict, model, datamodule)
        batches = [*(batches or []), getattr(model, "last_rows", list)()]
        rank = f"-{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        path = self.folder / f"predictions{rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("w", encoding="utf-8") as file:
            rows = [row for batch in batches for row in batch]
            if rows and "index" in rows[0]:
                rows.sort(key=lambda row: row["index"])  # batches go by length
                rows = [{**row, "index": datamodule.row_number(row["index"])} for row in rows]
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        partial.replace(path)
        print(f"predictions of {self.resume_from}: {path}")


def main(argv: list[str], started: float) -> None:
    """The commands that train and evaluate.

    Args:
        argv: the command's name and its options.
        started: seconds since the epoch when the command was typed.
    """
    quiet()
    sys.path.insert(0, str(Path.cwd()))  # a class of the person's own may lie in the folder they work in
    seeds, argv = take_seeds(argv)
    if seeds is None:
        one_run(argv, started)
        return
    folders = [one_run(argv, time.time() if number else started, seed) for number, seed in enumerate(seeds)]
    if is_rank_zero():
        print(compare_seeds(folders))


def one_run(argv: list[str], started: float, seed: int | None = None) -> Path:
    """One command on one run; where `seed` is given, as one of several.

    Returns:
        The run's folder.
    """
    try:
        with ExitStack() as held:
            return RunCLI(argv, started, held, seed).folder
    except ValueError as error:
        # What a class says while it is made, inside jsonargparse's account of it.
        said = our_own(error)
        if said is not None:
            raise said from error
        if "Does not validate" not in str(error):
            raise
        raise UserError(explain(str(error)), status=2) from error
    except Finished as run:
        if is_rank_zero():
            figures = run.summary
            loss = "" if figures.get("val_loss") is None else f" (validation loss {figures['val_loss']:.4f})"
            print(
                f"{run.folder} is finished{loss}: nothing to do.\n"
                "To train anew choose another --name, or delete the folder. To train longer: "
                f"lm fit --config {run.folder / 'config.yaml'} --ckpt_path {run.folder / 'last.ckpt'} "
                "--name NAME --trainer.max_steps N"
            )
        return run.folder
