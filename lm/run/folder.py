"""A run's folder: which configuration it belongs to, and what is said of it when it is finished."""

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

from lm.errors import UserError

RUNS = Path("checkpoints")
# What may differ between the parts of one run: where it runs and how it is shown, not what is learned.
NOT_LEARNED = (
    "config",
    "ckpt_path",
    "weights_only",
    "name",
    "seeds",
    "data.init_args.batch_size",
    "data.init_args.eval_batch_size",
    "data.init_args.root",
    "data.init_args.num_workers",
    "trainer.accumulate_grad_batches",
    "data.init_args.data_dir",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.default_root_dir",
    "trainer.profiler",
    "trainer.val_check_interval",
    "trainer.limit_val_batches",
    "checkpoint",
    "monitor",
    "sample",
)


def _nested(tree: dict[str, Any], key: str, remove: bool = False) -> Any:
    """The value under a dotted key, or null; taken out of the tree if asked."""
    *path, last = key.split(".")
    for part in path:
        tree = tree.get(part) or {}
    return tree.pop(last, None) if remove else tree.get(last)


def identity(configuration: dict[str, Any]) -> dict[str, Any]:
    """What has to stay the same for a run to go on: all that decides what is learned. A step may be cut into
    other micro-batches and processes; that it has as many samples is checked once these are known."""
    tree = json.loads(json.dumps(configuration, default=str))
    for key in NOT_LEARNED:
        _nested(tree, key, remove=True)
    for key in list(tree.get("trainer", {})):
        if key.startswith(("enable_", "callbacks")):
            tree["trainer"].pop(key)
    return tree


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = [
            differences(ours.get(k), theirs.get(k), f"{path}.{k}" if path else k)
            for k in sorted({*ours, *theirs}, key=str)
        ]
        return [key for keys in found for key in keys]
    return [] if ours == theirs else [f"{path.replace('.init_args', '')} {theirs!r} → {ours!r}"]


def folder_beside(configurations: list[Path]) -> Path | None:
    """The run's folder that one of the configurations stands in, the last where several do, under whatever
    name it lies now; null where none is a run's."""
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
            raise UserError(f"{parent} is a single run's folder: choose another --name for --seeds")
    elif (folder / "seeds.json").exists() or any(folder.glob("seed-*/last.ckpt")):
        raise UserError(f"{folder} holds the runs of several --seeds: choose another --name")


def remove_unused(folders: list[Path]) -> None:
    """Take away a run's folder that holds nothing but its lock.

    Called with the lock held: a process that comes between finds the lock taken, or makes one of its own, and
    then the folder stays.

    Args:
        folders: the run's and those above it that were made for it, from the innermost on.
    """
    with contextlib.suppress(OSError):
        if [path.name for path in folders[0].iterdir()] == [".lock"]:
            (folders[0] / ".lock").unlink()
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


def report(folder: Path, summary: dict[str, Any], opening: str, sample: str, causal: bool) -> str:
    """What a person sees at the end: a sample, the figures, where everything is, what to type next.

    Args:
        opening: the part of the sample that was given.
        causal: whether it is a GPT; otherwise a BERT.
    """
    what = f"a sample, going on from {opening!r}" if causal else "a sample, [piece→guess] or [piece]"
    figures = "it was not validated: trainer.limit_val_batches is 0"
    if summary["val_loss"] is not None:
        figures = (
            f"validation loss {summary['val_loss']:.4f}, perplexity {summary['perplexity']:.2f}, "
            f"{summary['bits_per_byte']:.4f} bits per byte, accuracy {summary['val_accuracy']:.1%}"
        )
    use = f"{'generate' if causal else 'fill'} {shlex.quote(str(folder / 'best.ckpt'))}"
    start = (opening.strip().splitlines() or [""])[0][:24]
    start = start.rsplit(" ", 1)[0]  # whole words, where there are any
    words = f"--prompt {shlex.quote(start)}" if causal else '"for i in range(<mask>(x)):"'
    return f"""
--- {what} ---
{sample}
--- end of sample ---

{figures}
{summary["tokens_seen"]:,} tokens at {summary["tokens_per_second"]:,.0f} a second; \
{summary["wall_seconds"]:.0f} s in all; {summary["parameters"]:,} parameters

run folder        {folder}/  (best.ckpt, last.ckpt, config.yaml, summary.json)
use it            lm {use} {words}
see how it went   tensorboard --logdir {RUNS}
what it is        lm info {shlex.quote(str(folder))}
your own text     lm fit --config FILE --data.corpus PATH --name NAME"""


def report_task(folder: Path, summary: dict[str, Any], sample: str, usage: str) -> str:
    """The same for a fine-tuned task.

    Args:
        sample: what the model does with a held-out example; "" where there is nothing to show.
        usage: a command that uses it, with `{}` for the checkpoint.
    """
    shown = f"\n--- a sample ---\n{sample}\n--- end of sample ---\n" if sample else ""
    best = next(name for name in summary if name.startswith("best_val_"))
    figure, kept = best.removeprefix("best_val_"), "last.ckpt"
    lines = ["no validation gave a figure to go by"]
    if summary[best] is not None:
        kept = "best.ckpt"
        lines = [f"best validation {figure} {summary[best]:.4f} at step {summary['best_step']}"]
    test = {k.removeprefix("test_"): v for k, v in summary.items() if k.startswith("test_")}
    if test:
        figures = (f"{name} {value:.4f}" for name, value in test.items() if not name.startswith("f1_"))
        lines.append("on the test part    " + ", ".join(figures))
    checkpoint = shlex.quote(str(folder / kept))
    files = ", ".join(dict.fromkeys((kept, "last.ckpt", "config.yaml", "summary.json")))
    use = f"use it            lm {usage.format(checkpoint)}\n" if usage else ""
    figures = "\n".join(lines)
    return f"""{shown}
{figures}
{summary["tokens_seen"]:,} tokens at {summary["tokens_per_second"]:,.0f} a second; \
{summary["wall_seconds"]:.0f} s in all; {summary["parameters"]:,} parameters

run folder        {folder}/  ({files})
{use}see how it went   tensorboard --logdir {RUNS}
what it is        lm info {shlex.quote(str(folder))}"""
