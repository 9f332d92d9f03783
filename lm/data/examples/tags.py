"""Sentences with a tag for each word: CoNLL's columns, or tables with lists of words and tags."""

import re
from collections.abc import Iterator

from lm.data.examples.files import File, Read, read_alike
from lm.data.examples.records import TagExample
from lm.data.examples.tables import Row, is_table, no_column, rows_of
from lm.errors import UserError

_ENDINGS = (
    ".txt",
    ".conll",
    ".conllu",
    ".conll03",
    ".bio",
    ".iob",
    ".iob2",
    ".bioes",
    ".bmes",
    ".tag",
    ".char",
)
_TABS = re.compile(r"^[^#\s]\S*\t", re.MULTILINE)  # behind a word
_SPACES = re.compile(" +")
_CJK = re.compile("[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_PART = re.compile(r"\d+[-.]\d+")  # CoNLL-U's multiword tokens and empty nodes, which are no words
_WORDS = ("words", "tokens", "text")
_TAGS = ("tags", "ner_tags", "labels", "label")


def read_tags(
    path: str, word_column: int = 0, tag_column: int | None = -1, joiner: str | None = None
) -> Read:
    """Tagged sentences.

    Args:
        path: a file, folder, glob or `ARCHIVE!MEMBER`: a word and its tag on a line, in columns separated by
            tabs or spaces, an empty line between sentences; or a table (JSON Lines, JSON, Parquet) with a
            list `words` or `tokens` and a list `tags`, `ner_tags` or `labels`.
        word_column: which column has the words, from 0; from the end where it is negative.
        tag_column: which has the tags; null where there are none.
        joiner: what stands between words in a text; null for nothing where most words are one Chinese
            character, else a space.

    Returns:
        `TagExample`s in the file's order.

    Raises:
        UserError: a line has too few columns, a row has not as many tags as words, or there is no sentence;
            names file and line.
    """
    if word_column == tag_column:
        raise UserError(f"word_column and tag_column are both {word_column}", status=2)
    read = Read([])
    for file in read_alike(path, lambda name: is_table(name) or name.lower().endswith(_ENDINGS)):
        if is_table(file.name) and file.suffix not in {".csv", ".tsv"}:
            found = _rows(file, read)
        else:
            found = _columns(file, word_column, tag_column)
        for sentence in found:  # one at a time: what is skipped has its turn among them
            read.examples.append(sentence)
    if joiner is None:
        joiner = "" if _is_chinese(read.examples) else " "
    read.examples = [TagExample(tuple(words), tuple(tags), joiner) for words, tags in read.examples]
    return read.or_error(path)


def _is_chinese(sentences: list[tuple[list[str], list[str]]]) -> bool:
    words = sum(len(words) for words, _ in sentences)
    return 2 * sum(len(w) == 1 and _CJK.match(w) is not None for words, _ in sentences for w in words) > words


def _columns(file: File, word_column: int, tag_column: int | None) -> Iterator[tuple[list[str], list[str]]]:
    text = file.text()
    tabs = _TABS.search(text) is not None
    needed = _least_columns(word_column, tag_column)
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        # Not every blank: a word may be a Chinese space.
        fields = line.rstrip("\r").split("\t") if "\t" in line else _SPACES.split(line.strip(" \r"))
        if not line.strip(" \t\r") or fields[0] == "-DOCSTART-":
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
            raise UserError(f"{file.where}:{number}: the line has {_columns_in(fields)}: {needed} are needed")
        words.append(fields[word_column])
        if tag_column is not None:
            tags.append(fields[tag_column])
            if not tags[-1].strip():
                raise UserError(f"{file.where}:{number}: the word {words[-1]!r} has no tag")
        if not words[-1]:
            raise UserError(f"{file.where}:{number}: there is no word in column {word_column}")
    if words:
        yield words, tags


def _least_columns(word: int, tag: int | None) -> int:
    """How many columns a line must have, so that these two are there and are two."""
    if tag is None:
        tag = word
    if (word < 0) == (tag < 0):
        return max(column + 1 if column >= 0 else -column for column in (word, tag))
    return max(word, tag) - min(word, tag) + 1


def _columns_in(fields: list[str]) -> str:
    return f"{len(fields)} column" + "s" * (len(fields) != 1)


def _rows(file: File, read: Read) -> Iterator[tuple[list[str], list[str]]]:
    for where, row in rows_of(file):
        words = _listed(row, _WORDS, where)
        tags = _listed(row, _TAGS, where)
        if words is None:
            raise UserError(no_column(row, "words", where))
        if tags is not None and len(tags) != len(words):
            raise UserError(f"{where}: there are {len(words)} words and {len(tags)} tags")
        if words:
            yield words, tags or []
        else:
            read.skip("no words")


def _listed(row: Row, names: tuple[str, ...], where: str) -> list[str] | None:
    """The first of these columns that there is; None where there is none."""
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        return None
    found = row[name]
    if not isinstance(found, list) or not all(isinstance(one, str | int) for one in found):
        raise UserError(f"{where}: {name!r} is not a list of words or tags")
    return list(map(str, found))
