"""A text's words and lines, split once and shared by all rules that count them.

Words are found by numpy from the kinds of characters, not by a regular expression, and never become strings:
a rule wants their number, their lengths and whether two are the same, for which 64 bits stand.
"""

import unicodedata
from functools import cached_property, lru_cache

import numpy as np

from lm.errors import not_installed

SPACE, SYMBOL, DIGIT, LETTER, HAN, INNER, POINT = range(7)  # kinds of characters
_RUNS = np.array([SPACE, SYMBOL, LETTER, LETTER, HAN], np.uint8)  # what goes together in a word
_BMP = 0x10000
_P, _Q = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd, so that they have an inverse modulo 2^64
_CACHED = 1 << 20  # powers that are kept: 16 MB


def kind_of(char: str) -> int:
    """What a character is to a word: a part of one, a part between two others, or a word by itself."""
    code = ord(char)
    if 0x3400 <= code <= 0x4DBF or 0x4E00 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or char in "々〇〻":
        return HAN
    if char in "'’-":
        return INNER  # don't, well-known
    if char in ".,":
        return POINT  # 3.14, 1,000
    if char.isalpha():
        return LETTER
    if char.isspace() or code < 0x20 or 0x7F <= code < 0xA0:
        return SPACE
    # Marks belong to the letter before: vowels of Devanagari and Thai, accents that stand alone.
    return DIGIT if char.isdigit() else LETTER if unicodedata.category(char)[0] == "M" else SYMBOL


@lru_cache(1)
def _kinds() -> np.ndarray:
    """The kind of each character of the first plane; what lies beyond is taken by `_codes_and_kinds`."""
    return np.array([kind_of(chr(code)) for code in range(_BMP)], np.uint8)


def _codes_and_kinds(text: str) -> tuple[np.ndarray, np.ndarray]:
    if text.isascii():
        codes = np.frombuffer(text.encode("ascii"), np.uint8)
        return codes, _kinds()[codes]
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[np.minimum(codes, _BMP - 1)]  # U+FFFF is none, a symbol as emoji are
    beyond = np.flatnonzero(codes >= 0x20000)
    kinds[beyond[codes[beyond] < 0x40000]] = HAN
    return codes, kinds


@lru_cache(1)
def _cached_powers() -> tuple[np.ndarray, np.ndarray]:
    return _powers(_CACHED)


def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """P^0 .. P^(n-1) and their inverses, modulo 2^64."""
    result = []
    for base in _P, pow(_P, -1, 1 << 64):
        powers = np.full(n, base, np.uint64)
        powers[0] = 1
        result.append(np.multiply.accumulate(powers))  # array products wrap without a warning
    return result[0], result[1]


class Words:
    """The words of a text: runs of letters and digits, the words of Chinese, single punctuation marks.

    Words are as datatrove's rules count them, whose bounds are the published ones: a punctuation mark is a
    word by itself (a run of the same mark is one), don't and well-known and 3.14 are one each. Chinese is cut
    by jieba, what else is written without spaces (Japanese, Thai) is not cut at all.

    Raises:
        UserError: the text has Chinese and rjieba is not installed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.most_pairs: int | None = None  # how often the most frequent two words in a row are there
        self._codes, kinds = _codes_and_kinds(text)
        for inner, least in (INNER, DIGIT), (POINT, DIGIT):
            places = np.flatnonzero(kinds == inner)
            if len(places):
                before, after = kinds[places - 1], kinds[np.minimum(places + 1, len(kinds) - 1)]
                most = LETTER if inner == INNER else DIGIT
                joins = (least <= before) & (before <= most) & (least <= after) & (after <= most)
                joins &= (places > 0) & (places < len(kinds) - 1)
                kinds[places] = SYMBOL  # not before the neighbours were looked at: "--" joins nothing
                kinds[places[joins]] = DIGIT
        runs = _RUNS[kinds]
        begins = np.empty(len(runs), bool)
        begins[:1] = True
        np.not_equal(runs[1:], runs[:-1], out=begins[1:])
        symbols = np.flatnonzero(runs == SYMBOL)
        begins[symbols[self._codes[symbols] != self._codes[symbols - 1]]] = True
        han = runs == HAN
        if han.any():
            begins |= han & _cuts(text)
        starts = np.flatnonzero(begins)
        lengths = np.empty_like(starts)
        lengths[:-1] = starts[1:] - starts[:-1]
        lengths[-1:] = len(runs) - starts[-1:]
        is_word = runs[starts] != SPACE
        self.starts, self.lengths = starts[is_word], lengths[is_word]
        self.is_symbol = runs[self.starts] == SYMBOL
        self._alphabetic = np.add.reduceat(kinds >= LETTER, starts)[is_word] > 0 if len(runs) else is_word

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def alphabetic(self) -> int:
        """How many have a letter (or are Chinese)."""
        return int(np.count_nonzero(self._alphabetic))

    @cached_property
    def hashes(self) -> np.ndarray:
        """64 bits for each word (N,), equal for equal words in whatever text."""
        n = len(self._codes)
        powers, inverses = _cached_powers() if n <= _CACHED else _powers(n)
        sums = np.zeros(n + 1, np.uint64)
        np.cumsum(self._codes * powers[:n], out=sums[1:])
        hashes = (sums[self.starts + self.lengths] - sums[self.starts]) * inverses[self.starts]
        return (hashes ^ (hashes >> np.uint64(32))) * np.uint64(_Q)

    def ngrams(self, n: int) -> np.ndarray:
        """64 bits for each n words in a row (N - n + 1,)."""
        if n not in self._ngrams:
            self._ngrams[n] = self.ngrams(n - 1)[:-1] * np.uint64(_Q) + self.hashes[n - 1 :]
        return self._ngrams[n]

    @cached_property
    def _ngrams(self) -> dict[int, np.ndarray]:
        return {1: self.hashes}

    @cached_property
    def _ends(self) -> np.ndarray:
        """How many characters the words have up to each one's begin, and all (N + 1,)."""
        sums = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.lengths, out=sums[1:])
        return sums

    def ngram_lengths(self, n: int) -> np.ndarray:
        """Characters of each n words in a row, without what stands between (N - n + 1,)."""
        return self._ends[n:] - self._ends[:-n]


def _cuts(text: str) -> np.ndarray:
    """Where jieba begins a word: a bool for each character."""
    try:
        import rjieba
    except ImportError as error:
        raise not_installed("splitting Chinese into words", "rjieba", "corpus") from error
    words = rjieba.cut(text)
    begins = np.zeros(len(text) + 1, bool)
    begins[np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))] = True
    begins[0] = True
    return begins[:-1]


def word_hashes(words: str) -> np.ndarray:
    """`Words.hashes` of some words with blanks between, each taken whole."""
    return np.concatenate([Words(word).hashes[:1] for word in words.split()])


def top_ngram(words: Words, n: int, least: float = 0.0) -> int:
    """How many characters the most frequent n-gram covers: its length, a blank between words, times its
    number (Gopher's "top n-gram").

    Args:
        least: what matters only if it is more; where it can't be, 0 is given, mostly without counting.
    """
    if len(words) < n:
        return 0
    lengths = words.ngram_lengths(n) + (n - 1)
    longest = int(lengths.max())
    if words.most_pairs is not None and n > 2 and words.most_pairs * longest <= least:
        return 0  # no n-gram is more frequent than the first two of its words
    ngrams = words.ngrams(n)
    ordered = np.sort(ngrams)
    borders = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    begins = np.concatenate([[0], borders, [len(ordered)]])
    counts = begins[1:] - begins[:-1]
    most = int(counts.max())
    if n == 2:
        words.most_pairs = most
    if most * longest <= least:
        return 0
    # Of equally frequent ones the first in the text, as datatrove has it.
    frequent = ordered[begins[:-1][counts == most]]
    return most * int(lengths[np.argmax(np.isin(ngrams, frequent))])


def duplicate_ngrams(words: Words, n: int, least: float = 0.0) -> int:
    """How many characters lie in n-grams that came before, none counted twice (Gopher's "duplicate n-grams").

    Args:
        least: what matters only if it is more; where it can't be, at most `least` is given: a bound that
            holds for all longer n-grams, too, as theirs lie within these.
    """
    if len(words) < n:
        return 0
    ngrams = words.ngrams(n)
    ordered = np.sort(ngrams)
    if len(ordered) < 2 or not (repeated := np.count_nonzero(ordered[1:] == ordered[:-1])):
        return 0
    lengths = words.ngram_lengths(n)
    if (bound := repeated * int(lengths.max())) <= least:
        return bound
    order = np.argsort(ngrams, kind="stable")
    ordered = ngrams[order]
    later = order[1:][ordered[1:] == ordered[:-1]]
    change = np.zeros(len(words) + 1, np.int64)
    change[later] += 1
    change[later + n] -= 1
    if (bound := int(words.lengths[np.cumsum(change[:-1]) > 0].sum())) <= least:
        return bound
    seen, total, place, keys = set(), 0, 0, ngrams.tolist()
    while place < len(keys):
        if keys[place] in seen:
            total += int(lengths[place])
            place += n
        else:
            seen.add(keys[place])
            place += 1
    return total
