"""How good a model is: tasks of lm-evaluation-harness, comparisons, and texts rated by a model."""

from typing import TYPE_CHECKING

from lm.lazy import lazy

if TYPE_CHECKING:
    from lm.evaluation.callback import Evaluation
    from lm.evaluation.measure import evaluate
    from lm.evaluation.quality import ModelScore

__all__ = ["Evaluation", "ModelScore", "evaluate"]

__getattr__, __dir__ = lazy(
    __name__, {"Evaluation": "callback", "ModelScore": "quality", "evaluate": "measure"}
)
