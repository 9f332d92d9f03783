"""What looks at a model at validations, and leaves the training as it is."""

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lm.errors import UserError


class AtValidations(Callback):
    """Measures the model at validations, on the first process; the figures go to the loggers.

    Args:
        every_n_validations: how often.

    Raises:
        UserError: that is below 1; or, when training begins, the model is sharded.
    """

    def __init__(self, every_n_validations: int = 1) -> None:
        if every_n_validations < 1:
            raise UserError(f"`every_n_validations` {every_n_validations}: it must be at least 1", status=2)
        self.every_n_validations, self._validations = every_n_validations, 0

    @abstractmethod
    def measure(self, trainer: Trainer, task: Any) -> dict[str, float]:
        """The figures by their tags; see `lm.predictor.while_training`."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device_mesh is not None:
            what = f"{type(self).__name__} can't measure a model that is sharded"
            raise UserError(f"{what}: measure its checkpoints afterwards")

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0 and trainer.is_global_zero:
            figures = self.measure(trainer, pl_module)
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)
