"""Texts as people, keyboards and pranksters change them, so that they still say the same to a reader.

Each change is a pure function of (text, seed, row, name): rows can be looked at in any order, or alone.
"""

import re
import unicodedata
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Change = Callable[[str, np.random.Generator, float], str]

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LATIN, _CHINESE = re.compile("[A-Za-z]{3,}"), re.compile("[\u3400-\u9fff]")
_WORDS = re.compile(r"\w+")
_LOOK_ALIKE = str.maketrans(
    "aceijopsxyABCEHIKMOPSTXYvu",  # Cyrillic, and Greek for v and u
    "асеіјорѕхуАВСЕНІКМОРЅТХУνυ",
)
_INVISIBLE = "\u200b\u200c\u2060\ufeff"  # zero-width space, non-joiner, word joiner, byte-order mark
_BLANKS = ("  ", "   ", "\t", "\n", "\n\n")
# Characters that people take for each other: by their looks, and by their sound.
_SHAPES = (
    "己已巳 未末 人入八 大太 土士 日曰 目且 干千于 天夭 刀力 王玉 问间 侯候 拔拨 折拆 戴载 晴睛 辨辩 "
    "狼狠 免兔 乌鸟 今令 贝见 田由 住往 休体"
)
_SOUNDS = (
    "的地得 在再 做作 他她它 那哪 已以 像象 座坐 带戴 帐账 园圆 近进 是事 有又 到道 只之 和合 会汇 时实 "
    "长常 用永 期其 公工"
)


def _exchanges(groups: str) -> dict[str, str]:
    """What each character may be taken for."""
    found: dict[str, str] = {}
    for group in groups.split():
        for char in group:
            found[char] = found.get(char, "") + group.replace(char, "")
    return found


_TAKEN_FOR = {"shapes": _exchanges(_SHAPES), "sounds": _exchanges(_SOUNDS)}


def _some(
    text: str, pattern: re.Pattern[str], rng: np.random.Generator, rate: float, change: Callable[[str], str]
) -> str:
    """A text in which a share of what the pattern finds is changed, one thing at least."""
    found = [match.span() for match in pattern.finditer(text)]
    if not found:
        return text
    chosen = rng.permutation(len(found))[: max(1, round(rate * len(found)))]
    for start, end in sorted((found[i] for i in chosen.tolist()), reverse=True):
        text = text[:start] + change(text[start:end]) + text[end:]
    return text


def _neighbour(char: str, rng: np.random.Generator) -> str:
    """A key beside a letter's own."""
    row = next(row for row in _ROWS if char.lower() in row)
    at = row.index(char.lower())
    near = row[max(at - 1, 0) : at] + row[at + 1 : at + 2]
    key = near[rng.integers(len(near))]
    return key.upper() if char.isupper() else key


def _typo(word: str, rng: np.random.Generator) -> str:
    """One of: two letters swapped, one left out, doubled, or the key beside it. The first letter stays."""
    kind, at = int(rng.integers(4)), int(rng.integers(1, len(word)))
    unlike = [i for i in range(1, len(word) - 1) if word[i] != word[i + 1]]
    if kind == 0 and unlike:
        at = unlike[rng.integers(len(unlike))]
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[: at + 1] + word[at:]
    return word[:at] + _neighbour(word[at], rng) + word[at + 1 :]


def _typos(text: str, rng: np.random.Generator, rate: float) -> str:
    return _some(text, _LATIN, rng, rate, lambda word: _typo(word, rng))


def _homoglyphs(text: str, rng: np.random.Generator, rate: float) -> str:
    return _some(text, _LATIN, rng, rate, lambda word: word.translate(_LOOK_ALIKE))


def _full_width(text: str, rng: np.random.Generator, rate: float) -> str:
    return _some(text, _LATIN, rng, rate, lambda word: "".join(chr(ord(char) + 0xFEE0) for char in word))


def _zero_width(text: str, rng: np.random.Generator, rate: float) -> str:
    def split(word: str) -> str:
        at = int(rng.integers(1, len(word))) if len(word) > 1 else 1
        return word[:at] + _INVISIBLE[rng.integers(len(_INVISIBLE))] + word[at:]

    return _some(text, _WORDS, rng, rate, split)


def _blanks(text: str, rng: np.random.Generator, rate: float) -> str:
    """Of the blanks, more are changed than of the words: they say less."""
    return _some(text, re.compile(" +"), rng, 4 * rate, lambda blank: _BLANKS[rng.integers(len(_BLANKS))])


def _first_half(text: str, rng: np.random.Generator, rate: float) -> str:
    return text[: (len(text) + 1) // 2] if text[: (len(text) + 1) // 2].strip() else text


def _taken_for(kind: str) -> Change:
    table = _TAKEN_FOR[kind]
    pattern = re.compile(f"[{''.join(table)}]")

    def change(text: str, rng: np.random.Generator, rate: float) -> str:
        if not _CHINESE.search(text):
            return text
        return _some(text, pattern, rng, rate, lambda char: table[char][rng.integers(len(table[char]))])

    return change


def _dropped(text: str, rng: np.random.Generator, rate: float) -> str:
    return _some(text, _CHINESE, rng, rate, lambda char: "") if len(text.strip()) > 1 else text


@cache
def converter() -> Any:
    """OpenCC from simplified to traditional characters; None where it is not installed."""
    try:
        import opencc
    except ImportError:
        return None
    return opencc.OpenCC("s2t")


def _traditional(text: str, rng: np.random.Generator, rate: float) -> str:
    return text if converter() is None or not _CHINESE.search(text) else converter().convert(text)


def _decomposed(text: str, rng: np.random.Generator, rate: float) -> str:
    return unicodedata.normalize("NFD", text)


PERTURBATIONS: dict[str, tuple[Change, str]] = {
    "typos": (_typos, "typing errors in a few words"),
    "upper": (lambda text, rng, rate: text.upper(), "capitals"),
    "lower": (lambda text, rng, rate: text.lower(), "small letters"),
    "homoglyphs": (_homoglyphs, "a few words in Cyrillic and Greek letters that look alike"),
    "full_width": (_full_width, "a few words in full-width letters"),
    "zero_width": (_zero_width, "characters that nobody sees in a few words"),
    "decomposed": (_decomposed, "accents as characters of their own (NFD)"),
    "blanks": (_blanks, "more blanks, and line breaks in the place of some"),
    "first_half": (_first_half, "its first half alone"),
    "traditional": (_traditional, "traditional Chinese characters"),
    "shapes": (_taken_for("shapes"), "a few Chinese characters taken for others that look alike"),
    "sounds": (_taken_for("sounds"), "a few Chinese characters taken for others that sound alike"),
    "dropped": (_dropped, "a few Chinese characters left out"),
}


def perturbed(name: str, text: str, seed: int, row: int, rate: float) -> str:
    """A text changed.

    Args:
        name: of `PERTURBATIONS`.
        seed, row: of what is drawn.
        rate: the share of words, or of Chinese characters, that is changed; one of a text at least.
    """
    return PERTURBATIONS[name][0](text, np.random.default_rng([seed, row, zlib.crc32(name.encode())]), rate)
