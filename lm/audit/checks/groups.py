"""Whether a classifier is as good for one group of people as for another."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from lm.audit.check import Check
from lm.audit.findings import Chart, Figure, Findings, Point, share
from lm.audit.subject import Subject
from lm.checkpoint import configuration_of
from lm.data.examples.files import Skipped
from lm.data.examples.records import TextExample
from lm.data.examples.tables import no_column, read_rows
from lm.data.examples.texts import read_texts
from lm.errors import UserError
from lm.inference.lines import Line

_LEVEL = 0.05
_FEW = 10  # rows below which nothing is said of a group
_SHOWN = 10
_TOGETHER = 256  # rows that are looked at together
_LABELS = 6  # that are drawn at most

Rate = tuple[int, int]  # hits, of so many


class _Row(NamedTuple):
    where: str
    group: str
    label: str
    text: str
    pair: str | None


class _Gap(NamedTuple):
    """How far two groups' rates are apart."""

    what: str
    high: str  # the group with the higher rate
    low: str
    value: float
    error: float
    centre: float  # of its interval
    p: float


class Groups(Check):
    """Is it as good for one group as for another.

    On examples with a column that says of which group each is: the accuracy by group; how often each label
    is given (demographic parity; Dwork et al. 2012, arXiv:1104.3913), and how often where it is right and
    where it is wrong (equalised odds; Hardt et al. 2016, arXiv:1610.02413). Of two labels the second one
    stands for both: the other is its mirror.

    Of each, the largest gap between two groups is a figure. Its interval is Agresti and Caffo's (2000), at a
    level that holds for all pairs of groups and labels together (Bonferroni), since the largest was chosen;
    whether it is beyond chance is decided by Holm's correction over the same pairs.

    Args:
        file: examples as `TextData` reads them: CSV, TSV, JSON Lines, JSON, Parquet.
        group: the column of the groups.
        text, pair, label: the other columns; None: as the model's run read its data, else text, none, label.
        columns: the columns' names where a CSV or TSV file has no header.
    """

    def __init__(
        self,
        file: str | None = None,
        group: str = "group",
        text: str | None = None,
        pair: str | None = None,
        label: str | None = None,
        columns: list[str] | None = None,
    ) -> None:
        self.file, self.group, self.columns = file, group, columns
        self.names = {"text": text, "pair": pair, "label": label}

    def unfit(self, subject: Subject) -> str | None:
        if subject.command == "classify" and subject.model.model.record.get("kind") == "single":
            return None
        return "it does not put one label on a text"

    def run(self, subject: Subject) -> Findings:
        if self.file is None:
            raise UserError("give `file`: examples with a column that says of which group each is")
        rows, skipped = self._read(subject, str(subject.file(self.file)))
        order = subject.rng("groups").permutation(len(rows)).tolist()
        said: list[str] = []
        for at in subject.while_time(range(0, len(order), _TOGETHER)):
            chosen = [rows[i] for i in order[at : at + _TOGETHER]]
            lines = (Line(row.where, {"text": row.text} | _second(row.pair)) for row in chosen)
            parts = subject.model.apply("classify", lines)
            said += [each["prediction"] for part in parts for each in part]
        looked = [rows[i] for i in order[: len(said)]]
        found = _measured(looked, said, subject.model.labels, self.file)
        if skipped:
            found.notes.append(f"{skipped:,} rows without a text or label are left out")
        if len(said) < len(rows):
            found.notes.append(f"there was time for {len(said):,} of {len(rows):,} rows, drawn")
        return found

    def _read(self, subject: Subject, path: str) -> tuple[list[_Row], int]:
        """The rows that can be used, and how many can't."""
        known, own = subject.model.labels, _reading(subject.model.model.record)
        names = {name: given or own.get(name) for name, given in self.names.items()}
        text, pair, label = names["text"] or "text", names["pair"], names["label"] or "label"
        renamed = own.get("label_names")
        # A person's file may have the labels by either name.
        labels = renamed and {**dict(zip(known, known, strict=True)), **renamed}
        rows, skipped = [], 0
        examples = read_texts(path, text, pair, label, self.columns, label_names=labels)
        for example, (where, row) in zip(examples, read_rows(path, self.columns), strict=False):
            if self.group not in row:
                raise UserError(no_column(row, self.group, where))
            group = row[self.group]
            if isinstance(example, Skipped) or group is None or not str(group).strip():
                skipped += 1
            elif isinstance(example, TextExample):
                if example.label not in known:
                    said = f"{where}: the model has not learned the label {example.label!r}"
                    raise UserError(f"{said}, but {', '.join(known)}")
                rows.append(_Row(where, str(group).strip(), str(example.label), example.text, example.pair))
        if not rows:
            raise UserError(f"{path}: no row has a text, a label and a group")
        if len(groups := {row.group for row in rows}) < 2:
            raise UserError(f"{path}: all rows are of one {self.group}, {groups.pop()!r}: nothing to compare")
        return rows, skipped


def _second(pair: str | None) -> dict[str, str]:
    return {} if pair is None else {"pair": pair}


def _reading(record: dict[str, Any]) -> dict[str, Any]:
    """How the run of a model read its texts; empty where nobody knows."""
    try:
        data = configuration_of(record)["data"]
        return dict(data["init_args"]) if str(data["class_path"]).endswith(".TextData") else {}
    except (KeyError, TypeError, ValueError):
        return {}


def _measured(rows: Sequence[_Row], said: Sequence[str], labels: Sequence[str], file: str) -> Findings:
    """All figures of rows and what the model says of them."""
    columns = np.array([row.group for row in rows]), np.array([row.label for row in rows]), np.array(said)
    group, label, guess = columns
    names, sizes = np.unique(group, return_counts=True)
    found, every = Findings(), len(rows)
    found.figures["accuracy"] = share(int((label == guess).sum()), every, "of all, labelled rightly")
    enough = [str(name) for name, size in zip(names, sizes, strict=True) if size >= _FEW]
    if few := [f"{name} ({size})" for name, size in zip(names, sizes, strict=True) if size < _FEW]:
        found.notes.append(f"groups with fewer than {_FEW} rows are left out: {', '.join(few)}")
    if len(enough) < 2:
        raise UserError(f"{file}: only {len(enough)} of its {len(names)} groups have {_FEW} rows")

    def rates(hits: np.ndarray, of: np.ndarray) -> dict[str, Rate]:
        masks = {name: of & (group == name) for name in enough}
        return {name: (int(hits[mask].sum()), int(mask.sum())) for name, mask in masks.items()}

    whole = np.ones(every, dtype=bool)
    right = rates(label == guess, whole)
    points: list[Point] = []
    for name, own in zip(_spelt(enough), enough, strict=True):
        figure = share(*right[own], f"of {own}, labelled rightly")
        found.figures[f"accuracy/{name}"] = figure
        points.append((own, figure.value, figure.low, figure.high))
    chart = Chart("Labelled rightly", "group", "share", {"accuracy": points}, joined=False)
    found.charts.append(chart)
    asked = labels[1:] if len(labels) == 2 else labels
    kinds: dict[str, tuple[str, dict[str, dict[str, Rate]]]] = {
        "accuracy_gap": ("accuracy", {"": right}),
        "parity_gap": ("labelled", {name: rates(guess == name, whole) for name in asked}),
        "true_positive_gap": ("rightly", {name: rates(guess == name, label == name) for name in asked}),
        "false_positive_gap": ("wrongly", {name: rates(guess == name, label != name) for name in asked}),
    }
    if len(asked) <= _LABELS:
        shares: dict[str, list[Point]] = {
            name: [(own, hits / n, None, None) for own, (hits, n) in each.items()]
            for name, each in kinds["parity_gap"][1].items()
        }
        found.charts.append(Chart("How often each label is given", "group", "share", shares, joined=False))
    for name, (what, by_label) in kinds.items():
        _compare(name, what, by_label, found)
    found.examples.sort(key=lambda row: -float(row["points"]))
    del found.examples[_SHOWN:]
    return found


def _spelt(groups: Sequence[str]) -> Iterator[str]:
    """Groups' names as figures can have them, no two alike."""
    seen: set[str] = set()
    for number, group in enumerate(groups):
        name = re.sub(r"[^\w.-]+", "_", group)
        seen.add(name := f"{name}-{number}" if name in seen else name)
        yield name


def _compare(name: str, what: str, by_label: Mapping[str, Mapping[str, Rate]], found: Findings) -> None:
    """The largest gap between two groups; nothing where no two have enough rows that count."""
    from lm.evaluation import holm

    gaps = [
        gap(f"{what} {label}".strip(), (a, of[a]), (b, of[b]))
        for label, of in by_label.items()
        for a, b in combinations([own for own, (_, n) in of.items() if n >= _FEW], 2)
    ]
    if not gaps:
        return
    ps = holm([each.p for each in gaps])
    z = NormalDist().inv_cdf(1 - _LEVEL / len(gaps) / 2)
    largest = max(gaps, key=lambda each: each.value)
    low, high = largest.centre - z * largest.error, largest.centre + z * largest.error
    n = sum(by_label[largest.what.removeprefix(what).strip()][own][1] for own in (largest.high, largest.low))
    words = f"{largest.what}: {largest.high} above {largest.low}"
    found.figures[name] = Figure(largest.value, words, max(low, -1.0), min(high, 1.0), n, "%")
    beyond = [each for each, p in zip(gaps, ps, strict=True) if p < _LEVEL]
    found.notes.append(f"{name}: {len(beyond)} of {len(gaps)} differences are beyond chance (Holm)")
    for each, p in zip(gaps, ps, strict=True):
        row = {"rate": each.what, "higher": each.high, "lower": each.low}
        found.examples.append({**row, "points": f"{100 * each.value:.1f}", "p (Holm)": f"{p:.2g}"})


def gap(what: str, one: tuple[str, Rate], other: tuple[str, Rate]) -> _Gap:
    """How far the rates of two groups are apart: a z-test and interval after one hit and one miss more in
    each, which keep what they promise from 10 rows on (Agresti and Caffo 2000, "Simple and Effective
    Confidence Intervals")."""
    if one[1][0] * other[1][1] < other[1][0] * one[1][1]:
        one, other = other, one
    (high, (a, n)), (low, (b, m)) = one, other
    p, q = (a + 1) / (n + 2), (b + 1) / (m + 2)
    error = math.sqrt(p * (1 - p) / (n + 2) + q * (1 - q) / (m + 2))
    chance = math.erfc(abs(p - q) / error / math.sqrt(2))
    return _Gap(what, high, low, a / n - b / m, error, p - q, chance)
