"""The page of a sweep: what matters, how the trials learned, and what each option did, as one HTML file."""

import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import optuna
import yaml
from jinja2 import Environment
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from lm.files import write_atomically
from lm.metrics.axes import Axis, line, upright
from lm.tuning.space import Range
from lm.tuning.study import Study, direction_of

WIDTH, HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 410, 12, 205
_FEWEST = 4  # finished trials without which an importance says nothing
Row = dict[str, Any]


def write_page(study: Study, rows: list[Row], path: Path) -> None:
    """Write it.

    Args:
        study: the study.
        rows: its trials as `result` gives them, the best first.
        path: of the page.
    """
    template = Path(__file__).with_name("sweep.html.jinja").read_text(encoding="utf-8")
    best = next((row for row in rows if row["state"] == "finished"), None)
    for row in rows:
        row["kind"] = "best" if row is best else "given" if row["given"] else "other"
    content = {
        "name": study.sweep.name,
        "metric": study.configurations.metric,
        "lower": study.configurations.direction == "min",
        "budget": str(study.sweep.budget),
        "rows": rows,
        "options": list(study.sweep.space),
        "best": best,
        "given": next((row for row in rows if row["given"] and row["state"] == "finished"), None),
        "importances": list(importances(study).items()),
        "history": _history(study, rows),
        "curves": _curves(study, rows),
        "slices": [_slice(study, rows, name, each) for name, each in study.sweep.space.items()],
        "sweep": yaml.safe_dump(
            {"config": study.sweep.configs, "options": study.sweep.options},
            allow_unicode=True,
            sort_keys=False,
        ),
        "size": (WIDTH, HEIGHT),
        "frame_at": (_LEFT, _TOP, _RIGHT, _BOTTOM),
    }
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    write_atomically(path, page.render(**content))


def importances(study: Study) -> dict[str, float]:
    """The share of each option in what sets the best quarter of the finished trials apart, by PED-ANOVA
    (arXiv:2304.10255); nothing where there are too few trials to say."""
    whole = [
        each
        for each in study.trials()
        if each.state == TrialState.COMPLETE and each.params.keys() == study.distributions.keys()
    ]
    if len(whole) < _FEWEST or len(study.distributions) < 2:
        return {}
    memory = optuna.create_study(direction=direction_of(study.configurations))
    for each in whole:
        memory.add_trial(create_trial(params=each.params, distributions=each.distributions, value=each.value))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.25)
    try:
        found = get_param_importances(memory, evaluator=evaluator)
    except (ValueError, RuntimeError):  # all trials are alike
        return {}
    return {name: share for name, share in found.items() if math.isfinite(share)}


def _value_axis(study: Study, values: list[float], clip: float = 1.0) -> Axis:
    """The axis of the metric, upwards; the worst are drawn at its edge."""
    if study.configurations.direction == "max":  # the worst are the lowest
        turned = upright([-value for value in values], _TOP, _BOTTOM, clip)
        return Axis(_BOTTOM, _TOP, -turned.high, -turned.low)
    return upright(values, _BOTTOM, _TOP, clip)


def _history(study: Study, rows: list[Row]) -> dict[str, Any]:
    """Each trial's figure, in their order, and the best up to there."""
    done = sorted((row for row in rows if row["state"] == "finished"), key=lambda row: row["number"])
    across = Axis(_LEFT, _RIGHT, 0, max(1, len(rows) - 1))
    up = _value_axis(study, [row["value"] for row in done])
    better = min if study.configurations.direction == "min" else max
    best = accumulate((row["value"] for row in done), better)
    return {
        "x": across.ticks(),
        "y": up.ticks(),
        "points": [(across.at(row["number"]), up.at(row["value"]), row) for row in done],
        "line": line((across.at(row["number"]), up.at(value)) for row, value in zip(done, best, strict=True)),
    }


def _curves(study: Study, rows: list[Row]) -> dict[str, Any]:
    """The figure over the trial's length, which the trials share though their steps may differ."""
    across = Axis(_LEFT, _RIGHT, 0, 100)
    whole = {row["number"]: row["of"] or row["steps"] or 1 for row in rows}
    up = _value_axis(study, [value for row in rows for _, value in row["curve"]], clip=0.9)
    drawn = []
    for row in reversed(rows):  # the best on top
        points = [
            (across.at(100 * step / whole[row["number"]]), up.at(v))
            for step, v in row["curve"]
            if math.isfinite(v)
        ]
        drawn.append({"points": points, "line": line(points), "row": row})
    return {"x": across.ticks(), "y": up.ticks(), "drawn": [each for each in drawn if each["points"]]}


def _slice(study: Study, rows: list[Row], name: str, values: Range) -> dict[str, Any]:
    """The figure by an option's value."""
    few = values.whole and not values.log and (values.count or math.inf) <= 12
    if values.choices is not None or few:
        across = Axis(_LEFT, _RIGHT, words=values.values())
    else:
        assert values.low is not None and values.high is not None
        across = Axis(_LEFT, _RIGHT, values.low, values.high, values.log)
    own = [row for row in rows if name in row["params"]]
    done = [row for row in own if row["state"] == "finished"]
    up = _value_axis(study, [row["value"] for row in done])
    return {
        "name": name,
        "x": across.ticks(),
        "y": up.ticks(),
        "points": [(across.at(row["params"][name]), up.at(row["value"]), row) for row in reversed(done)],
        "ended": [(across.at(row["params"][name]), row) for row in own if row["state"] == "ended early"],
    }
