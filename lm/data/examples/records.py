"""What one example of each kind is, whatever file it came from."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TextExample:
    """A text, or a pair of texts, to be classified or rated.

    Args:
        text: the text.
        pair: the second text of a pair.
        label: a label's name; a tuple of names where several may hold; a number where it is a rating; null
            where it is not known, as in a file to predict.
    """

    text: str
    pair: str | None = None
    label: str | tuple[str, ...] | float | None = None


@dataclass(frozen=True)
class TagExample:
    """A sentence with a tag for each of its words.

    Args:
        words: the words, or the characters of a Chinese sentence.
        tags: as many, such as `B-PER`; empty where they are not known.
        joiner: what stands between the words in a text: a space, or nothing in Chinese.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] = ()
    joiner: str = " "


@dataclass(frozen=True)
class QuestionExample:
    """A question on a text that holds its answer, or doesn't.

    Args:
        id: the question's name in its file.
        question: the question.
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


@dataclass(frozen=True)
class Message:
    """What somebody says in a chat.

    Args:
        role: `system`, `user` or `assistant`.
        content: the text.
    """

    role: str
    content: str


@dataclass(frozen=True)
class ChatExample:
    """A chat to learn from: roles in order, the last message by the assistant.

    Args:
        messages: at most one of the system, first; then user and assistant in turns.
        references: other good last answers, which the metrics compare with too.
    """

    messages: tuple[Message, ...]
    references: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class PreferenceExample:
    """Two answers to the same chat, one better than the other.

    Args:
        messages: the chat up to the answer; the last message is the user's.
        chosen: the better answer.
        rejected: the worse one.
    """

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
