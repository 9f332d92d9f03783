"""`lm eval`: how good a model is at tasks."""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.errors import UserError
from lm.files import beside
from lm.metrics.tables import aligned
from lm.options import OptionParser
from lm.processes import say

if TYPE_CHECKING:
    from lm.evaluation.records import Result


def main(argv: Sequence[str] | None = None) -> None:
    """The command `lm eval`."""
    args = _parser().parse(argv)
    if not args.tasks:
        if args.tasks is None:
            raise UserError("say which tasks: --tasks TASK …; --tasks alone lists them", status=2)
        from lm.evaluation.tasks import known_tasks

        print("\n".join(known_tasks()))
        return
    if args.model is None:
        raise UserError("which model? It stands before the tasks: lm eval MODEL --tasks TASK …", status=2)
    for name, least in (("shots", 0), ("limit", 1), ("batch_size", 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: it must be at least {least}", status=2)
    _measure(args)


def _parser() -> OptionParser:
    parser = OptionParser(
        "eval",
        "Measure a model by tasks of lm-evaluation-harness: choosing, guessing words, writing. Figures "
        "with standard errors come out, and a file for each task with what came of each example, which "
        "`lm compare` takes.",
    )
    add = parser.add_argument
    add("model", nargs="?", help="a checkpoint, a run's folder, an adapter.ckpt, or a Hugging Face folder")
    add(
        "--tasks",
        nargs="*",
        metavar="TASK",
        help="names that the harness has, of configs/eval, or YAML files; without any: list them",
    )
    add("--shots", type=int, metavar="N", help="examples that are shown first (default: as the task has it)")
    add("--limit", type=int, metavar="N", help="the first N examples of each task alone")
    add("--seed", type=int, default=0, help="decides which examples are shown (%(default)s)")
    add("--chat", action="store_true", help="ask in a chat, as the model was taught")
    add("--batch_size", type=int, metavar="N", help="texts at once (default: by their lengths)")
    add("--data_dir", default="data", help="where a task's files are looked for (%(default)s)")
    add(
        "--corpus",
        metavar="CORPUS",
        help="find examples in what it was trained on, figures without",
    )
    add("--out", metavar="FOLDER", help="for the results (default: eval/ in the run, or eval/MODEL here)")
    add("--json", action="store_true", help="the figures as JSON")
    add("--device", default="cpu", help="cpu, cuda, mps (%(default)s)")
    add("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the weights (%(default)s)")
    return parser


def _measure(args: argparse.Namespace) -> None:
    from lm.data.corpus.shards import Corpus
    from lm.evaluation.contamination import contaminated
    from lm.evaluation.measure import evaluate
    from lm.predictor import load

    corpus = Corpus.open(args.corpus, verify=False) if args.corpus else None
    model = load(args.model, args.device, dtype=args.dtype)
    started = time.perf_counter()
    results, groups = evaluate(
        model, args.tasks, args.shots, args.limit, args.seed, args.batch_size, args.chat, args.data_dir
    )
    if corpus is not None:
        contaminated(results, corpus)
    taken = time.perf_counter() - started
    folder = Path(args.out) if args.out else beside(model.model.source, "eval")
    paths = [result.write(folder) for result in results]
    if args.json:
        rows = [{key: value for key, value in asdict(each).items() if key != "records"} for each in results]
        print(json.dumps({"tasks": rows, "groups": groups}, ensure_ascii=False, indent=1, default=str))
    else:
        print(table(results, groups))
        if corpus is not None:
            print(held(results))
    for result in results:
        if result.cut:
            what = f"{result.cut:,} texts are longer than the {model.config.max_seq_len:,} tokens"
            say(f"warning: {result.task}: {what} that the model sees: their beginnings were left out")
    where = paths[0] if len(paths) == 1 else f"{folder}/*.json"
    say(f"{sum(len(each.records) for each in results):,} examples in {taken:.0f} s: {where}")


def held(results: "Sequence[Result]") -> str:
    """What of each task stood in the corpus, and the figures without it."""
    lines = []
    for result in results:
        hit = [record for record in result.records if record["contaminated"]]
        lines.append(f"{result.task}: {len(hit):,} of {len(result.records):,} examples stand in the corpus")
        for record in hit[:3]:
            place = record["contaminated"][0]
            passage = " ".join(place["passage"].split())[:80]
            lines.append(f"  example {record['doc_id']} in {place['document']}: {passage}")
        for name, each in result.clean.items() if hit else ():
            value, error = _figures(each)
            lines.append(f"  {name} without them {value} ± {error} ({each['examples']:,} examples)")
    return "\n".join(lines)


def table(results: "Sequence[Result]", groups: dict[str, dict[str, Any]]) -> str:
    """The figures for a person."""
    rows: list[tuple[str, ...]] = [("task", "shots", "examples", "metric", "", "± stderr", "chance")]
    for result in results:
        head = (result.task, str(result.shots), f"{len(result.records):,}")
        for metric, each in result.metrics.items():
            guessed = result.chance if metric.startswith("acc") and result.chance else None
            rows.append((*head, metric, *_figures(each), f"{guessed:.3f}" if guessed else ""))
            head = ("", "", "")
    for name, metrics in groups.items():
        rows += [(name, "", "", metric, *_figures(each), "") for metric, each in metrics.items()]
    return aligned(rows, left=(0, 3))


def _figures(metric: dict[str, Any]) -> tuple[str, str]:
    value, error = metric["value"], metric["stderr"]
    digits = 4 if abs(value) < 100 else 1
    return f"{value:,.{digits}f}", "" if error is None else f"{error:,.{digits}f}"
