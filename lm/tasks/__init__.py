"""Tasks: a backbone, a head, a loss and its metrics. One file each.

Names are looked up when first used: what fine-tuning needs is not imported for pretraining.
"""

from importlib import import_module

_HOMES = {
    "CausalPretraining": "causal",
    "FineTuning": "finetuning",
    "InstructionTuning": "instruction",
    "MaskedPretraining": "masked",
    "PreferenceTuning": "preference",
    "Pretraining": "pretraining",
    "QuestionAnswering": "question_answering",
    "SequenceClassification": "sequence_classification",
    "Task": "base",
    "TokenClassification": "token_classification",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lm.tasks.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
