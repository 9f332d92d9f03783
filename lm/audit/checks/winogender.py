"""Which people a language model sees behind pronouns: he, she or they beside occupations."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm.audit.check import Check
from lm.audit.checks.crows_pairs import framed, likelihoods, masked, unspoken
from lm.audit.findings import Chart, Findings, Point, mean, share
from lm.audit.scores import clustered_share
from lm.audit.subject import Subject
from lm.data.examples.tables import read_rows, value
from lm.errors import UserError

_TOGETHER = 4  # occupations that are looked at together
_SHOWN, _DRAWN = 10, 20  # examples, occupations of a chart
_GENDERS = ("male", "female", "neutral")
_PRONOUN = re.compile(r"\b(he|she|they|him|her|them|his|their)\b", re.IGNORECASE)


class _Triple(NamedTuple):
    """The same sentence with the pronouns of three genders."""

    occupation: str
    participant: str
    answer: int  # 0: the pronoun stands for the occupation; 1: for the participant
    texts: dict[str, str]  # by gender


class Winogender(Check):
    """Does it tell who is meant from what the sentence says, or from whether it says he or she.

    Winogender schemas (Rudinger et al. 2018, arXiv:1804.09301): in "The nurse notified the patient that his
    shift would be ending" a pronoun stands for the occupation or for the other person; only its gender
    changes. A GPT is asked as LLaMA was (Touvron et al. 2023, arXiv:2302.13971, 5.2): which of "the nurse"
    and "the patient" has the lower perplexity behind the sentence and "‘His’ refers to". The intervals take
    an occupation's sentences as hanging together.

    Our own, of a GPT and a BERT, is the pronoun gap: log p of a sentence with the male pronoun less that with
    the female one. A BERT is asked for the pronoun alone, if the sentences differ in one token, and else for
    all tokens, each masked in turn.

    Args:
        file: a table with the columns sentence and sentid, such as `nurse.patient.0.male.txt`: occupation,
            participant, which of the two is meant, gender of the pronoun.
    """

    def __init__(self, file: str = "winogender/all_sentences.tsv") -> None:
        self.file = file

    def unfit(self, subject: Subject) -> str | None:
        return unspoken(subject)

    def run(self, subject: Subject) -> Findings:
        by_occupation: dict[str, list[_Triple]] = {}
        for triple in self._read(subject):
            by_occupation.setdefault(triple.occupation, []).append(triple)
        drawn = subject.rng("winogender").permutation(sorted(by_occupation)).tolist()
        right: list[tuple[_Triple, list[bool]]] = []
        gaps: list[tuple[_Triple, float]] = []
        seen = left = 0
        for at in subject.while_time(range(0, len(drawn), _TOGETHER)):
            names = drawn[at : at + _TOGETHER]
            triples = [triple for name in names for triple in by_occupation[name]]
            seen += len(names)
            answers = resolved(subject, triples) if subject.writes else [[] for _ in triples]
            for triple, gap, answer in zip(triples, pronoun_gaps(subject, triples), answers, strict=True):
                left += gap is None or (subject.writes and not answer)
                if gap is not None:
                    gaps.append((triple, gap))
                if answer:
                    right.append((triple, answer))
        if not gaps:
            raise UserError(f"no sentence of {self.file} fits into {subject.model.config.max_seq_len} tokens")
        found = Findings()
        if right:
            _of_answers(right, found)
        _of_gaps(gaps, found)
        if left:
            found.notes.append(f"{left} triples of sentences are longer than the model sees, and left out")
        if seen < len(drawn):
            found.notes.append(f"there was time for {seen} of {len(drawn)} occupations, drawn")
        return found

    def _read(self, subject: Subject) -> list[_Triple]:
        path = subject.file(self.file)
        found: dict[tuple[str, str, int], dict[str, str]] = {}
        for where, row in read_rows(str(path)):
            name, text = (str(value(row, column, where)) for column in ("sentid", "sentence"))
            parts = re.fullmatch(rf"(.+)\.(.+)\.([01])\.({'|'.join(_GENDERS)})\.txt", name)
            if parts is None:
                raise UserError(f"{where}: {name!r} is no name such as 'nurse.patient.0.male.txt'")
            if len(_PRONOUN.findall(text)) != 1:
                raise UserError(f"{where}: the sentence has not one pronoun: {text}")
            found.setdefault((parts[1], parts[2], int(parts[3])), {})[parts[4]] = text
        for key, texts in found.items():
            if lacks := [gender for gender in _GENDERS if gender not in texts]:
                raise UserError(f"{path}: {'.'.join(map(str, key))} has no {lacks[0]} sentence")
        return [_Triple(*key, texts) for key, texts in found.items()]


def resolved(subject: Subject, triples: Sequence[_Triple]) -> list[list[bool]]:
    """Whether a GPT finds whom the pronoun stands for, by gender; empty where a sentence is too long."""
    asked = []
    for triple in triples:
        people = (triple.occupation, triple.participant)
        ends = [" someone" if name == "someone" else f" the {name}" for name in people]
        for gender in _GENDERS:
            text = triple.texts[gender]
            pronoun = _PRONOUN.findall(text)[0].capitalize()
            asked += [(f"{text} ‘{pronoun}’ refers to", end) for end in ends]
    scored = likelihoods(subject, asked)
    found, each = [], 2 * len(_GENDERS)
    for number, triple in enumerate(triples):
        asked_of_it = scored[each * number : each * (number + 1)]
        own = [one[0] / max(one[1], 1) for one in asked_of_it if one]
        right = [(b > a) == bool(triple.answer) for a, b in zip(own[::2], own[1::2], strict=False)]
        found.append(right if len(own) == each else [])  # none where a sentence is too long
    return found


def pronoun_gaps(subject: Subject, triples: Sequence[_Triple]) -> list[float | None]:
    """log p(male) − log p(female) of each triple's sentences, in nats; None where one is too long."""
    sides = [[triple.texts[gender] for triple in triples] for gender in ("male", "female")]
    if subject.writes:
        male, female = (likelihoods(subject, [("", text) for text in texts]) for texts in sides)
        return [a and b and a[0] - b[0] for a, b in zip(male, female, strict=True)]
    asked: tuple[list, list] = [], []
    for texts in zip(*sides, strict=True):
        both = [framed(subject, text) for text in texts]
        (a, _), (b, _) = both
        differ = [at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
        alone = len(a) == len(b) and len(differ) == 1
        for side, (ids, own) in enumerate(both):
            asked[side].append((ids, differ if alone else list(own)))
    each = zip(masked(subject, asked[0]), masked(subject, asked[1]), strict=True)
    return [None if a is None or b is None else a - b for a, b in each]


def _of_answers(right: Sequence[tuple[_Triple, list[bool]]], found: Findings) -> None:
    """Figures of whom a GPT takes the pronouns for."""
    hits = np.array([own for _, own in right])  # (triples, genders)
    changed = (hits != hits[:, :1]).any(axis=1, keepdims=True)
    _, cluster = np.unique([triple.occupation for triple, _ in right], return_inverse=True)
    figures = {"accuracy": (hits, "of the pronouns, resolved")}
    for column, gender in enumerate(_GENDERS):
        figures[f"accuracy/{gender}"] = hits[:, column : column + 1], f"of the {gender} pronouns, resolved"
    figures["changes"] = changed, "of the sentences, the answer changes with the pronoun's gender"
    for name, (values, what) in figures.items():
        sums = np.bincount(cluster, weights=values.sum(axis=1)).astype(int)
        sizes = np.bincount(cluster) * values.shape[1]
        found.figures[name] = clustered_share(sums.tolist(), sizes.tolist(), what)
    found.notes.append("published: accuracy by gender, as LLaMA was asked; `changes` and gaps are ours")


def _of_gaps(gaps: Sequence[tuple[_Triple, float]], found: Findings) -> None:
    """Figures of which pronoun a model expects, by occupation."""
    by_occupation: tuple[dict[str, list[float]], dict[str, list[float]]] = {}, {}
    for triple, gap in gaps:
        by_occupation[triple.answer].setdefault(triple.occupation, []).append(gap)
    own, others = ({name: float(np.mean(each)) for name, each in of.items()} for of in by_occupation)
    what = "log p of the male less the female pronoun, where it stands for the"
    if own:
        male, words = sum(gap > 0 for gap in own.values()), "of the occupations, the male pronoun is likelier"
        found.figures["prefers_male"] = share(male, len(own), words)
        found.figures["gap"] = mean(list(own.values()), f"{what} occupation", "nats")
        largest = sorted(own, key=lambda name: -abs(own[name]))[:_DRAWN]
        points: list[Point] = [(name, own[name], None, None) for name in sorted(largest, key=own.__getitem__)]
        title, axis = "Occupations with the largest gaps between the pronouns", "log p(male) − log p(female)"
        found.charts.append(Chart(title, "occupation", axis, {"gap": points}, line=0, joined=False))
    if others:
        found.figures["gap_others"] = mean(list(others.values()), f"{what} other person", "nats")
    for triple, gap in sorted(gaps, key=lambda each: -abs(each[1]))[:_SHOWN]:
        texts = {gender: triple.texts[gender] for gender in _GENDERS[:2]}
        found.examples.append({"occupation": triple.occupation, **texts, "nats": f"{gap:+.2f}"})
    found.notes.append(
        "pronoun gaps are no published figure; the shares of women in the occupations, with which the paper "
        "correlates, are not in the data, nor which sentences go against them"
    )
