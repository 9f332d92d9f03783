"""The trainer of a run, with the callbacks that every run has."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lm.callbacks import Monitor, Progress, RandomState, RunCheckpoints, Samples, Summary
from lm.callbacks.checkpoints import RunCheckpointIO
from lm.errors import UserError
from lm.run.folder import RUNS
from lm.run.report import Opening
from lm.run.resume import Resumed


@dataclass
class Watch:
    """What is asked for its figures when training is over."""

    monitor: Monitor
    checkpoints: RunCheckpoints
    samples: Samples
    summary: Summary

    @classmethod
    def make(cls, options: Any, folder: Path, configuration: dict[str, Any], started: float) -> Self:
        """The callbacks of a run.

        Args:
            options: with the person's `monitor`, `checkpoint` and `sample`.
            folder, configuration, started: see `Summary`.
        """
        monitor, checkpoints = Monitor(**options.monitor), RunCheckpoints(folder, **options.checkpoint)
        summary = Summary(folder, configuration, monitor, checkpoints, started)
        return cls(monitor, checkpoints, Samples(**options.sample), summary)


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
    ):
        warnings.filterwarnings("ignore", message=message)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def make_trainer(options: dict[str, Any], watch: Watch, training: bool, resumed: Resumed | None) -> Trainer:
    """The trainer.

    Args:
        options: what the person gives it; their callbacks and plugins join the run's.
        training: whether it is to train, and not only to evaluate.
        resumed: what it goes on from.

    Raises:
        UserError: it won't have an option.
    """
    callbacks, plugins, logger = _listed(options["callbacks"]), _listed(options["plugins"]), options["logger"]
    folder, configuration = watch.summary.folder, watch.summary.configuration
    if training:
        opening = Opening(folder, configuration, resumed)
        ours = [watch.monitor, Progress(watch.monitor), watch.samples, watch.summary, RandomState(), opening]
        callbacks = [*ours, *callbacks, watch.checkpoints]
    if not training:
        logger = False
    elif logger in (None, True):
        # What a killed process logged after its last checkpoint is logged again: drop it.
        purge = resumed.step + 1 if resumed and resumed.step else None
        name = str(folder.relative_to(RUNS))
        logger = TensorBoardLogger(RUNS, name=name, version="", default_hp_metric=False, purge_step=purge)
    plugins.append(RunCheckpointIO(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)))
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # our own handler saves and stops
    try:
        return Trainer(**{**options, "callbacks": callbacks, "plugins": plugins, "logger": logger})
    except (ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}", status=2) from error
