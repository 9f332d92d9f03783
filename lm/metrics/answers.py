"""Answers to questions about a text, scored as SQuAD's official script does, Chinese as MLQA's.

English is normalised as in the evaluation script of SQuAD v2.0 (Rajpurkar et al. 2018): lower case, no ASCII
punctuation, no articles. Chinese as in that of MLQA (Lewis et al. 2020), which splits it like CMRC 2018's:
lower case, no punctuation of any script, each Chinese character a token beside words in other letters.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from lm.metrics.base import TextScores, ratio
from lm.metrics.chinese import apart, has_chinese

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str, chinese: bool = False) -> str:
    """What of an answer counts, by the rules for Chinese or English: tokens with one space between."""
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    if chinese:
        text = apart("".join(char for char in text if not unicodedata.category(char).startswith("P")))
    else:
        text = _ARTICLES.sub(" ", text)
    return " ".join(text.split())


def answer_tokens(text: str, chinese: bool = False) -> list[str]:
    """The tokens of an answer that count: words, in Chinese characters and words."""
    return normalize_answer(text, chinese).split()


def _f1(prediction: list[str], answer: list[str]) -> float:
    """F1 of two bags of tokens; without a token on either side 1 if both have none."""
    if not prediction or not answer:
        return float(prediction == answer)
    return 2 * (Counter(prediction) & Counter(answer)).total() / (len(prediction) + len(answer))


class AnswerScores(TextScores):
    """Exact match and F1 of predicted answers, in percent as the official scripts print them.

    An empty prediction says that there is no answer, and an unanswerable question has none. An example counts
    as Chinese that has a Chinese character in its prediction or answers.
    """

    needs_references = False

    def __init__(self) -> None:
        super().__init__()
        self.add_sums("questions", "matches", shape=(2,))  # unanswerable, answerable
        self.add_sums("overlap", shape=(2,), dtype=torch.float32)

    def add(self, predictions: Sequence[str], references: list[list[str]]) -> None:
        questions, matches, overlap = [0, 0], [0, 0], [0.0, 0.0]
        for prediction, texts in zip(predictions, references, strict=True):
            chinese = any(map(has_chinese, [prediction, *texts]))
            guess = answer_tokens(prediction, chinese)
            # As in the script, answers of which nothing is left do not count beside others.
            right = [tokens for text in texts if (tokens := answer_tokens(text, chinese))] or [[]]
            answerable = int(bool(texts))
            questions[answerable] += 1
            matches[answerable] += guess in right
            overlap[answerable] += max(_f1(guess, tokens) for tokens in right)
        self.increase(questions=questions, matches=matches, overlap=overlap)

    def compute(self) -> dict[str, Tensor]:
        """`exact_match` and `f1` in 0 to 100, means over questions; not a number without questions.

        Where there are unanswerable questions also `has_answer_f1` and `no_answer_f1`, the means over either
        kind (the former not a number if all are unanswerable).
        """
        figures = {
            "exact_match": 100 * ratio(self.matches.sum(), self.questions.sum()),
            "f1": 100 * ratio(self.overlap.sum(), self.questions.sum()),
        }
        if self.questions[0]:
            no_answer, has_answer = 100 * ratio(self.overlap, self.questions)
            figures |= {"has_answer_f1": has_answer, "no_answer_f1": no_answer}
        return figures
