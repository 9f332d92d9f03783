"""Changed texts say what the others say, and what is lost by them is what a direct count gives."""

import json
import re
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest

from lm.audit.checks.perturbations import PERTURBATIONS, perturbed
from lm.audit.checks.robustness import Robustness
from lm.audit.subject import Subject
from lm.errors import UserError
from lm.evaluation import Series, paired

ENGLISH = (
    "The ferry leaves at nine, and Anna's brother takes the early train. Nobody had told them that the "
    "bridge was closed; they waited for hours, drank cold coffee and wrote letters to their café friends."
)
CHINESE = "他们在码头等了很久，已经没有船了。问问题的人说今天的天气很好，明天再来买东西。"
INVISIBLE = "[\u200b\u200c\u2060\ufeff]"


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_change_is_a_function_of_seed_and_row(name):
    text = CHINESE if perturbed(name, ENGLISH, 0, 0, 0.05) == ENGLISH else ENGLISH
    first = [perturbed(name, text, 1, row, 0.05) for row in range(8)]
    np.random.default_rng(0).permutation(5)  # who draws otherwise changes nothing
    assert first == [perturbed(name, text, 1, row, 0.05) for row in range(8)]
    assert all(changed != text for changed in first)
    if name in ("typos", "homoglyphs", "full_width", "zero_width", "blanks", "shapes", "sounds", "dropped"):
        assert len(set(first)) > 1
        assert first != [perturbed(name, text, 2, row, 0.05) for row in range(8)]


@pytest.mark.parametrize("row", range(20))
def test_nothing_else_is_changed(row):
    words = re.findall("[A-Za-z]{3,}", ENGLISH)
    few = max(1, round(0.05 * len(words)))

    def changed(name: str, text: str = ENGLISH) -> str:
        return perturbed(name, text, 0, row, 0.05)

    before, after = ENGLISH.split(), changed("typos").split()
    assert len(before) == len(after)
    differing = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(differing) == few
    for a, b in differing:
        assert abs(len(a) - len(b)) <= 1 and a[0] == b[0]
        swapped = sum(x != y for x, y in zip(a, b, strict=False)) == 2 and sorted(a) == sorted(b)
        one_more = any(b[:i] + b[i + 1 :] == a for i in range(len(b)))
        one_less = any(a[:i] + a[i + 1 :] == b for i in range(len(a)))
        other = len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1
        assert swapped or one_more or one_less or other, (a, b)
    assert unicodedata.normalize("NFKC", changed("full_width")) == ENGLISH
    assert re.sub(INVISIBLE, "", changed("zero_width")) == ENGLISH
    alike = changed("homoglyphs")
    assert len(alike) == len(ENGLISH)
    strange = [(a, b) for a, b in zip(ENGLISH, alike, strict=True) if a != b]
    assert strange and all(
        "CYRILLIC" in unicodedata.name(b) or "GREEK" in unicodedata.name(b) for _, b in strange
    )
    assert changed("blanks").split() == before
    assert changed("upper") == ENGLISH.upper() and changed("lower") == ENGLISH.lower()
    assert ENGLISH.startswith(changed("first_half")) and len(changed("first_half")) == (len(ENGLISH) + 1) // 2
    assert unicodedata.normalize("NFC", changed("decomposed")) == ENGLISH
    for name in ("traditional", "shapes", "sounds", "dropped"):
        assert changed(name) == ENGLISH
    for name in ("shapes", "sounds"):
        new = changed(name, CHINESE)
        assert len(new) == len(CHINESE)
        assert sum(a != b for a, b in zip(CHINESE, new, strict=True)) == 1
    characters = len(re.findall("[\u3400-\u9fff]", CHINESE))
    assert len(CHINESE) - len(changed("dropped", CHINESE)) == max(1, round(0.05 * characters))
    rest = iter(CHINESE)
    assert all(char in rest for char in changed("dropped", CHINESE))


def test_traditional_characters_are_those_of_the_same_text():
    opencc = pytest.importorskip("opencc")
    assert opencc.OpenCC("t2s").convert(perturbed("traditional", CHINESE, 0, 0, 0.05)) == CHINESE


@pytest.mark.parametrize("text", ["", " ", "a", "好", "。", "\u0301", "\U0001f600", "\n\n"])
def test_the_shortest_texts(text):
    for name in PERTURBATIONS:
        changed = perturbed(name, text, 0, 0, 1.0)
        assert changed.strip() or not text.strip()


def classifier(labels=("bad", "good"), kind="single"):
    """Says `good` of a text that has the word `good` in it, spelt just so."""

    def apply(command, lines):
        for line in lines:
            sure = 0.9 if re.search(r"\bgood\b", line.fields["text"]) else 0.2
            probabilities = {"bad": 1 - sure, "good": sure}
            yield [{**line.fields, "prediction": max(probabilities, key=probabilities.get),
                    "probabilities": probabilities}]  # fmt: skip

    record = {"task": "lm.tasks.SequenceClassification", "kind": kind}
    return SimpleNamespace(
        model=SimpleNamespace(source="stub", record=record), labels=list(labels), apply=apply
    )


@pytest.fixture
def table(tmp_path):
    """Texts of two words, so that each change meets the word that counts often."""
    rows = [("good day" if i % 3 else "sour milk", "good" if i % 3 else "bad") for i in range(90)]
    rows += [("good day", "bad"), ("GOOD day", "good")]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path, rows


def test_drops_are_those_of_a_direct_count(table):
    path, rows = table
    subject = Subject(classifier(), data_dir=path.parent, seed=3)
    names = ["typos", "upper", "homoglyphs", "blanks", "traditional"]
    found = Robustness("test.jsonl", changes=names).run(subject)

    def right(text: str, label: str) -> bool:
        return ("good" if re.search(r"\bgood\b", text) else "bad") == label

    assert found.figures["accuracy"].value == sum(right(*row) for row in rows) / len(rows)
    for name in names[:-1]:
        pairs = [(perturbed(name, text, 3, i, 0.05), text, label) for i, (text, label) in enumerate(rows)]
        pairs = [each for each in pairs if each[0] != each[1]]
        before = np.array([right(text, label) for _, text, label in pairs], dtype=float)
        after = np.array([right(new, label) for new, _, label in pairs], dtype=float)
        assert found.figures[f"{name}.accuracy"].value == pytest.approx(after.mean())
        drop = found.figures[f"{name}.drop"]
        assert drop.n == len(pairs) and drop.value == pytest.approx((before - after).mean(), abs=1e-12)
        assert found.figures[f"{name}.changed"].value == pytest.approx((before != after).mean())
        if name == "blanks":  # which this classifier does not mind
            assert drop.value == 0 and drop.high == pytest.approx(3 / len(pairs), rel=0.02)
        else:
            direct = paired(Series(after), Series(before))
            assert (drop.low, drop.high) == pytest.approx((direct.low, direct.high))
    assert found.figures["upper.drop"].value > 0.5
    assert found.figures["worst_drop"].value == max(
        found.figures[f"{name}.drop"].value for name in names[:-1]
    )
    assert any(note.startswith("traditional: left out") for note in found.notes)
    assert found.examples and all(row["label"] == "good" and row["said"] == "bad" for row in found.examples)
    places = [point[0] for point in found.charts[0].series["accuracy"]]
    assert places == ["clean", *names[:-1]]


def test_with_little_time_all_changes_have_seen_the_same_texts(table):
    path, _ = table
    subject = Subject(classifier(), data_dir=path.parent)
    subject.limit(0)
    found = Robustness(str(path), changes=["typos", "blanks"]).run(subject)
    assert found.figures["accuracy"].n == 64
    assert found.figures["blanks.drop"].n <= 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "there is no gone.csv"),
        ("empty.csv", "", "is empty"),
        ("header.csv", "text,label\n", "has no rows"),
        ("columns.csv", "sentence,mood\nwell,good\n", "it has sentence, mood"),
        ("labels.tsv", "text\tlabel\na\tgood\nb\tawful\n", "1 of 2 texts .*'awful'; known are 'bad', 'good'"),
        ("one.csv", "text,label\nwell,good\n", "nothing can be compared"),
    ],
)  # fmt: skip
def test_bad_files_are_named_in_a_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Robustness(name).run(Subject(classifier(), data_dir=tmp_path))


def test_other_models_and_options_are_refused():
    several = Subject(classifier(kind="multi"))
    assert "one label" in Robustness().unfit(several)
    chat = Subject(SimpleNamespace(model=SimpleNamespace(record={"task": "lm.tasks.CausalPretraining"})))
    assert "no classifier" in Robustness().unfit(chat)
    for options in ({"rate": 0}, {"examples": 1}, {"changes": ["typo"]}):
        with pytest.raises(UserError):
            Robustness(**options)


def test_texts_with_personal_data_are_not_shown(tmp_path, monkeypatch):
    pytest.importorskip("phonenumbers")
    rows = [{"text": text} for text in ("mail ada.king@mail.org now", "good day")]
    before = [
        {**row, "row": i, "label": "good", "right": True, "prediction": "good"} for i, row in enumerate(rows)
    ]
    after = [
        {**each, "before": each, "text": each["text"].upper(), "right": False, "prediction": "bad"}
        for each in before
    ]
    found = Robustness(changes=["upper"])._found({"clean": before, "upper": after})
    assert [row["text"] for row in found.examples] == ["good day"]
