"""The figures of the end: `summary.json` for scripts, hyperparameters with their metrics on TensorBoard."""

import json
import math
import time
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lm.callbacks.checkpoints import RunCheckpoints
from lm.callbacks.files import SUMMARY
from lm.callbacks.logs import beside_tensorboard, log_figures, log_text
from lm.callbacks.monitor import Monitor, figures_of, validation_tags
from lm.files import write_atomically


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; class paths by their last name, lists as text."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            plain = value if isinstance(value, int | float | bool | str) else str(value)
            flat[f"{prefix}{key}"] = plain
    return {k.replace(".init_args", ""): v for k, v in flat.items()}


class Summary(Callback):
    """Writes `summary.json` when a run is finished, which was `started` so many seconds since the epoch."""

    def __init__(
        self,
        folder: Path,
        configuration: dict[str, Any],
        monitor: Monitor,
        checkpoints: RunCheckpoints,
        started: float,
    ) -> None:
        self.folder, self.configuration, self.started = Path(folder), configuration, started
        self.monitor, self.checkpoints = monitor, checkpoints
        self._earlier = 0.0  # wall seconds of the processes before this one

    def state_dict(self) -> dict[str, Any]:
        return {"wall_seconds": self.wall_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = state_dict["wall_seconds"]

    @property
    def wall_seconds(self) -> float:
        """Since the command was typed, preparing included; of all the run's processes in turn."""
        return self._earlier + time.time() - self.started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        text = yaml.safe_dump(self.configuration, sort_keys=False, allow_unicode=True)
        log_text(trainer, "configuration", text)
        for logger in beside_tensorboard(trainer):  # its own table has figures, at the end
            logger.log_hyperparams(flatten(self.configuration))

    def write(
        self, trainer: Trainer, pl_module: LightningModule, test: dict[str, float] | None = None
    ) -> dict[str, Any]:
        """Write and return the figures. `val_…` are of the last weights, `best_val_…` and `test_…` of
        `best.ckpt`; without a validation there is none, and `test_…` are of the last weights too.

        Args:
            test: the test part's figures, by names such as `test/accuracy`.
        """
        figures = figures_of(trainer)
        tags = {f"{name.removeprefix('test/')}/test": value for name, value in (test or {}).items()}
        if tags:
            log_figures(trainer, tags)
        validated = self.checkpoints.best_step >= 0
        summary = {
            "finished": True,
            "steps": trainer.global_step,
            "val_loss": figures.pop("loss", None),
            **{n: figures.pop(n) for n in ("perplexity", "bits_per_byte") if n in figures},
            **{f"val_{name}": value for name, value in figures.items()},
            **{name.replace("/", "_"): value for name, value in (test or {}).items()},
            f"best_val_{self.checkpoints.figure}": self.checkpoints.best if validated else None,
            "best_step": self.checkpoints.best_step if validated else None,
            f"{self.monitor.unit}_seen": self.monitor.seen,
            f"{self.monitor.unit}_per_second": round(self.monitor.per_second, 1),
            "train_seconds": round(self.monitor.train_seconds, 2),
            "waiting_for_data": round(self.monitor.waiting, 4),
            "wall_seconds": round(self.wall_seconds, 2),
            "parameters": pl_module.net.num_parameters(),
            "training_flops_per_token": pl_module.net.training_flops_per_token(pl_module.positions),
            "corpus": trainer.datamodule.source,
            "seed": self.configuration.get("seed_everything"),
            **pl_module.added(),
        }
        if trainer.is_global_zero:
            metrics = validation_tags(trainer)  # the hyperparameters' table shows their last values
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.log_hyperparams(flatten(self.configuration), metrics, step=trainer.global_step)
                logger.save()
            # JSON has no NaN, which Pearson's correlation is where the ratings are all the same.
            finite = {
                k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in summary.items()
            }
            write_atomically(self.folder / SUMMARY, json.dumps(finite, indent=2) + "\n")
        return summary
