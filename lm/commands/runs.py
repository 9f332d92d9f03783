"""`lm runs`: all runs of a folder in a table."""

import json
import unicodedata
from datetime import datetime
from pathlib import Path
from typing import Any

from lm.options import OptionParser

SORTS = ("name", "state", "task", "data", "step", "best", "speed", "when")
_RISING = ("name", "state", "task", "data")
_LOWER_IS_BETTER = ("loss", "perplexity", "error")


def main(argv: list[str]) -> None:
    """The command `lm runs`."""
    parser = OptionParser("runs", "List the runs of a folder, how far they are and how good.")
    add = parser.add_argument
    # In words: argparse forgets the default of what has no dash while it reads the options and --help.
    add("folder", type=Path, nargs="?", default=Path("checkpoints"), help="where runs lie (checkpoints)")
    add("--sort", choices=SORTS, default="when", help="the column to sort by (%(default)s)")
    add("--reverse", action="store_true", help="the other way round")
    add("--json", action="store_true", help="as JSON, for scripts")
    args = parser.parse(argv)

    from lm.run.overview import rows_of

    rows = sorted(rows_of(args.folder), key=lambda row: _key(row, args.sort))
    if args.reverse:
        rows.reverse()
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif not rows:
        print(f"no runs in {args.folder}: lm fit gpt-nano begins one")
    else:
        print(table(rows))


def _key(row: dict[str, Any], column: str) -> tuple:
    """What is not known comes last; numbers and times from the highest on, a best figure from the best on."""
    if column == "best":
        name, value = next(iter(row["figures"].items()), (None, None))
        falls = name is not None and not name.endswith(_LOWER_IS_BETTER)
        return value is None, str(name), (-value if falls else value) if value is not None else 0
    value = row[column]
    if column in _RISING:
        return value is None, value or ""
    if column == "when":
        return False, -datetime.fromisoformat(value).timestamp()
    return value is None, -(value or 0)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned columns."""
    lines = [("run", "state", "task", "data", "step", "best figures", "speed", "when")]
    for row in rows:
        step = "" if row["step"] is None else f"{row['step']:,}"
        if row["state"] != "finished" and row["step"] is not None and (row["steps"] or 0) > 0:
            step += f" of {row['steps']:,}"
        figures = "  ".join(f"{_shown(name)} {value:.4f}" for name, value in row["figures"].items())
        speed = "" if row["speed"] is None else f"{row['speed']:,.0f} {row['unit']}/s"
        when = datetime.fromisoformat(row["when"]).strftime("%Y-%m-%d %H:%M")
        names = (row["name"], row["state"], row["task"] or "", row["data"] or "")
        lines.append((*names, step, figures, speed, when))
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _shown(name: str) -> str:
    return name.removeprefix("best_").replace("_", " ").replace("bits per byte", "bits/byte")


def _width(text: str) -> int:
    """Columns of a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
