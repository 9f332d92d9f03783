"""A run's folder: which configuration it belongs to, and that one process alone trains in it."""

import contextlib
import json
from contextlib import ExitStack
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lm.callbacks.files import read_summary, states
from lm.errors import UserError
from lm.processes import is_rank_zero

RUNS = Path("checkpoints")
# What may differ between the parts of one run: where it runs and how it is shown, not what is learned. Where
# it can't go on to the bit then, `RunCheckpoints` says so.
NOT_LEARNED = (
    "config.",
    "ckpt_path.",
    "weights_only.",
    "name.",
    "seeds.",
    "data.init_args.batch_size.",
    "data.init_args.eval_batch_size.",
    "data.init_args.root.",
    "data.init_args.num_workers.",
    "trainer.accumulate_grad_batches.",
    "data.init_args.data_dir.",
    "model.init_args.compile.",
    "trainer.accelerator.",
    "trainer.barebones.",
    "trainer.benchmark.",
    "trainer.callbacks",  # and what begins so
    "trainer.detect_anomaly.",
    "trainer.deterministic.",
    "trainer.enable_",
    "trainer.strategy.",
    "trainer.devices.",
    "trainer.num_nodes.",
    "trainer.logger.",
    "trainer.log_every_n_steps.",
    "trainer.default_root_dir.",
    "trainer.profiler.",
    "trainer.val_check_interval.",
    "trainer.inference_mode.",
    "trainer.limit_predict_batches.",
    "trainer.limit_test_batches.",
    "trainer.limit_val_batches.",
    "trainer.max_time.",
    "trainer.model_registry.",
    "trainer.num_sanity_val_steps.",
    "trainer.plugins",
    "trainer.precision.",
    "trainer.reload_dataloaders_every_n_epochs.",
    "trainer.sync_batchnorm.",
    "trainer.use_distributed_sampler.",
    "checkpoint.",
    "monitor.",
    "sample.",
)


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a tree by their dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {k: v for key, part in tree.items() for k, v in _flat(part, f"{path}.{key}".lstrip(".")).items()}


def identity(configuration: dict[str, Any]) -> dict[str, Any]:
    """What has to stay the same for a run to go on: all that decides what is learned, by dotted keys, of the
    callbacks those that say so of themselves, by an attribute `changes_training`. A step
    may be cut into other micro-batches and processes; that it has as many samples is checked once these are
    known."""
    leaves = _flat(json.loads(json.dumps(configuration, default=str)))
    found = {key: value for key, value in leaves.items() if not f"{key}.".startswith(NOT_LEARNED)}
    for each in (configuration.get("trainer") or {}).get("callbacks") or []:
        path = each.get("class_path", "") if isinstance(each, dict) else ""
        if getattr(locate(path), "changes_training", False):
            found[f"trainer.callbacks.{path.rpartition('.')[2]}"] = each.get("init_args") or {}
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any], path: str = "") -> list[str]:
    """Dotted keys whose values differ, after `path`."""
    return [
        f"{path}{key.replace('.init_args', '')} {theirs.get(key)!r} → {ours.get(key)!r}"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]


def folder_beside(configurations: list[Path]) -> Path | None:
    """The run's folder that one of the configurations stands in, the last where several do, under whatever
    name it lies now; None where none is a run's."""
    for path in reversed(configurations):
        kept = (path.with_name(name) for name in ("best.ckpt", "last.ckpt"))
        if path.name == "config.yaml" and any(map(Path.exists, kept)):
            return path.parent
    return None


def refuse_a_mixture(folder: Path, one_of_several: bool) -> None:
    """One run and the runs of several seeds would overwrite each other's meaning in one folder.

    Args:
        folder: of the run that begins.
        one_of_several: whether it is `seed-<n>` in the folder of a command with `--seeds`.

    Raises:
        UserError: the folder's name is taken by what is of the other kind.
    """
    if one_of_several:
        parent = folder.parent
        if any((parent / name).exists() for name in ("last.ckpt", "best.ckpt")):
            raise UserError(f"{parent} is a single run's folder: choose another `name` for `seeds`")
    elif (folder / "seeds.json").exists() or any(folder.glob("seed-*/last.ckpt")):
        raise UserError(f"{folder} holds the runs of several `seeds`: choose another `name`")


def remove_unused(folders: list[Path]) -> None:
    """Take away a run's folder that holds nothing but its lock and a log that was only opened.

    Called with the lock held: a process that comes between finds the lock taken, or makes one of its own, and
    then the folder stays.

    Args:
        folders: the run's and those above it that were made for it, from the innermost on.
    """
    with contextlib.suppress(OSError):
        left = [*folders[0].iterdir()]
        if all(path.name == ".lock" or path.name.startswith("events.out.tfevents") for path in left):
            for path in left:
                path.unlink()
            for folder in folders:
                folder.rmdir()


class Finished(Exception):
    """The run has nothing left to do.

    Args:
        folder: of the run.
        summary: its figures.
    """

    def __init__(self, folder: Path, summary: dict[str, Any]) -> None:
        super().__init__(str(folder))
        self.folder, self.summary = folder, summary


def look(folder: Path, configuration: dict[str, Any], completed: Any) -> list[Path]:
    """What is there for `lm fit` to go on from.

    Args:
        folder: of the run.
        configuration: the run's, in plain values.
        completed: gives one that was written earlier the options that came since.

    Returns:
        The run's states, the last first.

    Raises:
        Finished: nothing is left to do.
        UserError: the folder is another configuration's.
    """
    kept, saved = states(folder), folder / "config.yaml"
    if not kept:
        return []
    if not saved.exists():
        raise UserError(f"{folder} has {kept[0].name} but no config.yaml: choose another `name`")
    try:
        theirs = yaml.safe_load(saved.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{saved} can't be read ({error}): choose another `name`") from error
    ours = identity(configuration)
    changed = differences(ours, identity(theirs or {}))
    if changed:
        changed = differences(ours, identity(completed(theirs)))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{folder} belongs to another configuration: {', '.join(changed[:3])}{more}.\n"
            "Choose another `name`, delete the folder, or give the first configuration again.",
        )
    summary = read_summary(folder)
    if summary is not None and summary.get("finished"):
        raise Finished(folder, summary)
    return kept


def claim(folder: Path, held: ExitStack) -> None:
    """Make the folder and take its lock, on the first process; given back with `held`, and a folder in which
    nothing began is taken away.

    Raises:
        UserError: another process trains there.
    """
    if not is_rank_zero():
        return
    above = (path for path in folder.parents if RUNS in path.parents)
    new = [path for path in (folder, *above) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held.enter_context(FileLock(folder / ".lock", timeout=0))
    except Timeout:
        raise UserError(f"another process is training in {folder}: choose another `name`") from None
    if new:  # before the lock, which was taken first, is given back
        held.callback(remove_unused, new)


def write_configuration(folder: Path, configuration: dict[str, Any], anew: bool) -> None:
    """`config.yaml`, or where it is there and differs `config-2.yaml`, `config-3.yaml` …

    Args:
        anew: whether the run begins with this command.
    """
    text = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
    paths = [folder / "config.yaml", *(folder / f"config-{n}.yaml" for n in range(2, 1000))]
    for path in paths:
        if not path.exists() or (anew and path == paths[0]):
            path.write_text(text, encoding="utf-8")
            return
        if path.read_text(encoding="utf-8") == text:
            return
