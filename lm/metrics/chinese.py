"""Text in which Chinese stands without spaces: its characters are its tokens."""

import re
from collections.abc import Iterable

# CJK unified ideographs, extension A, compatibility ideographs, and the planes of the further extensions.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

_HAN = re.compile(f"[{HAN}]")
_WORD = re.compile(rf"[^\W\d_{HAN}]+")


def has_chinese(text: str) -> bool:
    """Whether there is a Chinese character in the text."""
    return _HAN.search(text) is not None


def script_counts(texts: Iterable[str]) -> tuple[int, int]:
    """How many Chinese characters there are, and how many words of other letters.

    A text in Chinese has more of the former even where names and technical terms stand in Latin letters.
    """
    text = "\n".join(texts)
    return len(_HAN.findall(text)), len(_WORD.findall(text))


def apart(text: str) -> str:
    """The text with spaces around each Chinese character, so that `split` gives characters and words."""
    return _HAN.sub(r" \g<0> ", text)
