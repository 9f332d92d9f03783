"""Standard input line by line and JSON Lines out: what the commands that work on files share."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from lm.errors import SetupError, UserError

BATCH = 32  # examples that the model sees at once
INPUT = "standard input"
T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """A line of input.

    Args:
        where: for messages, such as `standard input:3`.
        fields: the object that stands there; all of it is passed on to the output.
    """

    where: str
    fields: dict[str, Any]

    def text(self, column: str, option: str = "") -> str:
        """The text in a column.

        Args:
            option: what another column is named by, for the message.

        Raises:
            SetupError: there is no such column.
            UserError: something else is in it.
        """
        if column not in self.fields:
            names = ", ".join(name if len(name) <= 30 else f"{name[:30]}…" for name in self.fields)
            hint = f"; give `{option}` NAME" if option else ""
            raise SetupError(f"{self.where}: there is no {column!r}, only {names or 'an empty object'}{hint}")
        found = self.fields[column]
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise UserError(f"{self.where}: {column!r} is not a text")
        return str(found)


def read_lines(column: str | None, example: str, path: Path | None = None) -> Iterator[Line]:
    """Standard input or a file, a line at a time; empty lines are left out.

    Args:
        column: a line that does not begin with `{` is a text: the value of this field. None: every line has
            to be an object.
        example: what could stand there, for messages.
        path: of the file; None: standard input.

    Raises:
        UserError: there is no line, or the file can't be read; a line is not UTF-8, begins like an object and
            is none, or has to be one.
    """
    name = INPUT if path is None else str(path)
    empty = True
    for number, data in enumerate(_read(path), start=1):
        where = f"{name}:{number}"
        try:
            line = data.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: the line is not UTF-8 (byte {error.start + 1})") from error
        if not line.strip():
            continue
        empty = False
        if column is not None and not line.lstrip().startswith("{"):
            yield Line(where, {column: line})
        else:
            yield Line(where, _object(line, where, example))
    if empty:
        raise UserError(f"{name} is empty: give lines such as {example}", status=2)


def _read(path: Path | None) -> Iterator[bytes]:
    if path is None:
        yield from () if sys.stdin is None else sys.stdin.buffer  # None: closed
        return
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _object(line: str, where: str, example: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: the line is not JSON ({getattr(error, 'msg', error)}); write {example}"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: the line is not an object such as {example}")
    return found


def well_formed(text: str, where: str) -> str:
    """The text, which is an argument of the command.

    Args:
        where: for the message.

    Raises:
        UserError: it was not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} is not UTF-8 (character {error.start + 1})", status=2) from error
    return text


def write_rows(groups: Iterable[Iterable[dict[str, Any]]]) -> None:
    """Write rows as JSON Lines in UTF-8, whatever the locale says, each group as soon as it is there."""
    sys.stdout.flush()
    for group in groups:
        for row in group:
            line = json.dumps(row, ensure_ascii=False)
            try:
                data = line.encode()
            except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 can't
                data = json.dumps(row).encode()
            sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()


def pools(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """Items by the `size`, the last fewer."""
    iterator = iter(items)
    while pool := list(islice(iterator, size)):
        yield pool
