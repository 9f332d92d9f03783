"""Where documents come from: the standard library, text and code files, JSON lines and Parquet.

One file is one document; in JSON lines and Parquet each row is one.
"""

import glob
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lm.data.corpus.files import decode, files_at, open_binary, plain_suffix
from lm.data.corpus.formats import JSON_LINES, PARQUET, json_lines, mended, parquet_rows
from lm.errors import UserError

STDLIB = "stdlib"
# What a folder is searched for; a file that is named itself may have any ending.
_TEXT_ENDINGS = """
    .txt .text .md .markdown .rst .tex .org .adoc .html .htm .xml .json .yaml .yml .toml .ini .cfg .csv .tsv
    .srt .py .pyi .pyx .ipynb .js .mjs .ts .jsx .tsx .vue .css .scss .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .m
    .java .kt .scala .go .rs .swift .rb .php .pl .pm .lua .r .jl .hs .ml .ex .exs .erl .clj .lisp .el .scm
    .cs .fs .dart .zig .nim .sh .bash .zsh .fish .ps1 .bat .sql .proto .cmake .gradle
"""
_READABLE = {*_TEXT_ENDINGS.split(), *JSON_LINES, *PARQUET}
# Tests, other people's packages, and what a program wrote: `encodings` is mostly tables of code points.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_NOT_LIBRARY |= {"pydoc_data", "encodings"}
_MOST_WARNINGS = 5


class Document(NamedTuple):
    """One text that stands by itself, valid Unicode and never empty, with line ends as in the source; and the
    entry of the corpus specification that it came from."""

    text: str
    source: str


@dataclass(frozen=True)
class Source:
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


def resolve(spec: str | list[str]) -> list[Source]:
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


def _stdlib() -> Source:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if _NOT_LIBRARY.isdisjoint(path.relative_to(root).parts)]
    if not files:
        what = f"this Python has no sources of its standard library in {root}"
        raise UserError(f"{what}: name files of your own")
    return Source(STDLIB, tuple(sorted(files, key=lambda path: path.relative_to(root).as_posix())))


def _resolve_path(entry: str) -> Source:
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
    return Source(entry, tuple(files), named=path.exists() and not path.is_dir())


def documents(
    sources: list[Source], text_field: str = "text", warn: Callable[[str], object] = lambda _: None
) -> Iterator[Document]:
    """The documents of all sources in order, one at a time in memory (a Parquet file: a row group's batch).

    Args:
        text_field: the key (JSON lines) or column (Parquet) that holds the text.
        warn: is told about files that were skipped, or read in another encoding than UTF-8.

    Raises:
        UserError: a file cannot be read, is no text although it was named, or has a broken line; names file
            and line.
    """
    for source in sources:
        empty = True
        texts = (text for path in source.files for text in _texts(path, text_field, source.named, warn))
        for text in filter(None, texts):
            empty = False
            yield Document(text, source.name)
        if source.name == STDLIB:
            from pydoc_data.topics import topics

            yield from (Document(topics[key], STDLIB) for key in sorted(topics))
        elif empty:
            raise UserError(f"nothing to read in {source.name}: it is empty")


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
