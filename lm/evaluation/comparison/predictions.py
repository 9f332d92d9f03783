"""Figures of fine-tuned models from their predictions, example by example: rows of `lm predict`, or of a test
that was just made (`tested`)."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.errors import UserError
from lm.evaluation.comparison.compare import Figure, Figures

Row = Mapping[str, Any]
Scores = dict[str, tuple[float, float]]  # value and weight of an example by the figure's name

_ERRORS = {
    "squared error": "",
    "absolute error": "",
    "bits per byte": "bits per byte",
}  # lower is better; their units
_WITHOUT = "its rows hold no right answers: compare the models themselves, with --test FILE"


class _Kind(NamedTuple):
    """A kind of rows.

    Args:
        needs: keys that all of them have.
        asked: keys that say which example a row is of, and what is right; of none, its number says it.
        scores: of a row.
        together: the key whose value is the same in rows that hang together.
    """

    needs: frozenset[str]
    asked: tuple[str, ...]
    scores: Callable[[Row], Scores]
    together: str | None = None


def _labels(row: Row) -> Scores:
    found, right = row["prediction"], row["label"]
    if isinstance(right, list | tuple):
        hits = len(set(found) & set(right))
        return {
            "exact match": (float(set(found) == set(right)), 1),
            "F1 of labels": (2 * hits, len(set(found)) + len(set(right))),
        }
    if isinstance(right, int | float) and not isinstance(right, bool):
        off = float(found) - right
        return {"squared error": (off**2, 1), "absolute error": (abs(off), 1)}
    return {"accuracy": (float(found == right), 1)}


def _tags(row: Row) -> Scores:
    """The right words; and of entities hits, beside those found and there, whose ratio is conlleval's F1."""
    from lm.metrics.entities import are_entities, spans

    found, right = row["tags"], row["right"]
    scores: Scores = {"accuracy of words": (sum(map(str.__eq__, found, right)), len(right))}
    if are_entities([*found, *right]):
        ours, theirs = set(spans(found)), set(spans(right))
        scores["F1 of entities"] = (2 * len(ours & theirs), len(ours) + len(theirs))
    return scores


def _answers(row: Row) -> Scores:
    """As the official script of SQuAD counts them; see `lm.metrics.answers`."""
    from lm.metrics.answers import answer_tokens
    from lm.metrics.chinese import has_chinese

    texts = [row["answer"], *row["right"]]
    chinese = any(map(has_chinese, texts))
    guess, *right = (answer_tokens(text, chinese) for text in texts)
    right = [tokens for tokens in right if tokens] or [[]]
    return {
        "exact match": (float(guess in right), 1),
        "F1 of words": (max(_overlap(guess, each) for each in right), 1),
    }


def _overlap(guess: list[str], right: list[str]) -> float:
    if not guess or not right:
        return float(guess == right)
    return 2 * (Counter(guess) & Counter(right)).total() / (len(guess) + len(right))


def _windows(row: Row) -> Scores:
    return {"bits per byte": (row["loss"] * row["tokens"] / math.log(2), row["bytes"])}


_KINDS = (
    _Kind(frozenset({"prediction", "label"}), ("text", "pair", "label"), _labels),
    _Kind(frozenset({"words", "tags", "right"}), ("words", "right"), _tags),
    _Kind(frozenset({"question", "answer", "right"}), ("id", "question", "right"), _answers, "document"),
    _Kind(
        frozenset({"prompt", "answer", "reference"}),
        ("prompt", "reference"),
        lambda row: _answers({"answer": row["answer"], "right": [row["reference"]]}),
    ),
    _Kind(
        frozenset({"chosen_reward", "rejected_reward"}),
        ("index",),
        lambda row: {"accuracy": (float(row["chosen_reward"] > row["rejected_reward"]), 1)},
    ),
    _Kind(frozenset({"loss", "tokens", "bytes"}), (), _windows),
)


def prediction_figures(rows: Sequence[Row], source: str, name: str = "predictions") -> Figures:
    """The figures of predictions.

    Args:
        rows: what `lm predict` writes of classifiers, ratings, chats, preferences and pretrained GPTs; of
            taggers and finders of answers with `right` beside it: tags, or texts of which one is right, and
            perhaps `document`, by which questions hang together.
        source: where they are from, for messages.
        name: what the figures are of.

    Raises:
        UserError: there are none, they are of no such kind, or hold no right answers.
    """
    if not rows:
        raise UserError(f"{source} is empty: it holds no predictions")
    kind = next((kind for kind in _KINDS if kind.needs <= rows[0].keys()), None)
    if kind is None:
        if {"tags", "answer"} & rows[0].keys():
            raise UserError(f"{source}: {_WITHOUT}")
        raise UserError(f"{source} holds no predictions of `lm predict` that can be compared")
    scored: list[Scores] = []
    for number, row in enumerate(rows, start=1):
        if row.get("label", "") is None:
            raise UserError(f"{source}: row {number} has no label: {_WITHOUT}")
        try:
            scored.append(kind.scores(row))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(f"{source}: row {number} is damaged: {error!r}") from error
    # What not every sentence has, as entities where some hold other tags, is no figure.
    names = [each for each in scored[0] if all(each in scores for scores in scored)]
    ids = [_digest(number, row, kind) for number, row in enumerate(rows)]
    together = None
    if kind.together and all(row.get(kind.together) for row in rows):
        together = [str(row[kind.together]) for row in rows]
    figures = {}
    for each in names:
        try:
            values, weights = np.array([scores[each] for scores in scored], dtype=np.float64).T
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{source}: a row's {each} is no number") from error
        if not (np.abs(values) < 1e150).all() or not (np.abs(weights) < 1e150).all():
            raise UserError(f"{source}: a row's {each} is no finite number")
        if weights.sum() <= 0:
            continue  # nothing to find, and nothing found
        figures[f"{name} {each}"] = Figure(
            source, ids, values, weights, together, each not in _ERRORS, _ERRORS.get(each, "")
        )
    if not figures:
        raise UserError(f"{source} has nothing to compare: no row has anything to find")
    return figures


def _digest(number: int, row: Row, kind: _Kind) -> str:
    """A name of an example, by what is asked and what is right."""
    asked = [row.get(key) for key in kind.asked] or [number, row["tokens"], row["bytes"]]
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()[:16]


def read_predictions(path: Path) -> list[Row]:
    """The rows of a file of `lm predict`.

    Raises:
        UserError: it is empty, or a line is damaged; names it.
    """
    rows: list[Row] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number} is damaged: the line is not JSON") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number} is damaged: the line is no object")
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty: it holds no predictions")
    return rows
