"""The words of a command: from what was typed to a configuration, and from it to data and model.

The parser is LightningCLI's: any class works by its `class_path`, configurations compose, `--print_config`
and `--data.help CLASS` answer. What LightningCLI does after parsing a run does itself, for it looks at its
folder before anything is made.
"""

import os
from collections.abc import Callable
from dataclasses import Field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # LightningCLI's parser causes them

import lightning.pytorch as pl
import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch import Trainer

from lm.backbone import BackboneConfig
from lm.callbacks import Monitor, RunCheckpoints, Samples
from lm.callbacks.summary import flatten
from lm.data.loading import Data
from lm.errors import UserError
from lm.run.folder import RUNS, folder_beside
from lm.run.usage import Parser, explain, our_own
from lm.tasks import Task

TRAINER = {
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 10,
    "gradient_clip_val": 1.0,
}


def _of_the_data(field: Field) -> Callable[[Data], Any]:
    return lambda data: data.shape().get(field.name, field.default)


def make_parser(command: str) -> Parser:
    """The options of a command: those of every run."""
    parser = Parser(
        prog=f"lm {command}",
        description="Every option can stand in a configuration, too.",
        dump_header=[f"lightning.pytorch=={pl.__version__}"],
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="a YAML file; several are composed")
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0, help="of every generator; true: a random one"
    )
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER.items()})
    parser.add_lightning_class_args(Task, "model", subclass_mode=True)
    parser.add_lightning_class_args(Data, "data", subclass_mode=True)
    parser.add_argument("--name", default="run", help="folder of the run under checkpoints/")
    parser.add_argument(
        "--seeds", type=str | None, default=None, help="of fit, as 0,1,2: a run with each, and their mean"
    )
    parser.add_class_arguments(RunCheckpoints, "checkpoint", skip={"folder"}, instantiate=False)
    parser.add_class_arguments(Monitor, "monitor")
    parser.add_class_arguments(Samples, "sample")
    parser.add_argument(
        "--ckpt_path", type=str | None, default=None, help="a last.ckpt to go on from; the one to evaluate"
    )
    parser.add_argument("--weights_only", type=bool | None, default=None, help="of older runs: does nothing")
    for field in fields(BackboneConfig):
        if field.metadata.get("from_data"):
            target = f"model.init_args.backbone.{field.name}"
            parser.link_arguments("data", target, compute_fn=_of_the_data(field), apply_on="instantiate")
    return parser


class Words:
    """What was typed, as a configuration.

    Args:
        argv: the command and its options.
        seed: of several runs of one command, this one's: it becomes the folder `<name>/seed-<seed>`.

    Attributes:
        config: every option's value.
        folder: of the run. What a run's own config.yaml evaluates is the run in whose folder it stands: the
            name and ckpt_path in it say how it began, and it may have been copied or renamed since.

    Raises:
        UserError: an option is none, or its value can't be.
    """

    def __init__(self, argv: list[str], seed: int | None = None) -> None:
        self.command, self.seed = argv[0], seed
        self.parser = make_parser(self.command)
        self.config: Namespace = self.parser.parse_args(argv[1:])
        config = self.config
        if config.seeds is not None:
            raise UserError("seeds belong to the command line of `lm fit`: --seeds 0,1,2", status=2)
        if seed is not None:
            config.name, config.seed_everything = f"{config.name}/seed-{seed}", seed
            options = config.data.get("init_args", {})
            if "seed" in options:
                options["seed"] += seed  # another order of the examples, too
        if not 0 <= int(config.seed_everything) < 1 << 32:
            said = f"--seed_everything {config.seed_everything}: it must be from 0 to {(1 << 32) - 1}"
            raise UserError(said, status=2)
        name = Path(config.name)
        if not name.parts or name.is_absolute() or ".." in name.parts:
            raise UserError(f"--name {config.name!r}: it must be a folder's name under {RUNS}/", status=2)
        self.folder = RUNS / name
        typed = tuple(word.split("=", 1)[0] for word in argv if word.startswith("--"))
        chosen = any(option.startswith(typed) for option in ("--name", "--ckpt_path"))  # or shortened
        if self.command != "fit" and not chosen:
            beside = folder_beside([Path(str(path)) for path in config.config or []])
            if beside is not None:
                self.folder, config.ckpt_path = beside, None

    def plain(self, config: Namespace | None = None) -> dict[str, Any]:
        """The configuration in plain values, but for those that the data say."""
        text = self.parser.dump(config or self.config, skip_link_targets=True, skip_none=False, format="yaml")
        return yaml.safe_load(text)

    def completed(self, configuration: dict[str, Any]) -> dict[str, Any]:
        """A configuration with the defaults of the options that came after it was written; as it is where it
        has some that are no more."""
        try:
            return self.plain(self.parser.parse_object(configuration))
        except (UserError, ValueError, KeyError, TypeError):
            return configuration

    def start_from(self, path: str) -> None:
        """Start from a checkpoint instead of what the configuration names, if it names anything."""
        options = self.config.model.get("init_args") or {}
        if options.get("init_from") is not None:
            options["init_from"] = path

    @cached_property
    def options(self) -> list[str]:
        """The options in play, the classes' own among them, dotted: data's before the model's before the
        rest."""
        order = {"data": 0, "model": 1, "trainer": 2}
        found = sorted(flatten(self.plain()), key=lambda name: order.get(name.partition(".")[0], 3))
        return [*found, "data", "model"]

    def make(self) -> Namespace:
        """Data, model, callbacks, and what the trainer is given, made from the configuration.

        Raises:
            UserError: a class won't have its arguments.
        """
        try:
            return self.parser.instantiate_classes(self.config)
        except ValueError as error:  # jsonargparse's account of what the class said, perhaps
            if our_own(error) is None and "Does not validate" not in str(error):
                raise
            raise our_own(error) or UserError(explain(str(error)), status=2) from error
