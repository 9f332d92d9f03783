"""What a sweep leaves behind: a table, the best configuration, a page, and TensorBoard's hyperparameters."""

import shlex
import shutil
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from lm.files import write_atomically
from lm.metrics.tables import aligned
from lm.tuning.callbacks import read_validations
from lm.tuning.page import write_page
from lm.tuning.study import BASELINE, STEPS, WHY, Study, name_of

BEST, PAGE, HPARAMS = "best.yaml", "sweep.html", "hparams"


def result(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """A trial in plain values, for tables and pages. `last` is its best figure, or the last of one that did
    not come to its end."""
    rows = read_validations(study.folder / name_of(trial.number))
    metric = study.configurations.metric
    states = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "ended early", TrialState.FAIL: "failed"}
    curve = [(row["step"], row["figures"][metric]) for row in rows if metric in row["figures"]]
    value = trial.value if trial.state == TrialState.COMPLETE else None
    return {
        "number": trial.number,
        "state": states.get(trial.state, "running"),
        "value": value,
        "last": value if value is not None or not curve else curve[-1][1],
        "params": trial.params,
        "given": BASELINE in trial.user_attrs,
        "why": trial.user_attrs.get(WHY, ""),
        "steps": rows[-1]["step"] if rows else None,
        "of": trial.user_attrs.get(STEPS),
        "seconds": rows[-1]["train_seconds"] if rows else None,
        "curve": curve,
    }


def shown(value: Any) -> str:
    """A value of an option for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def line_of(row: dict[str, Any], of: int, metric: str) -> str:
    """A trial that has ended, in a line."""
    names = short_names(list(row["params"]))
    options = ", ".join(f"{names[name]} {shown(value)}" for name, value in row["params"].items())
    options = "as given" if row["given"] else options
    figure = f"{metric} {row['value']:.4f}" if row["state"] == "finished" else row["state"]
    if row["why"]:
        figure += f": {row['why']}"
    elif row["state"] == "ended early":
        (step, value), of_all = row["curve"][-1], f" of {row['of']:,}" if row["of"] else ""
        figure += f" at step {step:,}{of_all}, {metric} {value:.4f}"
    return f"trial {row['number']} of {of}: {figure}; {options}"


def short_names(names: list[str]) -> dict[str, str]:
    """Each name's last part, or as much more as tells it from the others."""
    short = {}
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            short[name] = ".".join(parts[-count:])
            if sum(f".{each}".endswith(f".{short[name]}") for each in names) == 1:
                break
    return short


def ranked(study: Study) -> list[dict[str, Any]]:
    """The trials: the finished ones from the best on, then the others."""
    rows = [result(study, trial) for trial in study.trials()]
    sign = 1 if study.configurations.direction == "min" else -1
    order = ("finished", "ended early", "running", "failed")
    return sorted(rows, key=lambda row: (order.index(row["state"]), sign * (row["last"] or 0), row["number"]))


def table(study: Study) -> str:
    """All trials in aligned columns, the best first."""
    names = short_names(list(study.sweep.space))
    lines = [("trial", study.configurations.metric, "state", "steps", "seconds", *names.values())]
    for row in ranked(study):
        lines.append(
            (
                f"{row['number']}{' (given)' if row['given'] else ''}",
                "" if row["last"] is None else f"{row['last']:.4f}",
                row["state"],
                "" if row["steps"] is None else f"{row['steps']:,}",
                "" if row["seconds"] is None else f"{row['seconds']:.0f}",
                *(shown(row["params"].get(name, "as given")) for name in names),
            )
        )
    return aligned(lines, left=range(len(lines[0])))


def write_results(study: Study) -> None:
    """Write the best configuration, the page and TensorBoard's hyperparameters into the study's folder."""
    best = study.best()
    if best is not None:
        name = f"{study.sweep.name}-best"
        tree = study.configurations.whole(best.params, best.user_attrs.get(STEPS), name)
        head = (
            f"# Trial {best.number} of the sweep {study.sweep.name}, the best of {len(study.trials())}: "
            f"{study.configurations.metric} {best.value:.4f}.\n"
        )
        text = head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        write_atomically(study.folder / BEST, text)
    write_page(study, ranked(study), study.folder / PAGE)
    _write_hparams(study)


def _write_hparams(study: Study) -> None:
    """A session of TensorBoard's hyperparameters for each trial, of the swept options alone."""
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    folder, metric = study.folder / HPARAMS, study.configurations.metric
    shutil.rmtree(folder, ignore_errors=True)
    for trial in study.trials():
        row = result(study, trial)
        if row["last"] is None:
            continue
        options = {**row["params"], "state": row["state"]}
        tag = f"sweep/{metric}"
        with SummaryWriter(str(folder / name_of(trial.number))) as writer:
            for part in hparams(options, {tag: row["last"]}):
                assert writer.file_writer is not None
                writer.file_writer.add_summary(part)
            for step, figure in row["curve"]:
                writer.add_scalar(tag, figure, step)
            if row["value"] is not None:  # TensorBoard's table shows what comes last: the best
                writer.add_scalar(tag, row["value"], (row["steps"] or 0) + 1)


def said_at_the_end(study: Study) -> str:
    """The table, whether something better was found, where everything is, and what to type next."""
    rows, best, metric = ranked(study), study.best(), study.configurations.metric
    lines = [table(study), ""]
    given = next((row for row in rows if row["given"]), None)
    if best is not None and given is not None and given["value"] is not None:
        if best.number == given["number"]:
            said = f"nothing better than the given configuration was found: {metric} {given['value']:.4f}"
        else:
            share = (best.value - given["value"]) / abs(given["value"]) if given["value"] else 0.0
            said = (
                f"best: trial {best.number}, {metric} {best.value:.4f}; the given configuration at the same "
                f"budget: {given['value']:.4f} ({share:+.1%})"
            )
        lines += [said, "one seed each: the last command says what is chance", ""]
    folder = shlex.quote(str(study.shown))
    if best is not None:
        file = f"{folder}/{BEST}"
        lines += [
            f"best configuration  {file}",
            f"pictures            {folder}/{PAGE}",
            f"hyperparameters     tensorboard --logdir {folder}/{HPARAMS}",
            f"train it again      lm fit {file}",
            f"with other seeds    lm fit {file} --seeds 1,2,3 --name {shlex.quote(study.sweep.name)}-seeds",
        ]
    return "\n".join(lines)
