"""Which language a document is in, or that it is code."""

import re
from functools import lru_cache
from typing import Any

from lm.data.corpus.documents import Document, Step
from lm.errors import UserError, not_installed

_PIECE = 500  # characters that are looked at, of the beginning and of the middle: more tell no more
_SCRIPTS = {
    "zh": re.compile("[々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"),
    "ja": re.compile("[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff]+"),
    "ko": re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]+"),
}
_LETTERS = re.compile(r"[^\W\d_]+")
# What lines begin or end with in the languages that most programs are written in.
_CODE_LINE = re.compile(
    r"""\s*(?:(?:async\ )?def\ \w+\(|class\ \w+.*[:{]$|import\ [\w.]+(?:\ as\ \w+)?[;\s]*$
    |from\ [\w.]+\ import|\#\ ?(?:include|define|if|endif)|\#!|//|/\*|return\b.*[;)\w]$
    |(?:public|private|static|const|let|var|func)\b.*[\w;{(]$|</?\w.*>$
    |(?:if|for|while|elif|else|try|except|with|switch|case)\b.*[:{]$|@\w+$|[\w.\[\]"']+\ [-+*/|&]?=\ )
    |.*[;{}]\s*$|[^a-z]*[\])}]+[,;]?\s*$|.*\w\(.*\)$""",
    re.VERBOSE,
)


def language_of_script(text: str) -> tuple[str, float] | None:
    """zh, ja or ko with their share of the letters, where their scripts are most of them.

    Chinese characters with more than a few kana are Japanese.
    """
    if text.isascii():
        return None
    han, kana, hangul = (sum(map(len, script.findall(text))) for script in _SCRIPTS.values())
    letters = sum(map(len, _LETTERS.findall(text)))
    for language, count in ("ko", hangul), ("ja", han + kana), ("zh", han):
        if count > letters / 2 and (language != "ja" or kana > count / 10):
            return language, count / letters
    return None


def is_code(document: Document) -> bool:
    """Whether a document is source code or another formal language: as `meta["code"]` says, by `Texts` or by
    `Language`; else by its lines: more than a third of the first hundred look so."""
    if "code" in document.meta:
        return document.meta["code"] is True
    lines = [line for line in document.text[:8000].split("\n")[:100] if line and not line.isspace()]
    return sum(map(bool, map(_CODE_LINE.match, lines))) > len(lines) / 3 and len(lines) > 2


@lru_cache(4)
def _identifier(among: tuple[str, ...] | None):
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise not_installed("telling languages apart", "py3langid", "corpus") from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    try:
        identifier.set_languages(among)
    except ValueError as error:
        raise UserError(f"`among`: {error}", status=2) from error
    return identifier


class Language(Step):
    """Says in `meta` a document's `language` (ISO 639-1, 639-3 for those without) and `language_probability`.

    Chinese, Japanese and Korean go by their scripts, the rest by py3langid's model (Lui & Baldwin 2012),
    which comes with its package. Code gets `meta["code"]` and no language; it is never left out here.

    Args:
        keep: languages that stay; all by default.
        least: probability below which a text has no certain language and is left out. A sentence alone has
            0.3 to 0.9, a page above 0.99.
        among: languages that come into question, where others don't occur: short texts are told apart far
            better so. All 97 by default.
        code: look for code; else it is taken for whatever language it resembles.
    """

    def __init__(
        self,
        keep: list[str] | None = None,
        least: float = 0.0,
        among: list[str] | None = None,
        code: bool = True,
    ) -> None:
        for code_ in [*(keep or []), *(among or [])]:
            if not re.fullmatch("[a-z]{2,3}", code_):
                what = f"{code_!r} is no language's code (ISO 639-1)"
                raise UserError(f"Language: {what}: en is English, zh Chinese", status=2)
        self.keep = None if keep is None else frozenset(keep)
        self.least, self.among, self.code = least, None if among is None else tuple(among), code
        if not 0 <= least <= 1:
            raise UserError(f"`least` is {least}: a probability is between 0 and 1", status=2)

    def __call__(self, document: Document) -> str | None:
        if self.code and is_code(document):
            document.meta["code"] = True
            return None
        language, probability = self.identify(document.text)
        document.meta |= {"language": language, "language_probability": round(probability, 4)}
        if probability < self.least:
            return "no certain language"
        if self.keep is not None and language not in self.keep:
            return "another language"
        return None

    def identify(self, text: str) -> tuple[str, float]:
        """A text's language and its probability."""
        if len(text) > 2 * _PIECE:
            middle = len(text) // 2
            text = text[:_PIECE] + "\n" + text[middle : middle + _PIECE]
        found = language_of_script(text)
        if found and (self.among is None or found[0] in self.among):
            return found
        language, probability = _identifier(self.among).classify(text)
        return str(language), float(probability)


def meta_language(document: Document) -> str:
    """A document's language as `Language` or its source has said, else by its script, else English."""
    found: Any = document.language or language_of_script(document.text[:_PIECE]) or "en"
    return found if isinstance(found, str) else found[0]
