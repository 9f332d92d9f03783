"""Metrics of the field as `torchmetrics.Metric` classes, whose states reduce over processes.

`update` takes a batch, `compute` gives a dictionary of plain names and scalars, `reset` forgets. Importing
this package imports no torch: names are looked up when first used.
"""

from importlib import import_module

_HOMES = {
    "AnswerScores": "lm.metrics.answers",
    "ClassificationScores": "lm.metrics.classification",
    "EntityScores": "lm.metrics.entities",
    "MeanLoss": "lm.metrics.language",
    "PreferenceScores": "lm.metrics.preferences",
    "RegressionScores": "lm.metrics.classification",
    "SummaryScores": "lm.metrics.text",
    "TokenLoss": "lm.metrics.language",
    "TranslationScores": "lm.metrics.text",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
