"""What lies in a run's folder, without what writes it."""

import json
from pathlib import Path
from typing import Any

SUMMARY = "summary.json"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """A run's figures, or None where it has not finished."""
    try:
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def states(folder: Path) -> list[Path]:
    """What a run can go on from, the latest first: `last.ckpt`, then `step-<n>.ckpt`."""
    earlier = [path for path in folder.glob("step-*.ckpt") if path.stem[5:].isdecimal()]
    earlier.sort(key=lambda path: -int(path.stem[5:]))
    last = folder / "last.ckpt"
    return [last, *earlier] if last.exists() else earlier
