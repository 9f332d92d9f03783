"""Reading `summary.json`, without what writes it."""

import json
from pathlib import Path
from typing import Any

FILE = "summary.json"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """A run's figures, or None where it has not finished."""
    try:
        return json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
