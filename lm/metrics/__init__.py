"""Metrics of the field as `torchmetrics.Metric` classes, whose states reduce over processes.

`update` takes a batch, `compute` gives a dictionary of plain names and scalars, `reset` forgets. Importing
this package imports no torch: names are looked up when first used.
"""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AnswerScores": "answers",
        "ClassificationScores": "classification",
        "CorpusLosses": "language",
        "DetectionScores": "detection",
        "EmotionScores": "speech",
        "EntityScores": "entities",
        "InstanceScores": "detection",
        "MeanLoss": "language",
        "PreferenceScores": "preferences",
        "RegressionScores": "classification",
        "SegmentationScores": "segmentation",
        "SpeechScores": "speech",
        "SummaryScores": "text",
        "TokenLoss": "language",
        "TranslationScores": "text",
    },
)
