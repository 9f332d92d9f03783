"""Books of Project Gutenberg without what stands around them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.data.corpus.documents import Source, Warn
from lm.data.corpus.files import open_binary
from lm.data.corpus.readers.opening import decoded

_LINE = r"(?im)^[ \t]*{}.*$"
_START = re.compile(_LINE.format(r"\*{3} ?START OF (?:THE|THIS) PROJECT GUTENBERG"))
_SMALL_PRINT = re.compile(_LINE.format(r"\*END[ *]+THE SMALL PRINT"))  # until 2004 or so
_END = re.compile(
    _LINE.format(r"(?:\*{3} ?END OF (?:THE|THIS) |\*{0,3} ?End of (?:the |this )?)Project Gutenberg")
)
# Who made the file, between the header and the book.
_CREDITS = re.compile(
    r"\s*(?:(?:Produced|E-?text prepared|Transcribed|Scanned) (?:by|from)\b(?:[^\r\n]+\r?\n)+\s*)+", re.I
)
_FIELD = re.compile(r"(?m)^(Title|Author): *(\S.*?)\s*$")
_OLD_TITLE = re.compile(
    r"Project Gutenberg(?:'s)? E-?(?:book|text) of (.+?)(?:, by (.+?))?[ *.\r]*$", re.I | re.M
)
_NLTK_TITLE = re.compile(r"\[(.+) by (.+) \d{4}\]")


class Gutenberg(Source):
    """Project Gutenberg's plain texts, a book a file, in any encoding. The licence before and after the book
    is cut off, title and author are taken from it. A file without it is read as it is."""

    suffixes = frozenset({".txt"})

    def read(self, path: Path, warn: Warn) -> Iterator[tuple[str, dict[str, Any]]]:
        with open_binary(path) as file:
            text = decoded(self, path, file.read(), warn)
        start, end = _borders(text)
        book = text[start:end].strip()
        if book:
            yield book, _said(text[:start], book)


def _borders(text: str) -> tuple[int, int]:
    """Where the book begins and ends."""
    start = max((match.end() for match in _START.finditer(text)), default=0)
    end = _END.search(text, start)
    last = end.start() if end else len(text)
    # Some files have the small print at their end.
    start = max((match.end() for match in _SMALL_PRINT.finditer(text, start, last)), default=start)
    credits_ = _CREDITS.match(text, start, last) if start else None
    return credits_.end() if credits_ else start, last


def _said(header: str, book: str) -> dict[str, Any]:
    found = {key.lower(): value for key, value in reversed(_FIELD.findall(header))}
    if "title" not in found:
        match = _OLD_TITLE.search(header) or _NLTK_TITLE.match(book)
        if match:
            found |= {
                key: value for key, value in zip(("title", "author"), match.groups(), strict=True) if value
            }
    return found
