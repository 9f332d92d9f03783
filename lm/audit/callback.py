"""An audit while a model is trained, on TensorBoard."""

from typing import Any

from lightning.pytorch import Trainer

from lm.audit.audit import perform, read_audit
from lm.audit.history import History, Run
from lm.audit.private.training import PrivateTraining
from lm.audit.subject import Subject
from lm.callbacks import AtValidations
from lm.data.corpus.shards import Corpus
from lm.errors import UserError
from lm.predictor import while_training


class Auditing(AtValidations):
    """Looks at the model at validations, for so many seconds; what it draws does not change the training.

    In a configuration, below `trainer`:

        callbacks+: [{class_path: lm.audit.Auditing, init_args: {seconds: 20}}]

    Figures are logged as `audit/CHECK.FIGURE`, and as `audit/not_kept` how many thresholds are not kept, by
    which nothing is stopped.

    Args:
        config: the checks, as for `lm audit`.
        seconds: that all checks have together at a validation. What of a check takes longer is measured on
            fewer things, at least one batch of each.
        every_n_validations: how often.
        data_dir: where the checks' files are looked for.

    Raises:
        UserError: when training begins: there is no such configuration, or the model is sharded.
    """

    def __init__(
        self,
        config: str = "audit/training",
        seconds: float = 20,
        every_n_validations: int = 1,
        data_dir: str = "data",
    ) -> None:
        super().__init__(every_n_validations)
        if not seconds > 0:
            raise UserError(f"Auditing: `seconds` {seconds:g}: it must be above 0", status=2)
        self.audit, self.seconds, self.data_dir = read_audit(config), seconds, data_dir

    def measure(self, trainer: Trainer, task: Any) -> dict[str, float]:
        corpus, history = _seen(trainer)
        missing = "what it has seen of one corpus is not known"
        with while_training(task) as model:
            subject = Subject(model, corpus, self.data_dir, 0, history, missing)
            report = perform(self.audit, subject, seconds=self.seconds)
        figures = {
            f"audit/{part['name']}.{name}": figure["value"]
            for part in report["checks"]
            for name, figure in part.get("figures", {}).items()
        }
        if report["thresholds"]:
            figures["audit/not_kept"] = float(sum(not gate["kept"] for gate in report["thresholds"]))
        return figures


def _seen(trainer: Any) -> tuple[Corpus | None, History | None]:
    """The corpus that a run learns from, and what of it the model has seen by now; see `run_of`."""
    data = trainer.datamodule
    corpus, state = data.corpus, data.state_dict()
    private = [each for each in trainer.callbacks if isinstance(each, PrivateTraining)]
    secret = trainer.overfit_batches or any(each.secure for each in private)
    if corpus is None or data.mixed or secret:
        return None, None
    done = state["loader"]["epoch"], state["loader"]["samples"]
    own = data.source, corpus.identity, data.seq_len, data.seed
    run = Run(*own, *done, state["step_samples"], bool(private))
    return corpus, History(run, corpus)
