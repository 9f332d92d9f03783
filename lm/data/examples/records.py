"""What one example of each kind is, whatever file it came from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Example(ABC):
    """What all kinds have: a dataclass of plain values, which can be written as JSON and read back."""

    @property
    @abstractmethod
    def content(self) -> tuple[str, ...]:
        """What is asked: two examples with the same content are the same, whatever their labels and answers,
        and never fall into two splits."""

    @property
    def labelled(self) -> bool:
        """Whether what is right is known."""
        return True

    def values(self) -> list:
        """The fields, in their order."""
        return [getattr(self, field.name) for field in fields(self)]

    @classmethod
    def of(cls, values: list) -> Self:
        """The example from its fields, where lists stand for tuples."""
        return cls(*map(_as_tuples, values))

    def known(self, **facts: Any) -> Self:
        """The example in the light of what the whole file tells; see `lm.data.examples.files.Known`."""
        return replace(self, **facts)


@dataclass(frozen=True)
class TextExample(Example):
    """A text, or a pair of texts, to be classified or rated.

    Args:
        pair: the second text of a pair.
        label: a label's name; a tuple of names where several may hold; a number where it is a rating; None
            where it is not known, as in a file to predict.
    """

    text: str
    pair: str | None = None
    label: str | tuple[str, ...] | float | None = None

    @property
    def content(self) -> tuple[str, ...]:
        return self.text, self.pair or ""

    @property
    def labelled(self) -> bool:
        return self.label is not None

    def known(self, several: bool = False) -> Self:
        """With a tuple of labels: where one example of a file has a list, a name is a list of one."""
        if not several or self.label is None or isinstance(self.label, tuple):
            return self
        return replace(self, label=(str(self.label),))


@dataclass(frozen=True)
class TagExample(Example):
    """A sentence with a tag for each of its words.

    Args:
        words: the words, or the characters of a Chinese sentence.
        tags: as many, such as `B-PER`; empty where they are not known.
        joiner: what stands between the words in a text: a space, or nothing in Chinese.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] = ()
    joiner: str = " "

    @property
    def content(self) -> tuple[str, ...]:
        return (self.joiner.join(self.words),)

    @property
    def labelled(self) -> bool:
        return bool(self.tags)


@dataclass(frozen=True)
class QuestionExample(Example):
    """A question on a text that holds its answer, or doesn't.

    Args:
        id: the question's name in its file.
        context: the text.
        answers: pairs of an answer's text and where it starts in the context, in characters; none where
            the context does not answer the question.
        document: which document the context is from: a document never falls into two splits.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()
    document: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        return self.question, self.context


class Message(NamedTuple):
    """What somebody says in a chat."""

    role: str  # `system`, `user` or `assistant`
    content: str


class _WithMessages(Example):
    @classmethod
    def of(cls, values: list) -> Self:
        messages, *rest = values
        return cls(tuple(Message(*message) for message in messages), *map(_as_tuples, rest))


@dataclass(frozen=True)
class ChatExample(_WithMessages):
    """A chat to learn from: roles in order, the last message by the assistant.

    Args:
        messages: at most one of the system, first; then user and assistant in turns.
        references: other good last answers, which the metrics compare with too.
    """

    messages: tuple[Message, ...]
    references: tuple[str, ...] = ()

    @property
    def content(self) -> tuple[str, ...]:
        return tuple(part for message in self.messages[:-1] for part in message)


@dataclass(frozen=True)
class PreferenceExample(_WithMessages):
    """Two answers to the same chat, one better than the other.

    Args:
        messages: the chat up to the answer; the last message is the user's.
        chosen: the better answer.
        rejected: the worse one.
    """

    messages: tuple[Message, ...]
    chosen: str
    rejected: str

    @property
    def content(self) -> tuple[str, ...]:
        return tuple(part for message in self.messages for part in message)
