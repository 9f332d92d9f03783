"""A run: what `lm fit`, `validate`, `test` and `predict` do with a configuration and a folder.

The folder `checkpoints/<name>/` is the run. `fit` continues what it finds there unfinished, leaves what is
finished alone, and refuses a folder that belongs to another configuration.
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # LightningCLI causes them itself

import torch
import yaml
from filelock import FileLock, Timeout
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lm import checkpoint as checkpoints
from lm.callbacks import Monitor, Progress, RandomState, RunCheckpoints, Samples, Stopped, Summary
from lm.callbacks.checkpoints import RunCheckpointIO
from lm.callbacks.progress import figures_line
from lm.callbacks.summary import read_summary
from lm.errors import UserError
from lm.run_folder import RUNS, Finished, differences, identity, report, report_task
from lm.run_parser import Parser, our_own, quiet
from lm.run_seeds import compare_seeds, take_seeds
from lm.tasks import Task
from lm.usage import explain


def _is_rank_zero() -> bool:
    return all(
        os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK")
    )


class RunCLI(LightningCLI):
    """LightningCLI with runs as folders.

    Args:
        argv: the command's name and its options.
        started: seconds since the epoch when the command was typed.
        held: what has to be given back when the command ends.
        seed: of several runs of one command, this one's: it becomes the folder `<name>/seed-<seed>`.
    """

    def __init__(self, argv: list[str], started: float, held: ExitStack, seed: int | None = None) -> None:
        self.started, self._held, self._seed = started, held, seed
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": -1,
                "check_val_every_n_epoch": None,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "log_every_n_steps": 10,
                "gradient_clip_val": 1.0,
            },
            args=argv,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's name, what is reported, and what flows from the data to the model."""
        parser.add_argument("--name", default="run", help="folder of the run under checkpoints/")
        parser.add_argument(
            "--seeds", type=str | None, default=None, help="of fit, as 0,1,2: a run with each, and their mean"
        )
        for key, callback in (("checkpoint", RunCheckpoints), ("monitor", Monitor), ("sample", Samples)):
            parser.add_class_arguments(callback, key, skip={"folder"}, instantiate=False)
        for source, target in (("vocab_size", "vocab_size"), ("seq_len", "max_seq_len")):
            parser.link_arguments(
                f"data.{source}", f"model.init_args.backbone.{target}", apply_on="instantiate"
            )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words of the command line that were given."""
        self.config = parser.parse_args(args)
        own = self.config[self.config.subcommand]
        if own["seeds"] is not None:
            raise UserError("seeds belong to the command line of `lm fit`: --seeds 0,1,2", status=2)
        if self._seed is not None:
            own["name"], own["seed_everything"] = f"{own['name']}/seed-{self._seed}", self._seed
            options = own["data"].get("init_args", {})
            if "seed" in options:
                options["seed"] += self._seed  # another order of the examples, too

    def _set_seed(self) -> None:
        """Seed everything, with a seed that every generator takes."""
        seed = self._get(self.config, "seed_everything")
        if not 0 <= int(seed) < 1 << 32:
            raise UserError(f"--seed_everything {seed}: it must be from 0 to {(1 << 32) - 1}", status=2)
        super()._set_seed()

    def _parse_ckpt_path(self) -> None:
        """Not as Lightning: a checkpoint's hyperparameters never override what the person typed."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return RUNS / self._get(self.config, "name")

    def before_instantiate_classes(self) -> None:
        """Look at the run's folder before anything costs time."""
        name = self._get(self.config, "name")
        if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"--name {name!r}: it must be a folder's name under {RUNS}/", status=2)
        self.configuration = yaml.safe_load(
            self._parser(self.subcommand).dump(
                self._get_subconfig(), skip_link_targets=True, skip_none=False, format="yaml"
            )
        )
        self.resume_from = self._get(self.config, "ckpt_path")
        if self.subcommand == "fit":
            self._look_at_folder()
        elif self.resume_from is None:
            self.resume_from = next(
                (str(p) for n in ("best.ckpt", "last.ckpt") if (p := self.folder / n).exists()), None
            )
            if self.resume_from is None:
                raise UserError(f"no checkpoint in {self.folder}: train first, or give --ckpt_path FILE")
        if self.resume_from is not None:
            checkpoint = checkpoints.read(self.resume_from)
            self.resume_record = checkpoints.read_record(checkpoint, self.resume_from)
            self.resume_step = checkpoint.get("global_step", 0)
            if self.subcommand == "fit" and "optimizer_states" not in checkpoint:
                raise UserError(
                    f"{self.resume_from} holds weights to use, not a state to train on: take last.ckpt"
                )

    def after_instantiate_classes(self) -> None:
        """Look whether the checkpoint is one of this model; Lightning would list every weight."""
        if self.resume_from is not None and isinstance(self.model, Task):
            trained_by, name = self.resume_record["task"].rpartition(".")[2], type(self.model).__name__
            if trained_by != name:
                raise UserError(
                    f"{self.resume_from} is of {trained_by}, not of {name}: give its configuration, or start "
                    f"from its weights by --model.init_from {self.resume_from}"
                )
            changed = differences(asdict(self.model.config), self.resume_record["backbone"], "backbone")
            if changed:
                raise UserError(
                    f"{self.resume_from} is of another model: {', '.join(changed[:3])}. "
                    "Give its configuration, which stands beside it in config.yaml"
                )

    def _get_subconfig(self) -> Any:
        return self.config[self.subcommand]

    def _look_at_folder(self) -> None:
        """Finished: say so. Another configuration's: refuse. Unfinished: go on."""
        last, saved = self.folder / "last.ckpt", self.folder / "config.yaml"
        if last.exists():
            if not saved.exists():
                raise UserError(f"{self.folder} has last.ckpt but no config.yaml: choose another --name")
            try:
                theirs = yaml.safe_load(saved.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise UserError(f"{saved} can't be read ({error}): choose another --name") from error
            ours, theirs = identity(self.configuration), identity(theirs or {})
            changed = differences(ours, theirs)
            if changed:
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                raise UserError(
                    f"{self.folder} belongs to another configuration: {', '.join(changed[:3])}{more}.\n"
                    "Choose another --name, delete the folder, or give the first configuration again.",
                )
            summary = read_summary(self.folder)
            if summary is not None and summary.get("finished"):
                raise Finished(self.folder, summary)
            self.resume_from = str(last)  # also where --ckpt_path began it
        if _is_rank_zero():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._held.enter_context(FileLock(self.folder / ".lock", timeout=0))
            except Timeout:
                raise UserError(
                    f"another process is training in {self.folder}: choose another --name"
                ) from None

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The trainer with the callbacks that every run has."""
        config = self._get_subconfig()
        init = self.config_init[self.subcommand]
        self.monitor = Monitor(**init["monitor"])
        self.checkpoints = RunCheckpoints(self.folder, **init["checkpoint"])
        self.samples = Samples(**init["sample"])
        self.summary = Summary(self.folder, self.configuration, self.monitor, self.checkpoints, self.started)
        trainer = init["trainer"]
        callbacks = trainer.get("callbacks") or []
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        if self.subcommand == "fit":
            ours = [self.monitor, Progress(self.monitor), self.samples, self.summary, RandomState()]
            callbacks = [*ours, *callbacks, self.checkpoints]
        plugins = trainer.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        plugins.append(
            RunCheckpointIO(yaml.safe_dump(self.configuration, sort_keys=False, allow_unicode=True))
        )
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            plugins.append(SLURMEnvironment(auto_requeue=False))  # our own handler saves and stops
        logger = trainer.get("logger")
        if self.subcommand == "fit" and logger in (None, True):
            step = getattr(self, "resume_step", None)
            # What a killed process logged after its last checkpoint is logged again: drop it.
            logger = TensorBoardLogger(
                RUNS,
                name=str(config["name"]),
                version="",
                default_hp_metric=False,
                purge_step=step and step + 1,
            )
        elif self.subcommand != "fit":
            logger = False
        try:
            return super().instantiate_trainer(callbacks=callbacks, plugins=plugins, logger=logger)
        except (ValueError, MisconfigurationException) as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}", status=2) from error

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
        if _is_rank_zero():
            self._write_configuration()
        try:
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
        if self.monitor.validated_step != self.trainer.global_step and self.trainer.limit_val_batches:
            # It was killed between its last step and the end: what is left is to look at the result.
            self.trainer.validate(model, datamodule=datamodule, verbose=False)
            self.checkpoints.keep_if_best(self.trainer)
            self.samples.renew(self.trainer, model)
        figures = self._figures_of_the_best(model, datamodule)
        summary = self.summary.write(self.trainer, model, figures)
        if _is_rank_zero():
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
        trainer, per_epoch = self.trainer, getattr(datamodule, "steps_per_epoch", None)
        if per_epoch is None:
            return
        steps = max(per_epoch // trainer.accumulate_grad_batches, 1)
        if isinstance(trainer.val_check_interval, float):
            trainer.val_check_interval = steps * trainer.accumulate_grad_batches
        if trainer.max_steps < 1 and (trainer.max_epochs or 0) > 0:
            trainer.fit_loop.epoch_loop.max_steps = steps * trainer.max_epochs
        trainer.fit_loop.max_epochs = -1  # where both are given, steps say more

    def _figures_of_the_best(self, model: Any, datamodule: Any) -> dict[str, float]:
        """The test part's figures with the best weights, where there is a test part."""
        if not (hasattr(datamodule, "has") and datamodule.has("test") and self.trainer.limit_test_batches):
            return {}
        best = self.checkpoints.best_path if self.checkpoints.best_path.exists() else None
        kept = dict(self.trainer.callback_metrics)
        self.trainer.test(model, datamodule=datamodule, ckpt_path=best and str(best), verbose=False)
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
                f"{self.resume_from} was trained with another tokenizer than {datamodule.corpus_folder} has: "
                "give its own --data.corpus, or --data.tokenizer with the tokenizer.model of its corpus"
            )

    def _evaluate(self, how: Any, model: Any, datamodule: Any, **options: Any) -> Any:
        datamodule.prepare_data()
        datamodule.setup(self.subcommand)
        datamodule.trainer = self.trainer
        self._prepare(model, datamodule, self.subcommand)
        self._check_tokenizer(datamodule)
        return how(model, datamodule=datamodule, ckpt_path=self.resume_from, **options)

    def _announce(self, model: Any, datamodule: Any) -> None:
        if not _is_rank_zero():
            return
        parameters, steps = model.net.num_parameters(), self.trainer.max_steps
        verb = f"goes on from step {self.resume_step}" if self.resume_from else "starts"
        print(
            f"run {self.folder} {verb}: {parameters:,} parameters, {steps} steps, "
            f"on {self.trainer.accelerator.__class__.__name__.removesuffix('Accelerator')}"
            f" ({self.trainer.world_size} process{'es' if self.trainer.world_size > 1 else ''})",
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

    def _say_stopped(self, stopped: Stopped) -> None:
        if _is_rank_zero() and stopped.step is None:
            print(
                f"stopped at once. The same command goes on from {self.checkpoints.last_path}.",
                file=sys.stderr,
            )
        elif _is_rank_zero():
            print(
                f"stopped at step {stopped.step} of {self.trainer.max_steps}; "
                f"{self.checkpoints.last_path} is kept. The same command goes on from there.",
                file=sys.stderr,
            )
        sys.exit(128 + stopped.signal)

    def validate(self, model: Any, datamodule: Any = None, **kwargs: Any) -> None:
        """The figures of a checkpoint on the held-out part."""
        self._evaluate(self.trainer.validate, model, datamodule, verbose=False)
        self._say_figures()

    def test(self, model: Any, datamodule: Any = None, **kwargs: Any) -> None:
        """The figures of a checkpoint on the test part."""
        self._evaluate(self.trainer.test, model, datamodule, verbose=False)
        self._say_figures()

    def _say_figures(self) -> None:
        if _is_rank_zero():
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
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        partial.replace(path)
        print(f"predictions: {path}")


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
    if _is_rank_zero():
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
        if _is_rank_zero():
            figures = run.summary
            loss = "" if figures.get("val_loss") is None else f" (validation loss {figures['val_loss']:.4f})"
            print(
                f"{run.folder} is finished{loss}: nothing to do.\n"
                "To train anew choose another --name, or delete the folder. To train longer: "
                f"lm fit --config {run.folder / 'config.yaml'} --ckpt_path {run.folder / 'last.ckpt'} "
                "--name NAME --trainer.max_steps N"
            )
        return run.folder
