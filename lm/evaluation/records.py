"""What an evaluation leaves: a file for each task, with its figures and what came of each example."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lm.errors import UserError
from lm.files import write_atomically

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
        chance: share that guessing would get right, None where that is not known.
        cut: examples whose beginning the model did not see.
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
    metrics: dict[str, dict[str, Any]]
    records: list[dict[str, Any]] = field(repr=False)
    clean: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> Path:
        """Into a file of the task's name."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.task.replace('/', '-')}.json"
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
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(f"{path} is of another version of lm (format {content['format']})")
        return Result(**content)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no results of `lm eval`") from error
