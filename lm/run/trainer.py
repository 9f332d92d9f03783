"""The trainer of a run, quiet and with what every run has."""

import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lm.callbacks.checkpoints import RunCheckpointIO
from lm.engine.lightning import Precision
from lm.errors import UserError
from lm.run.folder import RUNS


class TrainerOptions(Trainer):
    """The trainer's options: `precision` may be auto, too. See `lm.run.machine`."""

    def __init__(self, *, precision: Precision | Literal["auto"] | None = None, **kwargs: Any) -> None:
        super().__init__(precision=None if precision == "auto" else precision, **kwargs)


def quiet() -> None:
    """Keep Lightning from talking over the run; what goes wrong is still said."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*GPU available but not used.*",
        ".*Checkpoint directory.*exists.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*LeafSpec.*",
        ".*It is recommended to use `self.log.*sync_dist.*",  # the metric has summed over all processes
        ".*already configured with model summary.*",
        ".*Skipping device.*",
        ".*callbacks used to create the checkpoint.*",
        ".*but have no logger configured.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def make_trainer(
    options: dict[str, Any],
    callbacks: list[Callback],
    folder: Path,
    configuration: dict[str, Any],
    step: int,
    training: bool,
) -> Trainer:
    """The trainer.

    Args:
        options: what the person gives it; their callbacks, plugins and logger go before the run's.
        callbacks: the run's; the last comes after the person's.
        folder: of the run.
        configuration: the run's, in plain values.
        step: that training goes on from.
        training: whether it is to train: what is only evaluated is not logged.

    Raises:
        UserError: it won't have an option.
    """
    plugins, given = _listed(options["plugins"]), options["logger"]
    loggers = [] if given is None or isinstance(given, bool) else _listed(given)
    if training and given is not False and not any(isinstance(each, TensorBoardLogger) for each in loggers):
        # What a killed process logged after its last checkpoint is logged again: drop it.
        name, purge = str(folder.relative_to(RUNS)), step + 1 if step else None
        board = TensorBoardLogger(RUNS, name=name, version="", default_hp_metric=False, purge_step=purge)
        loggers.insert(0, board)
    logger = loggers if training and loggers else False
    plugins.append(RunCheckpointIO(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)))
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # our own handler saves and stops
    callbacks = [*callbacks[:-1], *_listed(options["callbacks"]), *callbacks[-1:]]
    try:
        return Trainer(**{**options, "callbacks": callbacks, "plugins": plugins, "logger": logger})
    except (ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}", status=2) from error
