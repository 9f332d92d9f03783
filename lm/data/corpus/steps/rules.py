"""Rules for the quality of a text as large corpora have applied them: Gopher's, C4's and FineWeb's.

Each rule set is a dataclass of its bounds; None leaves out a rule. English bounds are the published ones,
Chinese ones FineWeb-2's. All sets look at the same words, split once (`words.py`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lm.data.corpus.steps.words import Words, duplicate_ngrams, top_ngram, word_hashes

TERMINAL = tuple(".!?。！？．؟۔।…" + "\"'”’」』")  # what lines end with: of sentences, and closing quotes


class Page:
    """A text with what the rules ask of it, each computed when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> Words:
        return Words(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Those that are not empty."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]


def _repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts came before, and how many characters they have."""
    unique = set(parts)
    if len(unique) == len(parts):
        return 0, 0
    return len(parts) - len(unique), sum(map(len, parts)) - sum(map(len, unique))


def _outside(value: float, least: float | None, most: float | None = None) -> bool:
    return (least is not None and value < least) or (most is not None and value > most)


@dataclass(frozen=True)
class GopherQuality:
    """Rae et al. 2021 (arXiv:2112.11446), A1.1, counted as datatrove does: in the ratios to words a
    punctuation mark is a word."""

    least_words: int | None = 50
    """without punctuation marks"""
    most_words: int | None = 100_000
    """without punctuation marks; a novel has more"""
    least_word_length: float | None = 3
    """mean, characters, without punctuation marks"""
    most_word_length: float | None = 10
    most_symbols: float | None = 0.1
    """hashes to words, and ellipses to words"""
    most_bullet_lines: float | None = 0.9
    """share of lines that begin with a bullet"""
    most_ellipsis_lines: float | None = 0.3
    """share of lines that end with an ellipsis"""
    least_alphabetic: float | None = 0.8
    """share of words with a letter"""
    least_stop_words: int | None = 2
    """different ones of `stop_words` in the text, none where it is empty"""
    marks_are_words: bool = True
    """in the two shares of words, as FineWeb had it; prose with much dialogue passes more often without"""
    stop_words: str = "the be to of and that have with"

    @cached_property
    def _stop_hashes(self) -> np.ndarray:
        return word_hashes(self.stop_words)

    def reason(self, page: Page) -> str | None:
        """Why the text is left out."""
        words, text = page.words, page.text
        if not len(words):
            return "no words"
        proper = words.lengths[~words.is_symbol]
        counted = (len(words) if self.marks_are_words else len(proper)) or 1
        if _outside(len(proper), self.least_words):
            return f"fewer than {self.least_words} words"
        if _outside(len(proper), None, self.most_words):
            return f"more than {self.most_words} words"
        mean = proper.sum() / len(proper) if len(proper) else 0.0
        if _outside(mean, self.least_word_length):
            return "too short words"
        if _outside(mean, None, self.most_word_length):
            return "too long words"
        ellipses = text.count("...") + text.count("…")
        if _outside(max(text.count("#"), ellipses) / counted, None, self.most_symbols):
            return "too many symbols"
        # Lines are looked at only where there are bullets or ellipses enough.
        lines = len(page.lines)
        if _outside((text.count("•") + text.count("-")) / lines, None, self.most_bullet_lines):
            bullets = sum(line.lstrip().startswith(("•", "-")) for line in page.lines)
            if _outside(bullets / lines, None, self.most_bullet_lines):
                return "too many bullets"
        if _outside(ellipses / lines, None, self.most_ellipsis_lines):
            trailing = sum(line.rstrip().endswith(("...", "…")) for line in page.lines)
            if _outside(trailing / lines, None, self.most_ellipsis_lines):
                return "too many lines without an end"
        if _outside(words.alphabetic / counted, self.least_alphabetic):
            return "too few words with letters"
        if self.least_stop_words and self.stop_words:
            # A word is rarely among so few: what is found is little.
            found = words.hashes[np.isin(words.hashes, self._stop_hashes)]
            if len(np.unique(found)) < self.least_stop_words:
                return "too few stop words"
        return None


@dataclass(frozen=True)
class GopherRepetition:
    """Rae et al. 2021 (arXiv:2112.11446), table A1: shares that repetitions have in lines, paragraphs or
    characters."""

    duplicate_lines: float | None = 0.3
    duplicate_paragraphs: float | None = 0.3
    duplicate_line_characters: float | None = 0.2
    duplicate_paragraph_characters: float | None = 0.2
    top_ngrams: tuple[float, ...] = (0.2, 0.18, 0.16)
    """most characters of the most frequent 2-, 3-, 4-gram"""
    duplicate_ngrams: tuple[float, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """most characters in repeated 5-, 6-, … 10-grams"""

    def reason(self, page: Page) -> str | None:
        """Why the text is left out."""
        characters = len(page.text) or 1
        paragraphs = re.split(r"\n{2,}", page.text.strip()) if "\n\n" in page.text else [page.text]
        kinds: Iterable[tuple[str, list[str], float | None, float | None]] = (
            ("paragraphs", paragraphs, self.duplicate_paragraphs, self.duplicate_paragraph_characters),
            ("lines", page.lines, self.duplicate_lines, self.duplicate_line_characters),
        )
        for name, parts, most, most_characters in kinds:
            count, length = _repeated(parts)
            if count and _outside(count / len(parts), None, most):
                return f"duplicate {name}"
            if _outside(length / characters, None, most_characters):
                return f"duplicate {name}"
        for n, share in enumerate(self.top_ngrams, 2):
            if top_ngram(page.words, n, share * characters) > share * characters:
                return "a phrase too frequent"
        if not self.duplicate_ngrams:
            return None
        least = min(self.duplicate_ngrams) * characters
        if duplicate_ngrams(page.words, 5, least) <= least:  # holds for the longer ones, too
            return None
        for n, share in enumerate(self.duplicate_ngrams, 5):
            if duplicate_ngrams(page.words, n, share * characters) > share * characters:
                return "repeated phrases"
        return None


@dataclass(frozen=True)
class C4:
    """Raffel et al. 2020 (arXiv:1910.10683), 2.2, with the two rules that only its code has (long words,
    policies); without the list of bad words. Drops lines, then judges what is left.

    `terminal_punctuation` is the paper's and costs most text of all; FineWeb leaves it out, and so does this.
    Blank lines stay, as they part paragraphs.
    """

    terminal_punctuation: bool = False
    """keep only lines that end with . ! ? or a quote and not with an ellipsis"""
    least_sentences: int | None = 5
    least_line_words: int | None = 3
    most_word_length: int | None = 1000
    """lines with a longer word go, characters"""
    javascript: bool = True
    """lines with this word go"""
    policies: bool = True
    """lines about cookies, privacy and terms of use go"""
    citations: bool = True
    """Wikipedia's [1], [edit], [citation needed] go"""
    lorem_ipsum: bool = True
    """texts with it are left out"""
    curly_brackets: bool = True
    """texts with { are left out"""

    def edit(self, page: Page) -> str | Page:
        """The page of the lines that stay (itself where all do), or the reason why it is left out."""
        text, lower = page.text, page.text.lower()
        phrases = [*self.javascript * ["javascript"], *self.policies * _POLICIES]
        phrases = [phrase for phrase in phrases if phrase in lower]
        ipsum = self.lorem_ipsum and "lorem ipsum" in lower
        bracket = self.curly_brackets and "{" in text
        long = self.most_word_length and len(text) > self.most_word_length
        long = long and max(map(len, text.split()), default=0) > self.most_word_length
        citations = self.citations and "[" in text
        lines, sentences = [], 0
        for whole in text.split("\n"):
            if not whole or whole.isspace():
                lines.append(whole)
                continue
            line = _CITATION.sub("", whole) if citations else whole
            if long and max(map(len, line.split()), default=0) > self.most_word_length:
                continue
            if self.terminal_punctuation:
                end = line.rstrip()
                if not end.endswith((".", "?", "!", '"', "'")) or end.endswith("..."):
                    continue
            if self.least_line_words and len(line.split(None, self.least_line_words)) < self.least_line_words:
                continue
            if ipsum and "lorem ipsum" in line.lower():
                return "lorem ipsum"
            if phrases and any(phrase in line.lower() for phrase in phrases[: self.javascript]):
                continue
            if bracket and "{" in line:
                return "a curly bracket"
            if phrases and any(phrase in line.lower() for phrase in phrases):
                continue
            lines.append(line)
            if self.least_sentences and sentences < self.least_sentences:
                sentences += 1 + len(_BORDER.findall(line.strip()))
        if self.least_sentences and sentences < self.least_sentences:
            return f"fewer than {self.least_sentences} sentences"
        edited = "\n".join(lines)
        if edited == text:
            return page
        return Page(re.sub(r"\n{3,}", "\n\n", edited).strip("\n"))


_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_BORDER = re.compile(r"""[.!?]["'”’)\]]*\s+(?=["'“‘(\[]?[^\W_a-z])""")  # between two sentences
_POLICIES = [
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
]


@dataclass(frozen=True)
class FineWeb:
    """Penedo et al. 2024 (arXiv:2406.17557), 3.6, and the shares of newlines that its code adds."""

    least_ended_lines: float | None = 0.12
    """share of lines that end with punctuation"""
    most_short_lines: float | None = 0.67
    """share of lines of up to 30 characters"""
    most_duplicate_characters: float | None = 0.01
    """share of characters in lines that came before"""
    most_newlines: float | None = 0.3
    """newlines to words"""

    def reason(self, page: Page) -> str | None:
        """Why the text is left out."""
        lines = page.lines
        if not lines:
            return "no words"
        if self.least_ended_lines is not None:
            ended = sum(line.endswith(TERMINAL) for line in lines)
            if ended / len(lines) < self.least_ended_lines:
                return "too few lines with an end"
        if self.most_short_lines is not None:
            short = sum(len(line) <= 30 for line in lines)
            if short / len(lines) > self.most_short_lines:
                return "too many short lines"
        newlines = page.text.count("\n")
        share = _repeated(lines)[1] / max(len(page.text) - newlines, 1)
        if _outside(share, None, self.most_duplicate_characters):
            return "duplicate lines"
        if _outside(newlines / max(len(page.words), 1), None, self.most_newlines):
            return "too many newlines"
        return None
