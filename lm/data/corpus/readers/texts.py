"""Text, Markdown and code: a file is a document, or some are, one after another."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.data.corpus.documents import Source, Warn
from lm.data.corpus.files import CODE, open_binary, plain_suffix
from lm.data.corpus.readers.opening import decoded, open_text
from lm.data.corpus.sources import TEXT_ENDINGS
from lm.errors import UserError

_LOOKED_AT = 1000  # characters of a line, to tell whether it stands between documents


class Texts(Source):
    """Files of text in any encoding.

    Args:
        path: a file, a folder, a glob, or a list of these.
        name: of the source; by default that of the path.
        licence: of its texts.
        separator: a line that stands between two documents, such as `<|endoftext|>`; white space alone, such
            as "\\n", is a blank line. Empty: nothing does, a file is a document.
        heading: a regular expression for the beginning of a line that is a document's first, such as
            ` = [^=]+ = $` in WikiText; `\\S` where each line is a document.
    """

    quick = True

    suffixes = TEXT_ENDINGS

    def __init__(
        self,
        path: str | list[str],
        name: str = "",
        licence: str = "",
        separator: str = "",
        heading: str | None = None,
    ) -> None:
        super().__init__(path, name, licence)
        self._separator = separator.strip() if separator else None
        try:
            self._heading = re.compile(heading) if heading else None
        except re.error as error:
            raise UserError(f"`heading` is no regular expression: {error}: {heading}", status=2) from error

    def read(self, path: Path, warn: Warn) -> Iterator[tuple[str, dict[str, Any]]]:
        code = {"code": True} if plain_suffix(path) in CODE else {}
        for text in self._texts(path, warn):
            if text and not text.isspace():
                yield text, dict(code)

    def _texts(self, path: Path, warn: Warn) -> Iterator[str]:
        if self._separator is None and self._heading is None:
            with open_binary(path) as file:
                yield decoded(self, path, file.read(), warn)
            return
        lines: list[str] = []
        with open_text(self, path, warn) as text:
            for line in text:
                begins = line[:_LOOKED_AT]
                if self._separator is not None and begins.strip() == self._separator:
                    yield "".join(lines)
                    lines = []
                    continue
                if self._heading and self._heading.match(begins.rstrip("\r\n")):
                    yield "".join(lines)
                    lines = []
                lines.append(line)
        yield "".join(lines)
