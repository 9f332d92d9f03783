"""A report for people: a table for the terminal, and a page with pictures, as one HTML file."""

import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment

from lm.audit.findings import Figure
from lm.metrics.axes import Axis, line
from lm.metrics.tables import aligned

WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 450, 12, 205
_FOLDERS = re.compile(r"""(?<![\w.:/\\])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\,;:()'"]+[/\\])+""")  # of whole paths
_LETTER, _LONGEST = 6.2, 24  # how wide one is in a picture; letters of a name there


def table(report: dict[str, Any]) -> str:
    """The figures and whether the thresholds are kept, a line each."""
    rows: list[tuple[str, ...]] = [("figure", "", "95%", "n", "")]
    for part in report["checks"]:
        if part["state"] != "done":
            rows.append((part["name"], f"{part['state']}:", "", "", part["why"]))
            continue
        for name, plain in part["figures"].items():
            figure = Figure(**plain)
            count = "" if figure.n is None else f"{figure.n:,}"
            rows.append((f"{part['name']}.{name}", figure.said, figure.interval, count, figure.what))
    lines = [aligned(rows, left=(0, 2, 4))]
    lines += [f"{part['name']}: {note}" for part in report["checks"] for note in part.get("notes", ())]
    return "\n".join([*lines, *map(gate_words, report["thresholds"])])


def gate_words(gate: dict[str, Any]) -> str:
    """A threshold and whether it is kept, in a line."""
    bounds = [f"at {name} {gate[name]:g}" for name in ("most", "least") if gate[name] is not None]
    why = f": {gate['why']}" if gate["why"] else ""
    word = "NOT KEPT" if not gate["kept"] else "nothing to keep" if gate["why"] else "kept"
    return f"{word}: {gate['figure']} {' and '.join(bounds)}{why}"


def private_words(model: dict[str, Any]) -> str:
    """What is said of a model that was trained privately; empty of others."""
    if not (made := model.get("private")):
        return ""
    spent = "without a bound" if made.get("epsilon") is None else f"ε = {made['epsilon']:.3g}"
    return f"Trained privately: {spent} at δ = {made['delta']:.2g}, a sample being a {made['unit']}."


def card(report: dict[str, Any]) -> str:
    """A section of a model card, in Markdown, behind a line that says of which model it is. It is published:
    it names no folder of the machine."""
    figures = [
        (f"{part['name']}.{name}", Figure(**each))
        for part in report["checks"]
        for name, each in part.get("figures", {}).items()
    ]
    rows = [
        f"| {_published(name)} | {each.said} | {each.interval} | {_published(each.what)} |"
        for name, each in figures
    ]
    states = [part for part in report["checks"] if part["state"] != "done"]
    left = [f"- {part['name']}: {_published(part['why'])}" for part in states]
    kept = "It keeps to all its thresholds" if report["passed"] else "It does not keep to all its thresholds"
    private = f" {private_words(report['model'])}" if report["model"].get("private") else ""
    parts = [
        f"<!-- {report['model']['identity']} -->\n## Audit",
        f"Made {report['made'][:10]} by lm {report['lm_version']}.{private} "
        + (f"{kept}:" if report["thresholds"] else "There were no thresholds."),
        "\n".join(f"- {_published(gate_words(gate))}" for gate in report["thresholds"]),
        "\n".join(["| figure | value | 95% | |", "|---|---|---|---|", *rows]) if rows else "",
        "\n".join(["Not looked at:", "", *left]) if left else "",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _published(words: str) -> str:
    """Words for a cell of a table in Markdown, in a line, without the folders that files lie in."""
    words = _FOLDERS.sub("", " ".join(words.split()))
    return words.replace("<", "&lt;").replace("|", "\\|")


def page(report: dict[str, Any]) -> str:
    """The page."""
    template = Path(__file__).with_name("audit.html.jinja").read_text(encoding="utf-8")
    parts = []
    for part in report["checks"]:
        figures = [(name, Figure(**each)) for name, each in part.get("figures", {}).items()]
        charts = [
            _drawn(each) for each in part.get("charts", ()) if any(map(_finite, each["series"].values()))
        ]
        parts.append({**part, "figures": figures, "charts": charts})
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    content = {
        **report,
        "checks": parts,
        "gates": [(gate["kept"], gate_words(gate)) for gate in report["thresholds"]],
        "private": private_words(report["model"]),
        "size": (WIDTH, HEIGHT),
        "frame_at": (_LEFT, _TOP, _RIGHT, _BOTTOM),
    }
    return environment.from_string(template).render(**content)


def _finite(points: list[Any]) -> list[Any]:
    return [point for point in points if all(math.isfinite(each) for each in point[1:] if each is not None)]


def _drawn(chart: dict[str, Any]) -> dict[str, Any]:
    """A chart in the picture's units; points that are not finite are left out."""
    chart = {**chart, "series": {name: _finite(own) for name, own in chart["series"].items()}}
    points = [point for series in chart["series"].values() for point in series]
    places = [point[0] for point in points]
    heights = [height for point in points for height in point[1:] if height is not None]
    heights += [0.0] + ([] if chart["line"] is None else [chart["line"]])
    if any(isinstance(place, str) for place in places):
        across = Axis(_LEFT, _RIGHT, words=list(dict.fromkeys(places)))
    elif chart["log"]:  # nothing has its place where half the least would be
        least = min((place for place in places if place > 0), default=1)
        across = Axis(_LEFT, _RIGHT, least / 2, max(*places, least), log=True)
    else:
        across = Axis(_LEFT, _RIGHT, min(places), max(places))
    up = Axis(_BOTTOM, _TOP, min(heights), max(heights) * 1.05 or 1.0)
    series = []
    for name, own in chart["series"].items():
        drawn: list[dict[str, Any]] = []
        for place, value, low, high in own:
            spot = across.start if chart["log"] and place == 0 else across.at(place)
            bar = None if low is None or high is None else (up.at(low), up.at(high))
            drawn.append({"x": spot, "y": up.at(value), "bar": bar, "said": f"{place}: {value:.3g}"})
        series.append({"name": name, "points": drawn, "line": line((p["x"], p["y"]) for p in drawn)})
    heights_at = up.ticks()
    if chart["y"] == "share":
        heights_at = [(at, f"{100 * float(text):g}%") for at, text in heights_at]
    ticks = across.ticks()
    if chart["log"] and 0 in places:
        ticks = [(across.start, "0"), *ticks]
    longest = max((len(text) for _, text in ticks), default=0)
    crowded = longest * len(ticks) * _LETTER > _RIGHT - _LEFT
    below = min(longest, _LONGEST) * _LETTER * 0.6 if crowded else 0  # what words that are tilted need
    across_at = None if chart["line"] is None else up.at(chart["line"])
    return {
        **chart,
        "series": series,
        "x_ticks": ticks,
        "y_ticks": heights_at,
        "line_at": across_at,
        "below": below,
    }
