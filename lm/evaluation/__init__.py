"""How good a model is: tasks of lm-evaluation-harness, comparisons, and texts rated by a model."""

from typing import TYPE_CHECKING

from lm.lazy import lazy

if TYPE_CHECKING:
    from lm.evaluation.callback import Evaluation
    from lm.evaluation.comparison.predictions import prediction_figures
    from lm.evaluation.comparison.statistics import Series, binomial_interval, holm, paired, student_quantile
    from lm.evaluation.comparison.tested import command_of, predicted, test_examples
    from lm.evaluation.measure import evaluate
    from lm.evaluation.quality import ModelScore

_HOMES = {
    "Evaluation": "callback",
    "ModelScore": "quality",
    "Series": "comparison.statistics",
    "binomial_interval": "comparison.statistics",
    "command_of": "comparison.tested",
    "evaluate": "measure",
    "holm": "comparison.statistics",
    "paired": "comparison.statistics",
    "predicted": "comparison.tested",
    "prediction_figures": "comparison.predictions",
    "student_quantile": "comparison.statistics",
    "test_examples": "comparison.tested",
}
__all__ = [
    "Evaluation",
    "ModelScore",
    "Series",
    "binomial_interval",
    "command_of",
    "evaluate",
    "holm",
    "paired",
    "predicted",
    "prediction_figures",
    "student_quantile",
    "test_examples",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
