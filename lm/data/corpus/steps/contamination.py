"""Evaluation sets are kept out of what a model is trained on."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.data.corpus.documents import Document, Step
from lm.data.corpus.files import decode, files_at, open_binary, plain_suffix
from lm.data.corpus.formats import JSON_LINES, PARQUET, json_lines, mended, parquet_rows
from lm.data.corpus.steps.duplicates import factors, shingles, words_of
from lm.errors import UserError

_TABLES = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = {".txt", ".json", *_TABLES, *JSON_LINES, *PARQUET}
_HAN = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_MOST_HITS = 1000  # that are kept to be looked at
_MOST_PIECES = 10  # GPT-3 takes a document that falls into more of them for lost


class Hit(NamedTuple):
    """A passage of an evaluation set, found in a document."""

    file: str  # the evaluation set's
    passage: str  # as it stands in the document
    document: str  # its id


class _Grams(NamedTuple):
    """All n-grams of one length."""

    hashes: np.ndarray  # (G,) uint64, sorted
    numbers: np.ndarray  # (G,) of the (first) text that has it
    maybe: np.ndarray  # (2^bits,) bool, by a hash's highest bits: most of what isn't there is seen here
    shift: np.uint64

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Which of these hashes (N,) are among them: their numbers, rising."""
        likely = np.flatnonzero(self.maybe[(hashes >> self.shift).view(np.int64)])
        return likely[self.hashes[self._at(hashes[likely])] == hashes[likely]]

    def number(self, hashes: np.ndarray) -> np.ndarray:
        """The numbers of the texts that these are in."""
        return self.numbers[self._at(hashes)]

    def _at(self, hashes: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)


class Passages:
    """Texts of which passages are looked for in others.

    Args:
        texts: each with a number, which may be another's, too.
        ngram: words in a row that make a hit; a text that is shorter counts as a whole.
        characters: as many characters in a row do in Chinese.
        shortest: words of the shortest text that counts; of Chinese in proportion.

    Attributes:
        numbers: of the texts that are long enough.
    """

    def __init__(
        self, texts: Iterable[tuple[int, str]], ngram: int = 13, characters: int = 20, shortest: int = 8
    ) -> None:
        self.numbers: set[int] = set()
        hashes: dict[int, list[np.ndarray]] = {}
        numbers: dict[int, list[np.ndarray]] = {}
        for number, text in texts:
            words = words_of(text).hashes
            chinese = 2 * len(_HAN.findall(text)) > len(words)
            whole = characters if chinese else ngram
            least = -(-shortest * whole // ngram)
            if len(words) < least:
                continue
            self.numbers.add(number)
            length = min(whole, len(words))
            hashes.setdefault(length, []).append(shingles(words, length))
            numbers.setdefault(length, []).append(np.full(len(words) - length + 1, number, np.int32))
        self._grams = {
            length: _table(np.concatenate(hashes[length]), np.concatenate(numbers[length]))
            for length in hashes
        }

    def find(self, text: str) -> list[tuple[int, int, int]]:
        """Passages of the texts in another, in its order, not overlapping: (start, end, number of the first
        text that has it)."""
        if not self._grams:
            return []
        words = words_of(text)
        count = len(words.hashes)
        found = []
        total = np.zeros(count, np.uint64)
        for place, factor in enumerate(factors(max(self._grams))[:count]):
            # The sums over the first words of an n-gram are hashes of shorter ones: one pass for all lengths.
            total = total[: count - place]
            total += words.hashes[place:] * factor
            if grams := self._grams.get(place + 1):
                at = grams.find(total)
                if len(at):
                    starts, ends = words.starts[at].tolist(), words.ends[at + place].tolist()
                    found += zip(starts, ends, grams.number(total[at]).tolist(), strict=True)
        passages: list[tuple[int, int, int]] = []
        for start, stop, number in sorted(found):
            if passages and start < passages[-1][1]:
                before = passages[-1]
                passages[-1] = (before[0], max(before[1], stop), before[2])
            else:
                passages.append((start, stop, number))
        return passages


class Contamination(Step):
    """Leaves out documents, or passages of them, that an evaluation set holds, too.

    As for GPT-3 (arXiv:2005.14165, appendix C) a document is contaminated where it shares 13 words in a row
    with one, without regard to case and punctuation. Here a text of an evaluation set that is shorter counts
    as a whole, and Chinese (as other scripts without blanks) goes by characters.

    Args:
        against: files of evaluation sets, folders or globs. Each text in them that is long enough counts: a
            string anywhere in JSON (as SQuAD's) or JSON Lines, a cell of CSV, TSV and Parquet; in other files
            a paragraph, or a line where no line is empty.
        ngram: words in a row that make a hit.
        characters: as many characters in a row do in Chinese; 20 are about 13 words.
        shortest: words of the shortest text that counts; of Chinese in proportion, 12 characters.
        fields: names of the fields or columns that count, such as `question`; by default all.
        cut: cut out what is hit and so many characters on either side (200 for GPT-3) in place of leaving the
            document out; what is left between two cuts and shorter falls away. 0 leaves it out.

    Attributes:
        hits: the first thousand, to be looked at.

    Raises:
        UserError: a file is absent, unreadable or without a text that is long enough, or a number is out of
            range.
    """

    def __init__(
        self,
        against: str | list[str],
        ngram: int = 13,
        characters: int = 20,
        shortest: int = 8,
        fields: list[str] | None = None,
        cut: int = 0,
    ) -> None:
        if not 1 <= shortest <= ngram <= characters:
            raise UserError(
                f"Contamination: `shortest` ({shortest}), `ngram` ({ngram}) and `characters` ({characters}) "
                "must rise and be at least 1",
                status=2,
            )
        if cut < 0:
            raise UserError(f"`cut` of Contamination is {cut}: it must be at least 0", status=2)
        self.files = [
            file for entry in ([against] if isinstance(against, str) else against) for file in _files(entry)
        ]
        if not self.files:
            raise UserError("Contamination: `against` names no file", status=2)
        self.ngram, self.characters, self.shortest = ngram, characters, shortest
        self.fields, self.cut = set(fields or ()), cut
        self.hits: list[Hit] = []
        self._passages: Counter[str] = Counter()

    def __call__(self, document: Document) -> str | None:
        passages = self._evaluated.find(document.text)
        if not passages:
            return None
        for start, stop, number in passages:
            name = self.files[number].name
            self._passages[name] += 1
            if len(self.hits) < _MOST_HITS:
                self.hits.append(Hit(name, document.text[start:stop], document.id))
        if self.cut:
            pieces, at = [], 0
            for start, stop, _ in [*passages, (len(document.text) + self.cut, 0, 0)]:
                pieces.append(document.text[at : max(start - self.cut, at)].strip())
                at = max(at, stop + self.cut)
            pieces = [piece for piece in pieces if len(piece) >= self.cut]
            if 0 < len(pieces) <= _MOST_PIECES:
                document.text = "\n\n".join(pieces)
                return None
        return f"contaminated by {self.files[passages[0][2]].name}"

    def reads(self) -> list[Path]:
        return self.files

    def counts(self) -> dict[str, int]:
        """How many passages of each evaluation set were found."""
        return {f"passages of {name}": count for name, count in self._passages.items()}

    @cached_property
    def _evaluated(self) -> Passages:
        lengths = self.ngram, self.characters, self.shortest
        return _read(tuple(self.files), lengths, frozenset(self.fields))


@lru_cache(maxsize=8)  # a process does many tasks, each with a step of its own
def _read(paths: tuple[Path, ...], lengths: tuple[int, int, int], fields: frozenset[str]) -> Passages:
    """The passages of evaluation sets, by the number of the file; `lengths` are those of `Passages`."""
    texts = ((number, text) for number, file in enumerate(paths) for text in _texts(file, fields))
    passages = Passages(texts, *lengths)
    for number, file in enumerate(paths):
        if number not in passages.numbers:
            raise UserError(f"{file} has no text of {lengths[2]} words to keep a corpus clean of")
    return passages


def _table(hashes: np.ndarray, numbers: np.ndarray) -> _Grams:
    hashes, first = np.unique(hashes, return_index=True)
    bits = min(max(len(hashes).bit_length() + 5, 12), 26)  # one in 32 to 64 places is taken
    shift = np.uint64(64 - bits)
    maybe = np.zeros(1 << bits, bool)
    maybe[(hashes >> shift).view(np.int64)] = True
    return _Grams(hashes, numbers[first], maybe, shift)


def _files(entry: str) -> list[Path]:
    path = Path(entry).expanduser()
    files = files_at(path)
    if path.is_dir():
        files = [file for file in files if plain_suffix(file) in _SUFFIXES]
    if not files:
        raise UserError(f"no evaluation set at {entry}")
    return files


def _texts(path: Path, fields: Set[str]) -> Iterator[str]:
    """The texts of an evaluation set's file; those of some fields only, where it has fields."""
    suffix = plain_suffix(path)
    with open_binary(path) as file:
        if suffix in PARQUET:
            rows = (row for _, row in parquet_rows(file, str(path)))
            yield from (text for row in rows for text in strings(mended(row), fields))
            return
        if suffix in JSON_LINES:
            values = (value for _, value in json_lines(file, str(path)))
            yield from (text for value in values for text in strings(mended(value), fields))
            return
        data = file.read()
    decoded = decode(data)
    if decoded is None:
        raise UserError(f"{path} is not text")
    content = decoded[0]
    if suffix == ".json":
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: {error}") from error
        yield from strings(mended(value), fields)
    elif suffix in _TABLES:
        try:
            for row in csv.DictReader(io.StringIO(content, newline=""), delimiter=_TABLES[suffix]):
                yield from strings(row, fields)
        except csv.Error as error:
            raise UserError(f"{path} is not a table: {error}") from error
    else:
        paragraphs = re.split(r"\r?\n\s*\n", content.strip())
        yield from paragraphs if len(paragraphs) > 1 else content.splitlines()


def strings(value: Any, fields: Set[str] = frozenset(), wanted: bool = False) -> Iterator[str]:
    """The strings anywhere in a JSON value, or anywhere below these fields of it."""
    wanted = wanted or not fields
    if isinstance(value, str):
        if wanted:
            yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, fields, wanted or key in fields)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, fields, wanted)
