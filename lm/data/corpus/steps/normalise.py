"""One form for the same text: Unicode, line ends, blanks, and what went wrong on the way."""

import re
import unicodedata
from functools import lru_cache

from lm.data.corpus.documents import Document, Step
from lm.data.corpus.steps.language import is_code
from lm.errors import not_installed

_CONTROL = bytes(set(range(32)) - set(b"\t\n")) + b"\x7f"
# Beside controls: the soft hyphen, zero-width ones (but joiners, which Persian, Indic scripts and emoji
# need), byte order marks, lone surrogates, what is no character.
_JUNK = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]+")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_BLANKS = " \t\u00a0\u3000"
# The look behind keeps it from trying each blank of a row anew.
_TRAILING = re.compile(f"(?<![{_BLANKS}])[{_BLANKS}]+(?=\n|\\Z)")
_EMPTY = re.compile("\n{4,}")
# UTF-8 read as Windows-1252 or Latin-1: its first byte (C2 to F4) as a letter, then a further one (80 to BF)
# as what it is there; as Mac Roman (√©, ‚Äô) or Windows-1251 (РёСЃ). ftfy takes its time: only near these.
_MOJIBAKE = re.compile(
    "[\x80-\x9f\xc2-\xf4√‚¬РС](?:(?<=[\x80-\x9f])|(?<=[√‚¬])[^ \n]|(?<=[\xc2-\xf4])"
    "[\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122 ]"
    "|(?<=[РС])[\x80-\xbf\u0402-\u040f\u0452-\u045f\u2018-\u203a])"
)
_STOP_WORDS = {
    "en": "a an the and or but if of at by for with about to from in on as into is are was were be been "
    "being am do does did have has had i me my we our us you your he him his she her it its they them their "
    "this that these those who whom which what there here not no nor so than too very can will would should "
    "could",
    "zh": "的 了 和 是 就 都 而 及 与 着 或 在 把 被 也 很 又 这 那 之 其 吗 呢 吧 啊 呀 我 你 他 她 它 "
    "我们 你们 他们",
}
_HAN = re.compile("[\u4e00-\u9fff]+")


class Normalise(Step):
    """Brings texts into one form, so that the same text is the same bytes; twice is the same as once.

    Unicode in NFC, lines end with a newline only (form feeds and the like count as line ends), no control
    characters but tabs, no byte order marks, zero-width spaces and lone surrogates, no blanks at a line's
    end, at most two empty lines in a row. Width, quotes and ligatures stay: they are part of Chinese and of
    code. Code in ASCII stays as it is, but for its line ends.

    Args:
        mojibake: repair text that was decoded wrongly (`donâ€™t`), by ftfy.
        trim: blanks at line ends and empty lines beyond two go; off for texts in which they mean something
            (Markdown's line breaks).
        traditional_to_simplified: Chinese in simplified characters, by OpenCC; characters and phrases, not
            the words of a region.
        remove_stop_words: leave out the most frequent function words of English and Chinese. Classical
            pipelines want that: search and bags of words are better off without them. A language model has
            to write them, so it has to read them; what it learns from texts without them is no language.
    """

    def __init__(
        self,
        mojibake: bool = True,
        trim: bool = True,
        traditional_to_simplified: bool = False,
        remove_stop_words: bool = False,
    ) -> None:
        self.mojibake, self.trim = mojibake, trim
        self.traditional_to_simplified, self.remove_stop_words = traditional_to_simplified, remove_stop_words
        self._repaired = 0

    def __call__(self, document: Document) -> str | None:
        if document.text.isascii() and is_code(document):
            if "\r" in document.text:
                document.text = document.text.replace("\r\n", "\n").replace("\r", "\n")
            return None
        document.text = self.normalise(document.text)
        return None if document.text and not document.text.isspace() else "nothing but blanks"

    def counts(self) -> dict[str, int]:
        return {"texts with repaired mojibake": self._repaired} if self._repaired else {}

    def normalise(self, text: str) -> str:
        """The text in its one form."""
        # What is left out may bring together what is a wrong or a composed character, or another word: once
        # more, then.
        while (better := self._once(text)) != text:
            text = better
        return text

    def _once(self, text: str) -> str:
        if "\r" in text or "\x0b" in text or "\x0c" in text:
            text = _LINE_END.sub("\n", text)
        if text.isascii():
            data = text.encode("ascii")
            if len(kept := data.translate(None, _CONTROL)) < len(data):
                text = kept.decode("ascii")
        else:
            if self.mojibake and _MOJIBAKE.search(text):
                repaired = _repair(text)
                self._repaired += repaired != text
                text = repaired
            text = _JUNK.sub("", _LINE_END.sub("\n", text))
            if not unicodedata.is_normalized("NFC", text):
                text = unicodedata.normalize("NFC", text)
            if self.traditional_to_simplified:
                text = _simplifier().convert(text)
        if self.remove_stop_words:
            text = without_stop_words(text)
        if self.trim:
            if text[-1:] in _BLANKS or any(f"{blank}\n" in text for blank in _BLANKS):
                text = _TRAILING.sub("", text)
            if "\n\n\n\n" in text:
                text = _EMPTY.sub("\n\n\n", text)
        return text


def _repair(text: str) -> str:
    """The lines with mojibake as they were meant."""
    try:
        import ftfy
    except ImportError as error:
        raise not_installed("repairing mojibake", "ftfy", "corpus") from error
    # Each line by itself: a line of another kind would keep ftfy from decoding the whole, and takes its time.
    # Its `fix_encoding` changes neither width nor quotes.
    lines = text.split("\n")
    for place, line in enumerate(lines):
        if not line.isascii() and _MOJIBAKE.search(line):
            lines[place] = ftfy.fix_encoding(line)
    return "\n".join(lines)


@lru_cache(1)
def _simplifier():
    try:
        import opencc
    except ImportError as error:
        raise not_installed("`traditional_to_simplified`", "opencc", "corpus") from error
    return opencc.OpenCC("t2s")


@lru_cache(1)
def _english_stop_words() -> re.Pattern:
    words = "|".join(sorted(_STOP_WORDS["en"].split(), key=len, reverse=True))
    return re.compile(rf"(?<![\w'’-])(?:{words})(?![\w'’-]) ?", re.IGNORECASE)


def without_stop_words(text: str) -> str:
    """A text without English and Chinese function words; Chinese is cut by jieba."""
    text = _english_stop_words().sub("", text)
    if text.isascii() or not _HAN.search(text):
        return text
    try:
        import rjieba
    except ImportError as error:
        raise not_installed("`remove_stop_words` in Chinese", "rjieba", "corpus") from error
    stop = frozenset(_STOP_WORDS["zh"].split())
    return _HAN.sub(lambda run: "".join(word for word in rjieba.cut(run[0]) if word not in stop), text)
