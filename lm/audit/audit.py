"""An audit: which checks, with which thresholds, as a YAML file says it; and what came of them."""

import difflib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lm
from lm import checkpoint as checkpoints
from lm.audit.check import Check
from lm.audit.findings import Figure
from lm.audit.subject import Subject
from lm.checkpoint import Model
from lm.errors import UserError
from lm.files import beside, read_text, write_atomically
from lm.run.configs import find

FORMAT = 1
REPORT, PAGE, CARD = "audit.json", "audit.html", "card.md"


@dataclass
class Threshold:
    """Bounds of a figure. Its interval has to keep to them, not its value alone.

    Args:
        most: its upper bound may be.
        least: its lower bound may be.
    """

    most: float | None = None
    least: float | None = None

    def __post_init__(self) -> None:
        if self.most is None and self.least is None:
            raise UserError("a threshold needs `most` or `least`", status=2)

    def __str__(self) -> str:
        words = [f"{name} {value:g}" for name, value in asdict(self).items() if value is not None]
        return " and ".join(f"at {word}" for word in words)

    def kept(self, figure: dict[str, Any]) -> bool:
        """Whether a figure keeps to it."""
        high = figure["value"] if figure["high"] is None else figure["high"]
        low = figure["value"] if figure["low"] is None else figure["low"]
        return (self.most is None or high <= self.most) and (self.least is None or low >= self.least)


@dataclass
class Audit:
    """What is looked at, and what has to hold.

    Args:
        checks: in the order of the report.
        thresholds: of figures, by check and figure: `extraction.seen_1`.
    """

    checks: list[Check]
    thresholds: dict[str, Threshold] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.checks:
            raise UserError("the audit has no `checks`", status=2)
        names = [check.name() for check in self.checks]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"the check {twice} is there twice", status=2)
        for name in self.thresholds:
            check, dot, _ = name.partition(".")
            if not dot or check not in names:
                what = f"the threshold {name!r} is of no check that is there"
                raise UserError(f"{what}: check.figure, with a check of {', '.join(names)}", status=2)


def read_audit(word: str, options: Sequence[str] = ()) -> Audit:
    """An audit from its file.

    Args:
        word: a YAML file, or the name of one that ships or lies in `configs/`.
        options: fields that go over those of the file.

    Raises:
        UserError: there is no such file, class or option, or a value can't be.
    """
    from jsonargparse import ArgumentParser

    from lm.audit.checks import __all__ as known  # whose classes go by their last names

    path = find(word)
    parser = ArgumentParser(prog="lm audit", exit_on_error=False)
    parser.add_argument("--config-file", action="config")
    parser.add_class_arguments(Audit)
    try:
        made = parser.instantiate_classes(parser.parse_args([f"--config-file={path}", *options]))
        return Audit(**{name: made[name] for name in Audit.__dataclass_fields__})
    except UserError as error:
        raise UserError(f"{path}: {error}", error.status) from error
    except Exception as error:
        words = " ".join(str(error).split()).replace("Problems parsing config: ", "")
        if strange := re.search(r"import path string: (\w+)(?![\w.])", words):
            near = difflib.get_close_matches(strange[1], known, n=1) or known
            words = f"there is no check {strange[1]}, but {', '.join(near)}; one of your own goes by its path"
        raise UserError(f"{path}: {words[:400]}", status=2) from error


def perform(
    audit: Audit,
    subject: Subject,
    say: Callable[[str], object] = lambda _: None,
    seconds: float | None = None,
    whose: str | None = None,
) -> dict[str, Any]:
    """Look at all that there is to look at.

    Args:
        say: is told of each check when it is done.
        seconds: that all checks have together, each an equal part of what is left; None: as long as it takes.
        whose: the model's `identity`, for the report.

    Returns:
        The report, in plain values: what `audit.json` holds.
    """
    parts: list[dict[str, Any]] = []
    end = None if seconds is None else time.monotonic() + seconds
    for number, check in enumerate(audit.checks):
        started = time.monotonic()
        subject.limit(None if end is None else max(end - started, 0) / (len(audit.checks) - number))
        part = _part(check, subject)
        part["seconds"] = round(time.monotonic() - started, 1)
        parts.append(part)
        say(_in_a_line(part))
    gates = [_gate(name, each, parts) for name, each in audit.thresholds.items()]
    model = subject.model.model
    network: Any = model.network
    return {
        "format": FORMAT,
        "lm_version": lm.__version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": {
            "source": model.source,
            "identity": whose,
            "parameters": network.num_parameters(),
            "task": model.record.get("task"),
            "private": model.record.get("private"),
        },
        "corpus": subject.corpus_identity,
        "seed": subject.seed,
        "passed": all(gate["kept"] for gate in gates),
        "thresholds": gates,
        "checks": parts,
    }


def _part(check: Check, subject: Subject) -> dict[str, Any]:
    """A check's part of the report; `state` says whether it was done, is unfit for the model, or could not be
    done."""
    head = {"name": check.name(), "title": check.title()}
    if why := check.unfit(subject):
        return {**head, "state": "unfit", "why": why}
    subject.consulted = False
    try:
        found = check.run(subject)
    except UserError as error:
        return {**head, "state": "not done", "why": str(error)}
    if subject.consulted and (start := subject.history.run.start):
        found.notes.append(f"it went on from {start}: what that model had seen before is not counted")
    return {**head, "state": "done", **asdict(found)}


def _in_a_line(part: dict[str, Any]) -> str:
    if part["state"] != "done":
        return f"{part['name']}: {part['state']}: {part['why']}"
    first = part["figures"].get(part["headline"]) or next(iter(part["figures"].values()), None)
    said = f"{Figure(**first).said} {first['what']}" if first else "done"
    return f"{part['name']}: {said} ({part['seconds']:.0f} s)"


def _gate(name: str, threshold: Threshold, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether a figure keeps to its threshold. One that should have been measured and was not does not; one
    of a check that is nothing for this model does."""
    check, _, figure = name.partition(".")
    part = next(part for part in parts if part["name"] == check)
    own = part.get("figures", {}).get(figure)
    kept = part["state"] == "unfit" or (own is not None and threshold.kept(own))
    why = part.get("why", "") if own is None else ""
    if own is None and not why:
        why = f"there is no such figure, or was no time for it: only {', '.join(part['figures']) or 'none'}"
    elif own is not None and not kept:
        found = Figure(**own)
        why = f"it is {found.said}" + (f", with 95% from {found.interval}" if found.interval else "")
    return {"figure": name, **asdict(threshold), "kept": kept, "why": why}


def write_report(report: dict[str, Any], folder: Path) -> Path:
    """Leave the report as JSON, as a page, and as a section of the card that `lm export` writes; the JSON
    last, so that it is there only with the others."""
    from lm.audit.page import card, page

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PAGE, page(report))
    write_atomically(folder / CARD, card(report))
    path = folder / REPORT
    write_atomically(path, json.dumps(report, ensure_ascii=False, indent=1))
    return path


def read_report(path: Path) -> dict[str, Any]:
    """What `write_report` has written.

    Raises:
        UserError: it is something else, or damaged.
    """
    try:
        report = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(report, dict) or not isinstance(report.get("format"), int):
        raise UserError(f"{path} is no report of `lm audit`")
    if report["format"] != FORMAT:
        raise UserError(f"{path} is of format {report['format']}, this lm reads {FORMAT}: audit again")
    model = report.get("model")
    if not isinstance(model, dict) or not re.fullmatch("[0-9a-f]{64}", str(model.get("identity"))):
        raise UserError(f"{path} is damaged: it does not say of which model it is")
    gates = report.get("thresholds")
    known = isinstance(gates, list) and all(
        isinstance(gate, dict) and isinstance(gate.get("figure"), str) and isinstance(gate.get("kept"), bool)
        for gate in gates
    )
    if not known or not isinstance(report.get("made"), str):
        raise UserError(f"{path} is damaged: it does not say whether the model passed")
    return report


def verdict(model: Model, reports: Sequence[Path] = ()) -> tuple[bool, str]:
    """Whether a model was audited and keeps to its thresholds, and that in a line.

    An audit without thresholds, as of a few of the checks, has decided nothing. A report is taken
    at its word: whoever can write it can also say that all is well.

    Args:
        model: as it was read, in its own type.
        reports: where its report may be beside the place where `lm audit` leaves it.

    Raises:
        UserError: a report can't be read.
    """
    whose, path = checkpoints.identity(model), model.source
    usual = [beside(path, "audit") / REPORT, Path(path) / "audit" / REPORT]
    places = [*reports, *(place for place in usual if place.is_file())]
    found = [(place, read_report(place)) for place in places]
    own = next(((place, each) for place, each in found if each["model"]["identity"] == whose), None)
    if own is None:
        of_others = f", the one in {found[-1][0]} is of other weights" if found else ""
        return False, f"{path} has no audit{of_others}: lm audit {path}, or name it by --audit FILE"
    place, report = own
    gates = report["thresholds"]
    failed = [gate["figure"] for gate in gates if not gate["kept"]]
    if failed:
        return False, f"{path} failed its audit ({place}): {', '.join(failed)}"
    audited = f"{path} was audited {report['made'][:10]}"
    if not gates:
        return False, f"{audited} without thresholds, by which nothing is decided ({place}): lm audit {path}"
    return True, f"{audited}, it keeps to all its thresholds ({place})"
