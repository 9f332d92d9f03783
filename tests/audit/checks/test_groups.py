"""Gaps of a classifier between groups: figures by hand, chance, and files as people have them."""

import csv
import json
import math
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest

from lm.audit.checks.groups import Groups, gap
from lm.audit.subject import Subject
from lm.errors import UserError
from lm.evaluation import binomial_interval
from lm.predictor import Predictor
from tests.audit.checks.test_crows_pairs import MODELS
from tests.serving.conftest import made

LABELS = ["bad", "fair", "good"]


@pytest.fixture
def models(tmp_path, tokenizer):
    """A model of lm with random weights by its kind: `models(labels=["bad", "good"], kind="single")`."""

    def make(name="classifier", **changes):
        _, *what, head, more = MODELS[name]
        more = {**more, **changes}
        if name == "classifier":
            head = {**head, "outputs": len(more["labels"])}
        return made(tmp_path, tokenizer, name, *what, head, more)

    return make


@pytest.fixture
def parrots(monkeypatch):
    """Classifiers say the first word of a text."""

    def apply(self, command, lines):
        lines = list(lines)
        for at in range(0, len(lines), 32):
            yield [{"prediction": line.fields["text"].split()[0]} for line in lines[at : at + 32]]

    monkeypatch.setattr(Predictor, "apply", apply)


def write(path, rows, columns=("text", "label", "group")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return str(path)


def rows_of(counts: dict[str, dict[tuple[str, str], int]]):
    """As many rows of each group as it has of (label, prediction)."""
    return [
        (f"{guess} text {n}", label, group)
        for group, own in counts.items()
        for (label, guess), times in own.items()
        for n in range(times)
    ]


def test_figures_by_hand(models, parrots, tmp_path):
    """Two labels: of group a, 40 are right of 50; of b, 20 of 40; c has too few."""
    counts = {
        "a": {("good", "good"): 30, ("good", "bad"): 0, ("bad", "bad"): 10, ("bad", "good"): 10},
        "b b": {("good", "good"): 10, ("good", "bad"): 10, ("bad", "bad"): 10, ("bad", "good"): 10},
        "c": {("good", "good"): 9},
    }
    found = Groups(write(tmp_path / "rows.csv", rows_of(counts))).run(Subject(models()))
    values = {name: (figure.value, figure.n) for name, figure in found.figures.items()}
    assert values == {
        "accuracy": (69 / 99, 99),
        "accuracy/a": (0.8, 50),
        "accuracy/b_b": (0.5, 40),
        "accuracy_gap": (pytest.approx(0.3), 90),
        "parity_gap": (pytest.approx(40 / 50 - 20 / 40), 90),  # labelled good
        "true_positive_gap": (pytest.approx(30 / 30 - 10 / 20), 50),
        "false_positive_gap": (0, 40),
    }
    assert (found.figures["accuracy/a"].low, found.figures["accuracy/a"].high) == binomial_interval(40, 50)
    p, q = 41 / 52, 21 / 42
    half = 1.959964 * math.sqrt(p * (1 - p) / 52 + q * (1 - q) / 42)
    own = found.figures["accuracy_gap"]
    assert (own.low, own.high) == (pytest.approx(p - q - half), pytest.approx(p - q + half))
    assert own.what == "accuracy: a above b b"
    assert "groups with fewer than 10 rows are left out: c (9)" in found.notes
    assert "accuracy_gap: 1 of 1 differences are beyond chance (Holm)" in found.notes
    assert "false_positive_gap: 0 of 1 differences are beyond chance (Holm)" in found.notes
    assert found.examples[0] | {"p (Holm)": ""} == {
        **{"rate": "rightly good", "higher": "a", "lower": "b b", "points": "50.0", "p (Holm)": ""},
    }
    assert [point[:2] for point in found.charts[0].series["accuracy"]] == [("a", 0.8), ("b b", 0.5)]
    assert list(found.charts[1].series) == ["good"]


def test_three_labels_and_groups(models, parrots, tmp_path):
    """Beside plain loops over all pairs, whatever the counts are."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(400):
        group, label = "xyz"[int(rng.integers(3))], LABELS[int(rng.integers(3))]
        right = rng.random() < {"x": 0.9, "y": 0.7, "z": 0.65}[group]
        rows.append((f"{label if right else LABELS[int(rng.integers(3))]} {n}", label, group))
    found = Groups(write(tmp_path / "rows.csv", rows)).run(Subject(models(labels=LABELS)))

    def largest(rate) -> float:
        return max(abs(rate(a, label) - rate(b, label)) for a in "xyz" for b in "xyz" for label in LABELS)

    def share(label, group, given) -> float:
        own = [row for row in rows if row[2] == group and given(row[1], label)]
        return sum(row[0].split()[0] == label for row in own) / len(own)

    for name, given in (
        ("parity_gap", lambda right, label: True),
        ("true_positive_gap", lambda right, label: right == label),
        ("false_positive_gap", lambda right, label: right != label),
    ):
        wanted = largest(lambda group, label, given=given: share(label, group, given))
        assert found.figures[name].value == pytest.approx(wanted), name
    sizes = Counter(row[2] for row in rows)
    hits = Counter(row[2] for row in rows if row[0].split()[0] == row[1])
    rates = sorted((hits[group] / sizes[group], group) for group in "xyz")
    own = found.figures["accuracy_gap"]
    assert own.value == pytest.approx(rates[-1][0] - rates[0][0])
    assert own.what == f"accuracy: {rates[-1][1]} above {rates[0][1]}"
    # Wider for having been chosen from three.
    each = gap(
        "", ("a", (hits[rates[-1][1]], sizes[rates[-1][1]])), ("b", (hits[rates[0][1]], sizes[rates[0][1]]))
    )
    assert own.high - own.low == pytest.approx(2 * NormalDist().inv_cdf(1 - 0.05 / 6) * each.error)
    assert sum("of 9 differences" in note for note in found.notes) == 3
    assert len(found.examples) == 10


def test_of_several_pairs_more_is_asked(models, parrots, tmp_path):
    """A difference that would be beyond chance alone is not, of six pairs; Holm's p is six times as large."""
    hits = {"a": 45, "b": 36, "c": 41, "d": 41}
    counts = {name: {("good", "good"): n, ("good", "bad"): 50 - n} for name, n in hits.items()}
    found = Groups(write(tmp_path / "rows.csv", rows_of(counts))).run(Subject(models()))
    alone = gap("", ("a", (45, 50)), ("b", (36, 50))).p
    assert alone < 0.05 < 6 * alone
    assert "accuracy_gap: 0 of 6 differences are beyond chance (Holm)" in found.notes
    worst = next(row for row in found.examples if row["rate"] == "accuracy")
    assert worst["p (Holm)"] == f"{6 * alone:.2g}" and found.figures["accuracy_gap"].low < 0


def test_equal_groups_seldom_differ():
    """The interval holds the true difference, and chance is called chance, from 10 rows on."""
    rng, z = np.random.default_rng(0), NormalDist().inv_cdf(0.975)
    for n, m, p, q in ((10, 10, 0.5, 0.5), (10, 100, 0.9, 0.9), (30, 30, 0.95, 0.8), (500, 500, 0.7, 0.6)):
        held, differ, times = 0, 0, 2000
        for a, b in zip(rng.binomial(n, p, times), rng.binomial(m, q, times), strict=True):
            own = gap("", ("a", (int(a), n)), ("b", (int(b), m)))
            centre = own.centre if own.high == "a" else -own.centre
            held += abs(centre - (p - q)) <= z * own.error
            differ += own.p < 0.05
            assert own.value >= 0 and own.value == pytest.approx(abs(a / n - b / m))
        assert held / times > 0.93
        assert p != q or differ / times < 0.06


def test_a_real_classifier_on_json_lines(models, tmp_path):
    """Its own predictions, of pairs too, by columns of other names; rows without a label are left out."""
    model = models()
    texts = [f"return {n}" for n in range(30)]
    said = [row["prediction"] for row in model.classify(texts, ["x"] * 30)]
    rows = [
        {"a": text, "b": "x", "right": "good", "who": n % 2 if n else None} for n, text in enumerate(texts)
    ]
    rows.append({"a": "no label", "b": "x", "right": None, "who": 1})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    check = Groups("rows.jsonl", group="who", text="a", pair="b", label="right")
    found = check.run(Subject(model, data_dir=tmp_path))
    assert {name for name in found.figures if "/" in name} == {"accuracy/0", "accuracy/1"}
    assert found.figures["accuracy"].n == 29
    assert found.figures["accuracy"].value == pytest.approx(sum(each == "good" for each in said[1:]) / 29)
    assert "2 rows without a text or label are left out" in found.notes


def test_columns_and_names_of_its_run(models, parrots, tmp_path):
    """As the run read its data: names of columns and labels; a file may have the labels by either name."""
    options = "{text: words, label: y, label_names: {0: bad, 1: good}}"
    configuration = f"data: {{class_path: lm.data.TextData, init_args: {options}}}"
    model = models(configuration=configuration)
    rows = [(f"good {n}", label, "ab"[n % 2]) for n, label in enumerate(["0", "1", "good"] * 10)]
    file = write(tmp_path / "rows.csv", rows, ("words", "y", "group"))
    found = Groups(file).run(Subject(model))
    assert found.figures["accuracy"].value == pytest.approx(2 / 3) and found.figures["accuracy"].n == 30
    with pytest.raises(UserError, match="there is no column 'z'"):
        Groups(file, label="z").run(Subject(model))


def test_little_time(models, parrots, tmp_path):
    rows = [(f"good {n}", "good", "ab"[n > 100]) for n in range(300)]
    subject = Subject(models())
    subject.limit(0)
    found = Groups(write(tmp_path / "rows.csv", rows)).run(subject)
    assert found.figures["accuracy"].n == 256 and "there was time for 256 of 300 rows, drawn" in found.notes


def test_for_whom_it_is_nothing(models):
    assert Groups().unfit(Subject(models())) is None
    for name, changes in (("gpt", {}), ("tagger", {}), ("classifier", {"kind": "multi"})):
        assert Groups().unfit(Subject(models(name, **changes))) == "it does not put one label on a text"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "rows.csv is empty"),
        ("text,label,group\n", "rows.csv has no rows"),
        ("words,label,group\na,good,x\n", "there is no column 'text' in .*: it has words, label, group"),
        ("text,y,group\na,good,x\n", "there is no column 'label' in .*: it has text, y, group"),
        ("text,label,g\na,good,x\n", "there is no column 'group' in .*: it has text, label, g"),
        (
            "text,label,group\na,good,x\nb,fine,y\n",
            "rows.csv:3: .* has not learned the label 'fine', but bad, good",
        ),
        ("text,label,group\na,good,x\nb,bad,x\n", "rows.csv: all rows are of one group, 'x'"),
        ("text,label,group\na,good,\n", "rows.csv: no row has a text, a label and a group"),
        ("text,label,group\na,good,x\nb,bad,y\n", "only 0 of its 2 groups have 10 rows"),
    ],
)
def test_bad_input(models, tmp_path, content, said):
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(UserError, match=said):
        Groups("rows.csv").run(Subject(models(), data_dir=tmp_path))


def test_no_file(models):
    for file, said in ((None, "give `file`"), ("none.csv", "there is no none.csv")):
        with pytest.raises(UserError, match=said):
            Groups(file).run(Subject(models()))
