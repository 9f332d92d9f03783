"""Figures from what `lm eval` wrote: a JSON file a task, in which each example has its own figures."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.errors import UserError, some
from lm.evaluation.comparison.compare import Figure, Figures
from lm.evaluation.records import read_content

# Under what a task was measured: only what is equal in all of these is compared.
_SETTINGS = {
    "task_version": "the task's version",
    "config_sha256": "what the task asks",
    "shots": "the number of shots",
    "seed": "the seed",
    "chat": "asking in a chat",
}


_LARGEST = 1e150  # whose square is a number
_MEANS = ("mean", "nanmean")


class _Kind(NamedTuple):
    """What is compared of a metric that is no mean: of log-likelihoods what can be added."""

    unit: str
    per: str  # of what, where the records say how much of it they have
    scale: float  # of a nat


_NATS = {
    "perplexity": _Kind("nats", "example", 1.0),
    "weighted_perplexity": _Kind("nats", "word or byte", 1.0),
    "bits_per_byte": _Kind("bits", "byte", 1 / math.log(2)),
}


def record_files(folder: Path) -> list[Path]:
    """The files of a folder, or else of its `eval/`, that `lm eval` wrote; a damaged one may be such."""
    for place in (folder, folder / "eval"):
        if found := [
            path for path in sorted(place.glob("*.json")) if path.is_file() and not _of_others(path)
        ]:
            return found
    return []


def _of_others(path: Path) -> bool:
    """Whether a file is whole, and no record: a run's summary, a Hugging Face folder's configuration."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return not isinstance(found, dict) or not {"format", "task"} <= found.keys()


def record_figures(paths: Sequence[Path]) -> tuple[Figures, list[str]]:
    """The figures of tasks.

    Returns:
        By "task metric", and notes: which metrics have no figure of each example.

    Raises:
        UserError: a file is damaged, empty or of another format, or two are of one task.
    """
    figures: Figures = {}
    notes: list[str] = []
    read = [(path, read_content(path)) for path in paths]
    twice = [task for task, times in Counter(file["task"] for _, file in read).items() if times > 1]
    if twice:
        named = [str(path) for path, file in read if file["task"] == twice[0]]
        raise UserError(f"{' and '.join(named[:2])} are both of {twice[0]}: name one of them")
    for path, file in read:
        left = []
        for metric, told in file["metrics"].items():
            found = _figure(path, file, metric, told)
            if found is None:
                left.append(metric)
            else:
                figures[f"{file['task']} {found[0]}"] = found[1]
        if left:
            notes.append(f"{file['task']}: {some(left)} has no figure of each example")
    return figures, notes


def _figure(path: Path, file: dict[str, Any], metric: str, told: dict[str, Any]) -> tuple[str, Figure] | None:
    """A metric's name and figure; None of one that is no sum over the examples, such as a corpus's BLEU.

    A log-likelihood is a number, or a pair of it and of how many words or bytes it is of.
    """
    records, way = file["records"], told.get("aggregation", "mean")
    if not isinstance(way, str):
        raise UserError(f"{path} is damaged: the aggregation of {metric} is {way!r}")
    kind = _NATS.get(way)
    rows = [record["metrics"].get(metric) for record in records]
    if (kind is None and way not in _MEANS) or not any(isinstance(row, int | float) for row in _first(rows)):
        return None
    pairs = kind is not None and all(isinstance(row, list) and len(row) == 2 for row in rows)
    values = _numbers(path, metric, _first(rows) if pairs else rows)
    if pairs and not sum(row[1] for row in rows) > 0:
        raise UserError(f"{path} is damaged: the {metric} is of no word or byte")
    clusters = [record.get("cluster") for record in records]
    figure = Figure(
        source=str(path),
        ids=[record["id"] for record in records],
        values=-kind.scale * values if kind else values,
        weights=_numbers(path, metric, [row[1] for row in rows]) if pairs else None,
        # One without a cluster stands for itself, beside those that have one.
        clusters=None
        if all(name is None for name in clusters)
        else [("", n) if name is None else ("cluster", str(name)) for n, name in enumerate(clusters)],
        higher_is_better=not kind and bool(told.get("higher_is_better", True)),
        unit=kind.unit if kind else "",
        settings={
            words: file.get(key)
            for key, words in _SETTINGS.items()
            if key != "seed" or file.get("shots")  # which decides what is shown
        },
    )
    per = kind.per if kind and pairs else "example"
    return f"{metric} ({kind.unit} per {per})" if kind else metric, figure


def _first(rows: Sequence[Any]) -> list[Any]:
    """Of pairs the first."""
    return [row[0] if isinstance(row, list) and len(row) == 2 else row for row in rows]


def _numbers(path: Path, metric: str, rows: Sequence[Any]) -> np.ndarray:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, bool | int | float) or not abs(row) < _LARGEST:  # not a number is none
            raise UserError(f"{path}: the {metric} of record {number} is no finite number: {row!r}")
    return np.array(rows, dtype=np.float64)
