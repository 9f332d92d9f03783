"""Error rates: torchmetrics' own, and alignments that are the shortest way."""

import itertools
import json
import random
from functools import cache

import pytest
import torch
from torchmetrics.functional.text import char_error_rate, word_error_rate

from lm.metrics.speech import EmotionScores, SpeechScores, alignment, transcript, words

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def levenshtein(a: str, b: str) -> int:
    @cache
    def steps(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(steps(i - 1, j) + 1, steps(i, j - 1) + 1, steps(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return steps(len(a), len(b))


def check(reference: list[str] | str, hypothesis: list[str] | str) -> int:
    """That an alignment is one; how many errors it has."""
    steps = alignment(reference, hypothesis)
    assert [step.reference for step in steps if step.op != "insertion"] == list(reference)
    assert [step.hypothesis for step in steps if step.op != "deletion"] == list(hypothesis)
    for op, said, heard in steps:
        assert {
            "equal": said == heard is not None,
            "substitution": None not in (said, heard) and said != heard,
            "deletion": heard is None,
            "insertion": said is None,
        }[op]
    return sum(step.op != "equal" for step in steps)


def test_an_alignment_is_the_shortest_way():
    short = ["".join(each) for size in range(5) for each in itertools.product("ab", repeat=size)]
    for a, b in itertools.product(short, short):
        assert check(a, b) == levenshtein(a, b)
    choose = random.Random(0)
    for _ in range(20):
        a, b = ("".join(choose.choices("abcd", k=choose.randint(20, 40))) for _ in range(2))
        assert check(a, b) == levenshtein(a, b)
    assert check("kitten", "sitting") == 3


def test_what_is_shown():
    steps = alignment(["the", "cat", "sat", "down", "now"], ["a", "the", "cat", "sit", "down"])
    assert [tuple(step) for step in steps] == [
        ("insertion", None, "a"),
        ("equal", "the", "the"),
        ("equal", "cat", "cat"),
        ("substitution", "sat", "sit"),
        ("equal", "down", "down"),
        ("deletion", "now", None),
    ]


def disturbed(text: str, seed: int) -> str:
    choose = random.Random(seed)
    kept = [word for word in text.split() if choose.random() > 0.1]
    return " ".join(choose.choice([word, word, word[1:], f"{word} so", word]) for word in kept).strip()


@pytest.fixture(scope="module")
def english(sources) -> tuple[list[str], list[str]]:
    articles = json.loads((sources / "xquad/xquad.en.json").read_text(encoding="utf-8"))["data"]
    lines = [q["question"] for a in articles for p in a["paragraphs"] for q in p["qas"]][:200]
    references = [" ".join(line.split()) for line in lines if line.isascii()]
    return [" ".join(disturbed(line, seed).split()) for seed, line in enumerate(references)], references


def test_rates_are_torchmetrics_(english):
    predictions, references = english
    metric = SpeechScores(case=True, punctuation=True)
    metric.update(predictions[:50], references[:50])
    metric.update(predictions[50:], [[line] for line in references[50:]])
    found = metric.compute()
    assert found["word_error_rate"].item() == pytest.approx(word_error_rate(predictions, references).item())
    assert found["character_error_rate"].item() == pytest.approx(
        char_error_rate(predictions, references).item()
    )
    errors = sum(found[name] for name in ("substitutions", "deletions", "insertions"))
    assert errors.item() / len(" ".join(references).split()) == found["word_error_rate"].item()
    assert min(found[name] for name in ("substitutions", "deletions", "insertions")) > 0


def test_processes_change_nothing(english, compute_together):
    predictions, references = english
    whole, *parts = (SpeechScores() for _ in range(4))
    whole.update(predictions, references)
    parts[0].update(predictions[:7], references[:7])
    parts[2].update(predictions[7:], references[7:])
    assert compute_together(*parts) == whole.compute()
    assert all(
        torch.isnan(SpeechScores().compute()[name]) for name in ("word_error_rate", "character_error_rate")
    )


def test_chinese_has_a_figure_too():
    metric = SpeechScores()
    metric.update(["今天天汽很好 ok"], ["今天天气很好,OK!"])
    found = metric.compute()
    assert found["word_error_rate"] == 1 / 7 and found["substitutions"] == 1
    assert words("今天 is好 fine") == ["今", "天", "is", "好", "fine"]


def test_the_closest_reference_counts():
    metric = SpeechScores()
    metric.update(["it is fine", ""], [["that was good", "it's fine"], ["a b"]])
    found = metric.compute()
    assert found["word_error_rate"] == 4 / 4  # "it's" heard as two words, and two that were not heard
    assert [found[name].item() for name in ("substitutions", "deletions", "insertions")] == [1, 2, 1]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("Don’t stop -- it’s 'half-done', OK?", {}, "don't stop it's half done ok"),
        ("Don't  Stop.\n", {"case": True}, "Don't Stop"),
        ("Don't  Stop.\n", {"punctuation": True}, "don't stop."),
        ("Ｗｈａｔ？ 好，的。", {}, "what 好 的"),
        ("$5 + 5%", {}, "5 5"),
        ("...", {}, ""),
    ],
)
def test_what_of_a_transcript_counts(text, options, expected):
    assert transcript(text, **options) == expected
    assert transcript(expected, **options) == expected


def test_emotions_by_recall(compute_together):
    from torchmetrics.functional.classification import multiclass_recall

    random_numbers = torch.Generator().manual_seed(0)
    probabilities = torch.rand(200, 4, generator=random_numbers).softmax(dim=1)
    targets = torch.randint(0, 3, (200,), generator=random_numbers)  # nobody is sad
    targets[:120] = 0
    whole, *parts = (EmotionScores(["neutral", "angry", "happy", "sad"]) for _ in range(3))
    whole.update(probabilities, targets)
    found = whole.compute()
    each = multiclass_recall(probabilities, targets, 4, average=None)[:3]
    assert found["unweighted_average_recall"].item() == pytest.approx(each.mean().item())
    assert found["unweighted_average_recall"] != found["accuracy"]
    parts[1].update(probabilities, targets)
    assert compute_together(*parts) == found
    nothing = EmotionScores(["a", "b"]).compute()
    assert all(value.isnan() for value in nothing.values())
