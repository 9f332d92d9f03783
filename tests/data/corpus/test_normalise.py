"""One form for the same text: what changes, what must not, and that twice is the same as once."""

import random
import sysconfig
import unicodedata
from pathlib import Path

import pytest

from lm.data.corpus.documents import Document
from lm.data.corpus.steps.normalise import Normalise

pytest.importorskip("ftfy")

GOLDEN = {
    "line\r\nends\rof all\x0bkinds\x0chere\u2028too": "line\nends\nof all\nkinds\nhere\ntoo",
    "\ufeffzero\u200bwidth\u2060 soft\xadhyphen": "zerowidth softhyphen",
    "con\0trol\x07 \x1b[0m\ttab \x7f": "control [0m\ttab",
    "lone \ud800surrogate": "lone surrogate",
    "cafe\u0301 \u1100\u1161": "café 가",
    "blanks  \nat ends\t \n\u3000\nand here\u3000": "blanks\nat ends\n\nand here",
    "a\n\n\n\n\n\nb": "a\n\n\nb",
    "a\n \n\t\n \n \nb": "a\n\n\nb",
    "donâ€™t, cafÃ© and naÃ¯ve": "don’t, café and naïve",
    "donâ€™t\n我们，去": "don’t\n我们，去",  # a line of another kind keeps nothing from being repaired
    "caf√© ‚Äúyes‚Äù": "café “yes”",
}
UNCHANGED = (
    "他说：“你好，世界！”（ＡＢＣ１２３）……——《书》、『引』～",
    "“curly” ‘quotes’ and ﬁne ligatures, 5 × 3 ½ …",
    "Ångström, Âge d'or, Ça va, ÄÖÜ — naïve café",
    "👩‍👩‍👧 family, می‌خواهم, क्‍ष",  # joined by zero-width joiners
    "if (a && !b) { c = \"x\\t\" + 'y'; }  // ok\n\n\treturn a[0] - 1;",
)


def normalise(text: str, **options: bool) -> str:
    return Normalise(**options).normalise(text)


@pytest.mark.parametrize("text", GOLDEN)
def test_what_changes(text):
    assert normalise(text) == GOLDEN[text]


@pytest.mark.parametrize("text", UNCHANGED)
def test_what_stays(text):
    assert normalise(text) == text


def test_options():
    assert normalise("cafÃ© ", mojibake=False) == "cafÃ©"
    assert normalise("two blanks  \n\n\n\n\n\nend", trim=False) == "two blanks  \n\n\n\n\n\nend"
    document = Document("\u200b \n")
    assert Normalise()(document) == "nothing but blanks"
    step = Normalise()
    assert [step(Document(text)) for text in ("cafÃ©", "café", "cafÃ©")] == [None] * 3
    assert step.counts() == {"texts with repaired mojibake": 2}


def test_traditional_to_simplified():
    pytest.importorskip("opencc")
    text = "漢字與電腦，後來乾坤；繁體中文「引號」。Keep 漢 in English。"
    simplified = "汉字与电脑，后来乾坤；繁体中文「引号」。Keep 汉 in English。"
    assert normalise(text, traditional_to_simplified=True) == simplified
    assert normalise(text) == text


def test_stop_words():
    assert normalise("The cat is on the mat, isn't it?", remove_stop_words=True) == "cat mat, isn't ?"
    pytest.importorskip("rjieba")
    assert normalise("我们的老师在学校里，很高兴。", remove_stop_words=True) == "老师学校里，高兴。"


def test_twice_is_the_same_as_once():
    """On strings made of all that is looked for."""
    pieces = [
        *"".join([*GOLDEN, *UNCHANGED]),
        "Ã",
        "©",
        "â€",
        "\x81",
        "\xad",
        "\u0301",
        "\r",
        "\n\n",
        " \n",
        "的",
    ]
    rng = random.Random(0)
    for options in ({}, {"traditional_to_simplified": True}, {"remove_stop_words": True}, {"trim": False}):
        for _ in range(500):
            once = normalise("".join(rng.choices(pieces, k=rng.randrange(1, 40))), **options)
            assert normalise(once, **options) == once
            once.encode()  # no surrogates
            assert unicodedata.is_normalized("NFC", once)
            assert not any(unicodedata.category(char) == "Cc" for char in once if char not in "\t\n")


def test_code_in_ascii_stays_byte_for_byte():
    """Form feeds and blanks at line ends, which some modules have, too."""
    changed = checked = 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_bytes().decode("utf-8", "replace")
        if text.isascii() and "\r" not in text:
            document = Document(text, meta={"code": True})
            assert Normalise()(document) is None
            checked += 1
            changed += document.text != text
            assert document.text == text
    assert checked > 100 and not changed
    document = Document("x = 1 \r\n\x0cdef f():\r\n    pass\r\n", meta={"code": True})
    Normalise()(document)
    assert document.text == "x = 1 \n\x0cdef f():\n    pass\n"


@pytest.mark.real_data
def test_real_chinese_keeps_its_characters(real_data):
    """Only line ends and blanks differ, as a plain loop over the lines says."""
    text = (real_data / "chinese-classics" / "西游记.txt").read_bytes().decode("utf-8")[:300_000]
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    expected, empty = [], 0
    for line in lines:
        empty = 0 if line else empty + 1
        if empty <= 2:
            expected.append(line)
    assert normalise(text) == "\n".join(expected)
