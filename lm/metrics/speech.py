"""Recognised speech against what was said: error rates of words and characters; and emotions, by recall."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from lm.metrics.base import TextScores, ratio
from lm.metrics.chinese import apart
from lm.metrics.classification import ClassificationScores

Op = Literal["equal", "substitution", "deletion", "insertion"]
_ERRORS = ("substitution", "deletion", "insertion")
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")  # one that is part of a word


class Step(NamedTuple):
    """One step of an alignment: what was said and what was recognised; None where there is nothing."""

    op: Op
    reference: str | None
    hypothesis: str | None


def transcript(text: str, case: bool = False, punctuation: bool = False) -> str:
    """What of a transcript counts: Unicode's compatible form (NFKC), with one space between words.

    Args:
        case: whether upper and lower case differ.
        punctuation: whether it counts, with symbols; else there is a space in its place, but for an
            apostrophe within a word (and ’ is one).
    """
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    if not case:
        text = text.lower()
    if not punctuation:
        kept = {match.start() for match in _APOSTROPHE.finditer(text)}
        text = "".join(
            " " if unicodedata.category(char)[0] in "PS" and place not in kept else char
            for place, char in enumerate(text)
        )
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """The words of a text; each Chinese character is one."""
    return apart(text).split()


def alignment(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Step]:
    """How one becomes the other in the fewest steps, as Levenshtein counts: words or characters, in their
    order. Of several such ways it is one with substitutions rather than deletions and insertions."""
    numbers: dict[str, int] = {}
    said, heard = (
        np.array([numbers.setdefault(each, len(numbers)) for each in side], dtype=np.int64)
        for side in (reference, hypothesis)
    )
    columns = np.arange(len(heard) + 1)
    table = np.empty((len(said) + 1, len(heard) + 1), dtype=np.int64)  # steps from one start to the other
    table[0] = columns
    for i, each in enumerate(said):
        row = table[i] + 1  # it is left out
        row[1:] = np.minimum(row[1:], table[i, :-1] + (heard != each))
        # An insertion comes after the best that stands to the left of it.
        table[i + 1] = np.minimum.accumulate(row - columns) + columns
    steps, i, j = [], len(said), len(heard)
    while i or j:
        different = i and j and said[i - 1] != heard[j - 1]
        if i and j and table[i, j] == table[i - 1, j - 1] + different:
            i, j = i - 1, j - 1
            steps.append(Step("substitution" if different else "equal", reference[i], hypothesis[j]))
        elif i and table[i, j] == table[i - 1, j] + 1:
            i -= 1
            steps.append(Step("deletion", reference[i], None))
        else:
            j -= 1
            steps.append(Step("insertion", None, hypothesis[j]))
    return steps[::-1]


class SpeechScores(TextScores):
    """Error rates of words and of characters: errors of all texts, over what all references have.

    A Chinese character counts as a word, so that what has words in both scripts has one figure (the mixed
    error rate). Of several references the one with the fewest errors of words counts.

    Args:
        case, punctuation: whether they count; see `transcript`.
    """

    def __init__(self, case: bool = False, punctuation: bool = False) -> None:
        super().__init__()
        self.case, self.punctuation = case, punctuation
        # What the references have, and substitutions, deletions and insertions.
        self.add_sums("words", "characters", shape=(4,))

    def add(self, predictions: Sequence[str], references: list[list[str]]) -> None:
        for prediction, texts in zip(predictions, references, strict=True):
            heard = self._text(prediction)
            found = [(_counts(words(said), words(heard)), said) for said in map(self._text, texts)]
            counts, said = min(found, key=lambda each: sum(each[0][1:]))
            self.increase(words=counts, characters=_counts(said, heard))

    def _text(self, text: str) -> str:
        return transcript(text, self.case, self.punctuation)

    def compute(self) -> dict[str, Tensor]:
        """`word_error_rate` and `character_error_rate`, 0 where all is right and more than 1 where most is
        invented, not a number without a word; and how many `substitutions`, `deletions` and `insertions` of
        words there are."""
        return {
            "word_error_rate": ratio(self.words[1:].sum(), self.words[0]),
            "character_error_rate": ratio(self.characters[1:].sum(), self.characters[0]),
            **{f"{name}s": self.words[number] for number, name in enumerate(_ERRORS, start=1)},
        }


def _counts(reference: Sequence[str], hypothesis: Sequence[str]) -> list[int]:
    ops = Counter(step.op for step in alignment(reference, hypothesis))
    return [len(reference), *(ops[name] for name in _ERRORS)]


class EmotionScores(ClassificationScores):
    """What `ClassificationScores` has, for one label each, and the figure that the field compares."""

    def compute(self) -> dict[str, Tensor]:
        """See `ClassificationScores.compute`; and `unweighted_average_recall`, the mean over the classes that
        occur of the share that is found of each (Schuller et al. 2009, "The Interspeech 2009 Emotion
        Challenge")."""
        true = self.table.sum(dim=1)
        recall = ratio(self.table.diagonal(), true)[true > 0].mean()
        return {**super().compute(), "unweighted_average_recall": recall}
