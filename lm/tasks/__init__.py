"""Tasks: a backbone, a head, a loss and its metrics. One file each.

Names are looked up when first used: what fine-tuning needs is not imported for pretraining.
"""

from lm.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
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
    },
)
