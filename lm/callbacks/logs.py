"""What goes to the loggers of a run: figures to each, texts and pictures to those that can show them."""

from collections.abc import Mapping

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger


def log_figures(trainer: Trainer, figures: Mapping[str, float]) -> None:
    """Put figures at the optimizer step, not at Lightning's count of batches."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(figures), trainer.global_step)


def log_text(trainer: Trainer, tag: str, text: str) -> None:
    """Put a text as it is, without Markdown's reading of it."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            fenced = "```\n" + text.replace("```", "'''") + "\n```"
            logger.experiment.add_text(tag, fenced, trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(tag, columns=["step", "text"], data=[[trainer.global_step, text]])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, _file(trainer, tag, "txt"))


def log_picture(trainer: Trainer, tag: str, picture: np.ndarray) -> None:
    """Put a picture, uint8 (H, W, 3)."""
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, picture, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [picture])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, _file(trainer, tag, "png"))


def _file(trainer: Trainer, tag: str, ending: str) -> str:
    return f"{tag}/{trainer.global_step:08d}.{ending}"


def beside_tensorboard(trainer: Trainer) -> list[Logger]:
    """The loggers beside TensorBoard's."""
    return [logger for logger in trainer.loggers if not isinstance(logger, TensorBoardLogger)]
