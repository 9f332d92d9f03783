"""Whether a classifier says the same of a text that is written otherwise."""

from itertools import islice
from typing import Any

import numpy as np

from lm.audit.check import Check
from lm.audit.checks.masking import masked
from lm.audit.checks.perturbations import PERTURBATIONS, converter, perturbed
from lm.audit.findings import Chart, Figure, Findings, share
from lm.audit.subject import Subject
from lm.data.examples.files import Read
from lm.data.examples.records import TextExample
from lm.data.examples.texts import read_texts
from lm.errors import UserError, some
from lm.inference.lines import Line

_ROWS = 64  # texts between two looks at the clock
_SHOWN, _OF_EACH = 10, 2
_CLEAN = "clean"


class Robustness(Check):
    """Does it say the same of a text with typing errors, look-alikes, other blanks.

    Texts of a test set are changed so that a reader takes them for the same (all but half a text, that is),
    and the accuracy of the changed is compared with that of the very same texts as they were, in pairs. A
    change counts on those texts that it changes.

    Args:
        file: a table of examples; empty: the test part of the model's own run.
        text: the column of the text.
        label: the column of the label.
        pair: the column of a second text, which stays as it is.
        columns: the columns' names where a CSV or TSV file has no header.
        rate: the share of a text's words, or Chinese characters, that is changed; one at least.
        examples: at most; drawn.
        changes: which, by their names; empty: all.
    """

    def __init__(
        self,
        file: str = "",
        text: str = "text",
        label: str = "label",
        pair: str | None = None,
        columns: list[str] | None = None,
        rate: float = 0.05,
        examples: int = 1000,
        changes: list[str] | None = None,
    ) -> None:
        self.file, self.text, self.label, self.pair, self.columns = file, text, label, pair, columns
        self.rate, self.examples, self.changes = rate, examples, list(changes or PERTURBATIONS)
        if not 0 < rate <= 1:
            raise UserError(f"Robustness: `rate` {rate:g} is to be above 0, and 1 at most", status=2)
        if examples < 2:
            raise UserError(f"Robustness: `examples` {examples}: 2 at least", status=2)
        if strange := [name for name in self.changes if name not in PERTURBATIONS]:
            known = ", ".join(PERTURBATIONS)
            raise UserError(f"Robustness: `changes` knows no {strange[0]!r}, but {known}", status=2)

    def unfit(self, subject: Subject) -> str | None:
        if subject.command != "classify":
            return "it is no classifier of texts"
        kind = subject.model.model.record.get("kind", "single")
        return None if kind == "single" else "it does not put one label on a text"

    def run(self, subject: Subject) -> Findings:
        examples = self._examples(subject)
        chosen = subject.rng("robustness").permutation(len(examples))[: self.examples]
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in (_CLEAN, *self.changes)}
        parts = [chosen[at : at + _ROWS].tolist() for at in range(0, len(chosen), _ROWS)]
        for part in subject.while_time(parts):
            clean = self._predicted(subject, [(i, examples[i], examples[i].text) for i in part])
            rows[_CLEAN] += clean
            for name in self.changes:
                texts = [(i, perturbed(name, examples[i].text, subject.seed, i, self.rate)) for i in part]
                changed = [(i, examples[i], text) for i, text in texts if text != examples[i].text]
                before = {row["row"]: row for row in clean}
                found = self._predicted(subject, changed)
                rows[name] += [{**row, "before": before[row["row"]]} for row in found]
        return self._found(rows)

    def _examples(self, subject: Subject) -> list[TextExample]:
        if self.file:
            path = str(subject.file(self.file))
            read = read_texts(path, self.text, self.pair, self.label, self.columns)
            examples = Read(read, path).examples
        else:
            from lm.evaluation import test_examples

            examples, path = test_examples(subject.source, "classify", "")
        if several := [each for each in examples if not isinstance(each.label, str)]:
            what = "no label" if several[0].label is None else "something else than one label"
            raise UserError(f"{path} has {what} on some of its texts: this model has learned one a text")
        labels = subject.model.labels
        if strange := sorted({str(each.label) for each in examples} - set(labels)):
            n = sum(each.label in strange for each in examples)
            known = some(map(repr, labels), 12)
            what = f"{n:,} of {len(examples):,} texts have labels that {subject.source} has not learned"
            raise UserError(f"{path}: {what}: {some(map(repr, strange))}; known are {known}")
        if len(examples) < 2:
            raise UserError(f"{path} has {len(examples)} example: nothing can be compared")
        return examples

    @staticmethod
    def _predicted(subject: Subject, given: list[tuple[int, TextExample, str]]) -> list[dict[str, Any]]:
        """What the model says of texts that stand in the place of examples' own."""
        lines = [
            Line(f"example {i + 1}", {"text": text} | ({} if each.pair is None else {"pair": each.pair}))
            for i, each, text in given
        ]
        found = [row for group in subject.model.apply("classify", lines) for row in group]
        return [
            {**row, "row": i, "label": each.label, "right": row["prediction"] == each.label}
            for (i, each, _), row in zip(given, found, strict=True)
        ]

    def _found(self, rows: dict[str, list[dict[str, Any]]]) -> Findings:
        found = Findings()
        clean = [row["right"] for row in rows[_CLEAN]]
        right = share(sum(clean), len(clean), "of the texts as they are, right")
        found.figures["accuracy"] = right
        points: list[Any] = [(_CLEAN, right.value, right.low, right.high)]
        drops: list[Figure] = []
        shown: list[tuple[float, dict[str, str]]] = []
        for name in self.changes:
            own, (_, what) = rows[name], PERTURBATIONS[name]
            if not own:
                found.notes.append(f"{name}: left out, {_why_none(name)}")
                continue
            hits = [row["right"] for row in own]
            figure = share(sum(hits), len(own), f"{what}: right")
            drop = _drop([row["before"]["right"] for row in own], hits, what)
            other = sum(row["prediction"] != row["before"]["prediction"] for row in own)
            found.figures |= {f"{name}.accuracy": figure, f"{name}.drop": drop}
            found.figures[f"{name}.changed"] = share(other, len(own), f"{what}: another prediction")
            points.append((name, figure.value, figure.low, figure.high))
            drops.append(drop)
            lost = sorted((row for row in own if row["before"]["right"] and not row["right"]), key=_left)
            # What has personal data in it is not shown: changed, nothing would know it again.
            plain = (row for row in lost if masked(text := row["before"]["text"]) == [text])
            shown += [(_left(row), _example(name, row)) for row in islice(plain, _OF_EACH)]
        if drops:
            # The surest one: of few texts little is sure.
            sure = max(drops, key=lambda drop: drop.value if drop.low is None else drop.low)
            found.figures["worst_drop"] = sure
        found.examples = [example for _, example in sorted(shown, key=lambda pair: pair[0])[:_SHOWN]]
        axis = "how the texts are changed"
        found.charts.append(
            Chart("Right", axis, "share", {"accuracy": points}, line=right.value, joined=False)
        )
        return found


def _drop(before: list[bool], after: list[bool], what: str) -> Figure:
    """How much less of the same texts is right, with the paired interval."""
    from lm.evaluation import Series, paired

    words, n = f"{what}: accuracy lost", len(before)
    was, now = (Series(np.array(each, dtype=np.float64)) for each in (before, after))
    if n < 2:
        return Figure(was.figure - now.figure, words, n=n, unit="%")
    found = paired(now, was)
    if found.test != "same":
        return Figure(found.difference, words, found.low, found.high, n, "%")
    # No text is right in one way alone: of all such texts at most a share of 3 / n is (95%).
    most = share(0, n, "").high
    return Figure(0.0, words, -(most or 0.0), most, n, "%")


def _why_none(name: str) -> str:
    if name == "traditional" and converter() is None:
        return "OpenCC is not installed: pip install -e '.[corpus]' in the folder of lm"
    return "it changes none of the texts"


def _left(row: dict[str, Any]) -> float:
    """What probability the right label has left."""
    return (row.get("probabilities") or {}).get(row["label"], 0.0)


def _example(name: str, row: dict[str, Any]) -> dict[str, str]:
    return {
        "change": name,
        "label": row["label"],
        "said": str(row["prediction"]),
        "text": row["before"]["text"][:400],
        "changed": row["text"][:400],
    }
