"""Sentences with a tag for each word: CoNLL's columns, or tables with lists of words and tags."""

import re
from collections.abc import Iterator

from lm.data.examples.files import File, Known, Skipped, read_alike
from lm.data.examples.records import TagExample
from lm.data.examples.tables import Row, is_table, no_column, rows_of
from lm.errors import UserError

_ENDINGS = (".txt", ".conll", ".conllu", ".conll03", ".bio", ".iob", ".iob2", ".bioes", ".bmes")
_ENDINGS += (".tag", ".char")
_TABS = re.compile(r"[^#\s]\S*\t")  # behind a word
_SPACES = re.compile(" +")
_CJK = re.compile("[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_PART = re.compile(r"\d+[-.]\d+")  # CoNLL-U's multiword tokens and empty nodes, which are no words
_WORDS = ("words", "tokens", "text")
_TAGS = ("tags", "ner_tags", "labels", "label")


Sentence = tuple[list[str], list[str]]  # words and tags


def read_tags(
    path: str, word_column: int = 0, tag_column: int | None = -1, joiner: str | None = None
) -> Iterator[TagExample | Skipped | Known]:
    """Tagged sentences, in the file's order.

    Args:
        path: a file, folder, glob or `ARCHIVE!MEMBER`: a word and its tag on a line, in columns separated by
            tabs or spaces, an empty line between sentences; or a table (JSON Lines, JSON, Parquet) with a
            list `words` or `tokens` and a list `tags`, `ner_tags` or `labels`.
        word_column, tag_column, joiner: see `TagData`.

    Raises:
        UserError: a line has too few columns, or a row has not as many tags as words; names file and line.
    """
    if word_column == tag_column:
        raise UserError(f"`word_column` and `tag_column` are both {word_column}", status=2)
    words = chinese = 0
    for file in read_alike(path, lambda name: is_table(name) or name.lower().endswith(_ENDINGS)):
        table = is_table(file.name) and file.suffix not in {".csv", ".tsv"}
        for found in _rows(file) if table else _columns(file, word_column, tag_column):
            if isinstance(found, Skipped):
                yield found
                continue
            words += len(found[0])
            chinese += sum(len(word) == 1 and _CJK.match(word) is not None for word in found[0])
            yield TagExample(*map(tuple, found))
    if joiner is None:
        joiner = "" if 2 * chinese > words else " "
    yield Known(joiner=joiner)


def _columns(file: File, word_column: int, tag_column: int | None) -> Iterator[Sentence]:
    with file.opened() as lines:
        tabs = any(map(_TABS.match, lines))
    needed = _least_columns(word_column, word_column if tag_column is None else tag_column)
    words, tags = [], []
    with file.opened() as lines:
        for number, end in enumerate(lines, start=1):
            line = end.rstrip("\r\n")
            # Not every blank: a word may be a Chinese space.
            fields = line.split("\t") if "\t" in line else _SPACES.split(line.strip(" "))
            if not line.strip(" \t") or fields[0] == "-DOCSTART-":
                if words:
                    yield words, tags
                    words, tags = [], []
                continue
            # CoNLL-U's comments; where columns are separated by spaces, # is a word.
            if line[0] == "#" and tabs and "\t" not in line:
                continue
            if len(fields) == 10 and _PART.fullmatch(fields[0]):
                continue
            if len(fields) < needed:
                there = f"{len(fields)} column" + "s" * (len(fields) != 1)
                raise UserError(f"{file.where}:{number}: the line has {there}: {needed} are needed")
            words.append(fields[word_column])
            if tag_column is not None:
                tags.append(fields[tag_column])
                if not tags[-1].strip():
                    raise UserError(f"{file.where}:{number}: the word {words[-1]!r} has no tag")
            if not words[-1]:
                raise UserError(f"{file.where}:{number}: there is no word in column {word_column}")
    if words:
        yield words, tags


def _least_columns(word: int, tag: int) -> int:
    """How many columns a line must have, so that these two are there and are two."""
    if (word < 0) == (tag < 0):
        return max(column + 1 if column >= 0 else -column for column in (word, tag))
    return max(word, tag) - min(word, tag) + 1


def _rows(file: File) -> Iterator[Sentence | Skipped]:
    for where, row in rows_of(file):
        words, tags = _listed(row, _WORDS, where), _listed(row, _TAGS, where)
        if words is None:
            raise UserError(no_column(row, "words", where))
        if tags is not None and len(tags) != len(words):
            raise UserError(f"{where}: there are {len(words)} words and {len(tags)} tags")
        yield (words, tags or []) if words else Skipped("no words")


def _listed(row: Row, names: tuple[str, ...], where: str) -> list[str] | None:
    """The first of these columns that there is; None where there is none."""
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        return None
    found = row[name]
    if not isinstance(found, list) or not all(isinstance(one, str | int) for one in found):
        raise UserError(f"{where}: {name!r} is not a list of words or tags")
    return list(map(str, found))
