"""The report of a corpus that a recipe made: figures as JSON, and a page to look at."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment

from lm.files import write_atomically

FIGURES, PAGE = "report.json", "report.html"
_EXAMPLES = 3  # of a reason


def total(of: dict[str, list[int]]) -> list[int]:
    """Documents and bytes of all sources."""
    return [sum(each[side] for each in of.values()) for side in (0, 1)]


def write(folder: Path, facts: dict[str, Any], removed: Iterable[dict[str, Any]]) -> None:
    """Write both into a corpus's folder.

    Args:
        facts: what `Cleaned` has counted.
        removed: the documents that were left out, for examples.
    """
    write_atomically(folder / FIGURES, json.dumps(facts, indent=1, ensure_ascii=False))
    template = (Path(__file__).with_name("report.html.jinja")).read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    write_atomically(folder / PAGE, page.render(**_shown(facts, removed)))


def _shown(facts: dict[str, Any], removed: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What the page shows."""
    examples: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in removed:
        own = examples[row["step"], row["reason"]]
        if len(own) < _EXAMPLES:
            own.append(row)
    first, last = facts["steps"][0]["in"], facts["steps"][-1]["out"]
    read, kept = total(first), total(last)
    tokens = sum(count for by in facts["tokens"].values() for _, count, _ in by.values())
    return {
        "name": facts["name"],
        "read": read,
        "kept": kept,
        "tokens": tokens,
        "mb": lambda size: f"{size / 1e6:,.1f} MB",
        "sources": [_source(each, first, last, facts["tokens"], tokens) for each in facts["sources"]],
        "steps": [
            {
                "name": step["step"],
                "read": total(step["in"]),
                "kept": total(step["out"]),
                "counts": sorted(step["counts"].items()),
                "share": _percent(total(step["out"])[1], read[1]),
            }
            for step in facts["steps"]
        ],
        "reasons": [
            {
                "step": step["step"],
                "what": what,
                "count": count,
                "share": _percent(count, read[0]),
                "examples": examples[step["step"], what],
            }
            for step in facts["steps"]
            for what, count in sorted(step["reasons"].items(), key=lambda item: -item[1])
        ],
        "languages": [
            {
                "source": source,
                "language": language or "not looked at",
                "documents": documents,
                "bytes": size,
                "ratio": size / count if count else 0,
                "share": _percent(size, sum(each[2] for each in by.values())),
            }
            for source, by in facts["tokens"].items()
            for language, (documents, count, size) in sorted(by.items(), key=lambda item: -item[1][2])
        ],
        "lengths": _lengths(facts["lengths"]),
        "skipped": facts["skipped"],
        "warnings": facts["warnings"],
        "warned": facts["warned"],
        "recipe": yaml.safe_dump(facts["recipe"], allow_unicode=True, sort_keys=False),
    }


def _source(
    record: dict[str, Any], first: dict[str, Any], last: dict[str, Any], by: dict[str, Any], tokens: int
) -> dict[str, Any]:
    name = record["name"]
    own = by.get(name, {}).values()
    count, size = sum(each[1] for each in own), sum(each[2] for each in own)
    return {
        **record,
        "read": first.get(name, [0, 0]),
        "kept": last.get(name, [0, 0]),
        "tokens": count,
        "ratio": size / count if count else 0,
        "share": _percent(count, tokens),
    }


def _lengths(counts: dict[str, int]) -> list[dict[str, Any]]:
    found = {int(bits): count for bits, count in counts.items() if count}
    most = max(found.values(), default=1)
    return [
        {
            "least": 1 << bits,
            "most": (2 << bits) - 1,
            "count": found.get(bits, 0),
            "share": _percent(found.get(bits, 0), most),
        }
        for bits in range(min(found, default=0), max(found, default=-1) + 1)
    ]


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 1) if whole else 0.0
