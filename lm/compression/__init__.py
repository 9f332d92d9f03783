"""Compression: smaller and faster models from large ones.

Names are looked up when first used; each is a task to be named by its class path, or a function.
"""

from lm.lazy import lazy

DISTILLED = (
    "DistilledCausalPretraining",
    "DistilledMaskedPretraining",
    "DistilledSequenceClassification",
    "DistilledTokenClassification",
    "DistilledQuestionAnswering",
    "DistilledInstructionTuning",
)

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Distillation": "distillation",
        "DistilledFineTuning": "distillation",
        "QuantisationAware": "aware",
        "drop_layers": "student",
        "quantise": "rounding",
        "KeepZeros": "zeros",
        "shrink": "structure",
        "sparsify": "sparsity",
    }
    | dict.fromkeys(DISTILLED, "distilled"),
)
