"""Texts to classify or rate: from the columns of a table, or a folder of texts for each class."""

import glob
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lm.data.corpus.files import decode
from lm.data.corpus.sources import Warnings
from lm.data.examples.files import File, Known, Skipped, read_files, split_member
from lm.data.examples.records import TextExample
from lm.data.examples.tables import Row, having, is_table, read_rows, value
from lm.errors import UserError

_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_UNLABELLED = {"unsup", "unlabelled", "unlabeled"}  # folders that are no class


def read_texts(
    path: str,
    text: str = "text",
    pair: str | None = None,
    label: str | None = "label",
    columns: list[str] | None = None,
    separator: str | None = None,
    rating: bool = False,
    label_names: dict | None = None,
    labelled: bool = True,
) -> Iterator[TextExample | Skipped | Known]:
    """Texts with their labels, in the file's order; of a folder, sorted by name.

    Args:
        path: a table (see `read_rows`), or a folder with a subfolder of text files for each class, whose name
            is the label, also inside an archive: `aclImdb.tar.xz!train`. There `<br />` becomes a newline.
        text, pair, label, columns, separator, rating, label_names: see `TextData`. A list of labels means
            several; with a separator an empty string means that none holds.
        labelled: whether an example without a label is skipped, or kept with None.

    Raises:
        UserError: a column is missing, a rating is no number, or a label is not among `label_names`; names
            file and line.
    """
    if rating and (separator or label_names):
        raise UserError("a rating is a number: it has no separator and no label_names", status=2)
    convert = Labels(separator, rating, {str(key): str(name) for key, name in (label_names or {}).items()})
    classes = _class_files(path)
    rows = _class_texts(classes) if classes else _table_texts(path, (text, pair, label), columns, labelled)
    labelled = labelled and (label is not None or bool(classes))
    several = False
    for where, first, second, given in rows:
        found = convert(given, where)
        if not first.strip():
            yield Skipped("empty text")
        elif second is not None and not second.strip():
            yield Skipped("empty second text")
        elif found is None and labelled:
            yield Skipped("no label")
        else:
            several = several or isinstance(found, tuple)
            yield TextExample(first, second, found)
    yield Known(several=several)


@dataclass(frozen=True)
class Labels:
    """What stands in a label's column, as a `TextExample` has it."""

    separator: str | None
    rating: bool
    names: dict[str, str]

    def __call__(self, found: object, where: str) -> str | tuple[str, ...] | float | None:
        """None where there is no label."""
        if found is None or (isinstance(found, float) and math.isnan(found)):
            return None
        if isinstance(found, str) and not found.strip():
            return () if self.separator else None
        if self.rating:
            return _number(found, where)
        if isinstance(found, str) and self.separator:
            found = [part for part in found.split(self.separator) if part.strip()]
        if isinstance(found, list):
            return tuple(dict.fromkeys(self._name(one, where) for one in found))
        return self._name(found, where)

    def _name(self, found: object, where: str) -> str:
        if isinstance(found, bool):
            name = str(found).lower()
        elif isinstance(found, float) and found.is_integer():
            name = str(int(found))  # a column of numbers where some are missing
        elif isinstance(found, str | int | float):
            name = str(found).strip()
        else:
            raise UserError(f"{where}: the label {_short(found)} is neither a name nor a list of names")
        if self.names and name not in self.names:
            known = ", ".join(self.names)
            raise UserError(f"{where}: the label {_short(name)} is not in label_names: {known}")
        return self.names.get(name, name)


def _number(found: object, where: str) -> float:
    with suppress(TypeError, ValueError):
        if not isinstance(found, bool) and math.isfinite(number := float(found)):
            return number
    raise UserError(f"{where}: the rating {_short(found)} is not a number")


def _short(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 40 else f"{text[:40]}…"


def text_in(row: Row, name: str, where: str) -> str:
    """The text in a column, empty where it is None; a number as it is written.

    Raises:
        UserError: there is no such column, or something else is in it.
    """
    found = value(row, name, where)
    if isinstance(found, str | int | float | None):
        return "" if found is None else str(found)
    raise UserError(f"{where}: the column {name!r} is not text: {_short(found)}")


Labelled = tuple[str, str, str | None, object]  # where it stands, the text, its pair, and what its label is


def _table_texts(
    path: str, names: tuple[str, str | None, str | None], columns: list[str] | None, labelled: bool
) -> Iterator[Labelled]:
    text, pair, label = names
    for where, row in having(read_rows(path, columns), label if labelled else None):
        first = text_in(row, text, where)
        yield where, first, text_in(row, pair, where) if pair else None, row.get(label)


def _class_files(path: str) -> list[tuple[str, File]]:
    """The texts of a folder or archive with a subfolder for each class, with the class's name, sorted; none
    where the path means tables.

    Raises:
        UserError: there are several folders with classes in them: names some.
    """
    place, member = split_member(path) or (Path(path).expanduser(), "")
    named = PurePosixPath(member)
    single = is_table(member) or (glob.has_magic(member) and named.suffix)
    if single or not (place.is_dir() or split_member(path)):
        return []
    tables: set[PurePosixPath] = set()  # the folders that they lie in
    files: list[File] = []

    def wanted(name: str) -> bool:
        if is_table(name):
            tables.add(PurePosixPath(name).parent)
        return not is_table(name)

    try:
        files = sorted(read_files(path, wanted), key=lambda file: file.name)
    except UserError:
        if not tables:
            raise
    folders = {PurePosixPath(file.name).parent for file in files}
    above = {parent for folder in folders for parent in folder.parents}  # a README or an index lies there
    classes = {folder for folder in folders - above if folder.name}
    if tables:  # beside folders of texts, as an index of them, they count for nothing
        texts = {PurePosixPath(file.name).parent for file in files if decode(file.data)} & classes
        if len(texts) < 2 or not tables <= above:
            return []
    if named.suffix and any(file.name == named.name for file in files):
        return []  # the member is a file
    sets = sorted({str(folder.parent) for folder in classes})
    if not sets:
        raise UserError(f"{path} holds neither tables nor a folder of texts for each class")
    if len(sets) > 1:
        mark = "/" if place.is_dir() or member else "!"
        raise UserError(f"{path} holds several sets of classes: give one, such as {path}{mark}{sets[0]}")
    return [(folder.name, file) for file in files if (folder := PurePosixPath(file.name).parent) not in above]


def _class_texts(files: list[tuple[str, File]]) -> Iterator[Labelled]:
    warn = Warnings()
    for name, file in files:
        file.warn = warn
        text = _BREAK.sub("\n", file.text()) if file.data.strip() else ""
        yield file.where, text, None, None if name in _UNLABELLED else name
    warn.finish()
