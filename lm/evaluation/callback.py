"""Tasks of `lm eval` while a model is trained, on TensorBoard."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lm.backbone import LanguageModel
from lm.callbacks import AtValidations
from lm.errors import UserError
from lm.predictor import while_training


class Evaluation(AtValidations):
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
        super().__init__(every_n_validations)
        if not tasks:
            raise UserError("Evaluation wants `tasks`", status=2)
        self.tasks, self.limit, self.shots, self.data_dir = tasks, limit, shots, data_dir

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from lm.evaluation.tasks import load_tasks

        if not isinstance(pl_module.net, LanguageModel):
            raise UserError("Evaluation measures models that write or fill gaps, not classifiers")
        super().on_fit_start(trainer, pl_module)
        if trainer.is_global_zero:  # a name that is none is said before hours of training
            load_tasks(self.tasks, self.data_dir)

    def measure(self, trainer: Trainer, task: Any) -> dict[str, float]:
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
