"""The tasks of lm, learned from a teacher too: their checkpoints are the plain task's."""

import torch
from torch import Tensor

from lm.compression.distil_loss import soft_distance
from lm.compression.distillation import Distillation, DistilledFineTuning
from lm.tasks.text.causal import CausalPretraining
from lm.tasks.text.instruction import InstructionTuning
from lm.tasks.text.masked import MaskedPretraining
from lm.tasks.text.question_answering import QuestionAnswering
from lm.tasks.text.sequence_classification import SequenceClassification
from lm.tasks.text.token_classification import TokenClassification

_NEVER = -1e4  # a logit whose probability is 0, and which has a logarithm


class DistilledCausalPretraining(Distillation, CausalPretraining):
    """Pretraining a small GPT on a text and on what a larger one with its tokenizer expects there."""


class DistilledMaskedPretraining(Distillation, MaskedPretraining):
    """Pretraining a small BERT on masked tokens and on a larger one's guesses at them."""


class DistilledInstructionTuning(DistilledFineTuning, InstructionTuning):
    """Tuning a small chat model on answers and on what a larger one expects at each of their tokens."""


class DistilledSequenceClassification(DistilledFineTuning, SequenceClassification):
    """Training a small classifier on labels and on a larger one's probabilities, or ratings."""

    def disagreement(self, batch: dict[str, Tensor], student: Tensor, teacher: Tensor) -> Tensor:
        if self.kind == "rating":
            return (student - teacher).square().sum()
        if self.kind == "multi":  # each label for itself: σ(z) is the softmax of z and 0
            student, teacher = (torch.stack((z, torch.zeros_like(z)), -1) for z in (student, teacher))
        return soft_distance(student, teacher, self.temperature)


class DistilledTokenClassification(DistilledFineTuning, TokenClassification):
    """Training a small tagger on tags and on a larger one's probabilities of them."""

    def disagreement(self, batch: dict[str, Tensor], student: Tensor, teacher: Tensor) -> Tensor:
        counted = batch["targets"] >= 0
        return soft_distance(student[counted], teacher[counted], self.temperature)


class DistilledQuestionAnswering(DistilledFineTuning, QuestionAnswering):
    """Training a small finder of answers on their places and on where a larger one looks for them."""

    def disagreement(self, batch: dict[str, Tensor], student: Tensor, teacher: Tensor) -> Tensor:
        shut = batch["allowed"][..., None] == 0
        student, teacher = (z.masked_fill(shut, _NEVER) for z in (student, teacher))
        return soft_distance(student, teacher, self.temperature, dim=1) / 2  # as the loss: starts and ends
