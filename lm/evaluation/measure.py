"""Tasks of lm-evaluation-harness, done by a model of lm in this process."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import lm
from lm.errors import UserError
from lm.evaluation.records import Result
from lm.evaluation.tasks import explained, harness, load_tasks

if TYPE_CHECKING:
    from lm.predictor import Predictor

_BOOTSTRAPS = 1000  # of figures that are no means: their standard errors


def evaluate(
    predictor: "Predictor",
    tasks: Sequence[str],
    shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    chat: bool = False,
    data_dir: str = "data",
) -> tuple[list[Result], dict[str, dict[str, Any]]]:
    """How good a model is at tasks. What comes of an example does not depend on the batch, but for rounding.

    Args:
        predictor: what `lm.load` has opened; a model that writes, or a BERT that fills gaps.
        tasks: see `lm.evaluation.tasks.load_tasks`.
        shots: examples that are shown first; None: as the task has it.
        limit: examples of each task, from the first one; None: all.
        seed: of the examples that are shown.
        batch_size: rows of a batch; None: by their lengths.
        chat: ask in a chat, as the model was taught.
        data_dir: see `load_tasks`.

    Returns:
        each task's result; and of groups of tasks the figures that the harness makes of their tasks', by name
        as in `Result.metrics`.

    Raises:
        UserError: a task is not there, or asks what the model can't do.
    """
    harness()
    from lm_eval.evaluator import evaluate as run

    from lm.evaluation.harness import HarnessModel

    model = HarnessModel(predictor, batch_size)
    with _seeded(seed):  # loading draws, too
        loaded = load_tasks(tasks, data_dir)
    for name, task in loaded["tasks"].items():
        if not predictor.config.causal and task.OUTPUT_TYPE == "generate_until":
            raise UserError(f"{name} wants text: {predictor.model.source} is a BERT, which fills gaps")
        asked = task.get_config("num_fewshot") if shots is None else shots
        task.set_config(key="num_fewshot", value=asked or 0)
        task.set_fewshot_seed(seed=seed)
    try:
        # The harness's own bars and notes are caught.
        with _seeded(seed), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            made = run(
                lm=model,
                task_dict=loaded,
                limit=limit,
                bootstrap_iters=_BOOTSTRAPS,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:  # of a task's content
        if "larger than population" in str(error):
            what = f"{', '.join(loaded['tasks'])}: there are fewer examples than `shots` are to be shown"
            raise UserError(f"{what} beside the one that is asked") from error
        raise explained(error, list(loaded["tasks"])) from error
    weights = _sha256(predictor)
    found = []
    for name, task in loaded["tasks"].items():
        rows = _records(made["samples"][name])
        found.append(
            Result(
                task=name,
                model=predictor.model.source,
                weights_sha256=weights,
                lm_version=lm.__version__,
                harness=f"lm-eval {version('lm_eval')}",
                task_version=made["versions"].get(name),
                shots=made["n-shot"][name],
                seed=seed,
                limit=limit,
                chat=chat,
                chance=_chance(task, made["samples"][name]),
                dtype=str(next(model.network.parameters()).dtype).removeprefix("torch."),
                config_sha256=_config(task),
                cut=model.cut[name],
                metrics=_metrics(made["results"][name], task),
                records=rows,
            )
        )
    groups = {name: _metrics(figures, None) for name, figures in made.get("groups", {}).items()}
    return found, groups


def _name(key: str) -> str:
    """The harness's `acc,none` as `acc`."""
    metric, _, filtered = key.partition(",")
    return metric if filtered in ("", "none") else f"{metric} ({filtered})"


def _metrics(figures: dict[str, Any], task: Any) -> dict[str, dict[str, Any]]:
    found = {}
    for key, value in figures.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = figures.get(f"{metric}_stderr,{filtered}")
        means = task.aggregation().get(metric) if task else None
        found[_name(key)] = {
            "value": float(value),
            "stderr": float(error) if isinstance(error, int | float) else None,
            "higher_is_better": bool(task.higher_is_better().get(metric, True)) if task else True,
            "aggregation": getattr(means, "__name__", "mean"),
        }
    return found


def _records(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An example a row, whatever filters its answers went through."""
    rows: dict[int, dict[str, Any]] = {}
    for sample in samples:
        row = rows.setdefault(
            sample["doc_id"],
            {
                "id": sample["doc_hash"][:16],
                "doc_id": sample["doc_id"],
                "metrics": {},
                "doc": sample["doc"],
                "target": sample["target"],
                "answers": [each[0] for each in sample["resps"]],  # (nats, likeliest) or text
            },
        )
        for metric in sample["metrics"]:
            value = sample[metric]  # a perplexity's is [nats, bytes or words]
            row["metrics"][_name(f"{metric},{sample['filter']}")] = value
    return list(rows.values())


def _chance(task: Any, samples: list[dict[str, Any]]) -> float | None:
    """What guessing gets of a multiple choice."""
    if task.OUTPUT_TYPE != "multiple_choice" or not samples:
        return None
    # Each choice is asked for once more without its context where mutual information is a metric.
    twice = 2 if any("mutual_info" in name for name in samples[0]["metrics"]) else 1
    return float(np.mean([twice / len(sample["arguments"]) for sample in samples]))


def _config(task: Any) -> str:
    """A hash of what decides how a task asks; where its data lie and how many are shown is no part of it."""
    own = {
        key: value
        for key, value in task.dump_config().items()
        if key not in ("dataset_kwargs", "metadata", "num_fewshot")
    }
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """What the harness's tasks draw with, set; and afterwards as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _sha256(predictor: "Predictor") -> str:
    """Of the file that the weights are from; empty for a folder with several."""
    source = Path(predictor.model.source)
    if source.is_dir():
        files = sorted(source.glob("*.safetensors"))
        if len(files) != 1:
            return ""
        source = files[0]
    if not source.is_file():
        return ""
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
