"""Files as text, whole or line by line, whatever their encoding."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lm.data.corpus.documents import Source, Warn
from lm.data.corpus.files import decode, open_binary
from lm.errors import UserError

_SAMPLE = 1 << 24  # bytes that are looked at before a file is read as UTF-8 bit by bit


def decoded(source: Source, path: Path, data: bytes, warn: Warn) -> str:
    """The text in a file's bytes; none where they are no text.

    Raises:
        UserError: they are no text, and the source names the file itself.
    """
    found = decode(data)
    if found is None:
        if path in (Path(entry).expanduser() for entry in source.paths):
            raise UserError(f"{path} is not text: it looks like a binary file")
        warn(f"skipped {path}: it looks like a binary file")
        return ""
    text, encoding = found
    if encoding != "utf-8":
        warn(f"{path} is not UTF-8; it was read as {encoding}")
    return text


@contextmanager
def open_text(source: Source, path: Path, warn: Warn) -> Iterator[TextIO]:
    """Opens a file as text with its line ends as they are; empty where it is none.

    A large file that begins as UTF-8 is read bit by bit, with what is none further on replaced by U+FFFD. One
    in another encoding is in memory whole, for only all of it tells which.

    Raises:
        UserError: as `open_binary` and `decoded`, also while it is being read.
    """
    with open_binary(path) as file:
        data = file.read(_SAMPLE)
        if len(data) == _SAMPLE and _utf8(data):
            file.seek(0)
            with io.TextIOWrapper(file, "utf-8-sig", "replace", newline="") as text:
                yield text
            return
        data += file.read()
        yield io.StringIO(decoded(source, path, data, warn), newline="")


def _utf8(data: bytes) -> bool:
    """Whether it is UTF-8 that may break off within a character."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
