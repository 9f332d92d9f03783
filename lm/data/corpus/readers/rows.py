"""Rows of JSON Lines, Parquet, CSV and JSON: each is a document, its short fields go with it."""

import csv
import json
import math
import re
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from lm.data.corpus.documents import Source, Warn
from lm.data.corpus.files import open_binary, plain_suffix
from lm.data.corpus.formats import JSON_LINES, PARQUET, json_lines, mended, parquet_rows
from lm.data.corpus.readers.opening import open_text
from lm.errors import SetupError, UserError, some

_LONGEST_META = 1000  # characters of a field that goes with a document
_CHUNK = 1 << 20


class Rows(Source):
    """What readers of rows have in common.

    Args:
        path: a file, a folder, a glob, or a list of these.
        name: of the source; by default that of the path.
        licence: of its texts.
        text_field: the field that holds the text: a string, or a list of strings that become its lines.
            `a.b` is the field `b` of the object `a`, if no field has that name itself. Of several fields the
            texts follow each other, each from a new line. A row where all are null or empty is passed over.
    """

    quick = True

    def __init__(
        self,
        path: str | list[str],
        name: str = "",
        licence: str = "",
        text_field: str | list[str] = "text",
    ) -> None:
        super().__init__(path, name, licence)
        self._fields = [text_field] if isinstance(text_field, str) else list(text_field)

    def read(self, path: Path, warn: Warn) -> Iterator[tuple[str, dict[str, Any]]]:
        good = False  # one row was
        for where, row in self.rows(path, warn):
            try:
                if not isinstance(row, dict):
                    example = f'{{"{self._fields[0]}": "some text"}}'
                    raise SetupError(f"{where}: not an object such as {example}")
                text = "\n".join(filter(None, (_text(row, field, where) for field in self._fields)))
            except SetupError as error:
                if not good:  # none is like the first
                    raise
                warn(str(error))
                continue
            good = True
            if text and not text.isspace():
                yield mended(text), mended(_meta(row, text))

    @abstractmethod
    def rows(self, path: Path, warn: Warn) -> Iterator[tuple[str, Any]]:
        """Each row, and where it stands: `F:12`."""


class JsonLines(Rows):
    """JSON Lines: an object a line (.jsonl, .ndjson). A line that is none is passed over."""

    suffixes = frozenset(JSON_LINES)

    def rows(self, path: Path, warn: Warn) -> Iterator[tuple[str, Any]]:
        with open_binary(path) as file:
            yield from json_lines(file, str(path), warn)


class ParquetRows(Rows):
    """Parquet, a batch of rows in memory at a time."""

    suffixes = frozenset(PARQUET)

    def rows(self, path: Path, warn: Warn) -> Iterator[tuple[str, Any]]:
        with open_binary(path) as file:
            yield from parquet_rows(file, str(path))


class Json(Rows):
    """JSON: an array of objects, an object, or some of these one after another; an object in memory at a
    time."""

    suffixes = frozenset({".json"})

    def rows(self, path: Path, warn: Warn) -> Iterator[tuple[str, Any]]:
        with open_text(self, path, warn) as file:
            for number, row in enumerate(_values(file, str(path)), start=1):
                yield f"{path}, object {number}", row


class Csv(Rows):
    """CSV and TSV with a header; a row with more or fewer fields than it is passed over.

    Args:
        path: a file, a folder, a glob, or a list of these.
        name: of the source; by default that of the path.
        licence: of its texts.
        text_field: the column that holds the text, or several.
        delimiter: between fields; by default the most frequent of comma, tab, semicolon and bar in the
            header.
        quotes: whether quotation marks enclose fields; by default where the delimiter is not a tab. Where
            they don't, one at the beginning of a field would swallow the rows up to the next.
    """

    suffixes = frozenset({".csv", ".tsv"})

    def __init__(
        self,
        path: str | list[str],
        name: str = "",
        licence: str = "",
        text_field: str | list[str] = "text",
        delimiter: str | None = None,
        quotes: bool | None = None,
    ) -> None:
        super().__init__(path, name, licence, text_field)
        if delimiter is not None and len(delimiter) != 1:
            raise UserError(f"`delimiter` is {delimiter!r}: it must be one character", status=2)
        self._delimiter = delimiter
        self._quotes = quotes

    def rows(self, path: Path, warn: Warn) -> Iterator[tuple[str, Any]]:
        csv.field_size_limit(2**31 - 1)  # by default 128 kB, of the whole process
        with open_text(self, path, warn) as file:
            first = file.readline()
            order = "\t,;|" if plain_suffix(path) == ".tsv" else ",\t;|"
            delimiter = self._delimiter or max(order, key=first.count)
            quotes = delimiter != "\t" if self._quotes is None else self._quotes
            quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
            lines = (line for part in ([first], file) for line in part)
            reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
            try:
                header = next(reader, [])
                begin = reader.line_num + 1
                for row in reader:
                    if len(row) == len(header):
                        yield f"{path}:{reader.line_num}", dict(zip(header, row, strict=True))
                    elif row:
                        lines_ = f"{begin}" if begin == reader.line_num else f"{begin} to {reader.line_num}"
                        what = f"{len(row)} fields, the header {len(header)}"
                        warn(f"skipped a row, {path}:{lines_}: it has {what}")
                    begin = reader.line_num + 1
            except csv.Error as error:
                raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _text(row: dict, field: str, where: str) -> str:
    value: Any = row
    for name in [field] if field in row else field.split("."):
        if not isinstance(value, dict) or name not in value:
            what = f"{where}: there is no field {field!r}, only {some(map(repr, row), 20) or 'none at all'}"
            raise SetupError(f"{what}: give one of them as `text_field`")
        value = value[name]
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise SetupError(f"{where}: the field {field!r} is not text: give another `text_field`")
    return value


def _meta(row: dict, text: str) -> dict[str, Any]:
    """The fields beside the text that are short and plain JSON."""
    return {key: value for key, value in row.items() if _plain(value) and value != text and _fits(key, value)}


def _plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) or (isinstance(value, str) and 0 < len(value) <= _LONGEST_META)


def _fits(key: str, value: Any) -> bool:
    # Steps go by what they find: a column of that name with anything else would mislead them.
    if key in ("code", "language_probability"):
        return False
    return key != "language" or (isinstance(value, str) and bool(re.fullmatch("[a-z]{2}", value)))


def _values(file: TextIO, where: str) -> Iterator[Any]:
    """The values of a text of JSON, and of an array at the top its items; one in memory at a time.

    Raises:
        UserError: it is not JSON; names the last value that was whole.
    """
    decoder = json.JSONDecoder()
    skipped = re.compile(r"[\s,]*")
    text, at, chunk, count, inside = "", 0, _CHUNK, 0, False
    while True:
        at = skipped.match(text, at).end()
        try:
            if text[at : at + 1] == ("]" if inside else "["):
                inside, at = not inside, at + 1
                continue
            value, end = decoder.raw_decode(text, at)
            count, at, chunk = count + 1, end, _CHUNK
            yield value
        except json.JSONDecodeError as error:
            # It may go on in what was not read yet, but not from an error in the middle of what was.
            open_end = len(text) - error.pos < 20 or "Unterminated" in error.msg
            more = file.read(chunk) if open_end else ""
            if not more:
                if at == len(text) and not inside:
                    return
                cut = "was the file cut short?" if open_end else error.msg
                raise UserError(f"{where}: not JSON after object {count}: {cut}") from error
            # Twice as much each time, so that a long value is not gone through once a chunk.
            text, at, chunk = text[at:] + more, 0, 2 * chunk
        except (ValueError, RecursionError) as error:  # a number of too many digits, too deep a nesting
            raise UserError(f"{where}: not JSON after object {count}: {error}") from error
