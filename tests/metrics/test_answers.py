"""Answers as the official scripts score them: by hand, and on whole files by torchmetrics and MLQA."""

import json
import string
import sys
import unicodedata
from collections import Counter

import pytest
from torch import Tensor
from torchmetrics.functional.text import squad

from lm.metrics import AnswerScores
from lm.metrics.answers import answer_tokens, normalize_answer

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def plain(figures: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in figures.items()}


def scored(prediction: str, *answers: str) -> tuple[float, float]:
    """Exact match and F1 of one question."""
    metric = AnswerScores()
    metric.update([prediction], [list(answers)])
    figures = plain(metric.compute())
    return figures["exact_match"], figures["f1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower", "eiffel tower"),
        ("  An   apple,\ta day.\n", "apple day"),
        ("U.S.A.", "usa"),
        ("rock'n'roll!", "rocknroll"),
        ("re-elected", "reelected"),
        ("$3.5 million", "35 million"),
        ("theatre and banana", "theatre and banana"),  # articles are whole words
        ("a-the", "athe"),  # punctuation goes first, so this is no article
        ("The the A", ""),
        ("Straße “quoted”", "straße “quoted”"),  # only ASCII punctuation
        ("", ""),
    ],
)
def test_normalisation_of_english(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("《三国演义》", "三 国 演 义"),
        ("1998年，", "1998 年"),
        ("苹果 iPhone 13Pro手机。", "苹 果 iphone 13pro 手 机"),
        ("卡尔·马克思（Karl Marx）", "卡 尔 马 克 思 karl marx"),
        ("the A", "the a"),  # no articles in Chinese
        ("𠮷野", "𠮷 野"),
        ("。！", ""),
    ],
)
def test_normalisation_of_chinese(text, expected):
    assert normalize_answer(text, chinese=True) == expected
    assert answer_tokens(text, chinese=True) == expected.split()


def test_scores_by_hand():
    assert scored("the cat", "A cat!") == (100, 100)
    assert scored("black cat", "cat", "black dog") == (0, pytest.approx(200 / 3))  # the best of both answers
    assert scored("cat cat", "cat") == (0, pytest.approx(200 / 3))  # counted with multiplicity
    assert scored("", "cat") == (0, 0)
    assert scored("the", "cat") == (0, 0)
    assert scored("1998年", "1998") == (0, pytest.approx(200 / 3))
    assert scored("三国", "《三国》") == (100, 100)
    assert scored("三国演", "三国演义") == (0, pytest.approx(100 * 6 / 7))


def test_unanswerable_questions():
    """As in SQuAD v2.0: only saying nothing is right, and what normalises to nothing says nothing."""
    metric = AnswerScores()
    metric.update(["", "cat", "black cat", ""], [[], [], ["cat"], ["dog"]])
    expected = {"exact_match": 25, "f1": 100 * (1 + 2 / 3) / 4, "has_answer_f1": 100 / 3, "no_answer_f1": 50}
    assert plain(metric.compute()) == pytest.approx(expected)
    assert scored("the") == (100, 100)


def test_answers_of_which_nothing_is_left():
    """The script leaves them out beside others, and a question with no other has an empty answer."""
    assert scored("", "the", "cat") == (0, 0)
    assert scored("", "the") == (100, 100)


def test_nothing_is_no_number():
    metric = AnswerScores()
    assert all(value.isnan() for value in metric.compute().values())
    metric.update([], [])
    assert all(value.isnan() for value in metric.compute().values())
    metric.update([""], [[]])
    figures = plain(metric.compute())
    assert figures.pop("has_answer_f1") != figures.get("has_answer_f1")  # not a number
    assert figures == {"exact_match": 100, "f1": 100, "no_answer_f1": 100}
    with pytest.raises(ValueError, match="1 predictions, but references for 2"):
        metric.update(["a"], [["a"], ["b"]])


def test_batches_and_processes_change_nothing(compute_together):
    predictions = ["", "cat", "black cat", "三国演", "dog"]
    answers = [[], [], ["cat"], ["三国演义"], ["a dog", "hound"]]
    whole, *parts = (AnswerScores() for _ in range(4))
    whole.update(predictions, answers)
    parts[1].update(predictions[:1], answers[:1])
    parts[1].update(predictions[1:2], answers[1:2])
    parts[2].update(predictions[2:], answers[2:])
    assert plain(compute_together(*parts)) == pytest.approx(plain(whole.compute()), rel=1e-12)


def questions(path) -> tuple[list[str], list[list[str]]]:
    """Predictions that are off by some characters at either end, and answers, of a file in SQuAD's format."""
    predictions, answers = [], []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                off = len(predictions) % 6
                answer = question["answers"][0]
                start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
                predictions.append(
                    paragraph["context"][max(0, start - off) : end + off // 2] if off else answer["text"]
                )
                answers.append([each["text"] for each in question["answers"]])
    return predictions, answers


def test_english_as_torchmetrics_has_it(sources, origin):
    predictions, answers = questions(sources / "xquad/xquad.en.json")
    assert len(predictions) == {"own": 18, "real": 1190}[origin]
    metric = AnswerScores()
    metric.update(predictions, answers)
    expected = squad(
        [{"prediction_text": text, "id": str(n)} for n, text in enumerate(predictions)],
        [{"answers": {"text": texts, "answer_start": [0]}, "id": str(n)} for n, texts in enumerate(answers)],
    )
    figures = plain(metric.compute())
    assert figures == pytest.approx(
        plain({"exact_match": expected["exact_match"], "f1": expected["f1"]}), abs=1e-3
    )
    assert 20 < figures["exact_match"] < 60 < figures["f1"] < 95


def test_chinese_as_in_mlqa(sources, origin):
    """MLQA's rules, read from the paper's script: a pass over characters instead of regular expressions."""
    marks = {chr(n) for n in range(sys.maxunicode) if unicodedata.category(chr(n)).startswith("P")}
    marks |= set(string.punctuation)

    def tokens(text: str) -> list[str]:
        split, word = [], ""
        for char in [char for char in text.lower() if char not in marks] + [" "]:
            chinese = "\u4e00" <= char <= "\u9fa5"
            if word and (chinese or char.isspace()):
                split.append(word)
                word = ""
            if chinese:
                split.append(char)
            elif not char.isspace():
                word += char
        return split

    pairs = zip(*questions(sources / "xquad/xquad.zh.json"), strict=True)
    # The rest, numbers and Latin names alone, count as English.
    pairs = [(p, texts) for p, texts in pairs if any("\u4e00" <= c <= "\u9fa5" for c in "".join([p, *texts]))]
    predictions, answers = zip(*pairs, strict=True)
    assert len(pairs) in {"own": [17], "real": range(1001, 1190)}[origin]
    exact = f1 = 0.0
    for prediction, texts in zip(predictions, answers, strict=True):
        guess = tokens(prediction)
        exact += max(guess == tokens(text) for text in texts)
        best = 0.0
        for right in map(tokens, texts):
            same = sum((Counter(guess) & Counter(right)).values())
            if same:
                precision, recall = same / len(guess), same / len(right)
                best = max(best, 2 * precision * recall / (precision + recall))
        f1 += best
    metric = AnswerScores()
    metric.update(predictions, answers)
    figures = plain(metric.compute())
    assert figures == pytest.approx({"exact_match": 100 * exact / len(pairs), "f1": 100 * f1 / len(pairs)})
    assert 10 < figures["exact_match"] < 40 < figures["f1"] < 90
