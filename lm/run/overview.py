"""What lies in a folder of runs, a row each."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lm.callbacks.files import read_summary
from lm.errors import UserError

Row = dict[str, Any]


def rows_of(folder: Path) -> list[Row]:
    """Every run in a folder and those below it.

    Returns:
        rows with `name`, `state` (finished, running, stopped, begun), `task`, `data`, `step`, `steps`,
        `figures` (the best validation figure first), `speed` and its `unit` a second, and `when` it was last
        written to, in ISO 8601; what isn't known is None.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; runs land in checkpoints/, where `lm fit` is typed")
    return [_row(path.parent, folder) for path in _configurations(folder)]


def _configurations(folder: Path) -> Iterator[Path]:
    """The config.yaml of each run; what lies below a run, such as a logger's, is none."""
    runs: list[Path] = []
    for path in sorted(folder.rglob("config.yaml"), key=lambda path: len(path.parts)):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not any(path.is_relative_to(run) for run in runs):
            runs.append(path.parent)
            yield path


def _row(run: Path, folder: Path) -> Row:
    try:
        tree = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError):
        tree = {}
    name = run.relative_to(folder).as_posix()
    row: Row = {
        "name": run.resolve().name if name == "." else name,
        "state": "finished",
        "task": _class(tree, "model"),
        "data": _class(tree, "data"),
        "step": None,
        "steps": (tree.get("trainer") or {}).get("max_steps") if isinstance(tree, dict) else None,
        "figures": {},
        "speed": None,
        "unit": None,
        "when": _written(run),
    }
    summary = read_summary(run)
    if summary is None:
        row["state"] = "running" if _locked(run) else "stopped" if (run / "last.ckpt").exists() else "begun"
        return row | (_of_checkpoint(run / "last.ckpt") if (run / "last.ckpt").exists() else {})
    row |= {"step": summary.get("steps"), "steps": summary.get("steps")}
    best = [name for name in summary if name.startswith("best_val_")]
    chosen = [*best, "bits_per_byte", *(f"test_{name.removeprefix('best_val_')}" for name in best)]
    row["figures"] = {name: summary[name] for name in chosen if isinstance(summary.get(name), float | int)}
    for key, value in summary.items():
        if key.endswith("_per_second"):
            row |= {"speed": value, "unit": key.removesuffix("_per_second")}
    return row


def _class(tree: Any, part: str) -> str | None:
    """The last name of the class that a configuration has for a part."""
    found = tree.get(part) if isinstance(tree, dict) else None
    path = found.get("class_path") if isinstance(found, dict) else found
    return path.rpartition(".")[2] if isinstance(path, str) else None


def _written(run: Path) -> str:
    kept = [run / name for name in ("summary.json", "last.ckpt", "best.ckpt", "config.yaml")]
    latest = max(path.stat().st_mtime for path in kept if path.exists())
    return datetime.fromtimestamp(latest).astimezone().isoformat(timespec="seconds")


def _locked(run: Path) -> bool:
    """Whether a process trains in it now."""
    if not (run / ".lock").exists():
        return False
    try:
        with FileLock(run / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # somebody else's, which can't be opened
        return False


def _of_checkpoint(path: Path) -> Row:
    """How far a run has come that is not finished."""
    from lm import checkpoint as checkpoints

    try:
        content = checkpoints.read(path, whole=False)
        states = content.get("callbacks") or {}
    except UserError:
        return {"state": "damaged"}
    row: Row = {"step": content.get("global_step"), "figures": {}}
    for state in states.values():
        if "best" in state and state.get("best_step", -1) >= 0:
            row["figures"] = {f"best_val_{state.get('figure', 'loss')}": state["best"]}
        if state.get("train_seconds"):
            row |= {
                "speed": round(state["seen"] / state["train_seconds"], 1),
                "unit": state.get("unit", "tokens"),
            }
    return row
