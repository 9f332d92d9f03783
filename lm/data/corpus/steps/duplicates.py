"""Documents that are there twice, word for word or nearly so.

Everything is hashed with numpy, a document at a time, and nothing depends on the process, the machine or the
number of workers: a note that was written yesterday matches one of today.
"""

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from lm.data.corpus.documents import Document, PassageReduction, Reduction
from lm.errors import UserError

_CHUNK = 1 << 16  # characters that are hashed at once: what comes of them fits into a core's cache
_BASE = 0x9E3779B97F4A7C15  # of the polynomial that hashes a word; odd, so that it has an inverse
_SORTED = 1 << 22  # hashes that are sorted at once
_ROUND = 0xD1B54A32D192ED03
# Scripts that are written without blanks: each character stands for itself as a word does elsewhere.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)


class Words(NamedTuple):
    """The words of a text; of a script without blanks, such as Chinese, the characters."""

    hashes: np.ndarray  # (W,) uint64, of each word's letters and digits
    starts: np.ndarray  # (W,) where it begins in the text, in characters
    ends: np.ndarray  # (W,) and ends


def words_of(text: str) -> Words:
    """The words of a text and where they are: runs of letters, marks and digits, without regard to case and
    width; punctuation and blanks only part them."""
    if len(text) <= _CHUNK:
        return _words(text, 0)
    parts, start = [], 0
    while start < len(text):
        stop = min(start + _CHUNK, len(text))
        if stop < len(text):  # no word is cut, unless it is as long as that
            stop = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop), start) + 1
            stop = stop if stop > start + 1 else start + _CHUNK
        parts.append(_words(text[start:stop], start))
        start = stop
    return Words(*map(np.concatenate, zip(*parts, strict=True)))


def _words(text: str, offset: int) -> Words:
    if text.isascii():  # one byte a character and one table for it: 3 times as fast
        letters = np.frombuffer(b"\0" + text.encode().translate(_ascii()) + b"\0", np.uint8)
        edges = np.flatnonzero(np.diff(letters != 0))
        starts, ends = edges[::2], edges[1::2]
    else:
        folded, unspaced = _alphabet()
        codes = np.frombuffer(("\0" + text + "\0").encode("utf-32-le", "surrogatepass"), "<u4")
        letters = folded.take(codes, mode="clip")
        alone = unspaced.take(codes, mode="clip")
        beyond = np.flatnonzero(codes > 0xFFFF)  # all of them count as letters, which differ
        letters[beyond] = codes[beyond]
        inside = letters != 0
        border = (inside[1:] != inside[:-1]) | alone[1:] | alone[:-1]
        starts = np.flatnonzero(border & inside[1:])
        ends = np.flatnonzero(border & inside[:-1])
    # A word's hash is the sum of letter * base**place, from running sums, brought back to the place 0.
    powers, inverses = _powers()
    sums = np.cumsum(letters[:-1] * powers[: len(letters) - 1])
    hashes = _mix((sums[ends] - sums[starts]) * inverses[starts])
    return Words(hashes, starts + offset, ends + offset)


@cache
def _alphabet() -> tuple[np.ndarray, np.ndarray]:
    """Of each character up to U+FFFF: the one that it is taken for, 0 for none; whether it stands alone. The
    last entry is for all above."""
    folded, alone = np.zeros(1 << 16, np.uint32), np.zeros((1 << 16) + 1, bool)
    for code in range(1 << 16):
        char = chr(code)
        if unicodedata.category(char)[0] in "LMN":
            plain = unicodedata.normalize("NFKC", char).casefold()
            folded[code] = ord(plain) if len(plain) == 1 else code
    for first, last in _UNSPACED:
        alone[first : last + 1] = True
    alone[-1] = True  # rare Han and emoji
    return folded, alone & np.append(folded != 0, True)


@cache
def _ascii() -> bytes:
    return bytes(_alphabet()[0][:128].astype(np.uint8)) + bytes(128)


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    length = _CHUNK + 2
    bases = np.full((2, length), [[_BASE], [pow(_BASE, -1, 1 << 64)]], np.uint64)
    bases[:, 0] = 1
    powers, inverses = np.cumprod(bases, axis=1, dtype=np.uint64)
    return powers, inverses


def _mix(z: np.ndarray) -> np.ndarray:
    """MurmurHash3's finaliser, in place: a bijection of uint64 after which each bit depends on all."""
    for factor in 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53:
        z ^= z >> np.uint64(33)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(33)
    return z


@cache
def factors(count: int) -> np.ndarray:
    """Fixed odd numbers (count,) uint64; the first ones are the same for every count."""
    return _mix(np.arange(1, count + 1, dtype=np.uint64)) | np.uint64(1)


def shingles(hashes: np.ndarray, ngram: int) -> np.ndarray:
    """A hash of each `ngram` words in a row.

    Args:
        hashes: of the words (W,) uint64.

    Returns:
        (W - ngram + 1,) uint64, empty where there are fewer words.
    """
    count = max(len(hashes) - ngram + 1, 0)
    total = np.zeros(count, np.uint64)
    for place, factor in enumerate(factors(ngram)):
        total += hashes[place : place + count] * factor
    return total


def sketch(elements: np.ndarray, size: int) -> np.ndarray:
    """A sample of a set: that of another set is equal at a place with the Jaccard similarity of the two as
    probability.

    Fast similarity sketching (Dahlgaard, Knudsen and Thorup 2017): in each round every element falls on one
    place, and a place keeps the smallest of the first round that reaches it. So about max(S, size ln size)
    hashes are needed where MinHash takes S * size, and the places are as good as independent.

    Args:
        elements: the set (S,) uint64, repetitions allowed, not empty.
        size: places, at most 4,096.

    Returns:
        (size,) uint64.
    """
    found = np.zeros(size, np.uint64)
    places = np.arange(size, dtype=np.uint64) << np.uint64(52)
    empty = np.ones(size, bool)
    first, rounds = 0, math.ceil(1.2 * size * math.log(size + 1) / len(elements))
    while True:
        # A place (12 bits), a round (20), a hash (32): sorted, the first of a place is what it keeps.
        number = np.arange(first, first + rounds, dtype=np.uint64)[:, None]
        keys = _mix(elements + number * np.uint64(_ROUND))
        place = ((keys >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)
        keys &= np.uint64(0xFFFFFFFF)
        keys |= (place << np.uint64(52)) | (number << np.uint64(32))
        keys = np.sort(keys, axis=None)
        at = np.searchsorted(keys, places)
        best = keys[np.minimum(at, len(keys) - 1)]
        hit = empty & ((best ^ places) >> np.uint64(52) == 0)
        found[hit] = best[hit]
        empty &= ~hit
        if not empty.any():
            return found
        first, rounds = first + rounds, 2 * rounds


class Duplicates(Reduction):
    """Leaves out what repeats an earlier document, exactly or nearly; the first one stays.

    Exact is what has the same characters but for case and blanks. Nearly is what shares a bucket of MinHash
    (Broder 1997) over the n-grams of words: two documents of similarity s do with a probability of
    1 - (1 - s^rows)^buckets, and whoever is near to one that is near to a third is of its kind, too. Chinese
    and other scripts without blanks go by characters in place of words. The values are FineWeb's
    (arXiv:2406.17557): half of the pairs are found at a similarity of 0.70, 92% at 0.8.

    Args:
        ngram: words (or Chinese characters) in a row that are compared. A document of fewer is near to none.
        buckets: how many chances to meet.
        rows: hashes that have to agree in one of them.
        exact: whether exact duplicates go.
        near: whether near duplicates go.

    Raises:
        UserError: a number is out of range, or nothing is looked for.
    """

    def __init__(
        self, ngram: int = 5, buckets: int = 14, rows: int = 8, exact: bool = True, near: bool = True
    ) -> None:
        for name, value in {"ngram": ngram, "buckets": buckets, "rows": rows}.items():
            if value < 1:
                raise UserError(f"`{name}` of Duplicates is {value}: it must be at least 1", status=2)
        if buckets * rows > 4096:
            raise UserError(f"`buckets` times `rows` is {buckets * rows}: at most 4096 hashes", status=2)
        if not (exact or near):
            raise UserError("Duplicates looks for nothing: set `exact` or `near`", status=2)
        self.ngram, self.buckets, self.rows = ngram, buckets, rows
        self.exact, self.near = exact, near

    def note(self, document: Document) -> np.ndarray:
        """Hashes (1 + buckets,) uint64: of the text, and of each bucket; 0 matches nothing."""
        note = np.zeros(1 + self.buckets, np.uint64)
        if self.exact:
            text = document.text
            if text.isascii():  # bytes are quicker to part
                plain = b" ".join(text.encode().lower().split())
            else:
                plain = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(plain, digest_size=8).digest()
            note[0] = int.from_bytes(digest, "little") | 1
        if self.near:
            grams = shingles(words_of(document.text).hashes, self.ngram)
            if len(grams):
                rows = sketch(grams, self.buckets * self.rows).reshape(self.buckets, self.rows)
                # Which place a value is at says its bucket, so the sums may be compared as they are.
                note[1:] = _mix(_mix(rows) @ factors(self.rows)) | np.uint64(1)
        return note

    def decide(self, notes: np.ndarray) -> Sequence[tuple[int, str, int]]:
        """All documents that are no cluster's first, in their order.

        Args:
            notes: (N, 1 + buckets) uint64; a column at a time is in memory.

        Returns:
            (number, "exact duplicate" or "near duplicate", number of the cluster's first).
        """
        first = np.arange(len(notes))  # of each document's cluster, as known by now
        exact = np.zeros(len(notes), bool)
        for column in range(notes.shape[1]):
            one, other = _pairs(np.ascontiguousarray(notes[:, column]))
            if column == 0:
                exact[other] = True
            _join(first, one, other)
        gone = np.flatnonzero(first != np.arange(len(notes)))
        reasons = np.where(exact[gone], "exact duplicate", "near duplicate")
        return list(zip(gone.tolist(), reasons.tolist(), first[gone].tolist(), strict=True))


def _pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each document that has an earlier one's hash, and the first of them; 0 is no hash. (N,) to 2 x (P,)."""
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    same = np.append(False, (hashes[1:] == hashes[:-1]) & (hashes[1:] != 0))
    begin = np.maximum.accumulate(np.where(same, 0, np.arange(len(hashes))))
    return order[begin[same]], order[same]


def _join(first: np.ndarray, one: np.ndarray, other: np.ndarray) -> None:
    """Joins the clusters of pairs; `first` (N,) holds the lowest member of each one's and is changed."""
    while True:
        one, other = first[one], first[other]
        apart = one != other
        if not apart.any():
            return
        one, other = one[apart], other[apart]
        # The higher first goes below the lower one, so that nothing goes in circles and the lowest remains.
        np.minimum.at(first, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(further := first[first], first):
            first[:] = further


class RepeatedPassages(PassageReduction):
    """Cuts out passages that stood in an earlier document, or earlier in the same one; the first ones stay.

    In the spirit of exact substring deduplication (arXiv:2107.06499), without a suffix array: n-grams of half
    of the words are chosen by winnowing (Schleimer et al. 2003), so that of every passage of so many words at
    least one is compared, wherever it stands. All repeated passages of `words` words are found, and of those
    of half as many some; at either end of one fewer than half of `words` words may stay. Notes take about
    a tenth of the size of the text, a sixth in Chinese.

    Args:
        words: of the shortest passage that is found for certain; characters in Chinese.

    Raises:
        UserError: fewer than 10 words.
    """

    def __init__(self, words: int = 50) -> None:
        if words < 10:
            raise UserError(f"`words` of RepeatedPassages is {words}: it must be at least 10", status=2)
        self.words, self.ngram = words, words // 2

    def note(self, document: Document) -> np.ndarray:
        """Hashes (K,) uint64 of the chosen n-grams, in the text's order."""
        return self._chosen(words_of(document.text))[1]

    def decide(self, notes: np.ndarray) -> np.ndarray:
        """Which were there before.

        Args:
            notes: of all documents, one after the other (F,) uint64; some 4 million are in memory at a time.

        Returns:
            (F,) bool.
        """
        repeated = np.zeros(len(notes), bool)
        shares = max(math.ceil(len(notes) / _SORTED), 1)
        lot = notes.view(np.uint16)[::4] % shares  # 16 bits of each: equal ones come together
        for share in range(shares):
            own = np.flatnonzero(lot == share)
            repeated[own[_pairs(notes[own])[1]]] = True
        return repeated

    def cut(self, document: Document, gone: np.ndarray) -> str | None:
        """Cut out what is repeated; the pieces left become lines.

        Args:
            gone: the document's part of the decision (K,) bool.

        Returns:
            None, or a reason where fewer than half of `words` words are left.
        """
        if not gone.any():
            return None
        words = words_of(document.text)
        covered = np.zeros(len(words.hashes) + 1, np.int64)
        at = self._chosen(words)[0]
        np.add.at(covered, at[gone], 1)
        np.add.at(covered, at[gone] + self.ngram, -1)
        # Between two neighbours that are repeated nothing stays: at most a word or two lie there.
        both = gone[1:] & gone[:-1]
        np.add.at(covered, at[:-1][both], 1)
        np.add.at(covered, at[1:][both], -1)
        inside = np.cumsum(covered)[:-1] > 0
        if np.count_nonzero(~inside) < self.ngram:
            return "repeated passages"
        edges = np.flatnonzero(np.diff(np.concatenate(([False], inside, [False]))))
        pieces, start = [], 0
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            pieces.append(document.text[start : words.starts[first]].strip())
            start = words.ends[end - 1]
        pieces.append(document.text[start:].strip())
        document.text = "\n".join(piece for piece in pieces if piece)
        return None

    def _chosen(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams that are compared: at which words they begin, and their hashes."""
        grams = _mix(shingles(words.hashes, self.ngram))
        window = self.words - self.ngram + 1
        if len(grams) < window:
            return np.zeros(0, np.int64), grams[:0]
        # The smallest of each window, so that equal passages choose the same ones.
        least = np.lib.stride_tricks.sliding_window_view(grams, window).argmin(axis=1)
        at = np.unique(least + np.arange(len(least)))
        return at, grams[at]
