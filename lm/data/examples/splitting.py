"""Which examples are held out, and which stand in two sets."""

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from lm.data.examples.records import (
    ChatExample,
    PreferenceExample,
    QuestionExample,
    TagExample,
    TextExample,
)


def content(example: Any) -> tuple[str, ...]:
    """An example's texts: two with the same ones are the same, whatever their labels and answers. A chat is
    its messages up to the last answer."""
    match example:
        case TextExample():
            return example.text, example.pair or ""
        case TagExample():
            return (example.joiner.join(example.words),)
        case QuestionExample():
            return example.question, example.context
        case ChatExample() | PreferenceExample():
            asked = example.messages[:-1] if isinstance(example, ChatExample) else example.messages
            return tuple(part for message in asked for part in (message.role, message.content))
    raise TypeError(f"{type(example).__name__} is no example")


def _digest(parts: tuple[str, ...]) -> bytes:
    """A hash of texts, which takes no heed of case, blanks and the width of letters."""
    normal = (" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in parts)
    return hashlib.blake2b("\0".join(normal).encode("utf-8", "replace"), digest_size=16).digest()


def overlap(train: Sequence[Any], other: Sequence[Any]) -> int:
    """How many examples of `other` also stand in `train`, but for case and blanks and whatever the label.

    Args:
        train: examples to learn from.
        other: examples to measure with.
    """
    known = {_digest(content(example)) for example in train}
    return sum(_digest(content(example)) in known for example in other)


def split_by_hash(
    examples: Sequence[Any], fraction: float, key: Callable[[Any], str | None] | None = None
) -> tuple[list, list]:
    """Part the examples by a hash, so that the same one always falls on the same side, whatever the others.

    Args:
        examples: of one kind.
        fraction: the part that is held out, between 0 and 1, roughly.
        key: examples of the same key stay together; null, or where it gives null, for the example's content.

    Returns:
        those to learn from, and those held out, each in the old order.
    """
    keep, held = [], []
    for example in examples:
        group = key(example) if key else None
        digest = _digest(content(example)) if group is None else _digest((group,))
        (held if int.from_bytes(digest[:8]) < fraction * 2**64 else keep).append(example)
    return keep, held
