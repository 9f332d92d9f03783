"""The words of a command: from what was typed to a configuration, and from it to data and model.

The parser is LightningCLI's: any class works by its `class_path`, configurations compose, `--print_config`
and `--data.help CLASS` answer. What LightningCLI does after parsing a run does itself, for it looks at its
folder before anything is made.
"""

import contextlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import Field, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # LightningCLI's parser causes them

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace

from lm.backbone import BackboneConfig
from lm.callbacks import Monitor, RunCheckpoints, Samples
from lm.callbacks.summary import flatten
from lm.convert import located
from lm.data.loading import Data
from lm.errors import UserError
from lm.options import no_such_option
from lm.run.configs import find, is_configuration
from lm.run.folder import RUNS, folder_beside
from lm.run.given import Given, elsewhere
from lm.run.names import in_words, options_in, renewed
from lm.run.trainer import TrainerOptions
from lm.run.usage import Configuration, Parser, UnknownOption, explain, our_own
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
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c", "--config", action=Configuration, help="a YAML file, or its name; several are composed"
    )
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0, help="of every generator; true: a random one"
    )
    parser.add_lightning_class_args(TrainerOptions, "trainer")
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


# Options that other options come with.
_CHOOSING = ("--config", "-c", "--data", "--model", "--model.optimizer", "--model.schedule")


class Words:
    """What was typed, as a configuration.

    Args:
        argv: the command and its options.
        held: what has to be given back when the command ends.
        seed: of several runs of one command, this one's: it becomes the folder `<name>/seed-<seed>`.

    Attributes:
        config: every option's value.
        given: a model that stands in the place of a configuration.
        folder: of the run. What a run's own config.yaml evaluates is the run in whose folder it stands: the
            name and ckpt_path in it say how it began, and it may have been copied or renamed since.

    Raises:
        UserError: an option is none, or its value can't be.
    """

    def __init__(self, argv: list[str], held: ExitStack, seed: int | None = None) -> None:
        self.command, self.seed = argv[0], seed
        self.given: Given | None = None
        self.parser = make_parser(self.command)
        argv = in_words(self._given_first(argv, held))
        argv += renewed(argv)
        try:
            self.config: Namespace = self.parser.parse_args(argv[1:])
        except UnknownOption as error:
            names = (option.lstrip("-") for option, _ in options_in(argv))
            typed = next((name for name in names if f".{name}".endswith(f".{error.name}")), None)
            known = self._all_options(argv) if typed else error.known
            shows = "`--print_config` shows all"
            raise no_such_option(typed or error.name, known, shows, typed is not None) from error
        config = self.config
        if config.seeds is not None:
            raise UserError("seeds belong to the command line of `lm fit`: --seeds 0,1,2", status=2)
        if seed is not None:
            config.name, config.seed_everything = f"{config.name}/seed-{seed}", seed
            options = config.data.get("init_args", {})
            if "seed" in options:
                options["seed"] += seed  # another order of the examples, too
        data, start = config.data.get("init_args", {}), config.model.get("init_args", {}).get("init_from")
        if start is not None and "corpus" in data and data.get("tokenizer", start) is None:
            data.tokenizer = start  # pretraining goes on in the tokens that the model knows
        if not 0 <= int(config.seed_everything) < 1 << 32:
            said = f"--seed_everything {config.seed_everything}: it must be from 0 to {(1 << 32) - 1}"
            raise UserError(said, status=2)
        name = Path(config.name)
        if not name.parts or name.is_absolute() or ".." in name.parts:
            raise UserError(f"--name {config.name!r}: it must be a folder's name under {RUNS}/", status=2)
        self.folder = RUNS / name
        if self.given and self.given.folder:
            self.folder = self.given.folder
        chosen = {"--name", "--ckpt_path"}.intersection(dict(options_in(argv)))
        if self.command != "fit" and not chosen:
            beside = folder_beside([Path(str(path)) for path in config.config or []])
            if beside is not None:
                self.folder, config.ckpt_path = beside, None

    def _given_first(self, argv: list[str], held: ExitStack) -> list[str]:
        """What stands before the options are configurations, `lm fit FILE` means `lm fit --config FILE`; or a
        model that is measured. What a configuration names lies where its run was begun."""
        at = next((i for i, word in enumerate(argv[1:], start=1) if word.startswith("-")), len(argv))
        words = [argv[0]]
        for word in argv[1:at]:
            if self.command == "fit" or self.given or is_configuration(word):
                words += ["--config", word]
            else:
                typed = {*dict(options_in(argv)), *(["--config"] if at > 2 else [])}
                self.given = Given(word, typed, held)
                words += self.given.words
        found: list[str] = []
        for before, word in pairwise(["", *words, *argv[at:]]):
            found.append(word)
            option, _, value = word.partition("=")
            file = word if before in ("-c", "--config") else value if option == "--config" else ""
            if file:
                found += elsewhere(find(file))
        return found

    def _all_options(self, argv: list[str]) -> list[str]:
        """The options of what the configurations and classes among the words say, in `options`' order."""
        words = [word for pair in options_in(argv) if pair[0] in _CHOOSING for word in pair]
        with contextlib.suppress(UserError):
            self.config = self.parser.parse_args(words)
            return self.options
        return [action.dest for action in self.parser._actions]

    def plain(self, config: Namespace | None = None) -> dict[str, Any]:
        """The configuration in plain values, but for those that the data say."""
        text = self.parser.dump(
            config or self.config,
            format="yaml",
            skip_link_targets=True,
            skip_none=False,
            skip_validation=True,  # parsing did it, which takes three quarters of the time
        )
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
        start, data = options.get("init_from"), self.config.data.get("init_args") or {}
        if start is not None:
            options["init_from"] = path
            if data.get("tokenizer") == start:
                data["tokenizer"] = path

    @cached_property
    def options(self) -> list[str]:
        """The options in play, the classes' own among them, dotted: data's before the model's before the
        rest."""
        order = {"data": 0, "model": 1, "trainer": 2}
        found = sorted(flatten(self.plain()), key=lambda name: order.get(name.partition(".")[0], 3))
        return [*found, "data", "model"]

    def _named(self, value: Any) -> Any:
        """A logger's options with `{run}` replaced by the run's folder, and `{name}` by its name."""
        if isinstance(value, list):
            return [self._named(each) for each in value]
        if isinstance(value, Namespace):
            return Namespace({key: self._named(each) for key, each in vars(value).items()})
        if isinstance(value, str):
            name = self.folder.name if self.given else self.config.name
            return value.replace("{run}", str(self.folder)).replace("{name}", name)
        return value

    def make(self) -> Namespace:
        """Data, model, callbacks, and what the trainer is given, made from the configuration.

        Raises:
            UserError: a class won't have its arguments, or there is no model to start from.
        """
        if self.config.trainer.logger is not None:
            self.config.trainer.logger = self._named(self.config.trainer.logger)
        start = (self.config.model.get("init_args") or {}).get("init_from")
        if start is not None and self.config.data.get("init_args", {}).get("tokenizer") == start:
            located(start)  # else the data would miss a tokenizer, where a model is missing
        try:
            return self.parser.instantiate_classes(self.config)
        except ValueError as error:  # jsonargparse's account of what the class said, perhaps
            if our_own(error) is None and "Does not validate" not in str(error):
                raise
            raise our_own(error) or UserError(explain(str(error)), status=2) from error
