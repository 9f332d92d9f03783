"""Documents of files that are taken as they are: the standard library, text and code, JSON lines, Parquet.

One file is one document; in JSON lines and Parquet each row is one.
"""

import glob
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.data.corpus.documents import Document
from lm.data.corpus.files import CODE, decode, files_at, open_binary, plain_name, plain_suffix
from lm.data.corpus.formats import JSON_LINES, PARQUET, json_lines, mended, parquet_rows
from lm.errors import UserError

STDLIB = "stdlib"
# What a folder is searched for; a file that is named itself may have any ending.
_PROSE = {".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".json", ".csv", ".tsv", ".srt"}
TEXT_ENDINGS = CODE | _PROSE
_READABLE = {*TEXT_ENDINGS, *JSON_LINES, *PARQUET}
# Tests, other people's packages, and what a program wrote: `encodings` is mostly tables of code points.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_NOT_LIBRARY |= {"pydoc_data", "encodings"}
_MOST_WARNINGS = 5


@dataclass(frozen=True)
class Entry:
    """One entry of a corpus specification, resolved to files.

    Attributes:
        name: the entry as it was given: a path, a glob or "stdlib".
        files: in the order of reading.
        named: whether the entry names one file, which then must be readable text.
    """

    name: str
    files: tuple[Path, ...]
    named: bool = False


class Warnings:
    """Says the first few warnings on stderr and counts the rest."""

    def __init__(self, to: Callable[[str], object] | None = None) -> None:
        self._to = to or (lambda line: print(line, file=sys.stderr))
        self.count = 0

    def __call__(self, message: str) -> None:
        self.count += 1
        if self.count <= _MOST_WARNINGS:
            self._to(f"warning: {message}")

    def finish(self) -> None:
        """Says how many were left unsaid."""
        if self.count > _MOST_WARNINGS:
            self._to(f"warning: {self.count - _MOST_WARNINGS} more of this kind")


def resolve(spec: str | list[str]) -> list[Entry]:
    """The files that a corpus specification means, in the order in which they are read.

    Args:
        spec: "stdlib" (the running interpreter's standard library and language reference), a file, a folder
            (searched for text, code, JSON lines and Parquet; nothing hidden), a glob, or a list of these.

    Raises:
        UserError: an entry names nothing.
    """
    entries = [spec] if isinstance(spec, str) else list(spec)
    if not entries:
        raise UserError("the corpus names no file: give `corpus` a file, a folder, a glob or stdlib")
    return [_stdlib() if entry == STDLIB else _resolve_path(str(entry)) for entry in entries]


def _stdlib() -> Entry:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if _NOT_LIBRARY.isdisjoint(path.relative_to(root).parts)]
    if not files:
        what = f"this Python has no sources of its standard library in {root}"
        raise UserError(f"{what}: name files of your own")
    return Entry(STDLIB, tuple(sorted(files, key=lambda path: path.relative_to(root).as_posix())))


def _resolve_path(entry: str) -> Entry:
    path = Path(entry).expanduser()
    files = files_at(path)
    if path.is_dir():
        shown = (file for file in files if "/." not in f"/{file.relative_to(path).as_posix()}")
        files = [file for file in shown if plain_suffix(file) in _READABLE]
        if not files:
            raise UserError(f"nothing to read in {entry}: no text, code, JSON lines or Parquet files")
    elif not path.exists():
        if not glob.has_magic(entry):
            raise UserError(f"no such file or folder: {entry}")
        if not files:
            raise UserError(f"{entry} matches no file")
        files.sort()
    return Entry(entry, tuple(files), named=path.exists() and not path.is_dir())


def documents(
    entries: list[Entry], text_field: str = "text", warn: Callable[[str], object] = lambda _: None
) -> Iterator[Document]:
    """The documents of all entries in order, one at a time in memory (a Parquet file: a row group's batch).

    Args:
        text_field: the key (JSON lines) or column (Parquet) that holds the text.
        warn: is told about files that were skipped, or read in another encoding than UTF-8.

    Raises:
        UserError: a file cannot be read, is no text although it was named, or has a broken line; names file
            and line.
    """
    for entry in entries:
        empty = True
        for path in entry.files:
            for number, text in enumerate(_texts(path, text_field, entry.named, warn)):
                if text:
                    empty = False
                    yield Document(text, f"{path}#{number}", entry.name)
        if entry.name == STDLIB:
            from pydoc_data.topics import topics

            yield from (Document(topics[key], f"{STDLIB}/topics#{key}", STDLIB) for key in sorted(topics))
        elif empty:
            raise UserError(f"nothing to read in {entry.name}: it is empty")


def _texts(path: Path, text_field: str, named: bool, warn: Callable[[str], object]) -> Iterator[str]:
    suffix = plain_suffix(path)
    with open_binary(path) as file:
        if suffix in JSON_LINES:
            for where, row in json_lines(file, str(path)):
                if not isinstance(row, dict):
                    what = f'an object such as {{"{text_field}": "some text"}}'
                    raise UserError(f"{where}: the line is not {what}")
                yield mended(_field(row, text_field, where, "field"))
            return
        if suffix in PARQUET:
            for where, row in parquet_rows(file, str(path), text_field):
                if text_field not in row or row[text_field] is not None:
                    yield _field(row, text_field, where, "column")
            return
        decoded = decode(file.read())
    if decoded is None:
        if named:
            raise UserError(f"{path} is not text: it looks like a binary file")
        warn(f"skipped {path}: it looks like a binary file")
        return
    text, encoding = decoded
    if encoding != "utf-8":
        warn(f"{path} is not UTF-8; it was read as {encoding}")
    yield text


def _field(row: dict, name: str, where: str, kind: str) -> str:
    if name not in row:
        found = ", ".join(map(repr, row)) or "none at all"
        what = f"{where}: there is no {kind} {name!r}, only {found}"
        raise UserError(f"{what}: give one of them as `text_field`")
    if not isinstance(row[name], str):
        raise UserError(f"{where}: the {kind} {name!r} is not text: give another `text_field`")
    return row[name]


@dataclass(frozen=True)
class Given:
    """A collection of documents as they are given, see `documents`.

    Attributes:
        entries: of the corpus specification.
        text_field: the key (JSON lines) or column (Parquet) that holds the text.
    """

    entries: list[Entry]
    text_field: str

    @property
    def name(self) -> str:
        """Of the corpus's folder: after the first entry."""
        first = plain_name(Path(self.entries[0].name).expanduser().resolve()) or "corpus"
        return first if len(self.entries) == 1 else f"{first}-and-{len(self.entries) - 1}-more"

    def state(self) -> list[Any]:
        """Plain values that change with each file's path, size and time."""
        inputs: list[Any] = []
        for entry in self.entries:
            if entry.name == STDLIB:
                # Not by time: the same Python installed twice gives the same corpus.
                sizes = ((path.name, path.stat().st_size) for path in entry.files)
                inputs.append([STDLIB, sys.version, *sizes])
                continue
            for path in entry.files:
                found = path.stat()
                inputs.append([str(path.resolve()), found.st_size, found.st_mtime_ns])
        return inputs

    def documents(self, warn: Callable[[str], object] = lambda _: None) -> Iterator[Document]:
        """All of them, in order."""
        return documents(self.entries, self.text_field, warn)

    def records(self, counts: Mapping[str, int]) -> list[dict[str, Any]]:
        """Name, files, bytes on disk and documents of each entry.

        Args:
            counts: documents by name.
        """
        named = Counter(entry.name for entry in self.entries)
        return [
            {
                "name": entry.name,
                "files": len(entry.files),
                "bytes_on_disk": sum(path.stat().st_size for path in entry.files),
                "documents": counts.get(entry.name, 0) // named[entry.name],
            }
            for entry in self.entries
        ]

    def make(self) -> None:
        """There is nothing to be done first."""

    def accompany(self, folder: Path, tokens: Any) -> None:
        """Nothing more is known of them."""

    def tidy(self) -> None:
        """Nothing was made beside the corpus."""
