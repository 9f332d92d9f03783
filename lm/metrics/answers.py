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

from lm.metrics.base import Sums, ratio, reference_lists
from lm.metrics.chinese import apart, has_chinese

_ASCII_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str, chinese: bool = False) -> str:
    """What of an answer counts: its tokens in lower case with one space between.

    Args:
        text: the answer.
        chinese: by the rules for Chinese; else by those for English.
    """
    text = text.lower()
    if chinese:
        return " ".join(apart("".join(char for char in text if not _is_punctuation(char))).split())
    text = "".join(char for char in text if char not in _ASCII_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_tokens(text: str, chinese: bool = False) -> list[str]:
    """The tokens of an answer that count; words, in Chinese characters and words. Arguments as above."""
    return normalize_answer(text, chinese).split()


def _is_punctuation(char: str) -> bool:
    return char in _ASCII_PUNCTUATION or unicodedata.category(char).startswith("P")


def _f1(prediction: list[str], answer: list[str]) -> float:
    """F1 of two bags of tokens; without a token on either side 1 if both have none."""
    if not prediction or not answer:
        return float(prediction == answer)
    return 2 * (Counter(prediction) & Counter(answer)).total() / (len(prediction) + len(answer))


class AnswerScores(Sums):
    """Exact match and F1 of predicted answers, in percent as the official scripts print them. An example
    counts as Chinese that has a Chinese character in its prediction or answers."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("questions", "matches"):
            self.add_sum(name, 2)  # unanswerable, answerable
        self.add_sum("overlap", 2, dtype=torch.float32)

    def update(self, predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Add questions.

        Args:
            predictions: one answer each; an empty one says that there is none.
            answers: all right answers of each question, of which the closest counts; none for an unanswerable
                question.

        Raises:
            ValueError: not as many lists of answers as predictions.
        """
        counts = torch.zeros(2, 2, dtype=torch.int64)
        overlap = torch.zeros(2, dtype=torch.float64)
        for prediction, texts in zip(
            predictions, reference_lists(predictions, answers, needed=False), strict=True
        ):
            chinese = any(map(has_chinese, [prediction, *texts]))
            guess = answer_tokens(prediction, chinese)
            # As in the script, answers of which nothing is left do not count beside others.
            right = [tokens for text in texts if (tokens := answer_tokens(text, chinese))] or [[]]
            answerable = int(bool(texts))
            counts[0, answerable] += 1
            counts[1, answerable] += guess in right
            overlap[answerable] += max(_f1(guess, tokens) for tokens in right)
        self.increase("questions", counts[0])
        self.increase("matches", counts[1])
        self.increase("overlap", overlap)

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
