"""`lm audit`: whether a model is safe to use."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm.errors import UserError, spelling
from lm.files import beside
from lm.options import OptionParser
from lm.processes import say


def main(argv: Sequence[str] | None = None) -> None:
    """The command `lm audit`; exit status 1 where a threshold is not kept."""
    args = _parser().parse(argv)
    sys.path.insert(0, str(Path.cwd()))  # a check of the person's own may lie there
    with spelling(lambda: vars(args)):
        report = _audit(args)
    if not report["passed"]:
        sys.stdout.flush()
        failed = [gate["figure"] for gate in report["thresholds"] if not gate["kept"]]
        raise UserError(f"{args.model} does not keep to its thresholds: {', '.join(failed)}")


def _parser() -> OptionParser:
    parser = OptionParser(
        "audit",
        "Assess a model before it is used: what it remembers of its corpus, gives out of people's data, "
        "prefers, can be made to do. Leaves audit.json, which holds for these weights alone, and a page.",
    )
    add = parser.add_argument
    add("model", help="a checkpoint, a run's folder, an adapter.ckpt, or a Hugging Face folder")
    words = "checks and thresholds: a YAML file, or one of configs/audit (%(default)s)"
    add("--config", default="audit/default", metavar="FILE", help=words)
    add("--corpus", metavar="FOLDER", help="what it was trained on (default: where its run found it)")
    add("--only", nargs="+", metavar="CHECK", help="these of the checks alone, without thresholds")
    add("--data_dir", default="data", help="where the checks' files are looked for (%(default)s)")
    add("--out", metavar="FOLDER", help="for the report (default: audit/ in the run, or audit/MODEL here)")
    add("--seconds", type=float, metavar="N", help="that the checks have together (default: what they take)")
    add("--seed", type=int, default=0, help="of what is drawn (%(default)s)")
    add("--json", action="store_true", help="the report as JSON on stdout")
    add("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    add("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the weights (%(default)s)")
    return parser


def _audit(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from lm.audit.audit import PAGE, perform, read_audit, write_report
    from lm.audit.page import table
    from lm.audit.subject import Subject
    from lm.checkpoint import identity
    from lm.predictor import load

    if args.seconds is not None and not args.seconds > 0:
        raise UserError(f"`seconds` {args.seconds:g}: it must be above 0", status=2)
    if args.seed < 0:
        raise UserError(f"`seed` {args.seed}: it must be at least 0", status=2)
    if args.out and Path(args.out).exists() and not Path(args.out).is_dir():
        raise UserError(f"`out` {args.out} is there, and no folder", status=2)  # said before hours of work
    audit = read_audit(args.config)
    if args.only:
        known = {word: each for each in audit.checks for word in (each.name(), type(each).__name__)}
        if strange := next((name for name in args.only if name not in known), None):
            names = ", ".join(each.name() for each in audit.checks)
            raise UserError(f"`only`: there is no check {strange!r}, but {names}", status=2)
        audit.checks = list(dict.fromkeys(known[name] for name in args.only))
        audit.thresholds = {}
    model = load(args.model, args.device)
    whose = identity(model.model)  # as it lies on the disk, whatever type it is looked at in
    if args.dtype == "bf16":
        model.model.to(torch.bfloat16)
    corpus, missing = _corpus(args.corpus, model.model.source)
    subject = Subject(model, corpus, args.data_dir, args.seed, missing=missing)
    report = perform(audit, subject, say, args.seconds, whose)
    folder = Path(args.out) if args.out else beside(model.model.source, "audit")
    # What is looked at in passing does not take the place of an audit.
    path = write_report(report, folder / "only" if args.only and not args.out else folder)
    print(json.dumps(report, ensure_ascii=False, indent=1) if args.json else table(report))
    if left := [part["name"] for part in report["checks"] if part["state"] == "not done"]:
        say(f"warning: not done: {', '.join(left)}")
    say(f"report: {path}, {path.with_name(PAGE)}")
    return report


def _corpus(given: str | None, source: str) -> tuple[Any, str]:
    """The corpus that was named, or the one that the model's run had; or why there is none."""
    from lm.audit.history import corpus_of
    from lm.data.corpus.shards import Corpus

    if given is not None:
        return Corpus.open(given), ""
    try:
        return corpus_of(source), ""
    except UserError as error:
        return None, str(error)
