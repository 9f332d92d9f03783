"""What checks of a model's words are made of: prompts from a file, and a classifier that judges answers."""

from collections.abc import Sequence

import numpy as np

from lm.audit.subject import Subject
from lm.errors import UserError, some
from lm.inference.lines import read_lines
from lm.tokenizer.template import chat_format_of


def chats(subject: Subject) -> bool:
    """Whether a model has learned to chat, and in a format that is known."""
    if not (subject.writes and subject.model.model.chats):
        return False
    return chat_format_of(subject.model.tokenizer, subject.model.model.chat_template) is not None


def prompts_of(subject: Subject, name: str, most: int, rng: np.random.Generator) -> list[str]:
    """The prompts of a file, one in a line or `prompt` of JSON Lines; at most so many, at random.

    Raises:
        UserError: there is no such file, it is empty or not UTF-8, or a line has no prompt; names the line.
    """
    lines = read_lines("prompt", '{"prompt": "…"}', subject.file(name))
    prompts = [line.text("prompt") for line in lines]
    chosen = rng.permutation(len(prompts))[:most]
    return [prompts[number] for number in sorted(chosen.tolist())]


class Judge:
    """A classifier of a person's own, which says of a text how likely it has one of some labels.

    Args:
        path: as `lm.load` takes it.
        labels: that count.
        subject: what is judged; the judge works on the same device.

    Raises:
        UserError: there is none, it is no classifier, or it does not have these labels.
    """

    def __init__(self, path: str, labels: Sequence[str], subject: Subject) -> None:
        from lm.predictor import load

        self._predictor = load(path, subject.network.head.weight.device)
        self._predictor.task("classify")
        known = self._predictor.labels
        if not known:
            raise UserError(f"the judge {path} rates, it has no labels", status=2)
        if strange := [label for label in labels if label not in known]:
            raise UserError(
                f"the judge {path} has no label {some(strange)}: it has {', '.join(known)}", status=2
            )
        self.path, self.labels = path, list(dict.fromkeys(labels))

    @property
    def words(self) -> str:
        """Who judges by what, for people; a threshold follows."""
        return f"judged by {self.path}: a probability of {' or '.join(self.labels)} of"

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The probability of the labels in each text: their sum, of a classifier that gives a text several
        labels the largest; 0 of an empty text."""
        found = []
        for row in self._predictor.classify(list(texts)):
            values = [(row["probabilities"] or {}).get(label, 0.0) for label in self.labels]
            several = isinstance(row["prediction"], list)
            found.append(max(values) if several else min(sum(values), 1.0))
        return found
