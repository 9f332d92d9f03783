"""Rows of tables: CSV, TSV, JSON Lines, JSON and Parquet, each row an object with named columns."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from lm.data.corpus.files import plain_suffix
from lm.data.corpus.formats import JSON_LINES, PARQUET, json_lines, mended, parquet_rows
from lm.data.examples.files import File, read_alike
from lm.errors import UserError

Row = dict[str, object]
TABLES = {".csv", ".tsv", ".json", *JSON_LINES, *PARQUET}


def is_table(name: str) -> bool:
    """Whether a file's name ends as that of a table does, compressed or not."""
    return plain_suffix(PurePosixPath(name)) in TABLES


def read_rows(path: str, columns: list[str] | None = None) -> Iterator[tuple[str, Row]]:
    """The rows of a table: where each stands, for messages (`F:12` is line 12), and its values by column.

    The ending tells the format: .csv, .tsv, .jsonl, .ndjson, .json (a list of objects, an object with a list
    `data`, or JSON Lines after all) or .parquet, compressed or not; another ending is looked into.
    Text is valid Unicode afterwards. In CSV and TSV every value is a string, in the others what it is there.

    Args:
        path: a file, a folder (all the tables in it), a glob, or `ARCHIVE!MEMBER`.
        columns: the columns' names where a CSV or TSV file has no header.

    Raises:
        UserError: a file cannot be read, is empty or binary, or a row is broken; names file and line.
    """
    for file in read_alike(path, is_table):
        yield from rows_of(file, columns)


def rows_of(file: File, columns: list[str] | None = None) -> Iterator[tuple[str, Row]]:
    """The rows of one file that has been read, as `read_rows` yields them."""
    suffix = file.suffix
    if suffix in {".csv", ".tsv"}:
        rows = (_csv if suffix == ".csv" else _tsv)(file, columns)
    elif suffix in TABLES:
        rows = _parquet(file) if suffix in PARQUET else _json(file)
    else:
        rows = _unknown(file, columns)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{file.where} has no rows")
    yield first
    yield from rows


def value(row: Row, name: str, where: str) -> object:
    """What a row has in a column.

    Raises:
        UserError: there is no such column; names those there are.
    """
    if name not in row:
        raise UserError(no_column(row, name, where))
    return row[name]


def having(rows: Iterable[tuple[str, Row]], name: str | None) -> Iterator[tuple[str, Row]]:
    """The same rows, one of which at least has to have a column, where it is named.

    Raises:
        UserError: none has it; names the columns of the first.
    """
    first, found = None, name is None
    for where, row in rows:
        first, found = first or (row, where), found or name in row
        yield where, row
    if first is not None and not found:
        raise UserError(no_column(first[0], str(name), first[1]))


def no_column(row: Iterable[str], name: str, where: str) -> str:
    """Says that a column is missing, and which there are."""
    names = ", ".join(column if len(column) <= 30 else f"{column[:30]}…" for column in map(str, row))
    hint, file = "", where.rpartition(":")[0]
    if plain_suffix(PurePosixPath(file)) in {".csv", ".tsv"}:
        where, hint = file, " (if its first line is no header, give the names as `columns`)"
    return f"there is no column {name!r} in {where}: it has {names or 'none'}{hint}"


def _unknown(file: File, columns: list[str] | None) -> Iterator[tuple[str, Row]]:
    first = _first_line(file).lstrip()
    if first[0] in "{[":
        return _json(file)
    if "\t" in first:
        return _tsv(file, columns)
    raise UserError(f"{file.where}: what is in it? Name it .csv, .tsv, .jsonl, .json or .parquet")


def _first_line(file: File, blank: str | None = None) -> str:
    """The first line that has more than blanks in it."""
    with file.opened() as lines:
        return next(line for line in lines if line.strip(blank))


Record = tuple[int, list[str]]  # the line where it begins, and its fields


def _csv(file: File, columns: list[str] | None) -> Iterator[tuple[str, Row]]:
    first = _first_line(file, "\r\n")
    # A spreadsheet in a country with decimal commas separates by semicolons.
    delimiter = "," if "," in first else max(";\t", key=first.count)
    return _named(_records(file, delimiter), file.where, columns)


def _tsv(file: File, columns: list[str] | None) -> Iterator[tuple[str, Row]]:
    """TSV is written in two ways: quoted as CSV is, and plainly, where a quote is just a quote."""
    return _named(_records(file, "\t") if _is_quoted(file) else _plain(file), file.where, columns)


def _is_quoted(file: File) -> bool:
    with file.opened() as lines:
        if not any('"' in line for line in lines):
            return False
    try:
        quoted = Counter(len(fields) for _, fields in _records(file, "\t"))
    except UserError:
        return False
    plain = Counter(len(fields) for _, fields in _plain(file))
    return len(quoted) == 1 and (quoted.total() == plain.total() or len(plain) != 1)


def _plain(file: File) -> Iterator[Record]:
    with file.opened() as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip("\r\n "):
                yield number, line.removesuffix("\n").removesuffix("\r").split("\t")


def _records(file: File, delimiter: str) -> Iterator[Record]:
    """The records of a file with quotes; empty lines left out."""
    csv.field_size_limit(2**31 - 1)  # the usual limit is 131,072 characters
    with file.opened(newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        line = 1
        try:
            for fields in reader:
                if len(fields) > 1 or any(field.strip() for field in fields):
                    yield line, fields
                line = reader.line_num + 1
        except csv.Error as error:
            # A quote that is never closed swallows the rest of the file.
            what = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
            raise UserError(f"{file.where}:{line}: {what}") from error


def _named(records: Iterator[Record], where: str, columns: list[str] | None) -> Iterator[tuple[str, Row]]:
    names = columns or [name.strip() for name in next(records, (0, []))[1]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        hint = "" if columns else "; if its first line is no header, give the columns' names"
        raise UserError(f"{where} has more than one column {twice[0][:30]!r}{hint}")
    for line, fields in records:
        if len(fields) != len(names):
            raise UserError(f"{where}:{line}: the line has {len(fields)} of {len(names)} columns")
        yield f"{where}:{line}", dict(zip(names, fields, strict=True))


def _json(file: File) -> Iterator[tuple[str, Row]]:
    with file.opened() as lines:
        first = next(line for line in lines if line.strip())
        several = any(line.strip() for line in lines)
        by_line = file.suffix in JSON_LINES and not first.lstrip().startswith("[")
        # Many .json files are JSON Lines.
        if by_line or (several and _is_json(first)):
            lines.seek(0)
            rows = json_lines(lines, file.where)
        else:
            rows = _json_value(file)
        for where, row in rows:
            if not isinstance(row, dict):
                raise UserError(f'{where}: this is not an object such as {{"text": "…"}}')
            yield where, mended(row)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_value(file: File) -> Iterator[tuple[str, object]]:
    text, where = file.text(), file.where
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = getattr(error, "msg", str(error))
        at_end = getattr(error, "pos", 0) >= len(text.rstrip()) or message.startswith("Unterminated string")
        what = "it ends too early: was the file cut short?" if at_end else message
        raise UserError(f"{where}:{getattr(error, 'lineno', 1)}: this is not JSON: {what}") from error
    if isinstance(rows, dict) and "\n" not in text.strip() and not isinstance(rows.get("data"), list):
        return iter([(f"{where}:1", rows)])
    if isinstance(rows, dict):
        rows = rows.get("data", rows)
    if not isinstance(rows, list):
        raise UserError(f"{where} is no list of objects, alone or as the 'data' of an object")
    return ((f"{where}, item {number}", row) for number, row in enumerate(rows, start=1))


def _parquet(file: File) -> Iterator[tuple[str, Row]]:
    with file.open() as stream:
        yield from parquet_rows(stream, file.where)
