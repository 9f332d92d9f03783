"""Tasks of `lm eval` while a model is trained, on TensorBoard."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lm.backbone import LanguageModel
from lm.errors import UserError
from lm.predictor import while_training


class Evaluation(Callback):
    """Measures the model by tasks at validations; what it draws does not change the training.

    In a configuration, below `trainer`:

        callbacks+: [{class_path: lm.evaluation.Evaluation, init_args: {tasks: [hellaswag]}}]

    Args:
        tasks: see `lm.evaluation.tasks.load_tasks`.
        every_n_validations: how often.
        limit: examples of each task; None: all, which takes as long as it takes.
        shots: examples that are shown first; None: as the task has it.
        data_dir: where the tasks' files are looked for.

    Raises:
        UserError: when training begins: the model is none that writes or fills gaps, or is sharded.
    """

    def __init__(
        self,
        tasks: list[str],
        every_n_validations: int = 1,
        limit: int | None = 200,
        shots: int | None = None,
        data_dir: str = "data",
    ) -> None:
        if not tasks or every_n_validations < 1:
            raise UserError("Evaluation wants `tasks`, and `every_n_validations` of at least 1", status=2)
        self.tasks, self.limit, self.shots, self.data_dir = tasks, limit, shots, data_dir
        self.every_n_validations, self._validations = every_n_validations, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from lm.evaluation.tasks import load_tasks

        if not isinstance(pl_module.net, LanguageModel):
            raise UserError("Evaluation measures models that write or fill gaps, not classifiers")
        if pl_module.device_mesh is not None:
            raise UserError(
                "Evaluation can't measure a model that is sharded: use `lm eval` on its checkpoints"
            )
        if trainer.is_global_zero:  # a name that is none is said before hours of training
            load_tasks(self.tasks, self.data_dir)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0 and trainer.is_global_zero:
            figures = self._measure(pl_module)
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)

    def _measure(self, task: Any) -> dict[str, float]:
        from lm.evaluation.measure import evaluate

        with while_training(task) as predictor:
            results, _ = evaluate(
                predictor, self.tasks, self.shots, self.limit, 0, None, False, self.data_dir
            )
        return {
            f"eval/{result.task}/{name}": metric["value"]
            for result in results
            for name, metric in result.metrics.items()
        }
