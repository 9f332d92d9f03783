"""Several runs of one command that differ in their seed: `lm fit --seeds 0,1,2`."""

import json
import math
from pathlib import Path
from statistics import mean, stdev

from lm.errors import UserError


def take_seeds(argv: list[str]) -> tuple[list[int] | None, list[str]]:
    """The numbers after `--seeds`, None where there is none, and the other words.

    Raises:
        UserError: they are no numbers, fewer than two, or one stands there twice.
    """
    words = [
        part for word in argv for part in (word.split("=", 1) if word.startswith("--seeds=") else [word])
    ]
    if "--seeds" not in words or argv[0] != "fit":
        return None, argv
    at = words.index("--seeds")
    given = words[at + 1 : at + 2]
    try:
        seeds = [int(part) for part in given[0].split(",")]
    except (IndexError, ValueError):
        raise UserError("--seeds wants numbers with commas between them, such as 0,1,2", status=2) from None
    if len(seeds) < 2 or len({*seeds}) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds {given[0]}: give two or more different numbers from 0", status=2)
    return seeds, words[:at] + words[at + 2 :]


def compare_seeds(folders: list[Path]) -> str:
    """The mean and standard error of the figures of runs that differ in their seed; written to `seeds.json`
    beside them too."""
    summaries = [json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in folders]
    shared: dict[str, list[float]] = {}
    for name in summaries[0]:
        values = [summary.get(name) for summary in summaries]
        whole = all(isinstance(value, float) and math.isfinite(value) for value in values)
        if whole and name.startswith(("best_val_", "test_")):
            shared[name] = values
    made = {
        name: {
            "mean": mean(values),
            "standard_error": stdev(values) / math.sqrt(len(values)),
            "values": values,
        }
        for name, values in shared.items()
    }
    parent = folders[0].parent
    (parent / "seeds.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    width = max(map(len, made), default=0)
    lines = [f"{name:{width}}  {f['mean']:.4f} ± {f['standard_error']:.4f}" for name, f in made.items()]
    head = f"{len(folders)} runs in {parent}/, mean ± standard error (seeds.json has each):"
    return "\n".join(["", head, *lines])
