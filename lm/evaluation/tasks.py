"""Which tasks are meant: names of the harness's own, of those that ship with lm, or YAML files."""

import difflib
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lm.data.corpus.files import files_at
from lm.errors import UserError, not_installed
from lm.run.configs import listed, shipped


def harness() -> Any:
    """lm-evaluation-harness, told to be quiet.

    Raises:
        UserError: it is not installed.
    """
    # It would fork for its bootstraps, which hangs beside torch's threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    try:
        import datasets
        import lm_eval
    except ImportError as error:
        raise not_installed("`lm eval`", "lm_eval", "eval") from error
    datasets.disable_progress_bars()
    for name in ("lm_eval", "datasets", "evaluate", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return lm_eval


def load_tasks(names: Sequence[str], data_dir: str = "data") -> dict[str, Any]:
    """The harness's task objects.

    Args:
        names: of tasks or groups that the harness has, which it reads from the Hugging Face hub; of those in
            `configs/eval`; or paths of YAML files in the harness's own format.
        data_dir: where relative paths in YAML files are looked for, beside the current folder and the YAML's.

    Raises:
        UserError: there is no such task, its file is absent or broken, or its data can't be reached.
    """
    harness()
    ours = {each.path.stem: each.path for each in listed(shipped() / "eval")}
    files = {name: path for name in names if (path := _file(name, ours)) is not None}
    manager = _manager(len(files) < len(names))
    known = [*ours, *manager.all_tasks]
    specs: list[Any] = []
    for name in names:
        if name in files:
            specs.append(_read(files[name], data_dir))
        elif name in known:
            specs.append(name)
        else:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm eval --tasks` lists them"
            raise UserError(f"there is no task {name!r}: {hint}", status=2)
    try:
        return dict(manager.load(specs))
    except UserError:
        raise
    except Exception as error:
        raise explained(error, names) from error


def known_tasks() -> list[str]:
    """The names of all tasks, ours first."""
    harness()
    ours = [each.path.stem for each in listed(shipped() / "eval")]
    return [*ours, *(name for name in _manager(True).all_tasks if name not in ours)]


@cache
def _manager(everything: bool) -> Any:
    """What knows the harness's own tasks: it reads thousands of files to do so."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=everything)


def _file(name: str, ours: dict[str, Path]) -> Path | None:
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise UserError(f"there is no task file {name}", status=2)
        return Path(name)
    return ours.get(name)


def _read(path: Path, data_dir: str) -> dict[str, Any]:
    """A YAML task with its data files where they are."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        task = load_yaml(path, resolve_func=True, recursive=True)
    except Exception as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    if isinstance(task, dict) and "group" in task:
        raise UserError(f"{path} is a group of tasks: name its tasks themselves")
    if not isinstance(task, dict) or "task" not in task:
        raise UserError(f"{path} is no task: it has no `task`, which names it")
    given = task.get("dataset_kwargs") or {}
    if "data_files" in given:
        places = [Path(), Path(data_dir), path.parent]
        task["dataset_kwargs"] = given | {"data_files": _located(given["data_files"], places, path)}
    return task


def _located(files: Any, places: list[Path], path: Path) -> Any:
    if isinstance(files, dict):
        return {split: _located(each, places, path) for split, each in files.items()}
    if isinstance(files, list):
        return [_located(each, places, path) for each in files]
    if "://" in str(files):
        return files
    for place in places:
        if found := [str(each) for each in sorted(files_at(place / str(files)))]:
            return found[0] if len(found) == 1 else found
    looked = ", ".join(str(place) for place in places)
    raise UserError(f"{path}: no file {files} in {looked}: give the folder that has it as --data_dir")


def explained(error: Exception, names: Sequence[str]) -> UserError:
    """What the harness and datasets raise, in a sentence."""
    what = " ".join(str(error).split())
    kinds = {type(each).__name__ for each in _causes(error)}
    offline = {"ConnectionError", "ConnectError", "OfflineModeIsEnabled", "LocalEntryNotFoundError"}
    if kinds & (offline | {"DatasetNotFoundError", "MaxRetryError"}):
        return UserError(
            f"the data of {', '.join(names)} are on the Hugging Face hub, which can't be reached from here: "
            "tasks on files of your own are YAML files such as configs/eval/local_arc_easy.yaml"
        )
    return UserError(f"{', '.join(names)}: {type(error).__name__}: {what[:300]}")


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
