"""Which language a text is in, on real lines and pages."""

import gzip
import json
import sysconfig
from pathlib import Path

import pytest

from lm.data.corpus.documents import Document
from lm.data.corpus.steps.language import Language, is_code, language_of_script, meta_language
from lm.errors import UserError

pytest.importorskip("py3langid")

PYTHON = """import os

class Thing:
    def size(self, path):
        return os.path.getsize(path)
"""


def share_right(texts: list[str], language: str, **options) -> float:
    step = Language(**options)
    return sum(step.identify(text)[0] == language for text in texts) / len(texts)


def test_scripts_tell_without_a_model():
    cases = {
        "今天天气很好。": "zh",
        "今天我们用 Python 写程序，然后运行测试": "zh",
        "今日はとても良い天気ですね。": "ja",
        "カタカナ": "ja",
        "오늘은 날씨가 아주 좋습니다.": "ko",
    }
    for text, language in cases.items():
        found = language_of_script(text)
        assert found and found[0] == language and 0.5 < found[1] <= 1, text
    assert language_of_script("The word 天 means sky, and there is nothing else of it here.") is None
    assert language_of_script("plain") is None
    # What nobody has looked at yet goes by its script, else it is English.
    assert meta_language(Document("天气")) == "zh" and meta_language(Document("weather")) == "en"
    assert meta_language(Document("天气", meta={"language": "ja"})) == "ja"


def test_keeps_and_leaves_out():
    english = "The committee will meet again next week to discuss the budget for the coming year."
    german = "Der Ausschuss trifft sich nächste Woche wieder, um über den Haushalt zu beraten."
    document = Document(english)
    assert Language(keep=["en", "zh"])(document) is None
    assert document.language == "en" and 0.5 < document.meta["language_probability"] <= 1
    assert Language(keep=["en", "zh"])(Document(german)) == "another language"
    assert Language(keep=["de"])(Document(german)) is None
    assert Language(least=0.5)(Document("ok 123")) == "no certain language"
    assert Language(least=0.5)(Document(german)) is None
    # With three languages in question even two words are told apart.
    assert Language(among=["en", "de", "zh"]).identify("zwei Hunde")[0] == "de"
    with pytest.raises(UserError, match="between 0 and 1"):
        Language(least=65)
    with pytest.raises(UserError, match="xx"):
        Language(among=["en", "xx"])(Document(german))


def test_code_is_no_language_and_stays():
    for document in Document(PYTHON, id="web/a#1"), Document("hello there", meta={"code": True}):
        assert Language(keep=["zh"])(document) is None
        assert document.meta == {"code": True}
    assert Language(keep=["zh"], code=False)(Document(PYTHON)) == "another language"
    assert not is_code(Document("Notes.\n\nSee (below).\nA list:\n- one\n- two", id="docs/readme.md#0"))


def test_code_is_known_by_its_lines():
    """Without a file's name; what is missed begins with a long text or a table."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:100]
    found = [is_code(Document(path.read_text(encoding="utf-8", errors="replace"))) for path in paths]
    assert sum(found) / len(found) > 0.7


@pytest.mark.real_data
def test_real_lines_and_pages(real_data):
    def gz(name: str) -> list[str]:
        with gzip.open(real_data / "multi30k" / name, "rt", encoding="utf-8") as file:
            return file.read().splitlines()[:300]

    def jsonl(name: str, key: str) -> list[str]:
        return [json.loads(line)[key] for line in (real_data / name).read_text("utf-8").splitlines()][:300]

    dialogues = jsonl("dialogsum/dialogsum.dev.jsonl", "dialogue")
    pages = jsonl("llamafactory-lm/c4_demo.jsonl", "text")
    titles = jsonl("fewclue-tnews/test_public.json", "sentence")
    assert share_right(gz("val.de.gz"), "de") > 0.97
    assert share_right(gz("val.en.gz"), "en") > 0.97
    assert share_right(gz("val.de.gz"), "de", among=["en", "de", "zh"]) == 1
    assert share_right(dialogues, "en") == share_right(pages, "en") == 1
    assert share_right(titles, "zh") > 0.99
    assert not any(is_code(Document(text)) for text in dialogues + pages + titles)
