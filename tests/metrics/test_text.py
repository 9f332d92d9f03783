"""Equal to sacrebleu, rouge_score and torchmetrics on whole files, however the text is fed."""

import gzip
import json
import random
import sys
from itertools import zip_longest

import pytest
from torch import Tensor
from torchmetrics.functional.text import rouge_score

from lm.errors import UserError
from lm.metrics import SummaryScores, TranslationScores
from lm.metrics.text import common_length, rouge, summary_tokens

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method")


def plain(figures: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in figures.items()}


def disturbed(text: str, seed: int, sep: str | None = " ") -> str:
    """The text with some words left out and some neighbours exchanged; without a separator, characters."""
    generator = random.Random(seed)
    words = text.split(sep) if sep else list(text)
    words = [word for word in words if generator.random() > 0.15]
    for place in range(1, len(words)):
        if generator.random() < 0.1:
            words[place - 1 : place + 1] = words[place], words[place - 1]
    return (sep or "").join(words)


def by_sacrebleu(predictions: list[str], references: list[list[str]], tokenizer: str):
    """Figures and signatures by sacrebleu's own way in."""
    from sacrebleu import corpus_bleu, corpus_chrf
    from sacrebleu.metrics import BLEU, CHRF

    columns = [list(column) for column in zip_longest(*references)]
    bleu, chrf = BLEU(tokenize=tokenizer), CHRF()
    figures = {
        "bleu": corpus_bleu(predictions, columns, tokenize=tokenizer).score,
        "chrf": corpus_chrf(predictions, columns).score,
    }
    assert figures == {
        "bleu": bleu.corpus_score(predictions, columns).score,
        "chrf": chrf.corpus_score(predictions, columns).score,
    }
    return figures, {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


@pytest.fixture(scope="module")
def german(sources) -> tuple[list[str], list[list[str]]]:
    """Up to 200 image captions: disturbed ones, and for each the original and another disturbed one."""
    pytest.importorskip("sacrebleu")
    with gzip.open(sources / "multi30k/val.de.gz", "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file][:200]
    predictions = [disturbed(line, seed) for seed, line in enumerate(lines)]
    predictions[17] = ""  # a model may say nothing
    return predictions, [[line, disturbed(line, 1000 + seed)] for seed, line in enumerate(lines)]


@pytest.fixture(scope="module")
def chinese(sources) -> tuple[list[str], list[list[str]]]:
    """Up to 150 questions in Chinese, with numbers and names in Latin letters."""
    pytest.importorskip("sacrebleu")
    articles = json.loads((sources / "xquad/xquad.zh.json").read_text(encoding="utf-8"))["data"]
    lines = [q["question"] for a in articles for p in a["paragraphs"] for q in p["qas"]][:150]
    return [disturbed(line, seed, None) for seed, line in enumerate(lines)], [[line] for line in lines]


@pytest.mark.parametrize("references", ["one", "two", "various"])
def test_german_as_sacrebleu_has_it(german, references):
    predictions, both = german
    keep = {"one": [1], "two": [2], "various": [1, 2]}[references]
    lists = [texts[: keep[number % len(keep)]] for number, texts in enumerate(both)]
    expected, signatures = by_sacrebleu(predictions, lists, "13a")
    metric = TranslationScores()
    metric.update(predictions, lists)
    assert plain(metric.compute()) == expected  # to the last bit
    assert metric.signatures == signatures
    assert {"one": "nrefs:1|", "two": "nrefs:2|", "various": "nrefs:var|"}[references] in signatures["bleu"]
    assert 20 < expected["bleu"] < 90


def test_chinese_as_sacrebleu_has_it(chinese):
    expected, signatures = by_sacrebleu(*chinese, "zh")
    metric = TranslationScores()
    metric.update(*chinese)
    assert plain(metric.compute()) == expected
    assert metric.signatures == signatures
    assert "|tok:zh|" in signatures["bleu"]
    assert expected["bleu"] > 20


def test_batches_and_processes_change_nothing(german, chinese, compute_together):
    """Uneven batches and processes, one of which has nothing and one a line in another script than most."""
    predictions, references = german
    odd_predictions, odd_references = [*predictions, chinese[0][0]], [*references, chinese[1][0] * 2]
    expected, signatures = by_sacrebleu(odd_predictions, odd_references, "13a")
    batched, *parts = (TranslationScores() for _ in range(4))
    number, most = len(predictions), 3 * len(predictions) // 4
    for start, end in ((0, 1), (1, 1), (1, most), (most, number + 1)):
        batched.update(odd_predictions[start:end], odd_references[start:end])
    assert plain(batched.compute()) == expected
    parts[0].update(odd_predictions[number:], odd_references[number:])
    parts[2].update(predictions[:most], references[:most])
    parts[2].update(predictions[most:], references[most:])
    assert plain(compute_together(*parts)) == expected
    assert parts[0].signatures == signatures
    parts[0].reset()
    parts[0].update(*chinese)
    assert plain(parts[0].compute()) == by_sacrebleu(*chinese, "zh")[0]


def test_a_right_and_an_empty_translation():
    metric = TranslationScores()
    assert all(value.isnan() for value in metric.compute().values())
    assert metric.signatures == {}
    metric.update([], [])
    assert all(value.isnan() for value in metric.compute().values())
    metric.update(["the cat sat on the mat"], ["the cat sat on the mat"])  # a string is one reference
    assert plain(metric.compute()) == pytest.approx({"bleu": 100, "chrf": 100})
    metric.reset()
    metric.update([""], [["the cat sat on the mat"]])
    assert plain(metric.compute()) == {"bleu": 0, "chrf": 0}


@pytest.mark.parametrize("metric", [TranslationScores, SummaryScores])
def test_wrong_input(metric):
    with pytest.raises(UserError, match="example 1 of the batch has no reference"):
        metric().update(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="2 predictions, but references for 1"):
        metric().update(["a", "b"], [["a"]])


def test_without_sacrebleu(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(UserError, match=r"BLEU and chrF needs sacrebleu: pip install -e '\.\[finetune\]'"):
        TranslationScores()


def test_rouge_by_hand():
    """In common: words 5 of 6 and 5; pairs 3 of 5 and 4 (the cat, cat sat, the mat); in order 3."""
    scores = rouge(["the", "cat", "sat", "on", "the", "mat"], ["the", "mat", "the", "cat", "sat"])
    assert scores == pytest.approx((10 / 11, 6 / 9, 6 / 11))
    assert rouge([], ["a"]) == rouge(["a"], []) == rouge([], []) == (0, 0, 0)
    assert rouge(["a"], ["a"]) == (1, 0, 1)  # no pairs


def test_summary_tokens():
    assert summary_tokens("The U.S. isn't #Person1#'s!") == ["the", "u", "s", "isn", "t", "person1", "s"]
    assert summary_tokens("他买了iPhone 15，很好。") == ["他", "买", "了", "iphone", "15", "很", "好"]
    assert summary_tokens("…") == []


def test_longest_common_subsequence():
    """Against the usual table, on sequences with many repetitions and longer than a machine word."""
    generator = random.Random(0)
    for _ in range(60):
        a, b = (generator.choices("abcd", k=generator.randrange(90)) for _ in range(2))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        assert common_length(a, b) == table[-1][-1]


@pytest.fixture(scope="module")
def dialogues(sources) -> list[dict[str, str]]:
    with (sources / "dialogsum/dialogsum.test.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file][:200]


# Over two references of each, and of the dialogues' first lines over three.
GOOGLE = {
    "own": (
        (53.68056233413877, 26.418755652348537, 44.41953065375226),
        (30.239245743669514, 11.176111470229118, 28.548769553193328),
    ),
    "real": (
        (59.71254346980293, 34.84216118078776, 52.57999987525268),
        (23.92284863860768, 6.05564622145926, 21.177646241009462),
    ),
}


def test_rouge_as_google_has_it(dialogues, origin):
    """The figures of the package rouge_score 0.1.2: `score_multi`, no stemming, the best reference each."""
    metric = SummaryScores()
    for row in dialogues:
        metric.update([row["summary1"]], [[row["summary2"], row["summary3"]]])
    names, expected = ("rouge1", "rouge2", "rougeL"), GOOGLE[origin]
    assert plain(metric.compute()) == pytest.approx(dict(zip(names, expected[0], strict=True)), rel=1e-12)
    metric.reset()
    first_lines = [row["dialogue"].split("\n")[0] for row in dialogues]
    metric.update(first_lines, [[row[f"summary{n}"] for n in (1, 2, 3)] for row in dialogues])
    assert plain(metric.compute()) == pytest.approx(dict(zip(names, expected[1], strict=True)), rel=1e-12)


def test_rouge_as_torchmetrics_has_it(dialogues, compute_together):
    """One reference, and over three processes of which one has none."""
    predictions = [row["summary1"] for row in dialogues[:60]]
    references = [[row["summary3"]] for row in dialogues[:60]]
    expected = rouge_score(predictions, references, rouge_keys=("rouge1", "rouge2", "rougeL"))
    parts = [SummaryScores() for _ in range(3)]
    few = len(predictions) // 6
    parts[0].update(predictions[:few], references[:few])
    parts[0].update([], [])
    parts[2].update(predictions[few:], references[few:])
    figures = plain(compute_together(*parts))
    assert figures == pytest.approx({n: 100 * expected[f"{n}_fmeasure"].item() for n in figures}, abs=1e-4)


def test_no_summary_is_no_number_and_an_empty_one_is_zero():
    metric = SummaryScores()
    assert all(value.isnan() for value in metric.compute().values())
    metric.update(["", "三国演义"], [["words"], ["《三国演义》"]])
    assert plain(metric.compute()) == {"rouge1": 50, "rouge2": 50, "rougeL": 50}
