"""What a run needs before it begins: its words, its folder, the checkpoint it goes on from, its trainer."""

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lm import checkpoint as checkpoints
from lm.callbacks import Monitor, Progress, RandomState, RunCheckpoints, Samples, Summary
from lm.callbacks.checkpoints import RunCheckpointIO
from lm.callbacks.summary import read_summary
from lm.errors import UserError
from lm.processes import is_rank_zero
from lm.run.folder import (
    RUNS,
    Finished,
    differences,
    folder_beside,
    identity,
    refuse_a_mixture,
    remove_unused,
)
from lm.run.parser import Parser
from lm.tasks import Task


class FolderCLI(LightningCLI):
    """LightningCLI whose runs are folders: what there is to look at before one begins.

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
        """Parse the words of the command line that were given.

        What a run's own config.yaml evaluates is the run in whose folder it stands: the name and ckpt_path in
        it say how it began, and it may have been copied or renamed since.
        """
        self.config = parser.parse_args(args)
        own, self._beside = self.config[self.config.subcommand], None
        typed = [word.split("=", 1)[0] for word in args if word.startswith("--")]
        chosen = any(option.startswith(tuple(typed)) for option in ("--name", "--ckpt_path"))  # or shortened
        if self.config.subcommand != "fit" and not chosen:
            self._beside = folder_beside([Path(str(path)) for path in own["config"] or []])
        if self._beside is not None:
            own["ckpt_path"] = None
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
        return self._beside or RUNS / self._get(self.config, "name")

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
            if self.subcommand != "fit":
                self._start_from_checkpoint()
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
            theirs = asdict(checkpoints.config_of(self.resume_record))  # options it did not know yet, too
            changed = differences(asdict(self.model.config), theirs, "backbone")
            if changed:
                raise UserError(
                    f"{self.resume_from} is of another model: {', '.join(changed[:3])}. "
                    "Give its configuration, which stands beside it in config.yaml"
                )

    def _get_subconfig(self) -> Any:
        return self.config[self.subcommand]

    def _look_at_folder(self) -> None:
        """Finished: say so. Another configuration's: refuse. Unfinished: go on."""
        refuse_a_mixture(self.folder, self._seed is not None)
        last, saved = self.folder / "last.ckpt", self.folder / "config.yaml"
        if last.exists():
            if not saved.exists():
                raise UserError(f"{self.folder} has last.ckpt but no config.yaml: choose another --name")
            try:
                theirs = yaml.safe_load(saved.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise UserError(f"{saved} can't be read ({error}): choose another --name") from error
            ours = identity(self.configuration)
            changed = differences(ours, identity(theirs or {}))
            if changed:
                changed = differences(ours, identity(self._completed(theirs)))
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
        if is_rank_zero():
            above = (path for path in self.folder.parents if RUNS in path.parents)
            new = [path for path in (self.folder, *above) if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._held.enter_context(FileLock(self.folder / ".lock", timeout=0))
            except Timeout:
                raise UserError(
                    f"another process is training in {self.folder}: choose another --name"
                ) from None
            if new:  # before the lock, which was taken first, is given back
                self._held.callback(remove_unused, new)

    def _completed(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """A configuration with the defaults of the options that came after it was written; as it is where it
        has some that are no more."""
        parser = self._parser(self.subcommand)
        try:
            parsed = parser.parse_object(configuration)
        except (UserError, ValueError, KeyError, TypeError):
            return configuration
        return yaml.safe_load(parser.dump(parsed, skip_link_targets=True, skip_none=False, format="yaml"))

    def _start_from_checkpoint(self) -> None:
        """The checkpoint has all that the run took from `init_from`, which need not be there any more; but
        where the two are compared it must."""
        options = self._get_subconfig()["model"].get("init_args") or {}
        if options.get("init_from") is not None and "reference" not in self.resume_record:
            options["init_from"] = self.resume_from

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
