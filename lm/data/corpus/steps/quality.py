"""Leaves out what large corpora would leave out: Gopher's, C4's and FineWeb's rules in one pass.

The rules are in `rules.py`; which bounds they have for a language is decided here.
"""

import re
from dataclasses import replace
from typing import Any

from lm.data.corpus.documents import Document, Step
from lm.data.corpus.steps.language import is_code, meta_language
from lm.data.corpus.steps.rules import C4, FineWeb, GopherQuality, GopherRepetition, Page
from lm.errors import UserError

_LONGEST = 20_000_000  # characters: several times the longest book, and its words take a GB of memory
Rules = GopherQuality | GopherRepetition | C4 | FineWeb
_ENGLISH: dict[str, Rules] = {
    "gopher_repetition": GopherRepetition(),
    "gopher_quality": GopherQuality(),
    "c4": C4(),
    "fineweb": FineWeb(),
}
# FineWeb-2 (arXiv:2506.20920): what its pipeline sets for all languages, and its configs/cmn_Hani.yml.
_REPETITION = GopherRepetition(
    duplicate_paragraphs=None, duplicate_line_characters=None, duplicate_paragraph_characters=None
)
_FINEWEB = FineWeb(most_short_lines=None, most_duplicate_characters=0.1)
_OTHERS: dict[str, Rules] = {
    "gopher_repetition": _REPETITION,
    "gopher_quality": GopherQuality(stop_words=""),
    "fineweb": _FINEWEB,
}
_CHINESE: dict[str, Rules] = {
    "gopher_repetition": replace(
        _REPETITION,
        duplicate_lines=0.287,
        top_ngrams=(0.256, 0.201, 0.171),
        duplicate_ngrams=(0.198, 0.182, 0.167, 0.154, 0.14, 0.127),
    ),
    "gopher_quality": GopherQuality(
        least_word_length=1,
        most_word_length=5,
        least_alphabetic=0.735,
        stop_words="的 年 在 月 是 和 日 了 於 · 為 有 被 人 中 为 他 與 後 也 而 由",
    ),
    "fineweb": replace(_FINEWEB, least_ended_lines=0.106, most_newlines=0.178),
}
_UNSPLIT: dict[str, Rules] = {}  # written without blanks: what are words there is not known here
_SETS = {"en": _ENGLISH, "zh": _CHINESE, "ja": _UNSPLIT, "th": _UNSPLIT, "km": _UNSPLIT, "lo": _UNSPLIT}
_SETS |= {"my": _UNSPLIT, "bo": _UNSPLIT}


class Quality(Step):
    """Leaves out texts that the rules of Gopher, C4 and FineWeb would, in the order of FineWeb's pipeline.

    Bounds go by the document's language (`meta_language`): English and Chinese have published ones; others
    get English ones as far as FineWeb-2 has the same for all, without stop words and C4's rules; what is
    written without blanks and not split into words here (Japanese, Thai) passes.

    What is longer than 20 million characters goes: it is no document, and would take too much memory.

    Not for books as they are: a novel has more words than Gopher allows, and one with much dialogue more
    punctuation marks (`marks_are_words`).

    Args:
        rules: which sets apply: gopher_repetition, gopher_quality, c4, fineweb.
        bounds: other bounds, by language (`all` for each) and set: `{"all": {"gopher_quality": {"most_words":
            null}}}`; null leaves out a rule. `{"zh": {"c4": {}}}` applies a set that a language hasn't.
        code: judge code, too; by default it passes, as the rules are made for prose.
    """

    def __init__(
        self,
        rules: list[str] | None = None,
        bounds: dict[str, dict[str, dict[str, Any]]] | None = None,
        code: bool = False,
    ) -> None:
        self.rules = list(_ENGLISH) if rules is None else rules
        self.bounds, self.code = bounds or {}, code
        self._of_language: dict[str, list[Rules]] = {}
        for name in self.rules:
            _check(name)
        for language in self.bounds:
            if not re.fullmatch("[a-z]{2,3}|all", language):
                what = f"`bounds` of {language!r}: a language's code (en, zh) or all"
                raise UserError(f"Quality: {what}", status=2)
            self._rules("en" if language == "all" else language)

    def __call__(self, document: Document) -> str | None:
        if not self.code and is_code(document):
            return None
        if len(document.text) > _LONGEST:
            return "longer than any document"
        page = Page(document.text)
        for rules in self._rules(meta_language(document)):
            if isinstance(rules, C4):
                edited = rules.edit(page)
                if isinstance(edited, str):
                    return edited
                page = edited
            elif reason := rules.reason(page):
                return reason
        document.text = page.text
        return None

    def _rules(self, language: str) -> list[Rules]:
        if language not in self._of_language:
            sets = dict(_SETS.get(language, _OTHERS))
            for scope in "all", language:
                for name, changes in self.bounds.get(scope, {}).items():
                    _check(name)
                    if name not in sets and scope == "all":
                        continue
                    try:
                        sets[name] = replace(sets.get(name, _ENGLISH[name]), **changes)
                    except TypeError as error:
                        raise UserError(f"`bounds` of {name} ({scope}): {error}", status=2) from error
            self._of_language[language] = [
                sets[name] for name in _ENGLISH if name in sets and name in self.rules
            ]
        return self._of_language[language]


def _check(name: str) -> None:
    if name not in _ENGLISH:
        raise UserError(f"no rules {name}: there are {', '.join(_ENGLISH)}", status=2)
