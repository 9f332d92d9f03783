"""A fine-tuned task on lines that a person or a file gives.

A task that can be used so reads a line (`from_line`: an example, or None where there is nothing to look at,
such as an empty text), says what it finds in the windows of a batch (`look`) and what that means for the line
(`result`; of no example, too), and shows a result to a person (`show`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

import lm.tasks
from lm.checkpoint import Model
from lm.data.examples.batches import length_of
from lm.errors import SetupError, UserError, spelled
from lm.inference.lines import BATCH, Line, pools
from lm.tasks.table import entry_of, refuse
from lm.tasks.transfer import TransferTask

Row = dict[str, Any]
_POOL = 8 * BATCH  # lines whose windows are sorted by length together


def task_of(model: Model, command: str) -> TransferTask:
    """The task of a model that `command` can use, in evaluation mode.

    Raises:
        UserError: it is another command's, or damaged.
    """
    entry = entry_of(model.record)
    if entry is None or entry.command != command:
        raise refuse(model.source, model.record, command)
    return getattr(lm.tasks, model.record["task"].rpartition(".")[2]).of(model)


def apply(
    task: Any, lines: Iterable[Line], on_error: Callable[[UserError], None] | None = None, **options: Any
) -> Iterator[list[Row]]:
    """The results of lines, in their order: groups of rows, a line's fields with the result.

    Windows of like length share a batch; what is found does not depend on who shares it.

    Args:
        on_error: told why a line can't be used, such as a damaged file; the line's row then has that as
            `error` in the place of a result. None: such a line ends it.
        options: for `from_line`.
    """
    for pool in pools(lines, _POOL):
        done = 0
        try:
            for rows in _together(task, pool, options):
                done += len(rows)
                yield rows
        except UserError:
            if on_error is None:
                raise
            for line in pool[done:]:  # each alone, to know which it is
                yield [_alone(task, line, on_error, options)]


def _alone(task: Any, line: Line, on_error: Callable[[UserError], None], options: dict[str, Any]) -> Row:
    try:
        (row,) = (row for rows in _together(task, [line], options) for row in rows)
    except SetupError:  # no line is to blame
        raise
    except UserError as error:
        on_error(error)
        return {**line.fields, "error": spelled(str(error))}
    return row


def _together(task: Any, pool: list[Line], options: dict[str, Any]) -> Iterator[list[Row]]:
    """The results of a pool of lines."""
    examples = [task.from_line(line, **options) for line in pool]
    windows = [
        (number, window)
        for number, (line, example) in enumerate(zip(pool, examples, strict=True))
        for window in _encoded(task, example, line)
    ]
    parts = Counter(number for number, _ in windows)
    found: list[dict[int, Any]] = [{} for _ in pool]
    order = sorted(range(len(windows)), key=lambda i: length_of(windows[i][1]))
    done = 0
    for chosen in [*pools(order), []]:  # with the empty one come the last of the pool
        for i, part in zip(chosen, _looked(task, [windows[i][1] for i in chosen]), strict=True):
            found[windows[i][0]][i] = part
        rows = []
        while done < len(pool) and len(found[done]) == parts[done]:
            example = examples[done] if found[done] else None
            result = task.result(pool[done], example, [part for _, part in sorted(found[done].items())])
            rows.append({**pool[done].fields, **result})
            done += 1
        yield rows


def _encoded(task: TransferTask, example: Any, line: Line) -> list[Row]:
    """An example's windows that have anything in them."""
    if example is None:
        return []
    try:
        windows = task.encode(example, training=False)
    except UserError as error:
        raise UserError(f"{line.where}: {error}") from error
    return [
        {k: v for k, v in window.items() if k not in ("cut", "several")}
        for window in windows
        if window.get("tokens", True)
    ]


def _looked(task: Any, windows: list[Row]) -> list[Any]:
    if not windows:
        return []
    device = next(task.net.parameters()).device
    batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in task.collate(windows).items()}
    with torch.inference_mode():
        logits = task.logits(batch).float()
        if bool(logits.isnan().any()):
            raise SetupError("the model's outputs are not finite: its training has diverged")
        return task.look(batch, logits)
