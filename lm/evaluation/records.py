"""What an evaluation leaves: a file for each task, with its figures and what came of each example."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lm.errors import UserError
from lm.files import read_text, write_atomically

FORMAT = 1


@dataclass
class Result:
    """A task's figures.

    Attributes:
        task: its name.
        model: where the model was read.
        weights_sha256: of the file with its weights, empty where that is not known.
        lm_version, harness, task_version: who measured.
        shots: examples that were shown first.
        seed: of what was drawn.
        limit: examples at most, None for all.
        chat: whether the model was asked in a chat.
        dtype: of the weights.
        config_sha256: of how the task asks.
        chance: share that guessing would get right, None where that is not known.
        cut: texts (choices, say) whose beginning the model did not see.
        metrics: by name `value`, `stderr`, `higher_is_better` and `aggregation`.
        records: of each example `id` (a hash of it), `doc_id`, `metrics` and `doc`, the example itself; and
            `contaminated`, where that was looked for: documents, sources and passages.
        clean: the metrics of the examples that no document of the training corpus holds.
    """

    task: str
    model: str
    weights_sha256: str
    lm_version: str
    harness: str
    task_version: Any
    shots: int
    seed: int
    limit: int | None
    chat: bool
    chance: float | None
    cut: int
    dtype: str
    config_sha256: str
    metrics: dict[str, dict[str, Any]]
    records: list[dict[str, Any]] = field(repr=False)
    clean: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> Path:
        """Into a file of the task's name, and of how many examples were shown and measured where that is
        said: these are other figures."""
        folder.mkdir(parents=True, exist_ok=True)
        shown = f"-{self.shots}-shot" if self.shots else ""
        first = f"-first-{self.limit}" if self.limit else ""
        path = folder / f"{self.task.replace('/', '-')}{shown}{first}.json"
        head = {key: value for key, value in asdict(self).items() if key != "records"}
        rows = ",\n".join(json.dumps(row, ensure_ascii=False, default=str) for row in self.records)
        text = json.dumps(head, ensure_ascii=False, indent=1, default=str)
        write_atomically(path, f'{text[:-2]},\n "records": [\n{rows}\n]}}\n')
        return path


def read(path: Path) -> Result:
    """What `Result.write` has written.

    Raises:
        UserError: it is something else, or damaged.
    """
    try:
        return Result(**read_content(path))
    except TypeError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def read_content(path: Path) -> dict[str, Any]:
    """The same as plain values, looked at as far as a comparison needs them: `task`, `metrics` and records
    with `id` and `metrics`.

    Raises:
        UserError: it is something else, or damaged.
    """
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path} is empty")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path} holds no records of `lm eval`")
    if content["format"] != FORMAT:
        what = f"{path} is of format {content['format']!r}; this lm reads {FORMAT}"
        raise UserError(f"{what}: run `lm eval` anew")
    task, records, metrics = (content.get(key) for key in ("task", "records", "metrics"))
    lacks = UserError(f"{path} is damaged: it lacks task, metrics or records")
    if not (isinstance(task, str) and isinstance(metrics, dict) and isinstance(records, list)):
        raise lacks
    if not all(isinstance(each, dict) for each in (*metrics.values(), *records)):
        raise lacks
    if not records:
        raise UserError(f"{path} holds no records: it is of no example")
    for number, record in enumerate(records, start=1):
        if not isinstance(record.get("id"), str) or not isinstance(record.get("metrics"), dict):
            raise UserError(f"{path} is damaged: record {number} has no id or no metrics")
    return content
